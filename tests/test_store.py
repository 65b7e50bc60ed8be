"""Storage: every backend keeps the contract, and a file store survives what a crash leaves."""

import asyncio
import errno
import multiprocessing
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mtc.errors import ConflictError, Reason, StorageError, UsageError
from mtc.store import FileStore, MemoryRegister, MemoryStore, ObjectStore, Register, SQLiteRegister, open_storage
from mtc.testing import (
    FailingRegister,
    FailingStore,
    Failure,
    InjectedError,
    check_object_store,
    check_register,
)


@pytest.fixture(params=["memory", "failing", "files"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    """Return each object store, empty."""
    if request.param == "files":
        opened = FileStore.open(tmp_path / "objects")
        yield opened
        opened.close()
    else:
        yield MemoryStore() if request.param == "memory" else FailingStore()


@pytest.fixture(params=["memory", "failing", "sqlite"])
def register(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Register]:
    """Return each register, empty."""
    if request.param == "sqlite":
        opened = SQLiteRegister.open(tmp_path / "register.db")
        yield opened
        opened.close()
    else:
        yield MemoryRegister() if request.param == "memory" else FailingRegister()


def test_object_store_keeps_the_contract(store: ObjectStore) -> None:
    """Every object store passes the shipped contract test."""
    asyncio.run(check_object_store(store))


def test_register_keeps_the_contract(register: Register) -> None:
    """Every register passes the shipped contract test."""
    asyncio.run(check_register(register))


class ForgetfulStore(MemoryStore):
    """A store that breaks a promise: put overwrites."""

    async def put(self, objects: object) -> None:
        """Replace instead of refusing."""
        await self.replace(objects)  # type: ignore[arg-type]  # wrong on purpose


class RacyRegister(MemoryRegister):
    """A register that breaks a promise: swap looks before it waits."""

    async def swap(self, name: str, old: bytes, new: bytes) -> None:
        """Let others in between the look and the change."""
        if await self.read(name) != old:
            raise ConflictError(Reason.CONFLICT, "lost")
        await asyncio.sleep(0)
        self.values[name] = new


def test_contract_tests_notice_broken_promises() -> None:
    """A store that overwrites and a register that races fail the contract tests."""
    with pytest.raises(AssertionError, match="does not change"):
        asyncio.run(check_object_store(ForgetfulStore()))
    with pytest.raises((AssertionError, TypeError)):
        asyncio.run(check_register(RacyRegister()))


@pytest.mark.parametrize("failure", Failure)
def test_failing_stores_fail_the_chosen_write(failure: Failure) -> None:
    """The chosen write raises; its objects are there exactly when the failure kept them."""

    async def run() -> None:
        store, register = FailingStore(), FailingRegister()
        store.plan.fail_write(1, failure)
        register.plan.fail_write(1, failure)
        await store.put({"a": b"1"})
        await register.create("log", b"1")
        with pytest.raises(InjectedError):
            await store.put({"b": b"2"})
        with pytest.raises(InjectedError):
            await register.swap("log", b"1", b"2")
        is_kept = failure is Failure.KEPT
        assert (await store.fetch(["b"]) == [b"2"]) == is_kept
        assert (await register.read("log") == b"2") == is_kept

    asyncio.run(run())


def test_file_store_has_one_writer(tmp_path: Path) -> None:
    """A second writer is refused while the first lives, and a reader is not."""
    first = FileStore.open(tmp_path)
    with pytest.raises(StorageError, match="in use by another process"):
        FileStore.open(tmp_path)
    reader = FileStore.open(tmp_path, is_writer=False)
    asyncio.run(first.put({"a": b"1"}))
    assert asyncio.run(reader.fetch(["a"])) == [b"1"]
    with pytest.raises(UsageError):
        asyncio.run(reader.put({"b": b"2"}))
    first.close()
    FileStore.open(tmp_path).close()


def test_temporary_files_of_a_crash_are_removed(tmp_path: Path) -> None:
    """Opening for writing removes what a crash left, and nothing else."""
    (tmp_path / "tile" / "0").mkdir(parents=True)
    (tmp_path / ".tmp").mkdir()
    (tmp_path / ".tmp" / "1-2").write_bytes(b"half")
    (tmp_path / "tile" / "0" / "000").write_bytes(b"whole")
    store = FileStore.open(tmp_path)
    assert asyncio.run(store.list_keys()) == ["tile/0/000"]
    assert not list((tmp_path / ".tmp").iterdir())
    store.close()


def test_every_file_and_folder_is_synced_before_put_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file is synced before it has its name, and each folder that changed after that."""
    store = FileStore.open(tmp_path)
    events: list[str] = []
    real_fsync, real_link = os.fsync, os.link

    def fsync(handle: int) -> None:
        events.append(f"sync {Path(f'/proc/self/fd/{handle}').readlink().parent.name}")
        real_fsync(handle)

    def link(source: Path, target: Path) -> None:
        events.append(f"link {target.name}")
        real_link(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", link)
    asyncio.run(store.put({"tile/0/000": b"x"}))
    store.close()
    assert events[:2] == ["sync .tmp", "link 000"]
    assert set(events[2:]) == {f"sync {tmp_path.parent.name}", f"sync {tmp_path.name}", "sync tile"}


@pytest.mark.parametrize("count", [2, 40], ids=["one thread", "several threads"])
def test_full_disk_is_a_storage_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """When a file cannot be synced, put raises StorageError with the cure, nothing is stored, and then it works."""
    store = FileStore.open(tmp_path)
    objects = {f"k{number}": b"1" for number in range(count)}

    def fsync(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageError, match="no space left on device; free some"):
        asyncio.run(store.put(objects))
    monkeypatch.undo()
    assert asyncio.run(store.list_keys()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", ".tmp"]
    assert not list((tmp_path / ".tmp").iterdir())
    asyncio.run(store.put(objects))
    assert asyncio.run(store.list_keys()) == sorted(objects)
    store.close()


def test_cancelled_write_does_not_come_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write whose caller was cancelled is over before the caller goes on, so it never replaces what comes next."""
    store = FileStore.open(tmp_path)
    real_replace, started, release = os.replace, threading.Event(), threading.Event()

    def slow_replace(source: Path, target: Path) -> None:
        started.set()
        release.wait(5)
        real_replace(source, target)

    async def run() -> None:
        monkeypatch.setattr(os, "replace", slow_replace)
        late = asyncio.create_task(store.replace({"checkpoint": b"1"}))
        await asyncio.to_thread(started.wait)
        late.cancel()
        await asyncio.sleep(0)
        assert not late.done()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await late
        monkeypatch.undo()
        await store.replace({"checkpoint": b"2"})
        assert await store.fetch(["checkpoint"]) == [b"2"]

    asyncio.run(run())
    store.close()


def test_reader_changes_nothing(tmp_path: Path) -> None:
    """A store that was opened for reading makes no folder and discards nothing."""
    with pytest.raises(StorageError, match="nothing to read"):
        FileStore.open(tmp_path / "typo", is_writer=False)
    assert not (tmp_path / "typo").exists()
    with pytest.raises(UsageError, match="for reading"):
        asyncio.run(FileStore.open(tmp_path, is_writer=False).discard(["a"]))


def test_damaged_register_value_is_refused(tmp_path: Path) -> None:
    """A value whose bits changed on the medium is never returned."""
    path = tmp_path / "register.db"
    register = SQLiteRegister.open(path)
    asyncio.run(register.create("log", b"right"))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE register SET value = ?", (b"wrong",))
    connection.close()
    with pytest.raises(StorageError) as error:
        asyncio.run(register.read("log"))
    assert error.value.reason is Reason.DAMAGED
    assert asyncio.run(register.find_faults()) == []
    register.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_private_objects_are_for_the_owner(tmp_path: Path) -> None:
    """What lies below private/ has mode 0600 in folders of 0700; the rest may be read by everybody."""
    store = FileStore.open(tmp_path)
    asyncio.run(store.put({"private/staging/1/x": b"1", "public/1/checkpoint": b"2"}))
    store.close()

    def mode(name: str) -> int:
        return stat.S_IMODE((tmp_path / name).stat().st_mode)

    assert [mode(name) for name in ("private", "private/staging", "private/staging/1/x")] == [0o700, 0o700, 0o600]
    assert [mode(name) & 0o444 for name in ("public/1", "public/1/checkpoint")] == [0o444, 0o444]


def test_storage_is_named_by_a_url(tmp_path: Path) -> None:
    """`file:` opens a folder relative to the configuration's; another scheme is refused, and so is a second writer."""
    storage = open_storage("file:state", tmp_path)
    asyncio.run(storage.objects.put({"a": b"1"}))
    assert (tmp_path / "state" / "a").read_bytes() == b"1"
    with pytest.raises(StorageError, match="in use"):
        open_storage("file:state", tmp_path)
    storage.close()
    open_storage("file:state", tmp_path).close()
    for url in ("s3:bucket", "state", "file:", "file://state"):
        with pytest.raises(UsageError, match="names no storage"):
            open_storage(url, tmp_path)


def _swap_many(path: Path, count: int, results: "multiprocessing.Queue[int]") -> None:
    """Increment a counter in the register, retrying lost swaps; report how many were lost."""

    async def run() -> int:
        register, lost = SQLiteRegister.open(path), 0
        for _ in range(count):
            while True:
                old = await register.read("counter") or b""
                try:
                    await register.swap("counter", old, b"%d" % (int(old) + 1))
                except ConflictError:
                    lost += 1
                else:
                    break
        register.close()
        return lost

    results.put(asyncio.run(run()))


def test_register_is_linearizable_between_processes(tmp_path: Path) -> None:
    """Two processes that increment one counter by compare-and-swap lose no increment."""
    path = tmp_path / "register.db"
    register = SQLiteRegister.open(path)
    asyncio.run(register.create("counter", b"0"))
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[int] = context.Queue()
    workers = [context.Process(target=_swap_many, args=(path, 50, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert asyncio.run(register.read("counter")) == b"100"
    register.close()


def test_register_is_durable_and_synced(tmp_path: Path) -> None:
    """The database runs in WAL mode with full synchronisation, and a value is there after reopening."""
    path = tmp_path / "register.db"
    register = SQLiteRegister.open(path)
    asyncio.run(register.create("log", b"1"))
    register.close()
    again = SQLiteRegister.open(path)
    assert asyncio.run(again.read("log")) == b"1"
    again.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_register_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """A file that is no database, or a folder, is a StorageError that names it."""
    (tmp_path / "text").write_text("this is no database, but long enough to be looked at as one" * 20)
    for path in (tmp_path / "text", tmp_path):
        with pytest.raises(StorageError, match="cannot be opened"):
            SQLiteRegister.open(path)
