"""`mtc request` as a library against a server that does what the test says: renewal, landmarks, failures, crashes."""

import asyncio
import json
import os
import shutil
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from tests.acme_script import LIFETIME, Refusal, ScriptedACME, scripted
from tests.makers import NOW, SmallCA

from mtc.acme.client import TransportLimits
from mtc.acme.client.accounts import ServerChoice
from mtc.acme.client.connection import Seams
from mtc.acme.client.disk import Disk
from mtc.acme.client.leaf import Leaf
from mtc.acme.client.lineage import Kind, Wish
from mtc.acme.client.service import Requester, RequestPlan, RequestReport, folder_name, open_requester
from mtc.acme.client.solvers import Answer
from mtc.acme.machine.identifiers import Identifier
from mtc.acme.machine.validation import Method
from mtc.cert import parse_certificate_chains
from mtc.errors import ConflictError, Reason, Rejected, StorageError
from mtc.ids import REVISIONS
from mtc.testing.clock import FakeClock
from mtc.wire import find_pem_block

NAME = Identifier.dns("www.example.com")


class Silence:
    """Is told everything and keeps it."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def tell(self, kind: Kind, text: str) -> None:
        """Keep a line."""
        self.lines.append(f"{kind}: {text}")


@dataclass
class Recorder:
    """A solver that remembers what it was asked for."""

    method: Method = Method.HTTP_01
    open: list[Answer] = field(default_factory=list)
    seen: int = 0

    async def present(self, answer: Answer) -> None:
        """Remember."""
        self.open.append(answer)
        self.seen += 1

    async def withdraw(self, answer: Answer) -> None:
        """Forget."""
        self.open.remove(answer)

    async def close(self) -> None:
        """Hold nothing."""


class MemoryOfNames(Disk):
    """Syncs nothing, which is what costs, and remembers what would have to be: folders with names that are not durable.

    A folder that is renamed must be durable itself, or a crash of the machine leaves a whole name on half a set.
    """

    def __init__(self) -> None:
        self.unsynced: set[Path] = set()

    def make_folder(self, path: Path, mode: int) -> None:
        """Make a folder."""
        super().make_folder(path, mode)
        self.unsynced.add(path.parent)

    def write(self, path: Path, data: bytes, mode: int) -> None:
        """Write a file."""
        with open(path, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(data)
        path.chmod(mode)
        self.unsynced.add(path.parent)

    def link(self, path: Path, target: str) -> None:
        """Make a link."""
        super().link(path, target)
        self.unsynced.add(path.parent)

    def rename(self, source: Path, target: Path) -> None:
        """Rename."""
        assert source not in self.unsynced
        super().rename(source, target)
        self.unsynced.add(target.parent)

    def sync_folder(self, path: Path) -> None:
        """Take note."""
        self.unsynced.discard(path)


@dataclass
class Bench:
    """A server, a clock and a folder. solver: answers challenges. told: what people would read."""

    server: ScriptedACME
    root: Path
    plan: RequestPlan
    solver: Recorder = field(default_factory=Recorder)
    observer: Silence = field(default_factory=Silence)
    disk: Disk = field(default_factory=MemoryOfNames)

    @property
    def clock(self) -> FakeClock:
        """The only clock there is."""
        return self.server.clock

    @property
    def folder(self) -> Path:
        """The certificate's folder."""
        return self.plan.folder

    @property
    def current(self) -> Path:
        """What servers load."""
        return self.folder / "current"

    async def pause(self, seconds: float) -> None:
        """Let time pass at once."""
        self.clock.advance(seconds)
        await asyncio.sleep(0)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Requester]:
        """Open the folder."""
        limits = TransportLimits(deadline_s=20, attempt_s=10, attempts=2, pause_s=0.01)
        seams = Seams(now=self.clock.now, pause=self.pause, chance=lambda: 0.5, limits=limits)
        async with open_requester(self.plan, [self.solver], self.observer, seams=seams, disk=self.disk) as requester:
            yield requester

    async def run(
        self, *, is_forced: bool = False, is_patient: bool = False, landmark_wait_s: float = 0.0
    ) -> RequestReport:
        """Run once."""
        async with self.opened() as requester:
            return await requester.run(is_forced=is_forced, is_patient=is_patient, landmark_wait_s=landmark_wait_s)


def wish(server: ScriptedACME, kind: Kind = Kind.MTC, *names: Identifier) -> Wish:
    """Return what is wanted of a server."""
    choice = ServerChoice(directory=server.directory)
    return Wish(kind=kind, server=choice, identifiers=names or (NAME,), key_type="ecdsa-p256", deadline_s=10)


def with_server(root: Path, test: Callable[[Bench], Awaitable[None]], **choices: object) -> None:
    """Run a test with a server and a plan for one certificate."""

    async def run() -> None:
        async with scripted(FakeClock(NOW), **choices) as server:
            await test(Bench(server, root, RequestPlan(root=root, name="www.example.com", mtc=wish(server))))

    asyncio.run(run())


def check_set(folder: Path) -> Leaf:
    """Check that what a server would load is whole: the key is the certificate's, and nobody else may read it."""
    der = find_pem_block((folder / "standalone.pem").read_bytes(), "CERTIFICATE")
    leaf = Leaf.parse(der)
    key = load_pem_private_key((folder / "key.pem").read_bytes(), None)
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert spki == leaf.spki
    assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
    assert find_pem_block((folder / "chain.pem").read_bytes(), "CERTIFICATE") == der
    assert int(json.loads((folder / "state.json").read_text())["serial"], 16) == leaf.serial
    return leaf


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


class Crash(BaseException):
    """What no handler of errors catches, as a killed process catches nothing."""


class FailingDisk(MemoryOfNames):
    """Crashes at the n-th system call: before it, or after it."""

    def __init__(self, at: int, *, is_kept: bool, error: type[BaseException] = Crash) -> None:
        super().__init__()
        self.left, self._is_kept, self._error = at, is_kept, error
        for name in ("make_folder", "write", "link", "hard_link", "rename", "unlink", "remove_folder", "sync_folder"):
            setattr(self, name, self._failing(getattr(self, name)))

    def _failing(self, call: Callable[..., None]) -> Callable[..., None]:
        def failing(*arguments: object) -> None:
            self.left -= 1
            if self.left == 0 and not self._is_kept:
                raise self._error
            call(*arguments)
            if self.left == 0:
                raise self._error

        return failing


def _crashes(tmp_path: Path, *, is_kept: bool, error: type[BaseException], outcome: type[BaseException]) -> None:
    """Crash a renewal at each system call, look at what servers would load, and go on."""

    async def test(bench: Bench) -> None:
        bench.server.landmark_wait = None
        await bench.run()
        first = check_set(bench.current)
        template = tmp_path / "template"
        shutil.copytree(bench.root, template, symlinks=True)
        bench.clock.advance(LIFETIME.total_seconds() * 0.8)
        at, made_twice = 0, 0
        while True:
            at += 1
            shutil.rmtree(bench.root)
            shutil.copytree(template, bench.root, symlinks=True)
            before = bench.server.issued()
            bench.disk = disk = FailingDisk(at, is_kept=is_kept, error=error)
            try:
                await bench.run()
            except outcome:
                # Old or new, but whole.
                check_set(bench.current)
                bench.disk = MemoryOfNames()
                report = await bench.run()
                assert report.is_ok
            leaf = check_set(bench.current)
            assert leaf.not_before > first.not_before
            assert check_set(bench.folder / "previous").serial == first.serial
            assert (bench.current / "landmark.pem").exists()
            assert not [path for path in bench.root.rglob(".*") if path.name.endswith((".new", ".old"))]
            assert not (bench.folder / "order").exists()
            made_twice += bench.server.issued() - before - 1
            if disk.left > 0:
                break
        assert at > 30, "a renewal is more than that"
        assert made_twice == 0, "an order that was under way is gone on with"

    with_server(tmp_path / "out", test)


@pytest.mark.parametrize("is_kept", [False, True], ids=["lost", "kept"])
def test_crashes_leave_a_whole_set(tmp_path: Path, is_kept: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """A process that dies at any system call leaves the old or the new set whole; the next run goes on."""
    _crashes(tmp_path, is_kept=is_kept, error=Crash, outcome=Crash)


def test_full_disk_leaves_a_whole_set(tmp_path: Path) -> None:
    """A disk that refuses any one call is reported as such; the old set stays whole, and the next run goes on."""
    _crashes(tmp_path, is_kept=False, error=OSError, outcome=StorageError)


def test_first_run_survives_crashes(tmp_path: Path) -> None:
    """A crash at any system call of the very first run costs at most one account key that nobody knows, and no set."""

    async def test(bench: Bench) -> None:
        at = 0
        while True:
            at += 1
            bench.plan = replace(bench.plan, root=tmp_path / f"out-{at}")
            bench.disk = disk = FailingDisk(at, is_kept=False)
            try:
                await bench.run()
            except Crash:
                if bench.current.exists():
                    check_set(bench.current)
                bench.disk = MemoryOfNames()
                assert (await bench.run()).is_ok
            check_set(bench.current)
            if disk.left > 0:
                break
        assert at > 20

    with_server(tmp_path / "out-1", test)


def test_folder_names_are_names_of_files() -> None:
    """Wildcards and IPv6 addresses lose what shells and lists of paths take for their own."""
    assert folder_name(Identifier.dns("*.example.com")) == "_.example.com"
    assert folder_name(Identifier.ip("2001:db8::7")) == "2001-db8--7"
