"""What is published of a log, compared with its register, and hashes from its tiles."""

from collections.abc import Mapping, Sequence

from mtc.errors import ConflictError, FormatError, Reason
from mtc.log.formats import LogRecord, StagedRound, public_prefix
from mtc.log.machine import LogState, plan_recovery, recovery_keys
from mtc.merkle import Hasher, Subtree, subtree_hash
from mtc.note import Checkpoint, parse_note
from mtc.store import ObjectStore
from mtc.tiles import TILE_WIDTH, EntryBundle, NodeRecorder, bundles_for_growth, tiles_for_nodes, verify_tiles


async def fetch_state(
    hasher: Hasher, store: ObjectStore, record: LogRecord, staged: bytes | None
) -> tuple[LogState, StagedRound | None]:
    """Return the state of a record and its round if that is still staged; see `plan_recovery`."""
    keys = recovery_keys(record)
    found = zip(keys, await store.fetch(keys), strict=True)
    return plan_recovery(hasher, record, staged, {key: content for key, content in found if content is not None})


async def is_published(hasher: Hasher, store: ObjectStore, record: LogRecord) -> bool:
    """Tell whether the record's tree is published. Raises ConflictError when it is contradicted, or something newer is.

    A checkpoint behind the register is normal while a round is unfinished: it is about to be published. Otherwise a
    sequencer that stood still between its last look at the register and its write has put an older one back, or the
    file is lost.
    """
    (data,) = await store.fetch([f"{public_prefix(record.log_number)}checkpoint"])
    if data is None:
        return False
    try:
        checkpoint = Checkpoint.parse(parse_note(data).text, hasher.size)
    except FormatError as error:
        raise storage_refused(record, f"the checkpoint cannot be read: {error.message}") from None
    size = checkpoint.tree_size
    if size > record.tree_size:
        raise storage_refused(record, f"a checkpoint of {size} entries is published, so the register is too old")
    if size == record.tree_size and checkpoint.root_hash != record.root_hash:
        raise storage_refused(record, "a checkpoint with another root hash is published")
    return size == record.tree_size


async def check_never_signed(hasher: Hasher, store: ObjectStore, before: LogRecord, round_: StagedRound) -> None:
    """Raise ConflictError when anything of a round is published that its key says it has never signed.

    Such a round is published after it was signed. before: the record that the round began with.
    """
    await is_published(hasher, store, before)
    keys = sorted(round_.objects)
    found = [key for key, data in zip(keys, await store.fetch(keys), strict=True) if data is not None]
    if found:
        raise storage_refused(
            before,
            f"{found[0]} of the round after it is published, which the signer does not know: the signer runs on an "
            "older copy of its record",
        )


async def fetch_hash(
    hasher: Hasher, store: ObjectStore, record: LogRecord, subtree: Subtree, staged: Mapping[str, bytes] | None = None
) -> bytes:
    """Return the hash of a subtree of the record's tree, from tiles proven against its root.

    staged: by key, objects of a decided round that may not be published yet.
    """
    recorder = NodeRecorder(hasher)
    subtree_hash(hasher, recorder, subtree)
    tiles = tiles_for_nodes(record.tree_size, recorder.nodes)
    keys = [f"{public_prefix(record.log_number)}{tile.path}" for tile in tiles]
    contents = [(staged or {}).get(key, content) for key, content in zip(keys, await store.fetch(keys), strict=True)]
    found = {tile: content for tile, content in zip(tiles, contents, strict=True) if content is not None}
    proven = verify_tiles(hasher, record.tree_size, record.root_hash, found)
    return subtree_hash(hasher, proven, subtree)


def entries_of(round_: StagedRound, log_number: int) -> tuple[bytes, ...]:
    """Return the encoded entries that a staged round appends."""
    places = bundles_for_growth(round_.old_size, round_.new_size)
    entries: Sequence[bytes] = [
        entry
        for place in places
        for entry in EntryBundle.parse(round_.objects[f"{public_prefix(log_number)}{place.path}"], place.width).entries
    ]
    return tuple(entries[round_.old_size % TILE_WIDTH :] if places else ())


def storage_refused(record: LogRecord, what: str) -> ConflictError:
    """Make the error for stored objects that do not fit the register."""
    return ConflictError(
        Reason.CONFLICT,
        f"log {record.log_number} has {record.tree_size} entries in its register, but {what}. Nothing is signed; bring "
        "storage and register of the same moment back, or follow this log with the next one",
        log=record.log_number,
        tree_size=record.tree_size,
    )
