"""The recipes of docs/recipes.md: the programs that they are for run with the very files that stand there."""

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.acme_programs import environment, find_program, is_listening, running, wait_for
from tests.kept_folders import deploy
from tests.tls_pairs import CLOCK, LANDMARK, LOCAL, classical, standalone, tls_ca

from mtc.ids import DEFAULT_REVISION, parse_revision
from mtc.testing.fleet import free_port
from mtc.tls import ClientContext, client_context, client_report
from mtc.trust import Form, TrustStore

PAGE = (Path(__file__).parent.parent / "docs" / "recipes.md").read_text("utf-8")
MODULES = Path("/usr/lib/nginx/modules")
OLD_DRAFT = parse_revision("plants-05")
"""The newest one whose certificates Caddy of Debian 12 reads."""
PATIENCE_S = 20.0


def recipe(name: str) -> str:
    """Return a file of the page, by the name in its first line."""
    found = re.search(rf"^```[a-z]*\n(?:#|//) {re.escape(name)}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, name
    return found[1]


@dataclass(frozen=True, slots=True)
class Site:
    """A program that runs with its recipe. port: where clients of all kinds come."""

    folder: Path
    port: int
    log: Path

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"https://{LOCAL}:{self.port}/"

    @property
    def roots(self) -> Path:
        """What clients trust who know no Merkle Tree certificates."""
        return self.folder / "site" / "current" / "classical" / "fullchain.pem"


def ports(text: str, site: Path, front: int, ours: int, theirs: int) -> str:
    """Return a recipe with the paths and ports of a test."""
    for before, after in (
        ("/etc/nginx", str(site.parent)),
        ("/etc/mtc/www.example.com", str(site)),
        ("/var/www", str(site.parent)),
        ("www.example.com", LOCAL),
        ("listen [::]:443;", ""),
        ("listen 443", f"listen 127.0.0.1:{front}"),
        ("4431", str(ours)),
        ("4432", str(theirs)),
    ):
        text = text.replace(before, after)
    return text


def nginx_prologue(folder: Path) -> str:
    """Return what lets nginx run in a folder, as whoever runs the tests."""
    user = "user root root;\n" if os.geteuid() == 0 else ""
    modules = "".join(f"load_module {MODULES}/ngx_{name}_module.so;\n" for name in ("stream", "stream_js"))
    rest = f"daemon off;\nworker_processes 1;\npid {folder}/nginx.pid;\nerror_log stderr info;\nevents {{}}\n"
    return user + modules + rest


def nginx_http(folder: Path, sites: str) -> str:
    """Return the `http` part around sites."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    return f"http {{\naccess_log off;\n{temporary}{sites}}}\n"


def find_nginx() -> str:
    """Return where nginx is; skip the test where it or its module is missing."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None or not (MODULES / "ngx_stream_js_module.so").exists():
        pytest.skip("nginx or its module is not installed (Debian: apt install nginx libnginx-mod-stream-js)")
    return program


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, subprocess.Popen[bytes]]]:
    """Run nginx with its recipe."""
    program, folder = find_nginx(), tmp_path_factory.mktemp("nginx")
    site, log = folder / "site", folder / "nginx.log"
    deploy(site, "one", standalone(tls_ca()), fallback=classical())
    (folder / "index.html").write_text("a page")
    front, ours, theirs = free_port(), free_port(), free_port()
    (folder / "mtc.js").write_text(recipe("/etc/nginx/mtc.js"))
    stream = ports(recipe("/etc/nginx/modules-enabled/90-mtc.conf"), site, front, ours, theirs)
    sites = ports(recipe("/etc/nginx/conf.d/mtc.conf"), site, front, ours, theirs)
    (folder / "nginx.conf").write_text(nginx_prologue(folder) + stream + nginx_http(folder, sites))
    with running(folder, log, [program, "-p", folder, "-c", folder / "nginx.conf"]) as process:
        wait_for(lambda: is_listening(front), "nginx listens", process, log)
        yield Site(folder, front, log), process


def store(*, has_landmark: bool = False) -> TrustStore:
    """Return trust in the CA, with a landmark or without."""
    ca = tls_ca()
    # Another subtree than the certificate's, so that it is the cosignature that counts.
    return ca.store(subtrees=[ca.trusted_subtree(8, 13, landmark=LANDMARK)] if has_landmark else [])


def fetch(url: str, context: ssl.SSLContext) -> str:
    """Fetch a page with urllib."""
    with urllib.request.urlopen(url, context=context, timeout=PATIENCE_S) as answer:  # noqa: S310 - loopback
        return str(answer.read().decode())


def form_at(site: Site, context: ClientContext) -> tuple[Form | None, int]:
    """Return which form of certificate a client gets, and the entry's index (0 for a classical one)."""
    with (
        socket.create_connection(("127.0.0.1", site.port), PATIENCE_S) as plain,
        context.wrap_socket(plain, server_hostname=LOCAL) as connection,
    ):
        report = client_report(connection)
    assert report is not None
    return (None, 0) if report.verified is None else (report.verified.form, report.verified.index)


def curl(site: Site, *options: str) -> str:
    """Fetch the page with curl, which knows no Merkle Tree certificates."""
    command = [find_program("curl"), "-sS", "--noproxy", "*", "--cacert", str(site.roots), *options, site.url]
    done = subprocess.run(  # noqa: S603 - a program that this machine's owner installed
        command, capture_output=True, text=True, check=False, timeout=PATIENCE_S, env=environment(site.folder, {})
    )
    assert done.returncode == 0, f"{done.stderr}\n{site.log.read_text()[-3000:]}"
    return done.stdout


def test_nginx_serves_the_standalone_certificate_to_those_who_trust_the_ca(
    nginx: tuple[Site, subprocess.Popen[bytes]],
) -> None:
    """A client that lists the CA, or a landmark group of it, gets the standalone certificate, and the page over it."""
    site, _ = nginx
    for trust in (store(), store(has_landmark=True)):
        context = client_context(trust, clock=CLOCK, classical=False)
        assert form_at(site, context) == (Form.STANDALONE, 3)
        assert fetch(site.url, context) == "a page"


def test_nginx_serves_the_classical_certificate_to_all_others(nginx: tuple[Site, subprocess.Popen[bytes]]) -> None:
    """It goes to curl, with TLS 1.2 as well, and to clients that list nothing, nobody or another CA."""
    site, _ = nginx
    assert curl(site) == "a page"
    assert curl(site, "--tls-max", "1.2") == "a page"
    other = tls_ca(ca_id="32473.12")
    for context in (
        client_context(TrustStore(), clock=CLOCK),
        client_context(store(), clock=CLOCK, sends_extension=False),
        client_context(other.store(), clock=CLOCK),
    ):
        context.load_verify_locations(cafile=site.roots)
        assert form_at(site, context) == (None, 0)


def test_nginx_reads_a_hello_in_any_pieces_and_drops_what_is_none(
    nginx: tuple[Site, subprocess.Popen[bytes]],
) -> None:
    """A ClientHello that comes byte by byte is understood; rubbish, or a list that is cut, ends the connection."""
    site, _ = nginx
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = client_context(store(), clock=CLOCK).wrap_bio(incoming, outgoing, server_hostname=LOCAL)
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    hello = outgoing.read()
    with socket.create_connection(("127.0.0.1", site.port), PATIENCE_S) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in range(len(hello)):
            plain.sendall(hello[number : number + 1])
        answer = b""
        # Our certificate is longer than the whole flight with the classical one.
        while len(answer) < len(standalone(tls_ca()).certificates[0]):
            piece = plain.recv(65536)
            assert piece, site.log.read_text()[-3000:]
            answer += piece
    damaged = hello.replace(b"\xca\x34\x00", b"\xca\x34\xff")
    for rubbish in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", damaged):
        with socket.create_connection(("127.0.0.1", site.port), PATIENCE_S) as plain:
            plain.sendall(rubbish)
            plain.shutdown(socket.SHUT_WR)
            while plain.recv(65536):
                pass
    assert curl(site) == "a page"


def test_nginx_takes_over_a_renewed_certificate_while_connections_go_on(
    nginx: tuple[Site, subprocess.Popen[bytes]],
) -> None:
    """After the reload of the deploy hook new handshakes get the new version; a connection of before still answers."""
    site, process = nginx
    context = client_context(store(), clock=CLOCK)
    with (
        socket.create_connection(("127.0.0.1", site.port), PATIENCE_S) as plain,
        context.wrap_socket(plain, server_hostname=LOCAL) as before,
    ):
        deploy(site.folder / "site", "two", standalone(tls_ca(), index=4), fallback=classical())
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: form_at(site, context) == (Form.STANDALONE, 4), "nginx reloads", process, site.log)
        before.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert before.recv(65536).startswith(b"HTTP/1.1 200")
    assert curl(site) == "a page"


def test_nginx_refuses_the_certificate_at_the_usual_level(tmp_path: Path) -> None:
    """Without the line that lowers the security level, OpenSSL before 4.0.3 loads no Merkle Tree certificate."""
    program = find_nginx()
    deploy(tmp_path / "site", "one", standalone(tls_ca()), fallback=classical())
    sites = ports(recipe("/etc/nginx/conf.d/mtc.conf"), tmp_path / "site", 0, 4431, 4432)
    for is_lowered, text in ((True, sites), (False, sites.replace("ssl_ciphers DEFAULT@SECLEVEL=0;", ""))):
        (tmp_path / "nginx.conf").write_text(nginx_prologue(tmp_path) + nginx_http(tmp_path, text))
        done = subprocess.run(  # noqa: S603 - a program that this machine's owner installed
            [program, "-t", "-p", tmp_path, "-c", tmp_path / "nginx.conf"], capture_output=True, text=True, check=False
        )
        assert (done.returncode == 0) is is_lowered, done.stderr
    assert "ca md too weak" in done.stderr


@pytest.fixture(scope="module")
def caddy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Site, list[str]]]:
    """Run Caddy with its recipe; gives both sites behind it, and the command that reloads."""
    program, folder = find_program("caddy"), tmp_path_factory.mktemp("caddy")
    site, log = folder / "site", folder / "caddy.log"
    deploy(site, "one", standalone(tls_ca(OLD_DRAFT)), fallback=classical())
    (folder / "index.html").write_text("a page")
    ours, theirs = free_port(), free_port()
    control = f"unix/{folder}/control.sock"
    text = ports(recipe("/etc/caddy/Caddyfile"), site, 0, ours, theirs).replace("{\n", f"{{\n\tadmin {control}\n", 1)
    (folder / "Caddyfile").write_text(text)
    with running(folder, log, [program, "run", "--config", folder / "Caddyfile"]) as process:
        wait_for(lambda: is_listening(ours) and is_listening(theirs), "Caddy listens", process, log)
        reload = [program, "reload", "--force", "--config", str(folder / "Caddyfile"), "--address", control]
        yield Site(folder, ours, log), Site(folder, theirs, log), reload


def test_caddy_serves_both_certificates_and_takes_over_a_renewed_one(caddy: tuple[Site, Site, list[str]]) -> None:
    """Each site of the recipe has its certificate: ours verifies, curl gets the other, and a forced reload renews."""
    ours, theirs, reload = caddy
    context = client_context(tls_ca(OLD_DRAFT).store(), clock=CLOCK, classical=False)
    assert form_at(ours, context) == (Form.STANDALONE, 3)
    assert fetch(ours.url, context) == "a page"
    assert curl(theirs) == "a page"
    deploy(ours.folder / "site", "two", standalone(tls_ca(OLD_DRAFT), index=4), fallback=classical())
    subprocess.run(  # noqa: S603 - a program that this machine's owner installed
        reload, check=True, capture_output=True, timeout=PATIENCE_S, env=environment(ours.folder, {}), cwd=ours.folder
    )
    assert form_at(ours, context) == (Form.STANDALONE, 4)
    assert curl(theirs) == "a page"


def test_nginx_in_front_of_caddy_chooses_for_it(caddy: tuple[Site, Site, list[str]]) -> None:
    """At one port, our client gets the standalone certificate from Caddy, and curl the classical one."""
    program, (ours, theirs, _), front = find_nginx(), caddy, free_port()
    folder, log = ours.folder, ours.folder / "nginx.log"
    (folder / "mtc.js").write_text(recipe("/etc/nginx/mtc.js"))
    stream = ports(recipe("/etc/nginx/modules-enabled/90-mtc.conf"), folder / "site", front, ours.port, theirs.port)
    (folder / "nginx.conf").write_text(nginx_prologue(folder) + stream.replace("proxy_protocol on;", ""))
    with running(folder, log, [program, "-p", folder, "-c", folder / "nginx.conf"]) as process:
        wait_for(lambda: is_listening(front), "nginx listens", process, log)
        site = Site(folder, front, log)
        context = client_context(tls_ca(OLD_DRAFT).store(), clock=CLOCK, classical=False)
        assert form_at(site, context)[0] is Form.STANDALONE
        assert curl(site) == "a page"


def test_caddy_of_debian_cannot_read_the_newest_certificates(tmp_path: Path) -> None:
    """Go before 1.27 refuses a RELATIVE-OID in the issuer's name, with the words that the page gives."""
    program = find_program("caddy")
    deploy(tmp_path / "site", "one", standalone(tls_ca(DEFAULT_REVISION)), fallback=classical())
    (tmp_path / "Caddyfile").write_text(ports(recipe("/etc/caddy/Caddyfile"), tmp_path / "site", 0, 4431, 4432))
    done = subprocess.run(  # noqa: S603 - a program that this machine's owner installed
        [program, "validate", "--config", tmp_path / "Caddyfile"],
        capture_output=True,
        text=True,
        check=False,
        env=environment(tmp_path, {}),
    )
    if done.returncode == 0:
        pytest.skip("this Caddy is built with Go 1.27 or newer")
    assert "x509: invalid RDNSequence: invalid attribute value: unsupported string type: 13" in done.stderr
