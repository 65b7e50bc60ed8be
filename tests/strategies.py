"""Hypothesis strategies that several tests share: intervals, trees, identifiers, times and bytes."""

from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from mtc.ids import MAX_INDEX, MAX_LOG_NUMBER, TrustAnchorID, TrustAnchorPattern
from mtc.merkle import MAX_TREE_SIZE, Subtree, bit_ceil
from mtc.wire.der import encode_base128

HASH_SIZE = 32
"""Bytes per hash of every tree hash of the project."""

hash_names = st.sampled_from(("sha256", "sm3"))
"""Names of tree hashes."""

hashes = st.binary(min_size=HASH_SIZE, max_size=HASH_SIZE)
"""Single hashes."""

log_numbers = st.integers(1, MAX_LOG_NUMBER)
"""Numbers of issuance logs."""

entry_indices = st.integers(0, MAX_INDEX)
"""48-bit entry indices."""

_SECONDS = int((datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC) - datetime(1, 1, 1, tzinfo=UTC)).total_seconds())

moments = st.integers(0, _SECONDS).map(lambda seconds: datetime(1, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds))
"""Aware UTC times with whole seconds that a certificate can hold."""


def rows(max_hashes: int = 200) -> st.SearchStrategy[bytes]:
    """Rows of up to `max_hashes` hashes; short ones are likelier."""
    return st.lists(st.binary(min_size=2, max_size=2), max_size=max_hashes).map(
        lambda seeds: b"".join(seed * (HASH_SIZE // 2) for seed in seeds)
    )


@st.composite
def subtrees(draw: st.DrawFn, max_end: int = MAX_TREE_SIZE, *, least_size: int = 0) -> Subtree:
    """Draw a valid subtree that ends by `max_end` and has at least `least_size` entries."""
    size = draw(st.integers(least_size, min(max_end, 2 ** draw(st.integers(0, max_end.bit_length())))))
    step = bit_ceil(size)
    start = step * draw(st.integers(0, (max_end - size) // step))
    return Subtree(start, start + size)


@st.composite
def subtrees_in_trees(draw: st.DrawFn, max_size: int = 300) -> tuple[Subtree, int]:
    """Draw a subtree and the size of a tree that contains it."""
    subtree = draw(subtrees(max_size))
    return subtree, draw(st.integers(subtree.end, max_size))


@st.composite
def intervals(draw: st.DrawFn, max_end: int = MAX_TREE_SIZE) -> tuple[int, int]:
    """Draw any interval [start, end), near or far, small or large."""
    end = draw(st.integers(0, 2 ** draw(st.integers(0, max_end.bit_length() - 1))))
    return draw(st.integers(0, end)), end


@st.composite
def trust_anchor_ids(draw: st.DrawFn, max_bytes: int = 32) -> TrustAnchorID:
    """Draw a trust anchor ID of at most `max_bytes` bytes, with components of any size that fits."""
    binary = encode_base128(draw(st.integers(0, 2 ** (7 * max_bytes) - 1)))
    while len(binary) < max_bytes and draw(st.booleans()):
        binary += encode_base128(draw(st.integers(0, 2 ** (7 * min(max_bytes - len(binary), 9)) - 1)))
    return TrustAnchorID(binary)


@st.composite
def _pattern_components(draw: st.DrawFn) -> tuple[int, int | None]:
    """Draw one component of an ID pattern."""
    least = draw(st.integers(0, 2**64))
    return least, draw(st.none() | st.integers(least, 2**65))


trust_anchor_patterns = st.lists(_pattern_components(), min_size=1, max_size=10).map(
    lambda components: TrustAnchorPattern(tuple(components))
)
"""ID patterns whose binary form is at most 255 bytes."""


@st.composite
def object_identifiers(draw: st.DrawFn) -> str:
    """Draw a dotted object identifier."""
    first = draw(st.integers(0, 2))
    second = draw(st.integers(0, 39 if first < 2 else 2**70))
    rest = draw(st.lists(st.integers(0, 2**70), max_size=8))
    return ".".join(map(str, (first, second, *rest)))
