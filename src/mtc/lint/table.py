"""The table of all rules: code, severity for public and for private CAs, what is checked, and where that is written.

docs/lint.md holds this table as Markdown. Codes are part of the public interface: they never change their meaning.
"""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """What a finding means: `error` keeps the entry out of the log, `warning` is reported, `off` is not looked at."""

    ERROR = "error"
    WARNING = "warning"
    OFF = "off"


class LintCode(StrEnum):
    """A rule by its stable name, fit for scripts and metrics."""

    ENTRY_TOO_LARGE = "mtc_entry_too_large"
    NOT_V3 = "mtc_not_v3"
    ISSUER = "mtc_issuer"
    UNIQUE_ID = "mtc_unique_id"
    VALIDITY_MALFORMED = "mtc_validity_malformed"
    VALIDITY_INVERTED = "mtc_validity_inverted"
    VALIDITY_TOO_LONG = "mtc_validity_too_long"
    VALIDITY_BACKDATED = "mtc_validity_backdated"
    VALIDITY_FUTURE = "mtc_validity_future"
    VALIDITY_OVER = "mtc_validity_over"
    SUBJECT_MALFORMED = "mtc_subject_malformed"
    SUBJECT_NOT_EMPTY = "mtc_subject_not_empty"
    CN_MALFORMED = "mtc_cn_malformed"
    CN_NOT_IN_SAN = "mtc_cn_not_in_san"
    KEY_MALFORMED = "mtc_key_malformed"
    KEY_HASH = "mtc_key_hash"
    KEY_ALGORITHM = "mtc_key_algorithm"
    KEY_TYPE = "mtc_key_type"
    KEY_LENGTH = "mtc_key_length"
    KEY_POINT = "mtc_key_point"
    KEY_BLOCKED = "mtc_key_blocked"
    RSA_SIZE = "mtc_rsa_size"
    RSA_EXPONENT = "mtc_rsa_exponent"
    RSA_SMALL_FACTOR = "mtc_rsa_small_factor"
    RSA_POWER = "mtc_rsa_power"
    RSA_CLOSE_PRIMES = "mtc_rsa_close_primes"
    RSA_ROCA = "mtc_rsa_roca"
    EXTENSIONS_MALFORMED = "mtc_extensions_malformed"
    EXTENSION_NOT_ALLOWED = "mtc_extension_not_allowed"
    EXTENSION_UNKNOWN_CRITICAL = "mtc_extension_unknown_critical"
    EXTENSION_CRITICALITY = "mtc_extension_criticality"
    SCT_LIST = "mtc_sct_list"
    IS_A_CA = "mtc_is_a_ca"
    BASIC_CONSTRAINTS_MALFORMED = "mtc_basic_constraints_malformed"
    KEY_USAGE_MISSING = "mtc_key_usage_missing"
    KEY_USAGE_MALFORMED = "mtc_key_usage_malformed"
    KEY_USAGE_SIGNATURE = "mtc_key_usage_signature"
    KEY_USAGE_BITS = "mtc_key_usage_bits"
    KEY_USAGE_DISCOURAGED = "mtc_key_usage_discouraged"
    EKU_MISSING = "mtc_eku_missing"
    EKU_MALFORMED = "mtc_eku_malformed"
    EKU_PURPOSE = "mtc_eku_purpose"
    POLICIES_MISSING = "mtc_policies_missing"
    POLICIES_MALFORMED = "mtc_policies_malformed"
    POLICIES_OTHER = "mtc_policies_other"
    AKI_MISSING = "mtc_aki_missing"
    AKI_OTHER = "mtc_aki_other"
    CRL_POINTER_MISSING = "mtc_crl_pointer_missing"
    CRL_POINTER_MALFORMED = "mtc_crl_pointer_malformed"
    CRL_POINTER_SCHEME = "mtc_crl_pointer_scheme"
    ISSUER_ALT_NAME = "mtc_issuer_alt_name"
    SAN_MISSING = "mtc_san_missing"
    SAN_MALFORMED = "mtc_san_malformed"
    SAN_CRITICALITY = "mtc_san_criticality"
    SAN_KIND = "mtc_san_kind"
    SAN_DUPLICATE = "mtc_san_duplicate"
    SAN_TOO_MANY = "mtc_san_too_many"
    DNS_EMPTY = "mtc_dns_empty"
    DNS_TOO_LONG = "mtc_dns_too_long"
    DNS_LABEL_TOO_LONG = "mtc_dns_label_too_long"
    DNS_EMPTY_LABEL = "mtc_dns_empty_label"
    DNS_TRAILING_DOT = "mtc_dns_trailing_dot"
    DNS_CHARACTER = "mtc_dns_character"
    DNS_UPPER_CASE = "mtc_dns_upper_case"
    DNS_UNDERSCORE = "mtc_dns_underscore"
    DNS_HYPHEN = "mtc_dns_hyphen"
    DNS_RESERVED_LDH = "mtc_dns_reserved_ldh"
    DNS_A_LABEL = "mtc_dns_a_label"
    DNS_IDNA = "mtc_dns_idna"
    DNS_IDNA_UNASSIGNED = "mtc_dns_idna_unassigned"
    DNS_WILDCARD = "mtc_dns_wildcard"
    DNS_WILDCARD_TOO_WIDE = "mtc_dns_wildcard_too_wide"
    DNS_WILDCARD_SUFFIX = "mtc_dns_wildcard_suffix"
    DNS_IS_ADDRESS = "mtc_dns_is_address"
    DNS_SINGLE_LABEL = "mtc_dns_single_label"
    DNS_RESERVED = "mtc_dns_reserved"
    DNS_REVERSE_ZONE = "mtc_dns_reverse_zone"
    DNS_UNKNOWN_TLD = "mtc_dns_unknown_tld"
    IP_LENGTH = "mtc_ip_length"
    IP_RESERVED = "mtc_ip_reserved"
    CSR_EXTENSION_IGNORED = "csr_extension_ignored"
    CSR_NAME_IGNORED = "csr_name_ignored"


@dataclass(frozen=True, slots=True)
class LintRule:
    """One row: severity for CAs of the Web (public) and others (private), what is checked, where it is written."""

    public: Severity
    private: Severity
    what: str
    source: str

    def severity(self, *, is_public: bool) -> Severity:
        """Return the severity for one kind of CA."""
        return self.public if is_public else self.private


def _both(what: str, source: str) -> LintRule:
    """Make a rule that is an error everywhere."""
    return LintRule(Severity.ERROR, Severity.ERROR, what, source)


def _warned(what: str, source: str) -> LintRule:
    """Make a rule that is an error for public CAs and a warning for others."""
    return LintRule(Severity.ERROR, Severity.WARNING, what, source)


def _public(what: str, source: str) -> LintRule:
    """Make a rule that holds for public CAs only."""
    return LintRule(Severity.ERROR, Severity.OFF, what, source)


def _advice(what: str, source: str, private: Severity = Severity.WARNING) -> LintRule:
    """Make a rule that never keeps an entry out."""
    return LintRule(Severity.WARNING, private, what, source)


_BR_SAN = "BR 7.1.2.7.12"
_BR_KEY_USAGE = "BR 7.1.2.7.11"
_BR_EXTENSIONS = "BR 7.1.2.7.6"
_BR_WEAK = "BR 6.1.1.3"
_BR_NUMBERS = "BR 6.1.6"
_MTC_ENTRIES = 'MTC "Log Entries"'
_CHROME = "Chrome 2.4"

LINT_RULES: dict[LintCode, LintRule] = {
    # The entry as a whole.
    LintCode.ENTRY_TOO_LARGE: _both("the entry, with what the log adds, has at most 65,535 bytes", _MTC_ENTRIES),
    LintCode.NOT_V3: _both("the version is v3", "RFC 5280 4.1.2.1; BR 7.1.2.7"),
    LintCode.ISSUER: _both(
        "the issuer is, byte for byte, the CA's name in its draft", 'MTC "Certification Authority Identifiers"'
    ),
    LintCode.UNIQUE_ID: _both("there are no unique identifiers", "RFC 5280 4.1.2.8; BR 7.1.2.7"),
    LintCode.VALIDITY_MALFORMED: _both(
        "both times are UTCTime through 2049 and GeneralizedTime from 2050, whole seconds, UTC", "RFC 5280 4.1.2.5"
    ),
    LintCode.VALIDITY_INVERTED: _both("notBefore is not after notAfter", "RFC 5280 4.1.2.5"),
    LintCode.VALIDITY_TOO_LONG: _both(
        "the validity, both ends included, is at most `max_lifetime`", "BR 6.3.2; RFC 5280 4.1.2.5"
    ),
    LintCode.VALIDITY_BACKDATED: _both("notBefore lies at most `max_backdating` before now", "BR 7.1.2.7"),
    LintCode.VALIDITY_FUTURE: _both("notBefore lies at most `max_future` after now", "BR 7.1.2.7"),
    LintCode.VALIDITY_OVER: _both("notAfter has not passed", "RFC 5280 4.1.2.5"),
    # The subject.
    LintCode.SUBJECT_MALFORMED: _both("the subject is a Name in DER", "RFC 5280 4.1.2.6"),
    LintCode.SUBJECT_NOT_EMPTY: _public("the subject of a domain-validated certificate is empty", _CHROME),
    LintCode.CN_MALFORMED: _both(
        "there is at most one commonName, a UTF8String or PrintableString of 1 to 64 characters", "BR 7.1.4.2"
    ),
    LintCode.CN_NOT_IN_SAN: _both("the commonName is one of the names in subjectAltName", "BR 7.1.4.3"),
    # The public key.
    LintCode.KEY_MALFORMED: _both("the public key is a SubjectPublicKeyInfo in DER", "RFC 5280 4.1.2.7"),
    LintCode.KEY_HASH: _both("the entry's key hash is the hash of the public key", _MTC_ENTRIES),
    LintCode.KEY_ALGORITHM: _both("the entry's key algorithm is the public key's, byte for byte", _MTC_ENTRIES),
    LintCode.KEY_TYPE: _both(
        "the key is of an allowed type, its AlgorithmIdentifier encoded as prescribed; curves are named",
        "BR 6.1.5, 7.1.3.1; RFC 8410 3; RFC 9881 2; Chrome 2.4",
    ),
    LintCode.KEY_LENGTH: _both(
        "the key has its type's length; points of curves are uncompressed", "RFC 5480 2.2; RFC 8410 4; RFC 9881 4"
    ),
    LintCode.KEY_POINT: _both(
        "the key is a point of its curve, and not of small order", "BR 6.1.5, 6.1.6; RFC 8032 5.1.3"
    ),
    LintCode.KEY_BLOCKED: _both("the key is not on the CA's list of blocked keys", "BR 6.1.1.3 (4), (5.1)"),
    LintCode.RSA_SIZE: _both("an RSA modulus has `min_rsa_bits` to `max_rsa_bits` bits, a multiple of 8", "BR 6.1.5"),
    LintCode.RSA_EXPONENT: _both("the RSA exponent is odd, above 2^16 and below 2^256", _BR_NUMBERS),
    LintCode.RSA_SMALL_FACTOR: _both("the RSA modulus is odd and has no factor below 752", _BR_NUMBERS),
    LintCode.RSA_POWER: _both("the RSA modulus is no power of another number", _BR_NUMBERS),
    LintCode.RSA_CLOSE_PRIMES: _both(
        "100 rounds of Fermat's method do not factor the RSA modulus", f"{_BR_WEAK} (5.3)"
    ),
    LintCode.RSA_ROCA: _both("the RSA modulus has no ROCA fingerprint", f"{_BR_WEAK} (5.2)"),
    # Extensions.
    LintCode.EXTENSIONS_MALFORMED: _both("the extensions are DER, each at most once", "RFC 5280 4.2"),
    LintCode.EXTENSION_NOT_ALLOWED: _both("there are only extensions that the CA's rules name", _CHROME),
    LintCode.EXTENSION_UNKNOWN_CRITICAL: _both("no critical extension is unknown to this lint", "RFC 5280 4.2"),
    LintCode.EXTENSION_CRITICALITY: _warned(
        "keyUsage and basicConstraints are critical, other extensions are not", _BR_EXTENSIONS
    ),
    LintCode.SCT_LIST: _both("there is no SCT list", _CHROME),
    LintCode.IS_A_CA: _both(
        "nothing makes the holder a CA: no cA, no keyCertSign, no cRLSign, no MTC CA extension",
        'BR 7.1.2.7.8, 7.1.2.7.11; Chrome 2.4; MTC "Log Entries"',
    ),
    LintCode.BASIC_CONSTRAINTS_MALFORMED: _both(
        "basicConstraints, if there, is an empty SEQUENCE", "RFC 5280 4.2.1.9; BR 7.1.2.7.8"
    ),
    LintCode.KEY_USAGE_MISSING: _advice("there is a keyUsage", _BR_EXTENSIONS),
    LintCode.KEY_USAGE_MALFORMED: _both("keyUsage is DER and has at least one bit", "RFC 5280 4.2.1.3"),
    LintCode.KEY_USAGE_SIGNATURE: _both("keyUsage has digitalSignature", f"{_BR_KEY_USAGE}; RFC 8446 4.4.2.2"),
    LintCode.KEY_USAGE_BITS: _both(
        "keyUsage has no bit that the key cannot serve, no nonRepudiation, encipherOnly, decipherOnly",
        f"{_BR_KEY_USAGE}; RFC 9295 3; RFC 9881 5",
    ),
    LintCode.KEY_USAGE_DISCOURAGED: _advice(
        "keyUsage has no dataEncipherment (RSA) and no keyAgreement (ECDSA)", _BR_KEY_USAGE
    ),
    LintCode.EKU_MISSING: _warned("there is an extKeyUsage", f"BR 7.1.2.7.6; {_CHROME}"),
    LintCode.EKU_MALFORMED: _both("extKeyUsage is DER, with each purpose once", "RFC 5280 4.2.1.12"),
    LintCode.EKU_PURPOSE: _both(
        "extKeyUsage names only allowed purposes: serverAuth; for private CAs clientAuth as well", _CHROME
    ),
    LintCode.POLICIES_MISSING: _public("there is a certificatePolicies", f"BR 7.1.2.7.9; {_CHROME}"),
    LintCode.POLICIES_MALFORMED: _both("certificatePolicies is DER, with each policy once", "RFC 5280 4.2.1.4"),
    LintCode.POLICIES_OTHER: _public(
        "certificatePolicies asserts only 2.23.140.1.2.1, without qualifiers", f"BR 7.1.2.7.9; {_CHROME}"
    ),
    LintCode.AKI_MISSING: _advice("there is an authorityKeyIdentifier", "BR 7.1.2.11.1", Severity.OFF),
    LintCode.AKI_OTHER: _both(
        "authorityKeyIdentifier holds the binary CA ID as keyIdentifier, and nothing else",
        'BR 7.1.2.11.1; MTC "Representing Certification Authorities"',
    ),
    LintCode.CRL_POINTER_MISSING: _both(
        "a certificate that lives longer than `crl_pointer_above` has a cRLDistributionPoints", "BR 7.1.2.11.2"
    ),
    LintCode.CRL_POINTER_MALFORMED: _both(
        "cRLDistributionPoints holds only full names that are URLs, no reasons, no cRLIssuer", "BR 7.1.2.11.2"
    ),
    LintCode.CRL_POINTER_SCHEME: _warned("the URLs of the CRL begin with http:", "BR 7.1.2.11.2; RFC 5280 8"),
    LintCode.ISSUER_ALT_NAME: _both(
        "issuerAltName, if there, is one directoryName whose RDNs have one attribute each", f"{_MTC_ENTRIES}; {_CHROME}"
    ),
    # Names.
    LintCode.SAN_MISSING: _both("there is a subjectAltName with at least one name", f"{_BR_SAN}; RFC 5280 4.2.1.6"),
    LintCode.SAN_MALFORMED: _both("subjectAltName is DER", "RFC 5280 4.2.1.6"),
    LintCode.SAN_CRITICALITY: LintRule(
        Severity.ERROR,
        Severity.ERROR,
        "subjectAltName is critical when the subject is empty, and otherwise not",
        f"RFC 5280 4.2.1.6; {_BR_SAN}",
    ),
    LintCode.SAN_KIND: _both("subjectAltName holds only dNSName and iPAddress", _BR_SAN),
    LintCode.SAN_DUPLICATE: _both("no name stands twice, whatever its case", "RFC 4343 3"),
    LintCode.SAN_TOO_MANY: _both("subjectAltName has at most `max_names` names", "none; the CA's own limit"),
    LintCode.DNS_EMPTY: _both("a dNSName is not empty", "RFC 5280 4.2.1.6"),
    LintCode.DNS_TOO_LONG: _both("a dNSName has at most 253 characters", "RFC 1035 2.3.4"),
    LintCode.DNS_LABEL_TOO_LONG: _both("a label has at most 63 characters", "RFC 1035 2.3.4"),
    LintCode.DNS_EMPTY_LABEL: _both("no label is empty", "RFC 1035 2.3.1"),
    LintCode.DNS_TRAILING_DOT: _both("a dNSName does not end with a dot", _BR_SAN),
    LintCode.DNS_CHARACTER: _both("labels hold letters, digits and hyphens of ASCII", f"RFC 5890 2.3.1; {_BR_SAN}"),
    LintCode.DNS_UPPER_CASE: _both(
        "a dNSName is in lower case, so that one name has one form in the log", "RFC 4343 3; RFC 5891 4.5"
    ),
    LintCode.DNS_UNDERSCORE: _warned("labels hold no underscore", f"RFC 5890 2.3.1; {_BR_SAN}"),
    LintCode.DNS_HYPHEN: _both("labels neither begin nor end with a hyphen", "RFC 5890 2.3.1"),
    LintCode.DNS_RESERVED_LDH: _both(
        "a label with `--` as third and fourth character begins with `xn--`", f"RFC 5890 2.3.1; {_BR_SAN}"
    ),
    LintCode.DNS_A_LABEL: _both(
        "what follows `xn--` is Punycode that decodes and encodes back to itself", "RFC 5890 2.3.2.1; RFC 5891 4.4"
    ),
    LintCode.DNS_IDNA: _both(
        "the decoded label is normalised (NFC), holds only code points that IDNA2008 permits, begins with no combining "
        "mark, and has no hyphen at its ends or as third and fourth character",
        "RFC 5891 4.2; RFC 5892 3",
    ),
    LintCode.DNS_IDNA_UNASSIGNED: _advice(
        "the decoded label holds only code points that this Python's Unicode knows", "RFC 5892 3"
    ),
    LintCode.DNS_WILDCARD: _both("`*` is the whole leftmost label or does not occur", "BR 1.6.1, Wildcard Domain Name"),
    LintCode.DNS_WILDCARD_TOO_WIDE: _both("at least two labels stand behind `*`", "RFC 9525 7.1; BR 3.2.2.6"),
    LintCode.DNS_WILDCARD_SUFFIX: _public("no name of `public_suffixes` stands behind `*`", "BR 3.2.2.6"),
    LintCode.DNS_IS_ADDRESS: _both(
        "a dNSName is no IP address: its last label is no number", "RFC 1123 2.1; RFC 3696 2"
    ),
    LintCode.DNS_SINGLE_LABEL: _public("a dNSName has at least two labels", "BR 1.6.1, Internal Name"),
    LintCode.DNS_RESERVED: _public(
        "a dNSName does not end in a special-use or internal domain (`test`, `local`, `internal`, `onion`, …)",
        "BR 1.6.1, Internal Name; RFC 6761; RFC 6762 G; BR Appendix B",
    ),
    LintCode.DNS_REVERSE_ZONE: _public("a dNSName does not end in `in-addr.arpa` or `ip6.arpa`", _BR_SAN),
    LintCode.DNS_UNKNOWN_TLD: _public(
        "a dNSName ends in one of `top_level_domains`, when the CA has that list", "BR 1.6.1, Internal Name"
    ),
    LintCode.IP_LENGTH: _both("an iPAddress has 4 or 16 bytes", "RFC 5280 4.2.1.6"),
    LintCode.IP_RESERVED: _public(
        "an iPAddress is in no special-purpose block, no multicast, and, for IPv6, inside 2000::/3",
        "BR 1.6.1, Reserved IP Address; RFC 6890",
    ),
    # Certificate requests; found where they are read, not in an entry.
    LintCode.CSR_EXTENSION_IGNORED: _advice(
        "a certificate request asks for no extension but subjectAltName; others are never copied", _CHROME
    ),
    LintCode.CSR_NAME_IGNORED: _advice(
        "a certificate request asks for no names but DNS names and IP addresses; others are never copied", _BR_SAN
    ),
}
"""Every rule by its code, in the order of the documentation."""


def format_lint_table() -> str:
    """Return all rules as a table in Markdown, as docs/lint.md holds it."""
    lines = ["| code | public | private | what is checked | source |", "|---|---|---|---|---|"]
    lines.extend(
        f"| `{code}` | {rule.public} | {rule.private} | {rule.what} | {rule.source} |"
        for code, rule in LINT_RULES.items()
    )
    return "\n".join(lines) + "\n"
