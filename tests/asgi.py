"""Asking an ASGI application without a network: one request, one whole answer."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from starlette.types import ASGIApp, Message


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. headers: names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


async def ask(
    app: ASGIApp,
    target: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    pieces: Iterable[bytes] = (),
) -> Reply:
    """Send one request, its target as it would stand on the request line. pieces: of its body, taken as it is read."""
    path, _, query = target.partition("?")
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(b"host", b"test")]
        + [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
        "server": ("test", 80),
        "client": ("192.0.2.1", 1234),
        "state": {},
    }
    sent: list[Message] = []

    left = iter(pieces)

    async def receive() -> Message:
        piece = next(left, None)
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start, *rest = sent
    fields = {name.decode().lower(): value.decode() for name, value in start["headers"]}
    return Reply(start["status"], fields, b"".join(message.get("body", b"") for message in rest))


def ask_now(app: ASGIApp, target: str, *, method: str = "GET", headers: Mapping[str, str] | None = None) -> Reply:
    """Do the same from a test that is not asynchronous."""
    return asyncio.run(ask(app, target, method=method, headers=headers))
