"""What holds the processes of a demonstration, so that none outlives it, however it ends.

A small process keeps a list of process groups, and ends them when its standard input ends: that happens also when the
demonstration is killed and can do nothing any more. One that was started in that very moment, and is not on the list,
is known by a mark in its environment, where there is /proc. The file is run by its path and imports the standard
library alone, so that it starts at once.
"""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Self

PATIENCE_S = 3.0
"""How long what is held may take to end by itself, before it is killed."""
_LATE_S = 0.5
"""How long it is looked for what was just being started."""
_POLL_S = 0.02
_MARK = "MTC_DEMO_LEASH"
_END = "end"
_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Leash:
    """The process that ends the others; a context manager. What is held must lead a process group of its own.

    While it is open, SIGINT, SIGTERM and SIGHUP end the main thread's work as an exception does, so that what is open
    is closed.
    """

    def __init__(self) -> None:
        """Prepare; nothing runs before the context begins."""
        self._process: subprocess.Popen[bytes] | None = None
        self._token = secrets.token_hex(16)
        self._handlers: dict[int, object] = {}
        self._is_starting = False
        self._late: BaseException | None = None

    def __enter__(self) -> Self:
        """Start."""
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._end) for number in _ENDINGS}
        self._process = subprocess.Popen(  # noqa: S603 - this file
            [sys.executable, "-I", "-S", __file__, self._token], stdin=subprocess.PIPE, start_new_session=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End what is still held."""
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._tell(f"{_END}\n")
            self._process.stdin.close()
        self._process.wait()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what `signal.signal` gave
        self._handlers = {}

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Let signals wait for the end of the block, in which a process is started and held: none may be lost."""
        self._is_starting = True
        try:
            yield
        finally:
            self._is_starting = False
        if self._late is not None:
            late, self._late = self._late, None
            raise late

    @property
    def environment(self) -> dict[str, str]:
        """Return what stands in the environment of whatever is to be held."""
        return {_MARK: self._token}

    def hold(self, group: int) -> None:
        """End this process group with the demonstration."""
        self._tell(f"{group}\n")

    def release(self, group: int) -> None:
        """Forget a process group that has ended; its number may be given to others."""
        self._tell(f"-{group}\n")

    def _tell(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode())
        self._process.stdin.flush()

    def _end(self, number: int, _frame: FrameType | None) -> None:
        error = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
        if not self._is_starting:
            raise error
        self._late = error


def keep_until_end(token: str) -> None:
    """Read groups from standard input until it ends, then end those that were not released. token: the mark."""
    for number in _ENDINGS:
        signal.signal(number, signal.SIG_IGN)
    held: set[int] = set()
    is_orderly = False
    for line in sys.stdin:
        if line.strip() == _END:
            is_orderly = True
        elif (group := int(line)) > 0:
            held.add(group)
        else:
            held.discard(-group)
    began = time.monotonic()
    held = {group for group in held if _send(group, signal.SIGTERM)}
    while not is_orderly and time.monotonic() - began < _LATE_S:
        held |= {group for group in _find(token) - held if _send(group, signal.SIGTERM)}
        time.sleep(_POLL_S)
    while held and time.monotonic() - began < PATIENCE_S:
        time.sleep(_POLL_S)
        held = {group for group in held if _send(group, 0)}
    for group in held:
        _send(group, signal.SIGKILL)


def _find(token: str) -> set[int]:
    """Return the groups of the processes that have the mark in their environment."""
    mark, found = f"{_MARK}={token}".encode(), set()
    for name in os.listdir("/proc") if os.path.isdir("/proc") else []:  # noqa: PTH112, PTH208 - as below
        if name.isdecimal():
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as environ:  # noqa: PTH123 - as below
                if mark in environ.read():
                    found.add(os.getpgid(int(name)))
    return found


def _send(group: int, number: int) -> bool:
    """Send a signal to a process group; tell whether its leader may still run."""
    try:
        os.killpg(group, number)
        # One that has ended and that nobody has asked about is no process any more.
        with open(f"/proc/{group}/stat", "rb") as stat:  # noqa: PTH123 - pathlib takes longer to load than the rest
            return stat.read().rpartition(b")")[2].split()[0] != b"Z"
    except ProcessLookupError:
        return False
    except OSError:
        # There is no such file outside Linux.
        return True


if __name__ == "__main__":
    keep_until_end(sys.argv[1])
