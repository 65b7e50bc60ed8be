"""Nonces: each is given out once and accepted once. They live in memory: after a restart clients ask for new ones.

Spec: RFC 8555, "Replay Protection".
"""

import secrets
from collections import OrderedDict

MAX_NONCES = 100_000
"""Most nonces that wait to be used, about 10 MB; the oldest are forgotten first, and their owners told badNonce."""
_NONCE_BYTES = 16


class NoncePool:
    """The nonces that are out. Owned by the server's event loop."""

    def __init__(self, most: int = MAX_NONCES) -> None:
        """Start with none."""
        self._waiting: OrderedDict[str, None] = OrderedDict()
        self._most = most

    def issue(self) -> str:
        """Return a new nonce, base64url."""
        nonce = secrets.token_urlsafe(_NONCE_BYTES)
        self._waiting[nonce] = None
        if len(self._waiting) > self._most:
            self._waiting.popitem(last=False)
        return nonce

    def is_accepted(self, nonce: str) -> bool:
        """Use a nonce up. Tells whether it was one of ours and not used before."""
        return self._waiting.pop(nonce, self) is None
