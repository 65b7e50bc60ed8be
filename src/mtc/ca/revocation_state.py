"""What a CA remembers of its revocations: the register value `revocations`. Pure.

Nothing in it is ever un-revoked: a state that follows another one covers it.

Spec: Merkle Tree Certificates, "Revoked Ranges".
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

from mtc.cert import RevocationReason, SerialRanges, covers
from mtc.errors import ConflictError, FormatError, Reason
from mtc.ids import SERIAL_LIMIT
from mtc.wire import Reader, Writer
from mtc.wire.der import encode_base128

STATE_NAME = "revocations"
"""Name of the register value."""
_VERSION = 1
_HEAD_BYTES = 1 + 4 * 8 + 4
_EVERYTHING = SerialRanges([(0, SERIAL_LIMIT)])


class RunKind(IntEnum):
    """How a run came about, which decides what the plain CRL says of it."""

    SERIAL = 0
    """Named one by one: in the plain CRL."""
    RANGE = 1
    """Named as a range, of entries that were logged when the lists were last made: its first ones are in the CRL."""
    UNLOGGED = 2
    """Named as a range, of serial numbers that no entry had when the lists were last made: not in the CRL."""


@dataclass(frozen=True, slots=True, order=True)
class RevokedRun:
    """Consecutive serial numbers [start, end) that were revoked together. time: POSIX seconds."""

    start: int
    end: int
    time: int
    reason: RevocationReason | None
    kind: RunKind


@dataclass(frozen=True, kw_only=True)
class RevocationState:
    """Everything that is revoked, and the lists that say so.

    number: of the newest lists, which are published or about to be; 0 before the first ones. this_update, next_update:
    their validity, POSIX seconds. min_serial: every serial number below is revoked, because it expired. runs: the
    others, sorted and disjoint, none below min_serial. Raises FormatError for a state that cannot be.
    """

    # Not slotted, because what follows from the runs is computed once.
    number: int = 0
    this_update: int = 0
    next_update: int = 0
    min_serial: int = 0
    runs: tuple[RevokedRun, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a state that cannot be."""
        if not 0 <= self.min_serial < SERIAL_LIMIT:
            raise FormatError(Reason.SERIAL_OUT_OF_RANGE, "the minimum serial number lies from 0 to 2^64 - 1")
        last = self.min_serial
        for run in self.runs:
            if not last <= run.start < run.end <= SERIAL_LIMIT:
                raise FormatError(Reason.BAD_ORDER, "the runs of a revocation state overlap or go back")
            last = run.end

    @cached_property
    def ranges(self) -> SerialRanges:
        """What is revoked from min_serial on."""
        return SerialRanges([(run.start, run.end) for run in self.runs])

    @cached_property
    def revoked(self) -> SerialRanges:
        """Every serial number that is revoked."""
        return self.ranges | SerialRanges([(0, self.min_serial)])

    def encode(self) -> bytes:
        """Return the register's bytes. A serial number among neighbours takes about five, a lonely one ten."""
        writer = Writer().uint(_VERSION, 1)
        for number in (self.number, self.this_update, self.next_update, self.min_serial):
            writer.uint(number, 8)
        writer.uint(len(self.runs), 4)
        end = time = 0
        for run in self.runs:
            # Runs that were revoked together lie together, so the difference of their times is mostly one byte.
            step = run.time - time
            writer.bytes(encode_base128(run.start - end)).bytes(encode_base128(run.end - run.start))
            writer.bytes(encode_base128(2 * step if step >= 0 else -2 * step - 1))
            writer.uint(run.kind << 4 | (run.reason or 0), 1)
            end, time = run.end, run.time
        return writer.encode()

    @staticmethod
    def parse(data: bytes) -> "RevocationState":
        """Read the register's bytes, whole. Raises FormatError."""
        reader = Reader(data[:_HEAD_BYTES], "the revocation state")
        if (version := reader.read_uint(1)) != _VERSION:
            raise FormatError(
                Reason.BAD_VERSION, f"the revocation state has version {version}, this program knows {_VERSION}"
            )
        number, this_update, next_update, min_serial = (reader.read_uint(8) for _ in range(4))
        count = reader.read_uint(4)
        numbers = _read_numbers(data[_HEAD_BYTES:])
        if len(numbers) != 4 * count:
            raise FormatError(Reason.BAD_LENGTH, f"the revocation state has not the {count} runs that it says")
        runs = []
        end = time = 0
        for gap, length, step, code in zip(*(iter(numbers),) * 4, strict=True):
            start, end = end + gap, end + gap + length
            time += step // 2 if step % 2 == 0 else -(step + 1) // 2
            runs.append(RevokedRun(start, end, time, _reason_of(code & 15), _kind_of(code >> 4)))
        state = RevocationState(
            number=number, this_update=this_update, next_update=next_update, min_serial=min_serial, runs=tuple(runs)
        )
        if state.encode() != data:
            raise FormatError(Reason.BAD_INTEGER, "the revocation state is not as a CA writes it")
        return state


def check_covers(new: RevocationState, old: RevocationState) -> RevocationState:
    """Return `new` if it revokes all that `old` does and no number falls. Raises ConflictError."""
    if new.number < old.number or new.min_serial < old.min_serial or not covers(new.revoked, old.revoked):
        raise ConflictError(Reason.REVOCATION_SHRUNK, "the new revocation state revokes less than the old one")
    return new


def merge_runs(runs: Iterable[RevokedRun]) -> tuple[RevokedRun, ...]:
    """Return disjoint runs sorted, neighbours that were revoked alike as one."""
    merged: list[RevokedRun] = []
    for run in sorted(runs, key=lambda item: item.start):
        last = merged[-1] if merged else None
        if last and (last.end, last.time, last.reason, last.kind) == (run.start, run.time, run.reason, run.kind):
            merged[-1] = RevokedRun(last.start, run.end, run.time, run.reason, run.kind)
        else:
            merged.append(run)
    return tuple(merged)


def difference(of: SerialRanges, without: SerialRanges) -> SerialRanges:
    """Return the serial numbers of one set that are not in the other."""
    pieces: list[tuple[int, int]] = []
    others = iter(without)
    other = next(others, None)
    for start, end in of:
        at = start
        while other is not None and other[0] < end:
            if other[1] > at:
                pieces.append((at, max(at, other[0])))
                at = other[1]
            if other[1] > end:
                break
            other = next(others, None)
        pieces.append((min(at, end), end))
    return SerialRanges(pieces)


def intersection(one: SerialRanges, other: SerialRanges) -> SerialRanges:
    """Return the serial numbers that are in both sets."""
    return difference(one, difference(_EVERYTHING, other))


def count_serials(ranges: SerialRanges) -> int:
    """Return how many serial numbers a set holds."""
    return sum(end - start for start, end in ranges)


def _read_numbers(data: bytes) -> list[int]:
    """Return consecutive numbers: three in base 128 and one plain byte, again and again."""
    numbers: list[int] = []
    value = size = 0
    for byte in data:
        if len(numbers) % 4 == 3:
            numbers.append(byte)
            continue
        value, size = value << 7 | byte & 0x7F, size + 1
        if size > 10:
            raise FormatError(Reason.TOO_LARGE, "a number of the revocation state has more than ten bytes")
        if byte < 0x80:
            numbers.append(value)
            value = size = 0
    if size:
        raise FormatError(Reason.TRUNCATED, "the revocation state ends inside a number")
    return numbers


def _reason_of(code: int) -> RevocationReason | None:
    """Return a reason from its code, None for 0."""
    if code not in (0, *RevocationReason):
        raise FormatError(Reason.BAD_NUMBER, f"{code} is no reason of a revocation")
    return RevocationReason(code) if code else None


def _kind_of(code: int) -> RunKind:
    """Return a kind from its code."""
    if code not in list(RunKind):
        raise FormatError(Reason.BAD_NUMBER, f"{code} is no kind of a revocation")
    return RunKind(code)
