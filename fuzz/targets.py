"""The fuzz targets: one function per parser. Its docstring states the invariant; a broken one raises.

Every target takes bytes from anybody. Beyond its own words, one invariant holds for all: nothing but `mtc.errors.Error`
escapes from the parser, and a target swallows only the families of errors that it names.
"""

from fuzz import (
    targets_acme,
    targets_certificates,
    targets_cosign,
    targets_evidence,
    targets_texts,
    targets_tls,
    targets_updates,
)
from fuzz.registry import MAX_BYTES, TARGETS, Target

MODULES = (
    targets_acme,
    targets_certificates,
    targets_cosign,
    targets_evidence,
    targets_texts,
    targets_tls,
    targets_updates,
)
"""Where the targets are written; importing them fills `TARGETS`."""

__all__ = ["MAX_BYTES", "MODULES", "TARGETS", "Target"]
