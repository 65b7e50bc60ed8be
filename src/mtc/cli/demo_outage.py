"""`mtc demo outage`: CA, mirrors and update service are gone for a day, and everybody still connects.

The processes are real and really killed. Only time is simulated: site and clients have clocks that are pushed on by an
hour at a time, and the processes that come back after the day are started with clocks that are as far ahead.
"""

import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from rich.console import Console

from mtc.cli.demo_classical import make_classical
from mtc.cli.demo_cosign import CA_ID
from mtc.cli.demo_outage_world import HOST, Client, Moment, PushedClock, World, serving
from mtc.cli.demo_telling import heading, open_console, pausing
from mtc.cli.demo_town import Ports, Town, issue, reporting_disk, run_here, town_in, until
from mtc.cli.output import shown, table
from mtc.errors import PeerError, Reason
from mtc.testing.fleet import Member
from mtc.tls import parse_paths, server_context
from mtc.trust.updater import Updater, http_client, read_update_state
from mtc.trust.updates import Staleness, UpdateState
from mtc.web.logs import configure_logs

HOURS = 24
FOLDER = "outage"
MIRRORS = (("m1", "32473.21"), ("m2", "32473.22"))
LATER_HOURS = (36, 47, 49, 72)
"""Looks after the day, for the case that nobody comes back: the policy document ends after 48 hours."""
_POLICY_LIFETIME = "2d"
_CA_OPTIONS = ("--round-interval", "50ms", "--landmark-interval", "1s", "--max-lifetime", "7d")
_QUORUM = 'at_least = 1\nof = ["m1", "m2"]\nwait = "20s"\n'
_AHEAD = """import os
from datetime import timedelta

from mtc.web.clock import SystemClock

_now = SystemClock.now
SystemClock.now = lambda self: _now(self) + timedelta(seconds=int(os.environ["MTC_DEMO_AHEAD_S"]))
"""
"""What Python runs first in the processes that come back: their clock is as far ahead as the day was long."""
_COLOURS = {"landmark-relative": "green", "standalone": "yellow", "classical": "magenta", "refused": "bold red"}
_WORDS = {Staleness.FRESH: "green", Staleness.STALE: "yellow", Staleness.EXPIRED: "bold red"}


def run_outage(folder_name: str, *, as_json: bool = False) -> dict[str, object]:
    """Tell the whole story in a new folder; return what happened, for scripts.

    Raises AssertionError when somebody could not connect, or was not fresh again in the end; UsageError, PeerError.
    """
    configure_logs(sys.stderr, level=logging.ERROR)
    out = open_console(is_quiet=as_json)
    heading(out, "A day without CA, mirrors and update service")
    with reporting_disk(folder_name), town_in(Path(folder_name) / FOLDER, Ports()) as town:
        with pausing(out, "making a CA, two mirrors and an update service"):
            clients, paths, key = _prepare(town)
        clock, classical = PushedClock(), make_classical(HOST)
        (fallback,) = parse_paths(classical.fullchain, classical.key)
        context = server_context(parse_paths(paths, key), fallback=fallback, clock=clock)
        with serving(context) as site:
            world = World(clock, site, classical, clients)
            facts = _tell(out, town, world)
    if as_json:
        sys.stdout.write(json.dumps(facts) + "\n")
        sys.stdout.flush()
    return facts


def _tell(out: Console, town: Town, world: World) -> dict[str, object]:
    """Tell what happens, hour by hour."""
    clients = world.clients
    pids = [member.process.pid for member in town.members.values() if member.process is not None]
    first = world.look(0)
    town.kill(*town.members.values())
    out.print(
        f"The processes [bold]{', '.join(town.members)}[/] ({', '.join(map(str, pids))}) are killed at hour 0. "
        "The site stays,\nwith a landmark-relative, a standalone and a classical certificate. "
        "Four clients visit it each hour:\n"
    )
    _tell_clients(out, clients)
    with pausing(out, "a day goes by"):
        day = [first, *(world.look(hours) for hours in range(1, HOURS + 1))]
        later = [world.look(hours) for hours in LATER_HOURS]
    world.clock.ahead = timedelta(hours=HOURS)
    _tell_hours(out, clients, day)
    out.print(
        "\n[bold]And if nobody came back?[/] The policy document ends after two days, and with it all that it says:\n"
        "a client then refuses, says so, and may connect as clients did before, to a classical certificate.\n"
    )
    _tell_hours(out, clients, later)
    with pausing(out, "they come back"):
        back = _come_back(town, world)
    out.print(f"\n[bold]At hour {HOURS} they come back[/], their clocks a day ahead as everybody's, and all update.\n")
    _tell_hours(out, clients, [back])
    facts: dict[str, object] = {
        "killed": list(town.members),
        "hours": [item.to_json(clients) for item in day],
        "later": [item.to_json(clients) for item in later],
        "back": back.to_json(clients),
    }
    _check(day, later, back)
    return facts


def _prepare(town: Town) -> tuple[list[Client], bytes, bytes]:
    """Start everybody, issue for the site, and let clients update at different moments; return site's PEM and key."""
    ca = town.add_ca(CA_ID, *_CA_OPTIONS)
    mirrors = [town.add_cosigner("mirror", name, number) for name, number in MIRRORS]
    town.require(_QUORUM)
    updates = town.add_updates(mirrors, policy_lifetime=_POLICY_LIFETIME)
    town.start(*mirrors, updates, ca)
    clients = [
        Client("phone", town.folder / "phone"),
        Client("laptop", town.folder / "laptop"),
        Client("new phone", town.folder / "phone", has_landmarks=False),
        Client("old TV", None),
    ]
    issue(town, "earlier.example.com")
    _begin_client(town, updates, "laptop")
    _update_until(town.folder / "laptop", lambda state: bool(state.logs), lambda: datetime.now(UTC))
    paths, key = _issue_both(town, ca)
    anchors = [path.trust_anchor_id for path in parse_paths(paths, key) if path.is_landmark_relative]
    wanted = max(anchor.components[-1] for anchor in anchors if anchor is not None)
    _begin_client(town, updates, "phone")
    _update_until(town.folder / "phone", lambda state: _has(state, wanted), lambda: datetime.now(UTC))
    return clients, paths, key


def _begin_client(town: Town, updates: Member, name: str) -> None:
    """Make a relying party's folder."""
    key = str(updates.folder / "policy.pub.pem")
    run_here("trust", "init", str(town.folder / name), "--url", updates.url, "--policy-key", key, "--json")


def _issue_both(town: Town, ca: Member) -> tuple[bytes, bytes]:
    """Have both forms issued for the site; return them and the private key, PEM."""
    key = generate_private_key(SECP256R1())
    public, out = town.folder / "site.pub.pem", town.folder / "site.pem"
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    about = ["--public-key", str(public), "--dns", HOST, "--form", "both", "--out", str(out)]
    run_here("ca", "issue", str(ca.folder), *about)
    return out.read_bytes(), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _has(state: UpdateState, landmark: int) -> bool:
    """Tell whether a state holds a landmark, or a later one."""
    return any(log.latest.number >= landmark for log in state.logs)


def _update_until(folder: Path, is_enough: Callable[[UpdateState], bool], now: Callable[[], datetime]) -> None:
    """Update a relying party until it holds what it should."""

    async def update() -> UpdateState:
        async with Updater.open(folder) as updater, http_client() as http:
            return (await updater.update(http, now())).state

    def is_there() -> bool:
        try:
            return is_enough(asyncio.run(update()))
        except PeerError:
            # The service has not published its first version.
            return False

    until(is_there, "the update service did not bring the landmark")


def _come_back(town: Town, world: World) -> Moment:
    """Start the processes again with clocks that are a day ahead, let all clients update, and look."""
    folders = {client.folder for client in world.clients if client.folder is not None}
    before = max(read_update_state(folder)[1].version for folder in folders)
    path = town.folder / "ahead"
    path.mkdir()
    (path / "sitecustomize.py").write_text(_AHEAD, "utf-8")
    python_path = os.pathsep.join(filter(None, (str(path), os.environ.get("PYTHONPATH"))))
    seconds = int(world.clock.ahead.total_seconds())
    town.environment = {"PYTHONPATH": python_path, "MTC_DEMO_AHEAD_S": str(seconds)}
    town.start(*town.members.values())
    for folder in folders:
        _update_until(folder, lambda state: state.version > before, world.clock.now)
    world.clients = [replace(client, has_landmarks=True) for client in world.clients]
    return world.look(HOURS)


def _tell_clients(out: Console, clients: Sequence[Client]) -> None:
    """Say who the clients are."""
    about = {
        "phone": "updated just before",
        "laptop": "updated before the site's landmark was there",
        "new phone": "has the policy, and no landmarks yet",
        "old TV": "knows nothing of Merkle Tree certificates",
    }
    rows = table("client", "")
    for client in clients:
        rows.add_row(f"[bold]{client.name}[/]", about[client.name])
    out.print(rows)
    out.print()


def _tell_hours(out: Console, clients: Sequence[Client], moments: Sequence[Moment]) -> None:
    """Show what everybody got, by hour, and how old what they hold is by their own word."""
    names = [shown(client.name) for client in clients]
    rows = table("hour", *names, "they say", "hours old", "policy ends in", numeric=(0, 6, 7))
    for item in moments:
        cells = []
        for outcome, why in zip(item.outcomes, item.before, strict=True):
            text = f"[{_COLOURS[outcome.served]}]{outcome.served.removesuffix('-relative')}[/]"
            cells.append(f"[red]{shown(why)}[/], {text}" if why and outcome.served != "refused" else text)
        freshness = item.freshness
        left = freshness.policy_left_s / 3600
        ends = f"{left:.0f} h" if left >= 0 else f"{-left:.0f} h ago"
        word = f"[{_WORDS[freshness.staleness]}]{freshness.staleness}[/]"
        rows.add_row(str(item.hours), *cells, word, f"{freshness.age_s / 3600:.0f}", ends)
    out.print(rows)


def _check(day: Sequence[Moment], later: Sequence[Moment], back: Moment) -> None:
    """Raise AssertionError unless everybody connected all day, nothing expired counted, and all are fresh again."""
    wanted = ("landmark-relative", "standalone", "standalone", "classical")
    assert all(tuple(outcome.served for outcome in item.outcomes) == wanted for item in day), day
    for item in later:
        is_over = item.freshness.staleness is Staleness.EXPIRED
        assert is_over == all(outcome.served == "classical" for outcome in item.outcomes), item
        assert not is_over or item.before[:3] == (str(Reason.EXPIRED),) * 3, item
    assert back.freshness.staleness is Staleness.FRESH, back
    assert [outcome.served for outcome in back.outcomes] == ["landmark-relative"] * 3 + ["classical"], back
