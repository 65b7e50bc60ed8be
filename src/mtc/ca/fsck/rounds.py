"""The history of a log: every round that the ledger keeps, with its checkpoint and cosignatures, against the final log.

Rounds are read a few at a time, so that memory stays small; signatures are verified in threads.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from mtc.ca.fsck.context import FolderTask
from mtc.ca.fsck.records import Settled
from mtc.cert import SubtreeSignature
from mtc.errors import Error
from mtc.ids import log_id
from mtc.log import LogRecord, SignedRound
from mtc.log.formats import StagedRound, digest_of, public_prefix
from mtc.log.fsck import Findings
from mtc.log.fsck.service import CheckedLog, TreeHashes
from mtc.log.ledger import ledger_prefix
from mtc.log.ledger.machine import beyond
from mtc.log.ledger.service import Ledger
from mtc.merkle import MAX_TREE_SIZE, Subtree, cover
from mtc.note import Checkpoint, CosignedMessage, encode_subtree_message, open_note
from mtc.tiles import EntriesTile, Tile, bundles_for_growth, tiles_for_growth

_AT_ONCE = 128
_OID_NAME = "oid/1.3.6.1.4.1."
_TRIES = 5


@dataclass(slots=True)
class _Last:
    """What the round before said: a round follows it in size and is not earlier."""

    tree_size: int
    timestamp: int = 0


async def check_ledger(task: FolderTask, settled: Settled, checked: CheckedLog) -> None:
    """Check the ledger of a log. A running CA packs it meanwhile; then it is read again."""
    for _ in range(_TRIES):
        findings = Findings()
        before = await _manifest(task, checked.log_number)
        await _check_once(task, settled, checked, findings)
        if not findings.items or before == await _manifest(task, checked.log_number):
            break
    task.findings.take(findings)


async def _manifest(task: FolderTask, number: int) -> list[str]:
    """Return what changes whenever the ledger is packed."""
    return await task.store.list_keys(f"{ledger_prefix(number)}manifest/")


async def _check_once(task: FolderTask, settled: Settled, checked: CheckedLog, findings: Findings) -> None:
    """Read the whole ledger once."""
    number, record = checked.log_number, settled.record
    name = f"private/ledger/{number}"
    end = checked.tree_size
    try:
        # The log of a running CA grows, and its ledger with it: the register, which goes first, is read last.
        ledger = await Ledger.open(task.store, number, MAX_TREE_SIZE)
        limit = await _size_now(task, number, record.tree_size)
    except Error as error:
        findings.add(_name(name, error), error.message)
        return
    try:
        if ledger.tree_size > limit:
            raise beyond(number, ledger.tree_size, limit)
        least = end if settled.unfinished is None else min(end, settled.unfinished.old_size)
        if ledger.tree_size < least:
            findings.add(name, f"ends at {ledger.tree_size} of {least} entries, so requests could be certified twice")
        await _check_history(task, ledger, checked, findings)
        async for fault in ledger.find_faults():
            key = _name(name, fault)
            if all(item.path != key for item in findings.items):
                findings.add(key, fault.message)
        if not findings.items and not task.findings.items:
            # Damage elsewhere would show here as well, and say nothing new.
            await _check_staged_digest(settled, ledger, task, checked, findings)
    except Error as error:
        findings.add(_name(name, error), error.message)
    finally:
        await ledger.close()


async def _check_history(task: FolderTask, ledger: Ledger, checked: CheckedLog, findings: Findings) -> None:
    """Check every round up to the tree that was checked, in order, as far as the ledger can be read."""
    name = f"private/ledger/{checked.log_number}"
    last = _Last(ledger.manifest.start)
    rounds: list[SignedRound] = []
    try:
        async for round_ in ledger.rounds(0, checked.tree_size, has_keys=True):
            rounds.append(round_)
            if len(rounds) == _AT_ONCE:
                await _check_rounds(task, checked, rounds, last, findings)
                rounds = []
    except Error as error:
        findings.add(_name(name, error), error.message)
    await _check_rounds(task, checked, rounds, last, findings)
    if checked.timestamp is not None and last.timestamp > checked.timestamp:
        findings.add(name, f"has a round of {last.timestamp}, later than the checkpoint of {checked.timestamp}")


async def _size_now(task: FolderTask, number: int, least: int) -> int:
    """Return a size that the ledger cannot be beyond, because the register holds it or soon will."""
    data = (await task.read_register()).values.get(f"log-{number}")
    try:
        return least if data is None else LogRecord.parse(data).tree_size
    except Error:
        return least


async def _check_staged_digest(
    settled: Settled, ledger: Ledger, task: FolderTask, checked: CheckedLog, findings: Findings
) -> None:
    """Make the newest round again as it was staged, and compare its digest with the one that the register names."""
    record, number, size = settled.record, checked.log_number, checked.tree_size
    is_plain = settled.unfinished is None and not settled.has_moved and record.tree_size == size
    if not is_plain or checked.tree is None or not record.staged_digest:
        return
    digests = {digest_of(StagedRound(size, size, {}).encode())}
    round_ = await ledger.round_of(size - 1, has_keys=True) if size else None
    if round_ is not None:
        if ledger.manifest.keys_from > round_.old_size:
            return
        old = round_.old_size
        places: list[Tile | EntriesTile] = [*tiles_for_growth(old, size), *bundles_for_growth(old, size)]
        keys = [f"{public_prefix(number)}{place.path}" for place in places]
        objects = {key: data for key, data in zip(keys, await task.store.fetch(keys), strict=True) if data is not None}
        subtrees = [subtree for subtree in cover(old, size) if not subtree.is_empty]
        hashes = await hashes_of(checked.tree, subtrees)
        if len(hashes) < len(subtrees) or len(objects) < len(keys):
            # Some of it was pruned.
            return
        pairs = tuple((subtree, hashes[subtree]) for subtree in subtrees)
        digests.add(digest_of(StagedRound(old, size, objects, round_.indices, pairs).encode()))
    if record.staged_digest not in digests:
        where = settled.register.where(f"log-{number}")
        findings.add(where, "names another staged round than the one that led to its tree")


def _name(name: str, error: Error) -> str:
    """Name the object that an error is about."""
    key = error.facts.get("key")
    return key if isinstance(key, str) else name


async def _check_rounds(
    task: FolderTask, checked: CheckedLog, rounds: Sequence[SignedRound], last: _Last, findings: Findings
) -> None:
    """Check some rounds in order."""
    if not rounds or checked.tree is None:
        return
    wanted = [Subtree(0, round_.new_size) for round_ in rounds]
    wanted += [subtree for round_ in rounds for subtree in round_.signatures]
    hashes = await hashes_of(checked.tree, wanted)
    await asyncio.to_thread(_check_all, task, checked.log_number, rounds, hashes, findings)
    for round_ in rounds:
        where = SignedRound.key_of(checked.log_number, round_.new_size)
        if round_.old_size != last.tree_size:
            findings.add(where, f"begins at {round_.old_size} entries, not at {last.tree_size}")
        if round_.timestamp < last.timestamp:
            findings.add(where, "goes back in time")
        last.tree_size, last.timestamp = round_.new_size, round_.timestamp
    findings.count("rounds", len(rounds))


async def hashes_of(tree: TreeHashes, subtrees: Sequence[Subtree]) -> dict[Subtree, bytes]:
    """Return the hashes of those subtrees that lie in the tree and were not pruned."""
    inside = [subtree for subtree in dict.fromkeys(subtrees) if subtree.end <= tree.tree_size]
    found = zip(inside, await tree.hash_all(inside), strict=True)
    return {subtree: value for subtree, value in found if value is not None}


def _check_all(
    task: FolderTask,
    number: int,
    rounds: Sequence[SignedRound],
    hashes: dict[Subtree, bytes],
    findings: Findings,
) -> None:
    """Check what rounds say of the final log, and their signatures; in a thread."""
    for round_ in rounds:
        where = SignedRound.key_of(number, round_.new_size)
        try:
            _check_round(task, number, round_, hashes, where, findings)
        except Error as error:
            findings.add(where, error.message)


def _check_round(  # noqa: PLR0913 - a round and what it is compared with
    task: FolderTask,
    number: int,
    round_: SignedRound,
    hashes: dict[Subtree, bytes],
    where: str,
    findings: Findings,
) -> None:
    """Check one round. Raises what is wrong with its signatures."""
    certificate = task.folder.certificate
    log = log_id(certificate.ca_id, number)
    note = open_note(round_.checkpoint, task.keys)
    checkpoint = Checkpoint.parse(note.text, task.hasher.size)
    root = hashes.get(Subtree(0, round_.new_size), round_.root_hash)
    if checkpoint != Checkpoint(log.oid_name, round_.new_size, root) or round_.root_hash != root:
        findings.add(where, f"has a checkpoint of another tree than the final log had at {round_.new_size} entries")
    times = [item.timestamp or 0 for item in note.verified if item.key == task.key]
    if not times or max(times) < round_.timestamp:
        findings.add(where, "has a checkpoint that is older than the round")
    findings.count("signatures", len(note.verified))
    for subtree, signatures in round_.signatures.items():
        if subtree not in hashes:
            continue
        message = encode_subtree_message(certificate.ca_id, log, subtree, hashes[subtree])
        own = [item.signature for item in signatures if item.cosigner_id == certificate.ca_id.binary]
        for signature in own:
            certificate.public_key.verify(message, signature)
        if not own:
            findings.add(where, f"has no signature of the CA over {subtree}")
        findings.count("signatures", len(own) + _check_others(task, log.oid_name, signatures, subtree, hashes[subtree]))


def _check_others(
    task: FolderTask, origin: str, signatures: Sequence[SubtreeSignature], subtree: Subtree, value: bytes
) -> int:
    """Verify what the configured cosigners signed; of those who were cosigners once, no key is known here.

    Returns how many were verified. Raises SignatureError.
    """
    count = 0
    for item in signatures:
        for key in task.keys[1:]:
            if item.name == key.name.removeprefix(_OID_NAME):
                key.verifier.verify(CosignedMessage(key.name, origin, subtree, value).encode(), item.signature)
                count += 1
    return count
