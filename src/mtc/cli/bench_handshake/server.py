"""The server program of `mtc bench handshake`: shakes hands on a port for each row, one thread, no page behind it.

Run as `python -m mtc.cli.bench_handshake.server CASES ADDRESS`. It prints its ports as JSON; each line on its standard
input is answered with how many handshakes it made and what they took of a processor; at the end of input it ends.
"""

import json
import os
import resource
import selectors
import socket
import ssl
import sys
from pathlib import Path

from mtc.cli.bench_handshake.cases import read_cases, server_of
from mtc.cli.bench_handshake.connections import Connection, prepare

_BACKLOG = 64


def main() -> None:
    """Serve until standard input ends."""
    path, address = sys.argv[1:]
    with selectors.DefaultSelector() as selector:
        ports = {}
        for case in read_cases(Path(path)):
            listener = socket.create_server((address, 0), backlog=_BACKLOG)
            listener.settimeout(0)
            prepare(listener)
            selector.register(listener, selectors.EVENT_READ, server_of(case))
            ports[case.row.name] = listener.getsockname()[1]
        selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
        tell({"ports": ports})
        _serve(selector)


def tell(facts: dict[str, object]) -> None:
    """Write one line of JSON."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def cpu_s() -> float:
    """Return the seconds of a processor that this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _serve(selector: selectors.BaseSelector) -> None:
    """Accept, shake hands, close; answer the parent."""
    handshakes = failures = 0
    while True:
        for key, _ in selector.select():
            if isinstance(key.fileobj, socket.socket):
                _accept(selector, key.fileobj, key.data)
            elif isinstance(key.fileobj, Connection):
                try:
                    is_over = not key.fileobj.read() or key.fileobj.advance()
                except OSError:
                    is_over = True
                if is_over:
                    is_done = key.fileobj.counters.finished is not None
                    handshakes, failures = handshakes + is_done, failures + (not is_done)
                    selector.unregister(key.fileobj)
                    key.fileobj.sock.close()
            else:
                # One line of a few bytes is asked for at a time.
                if not os.read(sys.stdin.fileno(), 100):
                    return
                tell({"handshakes": handshakes, "failures": failures, "cpu_s": cpu_s()})


def _accept(selector: selectors.BaseSelector, listener: socket.socket, context: ssl.SSLContext) -> None:
    """Take the connections that wait."""
    while True:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return
        prepare(sock)
        selector.register(Connection(sock, context, server_name=None), selectors.EVENT_READ)


if __name__ == "__main__":
    main()
