"""Asking one cosigner, a witness or a mirror: every answer is bounded in size and time, and verified before it counts.

What a cosigner says about itself is believed only as far as it is signed: a size in a refusal is a hint where to start
a proof, and a checkpoint on its monitoring prefix counts when the cosigner's key signed it.

Spec: C2SP tlog-witness; tlog-mirror, "add-entries".
"""

import asyncio
import contextlib
import gzip
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

from mtc.cosign.config import Role
from mtc.cosign.requests import AddCheckpoint, SignSubtree
from mtc.cosign.upload import MirrorInfo, UploadHead
from mtc.errors import FormatError, PeerError, Reason, Rejected, SignatureError
from mtc.ids import TrustAnchorID
from mtc.merkle import Subtree
from mtc.note import (
    MAX_CHECKPOINT_SIZE,
    MAX_NOTE_BYTES,
    Checkpoint,
    Note,
    NoteSignature,
    OpenedNote,
    SignatureType,
    VerifierKey,
    parse_note,
    parse_signature_lines,
    verify_note,
    verify_subtree_answer,
)
from mtc.web.client import Answer, HTTPClient
from mtc.wire import decode_decimal

MAX_LINES_BYTES = 256 << 10
"""Largest answer with signature lines: 64 of ML-DSA-44 have about 210 kB."""
MAX_AHEAD_S = 60
"""How far the clock of a cosigner may be ahead of ours, in seconds."""

_DETAIL_CHARACTERS = 200
_LEAST_GZIP_BYTES = 1400
_MOST_AT_ONCE = 64 << 10
_OCTETS = {"Content-Type": "application/octet-stream"}
_TEXT = {"Content-Type": "text/plain; charset=utf-8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CosignerPeer:
    """A cosigner that is asked. name: for people and policies; its name in signatures is the key's.

    url, monitoring_url: submission and monitoring prefix, without a slash at the end. deadline_s: of one request.
    cosigner_id: under which its signatures stand in certificates; None for one that cosigns only checkpoints.
    """

    name: str
    role: Role
    key: VerifierKey
    url: str
    monitoring_url: str
    deadline_s: float = 10.0
    cosigner_id: TrustAnchorID | None = field(init=False)

    def __post_init__(self) -> None:
        """Find out whether it can stand in certificates."""
        found = None
        if self.key.type == SignatureType.COSIGNATURE_MLDSA44:
            with contextlib.suppress(FormatError):
                found = TrustAnchorID.parse_oid_name(self.key.name)
        object.__setattr__(self, "cosigner_id", found)


@dataclass(frozen=True, slots=True)
class StaleSize:
    """The answer to add-checkpoint that the cosigner's last checkpoint has another size: its own word, unproven."""

    tree_size: int


@dataclass(frozen=True, slots=True)
class SeenCheckpoint:
    """A checkpoint that a cosigner shows, its own signature verified; nobody else's is.

    timestamp: POSIX seconds of the newest of its signatures. note: with all lines.
    """

    checkpoint: Checkpoint
    timestamp: int
    note: Note


class CosignerClient:
    """Asks one cosigner over a client that keeps its connections.

    Requests may be repeated at will: a cosigner answers one that it has seen like one that it has not. Raises PeerError
    when there is no answer in time or a refusal (fact `status`), FormatError for an answer that is none, SignatureError
    for one in the cosigner's name that fails (facts `note`, or `lines`, with what was answered), Rejected
    (UNKNOWN_SIGNER) when it signed nothing.
    """

    def __init__(self, peer: CosignerPeer, http: HTTPClient, now: Callable[[], float]) -> None:
        """Take the cosigner, an open client, and the clock, POSIX seconds."""
        self.peer = peer
        self._http = http
        self._now = now

    async def add_checkpoint(
        self, old_size: int, proof: Sequence[bytes], note: bytes
    ) -> tuple[NoteSignature, ...] | StaleSize:
        """Show a checkpoint, with the proof from `old_size`. Returns the cosigner's lines, none from a mirror.

        note: the checkpoint, signed by the log. A `StaleSize` says from where the proof should start.
        """
        body = AddCheckpoint.encode(old_size, proof, note)
        answer = await self._post("add-checkpoint", body, _TEXT)
        if answer.status == HTTPStatus.CONFLICT:
            return StaleSize(_parse_size(answer.body))
        self._expect(answer, "add-checkpoint")
        if self.peer.role is Role.MIRROR:
            # It may answer with lines of a witness at the same operator, which is another cosigner.
            return ()
        return self._verify_lines(parse_note(note).text, answer.body)

    async def sign_subtree(self, subtree: Subtree, subtree_hash: bytes, proof: Sequence[bytes], note: bytes) -> bytes:
        """Return the raw ML-DSA-44 signature over a subtree, as certificates carry it.

        note: a checkpoint with this cosigner's own signature. proof: subtree consistency proof to its tree.
        """
        body = SignSubtree.encode(subtree, subtree_hash, proof, note)
        answer = await self._post("sign-subtree", body, _TEXT)
        self._expect(answer, "sign-subtree")
        origin = Checkpoint.parse(parse_note(note).text).origin
        try:
            return verify_subtree_answer(answer.body, self.peer.key, origin, subtree, subtree_hash)
        except SignatureError as error:
            lines = answer.body.decode("utf-8", "replace")
            raise SignatureError(error.reason, self._named(error.message), lines=lines) from None

    async def send_entries(
        self, head: UploadHead, packages: Sequence[bytes], checkpoint: Checkpoint
    ) -> tuple[NoteSignature, ...] | MirrorInfo:
        """Send one upload: the packages of `head`, or as many of the first as fit into a request.

        checkpoint: of `head.end` entries. Returns the mirror's lines over it once it has everything; before that where
        the mirror stands, which nothing proves. See `mtc.cosign.service.uploading` for the whole of it.
        """
        body = b"".join((head.encode(), *packages))
        headers = _OCTETS
        if len(body) >= _LEAST_GZIP_BYTES:
            body, headers = await _compress(body), {**_OCTETS, "Content-Encoding": "gzip"}
        answer = await self._post("add-entries", body, headers)
        if answer.status in (HTTPStatus.CONFLICT, HTTPStatus.ACCEPTED):
            return MirrorInfo.parse(answer.body)
        self._expect(answer, "add-entries")
        return self._verify_lines(checkpoint.encode(), answer.body)

    async def fetch_checkpoint(self, origin: str) -> SeenCheckpoint | None:
        """Return the checkpoint that the cosigner shows for a log; None when it has none, which nothing proves.

        Its time may be any: who looks at it judges that.
        """
        name = hashlib.sha256(origin.encode()).hexdigest()
        url = f"{self.peer.monitoring_url}/{name}/checkpoint"
        answer = await self._http.request("GET", url, most=MAX_NOTE_BYTES, deadline_s=self.peer.deadline_s)
        if answer.status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
            return None
        self._expect(answer, "the question for its checkpoint")
        note = parse_note(answer.body)
        checkpoint = Checkpoint.parse(note.text)
        if checkpoint.origin != origin:
            raise FormatError(
                Reason.BAD_CHECKPOINT, self._named(f"it shows a checkpoint of {checkpoint.origin[:120]!r} for {origin}")
            )
        opened = self._verify(note)
        return SeenCheckpoint(checkpoint, max(item.timestamp or 0 for item in opened.verified), note)

    async def _post(self, endpoint: str, body: bytes, headers: dict[str, str]) -> Answer:
        """Send a request to the submission prefix."""
        return await self._http.request(
            "POST",
            f"{self.peer.url}/{endpoint}",
            body=body,
            headers=headers,
            most=MAX_LINES_BYTES,
            deadline_s=self.peer.deadline_s,
            is_idempotent=True,
        )

    def _expect(self, answer: Answer, what: str) -> None:
        """Raise PeerError for any status but 200, with the beginning of what the cosigner says."""
        if answer.status != HTTPStatus.OK:
            text = answer.body[: 4 * _DETAIL_CHARACTERS].decode("utf-8", "replace")
            said = " ".join("".join(char if char.isprintable() else " " for char in text).split())
            detail = f": {said[:_DETAIL_CHARACTERS]}" if said else ""
            raise PeerError(
                Reason.PEER, self._named(f"it answered {answer.status} to {what}{detail}"), status=answer.status
            )

    def _verify_lines(self, text: bytes, body: bytes) -> tuple[NoteSignature, ...]:
        """Return the cosigner's own lines, all verified and with a time, of an answer to a checkpoint."""
        note = Note(text, parse_signature_lines(body))
        opened = self._verify(note)
        for item in opened.verified:
            ahead = (item.timestamp or 0) - self._now()
            if ahead > MAX_AHEAD_S:
                raise PeerError(
                    Reason.CLOCK,
                    self._named(f"it signed {ahead:.0f} s after what this clock says; one of the two is wrong"),
                    timestamp=item.timestamp,
                )
        return tuple(item.signature for item in opened.verified)

    def _verify(self, note: Note) -> OpenedNote:
        """Verify the cosigner's lines under a checkpoint, and that each has a time."""
        try:
            opened = verify_note(note, [self.peer.key])
        except SignatureError as error:
            text = note.encode().decode("utf-8", "replace")
            raise SignatureError(error.reason, self._named(error.message), note=text) from None
        except Rejected as error:
            raise Rejected(error.reason, self._named(f"it did not sign with {self.peer.key}")) from None
        for item in opened.verified:
            if not item.timestamp:
                raise FormatError(Reason.BAD_TIME, self._named("it cosigned a checkpoint without a time"))
        return opened

    def _named(self, text: str) -> str:
        """Put the cosigner's name in front."""
        return f"{self.peer.role} {self.peer.name}: {text}"


async def _compress(body: bytes) -> bytes:
    """Return gzip of the fastest kind; of much in a thread, so that the event loop goes on."""
    if len(body) < _MOST_AT_ONCE:
        return gzip.compress(body, 1, mtime=0)
    return await asyncio.to_thread(gzip.compress, body, 1, mtime=0)


def _parse_size(body: bytes) -> int:
    """Read the body of a 409 to add-checkpoint: a size and a newline. Raises FormatError."""
    text = body[:64].decode("ascii", "replace")
    if len(body) > 32 or not text.endswith("\n"):
        raise FormatError(Reason.BAD_NUMBER, f"a stale size is a decimal and a newline, not {text[:40]!r}")
    return decode_decimal(text[:-1], MAX_CHECKPOINT_SIZE, "the cosigner's last size")
