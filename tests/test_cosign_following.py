"""A mirror that follows a log by itself: catching up, beginning late, lies, pruning."""

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from tests.cosigning import Running, World
from tests.note_keys import CA
from tests.published_logs import MOMENT, certificate_entry
from tests.synthetic_logs import HASHER, ORIGIN, SyntheticLog, make_entries

from mtc.cosign.config import CosignerConfig, Pruning, Role
from mtc.cosign.evidence import BadEntries, verify_evidence
from mtc.cosign.logs import KnownCA, KnownLog
from mtc.cosign.pruning import may_forget
from mtc.cosign.service.following import Follower
from mtc.cosign.service.metrics import CosignerMetrics
from mtc.cosign.service.mirror import Mirror
from mtc.cosign.service.tending import PARTIAL_GRACE, Tending, plan_minimum, prune
from mtc.errors import Error, FormatError, PeerError, ProofError, Reason
from mtc.ids import TrustAnchorID
from mtc.merkle import Node
from mtc.note import Checkpoint
from mtc.testing import FakeClock
from mtc.tiles import TILE_WIDTH, EntriesTile, EntryBundle, Tile, parse_tile_path, tiles_for_growth, verify_tiles
from mtc.web.client import ClientLimits, HTTPClient
from mtc.web.frame import create_app
from mtc.web.server import serve


@dataclass
class ServedLog:
    """A log that is served over HTTP. change: what the server does to a file, None to hide it."""

    log: SyntheticLog
    size: int
    change: Callable[[str, bytes], bytes | None] = field(default=lambda _path, data: data)
    asked: list[str] = field(default_factory=list)

    async def answer(self, request: Request) -> Response:
        """Answer with a file of the log."""
        path = request.path_params["path"]
        self.asked.append(path)
        try:
            data = self.read(path)
        except FormatError:
            data = None
        found = None if data is None else self.change(path, data)
        headers = {"Content-Encoding": "gzip"} if found and found.startswith(b"\x1f\x8b") else {}
        return Response(status_code=404) if found is None else Response(found, headers=headers)

    def read(self, path: str) -> bytes | None:
        """Return a file as an honest log has it."""
        if path == "checkpoint":
            return self.log.note(self.size).encode()
        tile = parse_tile_path(path)
        start, end = tile.index * TILE_WIDTH, tile.index * TILE_WIDTH + tile.width
        if isinstance(tile, EntriesTile):
            return EntryBundle(tuple(self.log.entries[start:end])).encode() if end <= self.size else None
        if end << 8 * tile.level > self.size:
            return None
        return b"".join(self.log.reader.read([Node(8 * tile.level, index) for index in range(start, end)]))

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        """Serve; give the URL."""
        app = create_app([Route("/log/{path:path}", self.answer)])
        async with serve(app, ("127.0.0.1", 0)) as listening:
            yield f"{listening.url}/log"


def play(
    served: ServedLog,
    story: Callable[[Running, Follower], Awaitable[None]],
    *,
    minimum_index: int = 0,
    world: World | None = None,
) -> None:
    """Run a story with a mirror that may follow."""

    async def run() -> None:
        async with served.served() as url, HTTPClient(ClientLimits(attempts=1)) as http:
            log = KnownLog(origin=ORIGIN, keys=(CA.key,), url=url, is_followed=True, minimum_index=minimum_index)
            place = world or World(is_mirror=True)
            running = await replace(place, logs=(log,), cas=()).open()
            await story(running, Follower(running.mirror, log, http))

    asyncio.run(run())


@pytest.mark.parametrize("sizes", [(1, 2), (256, 512), (300, 301, 1000), (10_000, 10_001), (0, 5), (700, 700)])
def test_a_follower_takes_over_everything(sizes: tuple[int, ...]) -> None:
    """After each look the mirror checkpoint is the log's, with all entries; the same again costs one request."""
    served = ServedLog(SyntheticLog(make_entries(max(sizes))), 0)

    async def story(running: Running, follower: Follower) -> None:
        for size in sizes:
            served.size = size
            assert await follower.step()
            state = running.mirror.state(ORIGIN)
            assert (state.committed_size, state.next_entry) == (size, size)
            assert state.committed is None or state.committed.lines
            served.asked.clear()
            await follower.step()
            assert served.asked == ["checkpoint"]
        asker = running.asker()
        for start in range(0, sizes[-1], TILE_WIDTH):
            bundle = EntriesTile(start // TILE_WIDTH, min(TILE_WIDTH, sizes[-1] - start))
            data = (await asker.fetch(ORIGIN, bundle.path)).body
            assert EntryBundle.parse(data).entries == tuple(served.log.entries[start : start + bundle.width])

    play(served, story)


def test_following_and_uploading_mix() -> None:
    """What one way brought the other goes on from."""
    served = ServedLog(SyntheticLog(make_entries(1000)), 0)

    async def story(running: Running, follower: Follower) -> None:
        asker, log = running.asker(), served.log
        assert (await asker.post("add-checkpoint", log.add_checkpoint(0, 300))).status == 200
        assert (await asker.post("add-entries", log.upload(0, 300, count=1))).status == 202
        served.size = 400
        await follower.step()
        assert running.mirror.state(ORIGIN).committed_size == 400
        assert (await asker.post("add-checkpoint", log.add_checkpoint(400, 1000))).status == 200
        assert (await asker.post("add-entries", log.upload(400, 1000))).status == 200

    play(served, story)


@pytest.mark.parametrize("minimum", [256, 300, 512, 66_000, 66_047])
def test_a_mirror_may_begin_at_a_recent_index(minimum: int) -> None:
    """From a minimum index on everything is served and the root is the log's; what is before it was never fetched."""
    size = 66_500
    served = ServedLog(SyntheticLog(make_entries(size)), 66_048)
    world = World(is_mirror=True)

    async def story(running: Running, follower: Follower) -> None:
        start = minimum - minimum % TILE_WIDTH
        for count in (66_048, size):
            served.size = count
            await follower.step()
            state = running.mirror.state(ORIGIN)
            assert (state.committed_size, state.minimum_index) == (count, start)
            asker = running.asker()
            tiles = [tile for tile in tiles_for_growth(0, count) if tile.end > start or not tile.is_full]
            contents = {tile: (await asker.fetch(ORIGIN, tile.path)).body for tile in tiles}
            checkpoint = Checkpoint.parse((await asker.checkpoint(ORIGIN)).body.split(b"\n\n")[0] + b"\n")
            verify_tiles(HASHER, count, checkpoint.root_hash, contents)
            assert (await asker.fetch(ORIGIN, EntriesTile(0).path)).status == 410
            # And after a restart it goes on.
            running = await replace(world, logs=running.world.logs, cas=()).open()
            follower = Follower(running.mirror, follower._log, follower._http)
        asked = [parse_tile_path(path) for path in served.asked if path.startswith("tile/entries")]
        assert min(tile.index for tile in asked) == start // TILE_WIDTH

    play(served, story, minimum_index=minimum, world=world)


def test_entries_that_are_not_of_the_tree_are_refused_and_kept_as_evidence() -> None:
    """A log that serves other entries is not cosigned; what came before is kept, and the lie as a bundle."""
    served = ServedLog(SyntheticLog(make_entries(1000)), 1000)
    served.change = lambda path, data: data.replace(b"entry 600", b"entry 6oo") if "entries" in path else data

    async def story(running: Running, follower: Follower) -> None:
        with pytest.raises(ProofError):
            await follower.step()
        state = running.mirror.state(ORIGIN)
        assert (state.committed_size, state.next_entry) == (0, 512)
        assert follower.evidence is not None
        assert isinstance(follower.evidence.exhibit, BadEntries)
        verify_evidence(follower.evidence)
        served.change = lambda _path, data: data
        await follower.step()
        assert running.mirror.state(ORIGIN).committed_size == 1000
        assert follower.evidence is None

    play(served, story)


LIES: list[tuple[str, Callable[[str, bytes], bytes | None]]] = [
    ("no checkpoint", lambda path, data: None if path == "checkpoint" else data),
    ("no tiles", lambda path, data: None if path.startswith("tile/1") else data),
    ("no entries", lambda path, data: None if "entries" in path else data),
    ("wrong tiles", lambda path, data: bytes(len(data)) if path.startswith("tile/1") else data),
    ("short tiles", lambda path, data: data[:-1] if path.startswith("tile/1") else data),
    ("short bundles", lambda path, data: data[:-1] if "entries" in path else data),
    ("empty bundles", lambda path, data: b"" if "entries" in path else data),
    ("large tiles", lambda path, data: bytes(9000) if path.startswith("tile/1") else data),
    ("another text", lambda path, data: b"hello" if path == "checkpoint" else data),
    ("a huge checkpoint", lambda path, data: data + bytes(2_000_000) if path == "checkpoint" else data),
    ("no signature", lambda _path, data: data.replace(b"\n1000\n", b"\n1001\n")),
]


@pytest.mark.parametrize(("name", "change"), LIES)
def test_lies_and_silence_are_errors_that_change_nothing(
    name: str, change: Callable[[str, bytes], bytes | None]
) -> None:
    """Whatever the log does not serve, or serves wrongly, the mirror signs nothing for it and goes on later."""
    served = ServedLog(SyntheticLog(make_entries(1000)), 300)

    async def story(running: Running, follower: Follower) -> None:
        await follower.step()
        before = (await running.asker().checkpoint(ORIGIN)).body
        served.size, served.change = 1000, change
        if name == "no checkpoint":
            assert not await follower.step()
        else:
            with pytest.raises(Error):
                await follower.step()
        assert (await running.asker().checkpoint(ORIGIN)).body == before
        served.change = lambda _path, data: data
        await follower.step()
        assert running.mirror.state(ORIGIN).committed_size == 1000

    play(served, story)


@pytest.mark.parametrize(("part", "most"), [("tile/1", 8192), ("tile/entries", 16_777_472), ("checkpoint", 1_000_000)])
def test_gzip_bombs_of_a_log_end_at_the_limit_of_what_was_asked(part: str, most: int) -> None:
    """Limits count decompressed bytes: a tile has 8,192, a bundle at most 16,777,472; a good gzip is read."""
    served = ServedLog(SyntheticLog(make_entries(1000)), 1000)
    bomb = gzip.compress(bytes(most + 1), 9)
    assert len(bomb) < most / 100

    async def story(running: Running, follower: Follower) -> None:
        served.change = lambda path, data: bomb if path.startswith(part) else data
        with pytest.raises(PeerError) as caught:
            await follower.step()
        assert (caught.value.reason, caught.value.facts["expected"]) == (Reason.TOO_LARGE, most)
        served.change = lambda _path, data: gzip.compress(data)
        await follower.step()
        assert running.mirror.state(ORIGIN).committed_size == 1000

    play(served, story)


def test_an_older_checkpoint_from_a_cache_is_no_lie() -> None:
    """A smaller checkpoint than the one known is passed over."""
    served = ServedLog(SyntheticLog(make_entries(1000)), 1000)

    async def story(running: Running, follower: Follower) -> None:
        await follower.step()
        served.size = 300
        await follower.step()
        assert running.mirror.state(ORIGIN).committed_size == 1000

    play(served, story)


def _tending(running: Running, clock: FakeClock) -> Tending:
    """Return the loops of a mirror, none of them running."""
    config = CosignerConfig(role=Role.MIRROR, cosigner_id=TrustAnchorID.parse("32473.9"))
    assert isinstance(running.cosigner, Mirror)
    return Tending(running.cosigner, lambda: config, None, CosignerMetrics(), clock, {})  # type: ignore[arg-type]  # no evidence here


def test_superseded_partial_objects_go_after_a_grace() -> None:
    """Partial tiles and bundles stay an hour after the full ones are there, and those of the checkpoint stay."""
    log = SyntheticLog(make_entries(600))

    async def run() -> None:
        running = await World(is_mirror=True).open()
        asker, old = running.asker(), 0
        for size in (100, 200, 300, 600):
            await asker.post("add-checkpoint", log.add_checkpoint(old, size))
            assert (await asker.post("add-entries", log.upload(old, size))).status == 200
            old = size
        clock = running.world.clock
        tending = _tending(running, clock)
        assert await tending.collect(ORIGIN) == 0
        clock.advance(PARTIAL_GRACE.total_seconds() - 1)
        assert await tending.collect(ORIGIN) == 0
        clock.advance(2)
        # 100 and 200 of bundle 0, 300 of bundle 1, as bundles and as tiles.
        assert await tending.collect(ORIGIN) == 6
        assert (await asker.fetch(ORIGIN, Tile(0, 2, 88).path)).status == 200
        assert (await asker.fetch(ORIGIN, Tile(0, 0, 100).path)).status == 404
        again = await World(is_mirror=True, objects=running.world.objects, register=running.world.register).open()
        assert again.mirror.state(ORIGIN).committed_size == 600

    asyncio.run(run())


def test_followed_logs_of_a_ca_are_those_that_came_and_the_next() -> None:
    """A CA's next log is looked for before anybody tells of it."""
    ca = KnownCA(key=CA.key, prefix_url="http://ca.example", is_followed=True, highest_log=4)

    async def run() -> None:
        running = await World(is_mirror=True, cas=(ca,)).open()
        tending = _tending(running, running.world.clock)
        assert [log.url for log in tending.followed()] == ["http://ca.example/1"]
        log = SyntheticLog(make_entries(3), origin="oid/1.3.6.1.4.1.32473.1.0.3")
        await running.asker().post("add-checkpoint", log.add_checkpoint(0))
        assert [log.url for log in tending.followed()] == [f"http://ca.example/{n}" for n in (1, 2, 3, 4)]

    asyncio.run(run())


DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("days", "is_pruned", "may_go"),
    [
        (7 + 34, True, False),
        (7 + 36, True, True),
        (7 + 36, False, False),
        (7 + 89, False, False),
        (7 + 91, False, True),
    ],
)
def test_entries_stay_35_days_where_the_log_pruned_and_90_where_it_did_not(
    days: int, *, is_pruned: bool, may_go: bool
) -> None:
    """Chrome's draft policy, "Mirrors": 35 days past the end, and only what the log pruned, or 90 days past the end."""
    entries = [certificate_entry("a.example"), certificate_entry("b.example")]
    moment = MOMENT + days * DAY
    assert may_forget(entries, moment, 35 * DAY, 90 * DAY, is_pruned_by_log=is_pruned) == may_go


def test_what_never_ends_is_never_forgotten() -> None:
    """A bundle with an entry that is no certificate's stays, and with it all that follows."""
    entries = [certificate_entry("a.example"), b"something else"]
    assert not may_forget(entries, datetime(2200, 1, 1, tzinfo=UTC), DAY, DAY, is_pruned_by_log=True)


def test_pruning_raises_the_minimum_index_and_deletes_below_it() -> None:
    """Whole bundles of ended certificates go, up to the first that has not ended; the tree stays provable."""
    old = certificate_entry("old.example", moment=MOMENT - 200 * DAY)
    new = certificate_entry("new.example", moment=MOMENT)
    log = SyntheticLog([old] * 600 + [new] * 200)

    async def run() -> None:
        world = World(is_mirror=True)
        running = await world.open()
        asker = running.asker()
        await asker.post("add-checkpoint", log.add_checkpoint(0, 800))
        assert (await asker.post("add-entries", log.upload(0, 800))).status == 200
        config = CosignerConfig(role=Role.MIRROR, cosigner_id=TrustAnchorID.parse("32473.9"), pruning=Pruning.DELETE)
        known = running.core.find(ORIGIN)
        clock = FakeClock(MOMENT + DAY)
        assert await plan_minimum(running.mirror, known, config, clock, None) == 512
        await prune(running.mirror, ORIGIN, 512, is_deleted=True)
        assert (await asker.fetch(ORIGIN, EntriesTile(1).path)).status == 410
        assert (await asker.fetch(ORIGIN, EntriesTile(2).path)).status == 200
        assert not [key for key in await world.objects.list_keys() if key.endswith(("entries/000", "entries/001"))]
        again = await world.open()
        assert again.mirror.state(ORIGIN).minimum_index == 512

    asyncio.run(run())


def test_a_log_that_does_not_answer_is_a_peer_error() -> None:
    """A connection that is refused costs one look."""
    served = ServedLog(SyntheticLog(make_entries(10)), 10)

    async def story(running: Running, follower: Follower) -> None:
        away = Follower(running.mirror, replace(follower._log, url="http://127.0.0.1:9"), follower._http)
        with pytest.raises(PeerError):
            await away.step()
        assert await follower.step()

    play(served, story)
