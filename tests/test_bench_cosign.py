"""`mtc bench cosign`: the promised figures, from real processes, in a run that is too short to be a measurement."""

import json
from pathlib import Path

import pytest
from tests.note_keys import MIRROR
from typer.testing import CliRunner

from mtc.cli.app import app
from mtc.cli.bench_cosign import CosignBenchOptions, parse_target, run_bench_cosign, yardsticks
from mtc.errors import Error, UsageError


@pytest.mark.usefixtures("near_signer")
def test_bench_prints_the_promised_figures(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The JSON holds every promised key with positive figures; a foreign cosigner that is away costs only its own."""
    key_file = tmp_path / "log-key.pem"
    away = f"http://127.0.0.1:1,{MIRROR.key.encode()}"
    make_key(key_file)
    run_bench_cosign(
        CosignBenchOptions(
            seconds=0.2,
            quorums=(0, 1),
            folder=str(tmp_path),
            log_key=str(key_file),
            foreign_mirrors=(away,),
            as_json=True,
        )
    )
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    for name in ("round_p50_ms", "round_p99_ms"):
        assert figures[name].keys() == {"0", "1"}
        assert all(value > 0 for value in figures[name].values())
    assert figures["round_p50_ms"]["0"] <= figures["round_p99_ms"]["0"]
    for name in ("witness_checkpoints_per_s", "mirror_entries_per_s", "leaf_hashes_per_s"):
        assert figures[name] > 0
    assert "does not answer" in figures["foreign_mirror_failures"][MIRROR.key.name]
    # Nothing stays behind.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log-key.pem", "logs.json"]


def make_key(file: Path) -> None:
    """Make throw-away logs."""
    assert not CliRunner().invoke(app, ["hammer", "--make-log", str(file.parent), "--logs", "2"]).exit_code


def test_foreign_cosigners_need_logs_that_they_know() -> None:
    """Without --log-key nobody else could know the logs, and that is said before anything starts."""
    with pytest.raises(UsageError, match="--make-log"):
        run_bench_cosign(CosignBenchOptions(foreign_witnesses=(f"http://x,{MIRROR.key.encode()}",)))


@pytest.mark.parametrize("text", ["", "http://x", "http://x,", "x,y", f"x,{MIRROR.key.encode()}"])
def test_target_that_is_none_is_refused(text: str) -> None:
    """A foreign cosigner is URL,vkey."""
    with pytest.raises(Error, match="URL,vkey"):
        parse_target(text)


def test_target_is_url_and_key() -> None:
    """The key names the target in the report."""
    target = parse_target(f"http://x.example/w/,{MIRROR.key.encode()}")
    assert (target.name, target.url, target.keys) == (MIRROR.key.name, "http://x.example/w", (MIRROR.key,))


def test_yardsticks_are_positive() -> None:
    """What one core does is measured in the same run."""
    assert all(value > 0 for value in yardsticks().values())
