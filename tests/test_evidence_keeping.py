"""Keeping evidence: once each, verified, within bounds that no stranger and no key holder exhausts for others."""

import asyncio
from collections.abc import Awaitable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

import pytest
from tests.note_keys import CA, LOG, TestSigner
from tests.split_views import ORIGIN, SplitViewCA, every_kind

from mtc.cosign.evidence import BadSignature, Evidence, SplitView, encode_evidence, verify_evidence
from mtc.cosign.evidence.service import EvidenceKeeper, EvidenceLimits
from mtc.errors import FormatError, Rejected, SignatureError, StorageError, UsageError
from mtc.note import Note, SignatureType
from mtc.store import MemoryStore
from mtc.testing import FailingStore, Failure

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SECOND_LOG = TestSigner("log.example/8", SignatureType.ED25519, 9)

_T = TypeVar("_T")


def split(size: int, signer: TestSigner = LOG, fork: int = 0) -> Evidence:
    """Return a proof against a log, another one for each size and fork."""
    ca = SplitViewCA(fork, signer=signer)
    return Evidence(signer.key, ORIGIN, SplitView(ca.note("A", size), ca.note("B", size)))


def forged(size: int) -> Evidence:
    """Return testimony, another one for each size."""
    ca = SplitViewCA(0, signer=LOG)
    return Evidence(LOG.key, ORIGIN, BadSignature(Note(ca.checkpoint("A", size).encode(), ca.note("B", 1).signatures)))


def run(work: Awaitable[_T]) -> _T:
    """Run a coroutine."""

    async def wrapped() -> _T:
        return await work

    return asyncio.run(wrapped())


def test_each_kind_is_kept_and_found_again() -> None:
    """What was kept is listed, read back with who kept it and when, and still verifies."""
    store = MemoryStore()

    async def story() -> None:
        keeper = EvidenceKeeper(store)
        for evidence in every_kind():
            name = await keeper.keep(evidence, NOW, "witness w1")
            assert name == evidence.name
            kept = await keeper.fetch(name)
            assert kept.evidence == evidence.collected("2026-11-21T12:00:00Z", "witness w1")
            assert verify_evidence(kept.evidence).evidence == kept.evidence
        assert await keeper.names() == sorted(evidence.name for evidence in every_kind())
        assert await keeper.count() == keeper.kept.total() == len(every_kind())

    run(story())
    assert all(key.startswith("private/evidence/") and key.endswith(".json") for key in store.objects)


def test_same_claim_is_kept_once() -> None:
    """A claim that comes again, signed anew or shown by another process, changes nothing."""
    store = MemoryStore()

    async def story() -> None:
        first, second = EvidenceKeeper(store), EvidenceKeeper(store)
        assert await second.count() == 0
        name = await first.keep(split(9), NOW, "one")
        assert await first.keep(split(9).collected("later", ""), NOW, "two") == name
        assert await second.keep(split(9), NOW, "two") == name
        assert (await second.fetch(split(9).name)).evidence.collected_by == "one"
        assert first.kept.total() == 1

    run(story())
    assert len(store.objects) == 1


def test_what_proves_nothing_is_not_kept() -> None:
    """Evidence that does not verify is refused with its reason, and leaves nothing behind."""
    store = MemoryStore()
    honest = SplitViewCA(9).note("A", 9)
    for exhibit, reason in (
        (SplitView(honest, honest), Rejected),
        (SplitView(honest, Note(honest.text.replace(b"\n9\n", b"\n8\n"), honest.signatures)), SignatureError),
    ):
        with pytest.raises(reason):
            run(EvidenceKeeper(store).keep(Evidence(CA.key, ORIGIN, exhibit), NOW, ""))
    assert not store.objects


def test_strangers_take_no_room_from_proofs() -> None:
    """Testimony, which anybody can make, has room of its own; when that is full, proofs are still kept."""
    limits = EvidenceLimits(testimony_bundles=3)

    async def story() -> None:
        keeper = EvidenceKeeper(MemoryStore(), limits=limits)
        kept = [await keeper.keep(forged(size), NOW, "") for size in range(1, 9)]
        assert [name is not None for name in kept] == [True] * 3 + [False] * 5
        assert keeper.dropped == {"bad-signature": 5}
        assert await keeper.keep(forged(1), NOW, "") == kept[0]
        assert await keeper.keep(split(9), NOW, "") is not None

    run(story())


SIZE = len(encode_evidence(split(9)))
"""Bytes of one of the proofs, about."""


@pytest.mark.parametrize("limits", [EvidenceLimits(subject_bundles=3), EvidenceLimits(subject_bytes=3 * SIZE + 500)])
def test_one_key_takes_no_room_from_others(limits: EvidenceLimits) -> None:
    """A log that contradicts itself a thousand times fills its own room and no other's."""

    async def story() -> None:
        keeper = EvidenceKeeper(MemoryStore(), limits=limits)
        kept = [await keeper.keep(split(size), NOW, "") for size in range(10, 20)]
        assert [name is not None for name in kept] == [True] * 3 + [False] * 7
        assert await keeper.keep(split(9, SECOND_LOG), NOW, "") is not None

    run(story())


@pytest.mark.parametrize("limits", [EvidenceLimits(bundles=2), EvidenceLimits(total_bytes=2 * SIZE + 500)])
def test_disk_is_bounded(limits: EvidenceLimits) -> None:
    """No more bundles and bytes are kept than allowed, across restarts."""
    store = MemoryStore()
    for size in range(10, 16):
        run(EvidenceKeeper(store, limits=limits).keep(split(size), NOW, ""))
    assert len(store.objects) == 2


class _SlowStore(MemoryStore):
    """A store that lets others go on before it stores."""

    async def put(self, objects: Mapping[str, bytes]) -> None:
        """Store, later."""
        await asyncio.to_thread(lambda: None)
        await super().put(objects)


def test_many_at_once() -> None:
    """Requests that bring evidence at the same time do not get past the bounds together."""
    store = _SlowStore()

    async def story() -> None:
        keeper = EvidenceKeeper(store, limits=EvidenceLimits(bundles=3))
        async with asyncio.TaskGroup() as group:
            for size in range(1, 12):
                group.create_task(keeper.keep(split(size), NOW, ""))

    run(story())
    assert len(store.objects) == 3


def test_damage_takes_room_and_nothing_else() -> None:
    """A file that cannot be read is counted, named when it is fetched, and in nobody's way."""
    store = MemoryStore()
    store.objects["private/evidence/split-view-damaged.json"] = b"{"
    store.objects["private/evidence/README"] = b"not a bundle"

    async def story() -> None:
        keeper = EvidenceKeeper(store)
        assert await keeper.keep(split(9), NOW, "") is not None
        assert await keeper.count() == 2
        with pytest.raises(FormatError):
            await keeper.fetch("split-view-damaged")
        with pytest.raises(UsageError):
            await keeper.fetch("nothing")

    run(story())


@pytest.mark.parametrize("failure", list(Failure))
def test_disk_that_fails(failure: Failure) -> None:
    """A write that fails is said, and the same evidence is kept when it comes again, however the first write ended."""
    store = FailingStore()
    store.plan.fail_write(0, failure)

    async def story() -> None:
        keeper = EvidenceKeeper(store)
        with pytest.raises(StorageError):
            await keeper.keep(split(9), NOW, "one")
        assert await keeper.keep(split(9), NOW, "two") == split(9).name
        kept = await keeper.fetch(split(9).name)
        assert kept.evidence.collected_by == ("one" if failure is Failure.KEPT else "two")
        assert await keeper.count() == 1

    run(story())
    assert len(store.objects) == 1
