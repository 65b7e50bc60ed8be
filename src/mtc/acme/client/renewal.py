"""When to renew: at a moment that the server suggests, else at three quarters of the lifetime. Pure arithmetic.

Spec: RFC 9773, "Schedule for Checking the RenewalInfo Resource", "RenewalInfo Objects" (the recommended algorithm);
Merkle Tree Certificates, "Renewal" (about 75 % of the lifetime).
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from mtc.acme.client.documents import Fields, RenewalWindow, parse_time

RENEWAL_SHARE = 0.75
"""Share of the lifetime after which a certificate is renewed without other advice."""
LEAST_CHECK_S, MOST_CHECK_S = 60.0, 86400.0
"""Bounds of a server's Retry-After for renewal information, as RFC 9773 asks clients to have them."""
DEFAULT_CHECK_S = 21600.0
"""When to ask again without Retry-After, and after a failure: six hours, as RFC 9773 recommends."""
_FIRST_BACK_OFF_S, _LAST_BACK_OFF_S = 60.0, 21600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalPlan:
    """What is known about renewing one certificate. All times are aware.

    selected: the moment chosen in the window, drawn once and kept as long as the window stays the same. next_check:
    when to ask the server again. explanation_url: why the window is where it is, for people.
    """

    window_start: datetime | None = None
    window_end: datetime | None = None
    selected: datetime | None = None
    next_check: datetime | None = None
    explanation_url: str | None = None

    def moment(self, not_before: datetime, not_after: datetime) -> datetime:
        """Return when to renew the certificate."""
        return self.selected or renewal_by_lifetime(not_before, not_after)

    def is_check_due(self, now: datetime) -> bool:
        """Tell whether to ask the server."""
        return self.next_check is None or now >= self.next_check

    def with_window(self, window: RenewalWindow, now: datetime, chance: float) -> "RenewalPlan":
        """Take what the server said. chance: a random number in [0, 1), for a new window."""
        is_known = (window.start, window.end) == (self.window_start, self.window_end) and self.selected is not None
        asked = DEFAULT_CHECK_S if window.retry_after_s is None else window.retry_after_s
        return RenewalPlan(
            window_start=window.start,
            window_end=window.end,
            selected=self.selected if is_known else window.start + (window.end - window.start) * chance,
            next_check=now + timedelta(seconds=min(max(asked, LEAST_CHECK_S), MOST_CHECK_S)),
            explanation_url=window.explanation_url,
        )

    def after_failure(self, now: datetime) -> "RenewalPlan":
        """Keep what is known, and ask later."""
        return replace(self, next_check=now + timedelta(seconds=DEFAULT_CHECK_S))

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        return {
            "window_start": show_time(self.window_start),
            "window_end": show_time(self.window_end),
            "selected": show_time(self.selected),
            "next_check": show_time(self.next_check),
            "explanation_url": self.explanation_url,
        }

    @staticmethod
    def of_json(document: object) -> "RenewalPlan":
        """Read what `to_json` made. Raises FormatError."""
        fields = Fields(document, "the renewal plan")
        return RenewalPlan(
            window_start=optional_time(fields, "window_start"),
            window_end=optional_time(fields, "window_end"),
            selected=optional_time(fields, "selected"),
            next_check=optional_time(fields, "next_check"),
            explanation_url=fields.text("explanation_url", is_optional=True) or None,
        )


def renewal_by_lifetime(not_before: datetime, not_after: datetime) -> datetime:
    """Return the moment at three quarters of a certificate's lifetime."""
    return not_before + (not_after - not_before) * RENEWAL_SHARE


def back_off_s(failures: int, asked_s: float | None = None) -> float:
    """Return how long to wait after so many failures in a row: a minute, doubled each time, at most six hours.

    asked_s: what the server asked for, which counts if it is longer, up to a day.
    """
    pause = min(_FIRST_BACK_OFF_S * 2.0 ** min(max(failures - 1, 0), 20), _LAST_BACK_OFF_S)
    return max(pause, min(asked_s or 0.0, MOST_CHECK_S))


def show_time(moment: datetime | None) -> str | None:
    """Return a time as it is written down."""
    return None if moment is None else moment.isoformat()


def optional_time(fields: Fields, name: str) -> datetime | None:
    """Read a time that may be absent. Raises FormatError."""
    text = fields.text(name, is_optional=True)
    return parse_time(text) if text else None
