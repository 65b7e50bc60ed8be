"""A headless Chromium with a fresh profile, spoken to over the DevTools protocol, and its net log.

For tests and demonstrations: what the browser makes of a certificate is read back from itself. Nothing is fetched from
outside; names are mapped to loopback.

Spec: Chrome DevTools Protocol, domains "Page", "Security" and "Target".
"""

import asyncio
import base64
import contextlib
import ctypes
import itertools
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp

from mtc.errors import PeerError, Reason, UsageError
from mtc.testing.chromium_profile import COMPONENT_FILES, write_components
from mtc.trust import TrustStore

PACKAGE = "chromium"
"""The program, and Debian's package of it."""
NET_LOG = "net-log.json"
START_S = 120.0
"""How long the browser may take until it answers, and again until it has read its components: 3 s when all is well."""
PATIENCE_S = 60.0
"""How long a page that must load may fail: what was read reaches the part of the browser that verifies a bit later."""
_STOP_S = 30.0
_CALL_S = 60.0
_SETTLE_S = 20.0
_POLL_S = 0.05
_MAX_MESSAGE_BYTES = 64 << 20
_IN_ACCESS = 1
_FLAGS = (
    "--headless=new",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-sync",
    "--hide-scrollbars",
    "--no-first-run",
    "--remote-debugging-port=0",
    "--window-size=1000,640",
    "--net-log-capture-mode=IncludeSensitive",
)
_SILENT = ["--enable-features=VerifyMTCs", "--disable-features=TLSTrustAnchorIDs"]


@dataclass(frozen=True, slots=True)
class Page:
    """What became of one address. error: the browser's name of the failure, such as `net::ERR_CERT_INVALID`, or empty.

    security_state: the browser's word, `secure` where all is well. certificate: the leaf that it says the page came
    with, DER, empty for none. protocol, key_exchange: of the connection. issuer: as it shows it.
    """

    url: str
    error: str
    security_state: str
    certificate: bytes
    protocol: str
    key_exchange: str
    issuer: str

    @property
    def is_secure(self) -> bool:
        """True when the page was loaded, and the browser says that it is secure."""
        return not self.error and self.security_state == "secure"


def find_chromium() -> str | None:
    """Return the program, None where it is not installed."""
    return shutil.which(PACKAGE)


def require_chromium() -> str:
    """Return the program. Raises UsageError where it is not installed."""
    program = find_chromium()
    if program is None:
        raise UsageError(Reason.UNSUPPORTED, f"there is no {PACKAGE} here (Debian: apt install {PACKAGE})")
    return program


class Browser:
    """A browser that runs, with one tab for the page of interest. Use `open_browser`."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Take the connection to the browser."""
        self._socket = socket
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, object]]] = {}
        self._target = ""
        # The tab's own stream of events; what is said of earlier tabs, late, is left out by it.
        self._session = ""
        # The security states that the browser reported of the tab.
        self._states: list[dict[str, object]] = []
        self._loaded = asyncio.Event()

    async def listen(self) -> None:
        """Read what the browser says until it ends; runs beside everything else."""
        try:
            async for message in self._socket:
                self._take(json.loads(message.data))
        finally:
            for future in self._answers.values():
                if not future.done():
                    future.set_exception(PeerError(Reason.PEER, "the browser has ended"))

    def _take(self, document: dict[str, Any]) -> None:
        """Take one message: an answer, or an event of the tab."""
        future = self._answers.pop(document.get("id", 0), None)
        if future is not None and not future.done():
            future.set_result(document)
        elif document.get("sessionId") != self._session:
            return
        elif document.get("method") == "Security.visibleSecurityStateChanged":
            self._states.append(document["params"]["visibleSecurityState"])
        elif document.get("method") == "Page.loadEventFired":
            self._loaded.set()

    async def _open_tab(self) -> None:
        """Replace the tab by a new one, whose security state is nobody else's. Raises PeerError."""
        old, self._session = self._target, ""
        target = await self.call("Target.createTarget", {"url": "about:blank"})
        self._target = str(target["targetId"])
        answer = await self.call("Target.attachToTarget", {"targetId": self._target, "flatten": True})
        if old:
            await self.call("Target.closeTarget", {"targetId": old})
        self._session = str(answer["sessionId"])
        for domain in ("Page", "Security"):
            await self.call(f"{domain}.enable", {})
        self._states.clear()
        self._loaded.clear()

    async def call(self, method: str, parameters: Mapping[str, object]) -> dict[str, object]:
        """Call a method and return its result. Raises PeerError."""
        number = next(self._ids)
        message: dict[str, object] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        future = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json(message)
        try:
            async with asyncio.timeout(_CALL_S):
                answer = await future
        except TimeoutError:
            raise PeerError(Reason.PEER, f"the browser does not answer {method}") from None
        result = answer.get("result")
        if not isinstance(result, dict):
            raise PeerError(Reason.PEER, f"the browser refused {method}: {answer.get('error')}")
        return result

    async def visit(self, url: str) -> Page:
        """Go to an address once, in a new tab, and return what came of it. Raises PeerError when the browser fails."""
        await self._open_tab()
        answer = await self.call("Page.navigate", {"url": url})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CALL_S):
                await self._loaded.wait()
        # The browser reports the state a moment after the page, and may report it twice.
        for _ in range(int(_SETTLE_S / _POLL_S)):
            if self._states and self._states[-1].get("certificateSecurityState"):
                break
            await asyncio.sleep(_POLL_S)
        state = self._states[-1] if self._states else {}
        seen = state.get("certificateSecurityState")
        seen = seen if isinstance(seen, dict) else {}
        leaf = (seen.get("certificate") or [""])[0]
        return Page(
            url,
            str(answer.get("errorText", "")),
            str(state.get("securityState", "unknown")),
            base64.b64decode(leaf),
            str(seen.get("protocol", "")),
            str(seen.get("keyExchangeGroup") or seen.get("keyExchange") or ""),
            str(seen.get("issuer", "")),
        )

    async def visit_patiently(self, url: str, patience_s: float = PATIENCE_S) -> Page:
        """Go to an address that must be secure, again and again until it is or time is over; return the last try."""
        loop = asyncio.get_running_loop()
        until = loop.time() + patience_s
        while True:
            page = await self.visit(url)
            if page.is_secure or loop.time() > until:
                return page
            await asyncio.sleep(_POLL_S)

    async def screenshot(self) -> bytes:
        """Return what the tab shows, PNG."""
        answer = await self.call("Page.captureScreenshot", {"format": "png"})
        return base64.b64decode(str(answer["data"]))

    async def close(self) -> None:
        """Let the browser end by itself, so that its net log is whole."""
        self._session = ""
        # It may end before it answers.
        with contextlib.suppress(PeerError):
            await self.call("Browser.close", {})


@asynccontextmanager
async def open_browser(
    folder: Path, store: TrustStore, hosts: Mapping[str, str], now: datetime, *, is_asking: bool = True
) -> AsyncIterator[Browser]:
    """Start a browser that trusts a store; it ends with the context, whatever happens.

    folder: for profile and net log, in which there are none. hosts: names, and where they lead, such as `127.0.0.1`.
    is_asking: send the `trust_anchors` extension. Raises UsageError when there is no Chromium here, PeerError when it
    does not start.
    """
    program = require_chromium()
    profile = folder / "profile"
    write_components(profile, store, now)
    # Whatever else the browser asks for, on its own account, leads nowhere; it would update its components otherwise.
    rules = ",".join([*(f"MAP {name} {address}" for name, address in hosts.items()), "MAP * ~NOTFOUND"])
    command = [program, *_FLAGS, f"--user-data-dir={profile}", f"--host-resolver-rules={rules}"]
    command += ["--enable-features=VerifyMTCs,TLSTrustAnchorIDs"] if is_asking else _SILENT
    command += [f"--log-net-log={folder / NET_LOG}", "data:text/html,ready"]
    if os.geteuid() == 0:
        # Chromium's sandbox does not work for root, and containers have nobody else.
        command.insert(1, "--no-sandbox")
    with (folder / "chromium.log").open("wb") as log, _watching(profile) as reads:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        is_closing = False
        try:
            url = await _wait_for_address(profile, process)
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(url, max_msg_size=_MAX_MESSAGE_BYTES) as socket,
            ):
                browser = Browser(socket)
                listening = asyncio.create_task(browser.listen())
                try:
                    await _wait_for_reads(reads)
                    yield browser
                    await browser.close()
                    is_closing = True
                finally:
                    listening.cancel()
                    await asyncio.wait([listening])
        finally:
            await _end(process, is_closing=is_closing)


async def _wait_for_address(profile: Path, process: asyncio.subprocess.Process) -> str:
    """Return the WebSocket URL that the browser writes into its profile when it listens."""
    file = profile / "DevToolsActivePort"
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(START_S):
            while process.returncode is None:
                lines = file.read_text("utf-8").split("\n") if file.exists() else []
                if len(lines) > 1:
                    return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
                await asyncio.sleep(_POLL_S)
    log = (profile.parent / "chromium.log").read_text("utf-8", "replace")[-800:].strip()
    raise PeerError(Reason.PEER, f"Chromium did not start: {log}", status=process.returncode)


@contextlib.contextmanager
def _watching(profile: Path) -> Iterator[int]:
    """Give a descriptor that tells when a component file is read, as many times as there are files (inotify)."""
    library = ctypes.CDLL(None, use_errno=True)
    descriptor = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        raise UsageError(Reason.UNSUPPORTED, f"files cannot be watched: {os.strerror(ctypes.get_errno()).lower()}")
    try:
        for file in sorted(profile.glob("*/*/*.pb")):
            library.inotify_add_watch(descriptor, os.fsencode(file), _IN_ACCESS)
        yield descriptor
    finally:
        os.close(descriptor)


async def _wait_for_reads(descriptor: int) -> None:
    """Wait until the browser has read all its components, and let it alone until then.

    It does so when it has had nothing to do for some seconds; a page that fails, and is tried again, keeps it from
    that for as long as it is tried. Raises PeerError.
    """
    read: set[bytes] = set()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(START_S):
            while len(read) < len(COMPONENT_FILES):
                await asyncio.sleep(_POLL_S)
                with contextlib.suppress(BlockingIOError):
                    data = os.read(descriptor, 1 << 16)
                    # Without names each event has 16 bytes, of which the first 4 say which file.
                    read |= {data[at : at + 4] for at in range(0, len(data), 16)}
            return
    raise PeerError(
        Reason.PEER, f"Chromium has not read its components in {START_S:.0f} s; its format may have changed"
    )


async def _end(process: asyncio.subprocess.Process, *, is_closing: bool) -> None:
    """Wait until the browser has ended, then kill whatever it left. is_closing: it was asked to end."""
    if not is_closing and process.returncode is None:
        process.terminate()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_STOP_S):
            await process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
