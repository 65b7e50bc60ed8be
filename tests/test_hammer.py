"""`mtc hammer` against honest servers, and against each lie that a server can tell."""

import asyncio
import gzip
import io
import json
import math
import os
import random
import re
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from tests.cosigning import WITNESS, World
from tests.note_keys import MIRROR, TestSigner
from typer.testing import CliRunner

from mtc.ca.api import describe_issued, parse_json, parse_request
from mtc.cli.app import app as mtc_app
from mtc.cli.bench_ca import bench_ca
from mtc.cli.hammer.chains import random_subtree
from mtc.cli.hammer.command import HammerOptions, hammer_target
from mtc.cli.hammer.figures import Figures, Latencies, Outcome
from mtc.cli.hammer.live import LiveView
from mtc.cli.hammer.load import Bounds, Load
from mtc.cli.hammer.synthetic import SyntheticLog, TreeHead, flipped
from mtc.cli.hammer.throwaway import MakeOptions, make_logs, read_logs
from mtc.cosign.logs import KnownLog
from mtc.cosign.upload import MirrorInfo
from mtc.crypto import LocalSigner
from mtc.errors import Error, FormatError, PeerError, Reason, UsageError
from mtc.note import (
    Checkpoint,
    Note,
    SignatureType,
    checkpoint_message,
    note_signature,
    parse_note,
    parse_signature_lines,
)
from mtc.testing import FakeClock
from mtc.tiles import TileEdge, build_bundles, build_tiles, parse_tile_path, width_in_tree
from mtc.web.client import HTTPClient
from mtc.web.server import ServerLimits, serve

pytestmark = pytest.mark.usefixtures("near_signer")

LOG = TestSigner("log.example/1", SignatureType.COSIGNATURE_MLDSA44, 11)
OTHER = TestSigner("log.example/1", SignatureType.COSIGNATURE_MLDSA44, 12)
ORIGIN = "log.example/1"
Lie = Callable[[str, int, bytes], tuple[int, bytes] | None]


def synthetic(signer: LocalSigner = LOG.signer, size: int = 0, entry_bytes: int = 40) -> SyntheticLog:
    """Return a log with so many entries."""
    log = SyntheticLog(ORIGIN, signer, entry_bytes)
    log.grow(size)
    return log


class LogServer:
    """Serves a synthetic log; it grows by `growth` entries with each checkpoint that is fetched."""

    def __init__(self, log: SyntheticLog, size: int, growth: int = 0) -> None:
        """Take the log."""
        self.log, self.size, self.growth = log, size, growth

    def checkpoint(self) -> bytes:
        """Return the next checkpoint."""
        self.log.grow(self.size)
        note = self.log.sign(self.log.head(self.size), 1)
        self.size += self.growth
        return note.encode()

    def app(self) -> ASGIApp:
        """Return the application."""

        async def answer(request: Request) -> Response:
            path = request.path_params["path"]
            if path == "checkpoint":
                return Response(self.checkpoint())
            try:
                place = parse_tile_path(path)
            except FormatError:
                return Response(status_code=404)
            if place.width > width_in_tree(place, self.log.tree_size):
                return Response(status_code=404)
            return Response(self.log.content(place))

        return Starlette(routes=[Route("/{path:path}", answer)])


class Liar:
    """Changes the answers of an application. lie: path, status and body of an answer to what is sent, None for it."""

    def __init__(self, app: ASGIApp, lie: Lie) -> None:
        """Take the honest application."""
        self._app, self._lie = app, lie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        sent: list[Message] = []

        async def keep(message: Message) -> None:
            sent.append(message)

        await self._app(scope, receive, keep)
        start, *rest = sent
        body = b"".join(message.get("body", b"") for message in rest)
        # A lie is told in plain text.
        if any(field == (b"content-encoding", b"gzip") for field in start["headers"]):
            body = gzip.decompress(body)
        status, body = self._lie(scope["path"], start["status"], body) or (start["status"], body)
        dropped = {b"content-length", b"content-encoding"}
        fields = [(name, value) for name, value in start["headers"] if name.lower() not in dropped]
        await send({**start, "status": status, "headers": [*fields, (b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})


def hammer(app: ASGIApp, options: HammerOptions, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, object]]:
    """Hammer an application over the loopback; return exit code and report."""

    async def work() -> int:
        async with serve(app, ("127.0.0.1", 0)) as listening:
            url = listening.url
            monitoring = url if options.monitoring == "same" else options.monitoring
            return await hammer_target(replace(options, target=url, monitoring=monitoring, as_json=True))

    code = asyncio.run(work())
    # Servers in the same process may log; the report is the last line.
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def reasons(report: Mapping[str, object]) -> set[tuple[str, str]]:
    """Return kind and reason of each fault of a report."""
    faults = report["faults"]
    assert isinstance(faults, list)
    return {(fault["kind"], fault["reason"]) for fault in faults}


def bounded(requests: int, max_errors: int | None = None) -> Bounds:
    """Return bounds by number."""
    return Bounds(seconds=60.0, requests=requests, max_errors=max_errors)


READING = HammerOptions(target="", mode="log", vkeys=(LOG.key.encode(),), connections=3, seed=1, bounds=bounded(150))


@pytest.fixture(scope="module")
def log_key(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the file of the log's private key."""
    file = tmp_path_factory.mktemp("log") / "key.pem"
    file.write_bytes(LOG.signer.encode_pem())
    return str(file)


def cosigning(mode: str, log_key: str, requests: int = 250) -> HammerOptions:
    """Return the options to load a cosigner."""
    key = (MIRROR if mode == "mirror" else WITNESS).key
    return HammerOptions(
        target="",
        mode=mode,
        vkeys=(key.encode(),),
        origins=(ORIGIN,),
        log_key=log_key,
        entry_bytes=40,
        batch=700,
        monitoring="same",
        connections=3,
        seed=1,
        wrong=0.3,
        bounds=bounded(requests),
    )


def world(*, is_mirror: bool) -> World:
    """Return what a cosigner that knows the log stands on."""
    clock = FakeClock(datetime.now(UTC))
    return World(is_mirror=is_mirror, logs=(KnownLog(ORIGIN, (LOG.key,)),), cas=(), clock=clock)


def cosigner_app(*, is_mirror: bool) -> ASGIApp:
    """Return a new honest cosigner."""
    return asyncio.run(world(is_mirror=is_mirror).open()).app()


# Honest servers.


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 70_000])
def test_honest_log_is_right_in_everything(size: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A log of any size answers rightly, and the report says so with exit code 0."""
    code, report = hammer(LogServer(synthetic(), size).app(), READING, capsys)
    assert (code, report["ok"], report["wrong"], report["ended"]) == (0, True, 0, "requests")
    assert report["requests"] == 150
    assert report["facts"] == {"origin": ORIGIN, "tree_size": size}


def test_growing_log_is_proven_consistent(capsys: pytest.CaptureFixture[str]) -> None:
    """Every checkpoint of a log that grows is proven to continue the one before."""
    code, report = hammer(LogServer(synthetic(), 200, growth=37).app(), READING, capsys)
    amounts = report["amounts"]
    assert isinstance(amounts, dict)
    assert code == 0
    assert amounts["checkpoints"] > 5
    facts = report["facts"]
    assert isinstance(facts, dict)
    assert facts["tree_size"] > 300


def test_partial_tiles_that_are_gone_are_taken_from_the_full_ones(capsys: pytest.CaptureFixture[str]) -> None:
    """A log may drop a partial tile once the full one is there; its beginning serves as well."""
    server = LogServer(synthetic(size=70_000), 69_000)

    def drop(path: str, _status: int, _body: bytes) -> tuple[int, bytes] | None:
        return (404, b"") if re.search(r"/(269|x000/269)\.p/", path) else None

    code, _ = hammer(Liar(server.app(), drop), READING, capsys)
    assert code == 0


def test_mirrors_copy_is_found_under_the_hash_of_the_origin(capsys: pytest.CaptureFixture[str]) -> None:
    """With an origin the prefix may be a mirror's monitoring prefix."""
    log = synthetic()
    inner = LogServer(log, 300).app()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(f"/{log.origin_hash}")
        await inner({**scope, "path": path if path != scope["path"] else "/nothing"}, receive, send)

    code, report = hammer(app, replace(READING, origins=(ORIGIN,)), capsys)
    assert (code, report["wrong"]) == (0, 0)


@pytest.mark.parametrize("mode", ["witness", "mirror"])
def test_honest_cosigner_is_right_in_everything(mode: str, log_key: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A cosigner takes what is right and refuses what is wrong with the status of the fault; and is asked both."""
    options = cosigning(mode, log_key, 400)
    code, report = hammer(cosigner_app(is_mirror=mode == "mirror"), options, capsys)
    assert (code, report["faults"]) == (0, [])
    kinds = report["kinds"]
    assert isinstance(kinds, dict)
    assert {"add-checkpoint", "sign-subtree", "read checkpoint"} <= kinds.keys()
    assert len([kind for kind in kinds if kind.startswith("refuse")]) >= 8


@pytest.mark.parametrize("mode", ["witness", "mirror"])
def test_second_run_goes_on_where_the_first_stopped(
    mode: str, log_key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cosigner that remembers the log of an earlier run sees one that only grew."""
    place, options = world(is_mirror=mode == "mirror"), cosigning(mode, log_key, 60)
    sizes = []
    for seed in (1, 2, 3):
        app = asyncio.run(place.open()).app()
        code, report = hammer(app, replace(options, seed=seed), capsys)
        assert (code, report["faults"]) == (0, [])
        facts = report["facts"]
        assert isinstance(facts, dict)
        sizes.append(facts["tree_size"])
    assert sizes == sorted(set(sizes))


# Lies of a log.


def split_view(server: LogServer) -> Lie:
    """Return a log that shows every other client another tree of the same size."""
    other = TreeHead(server.size, bytes(32))
    state = iter(range(10**9))

    def lie(path: str, status: int, _body: bytes) -> tuple[int, bytes] | None:
        if path == "/checkpoint" and next(state) % 2:
            return status, server.log.sign(other, 1).encode()
        return None

    return lie


def fork(_server: LogServer) -> Lie:
    """Return a log that goes on, after some time, with another tree than it began with."""
    branch = synthetic(OTHER.signer, 900)
    state = iter(range(10**9))

    def lie(path: str, _status: int, _body: bytes) -> tuple[int, bytes] | None:
        if next(state) < 20:
            return None
        if path == "/checkpoint":
            head = branch.head(900)
            return 200, synthetic().sign(head, 1).encode()
        return 200, branch.content(parse_tile_path(path.lstrip("/")))

    return lie


def going_back(server: LogServer) -> Lie:
    """Return a log that shows an older checkpoint after some time."""
    state = iter(range(10**9))

    def lie(path: str, _status: int, _body: bytes) -> tuple[int, bytes] | None:
        if path == "/checkpoint" and next(state) > 2:
            return 200, server.log.sign(server.log.head(100), 1).encode()
        return None

    return lie


def changing(pattern: str, change: Callable[[bytes], bytes]) -> Callable[[object], Lie]:
    """Return a server that changes the bodies of answers on some paths, but not the first checkpoint."""

    def make(_server: object) -> Lie:
        state = iter(range(10**9))

        def lie(path: str, status: int, body: bytes) -> tuple[int, bytes] | None:
            if status == 200 and re.search(pattern, path) and (path != "/checkpoint" or next(state) > 1):
                return status, change(body)
            return None

        return lie

    return make


def break_signature(body: bytes) -> bytes:
    """Return a note whose last signature fails."""
    note = parse_note(body)
    line = note.signatures[-1]
    return Note(note.text, (*note.signatures[:-1], replace(line, signature=flipped(line.signature)))).encode()


def rename_signer(body: bytes) -> bytes:
    """Return a note that only a stranger signed."""
    note = parse_note(body)
    return Note(note.text, (replace(note.signatures[0], name="stranger.example"),)).encode()


def rename_origin(_body: bytes) -> bytes:
    """Return a checkpoint of another log, signed with the same key."""
    log = synthetic(size=300)
    return log.sign(log.head(300), 1, "log.example/2").encode()


LOG_LIES: dict[str, tuple[Callable[[LogServer], Lie], set[tuple[str, str]]]] = {
    "a bit of a tile": (changing(r"tile/\d", flipped), {("tile", "hash-mismatch"), ("tile", "root-mismatch")}),
    "half a tile": (changing(r"tile/\d", lambda body: body[: len(body) // 2]), {("tile", "bad-tile")}),
    "a huge tile": (changing(r"tile/\d", lambda body: body * 400), {("tile", "too-large")}),
    "a bit of an entry": (changing("entries", flipped), {("bundle", "hash-mismatch")}),
    "a bundle with an entry more": (
        changing("entries", lambda body: body + b"\0\0"),
        {("bundle", "bad-tile"), ("bundle", "trailing-data")},
    ),
    "a bundle that is cut": (changing("entries", lambda body: body[:-1]), {("bundle", "truncated")}),
    "a signature that fails": (changing("^/checkpoint", break_signature), {("checkpoint", "bad-signature")}),
    "a stranger's signature": (changing("^/checkpoint", rename_signer), {("checkpoint", "unknown-signer")}),
    "another log": (changing("^/checkpoint", rename_origin), {("checkpoint", "unknown-origin")}),
    "no checkpoint": (changing("^/checkpoint", lambda _: b"hello"), {("checkpoint", "bad-note")}),
    "two trees of one size": (split_view, {("checkpoint", "equivocation")}),
    "a fork": (fork, {("checkpoint", "equivocation")}),
    "an older checkpoint": (going_back, {("checkpoint", "stale-size")}),
}


@pytest.mark.parametrize("name", LOG_LIES)
def test_lie_of_a_log_is_found(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a log changes is wrong in the report, with its reason, and the exit code is 1."""
    make, expected = LOG_LIES[name]
    server = LogServer(synthetic(), 700)
    options = replace(READING, bounds=bounded(2_000, max_errors=8))
    code, report = hammer(Liar(server.app(), make(server)), options, capsys)
    assert code == 1
    assert expected & reasons(report), reasons(report)
    assert not report["ok"]


def test_refused_tile_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    """A tile that a log does not serve, although its checkpoint needs it, is an answer that is wrong."""
    server = LogServer(synthetic(), 700)
    liar = Liar(server.app(), lambda path, _status, _body: (404, b"") if path == "/tile/0/001" else None)
    code, report = hammer(liar, READING, capsys)
    assert code == 1
    assert reasons(report) == {("tile", "peer")}
    # The same is right for a log that was pruned so far, when the hammer knows it.
    assert hammer(liar, replace(READING, minimum_index=512), capsys)[0] == 0


def test_old_checkpoints_are_no_fault_behind_a_cache(capsys: pytest.CaptureFixture[str]) -> None:
    """With --stale-ok an older checkpoint is only proven consistent."""
    server = LogServer(synthetic(), 700)
    options = replace(READING, is_stale_ok=True)
    assert hammer(Liar(server.app(), going_back(server)), options, capsys)[0] == 0
    assert hammer(Liar(server.app(), split_view(server)), options, capsys)[0] == 1


def test_run_does_not_begin_without_a_right_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    """When the first checkpoint is wrong there is nothing to check by, and that is said."""
    server = LogServer(synthetic(OTHER.signer), 700)
    with pytest.raises(PeerError, match="no checkpoint to begin with") as caught:
        hammer(server.app(), READING, capsys)
    assert caught.value.reason in {Reason.BAD_SIGNATURE, Reason.UNKNOWN_SIGNER}


# Lies of cosigners.


def after(count: int, pattern: str, change: Callable[[int, bytes], tuple[int, bytes] | None]) -> Lie:
    """Return a server that is honest for the first answers on some paths, and then changes them."""
    state = iter(range(10**9))

    def lie(path: str, status: int, body: bytes) -> tuple[int, bytes] | None:
        if re.search(pattern, path) and next(state) >= count:
            return change(status, body)
        return None

    return lie


def when(
    wanted: int, change: Callable[[bytes], bytes], status: int | None = None
) -> Callable[[int, bytes], tuple[int, bytes] | None]:
    """Return a change of answers with one status, to another status if one is given."""

    def act(got: int, body: bytes) -> tuple[int, bytes] | None:
        return (status or got, change(body)) if got == wanted and body else None

    return act


def break_lines(body: bytes) -> bytes:
    """Return signature lines of which the last fails."""
    *rest, last = parse_signature_lines(body)
    lines = [*rest, replace(last, signature=flipped(last.signature))]
    return b"".join(line.encode() for line in lines)


def rename_lines(body: bytes) -> bytes:
    """Return the signature lines of somebody else."""
    return b"".join(replace(line, name="stranger.example").encode() for line in parse_signature_lines(body))


def without_time(body: bytes) -> bytes:
    """Return a signature that does not say when it was made; the hammer looks at that before it is verified here."""
    return resigned(0, body)


_SEEN: list[Checkpoint] = []


def resigned(timestamp: int, _body: bytes) -> bytes:
    """Return a good signature of the witness over the checkpoint that was sent, with another time."""
    checkpoint = _SEEN[-1]
    raw = WITNESS.signer.sign_now(checkpoint_message(WITNESS.key, checkpoint, timestamp))
    return note_signature(WITNESS.key, raw, timestamp).encode()


class Listening:
    """Notes the checkpoint of each request, for liars that sign."""

    def __init__(self, app: ASGIApp) -> None:
        """Take the application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Listen."""

        async def hear() -> Message:
            message = await receive()
            body = message.get("body", b"")
            if scope["path"] == "/add-checkpoint" and b"\n\n" in body:
                with suppress(Error):
                    _SEEN.append(Checkpoint.parse(parse_note(body.partition(b"\n\n")[2]).text))
            return message

        await self._app(scope, hear, send)


ADD, SUBTREE, ENTRIES, CHECKPOINT = "add-checkpoint", "sign-subtree", "add-entries", "/checkpoint$"

WITNESS_LIES: dict[str, tuple[Lie, set[tuple[str, str]]]] = {
    "a cosignature that fails": (after(5, ADD, when(200, break_lines)), {("add-checkpoint", "bad-signature")}),
    "a stranger's cosignature": (after(5, ADD, when(200, rename_lines)), {("add-checkpoint", "unknown-signer")}),
    "no cosignature": (after(5, ADD, lambda s, _: (s, b"") if s == 200 else None), {("add-checkpoint", "bad-note")}),
    "no time": (after(5, ADD, when(200, without_time)), {("add-checkpoint", "clock")}),
    "a time long ago": (after(5, ADD, when(200, lambda body: resigned(1000, body))), {("add-checkpoint", "clock")}),
    "a stale size that is none": (after(2, ADD, when(409, lambda _: b"1\n")), {("refuse a stale size", "stale-size")}),
    "a stale size in words": (after(2, ADD, when(409, lambda _: b"many\n")), {("refuse a stale size", "bad-number")}),
    "bad proofs are fine": (
        after(5, ADD, when(422, lambda body: body, 200)),
        {("refuse a bad proof", "peer"), ("refuse another tree", "peer")},
    ),
    "strangers are fine": (after(5, ADD, when(403, lambda body: body, 200)), {("refuse a bad signature", "peer")}),
    "a subtree's signature that fails": (
        after(2, SUBTREE, when(200, break_lines)),
        {("sign-subtree", "bad-signature")},
    ),
    "a subtree's signature of a stranger": (
        after(2, SUBTREE, when(200, rename_lines)),
        {("sign-subtree", "unknown-signer")},
    ),
    "every subtree is fine": (
        after(2, SUBTREE, when(422, lambda body: body, 200)),
        {("refuse a subtree not in the tree", "peer")},
    ),
    "an unsigned checkpoint served": (
        after(
            2, CHECKPOINT, when(200, lambda body: Note(parse_note(body).text, parse_note(body).signatures[:1]).encode())
        ),
        {("read checkpoint", "unknown-signer")},
    ),
}


@pytest.mark.parametrize("name", WITNESS_LIES)
def test_lie_of_a_witness_is_found(name: str, log_key: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a witness does wrong is wrong in the report, with its reason, and the exit code is 1."""
    lie, expected = WITNESS_LIES[name]
    liar = Listening(Liar(cosigner_app(is_mirror=False), lie))
    # As below: chance says which wrong requests are sent.
    options = replace(cosigning("witness", log_key), wrong=0.6, bounds=bounded(5_000, max_errors=12))
    code, report = hammer(liar, options, capsys)
    assert code == 1
    assert expected & reasons(report), reasons(report)


def test_witness_that_forgets_is_found(log_key: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A witness that lost what it had cosigned is caught when it is asked where it stands."""
    first, second = cosigner_app(is_mirror=False), cosigner_app(is_mirror=False)
    state = iter(range(10**9))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (first if next(state) < 40 else second)(scope, receive, send)

    code, report = hammer(app, cosigning("witness", log_key), capsys)
    assert code == 1
    assert ("ask for the size", "stale-size") in reasons(report)


def no_progress(body: bytes) -> bytes:
    """Return the same state without what was just stored."""
    info = MirrorInfo.parse(body)
    return MirrorInfo(info.tree_size, 0, info.ticket).encode()


def signed_too_early(_status: int, _body: bytes) -> tuple[int, bytes] | None:
    """Return the mirror's signature on a checkpoint whose entries it does not have."""
    raw = MIRROR.signer.sign_now(checkpoint_message(MIRROR.key, _SEEN[-1], 1))
    return (200, note_signature(MIRROR.key, raw, 1).encode()) if _status == 200 else None


MIRROR_LIES: dict[str, tuple[Lie, set[tuple[str, str]]]] = {
    "signed before it is there": (after(1, ADD, signed_too_early), {("add-checkpoint", "unknown-signer")}),
    "a signature that fails": (after(2, ENTRIES, when(200, break_lines)), {("add-entries", "bad-signature")}),
    "other entries are fine": (
        after(0, ENTRIES, when(422, lambda body: body, 200)),
        {("refuse other entries", "peer"), ("refuse a wrong package proof", "peer")},
    ),
    "no state": (
        after(0, ENTRIES, when(409, lambda _: b"hello")),
        {("refuse an unknown size", "bad-text"), ("refuse a ticket that is not its own", "bad-text")},
    ),
    "a bit of an entry": (after(2, "entries/", when(200, flipped)), {("bundle", "hash-mismatch")}),
    "a bit of a tile": (after(2, r"tile/\d", when(200, flipped)), {("tile", "hash-mismatch")}),
    "an entry that is lost": (after(2, "entries/", lambda _s, _b: (404, b"")), {("bundle", "peer")}),
    "its signature missing": (
        after(
            2, CHECKPOINT, when(200, lambda body: Note(parse_note(body).text, parse_note(body).signatures[:1]).encode())
        ),
        {("read checkpoint", "unknown-signer")},
    ),
    "its checkpoint gone": (
        after(4, CHECKPOINT, lambda _s, _b: (404, b"")),
        {("read checkpoint", "stale-size")},
    ),
}


@pytest.mark.parametrize("name", MIRROR_LIES)
def test_lie_of_a_mirror_is_found(name: str, log_key: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a mirror does wrong is wrong in the report, with its reason, and the exit code is 1."""
    lie, expected = MIRROR_LIES[name]
    liar = Listening(Liar(cosigner_app(is_mirror=True), lie))
    # Chance says which wrong requests are sent; so many leave out none of them, and the first errors end the run.
    options = replace(cosigning("mirror", log_key), wrong=0.6, bounds=bounded(5_000, max_errors=12))
    code, report = hammer(liar, options, capsys)
    assert code == 1
    assert expected & reasons(report), reasons(report)


def test_mirror_that_stores_nothing_is_found(log_key: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A 202 that does not advance is wrong, because it says that something was stored."""
    lie = after(0, ENTRIES, when(202, no_progress))
    options = replace(cosigning("mirror", log_key, 60), batch=10_000, wrong=0.0)
    code, report = hammer(Liar(cosigner_app(is_mirror=True), lie), options, capsys)
    assert code == 1
    assert ("add-entries", "peer") in reasons(report)


# Issuing.


class Issuing:
    """The issuing interface of a real CA. change: what becomes of an answer."""

    def __init__(self, change: Callable[[int, dict[str, object]], dict[str, object]]) -> None:
        """Take the change."""
        self._change = change
        self._count = 0

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        """Serve on the loopback; yield the URL."""
        async with bench_ca(None) as ca, ca.sequencing():

            async def issue(request: Request) -> Response:
                (issued,) = await ca.issue([parse_request(parse_json(await request.body()))])
                assert not isinstance(issued, Error)
                self._count += 1
                return JSONResponse(self._change(self._count, describe_issued(issued)))

            async def certificate(_request: Request) -> Response:
                return Response((ca.parts.folder.path / "ca.pem").read_bytes())

            routes = [Route("/api/v1/certificates", issue, methods=["POST"]), Route("/ca.pem", certificate)]
            async with serve(Starlette(routes=routes), ("127.0.0.1", 0)) as listening:
                yield listening.url


_ISSUED: dict[str, object] = {}


def the_first_again(_count: int, answer: dict[str, object]) -> dict[str, object]:
    """Return what was answered to the first request."""
    return _ISSUED.setdefault("first", answer)  # type: ignore[return-value]


ISSUE_LIES: dict[str, tuple[Callable[[int, dict[str, object]], dict[str, object]], str | None]] = {
    "none": (lambda _, answer: answer, None),
    "another's certificate": (the_first_again, "name-mismatch"),
    "another index": (lambda _, answer: {**answer, "index": 10**6}, "peer"),
    "no certificate": (lambda _, _answer: {"log": 1}, "bad-document"),
    "a bit of it": (
        lambda _, answer: {**answer, "certificate": str(answer["certificate"]).replace("A", "B", 1)},
        None,
    ),
}


@pytest.mark.parametrize("name", ISSUE_LIES)
def test_issued_certificates_are_verified(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each certificate is verified for the name and the key that were sent, and for its place in the log."""
    change, reason = ISSUE_LIES[name]

    async def work() -> int:
        async with Issuing(change).serve() as url:
            return await hammer_target(
                HammerOptions(target=url, mode="issue", connections=4, seed=1, bounds=bounded(12), as_json=True)
            )

    _ISSUED.clear()
    code = asyncio.run(work())
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    if name == "none":
        assert (code, report["amounts"], report["faults"]) == (0, {"certificates": 12}, [])
    else:
        assert code == 1
        assert reason is None or ("issue", reason) in reasons(report)


# How a run ends, and what it prints.


def test_interrupted_run_ends_with_its_report(capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C ends a run that has no other end; what was counted until then is reported."""
    server = LogServer(synthetic(), 700)

    signals = iter([signal.SIGINT])

    def interrupt(path: str, _status: int, _body: bytes) -> None:
        if path.startswith("/tile/entries"):
            for number in signals:
                os.kill(os.getpid(), number)

    options = replace(READING, bounds=Bounds(seconds=None))
    code, report = hammer(Liar(server.app(), interrupt), options, capsys)
    assert (code, report["ended"], report["wrong"]) == (0, "interrupted", 0)
    assert isinstance(report["requests"], int)
    assert report["requests"] > 0


def test_run_ends_after_so_many_errors(capsys: pytest.CaptureFixture[str]) -> None:
    """With --max-errors a run that goes wrong does not go on for ever."""
    server = LogServer(synthetic(), 700)
    lie = Liar(server.app(), changing(r"tile/\d", flipped)(server))
    options = replace(READING, bounds=Bounds(seconds=None, max_errors=3))
    code, report = hammer(lie, options, capsys)
    assert (code, report["ended"]) == (1, "errors")
    faults = report["faults"]
    assert isinstance(faults, list)
    assert all(fault["messages"] and fault["count"] >= len(fault["messages"]) for fault in faults)


def test_server_that_goes_away_leaves_requests_unanswered(log_key: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A run outlives its target: requests count as unanswered, no answer as wrong, and the exit code is 1."""
    app = cosigner_app(is_mirror=False)

    async def work() -> int:
        state, stop = iter(range(10**9)), asyncio.Event()

        async def mortal(scope: Scope, receive: Receive, send: Send) -> None:
            await app(scope, receive, send)
            if next(state) == 30:
                stop.set()

        async def live(url: asyncio.Future[str]) -> None:
            async with serve(mortal, ("127.0.0.1", 0), ServerLimits(stop_s=1)) as listening:
                url.set_result(listening.url)
                await stop.wait()

        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        async with asyncio.TaskGroup() as group:
            group.create_task(live(future))
            url = await future
            options = replace(cosigning("witness", log_key, 200), target=url, monitoring=url, as_json=True)
            return await hammer_target(options)

    code = asyncio.run(work())
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (code, report["wrong"], report["ended"]) == (1, 0, "requests")
    assert report["right"] >= 20
    assert reasons(report) == {("request", "peer")}


def test_busy_server_is_no_fault(capsys: pytest.CaptureFixture[str]) -> None:
    """A refusal for now, 503 or 429, is counted apart."""
    server = LogServer(synthetic(), 700)
    state = iter(range(10**9))
    liar = Liar(server.app(), lambda _p, _s, _b: (503, b"") if next(state) % 5 == 4 else None)
    code, report = hammer(liar, replace(READING, bounds=bounded(40)), capsys)
    assert (code, report["wrong"], report["faults"]) == (0, 0, [])
    assert isinstance(report["busy"], int)
    assert report["busy"] > 3


def test_rate_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    """With a rate, requests are spread over the time that they take at that rate."""
    server = LogServer(synthetic(), 700)
    options = replace(READING, bounds=Bounds(None, 30, None, 100.0))
    code, report = hammer(server.app(), options, capsys)
    seconds = report["seconds"]
    assert isinstance(seconds, float)
    assert code == 0
    assert 0.29 <= seconds < 60


def test_pipe_gets_a_line_a_second_and_then_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal a run prints plain lines with rates and latencies, and a table at its end."""

    async def work() -> int:
        async with serve(LogServer(synthetic(), 700).app(), ("127.0.0.1", 0)) as listening:
            options = replace(READING, target=listening.url, bounds=Bounds(seconds=1.3, rate=50.0))
            return await hammer_target(options)

    assert asyncio.run(work()) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert re.search(r"s +\d+ requests/s +p50 [0-9.]+ ms +p99 [0-9.]+ ms +max .*MB/s in", first)
    assert "0 wrong" in first
    assert any(line.startswith("bundle") for line in rest)
    assert rest[-1].startswith("every answer was right")


def test_terminal_shows_kinds_and_faults() -> None:
    """The live picture names each kind of request with its latencies, and what went wrong in the first words."""

    async def work() -> str:
        async with HTTPClient() as client:
            load = Load(client, Bounds())
            load.figures.count("tile", Outcome.RIGHT, 0.004)
            load.figures.count("tile", Outcome.WRONG, 0.004)
            load.figures.blame("tile", Outcome.WRONG, PeerError(Reason.PEER, "a [bold]bad\x1b one"), 1.0)
            view = LiveView(load, "log at x", as_json=False)
            out = Console(file=io.StringIO(), width=140)
            out.print(view.picture())
            assert isinstance(out.file, io.StringIO)
            return out.file.getvalue()

    text = asyncio.run(work())
    assert "log at x" in text
    assert "4.0 ms" in text
    assert "\\u001b" in text
    assert "\x1b" not in text


@given(st.lists(st.floats(1e-5, 50.0), min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_percentiles_are_close_from_above(values: list[float], share: float) -> None:
    """A percentile of the histogram is at least the exact one and at most 1.2 % more; the maximum is exact."""
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    exact = sorted(values)[math.ceil(share * len(values)) - 1]
    assert exact * (1 - 1e-9) <= latencies.percentile(share) <= exact * 1.012
    assert latencies.percentile(1.0) == max(values)


def test_figures_without_answers_are_not_clean() -> None:
    """A run in which nothing was answered is no success."""
    figures = Figures()
    assert not figures.is_clean
    figures.count("tile", Outcome.BUSY, 0.1)
    assert not figures.is_clean
    figures.count("tile", Outcome.RIGHT, 0.1)
    assert figures.is_clean


# Synthetic logs.


@given(st.integers(0, 3000), st.integers(0, 600), st.sampled_from([16, 31, 32, 250]))
def test_synthetic_log_is_a_log(start: int, count: int, entry_bytes: int) -> None:
    """However it is cut, a synthetic log has the entries, bundles and tiles that a log of these entries has."""
    log = SyntheticLog(ORIGIN, LOG.signer, entry_bytes)
    size = start + count
    log.grow(start)
    log.grow(size)
    entries = log.entries(0, size)
    assert log.entries(start, size) == entries[start:]
    assert {len(entry) for entry in entries} <= {entry_bytes}
    edge, tiles = build_tiles(log.hasher, TileEdge(32), log.hasher.leaves(entries))
    assert log.head(size).root_hash == edge.root(log.hasher) if size else True
    assert all(log.content(tile) == content for tile, content in tiles.items())
    assert all(log.content(place) == content for place, content in build_bundles(0, b"", entries).items())


def test_synthetic_logs_of_other_names_or_keys_differ() -> None:
    """Entries follow from key and origin, so that no two logs share them."""
    logs = [synthetic(), synthetic(OTHER.signer), SyntheticLog("log.example/2", LOG.signer, 40)]
    assert len({log.entries(0, 1)[0] for log in logs}) == 3


@given(st.integers(1, 10**12), st.integers(0, 10**6))
def test_random_subtree_is_one_of_the_tree(tree_size: int, seed: int) -> None:
    """Every subtree that is asked for is valid, not empty, and in the tree."""
    subtree = random_subtree(tree_size, random.Random(seed))
    assert not subtree.is_empty
    assert subtree.end <= tree_size


# Throw-away logs and the command line.


@pytest.mark.parametrize(("algorithm", "kind"), [("ml-dsa-44", 6), ("ed25519", 1)])
def test_made_logs_are_read_again(tmp_path: Path, algorithm: str, kind: int) -> None:
    """The files of --make-log give the logs back, with the keys that were printed; the private key is private."""
    folder = tmp_path / "logs"
    runner = CliRunner()
    arguments = ["hammer", "--make-log", str(folder), "--logs", "3", "--entry-bytes", "99"]
    result = runner.invoke(mtc_app, [*arguments, "--log-algorithm", algorithm, "--json"])
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert (folder / "log-key.pem").stat().st_mode & 0o77 == 0
    logs = read_logs(document["key"], [], None)
    assert [(log.origin, log.key.encode()) for log in logs] == [
        (item["origin"], item["vkey"]) for item in document["logs"]
    ]
    assert {int(log.key.type) for log in logs} == {kind}
    assert {len(log.entries(0, 1)[0]) for log in logs} == {99}
    assert [log.origin for log in read_logs(document["key"], ["x.example"], None)] == ["x.example"]
    # A second time would be another log under the same name.
    with pytest.raises(UsageError, match="not replaced"):
        make_logs(MakeOptions(str(folder), 1, 99, None, algorithm, as_json=True))


def test_log_of_a_ca_is_signed_in_the_name_of_the_ca() -> None:
    """An origin that is a log ID is signed by the key of its CA, as an issuance log is."""
    log = SyntheticLog("oid/1.3.6.1.4.1.32473.1.0.7", LOG.signer, 40)
    assert log.key.name == "oid/1.3.6.1.4.1.32473.1"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "say what to load"),
        (["http://x"], "--vkey"),
        (["http://x", "--witness", "--mirror"], "do not go together"),
        (["http://x", "--witness", "--vkey", LOG.key.encode()], "--log-key is needed"),
        (["http://x", "--vkey", LOG.key.encode(), "--connections", "0"], "--connections"),
        (["http://x", "--vkey", LOG.key.encode(), "--origin", "a", "--origin", "b"], "one log"),
        (["/nowhere", "--vkey", LOG.key.encode()], "no URL"),
        (["http://127.0.0.1:1", "--vkey", LOG.key.encode()], "no checkpoint to begin with"),
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str], text: str) -> None:
    """What cannot be run is said before anything is sent."""
    result = CliRunner().invoke(mtc_app, ["hammer", *arguments])
    assert isinstance(result.exception, Error)
    assert text in result.exception.message
