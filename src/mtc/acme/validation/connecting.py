"""Connections to applicants: the address that was checked is the address that is connected to.

A name is looked up once for a connection. If it were looked up again by whatever makes the connection, an applicant's
server could answer with a public address to the check and with a private one to the connection (DNS rebinding).
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from ssl import CERT_NONE as NO_CERTIFICATE
from ssl import PROTOCOL_TLS_CLIENT, SSLContext, SSLError, TLSVersion
from typing import Protocol

from mtc.acme.machine.problems import ProblemType
from mtc.acme.machine.validation import Connection
from mtc.acme.validation.addresses import Address, explain_refusal, parse_address
from mtc.acme.validation.findings import Findings, ValidationError
from mtc.acme.validation.resolver import Resolver
from mtc.acme.validation.settings import ValidationSettings

_MAX_ADDRESSES = 20
_BUFFER_BYTES = 16 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """What is connected to. target: for the report. tls, server_name: as `asyncio.open_connection` takes them."""

    target: str
    port: int
    tls: SSLContext | None = None
    server_name: str | None = None


class Connect(Protocol):
    """How a TCP connection comes about."""

    async def __call__(self, address: Address, port: int) -> socket.socket:
        """Return a connected socket that does not block. Raises OSError. The caller sets the deadline."""


async def connect_directly(address: Address, port: int) -> socket.socket:
    """Connect to an address, without any proxy."""
    family = socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.settimeout(0)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(connection, (str(address), port))
    except BaseException:
        connection.close()
        raise
    return connection


class Dialer:
    """Finds the addresses of a host, checks them, and connects to one."""

    def __init__(self, settings: ValidationSettings, resolver: Resolver, connect: Connect = connect_directly) -> None:
        """Work by some settings."""
        self._settings = settings
        self._resolver = resolver
        self._connect = connect

    async def find_addresses(self, host: str, findings: Findings) -> list[Address]:
        """Return the addresses of a host that may be connected to, IPv6 first; a host that is an address is its own.

        Raises ValidationError: dns when there is no address, connection when none may be connected to.
        """
        literal = parse_address(host)
        found = [literal] if literal is not None else await self._look_up(host, findings)
        allowed, refused = [], []
        for address in found:
            why = explain_refusal(address, allows_private=self._settings.allows_private)
            if why is None:
                allowed.append(address)
            else:
                refused.append(f"{address} {why}")
        if not allowed:
            raise ValidationError.of(
                ProblemType.CONNECTION, f"{host} has no address that may be connected to: {', '.join(refused)}"
            )
        return allowed

    async def _look_up(self, host: str, findings: Findings) -> list[Address]:
        """Return all addresses of a name. Raises ValidationError (dns)."""
        outcomes = await asyncio.gather(
            *(self._resolver.look_up(host, type_, findings) for type_ in ("AAAA", "A")), return_exceptions=True
        )
        addresses: list[Address] = []
        failures, statuses = [], set()
        for outcome in outcomes:
            if isinstance(outcome, ValidationError):
                failures.append(outcome)
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                statuses.add(f"{outcome.status} from {outcome.server}")
                found = [parse_address(record.to_text()) for record in outcome.records[:_MAX_ADDRESSES]]
                addresses.extend(address for address in found if address is not None)
        if not addresses:
            # That one of the two lookups failed matters only when the other found nothing.
            if failures:
                raise failures[0]
            raise ValidationError.of(ProblemType.DNS, f"{host} has no A or AAAA record ({', '.join(sorted(statuses))})")
        return addresses

    @contextlib.asynccontextmanager
    async def dial(
        self, destination: Destination, addresses: Sequence[Address], findings: Findings
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Connect, for as long as the context lasts, to the first address or, if that fails and is IPv6, one of IPv4.

        Raises ValidationError: connection, or tls when the handshake fails.
        """
        connection, address = await self._connect_to_one(destination, addresses, findings)
        try:
            # From here on the socket belongs to the event loop, also when this fails or is cancelled.
            async with asyncio.timeout(self._settings.connect_timeout_s):
                reader, writer = await asyncio.open_connection(
                    sock=connection, ssl=destination.tls, server_hostname=destination.server_name, limit=_BUFFER_BYTES
                )
        except (OSError, TimeoutError) as error:  # Errors of TLS are such as well.
            where = f"{address}, port {destination.port}, for {destination.target}"
            raise ValidationError.of(ProblemType.TLS, f"TLS with {where} failed: {explain_error(error)}") from error
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def _connect_to_one(
        self, destination: Destination, addresses: Sequence[Address], findings: Findings
    ) -> tuple[socket.socket, Address]:
        """Return a connection and the address that it goes to. Raises ValidationError (connection)."""
        first = addresses[0]
        fallback = next((item for item in addresses if item.version == 4), None) if first.version == 6 else None
        target, port = destination.target, destination.port
        failures = []
        for address in (first, fallback):
            if address is None:
                break
            outcome = "connected"
            try:
                async with asyncio.timeout(self._settings.connect_timeout_s):
                    connection = await self._connect(address, port)
            except (OSError, TimeoutError) as error:
                outcome = explain_error(error)
                failures.append(f"{address}: {outcome}")
            findings.add_connection(Connection(target=target, address=str(address), port=port, outcome=outcome))
            if outcome == "connected":
                return connection, address
        raise ValidationError.of(
            ProblemType.CONNECTION, f"no connection to port {port} for {target} ({'; '.join(failures)})"
        )


def explain_error(error: BaseException) -> str:
    """Return what went wrong with a connection, in a few words."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, SSLError):
        return str(error.reason or error)[:200]
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error)[:200] or type(error).__name__


def make_tls_context(protocols: Sequence[str] = ()) -> SSLContext:
    """Return how TLS is spoken with applicants. Their certificates are not verified: they are only asking for one."""
    context = SSLContext(PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = NO_CERTIFICATE
    context.minimum_version = TLSVersion.TLSv1_2
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context
