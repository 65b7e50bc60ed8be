"""A lying service against a relying party, and crashes of its disk: the last good state stays, and says why."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from tests.updating import (
    MIRRORS,
    NOW,
    SECONDS,
    SERVICE_KEY,
    UNTRUSTED,
    LandmarkLog,
    base_of,
    hourly,
    policy_of,
    sign,
    take,
    update_of,
)

from mtc.errors import Error, Reason, StorageError
from mtc.ids import TrustAnchorID
from mtc.store import ObjectStore
from mtc.testing import Crash, FailingStore, Failure, ModelDisk
from mtc.trust.updater import Updater, UpdaterConfig
from mtc.trust.updates import Staleness, UpdateState, plan_rollback
from mtc.web.client import ClientLimits, HTTPClient
from mtc.web.server import ServerLimits, serve

HOUR = 3600
BEFORE = SECONDS - HOUR


@dataclass
class Liar:
    """A service that answers whatever it likes. answers: by path."""

    answers: dict[str, Response | bytes]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        answer = self.answers.get(scope["path"][1:], Response(status_code=404))
        await (Response(answer) if isinstance(answer, bytes) else answer)(scope, receive, send)

    def show(self, version: int, *bases: int, **documents: bytes) -> None:
        """Name a latest version, and show documents by their name with `_` for `-`, behind a letter."""
        self.answers = {"latest": json.dumps({"version": version, "bases": bases}).encode()}
        self.answers |= {f"proven/{name[1:].replace('_', '-')}": data for name, data in documents.items()}


LOG = hourly(3)
POLICY = policy_of(LOG.trusted(revoked=[(10, 20)]), version=5)
HELD = take(update_of(POLICY, LOG.proven(), version=BEFORE)).state
"""What the relying party holds before the attack."""
GROWN = hourly(4)
STRANGER = hourly(4, ca_id=TrustAnchorID.parse("32473.2"), label="stranger")


async def endless() -> AsyncIterator[bytes]:
    """Yield for ever, and let others work in between."""
    while True:
        yield bytes(65_536)
        await asyncio.sleep(0)


def bomb() -> Response:
    """Return a small answer that unpacks to a large one."""
    return Response(gzip.compress(bytes(4 << 20)), headers={"Content-Encoding": "gzip"})


def shows(document: bytes, version: int = SECONDS) -> Callable[[Liar], None]:
    """Return an attack by one whole version."""
    return lambda liar: liar.show(version, **{f"v{version}": document})


def renewed(**options: object) -> bytes:
    """Return an honest version under another policy."""
    trusted = GROWN.trusted(revoked=[(10, 20)])
    return update_of(policy_of(trusted, **{"version": 6, **options}), GROWN.proven())  # type: ignore[arg-type]


def by_stranger() -> bytes:
    """Return a version whose policy was signed by a key that nobody pinned."""
    policy = policy_of(GROWN.trusted(revoked=[(10, 20)]), version=6)
    return update_of(sign(replace(policy, signatures=()), SERVICE_KEY), GROWN.proven())


def changed() -> bytes:
    """Return a version whose policy was changed after it was signed."""
    policy = policy_of(GROWN.trusted(revoked=[(10, 20)]), version=6)
    payload = policy.payload.replace(b"[10,20]", b"[10,99]", 1)
    assert payload != policy.payload
    return update_of(replace(policy, payload=payload), GROWN.proven())


def delta(base: int, log: LandmarkLog = GROWN) -> bytes:
    """Return a delta that is to a base."""
    return update_of(POLICY, log.proven(), base=base_of(base, POLICY, LOG.proven()))


ATTACKS: dict[str, tuple[Callable[[Liar], None], Reason]] = {
    "an older version under a newer name": (
        shows(update_of(POLICY, LOG.proven(), version=BEFORE - 9)),
        Reason.SUPERSEDED,
    ),
    "a version of the future": (shows(update_of(POLICY, LOG.proven(), version=SECONDS + 999)), Reason.NOT_YET_VALID),
    "an older policy": (shows(renewed(version=4)), Reason.SUPERSEDED),
    "another policy of the same version": (shows(renewed(version=5, floor=1)), Reason.EQUIVOCATION),
    "a policy that a stranger signed": (shows(by_stranger()), Reason.UNKNOWN_SIGNER),
    "a policy that was changed": (shows(changed()), Reason.BAD_SIGNATURE),
    "a policy that has expired": (
        shows(renewed(issued=SECONDS - 9, lifetime=timedelta(seconds=5))),
        Reason.EXPIRED,
    ),
    "a policy that revokes less": (
        shows(update_of(policy_of(GROWN.trusted(), version=6), GROWN.proven())),
        Reason.REVOCATION_SHRUNK,
    ),
    "a policy without the CA": (
        shows(update_of(policy_of(STRANGER.trusted(), version=6), STRANGER.proven())),
        Reason.REVOCATION_SHRUNK,
    ),
    "a version below the floor": (shows(renewed(floor=SECONDS + 1)), Reason.SUPERSEDED),
    "a delta to another base, and nothing else": (
        lambda liar: liar.show(SECONDS, BEFORE, **{f"v{BEFORE}_{SECONDS}": delta(BEFORE - 9)}),
        Reason.PEER,
    ),
    "a document that is cut off": (shows(renewed()[:-900]), Reason.TRUNCATED),
    "a document of another kind": (shows(POLICY.encode()), Reason.UNKNOWN_FORMAT),
    "a length that nothing follows": (shows(b"mtc-update/v1\n\0" + b"\xff" * 4), Reason.TRUNCATED),
    "a list of versions that is none": (lambda liar: liar.answers.update(latest=b"[" * 9999), Reason.BAD_DOCUMENT),
    "a bomb": (lambda liar: liar.answers.update(latest=bomb()), Reason.TOO_LARGE),
    "an answer without end": (lambda liar: liar.answers.update(latest=StreamingResponse(endless())), Reason.TOO_LARGE),
    "another server": (
        lambda liar: liar.answers.update(latest=RedirectResponse("http://127.0.0.2:9/latest")),
        Reason.PEER,
    ),
}


def updater_on(store: ObjectStore, url: str, state: UpdateState = HELD) -> Updater:
    """Return a relying party that keeps its folder in a store."""
    return Updater(Path("client"), UpdaterConfig(url, UNTRUSTED), store, state)


def test_every_lie_is_refused_by_name() -> None:
    """Whatever the service shows is refused with its own reason, and nothing that is held or kept changes."""

    async def run() -> dict[str, Reason]:
        liar, found = Liar({}), {}
        async with (
            serve(liar, ("127.0.0.1", 0), ServerLimits(stop_s=0)) as listening,
            HTTPClient(ClientLimits(attempts=1)) as http,
        ):
            for name, (attack, _) in ATTACKS.items():
                store = FailingStore()
                updater = updater_on(store, listening.url)
                liar.answers = {}
                attack(liar)
                try:
                    await updater.update(http, NOW)
                except Error as error:
                    found[name] = error.reason
                assert updater.state is HELD, name
                assert store.plan.writes == 0
            # A replay of what is held, and of an older version, is no news; a delta that fits is.
            for version in (BEFORE, BEFORE - 9):
                liar.show(version)
                assert not (await updater.update(http, NOW)).is_new
            liar.show(SECONDS, BEFORE, **{f"v{BEFORE}_{SECONDS}": delta(BEFORE)})
            taken = await updater.update(http, NOW)
            assert (taken.is_new, taken.is_delta, taken.findings) == (True, True, ())
        return found

    assert asyncio.run(run()) == {name: reason for name, (_, reason) in ATTACKS.items()}


def test_landmarks_of_another_log_are_a_finding() -> None:
    """What another CA's log proves, even in this CA's name and signed by its mirror, changes nothing of this log."""
    mixed = replace(STRANGER.proven(), ca_id=LOG.ca_id)
    planned = take(update_of(POLICY, mixed), HELD)
    assert [finding.error.reason for finding in planned.findings] == [Reason.POLICY_NOT_MET]
    assert planned.state.logs == HELD.logs
    short = GROWN.proven(GROWN.tree(by=MIRRORS))
    assert take(update_of(POLICY, short), HELD).state.logs == HELD.logs


def test_a_service_that_stands_still_is_found_out() -> None:
    """Shown the same version for ever, a relying party says first that it is stale, then that it trusts nothing."""

    async def run() -> list[Staleness]:
        liar = Liar({})
        liar.show(BEFORE)
        async with serve(liar, ("127.0.0.1", 0)) as listening, HTTPClient() as http:
            updater = updater_on(FailingStore(), listening.url)
            looks = [await updater.update(http, NOW + timedelta(days=days)) for days in (0, 1, 8)]
        return [look.freshness.staleness for look in looks]

    assert asyncio.run(run()) == [Staleness.FRESH, Staleness.STALE, Staleness.EXPIRED]


NEXT = take(delta(BEFORE), HELD).state


async def kept(store: ObjectStore) -> UpdateState:
    """Return the state that a store holds."""
    (data,) = await store.fetch(["state"])
    assert data is not None
    return UpdateState.parse(data)


@pytest.mark.parametrize("failure", Failure)
def test_every_write_that_fails_leaves_a_good_state(failure: Failure) -> None:
    """Whichever write fails, lost or kept, the old state or the new one is there whole, and the next look mends it."""

    async def run(number: int) -> bool:
        store = FailingStore()
        updater = updater_on(store, "http://nobody.example", UpdateState())
        await updater._keep(HELD)
        store.plan.fail_write(store.plan.writes + number, failure)
        try:
            await updater._keep(NEXT)
        except StorageError:
            assert (await kept(store)).encode() in {HELD.encode(), NEXT.encode()}
            await updater._keep(NEXT)
            assert (await kept(store)).encode() == NEXT.encode()
            return True
        return False

    number = 0
    while asyncio.run(run(number)):
        number += 1
    assert number >= 3


def test_no_crash_leaves_half_a_state() -> None:
    """Before each system call of an update and a rollback the power goes: what the disk holds is one of the states."""
    states = {HELD.encode(), NEXT.encode(), (back := plan_rollback(NEXT, HELD)).encode()}

    async def live(disk: ModelDisk) -> None:
        store = disk.store()
        updater = updater_on(store, "http://nobody.example", UpdateState())
        await updater._keep(HELD)
        await updater._keep(NEXT)
        await updater._keep(back)

    async def check(disk: ModelDisk) -> None:
        store = disk.store()
        (data,) = await store.fetch(["state"])
        assert data is None or data in states
        for key in await store.list_keys("history/"):
            (earlier,) = await store.fetch([key])
            assert earlier in states
        store.close()

    number, survived = 0, 0
    while True:
        disk = ModelDisk()
        disk.crash_at(number)
        try:
            asyncio.run(live(disk))
        except Crash:
            for after in disk.crash_states(8, seed=number):
                asyncio.run(check(after))
                survived += 1
            number += 1
            continue
        break
    assert (number > 20, survived > 60) == (True, True)
