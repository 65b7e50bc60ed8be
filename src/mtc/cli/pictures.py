"""Trees in a terminal: the path of a proof, and the intervals of a log.

Every row is one level of the tree across the same width, so that a node stands above its children.
"""

from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from mtc.cli.output import table
from mtc.merkle import Hasher, Subtree, evaluate_inclusion

WIDTH = 32
"""Columns of a picture."""


class Step(NamedTuple):
    """One level of a proof's path, leaf first: the node on the path, and the sibling that the proof gives.

    start, end: entries below the node. value: its hash as computed from below. sibling: (start, end, hash), None
    at the top.
    """

    start: int
    end: int
    value: bytes
    sibling: tuple[int, int, bytes] | None


def trace_path(hasher: Hasher, subtree: Subtree, index: int, entry_hash: bytes, proof: Sequence[bytes]) -> list[Step]:
    """Return the steps from the entry to the subtree's root. Raises ProofError when the proof does not fit."""
    evaluate_inclusion(hasher, subtree, index, entry_hash, proof)
    levels: list[tuple[int, int, int, int]] = []
    node = subtree
    start, end = subtree.start, subtree.end
    while end - start > 1:
        middle = node.split()
        if index < middle:
            levels.append((start, middle, middle, end))
            end = middle
        else:
            levels.append((middle, end, start, middle))
            start = middle
        node = Subtree(start, end)
    steps = []
    value = entry_hash
    for (low, high, other_low, other_high), sibling in zip(reversed(levels), proof, strict=True):
        steps.append(Step(low, high, value, (other_low, other_high, sibling)))
        value = hasher.node(value, sibling) if low < other_low else hasher.node(sibling, value)
    steps.append(Step(subtree.start, subtree.end, value, None))
    return steps


def _columns(start: int, end: int, whole: Subtree) -> tuple[int, int]:
    """Return the columns [from, to) of entries [start, end) in a picture of `whole`; at least one."""
    size = max(whole.size, 1)
    first = (start - whole.start) * WIDTH // size
    return min(first, WIDTH - 1), max(first + 1, -(-(end - whole.start) * WIDTH // size))


def _row(step: Step, whole: Subtree) -> Text:
    """Draw one level: the path's node solid, the proof's sibling shaded."""
    cells = [(" ", "")] * WIDTH
    if step.sibling is not None:
        low, high = _columns(step.sibling[0], step.sibling[1], whole)
        for column in range(low, min(high, WIDTH)):
            cells[column] = ("░", "cyan")
    low, high = _columns(step.start, step.end, whole)
    for column in range(low, min(high, WIDTH)):
        cells[column] = ("█", "green")
    text = Text()
    for char, style in cells:
        text.append(char, style)
    return text


def draw_path(steps: Sequence[Step], *, with_hashes: bool = True) -> Table:
    """Draw a proof's path, root on top: each level's node, and the hash that the proof supplies for its sibling.

    with_hashes: also show the hash of each node on the path, as computed from the entry.
    """
    whole = Subtree(steps[-1].start, steps[-1].end)
    result = table("node", "path █  and sibling ░", "hash", "from the proof")
    for column in result.columns:
        column.no_wrap = True
    for step in reversed(steps):
        node = f"[{step.start}, {step.end})" if step.end - step.start > 1 else f"entry {step.start}"
        given = "" if step.sibling is None else f"{step.sibling[2].hex()[:8]}…"
        result.add_row(node, _row(step, whole), f"{step.value.hex()[:8]}…" if with_hashes else "", Text(given, "cyan"))
    return result


def draw_intervals(rows: Sequence[tuple[str, Sequence[tuple[int, int]], str]], size: int) -> Table:
    """Draw labelled intervals of a log of `size` entries, one row each: (label, intervals, text behind)."""
    result = table("", f"entries 0 to {size}", "")
    result.columns[0].no_wrap = result.columns[1].no_wrap = True
    whole = Subtree(0, size)
    shades = ("█", "▓")
    for label, intervals, behind in rows:
        cells = [" "] * WIDTH
        for number, (start, end) in enumerate(intervals):
            if start == end:
                continue
            low, high = _columns(start, end, whole)
            cells[low : min(high, WIDTH)] = shades[number % 2] * (min(high, WIDTH) - low)
        result.add_row(label, Text("".join(cells), "green"), behind)
    return result
