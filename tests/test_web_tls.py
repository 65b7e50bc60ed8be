"""HTTPS of our own servers: bootstrap certificates, contexts that change while they serve, clients by certificate."""

import asyncio
import contextlib
import shutil
import ssl
import stat
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

import mtc.web.server
from mtc.errors import FormatError, Reason, UsageError
from mtc.web.frame import create_app
from mtc.web.server import loop_factory, serve
from mtc.web.tls import (
    BOOTSTRAP_LIFETIME,
    BOOTSTRAP_MARGIN,
    ServerTLS,
    TLSFiles,
    ensure_bootstrap,
    ensure_identity,
    fingerprint_of,
    keep_fresh,
    parse_fingerprint,
    read_certificate,
)

DAY = timedelta(days=1)
LOOPBACK = ("127.0.0.1", 0)
NAMES = ("localhost", "ca.example.com", "127.0.0.1", "::1")


@pytest.fixture(autouse=True)
def quiet_logs() -> Iterator[list[MutableMapping[str, Any]]]:
    """Keep log events instead of printing them."""
    structlog.reset_defaults()
    with structlog.testing.capture_logs() as events:
        yield events


def now() -> datetime:
    """Return the time; certificates on real connections are checked against it."""
    return datetime.now(UTC).replace(microsecond=0)


def run(work: Callable[[], Awaitable[None]]) -> None:
    """Run on the event loop of servers, and then on asyncio's own: their TLS is not the same code."""
    for factory in (loop_factory(), asyncio.new_event_loop):
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(_call(work))


async def _call(work: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.timeout(30):
        await work()


async def tell(request: Request) -> Response:
    """Answer with what a handler sees of the connection."""
    certificate = getattr(request.state, "client_certificate", None)
    return PlainTextResponse(
        f"{request.url.scheme} {request.state.listener} {None if certificate is None else len(certificate)}"
    )


APP = create_app([Route("/", tell)])


def trusting(files: TLSFiles, identity: TLSFiles | None = None) -> ssl.SSLContext:
    """Return a client's context that trusts one certificate, as strictly as the newest Pythons do."""
    context = ssl.create_default_context(cafile=str(files.certificate))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    if identity is not None:
        context.load_cert_chain(identity.certificate, identity.key)
    return context


async def ask(url: str, context: ssl.SSLContext) -> str:
    """Send one request on a connection of its own."""
    async with aiohttp.ClientSession() as session, session.get(url, ssl=context) as response:
        return await response.text()


async def served_fingerprint(address: tuple[str, int]) -> str:
    """Return the pin of the certificate that a new connection gets."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection(*address, ssl=context)
    try:
        data = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return fingerprint_of(x509.load_der_x509_certificate(data))
    finally:
        writer.close()


def identity(folder: Path, name: str) -> tuple[TLSFiles, bytes]:
    """Make a client's key and certificate."""
    files = TLSFiles(folder / f"{name}.pem", folder / f"{name}-key.pem")
    return files, ensure_identity(files, name, now(), 365 * DAY)


def test_https_from_the_first_start(tmp_path: Path) -> None:
    """A server with a bootstrap certificate is trusted by name and address by whoever was given that certificate."""
    files = ensure_bootstrap(tmp_path, NAMES, now())
    context = trusting(files)

    async def work() -> None:
        async with serve(APP, LOOPBACK, tls=ServerTLS(files).context) as listening:
            assert listening.url.startswith("https://127.0.0.1:")
            assert await ask(listening.url + "/", context) == "https tcp None"
            assert await ask(listening.url.replace("127.0.0.1", "localhost") + "/", context) == "https tcp None"

    run(work)


def test_old_clients_are_served_and_older_ones_are_not(tmp_path: Path) -> None:
    """TLS 1.2 and 1.3 are spoken, 1.1 is not."""
    tls = ServerTLS(ensure_bootstrap(tmp_path, ["localhost"], now()))
    assert tls.context.minimum_version is ssl.TLSVersion.TLSv1_2
    files = TLSFiles(tmp_path / "tls.pem", tmp_path / "tls-key.pem")

    async def work() -> None:
        async with serve(APP, LOOPBACK, tls=tls.context) as listening:
            url = listening.url.replace("127.0.0.1", "localhost")
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                context = trusting(files)
                context.minimum_version = context.maximum_version = version
                assert await ask(url, context) == "https tcp None"
            old = trusting(files)
            old.set_ciphers("ALL:@SECLEVEL=0")
            with pytest.warns(DeprecationWarning, match="TLSv1_1"):
                old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
            with pytest.raises(aiohttp.ClientConnectorError):
                await ask(url, old)

    run(work)


def test_plain_http_on_a_tls_port_gets_no_answer(tmp_path: Path) -> None:
    """A client that does not speak TLS is cut off, and the server goes on."""
    files = ensure_bootstrap(tmp_path, ["127.0.0.1"], now())
    context = trusting(files)

    async def work() -> None:
        async with serve(APP, LOOPBACK, tls=ServerTLS(files).context) as listening:
            with pytest.raises(aiohttp.ClientError):
                await ask(listening.url.replace("https", "http"), context)
            assert await ask(listening.url, context) == "https tcp None"

    run(work)


def test_unix_socket_needs_no_tls(tmp_path: Path) -> None:
    """A Unix socket stays plain, whatever context is handed in: its file says who may come in."""
    files = ensure_bootstrap(tmp_path, ["127.0.0.1"], now())
    place = tmp_path / "s"

    async def work() -> None:
        async with serve(APP, place, tls=ServerTLS(files).context) as listening:
            assert listening.url == "http://unix"
            connector = aiohttp.UnixConnector(str(place))
            async with aiohttp.ClientSession(connector=connector) as session, session.get(listening.url) as response:
                assert await response.text() == "http unix None"

    run(work)


def test_silent_handshake_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that says nothing, or stops within its first message, ends by itself."""
    monkeypatch.setattr(mtc.web.server, "HANDSHAKE_TIME_S", 0.2)
    files = ensure_bootstrap(tmp_path, ["127.0.0.1"], now())

    async def work() -> None:
        async with serve(APP, LOOPBACK, tls=ServerTLS(files).context) as listening:
            assert isinstance(listening.address, tuple)
            for begin in (b"", b"\x16\x03\x01\x02\x00"):
                reader, writer = await asyncio.open_connection(*listening.address)
                writer.write(begin)
                with contextlib.suppress(ConnectionResetError):
                    assert await asyncio.wait_for(reader.read(), 60) == b""
                writer.close()
            assert await ask(listening.url, trusting(files)) == "https tcp None"

    run(work)


def test_stop_does_not_wait_for_a_handshake(tmp_path: Path) -> None:
    """A client in the middle of its handshake does not keep a server from stopping."""
    files = ensure_bootstrap(tmp_path, ["127.0.0.1"], now())

    async def work() -> None:
        limits = mtc.web.server.ServerLimits(stop_s=1)
        async with serve(APP, LOOPBACK, limits, tls=ServerTLS(files).context) as listening:
            assert isinstance(listening.address, tuple)
            _, writer = await asyncio.open_connection(*listening.address)
            writer.write(b"\x16\x03\x01\x02\x00")
            await writer.drain()
            before = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - before < 5
        writer.close()

    run(work)


def test_new_certificate_is_taken_without_dropping_connections(tmp_path: Path) -> None:
    """After a renewal new connections get the new certificate, and those that are up go on."""

    async def work() -> None:
        with tempfile.TemporaryDirectory(dir=tmp_path) as name:
            files = ensure_bootstrap(Path(name), ["127.0.0.1"], now())
            tls = ServerTLS(files)
            before, context = tls.fingerprint, trusting(files)
            async with serve(APP, LOOPBACK, tls=tls.context) as listening:
                assert isinstance(listening.address, tuple)
                reader, writer = await asyncio.open_connection(*listening.address, ssl=context)
                for is_renewed in (False, True):
                    if is_renewed:
                        newer = ensure_bootstrap(Path(name) / "next", ["127.0.0.1"], now())
                        newer.certificate.replace(files.certificate)
                        newer.key.replace(files.key)
                        assert await served_fingerprint(listening.address) == before
                    assert tls.reload() is is_renewed
                    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                    assert (await reader.readuntil(b"https tcp None")).startswith(b"HTTP/1.1 200")
                assert await served_fingerprint(listening.address) == tls.fingerprint != before
                writer.close()

    run(work)


def test_certificate_without_its_key_is_never_served(tmp_path: Path) -> None:
    """Between the writing of a new certificate and of its key, the old pair is served."""
    files = ensure_bootstrap(tmp_path, ["127.0.0.1"], now())
    newer = ensure_bootstrap(tmp_path / "next", ["127.0.0.1"], now())

    async def work() -> None:
        tls = ServerTLS(files)
        before = tls.fingerprint
        old = files.certificate.read_bytes()
        async with serve(APP, LOOPBACK, tls=tls.context) as listening:
            assert isinstance(listening.address, tuple)
            shutil.copy(newer.certificate, files.certificate)
            with pytest.raises(UsageError, match="no certificate with its key"):
                tls.reload()
            assert await served_fingerprint(listening.address) == before == tls.fingerprint
            files.certificate.write_bytes(old)
            tls.reload()

    run(work)


def test_changes_are_found_while_serving(tmp_path: Path, quiet_logs: list[MutableMapping[str, Any]]) -> None:
    """What a timer renews is served from then on; what fails is logged and changes nothing."""
    files = ensure_bootstrap(tmp_path, ["127.0.0.1"], now())
    tls = ServerTLS(files)
    renewed = asyncio.Event()
    calls: list[int] = []

    def renew() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise UsageError(Reason.BAD_NAME, "not yet")
        if len(calls) == 2:
            ensure_bootstrap(tmp_path, ["127.0.0.1", "ca.example.com"], now())
        else:
            renewed.set()

    async def work() -> None:
        task = asyncio.create_task(keep_fresh(tls, renew, interval_s=0.01))
        await asyncio.wait_for(renewed.wait(), 10)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(work())
    assert [event["event"] for event in quiet_logs] == ["certificate not taken", "certificate taken"]
    assert tls.certificate == read_certificate(files.certificate)
    assert len(tls.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value) == 2


def test_only_listed_clients_come_in(tmp_path: Path) -> None:
    """With a list of clients only who holds the key of one of them is answered; the handler sees who."""
    files = ensure_bootstrap(tmp_path, ["127.0.0.1"], now())
    known, known_der = identity(tmp_path, "known")
    other, _ = identity(tmp_path, "other")
    # The same name and the same file, but another key: a certificate alone proves nothing.
    shutil.copytree(tmp_path, tmp_path / "imitation")
    (tmp_path / "imitation" / "known-key.pem").unlink()
    (tmp_path / "imitation" / "known.pem").unlink()
    imitation, _ = identity(tmp_path / "imitation", "known")

    async def work() -> None:
        tls = ServerTLS(files, clients=[known_der], minimum=ssl.TLSVersion.TLSv1_3)
        async with serve(APP, LOOPBACK, tls=tls.context) as listening:
            assert await ask(listening.url, trusting(files, known)) == f"https tcp {len(known_der)}"
            for stranger in (None, other, imitation):
                with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
                    await ask(listening.url, trusting(files, stranger))

    run(work)


def test_list_of_clients_changes_while_serving(tmp_path: Path) -> None:
    """A client that is added comes in at once; one that is taken off does not come in again."""
    files = ensure_bootstrap(tmp_path, ["127.0.0.1"], now())
    first, first_der = identity(tmp_path, "first")
    second, second_der = identity(tmp_path, "second")

    async def work() -> None:
        tls = ServerTLS(files, clients=[], minimum=ssl.TLSVersion.TLSv1_3)
        async with serve(APP, LOOPBACK, tls=tls.context) as listening:
            with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
                await ask(listening.url, trusting(files, first))
            tls.allow([first_der, second_der])
            context = trusting(files, first)
            assert "https" in await ask(listening.url, context)
            assert "https" in await ask(listening.url, trusting(files, second))
            tls.allow([second_der])
            with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
                await ask(listening.url, context)
            with pytest.raises(UsageError):
                tls.allow([b"no certificate"])
            assert "https" in await ask(listening.url, trusting(files, second))

    run(work)


def test_no_session_is_resumed_with_clients(tmp_path: Path) -> None:
    """A server that knows its clients gives out no tickets, in TLS 1.3 and in 1.2."""
    files = ensure_bootstrap(tmp_path, ["localhost"], now())
    known, known_der = identity(tmp_path, "known")
    server = ServerTLS(files, clients=[known_der]).context
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = trusting(files, known)
        context.minimum_version = context.maximum_version = version
        there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(back, there, server_hostname="localhost")
        peer = server.wrap_bio(there, back, server_side=True)
        for side in (client, peer) * 3:
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
        with contextlib.suppress(ssl.SSLWantReadError):
            peer.read()
        with contextlib.suppress(ssl.SSLWantReadError):
            client.read()
        assert client.session is None or not client.session.has_ticket


def openssl(*arguments: str, data: bytes = b"") -> tuple[int, bytes]:
    """Run the program openssl; its exit code and output."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("the program openssl (Debian package openssl) is missing")
    done = subprocess.run([program, *arguments], input=data, capture_output=True, check=False, timeout=30)  # noqa: S603 - our own files
    return done.returncode, done.stdout


def test_openssl_accepts_bootstrap_certificate(tmp_path: Path) -> None:
    """The program openssl, strict, takes the certificate as its own root, for each of its names and no other."""
    file = str(ensure_bootstrap(tmp_path, NAMES, now()).certificate)
    command = ["verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", file]
    for option, value in (("hostname", "ca.example.com"), ("ip", "127.0.0.1"), ("ip", "::1")):
        assert openssl(*command, f"-verify_{option}", value, file)[0] == 0
    for option, value in (("hostname", "other.example.com"), ("ip", "127.0.0.2")):
        assert openssl(*command, f"-verify_{option}", value, file)[0] != 0


def test_bootstrap_certificate_lasts_and_is_renewed(tmp_path: Path) -> None:
    """It is left alone until 30 days are left, renewed with its key, and remade for other names or when broken."""
    begin = datetime(2026, 11, 21, 12, tzinfo=UTC)
    files = ensure_bootstrap(tmp_path, NAMES, begin)
    first, key = files.certificate.read_bytes(), files.key.read_bytes()
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600
    assert stat.S_IMODE(tmp_path.stat().st_mode) & 0o700 == 0o700
    end = read_certificate(files.certificate).not_valid_after_utc
    assert begin + BOOTSTRAP_LIFETIME - DAY < end <= begin + BOOTSTRAP_LIFETIME
    for moment in (begin, begin + DAY, end - BOOTSTRAP_MARGIN - timedelta(seconds=1)):
        ensure_bootstrap(tmp_path, NAMES, moment)
        assert files.certificate.read_bytes() == first
    seen = {first}
    for moment, names in (
        (end - BOOTSTRAP_MARGIN, NAMES),
        (end - BOOTSTRAP_MARGIN, NAMES[:1]),
        (begin - 365 * DAY, NAMES[:1]),
    ):
        ensure_bootstrap(tmp_path, names, moment)
        assert files.certificate.read_bytes() not in seen
        assert files.key.read_bytes() == key
        renewed = read_certificate(files.certificate)
        assert renewed.not_valid_before_utc < moment < renewed.not_valid_after_utc
        seen.add(files.certificate.read_bytes())
    files.certificate.write_bytes(b"torn")
    ensure_bootstrap(tmp_path, NAMES, begin)
    ServerTLS(files)


def test_leftover_of_a_crash_is_no_hindrance(tmp_path: Path) -> None:
    """A half-written temporary file is replaced, and a key without certificate gets one."""
    files = ensure_bootstrap(tmp_path, NAMES, now())
    key = files.key.read_bytes()
    files.certificate.unlink()
    (tmp_path / ".tls.pem.new").write_bytes(b"torn")
    ensure_bootstrap(tmp_path, NAMES, now())
    ServerTLS(files)
    assert files.key.read_bytes() == key
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tls-key.pem", "tls.pem"]


@pytest.mark.parametrize("name", ["", "münchen.example", "a b", "-" * 300, "x\ny"])
def test_names_that_cannot_be_are_refused(tmp_path: Path, name: str) -> None:
    """A name that is neither a DNS name nor an address makes no certificate."""
    with pytest.raises(UsageError) as caught:
        ensure_bootstrap(tmp_path, [name], now())
    assert caught.value.reason is Reason.BAD_NAME
    with pytest.raises(UsageError):
        ensure_bootstrap(tmp_path, [], now())


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    """Missing, foreign and encrypted files are refused by name, and nobody is asked for a passphrase."""
    files = ensure_bootstrap(tmp_path, ["localhost"], now())
    with pytest.raises(UsageError, match="cannot be read"):
        ServerTLS(TLSFiles(tmp_path / "none.pem", files.key))
    with pytest.raises(UsageError, match="cannot be read"):
        ServerTLS(TLSFiles(files.certificate, tmp_path / "none.pem"))
    with pytest.raises(UsageError, match="no certificate with its key"):
        ServerTLS(TLSFiles(files.key, files.key))
    secret = serialization.BestAvailableEncryption(b"secret")
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    files.key.write_bytes(ec.generate_private_key(ec.SECP256R1()).private_bytes(pem, pkcs8, secret))
    for use in (lambda: ServerTLS(files), lambda: ensure_bootstrap(tmp_path, ["localhost"], now())):
        with pytest.raises(UsageError, match="not encrypted"):
            use()
    plain = serialization.NoEncryption()
    files.key.write_bytes(ed25519.Ed25519PrivateKey.generate().private_bytes(pem, pkcs8, plain))
    with pytest.raises(UsageError, match="no P-256 key"):
        ensure_bootstrap(tmp_path, ["localhost"], now())


def test_identity_is_made_once(tmp_path: Path) -> None:
    """An identity stays; one whose key was exchanged is refused rather than passed off as the old one."""
    files, first = identity(tmp_path, "eu-1")
    assert ensure_identity(files, "other", now(), DAY) == first
    files.key.unlink()
    with pytest.raises(UsageError, match="another key"):
        ensure_identity(files, "eu-1", now(), DAY)


def test_fingerprint_has_one_spelling(tmp_path: Path) -> None:
    """A fingerprint is read in any case, and is the same as openssl computes it from the public key."""
    files, _ = identity(tmp_path, "eu-1")
    pin = fingerprint_of(read_certificate(files.certificate))
    assert parse_fingerprint(f" {pin.upper()}\n".replace("SHA256", "sha256")) == pin
    for wrong in ("", "sha256:", pin[:-1], pin + "0", pin.removeprefix("sha256:"), "sha1:" + pin[7:]):
        with pytest.raises(FormatError):
            parse_fingerprint(wrong)
    _, spki = openssl("pkey", "-in", str(files.key), "-pubout", "-outform", "DER")
    _, digest = openssl("dgst", "-sha256", "-r", data=spki)
    assert pin == f"sha256:{digest.split()[0].decode()}"
