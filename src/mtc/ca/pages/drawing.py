"""Pictures as coordinates: the top of a tree, a path through it, landmarks in time, a rate. The templates draw them.

Units are those of the pictures' own coordinate systems; nothing here knows colours or fonts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from mtc.ca.status import LandmarkStatus, LogStatus
from mtc.merkle import Subtree

TREE_WIDTH = 720
TREE_DEPTH = 4
"""Levels below the top node that a picture of a tree shows."""
PATH_WIDTH = 344
SPARK_WIDTH, SPARK_HEIGHT = 240, 48
TIME_WIDTH, TIME_HEIGHT = 720, 150
MAX_SEGMENTS = 400
"""Most landmarks drawn in the strip of entries; more would only make the page long."""
MAX_BARS = 36
"""Most bars of landmarks in time; more landmarks share bars, because bars thinner than this are no picture."""

_ROW = 66
_TOP = 24
_PATH_ROW = 46
_TIME_TOP = 18
_STEPS = tuple(
    timedelta(hours=hours) for hours in (1, 2, 3, 6, 12, 24, 48, 96, 168, 336, 720, 1440, 2160, 4320, 8760, 17520)
)


def group_digits(number: int) -> str:
    """Write a number with narrow spaces between thousands; commas would be taken for those of an interval."""
    return f"{number:,}".replace(",", "\u202f")


def level_of(subtree: Subtree) -> int:
    """Return the level of a node: the height of the smallest complete tree that could hold its entries."""
    return (subtree.size - 1).bit_length() if subtree.size else 0


def node_at(level: int, index: int, tree_size: int) -> Subtree | None:
    """Return the node `index` of `level` in a tree of `tree_size` entries, cut off at its edge; None where none is."""
    start = index << level
    if level < 0 or index < 0 or level > 64 or start >= tree_size:
        return None
    return Subtree(start, min(index + 1 << level, tree_size))


def children(node: Subtree) -> tuple[Subtree, Subtree] | None:
    """Return the two children of a node, None for an entry."""
    if node.size < 2:
        return None
    middle = node.split()
    return Subtree(node.start, middle), Subtree(middle, node.end)


def path_to(tree_size: int, node: Subtree) -> list[tuple[Subtree, Subtree | None]]:
    """Return the nodes from the root down to `node`, each with its sibling; the root has none.

    The siblings, from below, are the inclusion proof of the node. `node` must be one of the tree.
    """
    here = Subtree(0, tree_size)
    path: list[tuple[Subtree, Subtree | None]] = [(here, None)]
    while here != node:
        pair = children(here)
        if pair is None:
            return path
        left, right = pair
        here, sibling = (left, right) if node.start < left.end else (right, left)
        path.append((here, sibling))
    return path


@dataclass(frozen=True, slots=True)
class TreeNode:
    """A node in a picture. kind: fresh, landmark, pruned or plain. depth: below the top. is_open: has more below."""

    subtree: Subtree
    depth: int
    x: float
    y: float
    kind: str
    is_open: bool

    @property
    def level(self) -> int:
        """Level in the tree, 0 for an entry."""
        return level_of(self.subtree)

    @property
    def index(self) -> int:
        """Index within its level."""
        return self.subtree.start >> self.level


@dataclass(frozen=True, slots=True)
class TreePicture:
    """The top levels of a subtree. edges: from parent to child, as (x1, y1, x2, y2, depth of the child).

    is_deep: all levels are there, so that a narrow screen may leave out the lowest.
    """

    nodes: tuple[TreeNode, ...]
    edges: tuple[tuple[float, float, float, float, int], ...]
    height: float
    is_deep: bool
    width: int = TREE_WIDTH


def kind_of(node: Subtree, log: LogStatus) -> str:
    """Return what is special about a node: touched by the last round, under active landmarks, pruned."""
    if log.last_round and node.start < log.last_round[1] and node.end > log.last_round[0]:
        return "fresh"
    low, high = landmark_span(log)
    if low <= node.start and node.end <= high:
        return "landmark"
    return "pruned" if node.end <= log.minimum_index else "plain"


def landmark_span(log: LogStatus) -> tuple[int, int]:
    """Return the entries [start, end) that active landmarks cover; (0, 0) for none."""
    sizes = {item.number: item.tree_size for item in log.landmarks}
    active = [item for item in log.landmarks if item.is_active]
    if not active:
        return 0, 0
    # Without the landmark before the first active one its start is not known; the first one ever starts at 0.
    first = active[0]
    low = sizes.get(first.number - 1, 0 if first.number == 1 else first.tree_size)
    return low, min(active[-1].tree_size, log.tree_size)


def draw_tree(top: Subtree, log: LogStatus, depth: int = TREE_DEPTH) -> TreePicture:
    """Draw `depth` levels below `top`: every node in the middle of its share, the two children of a node share it."""
    nodes: list[TreeNode] = []
    edges: list[tuple[float, float, float, float, int]] = []

    def place(node: Subtree, level: int, left: float, width: float) -> tuple[float, float]:
        x, y = left + width / 2, _TOP + level * _ROW
        pair = children(node)
        nodes.append(TreeNode(node, level, x, y, kind_of(node, log), pair is not None and level == depth))
        if pair is not None and level < depth:
            for number, child in enumerate(pair):
                below = place(child, level + 1, left + number * width / 2, width / 2)
                edges.append((x, y, *below, level + 1))
        return x, y

    place(top, 0, 0, TREE_WIDTH)
    deepest = max(node.depth for node in nodes)
    is_deep = deepest == depth
    return TreePicture(tuple(nodes), tuple(edges), _TOP + deepest * _ROW + (58 if is_deep else 30), is_deep)


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of the strip of all entries. kind: as of nodes; `here` marks the subtree that is looked at."""

    x: float
    width: float
    kind: str
    title: str


def draw_strip(log: LogStatus, here: Subtree | None = None) -> tuple[Segment, ...]:
    """Draw all entries as one strip: landmarks side by side, pruned entries, the last round."""
    size = max(log.tree_size, 1)

    def segment(start: int, end: int, kind: str, title: str, least: float = 0.0) -> Segment:
        width = max((end - start) * TREE_WIDTH / size, least)
        return Segment(min(start * TREE_WIDTH / size, TREE_WIDTH - width), width, kind, title)

    segments = []
    if log.minimum_index:
        segments.append(
            segment(0, log.minimum_index, "pruned", f"pruned: entries below {group_digits(log.minimum_index)}")
        )
    low, _ = landmark_span(log)
    for item in [item for item in log.landmarks if item.is_active][-MAX_SEGMENTS:]:
        kind = "landmark" if item.number % 2 else "landmark alt"
        title = f"landmark {item.number}: entries {group_digits(low)} to {group_digits(item.tree_size - 1)}"
        segments.append(segment(low, min(item.tree_size, size), kind, title))
        low = item.tree_size
    if log.last_round and log.last_round[0] < log.last_round[1] <= size:
        start, end = log.last_round
        segments.append(
            segment(start, end, "fresh", f"last round: entries {group_digits(start)} to {group_digits(end - 1)}", 2.5)
        )
    if here is not None and here.size < log.tree_size:
        title = f"this subtree: entries {group_digits(here.start)} to {group_digits(here.end - 1)}"
        segments.append(segment(here.start, here.end, "here", title, 3.0))
    return tuple(segments)


@dataclass(frozen=True, slots=True)
class PathRow:
    """One level of a path, the root first. x: of the sibling, on the side where it stands in the tree."""

    node: Subtree
    sibling: Subtree | None
    y: float
    x: float
    is_left: bool


def draw_path(tree_size: int, node: Subtree) -> tuple[PathRow, ...]:
    """Draw the path from the root to a node as a spine, each sibling to its side."""
    rows = []
    for number, (here, sibling) in enumerate(path_to(tree_size, node)):
        is_left = sibling is not None and sibling.start < here.start
        x = PATH_WIDTH / 2 + (-52 if is_left else 52)
        rows.append(PathRow(here, sibling, _TOP + number * _PATH_ROW, x, is_left))
    return tuple(rows)


@dataclass(frozen=True, slots=True)
class Bar:
    """Consecutive landmarks in time, one if there are few, from the first allocation to the last expiry."""

    landmarks: tuple[LandmarkStatus, ...]
    x: float
    y: float
    width: float
    height: float

    @property
    def is_active(self) -> bool:
        """Whether one of them is."""
        return any(item.is_active for item in self.landmarks)


@dataclass(frozen=True, slots=True)
class TimeLine:
    """Landmarks in time. ticks: (x, label). now: x of this moment. bottom: y of the axis."""

    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, str], ...]
    now: float
    bottom: float
    width: int = TIME_WIDTH


def draw_landmarks(landmarks: Sequence[LandmarkStatus], now: datetime, lifetime: timedelta) -> TimeLine | None:
    """Draw landmarks from allocation to expiry, oldest on top; None when no expiry is known.

    lifetime: where an allocation is not known, the expiry is taken to lie this long after it.
    """
    spans = [(item, item.allocated or item.expires - lifetime, item.expires) for item in landmarks if item.expires]
    if not spans:
        return None
    first = min(now, *(begin for _, begin, _ in spans))
    last = max(now, *(end for _, _, end in spans))
    span = max((last - first) * 1.02, timedelta(minutes=1))

    def at(moment: datetime) -> float:
        return (moment - first) / span * TIME_WIDTH

    per_bar = -(-len(spans) // MAX_BARS)
    groups = [spans[at_ : at_ + per_bar] for at_ in range(0, len(spans), per_bar)]
    height = min(TIME_HEIGHT / len(groups), 18.0)
    bars = [
        Bar(
            tuple(item for item, _, _ in group),
            at(group[0][1]),
            _TIME_TOP + number * height,
            max(at(group[-1][2]) - at(group[0][1]), 1.5),
            height * 0.74,
        )
        for number, group in enumerate(groups)
    ]
    bottom = _TIME_TOP + len(groups) * height + 2
    return TimeLine(tuple(bars), _ticks(first, first + span, TIME_WIDTH), at(now), bottom)


def _ticks(first: datetime, last: datetime, width: int) -> tuple[tuple[float, str], ...]:
    """Choose round moments for an axis, at most eight."""
    step = next((item for item in _STEPS if (last - first) / item <= 8), _STEPS[-1])
    epoch = datetime(1970, 1, 1, tzinfo=first.tzinfo)
    moment = epoch + -(-(first - epoch) // step) * step
    ticks = []
    while moment < last:
        x = (moment - first) / (last - first) * width
        label = (
            f"{moment:%H:%M}"
            if step < timedelta(days=1) and moment.hour + moment.minute
            else f"{moment:%b} {moment.day}"
        )
        if 14 < x < width - 20:
            ticks.append((x, label))
        moment += step
    return tuple(ticks)


@dataclass(frozen=True, slots=True)
class Sparkline:
    """A rate in time. line, area: path data. peak: the largest value, entries a second."""

    line: str
    area: str
    peak: float


def draw_rate(rates: Sequence[float]) -> Sparkline | None:
    """Draw a rate; None for fewer than two points."""
    if len(rates) < 2:
        return None
    peak = max(rates)
    step = SPARK_WIDTH / (len(rates) - 1)
    room = SPARK_HEIGHT - 6
    places = [
        (number * step, SPARK_HEIGHT - 2 - (rate / peak * room if peak else 0)) for number, rate in enumerate(rates)
    ]
    line = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    return Sparkline(line, f"{line} L{SPARK_WIDTH} {SPARK_HEIGHT} L0 {SPARK_HEIGHT} Z", peak)
