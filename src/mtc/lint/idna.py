"""Whether an `xn--` label is an A-label of IDNA2008.

Python's standard library knows only IDNA2003, but it has the Unicode database, and that is what the rules of RFC 5892
are written in. The contextual rules (for joiners, middle dots and Arabic digits) and the rule for right-to-left labels
(RFC 5893) are not checked; docs/lint.md says so.

Spec: RFC 5891, "Label Validation"; RFC 5892, "Calculation of the Derived Property"; RFC 3492 for Punycode.
"""

import unicodedata
from collections.abc import Iterator

from mtc.lint.findings import Fault, show
from mtc.lint.table import LintCode

PREFIX = "xn--"
"""Begins every A-label."""

_LETTERS_AND_DIGITS = frozenset({"Ll", "Lu", "Lo", "Nd", "Lm", "Mn", "Mc"})


def _points(*ranges: str) -> frozenset[int]:
    """Return code points written as `0640` or `3031-3035`, in hexadecimal."""
    points: set[int] = set()
    for item in ranges:
        first, _, last = item.partition("-")
        points.update(range(int(first, 16), int(last or first, 16) + 1))
    return frozenset(points)


_PERMITTED = _points("00DF", "03C2", "06FD", "06FE", "0F0B", "3007")
"""Exceptions (RFC 5892, 2.6) that are PVALID."""
_CONTEXTUAL = _points("00B7", "0375", "05F3", "05F4", "30FB", "0660-0669", "06F0-06F9", "200C", "200D")
"""CONTEXTO and CONTEXTJ: permitted in some places; where, is not checked here."""
_FORBIDDEN = _points("0640", "07FA", "302E", "302F", "3031-3035", "303B")
"""Exceptions that are DISALLOWED."""
_OLD_JAMO = _points("1100-11FF", "A960-A97F", "D7B0-D7FF")
"""OldHangulJamo (2.9)."""
_IGNORABLE = _points(
    "034F", "115F-1160", "17B4-17B5", "180B-180F", "FE00-FE0F", "E0100-E01EF", "20D0-20FF", "1D100-1D24F"
)
"""IgnorableProperties (2.3) that are letters or marks, and IgnorableBlocks (2.4)."""


def a_label_faults(label: str) -> Iterator[Fault]:
    """Yield what is wrong with a label that begins with `xn--`: lower case, ASCII, at most 63 characters."""
    try:
        decoded = label.removeprefix(PREFIX).encode("ascii").decode("punycode")
        again = decoded.encode("punycode").decode("ascii")
    except (UnicodeError, ValueError, OverflowError):
        decoded, again = "", ""
    if decoded.isascii() or PREFIX + again != label:
        yield Fault(
            LintCode.DNS_A_LABEL,
            f"{show(label)} is no A-label: what follows xn-- is not the Punycode of a name with a letter beyond ASCII",
        )
        return
    if decoded.startswith("-") or decoded.endswith("-") or decoded[2:4] == "--":
        yield _refused(label, "has a hyphen where none may be")
    if unicodedata.normalize("NFC", decoded) != decoded:
        yield _refused(label, "is not in Unicode's normal form C; encode the normalised name")
    if unicodedata.category(decoded[0]).startswith("M"):
        yield _refused(label, "begins with a combining mark")
    for char in dict.fromkeys(decoded):
        point = f"U+{ord(char):04X}"
        if _is_unassigned(char):
            yield Fault(
                LintCode.DNS_IDNA_UNASSIGNED,
                f"{show(label)} decodes to {point}, which Unicode {unicodedata.unidata_version} does not know",
                (("code_point", point),),
            )
        elif not _is_permitted(char):
            yield _refused(label, f"holds {point}, which IDNA2008 does not permit")


def _refused(label: str, why: str) -> Fault:
    """Make the fault for a label that decodes to a name that IDNA2008 does not allow."""
    return Fault(LintCode.DNS_IDNA, f"the name that {show(label)} decodes to {why}")


def _is_unassigned(char: str) -> bool:
    """Tell whether Unicode, as this Python knows it, has no character here; noncharacters are not meant."""
    point = ord(char)
    return unicodedata.category(char) == "Cn" and point & 0xFFFE != 0xFFFE and point not in range(0xFDD0, 0xFDF0)


def _is_permitted(char: str) -> bool:
    """Tell whether a character's derived property is PVALID, or depends on its context (RFC 5892, 3)."""
    point = ord(char)
    if point in _PERMITTED or point in _CONTEXTUAL:
        return True
    if point < 0x80:
        return char in "abcdefghijklmnopqrstuvwxyz0123456789-"
    if point in _FORBIDDEN or point in _OLD_JAMO or point in _IGNORABLE:
        return False
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", char).casefold())
    return folded == char and unicodedata.category(char) in _LETTERS_AND_DIGITS
