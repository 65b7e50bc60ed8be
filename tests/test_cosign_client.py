"""The client of one cosigner: every answer is bounded and verified, and uploads go on from wherever a mirror stands."""

import asyncio
import gzip
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send
from tests.pooled_logs import Cosigner, OwnLog, always, changed, client_of, message, signer
from tests.synthetic_logs import HASHER, NOW, ORIGIN, SyntheticLog, make_entries

from mtc.ca.cosigning.published import PublishedTree
from mtc.ca.proofs import LogReader
from mtc.cosign.config import Role
from mtc.cosign.service.client import CosignerClient, SeenCheckpoint, StaleSize
from mtc.cosign.service.uploading import MAX_REQUEST_BYTES, MAX_STALLS, upload_entries
from mtc.cosign.upload import MirrorInfo, PackagePlace, UploadHead, UploadReader, package_places
from mtc.errors import Error, FormatError, PeerError, Reason, Rejected, SignatureError, StorageError
from mtc.merkle import Subtree, prove_consistency
from mtc.note import Checkpoint, NoteSignature, open_note
from mtc.web.client import ClientLimits, HTTPClient
from mtc.web.server import serve

W1, M1 = 8, 9


@pytest.fixture(autouse=True)
def quiet_logs() -> Iterator[list[MutableMapping[str, Any]]]:
    """Keep log events instead of printing them."""
    with structlog.testing.capture_logs() as events:
        yield events


class HistorySource:
    """Packages of a log in memory, proven to its newest tree."""

    def __init__(self, history: SyntheticLog) -> None:
        """Take the log."""
        self.history = history

    async def read_packages(self, places: Sequence[PackagePlace], tree_size: int) -> list[bytes]:
        """Return packages proven to `tree_size`."""
        return [self.history.packages(place.start, tree_size, 1)[0] for place in places]


class CountingSource:
    """The objects of an own log, and how often they were asked for."""

    def __init__(self, log: OwnLog) -> None:
        """Take the log."""
        self.log, self.calls = log, 0

    async def fetch(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return objects."""
        self.calls += 1
        return await self.log.store.fetch(keys)


class LargeSource:
    """Packages of a mebibyte that mean nothing."""

    async def read_packages(self, places: Sequence[PackagePlace], _tree_size: int) -> list[bytes]:
        """Return zeros."""
        return [bytes(1 << 20) for _ in places]


class WatchedClient(CosignerClient):
    """A client behind a network that takes only so many packages at once. heads, sizes: of what was to be sent."""

    def __init__(self, client: CosignerClient, http: HTTPClient, most: int) -> None:
        """Ask the same cosigner as another client."""
        super().__init__(client.peer, http, lambda: float(NOW))
        self.most = most
        self.heads: list[UploadHead] = []
        self.sizes: list[int] = []

    async def send_entries(
        self, head: UploadHead, packages: Sequence[bytes], checkpoint: Checkpoint
    ) -> tuple[NoteSignature, ...] | MirrorInfo:
        """Send what fits."""
        self.heads.append(head)
        self.sizes.append(sum(map(len, packages)))
        return await super().send_entries(head, packages[: self.most], checkpoint)


def test_witness_is_asked_as_the_protocol_says() -> None:
    """A checkpoint gives lines, one from elsewhere the size to start from, and a subtree a raw signature."""

    async def run() -> None:
        history = SyntheticLog(make_entries(10))
        async with client_of(Cosigner.of("w1", W1)) as client:
            note = history.note(7)
            assert await client.fetch_checkpoint(ORIGIN) is None
            lines = await client.add_checkpoint(0, [], note.encode())
            assert not isinstance(lines, StaleSize)
            stale = await client.add_checkpoint(3, history.proof(3, 10), history.note(10).encode())
            assert stale == StaleSize(7)
            lines = await client.add_checkpoint(7, history.proof(7, 10), history.note(10).encode())
            assert not isinstance(lines, StaleSize)
            cosigned = history.note(10).with_signatures(*lines)
            assert open_note(cosigned.encode(), [signer(W1).key]).verified[0].timestamp == NOW
            subtree = Subtree(8, 10)
            proof = prove_consistency(HASHER, history.reader, subtree, 10)
            raw = await client.sign_subtree(subtree, history.hash_of(subtree), proof, cosigned.encode())
            signer(W1).key.verifier.verify(message(signer(W1), subtree, history.hash_of(subtree)), raw)
            seen = await client.fetch_checkpoint(ORIGIN)
            assert isinstance(seen, SeenCheckpoint)
            assert (seen.checkpoint, seen.timestamp) == (history.checkpoint(10), NOW)
            with pytest.raises(PeerError, match="422"):
                await client.sign_subtree(subtree, bytes(32), proof, cosigned.encode())
            with pytest.raises(PeerError, match="403"):
                await client.sign_subtree(subtree, history.hash_of(subtree), proof, history.note(10).encode())

    asyncio.run(run())


def test_mirror_gets_what_it_lacks_in_requests_of_32_packages() -> None:
    """20,000 entries go up in three requests; what a mirror has already is not sent again, whatever was guessed."""

    async def run() -> None:
        mirror = Cosigner.of("m1", M1, Role.MIRROR)
        history = SyntheticLog(make_entries(20_000))
        async with client_of(mirror) as client:
            assert await client.add_checkpoint(0, [], history.note().encode()) == ()
            reached: list[int] = []
            source = HistorySource(history)
            lines = await upload_entries(client, history.checkpoint(), 19_999, source, reached.append)
            assert not isinstance(lines, MirrorInfo)
            assert reached == [0, 8192, 16384]
            assert mirror.asked.count("add-entries") == 4
            again = await upload_entries(client, history.checkpoint(), 20_000, source)
            assert not isinstance(again, MirrorInfo)
            assert mirror.asked.count("add-entries") == 5, "an empty upload refreshes the time"

    asyncio.run(run())


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 700), min_size=1, max_size=4), st.integers(0, 2000))
def test_uploads_of_any_growth_and_any_guess_commit(steps: list[int], guess: int) -> None:
    """Whatever sizes a log grows through and wherever the client believes the mirror stands, each tree is cosigned."""

    async def run() -> None:
        mirror = Cosigner.of("m1", M1, Role.MIRROR)
        history = SyntheticLog()
        async with client_of(mirror) as client:
            old = 0
            for step in steps:
                history.append(make_entries(step, start=old))
                size = history.size
                assert await client.add_checkpoint(old, history.proof(old, size), history.note().encode()) == ()
                lines = await upload_entries(client, history.checkpoint(), guess, HistorySource(history))
                assert not isinstance(lines, MirrorInfo)
                open_note(history.note().with_signatures(*lines).encode(), [signer(M1).key])
                old = size

    asyncio.run(run())


def test_upload_goes_on_after_a_cut() -> None:
    """A mirror that gets a part of each request is brought forward by the next ones, with its ticket."""

    async def run() -> None:
        mirror = Cosigner.of("m1", M1, Role.MIRROR)
        history = SyntheticLog(make_entries(3000))
        async with client_of(mirror) as plain, HTTPClient(ClientLimits()) as http:
            client = WatchedClient(plain, http, 2)
            assert await client.add_checkpoint(0, [], history.note().encode()) == ()
            lines = await upload_entries(client, history.checkpoint(), 0, HistorySource(history))
            assert not isinstance(lines, MirrorInfo)
            assert [head.start for head in client.heads] == [512 * number for number in range(6)]
            assert not client.heads[0].ticket
            assert all(head.ticket for head in client.heads[1:])

    asyncio.run(run())


def test_large_entries_fill_few_packages_of_a_request() -> None:
    """Where entries are large, a request has fewer packages, and never much more than its bound."""

    async def run() -> None:
        mirror = Cosigner.of("m1", M1, Role.MIRROR)
        mirror.rules["add-entries"] = always(202, b"5000\n5000\n\n")
        async with client_of(mirror) as plain, HTTPClient(ClientLimits()) as http:
            client = WatchedClient(plain, http, 32)
            with pytest.raises(PeerError, match="does not come forward"):
                await upload_entries(client, SyntheticLog(make_entries(5000)).checkpoint(), 0, LargeSource())
            assert client.sizes == [MAX_REQUEST_BYTES] + [0] * (MAX_STALLS + 1)

    asyncio.run(run())


def test_uploads_are_compressed_and_read_back() -> None:
    """A body above a packet's size is gzip, and holds what the format says."""

    async def run() -> None:
        mirror = Cosigner.of("m1", M1, Role.MIRROR)
        history = SyntheticLog(make_entries(600))
        bodies: list[tuple[bytes, bytes]] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            pieces = [await receive()]
            while pieces[-1].get("more_body"):
                pieces.append(await receive())
            if scope["path"].endswith("add-entries"):
                encoding = dict(scope["headers"]).get(b"content-encoding", b"")
                bodies.append((encoding, b"".join(piece.get("body", b"") for piece in pieces)))
            left = iter(pieces)

            async def again() -> Message:
                return next(left)

            await mirror(scope, again, send)

        await mirror.restart()
        async with serve(app, ("127.0.0.1", 0)) as listening, HTTPClient(ClientLimits()) as http:
            mirror.url = listening.url
            client = CosignerClient(mirror.peer, http, lambda: float(NOW))
            assert await client.add_checkpoint(0, [], history.note().encode()) == ()
            await upload_entries(client, history.checkpoint(), 0, HistorySource(history))
        ((encoding, body),) = bodies
        assert encoding == b"gzip"
        reader = UploadReader()
        packages = reader.receive(gzip.decompress(body))
        assert [entry for package in packages for entry in package.entries] == history.entries
        assert len(body) < len(gzip.decompress(body)) / 2

    asyncio.run(run())


def _forge(body: bytes) -> bytes:
    """Return a note of which the last signature's last byte is another."""
    head, _, line = body.rstrip(b"\n").rpartition(b"\n")
    signature = NoteSignature.parse(line.decode())
    broken = signature.signature[:-1] + bytes((signature.signature[-1] ^ 1,))
    return head + b"\n" + NoteSignature(signature.name, signature.key_id, broken).encode()


@pytest.mark.parametrize(
    ("change", "family"),
    [
        (_forge, SignatureError),
        (lambda _: SyntheticLog(make_entries(9)).note().encode(), Rejected),
        (lambda _: SyntheticLog(make_entries(9), origin="elsewhere").note().encode(), FormatError),
        (lambda body: body[:-1], FormatError),
        (lambda _: b"", FormatError),
        (lambda _: bytes(2_000_000), PeerError),
    ],
    ids=["forged", "not signed by it", "other log", "cut", "empty", "huge"],
)
def test_checkpoints_that_are_shown_are_verified(change: Callable[[bytes], bytes], family: type[Error]) -> None:
    """A checkpoint on the monitoring prefix counts only with the cosigner's own signature, for the log asked about."""

    async def run() -> None:
        witness = Cosigner.of("w1", W1)
        history = SyntheticLog(make_entries(9))
        async with client_of(witness) as client:
            await client.add_checkpoint(0, [], history.note().encode())
            witness.rules["checkpoint"] = changed(change)
            with pytest.raises(family):
                await client.fetch_checkpoint(ORIGIN)

    asyncio.run(run())


def test_forged_answers_carry_what_was_answered() -> None:
    """An error about a forged line holds the line, so that it can be kept as evidence; what it says is short."""

    async def run() -> None:
        witness = Cosigner.of("w1", W1)
        history = SyntheticLog(make_entries(9))
        async with client_of(witness) as client:
            witness.rules["add-checkpoint"] = changed(_forge_lines)
            with pytest.raises(SignatureError) as error:
                await client.add_checkpoint(0, [], history.note().encode())
            assert signer(W1).key.name in str(error.value.facts["note"])
            assert len(error.value.message) < 500

    asyncio.run(run())


def _forge_lines(body: bytes) -> bytes:
    """Return lines of which the last signature is another."""
    return _forge(b"\n" + body).lstrip(b"\n")


def test_detail_of_a_refusal_is_short_and_printable() -> None:
    """What a cosigner says with a refusal goes into the error without control characters, and not all of it."""

    async def run() -> None:
        witness = Cosigner.of("w1", W1)
        async with client_of(witness) as client:
            witness.rules["*"] = always(400, b"\x1b[31mno\r\n" + b"x" * 100_000)
            with pytest.raises(PeerError) as error:
                await client.add_checkpoint(0, [], SyntheticLog(make_entries(1)).note().encode())
            assert error.value.reason is Reason.PEER
            assert error.value.facts["status"] == 400
            assert "[31mno xxx" in error.value.message
            assert error.value.message.isprintable()
            assert len(error.value.message) < 400

    asyncio.run(run())


# --- packages of our own log


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 600), min_size=1, max_size=4), st.data())
def test_published_tree_gives_the_packages_of_the_protocol(steps: list[int], data: st.DataObject) -> None:
    """From tiles and bundles come the same packages as from the entries, for any growth and any start."""

    async def run() -> None:
        log = OwnLog()
        for step in steps:
            tree, _ = await log.grow(make_entries(step, start=log.history.size))
        size = log.history.size
        start = data.draw(st.integers(0, size))
        published = PublishedTree(HASHER, log.store, LogReader(HASHER, log.store, "public/1/"), tree)
        places = list(package_places(start, size))
        assert await published.read_packages(places, size) == log.history.packages(start, size)
        old = data.draw(st.integers(0, size))
        assert list(await published.prove_growth(old)) == log.history.proof(old, size)
        assert await published.root_at(old) == log.history.root(old)

    asyncio.run(run())


def test_full_bundles_stand_for_partial_ones_and_missing_ones_are_named() -> None:
    """A partial bundle that was collected is cut from the full one; one that is pruned is said to be so."""

    async def run() -> None:
        log = OwnLog()
        await log.grow(make_entries(300))
        tree, _ = await log.grow(make_entries(30, start=300))
        later, _ = await log.grow(make_entries(300, start=330))
        await log.store.discard(["public/1/tile/entries/001.p/74"])
        published = PublishedTree(HASHER, log.store, LogReader(HASHER, log.store, "public/1/"), tree)
        places = list(package_places(0, 330))
        expected = SyntheticLog(make_entries(330)).packages(0, 330)
        assert await published.read_packages(places, 330) == expected
        await log.store.discard(["public/1/tile/entries/000"])
        with pytest.raises(PeerError) as error:
            await published.read_packages(places, 330)
        assert error.value.reason is Reason.PRUNED
        await log.store.put({"public/1/tile/entries/000": b"\0\x05abc"})
        with pytest.raises(StorageError):
            await published.read_packages(places, 330)
        assert later.tree_size == 630

    asyncio.run(run())


def test_proofs_are_computed_once_for_all() -> None:
    """Ten cosigners at one size cost one reading of tiles."""

    async def run() -> None:
        log = OwnLog()
        await log.grow(make_entries(700))
        tree, _ = await log.grow(make_entries(50, start=700))
        counting = CountingSource(log)
        published = PublishedTree(HASHER, log.store, LogReader(HASHER, counting, "public/1/"), tree)
        proofs = await asyncio.gather(*(published.prove_growth(700) for _ in range(10)))
        assert {tuple(proof) for proof in proofs} == {tuple(log.history.proof(700, 750))}
        assert counting.calls == 1

    asyncio.run(run())
