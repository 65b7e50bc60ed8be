"""Metrics for Prometheus: a table of names that a program declares once, and the values of one running program.

Names have the prefix `mtc_` and base units in the name, as Prometheus asks.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mtc.web.frame import Exchange, name_endpoint


class MetricKind(StrEnum):
    """How a metric moves."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. name: as scraped, counters with `_total`. buckets: upper bounds, of a histogram."""

    name: str
    kind: MetricKind
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Buckets, in seconds, for what takes milliseconds."""
SLOW = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0, 3600.0)
"""Buckets, in seconds, for what waits for others."""

HTTP_METRICS = (
    Metric(
        "mtc_http_requests_total",
        MetricKind.COUNTER,
        "Requests answered, by endpoint and status.",
        ("endpoint", "status"),
    ),
    Metric("mtc_http_request_seconds", MetricKind.HISTOGRAM, "How long an answer takes.", ("endpoint",), FAST),
    Metric("mtc_http_response_bytes_total", MetricKind.COUNTER, "Bytes of answers' bodies.", ("endpoint",)),
)
"""Metrics of every server; `Metrics.count_exchange` fills them."""


class Metrics:
    """The metrics of one program, in a registry of their own, so that two programs fit into one process."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        """Make every metric; they include `HTTP_METRICS`."""
        self.registry = CollectorRegistry()
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for metric in metrics:
            name, labels = metric.name, metric.labels
            if metric.kind is MetricKind.COUNTER:
                self._counters[name] = Counter(name, metric.meaning, labels, registry=self.registry)
            elif metric.kind is MetricKind.GAUGE:
                self._gauges[name] = Gauge(name, metric.meaning, labels, registry=self.registry)
            else:
                self._histograms[name] = Histogram(
                    name, metric.meaning, labels, registry=self.registry, buckets=metric.buckets
                )

    def count(self, name: str, amount: float = 1, **labels: object) -> None:
        """Add to a counter. Every label of the metric is given."""
        counter = self._counters[name]
        (counter.labels(**labels) if labels else counter).inc(amount)

    def set(self, name: str, value: float, **labels: object) -> None:
        """Set a gauge."""
        gauge = self._gauges[name]
        (gauge.labels(**labels) if labels else gauge).set(value)

    def observe(self, name: str, value: float, **labels: object) -> None:
        """Put a value into a histogram."""
        histogram = self._histograms[name]
        (histogram.labels(**labels) if labels else histogram).observe(value)

    def count_exchange(self, exchange: Exchange) -> None:
        """Count one HTTP exchange; for `FrameChoices.observe`."""
        endpoint = exchange.endpoint
        self.count("mtc_http_requests_total", endpoint=endpoint, status=exchange.status)
        self.observe("mtc_http_request_seconds", exchange.seconds, endpoint=endpoint)
        self.count("mtc_http_response_bytes_total", exchange.bytes, endpoint=endpoint)

    def encode(self) -> bytes:
        """Return the text that Prometheus scrapes."""
        return generate_latest(self.registry)

    def routes(self, refresh: Callable[[], None] = lambda: None) -> list[Route]:
        """Return the route `/metrics`. refresh: called before each answer, to set what only changes when looked at."""

        async def answer(request: Request) -> Response:
            name_endpoint(request, "metrics")
            refresh()
            return Response(self.encode(), headers={"Content-Type": CONTENT_TYPE_LATEST, "Cache-Control": "no-store"})

        return [Route("/metrics", answer, methods=["GET", "HEAD"], name="metrics")]


def metrics_table(metrics: Iterable[Metric]) -> str:
    """Return the table that stands in the documentation."""
    rows = ["| name | kind | labels | meaning |", "|---|---|---|---|"]
    rows += [
        f"| `{item.name}` | {item.kind} | {', '.join(f'`{label}`' for label in item.labels)} | {item.meaning} |"
        for item in metrics
    ]
    return "\n".join(rows) + "\n"
