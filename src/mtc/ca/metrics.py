"""Metrics of a CA for Prometheus, in the vocabulary of transparency logs.

Names follow Sunlight's where there is one (rounds by result, pool, tree size and time), with the prefix `mtc_` and with
base units in the name, as Prometheus asks. `METRICS` is the one list; docs/metrics.md is made from it.
"""

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


_COUNTER, _GAUGE, _HISTOGRAM = MetricKind.COUNTER, MetricKind.GAUGE, MetricKind.HISTOGRAM
_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SLOW = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0, 3600.0)
_MANY = (0.0, 1.0, 10.0, 100.0, 1000.0, 5000.0, 10000.0, 50000.0)

METRICS = (
    Metric("mtc_build_info", _GAUGE, "Always 1; which program runs.", ("version", "kernel", "ca", "draft", "profile")),
    Metric("mtc_log_tree_size", _GAUGE, "Entries in the tree of the published checkpoint.", ("log",)),
    Metric("mtc_log_checkpoint_timestamp_seconds", _GAUGE, "When the published checkpoint was signed.", ("log",)),
    Metric("mtc_log_minimum_index", _GAUGE, "Entries below it are pruned.", ("log",)),
    Metric("mtc_log_closed", _GAUGE, "1 when the log takes no more entries.", ("log",)),
    Metric("mtc_sequencer_rounds_total", _COUNTER, "Rounds by result: ok, refresh, failed.", ("result",)),
    Metric("mtc_sequencer_round_seconds", _HISTOGRAM, "How long a round takes, successful or not.", (), _FAST),
    Metric("mtc_sequencer_round_entries", _HISTOGRAM, "Entries in a round.", (), _MANY),
    Metric("mtc_sequencer_entries_total", _COUNTER, "Entries sequenced, durable and published."),
    Metric("mtc_pool_entries", _GAUGE, "Entries that wait for a round."),
    Metric("mtc_signer_up", _GAUGE, "1 while the process that holds the key answers."),
    Metric("mtc_signer_seconds", _HISTOGRAM, "How long the signer takes for one tree.", (), _FAST),
    Metric("mtc_cosigner_up", _GAUGE, "1 when the cosigner answered last time.", ("cosigner",)),
    Metric("mtc_cosigner_tree_size", _GAUGE, "Largest tree that the cosigner has cosigned.", ("cosigner", "log")),
    Metric("mtc_cosignatures_total", _COUNTER, "Cosignatures asked for, by result.", ("cosigner", "result")),
    Metric("mtc_landmark_latest", _GAUGE, "Number of the latest landmark.", ("log",)),
    Metric("mtc_landmark_tree_size", _GAUGE, "Tree size of the latest landmark.", ("log",)),
    Metric("mtc_landmark_expiry_timestamp_seconds", _GAUGE, "Expiry of the latest landmark.", ("log",)),
    Metric("mtc_landmarks_active", _GAUGE, "Landmarks that have not expired.", ("log",)),
    Metric("mtc_issued_total", _COUNTER, "Certificates made, by form: standalone, landmark.", ("form",)),
    Metric("mtc_issue_seconds", _HISTOGRAM, "From request to certificate.", ("form",), _SLOW),
    Metric("mtc_issue_refused_total", _COUNTER, "Requests refused, by reason.", ("reason",)),
    Metric("mtc_lint_findings_total", _COUNTER, "Findings of the lint before logging, by code.", ("code",)),
    Metric("mtc_revocation_list_version", _GAUGE, "Version of the published revocation list."),
    Metric("mtc_revocation_list_expiry_timestamp_seconds", _GAUGE, "When the published revocation list expires."),
    Metric("mtc_http_requests_total", _COUNTER, "Requests answered, by endpoint and status.", ("endpoint", "status")),
    Metric("mtc_http_request_seconds", _HISTOGRAM, "How long an answer takes.", ("endpoint",), _FAST),
    Metric("mtc_http_response_bytes_total", _COUNTER, "Bytes of answers' bodies.", ("endpoint",)),
)
"""Every metric of a CA."""


class CAMetrics:
    """The metrics of one CA, in a registry of their own, so that two CAs fit into one process."""

    def __init__(self) -> None:
        """Make every metric of `METRICS`."""
        self.registry = CollectorRegistry()
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for metric in METRICS:
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

    def routes(self) -> list[Route]:
        """Return the route `/metrics`."""

        async def answer(request: Request) -> Response:
            name_endpoint(request, "metrics")
            return Response(self.encode(), headers={"Content-Type": CONTENT_TYPE_LATEST, "Cache-Control": "no-store"})

        return [Route("/metrics", answer, methods=["GET", "HEAD"], name="metrics")]


def metrics_table() -> str:
    """Return the table of docs/metrics.md."""
    rows = ["| name | kind | labels | meaning |", "|---|---|---|---|"]
    rows += [
        f"| `{item.name}` | {item.kind} | {', '.join(f'`{label}`' for label in item.labels)} | {item.meaning} |"
        for item in METRICS
    ]
    return "\n".join(rows) + "\n"
