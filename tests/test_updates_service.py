"""The update service: what it pulls from honest, slow and lying CAs, what it publishes, and what clients make of it."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from starlette.responses import RedirectResponse, Response, StreamingResponse
from tests.updates_sites import Site, Street, TownCA, cosign, online, serviced, town_ca
from tests.updating import NOW, SECONDS

from mtc.errors import FormatError, PeerError, Reason, Rejected, UsageError
from mtc.ids import REVISIONS, DraftRevision, TrustAnchorID
from mtc.landmark import Landmark
from mtc.note import Note
from mtc.testing import FakeClock
from mtc.trust.updater import (
    Updater,
    UpdaterConfig,
    create_updater,
    http_client,
    load_trust_store,
    parse_pinned_key,
    parse_updater_config,
    read_update_state,
)
from mtc.trust.updates import UpdateState, UpdateTrust, plan_update, trust_store_of
from mtc.updates.config import UpdatesConfig, format_updates_config, parse_updates_config
from mtc.updates.pulling import Pulled, Puller
from mtc.updates.serve import UpdateService
from mtc.web.client import ClientLimits, HTTPClient
from mtc.web.server import serve
from mtc.wire import find_pem_block


def pulling(ca: TownCA, check: Callable[[Puller], Awaitable[None]]) -> None:
    """Serve a CA and give its puller to a check."""

    async def run() -> None:
        street = Street([ca.site, ca.mirror])
        async with serve(street, ("127.0.0.1", 0)) as listening, HTTPClient(ClientLimits(attempts=1)) as http:
            ca.site.url, ca.mirror.url = f"{listening.url}/0", f"{listening.url}/1"
            await check(Puller(ca.source(), http, FakeClock(NOW)))

    asyncio.run(run())


def landmarks(pulled: Pulled) -> list[list[int]]:
    """Return the landmark numbers of each log."""
    return [[mark.number for mark in log.landmarks[1:]] for log in pulled.logs]


async def pull_all(service: UpdateService) -> None:
    """Look once at every CA."""
    for source in service.config.cas:
        puller = Puller(source, service.http, service.clock, service.publisher.published)
        service.pulled[source.certificate.ca_id] = await puller.pull()


@pytest.mark.parametrize("revision", REVISIONS.values(), ids=str)
def test_landmarks_are_pulled_with_their_proof(revision: DraftRevision) -> None:
    """A mirror's checkpoint and the CA's make the tree that counts; what is new is fetched, and no more."""
    ca = town_ca(revision=revision)

    async def check(puller: Puller) -> None:
        pulled = await puller.pull()
        assert (landmarks(pulled), pulled.troubles) == ([[1, 2]], ())
        before = len(ca.site.requests)
        await puller.pull()
        assert sorted(ca.site.requests[before:]) == ["1/checkpoint", "1/landmarks", "2/landmarks", "revocations.crl"]
        ca.mark(5)
        assert landmarks(await puller.pull()) == [[1, 2, 3]]

    pulling(ca, check)


def test_a_landmark_waits_for_its_mirror() -> None:
    """Landmarks beyond what the mirror has cosigned are not published yet."""
    ca = town_ca()
    size = ca.log.size

    async def check(puller: Puller) -> None:
        ca.log.mark(7)
        ca.publish(mirror_size=size)
        pulled = await puller.pull()
        assert landmarks(pulled) == [[1, 2]]
        assert "waits for cosignatures" in pulled.troubles[0]
        (log,) = pulled.logs
        assert [tree.tree_size for tree in log.trees] == [size]
        ca.publish()
        assert landmarks(await puller.pull()) == [[1, 2, 3]]

    pulling(ca, check)


def test_two_roots_of_one_size_are_found() -> None:
    """A mirror and a CA that show different trees of one size are a contradiction; what was proven stays."""
    ca = town_ca()

    async def check(puller: Puller) -> None:
        await puller.pull()
        ca.mark(5)
        other = ca.checkpoint(root=bytes(32))
        ca.site.files["1/checkpoint"] = Note(other.encode(), (cosign(ca.log, ca.log.ca_id, other),)).encode()
        pulled = await puller.pull()
        assert landmarks(pulled) == [[1, 2]]
        assert "two root hashes" in pulled.troubles[0]

    pulling(ca, check)


@pytest.mark.parametrize(
    "damage",
    [
        lambda files: files.update({"1/landmarks": b"5\n"}),
        lambda files: files.update({"1/checkpoint": b"no note"}),
        lambda files: [files.update({key: bytes(len(files[key]))}) for key in files if "/tile/" in key],
        lambda files: [files.pop(key) for key in list(files) if "/tile/" in key],
    ],
    ids=["landmarks", "checkpoint", "tiles lie", "tiles are gone"],
)
def test_what_a_ca_breaks_is_its_trouble(damage: Callable[[dict[str, bytes]], object]) -> None:
    """Whatever a CA serves, the look ends with a trouble, and nothing of it is believed."""
    ca = town_ca()
    damage(ca.site.files)

    async def check(puller: Puller) -> None:
        pulled = await puller.pull()
        assert (pulled.logs, len(pulled.troubles)) == ((), 1)

    pulling(ca, check)


def test_the_revocation_list_only_grows() -> None:
    """The CA's own list is verified and remembered; a later one that revokes less is refused."""
    ca = town_ca()
    first = 1 << 48

    async def check(puller: Puller) -> None:
        ca.revoke(1, (first + 3, first + 5))
        assert list((await puller.pull()).revoked) == [(first + 3, first + 5)]
        ca.revoke(2, (first + 4, first + 5))
        pulled = await puller.pull()
        assert list(pulled.revoked) == [(first + 3, first + 5)]
        assert "revokes less" in pulled.troubles[0]

    pulling(ca, check)


def latest(service: UpdateService) -> list[Landmark]:
    """Return the latest landmark of each log in the latest version."""
    history = service.publisher.history
    return list(history[-1].latest.values()) if history else []


async def until(service: UpdateService, check: Callable[[], bool]) -> None:
    """Wait until something is so, looking after each look at a CA."""
    async with asyncio.timeout(60):
        while not check():
            service._came.clear()
            await service._came.wait()


def test_one_ca_that_hangs_delays_nobody(tmp_path: Path) -> None:
    """While one CA never answers and another one lies, a third one's landmarks are published, again and again."""
    good, slow, liar = town_ca(), town_ca("32473.2"), town_ca("32473.3")

    async def run() -> None:
        forever = asyncio.Event()

        async def wait() -> None:
            await forever.wait()

        slow.site.rule = wait
        liar.site.files["1/checkpoint"] = b"no note"
        async with serviced(tmp_path, slow, liar, good) as service:
            service.config = replace(
                service.config, interval=timedelta(milliseconds=20), deadline=timedelta(milliseconds=300)
            )
            running = asyncio.create_task(service.run())

            await until(service, lambda: any(mark.number == 2 for mark in latest(service)))
            good.mark(3)
            await until(service, lambda: any(mark.number == 3 for mark in latest(service)))
            await until(
                service, lambda: [str(ca) for ca, found in service.pulled.items() if not found.troubles] == ["32473.1"]
            )
            assert {str(ca) for ca in service.pulled} == {"32473.1", "32473.2", "32473.3"}
            assert service.describe()["status"] == "degraded"
            forever.set()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running

    asyncio.run(run())


async def endless() -> AsyncIterator[bytes]:
    """Yield for ever, and let others work in between."""
    while True:
        yield bytes(65_536)
        await asyncio.sleep(0.01)


BOMB = gzip.compress(bytes(32 << 20), 1)
HOSTILE: dict[str, Callable[[], Response]] = {
    "endless": lambda: StreamingResponse(endless()),
    "bomb": lambda: Response(BOMB, headers={"Content-Encoding": "gzip"}),
    "elsewhere": lambda: RedirectResponse("http://127.0.0.2:9/"),
    "landmarks without end": lambda: Response(b"9 9 9\n" * 100_000),
}


def test_hostile_cas_are_troubles_of_their_own(tmp_path: Path) -> None:
    """Bodies that are huge, endless, packed, or lead elsewhere end in their CA's trouble; the honest is published."""
    good = town_ca()
    # Their certificates and logs are like anybody's; what they answer is not.
    crowd = {
        name: TownCA(replace(good.log, ca_id=TrustAnchorID.parse(f"32473.{number}")))
        for number, name in enumerate(HOSTILE, 100)
    }
    for name, ca in crowd.items():
        ca.site.answer = HOSTILE[name]

    async def run() -> None:
        async with serviced(tmp_path, *crowd.values(), good) as service:
            fast, slow = timedelta(milliseconds=50), timedelta(milliseconds=500)
            service.config = replace(service.config, interval=fast, pull_interval=slow, deadline=slow)
            running = asyncio.create_task(service.run())

            def is_told() -> bool:
                found = {str(ca): item.troubles for ca, item in service.pulled.items()}
                return found.pop("32473.1", ("?",)) == () and len(found) == len(crowd) and all(found.values())

            await until(service, lambda: is_told() and [mark.number for mark in latest(service)] == [2])
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            health = service.describe()
            assert (health["status"], health["evidence"]) == ("degraded", 0)

    asyncio.run(run())


def test_a_ca_that_is_gone_stays_published_after_a_restart(tmp_path: Path) -> None:
    """A service that starts while a CA is away goes on with what it had proven, and waits for nobody."""
    ca = town_ca()

    async def run() -> None:
        async with serviced(tmp_path, ca) as service:
            await pull_all(service)
            assert await service.publish()
        forever = asyncio.Event()

        async def wait() -> None:
            await forever.wait()

        ca.site.rule = wait
        async with serviced(tmp_path, ca) as service:
            service.config = replace(service.config, policy_renewal=timedelta(0), interval=timedelta(hours=1))
            running = asyncio.create_task(service.run())
            async with asyncio.timeout(20):
                await service.news.wait()
            assert [mark.number for mark in latest(service)] == [2]
            forever.set()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(run())


def test_the_bound_drops_the_newest_and_says_so() -> None:
    """Of more active landmarks than allowed the newest wait, as a trouble; lowered, the bound takes nothing back."""
    ca = town_ca()
    ca.mark(5)

    async def check(puller: Puller) -> None:
        bounded = Puller(replace(puller._source, max_active=2), puller._http, puller._clock)
        pulled = await bounded.pull()
        assert landmarks(pulled) == [[1, 2]]
        assert "3 landmarks are active where 2 are allowed" in pulled.troubles[0]
        whole = await puller.pull()
        assert landmarks(whole) == [[1, 2, 3]]
        lowered = Puller(replace(puller._source, max_active=1), puller._http, puller._clock, whole.logs)
        assert landmarks(await lowered.pull()) == [[1, 2, 3]]

    pulling(ca, check)


def client(folder: Path, service: Path, url: str, *, is_trusting: bool = False) -> None:
    """Make the folder of a relying party of a service."""
    keys = [
        parse_pinned_key(find_pem_block((service / f"{name}.pub.pem").read_bytes(), "PUBLIC KEY"))
        for name in ("policy", "service")
    ]
    trust = UpdateTrust((keys[0],), (keys[1],) if is_trusting else ())
    create_updater(folder, UpdaterConfig(url, trust))


@pytest.mark.parametrize("is_trusting", [False, True], ids=["proofs", "trust"])
def test_a_client_follows_by_deltas(tmp_path: Path, *, is_trusting: bool) -> None:
    """The first update is whole, later ones are deltas; revocations come with them, and a restart goes on."""
    ca = town_ca()
    clock = FakeClock(NOW)
    first = 1 << 48

    async def run() -> None:
        async with online(tmp_path / "service", ca, clock=clock) as (service, url, http):
            client(tmp_path / "client", tmp_path / "service", url, is_trusting=is_trusting)
            await pull_all(service)
            assert await service.publish()
            assert not await service.publish()
            async with Updater.open(tmp_path / "client") as updater:
                whole = await updater.update(http, clock.now())
                assert (whole.is_new, whole.is_delta, whole.findings) == (True, False, ())
                assert not (await updater.update(http, clock.now())).is_new
                clock.advance(10)
                ca.mark(9)
                ca.revoke(1, (first + 3, first + 5))
                await pull_all(service)
                assert await service.publish()
                delta = await updater.update(http, clock.now())
                assert (delta.is_new, delta.is_delta, delta.findings) == (True, True, ())
                (found,) = updater.snapshot(clock.now()).cas
                assert (first + 3, first + 5) in list(found.revoked)
                assert {item.landmark for item in found.trusted_subtrees} == {1, 2, 3}
        # Another process takes over the folder; the CA's list is gone, and what was revoked stays so.
        del ca.site.files["revocations.crl"]
        async with serviced(tmp_path / "service", ca, clock=clock) as service:
            clock.advance(10)
            assert service.publisher.published[0].landmarks[-1].number == 3
            service.config = replace(service.config, policy_renewal=timedelta(seconds=5))
            await pull_all(service)
            assert await service.publish()
            assert service.publisher.policy is not None
            assert service.publisher.policy.version == 3
            assert (first + 3, first + 5) in list(service.publisher.policy.store.cas[0].revoked)

    asyncio.run(run())
    store = load_trust_store(tmp_path / "client", clock.now())
    assert {item.landmark for item in store.cas[0].trusted_subtrees} == {1, 2, 3}


def test_what_is_published_is_for_caches_and_people(tmp_path: Path) -> None:
    """`latest` ages, versions never change, and a trust store document and the policy are there as plain files."""
    ca = town_ca()

    async def run() -> None:
        async with online(tmp_path, ca) as (service, url, http):
            assert (await http.fetch(f"{url}/latest")).status == 404
            await pull_all(service)
            await service.publish()
            latest = await http.fetch(f"{url}/latest")
            version = json.loads(latest.body)["version"]
            assert (version, latest.headers["cache-control"]) == (SECONDS, "public, max-age=10")
            for kind in ("proven", "signed"):
                update = await http.fetch(f"{url}/{kind}/{version}")
                assert "immutable" in update.headers["cache-control"]
                etag = {"If-None-Match": update.headers["etag"]}
                assert (await http.fetch(f"{url}/{kind}/{version}", headers=etag)).status == 304
            state = plan_update(
                UpdateState(),
                (await http.fetch(f"{url}/proven/{version}")).body,
                service.publisher.trust,
                NOW,
            ).state
            document = json.loads((await http.fetch(f"{url}/trust.json")).body)
            assert len(document["cas"][0]["trusted_subtrees"]) == len(
                trust_store_of(state, NOW).cas[0].trusted_subtrees
            )
            assert json.loads((await http.fetch(f"{url}/policy.json")).body)["version"] == 1
            assert json.loads((await http.fetch(f"{url}/health")).body)["status"] == "ok"
            assert b"mtc_updates_version" in (await http.fetch(f"{url}/metrics")).body
            for path in ("private/policy", "proven/../private", "other/1", "proven/x"):
                assert (await http.fetch(f"{url}/{path}")).status == 404

    asyncio.run(run())


def test_whoever_asks_for_too_old_a_base_gets_everything(tmp_path: Path) -> None:
    """Deltas go back as far as configured; older readers fetch the whole version, and only two versions are kept."""
    ca = town_ca()
    clock = FakeClock(NOW)

    async def run() -> None:
        async with serviced(tmp_path / "service", ca, clock=clock) as service:
            service.config = replace(service.config, deltas=1)
            async with serve(service.app(), ("127.0.0.1", 0)) as listening, http_client() as http:
                client(tmp_path / "client", tmp_path / "service", listening.url)
                async with Updater.open(tmp_path / "client") as updater:
                    for number in range(4):
                        clock.advance(10)
                        ca.mark(3)
                        await pull_all(service)
                        assert await service.publish()
                        if number in {0, 3}:
                            updated = await updater.update(http, clock.now())
                            assert (updated.is_new, updated.is_delta) == (True, False)
        names = sorted(path.name for path in (tmp_path / "service" / "public" / "proven").iterdir())
        assert len(names) == 4

    asyncio.run(run())


def test_a_crash_before_the_announcement_is_made_good(tmp_path: Path) -> None:
    """A version that was published when the power went is announced by the next run, before anything new comes."""
    ca = town_ca()

    async def run() -> None:
        async with serviced(tmp_path, ca) as service:
            await pull_all(service)
            await service.publish()
            (announced,) = await service.publisher.store.fetch(["public/latest"])
            await service.publisher.store.discard(["public/latest"])
        async with serviced(tmp_path, ca) as service:
            await pull_all(service)
            assert not await service.publish()
            assert await service.publisher.store.fetch(["public/latest"]) == [announced]

    asyncio.run(run())


def test_a_delta_that_is_gone_is_replaced_by_everything(tmp_path: Path) -> None:
    """Where the service names a delta and does not have it, the whole version is fetched."""
    ca, clock = town_ca(), FakeClock(NOW)

    async def run() -> None:
        async with online(tmp_path / "service", ca, clock=clock) as (service, url, http):
            client(tmp_path / "client", tmp_path / "service", url)
            async with Updater.open(tmp_path / "client") as updater:
                await pull_all(service)
                await service.publish()
                await updater.update(http, clock.now())
                clock.advance(10)
                ca.mark(3)
                await pull_all(service)
                await service.publish()
                await service.publisher.store.discard([f"public/proven/{SECONDS}-{SECONDS + 10}"])
                updated = await updater.update(http, clock.now())
                assert (updated.is_new, updated.is_delta, updated.findings) == (True, False, ())

    asyncio.run(run())


def test_a_ca_that_vanishes_from_the_configuration_is_not_forgotten(tmp_path: Path) -> None:
    """Taking a CA out without naming it as removed publishes nothing; removed, it leaves every client."""
    ca, other = town_ca(), town_ca("32473.2")
    clock = FakeClock(NOW)

    async def run() -> None:
        async with serviced(tmp_path, ca, other, clock=clock) as service:
            await pull_all(service)
            assert await service.publish()
            both = service.config
            service.config = replace(both, cas=both.cas[:1])
            clock.advance(10)
            assert not await service.publish()
            assert "without being removed" in service.troubles["publishing"]
            service.config = replace(both, cas=both.cas[:1], removed=(other.log.ca_id,))
            assert await service.publish()
            assert service.troubles == {}

    asyncio.run(run())


def test_the_last_good_state_stays(tmp_path: Path) -> None:
    """A service that is gone, lies or shows old versions changes nothing; a rollback is kept until something newer."""
    ca = town_ca()
    clock = FakeClock(NOW)

    async def run() -> None:
        async with serviced(tmp_path / "service", ca, clock=clock) as service:
            async with serve(service.app(), ("127.0.0.1", 0)) as listening, http_client() as http:
                client(tmp_path / "client", tmp_path / "service", listening.url)
                async with Updater.open(tmp_path / "client") as updater:
                    for _ in range(2):
                        clock.advance(10)
                        ca.mark(3)
                        await pull_all(service)
                        await service.publish()
                        await updater.update(http, clock.now())
                    newest = updater.state.version
                    assert (await updater.versions()) == [newest - 10]
                    back = await updater.rollback()
                    assert (back.version, back.skipped) == (newest - 10, newest)
                    assert not (await updater.update(http, clock.now())).is_new
                    with pytest.raises(UsageError):
                        await updater.rollback(5)
            lying = Site({"latest": b'{"version":99999999999,"bases":[]}', "proven/99999999999": b"nothing"})
            async with serve(lying, ("127.0.0.1", 0)) as listening, http_client() as http:
                text = (tmp_path / "client" / "trust.toml").read_text()
                at = text.index("http://")
                changed = text[:at] + listening.url + text[text.index('"', at) :]
                (tmp_path / "client" / "trust.toml").write_text(changed)
                async with Updater.open(tmp_path / "client") as updater:
                    before = updater.state.encode()
                    for latest in (lying.files["latest"], b"[]", b'{"version":"1","bases":[]}', b"\xff"):
                        lying.files["latest"] = latest
                        with pytest.raises(FormatError):
                            await updater.update(http, clock.now())
                    del lying.files["latest"]
                    with pytest.raises(PeerError):
                        await updater.update(http, clock.now())
                    assert updater.state.encode() == before
        assert read_update_state(tmp_path / "client")[1].encode() == before

    asyncio.run(run())


def test_nothing_is_trusted_when_the_policy_has_ended(tmp_path: Path) -> None:
    """The snapshot of a folder is refused after the policy's end, however good its landmarks are."""
    ca = town_ca()
    clock = FakeClock(NOW)

    async def run() -> None:
        async with serviced(tmp_path / "service", ca, clock=clock) as service:
            service.config = replace(service.config, policy_lifetime=timedelta(days=1))
            await pull_all(service)
            await service.publish()
            async with serve(service.app(), ("127.0.0.1", 0)) as listening, http_client() as http:
                client(tmp_path / "client", tmp_path / "service", listening.url)
                async with Updater.open(tmp_path / "client") as updater:
                    await updater.update(http, NOW)

    asyncio.run(run())
    load_trust_store(tmp_path / "client", NOW + timedelta(days=1))
    with pytest.raises(Rejected) as caught:
        load_trust_store(tmp_path / "client", NOW + timedelta(days=1, seconds=1))
    assert caught.value.reason is Reason.EXPIRED


def test_configurations_are_read_strictly() -> None:
    """What is written for a new service is read back; misspelt keys, wrong types and wrong CAs are named."""
    text = format_updates_config(UpdatesConfig())
    assert parse_updates_config(text.encode()) == UpdatesConfig()
    bad = ["lissten = 1", "deltas = true", 'interval = "0s"', 'interval = "soon"', "ca = 1", 'removed = ["x"]', "= ="]
    bad += ['[[ca]]\ncertificate = "x"\nprefix_url = "http://a"', "floor = -1"]
    for line in bad:
        with pytest.raises(UsageError):
            parse_updates_config(line.encode())
    for line in ("url = 1", 'url = "http://a"', 'url = "http://a"\npolicy_keys = ["AA=="]', "other = 1", "= ="):
        with pytest.raises(UsageError):
            parse_updater_config(line.encode())
