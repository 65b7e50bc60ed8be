"""What is measured as one row: a TLS back end, a leaf key and a kind of certificate; and how a process learns of it.

Client and server are processes of their own, so a file takes the credentials to both. Keys in it are thrown away.
"""

import base64
import json
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtc.cert import CertificateChain, PropertyList
from mtc.cli.bench_handshake.kinds import Credential, Kind, LeafKey, make_credential
from mtc.tls import BackEndName, CertificationPath, ClientContext, client_context, parse_paths, server_context
from mtc.tls.adapters.pyopenssl import load_binding
from mtc.tls.adapters.stdlib import client as stdlib_client
from mtc.tls.adapters.stdlib import load_libssl
from mtc.tls.adapters.stdlib.callbacks import VERIFY
from mtc.trust import TrustStore, format_trust_store, parse_trust_store

BACK_ENDS: dict[str, BackEndName] = {"stdlib": "stdlib", "pyopenssl": "pyopenssl"}
"""The back ends that are measured, in the order of the tables."""


@dataclass(frozen=True, slots=True)
class Row:
    """What names a row of every table."""

    back_end: BackEndName
    leaf_key: LeafKey
    kind: Kind

    @property
    def name(self) -> str:
        """The row in one word, for files and messages between processes."""
        return f"{self.back_end}/{self.leaf_key}/{self.kind}"

    @staticmethod
    def parse(name: str) -> "Row":
        """Read a name back. Raises ValueError."""
        back_end, leaf_key, kind = name.split("/")
        if back_end not in BACK_ENDS:
            raise ValueError(name)
        return Row(BACK_ENDS[back_end], LeafKey(leaf_key), Kind(kind))


_STDLIB_KINDS = (Kind.LANDMARK_RELATIVE, Kind.STANDALONE_1, Kind.STANDALONE_2, Kind.CLASSICAL)
_MTC_KINDS = (Kind.LANDMARK_RELATIVE, Kind.STANDALONE_1, Kind.STANDALONE_2)


def rows_of(back_end: BackEndName, *, has_ml_dsa: bool) -> tuple[Row, ...]:
    """Return what a back end can be measured with: chains and keys of ML-DSA only where its library knows ML-DSA."""
    rows = [Row(back_end, LeafKey.P256, kind) for kind in _STDLIB_KINDS]
    if has_ml_dsa:
        rows.append(Row(back_end, LeafKey.P256, Kind.POST_QUANTUM))
        rows += [Row(back_end, LeafKey.ML_DSA_44, kind) for kind in (*_MTC_KINDS, Kind.POST_QUANTUM)]
    return tuple(rows)


@dataclass(frozen=True, slots=True)
class Case:
    """A row with its credentials, as client and server read them. paths: the one that is to be sent stands first."""

    row: Row
    paths: tuple[CertificationPath, ...]
    trust: TrustStore
    root: bytes | None


def make_credentials(rows: Sequence[Row]) -> dict[Row, Credential]:
    """Make the credentials of all rows; back ends share those of the same leaf key and kind."""
    made = {key: make_credential(key[1], key[0]) for key in dict.fromkeys((row.leaf_key, row.kind) for row in rows)}
    return {row: made[row.leaf_key, row.kind] for row in rows}


def write_cases(path: Path, credentials: dict[Row, Credential]) -> None:
    """Write what both processes need."""
    document = []
    for row, credential in credentials.items():
        paths = (credential.sent, *credential.further)
        document.append(
            {
                "row": row.name,
                "key": base64.b64encode(credential.sent.private_key).decode(),
                "paths": [CertificateChain(_properties(one), one.certificates).encode().decode() for one in paths],
                "trust": format_trust_store(credential.trust).decode(),
                "root": None if credential.root is None else base64.b64encode(credential.root).decode(),
            }
        )
    path.touch(mode=0o600)
    path.write_text(json.dumps(document))


def _properties(path: CertificationPath) -> PropertyList | None:
    """Return the properties as a file has them: none for a chain that never had any."""
    return path.properties if path.is_mtc else None


def read_cases(path: Path) -> tuple[Case, ...]:
    """Read what `write_cases` wrote."""
    cases = []
    for one in json.loads(path.read_bytes()):
        key = base64.b64decode(one["key"])
        paths = tuple(found for text in one["paths"] for found in parse_paths(text.encode(), key))
        root = None if one["root"] is None else base64.b64decode(one["root"])
        cases.append(Case(Row.parse(one["row"]), paths, parse_trust_store(one["trust"].encode()), root))
    return tuple(cases)


def server_of(case: Case) -> ssl.SSLContext:
    """Return the server's context. It gives no tickets: every handshake is a full one."""
    return server_context(case.paths, resumption=False, back_end=case.row.back_end)


class Stopwatch:
    """How long verification callbacks took since it was set to zero. Owned by the one thread that shakes hands."""

    seconds = 0.0


def client_of(case: Case, stopwatch: Stopwatch) -> ssl.SSLContext:
    """Return the client's context, which trusts what the case says and times its verify callback.

    A client that trusts no CA of ours is one of today, and sends no `trust_anchors`.
    """
    if case.row.back_end == "pyopenssl":
        _watch_pyopenssl(stopwatch)
    context = client_context(
        case.trust, sends_extension=case.row.kind.is_mtc, resumption=False, back_end=case.row.back_end
    )
    if case.root is not None:
        context.load_verify_locations(cadata=case.root)
    if case.row.back_end == "stdlib":
        _watch_stdlib(context, stopwatch)
    return context


def _watch_stdlib(context: ClientContext, stopwatch: Stopwatch) -> None:
    """Put a stopwatch around the callback that judges the server's certificates."""
    judge = stdlib_client._verify  # noqa: SLF001 - the very callback is timed, not something like it

    def verify(store: int, argument: int | None) -> int:
        began = time.perf_counter()
        verdict: int = judge(store, argument)
        stopwatch.seconds += time.perf_counter() - began
        return verdict

    callback = VERIFY(verify)
    _kept.append(callback)
    load_libssl().set_verifier(context, callback)


def _watch_pyopenssl(stopwatch: Stopwatch) -> None:
    """Put a stopwatch around the same of the other back end; contexts that are made from now on have it.

    There OpenSSL verifies first, and calls for each step, so that its own verification is not within the callback.
    """
    binding: Any = load_binding()
    judge = binding._on_verify  # noqa: SLF001 - see above

    def verify(is_fine: int, store: object) -> int:
        began = time.perf_counter()
        verdict: int = judge(is_fine, store)
        stopwatch.seconds += time.perf_counter() - began
        return verdict

    callback = binding._ffi.callback("int(int, X509_STORE_CTX *)", verify, error=0)  # noqa: SLF001 - see above
    binding._verify = callback  # noqa: SLF001 - see above
    _kept.append(callback)


# What C calls must live as long as the process, in which contexts are made once.
_kept: list[object] = []
