"""What applicants bring: certificate requests and public keys, in PEM or DER.

A request proves that its sender has the private key, and may name names. Nothing else in it counts: extensions are
never copied into a log entry, only mentioned in a warning.

Spec: RFC 2986, "Certification Request Syntax"; RFC 2985 for extensionRequest; RFC 7468 for the PEM labels.
"""

import warnings
from dataclasses import dataclass
from ipaddress import ip_address

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from mtc.cert.x509 import SUBJECT_ALT_NAME_OID, Extension, parse_extensions
from mtc.crypto.strength import split_spki
from mtc.errors import FormatError, Reason, SignatureError
from mtc.lint import LINT_RULES, LintCode, LintFinding
from mtc.wire import DERReader, PEMBlock, Tag, encode_oid, parse_pem

MAX_CSR_BYTES = 64 * 1024
"""Largest certificate request, or public key file, read: ten times one with an ML-DSA-87 key and its signature."""
MAX_CSR_NAMES = 1000
"""Most names read from a request; the lint has a limit of its own."""

_CSR_LABELS = frozenset({"CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"})
_EXTENSION_REQUEST = encode_oid("1.2.840.113549.1.9.14")
_SIGNATURE_OIDS = frozenset(
    {
        # ECDSA, RSA (PKCS #1 v1.5) and their SHA-2; RSASSA-PSS; Ed25519; ML-DSA-44, -65, -87.
        *(f"1.2.840.10045.4.3.{number}" for number in (2, 3, 4)),
        *(f"1.2.840.113549.1.1.{number}" for number in (11, 12, 13)),
        *("1.2.840.113549.1.1.10", "1.3.101.112"),
        *(f"2.16.840.1.101.3.4.3.{number}" for number in (17, 18, 19)),
    }
)
"""Signatures that count as proof of possession; none with MD5 or SHA-1."""
_COMMON_NAME_OID = "2.5.4.3"
_TEXT_TAGS = (Tag.UTF8_STRING, Tag.PRINTABLE_STRING, Tag.IA5_STRING)
_DNS_TAG, _IP_TAG = 0x82, 0x87


@dataclass(frozen=True, slots=True)
class CSR:
    """A certificate request whose sender has proven to have the private key.

    spki: the public key, DER. dns_names, ip_addresses: from its subjectAltName, as text, in order; not judged yet.
    extension_oids: other extensions that it asks for, dotted. other_names: how many names of other kinds it asks for.
    subject_cns: the commonNames of the subject, in order; they are no names to certify.
    """

    spki: bytes
    dns_names: tuple[str, ...] = ()
    ip_addresses: tuple[str, ...] = ()
    extension_oids: tuple[str, ...] = ()
    other_names: int = 0
    subject_cns: tuple[str, ...] = ()

    @property
    def findings(self) -> tuple[LintFinding, ...]:
        """What the request asks for and does not get, as warnings."""
        found = []
        if self.extension_oids:
            listed = ", ".join(self.extension_oids[:8])[:200]
            found.append(_warning(LintCode.CSR_EXTENSION_IGNORED, f"the request's extensions are not copied: {listed}"))
        if self.other_names:
            found.append(
                _warning(
                    LintCode.CSR_NAME_IGNORED,
                    f"{self.other_names} of the request's names are neither DNS names nor IP addresses, and left out",
                )
            )
        return tuple(found)


def _warning(code: LintCode, message: str) -> LintFinding:
    """Make a finding of a rule that is the same for every CA."""
    return LintFinding(code, LINT_RULES[code].private, message)


def parse_csr(data: bytes) -> CSR:
    """Read a certificate request, PEM or DER, and check that its sender has the private key.

    Raises FormatError when it is none, with what to do; SignatureError (BAD_SIGNATURE) when its signature does not
    verify, and (UNSUPPORTED) when it is of an algorithm that is unknown or no longer accepted here.
    """
    der = _unwrap(data, _CSR_LABELS, "certificate request", "make one with: openssl req -new -key KEY -out FILE")
    reader = DERReader(der, "the certificate request")
    request = reader.enter(Tag.SEQUENCE)
    reader.finish()
    info = request.enter(Tag.SEQUENCE)
    algorithm = request.enter(Tag.SEQUENCE).read_oid()
    request.read_bit_string()
    request.finish()
    if info.read_integer() != 0:
        raise FormatError(Reason.BAD_VERSION, "the certificate request has a version other than v1")
    subject_cns = _read_common_names(info.read_tlv(Tag.SEQUENCE))
    spki = info.read_tlv(Tag.SEQUENCE)
    split_spki(spki)
    extensions = _read_extensions(info)
    info.finish()
    if algorithm not in _SIGNATURE_OIDS:
        raise _unsupported()
    _verify_possession(der)
    oids = [extension.oid for extension in extensions]
    if len(set(oids)) != len(oids):
        raise FormatError(Reason.DUPLICATE_EXTENSION, "the certificate request has the same extension twice")
    names = next((extension.value for extension in extensions if extension.oid == SUBJECT_ALT_NAME_OID), None)
    dns_names, ip_addresses, other_names = ((), (), 0) if names is None else parse_subject_alt_name(names)
    others = tuple(oid for oid in oids if oid != SUBJECT_ALT_NAME_OID)
    return CSR(spki, dns_names, ip_addresses, others, other_names, subject_cns)


def parse_public_key_file(data: bytes) -> bytes:
    """Return the SubjectPublicKeyInfo, DER, in a public key file: PEM with one PUBLIC KEY block, or DER.

    What kind of key it is, and how strong, is for the lint. Raises FormatError with what to do. A private key that was
    handed in by mistake is refused, and nothing of it stands in the error.
    """
    spki = _unwrap(data, frozenset({"PUBLIC KEY"}), "public key", "get it with: openssl pkey -in KEY -pubout -out FILE")
    try:
        split_spki(spki)
    except FormatError as error:
        if _looks_private(spki):
            raise _private_key_given() from None
        raise FormatError(
            error.reason,
            f"{error.message}; a public key file is a SubjectPublicKeyInfo, PEM or DER: "
            "get it with: openssl pkey -in KEY -pubout -out FILE",
            **error.facts,
        ) from None
    return spki


def _unwrap(data: bytes, labels: frozenset[str], what: str, cure: str) -> bytes:
    """Return the DER in a file that is PEM with one block of one of these labels, or DER."""
    if len(data) > MAX_CSR_BYTES:
        raise FormatError(
            Reason.TOO_LARGE, f"a {what} of {len(data)} bytes is larger than {MAX_CSR_BYTES}", got=len(data)
        )
    if b"-----BEGIN " not in data and data[:1] == b"\x30":
        if _looks_private(data):
            raise _private_key_given()
        return data
    if b"PRIVATE KEY-----" in data:
        raise _private_key_given()
    blocks = parse_pem(data)
    if not blocks:
        raise FormatError(Reason.BAD_PEM, f"this is no {what}, neither PEM nor DER; {cure}")
    if len(blocks) > 1 or blocks[0].label not in labels:
        raise FormatError(
            Reason.BAD_PEM, f"a {what} file holds one {min(labels, key=len)} block, this one {_labels(blocks)}; {cure}"
        )
    return blocks[0].data


def _labels(blocks: list[PEMBlock]) -> str:
    """Name the blocks of a PEM text."""
    return ", ".join(block.label for block in blocks[:4]) + (", …" if len(blocks) > 4 else "")


def _private_key_given() -> FormatError:
    """Make the error for a private key; nothing of it may stand in a message."""
    return FormatError(
        Reason.BAD_KEY,
        "this is a private key, which nobody but its owner may have; treat it as compromised if it has left its "
        "machine. Hand in its public half, from: openssl pkey -in KEY -pubout -out FILE",
    )


def _looks_private(der: bytes) -> bool:
    """Tell whether DER begins as private keys do: a SEQUENCE with a small version number, or with a cipher in front.

    PKCS#8, PKCS#1 and SEC1 keys begin with an INTEGER of 0 or 1; a public key or a request begins with a SEQUENCE.
    An encrypted PKCS#8 key is an AlgorithmIdentifier and an OCTET STRING.
    """
    try:
        fields = DERReader(der, "a key").enter(Tag.SEQUENCE)
        if fields.peek_tag() == Tag.INTEGER:
            return fields.read_integer() in (0, 1)
        fields.read_tlv(Tag.SEQUENCE)
        return fields.peek_tag() == Tag.OCTET_STRING
    except FormatError:
        return False


def _read_common_names(subject: bytes) -> tuple[str, ...]:
    """Return the commonNames of a Name that are text; what else stands there is only checked for its form."""
    rdns = DERReader(subject, "the request's subject").enter(Tag.SEQUENCE)
    common = []
    while not rdns.is_empty:
        rdn = rdns.enter(Tag.SET)
        while not rdn.is_empty:
            attribute = rdn.enter(Tag.SEQUENCE)
            oid = attribute.read_oid()
            tag, start, end = attribute.read_header()
            attribute.finish()
            if oid == _COMMON_NAME_OID and tag in _TEXT_TAGS:
                common.append(subject[start:end].decode("utf-8", errors="replace"))
    return tuple(common)


def _read_extensions(info: DERReader) -> tuple[Extension, ...]:
    """Return the extensions that a request asks for, from its attributes; other attributes are passed over."""
    attributes = info.enter(0xA0)
    extensions: tuple[Extension, ...] = ()
    while not attributes.is_empty:
        attribute = attributes.enter(Tag.SEQUENCE)
        kind = attribute.read_tlv(Tag.OID)
        values = attribute.enter(Tag.SET)
        attribute.finish()
        if kind == _EXTENSION_REQUEST:
            _, start, end = values.read_header(Tag.SEQUENCE)
            values.finish()
            extensions += parse_extensions(values.data, start, end)
    return extensions


def parse_subject_alt_name(value: bytes) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """Return DNS names, IP addresses and the number of other names in a subjectAltName. Raises FormatError."""
    outer = DERReader(value, "the subjectAltName")
    names = outer.enter(Tag.SEQUENCE)
    outer.finish()
    dns_names, ip_addresses, others = [], [], 0
    while not names.is_empty:
        tag, start, end = names.read_header()
        contents = value[start:end]
        if tag == _DNS_TAG:
            if not contents.isascii():
                raise FormatError(
                    Reason.BAD_STRING, "the request has a DNS name that is not ASCII; write it with A-labels"
                )
            dns_names.append(contents.decode("ascii"))
        elif tag == _IP_TAG:
            if len(contents) not in (4, 16):
                raise FormatError(
                    Reason.BAD_LENGTH, f"the request has an IP address of {len(contents)} bytes", got=len(contents)
                )
            ip_addresses.append(str(ip_address(contents)))
        else:
            others += 1
        if len(dns_names) + len(ip_addresses) + others > MAX_CSR_NAMES:
            raise FormatError(Reason.TOO_LARGE, f"the request has more than {MAX_CSR_NAMES} names")
    return tuple(dns_names), tuple(ip_addresses), others


def _verify_possession(der: bytes) -> None:
    """Raise SignatureError unless the request is signed with the private key of its public key."""
    try:
        with warnings.catch_warnings():
            # The library warns of encodings and keys that it will not read for ever; what is weak, the lint refuses.
            warnings.simplefilter("ignore")
            is_signed = x509.load_der_x509_csr(der).is_signature_valid
    except UnsupportedAlgorithm:
        raise _unsupported() from None
    except Exception as error:  # noqa: BLE001 - the library raises various types for what it cannot read
        raise FormatError(Reason.BAD_KEY, f"the certificate request cannot be read: {str(error)[:200]}") from None
    if not is_signed:
        raise SignatureError(
            Reason.BAD_SIGNATURE,
            "the certificate request is not signed with the private key of its public key; make it again",
        )


def _unsupported() -> SignatureError:
    """Make the error for a request whose signature is of an algorithm that proves nothing here."""
    return SignatureError(
        Reason.UNSUPPORTED,
        "the certificate request has a key or a signature of an algorithm that is not accepted here; "
        "use ECDSA, RSA, Ed25519 or ML-DSA, with SHA-256 or better",
    )
