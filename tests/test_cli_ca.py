"""`mtc ca` from the command line, as a stranger uses it: right and wrong, once and again."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from tests.commands import mtc

from mtc.ca.client import is_served
from mtc.ca.config import read_config
from mtc.cert import CACertificate
from mtc.trust import TrustStore, trusted_ca_from_certificate, verify_certificate
from mtc.wire import find_pem_block

pytestmark = pytest.mark.usefixtures("near_signer")

PATIENCE_S = 60.0
KEY = ec.generate_private_key(ec.SECP256R1())
PEM = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, near_signer: None) -> Path:  # noqa: ARG001 - `init` needs it
    """Return a CA's folder."""
    path = tmp_path_factory.mktemp("cli") / "ca"
    fast = ["--round-interval", "50ms", "--landmark-interval", "1s"]
    mtc("ca", "init", path, "--id", "32473.1", *fast, "--listen", "127.0.0.1:0")
    return path


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """Return a public key file."""
    path = tmp_path / "key.pem"
    path.write_bytes(PEM)
    return path


@contextmanager
def served(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `mtc ca serve` until the context ends."""
    command = [sys.executable, "-m", "mtc", "ca", "serve", str(folder), "--json"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:  # noqa: S603 - our program
        deadline = time.monotonic() + PATIENCE_S
        while not is_served(folder / "ca.sock"):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.communicate(timeout=PATIENCE_S)


def test_init_says_what_there_is(folder: Path) -> None:
    """The folder holds what the documentation names; a second run changes nothing and says so."""
    for name in ("ca.toml", "ca.pem", "public/1/checkpoint", "public/1/landmarks", "public/ca.crl"):
        assert (folder / name).exists(), name
    before = (folder / "ca.toml").read_bytes()
    again = json.loads(mtc("ca", "init", str(folder), "--id", "32473.1", "--json"))
    assert again["new"] is False
    assert (folder / "ca.toml").read_bytes() == before
    assert "nothing was changed" in mtc("ca", "init", str(folder), "--id", "32473.2", code=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--id", "nothing"], "trust anchor ID"),
        (["--id", "32473.1", "--profile", "best"], "there are web-pki"),
        (["--id", "32473.1", "--draft", "plants-1"], "there are plants-04"),
        (["--id", "32473.1", "--prefix-url", "ca.example"], "is no prefix URL"),
        (["--id", "32473.1", "--listen", "here"], "is no address"),
        (["--id", "32473.1", "--round-interval", "soon"], "--round-interval"),
        (["--id", "32473.1", "--passphrase-file", "/nowhere"], "cannot be read"),
    ],
)
def test_init_refuses_what_it_cannot_make(tmp_path: Path, arguments: list[str], message: str) -> None:
    """A wrong choice is named, and nothing is made."""
    assert message in mtc("ca", "init", str(tmp_path / "ca"), *arguments, code=2)
    assert not (tmp_path / "ca" / "ca.toml").exists()


def test_key_may_be_encrypted(tmp_path: Path, key_file: Path) -> None:
    """With a passphrase the key file is encrypted, and without it nothing is signed."""
    secret = tmp_path / "secret"
    secret.write_text("correct horse\n")
    secret.chmod(0o600)
    folder = tmp_path / "ca"
    mtc("ca", "init", str(folder), "--id", "32473.1", "--passphrase-file", str(secret))
    assert b"ENCRYPTED" in (folder / "signer" / "key.pem").read_bytes()
    assert read_config(folder).passphrase_file == str(secret)
    mtc("ca", "issue", str(folder), "--public-key", str(key_file), "--dns", "a.example.com")
    secret.write_text("wrong\n")
    assert "passphrase" in mtc(
        "ca", "issue", str(folder), "--public-key", str(key_file), "--dns", "b.example.com", code=2
    )


def test_issue_without_a_server(folder: Path, tmp_path: Path, key_file: Path) -> None:
    """Both forms come out of a folder that nobody serves, and verify."""
    out = tmp_path / "cert.pem"
    arguments = ["--public-key", str(key_file), "--dns", "a.example.com", "--form", "both", "--out", str(out)]
    said = mtc("ca", "issue", str(folder), *arguments)
    assert "standalone and landmark-relative" in said
    authority = CACertificate.parse(find_pem_block((folder / "ca.pem").read_bytes(), "CERTIFICATE"))
    trust = TrustStore([trusted_ca_from_certificate(authority)])
    der = find_pem_block(out.read_bytes(), "CERTIFICATE")
    verify_certificate(der, trust, datetime.now(UTC), name="a.example.com")


def _csr(*names: str) -> bytes:
    """Return a certificate request."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ignored")])
    )
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.PEM)


def test_csr_gives_names_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    """Names of a request count when the command has none; extensions that came along are left out, with a warning."""
    path = tmp_path / "request.pem"
    path.write_bytes(_csr("b.example.com", "c.example.com"))
    answer = json.loads(mtc("ca", "issue", str(folder), "--csr", str(path), "--json"))
    der = find_pem_block(answer["certificates"]["standalone"].encode(), "CERTIFICATE")
    assert b"b.example.com" in der
    assert b"c.example.com" in der
    assert b"ignored" not in der
    assert any("extension" in warning for warning in answer["warnings"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either --csr FILE or --public-key FILE"),
        (["--public-key", "/nowhere"], "cannot be read"),
        (["--public-key", "KEY"], "at least one name"),
        (["--public-key", "KEY", "--dns", "a_b!.example.com"], "not issued"),
        (["--public-key", "KEY", "--dns", "a.example.com", "--lifetime", "400d"], "not issued"),
        (["--public-key", "KEY", "--dns", "a.example.com", "--form", "small"], "--form is"),
        (["--public-key", "KEY", "--dns", "a.example.com", "--bulk", "x"], "leave the other options away"),
        (["--bulk", "x"], "--out FILE"),
    ],
)
def test_issue_refuses_what_it_cannot_do(folder: Path, key_file: Path, arguments: list[str], message: str) -> None:
    """Each mistake gives one clear line and logs nothing."""
    size = (folder / "public" / "1" / "checkpoint").read_text().split("\n")[1]
    filled = [str(key_file) if item == "KEY" else item for item in arguments]
    assert message in mtc("ca", "issue", str(folder), *filled, code=2)
    assert (folder / "public" / "1" / "checkpoint").read_text().split("\n")[1] == size


def test_bulk_goes_on_where_it_was(folder: Path, tmp_path: Path) -> None:
    """A bulk run that is repeated, with a torn last line, issues what is missing and logs nothing twice."""
    bulk, out = tmp_path / "requests.jsonl", tmp_path / "answers.jsonl"
    lines = [json.dumps({"public_key": PEM.decode(), "dns": [f"bulk-{number}.example.com"]}) for number in range(40)]
    bulk.write_text("\n".join(lines[:25]) + "\n")
    first = json.loads(mtc("ca", "issue", str(folder), "--bulk", str(bulk), "--out", str(out), "--json"))
    assert (first["issued"], first["before"]) == (25, 0)
    answers = out.read_bytes()
    out.write_bytes(answers[: len(answers) - 40])
    bulk.write_text("\n".join(lines) + "\n")
    second = json.loads(mtc("ca", "issue", str(folder), "--bulk", str(bulk), "--out", str(out), "--json"))
    assert (second["issued"], second["before"]) == (16, 24)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert len({answer["serial"] for answer in found}) == len(found) == 40
    assert {answer["serial"] for answer in map(json.loads, answers.decode().splitlines())} <= {
        answer["serial"] for answer in found
    }
    bulk.write_text('{"dns": []}\n')
    assert "line 1" in mtc("ca", "issue", str(folder), "--bulk", str(bulk), "--out", str(out), code=2)


def test_served_folder_is_asked_over_its_socket(folder: Path, key_file: Path) -> None:
    """While a server runs, every command goes through it; it ends gracefully, and a second one is refused."""
    with served(folder):
        serial = json.loads(
            mtc("ca", "issue", str(folder), "--public-key", str(key_file), "--dns", "s.example.com", "--json")
        )["serial"]
        assert json.loads(mtc("ca", "status", str(folder), "--json"))["status"] == "ok"
        revoked = json.loads(mtc("ca", "revoke", str(folder), serial, "--reason", "superseded", "--json"))
        assert revoked["revoked"] == 1
        assert json.loads(mtc("ca", "prune", str(folder), "--dry-run", "--json"))["dry_run"] is True
        assert "in use" in mtc("ca", "serve", str(folder), "--listen", "none", code=2)
        assert "is no serial number" in mtc("ca", "revoke", str(folder), "xyz", code=2)
        assert mtc("fsck", str(folder)).count("clean") == 1
    assert not (folder / "ca.sock").exists()
    assert "clean" in mtc("fsck", str(folder))


def test_interrupt_ends_the_server_cleanly(folder: Path) -> None:
    """Ctrl-C ends the server with code 0, and the folder is ready for the next one."""
    with served(folder) as process:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
    mtc("signer", "show", str(folder / "signer"))


def test_token_is_shown_once(folder: Path) -> None:
    """The token is printed, and the folder keeps only its hash."""
    token = mtc("ca", "token", str(folder), "--name", "alice").strip()
    kept = (folder / "tokens").read_text()
    assert token not in kept
    assert "alice" in kept


def test_rollover_from_the_command_line(tmp_path: Path, key_file: Path) -> None:
    """Log 2 follows log 1 with a reason, and certificates come from it; without a reason nothing happens."""
    folder = tmp_path / "ca"
    mtc("ca", "init", str(folder), "--id", "32473.1")
    assert "needs a reason" in mtc("ca", "rollover", str(folder), "--reason", " ", code=2)
    mtc("ca", "issue", str(folder), "--public-key", str(key_file), "--dns", "a.example.com")
    assert "log 2 takes its place" in mtc("ca", "rollover", str(folder), "--reason", "exercise")
    answer = json.loads(
        mtc("ca", "issue", str(folder), "--public-key", str(key_file), "--dns", "a.example.com", "--json")
    )
    assert (answer["log"], answer["index"]) == (2, 0)
    assert "clean" in mtc("fsck", str(folder))


def test_no_folder_is_said_so(tmp_path: Path) -> None:
    """A folder that holds no CA is an error with the command that makes one."""
    for command in (["serve"], ["status"], ["prune", "--dry-run"]):
        assert "mtc ca init" in mtc("ca", command[0], str(tmp_path), *command[1:], code=2)


def test_holder_upgrades_over_http(folder: Path, tmp_path: Path, key_file: Path) -> None:
    """The holder makes the landmark-relative certificate from what the server serves."""
    with subprocess.Popen(  # noqa: S603 - our program
        [sys.executable, "-m", "mtc", "ca", "serve", str(folder), "--json"], stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stderr is not None
            url = next(
                fields["urls"][0] for line in process.stderr if (fields := json.loads(line)).get("event") == "serving"
            )
            out, relative = tmp_path / "c.pem", tmp_path / "r.pem"
            mtc("ca", "issue", str(folder), "--public-key", str(key_file), "--dns", "u.example.com", "--out", str(out))
            ca = str(folder / "ca.pem")
            mtc("cert", "upgrade", str(out), "--log", url, "--ca", ca, "--wait", "--out", str(relative))
            assert len(relative.read_bytes()) < len(out.read_bytes()) / 3
            assert json.loads(mtc("fsck", url, "--ca", ca, "--json"))["ok"] is True
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=PATIENCE_S)
