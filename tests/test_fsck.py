"""`mtc fsck`: a clean CA is clean, and a flipped bit in anything that is served or decides is found and named."""

import asyncio
import hashlib
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.test_ca_service import PushedClock, ask, issue_all, make

from mtc.ca.fsck import check_folder, check_public
from mtc.ca.service import open_ca
from mtc.cli.fsck import run_fsck
from mtc.cli.log_source import FolderSource
from mtc.errors import PeerError, UsageError
from mtc.log.fsck import Findings
from mtc.signer import TreeLine
from mtc.signer.journal import parse_journal_line

NOT_VOUCHED = (".lock", "ca.toml", "signer.toml", ".sqlite-shm", ".sqlite-wal")
"""Files that nothing can vouch for, byte by byte: locks, comments of configurations, what SQLite keeps for itself."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a CA of several rounds: two full tiles and a partial one, superseded partials, landmarks, revocations."""
    folder = tmp_path_factory.mktemp("fsck") / "ca"
    make(folder)

    async def run() -> None:
        clock = PushedClock()
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


def _flip_all(folder: Path, samples: int) -> None:
    """Flip one bit at a time, and require a finding that names the file."""
    for path in _vouched_files(folder):
        whole = path.read_bytes()
        for offset in _offsets(len(whole), samples):
            bit = 1 << offset % 8
            path.write_bytes(whole[:offset] + bytes((whole[offset] ^ bit,)) + whole[offset + 1 :])
            try:
                found = check(folder).items
            except UsageError as error:
                # Without a CA certificate that can be read there is nothing to check against.
                assert path.name in error.message  # noqa: PT017 - both outcomes are right
                continue
            finally:
                path.write_bytes(whole)
            name = path.relative_to(folder).as_posix().removeprefix("public/")
            where = name.split("/round/", maxsplit=1)[0].split("/page/", maxsplit=1)[0]
            assert any(item.path.startswith(where[:20]) or where in item.path for item in found), (
                f"bit {bit} of byte {offset} of {name} is flipped, found: {found[:3]}"
            )
    assert check(folder).items == []


def test_flipped_bits_are_found(copy: Path) -> None:
    """In every file that is served or decides, a flipped bit is found, and the finding says where.

    The registers, the journal and the key have tests of their own.
    """
    _flip_all(copy, 3)


@pytest.mark.slow
def test_flipped_bits_are_found_densely(copy: Path) -> None:
    """The same at many offsets of each file."""
    _flip_all(copy, 120)


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


@pytest.mark.parametrize(
    ("name", "key"),
    [("register.sqlite", "log-1"), ("register.sqlite", "ca"), ("signer/register.sqlite", "signer-log-1")],
)
def test_values_that_fit_themselves_are_compared(copy: Path, name: str, key: str) -> None:
    """A register value that was written wrong, checksum and all, is found by what everything else says."""
    path = copy / name
    value = next(value for name_, value in _values(path) if name_ == key)
    assert isinstance(value, bytes)
    # The staged round that a log's record names is gone once it is published; only the checksum guards its digest.
    digest = range(65, 97) if key == "log-1" else range(0)
    for offset in (place for place in _offsets(len(value), 40) if place not in digest):
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


def test_flipped_bits_of_the_journal_are_found(copy: Path) -> None:
    """A journal whose line says something else than what was signed is found; its clock time alone decides nothing."""
    path = copy / "signer" / "journal.jsonl"
    whole = path.read_bytes()
    # A last line without its end is what a crash leaves, and was never followed by a signature.
    for offset in _offsets(len(whole) - 1, 60):
        broken = whole[:offset] + bytes((whole[offset] ^ 1,)) + whole[offset + 1 :]
        path.write_bytes(broken)
        found = check(copy).items
        assert found or _only_time_differs(whole, broken), f"byte {offset} of the journal is flipped"
    path.write_bytes(whole)


def _only_time_differs(one: bytes, other: bytes) -> bool:
    """Tell whether two journals announce the same messages."""

    def messages(data: bytes) -> list[object]:
        lines = [parse_journal_line(line) for line in data.split(b"\n") if line]
        return [line.messages if isinstance(line, TreeLine) else line.tbs for line in lines]

    return messages(one) == messages(other)


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
