"""Crashes of the ACME client at every system call: what servers would load is old or new, and whole."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.acme_keeping import Bench, MemoryOfNames, check_set, with_server
from tests.acme_script import LIFETIME

from mtc.errors import StorageError


class Crash(BaseException):
    """What no handler of errors catches, as a killed process catches nothing."""


class FailingDisk(MemoryOfNames):
    """Crashes at the n-th system call: before it, or after it."""

    def __init__(self, at: int, *, is_kept: bool, error: type[BaseException] = Crash) -> None:
        super().__init__()
        self.left, self._is_kept, self._error = at, is_kept, error
        for name in ("make_folder", "write", "link", "hard_link", "rename", "unlink", "remove_folder", "sync_folder"):
            setattr(self, name, self._failing(getattr(self, name)))

    def _failing(self, call: Callable[..., None]) -> Callable[..., None]:
        def failing(*arguments: object) -> None:
            self.left -= 1
            if self.left == 0 and not self._is_kept:
                raise self._error
            call(*arguments)
            if self.left == 0:
                raise self._error

        return failing


def _crashes(tmp_path: Path, *, is_kept: bool, error: type[BaseException], outcome: type[BaseException]) -> None:
    """Crash a renewal at each system call, look at what servers would load, and go on."""

    async def test(bench: Bench) -> None:
        bench.server.landmark_wait = None
        await bench.run()
        first = check_set(bench.current)
        template = tmp_path / "template"
        shutil.copytree(bench.root, template, symlinks=True)
        bench.clock.advance(LIFETIME.total_seconds() * 0.8)
        at, made_twice = 0, 0
        while True:
            at += 1
            shutil.rmtree(bench.root)
            shutil.copytree(template, bench.root, symlinks=True)
            before = bench.server.issued()
            bench.disk = disk = FailingDisk(at, is_kept=is_kept, error=error)
            try:
                await bench.run()
            except outcome:
                # Old or new, but whole.
                check_set(bench.current)
                bench.disk = MemoryOfNames()
                report = await bench.run()
                assert report.is_ok
            leaf = check_set(bench.current)
            assert leaf.not_before > first.not_before
            assert check_set(bench.folder / "previous").serial == first.serial
            assert (bench.current / "landmark.pem").exists()
            assert not [path for path in bench.root.rglob(".*") if path.name.endswith((".new", ".old"))]
            assert not (bench.folder / "order").exists()
            made_twice += bench.server.issued() - before - 1
            if disk.left > 0:
                break
        assert at > 30, "a renewal is more than that"
        assert made_twice == 0, "an order that was under way is gone on with"

    with_server(tmp_path / "out", test)


@pytest.mark.parametrize("is_kept", [False, True], ids=["lost", "kept"])
def test_crashes_leave_a_whole_set(tmp_path: Path, is_kept: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """A process that dies at any system call leaves the old or the new set whole; the next run goes on."""
    _crashes(tmp_path, is_kept=is_kept, error=Crash, outcome=Crash)


def test_full_disk_leaves_a_whole_set(tmp_path: Path) -> None:
    """A disk that refuses any one call is reported as such; the old set stays whole, and the next run goes on."""
    _crashes(tmp_path, is_kept=False, error=OSError, outcome=StorageError)


def test_first_run_survives_crashes(tmp_path: Path) -> None:
    """A crash at any system call of the very first run costs at most one account key that nobody knows, and no set."""

    async def test(bench: Bench) -> None:
        at = 0
        while True:
            at += 1
            bench.plan = replace(bench.plan, root=tmp_path / f"out-{at}")
            bench.disk = disk = FailingDisk(at, is_kept=False)
            try:
                await bench.run()
            except Crash:
                if bench.current.exists():
                    check_set(bench.current)
                bench.disk = MemoryOfNames()
                assert (await bench.run()).is_ok
            check_set(bench.current)
            if disk.left > 0:
                break
        assert at > 20

    with_server(tmp_path / "out-1", test)
