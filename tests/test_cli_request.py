"""`mtc request` from the command line, as a stranger uses it, against `mtc ca serve` with ACME, and against Pebble."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.acme_programs import Names, is_listening, names_in, running, wait_for, write_hook
from tests.commands import mtc, run_here
from tests.pebble import running_pebble

from mtc.acme.client.folder import CHAIN, FULLCHAIN, KEY, LANDMARK, STANDALONE
from mtc.cert import CACertificate, Certificate, CertificateRevocationList, VerifiedCRL, parse_certificate_chains
from mtc.testing.fleet import free_port
from mtc.trust import TrustStore, trusted_ca_from_certificate, verify_certificate
from mtc.wire import find_pem_block

PATIENCE_S = 60.0
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Town:
    """A CA with its ACME server, and the names around it."""

    folder: Path
    directory: str
    http_port: int
    tls_port: int
    names: Names

    def options(self, out: Path, *names: str) -> list[str]:
        """Return what every request here says."""
        server = ["--server", self.directory, "--ca-file", str(self.folder / "acme" / "tls.pem")]
        wanted = [word for name in names for word in ("--dns", name)]
        return ["request", *server, *wanted, "--out", str(out), "--http-port", str(self.http_port)]

    @property
    def trust(self) -> TrustStore:
        """The plainest trust in the CA."""
        der = find_pem_block((self.folder / "ca.pem").read_bytes(), "CERTIFICATE")
        return TrustStore([trusted_ca_from_certificate(CACertificate.parse(der))])


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory, near_signer: None) -> Iterator[Town]:  # noqa: ARG001 - for `init`
    """Return a CA that makes a landmark each second."""
    root = tmp_path_factory.mktemp("town")
    port, http_port, tls_port = free_port(), free_port(), free_port()
    with names_in(root) as names:
        folder = root / "ca"
        fast = ["--round-interval", "50ms", "--landmark-interval", "1s", "--listen", "none"]
        mtc("ca", "init", folder, "--id", "32473.1", *fast)
        url = f"https://localhost:{port}/acme"
        options = ["--listen", f"127.0.0.1:{port}", "--resolver", names.server, "--unsafe-for-tests"]
        options += ["--http-port", str(http_port), "--tls-port", str(tls_port)]
        mtc("acme", "init", folder, "--url", url, *options)
        log = root / "ca.log"
        command = [sys.executable, "-m", "mtc", "ca", "serve", str(folder), "--json"]
        with running(root, log, command) as process:
            wait_for(lambda: is_listening(port), "the ACME server answers", process, log)
            yield Town(folder, f"{url}/directory", http_port, tls_port, names)


def standalone(folder: Path) -> Certificate:
    """Return what servers would load."""
    return Certificate.parse(find_pem_block((folder / "current" / "standalone.pem").read_bytes(), "CERTIFICATE"))


def test_both_forms_come_by_themselves(town: Town, tmp_path: Path) -> None:
    """One command gives the standalone certificate, verified, and the landmark-relative one when it stays for it."""
    trust = tmp_path / "trust.json"
    trust.write_text(mtc("trust", "from-ca", town.folder / "ca.pem"))
    options = town.options(tmp_path / "out", "both.example.com", "two.example.com")
    said = json.loads(mtc(*options, "--trust", trust, "--wait-landmark", f"{PATIENCE_S:.0f}s", "--json"))
    (certificate,) = said["certificates"]
    assert (certificate["outcome"], certificate["verified"], certificate["landmark"]) == (
        "new",
        "trust-store",
        "stored",
    )
    folder = tmp_path / "out" / "both.example.com"
    for name in ("both.example.com", "two.example.com"):
        verify_certificate(standalone(folder).der, town.trust, datetime.now(UTC), name=name)
    for file, anchor in (("standalone.pem", "32473.1"), ("landmark.pem", "32473.1.1.1.")):
        (chain,) = parse_certificate_chains((folder / "current" / file).read_bytes())
        assert chain.properties is not None
        assert str(chain.properties.trust_anchor_id).startswith(anchor)
        assert Certificate.parse(chain.certificates[0]).tbs == standalone(folder).tbs
    leaf, ca = (folder / "current" / "chain.pem").read_bytes().split(b"-----END CERTIFICATE-----\n")[:2]
    assert find_pem_block(leaf + b"-----END CERTIFICATE-----\n", "CERTIFICATE") == standalone(folder).der
    assert find_pem_block(ca + b"-----END CERTIFICATE-----\n", "CERTIFICATE") == find_pem_block(
        (town.folder / "ca.pem").read_bytes(), "CERTIFICATE"
    )
    assert "nothing to do until" in mtc(*options, "--once")


def test_words_for_people(town: Town, tmp_path: Path) -> None:
    """In a pipe each step is a line; the end says what there is, whether it was verified, and what comes next."""
    command = [sys.executable, "-m", "mtc", *town.options(tmp_path, "words.example.com")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S)  # noqa: S603 - ours
    assert done.stderr.splitlines()[:3] == [
        "ordering a certificate for words.example.com",
        "preparing http-01 for words.example.com",
        "waiting for the server to validate words.example.com (http-01)",
    ]
    assert "issued words.example.com" in done.stdout
    assert "verified against the CA certificate that its server names" in done.stdout
    # A landmark may have come while the order ran.
    assert re.search(r"^  landmark-relative certificate: (here$|not ready, asked again at )", done.stdout, re.MULTILINE)
    assert "next step at" in done.stdout


@pytest.mark.parametrize("key_type", ["ecdsa-p384", "rsa-2048", "ed25519", "ml-dsa-44"])
def test_keys_of_all_kinds(town: Town, tmp_path: Path, key_type: str) -> None:
    """Classical and post-quantum keys are certified, validated by a TLS handshake."""
    name = f"{key_type}.example.com"
    options = town.options(tmp_path, name)
    challenge = ["--challenge", "tls-alpn-01", "--tls-port", str(town.tls_port)]
    mtc(*options, *challenge, "--key-type", key_type, "--email", "somebody@example.com")
    verify_certificate(standalone(tmp_path / name).der, town.trust, datetime.now(UTC), name=name)


def test_wildcards_by_dns(town: Town, tmp_path: Path) -> None:
    """A hook that sets records gives a name and its wildcard in one certificate, in a folder without a star."""
    hook = write_hook(tmp_path / "hook.py", town.names, words="arguments")
    options = town.options(tmp_path / "out", "*.wild.example.com", "other.example.com")
    mtc(*options, "--dns-hook", hook)
    leaf = standalone(tmp_path / "out" / "_.wild.example.com")
    verify_certificate(leaf.der, town.trust, datetime.now(UTC), name="any.wild.example.com")


def test_revoked_is_on_the_list_and_replaced(town: Town, tmp_path: Path) -> None:
    """The CA's signed list names it, and the next run replaces it."""
    options = town.options(tmp_path, "revoked.example.com")
    mtc(*options)
    folder = tmp_path / "revoked.example.com"
    first = standalone(folder)
    assert "the next run replaces it" in _errors_of(*options, "--revoke", "superseded")
    ca = CACertificate.parse(find_pem_block((town.folder / "ca.pem").read_bytes(), "CERTIFICATE"))
    until = time.monotonic() + PATIENCE_S
    while True:
        crl = CertificateRevocationList.parse((town.folder / "public" / "ca.crl").read_bytes())
        proven = crl.verify(ca.public_key, first.issuer, datetime.now(UTC))
        assert isinstance(proven, VerifiedCRL)
        if proven.find(first.serial) is not None:
            break
        assert time.monotonic() < until
        time.sleep(0.05)
    mtc(*options, "--once")
    assert standalone(folder).serial != first.serial


def _errors_of(*arguments: str) -> str:
    """Run a command that succeeds; return what it wrote to standard error."""
    ran = run_here(*arguments)
    assert ran.code == 0, ran
    return ran.err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--dns", "under score"], "no DNS name"),
        (["--ip", "999.1.1.1", "--dns", "a.example.com"], "no IP address"),
        ([], "--dns NAME"),
        (["--dns", "a.example.com", "--challenge", "smoke-01"], "--challenge is http-01"),
        (["--dns", "a.example.com", "--challenge", "dns-01"], "--dns-hook CMD"),
        (["--dns", "a.example.com", "--key-type", "dsa"], "a key is one of"),
        (["--dns", "a.example.com", "--account-key-type", "ml-dsa-44"], "an account's key is one of"),
        (["--dns", "a.example.com", "--eab-kid", "1"], "--eab-key-file"),
        (["--dns", "a.example.com", "--eab-kid", "1", "--eab-key-file", "/nowhere"], "/nowhere"),
        (["--dns", "a.example.com", "--trust", "/nowhere"], "/nowhere"),
        (["--dns", "a.example.com", "--ca-file", "/nowhere"], "/nowhere"),
        (["--dns", "a.example.com", "--name", "a/b"], "--name"),
        (["--dns", "accounts"], "--name"),
        (["--dns", "a.example.com", "--once", "--daemon"], "one of them"),
        (["--dns", "a.example.com", "--revoke", "boredom"], "keyCompromise"),
        (["--dns", "a.example.com", "--wait-landmark", "long"], "--wait-landmark"),
        (["--dns", "a.example.com", "--deploy-hook", "'"], "--deploy-hook"),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, more: list[str], message: str) -> None:
    """Each wrong choice is named with its cure, before anybody is asked, and nothing is made."""
    out = tmp_path / "out"
    assert message in mtc("request", "--server", "https://127.0.0.1:9/dir", "--out", out, *more, code=2)
    assert not out.exists()


def test_documentation_names_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/request.md names every option and no other, every variable of hooks, and every file of a version."""
    text = (ROOT / "docs" / "request.md").read_text("utf-8")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    options = set(re.findall(r"--[a-z][a-z-]+", mtc("request", "--help"))) - {"--help"}
    named = set(re.findall(r"--[a-z][a-z-]+", text))
    short = {f"--classical{option}" for option in re.findall(r"`(-[a-z][a-z-]+)`", text)}
    assert named | short == options
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "src" / "mtc" / "acme" / "client").rglob("*.py"))
    for variable in set(re.findall(r'"((?:MTC_REQUEST|CERTBOT|RENEWED)_[A-Z_]+)"', sources)):
        assert variable in text or f"`_{variable.removeprefix('MTC_REQUEST_')}`" in text, variable
    for file in (KEY, STANDALONE, LANDMARK, CHAIN, FULLCHAIN):
        assert file in text


def test_http_is_for_this_machine(tmp_path: Path) -> None:
    """A server elsewhere is spoken to over HTTPS only."""
    options = ["request", "--server", "http://ca.example/dir", "--dns", "a.example.com", "--out", str(tmp_path)]
    assert "no https URL" in mtc(*options, code=2)


def test_failures_say_what_to_do(town: Town, tmp_path: Path) -> None:
    """A taken port names its holder, an untrusted server the option, an absent one is absent; cron waits, quietly."""
    with socket.create_server(("127.0.0.1", town.http_port)):
        options = [*town.options(tmp_path, "taken.example.com"), "--listen", "127.0.0.1"]
        assert f"(pid {os.getpid()})" in mtc(*options, code=1)
        assert "waits after a failure" in mtc(*options, "--once")
    assert "issued" in mtc(*options)
    strange = ["request", "--server", town.directory, "--dns", "a.example.com", "--out", str(tmp_path)]
    assert "--ca-file" in mtc(*strange, code=1)
    absent = ["request", "--server", f"https://127.0.0.1:{free_port()}/", "--dns", "a.example.com", "--out"]
    assert "does not answer" in mtc(*absent, tmp_path, code=1)


def test_interrupted_order_is_taken_up(town: Town, tmp_path: Path) -> None:
    """After ctrl-C while a hook runs, the record is removed, and the next run goes on with the same order."""
    log, hook = tmp_path / "log", tmp_path / "hook.sh"
    hook.write_text(f'echo "$1" >> {log}; test "$1" = remove || sleep 600\n')
    options = town.options(tmp_path / "out", "again.example.com")
    command = [sys.executable, "-m", "mtc", *options, "--dns-hook", f"sh {hook}"]
    with _started(command) as process:
        _wait_until(log.exists, process)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, told
    assert "the next run goes on from here" in told
    assert log.read_text() == "add\nremove\n"
    order = json.loads((tmp_path / "out" / "again.example.com" / "order" / "order.json").read_text())
    assert "going on with the order that was under way" in _errors_of(*options)
    state = json.loads((tmp_path / "out" / "again.example.com" / "current" / "state.json").read_text())
    assert state["order_url"] == order["url"]


def test_killed_runs_come_to_one_certificate(town: Town, tmp_path: Path) -> None:
    """Whenever a run is killed, the runs after it come to one certificate and one entry in the log."""

    def tree_size() -> int:
        return int((town.folder / "public" / "1" / "checkpoint").read_text().split("\n")[1])

    before = tree_size()
    options = town.options(tmp_path, "killed.example.com")
    folder = tmp_path / "killed.example.com"
    # What a run has left behind when it is killed: the account, the order, its key, the certificate.
    for trace in ("lock", "order/order.json", "order/key.pem", "current"):
        with _started([sys.executable, "-m", "mtc", *options]) as process:
            until = time.monotonic() + PATIENCE_S
            while not (folder / trace).exists() and process.poll() is None:
                assert time.monotonic() < until
                time.sleep(0.001)
            process.kill()
            process.communicate(timeout=PATIENCE_S)
    mtc(*options)
    verify_certificate(standalone(folder).der, town.trust, datetime.now(UTC), name="killed.example.com")
    assert len(list((folder / "versions").iterdir())) == 1
    assert tree_size() == before + 1


def test_daemon_gets_the_landmark_and_ends_cleanly(town: Town, tmp_path: Path) -> None:
    """A daemon deploys, fetches the landmark-relative certificate when it is due, deploys again; SIGTERM is success."""
    log = tmp_path / "log"
    hook = f"sh -c 'echo $MTC_REQUEST_CHANGED >> {log}'"
    options = [*town.options(tmp_path / "out", "daemon.example.com"), "--daemon", "--deploy-hook", hook]
    command = [sys.executable, "-m", "mtc", *options]
    with _started(command) as process:
        _wait_until(lambda: log.exists() and "landmark" in log.read_text(), process)
        busy = mtc(*town.options(tmp_path / "out", "daemon.example.com"), code=2)
        assert f"(pid {process.pid})" in busy
        process.send_signal(signal.SIGTERM)
        said, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, told
    assert log.read_text() == "standalone\nlandmark\n"
    assert "landmark-relative certificate: here" in said


def test_classical_certificate_lies_beside(town: Town, tmp_path: Path) -> None:
    """Another CA's certificate for the same names comes with its own account and key; the hook is told of both."""
    (tmp_path / "pebble").mkdir()
    with running_pebble(tmp_path / "pebble") as pebble:
        script = f"sh -c 'echo $MTC_REQUEST_CHANGED >> {tmp_path}/log'"
        options = [*town.options(tmp_path / "out", "pair.example.com"), "--agree-terms", "--deploy-hook", script]
        fallback = ["--classical-server", pebble.directory_url, "--classical-ca-file", str(pebble.ca_file)]
        # Pebble looks at another port than the CA; a folder is served at neither.
        said = run_here(*options, *fallback, "--json").out
        assert [item["outcome"] for item in json.loads(said.splitlines()[0])["certificates"]] == ["new", "failed"]
        options[options.index("--http-port") + 1] = str(pebble.http_port)
        said = mtc(*options, *fallback, "--json")
    assert [item["outcome"] for item in json.loads(said)["certificates"]] == ["kept", "new"]
    current = tmp_path / "out" / "pair.example.com" / "current"
    assert b"BEGIN CERTIFICATE" in (current / "classical" / "fullchain.pem").read_bytes()
    assert (current / "classical" / "key.pem").read_bytes() != (current / "key.pem").read_bytes()
    told = (tmp_path / "log").read_text().split()
    assert told[0] == "standalone"
    assert sorted(set(told) | {"landmark"}) == ["classical", "landmark", "standalone"]
    assert len(told) == len(set(told))
    assert len(list((tmp_path / "out" / "accounts").iterdir())) == 2


@contextlib.contextmanager
def _started(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Start a program; kill it when it is still there when the context ends."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603 - ours
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def _wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for something that a running process does."""
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
