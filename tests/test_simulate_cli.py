"""`mtc simulate landmarks` as people and scripts use it: options, scenario files, JSON, CSV and the picture."""

import json
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from mtc.cli.app import app
from mtc.cli.simulate import SimulateOptions, run_simulate, series_csv, sparkline
from mtc.cli.simulate_scenario import format_scenario, parse_outage, parse_scenario, scale
from mtc.errors import UsageError
from mtc.simulate import CAGroup, ClientClass, Failure, Outage, Scenario, simulate, web_scenario
from mtc.simulate.picture import draw_outcome, panels_of, round_up

HOUR = timedelta(hours=1)


def run(*arguments: str) -> str:
    """Run the command and return what it prints."""
    result = CliRunner().invoke(app, ["simulate", "landmarks", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_json_has_the_promised_figures() -> None:
    """Bytes, egress, staleness, shares by class and over time are there, under stable names."""
    figures = json.loads(run("--clients", "1e9", "--cas", "500", "--days", "2", "--json"))
    assert figures["clients"] == 10**9
    assert figures["cas"] == 500
    assert figures["egress"].keys() == {
        "bytes_per_day",
        "mean_bits_per_s",
        "peak_bits_per_s",
        "mean_updates_per_s",
        "peak_updates_per_s",
    }
    assert figures["egress"]["bytes_per_day"] == pytest.approx(figures["bytes_per_client_day"] * 10**9)
    assert figures["staleness"]["percentiles_s"].keys() == {"50", "90", "99", "99.9"}
    assert sum(figures["shares"].values()) == pytest.approx(1)
    assert [one["name"] for one in figures["classes"]] == ["phone", "desktop", "rare", "always-on"]
    assert sum(one["clients"] for one in figures["classes"]) == 10**9
    assert [one["at_s"] for one in figures["series"]] == [hour * 3600 for hour in range(48)]
    assert sum(figures["series"][5]["shares"].values()) == pytest.approx(1)


@pytest.mark.slow
def test_month_of_a_billion_clients_and_hundreds_of_cas_takes_seconds() -> None:
    """The cost is that of classes and groups, even when each of 500 CAs is a group of its own."""
    groups = tuple(
        CAGroup(
            name=f"ca-{number}",
            count=1,
            certificates=10_000 + number,
            lifetime=timedelta(days=7 if number % 2 else 47),
            landmark_interval=HOUR * (1 if number % 2 else 4),
        )
        for number in range(500)
    )
    start = time.process_time()
    simulate(replace(web_scenario(10**9), groups=groups))
    # Some five seconds where it was written; the bound only says that nothing grows with the clients.
    assert time.process_time() - start < 60


def test_table_tells_of_outages(tmp_path: Path) -> None:
    """What failed and what it did stands in the text, and the files are written."""
    plot, series = tmp_path / "plot.svg", tmp_path / "series.csv"
    outages = ("--outage", "service@1d+12h", "--outage", "ca/7-day@2d+6h")
    text = run("--days", "3", *outages, "--plot", str(plot), "--csv", str(series))
    assert "service at 1 days for 0.5 days" in text
    assert "ca of 7-day at 2 days for 0.25 days" in text
    for title in ("Distribution", "Handshakes", "Staleness at handshakes, hours", "Over time", "always-on"):
        assert title in text
    lines = series.read_text().splitlines()
    assert len(lines) == 1 + 72
    assert {line.count(",") for line in lines} == {8}
    during = dict(zip(lines[0].split(","), lines[1 + 30].split(","), strict=True))
    assert during["at_s"] == "108000"
    assert float(during["egress_bits_per_s"]) == 0
    assert ET.fromstring(plot.read_text()).tag.endswith("svg")  # noqa: S314 - the picture is our own


def test_example_is_the_scenario_itself(tmp_path: Path) -> None:
    """What --example prints reads back as the scenario that it was printed from, options included."""
    file = tmp_path / "scenario.toml"
    file.write_text(run("--example", "--clients", "1000", "--cas", "7", "--outage", "ca/7-day@1d+2h"))
    scenario = parse_scenario(file.read_text(), "x")
    assert scenario.clients == 1000
    assert scenario.cas == 7
    assert scenario.outages == (Outage(failure=Failure.CA, start=24 * HOUR, length=2 * HOUR, group="7-day"),)
    assert run(str(file), "--example") == file.read_text()
    assert json.loads(run(str(file), "--days", "1", "--json"))["clients"] == 1000


def test_options_change_the_scenario() -> None:
    """Each option stands in the scenario that is simulated, and the rest of it stays."""
    text = run("--example", "--days", "3", "--landmark-bytes", "675", "--proof-bytes", "4900", "--cas", "1")
    scenario = parse_scenario(text, "x")
    default = web_scenario(cas=1)
    assert scenario == replace(
        default,
        duration=timedelta(days=3),
        service=replace(default.service, landmark_bytes=675, proof_bytes=4900),
    )


durations = st.integers(1, 10**6).map(lambda seconds: timedelta(seconds=seconds))
names = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=8)


@given(
    st.lists(
        st.builds(
            ClientClass,
            name=names,
            count=st.integers(0, 10**12),
            update_interval=st.one_of(st.none(), durations.map(lambda value: value + HOUR)),
            offline=st.one_of(st.just(timedelta(0)), durations),
            handshakes_per_hour=st.floats(0, 1e6),
        ),
        min_size=1,
        max_size=3,
        unique_by=lambda one: one.name,
    ),
    st.builds(CAGroup, name=names, count=st.integers(0, 100), traffic=st.one_of(st.none(), st.floats(0, 1e9))),
    durations,
)
def test_scenario_survives_its_text(classes: list[ClientClass], group: CAGroup, length: timedelta) -> None:
    """Any scenario is written as TOML that reads back as the same."""
    outages = (
        Outage(failure=Failure.SERVICE, start=HOUR, length=length),
        Outage(failure=Failure.CA, start=length, length=HOUR, group=group.name),
    )
    scenario = Scenario(classes=tuple(classes), groups=(group,), outages=outages)
    assert parse_scenario(format_scenario(scenario), "x") == scenario


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=6), st.integers(0, 10**12))
def test_scaling_keeps_the_sum_and_the_proportions(counts: list[int], total: int) -> None:
    """Scaled counts add up to the total and stand to each other as before, to within one client."""
    scaled = scale(counts, total)
    assert sum(scaled) == total
    assert min(scaled) >= 0
    if sum(counts):
        for count, value in zip(counts, scaled, strict=True):
            assert abs(value - count * total / sum(counts)) <= 1 + total * 1e-12


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[", "no TOML"),
        ("step = 5", "no duration"),
        ("step = '30'", "no duration"),
        ("steps = '30m'", "no key of a scenario"),
        ("[service]\nlandmark_bytes = '64'", "landmark_bytes"),
        ("[service]\nbase_bytes = -1", "from 0 on"),
        ("[handshake_bytes]\nbody = true", "body"),
        ("service = 1", "no table"),
        ("[clients]\nname = 'x'", r"\[\[clients\]\]"),
        ("[[clients]]\ncount = 1", "clients 1.name is missing"),
        ("[[clients]]\nname = 'x'\ncount = 1.5", "number from 0"),
        ("[[clients]]\nname = 'x'\ncount = 1\nupdate_interval = 'sometimes'", "no duration"),
        ("[[clients]]\nname = 'x'\ncount = 1\nhandshakes_per_hour = 'many'", "must be a number"),
        ("[[ca]]\nname = 'x'", "ca 1.count is missing"),
        ("[[ca]]\nname = 'x'\ncount = 1\ninterval = '1h'", "no key of a scenario"),
        ("[[outage]]\nfailure = 'sun'", "service, publisher, ca"),
        ("[[outage]]\nfailure = 'ca'\nstart = '1d'", "length is missing"),
    ],
)
def test_bad_scenario_file_is_refused(text: str, complaint: str) -> None:
    """What is wrong in a file is refused by name, and nothing is guessed."""
    with pytest.raises(UsageError, match=complaint):
        parse_scenario(text, "scenario.toml")


@pytest.mark.parametrize("text", ["", "service", "service@1d", "sun@1d+1d", "service@1d+x", "service/x@1d+1d"])
def test_bad_outage_is_refused(text: str) -> None:
    """An outage on the command line has a kind, a start and a length."""
    with pytest.raises(UsageError):
        parse_outage(text)


def test_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """A scenario is UTF-8."""
    file = tmp_path / "x.toml"
    file.write_bytes(b"\xff")
    with pytest.raises(UsageError, match="UTF-8"):
        run_simulate(SimulateOptions(scenario=str(file)))


def test_picture_is_drawn_from_the_series() -> None:
    """Three panels hold every moment, their scales hold every value, and the same outcome has the same bytes."""
    outcome = simulate(
        replace(
            web_scenario(),
            duration=timedelta(days=2),
            outages=(Outage(failure=Failure.SERVICE, start=12 * HOUR, length=12 * HOUR),),
        )
    )
    panels = panels_of(outcome)
    assert [len(panel.curves) for panel in panels] == [3, 2, 1]
    for panel in panels:
        for curve in panel.curves:
            assert len(curve.values) == 48
            assert panel.low <= min(curve.values) <= max(curve.values) <= panel.high
    picture = draw_outcome(outcome)
    assert picture == draw_outcome(outcome)
    root = ET.fromstring(picture)  # noqa: S314 - the picture is our own
    shapes = [node for node in root.iter() if node.tag.endswith(("polygon", "polyline"))]
    assert len(shapes) == 6
    assert series_csv(outcome).count("\n") == 49


@pytest.mark.parametrize(
    ("value", "expected"), [(0, 1), (0.03, 0.05), (0.9, 1), (1, 1), (1.1, 2), (9, 10), (23, 50), (100, 100), (377, 500)]
)
def test_scale_ends_at_a_round_number(value: float, expected: float) -> None:
    """A scale ends at the next of 1, 2 and 5 in its power of ten."""
    assert round_up(value) == pytest.approx(expected)


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=200))
def test_bars_show_whatever_is_not_zero(values: list[float]) -> None:
    """The highest value has the highest bar, what is not zero has one, and there is one column for each part."""
    bars = sparkline(values).plain
    assert len(bars) == min(60, len(values))
    assert ("█" in bars) == any(values)
    assert len(values) > 60 or [bar != " " for bar in bars] == [value > 0 for value in values]
