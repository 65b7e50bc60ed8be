"""CAA: who may issue, by the RFCs' own examples and by the rules that they spell out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtc.acme.machine.caa import CAARecord, Issuer, judge_caa, parse_issuer
from mtc.acme.machine.identifiers import Identifier
from mtc.acme.machine.problems import ProblemType
from mtc.acme.machine.validation import Method, ValidationTask

ACCOUNT = "https://example.net/account/1234"


def records(*texts: str) -> list[CAARecord]:
    """Return records written as `flags tag value`."""
    made = []
    for text in texts:
        flags, tag, *value = text.split(" ", 2)
        made.append(CAARecord(int(flags), tag, (value[0] if value else "").encode()))
    return made


def allows(
    *texts: str,
    domains: tuple[str, ...] = ("ca1.example.net",),
    wildcard: bool = False,
    account: str = ACCOUNT,
    method: Method = Method.HTTP_01,
) -> bool:
    """Return whether records let a CA issue."""
    task = ValidationTask(
        identifier=Identifier.dns("www.example.com"),
        is_wildcard=wildcard,
        method=method,
        account_url=account,
        caa_domains=domains,
    )
    problem = judge_caa(task, records(*texts), "example.com")
    assert problem is None or problem.type is ProblemType.CAA
    return problem is None


RFC_8659 = [
    # "CAA issue Property": the first example and what follows from it.
    (["0 issue ca1.example.net"], "ca1.example.net", False, True),
    (["0 issue ca1.example.net"], "ca2.example.org", False, False),
    (["0 issue ca1.example.net", "0 issue ca2.example.org"], "ca2.example.org", False, True),
    (["0 issue ca1.example.net; account=230123"], "ca1.example.net", False, True),
    (["0 issue ca1.example.net; policy=ev"], "ca1.example.net", False, True),
    # Nobody may issue: no issuer domain name, and a value that does not follow the grammar ("%%%%%").
    (["0 issue ;"], "ca1.example.net", False, False),
    (["0 issue %%%%%"], "ca1.example.net", False, False),
    (["0 issue %%%%%", "0 issue ca1.example.net"], "ca1.example.net", False, True),
    (["0 issue ;", "0 issue ca1.example.net"], "ca1.example.net", False, True),
    # "CAA issuewild Property": precedence for wildcards, ignored for others.
    (["0 issue ca1.example.net", "0 issuewild ca2.example.org"], "ca1.example.net", True, False),
    (["0 issue ca1.example.net", "0 issuewild ca2.example.org"], "ca2.example.org", True, True),
    (["0 issue ca1.example.net", "0 issuewild ca2.example.org"], "ca1.example.net", False, True),
    (["0 issue ca1.example.net", "0 issuewild ca2.example.org"], "ca2.example.org", False, False),
    (["0 issuewild ca2.example.org"], "ca1.example.net", False, True),
    (["0 issuewild ca2.example.org"], "ca1.example.net", True, False),
    (["0 issuewild ;"], "ca1.example.net", False, True),
    (["0 issuewild ;"], "ca1.example.net", True, False),
    (["0 issue ca1.example.net"], "ca1.example.net", True, True),
    (["0 issue ;"], "ca1.example.net", True, False),
    (["0 issuewild %%", "0 issue ca1.example.net"], "ca1.example.net", True, False),
    # "CAA iodef Property" restricts nothing, and nor do tags that are not known.
    (["0 iodef mailto:security@example.com"], "ca1.example.net", False, True),
    (["0 tbs Unknown"], "ca1.example.net", False, True),
    (["128 iodef mailto:security@example.com"], "ca1.example.net", False, True),
    # "Critical Flag": the second example of that section.
    (["0 issue ca1.example.net", "128 tbs Unknown"], "ca1.example.net", False, False),
    (["0 issue ca1.example.net", "255 tbs Unknown"], "ca1.example.net", True, False),
    (["0 issue ca1.example.net", "127 tbs Unknown"], "ca1.example.net", False, True),
    (["128 issue ca1.example.net"], "ca1.example.net", False, True),
    # RFC 9495: issuemail is about mail.
    (["0 issuemail ;"], "ca1.example.net", False, True),
    ([], "ca1.example.net", False, True),
]


@pytest.mark.parametrize(("texts", "domain", "wildcard", "expected"), RFC_8659)
def test_table_of_rfc_8659(texts: list[str], domain: str, wildcard: bool, expected: bool) -> None:  # noqa: FBT001
    """Each rule and example of RFC 8659 is followed."""
    assert allows(*texts, domains=(domain,), wildcard=wildcard) is expected


RFC_8657 = [
    # "Extensions …: The accounturi Parameter" and "Examples".
    (["0 issue example.net; accounturi=https://example.net/account/1234"], ACCOUNT, "http-01", True),
    (["0 issue example.net; accounturi=https://example.net/account/1234"], ACCOUNT + "5", "http-01", False),
    (["0 issue example.net; accounturi=https://example.net/account/1234"], "", "http-01", False),
    (["0 issue example.net; accounturi="], "", "http-01", False),
    (["0 issue example.net; accounturi=urn:x; accounturi=https://example.net/account/1234"], ACCOUNT, "dns-01", False),
    ([f"0 issue example.net; accounturi={ACCOUNT}; accounturi={ACCOUNT}"], ACCOUNT, "dns-01", False),
    (["0 issue example.net; validationmethods=dns-01"], ACCOUNT, "dns-01", True),
    (["0 issue example.net; validationmethods=dns-01"], ACCOUNT, "http-01", False),
    (["0 issue example.net; validationmethods=dns-01,ca-foo"], ACCOUNT, "dns-01", True),
    (["0 issue example.net; validationmethods=ca-foo,tls-alpn-01"], ACCOUNT, "tls-alpn-01", True),
    (["0 issue example.net; validationmethods=ca-foo"], ACCOUNT, "tls-alpn-01", False),
    (["0 issue example.net; validationmethods="], ACCOUNT, "tls-alpn-01", False),
    (["0 issue example.net; validationmethods=dns-01,"], ACCOUNT, "dns-01", False),
    (["0 issue example.net; validationmethods=dns-01,a_b"], ACCOUNT, "dns-01", False),
    (["0 issue example.net; validationmethods=dns-01; validationmethods=dns-01"], ACCOUNT, "dns-01", False),
    ([f"0 issue example.net; accounturi={ACCOUNT}; validationmethods=dns-01"], ACCOUNT, "dns-01", True),
    ([f"0 issue example.net; accounturi={ACCOUNT}; validationmethods=dns-01"], ACCOUNT, "http-01", False),
    (
        [
            "0 issue example.net; accounturi=https://example.net/account/1234; validationmethods=dns-01",
            "0 issue example.net; accounturi=https://example.net/account/2345; validationmethods=http-01",
        ],
        "https://example.net/account/2345",
        "http-01",
        True,
    ),
    (
        [
            "0 issue example.net; accounturi=https://example.net/account/1234; validationmethods=dns-01",
            "0 issue example.net; accounturi=https://example.net/account/2345; validationmethods=http-01",
        ],
        "https://example.net/account/2345",
        "dns-01",
        False,
    ),
]


@pytest.mark.parametrize(("texts", "account", "method", "expected"), RFC_8657)
def test_table_of_rfc_8657(texts: list[str], account: str, method: str, expected: bool) -> None:  # noqa: FBT001
    """Accounts and methods bind as RFC 8657 says: what is there twice, is empty or broken is satisfied by nothing."""
    assert allows(*texts, domains=("example.net",), account=account, method=Method(method)) is expected


@pytest.mark.parametrize(
    ("value", "issuer"),
    [
        (b"", Issuer("")),
        (b" \t ", Issuer("")),
        (b";", Issuer("")),
        (b"  ;  ", Issuer("")),
        (b"ca.test", Issuer("ca.test")),
        (b" CA.Test ; ", Issuer("ca.test")),
        (b"ca.test;a=b", Issuer("ca.test", (("a", "b"),))),
        (b"ca.test ; A-1 = b ;\tc=", Issuer("ca.test", (("a-1", "b"), ("c", "")))),
        (b"; a=b", Issuer("", (("a", "b"),))),
        (b"ca.test; a=b=c,d:/?", Issuer("ca.test", (("a", "b=c,d:/?"),))),
        (b"x--y.t3st", Issuer("x--y.t3st")),
        (b"ca.test; a=b;", None),
        (b"ca.test;; a=b", None),
        (b"ca.test; a", None),
        (b"ca.test; =b", None),
        (b"ca.test; a b=c", None),
        (b"ca.test; a=b c", None),
        (b"ca.test; -a=b", None),
        (b"ca.test; a_b=c", None),
        (b"ca.test; a=\x7f", None),
        (b"ca.test a=b", None),
        (b"ca test", None),
        (b"ca..test", None),
        (b".ca.test", None),
        (b"ca.test.", None),
        (b"-ca.test", None),
        (b"ca-.test", None),
        (b"ca_x.test", None),
        (b"c\xc3\xa4.test", None),
        (b"ca.test\n", None),
        (b"ca.test\x00", None),
    ],
)
def test_values_follow_the_grammar(value: bytes, issuer: Issuer | None) -> None:
    """What the grammar of RFC 8659 derives is read, and nothing else."""
    assert parse_issuer(value) == issuer


def test_tags_and_domains_have_no_case() -> None:
    """Tags match in any case, and so do domain names of issuers."""
    assert allows("0 ISSUE CA1.Example.NET", domains=("ca1.example.net",))
    assert not allows("0 IsSuE other.test")
    assert not allows("0 issue ca1.example.net; AccountURI=urn:somebody-else")
    assert allows("0 issue ca1.example.net", domains=("CA1.EXAMPLE.NET",))


def test_one_of_several_domains_is_enough() -> None:
    """A CA may be known by several domain names, and without any it is never authorized."""
    assert allows("0 issue two.test", domains=("one.test", "two.test"))
    assert not allows("0 issue two.test", domains=())
    assert not allows("0 issue ", domains=("",))


def test_problem_names_the_records() -> None:
    """The applicant reads which record forbade what, where it stands, and who we are."""
    task = ValidationTask(
        identifier=Identifier.dns("www.example.com"),
        is_wildcard=True,
        method=Method.DNS_01,
        account_url=ACCOUNT,
        caa_domains=("ca.test",),
    )
    found = records(
        "0 issue other.test", "0 issuewild ca.test; accounturi=urn:x", '0 issuewild a"\\b\x07', "0 issuewild "
    )
    problem = judge_caa(task, found, "example.com")
    assert problem is not None
    assert problem.detail == (
        "CAA at example.com does not let this CA (ca.test) issue for *.www.example.com: "
        f'0 issuewild "ca.test; accounturi=urn:x" is for another account, this one is {ACCOUNT}; '
        '0 issuewild "a\\034\\092b\\007" does not follow the grammar and authorizes nobody; '
        '0 issuewild "" forbids everybody to issue'
    )


def test_long_records_are_cut() -> None:
    """However many and long the records are, the text that quotes them is short."""
    task = ValidationTask(
        identifier=Identifier.dns("a.test"), is_wildcard=False, method=Method.DNS_01, account_url="", caa_domains=("b",)
    )
    problem = judge_caa(task, [CAARecord(0, "issue", b"x" * 9000)] * 50, "a.test")
    assert problem is not None
    assert len(problem.detail) < 1800
    assert problem.detail.endswith("; and 45 more")


@given(st.lists(st.builds(CAARecord, st.integers(0, 255), st.sampled_from(["issue", "issuewild"]), st.binary())))
def test_garbage_authorizes_nobody(found: list[CAARecord]) -> None:
    """Whatever bytes stand in records that restrict, they allow a CA only where they name it."""
    task = ValidationTask(
        identifier=Identifier.dns("a.test"),
        is_wildcard=False,
        method=Method.DNS_01,
        account_url=ACCOUNT,
        caa_domains=("ca.test",),
    )
    restricts = any(record.tag == "issue" for record in found)
    names_us = any(b"ca.test" in record.value.lower() for record in found)
    assert names_us or (judge_caa(task, found, "a.test") is None) is not restricts
