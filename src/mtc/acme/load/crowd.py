"""Many clients that order for a time, and what that amounts to."""

import asyncio
import itertools
import ssl
import statistics
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from mtc.acme.load.account import Account
from mtc.acme.load.answering import AnsweringServer
from mtc.acme.load.connection import KeptConnection
from mtc.acme.load.orders import Ordered, Orderer, Pace
from mtc.errors import Error


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """Who orders what. directory_url: the server's. zone: below it lie the names, all of them fresh.

    series: the beginning of the names, so that two crowds do not order the same. patience_s: how long requests are
    repeated while the server is away. new_orders: most requests for a new order at once, for servers that bear no more.
    request_s: longest wait for one answer.
    """

    directory_url: str
    zone: str
    tls: ssl.SSLContext | None = None
    clients: int = 64
    series: str = "h"
    pace: Pace = field(default_factory=Pace)
    patience_s: float = 0.0
    new_orders: int | None = None
    request_s: float = 30.0


@dataclass(slots=True)
class Load:
    """What a crowd did. orders: all that were begun. began, ended: steady seconds of the time that counts.

    requests: answered ones, those before and after that time included.
    """

    orders: list[Ordered] = field(default_factory=list)
    began: float = 0.0
    ended: float = 0.0
    requests: int = 0

    @property
    def counted(self) -> list[Ordered]:
        """The orders that got their certificate in the time that counts."""
        return [item for item in self.orders if item.pem and self.began <= item.ended < self.ended]

    @property
    def orders_per_s(self) -> float:
        """Certificates a second."""
        return len(self.counted) / (self.ended - self.began)

    @property
    def requests_per_order(self) -> float:
        """Requests that an order took, those of accounts included."""
        return self.requests / max(len(self.orders), 1)

    def finalize_s(self, percent: int) -> float:
        """Return a percentile of the seconds from the request to finalize to the downloaded certificate."""
        return _percentile([item.ended - item.finalized for item in self.counted], percent)

    def order_s(self, percent: int) -> float:
        """Return a percentile of the seconds that a whole order took."""
        return _percentile([item.ended - item.began for item in self.counted], percent)

    @property
    def problems(self) -> Counter[str]:
        """Why orders failed, and how many."""
        return Counter(item.problem for item in self.orders if item.problem)


async def run_crowd(
    crowd: Crowd,
    answering: AnsweringServer,
    *,
    warm_up_s: float,
    seconds: float,
    tell: Callable[[int, float], None] | None = None,
) -> Load:
    """Let clients order for a time. Every client makes its account first; each order that was begun is finished.

    warm_up_s: what ends before is not counted. tell: hears after each order how many there are, and the seconds so far.
    Raises PeerError when the server is away for longer than the crowd's patience.
    """
    load, names = Load(), map(f"{crowd.series}{{}}.{crowd.zone}".format, itertools.count())
    accounts = [Account(crowd.directory_url, _connection(crowd), crowd.patience_s) for _ in range(crowd.clients)]
    try:
        await _all_of([account.register() for account in accounts])
        load.began = time.perf_counter() + warm_up_s
        load.ended = load.began + seconds

        gate = asyncio.Semaphore(crowd.new_orders or crowd.clients)

        async def work(account: Account) -> None:
            orderer = Orderer(account, answering, crowd.pace, gate)
            while time.perf_counter() < load.ended:
                load.orders.append(await orderer.order(next(names)))
                if tell is not None:
                    tell(len(load.orders), time.perf_counter() - load.began + warm_up_s)

        await _all_of([work(account) for account in accounts])
    finally:
        for account in accounts:
            account.close()
    load.requests = sum(account.requests for account in accounts)
    return load


async def _all_of(works: Iterable[Coroutine[None, None, None]]) -> None:
    """Run all at once, and raise the first error alone: the others are most often the same."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except* Error as errors:
        raise next(_leaves(errors)) from None


def _leaves(errors: BaseExceptionGroup[Error]) -> Iterator[Error]:
    """Yield the errors in a group of groups."""
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _connection(crowd: Crowd) -> KeptConnection:
    """Return a connection to the crowd's server."""
    parts = urlsplit(crowd.directory_url)
    return KeptConnection(f"{parts.scheme}://{parts.netloc}", crowd.tls, crowd.request_s)


def _percentile(values: Sequence[float], percent: int) -> float:
    """Return a percentile, 0 without values."""
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
