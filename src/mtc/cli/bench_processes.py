"""Cosigners that `mtc bench cosign` starts: real processes on the loopback, in throw-away folders; and their load.

What is sent is made before the clock starts, and what is answered is verified after it stopped, so that the figures are
those of the cosigner, as far as both share the machine.
"""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from mtc.cli.hammer.chains import Chain, find_all, posix_now
from mtc.cli.hammer.fetching import check_note
from mtc.cli.hammer.load import Bounds, Load
from mtc.cli.hammer.synthetic import MAX_TREE, SyntheticLog
from mtc.cli.hammer.uploads import parse_info, upload_body
from mtc.cosign.config import CosignerConfig, Role
from mtc.cosign.logs import KnownCA, KnownLog
from mtc.cosign.service.folder import CosignerFolder, add_log, create_cosigner
from mtc.cosign.upload import PACKAGES_PER_REQUEST
from mtc.errors import PeerError, Reason
from mtc.ids import TrustAnchorID
from mtc.note import Note, VerifierKey, parse_signature_lines
from mtc.tiles import TILE_WIDTH
from mtc.web.client import Answer, ClientLimits, HTTPClient

REQUEST_ENTRIES = PACKAGES_PER_REQUEST * TILE_WIDTH
"""Entries of one upload, as tlog-mirror recommends at most."""
_START_S = 60.0
_STOP_S = 15.0
_DEADLINE_S = 120.0
_UPLOAD = {"Content-Type": "application/octet-stream"}


@dataclass(frozen=True, slots=True)
class Target:
    """A cosigner to measure. url: its submission prefix."""

    name: str
    url: str
    keys: tuple[VerifierKey, ...]


def make_cosigner(path: Path, role: Role, number: int, logs: Sequence[KnownLog | KnownCA]) -> tuple[VerifierKey, ...]:
    """Make a cosigner's folder with what it knows; return its keys. number: the last part of its ID."""
    create_cosigner(path, CosignerConfig(role=role, cosigner_id=TrustAnchorID.parse(f"32473.{number}")), None)
    keys = tuple(item.key for item in CosignerFolder.read(path).keys)
    for log in logs:
        add_log(path, log, keys)
    return keys


@asynccontextmanager
async def running_cosigner(path: Path, role: Role) -> AsyncIterator[str]:
    """Start a cosigner in a process of its own; yield its URL. Raises PeerError when it does not come up."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mtc", role, "serve", str(path), "--listen", "127.0.0.1:0", "--json"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    reading = None
    try:
        async with asyncio.timeout(_START_S):
            url = await _read_url(process.stderr, path)
        # What it logs from now on is not read by anybody, and must not fill the pipe.
        reading = asyncio.create_task(_drain(process.stderr))
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(_STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        if reading is not None:
            await reading


async def _read_url(stream: asyncio.StreamReader, path: Path) -> str:
    """Read the log of a process up to where it serves."""
    last = b""
    async for line in stream:
        last = line
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if event.get("event") == "serving":
                return str(event["url"])
    raise PeerError(Reason.PEER, f"the cosigner in {path} does not start: {last.decode('utf-8', 'replace').strip()}")


async def _drain(stream: asyncio.StreamReader) -> None:
    """Read to the end."""
    async for _ in stream:
        pass


@asynccontextmanager
async def bench_client() -> AsyncIterator[HTTPClient]:
    """Open a client that tries once."""
    limits = ClientLimits(attempts=1, attempt_s=_DEADLINE_S, deadline_s=_DEADLINE_S, redirects=0)
    async with HTTPClient(limits, user_agent="mtc-bench") as client:
        yield client


async def _find_chains(client: HTTPClient, target: Target, logs: Sequence[SyntheticLog]) -> list[Chain]:
    """Return the logs as the cosigner knows them."""
    chains = [Chain(log) for log in logs]
    await find_all(Load(client, Bounds()), target.url, chains)
    return chains


async def _post(client: HTTPClient, url: str, body: bytes, statuses: Sequence[int], **headers: str) -> Answer:
    """Send a request that must end with one of the statuses."""
    answer = await client.request("POST", url, body=body, headers=headers)
    if answer.status not in statuses:
        words = answer.body[:200].decode("utf-8", "replace")
        raise PeerError(Reason.PEER, f"{url} answered {answer.status}: {words}", status=answer.status)
    return answer


async def measure_witness(target: Target, logs: Sequence[SyntheticLog], seconds: float, most_per_s: int) -> float:
    """Return how many checkpoints a second a witness cosigns, those of several logs side by side.

    most_per_s: more cannot be measured; so many are signed beforehand.
    """
    async with bench_client() as client:
        chains = await _find_chains(client, target, logs)
        count = int(seconds * most_per_s / len(chains)) + 1
        prepared = [await asyncio.to_thread(_make_checkpoints, chain, count) for chain in chains]
        url = f"{target.url}/add-checkpoint"
        answers: list[tuple[Note, bytes]] = []
        began = time.perf_counter()

        async def submit(requests: Sequence[tuple[Note, bytes]]) -> None:
            for note, body in requests:
                if time.perf_counter() - began >= seconds:
                    return
                answers.append((note, (await _post(client, url, body, (200,))).body))

        await asyncio.gather(*map(submit, prepared))
        passed = time.perf_counter() - began
    for note, lines in answers:
        check_note(Note(note.text, parse_signature_lines(lines)), target.keys, None)
    return len(answers) / passed


def _make_checkpoints(chain: Chain, count: int) -> list[tuple[Note, bytes]]:
    """Return checkpoints that each follow the one before, as requests."""
    log, result = chain.log, []
    log.grow(chain.size + count)
    for size in range(chain.size, chain.size + count):
        note = log.sign(log.head(size + 1), posix_now())
        result.append((note, chain.body(size, note)))
    return result


async def measure_mirror(target: Target, logs: Sequence[SyntheticLog], requests: int) -> float:
    """Return how many entries a second a mirror takes, from the first byte until all are signed for.

    requests: for each log, one after the other: a checkpoint of `REQUEST_ENTRIES` entries more, and their upload, which
    ends with the mirror's signature. Logs side by side.
    """
    async with bench_client() as client:
        chains = await _find_chains(client, target, logs)
        for chain in chains:
            # The first upload warms up, and brings the log to where whole requests begin.
            await _upload_once(client, target, chain, -(-(chain.size + 1) // REQUEST_ENTRIES) * REQUEST_ENTRIES)
        prepared = [await asyncio.to_thread(_make_uploads, chain, requests) for chain in chains]
        began = time.perf_counter()
        results = await asyncio.gather(*(_send_uploads(client, target, uploads) for uploads in prepared))
        passed = time.perf_counter() - began
    for uploads, answers in zip(prepared, results, strict=True):
        for upload, lines in zip(uploads, answers, strict=True):
            check_note(Note(upload.note.text, parse_signature_lines(lines)), target.keys, None)
    return len(chains) * requests * REQUEST_ENTRIES / passed


@dataclass(frozen=True, slots=True)
class _PreparedUpload:
    """A checkpoint and the entries that it adds, as the two requests that bring them."""

    note: Note
    checkpoint: bytes
    entries: bytes


def _make_uploads(chain: Chain, count: int) -> list[_PreparedUpload]:
    """Return uploads that follow each other."""
    log, result = chain.log, []
    log.grow(chain.size + count * REQUEST_ENTRIES)
    for start in range(chain.size, chain.size + count * REQUEST_ENTRIES, REQUEST_ENTRIES):
        end = start + REQUEST_ENTRIES
        note = log.sign(log.head(end), posix_now())
        result.append(_PreparedUpload(note, chain.body(start, note), upload_body(log, start, end)))
    return result


async def _send_uploads(client: HTTPClient, target: Target, uploads: Sequence[_PreparedUpload]) -> list[bytes]:
    """Send uploads one after the other; return the signature lines that end each."""
    lines = []
    for upload in uploads:
        await _post(client, f"{target.url}/add-checkpoint", upload.checkpoint, (200,))
        lines.append((await _post(client, f"{target.url}/add-entries", upload.entries, (200,), **_UPLOAD)).body)
    return lines


async def _hand_in(client: HTTPClient, target: Target, chain: Chain, size: int) -> Note:
    """Make a checkpoint of the given size the pending one."""
    await asyncio.to_thread(chain.log.grow, size)
    note = chain.log.sign(chain.log.head(size), posix_now())
    await _post(client, f"{target.url}/add-checkpoint", chain.body(chain.size, note), (200,))
    chain.size = size
    return note


async def _upload_once(client: HTTPClient, target: Target, chain: Chain, size: int) -> None:
    """Bring a mirror to a size, from wherever it stands."""
    await _hand_in(client, target, chain, size)
    url, start, ticket = f"{target.url}/add-entries", 0, b""
    while True:
        # Whole, because not every mirror takes the beginning of a sequence.
        body = upload_body(chain.log, start, size, ticket, most=MAX_TREE)
        answer = await _post(client, url, body, (200, 202, 409), **_UPLOAD)
        if answer.status == 200:
            return
        info = parse_info(answer)
        start, ticket = info.next_entry, info.ticket
