"""The signer's journal: what a line says, and what a crash may do to the last one."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtc.errors import FormatError, StorageError
from mtc.ids import TrustAnchorID, log_id
from mtc.merkle import Subtree
from mtc.note import CosignedMessage
from mtc.signer import CRLKind, CRLLine, JournalLine, TreeLine, parse_journal_line
from mtc.signer.service import Journal, read_journal
from mtc.signer.service.journal import read_last_lines

CA_ID = TrustAnchorID.parse("32473.1")
MOMENT = "2026-11-21T12:00:00.000001+00:00"
TREE = TreeLine(
    time=MOMENT,
    cosigner_id=CA_ID,
    log_number=1,
    tree_size=5,
    root_hash=b"r" * 32,
    timestamp=1_795_262_400,
    subtrees=((Subtree(0, 4), b"a" * 32), (Subtree(4, 5), b"b" * 32)),
)
CRL = CRLLine(time=MOMENT, kind=CRLKind.PLAIN, number=7, tbs=b"0" * 1000)


def test_line_gives_every_message_again() -> None:
    """From a line alone the checkpoint's and the subtrees' messages follow, bit by bit."""
    log = log_id(CA_ID, 1)
    assert parse_journal_line(TREE.encode()[:-1]) == TREE
    assert TREE.messages == (
        CosignedMessage.for_subtree(CA_ID, log, Subtree(0, 5), b"r" * 32, 1_795_262_400),
        CosignedMessage.for_subtree(CA_ID, log, Subtree(0, 4), b"a" * 32),
        CosignedMessage.for_subtree(CA_ID, log, Subtree(4, 5), b"b" * 32),
    )
    assert parse_journal_line(CRL.encode()[:-1]) == CRL


def test_lines_are_short() -> None:
    """A round with two subtrees takes less than 420 bytes, a list less than its own size when it has a pattern."""
    assert len(TREE.encode()) < 420
    assert len(CRL.encode()) < 300


@given(
    st.binary(max_size=200)
    | st.sampled_from([TREE.encode(), CRL.encode()]).flatmap(
        lambda line: st.tuples(st.integers(0, len(line) - 2), st.integers(1, 255)).map(
            lambda change: line[: change[0]] + bytes([line[change[0]] ^ change[1]]) + line[change[0] + 1 : -1]
        )
    )
)
def test_line_is_itself_or_refused(line: bytes) -> None:
    """Any bytes are refused, or a line that is written exactly so; nothing but FormatError comes out."""
    try:
        parsed = parse_journal_line(line)
    except FormatError:
        return
    assert parsed.encode() == line + b"\n"


@pytest.mark.parametrize("line", [TREE, CRL], ids=["tree", "crl"])
def test_every_truncation_is_refused(line: JournalLine) -> None:
    """A line that is cut off anywhere is no line."""
    whole = line.encode()[:-1]
    for end in range(len(whole)):
        with pytest.raises(FormatError):
            parse_journal_line(whole[:end])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"size":5', b'"size":true'),
        (b'"size":5', b'"size":-1'),
        (b'"size":5', b'"size":3'),
        (b'"size":5', b'"size":5.0'),
        (b'"time":"2026-11-21T12:00:00.000001+00:00"', b'"time":5'),
        (b'"log":1', b'"log":0'),
        (b'"log":1', b'"log":1,"more":1'),
        (b'"kind":"tree"', b'"kind":"crl"'),
        (b"[0,4,", b"[1,4,"),
        (b'"timestamp":1795262400', b'"timestamp":-1'),
        (b'"subtrees":[[', b'"subtrees":[[],['),
        (b"{", b"["),
    ],
)
def test_lines_that_no_signer_writes_are_refused(old: bytes, new: bytes) -> None:
    """A field of another type, out of range or too many is refused."""
    changed = TREE.encode()[:-1].replace(old, new, 1)
    assert changed != TREE.encode()[:-1]
    with pytest.raises(FormatError):
        parse_journal_line(changed)


def test_torn_last_line_is_passed_over_and_ended(tmp_path: Path) -> None:
    """Wherever a crash cuts the last line, the lines before it are read, and the next start goes on behind a mark."""
    path = tmp_path / "journal"
    whole = TREE.encode()
    for end in range(1, len(whole)):
        path.write_bytes(whole + CRL.encode() + whole[:end])
        assert list(read_journal(path)) == read_last_lines(path) == [TREE, CRL]
        again = Journal(path)
        again.append(whole)
        again.close()
        assert list(read_journal(path)) == read_last_lines(path) == [TREE, CRL, TREE]
        assert path.read_bytes() == whole + CRL.encode() + whole[:end] + b"~torn\n" + whole


def test_damage_elsewhere_is_found(tmp_path: Path) -> None:
    """A line in the middle that is none is an error with its number."""
    path = tmp_path / "journal"
    path.write_bytes(TREE.encode() + b"{}\n" + TREE.encode())
    with pytest.raises(FormatError, match=r"line 2 of .*journal") as caught:
        list(read_journal(path))
    assert caught.value.facts["line"] == 2
    with pytest.raises(FormatError):
        read_last_lines(path)


def test_last_tree_of_a_log_is_found_backwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However little is read at once, the last tree of a log is found behind lists and other logs, torn lines apart."""
    other = replace(TREE, log_number=2, tree_size=4, subtrees=())
    later = replace(TREE, tree_size=9)
    path = tmp_path / "journal"
    data = b"".join(line.encode() for line in (TREE, later, CRL, other, CRL))
    path.write_bytes(data + replace(later, tree_size=99).encode()[:-9])
    for tail_bytes in (1, 7, 100, len(data), 1 << 18):
        monkeypatch.setattr("mtc.signer.service.journal.TAIL_BYTES", tail_bytes)
        journal = Journal(path)
        assert (journal.find_tree(1), journal.find_tree(2), journal.find_tree(3)) == (later, other, None)
        journal.close()
    empty = Journal(tmp_path / "empty")
    assert empty.find_tree(1) is None
    empty.append(b"{}\n")
    with pytest.raises(FormatError):
        empty.find_tree(1)
    empty.close()


@pytest.mark.parametrize("tail_bytes", range(1, 1200, 37))
def test_last_lines_are_whole_ones(tmp_path: Path, tail_bytes: int) -> None:
    """However little of the end is read, only whole lines come out, the last ones."""
    path = tmp_path / "journal"
    lines: list[JournalLine] = [TREE, CRL, TREE]
    path.write_bytes(b"".join(line.encode() for line in lines))
    found = read_last_lines(path, tail_bytes)
    assert found == lines[len(lines) - len(found) :]
    assert read_last_lines(tmp_path / "none") == []


def test_full_disk_is_reported_and_survived(tmp_path: Path) -> None:
    """A write that the medium refuses raises StorageError; the journal stays readable."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no device that is always full")
    link = tmp_path / "journal"
    link.symlink_to(full)
    journal = Journal(link)
    with pytest.raises(StorageError, match="nothing is signed"):
        journal.append(TREE.encode())
    journal.close()


def test_writing_goes_on_after_a_failure(tmp_path: Path) -> None:
    """After a line that could not be written whole, the next one stands on a line of its own."""
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.append(TREE.encode())
    good, bad = journal._handle, os.open(path, os.O_RDONLY)
    journal._handle = bad
    with pytest.raises(StorageError):
        journal.append(CRL.encode())
    journal._handle = good
    os.write(good, CRL.encode()[:40])
    journal.append(CRL.encode())
    journal.close()
    os.close(bad)
    assert list(read_journal(path)) == [TREE, CRL]


def test_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    """A journal that cannot be opened or read raises StorageError with its path."""
    with pytest.raises(StorageError, match="cannot be opened"):
        Journal(tmp_path / "none" / "journal")
    with pytest.raises(StorageError, match="cannot be read"):
        list(read_journal(tmp_path / "none"))
