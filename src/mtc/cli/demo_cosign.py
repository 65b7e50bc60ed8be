"""The part of `mtc demo` with independent cosigners, and `mtc demo rollback`: real processes on loopback.

Every party is started as an operator would start it, with its own folder, key and port; nothing here has a shortcut
into another's memory.
"""

import logging
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from mtc.cert import Certificate
from mtc.cli.demo_telling import heading, open_console
from mtc.cli.demo_town import (
    PATIENCE_S,
    Town,
    issue,
    issue_many,
    last_words,
    logged_by,
    patiently,
    reporting_disk,
    town_in,
    until,
)
from mtc.cli.output import shown, table
from mtc.errors import Error
from mtc.ids import TrustAnchorID
from mtc.testing.fleet import Member
from mtc.web.logs import configure_logs

COSIGNERS = (("witness", "w1", "32473.11"), ("mirror", "m1", "32473.21"), ("mirror", "m2", "32473.22"))
CA_ID = "32473.2"
OLD_ENTRIES = 200
_QUORUM = 'required = ["w1"]\nat_least = 1\nof = ["m1", "m2"]\nwait = "3s"\n'


def found_town(town: Town, *ca_options: str) -> None:
    """Make a CA, one witness and two mirrors, introduce them to each other, and write the quorum; nothing runs yet."""
    town.add_ca(CA_ID, *ca_options)
    for role, name, cosigner_id in COSIGNERS:
        town.add_cosigner(role, name, cosigner_id)
    town.require(_QUORUM)


def cosigners_of(town: Town) -> list[Member]:
    """Return the witness and the mirrors."""
    return [town.members[name] for _, name, _ in COSIGNERS]


def names_of_cosigners(town: Town) -> dict[bytes, str]:
    """Return how the CA and each cosigner are called, by their IDs as certificates carry them."""
    names = {TrustAnchorID.parse(number).binary: name for _, name, number in COSIGNERS if name in town.members}
    return {TrustAnchorID.parse(CA_ID).binary: "the CA", **names}


def tell_cosigners(out: Console, town: Town, started_s: float) -> None:
    """Show who runs and what they sign; stop mirrors and show what happens. started_s: how long the start took."""
    out.print(
        "A CA alone could show one log to some and another to others. So a [bold]witness[/] and two "
        "[bold]mirrors[/],\neach a process with its own key, cosign every round. "
        "The quorum: the witness and a mirror.\n"
    )
    patiently(town, lambda: issue_many(town, OLD_ENTRIES))
    first = patiently(town, lambda: issue(town, "watched.example.com"))
    sizes = [0]

    def are_even() -> bool:
        sizes[:] = [logged_by(member) for member in cosigners_of(town)]
        return sizes[0] > OLD_ENTRIES and len(set(sizes)) == 1

    until(are_even, "the cosigners did not catch up")
    rows = table("process", "who it is", "listens on", "log entries", numeric=(3,))
    for member, size in zip(cosigners_of(town), sizes, strict=True):
        number = next(number for _, name, number in COSIGNERS if name == member.name)
        rows.add_row(member.name, f"{member.role} {number}", member.url, f"{size:,}")
    rows.add_row("ca", f"certification authority {CA_ID}", town.members["ca"].url, "")
    if "updates" in town.members:
        rows.add_row("updates", "update service", town.members["updates"].url, "")
    out.print(rows)
    out.print(f"[dim]Up in {started_s:.1f} s; the mirrors fetched nothing: the CA uploaded its log to them.[/]\n")
    _show_cosignatures(out, town, first)
    _stop_mirrors(out, town)


def _show_cosignatures(out: Console, town: Town, certificate: Certificate) -> None:
    """Show the cosignatures that a certificate carries."""
    names = names_of_cosigners(town)
    out.print("A certificate that left once the quorum had signed:\n")
    rows = table("cosignature by", "says", "bytes", numeric=(2,))
    for item in certificate.proof.signatures:
        name = names.get(item.cosigner_id, item.name)
        says = {"the CA": "I certify each entry in this subtree", "w1": "consistent with all that I have seen"}
        rows.add_row(name, says.get(name, "and I store and serve all of it"), f"{len(item.signature):,}")
    out.print(rows)
    out.print()


def _stop_mirrors(out: Console, town: Town) -> None:
    """Stop one mirror, then the other, and start them again."""
    rows = table("what happens", "what the CA does", "ms", numeric=(2,))
    one, two = town.members["m1"], town.members["m2"]
    town.kill(one)
    began = time.perf_counter()
    certificate = patiently(town, lambda: issue(town, "one-mirror.example.com"))
    held = len(certificate.proof.signatures)
    rows.add_row("mirror m1 dies", f"[green]issues[/]: {held} cosignatures are enough", _ms(began))
    town.kill(two)
    began = time.perf_counter()
    try:
        issue(town, "no-mirror.example.com")
    except Error:
        rows.add_row("mirror m2 dies too", "[bold yellow]logs, but no certificate leaves[/]", _ms(began))
    else:
        raise AssertionError("a certificate left without its quorum")
    began = time.perf_counter()
    town.start(one, two)
    late = patiently(town, lambda: issue(town, "no-mirror.example.com"))
    text = f"[green]issues[/] entry {late.index} with {len(late.proof.signatures)} cosignatures"
    rows.add_row("both come back, asked again", text, _ms(began))
    out.print(rows)


def _ms(began: float) -> str:
    """Return the milliseconds since a moment."""
    return f"{(time.perf_counter() - began) * 1000:,.0f}"


def run_rollback(folder_name: str) -> None:
    """`mtc demo rollback`: a power cut, yesterday's copy restored, and a mirror that remembers."""
    configure_logs(sys.stderr, level=logging.ERROR)
    out = open_console()
    heading(out, "A disk forgets, a mirror does not")
    with reporting_disk(folder_name), town_in(Path(folder_name) / "rollback") as town:
        ca = town.add_ca("32473.1")
        town.start(town.add_cosigner("mirror", "m1", "32473.21"), ca)
        yesterday, today = town.folder / "ca.yesterday", town.folder / "ca.today"
        for number in range(3):
            issue(town, f"monday-{number}.example.com")
        _tell(out, town, "The CA runs; mirror m1 cosigns what it stores.")
        town.stop(ca)
        shutil.copytree(ca.folder, yesterday, symlinks=True)
        town.start(ca)
        for number in range(3):
            issue(town, f"tuesday-{number}.example.com")
        _tell(out, town, "A copy of its folder was made. It went on.")
        _cut_power(town)
        _tell(out, town, "Power cut in the middle of a round: the CA's processes were killed.", is_up=False)
        ca.folder.rename(today)
        shutil.copytree(yesterday, ca.folder, symlinks=True)
        out.print("[bold]Somebody restores yesterday's copy[/] and starts the CA:\n")
        _expect_refusal(out, town, ca)
        shutil.rmtree(ca.folder)
        today.rename(ca.folder)
        out.print("\n[bold]The newest disk is put back[/]; the unfinished round is finished, and it goes on:\n")
        town.start(ca)
        issue(town, "wednesday.example.com")
        _tell(out, town, "Nothing was signed twice, nothing is lost.")


def _cut_power(town: Town) -> None:
    """Kill the CA, its signer too, while a round is under way."""
    ca, mirror = town.members["ca"], town.members["m1"]
    size = logged_by(mirror)
    key = town.folder / "monday-0.example.com.pub.pem"
    about = ["--public-key", str(key), "--dns", "cut.example.com", "--request-key", "cut.example.com"]
    with subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "mtc", "ca", "issue", str(ca.folder), *about],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as request:
        end = time.monotonic() + 5
        while logged_by(mirror) == size and time.monotonic() < end:
            time.sleep(0.002)
        ca.signal(signal.SIGKILL)
        town.kill(ca)
        request.terminate()


def _tell(out: Console, town: Town, text: str, *, is_up: bool = True) -> None:
    """Say where CA and mirror stand."""
    now = datetime.now(UTC).strftime("%H:%M:%S")
    state = "" if is_up else " [red](down)[/]"
    held = logged_by(town.members["m1"])
    out.print(f"[dim]{now}[/]  {text}\n          mirror m1 has cosigned [bold]{held}[/] entries{state}\n")


def _expect_refusal(out: Console, town: Town, ca: Member) -> None:
    """Start the CA, which must refuse, and show what it says."""
    town.launch(ca)
    assert ca.process is not None
    try:
        status = ca.process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        raise AssertionError("a CA that was rolled back runs") from None
    finally:
        town.kill(ca)
    out.print(f"  [red]{shown(last_words(ca))}[/]")
    out.print(f"\n  [dim]exit status {status}; nothing was signed[/]")
    if not status:
        raise AssertionError("a CA that was rolled back ended as if all were well")
