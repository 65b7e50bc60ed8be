"""The part of `mtc demo` with independent cosigners, and `mtc demo rollback`: real processes on loopback.

Every party is started as an operator would start it, with its own folder, key and port; nothing here has a shortcut
into another's memory.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from rich.console import Console
from rich.rule import Rule

from mtc.cert import Certificate, parse_certificate_chains
from mtc.cli.output import console, shown, table
from mtc.errors import PeerError, Reason
from mtc.ids import TrustAnchorID
from mtc.testing.fleet import Fleet, Member, fleet_in

COSIGNERS = (("witness", "w1", "32473.11"), ("mirror", "m1", "32473.21"), ("mirror", "m2", "32473.22"))
CA_ID = "32473.2"
OLD_ENTRIES = 500
FOLDER = "cosigners"
_WAIT_S = 30.0


def tell_cosigners(out: Console, folder: Path, number: int) -> None:
    """Start a CA with one witness and two mirrors; stop mirrors and show what happens."""
    out.print(Rule(f"{number}  Others watch", align="left", style="dim"))
    out.print(
        "A CA alone could show one log to some and another to others. So a [bold]witness[/] and two [bold]mirrors[/],\n"
        "each a process with its own key, cosign every round. The quorum here: the witness and one mirror of two.\n"
    )
    place = folder / FOLDER
    shutil.rmtree(place, ignore_errors=True)
    with fleet_in(place) as fleet:
        _begin(fleet, place)
        first = _start(out, fleet, place)
        _show(out, fleet, first)
        _stop_mirrors(out, fleet, place)
    out.print()


def _begin(fleet: Fleet, place: Path) -> None:
    """Make a CA whose log is not empty, and the cosigners, and introduce all to each other."""
    ca = fleet.add_ca(CA_ID)
    requests = place / "requests.jsonl"
    key = _new_key().decode()
    lines = [{"public_key": key, "dns": [f"old-{number}.example.com"]} for number in range(OLD_ENTRIES)]
    requests.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    _mtc(["ca", "issue", str(ca.folder), "--bulk", str(requests), "--out", str(place / "answers.jsonl")])
    for role, name, cosigner_id in COSIGNERS:
        fleet.add_cosigner(role, name, cosigner_id)
    fleet.introduce()
    config = ca.folder / "ca.toml"
    head, line, rest = config.read_text("utf-8").partition("[quorum]")
    comment, _, rest = rest.partition("\n")
    rule = 'required = ["w1"]\nat_least = 1\nof = ["m1", "m2"]\nwait = "3s"\n'
    config.write_text(f"{head}{line}{comment}\n{rule}{rest}", "utf-8")


def _new_key() -> bytes:
    """Return a public key that nobody uses, PEM."""
    key = generate_private_key(SECP256R1()).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _start(out: Console, fleet: Fleet, place: Path) -> Certificate:
    """Start everybody, issue one certificate, and say what runs where."""
    rows = table("process", "who it is", "listens on", "log entries", numeric=(3,))
    began = time.perf_counter()
    for member in [*fleet.cosigners(), fleet.members["ca"]]:
        member.start()
    took = time.perf_counter() - began
    first = _issue(fleet, "watched.example.com", place)
    _until(lambda: _sizes(fleet)[0] > 0 and len(set(_sizes(fleet))) == 1, "the cosigners did not catch up")
    for member in fleet.members.values():
        what = f"certification authority {CA_ID}" if member.role == "ca" else f"{member.role} {_id_of(member)}"
        size = "" if member.role == "ca" else f"{_size(member):,}"
        rows.add_row(member.name, what, member.url, size)
    out.print(rows)
    out.print(f"[dim]Up in {took:.1f} s; the mirrors fetched nothing: the CA uploaded its log to them.[/]\n")
    return first


def _id_of(member: Member) -> str:
    """Return a cosigner's ID."""
    return next(cosigner_id for _, name, cosigner_id in COSIGNERS if name == member.name)


def _size(member: Member) -> int:
    """Return how much of the log a cosigner has signed."""
    logs = member.health()["logs"]
    return max((int(log["tree_size"]) for log in logs), default=0) if isinstance(logs, list) else 0


def _sizes(fleet: Fleet) -> list[int]:
    """Return how much each cosigner has signed."""
    return [_size(member) for member in fleet.cosigners()]


def _until(is_so: Callable[[], bool], otherwise: str) -> float:
    """Wait until something is so; return the seconds that took."""
    began = time.monotonic()
    while time.monotonic() - began < _WAIT_S:
        if is_so():
            return time.monotonic() - began
        time.sleep(0.05)
    raise PeerError(Reason.PEER, f"{otherwise} in {_WAIT_S:.0f} s")


def _request(fleet: Fleet, name: str, place: Path) -> tuple[list[str], Path]:
    """Return the command that asks for a certificate under a made-up name, and the file that it writes.

    Asked again for the same name, it is the same request: same key, same request key, and so the same entry.
    """
    key, file = place / f"{name}.pub.pem", place / f"{name}.pem"
    if not key.exists():
        key.write_bytes(_new_key())
    ca = str(fleet.members["ca"].folder)
    return ["ca", "issue", ca, "--public-key", str(key), "--dns", name, "--request-key", name, "--out", str(file)], file


def _issue(fleet: Fleet, name: str, place: Path) -> Certificate:
    """Issue one certificate over the CA's socket, as `mtc ca issue` does."""
    command, file = _request(fleet, name, place)
    _mtc(command)
    return Certificate.parse(parse_certificate_chains(file.read_bytes())[0].certificates[0])


def _ask_again(fleet: Fleet, name: str, place: Path) -> Certificate:
    """Ask for a certificate until it comes: its entry is logged, and its quorum is on the way."""
    until = time.monotonic() + _WAIT_S
    while True:
        try:
            return _issue(fleet, name, place)
        except PeerError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def _mtc(arguments: Sequence[str]) -> None:
    """Run a command of ours. Raises PeerError with what it said when it fails."""
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "mtc", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise PeerError(Reason.PEER, done.stderr.strip().removeprefix("mtc: "), status=done.returncode)


def _show(out: Console, fleet: Fleet, certificate: Certificate) -> None:
    """Show the cosignatures that a certificate carries."""
    names = {_binary(member): member for member in fleet.cosigners()}
    out.print("A certificate that left once the quorum had signed:\n")
    rows = table("cosignature by", "says", "bytes", numeric=(2,))
    for item in certificate.proof.signatures:
        member = names.get(item.cosigner_id)
        if member is None:
            rows.add_row("the CA", "I certify each entry in this subtree", f"{len(item.signature):,}")
        elif member.role == "witness":
            rows.add_row(member.name, "consistent with all that I have seen", f"{len(item.signature):,}")
        else:
            rows.add_row(member.name, "and I store and serve all of it", f"{len(item.signature):,}")
    out.print(rows)
    out.print()


def _binary(member: Member) -> bytes:
    """Return a cosigner's ID as certificates carry it."""
    return TrustAnchorID.parse(_id_of(member)).binary


def _stop_mirrors(out: Console, fleet: Fleet, place: Path) -> None:
    """Stop one mirror, then the other, and start them again."""
    rows = table("what happens", "what the CA does", "ms", numeric=(2,))
    one, two = fleet.members["m1"], fleet.members["m2"]
    one.kill()
    began = time.perf_counter()
    certificate = _issue(fleet, "one-mirror.example.com", place)
    held = len(certificate.proof.signatures)
    rows.add_row("mirror m1 dies", f"[green]issues[/]: {held} cosignatures are enough", _ms(began))
    two.kill()
    began = time.perf_counter()
    try:
        _issue(fleet, "no-mirror.example.com", place)
    except PeerError:
        rows.add_row("mirror m2 dies too", "[bold yellow]logs, but no certificate leaves[/]", _ms(began))
    else:
        raise AssertionError("a certificate left without its quorum")
    began = time.perf_counter()
    for member in (one, two):
        member.start()
    late = _ask_again(fleet, "no-mirror.example.com", place)
    text = f"[green]issues[/] entry {late.serial & (1 << 48) - 1} with {len(late.proof.signatures)} cosignatures"
    rows.add_row("both come back, asked again", text, _ms(began))
    out.print(rows)


def _ms(began: float) -> str:
    """Return the milliseconds since a moment."""
    return f"{(time.perf_counter() - began) * 1000:,.0f}"


def run_rollback(folder_name: str) -> None:
    """`mtc demo rollback`: a power cut, yesterday's copy restored, and a mirror that remembers."""
    out = console()
    place = Path(folder_name) / "rollback"
    shutil.rmtree(place, ignore_errors=True)
    out.print(Rule("A disk forgets, a mirror does not", align="left", style="dim"))
    with fleet_in(place) as fleet:
        ca = fleet.add_ca("32473.1")
        mirror = fleet.add_cosigner("mirror", "m1", "32473.21")
        fleet.introduce()
        mirror.start()
        ca.start()
        yesterday, today = place / "ca.yesterday", place / "ca.today"
        for number in range(3):
            _issue(fleet, f"monday-{number}.example.com", place)
        _tell(out, fleet, "The CA runs; mirror m1 cosigns what it stores.")
        ca.stop()
        shutil.copytree(ca.folder, yesterday, symlinks=True)
        ca.start()
        for number in range(3):
            _issue(fleet, f"tuesday-{number}.example.com", place)
        _tell(out, fleet, "A copy of its folder was made. It went on.")
        _cut_power(fleet, place)
        _tell(out, fleet, "Power cut in the middle of a round: the CA's processes were killed.", is_up=False)
        ca.folder.rename(today)
        shutil.copytree(yesterday, ca.folder, symlinks=True)
        out.print("[bold]Somebody restores yesterday's copy[/] and starts the CA:\n")
        _expect_refusal(out, ca)
        shutil.rmtree(ca.folder)
        today.rename(ca.folder)
        out.print("\n[bold]The newest disk is put back[/]; the unfinished round is finished, and it goes on:\n")
        ca.start()
        _issue(fleet, "wednesday.example.com", place)
        _tell(out, fleet, "Nothing was signed twice, nothing is lost.")


def _cut_power(fleet: Fleet, place: Path) -> None:
    """Kill the CA, its signer too, while a round is under way."""
    ca = fleet.members["ca"]
    command, _ = _request(fleet, "cut.example.com", place)
    with subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "mtc", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as request:
        size = _size(fleet.members["m1"])
        until = time.monotonic() + 5
        while _size(fleet.members["m1"]) == size and time.monotonic() < until:
            time.sleep(0.002)
        ca.signal(signal.SIGKILL)
        ca.kill()
        request.terminate()


def _tell(out: Console, fleet: Fleet, text: str, *, is_up: bool = True) -> None:
    """Say where CA and mirror stand."""
    now = datetime.now(UTC).strftime("%H:%M:%S")
    state = "" if is_up else " [red](down)[/]"
    held = _size(fleet.members["m1"])
    out.print(f"[dim]{now}[/]  {text}\n          mirror m1 has cosigned [bold]{held}[/] entries{state}\n")


def _expect_refusal(out: Console, ca: Member) -> None:
    """Start the CA, which must refuse, and show what it says."""
    before = ca.log_file.stat().st_size
    try:
        ca.start(wait=False)
        assert ca.process is not None
        ca.process.wait(_WAIT_S)
    except subprocess.TimeoutExpired:
        ca.kill()
        raise AssertionError("a CA that was rolled back runs") from None
    status = ca.process.returncode
    ca.process = None
    said = ca.log_file.read_text("utf-8", "replace")[before:].strip().splitlines()
    for line in [line for line in said if line][-2:]:
        out.print(f"  [red]{shown(_plain(line))}[/]")
    out.print(f"\n  [dim]exit status {status}; nothing was signed[/]")
    if not status:
        raise AssertionError("a CA that was rolled back ended as if all were well")


def _plain(line: str) -> str:
    """Return a line of a log, without its JSON."""
    try:
        fields = json.loads(line)
    except ValueError:
        return line
    return str(fields.get("error") or fields.get("event") or line)
