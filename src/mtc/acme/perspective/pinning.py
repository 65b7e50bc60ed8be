"""TLS to one party that is known by its public key: whoever else answers is refused within the handshake.

Nobody vouches for such a party, so no authority, name or chain is looked at; that it holds the key is what TLS itself
proves, and that its certificate is valid at this time is checked, so that a forgotten key ends.
"""

import ssl
from collections.abc import Callable
from datetime import datetime

from cryptography import x509

from mtc.errors import PeerError, Reason
from mtc.web.tls import TLSFiles, fingerprint_of, load_files


class PinError(ssl.SSLCertVerificationError):
    """What ends a handshake with somebody else. fault: the same for people."""

    def __init__(self, fault: PeerError) -> None:
        """Take what is wrong."""
        super().__init__(1, fault.message)
        self.fault = fault


class PinnedContext(ssl.SSLContext):
    """A client's context for one party; make one with `pinned_context`."""

    pin: str
    now: Callable[[], datetime]

    def check_peer(self, data: bytes | None) -> None:
        """Raise PinError unless the party's certificate, DER, has the pinned key and is valid now."""
        try:
            certificate = x509.load_der_x509_certificate(data or b"")
            fingerprint = fingerprint_of(certificate)
        except ValueError:
            raise PinError(PeerError(Reason.BAD_KEY, "it shows no certificate that can be read")) from None
        if fingerprint != self.pin:
            raise PinError(
                PeerError(
                    Reason.BAD_KEY,
                    f"it has the key {fingerprint}, not {self.pin}; somebody else answers there, or it was made anew",
                    expected=self.pin,
                    got=fingerprint,
                )
            )
        if not certificate.not_valid_before_utc <= self.now() <= certificate.not_valid_after_utc:
            raise PinError(
                PeerError(
                    Reason.EXPIRED,
                    f"its certificate is valid from {certificate.not_valid_before_utc:%Y-%m-%d} to "
                    f"{certificate.not_valid_after_utc:%Y-%m-%d}; restart it, which renews it, or compare the clocks",
                )
            )


class _PinnedObject(ssl.SSLObject):
    """One connection of a `PinnedContext`."""

    def do_handshake(self) -> None:
        """Shake hands, and look at the other hand; nothing has been sent by then."""
        super().do_handshake()
        context = self.context
        assert isinstance(context, PinnedContext)
        context.check_peer(self.getpeercert(binary_form=True))


def pinned_context(identity: TLSFiles, pin: str, now: Callable[[], datetime]) -> PinnedContext:
    """Return a client's context of TLS 1.3 for the party with this pin.

    identity: how this side shows who it is. now: the time of day, aware. Raises UsageError.
    """
    context = PinnedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.pin, context.now = pin, now
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.sslobject_class = _PinnedObject
    context.set_alpn_protocols(["http/1.1"])
    load_files(context, identity)
    return context
