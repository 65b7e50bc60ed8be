"""The names in an entry: which the lint lets pass, and which rule refuses the others."""

import unicodedata
from dataclasses import replace
from ipaddress import ip_address, ip_network

import idna.idnadata
import pytest
from hypothesis import given
from hypothesis import strategies as st
from idna.intranges import intranges_contain
from tests.lint_cases import PRIVATE, WEB, make_entry, raw_san, san
from tests.makers import LEAF_SPKI, NOW

from mtc.cert import TBSCertificateLogEntry
from mtc.lint import LintCode, LintRules, Severity, lint_entry
from mtc.lint.idna import _is_permitted
from mtc.lint.names import _host_faults, _syntax_faults


def codes(entry: TBSCertificateLogEntry, rules: LintRules = WEB) -> list[LintCode]:
    """Return the codes of what the lint finds."""
    return [finding.code for finding in lint_entry(entry, LEAF_SPKI, rules, NOW)]


def name_codes(*names: str, rules: LintRules = WEB) -> list[LintCode]:
    """Return what is found when these are the DNS names."""
    return codes(make_entry(raw_san(*((0x82, name.encode("latin-1")) for name in names))), rules)


def test_code_points_are_permitted_as_another_implementation_says() -> None:
    """For every code point that this Python knows, IDNA2008's derived property agrees with the `idna` package."""
    classes = idna.idnadata.codepoint_classes
    for point in range(0x80, 0x110000):
        char = chr(point)
        if unicodedata.category(char) != "Cn":
            is_permitted = any(intranges_contain(point, classes[name]) for name in ("PVALID", "CONTEXTO", "CONTEXTJ"))
            assert _is_permitted(char) == is_permitted, hex(point)


def test_reserved_addresses_are_what_the_library_calls_not_global() -> None:
    """Every block that Python's `ipaddress` calls not global is refused, at its first and its last address."""
    blocks = [
        *("0.0.0.0/8", "10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"),
        *("192.0.2.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4", "100.64.0.0/10"),
        *("::/128", "::1/128", "::ffff:0:0/96", "100::/64", "2001:db8::/32", "fc00::/7", "fe80::/10"),
    ]
    for block in map(ip_network, blocks):
        for address in (block[0], block[-1]):
            assert not address.is_global
            assert codes(make_entry(san(ip=[str(address)]))) == [LintCode.IP_RESERVED]
            assert codes(make_entry(san(ip=[str(address)])), PRIVATE) == []


@pytest.mark.parametrize(
    "address",
    [
        *("192.31.196.1", "192.52.193.1", "192.88.99.1", "192.175.48.1", "192.0.0.9", "224.0.0.1", "255.255.255.255"),
        *("2001:1::1", "2001:4:112::1", "2002::1", "2620:4f:8000::1", "3fff::1", "5f00::1", "64:ff9b::1"),
        *("64:ff9b:1::1", "ff02::1", "4000::1", "100:0:0:1::"),
    ],
)
def test_special_purpose_addresses_are_refused_even_where_they_are_global(address: str) -> None:
    """What stands in IANA's special-purpose registries, or is no unicast address, is refused for public CAs."""
    assert codes(make_entry(san(ip=[address]))) == [LintCode.IP_RESERVED]


@given(st.integers(0, 2**32 - 1))
def test_no_other_ipv4_address_is_refused(number: int) -> None:
    """An IPv4 address that Python calls global, and that is in no registry, is let pass."""
    registered = ("192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.175.48.0/24", "192.0.0.0/24")
    address = ip_address(number)
    refused = not address.is_global or address.is_multicast or any(address in ip_network(block) for block in registered)
    assert codes(make_entry(san(ip=[str(address)]))) == [LintCode.IP_RESERVED] * refused


@pytest.mark.parametrize(
    "name",
    [
        *("a.example.com", "*.example.com", "1.example.com", "a-b.c-d.example.com", "xn--bcher-kva.example.com"),
        *(f"{'a' * 63}.example.com", ".".join(["a" * 49] * 5) + ".com", "3com.com", "a--b.example.com"),
        # RFC 5891 and 5892: sharp s and final sigma are letters of IDNA2008; a Hebrew, an Arabic and a Chinese name.
        *("xn--strae-oqa.de", "xn--nxasmm1c.com", "xn--4dbcagdahymbxekheh6e0a7fei0b.com", "xn--fiqs8s.cn"),
        "example.xn--p1ai",
    ],
)
def test_good_names_pass(name: str) -> None:
    """Host names, wildcards of one domain and A-labels are certified."""
    assert name_codes(name) == []


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (LintCode.DNS_EMPTY, ""),
        (LintCode.DNS_TOO_LONG, ".".join(["a" * 49] * 5) + ".comm"),
        (LintCode.DNS_TOO_LONG, "." * 60_000),
        (LintCode.DNS_LABEL_TOO_LONG, f"{'a' * 64}.example.com"),
        (LintCode.DNS_EMPTY_LABEL, "a..example.com"),
        (LintCode.DNS_EMPTY_LABEL, ".example.com"),
        (LintCode.DNS_TRAILING_DOT, "www.example.com."),
        *((LintCode.DNS_CHARACTER, f"a{char}b.example.com") for char in " @:/\x00\n\x7f~,+"),
        (LintCode.DNS_CHARACTER, "b\xfccher.example.com"),
        (LintCode.DNS_CHARACTER, "2001:db8::1"),
        (LintCode.DNS_UPPER_CASE, "WWW.example.com"),
        (LintCode.DNS_UPPER_CASE, "XN--bcher-kva.example.com"),
        (LintCode.DNS_UNDERSCORE, "_dmarc.example.com"),
        (LintCode.DNS_HYPHEN, "-a.example.com"),
        (LintCode.DNS_HYPHEN, "a-.example.com"),
        (LintCode.DNS_HYPHEN, "example.-com"),
        (LintCode.DNS_RESERVED_LDH, "ab--cd.example.com"),
        (LintCode.DNS_WILDCARD, "*"),
        (LintCode.DNS_WILDCARD, "a.*.example.com"),
        (LintCode.DNS_WILDCARD, "*.*.example.com"),
        (LintCode.DNS_WILDCARD, "a*.example.com"),
        (LintCode.DNS_WILDCARD, "*a.example.com"),
        (LintCode.DNS_WILDCARD, "xn--*-7ia.example.com"),
        (LintCode.DNS_WILDCARD_TOO_WIDE, "*.com"),
        (LintCode.DNS_IS_ADDRESS, "8.8.8.8"),
        (LintCode.DNS_IS_ADDRESS, "*.8.8.8"),
        (LintCode.DNS_IS_ADDRESS, "example.0x7f"),
        (LintCode.DNS_IS_ADDRESS, "134744072"),
        (LintCode.DNS_SINGLE_LABEL, "intern"),
        *(
            (LintCode.DNS_RESERVED, f"www.{tail}")
            for tail in ("test", "local", "onion", "internal", "alt", "home.arpa")
        ),
        (LintCode.DNS_RESERVED, "*.corp.example"),
        (LintCode.DNS_REVERSE_ZONE, "8.8.8.8.in-addr.arpa"),
        (LintCode.DNS_REVERSE_ZONE, "8.ip6.arpa"),
        (LintCode.DNS_A_LABEL, "xn--.example.com"),
        (LintCode.DNS_A_LABEL, "xn--abc-.example.com"),  # decodes to ASCII only
        (LintCode.DNS_A_LABEL, "xn--99999999.example.com"),  # beyond the last code point
        (LintCode.DNS_A_LABEL, "xn--a_b.example.com"),
        (LintCode.DNS_IDNA, "xn--i-7iq.example.com"),  # a heart: a symbol
        (LintCode.DNS_IDNA, "xn--a-tbb.example.com"),  # U+02FF, a symbol
        (LintCode.DNS_IDNA, "xn--a-ecp.ru"),  # U+2488, which NFKC turns into a digit and a dot
    ],
)
def test_bad_names_are_refused(code: LintCode, name: str) -> None:
    """Each rule for names is broken by some name."""
    found = name_codes(name)
    assert code in found
    assert set(found) - {code} <= {LintCode.DNS_UNDERSCORE, LintCode.DNS_SINGLE_LABEL, LintCode.DNS_HYPHEN}


def test_idna_rules_of_the_rfc() -> None:
    """A name in another normal form, one that begins with a mark, and one with a forbidden letter are no A-labels."""
    for decoded in (
        "e\u0301a",
        "\u0301a",
        "a\u0640b",
        "a\u2260",
        "\u00e4-",
        "ab--\u00e4",
        "\ud800",
        "\u3002",
    ):
        label = "xn--" + decoded.encode("punycode").decode("ascii").lower()
        found = {fault.code for fault in _host_faults(f"{label}.example")}
        assert found == {LintCode.DNS_IDNA}, decoded


def test_a_letter_newer_than_this_python_is_only_warned_of() -> None:
    """A code point that the Unicode of this Python does not know may be a letter by now."""
    label = "xn--" + "a\U0003fff0".encode("punycode").decode("ascii")
    (finding,) = lint_entry(make_entry(san(f"{label}.example.com")), LEAF_SPKI, WEB, NOW)
    assert (finding.code, finding.severity) == (LintCode.DNS_IDNA_UNASSIGNED, Severity.WARNING)
    assert finding.facts == {"code_point": "U+3FFF0"}


def test_lists_of_domains_are_used_when_there_are_any() -> None:
    """With the root zone, other last labels are refused; with public suffixes, wildcards directly below them are."""
    rules = replace(
        WEB, top_level_domains=frozenset({"com", "uk"}), public_suffixes=frozenset({"co.uk", "example.com"})
    )
    assert name_codes("a.co.uk", "*.a.co.uk", "co.uk", rules=rules) == []
    assert name_codes("a.comm", rules=rules) == [LintCode.DNS_UNKNOWN_TLD]
    assert name_codes("*.co.uk", "*.example.com", rules=rules) == [LintCode.DNS_WILDCARD_SUFFIX] * 2


def test_names_are_equal_whatever_their_case() -> None:
    """A name that stands twice, once in capitals, is found, beside the capitals."""
    assert name_codes("A.example.com", "a.example.com") == [LintCode.DNS_UPPER_CASE, LintCode.SAN_DUPLICATE]


LABEL = st.text("abz09-_*A", min_size=0, max_size=5) | st.sampled_from(["xn--bcher-kva", "a" * 63, "a" * 64, "0x1f"])


@given(st.lists(LABEL, min_size=1, max_size=3).map(".".join))
def test_the_fast_path_for_names_agrees_with_the_rules(name: str) -> None:
    """What the one expression for usual names lets pass, the rules let pass as well; and nothing changes otherwise."""
    expected = tuple(_host_faults(name)) if name else _syntax_faults(b"")
    assert _syntax_faults(name.encode()) == expected


@given(st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=59))
def test_any_letters_behind_the_prefix_are_judged(text: str) -> None:
    """No A-label, however it is made, makes the lint raise; what it lets pass decodes and encodes to itself."""
    if not tuple(_host_faults(f"xn--{text}.example")):
        decoded = text.encode("ascii").decode("punycode")
        assert decoded.encode("punycode").decode("ascii") == text
        assert unicodedata.is_normalized("NFC", decoded)
