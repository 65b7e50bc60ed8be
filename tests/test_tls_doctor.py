"""What this Python can do with TLS, told and refused."""

import ssl
import sys
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import mldsa
from tests.tls_pairs import leaf_key, standalone, tls_ca

from mtc.errors import Reason, UsageError
from mtc.tls import client_context, describe_back_ends, server_context
from mtc.tls.adapters import doctor
from mtc.tls.adapters.stdlib import load_libssl


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Forget that this Python was found good, and find it so again afterwards."""
    load_libssl.cache_clear()
    yield
    load_libssl.cache_clear()


def test_the_key_that_is_tried_is_one() -> None:
    """The ML-DSA key by which OpenSSL is tried is what pyca/cryptography writes for its seed."""
    key = mldsa.MLDSA44PrivateKey.from_seed_bytes(bytes(range(32)))
    assert (
        key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        == doctor._ML_DSA_KEY
    )


def test_this_python_is_described() -> None:
    """The back end that the other tests run on is usable; whether it has ML-DSA keys depends on its OpenSSL."""
    (stdlib,) = describe_back_ends()
    assert stdlib.name == "stdlib"
    assert stdlib.is_usable
    assert stdlib.why == ""
    assert stdlib.library == ssl.OPENSSL_VERSION
    assert stdlib.has_ml_dsa is (ssl.OPENSSL_VERSION_INFO[:2] >= (3, 5))
    assert load_libssl().is_key(leaf_key())
    assert not load_libssl().is_key(b"rubbish")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("what", ["implementation", "version", "linked in"])
def test_an_unknown_python_is_refused(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another interpreter, another TLS library, a libssl that cannot be found: a clear error, no lesser mode."""
    if what == "implementation":
        monkeypatch.setattr(sys.implementation, "name", "pypy")
    elif what == "version":
        monkeypatch.setattr(ssl, "OPENSSL_VERSION", "LibreSSL 4.2.0")
    else:
        monkeypatch.delattr(sys.modules["_ssl"], "__file__")
    with pytest.raises(UsageError) as caught:
        client_context(tls_ca().store())
    assert caught.value.reason is Reason.UNSUPPORTED
    with pytest.raises(UsageError):
        server_context([standalone(tls_ca())])
    (stdlib,) = describe_back_ends()
    assert not stdlib.is_usable
    assert stdlib.why == caught.value.message
