"""Rounds that are owed: the key has signed their tree, so their entries are issued, and their quorum has not come.

Such a round is kept as an object of its own until its cosignatures are complete, or for good when its log is given up:
its entries must stay listed, evidenced and revocable although nobody has a certificate for them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mtc.cert import SubtreeSignature
from mtc.errors import FormatError, Reason
from mtc.log.formats import owed_prefix
from mtc.log.ledger.formats import SIZE_DIGITS, SignedRound
from mtc.merkle import Subtree
from mtc.wire import Reader, Writer

MAX_WHY_BYTES = 4096
"""Longest explanation that is kept; longer ones are cut off."""

_VERSION = 1


@dataclass(frozen=True, slots=True)
class OwedRound:
    """Entries [start, end) of a log whose tree is signed and whose quorum has not come, for listing.

    signed_at: POSIX seconds of the checkpoint that was signed. why: who is missing, for people. is_abandoned: the log
    was given up, and nobody asks the cosigners any more.
    """

    log_number: int
    start: int
    end: int
    signed_at: int
    why: str
    is_abandoned: bool = False


@dataclass(frozen=True, slots=True)
class KeptRound:
    """What is stored of an owed round, enough to complete it.

    signed: with the signatures so far; with its request keys only where no ledger holds them. subtrees: to be
    cosigned, with their hashes. why: who was missing when it was kept.
    """

    signed: SignedRound
    subtrees: tuple[tuple[Subtree, bytes], ...]
    why: str

    def encode(self) -> bytes:
        """Return the object's bytes, without what protects it."""
        # Cut between characters.
        why = self.why.encode(errors="backslashreplace")[:MAX_WHY_BYTES].decode(errors="ignore").encode()
        writer = Writer().uint(_VERSION, 1).vector(self.signed.encode(), 4).vector(why, 2)
        writer.uint(len(self.subtrees), 1)
        for subtree, value in self.subtrees:
            writer.uint(subtree.start, 6).uint(subtree.end, 6).vector(value, 1)
        return writer.encode()

    @staticmethod
    def parse(data: bytes) -> "KeptRound":
        """Read a round, which must fill `data`. Raises FormatError."""
        reader = Reader(data, "the owed round")
        if (version := reader.read_uint(1)) != _VERSION:
            raise FormatError(
                Reason.BAD_VERSION,
                f"the owed round has version {version}, this program knows {_VERSION}; use the program that wrote it",
            )
        signed, why = SignedRound.parse(reader.read_vector(4)), reader.read_vector(2, most=MAX_WHY_BYTES)
        subtrees = tuple(
            (Subtree(reader.read_uint(6), reader.read_uint(6)), reader.read_vector(1))
            for _ in range(reader.read_uint(1))
        )
        reader.finish()
        try:
            return KeptRound(signed, subtrees, why.decode())
        except UnicodeDecodeError:
            raise FormatError(Reason.BAD_TEXT, "the owed round has an explanation that is not UTF-8") from None

    @staticmethod
    def key_of(log_number: int, new_size: int) -> str:
        """Return the key under which the owed round that led to `new_size` entries is kept."""
        return f"{owed_prefix(log_number)}{new_size:0{SIZE_DIGITS}d}"


def complete_signatures(
    kept: KeptRound, answer: Mapping[Subtree, tuple[SubtreeSignature, ...]]
) -> Mapping[Subtree, tuple[SubtreeSignature, ...]] | None:
    """Return an owed round's signatures with those of an answer, the CA's own first; None while any is missing.

    answer: by subtree, see `CosignatureSource.cosign`; it may hold the CA's own signatures again, or not. A subtree for
    which it adds no other cosigner's is missing.
    """
    complete = {}
    for subtree, _ in kept.subtrees:
        known, more = kept.signed.signatures.get(subtree, ()), answer.get(subtree, ())
        own = {item.cosigner_id for item in known[:1]}
        if all(item.cosigner_id in own for item in more):
            return None
        merged = {item.cosigner_id: item for item in (*known, *more)} | {item.cosigner_id: item for item in known}
        complete[subtree] = tuple(merged.values())
    return complete
