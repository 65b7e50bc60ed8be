"""What lies beside a log: rounds that still lack their quorum, and evidence that was kept."""

from mtc.ca.fsck.context import FolderTask
from mtc.ca.fsck.records import Settled
from mtc.cosign.evidence import parse_evidence, verify_evidence
from mtc.cosign.evidence.service import EVIDENCE_PREFIX
from mtc.errors import Error
from mtc.log.formats import owed_prefix
from mtc.log.fsck.service import CheckedLog
from mtc.log.ledger.formats import open_object
from mtc.log.owed import KeptRound


async def check_owed(task: FolderTask, settled: Settled, checked: CheckedLog) -> None:
    """Check the owed rounds of a log: each is of this log's tree, under its own name; and say that they are owed.

    A running CA may complete one meanwhile. A round of a tree that was never published is of an abandoned log.
    """
    number = checked.log_number
    for key in await task.store.list_keys(owed_prefix(number)):
        (data,) = await task.store.fetch([key])
        if data is None:
            continue
        try:
            kept = KeptRound.parse(open_object(key, data))
        except Error as error:
            task.findings.add_error(key, error)
            continue
        if key != KeptRound.key_of(number, kept.signed.new_size):
            task.findings.add(key, f"holds the round to {kept.signed.new_size} entries")
        elif kept.signed.new_size > settled.record.tree_size:
            task.findings.add(key, f"is beyond the {settled.record.tree_size} entries that the register holds")
        elif not await _is_of_tree(kept, checked):
            task.findings.add(key, "holds a subtree that is not of this log's tree")
        else:
            last = kept.signed.new_size - 1
            task.findings.note(
                f"log {number}: entries {kept.signed.old_size} to {last} are signed and lack their quorum"
            )


async def _is_of_tree(kept: KeptRound, checked: CheckedLog) -> bool:
    """Tell whether the subtrees of a round are those of the checked tree, as far as that reaches."""
    if checked.tree is None or kept.signed.new_size > checked.tree_size:
        return True
    hashes = await checked.tree.hash_all([subtree for subtree, _ in kept.subtrees])
    return all(got in (None, value) for got, (_, value) in zip(hashes, kept.subtrees, strict=True))


async def check_evidence(task: FolderTask) -> None:
    """Verify each bundle of evidence that was kept, and say that it is there."""
    keys = await task.store.list_keys(f"{EVIDENCE_PREFIX}/")
    for key in keys:
        (data,) = await task.store.fetch([key])
        try:
            evidence = parse_evidence(data or b"")
            finding = verify_evidence(evidence)
        except Error as error:
            task.findings.add_error(key, error)
            continue
        task.findings.note(f"{key}: evidence against {evidence.subject}: {finding.proven}")
