"""Answers to challenges, programs that are run, and files that are whole: the client's hands."""

import asyncio
import hashlib
import os
import socket
import ssl
import time
from base64 import urlsafe_b64decode
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mtc.acme.client.disk import Disk, NewFile, locked, publish_folder, replace_file
from mtc.acme.client.keys import encode_spki, parse_key
from mtc.acme.client.solvers import (
    Answer,
    HookSolver,
    HTTPSolver,
    TLSALPNSolver,
    WebrootSolver,
    dns_name,
    dns_value,
    make_challenge_certificate,
)
from mtc.acme.client.solvers.hook import run_program
from mtc.acme.client.solvers.ports import name_holder
from mtc.acme.client.solvers.tls import ACME_IDENTIFIER_OID, server_name
from mtc.acme.machine.identifiers import Identifier
from mtc.errors import ConflictError, StorageError, UsageError
from mtc.testing.fleet import free_port

NAME = Identifier.dns("www.example.com")


def answer(identifier: Identifier = NAME) -> Answer:
    """Return an answer to a challenge."""
    return Answer(identifier, "t" * 22, "t" * 22 + ".thumbprint")


def test_taken_port_names_its_holder() -> None:
    """The error says which process has the port, what it is called, and what can be done."""

    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            assert f"pid {os.getpid()}" in name_holder(port)
            for solver in (HTTPSolver(port, "127.0.0.1"), TLSALPNSolver(port, "127.0.0.1")):
                with pytest.raises(UsageError, match=rf"port {port} is taken by .* \(pid {os.getpid()}\).*--webroot"):
                    await solver.present(answer())
                await solver.withdraw(answer())

    asyncio.run(run())
    assert name_holder(free_port()) == ""


def test_web_server_answers_what_it_was_told_and_nothing_else() -> None:
    """Known tokens are answered with 200, everything else with 404; garbage and slowness end; the last one closes."""

    async def ask(port: int, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        writer.write_eof()
        data = await reader.read()
        writer.close()
        return data

    async def run() -> None:
        port = free_port()
        solver = HTTPSolver(port, "127.0.0.1")
        first, second = answer(), Answer(NAME, "u" * 22, "other")
        await solver.present(first)
        await solver.present(second)
        path = f"/.well-known/acme-challenge/{first.token}"
        found = await ask(port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert found.startswith(b"HTTP/1.1 200 OK\r\n")
        assert found.endswith(b"\r\n\r\n" + first.key_authorization.encode())
        for wrong in (f"POST {path} HTTP/1.1", "GET / HTTP/1.1", f"GET {path}/../x HTTP/1.1", "", "\xff\xfe", "GET"):
            assert (await ask(port, wrong.encode("latin-1") + b"\r\n\r\n")).startswith(b"HTTP/1.1 404")
        assert await ask(port, b"GET /" + b"a" * 20_000) == b""
        await solver.withdraw(first)
        assert (await ask(port, f"GET {path} HTTP/1.1\r\n\r\n".encode())).startswith(b"HTTP/1.1 404")
        await solver.withdraw(second)
        with pytest.raises(ConnectionRefusedError):
            await ask(port, b"")

    asyncio.run(run())


def test_webroot_holds_readable_files(tmp_path: Path) -> None:
    """The file is there for everybody, and gone afterwards; a folder that cannot be is named."""

    async def run() -> None:
        solver = WebrootSolver(tmp_path)
        await solver.present(answer())
        path = tmp_path / ".well-known" / "acme-challenge" / ("t" * 22)
        assert path.read_text() == answer().key_authorization
        assert path.stat().st_mode & 0o777 == 0o644
        await solver.withdraw(answer())
        assert not path.exists()
        (tmp_path / "file").touch()
        with pytest.raises(UsageError, match="--webroot"):
            await WebrootSolver(tmp_path / "file").present(answer())

    asyncio.run(run())


@pytest.mark.parametrize("identifier", [NAME, Identifier.ip("192.0.2.1"), Identifier.ip("2001:db8::1")])
def test_challenge_certificate_is_rfc_8737s(identifier: Identifier) -> None:
    """One name, and a critical extension with the hash of the key authorization as an OCTET STRING."""
    certificate, key = make_challenge_certificate(answer(identifier))
    parsed = x509.load_pem_x509_certificate(certificate)
    found = parsed.extensions.get_extension_for_oid(x509.ObjectIdentifier(ACME_IDENTIFIER_OID))
    assert found.critical
    assert isinstance(found.value, x509.UnrecognizedExtension)
    assert found.value.value == b"\x04\x20" + hashlib.sha256(answer().key_authorization.encode()).digest()
    names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == [identifier.value]
    spki = parsed.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert encode_spki(parse_key(key)) == spki
    assert server_name(Identifier.ip("192.0.2.1")) == "1.2.0.192.in-addr.arpa"
    assert server_name(Identifier.ip("2001:db8::1")).endswith(".8.b.d.0.1.0.0.2.ip6.arpa")


def test_tls_server_knows_its_names_only() -> None:
    """It shows the certificate of the name that is asked for, with ALPN acme-tls/1, and refuses other names."""

    async def ask(port: int, name: str) -> bytes:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["acme-tls/1"])
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
        session = writer.get_extra_info("ssl_object")
        assert session.selected_alpn_protocol() == "acme-tls/1"
        der = session.getpeercert(binary_form=True)
        writer.close()
        assert isinstance(der, bytes)
        return der

    async def run() -> None:
        port = free_port()
        solver = TLSALPNSolver(port, "127.0.0.1")
        await solver.present(answer())
        await solver.present(answer(Identifier.dns("b.example.com")))
        assert b"www.example.com" in await ask(port, "www.example.com")
        assert b"b.example.com" in await ask(port, "b.example.com")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await ask(port, "c.example.com")
        # A second CA that validates the same name waits until the first one has looked.
        second = Answer(NAME, "u" * 22, "another")
        waiting = asyncio.create_task(solver.present(second))
        before = await ask(port, "www.example.com")
        assert not waiting.done()
        await solver.withdraw(answer())
        await waiting
        assert await ask(port, "www.example.com") != before
        await solver.close()

    asyncio.run(run())


def test_dns_record_is_rfc_8555s() -> None:
    """The record lies below the name without `*.`, and holds the hash of the key authorization, base64url."""
    assert dns_name(Identifier.dns("*.example.com")) == "_acme-challenge.example.com"
    digest = hashlib.sha256(b"token.thumbprint").digest()
    assert urlsafe_b64decode(dns_value("token.thumbprint") + "=") == digest


def test_hook_is_told_and_its_failure_is_told(tmp_path: Path) -> None:
    """Arguments and environment say the same; a failure stops `add` with the hook's words, and `remove` nothing."""
    log = tmp_path / "log"
    script = tmp_path / "hook.sh"
    script.write_text(
        f'echo "$1 $2 $3|$MTC_REQUEST_ACTION|$MTC_REQUEST_NAME|$CERTBOT_DOMAIN|$CERTBOT_VALIDATION" >> {log}\n'
        f"test ! -e {tmp_path}/broken || {{ printf 'no \\033[31mzone\\n' >&2; exit 4; }}\n"
    )

    async def run() -> None:
        solver = HookSolver(f"sh {script}")
        await solver.present(answer())
        name, value = dns_name(NAME), dns_value(answer().key_authorization)
        assert log.read_text() == f"add {name} {value}|add|{name}|www.example.com|{value}\n"
        (tmp_path / "broken").touch()
        with pytest.raises(UsageError, match=r"ended with 4 on `add _acme-challenge.www.example.com`: no +\[31mzone"):
            await solver.present(answer())
        await solver.withdraw(answer())
        assert log.read_text().splitlines()[-1].startswith("remove ")
        with pytest.raises(UsageError, match="127"):
            await HookSolver("/nowhere/at-all").present(answer())

    asyncio.run(run())
    for wrong in ("", "  ", 'unclosed "'):
        with pytest.raises(UsageError, match="--dns-hook"):
            HookSolver(wrong)


def test_program_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    """A hook has a deadline, after which it and what it started are gone; so they are when the run is cancelled."""
    script = tmp_path / "hang.sh"
    script.write_text(f"sleep 600 & echo $! > {tmp_path}/child; wait\n")

    def wait_for_child() -> None:
        until = time.monotonic() + 60
        while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text():
            assert time.monotonic() < until
            time.sleep(0.01)

    def is_gone() -> bool:
        pid = int((tmp_path / "child").read_text())
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        return state == "Z"

    async def until_gone() -> None:
        """Wait: who is killed is gone when the kernel comes to it."""
        async with asyncio.timeout(60):
            while not is_gone():  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)

    async def run() -> None:
        # A machine that is busy may not have come to the child before the deadline.
        for deadline_s in (0.3, 3.0, 30.0):
            code, text = await run_program(["sh", str(script)], {}, deadline_s)
            assert (code, "stopped after" in text) == (124, True)
            if (tmp_path / "child").exists() and (tmp_path / "child").read_text():
                break
        await until_gone()
        (tmp_path / "child").unlink()
        task = asyncio.create_task(run_program(["sh", str(script)], {}, 60))
        await asyncio.to_thread(wait_for_child)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until_gone()

    asyncio.run(run())


def test_files_are_replaced_whole_with_their_mode(tmp_path: Path) -> None:
    """A file gets its mode whatever the process's mask, and nothing stays beside it; a folder is made once."""
    old = os.umask(0o077)
    try:
        replace_file(Disk(), tmp_path / "file", b"one")
        replace_file(Disk(), tmp_path / "file", b"two")
    finally:
        os.umask(old)
    assert (tmp_path / "file").read_bytes() == b"two"
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644
    publish_folder(Disk(), tmp_path / "folder", {"a": NewFile(b"a", 0o600)})
    with pytest.raises(StorageError):
        publish_folder(Disk(), tmp_path / "folder", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_lock_is_one_processs(tmp_path: Path) -> None:
    """Whoever comes second is told who is there; afterwards the lock is free."""
    path = tmp_path / "lock"
    with locked(path, "it"), pytest.raises(ConflictError, match=f"pid {os.getpid()}"), locked(path, "it"):
        raise AssertionError
    with locked(tmp_path / "lock", "it"):
        pass
