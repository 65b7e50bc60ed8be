"""A stranger, who shares no code with the project, reads a log that the project made."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from tests.independent_reader import read_log, tree_hash
from tests.test_ca_service import PushedClock, ask, issue_all, make

from mtc.ca.service import open_ca
from mtc.profile import PRIVATE_SERVICE


def _fetch(folder: Path, path: str) -> bytes:
    """Read a file below a folder, as a client reads a URL."""
    return (folder / path).read_bytes()


def test_stranger_reads_the_log(tmp_path: Path) -> None:
    """Signature, entries, root, tiles and landmarks are as the specifications say, in the eyes of somebody else."""
    folder = make(tmp_path, profile=PRIVATE_SERVICE)

    async def run() -> None:
        clock = PushedClock()
        async with open_ca(tmp_path, clock=clock) as ca:
            for count in (1, 254, 3, 300):
                names = [f"h{ca.log.record.tree_size + number}.example.com" for number in range(count)]
                await issue_all(ca, *(ask(name) for name in names))
                clock.ahead += timedelta(seconds=1)
                await ca.landmarks.tick()

    asyncio.run(run())
    key = folder.certificate.public_key.public_key[-1312:]
    log = read_log(lambda path: _fetch(tmp_path / "public" / "1", path), "oid/1.3.6.1.4.1.32473.1", key)
    assert (log.origin, log.tree_size) == ("oid/1.3.6.1.4.1.32473.1.0.1", 558)
    assert [b"h%d.example.com" % number in entry for number, entry in enumerate(log.entries)] == [True] * 558
    flipped = tmp_path / "public" / "1" / "tile" / "0" / "000"
    data = bytearray(flipped.read_bytes())
    data[77] ^= 1
    flipped.chmod(0o644)
    flipped.write_bytes(data)
    with pytest.raises(AssertionError, match="tile 0/0 holds other hashes"):
        read_log(lambda path: _fetch(tmp_path / "public" / "1", path), "oid/1.3.6.1.4.1.32473.1", key)


def test_reader_knows_the_empty_tree() -> None:
    """The reader's tree is RFC 9162's, for which the empty tree has the hash of nothing."""
    assert tree_hash([]).hex().startswith("e3b0c442")
