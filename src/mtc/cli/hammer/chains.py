"""The checkpoints of one synthetic log as a cosigner sees them: growing ones, and those that it must refuse.

Shared by witnesses and mirrors, because both take checkpoints by the same rules.

Spec: C2SP tlog-witness, "add-checkpoint" and "sign-subtree".
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mtc.cli.hammer.load import Load
from mtc.cli.hammer.synthetic import SyntheticLog, TreeHead, flipped, with_flipped
from mtc.cosign.requests import AddCheckpoint, SignSubtree
from mtc.errors import FormatError, PeerError, Reason, Rejected
from mtc.merkle import MAX_TREE_SIZE, Subtree, bit_ceil
from mtc.note import Checkpoint, Note, SignatureType, VerifierKey, verify_subtree_answer
from mtc.web.client import Answer
from mtc.wire import decode_decimal

MAX_CLOCK_OFFSET_S = 300
"""How far the clocks of the hammer and of a cosigner may be apart."""
MAX_ANSWER_BYTES = 64 << 10
"""Largest answer of a cosigner that is read: a few signatures."""
_SIZE_TYPE = "text/x.tlog.size"


def posix_now() -> int:
    """Return the time as checkpoints carry it."""
    return int(time.time())


@dataclass(slots=True)
class Chain:
    """One log at one cosigner. size: of the checkpoint that it took last. lock: for whoever moves it on.

    is_known: False when an answer was lost, so that the cosigner may have taken a larger one by now.
    signed: the largest checkpoint that the cosigner itself signed, with its signatures and the log's; None before.
    """

    log: SyntheticLog
    size: int = 0
    is_known: bool = False
    signed: Note | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def body(self, old: int, note: Note, proof: Sequence[bytes] | None = None) -> bytes:
        """Return an add-checkpoint. proof: the right one without."""
        size = Checkpoint.parse(note.text).tree_size
        if proof is None:
            proof = self.log.prove(Subtree(0, old), size) if old else []
        return AddCheckpoint.encode(old, proof, note.encode())


def parse_size(answer: Answer) -> int:
    """Return the size in a refusal of a stale one. Raises FormatError."""
    kind = answer.headers.get("content-type", "").partition(";")[0].strip()
    if kind != _SIZE_TYPE:
        raise FormatError(
            Reason.BAD_DOCUMENT, f"the refusal of a stale size is of type {kind[:80]!r}, not {_SIZE_TYPE}"
        )
    if not answer.body.endswith(b"\n"):
        raise FormatError(Reason.BAD_TEXT, "the refusal of a stale size is not one line")
    try:
        text = answer.body[:-1].decode("ascii")
    except UnicodeDecodeError:
        raise FormatError(Reason.BAD_TEXT, "the refusal of a stale size is no decimal number") from None
    return decode_decimal(text, MAX_TREE_SIZE, "the size in a refusal")


async def find_size(load: Load, base: str, chain: Chain) -> bool:
    """Learn which size the cosigner took last, and grow the log to it. False when it did not say."""
    log, floor = chain.log, chain.size
    log.grow(1)
    note = log.sign(log.head(1), posix_now())

    def check(answer: Answer) -> int:
        size = parse_size(answer) if answer.status == 409 else 1
        if size < floor or (floor > 1 and answer.status == 200):
            raise Rejected(
                Reason.STALE_SIZE,
                f"the cosigner forgot: it took {floor} entries of {log.origin} and stands at {size} now",
                expected=floor,
                got=size,
            )
        return size

    url = f"{base}/add-checkpoint"
    body = chain.body(0, note)
    size = await load.call(
        "ask for the size", url, check, method="POST", body=body, statuses=(200, 409), most=MAX_ANSWER_BYTES
    )
    if size is None:
        return False
    await asyncio.to_thread(log.grow, size)
    chain.size, chain.is_known = size, True
    return True


async def find_all(load: Load, base: str, chains: Sequence[Chain]) -> None:
    """Learn where the cosigner stands with every log. Raises PeerError when it does not say."""
    for chain in chains:
        if not await find_size(load, base, chain):
            raise PeerError(
                Reason.PEER,
                f"the cosigner does not take {chain.log.origin}: {first_words(load)}; was the log added to it, with "
                "its vkey?",
            )


def first_words(load: Load) -> str:
    """Return the words of the first fault."""
    fault = next(iter(load.figures.faults.values()), None)
    return fault.messages[0] if fault and fault.messages else "it is busy"


@dataclass(frozen=True, slots=True)
class Wrong:
    """A request that a cosigner must refuse. kind: for the figures. statuses: any of them is right."""

    kind: str
    path: str
    body: bytes
    statuses: tuple[int, ...]


def _stale_size(chain: Chain, chance: random.Random) -> Wrong:
    log, size = chain.log, chain.size
    old = chance.randrange(size)
    note = log.sign(log.head(size), posix_now())
    return Wrong("refuse a stale size", "add-checkpoint", chain.body(old, note), (409,))


def _bad_proof(chain: Chain, chance: random.Random) -> Wrong:
    log, size = chain.log, chain.size
    new = size + chance.randint(1, 300)
    log.grow(new)
    proof = with_flipped(log.prove(Subtree(0, size), new))
    note = log.sign(log.head(new), posix_now())
    return Wrong("refuse a bad proof", "add-checkpoint", chain.body(size, note, proof), (422,))


def _bad_signature(chain: Chain, chance: random.Random) -> Wrong:
    log, size = chain.log, chain.size
    log.grow(size + 1)
    good, other = (log.sign(log.head(size + at), posix_now()) for at in (1, 0))
    # A signature line in the log's own name that is of another checkpoint, or by nobody known.
    note = Note(good.text, other.signatures)
    if chance.random() < 0.5:
        line = good.signatures[0]
        stranger = type(line)("stranger.invalid", line.key_id, line.signature)
        note = Note(good.text, (stranger,))
    return Wrong("refuse a bad signature", "add-checkpoint", chain.body(size, note), (403,))


def _other_tree(chain: Chain, chance: random.Random) -> Wrong:
    log, size = chain.log, chain.size
    new = size + chance.choice((0, 1))
    log.grow(new)
    fork = TreeHead(new, flipped(log.head(new).root_hash))
    return Wrong("refuse another tree", "add-checkpoint", chain.body(size, log.sign(fork, posix_now())), (422,))


def _unknown_origin(chain: Chain, chance: random.Random) -> Wrong:
    log, size = chain.log, chain.size
    origin = f"unknown.invalid/{chance.randrange(10**9)}"
    note = log.sign(log.head(size), posix_now(), origin)
    return Wrong("refuse an unknown origin", "add-checkpoint", chain.body(size, note), (404,))


def _shrinking(chain: Chain, chance: random.Random) -> Wrong:
    log, size = chain.log, chain.size
    note = log.sign(log.head(chance.randrange(1, size + 1) - 1 or 1), posix_now())
    return Wrong("refuse a smaller tree", "add-checkpoint", chain.body(size + 1, note, []), (400,))


def _leading_zero(chain: Chain, _: random.Random) -> Wrong:
    log, size = chain.log, chain.size
    body = chain.body(size, log.sign(log.head(size), posix_now()))
    return Wrong("refuse a size with a leading zero", "add-checkpoint", body.replace(b"old ", b"old 0", 1), (400,))


def _malformed(chain: Chain, chance: random.Random) -> Wrong:
    log, size = chain.log, chain.size
    body = chain.body(size, log.sign(log.head(size), posix_now()))
    cut = chance.choice((body.replace(b"\n\n", b"\n", 1), body[: len(body) // 2]))
    return Wrong("refuse what is malformed", "add-checkpoint", cut, (400,))


_WRONG: tuple[Callable[[Chain, random.Random], Wrong], ...] = (
    _stale_size,
    _bad_proof,
    _bad_signature,
    _other_tree,
    _unknown_origin,
    _shrinking,
    _leading_zero,
    _malformed,
)


async def send_wrong(load: Load, base: str, chain: Chain, chance: random.Random) -> None:
    """Send a checkpoint that must be refused, with the status of its fault. The chain's lock is held."""
    wrong = chance.choice(_WRONG)(chain, chance)

    def check(answer: Answer) -> bool:
        if answer.status == 409 and (size := parse_size(answer)) != chain.size:
            raise PeerError(
                Reason.STALE_SIZE,
                f"the cosigner took {chain.size} entries and says {size}",
                expected=chain.size,
                got=size,
            )
        return True

    await load.call(
        wrong.kind,
        f"{base}/{wrong.path}",
        check,
        method="POST",
        body=wrong.body,
        statuses=wrong.statuses,
        most=MAX_ANSWER_BYTES,
    )


def random_subtree(tree_size: int, chance: random.Random) -> Subtree:
    """Return a subtree of a tree that has entries, of any size and any place."""
    width = 1 << chance.randrange(tree_size.bit_length())
    start = chance.randrange(tree_size) // width * width
    end = min(start + chance.randint(1, width), tree_size)
    start -= start % bit_ceil(end - start)
    return Subtree(start, end)


async def sign_subtree(load: Load, base: str, chain: Chain, key: VerifierKey, chance: random.Random) -> None:
    """Have a subtree of a checkpoint signed that the cosigner itself signed before, and verify the signature."""
    log, note = chain.log, chain.signed
    assert note is not None
    size = Checkpoint.parse(note.text).tree_size
    subtree = random_subtree(size, chance)
    value = log.hash_of(subtree)
    own = [line for line in note.signatures if line.name == key.name]
    body = SignSubtree.encode(subtree, value, log.prove(subtree, size), Note(note.text, tuple(own)).encode())

    def check(answer: Answer) -> bytes:
        return verify_subtree_answer(answer.body, key, log.origin, subtree, value)

    await _ask_subtree(load, base, "sign-subtree", body, check, (200,))


async def send_wrong_subtree(load: Load, base: str, chain: Chain, key: VerifierKey, chance: random.Random) -> None:
    """Ask for the signature of a subtree that must be refused, with the status of its fault."""
    log, note = chain.log, chain.signed
    assert note is not None
    size = Checkpoint.parse(note.text).tree_size
    subtree = random_subtree(size, chance)
    value, proof = log.hash_of(subtree), log.prove(subtree, size)
    own = Note(note.text, tuple(line for line in note.signatures if line.name == key.name)).encode()
    match chance.randrange(4):
        case 0:
            kind, statuses = "refuse a subtree not in the tree", (422,)
            body = SignSubtree.encode(subtree, flipped(value), proof, own)
        case 1:
            kind, statuses = "refuse a checkpoint without own signature", (403,)
            bare = log.sign(log.head(size), posix_now())
            body = SignSubtree.encode(subtree, value, proof, bare.encode())
        case 2:
            kind, statuses = "refuse a subtree behind the tree", (400,)
            body = SignSubtree.encode(Subtree(0, size + 1), value, [], own)
        case _:
            kind, statuses = "refuse an interval that is no subtree", (400,)
            text = SignSubtree.encode(subtree, value, proof, own).partition(b"\n")[2]
            body = b"subtree 1 3\n" + text
    await _ask_subtree(load, base, kind, body, lambda _: b"-", statuses)


async def _ask_subtree(  # noqa: PLR0913 - a request, and what must come back
    load: Load, base: str, kind: str, body: bytes, check: Callable[[Answer], bytes], statuses: tuple[int, ...]
) -> None:
    url = f"{base}/sign-subtree"
    await load.call(kind, url, check, method="POST", body=body, statuses=statuses, most=MAX_ANSWER_BYTES)


def subtree_key(keys: Sequence[VerifierKey]) -> VerifierKey | None:
    """Return the key that signs subtrees, None when there is none."""
    return next((key for key in keys if key.type == SignatureType.COSIGNATURE_MLDSA44), None)
