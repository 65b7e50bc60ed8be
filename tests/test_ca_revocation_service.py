"""The shell of revocation: what the register accepted is signed and published, whatever fails in between."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.makers import make_key

from mtc.ca.landmarks import LandmarkState
from mtc.ca.revocation import (
    RevocationRequest,
    RevocationRules,
    logged_serials,
)
from mtc.ca.revocation_service import (
    CRL_KEY,
    LIST_KEY,
    MAX_PENDING_S,
    CRLSigner,
    RevocationPublisher,
    parse_revocation,
)
from mtc.ca.revocation_state import (
    STATE_NAME,
    RevocationState,
)
from mtc.cert import (
    CACertificate,
    CertificateRevocationList,
    RevocationList,
    RevocationReason,
    SerialRanges,
    VerifiedCRL,
    encode_ca_certificate,
    verify_successor,
)
from mtc.crypto import parse_public_key
from mtc.errors import ConflictError, Error, PeerError, Reason, SignatureError, StorageError
from mtc.ids import DEFAULT_REVISION, REVISIONS, DraftRevision, TrustAnchorID, encode_ca_name
from mtc.kernel import active_kernel
from mtc.landmark import LandmarkSequence
from mtc.log import LogRecord
from mtc.log.pruning import ExpiryMark
from mtc.signer import SignerRules
from mtc.signer.service import KeyHolder
from mtc.signer.service.journal import Journal
from mtc.store import MemoryRegister
from mtc.testing import FailingRegister, FailingStore, Failure, FakeClock
from mtc.web.clock import ClockGuard

CA_ID = TrustAnchorID.parse("32473.1")
KEY = make_key("ml-dsa-44")
NOW = int(FakeClock().now().timestamp())
DAY = 86400
FIRST = 1 << 48
RULES = RevocationRules()


def singles(*serials: int) -> SerialRanges:
    """Return single serial numbers as a set."""
    return SerialRanges([(serial, serial + 1) for serial in serials])


def record(size: int, latest: int) -> LogRecord:
    """Return the record of log 1."""
    return LogRecord(log_number=1, tree_size=size, root_hash=bytes(32), timestamp=NOW, latest_not_after=latest)


class KeySigner:
    """`CRLSigner` with a key here. answer: what it does instead of signing, if anything. signed: what it signed."""

    def __init__(self) -> None:
        """Sign everything."""
        self.answer: Callable[[bytes], bytes] | None = None
        self.signed: list[bytes] = []

    async def sign_crl(self, tbs: bytes) -> bytes:
        """Sign, or do as told."""
        if self.answer is not None:
            return self.answer(tbs)
        self.signed.append(tbs)
        return await KEY.sign(tbs)


class Overtaken:
    """`CRLSigner` that is so slow that another process revokes meanwhile."""

    def __init__(self, desk: "Desk") -> None:
        """Take what both processes stand on."""
        self.desk = desk

    async def sign_crl(self, tbs: bytes) -> bytes:
        """Sign after the other process."""
        self.desk.signs = self.desk.signer
        await (await self.desk.open()).revoke({"serials": [str(FIRST + 5)]})
        return await KEY.sign(tbs)


def authority(revision: DraftRevision = DEFAULT_REVISION) -> CACertificate:
    """Return the CA's certificate."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    der = encode_ca_certificate(
        ca_id=CA_ID,
        public_key=parse_public_key(KEY.public_key, KEY.algorithm),
        not_before=start,
        not_after=start + timedelta(days=3650),
        can_sign_crls=True,
        revision=revision,
    )
    return CACertificate.parse(der)


class Desk:
    """A publisher and everything it stands on."""

    def __init__(self, revision: DraftRevision = DEFAULT_REVISION) -> None:
        """Begin with a log of 1,000 entries, valid for a week."""
        self.store, self.register, self.clock = FailingStore(), FailingRegister(), FakeClock()
        self.signer = KeySigner()
        self.signs: CRLSigner = self.signer
        self.authority = authority(revision)
        self.issuer = encode_ca_name(CA_ID, revision)
        self.register.values["log-1"] = record(1000, NOW + 7 * DAY).encode()

    async def open(self) -> RevocationPublisher:
        """Open the revocations, as after a start."""
        guard = ClockGuard(self.clock)
        publisher = RevocationPublisher(self.authority, RULES, self.store, self.register, self.signs, guard)
        await publisher.load()
        return publisher

    def lists(self) -> tuple[VerifiedCRL, RevocationList]:
        """Return the published lists, verified as a relying party does now."""
        now = self.clock.now()
        plain, ranges = (
            CertificateRevocationList.parse(self.store.objects[key]).verify(self.authority.public_key, self.issuer, now)
            for key in (CRL_KEY, LIST_KEY)
        )
        assert isinstance(plain, VerifiedCRL)
        assert isinstance(ranges, RevocationList)
        assert plain.tbs.number == ranges.number
        return plain, ranges


def run(work: Awaitable[None]) -> None:
    """Run a coroutine."""

    async def whole() -> None:
        await work

    asyncio.run(whole())


DOCUMENT = {
    "serials": [str(FIRST + 5)],
    "ranges": [[str(FIRST + 10), str(FIRST + 19)]],
    "reason": "keyCompromise",
    "future": False,
}


@pytest.mark.parametrize("revision", REVISIONS.values(), ids=str)
def test_revoked_is_published(revision: DraftRevision) -> None:
    """Both lists verify and say what was revoked, in every revision; the same again changes and signs nothing."""

    async def story() -> None:
        desk = Desk(revision)
        publisher = await desk.open()
        assert publisher.is_pending
        answer = await publisher.revoke(DOCUMENT)
        assert answer == {
            "revoked": 11,
            "already_revoked": 0,
            "number": 1,
            "min_serial": str(FIRST),
            "ranges": 2,
            "next_update": (desk.clock.now() + timedelta(days=7)).isoformat(),
        }
        plain, ranges = desk.lists()
        assert [line.serial - FIRST for line in plain.tbs.serials] == [5, *range(10, 20)]
        assert {line.reason for line in plain.tbs.serials} == {RevocationReason.KEY_COMPROMISE}
        assert ranges.revoked == SerialRanges([(0, FIRST), (FIRST + 5, FIRST + 6), (FIRST + 10, FIRST + 20)])
        again = await publisher.revoke(DOCUMENT)
        assert (again["revoked"], again["already_revoked"], again["number"]) == (0, 11, 1)
        await publisher.tick()
        assert len(desk.signer.signed) == 2, "two signatures per change, none without"
        assert (desk.store.plan.writes, desk.register.plan.writes) == (1, 2)

    run(story())


def test_lists_stay_fresh_and_follow_expiry() -> None:
    """Lists are signed once a day; then the minimum follows the marks, and what is published is known after a start."""

    async def story() -> None:
        desk = Desk()
        publisher = await desk.open()
        assert publisher.published_minimum == FIRST
        await publisher.tick()
        marks = (ExpiryMark(400, NOW - DAY + 60),)
        landmarks = LandmarkState(1, LandmarkSequence.start(), (), marks)
        desk.register.values[LandmarkState.name_of(1)] = landmarks.encode()
        held = desk.lists()[1]
        for second in range(1, 4):
            desk.clock.advance(DAY - 1)
            await publisher.tick()
            assert desk.lists()[1].number == second
            desk.clock.advance(1)
            await publisher.tick()
            held = verify_successor(held, desk.lists()[1])
            assert held.number == second + 1
            assert held.min_serial == publisher.published_minimum == FIRST + 400
        opened = await desk.open()
        assert (opened.published_minimum, opened.is_pending) == (FIRST + 400, False)
        desk.clock.advance(30 * DAY)
        late = await desk.open()
        assert not late.is_pending, "expired lists are still known"
        await late.tick()
        assert desk.lists()[1].min_serial == FIRST + 1000

    run(story())


@pytest.mark.parametrize("failure", Failure)
@pytest.mark.parametrize("which", ["register", "store"])
@pytest.mark.parametrize("write", range(4))
def test_a_failed_write_loses_nothing(which: str, write: int, failure: Failure) -> None:
    """Whichever write fails, lost or kept, after a start and a tick everything that was accepted is published."""

    async def story() -> None:
        desk = Desk()
        plan = desk.register.plan if which == "register" else desk.store.plan
        plan.fail_write(write, failure)
        wanted: set[int] = set()
        held: RevocationList | None = None
        failures = 0
        for index in (5, 6, 7):
            try:
                publisher = await desk.open()
                await publisher.tick()
                await publisher.revoke({"serials": [str(FIRST + index)]})
                wanted.add(FIRST + index)
            except StorageError:
                failures += 1
                desk.clock.advance(1)
            if LIST_KEY in desk.store.objects:
                _, ranges = desk.lists()
                held = ranges if held is None else verify_successor(held, ranges)
        publisher = await desk.open()
        await publisher.tick()
        assert not publisher.is_pending
        plain, ranges = desk.lists()
        accepted = RevocationState.parse(desk.register.values[STATE_NAME])
        assert ranges.revoked == accepted.revoked
        assert wanted <= {line.serial for line in plain.tbs.serials}
        if held is not None:
            verify_successor(held, ranges)
        # A change of the register that was kept is found to be there, and goes on.
        assert failures == (0 if which == "register" and failure is Failure.KEPT else 1)
        assert len(wanted) == 3 - failures

    run(story())


@pytest.mark.parametrize("key", [CRL_KEY, LIST_KEY])
@pytest.mark.parametrize("damage", ["older", "missing", "broken", "of the other kind"])
def test_half_published_lists_are_made_again(key: str, damage: str) -> None:
    """After a crash that stored one of the two lists, or broke one, a start and a tick publish both."""

    async def story() -> None:
        desk = Desk()
        publisher = await desk.open()
        await publisher.tick()
        old = desk.store.objects[key]
        await publisher.revoke(DOCUMENT)
        match damage:
            case "older":
                desk.store.objects[key] = old
            case "missing":
                del desk.store.objects[key]
            case "of the other kind":
                desk.store.objects[key] = desk.store.objects[LIST_KEY if key == CRL_KEY else CRL_KEY]
            case _:
                desk.store.objects[key] = desk.store.objects[key][:-1] + b"\0"
        opened = await desk.open()
        assert opened.is_pending
        await opened.tick()
        assert desk.lists()[1].number == 2, "the same lists are made again while they are young"
        assert not (await desk.open()).is_pending

    run(story())


def test_an_older_register_is_noticed() -> None:
    """A register from before the published lists is refused at the start, because revocations would be forgotten."""

    async def story() -> None:
        desk = Desk()
        publisher = await desk.open()
        await publisher.tick()
        old = desk.register.values[STATE_NAME]
        await publisher.revoke(DOCUMENT)
        for value in (old, replace(RevocationState.parse(old), number=9).encode()):
            desk.register.values[STATE_NAME] = value
            with pytest.raises(ConflictError, match="older copy"):
                await desk.open()
        desk.register.values[STATE_NAME] = old
        desk.store.objects.clear()
        refreshed = await desk.open()
        await refreshed.tick()
        desk.clock.advance(DAY)
        await refreshed.tick()
        desk.register.values[STATE_NAME] = old
        with pytest.raises(ConflictError, match="older copy"):
            await desk.open()

    run(story())


def test_a_signer_that_is_away_delays_and_one_that_lies_is_noticed() -> None:
    """What the register accepted stands; lists come with the next tick that the signer answers, rightly signed."""

    async def story() -> None:
        desk = Desk()
        publisher = await desk.open()
        await publisher.tick()
        before = dict(desk.store.objects)

        def away(_: bytes) -> bytes:
            raise PeerError(Reason.PEER, "the signer does not answer")

        desk.signer.answer = away
        with pytest.raises(PeerError, match="the revocation stands"):
            await publisher.revoke(DOCUMENT)
        desk.signer.answer = lambda _: bytes(KEY.algorithm.signature_size)
        with pytest.raises(SignatureError):
            await publisher.tick()
        assert desk.store.objects == before
        assert publisher.is_pending
        desk.signer.answer = None
        desk.clock.advance(MAX_PENDING_S)
        await publisher.tick()
        assert desk.lists()[1].number == 2
        desk.signer.answer = away
        with pytest.raises(PeerError):
            await publisher.revoke({"serials": [str(FIRST + 6)]})
        desk.signer.answer = None
        desk.clock.advance(MAX_PENDING_S + 1)
        await publisher.tick()
        assert desk.lists()[1].number == 4, "what was decided long ago is decided again, to begin now"
        assert FIRST + 6 in desk.lists()[1].revoked

    run(story())


def test_two_writers_lose_nothing() -> None:
    """When another process moved the register, the revocation is planned again on top of what is there."""

    async def story() -> None:
        desk = Desk()
        one, other = await desk.open(), await desk.open()
        await one.revoke({"serials": [str(FIRST + 1)]})
        await other.revoke({"serials": [str(FIRST + 2)]})
        await one.revoke({"serials": [str(FIRST + 3)]})
        assert [line.serial - FIRST for line in desk.lists()[0].tbs.serials] == [1, 2, 3]

        desk.signs = Overtaken(desk)
        slow = await desk.open()
        with pytest.raises(ConflictError):
            await slow.revoke({"serials": [str(FIRST + 4)]})
        assert {line.serial - FIRST for line in desk.lists()[0].tbs.serials} == {1, 2, 3, 4, 5}

    run(story())


def test_a_clock_in_doubt_signs_nothing() -> None:
    """While the clock jumps nothing is revoked or published; the error says that it is the clock."""

    async def story() -> None:
        desk = Desk()
        publisher = await desk.open()
        desk.clock.jump(3600)
        for work in (publisher.tick(), publisher.revoke(DOCUMENT)):
            with pytest.raises(ConflictError) as caught:
                await work
            assert caught.value.reason is Reason.CLOCK
        assert not desk.signer.signed

    run(story())


def test_the_signer_signs_what_the_ca_asks(tmp_path: Path) -> None:
    """A real key holder signs the lists of a whole history: changes, refreshes, a restart and a crash in between."""

    async def story() -> None:
        hasher, journal = active_kernel().hasher("sha256"), Journal(tmp_path / "journal")
        desk = Desk()
        rules = SignerRules(ca_id=CA_ID, max_skew_s=300)
        holder = KeyHolder(hasher, rules, KEY, MemoryRegister(), journal, desk.clock)
        desk.signs = holder
        publisher = await desk.open()
        await publisher.tick()
        for index in range(3):
            desk.clock.advance(DAY / 2)
            await publisher.revoke(
                {"serials": [str(FIRST + index)], "ranges": [[str(FIRST + 50 + index), str(FIRST + 60)]]}
            )
            await publisher.tick()
        desk.store.plan.fail_write(desk.store.plan.writes, Failure.LOST)
        with pytest.raises(StorageError, match="the revocation stands"):
            await publisher.revoke({"serials": [str(FIRST + 9)]})
        publisher = await desk.open()
        await publisher.tick()
        desk.clock.advance(30 * DAY)
        await publisher.tick()
        assert desk.lists()[1].min_serial == FIRST + 1000

    run(story())


# What operators send.


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"serial": ["1"]}, "misspelt"),
        ({"serials": "1"}, "must be a list"),
        ({"serials": ["-1"]}, "serial number"),
        ({"serials": ["0x5"]}, "serial number"),
        ({"serials": ["٣"]}, "serial number"),
        ({"serials": [True]}, "serial number"),
        ({"serials": [1.5]}, "serial number"),
        ({"serials": ["9" * 5000]}, "serial number"),
        ({"serials": [str(2**64)]}, "serial number"),
        ({"ranges": [["1"]]}, "pair"),
        ({"ranges": ["12"]}, "pair"),
        ({"ranges": [["2", "1"]]}, "backwards"),
        ({"serials": ["1"], "reason": "certificateHold"}, "keyCompromise"),
        ({"serials": ["1"], "reason": ["keyCompromise"]}, "keyCompromise"),
        ({"serials": ["1"], "future": 1}, "true or false"),
        ({}, "at least one"),
    ],
)
def test_wrong_documents_are_refused(document: dict[str, object], text: str) -> None:
    """Each mistake in a request has its own text."""
    with pytest.raises(Error, match=text):
        parse_revocation(document)


def test_documents_are_read() -> None:
    """Numbers may be strings or integers, ranges include both ends, and no reason is a reason."""
    request = parse_revocation({"serials": [5, "7"], "ranges": [["10", 12]], "reason": "unspecified", "future": True})
    assert request == RevocationRequest(serials=singles(5, 7), ranges=SerialRanges([(10, 13)]), is_future=True)
    assert parse_revocation({"serials": [5], "reason": "superseded"}).reason is RevocationReason.SUPERSEDED
    assert logged_serials({1: 2}) == SerialRanges([(FIRST, FIRST + 2)])
