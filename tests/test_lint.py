"""The lint: what keeps an entry out of the log and by which rule; that nothing makes it fail, or take long."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.certificates import LoadVectors, foreign_certificates
from tests.lint_cases import (
    ALL_CASES,
    BEGIN,
    CA,
    ED25519_IDENTIFIER,
    HASHER,
    PRIVATE,
    SECOND,
    SOUND_MODULUS,
    WEB,
    WEEK,
    Case,
    attribute,
    crl_pointer,
    display_name,
    make_entry,
    raw_san,
    rsa_spki,
    san,
    spki,
)
from tests.makers import CLIENT_AUTH, LEAF_SPKI, NOW, SERVER_AUTH, make_key

from mtc.cert import (
    Certificate,
    Extension,
    LogEntry,
    TBSCertificateLogEntry,
    encode_basic_constraints,
    encode_extended_key_usage,
    encode_key_usage,
    encode_name,
)
from mtc.cert.x509 import SUBJECT_ALT_NAME_OID, SUBJECT_KEY_ID_OID
from mtc.crypto.strength import KeyType
from mtc.errors import Error, FormatError, Reason, Rejected, UsageError
from mtc.ids import DEFAULT_REVISION, REVISIONS, TrustAnchorID
from mtc.lint import LINT_RULES, LintCode, LintFinding, LintRules, Severity, check_lint, format_lint_table, lint_entry
from mtc.wire import encode_octet_string, encode_set

DOCUMENT = Path(__file__).parents[1] / "docs" / "lint.md"
CSR_CODES = {LintCode.CSR_EXTENSION_IGNORED, LintCode.CSR_NAME_IGNORED}


def codes(
    entry: TBSCertificateLogEntry, rules: LintRules = WEB, key: bytes = LEAF_SPKI, now: datetime = NOW
) -> list[LintCode]:
    """Return the codes of what the lint finds."""
    return [finding.code for finding in lint_entry(entry, key, rules, now)]


def name_codes(*names: str, rules: LintRules = WEB) -> list[LintCode]:
    """Return what is found when these are the DNS names."""
    return codes(make_entry(raw_san(*((0x82, name.encode("latin-1")) for name in names))), rules)


# What others published.


def test_foreign_certificates_break_the_rules_that_they_are_seen_to_break(load_vectors: LoadVectors) -> None:
    """Certificates of BoringSSL and of the working group's demo live for years; no rule of MTC or DER is broken."""
    expected = {
        LintCode.VALIDITY_TOO_LONG,  # eleven years
        LintCode.EXTENSION_CRITICALITY,  # a keyUsage that is not critical
        LintCode.SAN_MISSING,  # certificates of sub-CAs' shape: only a commonName
        LintCode.KEY_USAGE_MISSING,
        LintCode.EKU_MISSING,
        LintCode.CN_NOT_IN_SAN,
    }
    found: set[LintCode] = set()
    judged = 0
    for _, der in foreign_certificates(load_vectors):
        try:
            certificate = Certificate.parse(der)
        except FormatError:
            continue
        entry = certificate.log_entry(HASHER).tbs_certificate
        assert entry is not None
        rules = LintRules.private(certificate.ca_id, certificate.revision)
        now_found = codes(entry, rules, certificate.spki, certificate.not_before)
        assert LintCode.VALIDITY_TOO_LONG in now_found
        found.update(now_found)
        judged += 1
    assert judged >= 10
    assert found == expected


@pytest.mark.parametrize("version", sorted(REVISIONS))
def test_a_published_entry_of_a_ca_is_refused_as_one(load_vectors: LoadVectors, version: str) -> None:
    """The working group's entry with cA TRUE and keyCertSign breaks the rule against CAs, in every draft."""
    (case,) = (
        case for case in load_vectors("log_entries.json")["cases"] if (case["version"], case["name"]) == (version, "ca")
    )
    entry = LogEntry.parse(bytes.fromhex(case["log_entry"])).tbs_certificate
    assert entry is not None
    rules = LintRules.private(TrustAnchorID.parse(case["ca_id"]), REVISIONS[version])
    found = codes(entry, rules, LEAF_SPKI, entry.not_before)
    assert LintCode.IS_A_CA in found
    assert LintCode.ISSUER not in found


# The rules, one by one.


def test_the_usual_entry_is_good() -> None:
    """What the CA writes has no finding, by public and by private rules, at both ends of its bounds."""
    assert codes(make_entry()) == []
    assert codes(make_entry(), PRIVATE) == []
    assert codes(make_entry(begin=NOW - timedelta(days=2))) == []
    assert codes(make_entry(begin=NOW + timedelta(days=2))) == []
    assert codes(make_entry(lifetime=NOW - BEGIN + SECOND)) == []
    assert codes(make_entry(lifetime=90 * WEEK / 7), PRIVATE) == []


@pytest.mark.parametrize("name", sorted(REVISIONS))
def test_every_draft_has_a_usual_entry(name: str) -> None:
    """The issuer is judged in the form of the CA's own draft."""
    for rules in (LintRules.web_pki(CA, REVISIONS[name]), LintRules.private(CA, REVISIONS[name])):
        assert codes(make_entry(rules=rules), rules) == []


@pytest.mark.parametrize("case", ALL_CASES, ids=lambda case: case.codes[0].value)
def test_an_entry_with_one_fault_has_that_finding(case: Case) -> None:
    """Each rule is broken by some entry that breaks no other one, or only one that follows from it."""
    findings = lint_entry(case.entry, case.key, case.rules, NOW)
    assert tuple(finding.code for finding in findings) == case.codes
    for finding in findings:
        assert finding.severity is LINT_RULES[finding.code].severity(is_public=case.rules.is_public)
        assert finding.message
        assert finding.message.isprintable()


@pytest.mark.parametrize(
    "key",
    [
        rsa_spki(SOUND_MODULUS),
        rsa_spki(SOUND_MODULUS, 2**256 - 1),
        *(make_key(name).public_key for name in ("ecdsa-p384-sha384", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87")),
    ],
    ids=["rsa", "rsa-large-exponent", "p384", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87"],
)
def test_keys_of_all_allowed_types_pass(key: bytes) -> None:
    """RSA, the NIST curves and ML-DSA are certified; each with its prescribed AlgorithmIdentifier."""
    assert codes(make_entry(key=key), key=key) == []


def test_ed25519_is_for_private_cas() -> None:
    """Ed25519 passes the rules of a private CA, and not those of the Web."""
    key = make_key("ed25519").public_key
    assert key == spki(ED25519_IDENTIFIER, key[-32:])
    assert codes(make_entry(key=key), PRIVATE, key) == []
    assert codes(make_entry(key=key), WEB, key) == [LintCode.KEY_TYPE]


def test_rsa_keys_have_usages_of_their_own() -> None:
    """An RSA key may encipher keys; dataEncipherment is discouraged, keyAgreement and nonRepudiation are refused."""
    key = rsa_spki(SOUND_MODULUS)
    for usage, expected in (
        ("keyEncipherment", []),
        ("dataEncipherment", [LintCode.KEY_USAGE_DISCOURAGED]),
        ("keyAgreement", [LintCode.KEY_USAGE_BITS]),
        ("nonRepudiation", [LintCode.KEY_USAGE_BITS]),
        ("decipherOnly", [LintCode.KEY_USAGE_BITS]),
    ):
        assert codes(make_entry(encode_key_usage("digitalSignature", usage), key=key), key=key) == expected
    mldsa = make_key("ml-dsa-44").public_key
    assert codes(make_entry(encode_key_usage("digitalSignature", "keyAgreement"), key=mldsa), key=mldsa) == [
        LintCode.KEY_USAGE_BITS
    ]


@pytest.mark.parametrize(
    "extension",
    [
        encode_basic_constraints(is_ca=False),
        crl_pointer(b"http://ca.example/ca.crl"),
        display_name(encode_set(attribute("Example")), encode_set(attribute("Unit"))),
    ],
    ids=["basicConstraints", "cRLDistributionPoints", "issuerAltName"],
)
def test_other_allowed_extensions_pass(extension: Extension) -> None:
    """A basicConstraints without cA, a pointer to the CRL and a label for the issuer are let pass."""
    assert codes(make_entry(extension)) == []


def test_private_rules_allow_more() -> None:
    """A private CA certifies clients, internal names, a subject, a subjectKeyIdentifier, and needs no policy."""
    key_id = Extension(SUBJECT_KEY_ID_OID, encode_octet_string(b"key"))
    subject = encode_name(O="Example", CN="DB.internal")
    entry = make_entry(
        encode_extended_key_usage(SERVER_AUTH, CLIENT_AUTH),
        san("db.internal", "localhost", ip=["10.0.0.1"], is_critical=False),
        key_id,
        without="2.5.29.32",
        subject=subject,
    )
    assert codes(entry, PRIVATE) == []
    assert codes(replace(entry, subject=encode_name(CN="10.0.0.1")), PRIVATE) == []


def test_a_longer_life_needs_a_pointer_to_the_crl() -> None:
    """Seven days, both ends included, are 604,800 seconds; one second more needs a cRLDistributionPoints."""
    rules = replace(WEB, max_lifetime=47 * WEEK / 7)
    assert codes(make_entry(lifetime=timedelta(seconds=604_800)), rules) == []
    assert codes(make_entry(lifetime=timedelta(seconds=604_801)), rules) == [LintCode.CRL_POINTER_MISSING]
    assert codes(make_entry(crl_pointer(b"http://ca.example/ca.crl"), lifetime=2 * WEEK), rules) == []


def test_the_largest_entry_is_counted_with_what_the_log_adds() -> None:
    """An entry fits as long as the log, with its counter, stays at 65,535 bytes; one byte more is refused."""
    name = DEFAULT_REVISION.proof_oid
    rules = replace(PRIVATE, allowed_extensions=PRIVATE.allowed_extensions | {name})
    filler = 65535 - rules.room - len(LogEntry.of_certificate(make_entry(Extension(name, bytes(60000)))).encode())
    assert codes(make_entry(Extension(name, bytes(60000 + filler))), rules) == []
    assert codes(make_entry(Extension(name, bytes(60000 + filler + 1))), rules) == [LintCode.ENTRY_TOO_LARGE]


# Whatever comes in.


@given(
    st.builds(
        TBSCertificateLogEntry,
        version=st.integers(0, 2),
        issuer=st.binary(max_size=20),
        validity=st.binary(max_size=40),
        subject=st.binary(max_size=40),
        spki_algorithm=st.binary(max_size=20),
        spki_hash=st.binary(max_size=32),
        tail=st.binary(max_size=60),
    ),
    st.binary(max_size=100),
)
def test_any_bytes_are_judged(entry: TBSCertificateLogEntry, key: bytes) -> None:
    """Whatever bytes an entry holds, the lint answers, and refuses."""
    with pytest.raises(Rejected):
        check_lint(lint_entry(entry, key, PRIVATE, NOW))


@given(st.data())
def test_a_changed_byte_is_judged(data: st.DataObject) -> None:
    """A byte changed anywhere in an entry that is full of extensions gives findings, never another exception."""
    entry = make_entry(
        encode_basic_constraints(is_ca=False),
        crl_pointer(b"http://ca.example/ca.crl"),
        display_name(encode_set(attribute("Example"))),
        san("www.example.com", ip=["8.8.8.8", "2a00::1"], is_critical=False),
        subject=encode_name(CN="www.example.com"),
    )
    changed = bytearray(entry.encode())
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        parsed = TBSCertificateLogEntry.parse(bytes(changed))
    except Error:
        return
    lint_entry(parsed, LEAF_SPKI, PRIVATE, NOW)


@given(st.binary(max_size=400))
def test_any_key_is_judged(key: bytes) -> None:
    """Whatever the bytes of a key of a known type, it is refused and nothing raises."""
    for identifier in (make_key("ed25519").public_key[2:9], LEAF_SPKI[2:23], rsa_spki(SOUND_MODULUS)[4:19]):
        whole = spki(identifier, key)
        assert codes(make_entry(key=whole), WEB, whole)


@given(st.binary(max_size=80), st.booleans())
def test_any_extension_value_is_judged(value: bytes, is_critical: bool) -> None:  # noqa: FBT001 - drawn
    """Whatever the value of a known extension, nothing raises; hardly any is let pass."""
    for oid in sorted(WEB.allowed_extensions - {SUBJECT_ALT_NAME_OID}):
        codes(make_entry(Extension(oid, value, is_critical)))


def test_many_faults_are_all_counted_and_some_are_listed() -> None:
    """The refusal names every code once, lists sixteen errors, and counts the rest."""
    names = [(0x82, f"a{number}_.test".encode()) for number in range(50)]
    findings = lint_entry(make_entry(raw_san(*names)), LEAF_SPKI, WEB, NOW)
    with pytest.raises(Rejected) as caught:
        check_lint(findings)
    assert caught.value.reason is Reason.LINT
    assert caught.value.facts == {"codes": "mtc_dns_underscore,mtc_dns_reserved", "count": 100}
    assert caught.value.message.endswith("; and 84 more")
    assert caught.value.message.count("mtc_dns_underscore: ") == 8


def test_warnings_are_returned() -> None:
    """When there is no error, the warnings come back, and the entry may be logged."""
    findings = lint_entry(make_entry(without="2.5.29.15"), LEAF_SPKI, WEB, NOW)
    assert check_lint(findings) == findings
    assert [finding.code for finding in findings] == [LintCode.KEY_USAGE_MISSING]
    assert check_lint(()) == ()


def test_a_moment_without_a_time_zone_is_our_callers_fault() -> None:
    """A naive `now` is refused as misuse."""
    with pytest.raises(UsageError):
        lint_entry(make_entry(), LEAF_SPKI, WEB, NOW.replace(tzinfo=None))


def test_rules_that_no_machine_could_keep_are_refused() -> None:
    """RSA above 16,384 bits is not allowed by any rules: the arithmetic would take too long."""
    with pytest.raises(UsageError):
        replace(WEB, max_rsa_bits=16385)
    with pytest.raises(UsageError):
        replace(WEB, hash_name="md5")


def test_another_log_hash_is_another_key_hash() -> None:
    """The key hash is that of the log's algorithm, and blocked keys are named by SHA-256 all the same."""
    rules = replace(PRIVATE, hash_name="sm3")
    entry = replace(make_entry(), spki_hash=rules.hasher.digest(LEAF_SPKI))
    assert codes(entry, rules) == []
    assert codes(make_entry(), rules) == [LintCode.KEY_HASH]
    blocked = replace(rules, blocked_keys=frozenset({HASHER.digest(LEAF_SPKI)}))
    assert codes(entry, blocked) == [LintCode.KEY_BLOCKED]


# The table.


def test_every_code_has_a_rule_and_an_entry_that_breaks_it() -> None:
    """No code is without its row, and no rule without a test."""
    assert list(LINT_RULES) == list(LintCode)
    names = {code for code in LintCode if code.value.startswith("mtc_dns_")}
    public_only = {LintCode.IP_RESERVED}
    assert {code for case in ALL_CASES for code in case.codes} | names | public_only | CSR_CODES == set(LintCode)


def test_the_documentation_holds_the_table() -> None:
    """The table in docs/lint.md is the one that the code makes."""
    assert format_lint_table() in DOCUMENT.read_text("utf-8")


def test_rules_of_the_web_are_never_weaker() -> None:
    """What a private CA may not log, a public one may not either."""
    rank = {Severity.OFF: 0, Severity.WARNING: 1, Severity.ERROR: 2}
    for code, rule in LINT_RULES.items():
        assert rank[rule.public] >= rank[rule.private], code


def test_key_types_of_the_web_are_those_of_the_policy() -> None:
    """A public CA certifies RSA, three curves and three sizes of ML-DSA, for servers only."""
    assert WEB.key_types == set(KeyType) - {KeyType.ED25519}
    assert WEB.allowed_purposes == {SERVER_AUTH}
    assert (WEB.max_lifetime, WEB.crl_pointer_above) == (WEEK, WEEK)


def test_findings_are_values() -> None:
    """A finding says code, severity, message and facts, and is equal to another one that says the same."""
    moment = datetime(2026, 11, 21, tzinfo=UTC)
    entry = make_entry(begin=moment, lifetime=2 * WEEK)
    (found,) = lint_entry(entry, LEAF_SPKI, replace(WEB, crl_pointer_above=None), moment)
    assert found == LintFinding(
        LintCode.VALIDITY_TOO_LONG,
        Severity.ERROR,
        "the certificate would live 1209600 s, both ends included; there can be 604800",
        {"got": 1209600, "limit": 604800},
    )
