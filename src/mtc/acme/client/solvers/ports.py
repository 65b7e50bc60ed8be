"""Listening on a port, and saying who has it when it is taken."""

import asyncio
import errno
import os
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

from mtc.errors import Reason, UsageError

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_LISTEN = "0A"
_LINE_BYTES = 8 << 10


async def listen(
    handler: Handler, host: str | None, port: int, option: str, tls: ssl.SSLContext | None = None
) -> asyncio.Server:
    """Listen for TCP connections, on all addresses without a host.

    option: the name of the option that chooses the port. Raises UsageError with who has the port, or what right is
    missing.
    """
    try:
        return await asyncio.start_server(handler, host, port, ssl=tls, limit=_LINE_BYTES)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(
                Reason.BUSY,
                f"port {port} is taken{name_holder(port)}; stop that meanwhile, choose another port with {option} "
                "where requests are forwarded to, or let the running server answer (--webroot)",
                port=port,
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise UsageError(
                Reason.FORBIDDEN,
                f"port {port} needs rights that this process does not have: run it as root, or allow it with "
                f"sysctl net.ipv4.ip_unprivileged_port_start={port}, or choose another port with {option} and forward",
                port=port,
            ) from None
        raise UsageError(
            Reason.USAGE, f"cannot listen on port {port}: {(error.strerror or str(error)).lower()}", port=port
        ) from None


def name_holder(port: int) -> str:
    """Return ` by NAME (pid N)` for who listens on a TCP port of this machine, nothing when that cannot be seen."""
    inodes = _listening_inodes(port)
    if not inodes:
        return ""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(handle) in wanted for handle in (process / "fd").iterdir()):  # noqa: PTH115 - a link to no path
                return f" by {(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:
            # Another user's process, or one that just ended.
            continue
    return ""


def _listening_inodes(port: int) -> set[str]:
    """Return the inodes of the sockets that listen on a port, as Linux lists them."""
    inodes: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if len(fields) > 9 and fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(fields[9])
    return inodes
