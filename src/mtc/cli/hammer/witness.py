"""Loads a witness with the checkpoints of throw-away logs, good ones and such that it must refuse.

Every cosignature is verified, its timestamp compared with the clock; subtrees of the cosigned checkpoints are signed
and verified; and where the witness serves what it cosigned, that must be consistent with what it was sent.

Spec: C2SP tlog-witness.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mtc.cli.hammer.chains import (
    MAX_ANSWER_BYTES,
    MAX_CLOCK_OFFSET_S,
    Chain,
    find_all,
    find_size,
    first_words,
    posix_now,
    send_wrong,
    send_wrong_subtree,
    sign_subtree,
    subtree_key,
)
from mtc.cli.hammer.fetching import MAX_CHECKPOINT_BYTES, check_note, open_checkpoint
from mtc.cli.hammer.load import Load
from mtc.cli.hammer.synthetic import SyntheticLog, TreeHead
from mtc.errors import PeerError, ProofError, Reason, UsageError
from mtc.note import Checkpoint, Note, OpenedNote, VerifierKey, parse_signature_lines
from mtc.web.client import Answer

_REFRESHES = 0.1
_SUBTREES = 0.4
_READS = 0.1
_MOST_GROWTH = 300


@dataclass(frozen=True, slots=True)
class CosignerOptions:
    """Which cosigner is loaded. base: submission prefix. monitoring: its other prefix, None not to read.

    keys: of the cosigner; all of them must sign. wrong: the share of requests that must be refused, 0 to 1.
    """

    base: str
    monitoring: str | None
    keys: tuple[VerifierKey, ...]
    wrong: float = 0.1
    with_subtrees: bool = True


class WitnessLoad:
    """The scenario; see the module."""

    def __init__(
        self, load: Load, options: CosignerOptions, logs: Sequence[SyntheticLog], chance: random.Random
    ) -> None:
        """Take the witness and the logs that it knows."""
        self._load = load
        self._options = options
        self._base = options.base.rstrip("/")
        self._chance = chance
        self._chains = [Chain(log) for log in logs]
        self._subtree_key = subtree_key(options.keys) if options.with_subtrees else None
        if options.with_subtrees and self._subtree_key is None:
            raise UsageError(Reason.USAGE, "subtrees are signed with ML-DSA-44; give such a --vkey, or --no-subtrees")

    def facts(self) -> Mapping[str, object]:
        """Return the sizes of the logs."""
        return {"logs": len(self._chains), "tree_size": max(chain.size for chain in self._chains)}

    async def prepare(self) -> None:
        """Ask where the witness stands with every log, and have each log's checkpoint signed once."""
        await find_all(self._load, self._base, self._chains)
        for chain in self._chains:
            await self._add(chain, 0)
            if chain.signed is None:
                raise PeerError(Reason.PEER, f"the witness does not cosign: {first_words(self._load)}")

    async def step(self, worker: int) -> None:
        """Do one thing with the worker's log, chosen by chance."""
        chain = self._chains[worker % len(self._chains)]
        draw = self._chance.random()
        is_wrong = self._chance.random() < self._options.wrong
        key = self._subtree_key
        # Only one at a time may move a log on; whoever comes meanwhile asks for what needs no turn.
        if key is not None and (draw < _SUBTREES or (chain.lock.locked() and draw < 1 - _READS)):
            ask = send_wrong_subtree if is_wrong else sign_subtree
            await ask(self._load, self._base, chain, key, self._chance)
        elif draw > 1 - _READS and self._options.monitoring is not None:
            await self._read_checkpoint(chain)
        else:
            async with chain.lock:
                if not chain.is_known:
                    await find_size(self._load, self._base, chain)
                elif is_wrong:
                    await send_wrong(self._load, self._base, chain, self._chance)
                elif self._chance.random() < _REFRESHES:
                    await self._add(chain, 0)
                else:
                    await self._add(chain, self._chance.randint(1, _MOST_GROWTH))

    async def _add(self, chain: Chain, growth: int) -> None:
        """Have a checkpoint cosigned that is larger by `growth`, or the same again."""
        log, old = chain.log, chain.size
        log.grow(old + growth)
        head = log.head(old + growth)
        note = log.sign(head, posix_now())

        def check(answer: Answer) -> OpenedNote:
            return self._check_cosignatures(note, answer.body)

        opened = await self._load.call(
            "add-checkpoint" if growth else "add-checkpoint again",
            f"{self._base}/add-checkpoint",
            check,
            method="POST",
            body=chain.body(old, note),
            most=MAX_ANSWER_BYTES,
        )
        if opened is None:
            # Whether the witness took it is not known now.
            chain.is_known = False
            return
        chain.size = head.tree_size
        chain.signed = note.with_signatures(*(item.signature for item in opened.verified))
        self._load.figures.amounts["cosignatures"] += len(opened.verified)

    def _check_cosignatures(self, note: Note, answer: bytes) -> OpenedNote:
        """Return the cosignatures over a checkpoint, verified; each must say when it was made."""
        _, opened = check_note(Note(note.text, parse_signature_lines(answer)), self._options.keys, None)
        now = posix_now()
        for item in opened.verified:
            if not item.timestamp or abs(item.timestamp - now) > MAX_CLOCK_OFFSET_S:
                raise PeerError(
                    Reason.CLOCK,
                    f"{item.key} signed for the time {item.timestamp}, here it is {now}",
                    expected=now,
                    got=item.timestamp,
                )
        return opened

    async def _read_checkpoint(self, chain: Chain) -> None:
        """Fetch what the witness serves of a log, and compare it with what it was sent."""
        log = chain.log
        keys = (*self._options.keys, log.key)

        def check(answer: Answer) -> Checkpoint:
            checkpoint, _ = open_checkpoint(answer.body, keys, log.origin)
            check_root(log, checkpoint)
            return checkpoint

        url = f"{(self._options.monitoring or '').rstrip('/')}/{log.origin_hash}/checkpoint"
        await self._load.call("read checkpoint", url, check, most=MAX_CHECKPOINT_BYTES)


def check_root(log: SyntheticLog, checkpoint: Checkpoint) -> None:
    """Raise ProofError unless a checkpoint is of the log's tree."""
    if checkpoint.tree_size > log.tree_size:
        raise ProofError(Reason.EQUIVOCATION, f"{checkpoint.tree_size} entries are served, the log never had so many")
    expected = log.head(checkpoint.tree_size) if checkpoint.tree_size else TreeHead(0, log.hasher.empty)
    if checkpoint.root_hash != expected.root_hash:
        raise ProofError(
            Reason.EQUIVOCATION,
            f"another root than the log's is served at {checkpoint.tree_size} entries",
            expected=expected.root_hash.hex(),
            got=checkpoint.root_hash.hex(),
        )
