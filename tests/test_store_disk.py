"""The file store on a disk that forgets: every crash, every subset of what was not synced."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from mtc.store import FileStore
from mtc.testing import Crash, ModelDisk, check_object_store

LIMIT = 100
"""Crash states looked at per crash point; more are drawn by chance."""

Step = tuple[str, Mapping[str, bytes]]

STORIES: dict[str, list[Step]] = {
    "put": [("put", {"tile/0/000": b"zero" * 10})],
    "two in a folder": [("put", {"tile/0/000": b"zero" * 10, "tile/0/001": b"one" * 10})],
    "replace": [("put", {"a/checkpoint": b"old" * 10}), ("replace", {"a/checkpoint": b"new!" * 10})],
    "put after discard": [("put", {"a": b"x" * 10}), ("discard", {"a": b""}), ("put", {"a": b"y" * 10})],
    "again": [("put", {"a/b": b"x" * 10}), ("put", {"a/b": b"x" * 10}), ("put", {"a/c": b"z" * 10})],
}


async def _tell(store: FileStore, steps: list[Step], done: list[Step]) -> None:
    """Do the steps; note each that returned."""
    for kind, objects in steps:
        if kind == "discard":
            await store.discard(list(objects))
        elif kind == "put":
            await store.put(objects)
        else:
            await store.replace(objects)
        done.append((kind, objects))


async def _check(disk: ModelDisk, steps: list[Step], done: int) -> None:
    """Every object whose writing returned is whole; every other one is whole or absent, and the next writes work."""
    after = disk.store()
    expected: dict[str, set[bytes | None]] = {}
    for number, (kind, objects) in enumerate(steps[: done + 1]):
        for key, data in objects.items():
            before = expected.get(key, {None})
            # A discard may come back after a crash, and a step that did not return may have happened or not.
            is_certain = number < done and kind != "discard"
            value = None if kind == "discard" else data
            expected[key] = {value} if is_certain else before | {value}
    found = dict(zip(expected, await after.fetch(list(expected)), strict=True))
    for key, content in found.items():
        assert content in expected[key], f"{key} holds {content!r} after a crash, not one of {expected[key]}"
    assert await after.list_keys() == sorted(key for key, content in found.items() if content is not None)
    await after.put({"later": b"1"})


def explore(steps: list[Step], wrap: Callable[[ModelDisk], object] = lambda disk: disk) -> int:
    """Explore in one event loop; see `_explore`."""
    return asyncio.run(_explore(steps, wrap))


async def _explore(steps: list[Step], wrap: Callable[[ModelDisk], object]) -> int:
    """Crash at every system call of a story, and check every state that may be left. Returns how many."""
    states = 0
    for number in range(200):
        disk = ModelDisk()
        files = wrap(disk)
        disk.crash_at(number)
        done: list[Step] = []
        try:
            store = FileStore.open(disk.root / "store", files=files)  # type: ignore[arg-type]  # a wrapped disk
            await _tell(store, steps, done)
        except Crash:
            pass
        for left in disk.crash_states(LIMIT, seed=number):
            await _check(left, steps, len(done))
            states += 1
        if len(done) == len(steps):
            return states
    raise AssertionError("the story has more system calls than expected")


@pytest.mark.parametrize("name", STORIES)
def test_no_crash_breaks_the_contract(name: str) -> None:
    """At every system call, whatever of the unsynced operations survives: objects are whole or absent."""
    assert explore(STORIES[name]) > 20


class _Careless:
    """A disk whose store forgets something. Everything else goes through."""

    def __init__(self, disk: ModelDisk) -> None:
        self._disk = disk
        self.workers = 1

    def __getattr__(self, name: str) -> object:
        return getattr(self._disk, name)


class NoFileSync(_Careless):
    """Files are never synced."""

    def sync_file(self, path: Path) -> None:
        """Do nothing."""


class NoFolderSync(_Careless):
    """Folders are never synced."""

    def sync_folder(self, path: Path) -> None:
        """Do nothing."""


class LateFileSync(_Careless):
    """Files are synced, but only when the folder is, after they have their names."""

    def __init__(self, disk: ModelDisk) -> None:
        super().__init__(disk)
        self.late: list[Path] = []

    def sync_file(self, path: Path) -> None:
        """Remember the file."""
        self.late.append(path)

    def sync_folder(self, path: Path) -> None:
        """Sync the folder first, and then the files."""
        self._disk.sync_folder(path)
        for file in self.late:
            if not self._disk.is_folder(file):
                try:
                    self._disk.sync_file(file)
                except FileNotFoundError:
                    continue


@pytest.mark.parametrize("mistake", [NoFileSync, NoFolderSync, LateFileSync])
def test_model_catches_the_classical_mistakes(mistake: type[_Careless]) -> None:
    """A store that syncs no files, no folders, or files too late, loses or tears an object in some crash."""
    with pytest.raises(AssertionError, match="after a crash"):
        explore(STORIES["two in a folder"], mistake)


def test_model_keeps_the_contract_without_crashes() -> None:
    """The file store passes the shipped contract test on the model too, so that both behave alike."""
    asyncio.run(check_object_store(ModelDisk().store()))
