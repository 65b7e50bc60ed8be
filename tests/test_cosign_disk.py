"""A mirror on a disk that forgets what was not synced: a crash at every system call of three rounds."""

import asyncio
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from tests.cosigning import World
from tests.note_keys import CA, MIRROR
from tests.synthetic_logs import HASHER, ORIGIN, SyntheticLog, make_entries

from mtc.cosign.service.core import object_prefix
from mtc.cosign.upload import MirrorInfo
from mtc.errors import Error
from mtc.note import Checkpoint, open_note
from mtc.testing import Crash, ModelDisk
from mtc.tiles import EntryBundle, bundles_for_growth, tiles_for_growth, verify_tiles

SIZES = (300, 520, 600)
STATES = 3
"""Disks looked at per crash; the emptiest, the fullest, and others drawn by chance."""
MANY_STATES = pytest.param(8, marks=pytest.mark.slow, id="many")
LOG = SyntheticLog(make_entries(max(SIZES)))


@cache
def add_checkpoint(old: int, size: int) -> bytes:
    """Return the request that shows the mirror a tree; every play sends the same."""
    return LOG.add_checkpoint(old, size)


@pytest.fixture(autouse=True)
def _inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the store's threads in place, so that the number of a system call means the same in every play."""

    async def in_place(call, /, *arguments):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN002, ANN202
        return call(*arguments)

    monkeypatch.setattr(asyncio, "to_thread", in_place)


async def live(disk: ModelDisk, signed: list[int], *, keeps_last: bool = False) -> None:
    """Bring a mirror through all sizes, from wherever it stands; note each size that it signed for.

    keeps_last: the change of the register at which the machine stops was made.
    """
    store, register = disk.store(), disk.register()
    register.keeps_last = keeps_last
    asker = (await World(is_mirror=True, objects=store, register=register).open()).asker()
    old = 0
    for size in SIZES:
        if old > size:
            continue
        answer = await asker.post("add-checkpoint", add_checkpoint(old, size))
        if answer.status == 409:
            old = int(answer.body)
            if old > size:
                continue
            answer = await asker.post("add-checkpoint", add_checkpoint(old, size))
        assert answer.status == 200, answer.text
        old = size
        start = 0
        for _ in range(4):
            answer = await asker.post("add-entries", LOG.upload(start, size))
            if answer.status == 200:
                signed.append(size)
                break
            start = min(MirrorInfo.parse(answer.body).next_entry, size)
        assert answer.status == 200


async def check_holds(disk: ModelDisk, signed: list[int]) -> None:
    """What the mirror ever signed for is there, whole, and it starts."""
    store = disk.store()
    running = await World(is_mirror=True, objects=store, register=disk.register()).open()
    size = running.mirror.state(ORIGIN).committed_size
    assert size >= max(signed, default=0), "signed, and forgotten"
    data = running.mirror.checkpoint(ORIGIN)
    if data is None:
        return
    opened = open_note(data, [CA.key, MIRROR.key])
    assert {item.key for item in opened.verified} == {CA.key, MIRROR.key}
    assert Checkpoint.parse(opened.text) == LOG.checkpoint(size)
    prefix = object_prefix(ORIGIN)
    tiles, bundles = tiles_for_growth(0, size), bundles_for_growth(0, size)
    paths = [*(item.path for item in tiles), *(item.path for item in bundles)]
    contents = await store.fetch([f"{prefix}{path}" for path in paths])
    assert None not in contents, "signed, and not held"
    found = [item or b"" for item in contents]
    verify_tiles(HASHER, size, LOG.root(size), dict(zip(tiles, found, strict=False)))
    entries = [entry for data in found[len(tiles) :] for entry in EntryBundle.parse(data).entries]
    assert entries == LOG.entries[:size]


def crash_at(
    number: int, new_disk: Callable[[], ModelDisk] = ModelDisk, *, keeps_last: bool = False, limit: int = STATES
) -> bool:
    """Stop the machine at one system call, look at what it may have left, and go on; tell whether it came so far."""
    disk = new_disk()
    disk.crash_at(number)
    signed: list[int] = []
    try:
        asyncio.run(live(disk, signed, keeps_last=keeps_last))
    except Crash:
        pass
    else:
        return False
    for left in disk.crash_states(limit, seed=number):
        told = list(signed)
        asyncio.run(check_holds(left, told))
        asyncio.run(live(left, told))
        asyncio.run(check_holds(left, told))
        assert told[-1] == SIZES[-1]
    return True


@pytest.mark.parametrize("limit", [pytest.param(STATES, id="few"), MANY_STATES])
@pytest.mark.parametrize("keeps_last", [False, True], ids=["lost", "kept"])
def test_every_crash_of_a_mirror(*, keeps_last: bool, limit: int) -> None:
    """At each system call, and for each disk that the crash may leave: what was signed is held, and it goes on."""
    number = 0
    while crash_at(number, keeps_last=keeps_last, limit=limit):
        number += 1
    assert number > 60


class FilesUnsynced(ModelDisk):
    """A disk on which syncing a file does nothing."""

    def sync_file(self, _path: Path) -> None:
        """Forget to."""
        self.count_call()


def test_missing_sync_of_a_mirror_is_found() -> None:
    """Where files are not synced, the same test finds a mirror that signed for what it lost: it can fail."""
    with pytest.raises((AssertionError, Error)) as caught:
        _survive_all(FilesUnsynced)
    assert "every crash was survived" not in str(caught.value)


def _survive_all(new_disk: Callable[[], ModelDisk]) -> None:
    """Crash at every system call in turn."""
    for number in range(400):
        assert crash_at(number, new_disk), "every crash was survived"
