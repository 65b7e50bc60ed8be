"""The status of a CA as values, and the pages that show it: links that lead somewhere, hashes that prove something."""

import asyncio
import contextlib
import json
import re
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import replace
from datetime import timedelta
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import ASGIApp
from tests.asgi import Reply, ask, ask_now
from tests.makers import LEAF_SPKI
from tests.published_logs import CA_ID, HASHER, MOMENT, PublishedCA, certificate_entry, many_entries

from mtc.ca.http import ReadPath
from mtc.ca.metrics import METRICS, CAMetrics
from mtc.ca.pages import drawing
from mtc.ca.pages.describe import describe_entry
from mtc.ca.pages.http import Pages, format_compact, format_duration, format_rate
from mtc.ca.pages.search import Place, parse_query
from mtc.ca.status import (
    CAStatus,
    CosignerStatus,
    Health,
    IncidentStatus,
    LandmarkStatus,
    LogStatus,
    RateMeter,
    describe_health,
    judge_health,
)
from mtc.cert import EntryExtension, Extension, LogEntry, TBSCertificateLogEntry, encode_name
from mtc.errors import FormatError, ProofError, StorageError
from mtc.ids import DEFAULT_REVISION, REVISIONS, DraftRevision, encode_ca_name, serial_number
from mtc.landmark import LandmarkSequence
from mtc.log.machine import ACCUMULATED_COUNT
from mtc.merkle import Node, RowReader, Subtree, subtree_hash, verify_inclusion
from mtc.store import MemoryStore
from mtc.web.frame import FrameChoices, create_app
from mtc.web.metrics import MetricKind, metrics_table

SCRIPT = "<script>alert(1)</script>"
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def quiet_logs() -> Iterator[list[MutableMapping[str, Any]]]:
    """Keep log events instead of printing them."""
    with structlog.testing.capture_logs() as events:
        yield events


def sequence(*sizes: int) -> LandmarkSequence:
    """Return landmarks of these sizes, an hour apart, the latest an hour ago."""
    found = LandmarkSequence.start()
    for position, size in enumerate(sizes):
        moment = MOMENT - (len(sizes) - position) * HOUR
        found = found.allocate(size, moment, max_lifetime=timedelta(days=7), interval=HOUR)
    return found


def ca_of(entries: Sequence[bytes], *sizes: int, **choices: Any) -> PublishedCA:  # noqa: ANN401 - of `publish`
    """Return a CA with one published log."""
    ca = PublishedCA()
    asyncio.run(ca.publish(entries, landmarks=sequence(*sizes) if sizes else None, **choices))
    return ca


def app_of(ca: PublishedCA) -> ASGIApp:
    """Return all pages of a CA with its public files."""
    metrics = CAMetrics()
    routes = [*Pages(ca.view(), HASHER).routes(), *metrics.routes(), *ReadPath(ca.store).routes(ca.status.prefix)]
    return create_app(routes, FrameChoices(observe=metrics.count_exchange))


def log_of(tree_size: int = 10, **fields: Any) -> LogStatus:  # noqa: ANN401 - of LogStatus
    """Return the status of a log."""
    return LogStatus(number=1, tree_size=tree_size, root_hash=bytes(32), checkpoint=MOMENT, **fields)


def status_of(**fields: Any) -> CAStatus:  # noqa: ANN401 - of CAStatus
    """Return the status of a CA that is well."""
    return replace(PublishedCA().status, **{"logs": (log_of(),), **fields})


# --- health


def test_health_names_every_reason() -> None:
    """A CA that is well says nothing; each fault has a reason, and the worst decides."""
    assert judge_health(status_of()) == (Health.OK, ())
    away = CosignerStatus(name="m", role="mirror", is_up=False)
    faults: list[tuple[dict[str, Any], Health, str]] = [
        ({"logs": ()}, Health.STOPPED, "no log is open"),
        ({"logs": (log_of(is_closed=True),)}, Health.STOPPED, "log 1 is closed"),
        ({"stopped_by": "the clock jumped"}, Health.STOPPED, "the clock jumped"),
        ({"signer_is_up": False, "signer_note": "refused"}, Health.DEGRADED, "does not answer: refused"),
        ({"cosigners": (away,)}, Health.DEGRADED, "cosigner m"),
        ({"warnings": ("disk nearly full",)}, Health.DEGRADED, "disk nearly full"),
        ({"now": MOMENT + 3 * HOUR}, Health.DEGRADED, "10800 s old"),
        ({"now": MOMENT - HOUR}, Health.DEGRADED, "from the future"),
    ]
    for fields, expected, text in faults:
        health, reasons = judge_health(status_of(**fields))
        assert (health, len(reasons)) == (expected, 1)
        assert text in reasons[0]
    health, reasons = judge_health(status_of(stopped_by="x", signer_is_up=False, cosigners=(away,)))
    assert (health, len(reasons)) == (Health.STOPPED, 3)


@pytest.mark.parametrize(("fields", "status"), [({}, 200), ({"signer_is_up": False}, 200), ({"stopped_by": "x"}, 503)])
def test_health_over_http(fields: dict[str, Any], status: int) -> None:
    """A load balancer gets 200 while certificates are issued, 503 when they are not."""
    ca = ca_of(many_entries(3))
    ca.now = MOMENT + timedelta(seconds=5)
    ca.status = replace(ca.status, **fields)
    reply = ask_now(app_of(ca), "/health")
    assert reply.status == status
    found = json.loads(reply.body)
    assert found == describe_health(asyncio.run(ca.view().status()))
    assert (found["tree_size"], found["checkpoint_age_s"], found["ca_id"]) == (3, 5, "32473.1")


def test_health_without_storage_is_stopped() -> None:
    """When the storage contradicts itself the CA says that it is stopped, not where its files are."""
    ca = ca_of(many_entries(3))
    ca.store.objects["public/1/checkpoint"] = ca.store.objects["public/1/checkpoint"].replace(
        b"32473.1.0.1", b"1.2.0.1"
    )
    reply = ask_now(app_of(ca), "/health")
    assert (reply.status, json.loads(reply.body)["status"]) == (503, "stopped")
    page = ask_now(app_of(ca), "/")
    assert page.status == 503
    assert "storage does not answer" in page.text


# --- rates


def test_rate_of_a_steady_stream() -> None:
    """A stream of 5 entries a second is 5/s in a minute and in an hour, and the history sums up to what was counted."""
    meter = RateMeter()
    for second in range(7200):
        meter.note(5, float(second))
    assert meter.rate(60, 7199.0) == pytest.approx(5, abs=0.5)
    assert meter.rate(3600, 7199.0) == pytest.approx(5, abs=0.05)
    history = meter.history(7199.0)
    assert len(history) == 60
    assert sum(history) * 60 == pytest.approx(5 * 3600, abs=60)
    assert meter.rate(60, 20000.0) == 0
    assert max(meter.history(20000.0)) == 0


def test_rate_of_nothing_and_of_the_first_moment() -> None:
    """Nothing counted is zero; a burst at the start is not spread over time that has not been."""
    meter = RateMeter()
    assert meter.rate(60, 5.0) == 0
    meter.note(100, 1000.0)
    assert meter.rate(3600, 1000.0) == 10


@given(st.lists(st.tuples(st.integers(0, 1000), st.floats(0, 100)), max_size=60))
def test_meter_forgets_and_never_invents(counts: list[tuple[int, float]]) -> None:
    """However entries come, the history holds at most what was counted, and old slots are dropped."""
    meter, moment = RateMeter(slot_s=1, slots=60), 0.0
    for entries, step in counts:
        moment += step
        meter.note(entries, moment)
    assert sum(meter.history(moment, 60)) <= sum(entries for entries, _ in counts) + 1e-6
    assert len(meter._counts) <= 61


# --- the view of the store


def test_view_gives_published_entries_and_proven_hashes() -> None:
    """Entries and hashes are those of the published tree, at every edge of its tiles."""
    entries = many_entries(600)
    view = ca_of(entries).view()
    reader = RowReader(HASHER, HASHER.leaves(entries))
    nodes = [Node(0, 0), Node(0, 599), Node(3, 7), Node(8, 0), Node(8, 1), Node(9, 0)]

    async def run() -> None:
        for index in (0, 255, 256, 511, 512, 599):
            assert await view.entry(1, index) == entries[index]
        for number, index in ((1, 600), (1, -1), (2, 0)):
            assert await view.entry(number, index) is None
        assert await view.hashes(1, nodes) == reader.read(nodes)
        assert await view.hashes(1, []) == []
        with pytest.raises(ProofError):
            await view.hashes(1, [Node(10, 0)])

    asyncio.run(run())


@pytest.mark.parametrize("path", ["tile/0/000", "tile/0/002.p/88", "tile/1/000.p/2", "tile/entries/000"])
def test_damaged_storage_is_never_shown(path: str) -> None:
    """A flipped bit in a tile or an entry, a tile cut short or missing, is an error of the storage and no page."""
    entries = many_entries(600)
    whole = ca_of(entries).store.objects[f"public/1/{path}"]
    for damaged in (bytes([*whole[:40], whole[40] ^ 1]) + whole[41:], whole[:-1], None):
        ca = ca_of(entries)
        if damaged is None:
            del ca.store.objects[f"public/1/{path}"]
        else:
            ca.store.objects[f"public/1/{path}"] = damaged
        reply = ask_now(app_of(ca), "/log/1/entry/0")
        is_gone = damaged is None and "entries" in path
        assert reply.status == (404 if is_gone else 503)
        assert HASHER.leaf(entries[0]).hex() not in reply.text
        if "entries" not in path:
            with pytest.raises(StorageError, match="mtc fsck"):
                asyncio.run(ca.view().hashes(1, [Node(0, 5)]))


def test_view_reads_a_partial_bundle_that_has_grown_full() -> None:
    """Where the partial bundle was collected, the full one in its place is read."""
    entries = many_entries(300)
    ca = ca_of(entries)
    full = many_entries(512)[256:]
    ca.store.objects["public/1/tile/entries/001"] = b"".join(len(e).to_bytes(2, "big") + e for e in full)
    del ca.store.objects["public/1/tile/entries/001.p/44"]
    assert asyncio.run(ca.view().entry(1, 299)) == entries[299]


def test_view_shows_what_is_published_not_what_is_decided() -> None:
    """A register that is ahead of the checkpoint, as in every round, changes nothing that is shown."""
    ca = ca_of(many_entries(5), 3, timestamp=MOMENT - HOUR)
    log = asyncio.run(ca.view().status()).current
    assert log is not None
    assert (log.tree_size, log.checkpoint) == (5, MOMENT - HOUR)
    assert [(mark.number, mark.tree_size, mark.is_active) for mark in log.landmarks] == [(1, 3, True)]
    ca.store.objects["public/1/landmarks"] = b"nonsense"
    log = asyncio.run(ca.view().status()).current
    assert log is not None
    assert log.landmarks == ()


# --- pages


class Links(HTMLParser):
    """Collects links of a page, in HTML and SVG, and every element's name and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.add(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name in {"href", "src"} and value:
                self.links.append(value)


def words(reply: Reply) -> str:
    """Return the text of a page with single spaces."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", reply.text)))


@pytest.mark.parametrize("size", [0, 1, 2, 3, 5, 16, 17, 257])
def test_every_link_leads_somewhere(size: int) -> None:
    """From the status page every page within reach, down to entries, answers 200, and no page holds a script."""
    sizes = (size - 1,) if size > 1 else ()
    ca = ca_of(many_entries(size), *sizes)
    asyncio.run(ca.store.replace({f"public/{name}": b"x" for name in ("ca.pem", "ca.crl", "revocations.crl")}))
    if not sizes:
        ca.store.objects["public/1/landmarks"] = b"0\n0 0\n"
    ca.last_round = (max(size - 2, 0), size)
    app = app_of(ca)

    async def run() -> set[str]:
        seen, todo = {"/"}, ["/"]
        while todo and len(seen) < 400:
            target = todo.pop()
            reply = await ask(app, target)
            if reply.status in {302, 303}:
                reply = await ask(app, reply.headers["location"])
            assert reply.status == 200, target
            if not reply.headers["content-type"].startswith("text/html"):
                continue
            page = Links(reply.text)
            assert "script" not in page.elements
            assert not {name for name in page.attributes if name.startswith("on") or name == "style"}
            for link in page.links:
                if link not in seen:
                    seen.add(link)
                    todo.append(link)
        return seen

    seen = asyncio.run(run())
    for index in range(size if size <= 17 else 0):
        assert f"/log/1/entry/{index}" in seen


def test_tree_pages_show_true_hashes() -> None:
    """The page of each node of a small tree shows its hash, its children and a path whose hashes prove it."""
    size = 13
    entries = many_entries(size)
    app = app_of(ca_of(entries))
    reader = RowReader(HASHER, HASHER.leaves(entries))
    for level in range(5):
        for index in range(-(-size // 2**level)):
            node = drawing.node_at(level, index, size)
            assert node is not None
            reply = ask_now(app, f"/log/1/tree/{level}/{index}")
            if drawing.level_of(node) != level or node.size == 1:
                assert reply.status == 302
                continue
            assert reply.status == 200
            assert subtree_hash(HASHER, reader, node).hex() in reply.text
            for _, sibling in drawing.path_to(size, node)[1:]:
                assert sibling is not None
                assert subtree_hash(HASHER, reader, sibling).hex() in reply.text


def test_entry_page_shows_a_proof_that_verifies() -> None:
    """The hashes listed from below on the page of an entry are its inclusion proof."""
    entries = many_entries(300)
    ca = ca_of(entries, 200)
    root = asyncio.run(ca.view().status()).logs[0].root_hash
    for index in (0, 127, 255, 256, 299):
        text = ask_now(app_of(ca), f"/log/1/entry/{index}").text
        proof = [bytes.fromhex(item) for item in re.findall(r"<li><span>[^<]*</span> <code>([0-9a-f]{64})", text)]
        verify_inclusion(HASHER, Subtree(0, 300), index, HASHER.leaf(entries[index]), proof, root)
        assert HASHER.leaf(entries[index]).hex() in text
        assert str(serial_number(1, index)) in text


def test_entry_page_tells_names_key_and_landmark() -> None:
    """The page of an entry shows what it certifies, for how long, and which landmark covers it."""
    ca = ca_of([certificate_entry("a.example.com", "b.example.com"), certificate_entry("c.example.com")], 1)
    ca.now = MOMENT + timedelta(days=1)
    first = words(ask_now(app_of(ca), "/log/1/entry/0"))
    for text in ("a.example.com", "b.example.com", "192.0.2.7", "ECDSA P-256", "serverAuth", "valid", "5 d 23 h left"):
        assert text in first
    assert "1, at tree size 1" in first
    assert "none yet; the next one" in words(ask_now(app_of(ca), "/log/1/entry/1"))
    ca.now = MOMENT + timedelta(days=8)
    assert "expired" in words(ask_now(app_of(ca), "/log/1/entry/0"))
    ca.now = MOMENT - timedelta(days=1)
    assert "not yet valid" in words(ask_now(app_of(ca), "/log/1/entry/0"))
    raw = ask_now(app_of(ca), "/log/1/entry/1/raw")
    assert raw.body == certificate_entry("c.example.com")
    assert raw.headers["content-disposition"] == 'attachment; filename="log-1-entry-1.bin"'


def hostile_entry() -> bytes:
    """Return an entry with markup in its names and in its subject, as any requester of a careless CA could get."""
    name = SCRIPT.encode()
    value = bytes([0x30, len(name) + 2, 0x82, len(name)]) + name
    entry = TBSCertificateLogEntry.build(
        hasher=HASHER,
        issuer=encode_ca_name(CA_ID, DEFAULT_REVISION),
        subject=encode_name(CN=SCRIPT),
        spki=LEAF_SPKI,
        not_before=MOMENT,
        not_after=MOMENT + HOUR,
        extensions=(Extension("2.5.29.17", value), Extension("2.5.29.31", b"http://x/" + name)),
    )
    return LogEntry.of_certificate(entry, (EntryExtension(0x1234, name),)).encode()


def test_text_of_certificates_is_escaped() -> None:
    """Markup in names, subjects, extensions, cosigners, incidents and search terms comes out as text."""
    ca = ca_of([hostile_entry()])
    hostile = CosignerStatus(name=SCRIPT, role=SCRIPT, is_up=False, note=SCRIPT)
    incident = IncidentStatus(moment=MOMENT, title=SCRIPT, detail=SCRIPT)
    ca.status = replace(ca.status, name=SCRIPT, cosigners=(hostile,), incidents=(incident,), stopped_by=SCRIPT)
    app = app_of(ca)
    entry = ask_now(app, "/log/1/entry/0")
    assert entry.text.count("&lt;script&gt;") >= 3
    search = ask_now(app, "/search?q=%3Cscript%3E%22onload%3D%22")
    assert search.status == 400
    for reply in (entry, ask_now(app, "/"), search):
        assert "<script" not in reply.text
        assert '"onload' not in reply.text
        assert "script-src" not in reply.headers["content-security-policy"]


@pytest.mark.parametrize(
    "data", [b"", b"\0\0", b"\0\0\0\0", b"\0\0\xff\xff body", b"\0\0\0\1 no certificate", b"\xff" * 100]
)
def test_entries_that_nobody_can_read_have_a_page(data: bytes) -> None:
    """Null entries, unknown types and garbage are shown as what they are; the bytes can be fetched."""
    app = app_of(ca_of([data, data]))
    assert ask_now(app, "/log/1/entry/0").status == 200
    assert ask_now(app, "/log/1/entry/1/raw").body == data


@given(st.binary(max_size=300))
def test_describing_never_fails(data: bytes) -> None:
    """Any bytes are described."""
    assert describe_entry(data).size == len(data)


def test_every_mutation_of_an_entry_is_described() -> None:
    """An entry with any one byte changed is described, or said to be unreadable."""
    entry = certificate_entry("a.example.com")
    for position in range(len(entry)):
        for flip in (1, 0x80, 0xFF):
            describe_entry(entry[:position] + bytes([entry[position] ^ flip]) + entry[position + 1 :])


def test_counter_of_an_entry_is_shown() -> None:
    """The accumulated count stands with the extensions of the entry."""
    entry = LogEntry.parse(certificate_entry("a.example.com"))
    data = LogEntry(entry.type, entry.body, (EntryExtension(ACCUMULATED_COUNT, bytes([0, 0, 0, 0, 1, 2])),)).encode()
    assert describe_entry(data).entry_extensions[0].value == "258"


@pytest.mark.parametrize(
    "target",
    [
        "/log/2",
        "/log/0",
        "/log/01",
        "/log/x",
        "/log/1/entry/3",
        "/log/1/entry/-1",
        "/log/1/entry/" + "9" * 5000,
        "/log/1/tree/2/1",
        "/log/1/tree/9/1",
        "/log/1/tree/99999/0",
        "/log/1/tree/1/99999999999",
        "/static/macros.html",
        "/static/..%2fstatus.html",
    ],
)
def test_pages_that_do_not_exist(target: str) -> None:
    """Logs, nodes and entries that are not there are 404 and say so."""
    reply = ask_now(app_of(ca_of(many_entries(3))), target)
    assert reply.status in {404, 302}
    if reply.status == 302:
        assert ask_now(app_of(ca_of(many_entries(3))), reply.headers["location"]).status in {200, 302}


def test_pruned_entries_are_gone() -> None:
    """An entry below the minimum index is 410 with the reason; the first one above it is shown."""
    app = app_of(ca_of(many_entries(600), minimum_index=300))
    reply = ask_now(app, "/log/1/entry/255")
    assert reply.status == 410
    assert "all entries below 300" in words(reply)
    assert ask_now(app, "/log/1/entry/300").status == 200


def test_old_logs_keep_their_pages() -> None:
    """A closed log has its page, its tree and its entries beside the current one."""
    ca = PublishedCA()
    asyncio.run(ca.publish(many_entries(4), number=1, is_closed=True))
    asyncio.run(ca.publish(many_entries(2), number=2))
    app = app_of(ca)
    assert "takes no more entries" in words(ask_now(app, "/log/1"))
    assert ask_now(app, "/log/1/entry/3").status == 200
    assert "2 entries in log 2" in words(ask_now(app, "/"))


@pytest.mark.parametrize("revision", REVISIONS.values(), ids=str)
def test_landmarks_of_every_revision_are_shown(revision: DraftRevision) -> None:
    """Where landmarks expire they stand on a time line; where they do not, in the table and in the strip of entries."""
    ca = PublishedCA(revision=revision)
    marks = LandmarkSequence.start(revision)
    for size in (3, 5):
        marks = marks.allocate(size, MOMENT - (6 - size) * HOUR, max_lifetime=timedelta(days=7), interval=HOUR)
    asyncio.run(ca.publish(many_entries(6), landmarks=marks))
    reply = ask_now(app_of(ca), "/")
    text = words(reply)
    assert f"draft {revision.name}" in text
    assert "Landmark 2 at 5 entries is the latest; 2 are active. 1 entry waits" in text
    assert ('class="time"' in reply.text) == revision.landmarks_have_expiry
    assert "landmark 2: entries 3 to 4" in reply.text


# --- search


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", Place(None, 0)),
        (" 5 ", Place(None, 5)),
        ("200,000", Place(None, 200_000)),
        ("200\u202f000", Place(None, 200_000)),
        ("281474976710655", Place(None, 2**48 - 1)),
        ("281474976710656", Place(1, 0)),
        ("281474976710661", Place(1, 5)),
        ("serial: 281474976710661", Place(1, 5)),
        ("2/17", Place(2, 17)),
        ("0x1000000000005", Place(1, 5)),
        ("01000000000005", Place(1, 5)),
        ("0001000000000005", Place(1, 5)),
        ("01:00:00:00:00:00:05", Place(1, 5)),
        ("1:0:0:0:0:0:5", Place(1, 5)),
        ("01 00 00 00 00 00 05", Place(1, 5)),
        ("FF:FF:00:00:00:00:00:0A", Place(65535, 10)),
        ("ffff00000000000a", Place(65535, 10)),
    ],
)
def test_search_reads_what_programs_print(text: str, expected: Place) -> None:
    """Indices, decimal serial numbers, and hex with `0x`, colons, spaces or nothing all find their entry."""
    assert parse_query(text) == expected


@given(st.integers(1, 65535), st.integers(0, 2**48 - 1))
def test_search_finds_every_serial(log_number: int, index: int) -> None:
    """Every serial number is found in each of its spellings."""
    serial = serial_number(log_number, index)
    octets = serial.to_bytes((serial.bit_length() + 8) // 8, "big")
    for text in (str(serial), hex(serial), octets.hex(":"), octets.hex(":").upper(), f"{log_number}/{index}"):
        assert parse_query(text) == Place(log_number, index)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "type a serial number"),
        ("www.example.com", "neither a serial number"),
        ("5.5", "neither"),
        ("-5", "neither"),
        ("0x", "neither"),
        ("9" * 30, "no serial number of a Merkle Tree certificate"),
        ("0:0:5", "no serial number"),
        ("f" * 40, "no serial number"),
        ("9" * 201, "too long"),
        ("²", "neither"),
    ],
)
def test_search_says_what_is_wrong(text: str, match: str) -> None:
    """What is no number says what to type, and a number that no log has says why."""
    with pytest.raises(FormatError, match=match):
        parse_query(text)


@given(st.text(max_size=60))
def test_search_never_fails_otherwise(text: str) -> None:
    """Any text is read or refused."""
    with contextlib.suppress(FormatError):
        assert parse_query(text).index >= 0


def test_search_redirects_or_explains() -> None:
    """A number that is found leads to its entry; one that is not says why, keeps the query, and is no 200."""
    app = app_of(ca_of(many_entries(6)))
    reply = ask_now(app, "/search?q=01:00:00:00:00:00:05")
    assert (reply.status, reply.headers["location"]) == (303, "/log/1/entry/5")
    assert ask_now(app, "/search?q=5").headers["location"] == "/log/1/entry/5"
    for query, status, text in [
        ("6", 404, "has no entry 6; its last one is 5"),
        ("3/1", 404, "This CA has no log 3"),
        ("example", 400, "Neither"),
        ("", 400, "Type a serial number"),
    ]:
        reply = ask_now(app, f"/search?q={query}")
        assert reply.status == status
        assert text.lower() in words(reply).lower()
        assert f'value="{query}"' in reply.text
    empty = app_of(ca_of([]))
    assert "has no entries yet" in words(ask_now(empty, "/search?q=0"))


# --- drawing


def test_nodes_of_a_tree_are_found_by_level_and_index() -> None:
    """In every small tree each node that a picture can reach has one level and index, which find it again."""
    for size in range(1, 40):
        todo = [Subtree(0, size)]
        while todo:
            node = todo.pop()
            level = drawing.level_of(node)
            assert drawing.node_at(level, node.start >> level, size) == node
            todo += drawing.children(node) or ()


def test_path_ends_at_its_node_and_siblings_cover_the_rest() -> None:
    """The siblings on a path and its node are the whole tree, without overlap."""
    for size in range(1, 40):
        for index in range(size):
            node = Subtree(index, index + 1)
            path = drawing.path_to(size, node)
            assert path[-1][0] == node
            spans = sorted([(item.start, item.end) for _, item in path if item] + [(index, index + 1)])
            assert [start for start, _ in spans] == [0] + [end for _, end in spans[:-1]]
            assert spans[-1][1] == size


@given(st.integers(1, 2**48 - 1))
def test_picture_of_any_tree_fits(size: int) -> None:
    """However large the tree, the picture has at most 31 nodes, all inside, none on top of another."""
    picture = drawing.draw_tree(Subtree(0, size), log_of(size))
    assert len(picture.nodes) <= 31
    assert len({(node.x, node.y) for node in picture.nodes}) == len(picture.nodes)
    assert all(0 < node.x < picture.width and 0 < node.y < picture.height for node in picture.nodes)
    assert len(picture.edges) == len(picture.nodes) - 1


def test_colours_say_what_is_true() -> None:
    """Nodes are marked by the last round, active landmarks and pruning, in this order."""
    marks = (
        LandmarkStatus(number=4, tree_size=2, is_active=False),
        LandmarkStatus(number=5, tree_size=4),
        LandmarkStatus(number=6, tree_size=6),
    )
    log = log_of(8, landmarks=marks, last_round=(7, 8), minimum_index=2)
    kinds = [drawing.kind_of(Subtree(index, index + 1), log) for index in range(8)]
    assert kinds == ["pruned", "pruned", *["landmark"] * 4, "plain", "fresh"]
    assert drawing.kind_of(Subtree(0, 8), log) == "fresh"
    assert drawing.kind_of(Subtree(0, 4), log) == "plain"
    assert drawing.landmark_span(log_of(8)) == (0, 0)
    strip = drawing.draw_strip(log, Subtree(4, 6))
    assert [part.kind for part in strip] == ["pruned", "landmark", "landmark alt", "fresh", "here"]
    assert all(part.x >= 0 and part.x + part.width <= drawing.TREE_WIDTH + 1e-6 for part in strip)


@given(st.integers(1, 400), st.integers(1, 200), st.integers(0, 400))
def test_time_line_holds_every_landmark(count: int, hours: int, age: int) -> None:
    """Whatever their number and lifetime, all landmarks are in some bar, inside the picture, oldest on top."""
    lifetime = timedelta(hours=hours)
    marks = [
        LandmarkStatus(number=number, tree_size=number, expires=MOMENT + lifetime + (number - count) * HOUR)
        for number in range(1, count + 1)
    ]
    line = drawing.draw_landmarks(marks, MOMENT + age * HOUR, lifetime)
    assert line is not None
    assert [mark for bar in line.bars for mark in bar.landmarks] == marks
    assert len(line.bars) <= drawing.MAX_BARS
    assert all(bar.x >= -1e-6 and bar.x + bar.width <= line.width + 2 for bar in line.bars)
    assert len(line.ticks) <= 9
    assert [bar.y for bar in line.bars] == sorted(bar.y for bar in line.bars)
    assert drawing.draw_landmarks([LandmarkStatus(number=1, tree_size=1)], MOMENT, lifetime) is None


def test_rate_is_drawn_to_scale() -> None:
    """The peak touches the top, zero the bottom; fewer than two points are no line."""
    spark = drawing.draw_rate([0, 10, 5])
    assert spark is not None
    assert spark.peak == 10
    assert spark.line == "M0.0 46.0 L120.0 4.0 L240.0 25.0"
    assert drawing.draw_rate([1]) is None
    assert drawing.draw_rate([0, 0]) is not None


def test_numbers_for_people() -> None:
    """Counts, rates and durations are short and mean what they say."""
    counts = {0: "0", 999: "999", 1000: "1k", 1024: "1k", 8192: "8.2k", 131072: "131k", 999_999: "1M", 2**47: "141T"}
    assert {count: format_compact(count) for count in counts} == counts
    spans = {0: "0 s", 59: "59 s", 61: "1 min 1 s", 600: "10 min", 3660: "1 h 1 min", 86400: "1 d", 90000: "1 d 1 h"}
    assert {span: format_duration(timedelta(seconds=span)) for span in spans} == spans
    assert [format_rate(rate) for rate in (0.0, 0.0123, 1.0, 52.94, 5123.4)] == [
        "0",
        "0.012",
        "1.0",
        "52.9",
        "5\u202f123",
    ]


# --- metrics


def test_document_lists_every_metric() -> None:
    """docs/metrics.md holds the table that the code makes."""
    text = (Path(__file__).parent.parent / "docs" / "metrics.md").read_text("utf-8")
    assert metrics_table(METRICS) in text


def test_names_follow_the_conventions_of_prometheus() -> None:
    """Counters end in `_total`, nothing else does; units are base units; names are unique and ours."""
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch("mtc_[a-z0-9_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind is MetricKind.COUNTER)
        assert not re.search("_(ms|millis|minutes|mb|kb)(_|$)", metric.name)
        assert (metric.kind is MetricKind.HISTOGRAM) == bool(metric.buckets)
        assert metric.meaning.endswith(".")


def test_metrics_are_scraped() -> None:
    """What is counted, set and observed comes out of /metrics; two CAs do not share a count."""
    one, two = CAMetrics(), CAMetrics()
    one.set("mtc_log_tree_size", 42, log=1)
    one.count("mtc_sequencer_rounds_total", result="ok")
    one.observe("mtc_sequencer_round_seconds", 0.02)
    app = create_app(one.routes(), FrameChoices(observe=one.count_exchange))
    ask_now(app, "/metrics")
    text = ask_now(app, "/metrics").text
    for line in (
        'mtc_log_tree_size{log="1"} 42.0',
        'mtc_sequencer_rounds_total{result="ok"} 1.0',
        'mtc_sequencer_round_seconds_bucket{le="0.025"} 1.0',
        'mtc_http_requests_total{endpoint="metrics",status="200"} 1.0',
    ):
        assert line in text.splitlines()
    assert b'log="1"' not in two.encode()
    with pytest.raises(KeyError):
        one.count("mtc_no_such_total")


def test_store_that_is_empty_shows_a_page() -> None:
    """A CA without any log yet has a status page that says so."""
    ca = PublishedCA(store=MemoryStore())
    reply = ask_now(app_of(ca), "/")
    assert reply.status == 200
    assert "no log is open" in words(reply)
