"""The lines of the signer's journal: one JSON object for each decision, written before anything is signed.

A line holds all that is needed to compute the signed messages again, and nothing twice: the messages over a tree follow
from the cosigner, the log, the sizes, the hashes and the timestamp; a revocation list stands there whole, compressed.

    {"time":"…","kind":"tree","cosigner":"32473.1","log":1,"size":5,"root":"…","timestamp":1795262400,
     "subtrees":[[0,4,"…"],[4,5,"…"]]}
    {"time":"…","kind":"crl","number":7,"list":"plain","sha256":"…","tbs":"…"}

`subtrees` is empty where only the checkpoint was signed. A line that a crash cut off was never followed by a signature;
the next start ends it with `TORN`, and readers pass over it.
"""

import base64
import binascii
import hashlib
import json
import zlib
from dataclasses import dataclass
from typing import Any

from mtc.errors import Error, FormatError, Reason
from mtc.ids import TrustAnchorID, log_id
from mtc.merkle import MAX_TREE_SIZE, Subtree
from mtc.note import CosignedMessage
from mtc.signer.crl import MAX_TBS_BYTES, CRLKind

MAX_LINE_BYTES = 32 * 1024 * 1024
"""Longest line: a revocation list of the largest size that is signed, in base64."""
TORN = b"~torn\n"
"""What the next start writes behind a line that a crash cut off; no whole line ends so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeLine:
    """A tree that was about to be signed. time: of the signer's clock, RFC 3339.

    root_hash: of [0, tree_size). timestamp: POSIX seconds of the checkpoint. subtrees: signed with it, with hashes.
    """

    time: str
    cosigner_id: TrustAnchorID
    log_number: int
    tree_size: int
    root_hash: bytes
    timestamp: int
    subtrees: tuple[tuple[Subtree, bytes], ...]

    @property
    def messages(self) -> tuple[CosignedMessage, ...]:
        """What was about to be signed, the checkpoint first."""
        log = log_id(self.cosigner_id, self.log_number)
        tree = Subtree(0, self.tree_size)
        return (
            CosignedMessage.for_subtree(self.cosigner_id, log, tree, self.root_hash, self.timestamp),
            *(CosignedMessage.for_subtree(self.cosigner_id, log, *item) for item in self.subtrees),
        )

    def encode(self) -> bytes:
        """Return the line, with its end."""
        return _encode(
            time=self.time,
            kind="tree",
            cosigner=str(self.cosigner_id),
            log=self.log_number,
            size=self.tree_size,
            root=self.root_hash.hex(),
            timestamp=self.timestamp,
            subtrees=[[subtree.start, subtree.end, value.hex()] for subtree, value in self.subtrees],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CRLLine:
    """A revocation list that was about to be signed. tbs: its TBSCertList, which is the message."""

    time: str
    kind: CRLKind
    number: int
    tbs: bytes

    def encode(self) -> bytes:
        """Return the line, with its end."""
        return _encode(
            time=self.time,
            kind="crl",
            number=self.number,
            list=str(self.kind),
            sha256=hashlib.sha256(self.tbs).hexdigest(),
            tbs=base64.b64encode(zlib.compress(self.tbs)).decode(),
        )


JournalLine = TreeLine | CRLLine


def _encode(**fields: object) -> bytes:
    """Return one line of JSON without spaces."""
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"


def parse_journal_line(line: bytes) -> JournalLine:
    """Read one line without its end, strictly: written again, it is the same bytes. Raises FormatError."""
    try:
        fields: dict[str, Any] = dict(json.loads(line))
        parsed = _parse_tree(fields) if fields["kind"] == "tree" else _parse_crl(fields)
    except (ValueError, TypeError, KeyError, RecursionError, zlib.error, binascii.Error, Error):
        parsed = None
    if parsed is None or parsed.encode() != line + b"\n":
        raise FormatError(
            Reason.BAD_DOCUMENT,
            f"this is no line of a signer's journal, or not as a signer writes it: {line[:80]!r}",
        )
    return parsed


def _parse_tree(fields: dict[str, Any]) -> TreeLine:
    """Read the fields of a tree. Raises various errors."""
    numbers = [
        fields["log"],
        fields["size"],
        fields["timestamp"],
        *(n for item in fields["subtrees"] for n in item[:2]),
    ]
    if type(fields["time"]) is not str or any(type(number) is not int for number in numbers):
        raise FormatError(Reason.BAD_DOCUMENT, "a field of the line is of the wrong type")
    line = TreeLine(
        time=fields["time"],
        cosigner_id=TrustAnchorID.parse(fields["cosigner"]),
        log_number=fields["log"],
        tree_size=fields["size"],
        root_hash=bytes.fromhex(fields["root"]),
        timestamp=fields["timestamp"],
        subtrees=tuple((Subtree(start, end), bytes.fromhex(value)) for start, end, value in fields["subtrees"]),
    )
    if not 0 <= line.tree_size <= MAX_TREE_SIZE or any(subtree.end > line.tree_size for subtree, _ in line.subtrees):
        raise FormatError(Reason.BAD_NUMBER, "the line has a size or a subtree that no log has")
    # Builds each message once: what cannot be signed cannot have been journalled.
    assert line.messages
    return line


def _parse_crl(fields: dict[str, Any]) -> CRLLine:
    """Read the fields of a revocation list. Raises various errors."""
    unpacker = zlib.decompressobj()
    tbs = unpacker.decompress(base64.b64decode(fields["tbs"], validate=True), MAX_TBS_BYTES + 1)
    if type(fields["time"]) is not str or type(fields["number"]) is not int or len(tbs) > MAX_TBS_BYTES:
        raise FormatError(Reason.BAD_DOCUMENT, "a field of the line is of the wrong type")
    return CRLLine(time=fields["time"], kind=CRLKind(fields["list"]), number=fields["number"], tbs=tbs)
