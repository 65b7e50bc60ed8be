"""The read path: every public file under one name, with the headers that caches need."""

import asyncio
import gzip
import random
from collections.abc import Iterator, MutableMapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import ASGIApp
from tests.asgi import Reply, ask, ask_now
from tests.published_logs import MOMENT, PublishedCA, many_entries, sign_checkpoint

from mtc.ca.http import FILES, ReadPath, ServingRules
from mtc.landmark import LandmarkSequence
from mtc.store import MemoryStore
from mtc.tiles import EntriesTile, Tile, bundles_for_growth, tiles_for_growth
from mtc.web.frame import FrameChoices, create_app
from mtc.web.objects import accepts_gzip

SIZE = 600
IMMUTABLE = "public, max-age=31536000, immutable"


@pytest.fixture(autouse=True)
def quiet_logs() -> Iterator[list[MutableMapping[str, Any]]]:
    """Keep log events instead of printing them."""
    with structlog.testing.capture_logs() as events:
        yield events


def published() -> PublishedCA:
    """Return a CA with a closed log of 3 entries and a current one of 600."""
    ca = PublishedCA()

    async def run() -> None:
        await ca.publish(many_entries(3), number=1, is_closed=True)
        marks = LandmarkSequence.start().allocate(
            500, MOMENT, max_lifetime=timedelta(days=7), interval=timedelta(hours=1)
        )
        await ca.publish(many_entries(SIZE), number=2, landmarks=marks)
        await ca.store.replace({f"public/{name}": name.encode() for name in FILES})
        await ca.store.replace({"private/ledger/2/1": b"secret", "public/2/private": b"secret"})

    asyncio.run(run())
    return ca


CA = published()


def app_of(store: MemoryStore | None = None, prefix: str = "/mtc", rules: ServingRules | None = None) -> ASGIApp:
    """Return the read path as an application."""
    return create_app(ReadPath(store or CA.store, rules).routes(prefix))


def get(target: str, app: ASGIApp | None = None, method: str = "GET", **headers: str) -> Reply:
    """Ask for a path; underscores in header names are dashes."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return ask_now(app or app_of(), target, method=method, headers=names)


def test_every_object_of_every_log_is_served_as_it_is() -> None:
    """Each tile, bundle, checkpoint and landmarks file comes back byte for byte, old logs included."""
    app = app_of()
    for number, size in ((1, 3), (2, SIZE)):
        paths = [tile.path for tile in tiles_for_growth(0, size)] + [
            place.path for place in bundles_for_growth(0, size)
        ]
        for path in paths:
            reply = get(f"/mtc/{number}/{path}", app)
            assert (reply.status, reply.body) == (200, CA.store.objects[f"public/{number}/{path}"])
            assert reply.headers["content-type"] == "application/octet-stream"
            assert reply.headers["cache-control"] == IMMUTABLE
    for path in ("checkpoint", "landmarks"):
        reply = get(f"/mtc/2/{path}", app)
        assert reply.body == CA.store.objects[f"public/2/{path}"]
        assert reply.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("ca.pem", "application/x-pem-file"),
        ("ca.crl", "application/pkix-crl"),
        ("revocations.crl", "application/pkix-crl"),
    ],
)
def test_files_of_the_ca(name: str, media_type: str) -> None:
    """The CA certificate and both lists are served with their types, for as long as they are fresh."""
    reply = get(f"/mtc/{name}", app_of(rules=ServingRules(lists_max_age_s=lambda: 77)))
    assert (reply.status, reply.text) == (200, name)
    assert reply.headers["content-type"] == media_type
    assert reply.headers["cache-control"] == "public, max-age=77"
    assert get(f"/mtc/{name}", app_of(MemoryStore())).status == 404


def test_caching_follows_the_rules_handed_in() -> None:
    """A checkpoint is fresh for seconds or not at all, landmarks until about the next one; never a negative time."""
    rules = ServingRules(checkpoint_max_age_s=0, landmarks_max_age_s=lambda number: number * 100)
    app = app_of(rules=rules)
    assert get("/mtc/2/checkpoint", app).headers["cache-control"] == "no-cache"
    assert get("/mtc/2/landmarks", app).headers["cache-control"] == "public, max-age=200"
    assert get("/mtc/2/checkpoint").headers["cache-control"] == "public, max-age=2"
    late = app_of(rules=ServingRules(landmarks_max_age_s=lambda _: -5))
    assert get("/mtc/2/landmarks", late).headers["cache-control"] == "public, max-age=0"


@pytest.mark.parametrize(
    "target",
    [
        "/mtc/2/tile/0/000/",
        "/mtc/2/tile/0/0",
        "/mtc/2/tile/0/x000/000",
        "/mtc/2/tile/00/000",
        "/mtc/2/tile/0/000.p/0",
        "/mtc/2/tile/0/000.p/256",
        "/mtc/2/tile/0/002.p/088",
        "/mtc/2/tile/64/000",
        "/mtc/2/tile/0/%30%30%30",
        "/mtc/2/%63heckpoint",
        "/mtc/2/tile/0/../../checkpoint",
        "/mtc/2//checkpoint",
        "/mtc//2/checkpoint",
        "/mtc/02/checkpoint",
        "/mtc/+2/checkpoint",
        "/mtc/²/checkpoint",
        "/mtc/0/checkpoint",
        "/mtc/3/checkpoint",
        "/mtc/99999/checkpoint",
        "/mtc/100000/checkpoint",
        "/mtc/2/private",
        "/mtc/2/",
        "/mtc/2",
        "/mtc/ca.key",
        "/mtc/private/ledger/2/1",
        "/2/checkpoint",
        "/mtc/2/tile/0/002.p/89",
        "/mtc/2/tile/0/003",
        "/mtc/2/tile/entries/002",
    ],
)
def test_everything_else_is_not_found(target: str) -> None:
    """A path that is spelled in another way, climbs, names what is private, or an object that is not there, is 404."""
    reply = get(target.replace("²", "%C2%B2"))
    assert reply.status == 404
    assert b"secret" not in reply.body
    assert reply.headers["cache-control"] == "no-store"


@given(st.text(alphabet="0123456789x/.p%tileenrs-", max_size=40))
def test_no_path_fails(path: str) -> None:
    """Any path is answered with 200 or 404, never with an error of ours."""
    assert get(f"/mtc/2/tile/{path}").status in {200, 404}


@pytest.mark.parametrize("target", ["/mtc/2/checkpoint", "/mtc/2/tile/0/000", "/mtc/ca.pem"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_only_get_and_head(target: str, method: str) -> None:
    """Other methods are 405 and told what is allowed."""
    reply = get(target, method=method)
    assert reply.status == 405
    assert set(reply.headers["allow"].split(", ")) == {"GET", "HEAD"}


@pytest.mark.parametrize("path", ["2/checkpoint", "2/landmarks", "2/tile/0/000", "2/tile/entries/000", "ca.crl"])
def test_head_has_the_headers_of_get(path: str) -> None:
    """HEAD answers with all headers of GET, the length included, and no body."""
    for coding in ("identity", "gzip"):
        whole = get(f"/mtc/{path}", accept_encoding=coding)
        head = get(f"/mtc/{path}", method="HEAD", accept_encoding=coding)
        assert (head.status, head.body) == (200, b"")
        assert head.headers == whole.headers
        assert int(head.headers["content-length"]) == len(whole.body)


@pytest.mark.parametrize("path", ["2/checkpoint", "2/landmarks", "2/tile/0/000", "2/tile/entries/000", "ca.crl"])
def test_conditional_requests(path: str) -> None:
    """Who names the ETag gets 304 with the headers and without the body; who names another one gets the whole."""
    first = get(f"/mtc/{path}")
    etag = first.headers["etag"]
    for named in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        reply = get(f"/mtc/{path}", if_none_match=named)
        assert (reply.status, reply.body) == (304, b"")
        assert reply.headers["etag"] == etag
        assert reply.headers["cache-control"] == first.headers["cache-control"]
    assert get(f"/mtc/{path}", if_none_match='"other"').status == 200


def test_etag_follows_the_bytes() -> None:
    """Equal bytes have equal ETags in every process, other bytes have others."""
    etags = {get(f"/mtc/{path}").headers["etag"] for path in ("2/checkpoint", "1/checkpoint", "2/landmarks", "ca.crl")}
    assert len(etags) == 4
    assert get("/mtc/2/checkpoint").headers["etag"] == get("/mtc/2/checkpoint").headers["etag"]


def test_bundles_are_compressed_when_the_client_accepts_it() -> None:
    """A bundle comes gzip'd with an ETag of its own; caches are told that it varies. Tiles never do."""
    app = app_of()
    plain, packed = get("/mtc/2/tile/entries/000", app), get("/mtc/2/tile/entries/000", app, accept_encoding="gzip")
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    assert len(packed.body) < len(plain.body) / 3
    assert plain.headers["vary"] == packed.headers["vary"] == "Accept-Encoding"
    assert "content-encoding" not in plain.headers
    assert packed.headers["etag"] != plain.headers["etag"]
    etag = packed.headers["etag"]
    assert get("/mtc/2/tile/entries/000", app, accept_encoding="gzip", if_none_match=etag).status == 304
    assert get("/mtc/2/tile/entries/000", app, if_none_match=etag).status == 200
    again = get("/mtc/2/tile/entries/000", app_of(), accept_encoding="gzip")
    assert again.body == packed.body
    tile = get("/mtc/2/tile/0/000", app, accept_encoding="gzip")
    assert "content-encoding" not in tile.headers


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        ("gzip", True),
        ("gzip, identity", True),
        ("br;q=1.0, GZIP;q=0.8", True),
        ("x-gzip", True),
        ("*", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("gzip;q=0.001", True),
        ("*;q=0", False),
        ("*, gzip;q=0", False),
        ("identity", False),
        ("", False),
        ("br", False),
    ],
)
def test_accept_encoding_is_weighed(header: str, *, accepted: bool) -> None:
    """Gzip is used when it is named or covered by `*`, and not with a weight of zero."""
    assert accepts_gzip(header) == accepted


def test_everybody_may_read_from_a_browser() -> None:
    """Public files may be read by pages of any origin."""
    for path in ("2/checkpoint", "2/tile/0/000", "2/landmarks", "ca.pem"):
        reply = get(f"/mtc/{path}")
        assert reply.headers["access-control-allow-origin"] == "*"
        assert reply.headers["cross-origin-resource-policy"] == "cross-origin"
        assert reply.headers["x-content-type-options"] == "nosniff"


def test_pruned_tiles_are_gone() -> None:
    """Tiles and bundles that end at or below the minimum index are 410, also out of the cache; others stay."""
    minimum = {1: 0, 2: 0}
    app = app_of(rules=ServingRules(minimum_index=lambda number: minimum[number]))
    first = [Tile(0, 0).path, EntriesTile(0).path]
    for path in first:
        assert get(f"/mtc/2/{path}", app).status == 200
    for bound, expected in ((255, 200), (256, 410), (511, 410)):
        minimum[2] = bound
        for path in first:
            assert get(f"/mtc/2/{path}", app).status == expected
        assert get(f"/mtc/2/{Tile(0, 1).path}", app).status == 200
    assert get(f"/mtc/2/{Tile(1, 0, 2).path}", app).status == 200
    assert get(f"/mtc/2/{EntriesTile(0, 3).path}", app).status == 410
    assert get(f"/mtc/1/{EntriesTile(0, 3).path}", app).status == 200


def test_collected_partial_tile_is_not_found() -> None:
    """A superseded partial tile may be gone while the full one is there."""
    assert get("/mtc/2/tile/0/000.p/3").status == 404
    assert get("/mtc/2/tile/0/000").status == 200


def test_new_checkpoint_is_served_at_once() -> None:
    """A checkpoint is never kept in memory: what the store holds is what is answered."""

    async def run() -> None:
        store = MemoryStore()
        app = app_of(store)
        for size in range(3):
            note = sign_checkpoint(1, size, bytes([size]) * 32, MOMENT)
            await store.replace({"public/1/checkpoint": note})
            assert (await ask(app, "/mtc/1/checkpoint")).body == note

    asyncio.run(run())


def test_date_of_a_checkpoint_never_hides_a_newer_one() -> None:
    """`If-Modified-Since` gives 304 only for what was served with that date, however many checkpoints a second has."""

    async def run() -> None:
        store = MemoryStore()
        moment = MOMENT

        def now() -> datetime:
            return moment

        app = app_of(store, rules=ServingRules(now=now))
        held: list[tuple[str, bytes]] = []
        chance = random.Random(3)
        for step in range(300):
            moment += timedelta(milliseconds=chance.randrange(50, 900))
            if chance.random() < 0.5 or not step:
                await store.replace({"public/1/checkpoint": b"checkpoint %d" % step})
            current = store.objects["public/1/checkpoint"]
            reply = await ask(app, "/mtc/1/checkpoint")
            assert reply.body == current
            if "last-modified" in reply.headers:
                held.append((reply.headers["last-modified"], reply.body))
            for date, body in held[-9:]:
                again = await ask(app, "/mtc/1/checkpoint", headers={"If-Modified-Since": date})
                assert again.status == 200 or body == current, "what the client holds is the newest"
        moment += timedelta(seconds=1)
        reply = await ask(app, "/mtc/1/checkpoint")
        held.append((reply.headers["last-modified"], reply.body))
        assert len(held) > 30
        reply = await ask(app, "/mtc/1/checkpoint", headers={"If-Modified-Since": held[-1][0]})
        assert reply.status == 304
        headers = {"If-Modified-Since": held[-1][0], "If-None-Match": '"other"'}
        assert (await ask(app, "/mtc/1/checkpoint", headers=headers)).status == 200
        assert (await ask(app, "/mtc/1/checkpoint", headers={"If-Modified-Since": "yesterday"})).status == 200

    asyncio.run(run())


class CountingStore(MemoryStore):
    """A store that remembers what was fetched."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        super().__init__()
        self.objects = objects
        self.fetched: list[str] = []

    async def fetch(self, keys: Sequence[str]) -> list[bytes | None]:
        """Note the keys and return the objects."""
        self.fetched += keys
        return await super().fetch(keys)


def test_cache_keeps_immutable_objects_within_its_bound() -> None:
    """What is asked for again and again is read once; the cache never holds more bytes than allowed."""

    async def run() -> None:
        ca = PublishedCA()
        await ca.publish(many_entries(40 * 256))
        store = CountingStore(ca.store.objects)
        path = ReadPath(store, ServingRules(cache_bytes=100_000))
        app = create_app(path.routes())
        for index in range(40):
            for number in (index, 0):
                assert (await ask(app, f"/1/{Tile(0, number).path}")).status == 200
            assert path._cache._bytes == sum(item.cost for item in path._cache._held.values()) <= 100_000
        assert store.fetched == [f"public/1/{Tile(0, index).path}" for index in range(40)]
        await ask(app, f"/1/{Tile(0, 1).path}")
        assert len(store.fetched) == 41
        large = ReadPath(store, ServingRules(cache_bytes=10_000))
        await ask(create_app(large.routes()), f"/1/{Tile(0, 0).path}")
        assert not large._cache._held

    asyncio.run(run())


def test_endpoints_are_a_small_set_of_words() -> None:
    """Metrics count by kind of file, so that no path of a stranger becomes a label."""
    seen: list[str] = []
    app = create_app(ReadPath(CA.store).routes(), FrameChoices(observe=lambda item: seen.append(item.endpoint)))
    for path in ("2/checkpoint", "2/landmarks", "2/tile/0/000", "2/tile/entries/000", "ca.crl", "2/nonsense", "x/y"):
        ask_now(app, f"/{path}")
    assert seen == ["checkpoint", "landmarks", "tile", "entries", "ca.crl", "unknown", "unknown"]
