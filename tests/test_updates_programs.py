"""The whole way as operators go it: CA, mirror and update service as processes, a relying party as commands."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.makers import make_key

from mtc.testing.fleet import Fleet, Member, fleet_in, free_port, run_mtc
from mtc.wire import PEMBlock, encode_pem

WAIT_S = 60.0


def until(check: Callable[[], object], what: str) -> None:
    """Wait until something is so."""
    end = time.monotonic() + WAIT_S
    while not check():
        assert time.monotonic() < end, f"{what} did not happen in {WAIT_S:.0f} s"
        time.sleep(0.1)


def mtc(*arguments: str) -> tuple[int, dict[str, object]]:
    """Run a command with --json; return its exit code and what it says."""
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "mtc", *arguments, "--json"], capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def start_all(fleet: Fleet) -> tuple[Member, Member]:
    """Start a CA with a mirror, and an update service for it."""
    ca = fleet.add_ca("32473.1", "--round-interval", "50ms", "--landmark-interval", "1s")
    mirror = fleet.add_cosigner("mirror", "m1", "32473.8")
    fleet.introduce(follow=True)
    for member in (mirror, ca):
        member.start()
    updates = Member("updates", "updates", fleet.folder / "updates", free_port())
    run_mtc(["updates", "init", str(updates.folder), "--listen", f"127.0.0.1:{updates.port}"])
    config = updates.folder / "updates.toml"
    config.write_text(config.read_text().replace('"60s"', '"1s"').replace('"10s"', '"1s"'))
    run_mtc(["updates", "add-ca", str(updates.folder), "--ca", ca.url, "--mirror", f"{mirror.url}={mirror.vkey}"])
    fleet.members["updates"] = updates
    updates.start()
    return ca, updates


def issue(fleet: Fleet, ca: Member, name: str) -> Path:
    """Have a certificate issued in the landmark-relative form; return its file."""
    key, out = fleet.folder / "leaf.pem", fleet.folder / f"{name}.pem"
    key.write_bytes(encode_pem([PEMBlock("PUBLIC KEY", make_key("ecdsa-p256-sha256", 7).public_key)]))
    what = ["--public-key", str(key), "--dns", name, "--lifetime", "1h", "--form", "landmark", "--out", str(out)]
    run_mtc(["ca", "issue", str(ca.folder), *what])
    return out


def test_from_the_landmark_to_the_verified_certificate(tmp_path: Path) -> None:
    """A client that trusts nobody but pinned keys learns landmarks whole and by delta, and survives everybody's end."""
    with fleet_in(tmp_path) as fleet:
        ca, updates = start_all(fleet)
        first = issue(fleet, ca, "one.example")
        client = str(tmp_path / "client")
        key = str(updates.folder / "policy.pub.pem")
        run_mtc(["trust", "init", client, "--url", updates.url, "--policy-key", key])
        assert mtc("trust", "show", client)[0] == 1
        until(lambda: mtc("trust", "update", client)[1].get("logs"), "the first landmark")
        assert mtc("trust", "update", client, "--metrics", str(tmp_path / "trust.prom"))[0] == 0
        assert 'mtc_trust_staleness{staleness="fresh"} 1.0' in (tmp_path / "trust.prom").read_text()
        code, shown = mtc("trust", "show", client)
        assert (code, shown["staleness"]) == (0, "fresh")
        store = tmp_path / "trust.json"
        store.write_text(run_mtc(["trust", "show", client, "--store"]))
        assert json.loads(run_mtc(["verify", str(first), "--trust", str(store), "--name", "one.example", "--json"]))

        second = issue(fleet, ca, "two.example")
        taken: list[dict[str, object]] = []

        def has_delta() -> bool:
            taken.append(mtc("trust", "update", client)[1])
            return bool(taken[-1].get("new") and taken[-1].get("delta"))

        until(has_delta, "a delta")
        store.write_text(run_mtc(["trust", "show", client, "--store"]))
        run_mtc(["verify", str(second), "--trust", str(store), "--name", "two.example"])
        assert taken[-1]["findings"] == []

        fleet.stop()
        code, outage = mtc("trust", "update", client)
        assert (code, outage["staleness"], outage["reason"]) == (1, "fresh", "peer")
        run_mtc(["verify", str(second), "--trust", str(store), "--name", "two.example"])
        rolled = json.loads(run_mtc(["trust", "rollback", client, "--json"]))
        assert rolled["version"] < rolled["skipped"]
        (tmp_path / "client" / "state").write_bytes(b"damaged")
        assert subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-m", "mtc", "trust", "show", client], capture_output=True, check=False, timeout=WAIT_S
        ).returncode
