"""`mtc acme hasten`: have certificates renewed sooner, before they are revoked for example, or to try whether it works.

Spec: RFC 9773, "Server Selection of Renewal Windows"; Chrome's draft Quantum-resistant Root Program policy 0.3.0,
"Issuance and certificates", for the sample that a CA takes each quarter.
"""

import asyncio
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from mtc.acme.machine.orders import Order, OrderStatus
from mtc.acme.machine.renewal import Hastened, RenewalWindow
from mtc.acme.sqlite import SQLiteACMEStore
from mtc.ca.config import check_prefix_url, parse_duration
from mtc.cli.acme import open_acme
from mtc.cli.ca import parse_serial
from mtc.cli.output import console
from mtc.errors import Error, Reason, UsageError
from mtc.ids import serial_number, split_serial
from mtc.web.clock import SystemClock

_PAGE = 500
_ALL = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HastenOptions:
    """What `mtc acme hasten` is asked for. sample: per cent of what was issued within `issued_within`, at random."""

    folder: str
    serials: Sequence[str]
    sample: float | None
    issued_within: str
    begin: str
    span: str
    explanation: str | None
    as_json: bool


def run_hasten(options: HastenOptions) -> None:
    """Set the windows, and say which certificates they are for."""
    if (options.sample is None) == (not options.serials):
        raise UsageError(Reason.USAGE, "name serial numbers or ranges of them, or take a --sample")
    if options.sample is not None and not 0 < options.sample <= _ALL:
        raise UsageError(Reason.USAGE, f"--sample: {options.sample:g} is no share in per cent, above 0 and up to 100")
    now = SystemClock().now()
    start = now + parse_duration(options.begin, "--begin")
    window = RenewalWindow(start, start + parse_duration(options.span, "--span"))
    if window.end <= window.start:
        raise UsageError(Reason.USAGE, "--span must be longer than nothing")
    explanation = None if options.explanation is None else check_prefix_url(options.explanation)
    spans = asyncio.run(_hasten(options, window, explanation, now))
    if options.as_json:
        _print_json(spans, window, now)
        return
    count = sum(behind - first for _, first, behind in spans)
    console().print(
        f"{count} certificates are to be renewed between {window.start:%Y-%m-%d %H:%M:%SZ} and "
        f"{window.end:%Y-%m-%d %H:%M:%SZ}; clients hear of it when they ask for renewal information next"
    )


async def _hasten(
    options: HastenOptions, window: RenewalWindow, explanation: str | None, now: datetime
) -> list[tuple[int, int, int]]:
    """Keep the windows. Returns log number and entries [first, behind) of each span."""
    async with open_acme(options.folder) as store:
        if options.sample is None:
            spans = [_parse_span(text) for text in options.serials]
        else:
            since = now - parse_duration(options.issued_within, "--issued-within")
            spans = await _sample(store, options.sample / _ALL, since, now)
        for log_number, first, behind in spans:
            hastened = Hastened(
                log_number=log_number, start=first, end=behind, window=window, explanation_url=explanation
            )
            await store.hasten(hastened, now)
    return spans


def _parse_span(text: str) -> tuple[int, int, int]:
    """Return the entries that a serial number, or a range of them with both ends, stands for. Raises UsageError."""
    first, dash, last = text.partition("-")
    try:
        (number, start), (other, end) = split_serial(parse_serial(first)), split_serial(parse_serial(last or first))
    except Error as error:
        raise UsageError(error.reason, f"{text!r}: {error.message}") from None
    if (dash and not last) or number != other or end < start:
        raise UsageError(Reason.USAGE, f"{text!r} is no range of one log's serial numbers; write FIRST-LAST")
    return number, start, end + 1


async def _sample(store: SQLiteACMEStore, share: float, since: datetime, now: datetime) -> list[tuple[int, int, int]]:
    """Choose certificates that were issued since a time and are still valid; at least one where there is one."""
    found: list[Order] = []
    after = ""
    while page := await store.list_orders(after=after, most=_PAGE, status=OrderStatus.VALID):
        found += [order for order in page if order.finalized and since <= order.finalized.moment]
        after = page[-1].id
        # An order is finalized within its lifetime, so older pages hold nothing that is asked for.
        if page[-1].expires < since:
            break
    valid = [order.place for order in found if order.place and order.finalized and order.finalized.not_after > now]
    # Which ones are chosen is no secret, but nobody should be able to arrange to be left out.
    chosen = random.SystemRandom().sample(valid, max(round(len(valid) * share), 1)) if valid else []
    return sorted((place.log_number, place.index, place.index + 1) for place in chosen)


def _print_json(spans: Sequence[tuple[int, int, int]], window: RenewalWindow, now: datetime) -> None:
    """Print a report for scripts."""
    ranges = [
        [str(serial_number(number, first)), str(serial_number(number, behind - 1))] for number, first, behind in spans
    ]
    document = {
        "time": now.isoformat(timespec="seconds"),
        "window": {
            "start": window.start.isoformat(timespec="seconds"),
            "end": window.end.isoformat(timespec="seconds"),
        },
        "serials": ranges,
        "certificates": sum(behind - first for _, first, behind in spans),
    }
    sys.stdout.write(json.dumps(document) + "\n")
