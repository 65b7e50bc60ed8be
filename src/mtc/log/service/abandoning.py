"""Giving a log up with a round that was decided and not finished: what the key has signed of it stays on record.

An entry is issued when the key signs its tree. So before a log is closed, the key is asked whether it has signed the
tree of the round that is left behind. If so, the round is kept for good among the owed ones: its entries are listed,
evidenced by the CA's own signatures, and can be revoked, and their requests are told so instead of being certified a
second time in the next log. If not, nothing was issued, and the requests go to the next log.
"""

from dataclasses import replace

from mtc.errors import ConflictError, Error, PeerError, Reason, StorageError
from mtc.log.formats import LogRecord, StagedRound, digest_of
from mtc.log.ledger.formats import SignedRound, protect
from mtc.log.owed import KeptRound
from mtc.log.seams import SignedTree, TreeSigner, TreeToSign
from mtc.log.service.decided import DecidedRound
from mtc.log.service.published import entries_of
from mtc.store import ObjectStore, Register

GIVEN_UP = "the log was given up before its last round was finished"
"""Why a round that nobody asked the cosigners about is owed."""
_LONG_AGO = 1


async def fetch_if_signed(signer: TreeSigner, tree: TreeToSign) -> SignedTree | None:
    """Return the signatures over a tree if the key has signed it before; it never will after None.

    Asked with evidence that ended long ago, the key gives again what it gave, and nothing new. Raises PeerError when it
    does not answer.
    """
    try:
        return await signer.sign_tree(replace(tree, evidence_until=_LONG_AGO))
    except (PeerError, StorageError):
        raise
    except Error:
        return None


async def close_abandoned_log(store: ObjectStore, register: Register, signer: TreeSigner, log_number: int) -> LogRecord:
    """Close a log that cannot be opened, and keep the round that it leaves if the key has signed it.

    Crash meaning: the round is kept before the log is closed; do it again. Raises PeerError when the signer does not
    answer; ConflictError when the register does not know the log, or somebody moves it on meanwhile; StorageError.
    """
    name = f"log-{log_number}"
    data = await register.read(name)
    if data is None:
        raise ConflictError(
            Reason.CONFLICT, f"the register does not know log {log_number}; it is damaged", log=log_number
        )
    record = LogRecord.parse(data)
    round_ = await _fetch_left_behind(store, record)
    if round_ is not None:
        decided = DecidedRound(record, round_, entries_of(round_, log_number))
        signed = await fetch_if_signed(signer, decided.tree)
        if signed is not None:
            key = KeptRound.key_of(log_number, round_.new_size)
            await store.replace({key: protect(key, decided.keep(signed, GIVEN_UP).encode())})
    closed = replace(record, is_closed=True)
    if closed.encode() != data:
        await register.swap(name, data, closed.encode())
    return closed


async def _fetch_left_behind(store: ObjectStore, record: LogRecord) -> StagedRound | None:
    """Return the round that a record leads to and that nobody recorded, None where there is none that can be read."""
    if not record.staged_digest:
        return None
    staged, recorded = await store.fetch(
        [
            StagedRound.key_of(record.log_number, record.tree_size, record.staged_digest),
            SignedRound.key_of(record.log_number, record.tree_size),
        ]
    )
    if staged is None or recorded is not None or digest_of(staged) != record.staged_digest:
        return None
    round_ = StagedRound.parse(staged)
    return round_ if round_.new_size > round_.old_size else None
