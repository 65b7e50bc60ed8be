"""Real processes for demonstrations and tests: a CA and its cosigners, each started as an operator would start it.

Everything lies below one folder and listens on loopback. Processes write their log as JSON lines into files beside
their folders, and end with the fleet, also when this process is killed by an exception.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from mtc.errors import PeerError, Reason

START_S = 60.0
"""How long a process may take until it answers."""
STOP_S = 15.0
"""How long a process may take to end after SIGTERM; then it is killed."""
_POLL_S = 0.02


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def run_mtc(arguments: Sequence[str], *, prefix: Sequence[str] = (), timeout_s: float = 120.0) -> str:
    """Run one command and return what it printed. prefix: of the command line, such as `ip netns exec …`.

    Raises PeerError with what it wrote to standard error when it fails.
    """
    done = subprocess.run(  # noqa: S603 - our own program
        [*prefix, sys.executable, "-m", "mtc", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode:
        raise PeerError(
            Reason.PEER,
            f"mtc {arguments[0]} {arguments[1]} failed: {done.stderr.strip()[-800:]}",
            status=done.returncode,
        )
    return done.stdout


@dataclass(slots=True)
class Member:
    """One party: its folder, where it listens, and its process while it runs.

    role: "ca", "witness" or "mirror". host: address. prefix: in front of its command line. vkey: of a cosigner.
    """

    name: str
    role: str
    folder: Path
    port: int
    host: str = "127.0.0.1"
    vkey: str = ""
    prefix: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self.host}:{self.port}"

    @property
    def log_file(self) -> Path:
        """What it writes."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def is_running(self) -> bool:
        """True while its process lives."""
        return self.process is not None and self.process.poll() is None

    def start(self, *, wait: bool = True) -> None:
        """Start it; wait until it answers. Raises PeerError with its last words when it ends instead."""
        command = [*self.prefix, sys.executable, "-m", "mtc", self.role, "serve", str(self.folder), "--json"]
        command += ["--listen", f"{self.host}:{self.port}"]
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own program
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        if wait:
            self.wait_until_up()

    def wait_until_up(self, timeout_s: float = START_S) -> None:
        """Wait until it answers."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            if not self.is_running:
                raise PeerError(Reason.PEER, f"{self.name} ended: {self.last_words()}", member=self.name)
            if self.answers():
                return
            time.sleep(_POLL_S)
        raise PeerError(Reason.PEER, f"{self.name} does not answer after {timeout_s:.0f} s", member=self.name)

    def answers(self) -> bool:
        """Tell whether it accepts connections; one in another network namespace is asked from inside it."""
        if self.prefix:
            code = f"import socket; socket.create_connection(({self.host!r}, {self.port}), 1)"
            command = [*self.prefix, sys.executable, "-c", code]
            return not subprocess.run(command, capture_output=True, check=False).returncode  # noqa: S603 - our own program
        try:
            with socket.create_connection((self.host, self.port), 1.0):
                return True
        except OSError:
            return False

    def last_words(self) -> str:
        """Return the end of what it wrote."""
        with contextlib.suppress(OSError):
            return self.log_file.read_text("utf-8", "replace")[-800:].strip()
        return ""

    def signal(self, number: int) -> None:
        """Send a signal to it and its children."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def stop(self) -> None:
        """End it as an operator would; kill it when it does not end."""
        if self.process is None:
            return
        self.signal(signal.SIGCONT)
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self.process = None

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process is None:
            return
        self.signal(signal.SIGKILL)
        self.process.wait()
        self.process = None

    def health(self) -> dict[str, object]:
        """Return what it says of itself. Raises PeerError."""
        try:
            with urlopen(f"{self.url}/health", timeout=5) as answer:  # noqa: S310 - our own loopback address
                found: dict[str, object] = json.loads(answer.read())
                return found
        except URLError as error:
            body = getattr(error, "read", lambda: b"")()
            with contextlib.suppress(ValueError):
                parsed: dict[str, object] = json.loads(body)
                return parsed
            raise PeerError(Reason.PEER, f"{self.name} does not say how it is: {error}") from None


@dataclass(slots=True)
class Fleet:
    """A CA and cosigners below one folder."""

    folder: Path
    members: dict[str, Member] = field(default_factory=dict)

    def add_cosigner(
        self, role: str, name: str, cosigner_id: str, *, host: str = "127.0.0.1", prefix: Sequence[str] = ()
    ) -> Member:
        """Make a cosigner's folder."""
        member = Member(name, role, self.folder / name, free_port(), host, "", tuple(prefix))
        text = run_mtc([role, "init", str(member.folder), "--id", cosigner_id, "--json"])
        member.vkey = json.loads(text)["vkeys"][0]
        self.members[name] = member
        return member

    def add_ca(self, ca_id: str, *options: str, host: str = "127.0.0.1", prefix: Sequence[str] = ()) -> Member:
        """Make a CA's folder. options: further arguments of `mtc ca init`."""
        member = Member("ca", "ca", self.folder / "ca", free_port(), host, "", tuple(prefix))
        run_mtc(["ca", "init", str(member.folder), "--id", ca_id, "--json", *options])
        self.members["ca"] = member
        return member

    def cosigners(self) -> list[Member]:
        """Return everybody who is no CA."""
        return [member for member in self.members.values() if member.role != "ca"]

    def introduce(self, *, follow: bool = False) -> None:
        """Let every cosigner know the CA, and the CA every cosigner."""
        ca = self.members["ca"]
        for member in self.cosigners():
            extra = ["--url", ca.url, *(["--follow"] if follow and member.role == "mirror" else [])]
            certificate = str(ca.folder / "ca.pem")
            run_mtc([member.role, "add-log", str(member.folder), "--ca", certificate, *extra])
            who = ["--name", member.name, "--role", member.role, "--vkey", member.vkey, "--url", member.url]
            run_mtc(["ca", "add-cosigner", str(ca.folder), *who])

    def stop(self) -> None:
        """End all."""
        for member in self.members.values():
            member.stop()


@contextlib.contextmanager
def fleet_in(folder: Path, *, is_kept: bool = True) -> Iterator[Fleet]:
    """Give a fleet whose processes end with the context. is_kept: leave the folders."""
    folder.mkdir(parents=True, exist_ok=True)
    fleet = Fleet(folder)
    try:
        yield fleet
    finally:
        fleet.stop()
        if not is_kept:
            shutil.rmtree(folder, ignore_errors=True)
