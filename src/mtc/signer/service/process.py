"""Starts the process that holds the key, as a child that ends with its parent, and starts it again when it dies."""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog

from mtc.errors import Error, PeerError, Reason, StorageError, UsageError
from mtc.signer.service.client import SignerClient
from mtc.signer.service.folder import SOCKET_NAME
from mtc.signer.service.server import Report
from mtc.web.logs import open_logger

COMMAND = (sys.executable, "-m", "mtc", "signer", "serve")
"""What is started; the folder and options follow."""
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_HEALTHY_S = 30.0
_STOP_S = 15.0
_FAMILIES: dict[str, type[Error]] = {family.__name__: family for family in (StorageError, UsageError)}


def report_death(event: str, facts: dict[str, object]) -> None:
    """Write an event to the logs of this process, or to standard error where nobody set up any."""
    if structlog.is_configured():
        open_logger("signer").warning(event, **facts)
    else:
        sys.stderr.write(json.dumps({"event": event, **facts}, default=str) + "\n")


class SignerProcess:
    """The signer of a folder as a child of this process; an async context.

    Entering starts it and waits until it answers. While the context lasts, a child that dies is started again, after a
    pause that grows from 0.1 to 5 s while it keeps dying. Leaving stops it: it finishes the request in hand. The child
    reads a pipe from this process as its standard input and ends when that does, so it never outlives its parent. It
    has a process group of its own, so that an interrupt at the terminal reaches the parent only, which then still can
    finish a round.

    folder: of the signer. socket: where it listens, `signer.sock` in the folder without. passphrase_file: see
    `read_passphrase`; the environment goes over as it is. ready_s: how long one start may take. command: what to
    start.
    """

    def __init__(  # noqa: PLR0913 - the settings of a child process
        self,
        folder: Path,
        *,
        socket: Path | None = None,
        passphrase_file: str | None = None,
        report: Report = report_death,
        ready_s: float = 20.0,
        command: Sequence[str] = COMMAND,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Take the folder and the settings; nothing is started yet."""
        self.socket = folder / SOCKET_NAME if socket is None else socket
        options = [] if socket is None else ["--socket", str(socket)]
        options += [] if passphrase_file is None else ["--passphrase-file", passphrase_file]
        self._command = [*command, str(folder), "--exit-with-parent", "--json", *options]
        self._folder = folder
        self._report = report
        self._ready_s = ready_s
        self._environ = environ
        self._child: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """The child's process ID, None while there is none."""
        return None if self._child is None or self._child.returncode is not None else self._child.pid

    def client(self) -> SignerClient:
        """Return a client of this signer."""
        return SignerClient(self.socket)

    async def wait_ready(self) -> None:
        """Wait until a child that died has been started again; at once while one answers."""
        await self._ready.wait()

    async def __aenter__(self) -> Self:
        """Start the child. Raises the error with which it failed, PeerError when it says nothing in time."""
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        self._keeper = asyncio.create_task(self._keep())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the child; it finishes the request in hand."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await self._stop()

    async def _start(self) -> None:
        """Start a child and wait until it is ready."""
        self._child = child = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=self._environ,
            start_new_session=True,
        )
        assert child.stdout is not None
        try:
            async with asyncio.timeout(self._ready_s):
                line = await child.stdout.readline()
        except TimeoutError:
            raise PeerError(
                Reason.PEER, f"the signer of {self._folder} was not ready within {self._ready_s:g} s"
            ) from None
        except ValueError:
            line = b""
        self._check_greeting(line)
        self._ready.set()

    def _check_greeting(self, line: bytes) -> None:
        """Raise the error that a child reported in place of being ready."""
        greeting: dict[str, Any] = {}
        with contextlib.suppress(ValueError, TypeError):
            greeting = dict(json.loads(line))
        if greeting.get("event") == "ready":
            return
        family, reason = _FAMILIES.get(str(greeting.get("family"))), str(greeting.get("reason"))
        if family is not None and reason in list(Reason):
            raise family(Reason(reason), str(greeting.get("message")))
        raise PeerError(
            Reason.PEER, f"the signer of {self._folder} did not start; what it said stands on standard error"
        )

    async def _keep(self) -> None:
        """Start the child again whenever it dies."""
        pause = _FIRST_PAUSE_S
        while True:
            began = time.monotonic()
            assert self._child is not None
            code = await self._child.wait()
            self._ready.clear()
            if time.monotonic() - began > _HEALTHY_S:
                pause = _FIRST_PAUSE_S
            self._report("signer-died", {"code": code, "pause_s": pause})
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
            try:
                await self._start()
            except (Error, OSError) as error:
                self._report("signer-not-started", {"error": str(error)})
                await self._stop()
            else:
                self._report("signer-restarted", {"pid": self._child.pid})

    async def _stop(self) -> None:
        """End the child: by closing its standard input, at last by force."""
        child = self._child
        if child is None:
            return
        if child.stdin is not None:
            child.stdin.close()
        if child.returncode is None:
            try:
                async with asyncio.timeout(_STOP_S):
                    await child.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
                await child.wait()
        # The pipes are closed by now, but their transports hear of it in the loop's next turns.
        if child.stdout is not None:
            with contextlib.suppress(ValueError):
                await child.stdout.read()
