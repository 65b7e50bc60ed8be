"""What is wrong with a log entry, said before it is in the log.

A log is append-only: an entry that must not be there cannot be taken back, only revoked. So the whole entry is judged
first, by the rules of a CA (`LintRules.web_pki`, `LintRules.private`), and each rule has a stable code, a severity and
a source (`LINT_RULES`, as a table in docs/lint.md). Pure: the time is an argument.

    findings = lint_entry(entry, spki, LintRules.private(ca_id), now)
    warnings = check_lint(findings)  # raises Rejected (LINT) when one is an error

The lint judges what stands in the entry. Whether the applicant controls the names is the business of validation.

Spec: Merkle Tree Certificates, "Log Entries"; CA/Browser Forum Baseline Requirements 2.2.6; Chrome's draft
Quantum-resistant Root Program policy 0.3.0.
"""

from mtc.lint.entry import lint_entry, lint_names
from mtc.lint.findings import LintFinding, check_lint
from mtc.lint.rules import LintRules
from mtc.lint.table import LINT_RULES, LintCode, LintRule, Severity, format_lint_table

__all__ = [
    "LINT_RULES",
    "LintCode",
    "LintFinding",
    "LintRule",
    "LintRules",
    "Severity",
    "check_lint",
    "format_lint_table",
    "lint_entry",
    "lint_names",
]
