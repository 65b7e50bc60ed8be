"""Site and clients of `mtc demo outage`, with clocks that are pushed on: who gets which certificate at which hour."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from mtc.cli.demo_classical import Classical
from mtc.cli.demo_tls import TIMEOUT_S, reason_of, shake
from mtc.errors import Error, Reason
from mtc.tls import ClientContext, ServerContext, client_context, client_report
from mtc.trust import TrustStore
from mtc.trust.updater import load_trust_store, read_update_state
from mtc.trust.updates import Freshness, freshness_of

HOST = "www.example.com"


class PushedClock:
    """The machine's clock, pushed on. ahead: by how much."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def now(self) -> datetime:
        """Return the simulated time of day."""
        return datetime.now(UTC) + self.ahead

    def monotonic(self) -> float:
        """Return steady seconds, pushed on as well."""
        return time.monotonic() + self.ahead.total_seconds()


class Outcome(NamedTuple):
    """What a client got at one moment. served: the form, "classical" or "refused". why: reason of a refusal."""

    served: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Client:
    """A relying party. folder: where it keeps its state; None for one that knows nothing of all this.

    has_landmarks: False for one that took the policy and no landmarks yet.
    """

    name: str
    folder: Path | None
    has_landmarks: bool = True

    def trusts(self, now: datetime) -> TrustStore:
        """Return the snapshot that it verifies with. Raises Rejected (EXPIRED) when nothing may be trusted any more."""
        if self.folder is None:
            return TrustStore([])
        store = load_trust_store(self.folder, now)
        if self.has_landmarks:
            return store
        return TrustStore([replace(ca, trusted_subtrees=()) for ca in store.cas])

    def freshness(self, now: datetime) -> Freshness | None:
        """Return how old what it holds is; None when there is nothing to be stale."""
        if self.folder is None:
            return None
        config, state = read_update_state(self.folder)
        return freshness_of(state, now, config.stale_after_s)


@dataclass(frozen=True, slots=True)
class Moment:
    """What all clients got at one hour. before: what each was refused first, if it was. freshness: of the first."""

    hours: int
    outcomes: tuple[Outcome, ...]
    before: tuple[str, ...]
    freshness: Freshness

    def to_json(self, clients: Sequence[Client]) -> dict[str, object]:
        """Return it for scripts."""
        served = {client.name: item.served for client, item in zip(clients, self.outcomes, strict=True)}
        refused = {client.name: text for client, text in zip(clients, self.before, strict=True) if text}
        about = {"staleness": str(self.freshness.staleness), "age_s": self.freshness.age_s}
        return {"hour": self.hours, "served": served, "refused_first": refused, **about}


class HourlySite:
    """A TLS server in a thread, with a clock of its own."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._socket.getsockname()[:2]

    def serve(self) -> None:
        """Shake hands with one client after the other, until the socket is closed."""
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            connection.settimeout(TIMEOUT_S)
            try:
                with self._context.wrap_socket(connection, server_side=True):
                    pass
            except (OSError, ssl.SSLError):
                # A client that refuses ends the connection; it says itself why.
                connection.close()

    def close(self) -> None:
        """End `serve`."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@dataclass(slots=True)
class World:
    """Everybody who goes on while the others are gone."""

    clock: PushedClock
    site: HourlySite
    classical: Classical
    clients: Sequence[Client]
    _contexts: dict[Client | None, ClientContext] = field(default_factory=dict)

    def look(self, hours: int) -> Moment:
        """Let every client connect at an hour of the outage."""
        self.clock.ahead = timedelta(hours=hours)
        outcomes, before = [], []
        for client in self.clients:
            outcome = self._connect(client, is_falling_back=False)
            before.append(outcome.why)
            if outcome.why == str(Reason.EXPIRED):
                # It says so and trusts nothing of its state; what is left is what clients have had for decades.
                outcome = self._connect(client, is_falling_back=True)
            outcomes.append(outcome)
        freshness = self.clients[0].freshness(self.clock.now())
        assert freshness is not None
        return Moment(hours, tuple(outcomes), tuple(before), freshness)

    def _connect(self, client: Client, *, is_falling_back: bool) -> Outcome:
        """Let a client connect. is_falling_back: with an empty trust store, after its own has expired."""
        context = self._context(None if is_falling_back else client)
        try:
            report, _, _, error = shake(self.site.address, context, HOST)
        except (Error, OSError) as failure:
            report, error = client_report(failure), failure
        if error is not None:
            return Outcome("refused", reason_of(error)[0])
        verified = None if report is None else report.verified
        return Outcome("classical" if verified is None else str(verified.form))

    def _context(self, client: Client | None) -> ClientContext:
        """Return a client's context, made once: it asks for the present snapshot in each handshake."""
        if client not in self._contexts:
            clock = self.clock

            def snapshot() -> TrustStore:
                return TrustStore([]) if client is None else client.trusts(clock.now())

            is_new = client is not None and client.folder is not None
            context = client_context(snapshot, sends_extension=is_new, clock=clock)
            context.load_verify_locations(cadata=self.classical.root.decode())
            self._contexts[client] = context
        return self._contexts[client]


@contextmanager
def serving(context: ServerContext) -> Iterator[HourlySite]:
    """Run the site until the context ends."""
    site = HourlySite(context)
    thread = threading.Thread(target=site.serve, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        site.close()
        thread.join()
