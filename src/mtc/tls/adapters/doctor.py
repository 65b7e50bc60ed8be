"""What this Python can do with TLS, and why not more: the facts behind `mtc doctor`."""

import ssl
from dataclasses import dataclass

from mtc.errors import UsageError
from mtc.tls.adapters.stdlib import load_libssl

# An ML-DSA-44 private key that everybody knows, as a seed: RFC 9881, "Private Key Format".
_ML_DSA_KEY = bytes.fromhex("3034020100300b0609608648016503040311" + "0422" + "8020") + bytes(range(32))


@dataclass(frozen=True, slots=True)
class BackEnd:
    """One back end here. library: its TLS library. why: why it is not usable, empty when it is.

    has_ml_dsa: leaf keys may be ML-DSA. is_lenient: it loads our certificates without lowering the security level.
    """

    name: str
    library: str
    is_usable: bool
    why: str
    has_ml_dsa: bool
    is_lenient: bool


def describe_back_ends() -> tuple[BackEnd, ...]:
    """Return all back ends, usable or not, best first. Never raises."""
    version = ssl.OPENSSL_VERSION_INFO[:3]
    why, has_ml_dsa = "", False
    try:
        has_ml_dsa = load_libssl().is_key(_ML_DSA_KEY)
    except UsageError as error:
        why = error.message
    return (
        BackEnd(
            name="stdlib",
            library=ssl.OPENSSL_VERSION,
            is_usable=not why,
            why=why,
            has_ml_dsa=has_ml_dsa,
            is_lenient=not why and version >= (4, 0, 3),
        ),
    )
