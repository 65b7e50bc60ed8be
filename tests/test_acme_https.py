"""The ACME server's own HTTPS: a classical certificate and, where it was requested, a Merkle Tree certificate."""

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from tests.kept_folders import deploy
from tests.tls_pairs import CLOCK, LANDMARK, LOCAL, connect, landmark, standalone, tls_ca

from mtc.acme.config import ACMEConfig
from mtc.acme.https import OwnCertificates, open_https
from mtc.cert import CertificateChain
from mtc.errors import FormatError, UsageError
from mtc.tls import client_context, client_report, server_report
from mtc.trust import Form
from mtc.web.tls import TLSFiles, ensure_bootstrap, read_certificate


def own(tmp_path: Path) -> tuple[OwnCertificates, Callable[[], TLSFiles]]:
    """Return what a server serves from a folder that may not be there yet, with a bootstrap certificate."""

    def bootstrap() -> TLSFiles:
        return ensure_bootstrap(tmp_path, [LOCAL], CLOCK.now())

    return OwnCertificates(tmp_path / "kept", bootstrap, CLOCK), bootstrap


def form_for_us(server: ssl.SSLContext) -> tuple[Form, int]:
    """Return what a client of ours gets that has the newest landmark."""
    ca = tls_ca()
    store = ca.store(subtrees=[ca.trusted_subtree(0, 8, landmark=LANDMARK)])
    ours, theirs = connect(client_context(store, clock=CLOCK, classical=False), server, LOCAL)
    report, served = client_report(ours), server_report(theirs)
    assert report is not None
    assert report.verified is not None
    assert served is not None
    assert served.selection is not None
    is_landmark = served.selection.path.is_landmark_relative
    return Form.LANDMARK_RELATIVE if is_landmark else Form.STANDALONE, report.verified.index


def certificate_for_others(server: ssl.SSLContext, maximum: ssl.TLSVersion) -> bytes:
    """Return the certificate, DER, that a client gets who knows nothing of ours."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = maximum
    context.set_alpn_protocols(["http/1.1"])
    connection, _ = connect(context, server, LOCAL)
    assert connection.selected_alpn_protocol() == "http/1.1"
    return connection.getpeercert(binary_form=True) or b""


def test_each_client_gets_its_certificate_as_soon_as_there_is_one(tmp_path: Path) -> None:
    """First the classical one alone; then both forms as they come, also renewed ones, and the classical for others."""
    served, bootstrap = own(tmp_path)
    classical = read_certificate(bootstrap().certificate).public_bytes(serialization.Encoding.DER)
    assert (served.has_requested, served.reload()) == (False, False)
    kept, ca = tmp_path / "kept", tls_ca()
    for name, paths, expected in (
        ("one", [standalone(ca)], (Form.STANDALONE, 3)),
        ("two", [standalone(ca, 4), landmark(ca, 4)], (Form.LANDMARK_RELATIVE, 4)),
    ):
        deploy(kept, name, *paths)
        assert (served.reload(), served.has_requested) == (True, True)
        assert form_for_us(served.context) == expected
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            assert certificate_for_others(served.context, version) == classical
    assert not served.reload()


def test_landmark_relative_certificate_joins_its_version(tmp_path: Path) -> None:
    """What `mtc request` adds to a version that is served is taken over, though the version stays the same."""
    version = deploy(tmp_path / "kept", "one", standalone(tls_ca()))
    served, _ = own(tmp_path)
    assert form_for_us(served.context)[0] is Form.STANDALONE
    path = landmark(tls_ca())
    (version / "landmark.pem").write_bytes(CertificateChain(path.properties, path.certificates).encode())
    assert served.reload()
    assert form_for_us(served.context)[0] is Form.LANDMARK_RELATIVE


def test_damaged_files_leave_what_is_served(tmp_path: Path) -> None:
    """A certificate that cannot be read is named, and the one before goes on; at the start there is none before."""
    deploy(tmp_path / "kept", "one", standalone(tls_ca()))
    served, _ = own(tmp_path)
    version = deploy(tmp_path / "kept", "two", standalone(tls_ca()))
    (version / "standalone.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\nrubbish\n")
    for _ in range(2):
        with pytest.raises(FormatError, match=r"standalone\.pem"):
            served.reload()
        assert form_for_us(served.context) == (Form.STANDALONE, 3)
    with pytest.raises(FormatError, match=r"standalone\.pem"):
        own(tmp_path)
    with pytest.raises(UsageError, match=r"nothing\.pem is not there"):
        OwnCertificates(tmp_path / "kept", lambda: TLSFiles(tmp_path / "nothing.pem", tmp_path / "key.pem"), CLOCK)


def test_configuration_says_what_is_served(tmp_path: Path) -> None:
    """Without `requested` the classical certificate alone, with it both, and nothing of TLS behind a proxy."""
    deploy(tmp_path / "kept", "one", standalone(tls_ca()))
    url = f"https://{LOCAL}/acme"

    async def open_one(config: ACMEConfig) -> ssl.SSLContext | None:
        async with open_https(tmp_path, config, CLOCK) as context:
            return context

    def opened(config: ACMEConfig) -> ssl.SSLContext | None:
        return asyncio.run(open_one(config))

    both = opened(ACMEConfig(url=url, requested="kept"))
    assert both is not None
    assert form_for_us(both) == (Form.STANDALONE, 3)
    classical = read_certificate(tmp_path / "acme" / "tls.pem").public_bytes(serialization.Encoding.DER)
    files = ACMEConfig(url=url, tls="files", certificate="acme/tls.pem", key="acme/tls-key.pem", requested="kept")
    for context in (both, opened(files), opened(ACMEConfig(url=url))):
        assert context is not None
        assert certificate_for_others(context, ssl.TLSVersion.TLSv1_3) == classical
    assert opened(ACMEConfig(url=url, tls="none")) is None
