"""`mtc request` as a library against a server that does what the test says: renewal, landmarks, failures, crashes."""

import asyncio
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.acme_keeping import NAME, Bench, MemoryOfNames, check_set, wish, with_server
from tests.acme_script import LIFETIME, Refusal, scripted
from tests.makers import NOW, SmallCA

from mtc.acme.client.lineage import Kind
from mtc.acme.client.service import RequestPlan, RequestReport, folder_name
from mtc.acme.machine.identifiers import Identifier
from mtc.cert import parse_certificate_chains
from mtc.errors import ConflictError, Reason, Rejected, StorageError
from mtc.ids import REVISIONS
from mtc.testing.clock import FakeClock


def test_first_run_makes_a_set(tmp_path: Path) -> None:
    """Key, standalone certificate with properties and plain chain lie in `current`; the answer is withdrawn."""

    async def test(bench: Bench) -> None:
        disk = MemoryOfNames()
        bench.disk = disk
        report = await bench.run()
        assert report.is_ok
        assert not any(folder.exists() for folder in disk.unsynced)
        leaf = check_set(bench.current)
        (chain,) = parse_certificate_chains((bench.current / "standalone.pem").read_bytes())
        assert chain.properties is not None
        assert str(chain.properties.trust_anchor_id) == "32473.1"
        assert leaf.identifiers == {NAME}
        assert bench.solver.seen == 1
        assert bench.solver.open == []
        assert not (bench.folder / "previous").exists()
        assert not (bench.folder / "order").exists()
        assert (await bench.run()).certificates[0].outcome == "kept"
        assert bench.server.issued() == 1

    with_server(tmp_path, test)


def test_renewal_keeps_old_and_new_together(tmp_path: Path) -> None:
    """At three quarters of the lifetime there is a new key and certificate; the old one stays until it expires."""

    async def test(bench: Bench) -> None:
        await bench.run()
        first = check_set(bench.current)
        due = NOW + LIFETIME * 0.75
        bench.clock.advance((due - bench.clock.now()).total_seconds() - 1)
        assert (await bench.run()).next_step == due
        assert bench.server.issued() == 1
        bench.clock.advance(1)
        assert (await bench.run()).certificates[0].outcome == "new"
        second = check_set(bench.current)
        assert check_set(bench.folder / "previous").serial == first.serial
        assert second.spki != first.spki
        bench.clock.advance(LIFETIME.total_seconds() * 0.26)
        await bench.run()
        assert not (bench.folder / "previous").is_symlink()
        assert [path.name for path in (bench.folder / "versions").iterdir()] == [bench.current.readlink().name]

    with_server(tmp_path, test)


def test_key_is_kept_when_asked(tmp_path: Path) -> None:
    """With `reuses_key` a renewal has the key of the certificate before."""

    async def test(bench: Bench) -> None:
        bench.plan = replace(bench.plan, mtc=replace(bench.plan.mtc, reuses_key=True))
        await bench.run()
        first = check_set(bench.current)
        await bench.run(is_forced=True)
        second = check_set(bench.current)
        assert (second.spki, second.serial != first.serial) == (first.spki, True)

    with_server(tmp_path, test)


def test_other_names_are_ordered_at_once(tmp_path: Path) -> None:
    """A certificate whose names are not the wanted ones any more is replaced, whatever its age."""

    async def test(bench: Bench) -> None:
        await bench.run()
        more = (NAME, Identifier.dns("more.example.com"), Identifier.ip("192.0.2.7"))
        bench.plan = replace(bench.plan, mtc=replace(bench.plan.mtc, identifiers=more))
        await bench.run()
        assert check_set(bench.current).identifiers == frozenset(more)

    with_server(tmp_path, test)


def test_landmark_comes_later_and_blocks_nothing(tmp_path: Path) -> None:
    """The standalone certificate is there before the landmark-relative one, which is asked for when the server says."""

    async def test(bench: Bench) -> None:
        report = await bench.run()
        assert report.is_ok
        assert report.certificates[0].landmark == "pending"
        assert report.next_step == NOW + timedelta(seconds=60)
        bench.server.landmark_wait = None
        await bench.run()
        assert bench.server.calls["landmark"] == 1, "it is not asked before its time"
        bench.clock.advance(60)
        report = await bench.run()
        assert report.certificates[0].landmark == "stored"
        (chain,) = parse_certificate_chains((bench.current / "landmark.pem").read_bytes())
        assert chain.properties is not None
        assert str(chain.properties.trust_anchor_id) == "32473.1.1.1.1"
        bench.clock.advance(600)
        await bench.run()
        assert bench.server.calls["landmark"] == 2, "it is not asked for what is here"

    with_server(tmp_path, test)


def test_run_may_stay_for_the_landmark(tmp_path: Path) -> None:
    """A run that may wait asks again when the server says, and no longer than it may."""

    async def test(bench: Bench) -> None:
        report = await bench.run(landmark_wait_s=50)
        assert (report.certificates[0].landmark, bench.server.calls["landmark"]) == ("pending", 1)
        pause = bench.pause

        async def ready(seconds: float) -> None:
            bench.server.landmark_wait = None
            await pause(seconds)

        bench.pause = ready  # type: ignore[method-assign]  # time passes, and the landmark comes
        report = await bench.run(landmark_wait_s=90)
        assert report.certificates[0].landmark == "stored"
        assert bench.clock.now() == NOW + timedelta(seconds=60)

    with_server(tmp_path, test)


@pytest.mark.parametrize("draft", list(REVISIONS))
def test_both_forms_come_under_every_draft(tmp_path: Path, draft: str) -> None:
    """The link of -04 with 503, and that of later drafts with 202, both lead to the landmark-relative certificate."""

    async def test(bench: Bench) -> None:
        report = await bench.run()
        assert report.is_ok
        assert report.certificates[0].landmark == "pending"
        assert report.next_step == NOW + timedelta(seconds=60)
        bench.server.landmark_wait = None
        bench.clock.advance(60)
        assert (await bench.run()).certificates[0].landmark == "stored"

    with_server(tmp_path, test, revision=REVISIONS[draft])


@pytest.mark.parametrize(("what", "text"), [("entry", "serial number"), ("properties", "properties")])
def test_landmark_that_does_not_fit_is_not_kept(tmp_path: Path, what: str, text: str) -> None:
    """The form of another entry, or one without its landmark's name, is refused and asked for again; nothing fails."""

    async def test(bench: Bench) -> None:
        await bench.run()
        await bench.run(is_forced=True)
        bench.server.landmark_wait, bench.server.bad_landmark = None, what
        bench.clock.advance(60)
        report = await bench.run()
        assert report.is_ok
        assert not (bench.current / "landmark.pem").exists()
        version = report.certificates[0].version
        assert version is not None
        assert text in version.state.landmark.note
        assert report.next_step == bench.clock.now() + timedelta(seconds=60)
        bench.server.bad_landmark = ""
        bench.clock.advance(60)
        await bench.run()
        assert (bench.current / "landmark.pem").exists()

    with_server(tmp_path, test)


@pytest.mark.parametrize("is_right", [True, False])
def test_landmark_is_verified_as_far_as_trust_goes(tmp_path: Path, is_right: bool) -> None:  # noqa: FBT001 - a parameter
    """A trust store that knows the landmark's subtree decides; one that does not know it says nothing against it."""

    async def test(bench: Bench) -> None:
        bench.plan = replace(bench.plan, mtc=replace(bench.plan.mtc, trust=SmallCA().store()))
        await bench.run()
        await bench.run(is_forced=True)
        subtree = bench.server.ca.trusted_subtree(0, 2)
        known = subtree if is_right else replace(subtree, subtree_hash=bytes(32))
        bench.plan = replace(bench.plan, mtc=replace(bench.plan.mtc, trust=SmallCA().store(subtrees=[known])))
        bench.server.landmark_wait = None
        bench.clock.advance(60)
        report = await bench.run()
        assert report.is_ok
        assert (bench.current / "landmark.pem").exists() is is_right

    with_server(tmp_path, test)


def test_plain_servers_are_served_too(tmp_path: Path) -> None:
    """Without properties the same files hold the plain chain, and no other form is waited for."""

    async def test(bench: Bench) -> None:
        report = await bench.run()
        check_set(bench.current)
        assert (bench.current / "standalone.pem").read_bytes() == (bench.current / "chain.pem").read_bytes()
        assert report.certificates[0].landmark == ""

    with_server(tmp_path, test, is_plain=True, has_landmarks=False)


def test_trust_store_decides_before_deployment(tmp_path: Path) -> None:
    """A certificate that the trust store refuses is not loaded; with a better store the same order goes on."""

    async def test(bench: Bench) -> None:
        other = SmallCA(ca_id="32473.2").store()
        bench.plan = replace(bench.plan, mtc=replace(bench.plan.mtc, trust=other))
        report = await bench.run()
        assert report.certificates[0].outcome == "failed"
        assert report.certificates[0].error is not None
        assert report.certificates[0].error.reason is Reason.UNKNOWN_CA
        assert not bench.current.exists()
        bench.plan = replace(bench.plan, mtc=replace(bench.plan.mtc, trust=SmallCA().store()))
        report = await bench.run()
        assert report.is_ok
        version = report.certificates[0].version
        assert version is not None
        assert version.state.verified == "trust-store"
        assert bench.server.issued() == 1

    with_server(tmp_path, test)


def test_certificate_for_other_names_is_refused(tmp_path: Path) -> None:
    """What was not ordered is not loaded, and the next run orders anew."""

    async def test(bench: Bench) -> None:
        bench.server.bad_certificate = "names"
        report = await bench.run()
        assert "other.example.com" in report.certificates[0].note
        assert not bench.current.exists()
        bench.server.bad_certificate = ""
        assert (await bench.run()).is_ok
        check_set(bench.current)

    with_server(tmp_path, test)


def test_server_says_when_to_renew(tmp_path: Path) -> None:
    """The middle of the window counts (as chance has it here), and `replaces` names the certificate before."""
    window = (NOW + timedelta(days=1), NOW + timedelta(days=2))

    async def test(bench: Bench) -> None:
        report = await bench.run()
        version = report.certificates[0].version
        assert version is not None
        assert version.renewal_moment == NOW + timedelta(days=1.5)
        assert report.next_step == NOW + timedelta(seconds=60)
        assert any("https://ca.example/why" in line for line in bench.observer.lines)
        bench.clock.advance(1800)
        await bench.run()
        assert bench.server.calls["renewal-info"] == 1, "Retry-After was an hour"
        # The server wants everybody to come now.
        bench.server.window = (NOW - timedelta(days=2), NOW - timedelta(days=1))
        bench.clock.advance(1800)
        report = await bench.run()
        assert report.certificates[0].outcome == "new"
        assert bench.server.orders[-1].replaces == version.state.certificate_id
        assert bench.server.orders[0].replaces is None

    with_server(tmp_path, test, window=window)


def test_replaced_already_is_no_reason_to_have_none(tmp_path: Path) -> None:
    """Where the server refuses `replaces`, the order is made without it."""

    async def test(bench: Bench) -> None:
        await bench.run()
        bench.server.refusals["new-order"] = [Refusal(409, "alreadyReplaced")]
        assert (await bench.run(is_forced=True)).is_ok
        assert bench.server.orders[-1].replaces is None

    with_server(tmp_path, test, window=(NOW + timedelta(days=1), NOW + timedelta(days=2)))


def test_silent_renewal_info_hinders_nothing(tmp_path: Path) -> None:
    """A server that does not say when to renew is asked again in six hours; nothing fails."""

    async def test(bench: Bench) -> None:
        bench.server.refusals["renewal-info"] = [Refusal(404, "malformed")]
        report = await bench.run()
        assert report.is_ok
        version = report.certificates[0].version
        assert version is not None
        assert version.state.renewal.next_check == NOW + timedelta(hours=6)

    with_server(tmp_path, test, window=(NOW + timedelta(days=1), NOW + timedelta(days=2)))


def test_failure_is_tried_again_in_its_time(tmp_path: Path) -> None:
    """After a refusal a patient run waits, as long as the server says; an impatient one tries at once."""

    async def test(bench: Bench) -> None:
        bench.server.refusals["new-order"] = [Refusal(429, "rateLimited", retry_after="7200")] * 2
        report = await bench.run()
        assert report.certificates[0].outcome == "failed"
        assert "rateLimited" in report.certificates[0].note
        assert report.next_step == NOW + timedelta(seconds=7200)
        report = await bench.run(is_patient=True)
        assert report.certificates[0].outcome == "waiting"
        assert bench.server.calls["new-order"] == 1
        assert (await bench.run()).certificates[0].outcome == "failed"
        bench.clock.advance(7200)
        assert (await bench.run(is_patient=True)).is_ok

    with_server(tmp_path, test)


@pytest.mark.parametrize("resource", ["new-account", "new-order", "order", "challenge", "finalize", "cert"])
def test_lost_answers_are_no_second_certificate(tmp_path: Path, resource: str) -> None:
    """Where the connection breaks after the server has acted, the order goes on, and there is one certificate."""

    async def test(bench: Bench) -> None:
        bench.server.refusals[resource] = [Refusal(0)]
        assert (await bench.run()).is_ok
        check_set(bench.current)
        assert bench.server.issued() == 1

    with_server(tmp_path, test)


def test_forgotten_account_is_made_again(tmp_path: Path) -> None:
    """A server that lost its state gets the same account key again, and a new order."""

    async def test(bench: Bench) -> None:
        await bench.run()
        bench.server.accounts.clear()
        bench.server.orders.clear()
        assert (await bench.run(is_forced=True)).is_ok
        assert bench.server.calls["new-account"] == 2
        assert len(list((bench.root / "accounts").iterdir())) == 1

    with_server(tmp_path, test)


def test_terms_are_agreed_to_by_somebody(tmp_path: Path) -> None:
    """Where there are terms, nothing is registered until the user has agreed; the error names them."""

    async def test(bench: Bench) -> None:
        report = await bench.run()
        assert "https://ca.example/terms" in report.certificates[0].note
        assert bench.server.calls["new-account"] == 0
        choice = replace(bench.plan.mtc.server, agrees_to_terms=True)
        bench.plan = replace(bench.plan, mtc=replace(bench.plan.mtc, server=choice))
        assert (await bench.run()).is_ok

    with_server(tmp_path, test, terms="https://ca.example/terms")


def test_revoked_is_replaced_and_dropped(tmp_path: Path) -> None:
    """After a revocation the next run brings a certificate with another key, and the old one is gone with its key."""

    async def test(bench: Bench) -> None:
        bench.plan = replace(bench.plan, mtc=replace(bench.plan.mtc, reuses_key=True))
        async with bench.opened() as requester:
            with pytest.raises(Rejected):
                await requester.revoke(1)
        await bench.run()
        first = check_set(bench.current)
        async with bench.opened() as requester:
            await requester.revoke(1)
        assert bench.server.revoked == [first.serial]
        assert (await bench.run()).certificates[0].outcome == "new"
        assert check_set(bench.current).spki != first.spki
        assert len(list((bench.folder / "versions").iterdir())) == 1

    with_server(tmp_path, test)


def test_fallback_and_certificate_do_not_hinder_each_other(tmp_path: Path) -> None:
    """Either of the two is obtained while the other's server fails, and both lie together in the end."""

    async def run() -> None:
        async with scripted(FakeClock(NOW)) as server, scripted(FakeClock(NOW), is_plain=True) as other:
            plan = RequestPlan(
                root=tmp_path,
                name="www.example.com",
                mtc=replace(wish(server), has_classical=True),
                classical=wish(other, Kind.CLASSICAL),
            )
            bench = Bench(server, tmp_path, plan)
            other.refusals["new-order"] = [Refusal(403, "rejectedIdentifier")]
            report = await bench.run()
            assert [item.outcome for item in report.certificates] == ["new", "failed"]
            check_set(bench.current)
            assert not (bench.current / "classical" / "fullchain.pem").exists()
            server.refusals["new-order"] = [Refusal(403, "rejectedIdentifier")]
            report = await bench.run(is_forced=True)
            assert [item.outcome for item in report.certificates] == ["failed", "new"]
            fallback = bench.current / "classical"
            assert (fallback / "key.pem").read_bytes() != (bench.current / "key.pem").read_bytes()
            assert b"CERTIFICATE" in (fallback / "fullchain.pem").read_bytes()
            assert len(list((tmp_path / "accounts").iterdir())) == 2

    asyncio.run(run())


def test_full_disk_of_one_is_not_the_others(tmp_path: Path) -> None:
    """What the disk refuses to the fallback is told when the certificate is whole, and not while it is made."""

    class NoRoomForFallback(MemoryOfNames):
        def make_folder(self, path: Path, mode: int) -> None:
            if path.parent.name == "classical" and "order" in path.name:
                raise OSError(28, "No space left on device", str(path))
            super().make_folder(path, mode)

    async def run() -> None:
        async with scripted(FakeClock(NOW)) as server:
            mtc = replace(wish(server), has_classical=True)
            plan = RequestPlan(root=tmp_path, name="www.example.com", mtc=mtc, classical=wish(server, Kind.CLASSICAL))
            bench = Bench(server, tmp_path, plan, disk=NoRoomForFallback())
            with pytest.raises(StorageError, match=r"classical/\.order\.new: no space left"):
                await bench.run()
            check_set(bench.current)

    asyncio.run(run())


def hook_of(folder: Path) -> tuple[str, Path]:
    """Return a hook that writes down what it is told, and fails while a file says so; and where it writes."""
    folder.mkdir(parents=True)
    script, log = folder / "hook.sh", folder / "told"
    script.write_text(
        'files=$(ls "$MTC_REQUEST_DIR" | tr "\\n" " ")\n'
        f'echo "$MTC_REQUEST_CHANGED|$MTC_REQUEST_NAMES|$MTC_REQUEST_DIR|$files" >> {log}\n'
        f"if [ -e {folder}/broken ]; then echo it is broken >&2; exit 3; fi\n"
    )
    return f"sh {script}", log


def test_hook_runs_once_per_change(tmp_path: Path) -> None:
    """The hook is told of the standalone certificate, later of the landmark-relative one, and of nothing twice."""
    command, log = hook_of(tmp_path / "hook")

    async def test(bench: Bench) -> None:
        bench.plan = replace(bench.plan, deploy_hook=command)
        assert [done.changed for done in (await bench.run()).deployments] == [("standalone",)]
        assert (await bench.run()).deployments == ()
        bench.server.landmark_wait = None
        bench.clock.advance(60)
        assert [done.changed for done in (await bench.run()).deployments] == [("landmark",)]
        assert (await bench.run()).deployments == ()
        first, second = log.read_text().splitlines()
        assert first.startswith(f"standalone|www.example.com|{bench.current}|chain.pem key.pem standalone.pem")
        assert second.startswith("landmark|")
        assert "landmark.pem" in second

    with_server(tmp_path / "out", test)


def test_failed_hook_runs_again(tmp_path: Path) -> None:
    """A hook that fails is reported with its code and its words, and told again by the next run."""
    command, log = hook_of(tmp_path / "hook")

    async def test(bench: Bench) -> None:
        bench.plan = replace(bench.plan, deploy_hook=command)
        (tmp_path / "hook" / "broken").touch()
        report = await bench.run()
        assert not report.is_ok
        assert [(done.code, done.output) for done in report.deployments] == [(3, "it is broken")]
        check_set(bench.current)
        (tmp_path / "hook" / "broken").unlink()
        report = await bench.run()
        assert report.is_ok
        assert [done.changed for done in report.deployments] == [("standalone",)]
        assert len(log.read_text().splitlines()) == 2

    with_server(tmp_path / "out", test)


def test_two_runs_do_not_meet(tmp_path: Path) -> None:
    """A second run in the same folder is refused, with the number of the process that holds it."""

    async def test(bench: Bench) -> None:
        async with bench.opened():
            with pytest.raises(ConflictError, match=f"pid {os.getpid()}") as caught:
                await bench.run()
            assert caught.value.reason is Reason.BUSY
        assert (await bench.run()).is_ok

    with_server(tmp_path, test)


def test_daemon_sleeps_until_something_is_due(tmp_path: Path) -> None:
    """Over four weeks there are certificates one after the other, each before the last one ends, and few requests."""

    async def test(bench: Bench) -> None:
        bench.server.landmark_wait = None
        ends = NOW + timedelta(days=28)
        reports: list[RequestReport] = []

        def seen(report: RequestReport) -> None:
            reports.append(report)
            assert report.is_ok
            assert check_set(bench.current).not_after > bench.clock.now()
            if bench.clock.now() >= ends:
                raise EOFError

        async with bench.opened() as requester:
            with pytest.raises(EOFError):
                await requester.run_for_ever(seen)
        assert bench.server.issued() == 6, "28 days in steps of 5.25"
        assert bench.server.calls["directory"] < 20

    with_server(tmp_path, test)


def test_folder_names_are_names_of_files() -> None:
    """Wildcards and IPv6 addresses lose what shells and lists of paths take for their own."""
    assert folder_name(Identifier.dns("*.example.com")) == "_.example.com"
    assert folder_name(Identifier.ip("2001:db8::7")) == "2001-db8--7"
