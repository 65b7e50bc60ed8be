"""What was measured, as values: one `RowFigures` for each row, and everything that can be calculated from it."""

import importlib
import statistics
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mtc.cli.bench_handshake.cases import Row
from mtc.cli.bench_handshake.client import Batch, Shake
from mtc.cli.bench_handshake.kinds import Kind, LeafKey
from mtc.cli.bench_handshake.link import Weather

COMPRESSED_HEADER_BYTES = 8
"""Algorithm and two lengths in front of a compressed certificate. Spec: RFC 8879, "Compressed Certificate Message"."""


@dataclass(slots=True)
class Tally:
    """All batches of one row under one weather. rates: handshakes a second of each batch."""

    shakes: list[Shake] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    client_cpu_s: float = 0.0
    server_cpu_s: float = 0.0
    sent_packets: int = 0
    sent_wire_bytes: int = 0
    received_packets: int = 0
    received_wire_bytes: int = 0

    def add(self, batch: Batch, server_cpu_s: float) -> None:
        """Count a batch."""
        self.shakes += batch.shakes
        self.rates.append(len(batch.shakes) / batch.elapsed_s)
        self.client_cpu_s += batch.cpu_s
        self.server_cpu_s += server_cpu_s
        self.sent_packets += batch.sent_packets
        self.sent_wire_bytes += batch.sent_wire_bytes
        self.received_packets += batch.received_packets
        self.received_wire_bytes += batch.received_wire_bytes


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds from the first byte of the ClientHello until the client is done; and processors.

    client_cpu_us, server_cpu_us: of each whole process for one handshake, µs.
    """

    handshakes: int
    median_ms: float
    p90_ms: float
    p99_ms: float
    client_cpu_us: float
    server_cpu_us: float

    @staticmethod
    def of(tally: Tally) -> "Times":
        """Take percentiles and means."""
        times = sorted(one.seconds * 1000 for one in tally.shakes)
        count = len(times)
        return Times(
            count,
            statistics.median(times),
            percentile(times, 0.90),
            percentile(times, 0.99),
            tally.client_cpu_s / count * 1e6,
            tally.server_cpu_s / count * 1e6,
        )

    def to_json(self) -> dict[str, object]:
        """Return the figures as JSON values."""
        return {
            "handshakes": self.handshakes,
            "median_ms": round(self.median_ms, 3),
            "p90_ms": round(self.p90_ms, 3),
            "p99_ms": round(self.p99_ms, 3),
            "client_cpu_us": round(self.client_cpu_us, 1),
            "server_cpu_us": round(self.server_cpu_us, 1),
        }


def percentile(ordered: Sequence[float], part: float) -> float:
    """Return the value below which a part of ordered values lies, interpolated between neighbours."""
    place = part * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@dataclass(frozen=True, slots=True)
class Wire:
    """Mean of a connection with IP and TCP headers, from SYN to FIN, without loss. Packets and bytes, each way."""

    client_packets: float
    client_bytes: float
    server_packets: float
    server_bytes: float

    @staticmethod
    def of(tally: Tally, header_bytes: int) -> "Wire":
        """Divide. header_bytes: of the link below IP, which the interface counted."""
        count = len(tally.shakes)
        return Wire(
            tally.sent_packets / count,
            (tally.sent_wire_bytes - header_bytes * tally.sent_packets) / count,
            tally.received_packets / count,
            (tally.received_wire_bytes - header_bytes * tally.received_packets) / count,
        )


@dataclass(frozen=True, slots=True)
class RowFigures:
    """One row. Bytes are of TLS records; `server_bytes` is what the server sends.

    certificate_bytes: of the body of its Certificate message. compressed_bytes: of the same compressed, by algorithm.
    loopback: one connection at once. handshakes_per_s: several at once. verify_us: median inside the verify callback.
    wire, round_trips, network: None and empty where only loopback was measured.
    """

    row: Row
    client_bytes: int
    server_bytes: int
    certificate_bytes: int
    compressed_bytes: Mapping[str, int]
    loopback: Times
    verify_us: float
    handshakes_per_s: float
    wire: Wire | None = None
    round_trips: int | None = None
    network: Mapping[Weather, Times] = field(default_factory=dict)

    @property
    def verify_overhead_percent(self) -> float:
        """The verify callback's share of the handshake: median of one by the median of the other."""
        return self.verify_us / (self.loopback.median_ms * 10)

    def server_bytes_with(self, algorithm: str) -> int:
        """Return what the server would send with its certificates compressed; unchanged where that is longer."""
        compressed = COMPRESSED_HEADER_BYTES + self.compressed_bytes[algorithm]
        return self.server_bytes - max(self.certificate_bytes - compressed, 0)

    def to_json(self) -> dict[str, object]:
        """Return the figures as JSON values."""
        result: dict[str, object] = {
            "back_end": self.row.back_end,
            "leaf_key": str(self.row.leaf_key),
            "kind": str(self.row.kind),
            "client_bytes": self.client_bytes,
            "server_bytes": self.server_bytes,
            "certificate_bytes": self.certificate_bytes,
            "server_bytes_compressed_computed": {name: self.server_bytes_with(name) for name in self.compressed_bytes},
            "handshake_median_us": round(self.loopback.median_ms * 1000, 1),
            "handshake_p90_us": round(self.loopback.p90_ms * 1000, 1),
            "verify_us": round(self.verify_us, 1),
            "verify_overhead_percent": round(self.verify_overhead_percent, 2),
            "handshakes_per_s": round(self.handshakes_per_s, 1),
            "client_cpu_us": round(self.loopback.client_cpu_us, 1),
            "server_cpu_us": round(self.loopback.server_cpu_us, 1),
        }
        if self.wire is not None:
            result["client_wire_bytes"] = round(self.wire.client_bytes)
            result["server_wire_bytes"] = round(self.wire.server_bytes)
            result["client_packets"] = round(self.wire.client_packets, 1)
            result["server_packets"] = round(self.wire.server_packets, 1)
            result["round_trips"] = self.round_trips
            result["network"] = [
                {"rtt_ms": round(weather.rtt_s * 1000, 3), "loss": weather.loss} | times.to_json()
                for weather, times in self.network.items()
            ]
        return result


def by_kind(rows: Sequence[RowFigures], leaf_key: LeafKey = LeafKey.P256) -> dict[Kind, RowFigures]:
    """Return the rows of the first back end with one leaf key, by kind: those of the same back end are comparable."""
    return {
        one.row.kind: one for one in rows if one.row.leaf_key is leaf_key and one.row.back_end == rows[0].row.back_end
    }


def compress(message: bytes) -> dict[str, int]:
    """Return the length of a Certificate message compressed by each algorithm of RFC 8879 that is there.

    zlib always is; brotli and zstd where Python has their libraries.
    """
    sizes = {"zlib": len(zlib.compress(message, 9))}
    for algorithm, module in (("brotli", "brotli"), ("zstd", "zstandard")):
        found = _compressor(module)
        if found is not None:
            sizes[algorithm] = len(found(message))
    return sizes


def _compressor(module: str) -> Callable[[bytes], bytes] | None:
    """Return the function `compress` of a module that may not be there."""
    try:
        found: Callable[[bytes], bytes] = importlib.import_module(module).compress
    except ImportError:
        return None
    return found
