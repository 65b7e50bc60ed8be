"""Tiles, bundles and checkpoints as a tiled log or a mirror serves them, fetched through a `Load` and checked for form.

Spec: C2SP tlog-tiles; signed-note; tlog-checkpoint.
"""

from collections.abc import Sequence

from mtc.cli.hammer.load import Load
from mtc.errors import FormatError, Reason, Rejected
from mtc.note import MAX_NOTE_BYTES, Checkpoint, Note, OpenedNote, VerifierKey, parse_note, verify_note
from mtc.tiles import MAX_BUNDLE_BYTES, TILE_WIDTH, EntriesTile, EntryBundle, Tile
from mtc.web.client import Answer

_HASH_BYTES = 32
MAX_TILE_BYTES = TILE_WIDTH * _HASH_BYTES
MAX_CHECKPOINT_BYTES = MAX_NOTE_BYTES


def open_checkpoint(data: bytes, keys: Sequence[VerifierKey], origin: str | None) -> tuple[Checkpoint, OpenedNote]:
    """Return a checkpoint that all of the keys signed. origin: what it must be, None for any.

    Raises FormatError, SignatureError, Rejected (UNKNOWN_SIGNER, UNKNOWN_ORIGIN).
    """
    return check_note(parse_note(data), keys, origin)


def check_note(note: Note, keys: Sequence[VerifierKey], origin: str | None) -> tuple[Checkpoint, OpenedNote]:
    """Return what a note says if all of the keys signed it; see `open_checkpoint`."""
    opened = verify_note(note, keys)
    for key in keys:
        if not opened.is_signed_by(key):
            raise Rejected(Reason.UNKNOWN_SIGNER, f"the checkpoint has no signature of {key}", key=str(key))
    checkpoint = Checkpoint.parse(opened.text)
    if origin is not None and checkpoint.origin != origin:
        raise Rejected(
            Reason.UNKNOWN_ORIGIN, f"the checkpoint is of {checkpoint.origin[:120]!r}, not of {origin[:120]!r}"
        )
    return checkpoint, opened


async def fetch_place(load: Load, prefix: str, place: Tile | EntriesTile) -> bytes | None:
    """Return a tile or a bundle with as many hashes or entries as `place` has, None when it went wrong.

    A partial one may be gone when the full one is there; then its beginning is taken from the full one.
    """
    if place.is_full:
        return await _fetch(load, prefix, place, place.width, (200,))
    content = await _fetch(load, prefix, place, place.width, (200, 404))
    # No bytes stand for 404: no place is empty.
    return content if content != b"" else await _fetch(load, prefix, place.full, place.width, (200,))


async def _fetch(
    load: Load, prefix: str, place: Tile | EntriesTile, width: int, statuses: Sequence[int]
) -> bytes | None:
    """Return the first `width` hashes or entries of what stands in a place; no bytes for 404."""
    is_tile = isinstance(place, Tile)

    def check(answer: Answer) -> bytes:
        if answer.status == 404:
            return b""
        if not is_tile:
            bundle = EntryBundle.parse(answer.body, place.width)
            return answer.body if width == place.width else EntryBundle(bundle.entries[:width]).encode()
        if len(answer.body) != place.width * _HASH_BYTES:
            raise FormatError(Reason.BAD_TILE, f"{place} has {len(answer.body)} bytes, not {place.width * _HASH_BYTES}")
        return answer.body[: width * _HASH_BYTES]

    most = MAX_TILE_BYTES if is_tile else MAX_BUNDLE_BYTES
    kind = "tile" if is_tile else "bundle"
    content = await load.call(kind, f"{prefix}/{place.path}", check, statuses=statuses, most=most)
    if content:
        load.figures.amounts["tiles" if is_tile else "bundles"] += 1
        load.figures.amounts["hashes" if is_tile else "entries"] += width
    return content
