"""A whole CA in a folder: made, run, asked over its socket and over HTTP, rolled over, pruned, and opened again."""

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mtc.ca.authority import Issued
from mtc.ca.client import CAClient, is_served
from mtc.ca.config import CAConfig
from mtc.ca.folder import CAFolder, create_folder
from mtc.ca.requests import IssuanceRequest
from mtc.ca.serve import serving
from mtc.ca.service import Rollover, RunningCA, open_ca
from mtc.cert import Certificate, parse_certificate_chains
from mtc.errors import ConflictError, Error, PeerError, Reason, Rejected, StorageError, UsageError
from mtc.ids import REVISIONS, DraftRevision, TrustAnchorID
from mtc.log.service import CosignerView, SignedTree, TreeToSign
from mtc.profile import PRIVATE_SERVICE, WEB_PKI, Profile
from mtc.trust import Form, TrustStore, trusted_ca_from_certificate, verify_certificate
from mtc.web.clock import SystemClock

pytestmark = pytest.mark.usefixtures("near_signer")

CA_ID = TrustAnchorID.parse("32473.1")
KEY = ec.generate_private_key(ec.SECP256R1()).public_key()
SPKI = KEY.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
PEM = KEY.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


class PushedClock(SystemClock):
    """The machine's clock, pushed on, so that nothing waits; a signer allows for some minutes."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def now(self) -> datetime:
        """Return the time of day."""
        return super().now() + self.ahead

    def monotonic(self) -> float:
        """Return steady seconds."""
        return super().monotonic() + self.ahead.total_seconds()


def make(path: Path, revision: DraftRevision = REVISIONS["plants-07"], profile: Profile = PRIVATE_SERVICE) -> CAFolder:
    """Make a CA's folder."""
    config = CAConfig(
        ca_id=CA_ID, revision=revision, profile=profile, prefix_url="http://ca.example/mtc", listen=("127.0.0.1", 0)
    )
    return create_folder(path, config, None, datetime.now(UTC))[0]


def ask(name: str, key: str = "") -> IssuanceRequest:
    """Return a request for one name."""
    return IssuanceRequest(spki=SPKI, dns_names=(name,), request_key=(key or name).encode())


async def issue(ca: RunningCA, *requests: IssuanceRequest) -> list[Issued | Error]:
    """Issue requests, with rounds run by hand."""
    task = asyncio.create_task(ca.issue(requests))
    while not task.done():
        await ca.log.run_round()
        await asyncio.sleep(0.001)
    return task.result()


async def issue_all(ca: RunningCA, *requests: IssuanceRequest) -> list[Issued]:
    """Issue requests, none of which may be refused."""
    results = await issue(ca, *requests)
    issued = [item for item in results if isinstance(item, Issued)]
    assert len(issued) == len(results), results
    return issued


@asynccontextmanager
async def served(path: Path) -> AsyncIterator[tuple[RunningCA, CAClient, str]]:
    """Run and serve a CA; yield it with a client over its socket, and its URL."""
    async with (
        open_ca(path) as ca,
        ca.sequencing(),
        serving(ca, ("127.0.0.1", 0)) as (_, tcp),
        CAClient.connect(str(path / "ca.sock")) as client,
    ):
        yield ca, client, tcp.url


@pytest.mark.parametrize("revision", REVISIONS.values(), ids=str)
def test_both_forms_of_every_draft_verify(tmp_path: Path, revision: DraftRevision) -> None:
    """A CA of each draft issues standalone and landmark-relative certificates that verify for their names."""
    folder = make(tmp_path, revision)

    async def run() -> None:
        clock = PushedClock()
        async with open_ca(tmp_path, clock=clock) as ca:
            trust = TrustStore([trusted_ca_from_certificate(folder.certificate)])
            for name in ("a.example.com", "b.example.com"):
                (made,) = await issue_all(ca, ask(name))
                assert verify_certificate(made.standalone, trust, clock.now(), name=name).form is Form.STANDALONE
                clock.ahead += timedelta(seconds=1)
                if name == "a.example.com":
                    await ca.landmarks.tick()
            answer = await ca.upgrade(made.pem.encode())
            assert "certificate" not in answer, "no landmark yet"
            assert answer["retry_after_s"]
            clock.ahead += timedelta(hours=1)
            await ca.landmarks.tick()
            answer = await ca.upgrade(made.pem.encode())
            (chain,) = parse_certificate_chains(str(answer["certificate"]).encode(), revision)
            assert chain.properties is not None
            assert Certificate.parse(chain.certificates[0]).proof.signatures == ()

    asyncio.run(run())


def test_folder_is_made_once(tmp_path: Path) -> None:
    """Making a CA a second time changes no byte; another CA does not fit into the folder; keys are private."""
    make(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    make(tmp_path)
    with pytest.raises(UsageError, match="holds CA"):
        create_folder(tmp_path, CAConfig(ca_id=TrustAnchorID.parse("32473.2")), None, datetime.now(UTC))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert stat.S_IMODE((tmp_path / "signer" / "key.pem").stat().st_mode) == 0o600
    certificate = CAFolder.read(tmp_path).certificate
    assert certificate.is_unsigned
    assert certificate.prefix_url == "http://ca.example/mtc"


def test_half_made_folder_is_completed(tmp_path: Path) -> None:
    """A crash before the configuration was written leaves a folder that is completed with the same key."""
    make(tmp_path)
    key = (tmp_path / "signer" / "key.pem").read_bytes()
    (tmp_path / "ca.toml").unlink()
    certificate = (tmp_path / "ca.pem").read_bytes()
    make(tmp_path)
    assert (tmp_path / "signer" / "key.pem").read_bytes() == key
    assert (tmp_path / "ca.pem").read_bytes() == certificate


def test_requests_over_the_socket_and_over_http(tmp_path: Path) -> None:
    """Over the socket nobody needs a token; over HTTP one is needed; a wrong line hinders no other."""
    folder = make(tmp_path)

    async def run() -> None:
        async with served(tmp_path) as (ca, client, url):
            document = {"public_key": PEM, "dns": ["a.example.com"], "lifetime": "1d", "request_key": "one"}
            _, first = await client.request("POST", "certificates", document)
            _, again = await client.request("POST", "certificates", document)
            assert first["serial"] == again["serial"]
            assert first["certificate"] == again["certificate"]
            lines = [json.dumps(document | {"request_key": f"k{number}"}).encode() for number in range(30)]
            lines.insert(7, b'{"public_key": "nothing"}')
            answers = await client.issue_lines(lines)
            assert ["error" in answer for answer in answers] == [number == 7 for number in range(31)]
            assert len({answer["serial"] for answer in answers if "serial" in answer}) == 30
            assert ca.log.record.tree_size == 31

            async with CAClient.connect(url) as stranger:
                with pytest.raises(Rejected, match="token") as error:
                    await stranger.request("POST", "certificates", document)
                assert error.value.reason is Reason.UNAUTHORIZED
            async with CAClient.connect(url, folder.add_token("test", datetime.now(UTC))) as friend:
                assert (await friend.request("POST", "certificates", document))[1]["serial"] == first["serial"]
            status, answer = await client.request("GET", "status")
            assert (status, answer["status"], answer["tree_size"]) == (200, "ok", 31)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "either a csr or a public_key"),
        ({"public_key": PEM, "csr": PEM}, "either a csr or a public_key"),
        ({"public_key": PEM, "dns": "a.example.com"}, "dns must be a list"),
        ({"public_key": PEM, "dns": []}, "at least one name"),
        ({"public_key": PEM, "dns": ["a.example.com"], "lifetime": "soon"}, "no duration"),
        ({"public_key": PEM, "dns": ["a.example.com"], "lifetim": "1d"}, "misspelt"),
        ({"public_key": 7}, "must be a string"),
    ],
    ids=lambda item: item if isinstance(item, str) else "",
)
def test_wrong_requests_are_named(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, object], message: str
) -> None:
    """Each mistake in a request gives an error that says which field is wrong."""
    path = _shared_folder(tmp_path_factory)

    async def run() -> None:
        async with served(path) as (ca, client, _):
            size = ca.log.record.tree_size
            with pytest.raises(Rejected, match=message):
                await client.request("POST", "certificates", document)
            assert ca.log.record.tree_size == size

    asyncio.run(run())


def _shared_folder(factory: pytest.TempPathFactory) -> Path:
    """Return one folder for tests that change nothing in it."""
    path = factory.getbasetemp() / "shared-ca"
    make(path)
    return path


def test_read_path_serves_what_lies_in_the_folder(tmp_path: Path) -> None:
    """What is answered below the prefix is byte for byte what lies under public/."""
    make(tmp_path)

    async def run() -> None:
        async with served(tmp_path) as (_, client, url):
            await client.request("POST", "certificates", {"public_key": PEM, "dns": ["a.example.com"]})
            import aiohttp  # noqa: PLC0415 - a client that is not ours

            async with aiohttp.ClientSession() as session:
                for path in sorted((tmp_path / "public").rglob("*")):
                    if path.is_file():
                        name = path.relative_to(tmp_path / "public").as_posix()
                        async with session.get(f"{url}/mtc/{name}") as response:
                            assert response.status == 200, name
                            assert await response.read() == path.read_bytes(), name
                async with session.get(f"{url}/") as response:
                    assert "32473.1" in await response.text()
                async with session.get(f"{url}/health") as response:
                    assert (await response.json())["status"] == "ok"

    asyncio.run(run())


def test_only_one_process_runs_a_ca(tmp_path: Path) -> None:
    """A second process on the folder is refused, and the socket tells that somebody serves it."""
    make(tmp_path)

    async def run() -> None:
        assert not is_served(tmp_path / "ca.sock")
        async with served(tmp_path):
            assert is_served(tmp_path / "ca.sock")
            with pytest.raises(StorageError, match="in use"):
                async with open_ca(tmp_path):
                    pass

    asyncio.run(run())


def test_rollover_moves_those_who_wait(tmp_path: Path) -> None:
    """Requests in flight get their entries in the next log; the old one stays, is recorded, and never grows again."""
    make(tmp_path)

    async def run() -> None:
        async with open_ca(tmp_path) as ca:
            await issue(ca, ask("a.example.com"))
            old = ca.log
            waiting = asyncio.create_task(ca.issue([ask("b.example.com")]))
            while not ca.log.waiting:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.001)
            with pytest.raises(UsageError, match="needs a reason"):
                await ca.roll_over("", "me", is_abandoned=False)
            answer = await ca.roll_over("the disk of log 1 is dying", "me", is_abandoned=False)
            assert (answer["old_log"], answer["new_log"], answer["moved"]) == (1, 2, 1)
            while not waiting.done():
                await ca.log.run_round()
                await asyncio.sleep(0.001)
            (made,) = waiting.result()
            assert isinstance(made, Issued)
            assert (made.log_number, made.index) == (2, 0)
            assert old.record.is_closed
            assert old.record.tree_size == 1
            incident = json.loads((tmp_path / "private" / "incidents" / "000001.json").read_bytes())
            assert incident["reason"] == "the disk of log 1 is dying"
        async with open_ca(tmp_path) as ca:
            assert ca.log.record.log_number == 2
            assert (await ca.landmarks_of(1)).head.tree_size == 1

    asyncio.run(run())


def test_interrupted_rollover_goes_on(tmp_path: Path) -> None:
    """A log that was closed while the next one was not begun issues nothing, until the same command is given again."""
    make(tmp_path)

    async def run() -> None:
        async with open_ca(tmp_path) as ca:
            await ca.log.close_for_good()
        with pytest.raises(ConflictError, match="mtc ca rollover"):
            async with open_ca(tmp_path):
                pass
        async with open_ca(tmp_path, rollover=Rollover("closed by hand", "me")) as ca:
            assert ca.log.record.log_number == 2

    asyncio.run(run())


def test_log_that_cannot_be_opened_is_abandoned(tmp_path: Path) -> None:
    """A log whose storage contradicts its register is refused with what to do, and that works."""
    make(tmp_path)

    async def run() -> None:
        async with open_ca(tmp_path) as ca:
            await issue(ca, ask("a.example.com"))
        next((tmp_path / "public" / "1" / "tile" / "0").iterdir()).joinpath("1").write_bytes(bytes(32))
        with pytest.raises(ConflictError, match="next one"):
            async with open_ca(tmp_path):
                pass
        async with open_ca(tmp_path, rollover=Rollover("tile damaged", "me", is_abandoned=True)) as ca:
            (made,) = await issue(ca, ask("b.example.com"))
            assert isinstance(made, Issued)
            assert made.log_number == 2

    asyncio.run(run())


class Cosigners:
    """A source that remembers what it saw, and adds nothing."""

    def __init__(self) -> None:
        self.views: list[CosignerView] = []
        self.asked = 0

    async def fetch_views(self, log_number: int) -> list[CosignerView]:
        """Return what was seen of a log."""
        assert log_number == 1
        self.asked += 1
        return self.views

    async def cosign(self, tree: TreeToSign, signed: SignedTree) -> SignedTree:
        """Remember the tree."""
        self.views = [CosignerView("mirror", tree.tree_size, tree.root_hash, tree.timestamp)]
        return signed


def test_restored_folder_is_refused_by_what_cosigners_remember(tmp_path: Path) -> None:
    """An older copy of the whole folder is consistent with itself; a cosigner's view gives it away."""
    import shutil  # noqa: PLC0415 - used here alone

    folder, copy = tmp_path / "ca", tmp_path / "copy"
    make(folder)

    async def run() -> None:
        cosigners = Cosigners()
        async with open_ca(folder, cosigners=cosigners) as ca:
            await issue(ca, ask("a.example.com"))
        shutil.copytree(folder, copy)
        async with open_ca(folder, cosigners=cosigners) as ca:
            await issue(ca, ask("b.example.com"))
        with pytest.raises(ConflictError, match="old copy"):
            async with open_ca(copy, cosigners=cosigners):
                pass
        async with open_ca(folder, cosigners=cosigners) as ca:
            assert ca.log.record.tree_size == 2

    asyncio.run(run())


def test_cosigner_with_another_root_stops_the_log(tmp_path: Path) -> None:
    """A cosigner that signed another tree of a size that the log has, contradicts it, and nothing is signed."""
    make(tmp_path)

    async def run() -> None:
        cosigners = Cosigners()
        async with open_ca(tmp_path, cosigners=cosigners) as ca:
            for name in ("a.example.com", "b.example.com"):
                await issue(ca, ask(name))
        cosigners.views = [CosignerView("mirror", 1, bytes(32), 0)]
        with pytest.raises(ConflictError, match="another root hash at 1"):
            async with open_ca(tmp_path, cosigners=cosigners):
                pass

    asyncio.run(run())


def test_web_profile_signs_nothing_before_a_cosigner_answers(tmp_path: Path) -> None:
    """In the web profile the CA does not start while no cosigner says what it has seen."""
    make(tmp_path, profile=WEB_PKI)

    async def run() -> None:
        with pytest.raises(PeerError, match="no cosigner"):
            async with open_ca(tmp_path, cosigners=Cosigners()):
                pass

    asyncio.run(run())


def test_cosigners_clock_holds_the_ca(tmp_path: Path) -> None:
    """A cosigner that signed in what is the future here shows that this clock is wrong."""
    make(tmp_path)

    async def run() -> None:
        cosigners = Cosigners()
        async with open_ca(tmp_path, cosigners=cosigners) as ca:
            await issue(ca, ask("a.example.com"))
        (view,) = cosigners.views
        cosigners.views = [CosignerView(view.name, view.tree_size, view.root_hash, view.timestamp + 3600)]
        with pytest.raises(ConflictError) as error:
            async with open_ca(tmp_path, cosigners=cosigners):
                pass
        assert error.value.reason is Reason.CLOCK

    asyncio.run(run())


def test_pruning_says_what_holds_it(tmp_path: Path) -> None:
    """A dry run names every bound and changes nothing."""
    make(tmp_path)

    async def run() -> None:
        async with open_ca(tmp_path) as ca:
            await issue(ca, ask("a.example.com"))
            answer = await ca.prune(is_dry_run=True)
            logs = answer["logs"]
            assert isinstance(logs, list)
            assert [(log["before"], log["minimum_index"], log["deleted"]) for log in logs] == [(0, 0, 0)]
            assert len(logs[0]["limits"]) == 3

    asyncio.run(run())
