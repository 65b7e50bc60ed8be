"""Ledgers for tests: rounds whose entries have their usual request keys, and what a ledger must know of them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import pairwise

from mtc.cert import SubtreeSignature
from mtc.log.ledger import LedgerLimits, SignedRound
from mtc.log.ledger.service import Ledger
from mtc.merkle import Subtree

SMALL = LedgerLimits(page_entries=8, page_rounds=3, fan_out=2, bucket_records=4, backlog=1, cached_bytes=600)
LOG = 7


def key_of(index: int) -> bytes:
    """Return the request key of an entry."""
    return b"request %d" % index


def make_round(old: int, new: int, keyed: Callable[[int], bool] = lambda _: True, version: int = 0) -> SignedRound:
    """Return a round whose entries have their usual request keys, in an order that is not that of the indices."""
    indices = {key_of(index): index for index in reversed(range(old, new)) if keyed(index)}
    signature = SubtreeSignature(b"\x01", b"signature %d" % version)
    signatures = {Subtree(new - 1, new): (signature,) * (1 + version)}
    return SignedRound(old, new, b"%032d" % new, 1000 + new, b"checkpoint %d" % new, indices, signatures)


async def record_all(ledger: Ledger, sizes: Sequence[int]) -> None:
    """Record rounds that lead from each size to the next, and wait for the sealing after each."""
    for old, new in pairwise(sizes):
        await ledger.record(make_round(old, new))
        await ledger.settle()


async def collect(rounds: AsyncIterator[SignedRound]) -> list[SignedRound]:
    """Return what an iterator yields."""
    return [round_ async for round_ in rounds]


async def check_all(ledger: Ledger, size: int) -> None:
    """Check that a ledger knows exactly the usual requests below `size`, and all their rounds."""
    wanted = {key_of(index): index for index in range(size)}
    asked = [*wanted, *(key_of(index) for index in range(size, size + 40)), b""]
    assert await ledger.find(asked) == wanted
    assert ledger.tree_size == size
    rounds = await collect(ledger.rounds(0, size, has_keys=True))
    assert [make_round(round_.old_size, round_.new_size) for round_ in rounds] == rounds
    assert [round_.old_size for round_ in rounds] + [size] == [0] + [round_.new_size for round_ in rounds]


def kill_others() -> None:
    """Let the background of a process die with it."""
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
