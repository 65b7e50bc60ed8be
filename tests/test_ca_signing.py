"""Between the log and the key: a signer that lies is not believed, and one that is away costs time and nothing else."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.test_ca_service import PushedClock, make

from mtc.ca.fsck.check import check_folder
from mtc.ca.service import open_ca
from mtc.ca.signing import CATreeSigner
from mtc.crypto import generate_key, parse_signature_algorithm
from mtc.errors import ConflictError, PeerError, Reason, Rejected, SignatureError
from mtc.ids import TrustAnchorID
from mtc.kernel import active_kernel
from mtc.log import PendingEntry
from mtc.log.fsck import Findings
from mtc.log.service import Appended, IssuanceLog
from mtc.merkle import Frontier
from mtc.note import SignatureType, VerifierKey, open_note
from mtc.signer import SignerRules, TreeRequest
from mtc.signer.protocol import SignedMessages
from mtc.signer.service import Journal, KeyHolder, SignerClient, serve_signer
from mtc.store import MemoryRegister, MemoryStore
from mtc.testing import FakeClock
from mtc.web import ClockGuard

CA_ID = TrustAnchorID.parse("32473.1")
KEY = generate_key(parse_signature_algorithm("ml-dsa-44"))
HASHER = active_kernel().hasher("sha256")
ENTRY = PendingEntry(0, b"")


class Liar:
    """Signs what it is asked for as long as the tree is empty, and then garbage."""

    def __init__(self, holder: KeyHolder, *, keeps_subtrees: bool) -> None:
        self.holder = holder
        self.keeps_subtrees = keeps_subtrees

    async def sign(self, asked: TreeRequest) -> SignedMessages:
        """Return the subtrees asked for, or none, with made-up signatures."""
        if not asked.tree_size:
            return await self.holder.sign(asked)
        covered = Frontier().cover_growth(HASHER, HASHER.leaves(asked.entries))
        subtrees = tuple((subtree, value, bytes(2420)) for subtree, value in covered)
        return SignedMessages(bytes(2420), subtrees if self.keeps_subtrees else ())


@pytest.mark.parametrize("keeps", [True, False], ids=["bad signatures", "other subtrees"])
def test_signer_that_lies_is_not_believed(tmp_path: Path, *, keeps: bool) -> None:
    """Other subtrees, or signatures that fail, stop the log for good before its checkpoint is published."""

    async def run() -> None:
        store, clock = MemoryStore(), FakeClock()
        journal = Journal(tmp_path / "journal")
        holder = KeyHolder(HASHER, SignerRules(ca_id=CA_ID), KEY, MemoryRegister(), journal, clock)
        signer = CATreeSigner(CA_ID, KEY.public_key, Liar(holder, keeps_subtrees=keeps))
        log = await IssuanceLog.open(HASHER, 1, store, MemoryRegister(), signer, ClockGuard(clock))
        before = store.objects["public/1/checkpoint"]
        waiting = asyncio.create_task(log.append(ENTRY))
        await asyncio.sleep(0)
        with pytest.raises((SignatureError, ConflictError)):
            await log.run_round()
        with pytest.raises((SignatureError, ConflictError)):
            await waiting
        assert store.objects["public/1/checkpoint"] == before
        assert log.stopped is not None
        journal.close()

    asyncio.run(run())


def test_stale_round_of_a_real_ca_leaves_a_clean_folder(tmp_path: Path) -> None:
    """The signer's process refuses by its own clock, the round is undone, and mtc fsck finds nothing wrong."""

    async def run() -> None:
        clock = PushedClock()
        # The log's clock is behind the signer's.
        clock.ahead = timedelta(seconds=-200)
        now = int(datetime.now(UTC).timestamp())
        async with open_ca(tmp_path, clock=clock) as ca:
            first = asyncio.create_task(ca.log.submit([PendingEntry(0, b"", 0, b"y", now + 3600)]))
            await asyncio.sleep(0)
            await ca.log.run_round()
            entries = [PendingEntry(0, b"", 0, b"a", now - 100), PendingEntry(0, b"", 0, b"b")]
            waiting = asyncio.create_task(ca.log.submit(entries))
            await asyncio.sleep(0)
            await ca.log.run_round()
            while not waiting.done():
                await ca.log.run_round()
                await asyncio.sleep(0)
            stale, place = await waiting
            assert isinstance(stale, Rejected)
            assert stale.reason is Reason.STALE_EVIDENCE
            assert isinstance(place, Appended)
            assert (place.index, len(await first)) == (1, 1)
        # The last round rests on evidence, and the key has refused once.
        async with open_ca(tmp_path, clock=clock) as ca:
            waiting = asyncio.create_task(ca.log.submit([PendingEntry(0, b"", 0, b"c", now + 3600)]))
            await asyncio.sleep(0)
            await ca.log.run_round()
            await waiting
            await ca.publish_lists()

    make(tmp_path)
    asyncio.run(run())
    findings = Findings()
    later = datetime.now(UTC) + timedelta(minutes=1)
    asyncio.run(check_folder(tmp_path, findings, later, lambda *_: None))
    assert findings.items == []
    assert findings.counts["entries"] == 3


def test_signer_that_is_away_costs_nothing_but_time(tmp_path: Path) -> None:
    """When the signer does not answer, the round stays decided, and is finished when the signer is back."""

    async def run() -> None:
        store, clock = MemoryStore(), FakeClock()
        signer = CATreeSigner(CA_ID, KEY.public_key, SignerClient(tmp_path / "signer.sock"))
        own, journal = MemoryRegister(), Journal(tmp_path / "journal")
        holder = KeyHolder(HASHER, SignerRules(ca_id=CA_ID), KEY, own, journal, clock)
        register = MemoryRegister()
        async with serve_signer(holder, tmp_path / "signer.sock"):
            log = await IssuanceLog.open(HASHER, 1, store, register, signer, ClockGuard(clock))
        before = store.objects["public/1/checkpoint"]
        waiting = asyncio.create_task(log.append(ENTRY))
        await asyncio.sleep(0)
        with pytest.raises(PeerError, match="is it running"):
            await log.run_round()
        assert store.objects["public/1/checkpoint"] == before
        clock.advance(86400)
        async with serve_signer(holder, tmp_path / "signer.sock"):
            await log.run_round()
        assert (await waiting).index == 0
        key = VerifierKey.from_spki(CA_ID.oid_name, SignatureType.COSIGNATURE_MLDSA44, KEY.public_key)
        note = open_note(store.objects["public/1/checkpoint"], [key])
        assert note.text.split(b"\n")[:2] == [b"oid/1.3.6.1.4.1.32473.1.0.1", b"1"]
        journal.close()

    asyncio.run(run())
