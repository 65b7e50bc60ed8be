"""The whole way as operators go it: CA, mirror and update service as processes, a relying party as commands."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.commands import Run, run_program
from tests.makers import make_key

from mtc.testing.fleet import Fleet, Member, fleet_in, free_port
from mtc.wire import PEMBlock, encode_pem

WAIT_S = 60.0


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command of `mtc`; only what goes on by itself is a process here."""
    return run_program(monkeypatch, capfd)


def until(check: Callable[[], object], what: str) -> None:
    """Wait until something is so."""
    end = time.monotonic() + WAIT_S
    while not check():
        assert time.monotonic() < end, f"{what} did not happen in {WAIT_S:.0f} s"
        time.sleep(0.05)


def make_member(fleet: Fleet, run: Run, role: str, *options: str) -> Member:
    """Make the folder of a party."""
    member = Member(role, role, fleet.folder / role, free_port())
    made = run(role, "init", member.folder, "--json", *options)
    assert made.code == 0, made.err
    member.vkey = made.json["vkeys"][0] if role == "mirror" else ""
    fleet.members[role] = member
    return member


def start_all(fleet: Fleet, run: Run) -> tuple[Member, Member]:
    """Start a CA with a mirror, and an update service for it, all at once."""
    ca = make_member(fleet, run, "ca", "--id", "32473.1", "--round-interval", "50ms", "--landmark-interval", "1s")
    mirror = make_member(fleet, run, "mirror", "--id", "32473.8")
    updates = make_member(fleet, run, "updates")
    certificate = ca.folder / "ca.pem"
    config = updates.folder / "updates.toml"
    config.write_text(config.read_text().replace('"60s"', '"1s"').replace('"10s"', '"1s"'))
    which = ["--ca", certificate, "--url", ca.url, "--mirror", f"{mirror.url}={mirror.vkey}"]
    who = ["--name", "m1", "--role", "mirror", "--vkey", mirror.vkey, "--url", mirror.url]
    for command in (
        ["mirror", "add-log", mirror.folder, "--ca", certificate, "--url", ca.url, "--follow"],
        ["ca", "add-cosigner", ca.folder, *who],
        ["updates", "add-ca", updates.folder, *which],
    ):
        done = run(*command)
        assert done.code == 0, done.err
    for member in fleet.members.values():
        member.start(wait=False)
    for member in fleet.members.values():
        member.wait_until_up()
    return ca, updates


def issue(fleet: Fleet, run: Run, ca: Member, name: str) -> Path:
    """Have a certificate issued in the landmark-relative form; return its file."""
    key, out = fleet.folder / "leaf.pem", fleet.folder / f"{name}.pem"
    key.write_bytes(encode_pem([PEMBlock("PUBLIC KEY", make_key("ecdsa-p256-sha256", 7).public_key)]))
    what = ["--public-key", key, "--dns", name, "--lifetime", "1h", "--form", "landmark", "--out", out]
    done = run("ca", "issue", ca.folder, *what)
    assert done.code == 0, done.err
    return out


@contextlib.contextmanager
def daemon(folder: Path, metrics: Path, out: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a relying party that updates by itself, every second. out: what it says."""
    command = [sys.executable, "-m", "mtc", "trust", "update", str(folder), "--daemon", "--interval", "1", "--json"]
    with out.open("wb") as said:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [*command, "--metrics", str(metrics)], stdout=said, stderr=subprocess.DEVNULL
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def lines_of(file: Path) -> list[dict[str, object]]:
    """Return the whole lines of JSON in a file."""
    return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]


def test_from_the_landmark_to_the_verified_certificate(tmp_path: Path, run: Run) -> None:
    """A client that trusts nobody but pinned keys learns landmarks whole and by delta, and survives everybody's end."""
    with fleet_in(tmp_path) as fleet:
        ca, updates = start_all(fleet, run)
        first = issue(fleet, run, ca, "one.example")
        client, store = tmp_path / "client", tmp_path / "trust.json"
        run("trust", "init", client, "--url", updates.url, "--policy-key", updates.folder / "policy.pub.pem")
        assert run("trust", "show", client).code == 1
        until(lambda: run("trust", "update", client, "--json").json.get("logs"), "the first landmark")
        shown = run("trust", "show", client, "--json")
        assert (shown.code, shown.json["staleness"]) == (0, "fresh")
        store.write_text(run("trust", "show", client, "--store").out)
        assert run("verify", first, "--trust", store, "--name", "one.example").code == 0

        metrics, said = tmp_path / "trust.prom", tmp_path / "daemon.jsonl"
        with daemon(client, metrics, said) as process:
            second = issue(fleet, run, ca, "two.example")
            until(lambda: any(look.get("new") and look["delta"] for look in lines_of(said)), "a delta by itself")
            assert not any(look.get("findings") for look in lines_of(said))
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_S) == 0
        assert 'mtc_trust_staleness{staleness="fresh"} 1.0' in metrics.read_text()
        store.write_text(run("trust", "show", client, "--store").out)
        assert run("verify", second, "--trust", store, "--name", "two.example").code == 0
        # A landmark that has just come waits for the mirror for a moment, which is told as well.
        until(lambda: run("updates", "status", updates.url, "--json").json["status"] == "ok", "that all is well")

        for member in fleet.members.values():
            member.signal(signal.SIGTERM)
        fleet.stop()
        assert run("updates", "status", updates.url).code == 2
        outage = run("trust", "update", client, "--json")
        assert (outage.code, outage.json["staleness"], outage.json["reason"]) == (1, "fresh", "peer")
        assert run("verify", second, "--trust", store, "--name", "two.example").code == 0
        rolled = run("trust", "rollback", client, "--json").json
        assert rolled["version"] < rolled["skipped"]
        (client / "state").write_bytes(b"damaged")
        assert run("trust", "show", client).code
