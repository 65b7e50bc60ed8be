"""Serving an application on TCP or a Unix socket inside a running event loop, with an end that finishes answers."""

import asyncio
import contextlib
import logging
import socket
import ssl
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from mtc.errors import Reason, UsageError
from mtc.web.unix import bind_unix, remove_socket

MAX_HEAD_BYTES = 64 << 10
"""Most bytes of a request's head, as in h11 four times over; beyond, the connection is closed."""
HEAD_TIME_S = 10.0
"""How long the head of a request may take, so that slow clients do not hold connections."""
HANDSHAKE_TIME_S = 10.0
"""How long a TLS handshake may take; one that says nothing must not hold a connection."""
_GOODBYE_TIME_S = 5.0
_TICK_S = 1.0
"""How often uvicorn renews the Date of answers."""
_TICKS = 10
"""uvicorn counts ten ticks to a second."""
_LOOK_S = 0.005
"""How often a server that stops looks whether its last answer is out."""
_BACKLOG = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """Numbers of a server. connections: open at once; more get 503. keep_alive_s: of an idle connection.

    stop_s: how long running answers may take after the stop; then they are cut off.
    """

    connections: int = 2000
    keep_alive_s: int = 75
    stop_s: int = 10


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a server listens. address: host and port, the port a real one, or a Unix socket's path."""

    address: tuple[str, int] | Path
    is_tls: bool = False

    @property
    def url(self) -> str:
        """The server's base URL without a slash at its end; `http://unix` for a Unix socket."""
        if isinstance(self.address, Path):
            return "http://unix"
        host, port = self.address
        scheme = "https" if self.is_tls else "http"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def loop_factory() -> Callable[[], AbstractEventLoop]:
    """Return what makes the event loop of a server's process: uvloop, where it is installed.

    For `asyncio.Runner(loop_factory=...)`.
    """
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


@contextlib.asynccontextmanager
async def serve(
    app: ASGIApp,
    address: tuple[str, int] | Path,
    limits: ServerLimits | None = None,
    *,
    tls: ssl.SSLContext | None = None,
    observe_tls: Callable[[ssl.SSLObject], None] = lambda _: None,
) -> AsyncIterator[Listening]:
    """Serve an application until the context ends; then finish the answers that are under way.

    address: host and port (0 for any free one), or the path of a Unix socket, which only its owner may open. tls: a
    server's context, for example `ServerTLS.context`; a Unix socket needs none. Handlers read in
    `request.state.listener` whether a request came over "unix" or "tcp", and, where the context asks for one, the
    client's certificate in `request.state.client_certificate`, DER. observe_tls: called once for each connection, after
    its handshake; must not raise. Signals stay the caller's. Raises UsageError when the address cannot be used.
    """
    limits = limits or ServerLimits()
    bound = bind_unix(address) if isinstance(address, Path) else _bind_tcp(*address)
    config = uvicorn.Config(
        _Labelled(app, "unix" if isinstance(address, Path) else "tcp"),
        http=_LimitedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        limit_concurrency=limits.connections,
        timeout_keep_alive=limits.keep_alive_s,
        timeout_graceful_shutdown=limits.stop_s,
    )
    is_tls = tls is not None and not isinstance(address, Path)
    server = _Embedded(config, bound, tls if is_tls else None, observe_tls)
    bound.listen(_BACKLOG)
    listening = Listening(address if isinstance(address, Path) else bound.getsockname()[:2], is_tls)
    task = asyncio.create_task(server.serve())
    try:
        await server.until_started(task)
        yield listening
    finally:
        server.stop()
        # Also a cancelled program finishes its answers, within `stop_s`.
        await asyncio.shield(task)
        if isinstance(address, Path):
            remove_socket(address)


def _bind_tcp(host: str, port: int) -> socket.socket:
    """Return a bound TCP socket."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(Reason.USAGE, f"{host} is no address to listen on: {error.strerror}") from None
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(place)
    except OSError as error:
        bound.close()
        raise UsageError(
            Reason.BUSY, f"cannot listen on {host}, port {port}: {(error.strerror or '').lower()}; choose another port"
        ) from None
    return bound


class _Embedded(uvicorn.Server):
    """A uvicorn on one bound socket, which leaves signals to the program around it and bounds handshakes in time.

    It stops when it is told to and its last answer is out; uvicorn itself looks for both every tenth of a second.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        bound: socket.socket,
        tls: ssl.SSLContext | None,
        observe_tls: Callable[[ssl.SSLObject], None],
    ) -> None:
        super().__init__(config)
        self._bound, self._tls, self._observe_tls = bound, tls, observe_tls
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Take no more connections, and finish the answers that are under way."""
        self.should_exit = True
        self._stopping.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Listen; uvicorn itself leaves the time of a handshake at asyncio's minute."""
        await super().startup(sockets=[])
        is_tls = self._tls is not None
        listener = await asyncio.get_running_loop().create_server(
            lambda: _LimitedProtocol(self.config, self.server_state, {}, observe_tls=self._observe_tls),
            sock=self._bound,
            ssl=self._tls,
            backlog=_BACKLOG,
            ssl_handshake_timeout=HANDSHAKE_TIME_S if is_tls else None,
            ssl_shutdown_timeout=_GOODBYE_TIME_S if is_tls else None,
        )
        self.servers.append(listener)

    async def main_loop(self) -> None:
        """Renew the Date of answers until it is time to stop."""
        while not await self.on_tick(_TICKS):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S):
                    await self._stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Close what is idle; cut off what is not done in time."""
        state = self.server_state
        for server in self.servers:
            server.close()
        for connection in list(state.connections):
            connection.shutdown()
        try:
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                while state.connections or state.tasks:  # noqa: ASYNC110 - they are sets of uvicorn's, not events
                    await asyncio.sleep(_LOOK_S)
                for server in self.servers:
                    await server.wait_closed()
        except TimeoutError:
            for task in state.tasks:
                task.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Any:  # noqa: ANN401 - uvicorn's own annotation is a generator
        """Capture none."""
        yield

    async def until_started(self, task: "asyncio.Task[None]") -> None:
        """Wait until connections are accepted; raise what ended the server before."""
        while not self.started:
            if task.done():
                task.result()
                raise UsageError(Reason.USAGE, "the server ended before it began")
            await asyncio.sleep(0)


class _Labelled:
    """Tells handlers on which kind of socket a request came."""

    def __init__(self, app: ASGIApp, listener: str) -> None:
        self._app = app
        self._listener = listener

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, labelled."""
        scope.setdefault("state", {})["listener"] = self._listener
        await self._app(scope, receive, send)


class _Gathering:
    """A transport that sends at once what is written in one step of the event loop.

    uvicorn writes the head of an answer and its body apart. Over TLS each write is a record and a system call of its
    own, together an eighth of what a small answer costs.
    """

    def __init__(self, transport: asyncio.Transport, loop: AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Send soon."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        """Send what is left, and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._parts:
            data = b"".join(self._parts)
            self._parts.clear()
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a transport has
        return getattr(self._transport, name)


class _LimitedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with a bound on the size of a request's head and on the time it takes to arrive."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: AbstractEventLoop | None = None,
        *,
        observe_tls: Callable[[ssl.SSLObject], None],
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._observe_tls = observe_tls
        self._head_bytes = 0
        self._awaits_head = True
        self._head_timer: TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Start to wait for a head."""
        super().connection_made(_Gathering(transport, self.loop))  # type: ignore[arg-type]  # it does what is needed
        handshake = transport.get_extra_info("ssl_object")
        if handshake is not None:
            self._observe_tls(handshake)
        certificate = None if handshake is None else handshake.getpeercert(binary_form=True)
        if certificate is not None:
            self.app_state = {**self.app_state, "client_certificate": certificate}
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, as long as the head is not too long."""
        if self._awaits_head:
            self._head_bytes += len(data)
            self._start_timer()
        super().data_received(data)
        if self._awaits_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The head of the request is too long.")

    def on_headers_complete(self) -> None:
        """Note that the head is there."""
        self._awaits_head, self._head_bytes = False, 0
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note that the next head may come."""
        self._awaits_head = True
        super().on_message_complete()

    def _start_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIME_S, self._give_up)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        """Close a connection whose head does not come."""
        if self._awaits_head:
            self.transport.close()
