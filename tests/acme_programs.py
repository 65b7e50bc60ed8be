"""What ACME clients of other people need around them on loopback: DNS answers, a web server, hooks, an environment.

No client asks anything beyond loopback: names are answered by `pebble-challtestsrv`, all files are below one folder,
and proxies that do not exist stand where a program would otherwise reach the internet.
"""

import contextlib
import functools
import http.server
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from mtc.testing.fleet import free_port

RUN_S = 90.0
"""How long one run of a client may take."""
START_S = 60.0
"""How long a program may take until it answers."""
STOP_S = 15.0
"""How long a program may take to end after SIGTERM; then it is killed."""
POLL_S = 0.02

NODE_MODULES = Path(__file__).parent.parent / ".venv" / "node" / "node_modules"
"""Where the Makefile installs Node's acme-client."""


@dataclass(frozen=True, slots=True)
class Names:
    """A DNS server for tests: every name has the address 127.0.0.1, until it is told otherwise.

    server: its address. control: base URL at which it is told, also by the hooks of clients.
    """

    server: str
    control: str

    def add_caa(self, name: str, issuer: str) -> None:
        """Let only one CA issue for a name. issuer: its issuer domain name."""
        body = json.dumps({"host": f"{name}.", "policies": [{"tag": "issue", "value": issuer}]}).encode()
        with urlopen(Request(f"{self.control}/add-caa", data=body), timeout=10):  # noqa: S310 - loopback
            pass


@dataclass(frozen=True, slots=True)
class ACMEServerUnderTest:
    """An ACME server that runs on loopback, as its clients see it.

    ca_file: PEM of what they trust in its HTTPS. http_port, tls_port: where it looks for http-01 and tls-alpn-01.
    """

    directory_url: str
    ca_file: Path
    http_port: int
    tls_port: int
    names: Names


def find_program(name: str, package: str = "") -> str:
    """Return a program's path; skip the test where Debian's package is missing, and name it."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: apt install {package or name})")
    return found


def find_node_client() -> str:
    """Return Node's path; skip the test where it or the npm package acme-client is missing."""
    node = find_program("node", "nodejs")
    if not (NODE_MODULES / "acme-client").is_dir():
        pytest.skip("npm's acme-client is not installed (make acme-client)")
    return node


def environment(home: Path, more: Mapping[str, str]) -> dict[str, str]:
    """Return an environment with a home of its own, in which the usual HTTP clients reach nothing but loopback."""
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
    local = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
    return {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", **proxies, **local, **more}


def run_to_end(
    folder: Path, command: Sequence[str | Path], variables: Mapping[str, str], *, must_fail: bool = False
) -> str:
    """Run a client to its end in its folder; return all that it wrote."""
    with subprocess.Popen(  # noqa: S603 - programs that this machine's owner installed
        command,
        cwd=folder,
        env=environment(folder, variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            written, _ = process.communicate(timeout=RUN_S)
            ending = f"ended with {process.returncode}"
        except subprocess.TimeoutExpired:
            _end_all(process)
            written, _ = process.communicate()
            ending, must_fail = f"did not end within {RUN_S:.0f} s", False
        finally:
            _end_all(process)
    assert bool(process.returncode) == must_fail, f"{command} {ending}:\n{written[-6000:]}"
    return written


@contextlib.contextmanager
def running(
    folder: Path, log: Path, command: Sequence[str | Path], variables: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program that does not end by itself, until the context ends."""
    with (
        log.open("ab") as output,
        subprocess.Popen(  # noqa: S603 - programs that this machine's owner installed
            command,
            cwd=folder,
            env=environment(folder, variables or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            _end_all(process)


def _end_all(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """End a process and what it started, whatever it does."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def wait_for(condition: Callable[[], bool], what: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a running program has done something; fail with its last words when it ends or takes too long."""
    until = time.monotonic() + START_S
    while not condition():
        words = f"{what}: not yet; it wrote:\n{log.read_text('utf-8', 'replace')[-6000:]}"
        assert process.poll() is None, words
        assert time.monotonic() < until, words
        time.sleep(POLL_S)


def late_port() -> int:
    """Return a port that is free, for a program that listens there later, and again and again.

    It is below those that Linux gives to connections (32768 and up), so that none of them takes it meanwhile.
    """
    chance = random.SystemRandom()
    while True:
        port = chance.randrange(20000, 32768)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def is_listening(port: int) -> bool:
    """Tell whether somebody accepts connections."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
        return True
    return False


@contextlib.contextmanager
def names_in(folder: Path) -> Iterator[Names]:
    """Run `pebble-challtestsrv` as a DNS server."""
    program = find_program("pebble-challtestsrv", "pebble")
    port, control = free_port(), free_port()
    command = [program, "-dns01", f"127.0.0.1:{port}", "-management", f"127.0.0.1:{control}", "-defaultIPv6", ""]
    command += ["-http01", "", "-https01", "", "-tlsalpn01", ""]
    log = folder / "names.log"
    with running(folder, log, command) as process:
        wait_for(lambda: is_listening(port) and is_listening(control), "the DNS server answers", process, log)
        yield Names(f"127.0.0.1:{port}", f"http://127.0.0.1:{control}")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """A web server that writes no log. It closes each connection, so that it ends at once."""

    def log_message(self, *_: object) -> None:
        """Write nothing."""


@contextlib.contextmanager
def web_root(folder: Path, port: int) -> Iterator[Path]:
    """Serve a folder over HTTP, as a web server would; give the folder for http-01 tokens in it."""
    tokens = folder / ".well-known" / "acme-challenge"
    tokens.mkdir(parents=True, exist_ok=True)
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(POLL_S,))
        thread.start()
        try:
            yield tokens
        finally:
            server.shutdown()
            thread.join()


def write_hook(path: Path, names: Names, *, words: str) -> Path:
    """Write a script that sets or clears a TXT record, as the dns-01 hooks of clients want it.

    words: a Python expression of `arguments` and `variables` for (add or remove, name, value), or None to do nothing.
    """
    path.write_text(
        f"#!{sys.executable} -IS\n"
        "import json, os, sys, urllib.request\n"
        "arguments, variables = sys.argv[1:], os.environ\n"
        f"words = {words}\n"
        "if words is not None:\n"
        "    command = 'set-txt' if words[0] == 'add' else 'clear-txt'\n"
        "    body = json.dumps({'host': words[1].rstrip('.') + '.', 'value': words[2]}).encode()\n"
        "    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))\n"
        f"    opener.open('{names.control}/' + command, data=body, timeout=10).close()\n"
    )
    path.chmod(0o755)
    return path
