"""An authoritative DNS server on loopback whose names are edited while it runs: for tests, demonstrations, benchmarks.

It answers like a recursive resolver that knows only what it was told: chains of CNAME are followed in one answer,
wildcards match, everything else does not exist. It can be told to fail in the ways in which real servers do. Answers
are encoded by hand and kept, so that it does not slow down what it is measured with.

    async with NameServer() as names:
        names.set("www.example.test", "A", "127.0.0.1")
        names.set("example.test", "CAA", '0 issue "ca.test"', '0 iodef "mailto:security@example.test"')
        resolver = names.server  # "127.0.0.1:<port>"

Spec: RFC 1035, RFC 6891 (EDNS), RFC 4592 (wildcards), RFC 2308 (negative answers).
"""

import asyncio
import contextlib
import struct
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any, Self, cast

import dns.exception
import dns.flags
import dns.message
import dns.rdatatype

from mtc.errors import PeerError, Reason, UsageError
from mtc.testing.names_wire import (
    EDNS_BYTES,
    FLAG_AA,
    FLAG_AD,
    FLAG_RA,
    FLAG_RD,
    FLAG_RESPONSE,
    FLAG_TC,
    HEADER_BYTES,
    OPT_BYTES,
    TYPE_CNAME,
    TYPE_OPT,
    TYPE_SOA,
    Query,
    Record,
    RRset,
    encode_record,
    key_of_name,
    name_of_key,
    parse_query,
    type_of_text,
    type_to_text,
    upwards,
    wire_of_text,
)

Answerer = Callable[[dns.message.Message], dns.message.Message]
"""Makes the answer to a query by itself, for names that `NameServer.answer_with` gave it."""

_RCODE_FORMERR, _RCODE_SERVFAIL, _RCODE_NXDOMAIN, _RCODE_REFUSED = 1, 2, 3, 5
_MAX_CHAIN = 8
_MAX_CACHED = 50_000
_MAX_LOGGED = 100_000
_TCP_IDLE_S = 10.0
_BIND_ATTEMPTS = 20
_SOA_TEXT = "ns.invalid. hostmaster.invalid. 1 3600 600 86400 5"


class Failure(Enum):
    """How a name fails when `NameServer.fail` said so."""

    FORMERR = "FORMERR"
    SERVFAIL = "SERVFAIL"
    NXDOMAIN = "NXDOMAIN"
    """The name does not exist, whatever was set."""
    REFUSED = "REFUSED"
    TIMEOUT = "TIMEOUT"
    """No answer at all."""
    TRUNCATED = "TRUNCATED"
    """Over UDP nothing but the flag that says "ask over TCP"; over TCP what was set."""
    TRUNCATED_TIMEOUT = "TRUNCATED_TIMEOUT"
    """Over UDP the same flag, over TCP no answer."""
    WRONG_QUESTION = "WRONG_QUESTION"
    """An answer to a question that nobody asked, as a forger sends it; nothing follows."""


_RCODES = {
    Failure.FORMERR: _RCODE_FORMERR,
    Failure.SERVFAIL: _RCODE_SERVFAIL,
    Failure.NXDOMAIN: _RCODE_NXDOMAIN,
    Failure.REFUSED: _RCODE_REFUSED,
}


@dataclass(frozen=True, slots=True)
class Question:
    """One question that was asked. name: lower case, no dot at its end. transport: "udp" or "tcp"."""

    name: str
    type: str
    transport: str


class NameServer:
    """The server, an async context manager: it listens on UDP and TCP, on one port, from `__aenter__` to `__aexit__`.

    All editing takes effect with the next question, also from another thread. Names are text with or without a dot at
    the end, in any case; types are mnemonics; values are written as in a zone file. count, questions: what was asked,
    the latter at most the last 100,000. claims_secure: set AD for those who ask for it, as a validating resolver does.
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, ttl_s: int = 60, claims_secure: bool = False) -> None:
        """Prepare; port 0 takes a free one."""
        self.claims_secure = claims_secure
        self.count: Counter[tuple[str, str]] = Counter()
        self.questions: deque[Question] = deque(maxlen=_MAX_LOGGED)
        self._host, self._port, self._ttl_s = host, port, ttl_s
        self._records: dict[bytes, dict[int, RRset]] = {}
        self._nodes: Counter[bytes] = Counter()  # Every name with records and, counted, all names above it.
        self._failures: dict[tuple[bytes, int], Failure] = {}
        self._plays: dict[tuple[bytes, int], deque[tuple[bytes, ...]]] = {}
        self._answerers: dict[bytes, Answerer] = {}
        self._cache: dict[bytes, tuple[bytes, Question]] = {}
        self._datagrams: asyncio.DatagramTransport | None = None
        self._streams: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.WriteTransport] = {}

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that it listens on."""
        return self._host, self._port

    @property
    def server(self) -> str:
        """The same as settings spell it: `127.0.0.1:5353`, `[::1]:5353`."""
        return f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"

    # Editing

    def set(self, name: str, type_: str, *values: str, ttl_s: int | None = None) -> None:
        """Set the records of a name and a type, in the place of those that were there. Raises UsageError.

        `*.example.test` is a wildcard. An SOA makes a name the apex of a zone; without one, the last label is.
        """
        key, number = key_of_name(name), type_of_text(type_)
        records = tuple(wire_of_text(number, value) for value in values)
        if number not in self._records.get(key, {}):
            self._nodes.update(upwards(key))
        self._records.setdefault(key, {})[number] = (self._ttl_s if ttl_s is None else ttl_s, records)
        self._cache = {}

    def remove(self, name: str, type_: str | None = None) -> None:
        """Remove the records, failures and plays of a name: those of one type, or all."""
        key = key_of_name(name)
        wanted = None if type_ is None else type_of_text(type_)
        types = self._records.get(key, {})
        for number in [number for number in types if wanted in {None, number}]:
            del types[number]
            self._nodes.subtract(upwards(key))
        self._nodes += Counter()  # Drops what counts zero.
        if not types:
            self._records.pop(key, None)
        for table in (self._failures, self._plays):
            for slot in [slot for slot in table if slot[0] == key and (wanted is None or slot[1] in {0, wanted})]:
                del table[slot]
        self._cache = {}

    def play(self, name: str, type_: str, *answers: Sequence[str]) -> None:
        """Answer differently each time: the first question gets the first set of values, and so on; the last stays."""
        if not answers:
            raise UsageError(Reason.USAGE, "a play has at least one answer")
        self.set(name, type_, *answers[-1])
        number = type_of_text(type_)
        acts = deque(tuple(wire_of_text(number, value) for value in values) for values in answers[:-1])
        self._plays[key_of_name(name), number] = acts
        self._cache = {}

    def fail(self, name: str, failure: Failure, type_: str | None = None) -> None:
        """Let questions for a name fail, of one type or all, until `remove`."""
        self._failures[key_of_name(name), 0 if type_ is None else type_of_text(type_)] = failure
        self._cache = {}

    def answer_with(self, apex: str, answerer: Answerer) -> None:
        """Let a function answer every question at and below a name, for example from a signed zone. It is slow."""
        self._answerers[key_of_name(apex)] = answerer
        self._cache = {}

    def asked(self, name: str, type_: str) -> int:
        """Return how often a question was asked, over either transport."""
        return self.count[name_of_key(key_of_name(name)), type_.upper()]

    # Running

    async def __aenter__(self) -> Self:
        """Listen. Raises PeerError when no port is free."""
        loop = asyncio.get_running_loop()
        wanted = self._port
        for _ in range(1 if wanted else _BIND_ATTEMPTS):
            transport, _ = await loop.create_datagram_endpoint(
                lambda: _Datagrams(self), local_addr=(self._host, wanted)
            )
            port = int(transport.get_extra_info("sockname")[1])
            try:
                self._streams = await asyncio.start_server(self._converse, self._host, port)
            except OSError:
                transport.close()
                continue
            self._datagrams, self._port = transport, port
            return self
        raise PeerError(Reason.PEER, f"no port of {self._host} is free for both UDP and TCP", port=wanted)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening; connections end."""
        if self._datagrams is not None:
            self._datagrams.close()
        if self._streams is not None:
            self._streams.close()
        for transport in self._connections.values():
            transport.abort()
        await asyncio.gather(*self._connections)
        if self._streams is not None:
            await self._streams.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the queries of one TCP connection until it ends or is idle."""
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = writer.transport
        try:
            while True:
                async with asyncio.timeout(_TCP_IDLE_S):
                    size = int.from_bytes(await reader.readexactly(2), "big")
                    answer = self.answer(await reader.readexactly(size), is_tcp=True)
                if answer is not None:
                    writer.write(len(answer).to_bytes(2, "big") + answer)
                    await writer.drain()
        except (OSError, EOFError, TimeoutError):
            pass
        finally:
            del self._connections[task]
            writer.close()

    # Answering

    def answer(self, wire: bytes, *, is_tcp: bool = False) -> bytes | None:
        """Return the answer to a query in wire form, None for no answer."""
        # An edit puts an empty cache in the place of this one, so an answer from before it is never kept.
        cache = self._cache
        cached = None if is_tcp else cache.get(wire[2:])
        if cached is not None:
            tail, question = cached
            self._note(question)
            return wire[:2] + tail
        query = parse_query(wire)
        if query is None:
            return None if len(wire) < HEADER_BYTES else wire[:2] + b"\x80\x01" + bytes(8)
        question = Question(name_of_key(query.key), type_to_text(query.type), "tcp" if is_tcp else "udp")
        self._note(question)
        for name in upwards(query.key):
            if name in self._answerers:
                return _ask(self._answerers[name], wire, query, is_tcp=is_tcp)
        failure = self._failure(query.key, query.type)
        if failure is Failure.TIMEOUT or (is_tcp and failure is Failure.TRUNCATED_TIMEOUT):
            return None
        if failure is Failure.WRONG_QUESTION:
            return wire[:2] + b"\x85\x80\x00\x01" + bytes(6) + b"\x05wrong\x00\x00\x01\x00\x01"
        code, records = self._resolve(query)
        is_cut = not is_tcp and failure in {Failure.TRUNCATED, Failure.TRUNCATED_TIMEOUT}
        tail = self._encode(query, code, records, most=0 if is_cut else 65535 if is_tcp else query.udp_bytes)
        if not is_tcp and not self._plays and len(cache) < _MAX_CACHED:
            cache[wire[2:]] = (tail, question)
        return wire[:2] + tail

    def _note(self, question: Question) -> None:
        self.count[question.name, question.type] += 1
        self.questions.append(question)

    def _failure(self, name: bytes, number: int) -> Failure | None:
        return self._failures.get((name, number)) or self._failures.get((name, 0))

    def _resolve(self, query: Query) -> tuple[int, list[Record]]:
        """Return the response code and the answer, with all names of a chain."""
        name, chain = query.key, list[Record]()
        for _ in range(_MAX_CHAIN):
            failure = self._failure(name, query.type)
            if failure in _RCODES:
                return _RCODES[failure], chain
            types = self._find(name)
            if types is None:
                return _RCODE_NXDOMAIN, chain
            ttl_s, values = types.get(query.type, (0, ()))
            acts = self._plays.get((name, query.type))
            if acts:
                values = acts.popleft()
            if values:
                return 0, [*chain, *((name, query.type, ttl_s, value) for value in values)]
            if TYPE_CNAME not in types:
                return 0, chain
            ttl_s, (target,) = types[TYPE_CNAME]
            chain.append((name, TYPE_CNAME, ttl_s, target))
            name = target.lower()
        return _RCODE_SERVFAIL, []

    def _find(self, name: bytes) -> dict[int, RRset] | None:
        """Return the records of a name, its own or a wildcard's; None when it does not exist."""
        if name in self._records:
            return self._records[name]
        if name in self._nodes:
            return {}
        for above in upwards(name[1 + name[0] :]) if name != b"\x00" else ():
            if b"\x01*" + above in self._records:
                return self._records[b"\x01*" + above]
            if above in self._nodes:
                return None
        return None

    def _encode(self, query: Query, code: int, records: list[Record], *, most: int) -> bytes:
        """Return everything of an answer but its ID, truncated when it is longer than `most` bytes."""
        is_negative = code in {0, _RCODE_NXDOMAIN} and (not records or records[-1][1] != query.type)
        authority = [self._soa(records[-1][3] if records else query.key)] if is_negative else []
        body = b"".join(encode_record(record, query.key) for record in (*records, *authority))
        flags = FLAG_RESPONSE | FLAG_AA | FLAG_RA | (query.flags & FLAG_RD) | code
        if self.claims_secure and query.wants_secure:
            flags |= FLAG_AD
        if HEADER_BYTES + len(query.raw_question) + len(body) + OPT_BYTES > most:
            flags, records, authority, body = flags | FLAG_TC, [], [], b""
        header = struct.pack("!5H", flags, 1, len(records), len(authority), int(query.has_edns))
        opt = struct.pack("!BHHIH", 0, TYPE_OPT, EDNS_BYTES, query.edns_flags, 0) if query.has_edns else b""
        return header + query.raw_question + body + opt

    def _soa(self, name: bytes) -> Record:
        """Return the SOA record of the zone that a name is in."""
        apex = b"\x00"
        for above in upwards(name.lower()):
            if TYPE_SOA in self._records.get(above, {}):
                ttl_s, (value,) = self._records[above][TYPE_SOA]
                return above, TYPE_SOA, ttl_s, value
            apex = above if above != b"\x00" else apex
        return apex, TYPE_SOA, self._ttl_s, wire_of_text(TYPE_SOA, _SOA_TEXT)


class _Datagrams(asyncio.DatagramProtocol):
    """Answers what comes over UDP."""

    def __init__(self, names: NameServer) -> None:
        self._names = names
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; uvloop's is no subclass of asyncio's."""
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        """Answer one query."""
        answer = self._names.answer(data)
        if answer is not None and self._transport is not None:
            self._transport.sendto(answer, addr)


@contextlib.contextmanager
def serve_names(names: NameServer) -> Iterator[NameServer]:
    """Run a server in a thread of its own, for code that has no event loop. Raises PeerError when no port is free."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="names", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(names.__aenter__(), loop).result()
        try:
            yield names
        finally:
            asyncio.run_coroutine_threadsafe(names.__aexit__(None, None, None), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _ask(answerer: Answerer, wire: bytes, query: Query, *, is_tcp: bool) -> bytes:
    """Return what a function answers, truncated where it must be."""
    message = dns.message.from_wire(wire)
    answer = answerer(message)
    try:
        return answer.to_wire(max_size=65535 if is_tcp else query.udp_bytes)
    except dns.exception.TooBig:
        cut = dns.message.make_response(message)
        cut.flags |= dns.flags.TC
        return cut.to_wire()
