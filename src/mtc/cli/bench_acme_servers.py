"""ACME servers that `mtc bench acme` measures: real processes on the loopback, in throw-away folders."""

import asyncio
import contextlib
import json
import os
import shutil
import ssl
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mtc.acme.config import CONFIG_NAME, FOLDER_NAME
from mtc.ca.config import CAConfig
from mtc.ca.folder import create_folder
from mtc.errors import PeerError, Reason
from mtc.ids import TrustAnchorID
from mtc.testing.fleet import START_S, free_port
from mtc.web.tls import CERTIFICATE_NAME, TLSFiles, ensure_bootstrap

PEBBLE = "pebble"
"""The program, as in Debian's package of that name."""
CA_ID = TrustAnchorID.parse("32473.1")
MOCKED_MODULE = "mtc.cli.bench_acme_mocked"
_PEBBLE_STALL_S = 5.0
_PEBBLE_CONFIG = "pebble.json"
_POLL_S = 0.02
_STOP_S = 15.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What validation meets. http_port: where http-01 is answered. name_server: `host:port` of the DNS server."""

    http_port: int
    name_server: str


@dataclass(frozen=True, slots=True)
class Target:
    """A server to measure. directory_url: where clients begin. tls: what its certificate is checked with.

    pids: of its first processes. round_interval: of its log, None without one. new_orders: how many requests for a new
    order it bears at once, None for any number. request_s: longest wait for one answer.
    """

    directory_url: str
    tls: ssl.SSLContext
    pids: tuple[int, ...]
    round_interval: timedelta | None = None
    new_orders: int | None = None
    request_s: float = 30.0

    def cpu_s(self) -> float:
        """Return the processor time that the server has taken so far, with its children."""
        return sum(_cpu_s(pid) for first in self.pids for pid in processes_below(first))


# Our own server.


@asynccontextmanager
async def running_own(folder: Path, surroundings: Surroundings) -> AsyncIterator[Target]:
    """Start a private CA with its ACME server: one local perspective, no cosigners, rounds of 100 ms."""
    async with _running_private(folder, surroundings, ("-m", "mtc", "ca", "serve")) as target:
        yield target


@asynccontextmanager
async def running_mocked(folder: Path, surroundings: Surroundings) -> AsyncIterator[Target]:
    """Start the same with a validator that looks at nothing and always agrees."""
    async with _running_private(folder, surroundings, ("-m", MOCKED_MODULE)) as target:
        yield target


@asynccontextmanager
async def _running_private(folder: Path, surroundings: Surroundings, command: Sequence[str]) -> AsyncIterator[Target]:
    config, port = CAConfig(ca_id=CA_ID, listen=None), free_port()
    create_folder(folder, config, None, datetime.now(UTC))
    write_acme_config(folder, port, surroundings)
    async with running_ca(folder, command, port) as pid:
        yield own_target(folder, port, (pid,), config.profile.round_interval)


def write_acme_config(folder: Path, port: int, surroundings: Surroundings, more: str = "") -> None:
    """Have a CA serve ACME. more: further tables of the file.

    Names are validated on this machine, and nobody orders as much from one address as a benchmark does.
    """
    (folder / CONFIG_NAME).write_text(
        f"""url = "https://localhost:{port}/acme"
listen = "127.0.0.1:{port}"
unsafe_for_tests = true
order_lifetime = "1d"

[validation]
resolvers = ["{surroundings.name_server}"]
dnssec = "off"
allow_private = true
http_port = {surroundings.http_port}

[limits]
new_accounts = "1000000/1h"
new_orders = "1000000/1h"
{more}""",
        encoding="utf-8",
    )


@asynccontextmanager
async def running_ca(folder: Path, command: Sequence[str], port: int) -> AsyncIterator[int]:
    """Run a CA's process in its folder until the context ends; yield its process ID when ACME answers."""
    arguments = [sys.executable, *command, str(folder), "--json"]
    async with running(arguments, folder.with_name(f"{folder.name}.log"), port) as pid:
        yield pid


def own_target(folder: Path, port: int, pids: Sequence[int], round_interval: timedelta) -> Target:
    """Return the server of a CA's folder, which runs."""
    tls = ssl.create_default_context(cafile=folder / FOLDER_NAME / CERTIFICATE_NAME)
    return Target(f"https://localhost:{port}/acme/directory", tls, tuple(pids), round_interval)


# Pebble.


def has_pebble() -> bool:
    """Tell whether Pebble is installed."""
    return shutil.which(PEBBLE) is not None


@asynccontextmanager
async def running_pebble(folder: Path, surroundings: Surroundings) -> AsyncIterator[Target]:
    """Start Pebble without its artificial delays and refusals. Raises PeerError when it does not come up."""
    port = free_port()
    files = _prepare_pebble(folder, port, surroundings)
    arguments = [PEBBLE, "-config", str(folder / _PEBBLE_CONFIG), "-dnsserver", surroundings.name_server]
    environment = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}
    async with running(arguments, folder / "pebble.log", port, environment) as pid:
        tls = ssl.create_default_context(cafile=files.certificate)
        # Pebble 2.4.0 stands still for good when one newOrder holds the lock of its store and waits for that of an
        # authorization (FindValidAuthorization), and another holds them the other way round (makeChallenges). One
        # newOrder at a time makes that rarer; a run that stood still is made again, with a new process.
        yield Target(f"https://localhost:{port}/dir", tls, (pid,), new_orders=1, request_s=_PEBBLE_STALL_S)


def _prepare_pebble(folder: Path, port: int, surroundings: Surroundings) -> TLSFiles:
    """Write Pebble's configuration; return what it serves HTTPS with."""
    folder.mkdir(exist_ok=True)
    files = ensure_bootstrap(folder, ["localhost"], datetime.now(UTC))
    config = {
        "listenAddress": f"127.0.0.1:{port}",
        "managementListenAddress": f"127.0.0.1:{free_port()}",
        "certificate": str(files.certificate),
        "privateKey": str(files.key),
        "httpPort": surroundings.http_port,
        "tlsPort": free_port(),
    }
    (folder / _PEBBLE_CONFIG).write_text(json.dumps({"pebble": config}))
    return files


# Processes.


@asynccontextmanager
async def running(
    arguments: Sequence[str], log: Path, port: int, environment: dict[str, str] | None = None
) -> AsyncIterator[int]:
    """Run a program until the context ends; yield its process ID when a port accepts connections.

    log: what it writes. environment: in addition to ours. Raises PeerError with its last words when it does not start.
    """
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *arguments,
            env={**os.environ, **(environment or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        await _until_up(process, port, log)
        yield process.pid
    finally:
        await _stop(process)


async def _until_up(process: asyncio.subprocess.Process, port: int, log: Path) -> None:
    """Wait until a port accepts connections. Raises PeerError."""
    until = time.monotonic() + START_S
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        if process.returncode is not None or time.monotonic() > until:
            raise PeerError(Reason.PEER, f"{log.stem} does not come up: {_last_words(log)}")
        await asyncio.sleep(_POLL_S)


def _last_words(log: Path) -> str:
    """Return the end of what a process wrote."""
    return log.read_text("utf-8", "replace")[-800:].strip()


async def _stop(process: asyncio.subprocess.Process) -> None:
    """End a process; kill it when it does not end."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def processes_below(pid: int) -> Iterator[int]:
    """Yield a process and all its descendants; nothing more where the system does not tell."""
    yield pid
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from processes_below(int(child))


def _cpu_s(pid: int) -> float:
    """Return the processor time of one process."""
    try:
        # The name in parentheses may hold spaces; user and system time are the 14th and 15th field.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
