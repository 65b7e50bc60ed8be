"""A whole CA with cosigners in its configuration: what leaves it, what holds it up, and what it says about that."""

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from tests.makers import LEAF_SPKI
from tests.pooled_logs import Cosigner, always, served, signer

from mtc.ca.authority import Issued
from mtc.ca.config import CAConfig, format_config
from mtc.ca.cosigning.adding import add_cosigner
from mtc.ca.cosigning.config import CosignerTable, CosigningConfig, QuorumTable
from mtc.ca.folder import CAFolder, create_folder
from mtc.ca.fsck import check_folder
from mtc.ca.pages.http import Pages
from mtc.ca.requests import IssuanceRequest
from mtc.ca.serve import CAApplication, describe_ca
from mtc.ca.service import RunningCA, open_ca
from mtc.ca.status import Health, QuorumStatus, judge_health
from mtc.cert import Certificate, CertificateRevocationList
from mtc.cosign.config import Role
from mtc.cosign.evidence import parse_evidence, verify_evidence
from mtc.cosign.logs import KnownCA
from mtc.crypto import parse_public_key
from mtc.errors import ConflictError, Error, PeerError, Reason, UsageError
from mtc.ids import TrustAnchorID
from mtc.log.fsck import Findings
from mtc.note import SignatureType, VerifierKey, open_note
from mtc.profile import PRIVATE_SERVICE, WEB_PKI, Profile
from mtc.testing.fleet import fleet_in
from mtc.trust import Cosigner as TrustedCosigner
from mtc.trust import CosignerPolicy, TrustStore, trusted_ca_from_certificate, verify_certificate
from mtc.web.clock import SystemClock
from mtc.web.frame import create_app

pytestmark = pytest.mark.usefixtures("near_commands")

CA_ID = TrustAnchorID.parse("32473.1")
W1, M1, M2 = 8, 9, 19
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def quiet_logs() -> Iterator[list[MutableMapping[str, Any]]]:
    """Keep log events instead of printing them."""
    with structlog.testing.capture_logs() as events:
        yield events


class PushedClock(SystemClock):
    """The machine's clock, pushed on, so that nothing waits."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def now(self) -> datetime:
        """Return the time of day."""
        return super().now() + self.ahead

    def monotonic(self) -> float:
        """Return steady seconds."""
        return super().monotonic() + self.ahead.total_seconds()


def make(path: Path, profile: Profile = PRIVATE_SERVICE) -> CAFolder:
    """Make a CA's folder, its log begun."""
    folder, _ = create_folder(path, CAConfig(ca_id=CA_ID, profile=profile, listen=None), None, datetime.now(UTC))

    async def begin() -> None:
        async with open_ca(path):
            pass

    asyncio.run(begin())
    return folder


def key_of(folder: CAFolder) -> VerifierKey:
    """Return the CA's key."""
    spki = folder.certificate.public_key.public_key
    return VerifierKey.from_spki(CA_ID.oid_name, SignatureType.COSIGNATURE_MLDSA44, spki)


def cosigner(folder: CAFolder, name: str, number: int, role: Role) -> Cosigner:
    """Return a cosigner that knows the CA."""
    found = Cosigner.of(name, number, role)
    found.world.cas = (KnownCA(key=key_of(folder)),)
    found.world.clock = SystemClock()  # type: ignore[assignment]  # the machine's own, as the CA's signer has it
    return found


@asynccontextmanager
async def configured(folder: CAFolder, *cosigners: Cosigner) -> AsyncIterator[None]:
    """Serve cosigners and write them into the configuration, each once."""
    async with served(*cosigners):
        for item in cosigners:
            assert add_cosigner(folder.path, item.table)
            assert not add_cosigner(folder.path, item.table)
        yield


async def issue(ca: RunningCA, *names: str) -> list[Issued | Error]:
    """Issue certificates, with rounds run by hand; a failing round is tried again."""
    requests = [IssuanceRequest(spki=LEAF_SPKI, dns_names=(name,), request_key=name.encode()) for name in names]
    task = asyncio.create_task(ca.issue(requests))
    await asyncio.sleep(0)
    for _ in range(50):
        if task.done():
            break
        try:
            await ca.log.run_round()
        except PeerError:
            break
        await asyncio.sleep(0.001)
    else:
        task.cancel()
    return await task if task.done() or ca.log.quorum_trouble is None else await _give_up(task)


async def _give_up(task: "asyncio.Task[list[Issued | Error]]") -> list[Issued | Error]:
    """Stop waiting."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return []


def strict_trust(folder: CAFolder, *numbers: int) -> TrustStore:
    """Return a relying party that needs the CA and all these cosigners."""
    from dataclasses import replace  # noqa: PLC0415 - used here alone

    ca = trusted_ca_from_certificate(folder.certificate)
    others = [
        TrustedCosigner(
            TrustAnchorID.parse(f"32473.{number}"),
            parse_public_key(signer(number).signer.public_key, signer(number).signer.algorithm),
        )
        for number in numbers
    ]
    policy = CosignerPolicy(require=(CA_ID, *(item.cosigner_id for item in others)))
    return TrustStore([replace(ca, cosigners=(*ca.cosigners, *others), policy=policy)])


def test_certificates_carry_the_cosignatures(tmp_path: Path) -> None:
    """Standalone certificates verify where CA, witness and mirror are required; fsck, health and metrics agree."""
    folder = make(tmp_path)

    async def run() -> None:
        m, w = cosigner(folder, "m1", M1, Role.MIRROR), cosigner(folder, "w1", W1, Role.WITNESS)
        async with configured(folder, m, w):
            text = (tmp_path / "ca.toml").read_text()
            (tmp_path / "ca.toml").write_text(text.replace('# required = ["m1"]', 'required = ["m1", "w1"]'))
            for _ in range(2):
                async with open_ca(tmp_path) as ca:
                    issued = await issue(ca, f"a{ca.log.record.tree_size}.example.com", "b.example.com")
                    assert len(issued) == 2
                    for item in issued:
                        assert isinstance(item, Issued), item
                        verify_certificate(item.standalone, strict_trust(folder, M1, W1), datetime.now(UTC))
                    await ca.publish_lists()
                    health = await describe_ca(ca)
                    assert health["status"] == "ok"
                    assert health["quorum"] == "all of m1, w1"
                    assert health["cosigners"] == {"m1": "up", "w1": "up"}
                    metrics = ca.parts.metrics.encode().decode()
                    assert 'mtc_cosigner_requests_total{cosigner="m1",outcome="ok"}' in metrics
                    size = ca.log.record.tree_size
                    assert f'mtc_cosigner_tree_size{{cosigner="w1",log="1"}} {size}.0' in metrics
            note = (tmp_path / "public/1/checkpoint").read_bytes()
            keys = [key_of(folder), signer(M1).key, signer(W1).key]
            assert [item.key for item in open_note(note, keys).verified] == keys
            findings = Findings()
            await check_folder(tmp_path, findings, datetime.now(UTC), lambda *_: None)
            assert not findings.items

    asyncio.run(run())


def test_status_page_shows_cosigners_and_what_is_owed(tmp_path: Path) -> None:
    """With its mirror away a CA that runs ahead says so on its page: who is missing, why, and how many entries wait."""
    from tests.asgi import ask  # noqa: PLC0415 - used here alone

    folder = make(tmp_path)

    async def run() -> None:
        m = cosigner(folder, "m1", M1, Role.MIRROR)
        async with configured(folder, m), open_ca(tmp_path) as ca:
            m.rules["*"] = always(500, b"disk full\n")
            assert await issue(ca, "a.example.com") == []
            app = create_app(Pages(CAApplication(ca).view, ca.parts.hasher).routes())
            page = (await ask(app, "/")).text
            assert "disk full" in page
            assert "A round needs m1 beside the CA" in page
            health = json.loads((await ask(app, "/health")).body)
            assert health["status"] == "degraded"
            assert health["cosigners"] == {"m1": "away"}

    asyncio.run(run())


def test_nothing_leaves_without_the_quorum_in_the_web_profile(tmp_path: Path) -> None:
    """Without its mirror the CA signs nothing newer; when the mirror is back the same request gets its certificate."""
    folder = make(tmp_path, WEB_PKI)

    async def run() -> None:
        m = cosigner(folder, "m1", M1, Role.MIRROR)
        async with configured(folder, m), open_ca(tmp_path) as ca:
            assert not ca.parts.folder.config.may_run_ahead
            (first,) = await issue(ca, "a.example.com")
            assert isinstance(first, Issued), first
            m.rules["*"] = always(500)
            assert await issue(ca, "b.example.com") == []
            size = ca.log.record.tree_size
            assert await issue(ca, "c.example.com") == []
            assert ca.log.record.tree_size == size, "nothing newer was signed"
            m.rules.clear()
            issued = await issue(ca, "b.example.com", "c.example.com")
            for item in issued:
                assert isinstance(item, Issued), item
                verify_certificate(item.standalone, strict_trust(folder, M1), datetime.now(UTC))

    asyncio.run(run())


def test_web_profile_begins_with_cosigners_that_have_seen_nothing(tmp_path: Path) -> None:
    """A mirror that has no checkpoint of the log says that it has seen nothing, which is a view; silence is none."""
    folder = make(tmp_path, WEB_PKI)

    async def run() -> None:
        m = cosigner(folder, "m1", M1, Role.MIRROR)
        async with configured(folder, m):
            async with open_ca(tmp_path):
                pass
            m.rules["*"] = always(503)
            with pytest.raises(PeerError, match="no cosigner"):
                async with open_ca(tmp_path):
                    pass

    asyncio.run(run())


def test_idle_log_shows_itself_to_a_new_cosigner_at_the_start(tmp_path: Path) -> None:
    """A mirror that is added to a CA gets its whole log at the next start, without an entry; once is enough."""
    folder = make(tmp_path)

    async def run() -> None:
        async with open_ca(tmp_path) as ca:
            await issue(ca, "a.example.com", "b.example.com", "c.example.com")
        m = cosigner(folder, "m1", M1, Role.MIRROR)
        async with configured(folder, m):
            for rounds in (1, 0):
                async with open_ca(tmp_path) as ca:
                    before = ca.log.record.timestamp
                    await ca._round()
                    await ca._round()
                    metrics = ca.parts.metrics.encode().decode()
                    assert (f'mtc_sequencer_rounds_total{{result="refresh"}} {rounds}.0' in metrics) == bool(rounds)
                    assert ca.log.record.timestamp >= before
                assert m.running is not None
                assert m.running.mirror.state(f"{key_of(folder).name}.0.1").committed_size == 3

    asyncio.run(run())


def test_web_ca_waits_for_its_first_view_by_itself(tmp_path: Path) -> None:
    """`mtc ca serve` in the web profile with its mirror away does not end: it serves once the mirror has answered."""
    with fleet_in(tmp_path) as fleet:
        ca = fleet.add_ca("32473.1", "--profile", "web-pki")
        mirror = fleet.add_cosigner("mirror", "m1", "32473.21")
        fleet.introduce()
        ca.start(wait=False)
        until = time.monotonic() + 60
        while "no cosigner says" not in ca.last_words() and time.monotonic() < until:
            assert ca.is_running
            time.sleep(0.1)
        assert not ca.answers()
        mirror.start()
        ca.wait_until_up()


def test_old_copy_of_the_folder_is_refused_and_evidenced(tmp_path: Path) -> None:
    """A CA that runs on yesterday's copy refuses to sign, names the mirror, and keeps evidence that verifies alone."""
    folder = make(tmp_path / "ca")

    async def run() -> None:
        m = cosigner(folder, "m1", M1, Role.MIRROR)
        async with configured(folder, m):
            async with open_ca(tmp_path / "ca") as ca:
                await issue(ca, "a.example.com")
            shutil.copytree(tmp_path / "ca", tmp_path / "copy")
            async with open_ca(tmp_path / "ca") as ca:
                await issue(ca, "b.example.com")
            with pytest.raises(ConflictError, match="m1 cosigned 2 entries, this log knows 1"):
                async with open_ca(tmp_path / "copy"):
                    pass
            (path,) = (tmp_path / "copy/private/evidence").iterdir()
            evidence = parse_evidence(path.read_bytes())
            assert evidence.kind == "rolled-back"
            verify_evidence(evidence)

    asyncio.run(run())


def test_crash_between_deciding_and_publishing_is_recovered_with_cosigners(tmp_path: Path) -> None:
    """After a crash in which the tiles of the decided tree were not published, the cosigners' views stop nobody."""
    folder = make(tmp_path)

    async def run() -> None:
        m = cosigner(folder, "m1", M1, Role.MIRROR)
        async with configured(folder, m):
            async with open_ca(tmp_path) as ca:
                await issue(ca, *(f"n{number}.example.com" for number in range(5)))
                put = ca.parts.storage.objects.put

                async def lose(objects: dict[str, bytes]) -> None:
                    if any(key.startswith("public/1/tile") for key in objects):
                        raise PeerError(Reason.PEER, "the power is gone")
                    await put(objects)

                ca.parts.storage.objects.put = lose  # type: ignore[method-assign,assignment]  # the crash
                assert await issue_lost(ca, "z.example.com")
            async with open_ca(tmp_path) as ca:
                assert ca.log.record.tree_size == 6
                (item,) = await issue(ca, "z.example.com")
                assert isinstance(item, Issued), item
                assert item.index == 5

    asyncio.run(run())


async def issue_lost(ca: RunningCA, name: str) -> bool:
    """Ask for a certificate in a round that fails; return whether the round was decided."""
    request = IssuanceRequest(spki=LEAF_SPKI, dns_names=(name,), request_key=name.encode())
    task = asyncio.create_task(ca.issue([request]))
    for _ in range(10_000):
        if ca.log.waiting:
            break
        await asyncio.sleep(0.001)
    with pytest.raises(PeerError):
        await ca.log.run_round()
    await _give_up(task)
    return ca.log.record.tree_size == 6


def test_own_key_is_no_cosigner(tmp_path: Path) -> None:
    """A cosigner with the CA's key or its name is refused, when it is added and when the CA opens."""
    folder = make(tmp_path)
    own = key_of(folder)
    renamed = VerifierKey("oid/1.3.6.1.4.1.32473.5", own.type, own.public_key)
    before = (tmp_path / "ca.toml").read_bytes()
    for key, text in ((own, "has the name of this CA"), (renamed, "has the key or the name of this CA")):
        with pytest.raises(UsageError, match=text):
            add_cosigner(tmp_path, CosignerTable(name="x", key=key, url="http://192.0.2.1"))
    assert (tmp_path / "ca.toml").read_bytes() == before
    config = CosigningConfig(
        tables=(CosignerTable(name="x", key=renamed, url="http://192.0.2.1"),), rule=QuorumTable(at_least=0)
    )
    text = format_config(CAConfig(ca_id=CA_ID, listen=None, cosigning=config))
    (tmp_path / "ca.toml").write_text(text)

    async def run() -> None:
        async with open_ca(tmp_path):
            pass

    with pytest.raises(UsageError, match="has the key or the name of this CA"):
        asyncio.run(run())


def test_certificate_names_the_ca_first(tmp_path: Path) -> None:
    """Cosignatures stand in certificates in the order of their IDs, each once, the CA's own among them."""
    folder = make(tmp_path)

    async def run() -> None:
        cosigners = [cosigner(folder, "m1", M1, Role.MIRROR), cosigner(folder, "m2", M2, Role.MIRROR)]
        async with configured(folder, *cosigners):
            (tmp_path / "ca.toml").write_text(
                (tmp_path / "ca.toml").read_text().replace("# at_least = 1", "at_least = 2")
            )
            async with open_ca(tmp_path) as ca:
                (item,) = await issue(ca, "a.example.com")
                assert isinstance(item, Issued), item
                names = [found.name for found in Certificate.parse(item.standalone).proof.signatures]
                assert names == ["32473.1", "32473.9", "32473.19"]

    asyncio.run(run())


def test_after_the_wait_nothing_new_is_taken_until_the_quorum_comes(tmp_path: Path) -> None:
    """When the quorum is missing for longer than `wait`, new requests are refused and health says who is missing."""
    folder = make(tmp_path, WEB_PKI)

    async def run() -> None:
        m = cosigner(folder, "m1", M1, Role.MIRROR)
        clock = PushedClock()
        async with configured(folder, m):
            text = (tmp_path / "ca.toml").read_text()
            (tmp_path / "ca.toml").write_text(text.replace('# wait = "5m"', 'wait = "10s"'))
            async with open_ca(tmp_path, clock=clock) as ca:
                m.rules["*"] = always(500, b"disk full\n")
                assert await issue(ca, "a.example.com") == []
                assert (await describe_ca(ca))["status"] == "degraded"
                clock.ahead += timedelta(seconds=11)
                with pytest.raises(PeerError):
                    await ca.log.run_round()
                health = await describe_ca(ca)
                assert health["status"] == "stopped"
                assert "disk full" in str(health["reasons"])
                request = IssuanceRequest(spki=LEAF_SPKI, dns_names=("b.example.com",))
                (refusal,) = await ca.issue([request])
                assert isinstance(refusal, Error)
                assert refusal.reason is Reason.NO_QUORUM
                m.rules.clear()
                await ca.log.run_round()
                assert (await describe_ca(ca))["status"] == "ok"
                (item,) = await issue(ca, "a.example.com")
                assert isinstance(item, Issued), item
                verify_certificate(item.standalone, strict_trust(folder, M1), clock.now())

    asyncio.run(run())


def test_running_ahead_completes_what_is_owed(tmp_path: Path) -> None:
    """A CA that runs ahead signs on without its mirror, and every waiting request gets its certificate in the end."""
    folder = make(tmp_path)

    async def run() -> None:
        m = cosigner(folder, "m1", M1, Role.MIRROR)
        async with configured(folder, m), open_ca(tmp_path) as ca:
            m.rules["*"] = always(500)
            tasks = []
            for number in range(3):
                request = IssuanceRequest(spki=LEAF_SPKI, dns_names=(f"{number}.example.com",))
                tasks.append(asyncio.create_task(ca.issue([request])))
                while not ca.log.waiting:  # noqa: ASYNC110 - there is no event for it
                    await asyncio.sleep(0.001)
                await ca.log.run_round()
            assert ca.log.record.tree_size == 3
            assert [(item.start, item.end) for item in ca.log.owed] == [(0, 1), (1, 2), (2, 3)]
            status = await CAApplication(ca).view.status()
            assert status.quorum is not None
            assert status.quorum.owed_entries == 3
            m.rules.clear()
            for _ in range(20):
                if all(task.done() for task in tasks):
                    break
                await ca.log.run_round(is_refresh=True)
                await asyncio.sleep(0.01)
            for task in tasks:
                (item,) = await task
                assert isinstance(item, Issued), item
                verify_certificate(item.standalone, strict_trust(folder, M1), datetime.now(UTC))
            assert not ca.log.owed

    asyncio.run(run())


def test_owed_entries_are_listed_checked_and_can_be_revoked(tmp_path: Path) -> None:
    """An entry whose quorum never came is issued: fsck names it, the lists can revoke it, damage to it is found."""
    folder = make(tmp_path)

    async def run() -> None:
        m = cosigner(folder, "m1", M1, Role.MIRROR)
        async with configured(folder, m):
            m.rules["*"] = always(500)
            async with open_ca(tmp_path) as ca:
                request = IssuanceRequest(spki=LEAF_SPKI, dns_names=("a.example.com",))
                task = asyncio.create_task(ca.issue([request]))
                while not ca.log.waiting:  # noqa: ASYNC110 - there is no event for it
                    await asyncio.sleep(0.001)
                await ca.log.run_round()
                assert [(item.start, item.end) for item in ca.log.owed] == [(0, 1)]
                assert not task.done()
                await ca.revoke({"serials": [str(1 << 48)], "reason": "superseded"})
                listed = CertificateRevocationList.parse((tmp_path / "public/ca.crl").read_bytes())
                assert [item.serial for item in listed.tbs.serials] == [1 << 48]
                task.cancel()
            findings = Findings()
            await check_folder(tmp_path, findings, datetime.now(UTC), lambda *_: None)
            assert not findings.items
            assert any("entries 0 to 0 are signed and lack their quorum" in note for note in findings.notes)
            (path,) = (tmp_path / "private/owed/1").iterdir()
            data = bytearray(path.read_bytes())
            data[20] ^= 1
            path.write_bytes(data)
            await check_folder(tmp_path, findings, datetime.now(UTC), lambda *_: None)
            assert [item.path for item in findings.items] == [f"private/owed/1/{path.name}"]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("quorum", "health", "text"),
    [
        (QuorumStatus(rule="m1"), Health.OK, ""),
        (QuorumStatus(rule="m1", owed=((1, 0, 5), (1, 7, 8))), Health.DEGRADED, "6 issued entries"),
        (
            QuorumStatus(rule="m1", trouble=(datetime(2026, 1, 1, tzinfo=UTC), "m1")),
            Health.DEGRADED,
            "since 2026-01-01",
        ),
        (
            QuorumStatus(rule="m1", trouble=(MOMENT, "m1 is away"), is_blocked=True),
            Health.STOPPED,
            "m1 is away",
        ),
    ],
)
def test_health_judges_the_quorum(quorum: QuorumStatus, health: Health, text: str) -> None:
    """Missing cosignatures degrade a CA, and stop it when nothing new is taken; what is owed is said."""
    from tests.test_ca_status import status_of  # noqa: PLC0415 - used here alone

    found, reasons = judge_health(status_of(quorum=quorum))
    assert found is health
    assert text in "".join(reasons)
