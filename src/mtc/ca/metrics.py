"""Metrics of a CA for Prometheus, in the vocabulary of transparency logs.

Names follow Sunlight's where there is one (rounds by result, pool, tree size and time), with the prefix `mtc_` and with
base units in the name, as Prometheus asks. `METRICS` is the one list; docs/metrics.md is made from it.
"""

from mtc.web.metrics import FAST, HTTP_METRICS, SLOW, Metric, MetricKind, Metrics

_COUNTER, _GAUGE, _HISTOGRAM = MetricKind.COUNTER, MetricKind.GAUGE, MetricKind.HISTOGRAM
_MANY = (0.0, 1.0, 10.0, 100.0, 1000.0, 5000.0, 10000.0, 50000.0)

METRICS = (
    Metric("mtc_build_info", _GAUGE, "Always 1; which program runs.", ("version", "kernel", "ca", "draft", "profile")),
    Metric("mtc_log_tree_size", _GAUGE, "Entries in the tree of the published checkpoint.", ("log",)),
    Metric("mtc_log_checkpoint_timestamp_seconds", _GAUGE, "When the published checkpoint was signed.", ("log",)),
    Metric("mtc_log_minimum_index", _GAUGE, "Entries below it are pruned.", ("log",)),
    Metric("mtc_log_closed", _GAUGE, "1 when the log takes no more entries.", ("log",)),
    Metric("mtc_sequencer_rounds_total", _COUNTER, "Rounds by result: ok, refresh, failed.", ("result",)),
    Metric("mtc_sequencer_round_seconds", _HISTOGRAM, "How long a round takes, successful or not.", (), FAST),
    Metric("mtc_sequencer_round_entries", _HISTOGRAM, "Entries in a round.", (), _MANY),
    Metric("mtc_sequencer_entries_total", _COUNTER, "Entries sequenced, durable and published."),
    Metric("mtc_pool_entries", _GAUGE, "Entries that wait for a round."),
    Metric("mtc_signer_up", _GAUGE, "1 while the process that holds the key answers."),
    Metric("mtc_signer_seconds", _HISTOGRAM, "How long the signer takes for one tree.", (), FAST),
    Metric("mtc_cosigner_up", _GAUGE, "1 when the cosigner answered last time.", ("cosigner",)),
    Metric("mtc_cosigner_tree_size", _GAUGE, "Largest tree that the cosigner has cosigned.", ("cosigner", "log")),
    Metric("mtc_cosigner_requests_total", _COUNTER, "Rounds asked for, by outcome.", ("cosigner", "outcome")),
    Metric("mtc_cosigner_seconds", _HISTOGRAM, "How long a cosigner takes for a round.", ("cosigner",), FAST),
    Metric("mtc_quorum_wait_seconds", _HISTOGRAM, "How long a round waits for its quorum.", (), FAST),
    Metric("mtc_quorum_missing", _GAUGE, "Cosigners that had not answered when the last round ended."),
    Metric("mtc_landmark_latest", _GAUGE, "Number of the latest landmark.", ("log",)),
    Metric("mtc_landmark_tree_size", _GAUGE, "Tree size of the latest landmark.", ("log",)),
    Metric("mtc_landmark_expiry_timestamp_seconds", _GAUGE, "Expiry of the latest landmark.", ("log",)),
    Metric("mtc_landmarks_active", _GAUGE, "Landmarks that have not expired.", ("log",)),
    Metric("mtc_issued_total", _COUNTER, "Certificates made, by form: standalone, landmark.", ("form",)),
    Metric("mtc_issue_seconds", _HISTOGRAM, "From request to certificate.", ("form",), SLOW),
    Metric("mtc_issue_refused_total", _COUNTER, "Requests refused, by reason.", ("reason",)),
    Metric("mtc_lint_findings_total", _COUNTER, "Findings of the lint before logging, by code.", ("code",)),
    Metric("mtc_revocation_list_version", _GAUGE, "Version of the published revocation list."),
    Metric("mtc_revocation_list_expiry_timestamp_seconds", _GAUGE, "When the published revocation list expires."),
    Metric("mtc_acme_accounts_total", _COUNTER, "ACME accounts made."),
    Metric("mtc_acme_orders_total", _COUNTER, "ACME orders made."),
    Metric(
        "mtc_acme_validations_total", _COUNTER, "Validations by method and result: ok, failed.", ("method", "result")
    ),
    Metric("mtc_acme_validation_seconds", _HISTOGRAM, "How long a validation takes.", (), SLOW),
    Metric("mtc_acme_validations_running", _GAUGE, "Validations that run or wait."),
    Metric(
        "mtc_acme_perspectives_total",
        _COUNTER,
        "Looks of each perspective, by result: agrees, disagrees, silent.",
        ("perspective", "result"),
    ),
    Metric("mtc_acme_perspective_seconds", _HISTOGRAM, "How long a look takes.", ("perspective",), SLOW),
    Metric("mtc_acme_finalized_total", _COUNTER, "Orders finalized, by what became of them.", ("result",)),
    Metric("mtc_acme_problems_total", _COUNTER, "Problem documents sent, by type.", ("type",)),
    Metric("mtc_acme_limited_total", _COUNTER, "Requests refused by a rate limit.", ("limit",)),
    *HTTP_METRICS,
)
"""Every metric of a CA."""


class CAMetrics(Metrics):
    """The metrics of one CA."""

    def __init__(self) -> None:
        """Make every metric of `METRICS`."""
        super().__init__(METRICS)
