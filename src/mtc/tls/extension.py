"""The `trust_anchors` extension: with what a peer could verify us, and what we could send it.

Spec: TLS Trust Anchor Identifiers, "The trust_anchors Extension"; RFC 8446, "Extensions".
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from mtc.errors import FormatError, Reason
from mtc.ids import TrustAnchorID
from mtc.wire import Reader, Writer

CODE_POINT = 0xCA34
"""ExtensionType of `trust_anchors`. None is assigned yet; this is what BoringSSL and Chromium use."""
MAX_ANCHORS = 4096
"""Most IDs read in one list: eight for each of 500 CAs. Each is compared with the paths of a server."""


@dataclass(frozen=True, slots=True)
class TrustAnchorsExtension:
    """A list of trust anchor IDs as it stands in ClientHello, CertificateRequest and EncryptedExtensions.

    anchors: in the order of the wire. In a request the order says nothing; in EncryptedExtensions the server's first
    choice comes first. In a Certificate message the extension is empty instead and says that the path was selected by
    the list: `check_acknowledgement`.
    """

    anchors: tuple[TrustAnchorID, ...] = ()

    @staticmethod
    def parse_request(data: bytes) -> "TrustAnchorsExtension":
        """Read what a client or a CertificateRequest asks for; it may be empty. Raises FormatError.

        Entries that are no trust anchor ID (not minimal, cut off inside a component) are left out: a peer may send
        anything that we do not know in order to keep us tolerant. An entry without bytes is malformed.
        """
        outer = Reader(data, "the trust_anchors extension")
        reader = Reader(outer.read_vector(2), "the trust_anchors extension")
        outer.finish()
        anchors: list[TrustAnchorID] = []
        count = 0
        while reader.remaining:
            count += 1
            if count > MAX_ANCHORS:
                raise FormatError(Reason.TOO_LARGE, f"the trust_anchors extension has more than {MAX_ANCHORS} IDs")
            anchor = _known_form(reader.read_vector(1, least=1))
            if anchor is not None:
                anchors.append(anchor)
        return TrustAnchorsExtension(tuple(anchors))

    @staticmethod
    def parse_available(data: bytes) -> "TrustAnchorsExtension":
        """Read what a server says in EncryptedExtensions that it has; at least one entry. Raises FormatError."""
        if data == b"\x00\x00":
            raise FormatError(
                Reason.BAD_LENGTH, "a server that has no trust anchors to offer sends no trust_anchors extension"
            )
        return TrustAnchorsExtension.parse_request(data)

    def encode(self) -> bytes:
        """Return the body of the extension. Raises UsageError when the list is longer than 65,535 bytes."""
        body = Writer()
        for anchor in self.anchors:
            body.vector(anchor.binary, 1)
        return Writer().vector(body.encode(), 2).encode()

    def cut_to_fit(self) -> "TrustAnchorsExtension":
        """Return the longest beginning of the list that a peer like us reads: 65,535 bytes and `MAX_ANCHORS` IDs."""
        room = 0xFFFF
        kept: list[TrustAnchorID] = []
        for anchor in self.anchors[:MAX_ANCHORS]:
            room -= 1 + len(anchor.binary)
            if room < 0:
                break
            kept.append(anchor)
        return TrustAnchorsExtension(tuple(kept))


def check_acknowledgement(data: bytes) -> None:
    """Check the extension of a Certificate message, which has no body. Raises FormatError (TRAILING_DATA)."""
    if data:
        raise FormatError(
            Reason.TRAILING_DATA,
            f"the trust_anchors extension of a Certificate message is empty, this one has {len(data)} bytes",
            got=len(data),
        )


def unique_anchors(anchors: Iterable[TrustAnchorID]) -> tuple[TrustAnchorID, ...]:
    """Return the IDs in their order, each once."""
    return tuple(dict.fromkeys(anchors))


@lru_cache(maxsize=4096)
def _known_form(binary: bytes) -> TrustAnchorID | None:
    """Return the ID, or None when the bytes are none. Clients send the same ones again and again."""
    try:
        return TrustAnchorID(binary)
    except FormatError:
        return None
