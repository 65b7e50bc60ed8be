"""Answers http-01 challenges for all clients of a process, from one dictionary and one listening socket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_PREFIX = b"GET /.well-known/acme-challenge/"
_MAX_HEAD_BYTES = 16 << 10
_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class AnsweringServer:
    """Serves key authorizations under the path of http-01 (RFC 8555, "HTTP Challenge"). Use `listen`.

    Every answer ends its connection, because a validator asks once.
    """

    def __init__(self) -> None:
        self._answers: dict[bytes, bytes] = {}
        self.port = 0
        """Where it listens."""
        self.answered = 0
        """How many requests were answered with a key authorization."""

    def put(self, token: str, key_authorization: str) -> None:
        """Answer requests for a token."""
        body = key_authorization.encode()
        self._answers[token.encode()] = (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n"
            b"Connection: close\r\n\r\n%b" % (len(body), body)
        )

    def discard(self, token: str) -> None:
        """Answer no more."""
        self._answers.pop(token.encode(), None)

    def answer(self, head: bytes) -> bytes:
        """Return the answer to the head of a request."""
        token = head[len(_PREFIX) :].partition(b" ")[0] if head.startswith(_PREFIX) else b""
        found = self._answers.get(token)
        self.answered += found is not None
        return found or _NOT_FOUND

    @staticmethod
    @asynccontextmanager
    async def listen(host: str = "127.0.0.1", port: int = 0) -> AsyncIterator["AnsweringServer"]:
        """Listen. port: 0 for any free one."""
        answering = AnsweringServer()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _AnsweringProtocol(answering), host, port, backlog=1024)
        answering.port = server.sockets[0].getsockname()[1]
        try:
            yield answering
        finally:
            server.close()


class _AnsweringProtocol(asyncio.Protocol):
    """One connection, one request."""

    def __init__(self, answering: AnsweringServer) -> None:
        self._answering = answering
        self._head = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport  # type: ignore[assignment]  # that of uvloop is no subclass

    def data_received(self, data: bytes) -> None:
        """Answer as soon as the head is whole."""
        assert self._transport is not None
        self._head += data
        if b"\r\n\r\n" in self._head:
            self._transport.write(self._answering.answer(self._head))
            self._transport.close()
        elif len(self._head) > _MAX_HEAD_BYTES:
            self._transport.abort()
