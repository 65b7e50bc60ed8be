"""`mtc get`, `mtc handshake`, `mtc serve-tls`: a page over a Merkle Tree certificate, from process to process."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.acme_programs import running, wait_for
from tests.commands import Run, run_program

from mtc.testing.fleet import free_port

PAGE = b"<h1>a page</h1>\n"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs `mtc` in this process."""
    return run_program(monkeypatch, capfd)


@dataclass(frozen=True, slots=True)
class Site:
    """A server that runs, and what a client needs."""

    port: int
    trust: Path
    log: Path

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        """Return a URL of the server."""
        return f"https://{host}:{self.port}{path}"


@pytest.fixture
def site(run: Run, tmp_path: Path) -> Iterator[Site]:
    """Make a CA and a certificate for this machine, and serve a folder with it."""
    ca, kept, root = tmp_path / "ca", tmp_path / "kept" / "current", tmp_path / "root"
    kept.mkdir(parents=True)
    root.mkdir()
    (root / "index.html").write_bytes(PAGE)
    key = ec.generate_private_key(ec.SECP256R1())
    plain = serialization.NoEncryption()
    (kept / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    )
    public = tmp_path / "public.pem"
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    assert run("ca", "init", ca, "--id", "32473.1", "--json").code == 0
    out = kept / "standalone.pem"
    assert run("ca", "issue", ca, "--public-key", public, "--ip", "127.0.0.1", "--out", out).code == 0
    trust = tmp_path / "trust.json"
    trust.write_text(run("trust", "from-ca", ca / "ca.pem").out)
    port, log = free_port(), tmp_path / "server.log"
    command: list[str | Path] = [sys.executable, "-m", "mtc", "serve-tls", root, kept.parent]
    command += ["--listen", f"127.0.0.1:{port}", "--json"]
    with running(tmp_path, log, command) as process:
        wait_for(lambda: '"event": "serving"' in log.read_text(), "the server serves", process, log)
        yield Site(port, trust, log)


def test_page_comes_over_the_certificate_or_not_at_all(run: Run, site: Site) -> None:
    """The client asks for its CA, the server sends the standalone certificate and says so, and the page arrives."""
    page = run("get", site.url(), "--trust", site.trust)
    assert (page.code, page.out.encode()) == (0, PAGE)
    assert "standalone certificate of CA 32473.1, log 1, entry 0" in page.err
    facts = run("get", site.url(), "--trust", site.trust, "--json").json
    assert (facts["certificate"], facts["asked"], facts["acknowledged"]) == ("standalone", ["32473.1"], True)
    assert (facts["status"], facts["bytes"], facts["tls"]) == (200, len(PAGE), "TLSv1.3")
    assert run("get", site.url("/nothing"), "--trust", site.trust).code == 1
    seen = [json.loads(line) for line in site.log.read_text().splitlines() if '"event": "client"' in line]
    assert {(item["sent"], item["why"], item["acknowledged"]) for item in seen} == {("standalone", "id", True)}
    shaken = run("handshake", site.url(), "--trust", site.trust, "--json").json
    assert [item["from"] for item in shaken["flights"]] == ["client", "server", "client"]
    sent = shaken["flights"][1]["bytes"]
    assert shaken["certificate_bytes"] < sent < shaken["certificate_bytes"] + 1000
    assert (shaken["asked"], shaken["index"], shaken["cosigners"]) == (["32473.1"], 0, ["32473.1"])
    shown = run("handshake", site.url(), "--trust", site.trust).out
    assert "standalone, " in shown
    assert "cosignatures of 32473.1" in shown
    # Without the CA in the trust store, or under a name that the server has not, there is no page, and a reason.
    other_name = run("get", site.url(host="localhost"), "--trust", site.trust)
    for refused, text in (
        (run("get", site.url()), "no CA of the trust store"),
        (run("get", site.url(), "--mtc-only"), "no CA of the trust store"),
        (other_name, "certificate for localhost"),
    ):
        assert (refused.code, refused.out) == (2, "")
        assert text in refused.err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["get", "http://127.0.0.1/"], "https"),
        (["get", "https://127.0.0.1:1/"], "refused"),
        (["get", "https://127.0.0.1/", "--trust", "nothing.json"], "nothing.json"),
        (["handshake", "https:///"], "https"),
        (["handshake", "127.0.0.1:1"], "refused"),
        (["serve-tls", "nowhere", "nothing"], "nowhere"),
        (["serve-tls", ".", "nothing"], "nothing"),
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
