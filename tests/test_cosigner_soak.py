"""Three mirrors and two witnesses under load while processes are killed, stopped, delayed and cut off."""

import asyncio
import os
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from tests.cosigner_soak import KINDS, LOCAL_KINDS, Story, View, run_story
from tests.cosigner_soak_checks import check_certificates, check_folders, check_running, check_views, describe, roots_at
from tests.independent_reader import leaf, tree_hash
from tests.soak_town import town_in

from mtc.ca.cosigning.config import QuorumTable
from mtc.errors import Reason, Rejected

pytestmark = pytest.mark.usefixtures("near_commands")

SHORT = ("kill cosigner", "silence cosigner", "below-quorum", "cut ca", "kill ca", "mixed")
SHORT_LOCAL = ("kill cosigner", "stop cosigner", "below-quorum processes", "stop ca", "kill ca", "mixed processes")
SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
"""How long the long soak has faults; `make soak-cosigners SOAK_SECONDS=60` is a shorter one."""


def _tell(text: str) -> None:
    """Say how it goes to those who look."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)  # noqa: T201 - a soak tells how it goes


def _draw(kinds: Sequence[str], chance: random.Random, seconds: float) -> Iterator[str]:
    """Yield every kind once in a random order, again and again, until the time is over."""
    until = time.monotonic() + seconds
    while True:
        for kind in chance.sample(kinds, len(kinds)):
            if time.monotonic() > until:
                return
            yield kind


def _soak(folder: Path, seed: int, hold: tuple[float, float], seconds: float | None) -> None:
    """Run a story and check all of it. hold: shortest and longest fault, in seconds. seconds: None for a short row."""
    chance = random.Random(seed)
    _tell(f"seed {seed}")
    with town_in(folder, _tell) as town:
        is_alone = town.network is None
        began = time.monotonic()
        if seconds is None:
            kinds: Iterable[str] = SHORT_LOCAL if is_alone else SHORT
        else:
            kinds = _draw(LOCAL_KINDS if is_alone else KINDS, chance, seconds)
        story = asyncio.run(run_story(town, kinds, chance, hold, _tell))
        lasted = time.monotonic() - began
        _tell(describe(town, story, lasted))
        entries = check_running(town, story)
        town.fleet.stop()
        check_certificates(story, entries)
        check_folders(town)


def test_faults_come_and_go(tmp_path: Path) -> None:
    """No certificate leaves without its quorum, nobody signs two views, and issuance goes on by itself."""
    _soak(tmp_path / "town", 1, (0.4, 1.2), None)


@pytest.mark.slow
def test_faults_for_ten_minutes(tmp_path: Path) -> None:
    """The same for long, with every kind of fault, and faults that last longer than anybody is waited for."""
    seed = int(os.environ.get("SOAK_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
    _soak(tmp_path / "town", seed, (1.0, 10.0), SECONDS)


def test_soak_finds_a_ca_that_does_not_wait(tmp_path: Path) -> None:
    """A CA whose certificates leave without the quorum is found by its first client."""
    with town_in(tmp_path / "town", _tell) as town:
        town.write_rule(QuorumTable(at_least=0))
        with pytest.raises(Rejected) as caught:
            asyncio.run(run_story(town, [], random.Random(1), (0.1, 0.1), _tell))
        assert caught.value.reason is Reason.POLICY_NOT_MET


@pytest.mark.parametrize(
    "views",
    [
        pytest.param([(2, b"another", 5)], id="another tree"),
        pytest.param([(3, b"", 5), (2, b"", 5)], id="a smaller tree"),
        pytest.param([(2, b"", 5), (2, b"", 4)], id="an earlier time"),
        pytest.param([(4, b"", 5)], id="a tree beyond the log"),
        pytest.param([], id="nothing"),
    ],
)
def test_views_that_cannot_be_are_found(views: list[tuple[int, bytes, int]]) -> None:
    """A cosigner that shows another tree, goes back, or was never seen fails the soak; a right one does not."""
    leaves = [leaf(bytes([number])) for number in range(3)]
    story = Story()
    story.views["m1"] = [View(1, leaves[0], 4), View(3, tree_hash(leaves), 5)]
    check_views(story, leaves)
    story.views["m2"] = [View(size, root or tree_hash(leaves[:size]), at) for size, root, at in views]
    with pytest.raises(AssertionError, match="m2"):
        check_views(story, leaves)


def test_one_pass_gives_every_root() -> None:
    """The roots that are computed in one pass are those of the recursive definition."""
    leaves = [leaf(bytes([number])) for number in range(130)]
    assert roots_at(leaves, range(131)) == {size: tree_hash(leaves[:size]) for size in range(131)}
