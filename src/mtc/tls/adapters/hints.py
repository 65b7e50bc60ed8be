"""What a client learned from handshakes that failed: the one ID to ask for when it connects to that host again.

For programs whose library opens the connections: they cannot try again by themselves with another list, but most try
again. A hint changes what is asked for and nothing else: it is an ID that the client trusts anyway, and whatever the
server sends is verified as ever.

Spec: TLS Trust Anchor Identifiers, "Retry".
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass

from mtc.ids import TrustAnchorID
from mtc.tls.adapters.resumption import is_same_trust
from mtc.trust import TrustStore

MAX_HOSTS = 256
"""Hosts remembered by one context; the one that was used longest ago goes first."""


@dataclass(frozen=True, slots=True)
class Hint:
    """What to ask for as long as the trust store stays the same. has_worked: a handshake succeeded with it."""

    anchor: TrustAnchorID
    store: TrustStore
    has_worked: bool


class RetryHints:
    """The hints of one client context. Threads may share it; the lock guards the dictionary."""

    def __init__(self) -> None:
        """Know nothing."""
        self._lock = threading.Lock()
        self._hints: OrderedDict[str, Hint] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of hosts with a hint."""
        return len(self._hints)

    def remember(self, host: str, anchor: TrustAnchorID, store: TrustStore, *, has_worked: bool = False) -> None:
        """Ask for `anchor` in the next connection to `host`; in all of them once it has worked."""
        with self._lock:
            self._hints[host] = Hint(anchor, store, has_worked)
            self._hints.move_to_end(host)
            while len(self._hints) > MAX_HOSTS:
                self._hints.popitem(last=False)

    def take(self, host: str, store: TrustStore) -> Hint | None:
        """Return what to ask for. What has not worked yet is given once only, for there is one retry.

        A hint ends with the state of the trust store that it was made with: another one may not need it.
        """
        with self._lock:
            hint = self._hints.get(host)
            if hint is not None and not hint.has_worked:
                del self._hints[host]
        if hint is None or is_same_trust(hint.store, store):
            return hint
        self.forget(host)
        return None

    def forget(self, host: str) -> None:
        """Ask that host as any other."""
        with self._lock:
            self._hints.pop(host, None)
