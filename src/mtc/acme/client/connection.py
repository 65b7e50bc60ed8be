"""A client of one server as it is configured, from connecting to closing."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from mtc.acme.client.accounts import AccountFolder, ServerChoice
from mtc.acme.client.protocol import ACMEClient, connect
from mtc.acme.client.transport import TransportLimits, open_transport

_LIMITS = TransportLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seams:
    """Where time and chance come from."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep
    chance: Callable[[], float] = random.random
    limits: TransportLimits = _LIMITS


@asynccontextmanager
async def open_configured(choice: ServerChoice, account: AccountFolder, seams: Seams) -> AsyncIterator[ACMEClient]:
    """Connect to a server with the account's key, which is made if there is none. Nothing is registered yet."""
    async with open_transport(
        ca_file=choice.ca_file,
        is_local=choice.directory.startswith("http://"),
        limits=seams.limits,
        now=seams.now,
        pause=seams.pause,
        chance=seams.chance,
    ) as transport:
        yield await connect(transport, choice.directory, account.key(choice.account_key_type))
