"""Journal and database of the ACME server's evidence: what a crash, a full disk or an old copy leaves between them."""

import asyncio
import json
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.acme_evidence import read_evidence
from tests.test_acme_store import run

from mtc.acme.journal import MAX_UNKNOWN, EvidenceJournal
from mtc.acme.sqlite import SQLiteACMEStore
from mtc.acme.store import Add, Put
from mtc.errors import Reason, StorageError
from mtc.testing.acme_values import START, make_account, make_order, make_record

DAY = START.date()


def _put(tmp_path: Path, count: int) -> list[int]:
    """Open the store, put records, each a commit, close it; return their IDs."""
    ids: list[int] = []

    async def work(store: SQLiteACMEStore) -> None:
        for (number,) in await asyncio.gather(*(store.commit(Put(make_record("order-0"))) for _ in range(count))):
            ids.append(number)

    run(tmp_path / "acme.sqlite", work, tmp_path / "evidence")
    return ids


def _ids_in_database(tmp_path: Path) -> list[int]:
    connection = sqlite3.connect(tmp_path / "acme.sqlite")
    rows = connection.execute("SELECT id FROM records ORDER BY id").fetchall()
    connection.close()
    return [row[0] for row in rows]


def _forget(tmp_path: Path, above: int) -> None:
    """Take records out of the database, as if their transaction had never ended."""
    connection = sqlite3.connect(tmp_path / "acme.sqlite")
    connection.execute("DELETE FROM records WHERE id > ?", (above,))
    connection.commit()
    connection.close()


def _check_agree(tmp_path: Path) -> None:
    """The journal has exactly the records that the database has."""
    assert sorted(read_evidence(tmp_path / "evidence")) == _ids_in_database(tmp_path)


@contextmanager
def _file_size_limit(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size: the disk is full."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_line_is_the_record(tmp_path: Path) -> None:
    """A record's line is its JSON form, with the ID that the commit returned, in the file of its day."""
    assert _put(tmp_path, 2) == [1, 2]
    lines = (tmp_path / "evidence" / f"{DAY}.jsonl").read_text().splitlines()
    expected = [replace(make_record("order-0"), id=number).to_json() for number in (1, 2)]
    assert [json.loads(line) for line in lines] == expected


def test_days_have_their_files(tmp_path: Path) -> None:
    """A record of the next day begins a new file, and later ones of the day before stay in it."""

    async def work(store: SQLiteACMEStore) -> None:
        for days in (0, 1, 0):
            await store.commit(Put(replace(make_record(), moment=START + timedelta(days=days))))

    run(tmp_path / "acme.sqlite", work, tmp_path / "evidence")
    files = sorted((tmp_path / "evidence").glob("*.jsonl"))
    assert [path.name for path in files] == ["2026-11-21.jsonl", "2026-11-22.jsonl"]
    assert [len(path.read_text().splitlines()) for path in files] == [1, 2]
    assert _put(tmp_path, 1) == [4]
    _check_agree(tmp_path)


def test_refused_commit_leaves_no_line(tmp_path: Path) -> None:
    """Records of a commit that was refused get neither line nor ID, though others of its transaction do."""

    async def work(store: SQLiteACMEStore) -> None:
        await store.commit(Add(make_account()))
        outcomes = await asyncio.gather(
            store.commit(Put(make_record())),
            store.commit(Put(make_record()), Add(make_account())),
            store.commit(Put(make_record())),
            return_exceptions=True,
        )
        assert [outcomes[0], outcomes[2]] == [(1,), (2,)]

    run(tmp_path / "acme.sqlite", work, tmp_path / "evidence")
    _check_agree(tmp_path)


def test_torn_end_is_cut_off(tmp_path: Path) -> None:
    """However much of a line a crash left: it is cut off, and the journal goes on behind the last whole line."""
    _put(tmp_path, 2)
    path = tmp_path / "evidence" / f"{DAY}.jsonl"
    whole = path.read_bytes()
    line = whole.splitlines(keepends=True)[1]
    for length in {1, 7, len(line) // 2, len(line) - 1}:
        path.write_bytes(whole + line[:length])
        _put(tmp_path, 0)
        assert path.read_bytes() == whole
    path.write_bytes(whole + bytes(9000))
    assert _put(tmp_path, 1) == [3]
    _check_agree(tmp_path)


def _lines(count: int) -> list[bytes]:
    """Return lines of records 1, 2, …, of different lengths."""
    return [json.dumps({"id": number, "kind": "x" * number}).encode() + b"\n" for number in range(1, count + 1)]


def _recover(folder: Path, data: bytes, known: int) -> int:
    """Let a journal with these bytes be put right beside a database with so many records."""
    folder.mkdir(exist_ok=True)
    (folder / f"{DAY}.jsonl").write_bytes(data)
    journal = EvidenceJournal.open(folder)
    try:
        return journal.recover(known)
    finally:
        journal.close()


@pytest.mark.parametrize("known", range(4))
def test_every_truncation_is_put_right(tmp_path: Path, known: int) -> None:
    """Wherever the file ends, and whatever the database knows: what stays is whole, and both agree or are told how."""
    whole = b"".join(_lines(3))
    for length in range(len(whole) + 1):
        count = whole[:length].count(b"\n")
        assert _recover(tmp_path / "evidence", whole[:length], known) == min(known, count)
        assert sorted(read_evidence(tmp_path / "evidence")) == list(range(1, min(known, count) + 1))


@settings(max_examples=200, deadline=None)
@given(
    tail=st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.sampled_from(
                [b"\n", b"{}\n", b"[]\n", b'{"void":[2,3]}\n', b'{"void":[]}\n', b'{"id":"x"}\n', *_lines(6)]
            ),
        ),
        max_size=6,
    ),
    known=st.integers(0, 8),
)
def test_any_end_is_put_right(tmp_path_factory: pytest.TempPathFactory, tail: list[bytes], known: int) -> None:
    """Whatever bytes stand at the end, afterwards every line that is read back is whole, and new ones follow it."""
    folder = tmp_path_factory.mktemp("any") / "evidence"
    standing = _recover(folder, b"".join([*_lines(2), *tail]), known)
    assert 0 <= standing <= known
    journal = EvidenceJournal.open(folder)
    journal.recover(known)
    number = journal.last_id + 1
    journal.append([json.dumps({"id": number}).encode() + b"\n"], DAY, number)
    journal.close()
    assert (folder / f"{DAY}.jsonl").read_bytes().endswith(b'{"id": %d}\n' % number)
    assert _recover_again(folder, number) == number


def _recover_again(folder: Path, known: int) -> int:
    journal = EvidenceJournal.open(folder)
    try:
        return journal.recover(known)
    finally:
        journal.close()


def test_garbage_between_unsynced_lines_is_cut_off_with_them(tmp_path: Path) -> None:
    """A hole that a power cut left in a group takes the lines behind it along: none of them was synced."""
    _put(tmp_path, 1)
    path = tmp_path / "evidence" / f"{DAY}.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole.replace(b'"id":1', b'"id":2') + b"\0\0\n" + whole.replace(b'"id":1', b'"id":4'))
    assert _put(tmp_path, 1) == [3]
    assert sorted(read_evidence(tmp_path / "evidence")) == [1, 3]
    assert b'"void":[2,2]' in path.read_bytes()


def test_lines_that_the_database_does_not_know_are_voided(tmp_path: Path) -> None:
    """A crash between journal and database: the lines are voided once, and their IDs not given again."""
    _put(tmp_path, 5)
    _forget(tmp_path, above=2)
    assert _put(tmp_path, 1) == [6]
    _check_agree(tmp_path)
    text = (tmp_path / "evidence" / f"{DAY}.jsonl").read_text()
    assert text.count('"void":[3,5]') == 1
    _forget(tmp_path, above=2)
    assert _put(tmp_path, 0) == []
    before = (tmp_path / "evidence" / f"{DAY}.jsonl").read_text()
    assert before.count("void") == 2
    assert _put(tmp_path, 0) == []
    assert (tmp_path / "evidence" / f"{DAY}.jsonl").read_text() == before
    assert _put(tmp_path, 1) == [7]
    _check_agree(tmp_path)


def test_unknown_lines_in_the_file_of_the_day_before_are_found(tmp_path: Path) -> None:
    """A crash just after a day's file was made does not hide what the day before left."""
    _put(tmp_path, 3)
    _forget(tmp_path, above=1)
    (tmp_path / "evidence" / "2026-11-22.jsonl").touch()
    assert _put(tmp_path, 1) == [4]
    _check_agree(tmp_path)


def test_commit_that_survived_its_failure_gets_its_lines_back(tmp_path: Path) -> None:
    """When the database has records whose lines were voided, their lines are written again."""
    _put(tmp_path, 4)
    path = tmp_path / "evidence" / f"{DAY}.jsonl"
    with path.open("ab") as file:
        file.write(b'{"void":[3,4],"time":"2026-11-21T15:00:00+00:00"}\n')
    assert sorted(read_evidence(tmp_path / "evidence")) == [1, 2]
    assert _put(tmp_path, 1) == [5]
    _check_agree(tmp_path)


def test_journal_that_was_moved_away_is_written_again(tmp_path: Path) -> None:
    """A new journal beside an old database gets all records that the database has, line for line."""
    _put(tmp_path, 2500)
    (tmp_path / "evidence").rename(tmp_path / "old")
    assert _put(tmp_path, 0) == []
    assert read_evidence(tmp_path / "evidence") == read_evidence(tmp_path / "old")
    _check_agree(tmp_path)


def test_old_copy_of_the_database_is_refused(tmp_path: Path) -> None:
    """A database that is far behind its journal is not served: the evidence of what was logged would be missing."""
    journal = EvidenceJournal.open(tmp_path / "evidence")
    lines = [json.dumps({"id": number}).encode() + b"\n" for number in range(1, MAX_UNKNOWN + 2)]
    journal.append(lines, DAY, len(lines))
    journal.close()
    with pytest.raises(StorageError, match="old copy") as caught:
        SQLiteACMEStore.open(tmp_path / "acme.sqlite", tmp_path / "evidence")
    assert caught.value.reason == Reason.CONFLICT
    assert (tmp_path / "evidence" / f"{DAY}.jsonl").read_bytes() == b"".join(lines)


def test_damage_in_an_older_file_is_no_torn_end(tmp_path: Path) -> None:
    """A file that was whole when the next one was begun is not cut off: its damage is reported."""
    _put(tmp_path, 2)
    path = tmp_path / "evidence" / f"{DAY}.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    (tmp_path / "evidence" / "2026-11-22.jsonl").touch()
    with pytest.raises(StorageError, match="damaged at byte"):
        SQLiteACMEStore.open(tmp_path / "acme.sqlite", tmp_path / "evidence")


def test_one_process_writes_the_journal(tmp_path: Path) -> None:
    """A second store with the same journal is refused; one without a journal may work beside it."""

    async def work(_: SQLiteACMEStore) -> None:
        with pytest.raises(StorageError, match="in use"):
            SQLiteACMEStore.open(tmp_path / "acme.sqlite", tmp_path / "evidence")
        beside = SQLiteACMEStore.open(tmp_path / "acme.sqlite", None)
        await beside.commit(Add(make_account()))
        await beside.close()

    run(tmp_path / "acme.sqlite", work, tmp_path / "evidence")


@pytest.mark.parametrize("room", [0, 10, 400])
def test_journal_that_cannot_grow_fails_the_commit_alone(tmp_path: Path, room: int) -> None:
    """While the journal cannot be written a commit fails whole; afterwards the next one succeeds."""
    _put(tmp_path, 200)
    size = (tmp_path / "evidence" / f"{DAY}.jsonl").stat().st_size

    async def work(store: SQLiteACMEStore) -> None:
        with _file_size_limit(size + room), pytest.raises(StorageError, match="failed"):
            await store.commit(Add(make_order()), Put(make_record()), Put(make_record()), Put(make_record()))
        assert await store.find_order("order-0") is None
        assert await store.commit(Add(make_order()), Put(make_record())) == (201,)

    run(tmp_path / "acme.sqlite", work, tmp_path / "evidence")
    _check_agree(tmp_path)


def test_database_that_cannot_grow_voids_the_lines(tmp_path: Path) -> None:
    """While the database cannot be written a commit fails whole, and its lines are voided behind it."""

    async def work(store: SQLiteACMEStore) -> None:
        # The database's log is far larger than the journal.
        await asyncio.gather(*(store.commit(Add(make_account(number))) for number in range(400)))
        await store.commit(Put(make_record()))
        with _file_size_limit(100_000):
            outcomes = await asyncio.gather(
                *(store.commit(Add(make_order(number)), Put(make_record())) for number in range(5)),
                return_exceptions=True,
            )
        assert all(isinstance(outcome, StorageError) for outcome in outcomes), outcomes
        assert await store.list_orders() == []
        (number,) = await store.commit(Put(make_record()))
        assert number > 2, "IDs of voided lines are not given again"

    run(tmp_path / "acme.sqlite", work, tmp_path / "evidence")
    _check_agree(tmp_path)
    assert '"void":[2,' in (tmp_path / "evidence" / f"{DAY}.jsonl").read_text()


def test_full_disk_names_the_cure(tmp_path: Path) -> None:
    """A full database says what to do, keeps nothing of the commit, and takes the next one when there is room."""
    path = tmp_path / "acme.sqlite"

    async def work(store: SQLiteACMEStore) -> None:
        connection = store._writer._connection
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
        order = replace(make_order(), profile="x" * 100_000)
        with pytest.raises(StorageError, match="free some space"):
            await store.commit(Add(make_account()), Add(order))
        connection.execute("PRAGMA max_page_count = 1000000")
        assert await store.find_account("account-0") is None
        await store.commit(Add(make_account()), Add(order))

    run(path, work)


def test_locked_database_is_an_error_and_not_a_hang(tmp_path: Path) -> None:
    """While another process holds the database, commits fail after a bounded wait, and reads go on."""
    path = tmp_path / "acme.sqlite"

    async def work(store: SQLiteACMEStore) -> None:
        await store.commit(Add(make_account()))
        store._writer._connection.execute("PRAGMA busy_timeout = 50")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="locked"):
            await store.commit(Add(make_account(1)))
        assert await store.find_account("account-0") is not None
        other.execute("ROLLBACK")
        other.close()
        await store.commit(Add(make_account(1)))

    run(path, work)
