"""What witness and mirror share: which logs there are, the register's values, signing, evidence.

For each log there is a lock, so that a view is read, judged, signed and swapped as one step in this process; the
register's compare-and-swap stands guard against another process. The signature is made before the swap and leaves
after it: it is part of the value that the swap makes durable, so what was signed last can be served after a crash.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from mtc.cosign.logs import KnownLog, LogDirectory
from mtc.cosign.machine import CosignerView, checkpoint_of, plan_subtree, signing_keys
from mtc.cosign.requests import SignSubtree
from mtc.cosign.service.folder import OwnKey
from mtc.errors import ConflictError, Error, Reason, StorageError
from mtc.merkle import Hasher
from mtc.note import Cosignature, VerifierKey, checkpoint_message, note_signature, parse_signature_lines
from mtc.store import ObjectStore, Register
from mtc.web.clock import ClockGuard

INDEX_NAME = "origins"
"""The register's value that lists the origins of which there is a state, one per line."""

Refused = Callable[[KnownLog, CosignerView | None, object, Error], Awaitable[None]]
"""Told of each refused request of a log whose signature was good, so that proof of misbehaviour is kept."""


def origin_hash(origin: str) -> str:
    """Return the name of a log in URLs and keys: SHA-256 of its origin, lower-case hex."""
    return hashlib.sha256(origin.encode()).hexdigest()


def state_name(origin: str) -> str:
    """Return the register's name of a log's state."""
    return f"log-{origin_hash(origin)}"


def object_prefix(origin: str) -> str:
    """Return the prefix of a log's objects."""
    return f"public/{origin_hash(origin)}/"


_Result = TypeVar("_Result")


async def whole(work: Coroutine[object, object, _Result]) -> _Result:
    """Run something to its end even when the caller is cancelled, so that memory and register never part."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError, Error):
                await asyncio.shield(task)
        raise


async def _ignore(_log: KnownLog, _view: CosignerView | None, _request: object, _error: Error) -> None:
    """Keep nothing."""


def signed_at(view: CosignerView, own_keys: tuple[VerifierKey, ...]) -> int:
    """Return when a view was signed, POSIX seconds; 0 when it was not."""
    own = {(key.name, key.key_id) for key in own_keys}
    lines = parse_signature_lines(view.lines) if view.lines else ()
    times = [Cosignature.parse(line.signature).timestamp for line in lines if (line.name, line.key_id) in own]
    return max(times, default=0)


@dataclass(slots=True)
class Core:
    """The parts of a running cosigner. directory: replaced when the configuration changes; owned by the event loop."""

    directory: LogDirectory
    keys: tuple[OwnKey, ...]
    objects: ObjectStore
    register: Register
    hasher: Hasher
    clock: ClockGuard
    refused: Refused = _ignore
    origins: list[str] = field(default_factory=list)
    """Origins of which there is a state, in the order in which they came."""
    by_hash: dict[str, str] = field(default_factory=dict)
    """The same by the hashes that URLs name."""
    highest_seen: dict[str, int] = field(default_factory=dict)
    """By the name of a CA's key, the highest log number of which there is a state."""
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)
    _index: bytes | None = None
    _index_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def own_keys(self) -> tuple[VerifierKey, ...]:
        """How others know this cosigner's keys."""
        return tuple(item.key for item in self.keys)

    async def open(self) -> None:
        """Read which logs there is a state of."""
        self._index = await self.register.read(INDEX_NAME)
        self.origins = (self._index or b"").decode().split("\n")[:-1]
        for origin in self.origins:
            self._note(origin)

    def find(self, origin: str) -> KnownLog:
        """Return a known log. Raises Rejected (UNKNOWN_ORIGIN)."""
        return self.directory.find(origin, self.highest_seen)

    def lock(self, origin: str) -> asyncio.Lock:
        """Return the lock of a log's state."""
        return self._locks.setdefault(origin, asyncio.Lock())

    async def remember(self, origin: str) -> None:
        """Make durable that there is a state of a log, before there is one."""
        async with self._index_lock:
            if origin in self.origins:
                return
            new = (self._index or b"") + f"{origin}\n".encode()
            try:
                await self.swap(INDEX_NAME, self._index, new)
            except ConflictError:
                # An earlier change happened although nobody could say so; the next request finds it.
                await self.open()
                raise
            self._index = new
            self.origins.append(origin)
            self._note(origin)

    def _note(self, origin: str) -> None:
        """Make a log findable, and let a CA's later logs follow."""
        self.by_hash[origin_hash(origin)] = origin
        for ca in self.directory.cas.values():
            number = ca.number_of(origin)
            if number is not None:
                self.highest_seen[ca.key.name] = max(self.highest_seen.get(ca.key.name, 0), number)

    def reload(self, directory: LogDirectory) -> None:
        """Take another configuration; what was seen of a log that is gone from it stays remembered."""
        self.directory = directory
        for origin in self.origins:
            self._note(origin)

    async def swap(self, name: str, old: bytes | None, new: bytes) -> None:
        """Change a value of the register. When the answer was lost, read what is true. Raises ConflictError."""
        try:
            if old is None:
                await self.register.create(name, new)
            else:
                await self.register.swap(name, old, new)
        except StorageError:
            if await self.register.read(name) != new:
                raise
        except ConflictError:
            raise ConflictError(
                Reason.CONFLICT, "another process changed what this cosigner has signed; exactly one may run"
            ) from None

    async def sign_view(self, log: KnownLog, view: CosignerView, before: CosignerView | None) -> CosignerView:
        """Return the view with this cosigner's signature lines, made now. They leave only after the swap.

        before: what was signed last for this log. A time never goes back: with a smaller tree at an earlier time a
        later one would contradict it. Raises ConflictError (CLOCK) while the clock is far behind the last signature.
        """
        checkpoint, now = checkpoint_of(view), self.clock.seconds()
        last = 0 if before is None else signed_at(before, self.own_keys)
        if last - now > self.clock.tolerance_s:
            raise ConflictError(
                Reason.CLOCK,
                f"the clock says {now}, but {log.origin} was signed at {last}; nothing is signed until it is right",
            )
        now = max(now, last)
        wanted = signing_keys(self.own_keys, log)
        lines = [
            note_signature(
                item.key, await item.signer.sign(checkpoint_message(item.key, checkpoint, now)), now
            ).encode()
            for item in self.keys
            if item.key in wanted
        ]
        return replace(view, lines=b"".join(lines))

    async def sign_subtree(self, request: SignSubtree) -> bytes:
        """Return signature lines over a subtree; see `plan_subtree`. Needs no state."""
        self.find(request.checkpoint.origin)
        plan = await asyncio.to_thread(plan_subtree, self.hasher, self.own_keys, request)
        signers: Mapping[VerifierKey, OwnKey] = {item.key: item for item in self.keys}
        lines = [
            note_signature(key, await signers[key].signer.sign(message.encode())).encode() for key, message in plan
        ]
        return b"".join(lines)
