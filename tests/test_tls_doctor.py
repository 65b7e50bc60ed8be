"""What this Python can do with TLS, told and refused."""

import ssl
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import OpenSSL
import pytest
from cryptography.hazmat.bindings.openssl.binding import Binding
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import mldsa
from tests.tls_pairs import leaf_key, standalone, tls_ca

from mtc.errors import Reason, UsageError
from mtc.tls import client_context, describe_back_ends, server_context
from mtc.tls.adapters import doctor
from mtc.tls.adapters.pyopenssl import binding, contexts, load_binding
from mtc.tls.adapters.pyopenssl.client import PyOpenSSLClientContext
from mtc.tls.adapters.pyopenssl.server import PyOpenSSLServerContext
from mtc.tls.adapters.stdlib import load_libssl


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Forget that this Python was found good, and find it so again afterwards."""
    caches = (load_libssl, load_binding, contexts.check_stdlib)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def test_the_key_that_is_tried_is_one() -> None:
    """The ML-DSA key by which OpenSSL is tried is what pyca/cryptography writes for its seed."""
    key = mldsa.MLDSA44PrivateKey.from_seed_bytes(bytes(range(32)))
    assert (
        key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        == doctor._ML_DSA_KEY
    )


def test_this_python_is_described() -> None:
    """Both back ends are usable; what the stdlib's can do depends on its OpenSSL, and what is missing has words."""
    stdlib, other = describe_back_ends()
    assert stdlib.name == "stdlib"
    assert stdlib.is_usable
    assert stdlib.is_answering
    assert stdlib.why == ""
    assert stdlib.library == ssl.OPENSSL_VERSION
    assert stdlib.has_ml_dsa is stdlib.has_hybrid is (ssl.OPENSSL_VERSION_INFO[:2] >= (3, 5))
    assert any("ML-DSA" in lack for lack in stdlib.lacks) is not stdlib.has_ml_dsa
    assert load_libssl().is_key(leaf_key())
    assert not load_libssl().is_key(b"rubbish")
    assert other.name == "pyopenssl"
    assert other.library.startswith("OpenSSL ")
    assert other.is_usable
    assert other.has_ml_dsa
    assert other.has_hybrid
    assert other.is_lenient
    assert not other.is_answering
    assert load_binding().is_key(leaf_key())
    assert not load_binding().is_key(b"rubbish")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("what", ["implementation", "version", "linked in"])
def test_an_unknown_python_is_refused(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another interpreter, another TLS library, a libssl that cannot be found: the other back end, or a clear error."""
    if what == "implementation":
        monkeypatch.setattr(sys.implementation, "name", "pypy")
    elif what == "version":
        monkeypatch.setattr(ssl, "OPENSSL_VERSION", "LibreSSL 4.2.0")
    else:
        monkeypatch.delattr(sys.modules["_ssl"], "__file__")
    with pytest.raises(UsageError) as caught:
        client_context(tls_ca().store(), back_end="stdlib")
    assert caught.value.reason is Reason.UNSUPPORTED
    with pytest.raises(UsageError):
        server_context([standalone(tls_ca())], back_end="stdlib")
    stdlib, other = describe_back_ends()
    assert not stdlib.is_usable
    assert stdlib.why == caught.value.message
    assert other.is_usable
    assert isinstance(client_context(tls_ca().store(), classical=False), PyOpenSSLClientContext)
    assert isinstance(server_context([standalone(tls_ca())]), PyOpenSSLServerContext)
    monkeypatch.setattr(OpenSSL, "__version__", "26.3.0")
    load_binding.cache_clear()
    with pytest.raises(UsageError, match="ssl module cannot speak trust_anchors"):
        client_context(tls_ca().store())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("what", ["missing", "too old", "unmarked", "lacking", "older OpenSSL"])
def test_an_unknown_pyopenssl_is_refused(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No pyOpenSSL, an old one, a binding without what is needed, an older OpenSSL: an error says what is missing."""
    library = SimpleNamespace(**dict.fromkeys(binding._NEEDED), OpenSSL_version_num=lambda: 0x30500000)
    expected = {"missing": "cannot be used", "too old": r"26\.3\.1 is older", "unmarked": "older than 26.4"}
    if what == "missing":
        monkeypatch.setitem(sys.modules, "OpenSSL", None)
    elif what == "too old":
        monkeypatch.setattr(OpenSSL, "__version__", "26.3.1")
    elif what == "unmarked":
        monkeypatch.delattr(OpenSSL, "__version__")
    else:
        if what == "lacking":
            del library.SSL_set_SSL_CTX
        monkeypatch.setattr(Binding, "lib", library)
    with pytest.raises(UsageError, match=expected.get(what, "lacks SSL_set_SSL_CTX|is older than 4")) as caught:
        client_context(tls_ca().store(), back_end="pyopenssl")
    assert caught.value.reason is Reason.UNSUPPORTED
    with pytest.raises(UsageError):
        server_context([standalone(tls_ca())], back_end="pyopenssl")
    _, other = describe_back_ends()
    assert not other.is_usable
    assert other.why == caught.value.message
    assert other.lacks == ()


@pytest.mark.usefixtures("unchecked")
def test_another_ssl_module_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the stdlib's classes no longer ask their context for a connection, pyOpenSSL is not put into them."""
    monkeypatch.setattr(ssl.SSLObject, "_create", lambda **_named: None)
    with pytest.raises(UsageError, match="in another way than expected"):
        client_context(tls_ca().store(), back_end="pyopenssl")
