"""Time as shells see it: one seam, and a guard that notices when two clocks of one machine disagree."""

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Protocol

from mtc.errors import ConflictError, Reason


class Clock(Protocol):
    """Where services take the time from. Tests hand in their own."""

    def now(self) -> datetime:
        """Return the time of day, aware, UTC."""

    def monotonic(self) -> float:
        """Return seconds since some moment; never goes back, is not set by anybody."""


class SystemClock:
    """`Clock` of the machine."""

    def now(self) -> datetime:
        """Return the time of day."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds of the machine's steady clock."""
        # Where the machine can be suspended, the steady clock goes on through its sleep.
        return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def seconds_of(clock: Clock) -> Callable[[], float]:
    """Return what reads the time of day as POSIX seconds; of the machine's clock without a detour, for hot paths."""
    return time.time if type(clock) is SystemClock else lambda: clock.now().timestamp()


class ClockGuard:
    """Gives POSIX seconds as long as the time of day moves as the steady clock does.

    A CA must not sign with a clock that jumped: a timestamp in the future would bind it until then. tolerance_s: how
    far the two may drift apart since the first reading. The guard stays closed while they disagree, or until `accept`
    is called, which an operator does who knows the time.
    """

    def __init__(self, clock: Clock, tolerance_s: float = 5.0) -> None:
        """Take the first reading as the truth."""
        self._clock = clock
        self._tolerance_s = tolerance_s
        self.accept()

    def accept(self) -> None:
        """Take the present reading as the truth."""
        self._offset_s = self._clock.now().timestamp() - self._clock.monotonic()

    @property
    def tolerance_s(self) -> float:
        """How far clocks may disagree, in seconds."""
        return self._tolerance_s

    def moment(self) -> datetime:
        """Return the time of day, whole seconds. Raises ConflictError (CLOCK) when the clocks disagree."""
        return datetime.fromtimestamp(self.seconds(), UTC)

    def steady(self) -> float:
        """Return seconds of the steady clock, for measuring how long something lasts."""
        return self._clock.monotonic()

    def check_others(self, timestamps: Iterable[int]) -> None:
        """Raise ConflictError (CLOCK) when others signed at times, POSIX seconds, that this clock has not reached."""
        now = self.seconds()
        ahead = max(timestamps, default=0) - now
        if ahead > self._tolerance_s:
            raise ConflictError(
                Reason.CLOCK,
                f"cosigners signed {ahead} s after what this clock says; nothing is signed until the clock is right",
                ahead_s=ahead,
            )

    def seconds(self) -> int:
        """Return POSIX seconds, rounded down. Raises ConflictError when the clocks disagree."""
        wall = self._clock.now().timestamp()
        drift = wall - self._clock.monotonic() - self._offset_s
        if abs(drift) > self._tolerance_s:
            raise ConflictError(
                Reason.CLOCK,
                f"the clock jumped by {drift:.1f} s against the steady clock; nothing is signed until it is right",
                drift_s=drift,
            )
        return int(wall // 1)
