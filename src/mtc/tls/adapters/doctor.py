"""What this Python can do with TLS, and why not more: the facts behind `mtc doctor`."""

import contextlib
import ssl
from dataclasses import dataclass

from mtc.errors import UsageError
from mtc.tls.adapters.choose import client_context
from mtc.tls.adapters.pyopenssl import load_binding
from mtc.tls.adapters.stdlib import load_libssl
from mtc.tls.hello import find_client_hello, parse_client_hello
from mtc.trust import TrustStore

# An ML-DSA-44 private key that everybody knows, as a seed: RFC 9881, "Private Key Format".
_ML_DSA_KEY = bytes.fromhex("3034020100300b0609608648016503040311" + "0422" + "8020") + bytes(range(32))
_X25519_MLKEM768 = 0x11EC


@dataclass(frozen=True, slots=True)
class BackEnd:
    """One back end here. library: its TLS library. why: why it is not usable, empty when it is.

    has_ml_dsa: leaf keys may be ML-DSA. is_lenient: it loads our certificates without lowering the security level.
    has_hybrid: its clients offer X25519MLKEM768. is_answering: its servers say which trust anchors they have, and that
    they chose by the client's. lacks: what it does not do here, in words; empty when it is not usable.
    """

    name: str
    library: str
    is_usable: bool
    why: str
    has_ml_dsa: bool
    is_lenient: bool
    has_hybrid: bool = False
    is_answering: bool = False
    lacks: tuple[str, ...] = ()


def describe_back_ends() -> tuple[BackEnd, ...]:
    """Return all back ends, usable or not, the one that is preferred first. Never raises."""
    return _describe_stdlib(), _describe_pyopenssl()


def _describe_stdlib() -> BackEnd:
    """Describe the back end on the stdlib's `ssl`."""
    try:
        has_ml_dsa = load_libssl().is_key(_ML_DSA_KEY)
    except UsageError as error:
        return BackEnd("stdlib", ssl.OPENSSL_VERSION, False, error.message, False, False)  # noqa: FBT003 - a table
    has_hybrid = _offers_hybrid(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    lacks = []
    if not has_ml_dsa:
        lacks.append("no ML-DSA leaf keys: its OpenSSL is older than 3.5")
    if not has_hybrid:
        lacks.append("no X25519MLKEM768: its OpenSSL is older than 3.5, or told not to offer it")
    return BackEnd(
        "stdlib",
        ssl.OPENSSL_VERSION,
        is_usable=True,
        why="",
        has_ml_dsa=has_ml_dsa,
        is_lenient=ssl.OPENSSL_VERSION_INFO[:3] >= (4, 0, 3),
        has_hybrid=has_hybrid,
        is_answering=True,
        lacks=tuple(lacks),
    )


def _describe_pyopenssl() -> BackEnd:
    """Describe the back end on pyOpenSSL."""
    try:
        binding = load_binding()
        has_hybrid = _offers_hybrid(client_context(TrustStore(), classical=False, back_end="pyopenssl"))
    except UsageError as error:
        return BackEnd("pyopenssl", "", False, error.message, False, False)  # noqa: FBT003 - a table
    return BackEnd(
        "pyopenssl",
        binding.version,
        is_usable=True,
        why="",
        has_ml_dsa=binding.is_key(_ML_DSA_KEY),
        is_lenient=True,
        has_hybrid=has_hybrid,
        is_answering=False,
        lacks=(
            "its servers choose by a client's trust anchors, but do not say so, nor which ones they have",
            "its clients do not say either that a server's list chose their certificate",
            "no session is resumed",
        ),
    )


def _offers_hybrid(context: ssl.SSLContext) -> bool:
    """Tell whether the ClientHello of a context offers X25519MLKEM768."""
    outgoing = ssl.MemoryBIO()
    connection = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        connection.do_handshake()
    hello = find_client_hello(outgoing.read())
    return hello is not None and _X25519_MLKEM768 in parse_client_hello(hello).groups
