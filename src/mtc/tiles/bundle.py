"""Entry bundles: the entries whose hashes one level-0 tile holds.

Spec: C2SP tlog-tiles, "Log entries".
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mtc.errors import FormatError, Reason, UsageError
from mtc.tiles.tile import TILE_HEIGHT, TILE_WIDTH, EntriesTile
from mtc.wire import Reader, Writer

MAX_ENTRY_BYTES = 2**16 - 1
"""Largest entry: its length has two bytes."""
MAX_BUNDLE_BYTES = TILE_WIDTH * (2 + MAX_ENTRY_BYTES)
"""Largest bundle, 256 bytes more than 16 MiB; a client needs no larger buffer."""


@dataclass(frozen=True, slots=True)
class EntryBundle:
    """1 to 256 consecutive entries, each of at most `MAX_ENTRY_BYTES`. Raises FormatError (BAD_TILE, TOO_LARGE)."""

    entries: tuple[bytes, ...]

    def __post_init__(self) -> None:
        """Refuse what cannot be encoded."""
        if not 1 <= len(self.entries) <= TILE_WIDTH:
            raise FormatError(
                Reason.BAD_TILE,
                f"an entry bundle holds 1 to {TILE_WIDTH} entries, not {len(self.entries)}",
                got=len(self.entries),
            )
        for position, entry in enumerate(self.entries):
            if len(entry) > MAX_ENTRY_BYTES:
                raise FormatError(
                    Reason.TOO_LARGE,
                    f"entry {position} of the bundle has {len(entry)} bytes, allowed are {MAX_ENTRY_BYTES}",
                    position=position,
                    got=len(entry),
                )

    @staticmethod
    def parse(data: bytes, width: int | None = None) -> "EntryBundle":
        """Read a bundle, which must fill `data` and hold `width` entries if a width is given.

        Nothing is proven by it: compare the entries' hashes with a proven level-0 tile. Raises FormatError.
        """
        if len(data) > MAX_BUNDLE_BYTES:
            raise FormatError(
                Reason.TOO_LARGE,
                f"an entry bundle has at most {MAX_BUNDLE_BYTES} bytes, not {len(data)}",
                got=len(data),
            )
        reader = Reader(data, "the entry bundle")
        entries: list[bytes] = []
        while reader.remaining and len(entries) < TILE_WIDTH:
            entries.append(reader.read_vector(2))
        reader.finish()
        if width is not None and len(entries) != width:
            raise FormatError(
                Reason.BAD_TILE,
                f"the entry bundle holds {len(entries)} entries where {width} should be",
                expected=width,
                got=len(entries),
            )
        return EntryBundle(tuple(entries))

    def encode(self) -> bytes:
        """Return the entries, each behind its length in two bytes."""
        writer = Writer()
        for entry in self.entries:
            writer.vector(entry, 2)
        return writer.encode()


def build_bundles(tree_size: int, partial: bytes, entries: Sequence[bytes]) -> dict[EntriesTile, bytes]:
    """Return the bundles that must be written when `entries` are appended to a log of `tree_size` entries.

    partial: the last bundle as it stands, when `tree_size` is no multiple of 256; empty otherwise. The new last bundle
    starts with it. Raises UsageError when it does not hold the entries it must, FormatError for an entry too large.
    """
    held = tree_size % TILE_WIDTH
    if (len(EntryBundle.parse(partial).entries) if partial else 0) != held:
        raise UsageError(
            Reason.BAD_TILE,
            f"the last bundle of a log of {tree_size} entries holds {held} of them",
            tree_size=tree_size,
        )
    bundles = {}
    at = 0
    while at < len(entries):
        chunk = tuple(entries[at : at + TILE_WIDTH - held])
        place = EntriesTile(tree_size + at >> TILE_HEIGHT, held + len(chunk))
        bundles[place] = partial + EntryBundle(chunk).encode()
        at += len(chunk)
        partial, held = b"", 0
    return bundles
