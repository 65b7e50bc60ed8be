"""One log on files from its first round to landmark-relative certificates, by the CA and by a holder who only reads."""

import asyncio
from pathlib import Path

import pytest
from tests.makers import LEAF_SPKI, NOW, Leaf, SmallCA, leaf_extensions

from mtc.ca.certificates import LogContext, Wanted, landmark_relative_certificates, standalone_certificates
from mtc.ca.landmark_service import LandmarkClock, LandmarkLog
from mtc.ca.landmarks import LandmarkRules
from mtc.ca.proofs import LogReader, TreeHead
from mtc.cert import Certificate, EntryType, LogEntry, SubtreeSignature
from mtc.cli.log_source import open_log
from mtc.cli.upgrade import Holder, upgrade
from mtc.ids import REVISIONS, DraftRevision, log_id
from mtc.log import PendingEntry
from mtc.log.service import Appended, IssuanceLog, SignedTree, TreeToSign
from mtc.merkle import HashReader, subtree_hash
from mtc.note import (
    Checkpoint,
    Note,
    SignatureType,
    VerifierKey,
    checkpoint_message,
    encode_subtree_message,
    note_signature,
)
from mtc.profile import PRIVATE_SERVICE
from mtc.store import FileStore, MemoryRegister
from mtc.testing import FakeClock
from mtc.trust import Form, TrustedSubtree, verify_certificate
from mtc.web.clock import ClockGuard

ROUNDS = (1, 2, 300, 40, 700)


class Signer:
    """The CA cosigner of a small CA."""

    def __init__(self, ca: SmallCA) -> None:
        self.ca, self.signer = ca, ca.key(ca.ca_id)
        self.key = VerifierKey.from_spki(ca.anchor.oid_name, SignatureType.COSIGNATURE_MLDSA44, self.signer.public_key)

    async def sign_tree(self, tree: TreeToSign) -> SignedTree:
        """Sign whatever comes."""
        log = log_id(self.ca.anchor, tree.log_number)
        checkpoint = Checkpoint(log.oid_name, tree.tree_size, tree.root_hash)
        raw = self.signer.sign_now(checkpoint_message(self.key, checkpoint, tree.timestamp))
        note = Note(checkpoint.encode(), (note_signature(self.key, raw, tree.timestamp),))
        signatures = {
            subtree: (
                SubtreeSignature(
                    self.ca.anchor.binary,
                    self.signer.sign_now(encode_subtree_message(self.ca.anchor, log, subtree, value)),
                ),
            )
            for subtree, value in tree.subtrees
        }
        return SignedTree(note.encode(), signatures)


async def append(log: IssuanceLog, ca: SmallCA, first: int, count: int) -> list[Appended]:
    """Certify so many names in one round."""
    pending = []
    for number in range(first, first + count):
        leaf = Leaf(extensions=leaf_extensions((f"entry-{number}.example",)))
        body = LogEntry.of_certificate(leaf.entry(ca)).body
        pending.append(PendingEntry(EntryType.TBS_CERT, body, int(leaf.not_after.timestamp())))
    waiting = asyncio.create_task(log.submit(pending))
    await asyncio.sleep(0)
    await log.run_round()
    return [place for place in await waiting if isinstance(place, Appended)]


async def trusted_subtrees(context: LogContext, landmarks: LandmarkClock) -> list[TrustedSubtree]:
    """Return what a relying party trusts that follows the landmarks."""
    sequence = landmarks.state.sequence
    parts = [
        (landmark, subtree)
        for landmark in sequence.landmarks[1:]
        for subtree in sequence.subtrees(landmark.number)
        if not subtree.is_empty
    ]

    def read(hashes: HashReader) -> list[bytes]:
        return [subtree_hash(context.reader.hasher, hashes, subtree) for _, subtree in parts]

    return [
        TrustedSubtree(1, subtree, value, landmark.number, landmark.expiry)
        for (landmark, subtree), value in zip(parts, await context.reader.ask(context.head, read), strict=True)
    ]


@pytest.mark.parametrize("has_counter", [False, True], ids=["plain", "counter"])
@pytest.mark.parametrize("revision", REVISIONS.values(), ids=str)
def test_every_entry_gets_both_forms(tmp_path: Path, revision: DraftRevision, *, has_counter: bool) -> None:
    """Entries of all rounds get a standalone certificate at once and a landmark-relative one from their landmark on."""

    async def run() -> None:
        ca = SmallCA((), revision=revision, algorithm="ml-dsa-44")
        signer, clock = Signer(ca), FakeClock(NOW)
        store, register, guard = FileStore.open(tmp_path), MemoryRegister(), ClockGuard(clock)
        log = await IssuanceLog.open(
            ca.hasher, 1, store, register, signer, guard, has_counter=has_counter, revision=revision
        )
        about = LandmarkLog(log_number=1, origin=log_id(ca.anchor, 1).oid_name, hasher=ca.hasher, keys=(signer.key,))
        rules = LandmarkRules.of_profile(PRIVATE_SERVICE, revision)
        landmarks = await LandmarkClock.open(about, store, register, guard, rules)
        reader = LogReader(ca.hasher, store, "public/1/")
        standalone: list[bytes] = []
        for count in ROUNDS:
            clock.advance(1800)
            places = await append(log, ca, len(standalone), count)
            round_ = places[0].round_
            assert round_ is not None
            head = TreeHead(round_.signed.new_size, round_.signed.root_hash)
            context = LogContext(1, head, reader, revision)
            wanted = [Wanted(place.index, LEAF_SPKI) for place in places]
            standalone += await standalone_certificates(context, round_.signed.signatures, wanted)
            await landmarks.tick()
        clock.advance(3600)
        await landmarks.tick()
        assert landmarks.head == context.head
        assert landmarks.state.sequence.latest.tree_size == len(standalone)
        wanted = [Wanted(index, LEAF_SPKI) for index in range(len(standalone))]
        now = clock.now()
        relative = await landmark_relative_certificates(context, landmarks.state.sequence, wanted, now)
        trust = ca.store(subtrees=await trusted_subtrees(context, landmarks))
        async with open_log(str(tmp_path)) as source:
            for index, (first, second) in enumerate(zip(standalone, relative, strict=True)):
                name = f"entry-{index}.example"
                assert verify_certificate(first, ca.store(), now, name=name).form is Form.STANDALONE
                assert verify_certificate(second, trust, now, name=name).form is Form.LANDMARK_RELATIVE
                if index % 97 == 0 or index < 4:
                    upgraded = await upgrade(source, Holder(Certificate.parse(first)), now)
                    assert upgraded.chain.certificates == (second,)
        store.close()
        await log.close()

    asyncio.run(run())
