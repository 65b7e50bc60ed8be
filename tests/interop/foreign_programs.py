"""Witnesses, mirrors and logs of other people, started on loopback with keys that are thrown away.

None of them is part of this repository; each is named by an environment variable, see `docs/interop.md`.
"""

import base64
import contextlib
import hashlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path

import pytest
from tests.synthetic_logs import SyntheticLog

from mtc.cosign.upload import UploadHead
from mtc.note import SignatureType, VerifierKey
from mtc.testing.fleet import free_port

START_S = 30.0
"""How long a program may take until it answers."""
POLL_S = 0.02

_NAME = "oid/1.3.6.1.4.1.32473."


@dataclass(frozen=True, slots=True)
class Foreign:
    """A cosigner that runs. witness_keys, mirror_key: how it signs in either role. public: its mirrored files."""

    url: str
    witness_keys: tuple[VerifierKey, ...]
    mirror_key: VerifierKey | None = None
    public: Path | None = None


def find_program(variable: str) -> Path:
    """Return the program that an environment variable names; skip the test where it does not."""
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} names no program")
    return Path(value).absolute()


def find_system_program(name: str) -> str:
    """Return a program of the system; skip the test where there is none."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"this system has no {name}")
    return found


def run(*command: str | Path, environment: dict[str, str] | None = None) -> str:
    """Run a program to its end; return what it printed."""
    done = subprocess.run(  # noqa: S603 - whoever runs the test chose it
        command, env={**offline(), **(environment or {})}, capture_output=True, text=True, timeout=120, check=False
    )
    assert not done.returncode, f"{command[0]}: {done.stderr[-2000:]}"
    return done.stdout


def offline() -> dict[str, str]:
    """Return an environment in which the usual HTTP clients reach nothing but loopback."""
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    return {**os.environ, **proxies, "NO_PROXY": "127.0.0.1,localhost"}


def wait_for(condition: Callable[[], bool], what: str, seconds: float = START_S) -> None:
    """Wait until something outside of this process has happened."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"{what}: not within {seconds:.0f} s"
        time.sleep(POLL_S)


def is_listening(port: int) -> bool:
    """Tell whether somebody accepts connections."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
        return True
    return False


@contextlib.contextmanager
def running(folder: Path, port: int, *command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program that listens on a port, until the context ends."""
    log_file = folder / "program.log"
    with (
        log_file.open("wb") as log,
        subprocess.Popen(  # noqa: S603 - whoever runs the test chose it
            command, cwd=folder, env=offline(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        ) as process,
    ):
        try:
            wait_for(lambda: process.poll() is not None or is_listening(port), f"{command[0]} listens")
            assert process.poll() is None, log_file.read_text("utf-8", "replace")[-2000:]
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def write_log_list(folder: Path, logs: Sequence[SyntheticLog]) -> Path:
    """Write the log list format of witness-network.org."""
    path = folder / "list"
    entries = [
        f"vkey {log.signer.key.encode()}\norigin {log.origin}\nqpd 86400\ncontact nobody@example.com\n" for log in logs
    ]
    path.write_text("logs/v0\n\n" + "\n".join(entries))
    return path


def make_note_key(folder: Path, name: str, label: str, *, is_mldsa: bool = True) -> tuple[Path, VerifierKey]:
    """Make a key with transparency-dev's `generate_keys`; return its private file and its public half."""
    private, public = folder / f"{label}.private", folder / f"{label}.public"
    kind = ["--mldsa"] if is_mldsa else []
    run(find_program("MTC_WITNESS_KEYS"), *kind, "--origin", name, "--out_priv", private, "--out_pub", public)
    return private, VerifierKey.parse(public.read_text().strip())


@contextlib.contextmanager
def litewitness(folder: Path, logs: Sequence[SyntheticLog]) -> Iterator[Foreign]:
    """Run torchwood's litewitness, whose key is in an ssh-agent. It knows Ed25519 logs only."""
    program, control = find_program("MTC_LITEWITNESS"), find_program("MTC_WITNESSCTL")
    agent = find_system_program("ssh-agent")
    database = folder / "witness.db"
    for log in logs:
        run(control, "add-log", "-db", database, "-origin", log.origin)
        run(control, "add-key", "-db", database, "-origin", log.origin, "-key", log.signer.key.encode())
    run(find_system_program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", folder / "key")
    raw = base64.b64decode((folder / "key.pub").read_text().split()[1])[-32:]
    key = VerifierKey("witness.example/lite", SignatureType.COSIGNATURE_ED25519, raw)
    # A path of a Unix socket is short.
    with tempfile.TemporaryDirectory(prefix="mtc-") as short:
        path = Path(short, "agent")
        command = [agent, "-D", "-a", str(path)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as keys:  # noqa: S603 - the system's
            try:
                wait_for(path.is_socket, "ssh-agent listens")
                run(find_system_program("ssh-add"), folder / "key", environment={"SSH_AUTH_SOCK": str(path)})
                port = free_port()
                arguments = ["-name", key.name, "-key", hashlib.sha256(raw).hexdigest(), "-ssh-agent", str(path)]
                arguments += ["-db", str(database), "-listen", f"127.0.0.1:{port}"]
                with running(folder, port, program, *arguments):
                    yield Foreign(f"http://127.0.0.1:{port}", (key,))
            finally:
                keys.terminate()


@contextlib.contextmanager
def sigsum_witness(folder: Path, logs: Sequence[SyntheticLog]) -> Iterator[Foreign]:
    """Run Sigsum's witness for tests. It knows one log, and computes names from keys."""
    program, keys = find_program("MTC_SIGSUM_WITNESS"), find_program("MTC_SIGSUM_KEY")
    run(keys, "generate", "-o", folder / "key")
    raw = bytes.fromhex(run(keys, "to-hex", "-k", folder / "key.pub").strip())
    (folder / "log.hex").write_text(logs[0].signer.key.public_key.hex())
    run(keys, "from-hex", "-k", folder / "log.hex", "-o", folder / "log.pub")
    name = f"sigsum.org/v1/witness/{hashlib.sha256(raw).hexdigest()}"
    port = free_port()
    arguments = ["-k", str(folder / "key"), "--log-key", str(folder / "log.pub"), "--state-file", str(folder / "state")]
    with running(folder, port, program, *arguments, f"127.0.0.1:{port}"):
        yield Foreign(f"http://127.0.0.1:{port}", (VerifierKey(name, SignatureType.COSIGNATURE_ED25519, raw),))


@contextlib.contextmanager
def omniwitness(folder: Path, logs: Sequence[SyntheticLog]) -> Iterator[Foreign]:
    """Run transparency-dev's omniwitness with a key of either type. It signs no subtrees."""
    program = find_program("MTC_OMNIWITNESS")
    pairs = [
        make_note_key(folder, f"witness.example/omni-{label}", label, is_mldsa=label == "mldsa")
        for label in ("mldsa", "ed25519")
    ]
    lines = ["Logs:"]
    for log in logs:
        lines += [f"  - Origin: {log.origin}", "    URL: http://127.0.0.1:9/", "    Feeder: none"]
        lines += [f"    PublicKey: {log.signer.key.encode()}"]
    (folder / "logs.yaml").write_text("\n".join([*lines, ""]))
    port = free_port()
    arguments = ["--listen", f"127.0.0.1:{port}", "--metrics_listen", "", "--db_file", str(folder / "witness.db")]
    arguments += ["--additional_logs", str(folder / "logs.yaml"), "--logtostderr"]
    for private, _ in pairs:
        arguments += ["--private_key_path", str(private)]
    with running(folder, port, program, *arguments):
        yield Foreign(f"http://127.0.0.1:{port}", tuple(key for _, key in pairs))


@contextlib.contextmanager
def sunlight(folder: Path, logs: Sequence[SyntheticLog]) -> Iterator[Foreign]:
    """Run Sunlight as witness and mirror. It ends by itself unless it also runs a CT log, so it gets one."""
    program, keygen = find_program("MTC_SUNLIGHT"), find_program("MTC_SUNLIGHT_KEYGEN")
    text = run(keygen, "-json", "-f", folder / "seed", "-witness", f"{_NAME}51", "-mirror", f"{_NAME}52")
    keys: dict[str, str] = json.loads(text)
    # It makes no database by itself, so that a mistaken path is noticed.
    with contextlib.closing(sqlite3.connect(folder / "locks.db")) as database:
        database.execute("CREATE TABLE checkpoints (logID BLOB PRIMARY KEY, body BLOB NOT NULL) STRICT")
    root = ["-subj", "/CN=root", "-days", "2", "-keyout", str(folder / "root.key"), "-out", str(folder / "root.pem")]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    run(find_system_program("openssl"), "req", "-x509", "-nodes", *curve, *root)
    port, today = free_port(), time.strftime("%Y-%m-%d", time.gmtime())
    year = int(today[:4])
    # A prefix without a port, because its router leaves ports away; TLS ends elsewhere.
    document = {
        "listen": [f"127.0.0.1:{port}"],
        "checkpoints": str(folder / "locks.db"),
        "witness": {
            "name": f"{_NAME}51",
            "mirrorname": f"{_NAME}52",
            "submissionprefix": "https://127.0.0.1/w",
            "monitoringprefix": "https://127.0.0.1/m",
            "secret": str(folder / "seed"),
            "localdirectory": str(folder / "public"),
            "mirrorloglists": [str(write_log_list(folder, logs))],
        },
        "logs": [
            {
                "shortname": "ct",
                "inception": today,
                "submissionprefix": "https://127.0.0.1/ct",
                "monitoringprefix": "https://127.0.0.1/ctm",
                "roots": str(folder / "root.pem"),
                "secret": str(folder / "seed"),
                "cache": str(folder / "cache.db"),
                "localdirectory": str(folder / "ct"),
                "notafterstart": f"{year}-01-01T00:00:00Z",
                "notafterlimit": f"{year + 1}-01-01T00:00:00Z",
            }
        ],
    }
    # JSON is YAML.
    (folder / "sunlight.yaml").write_text(json.dumps(document))
    try:
        with running(folder, port, program, "-c", folder / "sunlight.yaml"):
            witness = (VerifierKey.parse(keys["witness_vkey_mldsa44"]), VerifierKey.parse(keys["witness_vkey_ed25519"]))
            mirror = VerifierKey.parse(keys["mirror_vkey_mldsa44"])
            # It listens before it has read the list.
            wait_for(lambda: all(_is_mirrored(port, log.origin) for log in logs), "Sunlight knows the logs")
            yield Foreign(f"http://127.0.0.1:{port}/w", witness, mirror, folder / "public" / "mirror")
    finally:
        # It makes tiles immutable where the file system can, and then nobody could remove the folder.
        if (chattr := shutil.which("chattr")) is not None:
            subprocess.run([chattr, "-R", "-f", "-i", folder], capture_output=True, check=False)  # noqa: S603 - the system's


def _is_mirrored(port: int, origin: str) -> bool:
    """Tell whether Sunlight mirrors a log: it misses a checkpoint then, not the log."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        headers = {"Content-Type": "application/octet-stream"}
        connection.request("POST", "/w/add-entries", UploadHead(origin, 0, 0).encode(), headers)
        return connection.getresponse().status == HTTPStatus.UNPROCESSABLE_ENTITY


@contextlib.contextmanager
def tessera_mirror(folder: Path, logs: Sequence[SyntheticLog]) -> Iterator[Foreign]:
    """Run Tessera's mirror, which is a witness too."""
    program = find_program("MTC_TESSERA_MIRROR")
    witness_file, witness = make_note_key(folder, f"{_NAME}61", "witness")
    mirror_file, mirror = make_note_key(folder, f"{_NAME}62", "mirror")
    port, store = free_port(), folder / "store"
    arguments = ["--listen_addr", f"127.0.0.1:{port}", "--storage_dir", str(store)]
    arguments += ["--mirror_cosigner_path", str(mirror_file), "--witness_cosigner_path", str(witness_file)]
    arguments += ["--config_path", str(write_log_list(folder, logs))]
    with running(folder, port, program, *arguments):
        yield Foreign(f"http://127.0.0.1:{port}", (witness,), mirror, store / "public" / "mirrors")


def encode_pem(spki: bytes) -> str:
    """Return a public key as PEM."""
    text = base64.encodebytes(spki).decode()
    return f"-----BEGIN PUBLIC KEY-----\n{text}-----END PUBLIC KEY-----\n"


def trust_anchor_id(key: VerifierKey) -> str:
    """Return the trust anchor ID in a key's name."""
    return key.name.removeprefix("oid/1.3.6.1.4.1.")


def write_pollinator_config(
    folder: Path, ca: tuple[str, VerifierKey], mirrors: Sequence[tuple[str, VerifierKey]], port: int
) -> Path:
    """Write what the pollinator reads: its configuration, and a list of cosigners like Chrome's with their keys."""

    def describe(url: str, key: VerifierKey, kind: str) -> dict[str, object]:
        return {
            "friendly_name": key.name,
            "base_id": trust_anchor_id(key),
            "base_url": url,
            "type": kind,
            "realm": "TEST",
            "state_history": [{"state": "USABLE", "state_start": "2026-07-06T22:00:00Z"}],
            "key_sha256": hashlib.sha256(key.verifier.public_key).hexdigest(),
        }

    document = {
        "version": "2.0.2",
        "timestamp": "2026-07-20T21:10:05Z",
        "operators": [],
        "issuers": [describe(*ca, "ISSUER")],
        "mirrors": [describe(*mirror, "MIRROR") for mirror in mirrors],
    }
    (folder / "cosigners.json").write_text(json.dumps(document))
    (folder / "cosigners.pem").write_text("".join(encode_pem(key.verifier.public_key) for _, key in (ca, *mirrors)))
    config = {
        "data_dir": str(folder / "pollinator"),
        "cosigners": {"list": str(folder / "cosigners.json"), "keys": str(folder / "cosigners.pem")},
        "poll_interval_ms": 200,
        "push_delay_ms": 200,
        "discovery": {"max_log_number": 2, "interval_ms": 500},
        "metrics": {"listen": f"127.0.0.1:{port}"},
    }
    (folder / "pollinate.json").write_text(json.dumps(config))
    return folder / "pollinate.json"
