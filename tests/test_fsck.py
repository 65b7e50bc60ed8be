"""`mtc fsck`: a clean CA is clean, and a flipped bit in anything that is served or decides is found and named."""

import asyncio
import hashlib
import itertools
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.independent_reader import TileProver, check_inclusion, read_log
from tests.makers import make_key
from tests.published_logs import MOMENT, PublishedCA, certificate_entry
from tests.test_ca_service import CA_ID, PushedClock, ask, issue_all, make

from mtc.ca.config import CAConfig, format_config, read_config
from mtc.ca.folder import CAFolder, create_folder
from mtc.ca.fsck import check_folder, check_public
from mtc.ca.housekeeping import delete_pruned
from mtc.ca.service import Rollover, open_ca
from mtc.cert import CACertificate, LogEntry, encode_ca_certificate
from mtc.cli.fsck import run_fsck
from mtc.cli.log_source import FolderSource
from mtc.crypto import parse_public_key
from mtc.errors import PeerError, UsageError
from mtc.ids import DEFAULT_REVISION, encode_ca_name
from mtc.kernel import active_kernel
from mtc.log import LogRecord, PendingEntry, SignedRound, StagedRound, encode_accumulated_count
from mtc.log.fsck import MAX_FINDINGS, EntryRules, EntryWatch, Findings
from mtc.log.fsck.service import LogTask, StoreFiles, check_log
from mtc.log.ledger.formats import open_object
from mtc.log.machine import ACCUMULATED_ENTRY, plan_batch, plan_recovery, recovery_keys
from mtc.merkle import root_hash
from mtc.profile import PRIVATE_SERVICE
from mtc.signer import CRLLine, TreeLine
from mtc.signer.journal import parse_journal_line
from mtc.store import open_storage

pytestmark = pytest.mark.usefixtures("near_signer")

PATIENCE_S = 60.0
NOT_VOUCHED = (".lock", "ca.toml", "signer.toml", ".sqlite-shm", ".sqlite-wal")
"""Files that nothing can vouch for, byte by byte: locks, comments of configurations, what SQLite keeps for itself."""


def _counted(count: int, kind: int = 0) -> bytes:
    """Return an entry without a body that carries the accumulated counter."""
    return LogEntry(kind, b"", (encode_accumulated_count(count),)).encode()


DENSELY = pytest.param(120, marks=pytest.mark.slow, id="densely")
"""How many places of each file the slow tests damage."""


def ca_certificate() -> CACertificate:
    """Return the CA certificate of `PublishedCA`."""
    key = make_key("ml-dsa-44")
    public_key = parse_public_key(key.public_key, key.algorithm)
    start, end = MOMENT - timedelta(days=1), MOMENT + timedelta(days=365)
    return CACertificate.parse(
        encode_ca_certificate(ca_id=CA_ID, public_key=public_key, not_before=start, not_after=end)
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a CA of several rounds: two full tiles and a partial one, superseded partials, landmarks, revocations."""
    folder = tmp_path_factory.mktemp("fsck") / "ca"
    make(folder)

    async def run() -> None:
        # It begins behind the machine's, so that it is not ahead of it at the end: tests go on with that one at once.
        clock = PushedClock()
        clock.ahead = timedelta(seconds=-10)
        async with open_ca(folder, clock=clock) as ca:
            for count in (3, 200, 100, 250):
                start = ca.log.record.tree_size
                await issue_all(ca, *(ask(f"h{start + number}.example.com") for number in range(count)))
                await ca.landmarks.tick()
                clock.ahead += timedelta(seconds=1)
            await ca.revoke({"serials": [str((1 << 48) + 5)], "reason": "keyCompromise"})

    asyncio.run(run())
    _settle(folder)
    return folder


def _settle(folder: Path) -> None:
    """Bring what SQLite has in its write-ahead log into the files."""
    for name in ("register.sqlite", "signer/register.sqlite"):
        with closing(sqlite3.connect(folder / name)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may damage."""
    return Path(shutil.copytree(made, tmp_path / "copy"))


def check(folder: Path) -> Findings:
    """Check a folder."""
    findings = Findings()
    asyncio.run(check_folder(folder, findings, datetime.now(UTC) + timedelta(minutes=1), lambda *_: None))
    return findings


def test_clean_ca_is_clean(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is found in a CA that nobody touched, and everything was looked at."""
    findings = check(made)
    assert findings.items == []
    counts = findings.counts
    assert (counts["entries"], counts["rounds"], counts["bundles"]) == (553, 4, 3)
    assert counts["superseded"] > 4
    assert counts["journalled messages"] > 12
    assert run_fsck(str(made), ca=None, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    assert run_fsck(str(made), ca=None, as_json=False) == 0
    assert "clean" in capsys.readouterr().out


def test_what_is_served_is_checked_without_the_folder(made: Path) -> None:
    """A copy of the public files alone is checked with the CA certificate that is served, or that is given."""
    findings = Findings()
    source = FolderSource.open(made)
    asyncio.run(check_public(source, None, findings, datetime.now(UTC) + timedelta(minutes=1), lambda *_: None))
    assert findings.items == []
    assert findings.counts["entries"] == 553


def test_a_check_writes_nothing(made: Path) -> None:
    """Checking changes no file, except what SQLite keeps beside its own."""

    def snapshot() -> dict[str, bytes]:
        files = (path for path in made.rglob("*") if path.is_file() and not path.name.endswith(("-shm", "-wal")))
        return {str(path): path.read_bytes() for path in files}

    before = snapshot()
    check(made)
    assert snapshot() == before


def _offsets(size: int, samples: int) -> Iterator[int]:
    """Yield offsets across a file, its first and last byte among them."""
    if size <= samples:
        yield from range(size)
    else:
        yield from sorted({number * (size - 1) // (samples - 1) for number in range(samples)})


def _vouched_files(folder: Path) -> list[Path]:
    """Return the files in which every bit counts."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(NOT_VOUCHED)]
    return sorted(path for path in files if path.suffix != ".sqlite" and path.name not in ("journal.jsonl", "key.pem"))


@pytest.mark.parametrize("samples", [3, DENSELY])
def test_flipped_bits_are_found(copy: Path, samples: int) -> None:
    """In every file that is served or decides, a flipped bit is found, and the finding says where.

    The registers, the journal and the key have tests of their own.
    """
    for path in _vouched_files(copy):
        whole = path.read_bytes()
        for offset in _offsets(len(whole), samples):
            bit = 1 << offset % 8
            path.write_bytes(whole[:offset] + bytes((whole[offset] ^ bit,)) + whole[offset + 1 :])
            try:
                found = check(copy).items
            except UsageError as error:
                # Without a CA certificate that can be read there is nothing to check against.
                assert path.name in error.message  # noqa: PT017 - both outcomes are right
                continue
            finally:
                path.write_bytes(whole)
            name = path.relative_to(copy).as_posix().removeprefix("public/")
            places = {item.path for item in found}
            assert name in places, f"bit {bit} of byte {offset} of {name} is flipped, found: {found[:3]}"
            # A tile or a bundle that is damaged is damaged alone.
            assert places == {name} or "/tile/" not in name
    assert check(copy).items == []


def _values(path: Path) -> list[tuple[object, ...]]:
    """Return what a register holds."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT name, value FROM register ORDER BY name").fetchall()


@pytest.mark.parametrize("name", ["register.sqlite", "signer/register.sqlite"])
def test_changed_register_values_are_found(copy: Path, name: str) -> None:
    """Each value of both registers: any byte of it changed is found."""
    path = copy / name
    for key, value in _values(path):
        assert isinstance(value, bytes)
        for offset in _offsets(len(value), 3):
            changed = value[:offset] + bytes((value[offset] ^ 0x10,)) + value[offset + 1 :]
            _set(path, key, changed)
            found = check(copy).items
            _set(path, key, value)
            assert found, f"byte {offset} of {key} in {name} is changed"
    assert check(copy).items == []


@pytest.mark.parametrize("samples", [20, DENSELY])
@pytest.mark.parametrize("name", ["register.sqlite", "signer/register.sqlite"])
def test_flipped_bits_of_a_database_are_found(copy: Path, name: str, samples: int) -> None:
    """A flipped bit anywhere in a register's file is found, or no value that it holds is another one."""
    path = copy / name
    whole, values = path.read_bytes(), _values(path)
    missed = []
    for offset in _offsets(len(whole), samples):
        bit = 1 << offset % 8
        path.write_bytes(whole[:offset] + bytes((whole[offset] ^ bit,)) + whole[offset + 1 :])
        if not check(copy).items:
            missed.append((offset, _values(path)))
    path.write_bytes(whole)
    assert all(now == values for _, now in missed), [offset for offset, now in missed if now != values]


@pytest.mark.parametrize("samples", [13, DENSELY])
@pytest.mark.parametrize(
    ("name", "key"),
    [("register.sqlite", "log-1"), ("register.sqlite", "ca"), ("signer/register.sqlite", "signer-log-1")],
)
def test_values_that_fit_themselves_are_compared(copy: Path, name: str, key: str, samples: int) -> None:
    """A register value that was written wrong, checksum and all, is found by what everything else says."""
    path = copy / name
    value = next(value for name_, value in _values(path) if name_ == key)
    assert isinstance(value, bytes)
    # The staged round that a log's record names is gone once it is published; only the checksum guards its digest.
    # And a minimum index below the end of the first bundle, its last byte, has taken nothing away yet.
    unknowable = {*range(65, 97), 103} if key == "log-1" else set()
    for offset in (place for place in _offsets(len(value), samples) if place not in unknowable):
        changed = value[:offset] + bytes((value[offset] ^ 0x10,)) + value[offset + 1 :]
        _set(path, key, changed, with_sum=True)
        assert check(copy).items, f"byte {offset} of {key} in {name} is changed"


def _set(path: Path, name: object, value: bytes, *, with_sum: bool = False) -> None:
    """Change a value behind everybody's back. with_sum: and its checksum."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE register SET value = ? WHERE name = ?", (value, name))
        if with_sum:
            digest = hashlib.sha256(str(name).encode() + b"\0" + value).digest()
            connection.execute("UPDATE register SET sum = ? WHERE name = ?", (digest, name))
        connection.commit()


@pytest.mark.parametrize("samples", [20, DENSELY])
def test_flipped_bits_of_the_journal_are_found(copy: Path, samples: int) -> None:
    """A journal whose line says something else than what was signed is found; its clock time alone decides nothing.

    The last tree may have been announced once more, for a later time: a crash before its signature leaves that.
    """
    path = copy / "signer" / "journal.jsonl"
    whole = path.read_bytes()
    # A last line without its end is what a crash leaves, and was never followed by a signature.
    for offset in _offsets(len(whole) - 1, samples):
        broken = whole[:offset] + bytes((whole[offset] ^ 1,)) + whole[offset + 1 :]
        path.write_bytes(broken)
        found = check(copy).items
        if found:
            continue
        said = _announced(broken)
        assert said in (_announced(whole), _announced(whole, _last_time(broken))), (
            f"byte {offset} of the journal is flipped"
        )
    path.write_bytes(whole)


def _trees(journal: bytes) -> list[TreeLine]:
    """Return the announced trees."""
    lines = (parse_journal_line(line) for line in journal.split(b"\n") if line)
    return [line for line in lines if isinstance(line, TreeLine)]


def _last_time(journal: bytes) -> int:
    """Return the time for which the last tree was announced."""
    return _trees(journal)[-1].timestamp


def _announced(journal: bytes, last_time: int = 0) -> list[object]:
    """Return the announced messages. last_time: of the last tree, if it is later than that in the journal."""
    trees = _trees(journal)
    trees[-1] = replace(trees[-1], timestamp=max(last_time, trees[-1].timestamp))
    lines = (parse_journal_line(line) for line in journal.split(b"\n") if line)
    return [*(tree.messages for tree in trees), *(line.tbs for line in lines if isinstance(line, CRLLine))]


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("public/1/tile/0/000", "is missing"),
        ("public/1/tile/entries/001", "is missing"),
        ("public/1/landmarks", "is missing"),
        ("public/revocations.crl", "is missing"),
        ("public/1/checkpoint", "is missing"),
    ],
)
def test_missing_files_are_found(copy: Path, path: str, what: str) -> None:
    """A file that must be there and is not is named."""
    (copy / path).unlink()
    name = path.removeprefix("public/")
    assert [(item.path, item.what) for item in check(copy).items if item.path == name] == [(name, what)]


def test_files_that_do_not_belong_are_found(copy: Path) -> None:
    """A stray file, a tile beyond the checkpoint, and a partial tile that is no beginning of the full one are named."""
    log = copy / "public" / "1"
    (log / "notes.txt").write_bytes(b"x")
    (log / "tile" / "0" / "009").write_bytes(bytes(8192))
    partial = log / "tile" / "0" / "000.p"
    (partial / "7").write_bytes(bytes(7 * 32))
    found = {item.path: item.what for item in check(copy).items}
    assert found["1/notes.txt"] == "does not belong here"
    assert found["1/tile/0/009"] == "lies beyond the checkpoint"
    assert "is not the beginning" in found["1/tile/0/000.p/7"]


def test_key_that_is_wrong_or_open_is_found(copy: Path) -> None:
    """A key file that others may read, or that holds another key, is named."""
    path = copy / "signer" / "key.pem"
    path.chmod(0o644)
    assert any("others" in item.what for item in check(copy).items)
    path.chmod(0o600)
    lines = path.read_bytes().split(b"\n")
    lines[1] = lines[1][:40] + bytes((lines[1][40] ^ 1,)) + lines[1][41:]
    path.write_bytes(b"\n".join(lines))
    assert [item.path for item in check(copy).items] == ["signer/key.pem"]


def test_what_is_no_ca_is_said_so(tmp_path: Path) -> None:
    """A folder that holds nothing of a CA cannot be checked."""
    with pytest.raises(PeerError, match="no CA certificate"):
        run_fsck(str(tmp_path), ca=None, as_json=False)
    with pytest.raises(UsageError, match="neither a folder nor a URL"):
        run_fsck(str(tmp_path / "nothing"), ca=None, as_json=False)


def test_a_stranger_proves_entries_from_the_tiles(made: Path) -> None:
    """A reader that shares no code with this project proves each of some entries from tiles, and finds a wrong one."""
    key = CAFolder.read(made).certificate.public_key.public_key[-1312:]

    def fetch(path: str) -> bytes:
        return (made / "public" / "1" / path).read_bytes()

    log = read_log(fetch, CA_ID.oid_name, key)
    prover = TileProver(fetch, log.tree_size)
    for index in (0, 1, 255, 256, 300, 511, 512, log.tree_size - 1):
        check_inclusion(log.entries[index], prover.path(index), log.root)
    with pytest.raises(AssertionError, match="does not lead to the root"):
        check_inclusion(log.entries[7], prover.path(8), log.root)


# Where the damage is.


def _flip(path: Path, offset: int) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def test_the_damaged_one_of_two_is_named(copy: Path) -> None:
    """Where a tile and its entries contradict each other, exactly the damaged file is named, with byte or entry."""
    log = copy / "public" / "1" / "tile"
    for name, offset, place in (
        ("entries/000", 30_000, "1/tile/entries/000, entry "),
        ("entries/002.p/41", 3_000, "1/tile/entries/002.p/41, entry "),
        ("0/001", 40, "1/tile/0/001, byte 40"),
        ("0/002.p/41", 1_311, "1/tile/0/002.p/41, byte 1311"),
        ("1/000.p/2", 33, "1/tile/1/000.p/2, byte 33"),
        ("0/000.p/3", 95, "1/tile/0/000.p/3, byte 95"),
        ("entries/001.p/47", 9, "1/tile/entries/001.p/47, byte 9"),
    ):
        _flip(log / name, offset)
        found = check(copy).items
        assert len(found) == 1, [str(item) for item in found]
        assert found[0].place.startswith(place)
        _flip(log / name, offset)
    assert check(copy).items == []


def test_an_entry_is_named_by_its_index(copy: Path) -> None:
    """A changed byte of an entry is found with the entry's index, and with its offset in the bundle."""
    path = copy / "public" / "1" / "tile" / "entries" / "001"
    data = path.read_bytes()
    _flip(path, data.index(b"h300.example.com"))
    (found,) = check(copy).items
    at = data.index(b"h300.example.com")
    assert (found.path, found.index) == ("1/tile/entries/001", 300)
    assert found.offset is not None
    assert at - 200 < found.offset < at


def test_damage_below_and_above_is_found_together(copy: Path) -> None:
    """Two damaged files do not hide each other, also when one is needed to judge the other."""
    log = copy / "public" / "1" / "tile"
    for name in ("entries/000", "0/001", "1/000.p/2"):
        _flip(log / name, 20)
    found = {item.path for item in check(copy).items}
    assert {"1/tile/entries/000", "1/tile/0/001", "1/tile/1/000.p/2"} <= found
    (log / "0" / "000").unlink()
    (log / "entries" / "001").unlink()
    assert {"1/tile/0/000", "1/tile/entries/001"} <= {item.path for item in check(copy).items}


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 66_000])
def test_trees_of_every_shape_are_clean_and_their_tiles_are_judged(size: int) -> None:
    """Logs whose edges lie on every side of a tile are clean; one flipped bit in each tile is found in that tile."""

    async def run() -> None:
        published = PublishedCA()
        entries = [b"\0\0\0\0"] * size
        await published.publish(entries)
        files = StoreFiles(published.store)
        certificate = ca_certificate()
        task = LogTask(log_number=1, ca=certificate, now=MOMENT)
        findings = Findings()
        checked = await check_log(files, task, findings)
        assert findings.items == []
        assert checked is not None
        assert checked.tree is not None
        tiles = [key for key in await published.store.list_keys("public/1/tile/") if "entries" not in key]
        # Of a large tree a tile of each level, and the last one: every check walks all of it.
        levels = {key.split("/")[3]: key for key in tiles}
        sample = tiles if len(tiles) < 8 else [tiles[0], *levels.values()]
        for key in sample:
            (data,) = await published.store.fetch([key])
            assert data is not None
            broken = data[:-1] + bytes((data[-1] ^ 0x80,))
            await published.store.replace({key: broken})
            findings = Findings()
            await check_log(files, task, findings)
            assert [(item.path, item.offset) for item in findings.items] == [(key, len(data) - 1)]
            await published.store.replace({key: data})
        sizes = sorted({0, size, size // 2, size - size % 256, max(size - 1, 0)})
        hasher = task.hasher
        roots = [root_hash(hasher, hasher.leaves(entries[:some])) for some in sizes]
        assert await checked.tree.roots(sizes) == roots

    asyncio.run(run())


# A CA that is not at rest.


def test_a_running_ca_is_clean(tmp_path: Path) -> None:
    """While rounds, landmarks and lists go on, every check finds nothing, however the log grows under it."""
    make(tmp_path)

    async def run() -> None:
        async with open_ca(tmp_path) as ca, ca.sequencing():

            async def ask_on() -> None:
                for number in itertools.count():
                    await ca.issue([ask(f"live{number}-{item}.example.com") for item in range(40)])

            asking = asyncio.create_task(ask_on())
            await issue_all(ca, ask("first.example.com"))
            overtaken = checks = 0
            async with asyncio.timeout(PATIENCE_S):
                # A CA publishes its lists beside its first round; a check before that says that they are missing.
                lists = [tmp_path / "public" / name for name in ("ca.crl", "revocations.crl")]
                while not all(path.exists() for path in lists):  # noqa: ASYNC110 - files are looked for
                    await asyncio.sleep(0.01)
                while overtaken < 3 or checks < 8:
                    findings = Findings()
                    now = datetime.now(UTC) + timedelta(minutes=1)
                    await check_folder(tmp_path, findings, now, lambda *_: None)
                    assert [str(item) for item in findings.items] == []
                    overtaken += "logs that moved on" in findings.counts
                    checks += 1
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    asyncio.run(run())
    assert check(tmp_path).items == []


async def _decide_round(folder: Path, count: int) -> tuple[StagedRound, str]:
    """Leave a CA as a crash does after the register was swapped: a round is decided, and nothing of it published."""
    storage = open_storage("file:.", folder)
    try:
        data = await storage.register.read("log-1")
        assert data is not None
        record = LogRecord.parse(data)
        keys = recovery_keys(record)
        found = dict(zip(keys, await storage.objects.fetch(keys), strict=True))
        hasher = active_kernel().hasher("sha256")
        state, _ = plan_recovery(hasher, record, None, {key: body for key, body in found.items() if body is not None})
        pending = [PendingEntry(0, b"", request_key=b"lost-%d" % number) for number in range(count)]
        batch = plan_batch(hasher, state, pending, record.timestamp + 1)
        await storage.objects.put({batch.staged_key: batch.staged})
        await storage.register.swap("log-1", data, batch.state.record.encode())
        return batch.round_, batch.staged_key
    finally:
        storage.close()


def test_an_unfinished_round_is_no_fault(copy: Path) -> None:
    """A round that is decided and not yet published is said to be so; what of it is published is compared all the same.

    Nothing signs those files yet: the staged round, whose digest the register holds, vouches for them.
    """
    round_, staged_key = asyncio.run(_decide_round(copy, 300))
    findings = check(copy)
    assert findings.items == []
    assert any("the next start finishes it" in note for note in findings.notes)
    for key, data in list(round_.objects.items())[::2]:
        path = copy / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    assert check(copy).items == []
    for key in list(round_.objects)[::2]:
        _flip(copy / key, 5)
        assert [item.path for item in check(copy).items] == [key.removeprefix("public/")]
        _flip(copy / key, 5)
    _flip(copy / staged_key, 50)
    assert staged_key in {item.path for item in check(copy).items}
    (copy / staged_key).unlink()
    assert any("is ahead of the checkpoint" in item.what for item in check(copy).items)


def test_what_a_killed_process_leaves_is_only_read(copy: Path, tmp_path: Path) -> None:
    """Also a database with a write-ahead log that nobody tidied up is read as it is, and stays so."""
    left = tmp_path / "left"

    async def run() -> None:
        async with open_ca(copy) as ca:
            await issue_all(ca, ask("late.example.com"))
            # As it lies there at this moment, while the databases are open.
            shutil.copytree(copy, left, ignore=shutil.ignore_patterns("*.sock", "*-shm"))

    asyncio.run(run())
    assert (left / "register.sqlite-wal").stat().st_size

    def snapshot() -> dict[str, bytes]:
        files = (path for path in left.rglob("*") if path.is_file() and not path.name.endswith("-shm"))
        return {str(path): path.read_bytes() for path in files}

    before = snapshot()
    assert check(left).items == []
    assert snapshot() == before


def test_an_older_copy_of_the_register_is_found(copy: Path) -> None:
    """A register of yesterday is consistent with itself; what was published since says that it is too old."""
    old = {name: (copy / name).read_bytes() for name in ("register.sqlite", "signer/register.sqlite")}

    async def run() -> None:
        async with open_ca(copy) as ca:
            await issue_all(ca, ask("later.example.com"))

    asyncio.run(run())
    _settle(copy)
    assert check(copy).items == []
    for name, data in old.items():
        kept = (copy / name).read_bytes()
        (copy / name).write_bytes(data)
        found = check(copy).items
        assert any(item.path.startswith(name) for item in found), name
        (copy / name).write_bytes(kept)
    assert check(copy).items == []


def test_an_older_checkpoint_is_found(made: Path, copy: Path) -> None:
    """A checkpoint of an earlier round is rightly signed, but it is not the one that the register decided."""
    page = min((made / "private" / "ledger" / "1" / "round").iterdir())
    (copy / "public" / "1" / "checkpoint").write_bytes(_checkpoint_in(page))
    assert any("ahead of the checkpoint" in item.what for item in check(copy).items)


def _checkpoint_in(path: Path) -> bytes:
    """Return the checkpoint that a round of the ledger keeps."""
    key = path.relative_to(path.parents[4]).as_posix()
    return SignedRound.parse(open_object(key, path.read_bytes())).checkpoint


# Logs with less, and with more.


def test_a_pruned_log_is_clean(copy: Path) -> None:
    """Below the minimum index tiles and bundles may be gone; all that is left leads to the signed root all the same."""
    config = replace(read_config(copy), pruning="delete")
    (copy / "ca.toml").write_text(format_config(config), encoding="utf-8")

    async def run() -> None:
        async with open_ca(copy) as ca:
            await ca.log.set_minimum_index(530)
            assert await delete_pruned(ca.parts.storage.objects, 1, 0, 530) == 4

    asyncio.run(run())
    _settle(copy)
    findings = check(copy)
    assert [str(item) for item in findings.items] == []
    assert findings.counts["entries"] == 41
    tile = copy / "public" / "1" / "tile" / "1" / "000.p" / "2"
    _flip(tile, 3)
    assert check(copy).items
    _flip(tile, 3)
    (copy / "public" / "1" / "tile" / "0" / "002.p" / "41").unlink()
    assert [(item.path, item.what) for item in check(copy).items] == [("1/tile/0/002.p/41", "is missing")]


def test_a_ca_with_counter_and_a_second_log_is_clean(tmp_path: Path) -> None:
    """Entries with the accumulated counter, and the logs before and behind a change of the log, are checked."""
    path = tmp_path / "ca"
    config = CAConfig(ca_id=CA_ID, profile=PRIVATE_SERVICE, has_counter=True, listen=None)
    create_folder(path, config, None, datetime.now(UTC))

    async def run() -> None:
        async with open_ca(path) as ca:
            pending = [
                PendingEntry(ACCUMULATED_ENTRY, b"x"),
                PendingEntry(0, b""),
                PendingEntry(ACCUMULATED_ENTRY, b""),
            ]
            task = asyncio.create_task(ca.log.submit(pending))
            await asyncio.sleep(0)
            await ca.log.run_round()
            await task
            await issue_all(ca, ask("a.example.com"))
            await ca.roll_over("a drill", "tester", is_abandoned=False)
            await issue_all(ca, ask("b.example.com"))
            await ca.publish_lists()

    asyncio.run(run())
    _settle(path)
    findings = check(path)
    assert [str(item) for item in findings.items] == []
    assert findings.counts["logs"] == 2
    incident = path / "private" / "incidents" / "000001.json"
    data = incident.read_bytes()
    incident.write_bytes(data.replace(b'"old_log": 1', b'"old_log": 7'))
    assert [item.path for item in check(path).items] == ["private/incidents/000001.json"]
    incident.unlink()
    assert [(item.path, item.what) for item in check(path).items] == [("private/incidents/000001.json", "is missing")]


def test_an_abandoned_log_is_no_fault(copy: Path) -> None:
    """A log that an operator gave up with a round decided and never finished is said to be so, and checked as it is."""
    _, staged_key = asyncio.run(_decide_round(copy, 3))
    (copy / staged_key).unlink()

    async def run() -> None:
        request = Rollover("its storage is broken", "tester", is_abandoned=True)
        async with open_ca(copy, rollover=request) as ca:
            await issue_all(ca, ask("next.example.com"))

    asyncio.run(run())
    _settle(copy)
    findings = check(copy)
    assert [str(item) for item in findings.items] == []
    assert any("given up" in note for note in findings.notes)


# Entries.


@pytest.mark.parametrize(
    ("entries", "what"),
    [
        ([b"\0\0\0\0\0"], "body of 1 bytes"),
        ([b"\0\0\0"], "ends"),
        ([b"\0\0\0\1\x30"], ""),
        ([b"\0\0\x70\0"], "type 0x7000"),
        ([b"\0\4\xf0\0\0\0\0\0"], "type 0xf000"),
        ([_counted(1, 0xFF01), _counted(1), _counted(2)], "counter 2 where 1"),
        ([_counted(1, 0xFF01), _counted(1, 0xFF01)], "counter 1 where 2"),
        ([_counted(0), b"\0\0\0\0"], "carries no accumulated counter"),
        ([b"\0\0\xff\1"], "carries no accumulated counter"),
        ([b"\0\4\xff\1\0\0\0\0"], "has 6 bytes"),
        ([certificate_entry("a.example.com").replace(b"\x81\xfd\x59\1", b"\x81\xfd\x59\2")], "another CA"),
    ],
)
def test_entries_that_no_log_holds_are_found(entries: list[bytes], what: str) -> None:
    """A log whose tiles and signature are right, but not its entries, is found out at the entry that is wrong."""
    findings = Findings()
    watch = EntryWatch(EntryRules(issuer=encode_ca_name(CA_ID, DEFAULT_REVISION), hash_size=32), findings)
    watch.look("1/tile/entries/000.p/1", entries)
    assert len(findings.items) == 1, findings.items
    assert what in findings.items[0].what
    assert findings.items[0].index == len(entries) - 1


def test_facts_are_noted_at_the_sizes_asked_for() -> None:
    """The latest notAfter and the counter are those of exactly the entries below each size."""
    moments = [MOMENT + timedelta(days=day) for day in (3, 1, 5)]
    entries = [certificate_entry("a.example.com", moment=moment) for moment in moments]
    ends = [int((moment + timedelta(days=7, seconds=-1)).timestamp()) for moment in moments]
    rules = EntryRules(issuer=encode_ca_name(CA_ID, DEFAULT_REVISION), hash_size=32)
    watch = EntryWatch(rules, Findings(), sizes=[0, 1, 2, 3, 9])
    watch.look("x", entries)
    assert {size: facts.latest_not_after for size, facts in watch.facts.items()} == {
        0: 0,
        1: ends[0],
        2: ends[0],
        3: ends[2],
    }


def test_findings_are_bounded() -> None:
    """A damaged disk gives more findings than anybody reads; some are kept, and it is said that there were more."""
    findings = Findings()
    for number in range(MAX_FINDINGS + 5):
        findings.add(f"{number}", "is missing")
    assert (len(findings.items), findings.is_cut) == (MAX_FINDINGS, True)
