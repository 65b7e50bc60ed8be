"""`mtc demo`, `mtc bench core` and the README: what a newcomer sees first."""

import asyncio
import json
import re
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mtc.cli.app import app
from mtc.cli.bench_core import run_bench
from mtc.cli.demo import run_demo
from mtc.cli.demo_cosign import run_rollback
from mtc.cli.fsck import check_target
from mtc.cli.verify import verify_files
from mtc.errors import UsageError
from mtc.kernel import active_kernel

README = Path(__file__).parents[1] / "README.md"
HOST = "shop.example.com"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that the demonstration has filled."""
    folder = tmp_path_factory.mktemp("demo")
    run_demo(str(folder), 300, with_cosigners=False)
    return folder


def test_demo_tells_its_story(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The demonstration shows a growing log, a path, both forms accepted, and a flipped bit refused."""
    run_demo(str(tmp_path), 100, with_cosigners=False)
    shown = capsys.readouterr().out
    for part in ("A log grows", "covering subtrees", "landmark 5", "Two certificates", "from the proof"):
        assert part in shown
    assert re.search(r"standalone\.pem +standalone ", shown)
    assert re.search(r"landmark-relative\.pem +landmark-relative ", shown)
    assert "trusted-subtree-mismatch" in shown


def test_demo_obtains_its_certificate_over_acme(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The shop's order is validated, its entry stands in the middle of a batch, and the evidence fits all of it."""
    run_demo(str(tmp_path), 100, with_cosigners=False)
    shown = capsys.readouterr().out
    assert re.search(r"order +for shop\.example\.com; pending", shown)
    assert re.search(r"http-01 +the CA looked, see below; ready", shown)
    assert re.search(r"finalize +logged together with the order; valid", shown)
    assert re.search(r"DNS +example\.com CAA +0 issue \"ca\.example\.net\"", shown)
    (index,) = set(re.findall(r"mtc ca evidence \S+/ca (\d+)", shown))
    assert CliRunner().invoke(app, ["ca", "evidence", str(tmp_path / "ca"), index]).exit_code == 0
    findings = asyncio.run(check_target(str(tmp_path / "ca"), None, lambda *_: None))
    assert not findings.items


def test_demo_files_verify_from_the_command_line(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the demonstration wrote verifies with its own trust store, and the broken certificate does not."""
    files = [str(demo / name) for name in ("standalone.pem", "landmark-relative.pem", "broken.pem")]
    code = verify_files(files, trust=str(demo / "trust.json"), name=HOST, at=None, as_json=True)
    verdicts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == 1
    assert [verdict["valid"] for verdict in verdicts] == [True, True, False]
    assert verdicts[2]["reason"] == "trusted-subtree-mismatch"


def test_private_key_file_is_for_its_owner_only(demo: Path) -> None:
    """The private key file is created with mode 0600."""
    assert stat.S_IMODE((demo / "ca" / "signer" / "key.pem").stat().st_mode) == 0o600


def test_demo_runs_twice_into_the_same_folder(demo: Path) -> None:
    """A second run replaces the files of the first."""
    before = (demo / "standalone.pem").read_bytes()
    run_demo(str(demo), 300, with_cosigners=False)
    assert (demo / "standalone.pem").read_bytes() != before


def test_demo_into_a_file_is_refused(demo: Path) -> None:
    """A folder that is a file is an error that names it."""
    with pytest.raises(UsageError) as caught:
        run_demo(str(demo / "ca.pem"), 100, with_cosigners=False)
    assert "ca.pem" in caught.value.message


@pytest.mark.parametrize("entries", [8, 9, 31, 65])
def test_demo_works_for_small_logs(tmp_path: Path, entries: int) -> None:
    """The story holds down to the smallest log that the command allows."""
    run_demo(str(tmp_path), entries, with_cosigners=False)
    assert (tmp_path / "landmark-relative.pem").exists()


def test_demo_shows_cosigners_that_die_and_come_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Real processes: a certificate with the quorum's cosignatures, one mirror dead, both dead, both back."""
    run_demo(str(tmp_path), 31)
    shown = capsys.readouterr().out
    assert re.search(r"w1 +witness 32473\.11 +http://127\.0\.0\.1:[0-9]+ +501", shown)
    assert re.search(r"w1 +consistent with all that I have seen +2,420", shown)
    assert re.search(r"m[12] +and I store and serve all of it +2,420", shown)
    assert re.search(r"mirror m1 dies +issues: 3 cosignatures are enough", shown)
    assert re.search(r"mirror m2 dies too +logs, but no certificate leaves", shown)
    assert re.search(r"both come back, asked again +issues entry 502 with [34] cosignatures", shown)


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


def test_readme_program_runs(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The program in the README verifies the demonstration's certificate and prints what it says."""
    (program,) = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    exec(compile(program.replace("demo-out/", f"{demo}/"), "README.md", "exec"), {})  # noqa: S102 - the README is ours
    assert capsys.readouterr().out.startswith("landmark-relative 32473.1 1 ")


def test_readme_names_only_commands_that_exist() -> None:
    """Each `make` target and `mtc` command in the README exists."""
    text = README.read_text("utf-8")
    makefile = (README.parent / "Makefile").read_text("utf-8")
    for target in re.findall(r"^    make ([a-z]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    for command in re.findall(r"^    mtc ([a-z]+)", text, re.MULTILINE):
        assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0, command
