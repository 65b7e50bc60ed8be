"""`mtc demo`, `mtc bench core` and the README: what a newcomer sees first.

One run of the whole demonstration is one test, because it starts eight processes; what follows it is asked of the same
run.
"""

import asyncio
import errno
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import pytest
from typer.testing import CliRunner

from mtc.cli import demo_leash
from mtc.cli.app import app
from mtc.cli.bench_core import run_bench
from mtc.cli.demo import run_demo
from mtc.cli.demo_cosign import run_rollback
from mtc.cli.demo_outage import run_outage
from mtc.cli.demo_town import Ports, reporting_disk, run_here
from mtc.cli.fsck import check_target
from mtc.cli.verify import verify_files
from mtc.errors import PeerError, UsageError
from mtc.kernel import active_kernel
from mtc.testing.fleet import free_port

README = Path(__file__).parents[1] / "README.md"
HOST = "shop.example.com"
Facts = Mapping[str, object]


def items(facts: Facts, key: str) -> Sequence[Facts]:
    """Return a list of objects among facts."""
    return cast("Sequence[Facts]", facts[key])


def children() -> set[str]:
    """Return the command lines of our processes below this one, wherever they hang now."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"mtc" in words and any(word.startswith(b"serve") for word in words):
            found.add(" ".join(word.decode("utf-8", "replace") for word in words))
    return found


def test_demo_tells_its_whole_story(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a growing log to TLS: both forms, cosigners that die, an order, updates, each handshake, a refusal."""
    folder = tmp_path / "out"
    facts = run_demo(str(folder), 100)
    shown = capsys.readouterr().out
    check_log(shown)
    check_acme(shown, folder)
    check_cosigners(shown)
    check_tls(shown, facts)
    check_files(folder, capsys)
    check_readme_program(folder, capsys)
    assert not [line for line in children() if str(folder) in line]


def check_log(shown: str) -> None:
    """The demonstration shows a growing log, a path, both forms accepted, and a flipped bit refused."""
    for part in ("A log grows", "covering subtrees", "landmark 5", "Two certificates", "from the proof"):
        assert part in shown
    assert re.search(r"standalone\.pem +standalone ", shown)
    assert re.search(r"landmark-relative\.pem +landmark-relative ", shown)
    assert "trusted-subtree-mismatch" in shown


def check_acme(shown: str, folder: Path) -> None:
    """The shop's order is validated, its entry stands in the middle of a batch, and the evidence fits all of it."""
    assert re.search(r"order +for shop\.example\.com; pending", shown)
    assert re.search(r"http-01 +the CA looked, see below; ready", shown)
    assert re.search(r"finalize +logged together with the order; valid", shown)
    assert re.search(r"DNS +example\.com CAA +0 issue \"ca\.example\.net\"", shown)
    (index,) = set(re.findall(r"mtc ca evidence \S+/ca (\d+)", shown))
    assert CliRunner().invoke(app, ["ca", "evidence", str(folder / "ca"), index]).exit_code == 0
    for ca in (folder / "ca", folder / "town" / "ca"):
        assert not asyncio.run(check_target(str(ca), None, lambda *_: None)).items
    assert stat.S_IMODE((folder / "ca" / "signer" / "key.pem").stat().st_mode) == 0o600


def check_cosigners(shown: str) -> None:
    """Real processes: a certificate with the quorum's cosignatures, one mirror dead, both dead, both back."""
    assert re.search(r"w1 +witness 32473\.11 +http://127\.0\.0\.1:[0-9]+ +[0-9]{3}", shown)
    assert re.search(r"w1 +consistent with all that I have seen +2,420", shown)
    assert re.search(r"m[12] +and I store and serve all of it +2,420", shown)
    assert re.search(r"mirror m1 dies +issues: 3 cosignatures are enough", shown)
    assert re.search(r"mirror m2 dies too +logs, but no certificate leaves", shown)
    assert re.search(r"both come back, asked again +issues entry [0-9]+ with [34] cosignatures", shown)


def check_tls(shown: str, facts: Facts) -> None:
    """Each client is sent the best that it can verify, the one that knows of the revocation refuses, bytes differ."""
    handshakes = items(facts, "handshakes")
    assert [item["served"] for item in handshakes] == ["landmark-relative"] * 2 + ["standalone", "classical", None]
    assert [item["acknowledged"] for item in handshakes] == [True, True, True, False, True]
    landmark = re.search(r"landmark\.pem +(32473\.2\.1\.1\.(\d+)) ", shown)
    assert landmark is not None
    asked = [item["asked"] for item in handshakes[:4]]
    assert [asked[0], *asked[2:]] == [[landmark[1]], ["32473.2"], None]
    # The group is that of the newest landmark, and another one may have come meanwhile.
    ((group, _, newest),) = [item.rpartition(".") for item in cast("list[str]", asked[1])]
    assert group == "32473.2.2.1"
    assert int(newest) >= int(landmark[2])
    assert handshakes[0]["signed_by"] == []
    assert "the CA" in cast("list[str]", handshakes[2]["signed_by"])
    refused = cast("Facts", handshakes[4]["refused"])
    assert refused["reason"] == "revoked"
    relative, standalone, classical = (cast("int", handshakes[number]["server_bytes"]) for number in (1, 2, 3))
    assert relative < classical < standalone
    assert items(facts, "updates")[0]["delta"] is False
    assert re.search(r"has landmarks +32473\.2\.2\.1\.\d+ +landmark-relative +[0-9,]+", shown)
    assert re.search(r"knows it is revoked +\S+ +refused ", shown)


def check_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the demonstration wrote verifies with its own trust store, and the broken certificate does not."""
    files = [str(folder / name) for name in ("standalone.pem", "landmark-relative.pem", "broken.pem")]
    code = verify_files(files, trust=str(folder / "trust.json"), name=HOST, at=None, as_json=True)
    verdicts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == 1
    assert [verdict["valid"] for verdict in verdicts] == [True, True, False]
    assert verdicts[2]["reason"] == "trusted-subtree-mismatch"


def check_readme_program(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The program in the README verifies the demonstration's certificate and prints what it says."""
    (program,) = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    exec(compile(program.replace("demo-out/", f"{folder}/"), "README.md", "exec"), {})  # noqa: S102 - the README is ours
    assert capsys.readouterr().out.startswith("landmark-relative 32473.1 1 ")


def test_demo_works_for_small_logs_and_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The story holds down to the smallest log that the command allows; a second run replaces the files of the first.

    With --json nothing but one line is printed.
    """
    certificates = []
    for entries in (8, 9):
        run_demo(str(tmp_path), entries, with_cosigners=False, as_json=True)
        certificates.append((tmp_path / "landmark-relative.pem").read_bytes())
        (line,) = capsys.readouterr().out.splitlines()
        assert json.loads(line)["folder"] == str(tmp_path)
    assert certificates[0] != certificates[1]


def test_demo_into_a_file_is_refused(tmp_path: Path) -> None:
    """A folder that is a file is an error that names it."""
    (tmp_path / "ca.pem").touch()
    with pytest.raises(UsageError, match=r"ca\.pem"):
        run_demo(str(tmp_path / "ca.pem"), 100)


def test_full_disk_is_named(tmp_path: Path) -> None:
    """A disk that is full is an error that says so, and what to do."""
    with pytest.raises(UsageError, match=r"out: no space left on device.*--out"), reporting_disk("out"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    file = tmp_path / "x"
    with pytest.raises(UsageError, match="no such file"), reporting_disk("out"):
        file.read_bytes()


def test_taken_port_is_named() -> None:
    """A port that somebody has is named before anything begins."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=rf"port {port} cannot be had.*in use.*--port"):
            run_demo("/nonexistent", 8, port=port)
        with pytest.raises(UsageError, match="mirror m1"):
            Ports(port).take("mirror m1")
    with pytest.raises(UsageError, match="65536"):
        Ports(65535).check(2)
    assert Ports().take("the CA") != Ports(base := free_port()).take("the CA") == base


def test_commands_inside_this_process_fail_as_they_do_outside(tmp_path: Path) -> None:
    """What a command says when it fails is the error; one that only answers no is an error unless that is allowed."""
    with pytest.raises(UsageError, match="is missing"):
        run_here("trust", "update", str(tmp_path))
    trust, words = tmp_path / "trust.json", tmp_path / "words.pem"
    trust.write_text(json.dumps({"version": 1, "cas": []}))
    words.write_text("no certificate")
    with pytest.raises(PeerError, match=r"words\.pem"):
        run_here("verify", str(words), "--trust", str(trust))
    assert "words.pem" in run_here("verify", str(words), "--trust", str(trust), must_succeed=False)


_HOLDER = """
import importlib.util, os, subprocess, sys, time
spec = importlib.util.spec_from_file_location("leash", sys.argv[1])
leash = importlib.util.module_from_spec(spec)
spec.loader.exec_module(leash)
with leash.Leash() as held:
    with held.starting():
        child = subprocess.Popen(["sleep", "600"], start_new_session=True, env=held.environment)
        if sys.argv[2] != "SIGKILL":
            held.hold(child.pid)
    print(child.pid, flush=True)
    if sys.argv[2] == "raise":
        raise RuntimeError
    if sys.argv[2] == "return":
        sys.exit()
    while True:
        time.sleep(0.01)
"""


@pytest.mark.parametrize("ending", ["SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "raise", "return"])
def test_no_child_outlives_the_leash(ending: str) -> None:
    """However the holder ends, also killed before it could say what it has started, what it holds ends with it."""
    command = [sys.executable, "-I", "-S", "-c", _HOLDER, demo_leash.__file__, ending]
    with subprocess.Popen(  # noqa: S603 - the program above
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        if ending.startswith("SIG"):
            holder.send_signal(signal.Signals[ending])
        holder.wait(30)
    until = time.monotonic() + 30
    while is_alive(child) and time.monotonic() < until:
        time.sleep(0.01)
    assert not is_alive(child)


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and that nobody asked about does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("log", ["w1.log", "client/state", "site.log"])
def test_no_process_outlives_the_demonstration(tmp_path: Path, number: int, log: str) -> None:
    """Ended in the middle of anything, the demonstration leaves no process behind."""
    command = [sys.executable, "-m", "mtc", "demo", "--out", str(tmp_path), "--entries", "8"]
    with subprocess.Popen(  # noqa: S603 - our own program
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as demo:
        until = time.monotonic() + 60
        while not (tmp_path / "town" / log).exists() and time.monotonic() < until:
            time.sleep(0.01)
        assert demo.poll() is None
        demo.send_signal(number)
        demo.wait(60)
    until = time.monotonic() + 30
    while (left := [line for line in children() if str(tmp_path) in line]) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left


def test_everybody_connects_through_an_outage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A day without CA, mirrors and update service: all connect and say how stale they are; then all are fresh.

    What has expired is refused, with its reason, and never accepted; only a classical certificate is left then.
    """
    facts = run_outage(str(tmp_path))
    shown = capsys.readouterr().out
    assert facts["killed"] == ["ca", "m1", "m2", "updates"]
    hours = items(facts, "hours")
    assert [item["hour"] for item in hours] == list(range(25))
    for item in hours:
        assert list(cast("Facts", item["served"]).values()) == [
            "landmark-relative",
            "standalone",
            "standalone",
            "classical",
        ]
    # The sixth hour is the very border.
    staleness = [item["staleness"] for item in hours]
    assert staleness[:6] + staleness[7:] == ["fresh"] * 6 + ["stale"] * 18
    expired = [item for item in items(facts, "later") if item["staleness"] == "expired"]
    assert [item["hour"] for item in expired] == [49, 72]
    for item in expired:
        assert list(cast("Facts", item["refused_first"]).values()) == ["expired"] * 3
        assert set(cast("Facts", item["served"]).values()) == {"classical"}
    back = cast("Facts", facts["back"])
    assert back["staleness"] == "fresh"
    assert list(cast("Facts", back["served"]).values()) == ["landmark-relative"] * 3 + ["classical"]
    assert re.search(r"^ +24 +landmark +standalone +standalone +classical +stale +24 +24 h", shown, re.MULTILINE)
    assert re.search(r"^ +24 +landmark +landmark +landmark +classical +fresh +0 +48 h", shown, re.MULTILINE)


def test_demo_of_a_rollback_names_the_mirror_that_remembers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Yesterday's copy refuses to run and names the mirror; the newest disk goes on."""
    run_rollback(str(tmp_path))
    shown = capsys.readouterr().out
    assert re.search(r"m1 cosigned [0-9]+ entries, this log knows 3", shown)
    assert "exit status 2; nothing was signed" in shown
    assert "Nothing was signed twice, nothing is lost." in shown


def test_bench_prints_the_promised_figures(capsys: pytest.CaptureFixture[str]) -> None:
    """The JSON of the benchmark holds every promised key with a positive figure; no bar is tested here."""
    run_bench(as_json=True, seconds=0.05)
    figures = json.loads(capsys.readouterr().out)
    promised = (
        "landmark_verify_us landmark_path_verify_us landmark_verify_batch_us standalone_verify_us p256_verify_us "
        "landmark_vs_p256 root_1m_s root_vs_python_kernel proofs_per_s"
    )
    for key in promised.split():
        assert figures[key] > 0
    assert figures["kernel"] == active_kernel().name


def test_readme_names_only_commands_that_exist() -> None:
    """Each `make` target and `mtc` command in the README exists."""
    text = README.read_text("utf-8")
    makefile = (README.parent / "Makefile").read_text("utf-8")
    for target in re.findall(r"^    make ([a-z-]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    for command in re.findall(r"^    mtc ([a-z-]+)", text, re.MULTILINE):
        assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0, command


def test_demonstration_installs_nothing_where_the_environment_is(tmp_path: Path) -> None:
    """`make demo` takes an environment as it is, however old it is; KEEP is handed on."""
    makefile = README.parent / "Makefile"
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "mtc").touch()
    for variables, command in (([], ".venv/bin/mtc demo"), (["KEEP=1"], ".venv/bin/mtc demo --keep")):
        make = ["make", "-n", "--no-print-directory", "-f", str(makefile), "demo", *variables]
        # This test may run below a make, whose variables are not for that one.
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "KEEP"))}
        said = subprocess.run(make, cwd=tmp_path, env=clean, capture_output=True, text=True, check=True)  # noqa: S603 - the Makefile is ours
        assert said.stdout.strip() == command
