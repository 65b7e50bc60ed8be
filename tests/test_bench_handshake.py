"""`mtc bench handshake`: the promised figures, from real processes, in a run that is too short to be a measurement."""

import json
import os
import re
import socket
import zlib
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from random import Random
from xml.etree import ElementTree as ET

import pytest
from typer.testing import CliRunner

from mtc.cli.app import app
from mtc.cli.bench_handshake.cases import (
    Row,
    Stopwatch,
    client_of,
    make_credentials,
    read_cases,
    rows_of,
    server_of,
    write_cases,
)
from mtc.cli.bench_handshake.client import Shake
from mtc.cli.bench_handshake.command import HandshakeBenchOptions, command_of, figures_of, run_bench_handshake
from mtc.cli.bench_handshake.connections import Connection, Counters
from mtc.cli.bench_handshake.figures import COMPRESSED_HEADER_BYTES, RowFigures, Tally, Times, Wire, percentile
from mtc.cli.bench_handshake.kinds import HOST, Kind, LeafKey, make_credential
from mtc.cli.bench_handshake.link import CLIENT, SERVER, Weather, netem_command, open_link
from mtc.cli.bench_handshake.measure import Updates, measure_network, prepared
from mtc.cli.bench_handshake.plot import draw_run
from mtc.cli.bench_handshake.report import BEGIN, END, Run, document_part, grids_of, replace_part
from mtc.errors import UsageError
from mtc.testing.network import Port, Underway
from mtc.tls import BackEndName
from mtc.tls.adapters.pyopenssl import load_binding

KINDS = {Kind.LANDMARK_RELATIVE, Kind.STANDALONE_1, Kind.STANDALONE_2, Kind.CLASSICAL}


def test_loopback_prints_the_promised_figures(capsys: pytest.CaptureFixture[str]) -> None:
    """The JSON holds every promised key by kind, and landmark-relative is the smallest that a server can send."""
    run_bench_handshake(HandshakeBenchOptions(handshakes=8, is_loopback=True, back_ends=("stdlib",), as_json=True))
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    for name in ("verify_overhead_percent", "handshakes_per_s", "server_bytes", "client_bytes"):
        assert figures[name].keys() >= KINDS
        assert all(value > 0 for value in figures[name].values())
    sent = figures["server_bytes"]
    order = (Kind.LANDMARK_RELATIVE, Kind.CLASSICAL, Kind.STANDALONE_1, Kind.STANDALONE_2)
    assert [sent[kind] for kind in order] == sorted(sent[kind] for kind in order)
    for row in figures["rows"]:
        assert row["certificate_bytes"] < row["server_bytes"]
        assert row["server_bytes_compressed_computed"]["zlib"] <= row["server_bytes"]
        assert row["verify_us"] < row["handshake_median_us"]
        assert row["client_cpu_us"] > 0 < row["server_cpu_us"]


def test_what_cannot_be_measured_is_said_first() -> None:
    """A document needs the network's figures; a back end that nobody knows is named with those that are there."""
    runner = CliRunner()
    result = runner.invoke(app, ["bench", "handshake", "--loopback", "--write", "x.md"])
    assert isinstance(result.exception, UsageError)
    result = runner.invoke(app, ["bench", "handshake", "--loopback", "--back-end", "abacus"])
    assert isinstance(result.exception, UsageError)
    assert "stdlib" in result.exception.message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may have namespaces")
def test_without_root_the_loopback_is_named() -> None:
    """Who may not make namespaces hears what to do instead."""
    with pytest.raises(UsageError, match="--loopback"), open_link(1):
        pass


# Credentials.


@pytest.mark.parametrize("leaf_key", LeafKey)
def test_credentials_have_their_shapes(leaf_key: LeafKey) -> None:
    """A cosignature takes some 2,420 bytes; a chain has an intermediate and two timestamps; all are for one name."""
    made = {kind: make_credential(kind, leaf_key) for kind in Kind}
    sizes = {kind: len(one.certificate_message()) for kind, one in made.items()}
    for fewer, more in (
        (Kind.LANDMARK_RELATIVE, Kind.STANDALONE_1),
        (Kind.STANDALONE_1, Kind.STANDALONE_2),
    ):
        assert 2420 <= sizes[more] - sizes[fewer] <= 2440
    assert sizes[Kind.LANDMARK_RELATIVE] < sizes[Kind.CLASSICAL] < sizes[Kind.POST_QUANTUM]
    # Two certificates and two timestamps are signed, and one key is the intermediate's.
    assert sizes[Kind.POST_QUANTUM] > 4 * 2420 + 1312
    for kind, one in made.items():
        assert one.sent.dns_names[0] == HOST.encode()
        assert len(one.sent.certificates) == (1 if kind.is_mtc else 2)
        assert one.sent.is_landmark_relative is (kind is Kind.LANDMARK_RELATIVE)
        message = one.certificate_message()
        assert int.from_bytes(message[1:4], "big") == len(message) - 4


def test_rows_without_ml_dsa_are_those_that_need_none() -> None:
    """Back ends that do not know ML-DSA are measured with P-256 alone, others with both keys and both chains."""
    assert {row.kind for row in rows_of("stdlib", has_ml_dsa=False)} == KINDS
    rows = rows_of("pyopenssl", has_ml_dsa=True)
    assert {row.kind for row in rows if row.leaf_key is LeafKey.P256} == set(Kind)
    assert {row.kind for row in rows if row.leaf_key is LeafKey.ML_DSA_44} == set(Kind) - {Kind.CLASSICAL}
    assert all(Row.parse(row.name) == row for row in rows)


@pytest.mark.parametrize("back_end", ["stdlib", "pyopenssl"])
def test_every_row_shakes_hands(back_end: BackEndName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With each back end each kind is sent, verified within the callback that is timed, and counted to the byte."""
    if back_end == "pyopenssl":
        binding = pytest.importorskip("OpenSSL") and load_binding()
        # The stopwatch is put there for the process; other tests do without.
        monkeypatch.setattr(binding, "_verify", binding._verify)
    rows = rows_of(back_end, has_ml_dsa=back_end == "pyopenssl")
    credentials = make_credentials(rows)
    write_cases(tmp_path / "cases.json", credentials)
    for case in read_cases(tmp_path / "cases.json"):
        stopwatch = Stopwatch()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            client = Connection(ours, client_of(case, stopwatch), server_name=HOST)
            server = Connection(theirs, server_of(case), server_name=None)
            client.advance()
            assert server.read()
            assert not server.advance()
            while client.counters.received_bytes < server.counters.sent_bytes:
                assert client.read()
                client.advance()
            assert client.counters.finished is not None
            assert server.read()
            assert server.advance()
        message = credentials[case.row].certificate_message()
        assert len(message) < client.counters.received_bytes < len(message) + 5000
        assert client.counters.sent_bytes == server.counters.received_bytes
        assert 0 < stopwatch.seconds < client.counters.finished - client.counters.began


# The way.


def test_packets_take_the_delay_of_both_ends_in_order() -> None:
    """A packet arrives when the delays of both ports are over, not before, after those that were sent earlier."""
    near, far = Port(1, 11, delay_s=0.005), Port(2, 22, delay_s=0.025)
    underway = Underway(Random(1))
    assert underway.next_s(0.0) is None
    assert underway.send(near, far, b"first", 10.0)
    assert underway.send(near, far, b"second", 10.0)
    assert underway.send(far, near, b"back", 10.01)
    assert underway.next_s(10.0) == pytest.approx(0.03)
    assert list(underway.take(10.029)) == []
    assert list(underway.take(10.0301)) == [(22, b"first"), (22, b"second")]
    assert list(underway.take(11.0)) == [(11, b"back")]
    assert underway.next_s(11.0) is None


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (Port(1, 1, is_cut=True), Port(2, 2)),
        (Port(1, 1), Port(2, 2, is_cut=True)),
        (Port(1, 1, is_silent=True), Port(2, 2)),
        (Port(1, 1, loss=1.0), Port(2, 2)),
    ],
)
def test_packets_are_lost_where_nothing_comes_through(source: Port, target: Port) -> None:
    """Cut, silent and lossy ports lose what is sent; a silent and a lossy one still receive."""
    underway = Underway(Random(1))
    assert not underway.send(source, target, b"packet", 0.0)
    if not (source.is_cut or target.is_cut):
        assert underway.send(target, source, b"packet", 0.0)


def test_loss_is_by_chance_and_by_seed() -> None:
    """The share that is lost is near the one that is wanted, and the same seed loses the same packets."""

    def fates(seed: int) -> list[bool]:
        underway, source, target = Underway(Random(seed)), Port(1, 1, loss=0.1), Port(2, 2)
        return [underway.send(source, target, b"", 0.0) for _ in range(5000)]

    assert fates(1) == fates(1) != fates(2)
    assert 400 <= fates(1).count(False) <= 600


def test_netem_gets_half_of_the_round_trip() -> None:
    """Each end delays what it sends by half of the round trip, and loses its share."""
    command = " ".join(netem_command("mtc-net-1-client", Weather(0.3, 0.01)))
    assert "-n mtc-net-1-client qdisc replace dev eth0 root netem" in command
    assert command.endswith("delay 150000us loss 1%")
    assert "loss 0%" in " ".join(netem_command("x", Weather(0.02, 0.0)))


def test_round_trips_are_long_silences() -> None:
    """Bytes that come together are of one round trip, whatever their packets."""
    counters = Counters(began=5.0)
    assert counters.round_trips(0.1) == 0
    counters.arrivals = [5.1, 5.1001, 5.104, 5.2, 5.21]
    assert counters.round_trips(0.1) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")
def test_network_is_measured_in_namespaces() -> None:
    """Along a way of 20 ms a handshake takes one round trip, and its packets are more than its TLS bytes."""
    row = Row("stdlib", LeafKey.P256, Kind.LANDMARK_RELATIVE)
    calm = Weather(0.02, 0.0)
    with ExitStack() as stack:
        try:
            link = stack.enter_context(open_link(1))
        except UsageError as error:
            pytest.skip(f"no namespaces: {error.message}")
        assert link.prefix(CLIENT) != link.prefix(SERVER)
        _, cases = stack.enter_context(prepared([row]))
        found = measure_network({row: made_up(row)}, cases, link, [calm], 16, lambda: None)[row]
    assert found.round_trips == 1
    assert found.network[calm].median_ms >= 20
    assert found.wire is not None
    # The handshake's own bytes, and headers of at least forty bytes for each packet.
    assert found.wire.server_bytes > 1400 + 40 * found.wire.server_packets
    assert found.wire.client_bytes > 400


# Figures and reports.


def made_up(row: Row, **changes: object) -> RowFigures:
    """Return figures that nobody measured."""
    figures = RowFigures(
        row=row,
        client_bytes=600,
        server_bytes=2200,
        certificate_bytes=1500,
        compressed_bytes={"zlib": 1000},
        loopback=Times(10, 1.0, 2.0, 3.0, 500.0, 600.0),
        verify_us=15.0,
        handshakes_per_s=900.0,
    )
    return replace(figures, **changes)  # type: ignore[arg-type]  # fields of the right types


@pytest.fixture
def run() -> Run:
    """Return a run of two rows along two ways."""
    rows = []
    for kind in (Kind.LANDMARK_RELATIVE, Kind.CLASSICAL):
        row = Row("stdlib", LeafKey.P256, kind)
        network = {
            Weather(rtt, loss): Times(50, rtt * 1100, rtt * 1500, rtt * 9000, 700.0, 800.0)
            for rtt in (0.02, 0.1)
            for loss in (0, 0.01)
        }
        rows.append(made_up(row, wire=Wire(6.0, 900.0, 5.0, 2600.0), round_trips=1, network=network))
    return Run(tuple(rows), "a machine", {"stdlib": "OpenSSL"}, "a way", Updates(480.0, 10_000.0))


def test_percentiles_lie_between_values() -> None:
    """Ends are values, everything between is interpolated; one value is all percentiles."""
    assert percentile([1.0, 2.0, 3.0], 0.0) == 1.0
    assert percentile([1.0, 2.0, 3.0], 0.75) == 2.5
    assert percentile([1.0, 2.0, 3.0], 1.0) == 3.0
    assert percentile([7.0], 0.9) == 7.0
    times = Times.of(Tally([Shake(seconds, 0.0, 0, 0, 1) for seconds in (0.3, 0.1, 0.2)], client_cpu_s=0.6))
    assert (times.handshakes, times.median_ms) == (3, 200.0)
    assert times.client_cpu_us == pytest.approx(200_000)


def test_overhead_is_a_share_of_the_handshake() -> None:
    """15 µs of 1 ms are 1.5 %."""
    assert made_up(Row("stdlib", LeafKey.P256, Kind.CLASSICAL)).verify_overhead_percent == pytest.approx(1.5)


def test_compression_never_makes_longer() -> None:
    """What is saved is counted with the header of the compressed message; what would grow is sent as it is."""
    row = Row("stdlib", LeafKey.P256, Kind.CLASSICAL)
    assert made_up(row).server_bytes_with("zlib") == 2200 - 1500 + 1000 + COMPRESSED_HEADER_BYTES
    assert made_up(row, compressed_bytes={"zlib": 1499}).server_bytes_with("zlib") == 2200
    message = make_credential(Kind.CLASSICAL, LeafKey.P256).certificate_message()
    assert len(zlib.compress(message, 9)) < len(message)


def test_tables_have_all_rows_and_columns(run: Run) -> None:
    """Each table has a row for each kind, as wide as its head; updates count for those who need landmarks."""
    grids = grids_of(run)
    assert [grid.title for grid in grids] == ["Bytes", "Certificate compression", "Time to handshake", "Processors"]
    for grid in grids:
        assert len(grid.rows) == 2
        assert {len(row) for row in grid.rows} == {len(grid.columns)}
    (relative, classical) = grids[0].rows
    assert "2,680" in relative
    assert "12,200" in relative
    assert classical[6:8] == ("", "")
    figures = figures_of(run)
    assert figures["update_bytes_per_handshake"] == {"signed": 480, "proven": 10_000}
    assert json.loads(json.dumps(figures))["rows"][0]["network"][1]["loss"] == 0.01


def test_document_names_the_command_that_repeats_it() -> None:
    """What differs from the usual run stands in the command, and nothing else."""
    assert command_of(HandshakeBenchOptions(write="x.md")) == "mtc bench handshake --write x.md"
    options = HandshakeBenchOptions(
        handshakes=8, rtts_ms=(50.0,), losses_percent=(0.0, 2.5), back_ends=("stdlib",), seed=7
    )
    words = "--handshakes 8 --rtt 50 --loss 0 --loss 2.5 --back-end stdlib --seed 7"
    assert command_of(options) == f"mtc bench handshake {words}"


def test_document_keeps_what_is_not_measured(run: Run) -> None:
    """Only the part between the marks is replaced, again and again with the same result."""
    part = document_part(run, "handshake.svg", "mtc bench handshake", "2026-11-21")
    first = replace_part("# Title\n\nwords\n", part)
    assert first.startswith("# Title\n\nwords\n")
    assert first.count(BEGIN) == first.count(END) == 1
    assert replace_part(first, part) == first
    assert replace_part(f"before {BEGIN} old {END} after", part) == f"before {part} after"


def test_picture_is_well_formed(run: Run) -> None:
    """The picture is XML whose marks lie within it."""
    text = draw_run(run)
    root = ET.fromstring(text)  # noqa: S314 - our own
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    for x, y, wide, high in re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', text):
        assert float(x) + float(wide) <= width
        assert float(y) + float(high) <= height
    assert draw_run(run) == text
