"""Certification paths of a server: certificates, properties, key, and what selection must know of them.

Spec: TLS Trust Anchor Identifiers, "Certificate Properties"; Merkle Tree Certificates, "Using Trust Anchor
Identifiers"; RFC 8446, "Signature Algorithms", for the schemes of a key.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime

from mtc.cert import Certificate, CertificateChain, PropertyList, parse_certificate_chains
from mtc.errors import FormatError, Reason, Rejected, UsageError
from mtc.ids import REVISIONS, TrustAnchorID
from mtc.kernel import active_kernel, parse_layout
from mtc.trust import ServerName
from mtc.wire import DERReader, Tag, encode_oid, parse_pem

_EC = "1.2.840.10045.2.1"
_SCHEMES: dict[tuple[str, str], tuple[int, ...]] = {
    (_EC, "1.2.840.10045.3.1.7"): (0x0403,),
    (_EC, "1.3.132.0.34"): (0x0503,),
    (_EC, "1.3.132.0.35"): (0x0603,),
    ("1.2.840.113549.1.1.1", ""): (0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601),
    ("1.2.840.113549.1.1.10", ""): (0x0809, 0x080A, 0x080B),
    ("1.3.101.112", ""): (0x0807,),
    ("1.3.101.113", ""): (0x0808,),
    ("2.16.840.1.101.3.4.3.17", ""): (0x0904,),
    ("2.16.840.1.101.3.4.3.18", ""): (0x0905,),
    ("2.16.840.1.101.3.4.3.19", ""): (0x0906,),
}
"""SignatureScheme code points by the OIDs of a public key's algorithm and, of elliptic curves, of the curve."""
_PROOF_OIDS = frozenset(encode_oid(revision.proof_oid) for revision in REVISIONS.values())
_KEY_LABELS = frozenset({"PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"})
_LANDMARK_ARC = 1


def is_merkle_tree_certificate(der: bytes) -> bool:
    """Tell whether a certificate says that it is one of ours: its signature algorithm is id-alg-mtcProof of any draft.

    One of the two places suffices, so that a certificate that contradicts itself goes to the verifier that refuses it.
    Never raises; what is no certificate is none of ours.
    """
    try:
        layout = parse_layout(der)
    except FormatError:
        return False
    places = (
        (layout.signature_start, layout.signature_end),
        (layout.outer_signature_start, layout.outer_signature_end),
    )
    return any(_first_value(der[start:end]) in _PROOF_OIDS for start, end in places)


def _first_value(sequence: bytes) -> bytes:
    """Return the first TLV of a short SEQUENCE, which in an AlgorithmIdentifier is the OID."""
    return sequence[2 : 4 + sequence[3]] if len(sequence) > 3 else b""


@dataclass(frozen=True, slots=True)
class CertificationPath:
    """One way for a server to prove who it is. Make one with `CertificationPath.build` or `parse_paths`.

    certificates: DER, end entity first, trust anchor omitted. properties: empty when none were given. private_key:
    PKCS #8 or the older forms, DER, not encrypted; it is not shown. is_mtc: the end entity is a Merkle Tree
    certificate. is_landmark_relative: it verifies only where its landmark is known.
    needs_negotiation: never to be sent to a client that did not ask for it. not_before, not_after: inclusive.
    signature_schemes: TLS code points that the key can sign with; empty when its kind is not known here.
    """

    certificates: tuple[bytes, ...]
    properties: PropertyList
    private_key: bytes = field(repr=False)
    is_mtc: bool
    is_landmark_relative: bool
    not_before: datetime
    not_after: datetime
    dns_names: tuple[bytes, ...]
    ip_addresses: tuple[bytes, ...]
    signature_schemes: tuple[int, ...]

    @staticmethod
    def build(chain: CertificateChain, private_key: bytes) -> "CertificationPath":
        """Make a path from its parts; whether key and certificate fit is for the TLS library to say.

        private_key: PEM or DER. Raises FormatError for a certificate that cannot be read, UsageError for an encrypted
        key, or for a landmark-relative certificate without properties, which could never be sent.
        """
        der = chain.certificates[0]
        layout = parse_layout(der)
        properties = chain.properties or PropertyList()
        is_mtc = is_merkle_tree_certificate(der)
        is_relative = is_mtc and _is_landmark_relative(der, properties)
        if is_relative and properties.trust_anchor_id is None and not properties.groups:
            raise UsageError(
                Reason.BAD_PROPERTY,
                "a landmark-relative certificate without properties can never be selected; keep it in the file with "
                "CERTIFICATE PROPERTIES that its CA delivered",
            )
        dns_names: list[bytes] | None = None
        addresses: list[bytes] | None = None
        if layout.extensions_end:
            found = active_kernel().scan_extensions(der, layout.extensions_start, layout.extensions_end)
            dns_names, addresses = found[3:5]
        return CertificationPath(
            certificates=chain.certificates,
            properties=properties,
            private_key=_read_key(private_key),
            is_mtc=is_mtc,
            is_landmark_relative=is_relative,
            not_before=datetime.fromtimestamp(layout.not_before, UTC),
            not_after=datetime.fromtimestamp(layout.not_after, UTC),
            dns_names=tuple(dns_names or ()),
            ip_addresses=tuple(addresses or ()),
            signature_schemes=_schemes(der[layout.spki_algorithm_start : layout.spki_algorithm_end]),
        )

    @property
    def trust_anchor_id(self) -> TrustAnchorID | None:
        """The path's own ID."""
        return self.properties.trust_anchor_id

    @property
    def needs_negotiation(self) -> bool:
        """Whether it may be sent only to a client that asked for it.

        So says the property, and so it is with every landmark-relative certificate: drafts before -06 had no property.
        """
        return self.properties.needs_negotiation or self.is_landmark_relative

    def is_valid_at(self, now: datetime) -> bool:
        """Tell whether the end-entity certificate is valid; its last second belongs to it."""
        return self.not_before <= now and now.timestamp() < self.not_after.timestamp() + 1

    def is_for(self, name: ServerName) -> bool:
        """Tell whether the end-entity certificate has the name."""
        return name.is_in(self.dns_names, self.ip_addresses)


def parse_paths(text: bytes, private_key: bytes) -> tuple[CertificationPath, ...]:
    """Return the paths of a PEM file, with or without properties, that all have the same key. Raises FormatError.

    Group properties of every draft are read. Text beside the blocks is allowed, as deployed files have it.
    """
    chains = parse_certificate_chains(text, None, strict=False)
    if not chains:
        raise FormatError(Reason.BAD_PEM, "there is no certificate in this file")
    return tuple(CertificationPath.build(chain, private_key) for chain in chains)


def _is_landmark_relative(der: bytes, properties: PropertyList) -> bool:
    """Tell whether the properties name a landmark, or nobody signed the proof."""
    try:
        certificate = Certificate.parse(der)
    except Rejected as error:
        raise FormatError(error.reason, error.message) from None
    own = properties.trust_anchor_id
    if own is not None and own.components[:-2] == (*certificate.ca_id.components, _LANDMARK_ARC):
        return True
    return not certificate.proof.signatures


def _read_key(data: bytes) -> bytes:
    """Return the DER of a private key in PEM or DER."""
    if b"-----BEGIN" not in data:
        return data
    for label, der in parse_pem(data):
        if label in _KEY_LABELS:
            return der
        if label == "ENCRYPTED PRIVATE KEY":
            raise UsageError(Reason.BAD_KEY, "the private key is encrypted; decrypt it first, servers start unattended")
    raise UsageError(Reason.BAD_KEY, "there is no private key in this file")


def _schemes(algorithm: bytes) -> tuple[int, ...]:
    """Return the signature schemes of a public key's AlgorithmIdentifier."""
    reader = DERReader(algorithm, "the public key's algorithm").enter(Tag.SEQUENCE)
    oid = reader.read_oid()
    curve = reader.read_oid() if reader.peek_tag() == Tag.OID else ""
    return _SCHEMES.get((oid, curve), ())
