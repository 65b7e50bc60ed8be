"""What differs between draft revisions: the only file that knows. Followed: draft-ietf-plants-merkle-tree-certs-07.

One CA speaks one revision with one set of object identifiers, never a mix. A revision is data, not a branch: rooms
above read its fields.

Spec: Merkle Tree Certificates, change log and "IANA Considerations" of -04 to -07.
"""

from dataclasses import dataclass

from mtc.errors import FormatError, Reason, UsageError
from mtc.ids.anchor import TrustAnchorID
from mtc.wire import DERReader, Tag, encode_oid, encode_sequence, encode_set, encode_tlv, encode_utf8_string


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftRevision:
    """The wire-visible choices of one revision."""

    name: str
    """For example `plants-07`."""
    proof_oid: str
    """id-alg-mtcProof, the signature algorithm of its certificates."""
    name_oid: str
    """id-rdna-trustAnchorID, the one attribute of a CA's distinguished name."""
    has_relative_oid_name: bool
    """The attribute's value is a RELATIVE-OID; a UTF8String with the ASCII form otherwise."""
    ca_extension_oid: str
    """The MTC CA extension of CA certificates."""
    ca_extension_has_hash: bool
    """The extension names the log hash; otherwise its OID implies SHA-256."""
    ca_extension_has_max_serial: bool
    least_ca_serial: int
    """Lower bound of minSerial and maxSerial."""
    signatures_width: int
    """Bytes of the length of MTCProof's signatures vector."""
    allows_empty_subtree: bool
    id_limit: int
    """Longest binary trust anchor ID in bytes."""
    entry_limit_is_must: bool
    """An entry above 65,535 bytes is forbidden, not only discouraged."""
    landmarks_have_expiry: bool
    """Landmarks expire one by one; otherwise the last max_active_landmarks are active."""
    groups_are_patterns: bool
    """Certificate properties name groups by ID pattern; by range otherwise."""
    has_optional_alternate: bool
    """ACME names the landmark-relative certificate by a relation of its own, and 202 until it is there; otherwise it is
    an alternate, and 503."""

    @property
    def proof_algorithm(self) -> bytes:
        """The AlgorithmIdentifier of id-alg-mtcProof with absent parameters, DER."""
        return encode_sequence(encode_oid(self.proof_oid))

    def __str__(self) -> str:
        """Return the name."""
        return self.name


_EXPERIMENTAL = "1.3.6.1.4.1.44363.47"

PLANTS_04 = DraftRevision(
    name="plants-04",
    proof_oid=f"{_EXPERIMENTAL}.0",
    name_oid=f"{_EXPERIMENTAL}.1",
    has_relative_oid_name=False,
    ca_extension_oid=f"{_EXPERIMENTAL}.2",
    ca_extension_has_hash=True,
    ca_extension_has_max_serial=False,
    least_ca_serial=0,
    signatures_width=2,
    allows_empty_subtree=False,
    id_limit=255,
    entry_limit_is_must=False,
    landmarks_have_expiry=False,
    groups_are_patterns=False,
    has_optional_alternate=False,
)
PLANTS_05 = DraftRevision(
    name="plants-05",
    proof_oid=f"{_EXPERIMENTAL}.0",
    name_oid=f"{_EXPERIMENTAL}.1",
    has_relative_oid_name=False,
    ca_extension_oid=f"{_EXPERIMENTAL}.2",
    ca_extension_has_hash=True,
    ca_extension_has_max_serial=True,
    least_ca_serial=0,
    signatures_width=2,
    allows_empty_subtree=False,
    id_limit=255,
    entry_limit_is_must=False,
    landmarks_have_expiry=False,
    groups_are_patterns=False,
    has_optional_alternate=True,
)
PLANTS_06 = DraftRevision(
    name="plants-06",
    proof_oid=f"{_EXPERIMENTAL}.0",
    name_oid=f"{_EXPERIMENTAL}.3",
    has_relative_oid_name=True,
    ca_extension_oid=f"{_EXPERIMENTAL}.4",
    ca_extension_has_hash=False,
    ca_extension_has_max_serial=True,
    least_ca_serial=0,
    signatures_width=3,
    allows_empty_subtree=True,
    id_limit=255,
    entry_limit_is_must=True,
    landmarks_have_expiry=True,
    groups_are_patterns=True,
    has_optional_alternate=True,
)
PLANTS_07 = DraftRevision(
    name="plants-07",
    proof_oid="1.3.6.1.5.5.7.6.67",
    name_oid="1.3.6.1.5.5.7.25.3",
    has_relative_oid_name=True,
    ca_extension_oid="1.3.6.1.5.5.7.1.38",
    ca_extension_has_hash=False,
    ca_extension_has_max_serial=True,
    least_ca_serial=1 << 48,
    signatures_width=3,
    allows_empty_subtree=True,
    id_limit=32,
    entry_limit_is_must=True,
    landmarks_have_expiry=True,
    groups_are_patterns=True,
    has_optional_alternate=True,
)

REVISIONS: dict[str, DraftRevision] = {
    revision.name: revision for revision in (PLANTS_04, PLANTS_05, PLANTS_06, PLANTS_07)
}
"""Every revision that can be written and read, by name."""
DEFAULT_REVISION = PLANTS_07
"""The revision of new CAs."""


def parse_revision(name: str) -> DraftRevision:
    """Return the revision called `name`. Raises UsageError with the names there are."""
    if name not in REVISIONS:
        raise UsageError(Reason.USAGE, f"{name!r} is no draft revision here; there are {', '.join(REVISIONS)}")
    return REVISIONS[name]


def revision_of(proof_oid: str, name_oid: str) -> tuple[DraftRevision, ...]:
    """Return the revisions whose certificates carry this signature algorithm and this kind of issuer name.

    More than one where their certificates have the same bytes (-04 and -05); none for a mix or another algorithm.
    """
    return tuple(
        revision for revision in REVISIONS.values() if revision.proof_oid == proof_oid and revision.name_oid == name_oid
    )


def encode_ca_name(ca_id: TrustAnchorID, revision: DraftRevision) -> bytes:
    """Return the distinguished name of a CA, DER: one RDN with one attribute.

    Raises UsageError when the ID is longer than the revision allows.
    Spec: Merkle Tree Certificates, "Certification Authority Identifiers".
    """
    if len(ca_id.binary) > revision.id_limit:
        raise UsageError(
            Reason.BAD_TRUST_ANCHOR_ID, f"CA ID {ca_id} has more than the {revision.id_limit} bytes of {revision}"
        )
    if revision.has_relative_oid_name:
        value = encode_tlv(Tag.RELATIVE_OID, ca_id.binary)
    else:
        value = encode_utf8_string(str(ca_id))
    return encode_sequence(encode_set(encode_sequence(encode_oid(revision.name_oid), value)))


def parse_ca_name(name: bytes) -> tuple[TrustAnchorID, str]:
    """Return (CA ID, attribute OID) of a distinguished name. Raises FormatError (BAD_NAME) when it is not a CA's."""
    reader = DERReader(name, "the CA's name")
    rdns = reader.enter(Tag.SEQUENCE)
    reader.finish()
    if rdns.peek_tag() is None:
        raise FormatError(Reason.BAD_NAME, "an empty name is no CA's name")
    rdn = rdns.enter(Tag.SET)
    attribute = rdn.enter(Tag.SEQUENCE)
    oid = attribute.read_oid()
    forms = {revision.name_oid: revision for revision in REVISIONS.values()}
    if oid not in forms or not rdns.is_empty or not rdn.is_empty:
        raise FormatError(
            Reason.BAD_NAME, "a CA's name has exactly one attribute, and that one holds a trust anchor ID", oid=oid
        )
    if forms[oid].has_relative_oid_name:
        ca_id = TrustAnchorID(attribute.read(Tag.RELATIVE_OID))
    else:
        text = attribute.read(Tag.UTF8_STRING)
        try:
            ca_id = TrustAnchorID.parse(text.decode("ascii"))
        except UnicodeDecodeError:
            raise FormatError(Reason.BAD_NAME, "the CA's name holds a trust anchor ID that is not ASCII") from None
    attribute.finish()
    if len(ca_id.binary) > forms[oid].id_limit:
        raise FormatError(
            Reason.BAD_TRUST_ANCHOR_ID, f"CA ID {ca_id} has more than {forms[oid].id_limit} bytes", ca=str(ca_id)
        )
    return ca_id, oid
