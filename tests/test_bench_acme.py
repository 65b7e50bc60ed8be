"""`mtc bench acme`: the promised figures, from real processes, in runs that are too short to be measurements."""

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mtc.acme.config import read_acme_config
from mtc.ca.config import CAConfig
from mtc.ca.folder import create_folder
from mtc.ca.service import open_ca
from mtc.cli.app import app
from mtc.cli.bench_acme import PARTS, ACMEBenchOptions, _print_table, run_bench_acme
from mtc.cli.bench_acme_mocked import mocked_acme
from mtc.cli.bench_acme_servers import CA_ID, Surroundings, has_pebble, write_acme_config
from mtc.errors import UsageError
from mtc.profile import PRIVATE_SERVICE

pytestmark = pytest.mark.usefixtures("near_signer")

PROMISED = ("orders_per_s", "finalize_p50_ms", "finalize_p99_ms", "round_interval_ms")


def measure(folder: Path, capsys: pytest.CaptureFixture[str], *parts: str) -> tuple[dict[str, Any], str]:
    """Return the figures of some servers, and what else was said; a machine that is busy gets more time for them."""
    for seconds in (1.0, 5.0, 20.0):
        run_bench_acme(ACMEBenchOptions(clients=4, seconds=seconds, folder=str(folder), parts=parts, as_json=True))
        printed = capsys.readouterr()
        figures: dict[str, Any] = json.loads(printed.out.splitlines()[-1])
        if all(value > 0 for name, value in figures.items() if name.endswith(("per_s", "p50_ms", "p99_ms"))):
            break
    return figures, printed.err


def test_bench_prints_the_promised_figures(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The JSON holds every promised key, positive, for our server, and its ratio to Pebble where that is installed.

    For people every figure is a row, every server a column, and what holds for all stands below.
    """
    figures, said = measure(tmp_path, capsys, "own", "pebble")
    for name in (*PROMISED, "server_cpu_ms_per_order", "client_cpu_ms_per_order", "requests_per_order"):
        assert figures[name] > 0
    assert figures["finalize_p50_ms"] <= figures["finalize_p99_ms"]
    assert figures["round_interval_ms"] == PRIVATE_SERVICE.round_interval / timedelta(milliseconds=1)
    if has_pebble():
        assert figures["ratio_to_pebble"] == pytest.approx(
            figures["orders_per_s"] / figures["pebble_orders_per_s"], abs=0.01
        )
    else:
        assert "pebble is not installed" in said
        assert "ratio_to_pebble" not in figures
    # Nothing stays behind.
    assert list(tmp_path.iterdir()) == []
    _print_table(figures)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == (["own", "pebble"] if has_pebble() else ["own"])
    assert re.match(r"orders per s +[\d.,]+", lines[1].strip())
    assert re.match(r"round interval ms +100", next(line for line in lines if "interval" in line).strip())
    assert "clients 4" in lines


@pytest.mark.parametrize("part", ["mocked_validation", pytest.param("web_profile", marks=pytest.mark.slow)])
def test_every_other_server_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path, part: str) -> None:
    """What is not our server as it is used has the part's name before every figure."""
    figures, _ = measure(tmp_path, capsys, part)
    assert not set(PROMISED) & figures.keys()
    assert all(figures[f"{part}_{name}"] > 0 for name in PROMISED)


def test_unknown_part_is_refused() -> None:
    """A part that does not exist is named, with those that do, before anything starts."""
    result = CliRunner().invoke(app, ["bench", "acme", "--part", "everything"])
    assert isinstance(result.exception, UsageError)
    assert all(name in result.exception.message for name in ("everything", *PARTS))


def test_configuration_is_one_that_the_server_reads(tmp_path: Path) -> None:
    """What is written for a measured server says where validation goes, and that it is for tests."""
    create_folder(tmp_path / "ca", CAConfig(ca_id=CA_ID, listen=None), None, datetime.now(UTC))
    write_acme_config(tmp_path / "ca", 14000, Surroundings(5002, "127.0.0.1:5353"))
    config = read_acme_config(tmp_path / "ca", PRIVATE_SERVICE)
    assert config is not None
    assert config.is_for_tests
    assert config.validation.settings.servers == ("127.0.0.1:5353",)
    assert config.validation.settings.http_port == 5002


def test_mocked_validation_needs_a_ca_for_tests(tmp_path: Path) -> None:
    """A CA that is not marked as one for tests cannot be run without validation."""
    folder = tmp_path / "ca"
    create_folder(folder, CAConfig(ca_id=CA_ID, listen=None), None, datetime.now(UTC))
    write_acme_config(folder, 14000, Surroundings(5002, "127.0.0.1:5353"))
    file = folder / "acme.toml"
    file.write_text(file.read_text().replace("unsafe_for_tests = true", ""))

    async def work() -> None:
        async with open_ca(folder) as ca:
            with pytest.raises(UsageError, match="unsafe_for_tests"):
                async with mocked_acme(ca):
                    pass

    asyncio.run(work())
