"""http-01: a web server of our own for the moment, or files for one that runs.

Spec: RFC 8555, "HTTP Challenge".
"""

import asyncio
import contextlib
from pathlib import Path

from mtc.acme.client.solvers.contract import Answer
from mtc.acme.client.solvers.ports import listen
from mtc.acme.machine.validation import Method
from mtc.errors import Reason, UsageError

WELL_KNOWN = "/.well-known/acme-challenge/"
_REQUEST_S = 10.0
_MAX_HEADERS = 100
_MAX_CONNECTIONS = 64


class HTTPSolver:
    """Serves answers on a port, as long as there are any. host: None for all addresses of this machine."""

    method = Method.HTTP_01

    def __init__(self, port: int = 80, host: str | None = None) -> None:
        """Take where to listen."""
        self._port = port
        self._host = host
        # Key authorizations by token; presented and withdrawn by the event loop only.
        self._answers: dict[str, str] = {}
        self._server: asyncio.Server | None = None
        self._opening = asyncio.Lock()
        self._places = asyncio.Semaphore(_MAX_CONNECTIONS)

    async def present(self, answer: Answer) -> None:
        """Serve one more answer."""
        self._answers[answer.token] = answer.key_authorization
        async with self._opening:
            if self._server is None:
                self._server = await listen(self._serve, self._host, self._port, "--http-port")

    async def withdraw(self, answer: Answer) -> None:
        """Serve it no longer; the last one closes the port."""
        self._answers.pop(answer.token, None)
        if not self._answers:
            await self.close()

    async def close(self) -> None:
        """Close the port."""
        async with self._opening:
            server, self._server = self._server, None
            if server is not None:
                # Connections that are open end by themselves; nobody waits for them.
                server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection, one request."""
        try:
            async with self._places, asyncio.timeout(_REQUEST_S):
                line = await reader.readline()
                for _ in range(_MAX_HEADERS):
                    if (await reader.readline()).strip() == b"":
                        break
                writer.write(self._respond(line))
                await writer.drain()
        except (TimeoutError, OSError, ValueError):
            # Whoever asks so slowly or so much is no validation server.
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _respond(self, line: bytes) -> bytes:
        """Return the answer to a request line."""
        parts = line.decode("latin-1").split()
        path = parts[1].partition("?")[0] if len(parts) == 3 else ""
        found = self._answers.get(path.removeprefix(WELL_KNOWN)) if path.startswith(WELL_KNOWN) else None
        status, body = ("200 OK", found) if found is not None and parts[0] == "GET" else ("404 Not Found", "not here\n")
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n"
        return f"{head}Connection: close\r\n\r\n{body}".encode("ascii")


class WebrootSolver:
    """Writes answers into the folder of a web server that runs. folder: what it serves as `/`."""

    method = Method.HTTP_01

    def __init__(self, folder: Path) -> None:
        """Take the folder."""
        self._folder = folder / WELL_KNOWN.strip("/")

    async def present(self, answer: Answer) -> None:
        """Write a file that everybody may read."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / answer.token
            path.write_text(answer.key_authorization)
            path.chmod(0o644)
        except OSError as error:
            raise UsageError(
                Reason.UNREADABLE,
                f"{self._folder} cannot be written: {(error.strerror or str(error)).lower()}; is --webroot right?",
            ) from None

    async def withdraw(self, answer: Answer) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            (self._folder / answer.token).unlink(missing_ok=True)

    async def close(self) -> None:
        """Leave the folders: others may use them too."""
