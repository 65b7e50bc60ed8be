"""Certificate property lists, and certificate chains that carry them.

Spec: TLS Trust Anchor Identifiers, "Certificate Properties" and "Media Type for Certificate Chains with Properties".
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mtc.errors import FormatError, Reason, UsageError
from mtc.ids import DEFAULT_REVISION, DraftRevision, TrustAnchorID, TrustAnchorPattern, TrustAnchorRange
from mtc.wire import PEMBlock, Reader, Writer, encode_pem, parse_pem

MAX_PROPERTY_LIST_BYTES = 65537
"""Largest property list: the vector's own bound and its length."""
MAX_CHAIN_CERTIFICATES = 32
"""Most certificates read in one chain."""

_TRUST_ANCHOR_ID = 0
_GROUPS = 1
_NEGOTIATION = 2


@dataclass(frozen=True, slots=True)
class PropertyList:
    """What a server should know about a certification path. Unknown properties are ignored when read.

    trust_anchor_id: the path's own ID. groups: patterns (from -05 of the trust anchor IDs draft) or ranges (before) of
    group IDs that the path belongs to. needs_negotiation: never to be sent to a client that did not ask for it.
    """

    trust_anchor_id: TrustAnchorID | None = None
    groups: tuple[TrustAnchorPattern, ...] | tuple[TrustAnchorRange, ...] = ()
    needs_negotiation: bool = False

    @staticmethod
    def parse(data: bytes, *, groups_are_patterns: bool | None = None) -> "PropertyList":
        """Read a list, which must fill `data`. Raises FormatError.

        groups_are_patterns: the form of group properties, by draft revision; None tries patterns and then ranges,
        because the two share a type and are told apart only by what parses.
        """
        if len(data) > MAX_PROPERTY_LIST_BYTES:
            raise FormatError(Reason.TOO_LARGE, f"a property list of {len(data)} bytes is larger than its vector")
        outer = Reader(data, "the certificate property list")
        reader = Reader(outer.read_vector(2), "the certificate property list")
        outer.finish()
        anchor: TrustAnchorID | None = None
        groups: tuple[TrustAnchorPattern, ...] | tuple[TrustAnchorRange, ...] = ()
        negotiation = False
        last = -1
        while reader.remaining:
            kind, value = reader.read_uint(2), reader.read_vector(2)
            if kind <= last:
                raise FormatError(
                    Reason.DUPLICATE if kind == last else Reason.BAD_ORDER,
                    f"property type {kind} stands behind {last}; types must strictly ascend",
                )
            last = kind
            if kind == _TRUST_ANCHOR_ID:
                anchor = TrustAnchorID(value)
            elif kind == _GROUPS:
                groups = _parse_groups(value, groups_are_patterns=groups_are_patterns)
            elif kind == _NEGOTIATION:
                if value:
                    raise FormatError(Reason.BAD_PROPERTY, "the trust anchor negotiation property is empty")
                negotiation = True
        return PropertyList(anchor, groups, negotiation)

    def encode(self) -> bytes:
        """Return the list with its 2-byte length, properties in order."""
        writer = Writer()
        if self.trust_anchor_id is not None:
            writer.uint(_TRUST_ANCHOR_ID, 2).vector(self.trust_anchor_id.binary, 2)
        if self.groups:
            groups = Writer()
            for group in self.groups:
                if isinstance(group, TrustAnchorPattern):
                    groups.vector(group.encode(), 1)
                else:
                    groups.bytes(group.encode())
            writer.uint(_GROUPS, 2).vector(Writer().vector(groups.encode(), 2).encode(), 2)
        if self.needs_negotiation:
            writer.uint(_NEGOTIATION, 2).vector(b"", 2)
        return Writer().vector(writer.encode(), 2).encode()

    def is_selected_by(self, requested: Sequence[TrustAnchorID]) -> bool:
        """Tell whether one of the trust anchor IDs that a client sent names this path or a group that it belongs to."""
        return any(
            anchor == self.trust_anchor_id or any(group.contains(anchor) for group in self.groups)
            for anchor in requested
        )


def _parse_groups(
    value: bytes, *, groups_are_patterns: bool | None
) -> tuple[TrustAnchorPattern, ...] | tuple[TrustAnchorRange, ...]:
    """Return the groups of a property in the form asked for, or in the one that parses."""
    if groups_are_patterns is None:
        try:
            return _parse_groups(value, groups_are_patterns=True)
        except FormatError as error:
            try:
                return _parse_groups(value, groups_are_patterns=False)
            except FormatError:
                raise error from None
    outer = Reader(value, "the trust anchor groups property")
    reader = Reader(outer.read_vector(2, least=1), "the trust anchor groups property")
    outer.finish()
    patterns: list[TrustAnchorPattern] = []
    ranges: list[TrustAnchorRange] = []
    while reader.remaining:
        if groups_are_patterns:
            patterns.append(TrustAnchorPattern.parse_binary(reader.read_vector(1, least=1)))
        else:
            ranges.append(TrustAnchorRange.read(reader))
    return tuple(patterns) if groups_are_patterns else tuple(ranges)


@dataclass(frozen=True, slots=True)
class CertificateChain:
    """One certification path: its properties (None when the file has none), end-entity certificate first.

    certificates: DER, unverified, trust anchor omitted.
    """

    properties: PropertyList | None
    certificates: tuple[bytes, ...]

    def encode(self) -> bytes:
        """Return the path as strict PEM. Raises UsageError without a certificate."""
        if not self.certificates:
            raise UsageError(Reason.USAGE, "a certificate chain holds at least one certificate")
        blocks = [PEMBlock("CERTIFICATE", der) for der in self.certificates]
        if self.properties is not None:
            blocks.insert(0, PEMBlock("CERTIFICATE PROPERTIES", self.properties.encode()))
        return encode_pem(blocks)


def parse_certificate_chains(
    text: bytes, revision: DraftRevision | None = DEFAULT_REVISION, *, strict: bool = True
) -> list[CertificateChain]:
    """Return the paths of a PEM file, each starting with its properties; a file without any properties holds one path.

    revision: whose form of group properties is read; None accepts both. strict: nothing may stand outside the blocks.
    Raises FormatError.
    """
    patterns = None if revision is None else revision.groups_are_patterns
    chains: list[CertificateChain] = []
    properties: PropertyList | None = None
    certificates: list[bytes] = []
    is_open = False
    for label, data in parse_pem(text, strict=strict):
        if label == "CERTIFICATE PROPERTIES":
            if is_open and properties is None:
                raise FormatError(Reason.BAD_PEM, "where one path has properties, each path starts with its own")
            if is_open:
                chains.append(_finish_chain(properties, certificates))
            properties, certificates, is_open = PropertyList.parse(data, groups_are_patterns=patterns), [], True
        elif label == "CERTIFICATE":
            certificates.append(data)
            is_open = True
        else:
            raise FormatError(Reason.BAD_PEM, f"a certificate chain has no {label} blocks")
    if is_open:
        chains.append(_finish_chain(properties, certificates))
    return chains


def _finish_chain(properties: PropertyList | None, certificates: list[bytes]) -> CertificateChain:
    """Make the chain from its blocks. Raises FormatError when it has no certificate, or too many."""
    if not 0 < len(certificates) <= MAX_CHAIN_CERTIFICATES:
        raise FormatError(
            Reason.BAD_PEM,
            f"a certificate chain holds 1 to {MAX_CHAIN_CERTIFICATES} certificates, this one {len(certificates)}",
        )
    return CertificateChain(properties, tuple(certificates))
