"""From the settings of an `ssl.SSLContext` to a context of pyOpenSSL that has them.

Libraries set protocols, versions and roots on the context that they are given, at any time before they connect; so the
settings are read when a connection begins, and contexts of pyOpenSSL are made anew where something has changed.
"""

import contextlib
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from OpenSSL import SSL, crypto

from mtc.errors import FormatError, Reason, UsageError
from mtc.tls.adapters.pyopenssl.binding import load_binding
from mtc.tls.hello import TLS_13
from mtc.wire import DERReader, parse_pem

StrOrBytesPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]
"""What the stdlib takes for a path."""
_OPTIONS = int(
    ssl.OP_NO_TLSv1
    | ssl.OP_NO_TLSv1_1
    | ssl.OP_NO_TLSv1_2
    | ssl.OP_NO_TLSv1_3
    | ssl.OP_CIPHER_SERVER_PREFERENCE
    | getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
)
"""What is taken over of `SSLContext.options`; the numbers are OpenSSL's."""
_ALWAYS = SSL.OP_NO_COMPRESSION | SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION


@dataclass(frozen=True, slots=True)
class Settings:
    """What contexts of pyOpenSSL are made from; equal settings make equal contexts.

    oldest, newest: versions as on the wire, 0 for no bound. ciphers: of TLS 1.2, names of OpenSSL. mode: of
    SSL_CTX_set_verify. groups, schemes: None for OpenSSL's own.
    """

    oldest: int
    newest: int
    options: int
    mode: int
    ciphers: str
    protocols: tuple[str, ...]
    groups: str | None
    schemes: str | None

    @property
    def allows_tls13(self) -> bool:
        """Whether TLS 1.3 may be spoken."""
        return (not self.newest or self.newest >= TLS_13) and not self.options & int(ssl.OP_NO_TLSv1_3)

    def make(self, *, is_server: bool) -> SSL.Context:
        """Return a new context with these settings. Raises UsageError."""
        context = SSL.Context(SSL.TLS_SERVER_METHOD if is_server else SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(self.oldest)
        context.set_max_proto_version(self.newest)
        context.set_options(self.options)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        try:
            context.set_cipher_list(self.ciphers.encode("ascii"))
        except SSL.Error:
            raise UsageError(Reason.UNSUPPORTED, f"OpenSSL has none of the cipher suites {self.ciphers}") from None
        binding = load_binding()
        binding.set_lists(context, self.groups, self.schemes)
        if self.protocols and is_server:
            context.set_alpn_select_callback(self._choose_protocol)
        elif self.protocols:
            context.set_alpn_protos([name.encode("ascii") for name in self.protocols])
        binding.watch(context, self.mode)
        return context

    def _choose_protocol(self, _connection: SSL.Connection, offered: list[bytes]) -> Any:  # noqa: ANN401 - pyOpenSSL's
        """Choose the first of our application protocols that the client offers; none is no fault."""
        for name in self.protocols:
            if name.encode("ascii") in offered:
                return name.encode("ascii")
        return SSL.NO_OVERLAPPING_PROTOCOLS


class Roots:
    """Who signs classical certificates that a context trusts: one store of OpenSSL, shared by its connections."""

    def __init__(self) -> None:
        """Trust nobody."""
        self.store = crypto.X509Store()

    def load_files(self, cafile: StrOrBytesPath | None, capath: StrOrBytesPath | None) -> None:
        """Trust what is in a file or folder. Raises OSError or `ssl.SSLError`."""
        for path in (cafile, capath):
            if path is not None:
                # OpenSSL does not say so when there is none.
                Path(os.fsdecode(path)).stat()
        try:
            self.store.load_locations(cafile, capath)
        except crypto.Error:
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, f"no certificates in {cafile!r} or {capath!r}") from None

    def load_default(self) -> None:
        """Trust what the system trusts, where the `ssl` module looks for it."""
        found = ssl.get_default_verify_paths()
        with contextlib.suppress(OSError):
            # Each is None where it does not exist, whatever the stubs say.
            if found.cafile:
                self.load_files(found.cafile, None)
            if found.capath:
                self.load_files(None, found.capath)

    def load_data(self, data: str | bytes) -> None:
        """Trust certificates in PEM (str) or DER, one after the other (bytes). Raises `ssl.SSLError`."""
        try:
            for der in _split(data):
                load_binding().add_trusted(self.store, der)
        except (FormatError, UsageError, UnicodeEncodeError) as error:
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, f"not enough data: {error}") from error


def _split(data: str | bytes) -> list[bytes]:
    """Return the certificates in what `load_verify_locations` takes as `cadata`."""
    if isinstance(data, str):
        return [block.data for block in parse_pem(data.encode("ascii")) if block.label.endswith("CERTIFICATE")]
    reader = DERReader(bytes(data), "the certificates")
    found: list[bytes] = []
    while not reader.is_empty:
        found.append(reader.read_tlv())
    return found


def version_bound(version: int) -> int:
    """Return a bound of `SSLContext` as OpenSSL has it: 0 for none."""
    return max(0, int(version))


def options_of(options: int) -> int:
    """Return what is taken over of an `SSLContext`'s options, and what always holds."""
    return (options & _OPTIONS) | int(_ALWAYS)
