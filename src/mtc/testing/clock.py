"""A clock that stands still until it is told otherwise."""

from datetime import UTC, datetime, timedelta


class FakeClock:
    """`mtc.web.Clock` for tests: `advance` moves both clocks, `jump` only the time of day."""

    def __init__(self, moment: datetime = datetime(2026, 11, 21, 12, tzinfo=UTC)) -> None:
        """Start at a moment."""
        self._moment = moment
        self._monotonic = 1000.0

    def now(self) -> datetime:
        """Return the time of day."""
        return self._moment

    def monotonic(self) -> float:
        """Return the steady seconds."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._moment += timedelta(seconds=seconds)
        self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Set the time of day, as an operator or a broken server might."""
        self._moment += timedelta(seconds=seconds)
