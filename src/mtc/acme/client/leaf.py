"""What a certificate says about itself, of either kind, and whether it is the one that was ordered.

Spec: RFC 8555, "Downloading the Certificate"; RFC 9773, "Getting Renewal Information"; Merkle Tree Certificates, "ACME
Extensions", "Using Trust Anchor Identifiers".
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address

from cryptography import x509

from mtc.acme.machine.identifiers import Identifier
from mtc.acme.machine.renewal import CertificateID
from mtc.cert import CACertificate, Certificate, CertificateChain
from mtc.errors import Error, FormatError, Reason, Rejected
from mtc.kernel import parse_layout
from mtc.trust import TrustStore, trusted_ca_from_certificate, verify_certificate


@dataclass(frozen=True, slots=True)
class Leaf:
    """An end-entity certificate. not_before, not_after: inclusive. mtc: the same one as a Merkle Tree certificate.

    identifiers: of the subject alternative name. certificate_id: of RFC 9773, None without a key identifier.
    """

    der: bytes
    serial: int
    not_before: datetime
    not_after: datetime
    spki: bytes
    identifiers: frozenset[Identifier]
    certificate_id: str | None
    mtc: Certificate | None

    @staticmethod
    def parse(der: bytes) -> "Leaf":
        """Read a certificate. Raises FormatError. One of a Merkle Tree CA in an unknown form counts as ordinary."""
        layout = parse_layout(der)
        serial = int.from_bytes(der[layout.serial_start : layout.serial_end], "big", signed=True)
        try:
            mtc = Certificate.parse(der)
        except Error:
            mtc = None
        names, key_identifier = _extensions(der)
        return Leaf(
            der=der,
            serial=serial,
            not_before=datetime.fromtimestamp(layout.not_before, UTC),
            not_after=datetime.fromtimestamp(layout.not_after, UTC),
            spki=der[layout.spki_start : layout.spki_end],
            identifiers=names,
            certificate_id=None if key_identifier is None else str(CertificateID(key_identifier, serial)),
            mtc=mtc,
        )


def check_ordered(leaf: Leaf, spki: bytes, identifiers: Collection[Identifier]) -> None:
    """Check that a certificate is for our key and our names. Raises Rejected."""
    if leaf.spki != spki:
        raise Rejected(Reason.BAD_KEY, "the server gave a certificate for another key; nothing was changed")
    if leaf.identifiers != frozenset(identifiers):
        names = ", ".join(sorted(map(str, leaf.identifiers))) or "no name"
        raise Rejected(Reason.NAME_MISMATCH, f"the server gave a certificate for {names}; nothing was changed")


def check_trusted(leaf: Leaf, store: TrustStore, now: datetime, names: Sequence[Identifier]) -> None:
    """Verify a certificate as a relying party would, for each name that is no wildcard. Raises Rejected and others."""
    exact: list[str | None] = [str(name) for name in names if not name.is_wildcard]
    for name in exact or [None]:
        verify_certificate(leaf.der, store, now, name=name)


def trust_in(ca_certificate: bytes) -> TrustStore:
    """Return the plainest trust in a CA certificate, DER. Raises FormatError, Rejected when it is none."""
    return TrustStore([trusted_ca_from_certificate(CACertificate.parse(ca_certificate))])


def check_landmark_relative(chain: CertificateChain, standalone: Leaf) -> Certificate:
    """Check that a path is the landmark-relative form of a standalone certificate, and return its certificate.

    Not checked: whether its proof leads to a landmark's subtree, which takes the landmarks. Raises FormatError and
    Rejected.
    """
    if standalone.mtc is None:
        raise Rejected(Reason.NOT_MTC, "the certificate is no Merkle Tree certificate, so it has no other form")
    relative = Certificate.parse(chain.certificates[0])
    if relative.serial != standalone.serial:
        raise Rejected(
            Reason.CONFLICT, f"the other form has serial number {relative.serial:x}, not {standalone.serial:x}"
        )
    if relative.spki != standalone.spki:
        raise Rejected(Reason.BAD_KEY, "the other form is for another key")
    if relative.tbs != standalone.mtc.tbs:
        raise Rejected(Reason.CONFLICT, "the other form differs from the certificate in more than its proof")
    anchor = None if chain.properties is None else chain.properties.trust_anchor_id
    # A landmark's ID is the CA's with 1, the log and the landmark behind it.
    prefix = standalone.mtc.ca_id.child(1, standalone.mtc.log_number)
    if anchor is None or not str(anchor).startswith(f"{prefix}.") or "." in str(anchor)[len(str(prefix)) + 1 :]:
        raise Rejected(Reason.NO_LANDMARK, "the other form has no properties that name a landmark of its log")
    return relative


def _extensions(der: bytes) -> tuple[frozenset[Identifier], bytes | None]:
    """Return the names and the authority's key identifier. Raises FormatError."""
    try:
        extensions = x509.load_der_x509_certificate(der).extensions
    except ValueError as error:
        raise FormatError(Reason.BAD_EXTENSION, f"the certificate cannot be read: {error}") from None
    names: set[Identifier] = set()
    key_identifier: bytes | None = None
    for extension in extensions:
        if isinstance(extension.value, x509.SubjectAlternativeName):
            names.update(Identifier.dns(name) for name in extension.value.get_values_for_type(x509.DNSName))
            addresses = extension.value.get_values_for_type(x509.IPAddress)
            names.update(Identifier.ip(str(ip_address(str(address)))) for address in addresses)
        elif isinstance(extension.value, x509.AuthorityKeyIdentifier):
            key_identifier = extension.value.key_identifier
    return frozenset(names), key_identifier
