"""`mtc handshake`: one TLS handshake, step by step and in bytes: what was offered, chosen, sent and verified."""

import json
import socket
import ssl
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mtc.ca.sections import parse_duration
from mtc.cli.handshake_messages import Message, Recorder
from mtc.cli.handshake_picture import print_course
from mtc.cli.output import ExitCode, print_error
from mtc.cli.tls import describe_client
from mtc.cli.tls_target import (
    Target,
    connect_to,
    explain,
    is_refusal,
    open_context,
    parse_target,
    remaining,
    with_retry,
)
from mtc.errors import Error, PeerError, Reason
from mtc.tls import ClientContext, ClientReport, client_report
from mtc.trust import TrustStore, verify_certificate
from mtc.web.clock import SystemClock

_CHUNK_BYTES = 64 << 10
_MAX_FLIGHTS = 20
_RUNS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class HandshakeOptions:
    """What `mtc handshake` is asked for. timeout: how long it may take, as text. See `GetOptions` for the others."""

    url: str
    trust: str | None
    ca_file: str | None
    connect: str | None
    is_mtc_only: bool
    timeout: str
    as_json: bool


@dataclass(slots=True)
class Flight:
    """What one side sent without an answer between. byte_count: on the wire, with the headers of records."""

    sender: str
    byte_count: int
    messages: list[Message] = field(default_factory=list)


@dataclass(slots=True)
class Course:
    """How a handshake went. connect_ms, ms: of the connection, and from the first byte to the end.

    group: of the key exchange. failure: why it did not end well.
    """

    flights: list[Flight] = field(default_factory=list)
    connect_ms: float = 0.0
    ms: float = 0.0
    version: str = ""
    cipher: str = ""
    group: str = ""
    certificates: tuple[bytes, ...] = ()
    report: ClientReport | None = None
    failure: Error | None = None

    def add(self, sender: str, count: int) -> None:
        """Count bytes; those of one sender without an answer between are one flight."""
        if self.flights and self.flights[-1].sender == sender:
            self.flights[-1].byte_count += count
        else:
            self.flights.append(Flight(sender, count))

    def take(self, recorder: Recorder) -> None:
        """Take the messages, each to its flight."""
        self.certificates, self.group = recorder.certificates, recorder.group
        number = -1
        last = ""
        for message in recorder.messages:
            if message.sender != last:
                last, number = message.sender, number + 1
            if number < len(self.flights) and self.flights[number].sender == message.sender:
                self.flights[number].messages.append(message)

    def describe(self) -> dict[str, object]:
        """Return the course for scripts."""
        facts = describe_client(self.report) | {"tls": self.version, "cipher": self.cipher, "group": self.group}
        facts |= {"connect_ms": round(self.connect_ms, 2), "ms": round(self.ms, 2)}
        facts["flights"] = [
            {
                "from": flight.sender,
                "bytes": flight.byte_count,
                "messages": [_describe_message(item) for item in flight.messages],
            }
            for flight in self.flights
        ]
        der = self.certificates[0] if self.certificates else b""
        facts["certificate_bytes"], facts["chain_bytes"] = len(der), sum(map(len, self.certificates))
        if self.failure is not None:
            facts["certificate"] = None
            facts["refused"] = {"reason": str(self.failure.reason), "message": self.failure.message}
        return facts


def _describe_message(message: Message) -> dict[str, object]:
    """Return a message for scripts."""
    facts: dict[str, object] = {"name": message.name, "bytes": message.byte_count}
    if message.parts:
        facts["parts"] = [{"name": name, "bytes": count} for name, count in message.parts]
    return facts


def run_handshake(options: HandshakeOptions) -> int:
    """Shake hands, and show how it went. Returns 1 when the certificate was refused.

    Raises the error of a connection that failed otherwise.
    """
    target = parse_target(options.url, options.connect, needs_scheme=False)
    limit_s = parse_duration(options.timeout, "--timeout").total_seconds()
    context, store = open_context(options.trust, options.ca_file, classical=not options.is_mtc_only)
    deadline = time.monotonic() + limit_s
    courses: list[Course] = []
    try:
        with_retry(target, context, lambda _: _attempt(target, context, deadline, courses))
    except Error as error:
        if not is_refusal(error.__cause__):
            raise
    facts = [course.describe() for course in courses]
    last = courses[-1].report
    if last is not None and last.verified is not None:
        facts[-1]["verify_us"] = round(_measure(last.verified.der, store), 1)
    if options.as_json:
        first = {"attempts": len(courses)} | ({"first_attempt": facts[0]} if len(courses) > 1 else {})
        sys.stdout.write(json.dumps(facts[-1] | first) + "\n")
    else:
        _print(target, courses, facts)
    return ExitCode.DONE if courses[-1].failure is None else ExitCode.NO


def _print(target: Target, courses: list[Course], facts: Sequence[Mapping[str, object]]) -> None:
    """Show each attempt, and the error at the end."""
    for number, (course, known) in enumerate(zip(courses, facts, strict=True)):
        retry = course.report.retry if course.report is not None and number + 1 < len(courses) else None
        print_course(target.host, known, number + 1, retry=None if retry is None else str(retry))
    failure = courses[-1].failure
    if failure is not None:
        print_error(failure)


def _attempt(target: Target, context: ClientContext, deadline: float, courses: list[Course]) -> None:
    """Connect and shake hands once; what happened is noted in any case. Raises OSError, PeerError."""
    course, recorder, began = Course(), Recorder(), time.perf_counter()
    with connect_to(target, deadline) as sock, recorder.listening(context):
        course.connect_ms = (time.perf_counter() - began) * 1000
        courses.append(course)
        try:
            _shake(sock, context, target, deadline, course)
        except ssl.SSLError as error:
            course.report, course.failure = client_report(error), explain(target.url, error)
            raise
        finally:
            course.take(recorder)


def _shake(sock: socket.socket, context: ClientContext, target: Target, deadline: float, course: Course) -> None:
    """Do the handshake over a socket, counting what goes each way."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_hostname=target.host)
    began = time.perf_counter()

    def send() -> None:
        if outgoing.pending:
            data = outgoing.read()
            course.add("client", len(data))
            sock.settimeout(remaining(deadline))
            sock.sendall(data)

    while True:
        try:
            connection.do_handshake()
        except ssl.SSLWantReadError:
            send()
        except ssl.SSLError:
            # The alert that tells the server why.
            send()
            raise
        else:
            send()
            break
        if len(course.flights) >= _MAX_FLIGHTS:
            raise PeerError(Reason.PEER, f"{target.host}: the handshake does not end")
        sock.settimeout(remaining(deadline))
        data = sock.recv(_CHUNK_BYTES)
        if not data:
            raise ssl.SSLEOFError("the server ended the connection")
        course.add("server", len(data))
        incoming.write(data)
    course.ms = (time.perf_counter() - began) * 1000
    course.version, course.cipher = connection.version() or "", (connection.cipher() or ("",))[0]
    course.report = client_report(connection)


def _measure(der: bytes, store: TrustStore) -> float:
    """Return how long the verification takes, µs: the best of some runs."""
    now, best = SystemClock().now(), float("inf")
    for _ in range(_RUNS):
        began = time.perf_counter()
        verify_certificate(der, store, now)
        best = min(best, time.perf_counter() - began)
    return best * 1e6
