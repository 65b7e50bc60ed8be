"""`mtc get`, `mtc handshake`, `mtc serve-tls`: a page over a Merkle Tree certificate, from process to process."""

import contextlib
import json
import os
import pty
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from tests.acme_programs import running, wait_for
from tests.commands import Run, run_program
from tests.kept_folders import deploy
from tests.makers import Leaf, SmallCA, leaf_extensions
from tests.tls_pairs import CLOCK, LANDMARK, LOCAL, classical, connect, landmark, standalone, tls_ca, trust_classical

from mtc.cli.serve_visits import Site as VisitedSite
from mtc.cli.serve_visits import Visit, Visits, draw, observe_visit
from mtc.testing.fleet import free_port
from mtc.tls import client_context, server_context
from mtc.trust import TrustStore, format_trust_store
from mtc.wire import PEMBlock, encode_pem

PAGE = b"<h1>a page</h1>\n"
PATIENCE_S = 20.0


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs `mtc` in this process."""
    return run_program(monkeypatch, capfd)


@dataclass(frozen=True, slots=True)
class Site:
    """A server that runs, and what clients need.

    trust: the CA alone. fresh: also the landmark of the server's certificate. stale: a later one, whose group the
    certificate belongs to, and not its own. roots: of the classical certificate.
    """

    port: int
    log: Path
    folder: Path

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        """Return a URL of the server."""
        return f"https://{host}:{self.port}{path}"

    def file(self, name: str) -> Path:
        """Return a trust store or the roots."""
        return self.folder / name

    def visits(self) -> list[dict[str, object]]:
        """Return what the log says of clients."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if line["event"] in {"client", "failed"}]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Serve a folder with both forms of a certificate for this machine, and a classical one for localhost alone."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "root").mkdir()
    (folder / "root" / "index.html").write_bytes(PAGE)
    now = datetime.now(UTC).replace(microsecond=0)
    leaf = Leaf(
        extensions=leaf_extensions((), ("127.0.0.1",)),
        not_before=now - timedelta(hours=1),
        not_after=now + timedelta(days=7),
    )
    ca = SmallCA((leaf,) * 13)
    deploy(folder / "kept", "one", landmark(ca), standalone(ca), fallback=classical())
    fresh, stale = ca.trusted_subtree(0, 8, landmark=LANDMARK), ca.trusted_subtree(8, 13, landmark=LANDMARK + 1)
    for name, subtrees in (("trust", []), ("fresh", [fresh]), ("stale", [stale])):
        store = ca.store(subtrees=subtrees)
        (folder / name).write_bytes(format_trust_store(store))
    (folder / "roots").write_bytes(encode_pem([PEMBlock("CERTIFICATE", classical().certificates[0])]))
    port, log = free_port(), folder / "server.log"
    command: list[str | Path] = [sys.executable, "-m", "mtc", "serve-tls", folder / "root", folder / "kept"]
    command += ["--listen", f"127.0.0.1:{port}", "--json"]
    with running(folder, log, command) as process:
        wait_for(lambda: '"event": "serving"' in log.read_text(), "the server serves", process, log)
        yield Site(port, log, folder)


def test_page_comes_over_the_best_certificate_or_not_at_all(run: Run, site: Site) -> None:
    """Who knows the landmark gets that form, who knows the CA the other, each acknowledged; the page arrives."""
    page = run("get", site.url(), "--trust", site.file("trust"))
    assert (page.code, page.out.encode()) == (0, PAGE)
    assert "standalone certificate of CA 32473.1, log 1, entry 3" in page.err
    facts = run("get", site.url(), "--trust", site.file("trust"), "--json").json
    assert (facts["certificate"], facts["asked"], facts["acknowledged"]) == ("standalone", ["32473.1"], True)
    assert (facts["status"], facts["bytes"], facts["tls"]) == (200, len(PAGE), "TLSv1.3")
    facts = run("get", site.url(), "--trust", site.file("fresh"), "--mtc-only", "--json").json
    assert (facts["certificate"], facts["asked"], facts["cosigners"]) == ("landmark-relative", ["32473.1.2.1.5"], [])
    assert run("get", site.url("/nothing"), "--trust", site.file("trust")).code == 1
    # Without the CA in the trust store, or under a name for which there is none of ours, it is the classical one.
    other = run("get", site.url(host=LOCAL), "--trust", site.file("trust"), "--ca-file", site.file("roots"), "--json")
    assert (other.json["certificate"], other.json["acknowledged"]) == ("classical", False)
    for refused, text in (
        (run("get", site.url()), "self-signed"),
        (run("get", site.url(host=LOCAL), "--trust", site.file("trust"), "--mtc-only"), "accepts none"),
    ):
        assert (refused.code, refused.out) == (2, "")
        assert text in refused.err


@pytest.mark.parametrize("command", ["get", "handshake"])
def test_refused_client_asks_once_more_for_what_the_server_lists(run: Run, site: Site, command: str) -> None:
    """A client whose landmarks do not suit asks again for the CA ID of the server's list, and is served."""
    facts = run(command, site.url(), "--trust", site.file("stale"), "--json").json
    assert facts["attempts"] == 2
    assert (facts["certificate"], facts["asked"], facts["acknowledged"]) == ("standalone", ["32473.1"], True)
    shown = run(command, site.url(), "--trust", site.file("stale"))
    assert shown.code == 0
    if command == "get":
        assert "second attempt" in shown.err
    else:
        first = facts["first_attempt"]
        assert (first["asked"], first["certificate"]) == (["32473.1.2.1.6"], None)
        assert "and it asks again, for 32473.1 of the server's list" in shown.out
        assert "second attempt" in shown.out


def test_handshake_is_shown_to_the_last_byte(run: Run, site: Site) -> None:
    """Flights consist of messages and records, the Certificate message of parts; a client's list is measured."""
    shaken = run("handshake", site.url(), "--trust", site.file("trust"), "--json").json
    assert [item["from"] for item in shaken["flights"]] == ["client", "server", "client"]
    assert (shaken["asked"], shaken["index"], shaken["cosigners"]) == (["32473.1"], 3, ["32473.1"])
    assert shaken["available"] == ["32473.1.1.1.5", "32473.1"]
    hello, served, finished = shaken["flights"]
    assert [item["name"] for item in hello["messages"]] == ["ClientHello"]
    assert {"name": "trust_anchors", "bytes": 2 + 2 + 2 + 1 + 4} in hello["messages"][0]["parts"]
    names = ["ServerHello", "EncryptedExtensions", "Certificate", "CertificateVerify", "Finished"]
    assert [item["name"] for item in served["messages"]] == names
    assert [item["name"] for item in finished["messages"]] == ["Finished"]
    # A record has 22 bytes of its own, of which there is one at least for each side and the one for old middleboxes.
    assert 0 < served["bytes"] - sum(item["bytes"] for item in served["messages"]) < 30 * len(names)
    sent = served["messages"][2]
    assert sum(item["bytes"] for item in sent["parts"]) == shaken["certificate_bytes"] < sent["bytes"]
    assert {"name": "cosignature of 32473.1", "bytes": 64} in sent["parts"]
    assert shaken["chain_bytes"] == shaken["certificate_bytes"]
    assert shaken["group"]
    shown = run("handshake", f"127.0.0.1:{site.port}", "--trust", site.file("trust")).out
    for text in ("standalone certificate, ", "cosignatures of 32473.1", "EncryptedExtensions", "trust_anchors"):
        assert text in shown


def test_refused_handshake_is_shown_too(run: Run, site: Site) -> None:
    """With exit code 1: what was sent, down to the alert, and why it was refused."""
    refused = run("handshake", site.url(), "--trust", site.file("trust"), "--connect", f"127.0.0.1:{site.port}")
    assert refused.code == 0
    refused = run("handshake", f"https://{LOCAL}", "--connect", f"127.0.0.1:{site.port}", "--mtc-only", "--json")
    assert refused.code == 1
    assert (refused.json["certificate"], refused.json["refused"]["reason"]) == (None, "not-mtc")
    assert refused.json["flights"][-1]["messages"] == [{"name": "Alert", "bytes": 2}]
    shown = run("handshake", site.url(host=LOCAL))
    assert shown.code == 1
    assert "self-signed" in shown.err
    assert "Alert" in shown.out


def test_server_tells_what_each_client_asked_and_got(run: Run, site: Site) -> None:
    """In the log, a line each, and on a page for this machine; handshakes that fail are told as well."""
    before = len(site.visits())
    run("handshake", site.url(), "--trust", site.file("fresh"), "--json")
    run("handshake", site.url(host=LOCAL), "--mtc-only", "--json")
    page = run("get", site.url("/.mtc"), "--trust", site.file("fresh")).out
    told = run("get", site.url("/.mtc/visits.json"), "--trust", site.file("trust")).json
    kinds = [(item.get("sent", item["event"]), item["asked"]) for item in site.visits()[before:]]
    anchors = ["32473.1.2.1.5"]
    expected = [
        ("landmark-relative", anchors),
        ("failed", []),
        ("landmark-relative", anchors),
        ("standalone", ["32473.1"]),
    ]
    assert kinds == expected
    assert [item.get("sent", "failed") for item in told["visits"][:4]] == [kind for kind, _ in reversed(expected)]
    assert told["counts"]["failed"] >= 1
    for text in ("32473.1.2.1.5", "landmark group, acknowledged", '<td class="bad">failed</td>', "127.0.0.1"):
        assert text in page
    assert run("get", site.url("/.mtc/nothing"), "--trust", site.file("trust")).code == 1


def test_view_for_a_terminal() -> None:
    """The view names the certificates, counts, and shows the newest handshakes; foreign text cannot steer it."""
    ca = tls_ca()
    context = server_context([landmark(ca), standalone(ca)], fallback=classical(), clock=CLOCK)
    visits = Visits(CLOCK)
    stranger = client_context(TrustStore(), clock=CLOCK, sends_extension=False)
    trust_classical(stranger)
    for client in (client_context(ca.store(), clock=CLOCK), stranger):
        _, ours = connect(client, context, LOCAL)
        visit = observe_visit(ours, None, CLOCK.now())
        assert visit is not None
        visits.add(visit)
    evil = "[red]\x1b[2J"
    visits.add(Visit(moment=CLOCK.now(), name=evil, asked=("1.2", "1.3", "1.4"), kind="failed", why="alert"))
    visits.warn("not reloaded")
    out = StringIO()
    site = VisitedSite(f"https://{LOCAL}:8443", "root", context)
    Console(file=out, width=160).print(draw(site, visits, 40))
    shown = out.getvalue()
    for text in (
        "landmark-relative  ",
        "3 handshakes",
        "id, acknowledged",
        "1.2, 1.3 and 1 more",
        "not reloaded",
        "[red]",
    ):
        assert text in shown
    assert "\x1b[2J" not in shown


def test_terminal_shows_the_view_until_ctrl_c(site: Site) -> None:
    """On a terminal the view stands instead of the log, and ctrl-C is the usual end."""
    ours, theirs = pty.openpty()
    command: list[str | Path] = [sys.executable, "-m", "mtc", "serve-tls", site.file("root"), site.file("kept")]
    command += ["--listen", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)  # noqa: S603 - our program
    os.close(theirs)
    seen = b""
    try:
        with open(ours, "rb", buffering=0) as screen:  # noqa: PTH123 - a descriptor
            while b"nobody has come yet" not in seen:
                assert select.select([screen], [], [], PATIENCE_S)[0], seen
                seen += screen.read(65536)
            process.send_signal(signal.SIGINT)
            # On Linux the end of a terminal is an error.
            with contextlib.suppress(OSError):
                while screen.read(65536):
                    pass
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()
    assert b"landmark-relative" in seen
    assert b'"event"' not in seen


@contextlib.contextmanager
def answering(answer: Callable[[socket.socket, threading.Event], None]) -> Iterator[int]:
    """Answer connections of a port, one after the other, until the context ends; gives the port."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])

        def serve() -> None:
            while True:
                connection, _ = listener.accept()
                with contextlib.suppress(OSError), connection:
                    if ended.is_set():
                        return
                    connection.settimeout(PATIENCE_S)
                    answer(connection, ended)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield port
        finally:
            ended.set()
            socket.create_connection(("127.0.0.1", port)).close()
            thread.join()


@pytest.mark.parametrize("command", ["get", "handshake"])
def test_server_that_is_silent_or_speaks_something_else(run: Run, command: str) -> None:
    """A time limit ends waiting, and a server without TLS is named as one, with exit code 2."""
    with answering(lambda connection, _: _read_all(connection)) as port:
        late = run(command, f"https://127.0.0.1:{port}", "--timeout", "100ms")
        assert (late.code, late.out) == (2, "")
        assert "no answer in time" in late.err
    with answering(lambda connection, _: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        other = run(command, f"https://127.0.0.1:{port}")
        assert (other.code, other.out) == (2, "")
        assert "does not speak TLS" in other.err


def _read_all(connection: socket.socket) -> None:
    """Read until the client has left."""
    while connection.recv(65536):
        pass


def test_page_without_an_end_is_cut_off(run: Run, site: Site) -> None:
    """A byte now and then does not hold a client beyond its time; a page that ends early is none."""
    context = server_context((), fallback=classical())

    def drip(connection: socket.socket, ended: threading.Event) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(65536)
            secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not ended.wait(0.01):
                secured.sendall(b".")

    def cut(connection: socket.socket, _: threading.Event) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(65536)
            secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            with contextlib.suppress(ssl.SSLError):
                secured.unwrap()

    for answer, text in ((drip, "no answer in time"), (cut, "96 bytes early")):
        with answering(answer) as port:
            url = f"https://{LOCAL}:{port}"
            limit = "300ms" if answer is drip else "20s"
            refused = run(
                "get", url, "--ca-file", site.file("roots"), "--connect", f"127.0.0.1:{port}", "--timeout", limit
            )
            assert (refused.code, refused.out) == (2, "")
            assert text in refused.err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["get", "http://127.0.0.1/"], "https"),
        (["get", "https://127.0.0.1:1/"], "refused"),
        (["get", "https://127.0.0.1:99999/"], "https"),
        (["get", "https://[::1/"], "https"),
        (["get", f"https://{'a' * 70}.example/"], "https"),
        (["get", "https://127.0.0.1/", "--trust", "nothing.json"], "nothing.json"),
        (["get", "https://127.0.0.1/", "--ca-file", "pyproject.toml"], "pyproject.toml holds no certificate"),
        (["get", "https://127.0.0.1/", "--connect", "none"], "--connect"),
        (["get", "https://127.0.0.1/", "--timeout", "soon"], "--timeout"),
        (["handshake", "https:///"], "https"),
        (["handshake", "127.0.0.1:1"], "refused"),
        (["handshake", ".example"], "https"),
        (["serve-tls", "nowhere", "nothing"], "nowhere"),
        (["serve-tls", ".", "nothing"], "nothing"),
        (["serve-tls", ".", "nothing", "--listen", "none"], "--listen"),
    ],
)
def test_wrong_input_says_what_is_wrong(run: Run, arguments: list[str], text: str) -> None:
    """A wrong URL, file or folder is named, with exit code 2."""
    refused = run(*arguments)
    assert refused.code == 2
    assert text in refused.err


def test_doctor_tells_what_this_python_can_do(run: Run) -> None:
    """The back end that the other tests use is usable, with its library's version; for scripts as JSON."""
    facts = run("doctor", "--json").json
    (stdlib,) = [item for item in facts["back_ends"] if item["name"] == "stdlib"]
    assert stdlib["is_usable"]
    assert stdlib["library"].startswith("OpenSSL")
    assert stdlib["library"] in run("doctor").out
