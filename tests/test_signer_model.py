"""The signer explored: every request in every state of small logs, and every failure on the way to a signature."""

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import pytest

from mtc.crypto import SignatureAlgorithm, parse_signature_algorithm
from mtc.errors import Error, Reason, StorageError
from mtc.ids import TrustAnchorID
from mtc.kernel import active_kernel
from mtc.merkle import root_hash
from mtc.note import CosignedMessage
from mtc.signer import SignerRules, SignerView, TreeLine, TreeRequest, parse_journal_line, plan_signing
from mtc.signer.protocol import SignedMessages
from mtc.signer.service import Journal, KeyHolder
from mtc.testing import FailingRegister, Failure, FakeClock

NOW = int(FakeClock().now().timestamp())
HASHER = active_kernel().hasher("sha256")
LETTERS = (b"\0\0\0\0", b"\0\0\0\1body")

Tree = tuple[bytes, ...]


def trees(most: int) -> list[Tree]:
    """Return every sequence of at most `most` entries."""
    return [tree for size in range(most + 1) for tree in product(LETTERS, repeat=size)]


def root_of(tree: Tree) -> bytes:
    """Return a tree's root hash."""
    return root_hash(HASHER, HASHER.leaves(tree))


@dataclass(frozen=True)
class Asked:
    """A request, and what stands behind it. is_true: its root is that of its tree."""

    tree: Tree
    request: TreeRequest
    is_true: bool


def requests(logs: int, most: int, times: int) -> Iterator[Asked]:
    """Yield every request for small trees: honest ones, with entries from any index on, and ones with a false root."""
    for log, tree, time, with_subtrees in product(range(1, logs + 1), trees(most), range(times), (True, False)):
        for start in range(len(tree) + 1):
            honest = TreeRequest(
                log_number=log,
                tree_size=len(tree),
                root_hash=root_of(tree),
                timestamp=NOW + time,
                start=start,
                entries=tree[start:],
                with_subtrees=with_subtrees,
            )
            yield Asked(tree, honest, is_true=True)
            if time == 0 and with_subtrees:
                yield Asked(tree, replace(honest, root_hash=bytes(32)), is_true=False)
                yield Asked(tree, replace(honest, tree_size=len(tree) + 1), is_true=False)


@dataclass(frozen=True)
class LogState:
    """What was signed last of one log, kept by the test and not by the signer."""

    tree: Tree
    time: int


State = tuple[LogState | None, ...]


def should_sign(state: State, asked: Asked) -> bool:
    """Tell what the rules say about a request, from whole trees and without any proof."""
    request, number = asked.request, asked.request.log_number
    before = state[number - 1] or LogState((), 0)
    later = any(other is not None and other.tree for other in state[number:])
    is_new = state[number - 1] is None
    return (
        asked.is_true
        and request.timestamp >= before.time
        # What is signed stays: the new tree begins with the old one. Entries before `start` are the signer's own.
        and len(asked.tree) >= len(before.tree)
        and asked.tree[: len(before.tree)] == before.tree
        and (len(asked.tree) == len(before.tree) or request.start <= len(before.tree))
        and not (later and (is_new or len(asked.tree) > len(before.tree)))
    )


def check_step(rules: SignerRules, views: dict[int, SignerView], state: State, asked: Asked) -> SignerView | None:
    """Ask once; the decision must be the model's, and the messages those of the tree that was asked for."""
    try:
        plan = plan_signing(HASHER, rules, views, asked.request, NOW)
    except Error:
        assert not should_sign(state, asked), (state, asked)
        return None
    assert should_sign(state, asked), (state, asked)
    tree = asked.tree
    assert plan.checkpoint.subtree_hash == root_of(tree)
    assert plan.checkpoint.timestamp == asked.request.timestamp
    assert bool(plan.subtrees) <= asked.request.with_subtrees
    for message in plan.subtrees:
        assert message.subtree_hash == root_of(tree[message.subtree.start : message.subtree.end])
        assert message.timestamp == 0
    before = state[asked.request.log_number - 1]
    grown = len(tree) - len(before.tree if before else ())
    if asked.request.with_subtrees and grown:
        covered = {index for item in plan.subtrees for index in range(item.subtree.start, item.subtree.end)}
        assert covered >= set(range(len(tree) - grown, len(tree)))
    return plan.view


@pytest.mark.parametrize(("logs", "most", "times"), [(1, 4, 2), (2, 2, 2), (3, 1, 2)])
def test_every_request_in_every_state(logs: int, most: int, times: int) -> None:
    """From nothing, over every sequence of requests, the signer signs exactly what the model allows.

    Since the model only lets trees grow, no two trees of one size, no smaller tree and no earlier time is ever signed,
    and no log grows once a later one has entries.
    """
    rules = SignerRules(ca_id=TrustAnchorID.parse("32473.1"), highest_log=logs)
    everything = list(requests(logs, most, times))
    start: State = (None,) * logs
    seen: set[tuple[State, tuple[bytes, ...]]] = set()
    queue: deque[tuple[State, dict[int, SignerView]]] = deque([(start, {})])
    while queue:
        state, views = queue.popleft()
        for asked in everything:
            view = check_step(rules, views, state, asked)
            if view is None:
                continue
            number = asked.request.log_number
            after = (*state[: number - 1], LogState(asked.tree, asked.request.timestamp), *state[number:])
            grown = {**views, number: SignerView.parse(view.encode())}
            key = after, tuple(grown[log].encode() for log in sorted(grown))
            if key not in seen:
                seen.add(key)
                queue.append((after, grown))
    assert len(seen) > 20


class HashSigner:
    """`Signer` whose signature is the message itself, so that a test sees what was signed."""

    algorithm: SignatureAlgorithm = parse_signature_algorithm("ml-dsa-44")
    public_key = b""

    async def sign(self, message: bytes) -> bytes:
        """Return the message."""
        return message


class FailingJournal(Journal):
    """A journal in memory that fails on command. lines: what is durable."""

    def __init__(self) -> None:
        """Start empty."""
        self.lines: list[bytes] = []
        self.failure: Failure | None = None

    def append(self, line: bytes) -> None:
        """Keep a line, or fail."""
        if self.failure is not Failure.LOST:
            self.lines.append(line)
        if self.failure is not None:
            raise StorageError(Reason.STORAGE, "a failure was asked for")


FAILURES = [None, *(("journal", failure) for failure in Failure), *(("register", failure) for failure in Failure)]


async def try_request(
    register: FailingRegister, journal: FailingJournal, asked: TreeRequest, failure: tuple[str, Failure] | None
) -> SignedMessages | None:
    """Ask a holder that has just started, with one failure on the way; None when nothing was signed."""
    journal.failure = failure[1] if failure is not None and failure[0] == "journal" else None
    if failure is not None and failure[0] == "register":
        register.plan.fail_write(register.plan.writes, failure[1])
    else:
        register.plan.fail_write(-1, Failure.LOST)
    rules = SignerRules(ca_id=TrustAnchorID.parse("32473.1"))
    holder = KeyHolder(HASHER, rules, HashSigner(), register, journal, FakeClock())
    writes = register.plan.writes
    try:
        answer = await holder.sign(asked)
    except Error:
        return None
    # A record that does not change is not written, so there was nothing to fail.
    assert failure is None or (failure[0] == "register" and register.plan.writes == writes)
    return answer


def test_every_failure_on_the_way_to_a_signature() -> None:
    """Whatever fails or crashes where, no two trees of one size are signed, and all that was signed is journalled.

    Every sequence of three requests out of two forks of a log, with every failure of journal and register at the first
    two, lost or kept, and a restart after each.
    """
    forks: list[Tree] = [LETTERS[:1], LETTERS[1:], (LETTERS[0], LETTERS[0]), (LETTERS[1], LETTERS[0])]
    asked = [
        TreeRequest(log_number=1, tree_size=len(tree), root_hash=root_of(tree), timestamp=NOW, start=0, entries=tree)
        for tree in forks
    ]

    async def run() -> int:
        signatures = 0
        for order in product(asked, repeat=3):
            for failures in product(FAILURES, repeat=2):
                register, journal = FailingRegister(), FailingJournal()
                signed: list[bytes] = []
                for request, failure in zip(order, (*failures, None), strict=True):
                    answer = await try_request(register, journal, request, failure)
                    if answer is not None:
                        signed += [answer.checkpoint, *(signature for _, _, signature in answer.subtrees)]
                messages = [CosignedMessage.parse(data) for data in signed]
                hashes = {(message.subtree, message.subtree_hash) for message in messages}
                assert len(hashes) == len({subtree for subtree, _ in hashes})
                lines = [parse_journal_line(line[:-1]) for line in journal.lines]
                written = {
                    message.encode() for line in lines if isinstance(line, TreeLine) for message in line.messages
                }
                assert set(signed) <= written
                signatures += len(signed)
        return signatures

    assert asyncio.run(run()) > 1000


def test_failing_journal_keeps_what_the_real_one_would(tmp_path: Path) -> None:
    """The journal that fails on command gets the same bytes as the file for the same request."""
    asked = TreeRequest(
        log_number=1, tree_size=1, root_hash=root_of(LETTERS[:1]), timestamp=NOW, start=0, entries=LETTERS[:1]
    )
    rules = SignerRules(ca_id=TrustAnchorID.parse("32473.1"))
    fake, real = FailingJournal(), Journal(tmp_path / "journal")
    for journal in (fake, real):
        asyncio.run(KeyHolder(HASHER, rules, HashSigner(), FailingRegister(), journal, FakeClock()).sign(asked))
    real.close()
    assert (tmp_path / "journal").read_bytes() == b"".join(fake.lines)
