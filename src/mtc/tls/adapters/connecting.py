"""Connections with the one further attempt that the draft allows, for programs that open them themselves.

After a handshake whose report names a `retry`, the server has something that the client trusts and did not ask for, so
a second connection asks for that alone. It works with the contexts of each back end.

Spec: TLS Trust Anchor Identifiers, "Retry".
"""

import asyncio
import socket
import ssl
from typing import Any

from mtc.ids import TrustAnchorID
from mtc.tls.adapters.clients import ClientReport, asking
from mtc.tls.adapters.stdlib.failures import find_report

TIMEOUT_S = 30.0
"""How long one attempt may take, from the name's look-up to the end of the handshake; seconds."""


def connect(
    host: str,
    port: int = 443,
    *,
    context: ssl.SSLContext,
    server_hostname: str | None = None,
    timeout: float = TIMEOUT_S,
) -> ssl.SSLSocket:
    """Connect to a server, and once more for the ID that a failed handshake names. The caller closes the socket.

    server_hostname: the name in the certificate, `host` by default. timeout: for each wait, seconds; it stays set.
    Raises OSError, of which the exceptions of `ssl` are: that of the second attempt when there was one.
    """

    def attempt() -> ssl.SSLSocket:
        plain = socket.create_connection((host, port), timeout)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return context.wrap_socket(plain, server_hostname=server_hostname or host)
        except BaseException:
            plain.close()
            raise

    try:
        return attempt()
    except ssl.SSLError as error:
        retry = _retry(error)
        if retry is None:
            raise
    with asking(retry):
        return attempt()


async def open_connection(
    host: str,
    port: int = 443,
    *,
    context: ssl.SSLContext,
    server_hostname: str | None = None,
    timeout: float = TIMEOUT_S,  # noqa: ASYNC109 - each attempt has it
    **options: Any,  # noqa: ANN401 - of asyncio.open_connection
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect as `asyncio.open_connection` does, and once more for the ID that a failed handshake names.

    timeout: of each attempt, seconds. options: for `asyncio.open_connection`. Raises OSError, of which the exceptions
    of `ssl` and TimeoutError are: that of the second attempt when there was one.
    """

    async def attempt() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(timeout):
            return await asyncio.open_connection(
                host, port, ssl=context, server_hostname=server_hostname or host, **options
            )

    try:
        return await attempt()
    except ssl.SSLError as error:
        retry = _retry(error)
        if retry is None:
            raise
    with asking(retry):
        return await attempt()


def _retry(error: ssl.SSLError) -> TrustAnchorID | None:
    """Return what to ask for in the second attempt, None when none is due."""
    report = find_report(error, ClientReport)
    return None if report is None else report.retry
