"""Metrics of a remote perspective for Prometheus."""

from mtc.web.metrics import HTTP_METRICS, SLOW, Metric, MetricKind, Metrics

METRICS = (
    Metric(
        "mtc_perspective_info",
        MetricKind.GAUGE,
        "Always 1; which program runs, where.",
        ("version", "perspective", "region"),
    ),
    Metric(
        "mtc_perspective_examinations_total",
        MetricKind.COUNTER,
        "Examinations by method and result: agrees, disagrees, failed, busy.",
        ("method", "result"),
    ),
    Metric("mtc_perspective_examination_seconds", MetricKind.HISTOGRAM, "How long a look takes.", ("method",), SLOW),
    Metric("mtc_perspective_running", MetricKind.GAUGE, "Examinations under way."),
    Metric("mtc_perspective_clients", MetricKind.GAUGE, "CAs that may ask."),
    Metric("mtc_perspective_certificate_end_seconds", MetricKind.GAUGE, "When its own certificate ends, POSIX time."),
    *HTTP_METRICS,
)
"""Every metric of a remote perspective."""


class PerspectiveMetrics(Metrics):
    """The metrics of one perspective."""

    def __init__(self) -> None:
        """Make every metric of `METRICS`."""
        super().__init__(METRICS)
