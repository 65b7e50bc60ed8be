"""Metrics of a witness or mirror for Prometheus, in the vocabulary of transparency logs."""

from mtc.web.metrics import FAST, HTTP_METRICS, Metric, MetricKind, Metrics

_COUNTER, _GAUGE, _HISTOGRAM = MetricKind.COUNTER, MetricKind.GAUGE, MetricKind.HISTOGRAM

METRICS = (
    Metric("mtc_build_info", _GAUGE, "Always 1; which program runs.", ("version", "kernel", "role", "cosigner")),
    Metric("mtc_cosigner_logs", _GAUGE, "Logs of which there is a state."),
    Metric("mtc_cosigner_log_size", _GAUGE, "Entries of the largest tree signed.", ("origin",)),
    Metric("mtc_cosigner_log_timestamp_seconds", _GAUGE, "When it was signed.", ("origin",)),
    Metric("mtc_mirror_pending_size", _GAUGE, "Entries of the pending checkpoint.", ("origin",)),
    Metric("mtc_mirror_next_entry", _GAUGE, "First entry that is missing.", ("origin",)),
    Metric("mtc_mirror_minimum_index", _GAUGE, "Entries below it are not held.", ("origin",)),
    Metric("mtc_mirror_entries_total", _COUNTER, "Entries proven and stored.", ("origin",)),
    Metric(
        "mtc_mirror_follow_total", _COUNTER, "Looks at a followed log, by result: ok, failed.", ("origin", "result")
    ),
    Metric(
        "mtc_cosigner_requests_total", _COUNTER, "Requests by kind and result: ok, or why not.", ("request", "result")
    ),
    Metric("mtc_cosigner_seconds", _HISTOGRAM, "How long a request takes.", ("request",), FAST),
    Metric("mtc_cosigner_evidence_total", _COUNTER, "Bundles of evidence kept, by kind.", ("kind",)),
    *HTTP_METRICS,
)
"""Every metric of a cosigner. Origins are those of known logs only, so labels stay few."""


class CosignerMetrics(Metrics):
    """The metrics of one cosigner."""

    def __init__(self) -> None:
        """Make every metric of `METRICS`."""
        super().__init__(METRICS)
