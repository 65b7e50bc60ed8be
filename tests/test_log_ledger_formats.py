"""What the ledger stores: damage is found, formats are strict, and the index can be made anew."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.ledgers import LOG, SMALL, key_of, make_round, record_all

from mtc.errors import ConflictError, FormatError, Reason, UsageError
from mtc.log.ledger import Manifest, SignedRound
from mtc.log.ledger.formats import open_object, protect
from mtc.log.ledger.memory import ObjectCache
from mtc.log.ledger.pages import KeyTable, Page, manifest_key
from mtc.log.ledger.service import Ledger
from mtc.store import MemoryStore


def test_every_flipped_bit_is_found() -> None:
    """A flipped bit in any object of the ledger is found by whoever reads it, and the error names the object."""

    async def run() -> None:
        store = MemoryStore()
        ledger = await Ledger.open(store, LOG, 0, limits=SMALL)
        await record_all(ledger, range(0, 56, 5))
        assert {key.split("/")[3] for key in store.objects} == {"page", "keys", "run", "manifest", "round"}
        for key, data in dict(store.objects).items():
            for at in {0, len(data) // 3, len(data) - 40, len(data) - 1} - {-1}:
                flipped = bytearray(data)
                flipped[max(at, 0)] ^= 4
                for broken in (bytes(flipped), data[:at], data + b"\0"):
                    store.objects[key] = broken
                    with pytest.raises(FormatError) as caught:
                        await read_everything(store, 55)
                    assert caught.value.facts["key"] == key
                    assert caught.value.reason is Reason.DAMAGED
            store.objects[key] = data
        await read_everything(store, 55)

    asyncio.run(run())


async def read_everything(store: MemoryStore, size: int) -> None:
    """Open a ledger, and raise the first fault that is found in it."""
    ledger = await Ledger.open(store, LOG, size, least_size=size, limits=replace(SMALL, cached_bytes=0))
    async for fault in ledger.find_faults():
        raise fault


def test_a_lost_object_is_named() -> None:
    """Without one of its sealed objects the ledger gives no answer that might be wrong; it names what is missing."""

    async def run() -> None:
        store = MemoryStore()
        ledger = await Ledger.open(store, LOG, 0, limits=SMALL)
        await record_all(ledger, range(0, 51, 5))
        for key, data in dict(store.objects).items():
            del store.objects[key]
            with pytest.raises(ConflictError) as caught:
                await read_everything(store, 50)
            assert key in caught.value.message or "manifest" in key
            store.objects[key] = data

    asyncio.run(run())


def test_a_wrong_answer_is_never_given() -> None:
    """With any one bucket, table or page damaged or lost, a look-up answers rightly or raises."""

    async def run() -> None:
        store = MemoryStore()
        ledger = await Ledger.open(store, LOG, 0, limits=SMALL)
        await record_all(ledger, range(0, 56, 5))
        for key, data in dict(store.objects).items():
            if key.split("/")[3] == "manifest" or key.endswith("filter") or key.split("/")[3] == "round":
                continue
            named: set[object] = set()
            for broken in (None, data[:-1], b"\0" + data[1:]):
                if broken is None:
                    del store.objects[key]
                else:
                    store.objects[key] = broken
                ledger = await Ledger.open(store, LOG, 55, limits=replace(SMALL, cached_bytes=0))
                for index in range(60):
                    try:
                        found = await ledger.find([key_of(index)])
                        round_ = await ledger.round_of(index)
                    except (ConflictError, FormatError) as error:
                        named.add(error.facts["key"])
                        continue
                    assert found == ({key_of(index): index} if index < 55 else {})
                    assert (round_ is not None) == (index < 55)
            # Nothing is ever looked up in an empty bucket.
            assert named == {key} or ("/run/" in key and len(data) == 32)
            store.objects[key] = data

    asyncio.run(run())


def test_what_does_not_fit_is_found() -> None:
    """An index that was written whole but with other records, or without one, does not fit its pages."""

    async def run() -> None:
        store = MemoryStore()
        ledger = await Ledger.open(store, LOG, 0, limits=SMALL)
        await record_all(ledger, range(0, 41, 4))
        key, body = next(
            (key, data[:-32]) for key, data in store.objects.items() if "/run/" in key and len(data) > 32 + 28
        )
        for wrong in (body[14:], body[14:28] + body[:14] + body[28:], body[:13] + bytes((body[13] ^ 1,)) + body[14:]):
            store.objects[key] = protect(key, wrong)
            ledger = await Ledger.open(store, LOG, 40, limits=SMALL)
            assert [fault.reason async for fault in ledger.find_faults()] != []
        store.objects[key] = protect(key, body)
        assert [fault async for fault in ledger.find_faults()] == []

    asyncio.run(run())


def test_the_index_is_rebuilt_from_pages() -> None:
    """Runs and manifest, damaged or lost, are made anew from pages and tables; without those nothing is rebuilt."""

    async def run() -> None:
        store = MemoryStore()
        ledger = await Ledger.open(store, LOG, 0, limits=SMALL)
        await record_all(ledger, range(0, 96, 5))
        await ledger.prune(20)
        whole = dict(store.objects)
        known = {key_of(index): index for index in range(ledger.manifest.keys_from, 95)}
        for kind in ("run", "manifest", "page", "keys"):
            names = [key for key in whole if key.split("/")[3] == kind]
            lost = names if kind in ("run", "manifest") else names[1:2]
            store.objects = {key: data for key, data in whole.items() if key not in lost}
            if kind in ("page", "keys"):
                with pytest.raises(ConflictError):
                    await Ledger.rebuild(store, LOG, limits=SMALL)
                continue
            await Ledger.rebuild(store, LOG, limits=SMALL)
            ledger = await Ledger.open(store, LOG, 95, least_size=95, limits=SMALL)
            assert await ledger.find([key_of(index) for index in range(100)]) == known
            await ledger.settle()
            assert await ledger.find([key_of(index) for index in range(100)]) == known
            assert [fault async for fault in ledger.find_faults()] == []
            live = {key for run in ledger.manifest.runs for key in run.keys(LOG)}
            assert {key for key in store.objects if "/run/" in key} == live
            await Ledger.rebuild(store, LOG, limits=SMALL)
            await read_everything(store, 95)

    asyncio.run(run())


def test_a_swapped_object_is_found() -> None:
    """An object under the key of another one is damaged, even though its bytes are whole."""
    assert open_object("a", protect("a", b"body")) == b"body"
    for key, data in (("b", protect("a", b"body")), ("a", b""), ("a", protect("a", b"body") + b"\0")):
        with pytest.raises(FormatError):
            open_object(key, data)


# Formats.

ROUNDS = [make_round(0, 5), make_round(5, 9, lambda index: index == 7), make_round(9, 30, lambda _: False, version=1)]


@pytest.mark.parametrize(
    ("parse", "data"),
    [
        *((SignedRound.parse, round_.encode()) for round_ in ROUNDS),
        (Page.parse, Page.encode(ROUNDS)),
        (KeyTable.parse, KeyTable.encode(3, [b"a", b"", b"bcd"])),
        (Manifest.parse, Manifest(1, 5, keys_from=5, dead_from=5).encode()),
    ],
)
def test_every_truncation_is_refused(parse: Callable[[bytes], object], data: bytes) -> None:
    """Each format is read whole, and refused with an end cut off, with a byte too many, or in another version."""
    parse(data)
    for length in range(len(data)):
        with pytest.raises(FormatError):
            parse(data[:length])
    for broken in (data + b"\0", bytes((data[0] + 1,)) + data[1:]):
        with pytest.raises(FormatError):
            parse(broken)


def test_rounds_and_pages_round_trip() -> None:
    """What is encoded is parsed again as it was; a page has the rounds without their keys, a table has the keys."""
    for round_ in ROUNDS:
        assert SignedRound.parse(round_.encode()) == round_
        assert SignedRound.parse(round_.encode(has_keys=False)) == replace(round_, indices={})
    page = Page.parse(Page.encode(ROUNDS))
    assert page.rounds() == [replace(round_, indices={}) for round_ in ROUNDS]
    table = KeyTable.parse(KeyTable.encode(3, [b"a", b"", b"bcd"]))
    assert [table.key_at(index) for index in range(2, 8)] == [b"", b"a", b"", b"bcd", b"", b""]
    assert table.keys_of(4, 6) == [b"", b"bcd"]


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 300])
def test_few_and_many_candidates_are_confirmed_alike(count: int) -> None:
    """However many are asked for, exactly those keys match that are the keys of their entries."""
    keys = [key_of(index) if index % 3 else b"" for index in range(100, 500)]
    table = KeyTable.parse(KeyTable.encode(100, keys))
    wrong = [(key_of(101), 102), (key_of(50), 50), (key_of(600), 600), (b"other", 101), (key_of(102), 2)]
    right = [(key_of(index), index) for index in range(100, 100 + count) if index % 3]
    assert table.matches([*right, *wrong[: max(count, 1)]]) == dict(right)


def test_a_cache_keeps_what_was_asked_for_last() -> None:
    """A cache never holds more bytes than it may; what was not asked for longest goes first."""
    cache = ObjectCache(10)
    for name in "abc":
        cache.keep(name, name, 4)
    assert [cache.find(name) for name in "abc"] == [None, "b", "c"]
    cache.find("b")
    cache.keep("d", "d", 4)
    assert [cache.find(name) for name in "bcd"] == ["b", None, "d"]
    cache.keep("b", "larger", 11)
    assert [cache.find(name) for name in "bd"] == [None, "d"]


def test_rounds_that_cannot_be_are_refused() -> None:
    """A round has no key outside of its entries, no two keys of one entry, no empty and no long key."""
    for indices in ({b"a": 4}, {b"a": 10}, {b"a": 5, b"b": 5}, {b"": 5}, {b"a" * 256: 5}):
        with pytest.raises(FormatError):
            replace(ROUNDS[1], indices=indices)
    with pytest.raises(FormatError):
        SignedRound(5, 4, b"", 0, b"", {}, {})
    with pytest.raises(UsageError):
        _ = SignedRound(0, 1 << 25, b"", 0, b"", {b"a": 1}, {}).keys


def test_manifests_that_contradict_themselves_are_refused() -> None:
    """Damage that the digest cannot show, because it was written so, is refused as well."""

    async def run() -> None:
        store = MemoryStore()
        ledger = await Ledger.open(store, LOG, 0, limits=SMALL)
        await record_all(ledger, range(0, 41, 4))
        good = ledger.manifest
        key = manifest_key(LOG, good.generation + 3)
        store.objects[key] = protect(key, good.encode())
        with pytest.raises(FormatError, match="another manifest"):
            await Ledger.open(store, LOG, 40, limits=SMALL)
        name = SignedRound.key_of(LOG, 41)
        store.objects = {name: protect(name, make_round(0, 4).encode())}
        with pytest.raises(FormatError, match="another round"):
            await Ledger.open(store, LOG, 44, limits=SMALL)
        ends = good.page_ends
        for changes in (
            {"page_ends": ends[::-1]},
            {"start": 9},
            {"keys_from": 1000},
            {"dead_from": 8},
            {"runs": good.runs[::-1]},
            {"runs": (*good.runs, replace(good.runs[-1], start=40, end=48))},
        ):
            with pytest.raises(FormatError):
                replace(good, **changes)

    asyncio.run(run())
