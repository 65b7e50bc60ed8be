"""The processes of a demonstration: CA, cosigners, update service and TLS site, each as an operator would start it.

Everything lies below one folder and listens on loopback. Setting up is done by our own commands inside this process,
which saves a process for each; whatever serves is a process of its own, with its own folder, key and port.
"""

import asyncio
import contextlib
import errno
import io
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mtc.cert import Certificate, parse_certificate_chains
from mtc.cli.demo_leash import Leash
from mtc.errors import Error, PeerError, Reason, UsageError
from mtc.testing.fleet import STOP_S, Member, free_port
from mtc.testing.names import NameServer

PATIENCE_S = 60.0
"""How long something may take that others do: very long for a machine that is not asleep."""
_POLL_S = 0.05
_WORDS = 300
_LEAST_FREE_BYTES = 256 << 10
_LOOK_S = 0.5
_Answer = TypeVar("_Answer")


@dataclass(slots=True)
class Ports:
    """Where processes listen. base: the first of a row of ports; None takes free ones."""

    base: int | None = None
    _count: int = 0

    def take(self, who: str) -> int:
        """Return the next port. Raises UsageError when somebody has it."""
        if self.base is None:
            return free_port()
        port = self.base + self._count
        self._count += 1
        self._check(port, who)
        return port

    def check(self, count: int) -> None:
        """Look at once whether so many ports can be had. Raises UsageError when somebody has one."""
        if self.base is not None:
            for port in range(self.base, self.base + count):
                self._check(port, "the demonstration")

    @staticmethod
    def _check(port: int, who: str) -> None:
        with socket.socket() as probe:
            # As servers do: a connection that has just ended there is no hindrance.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except (OSError, OverflowError) as error:
                text = (getattr(error, "strerror", None) or str(error)).lower()
                raise UsageError(
                    Reason.USAGE, f"port {port} cannot be had for {who}: {text}; name others with --port"
                ) from None


@dataclass(slots=True)
class Town:
    """Everybody in a demonstration. Use `town_in`. environment: of the processes that are started from now on."""

    folder: Path
    leash: Leash
    ports: Ports
    members: dict[str, Member] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    def add_ca(self, ca_id: str, *options: str) -> Member:
        """Make a CA's folder. options: further arguments of `mtc ca init`."""
        member = self._add("ca", "ca", self.ports.take("the CA"))
        run_here("ca", "init", str(member.folder), "--id", ca_id, "--json", *options)
        return member

    def add_cosigner(self, role: str, name: str, cosigner_id: str) -> Member:
        """Make a cosigner's folder, and introduce it and the CA to each other. role: "witness" or "mirror"."""
        member, ca = self._add(name, role, self.ports.take(f"{role} {name}")), self.members["ca"]
        text = run_here(role, "init", str(member.folder), "--id", cosigner_id, "--json")
        member.vkey = json.loads(text)["vkeys"][0]
        run_here(role, "add-log", str(member.folder), "--ca", str(ca.folder / "ca.pem"), "--url", ca.url)
        who = ["--name", name, "--role", role, "--vkey", member.vkey, "--url", member.url]
        run_here("ca", "add-cosigner", str(ca.folder), *who)
        return member

    def require(self, rule: str) -> None:
        """Write the quorum of the CA: lines of the table `[quorum]` in ca.toml."""
        config = self.members["ca"].folder / "ca.toml"
        head, line, rest = config.read_text("utf-8").partition("[quorum]")
        comment, _, rest = rest.partition("\n")
        config.write_text(f"{head}{line}{comment}\n{rule}{rest}", "utf-8")

    def add_updates(self, mirrors: Sequence[Member], **choices: str) -> Member:
        """Make an update service for the CA that looks each second. choices: keys of updates.toml and their values."""
        member, ca = self._add("updates", "updates", self.ports.take("the update service")), self.members["ca"]
        run_here("updates", "init", str(member.folder), "--listen", f"127.0.0.1:{member.port}", "--json")
        config = member.folder / "updates.toml"
        lines = config.read_text("utf-8").splitlines()
        for key, value in {"interval": "1s", "pull_interval": "1s", **choices}.items():
            lines = [f'{key} = "{value}"' if line.startswith(f"{key} =") else line for line in lines]
        config.write_text("\n".join([*lines, ""]), "utf-8")
        keys = [word for mirror in mirrors for word in ("--mirror", f"{mirror.url}={mirror.vkey}")]
        about = ["--ca", str(ca.folder / "ca.pem"), "--url", ca.url, "--at-least", "1"]
        run_here("updates", "add-ca", str(member.folder), *about, *keys, "--json")
        return member

    def add_site(self, root: Path, certificates: Path) -> Member:
        """Start a TLS site that serves a folder with the certificates of `mtc request`, and wait until it answers."""
        member = self._add("site", "serve-tls", self.ports.take("the TLS site"))
        self._launch(member, ["serve-tls", str(root), str(certificates)])
        self.wait(member)
        return member

    def start(self, *members: Member) -> None:
        """Start processes, all at once, and wait until each answers. Raises PeerError with its last words."""
        for member in members:
            self.launch(member)
        for member in members:
            self.wait(member)

    def launch(self, member: Member) -> None:
        """Start a process; it is not waited for."""
        self._launch(member, [member.role, "serve", str(member.folder)])

    def wait(self, member: Member) -> None:
        """Wait until a process answers. Raises PeerError with its last words."""
        try:
            member.wait_until_up(PATIENCE_S)
        except PeerError:
            if member.is_running:
                raise
            raise PeerError(Reason.PEER, f"{member.name} ended: {last_words(member)}", member=member.name) from None

    def kill(self, *members: Member) -> None:
        """End processes as a power cut would."""
        for member in members:
            if member.process is not None:
                group = member.process.pid
                member.kill()
                self.leash.release(group)

    def stop(self, *members: Member) -> None:
        """End processes as an operator would, all at once."""
        running = [member for member in members if member.process is not None]
        for member in running:
            assert member.process is not None
            with contextlib.suppress(ProcessLookupError):
                member.process.terminate()
        for member in running:
            assert member.process is not None
            with contextlib.suppress(subprocess.TimeoutExpired):
                member.process.wait(STOP_S)
            self.kill(member)

    def run(self, *arguments: str, meanwhile: Callable[[], None] | None = None) -> str:
        """Run one of our commands as a process of its own; return what it printed. Raises PeerError with its words.

        meanwhile: done again and again while it runs.
        """
        with self.leash.starting():
            process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-m", "mtc", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                env={**os.environ, **self.leash.environment},
            )
            self.leash.hold(process.pid)
        with process:
            try:
                end = time.monotonic() + PATIENCE_S
                while meanwhile is not None and process.poll() is None and time.monotonic() < end:
                    meanwhile()
                    time.sleep(_POLL_S)
                said, words = process.communicate(timeout=PATIENCE_S)
            except subprocess.TimeoutExpired:
                said, words = "", f"nothing after {PATIENCE_S:.0f} s"
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                self.leash.release(process.pid)
        if process.returncode:
            last = plain(words.strip().splitlines()[-1]) if words.strip() else "no word"
            raise PeerError(Reason.PEER, f"mtc {arguments[0]} failed: {last[:_WORDS]}", status=process.returncode)
        return said

    def _add(self, name: str, role: str, port: int) -> Member:
        self.members[name] = Member(name, role, self.folder / name, port)
        return self.members[name]

    def _launch(self, member: Member, words: Sequence[str]) -> None:
        """Start a process and hold it; it is not waited for."""
        listen = ["--json", "--listen", f"{member.host}:{member.port}"]
        with member.log_file.open("ab") as log, self.leash.starting():
            member.process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-m", "mtc", *words, *listen],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **self.environment, **self.leash.environment},
            )
            self.leash.hold(member.process.pid)


@contextlib.contextmanager
def town_in(folder: Path, ports: Ports | None = None) -> Iterator[Town]:
    """Give a town in a new folder; its processes end with the context, its files stay."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with Leash() as leash, _watching_disk(folder):
        town = Town(folder, leash, ports or Ports())
        try:
            yield town
        except BaseException:
            # Somebody waits for the end of what has failed.
            town.kill(*town.members.values())
            check_disk(folder)
            raise
        else:
            town.stop(*town.members.values())


@contextlib.contextmanager
def _watching_disk(folder: Path) -> Iterator[None]:
    """End the block when the disk is full: processes may wait for minutes then, and whoever waits for them as well."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_LOOK_S):
            try:
                check_disk(folder)
            except OSError:
                # The leash makes an exception of it in the main thread.
                os.kill(os.getpid(), signal.SIGTERM)
                return

    thread = threading.Thread(target=watch, daemon=True)
    if threading.current_thread() is threading.main_thread():
        thread.start()
    try:
        yield
    finally:
        over.set()
        if thread.is_alive():
            thread.join()


@contextlib.contextmanager
def reporting_disk(folder: str) -> Iterator[None]:
    """Turn what the disk refuses into an error that names the folder. Raises UsageError."""
    try:
        yield
    except OSError as error:
        text = (error.strerror or str(error)).lower()
        where = "" if error.filename is None else f" ({error.filename})"
        raise UsageError(
            Reason.UNREADABLE, f"the demonstration cannot use {folder}: {text}{where}; name another folder with --out"
        ) from None


def run_here(*arguments: str, must_succeed: bool = True) -> str:
    """Run one of our commands inside this process; return what it printed. Raises the error that it would print.

    must_succeed: raise PeerError for an exit code that is not 0.
    """
    from mtc.cli.app import app  # noqa: PLC0415 - the application knows the demonstration

    said, words = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(words):
        code = app(list(arguments), standalone_mode=False)
    if code and must_succeed:
        why = words.getvalue().strip() or f"mtc {arguments[0]} {arguments[1]} ends with {code}"
        raise PeerError(Reason.PEER, why.removeprefix("mtc: "))
    return said.getvalue()


def last_words(member: Member) -> str:
    """Return why a process ended, as it said itself."""
    lines = [line for line in member.last_words().splitlines() if line.strip()]
    return plain(lines[-1])[:_WORDS] if lines else "it said nothing"


def plain(line: str) -> str:
    """Return a line of a log, without its JSON, or of standard error, without our name."""
    try:
        fields = json.loads(line)
    except ValueError:
        return line.removeprefix("mtc: ")
    return str(fields.get("error") or fields.get("event") or line) if isinstance(fields, dict) else line


def until(is_so: Callable[[], bool], otherwise: str) -> float:
    """Wait until something is so; return the seconds that took. Raises PeerError."""
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE_S:
        if is_so():
            return time.monotonic() - began
        time.sleep(_POLL_S)
    raise PeerError(Reason.PEER, f"{otherwise} in {PATIENCE_S:.0f} s")


def check_disk(folder: Path) -> None:
    """Raise the operating system's error when the disk is full: processes that fail by it rarely say so."""
    if shutil.disk_usage(folder).free < _LEAST_FREE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def patiently(town: Town, ask: Callable[[], _Answer]) -> _Answer:
    """Ask a CA until it answers: on a machine that is busy its quorum may come too late for the first time.

    Raises OSError when it is the disk that hinders it.
    """
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask()
        except Error:
            check_disk(town.folder)
            if time.monotonic() > end:
                raise
            time.sleep(4 * _POLL_S)


def new_public_key() -> bytes:
    """Return a P-256 public key that nobody uses, PEM."""
    key = generate_private_key(SECP256R1()).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def issue(town: Town, name: str) -> Certificate:
    """Issue one certificate over the CA's socket, as `mtc ca issue` does.

    Asked again for the same name, it is the same request: same key, same request key, and so the same entry.
    """
    key, file = town.folder / f"{name}.pub.pem", town.folder / f"{name}.pem"
    if not key.exists():
        key.write_bytes(new_public_key())
    about = ["--public-key", str(key), "--dns", name, "--request-key", name, "--out", str(file)]
    run_here("ca", "issue", str(town.members["ca"].folder), *about)
    return Certificate.parse(parse_certificate_chains(file.read_bytes())[0].certificates[0])


def issue_many(town: Town, count: int) -> None:
    """Issue for so many made-up names at once, each time for others."""
    requests = town.folder / "requests.jsonl"
    key, batch = new_public_key().decode(), secrets.token_hex(4)
    lines = [{"public_key": key, "dns": [f"{batch}-{number}.example.com"]} for number in range(count)]
    requests.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    answers = town.folder / "answers.jsonl"
    run_here("ca", "issue", str(town.members["ca"].folder), "--bulk", str(requests), "--out", str(answers))


def logged_by(member: Member) -> int:
    """Return how much of the log a cosigner has signed."""
    logs = member.health()["logs"]
    return max((int(log["tree_size"]) for log in logs), default=0) if isinstance(logs, list) else 0


@contextlib.contextmanager
def serving_names(*hosts: str) -> Iterator[str]:
    """Run a name server for which these hosts are this machine; give its address. It runs in a thread."""
    loop, names = asyncio.new_event_loop(), NameServer()
    for host in hosts:
        names.set(host, "A", "127.0.0.1")
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(names.__aenter__(), loop).result(PATIENCE_S)
        try:
            yield names.server
        finally:
            asyncio.run_coroutine_threadsafe(names.__aexit__(None, None, None), loop).result(PATIENCE_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
