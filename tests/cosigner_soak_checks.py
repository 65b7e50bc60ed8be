"""What must hold after a soak of cosigners: one history, everywhere, and every figure explained.

Only public bytes and what was seen meanwhile are used; the tree is rebuilt by the reader that shares no code with us.
"""

import statistics
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from urllib.request import urlopen

from tests.cosigner_soak import Story
from tests.independent_reader import check_tiles, leaf, node, read_checkpoint, read_entries, read_log, tree_hash
from tests.soak_town import CA_ID, COSIGNERS, MIRRORS, ORIGIN, Town

from mtc.cosign.service.core import origin_hash
from mtc.testing.fleet import run_mtc


def roots_at(leaves: list[bytes], sizes: Iterable[int]) -> dict[int, bytes]:
    """Return the root hash at each of these sizes, in one pass over the leaves."""
    wanted, roots = set(sizes), {}
    # Complete subtrees at the right edge, largest first, as (height, hash).
    edge: list[tuple[int, bytes]] = []
    for count, value in enumerate(leaves, 1):
        height = 0
        while edge and edge[-1][0] == height:
            value, height = node(edge.pop()[1], value), height + 1  # noqa: PLW2901 - the leaf grows into a subtree
        edge.append((height, value))
        if count in wanted:
            root = edge[-1][1]
            for _, left in reversed(edge[:-1]):
                root = node(left, root)
            roots[count] = root
    if 0 in wanted:
        roots[0] = tree_hash([])
    return roots


def _fetcher(base: str) -> Callable[[str], bytes]:
    """Return what fetches below a URL."""

    def fetch(path: str) -> bytes:
        with urlopen(f"{base}/{path}", timeout=10) as answer:  # noqa: S310 - our own processes
            found: bytes = answer.read()
            return found

    return fetch


def check_running(town: Town, story: Story) -> list[bytes]:
    """Read the whole log from the CA, and all of it again from every mirror; return its entries."""
    log = read_log(_fetcher(f"{town.member('ca').url}/1"), CA_ID.oid_name, town.keys["ca"].public_key)
    assert log.origin == ORIGIN
    for name in MIRRORS:
        key, fetch = town.keys[name], _fetcher(f"{town.member(name).url}/{origin_hash(ORIGIN)}")
        origin, size, root, _ = read_checkpoint(fetch("checkpoint"), key.name, key.public_key)
        entries = read_entries(fetch, size)
        hashes = [leaf(entry) for entry in entries]
        assert origin == ORIGIN
        assert tree_hash(hashes) == root, f"the entries of {name} do not hash to the root that it signed"
        check_tiles(fetch, hashes)
        assert entries == log.entries[:size], f"{name} holds other entries than the log"
    check_views(story, [leaf(entry) for entry in log.entries])
    return log.entries


def check_views(story: Story, leaves: list[bytes]) -> None:
    """See that whatever anybody showed at any time is one growing tree: the log's."""
    shown = [(name, view) for name, views in story.views.items() for view in views]
    roots = roots_at(leaves, {view.tree_size for _, view in shown})
    for name, view in shown:
        assert view.root_hash == roots.get(view.tree_size), f"{name} showed another tree of {view.tree_size} entries"
    for name, views in story.views.items():
        assert views, f"nobody ever saw a checkpoint of {name}"
        for earlier, later in pairwise(views):
            assert earlier.tree_size <= later.tree_size, f"{name} went back to {later.tree_size} entries"
            assert earlier.timestamp <= later.timestamp or name == "ca", f"the time of {name} went back"


def check_certificates(story: Story, entries: list[bytes]) -> None:
    """See that certificates and entries belong together, one to one, and that each signed subtree is the log's."""
    leaves = [leaf(entry) for entry in entries]
    subtrees: dict[tuple[int, int], bytes] = {}
    for name, item in story.received.items():
        assert item.log_number == 1
        assert item.entry_hash == leaves[item.index], f"the entry of {name} is another one"
        assert name.encode() in entries[item.index]
        place = item.start, item.end
        if place not in subtrees:
            subtrees[place] = tree_hash(leaves[item.start : item.end])
        assert item.subtree_hash == subtrees[place], f"{name} has a signature over another subtree [{place}]"
    assert len({item.index for item in story.received.values()}) == len(story.received), "two certificates of one entry"
    asked = [entry for entry in entries if b"example.com" in entry]
    assert story.asked == len(story.received) == len(asked), "entries and certificates do not match"


def check_folders(town: Town) -> None:
    """See that the CA's folder is whole, that nobody kept evidence, and that no process met what it did not expect."""
    run_mtc(["fsck", str(town.member("ca").folder)])
    for member in town.fleet.members.values():
        kept = [path for path in member.folder.rglob("*") if "evidence" in path.parts and path.is_file()]
        assert not kept, f"{member.name} kept evidence although nobody lied: {kept}"
        text = member.log_file.read_text("utf-8", "replace")
        at = max(text.find("Traceback"), text.find('"exception"'))
        assert at < 0, f"{member.name} met what it did not expect: {text[max(at - 500, 0) : at + 3000]}"


def count_rounds(log_file: Path) -> int:
    """Return how many rounds with entries the CA did."""
    return sum('"event": "round"' in line for line in log_file.read_text("utf-8", "replace").splitlines())


def describe(town: Town, story: Story, seconds: float) -> str:
    """Return the figures for people."""
    spread = [item.resumed_s for _, item in story.outages]
    rounds = count_rounds(town.member("ca").log_file)
    again = f"resumed after p50 {statistics.median(spread):.2f} s, max {max(spread):.2f} s"
    lines = [
        f"{seconds:.0f} s: {len(story.received)} certificates in {rounds} rounds",
        f"{len(story.outages)} faults; {again}",
        f"restarts: {', '.join(f'{name} {story.restarts[name]}' for name in ('ca', *COSIGNERS))}",
        f"ended by themselves: {len(story.exits)}; told in the place of a certificate: {dict(story.refusals)}",
        f"views: {', '.join(f'{name} {len(views)}' for name, views in story.views.items())}",
        f"{'fault':<22} {'count':>5} {'held s':>7} {'certs':>6} {'gap p50':>8} {'max':>6} {'again p50':>10} {'max':>6}",
    ]
    for kind in dict.fromkeys(kind for kind, _ in story.outages):
        some = [item for found, item in story.outages if found == kind]
        gaps, resumed = [item.longest_gap_s for item in some], [item.resumed_s for item in some]
        lines.append(
            f"{kind:<22} {len(some):>5} {sum(item.held_s for item in some):>7.1f} "
            f"{sum(item.received for item in some):>6} {statistics.median(gaps):>8.2f} {max(gaps):>6.2f} "
            f"{statistics.median(resumed):>10.2f} {max(resumed):>6.2f}"
        )
    return "\n".join(lines)
