"""What a resumed handshake may stand for: what a ticket and a session are bound to, and whether that still holds.

In a resumed handshake no certificate is sent and no signature made, so nobody would ask any more whether the
certificate has ended, was revoked, or is still in use. So each side keeps what the full handshake was about and judges
it again. What does not fit leads to a full handshake, silently.

Spec: RFC 8446, "Resumption and Pre-Shared Key (PSK)" and "New Session Ticket Message".
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from mtc.errors import Reason, Rejected
from mtc.kernel import parse_layout
from mtc.trust import TrustStore, Verified, format_trust_store, verify_certificate
from mtc.wire import Reader, Writer

MAX_AGE = timedelta(days=1)
"""How long after a full handshake its tickets, and those that came from them, are worth anything. RFC 8446: 7 days."""
MAX_TICKET_S = 7200
"""Lifetime of one ticket, seconds: what OpenSSL has without us."""

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a server's ticket stands for; it travels inside the ticket, which only that server can read.

    asked: how the server asked for certificates of clients: 0 not, 1 optional, 2 required. trust: number of the state
    of the trust store for them, 0 without one. since: POSIX seconds of the full handshake. leaf: SHA-256 of the
    certificate that was sent. server_name: as the client sent it, None when it sent none.
    """

    asked: int
    trust: int
    since: int
    leaf: bytes
    server_name: str | None

    def encode(self) -> bytes:
        """Return the bytes that travel in the ticket."""
        name = b"" if self.server_name is None else self.server_name.encode("ascii")
        writer = Writer().uint(_FORMAT, 1).uint(self.asked, 1).uint(self.trust, 8).uint(self.since, 8)
        return writer.bytes(self.leaf).vector(name, 2).encode()

    @classmethod
    def parse(cls, data: bytes) -> "Ticket":
        """Read it. Raises FormatError; Rejected for one of another kind."""
        reader = Reader(data, "the ticket")
        if reader.read_uint(1) != _FORMAT:
            raise Rejected(Reason.UNSUPPORTED, "the ticket is of another kind")
        asked, trust, since = reader.read_uint(1), reader.read_uint(8), reader.read_uint(8)
        leaf, name = reader.read_bytes(32), reader.read_vector(2)
        reader.finish()
        return cls(asked, trust, since, leaf, name.decode("ascii") or None)


def leaf_digest(der: bytes) -> bytes:
    """Return by what a ticket names a certificate."""
    return sha256(der).digest()


def encode_server_name(name: str | None) -> bytes | None:
    """Return the body of the server_name extension that a client sends for a name. Spec: RFC 6066."""
    if name is None:
        return None
    text = name.encode("ascii")
    return (len(text) + 3).to_bytes(2, "big") + b"\x00" + len(text).to_bytes(2, "big") + text


def is_young(since: datetime, now: datetime) -> bool:
    """Tell whether a full handshake is not too long ago, nor in the future."""
    return since - timedelta(minutes=1) <= now < since + MAX_AGE


def is_same_trust(one: TrustStore, other: TrustStore) -> bool:
    """Tell whether two snapshots are of the same state of a trust store."""
    return one is other or format_trust_store(one) == format_trust_store(other)


@dataclass(frozen=True, slots=True)
class Bond:
    """What a client's session is bound to. Made after a handshake in which the server was judged.

    host: whom the client asked for. has_checked_name: the certificate was found to be for it. leaf: DER. is_mtc: a
    Merkle Tree certificate, that was verified with `store`. since: the full handshake. own: place of the path that the
    client sent, None for none.
    """

    host: str | None
    has_checked_name: bool
    leaf: bytes
    is_mtc: bool
    store: TrustStore
    since: datetime
    own: int | None

    def judge(self, store: TrustStore, now: datetime, host: str | None, *, checks_name: bool) -> Verified | None:
        """Judge the server again as if its certificate came now; None for a classical one, which is valid still.

        store: the present snapshot. Raises Error when anything does not fit.
        """
        if host != self.host:
            raise _unfit(f"it is for {self.host}, not for {host}")
        if not is_same_trust(store, self.store):
            raise _unfit("the trust store has changed")
        if not is_young(self.since, now):
            raise _unfit("the full handshake is too long ago")
        if self.is_mtc:
            return verify_certificate(self.leaf, store, now, name=host if checks_name else None)
        layout = parse_layout(self.leaf)
        if not layout.not_before <= now.timestamp() < layout.not_after + 1:
            raise Rejected(Reason.EXPIRED, f"the certificate ended {datetime.fromtimestamp(layout.not_after, UTC)}")
        if checks_name and not self.has_checked_name:
            raise _unfit("nobody has compared the certificate with the name")
        return None


def _unfit(why: str) -> Rejected:
    """Make the error for a session that is not to be used here."""
    return Rejected(Reason.SESSION_UNFIT, f"the session is not resumed: {why}")
