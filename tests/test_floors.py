"""The walls of the house: who may import whom, and what pure code may not touch.

Whoever stands on a floor looks down, never up, and sideways only where `ROOMS` says so. Floors 0 to 2 are pure: bytes,
values, arithmetic, decisions. Floor 3 touches disk and network. Floor 4 are the programs.

A floor is a property of a file: `machine.py` decides (floor 2), `service.py`, `http.py`, `updater.py` and `adapters*`
run (floor 3), everything else stands on the floor of its room. The checker reads the syntax tree, so that imports
inside functions and under `if TYPE_CHECKING` count as well.
"""

import ast
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"


@dataclass(frozen=True, slots=True)
class Room:
    """One row of the plan: the rooms that the files of a room on one floor may import, and why."""

    imports: frozenset[str]
    why: str


def _room(imports: str, why: str) -> Room:
    return Room(frozenset(imports.split()), why)


# `errors` and a file's own room are open to all and not repeated here.
GROUND = "merkle wire kernel"
FORMATS = f"{GROUND} ids crypto tiles note cert landmark profile"
MACHINES = f"{FORMATS} log cosign signer trust tls index acme lint"
SHELLS = f"{MACHINES} store web"
PROGRAMS = "ca acme updates gateway monitor bootstrap k8s fiveg cli"

# (room, floor) -> what it may import. A room that is not here does not exist; a new one starts with its row.
ROOMS: dict[tuple[str, int], Room] = {
    ("errors", 0): _room("", "the ground that everything stands on"),
    ("merkle", 0): _room("", "trees know nothing of encodings"),
    ("wire", 0): _room("", "encodings know nothing of trees"),
    ("kernel", 0): _room("merkle wire", "the twins of the hot path: hash rows, proofs, certificate scans"),
    ("ids", 1): _room("wire", "IDs are DER object identifiers"),
    ("crypto", 1): _room("wire ids kernel", "keys are DER, algorithms have IDs, hash rows run in the kernel"),
    ("tiles", 1): _room("merkle wire kernel", "entry bundles are encoded, tiles are built in the kernel"),
    ("note", 1): _room("merkle crypto ids wire", "cosigners sign subtrees and have IDs"),
    ("cert", 1): _room("merkle wire kernel ids crypto", "a certificate holds a proof and signatures of cosigners"),
    ("landmark", 1): _room("merkle ids wire", "a landmark is a tree size with an ID and, in files, a POSIX time"),
    ("profile", 1): _room("crypto ids", "a profile names algorithms and a draft revision"),
    ("log", 2): _room(FORMATS, "machines look down"),
    ("cosign", 2): _room(FORMATS, "machines look down"),
    ("lint", 2): _room(FORMATS, "what is wrong with an entry is a decision, made before it is logged"),
    ("signer", 2): _room(f"{FORMATS} log", "the key judges what the log's machine makes"),
    ("trust", 2): _room(FORMATS, "machines look down"),
    ("tls", 2): _room(f"{FORMATS} trust", "a path is selected by what the peer trusts"),
    ("acme", 2): _room(FORMATS, "machines look down"),
    ("index", 2): _room("merkle wire", "the index maps names to entries and knows no certificates"),
    ("simulate", 2): _room("", "a model of clients and CAs, by numbers; it holds neither logs nor keys"),
    ("k8s", 2): _room(FORMATS, "reconciling is a decision; watching is not"),
    ("store", 3): _room("", "storage holds bytes"),
    ("web", 3): _room("", "the frame of every server knows none of them"),
    ("log", 3): _room(f"{FORMATS} store web", "the sequencer; cosignatures are handed in"),
    ("cosign", 3): _room(f"{FORMATS} signer store web", "servers and clients; keys lie in files as a signer's do"),
    ("signer", 3): _room(f"{FORMATS} store web", "the process that holds the key; its machine comes with the room"),
    ("trust", 3): _room(
        f"{FORMATS} cosign store web", "the updater fetches, persists, and keeps evidence of two views"
    ),
    ("tls", 3): _room(f"{FORMATS} trust web", "adapters to OpenSSL"),
    ("ca", 4): _room(SHELLS, "a program composes what is below"),
    ("acme", 4): _room(f"{SHELLS} ca", "the ACME server is a front of the CA"),
    ("updates", 4): _room(f"{SHELLS} ca", "the update service reads logs as the CA's own proofs are read"),
    ("gateway", 4): _room(SHELLS, "a program composes what is below"),
    ("monitor", 4): _room(SHELLS, "a program composes what is below"),
    ("bootstrap", 4): _room(SHELLS, "a program composes what is below"),
    ("k8s", 4): _room(SHELLS, "a program composes what is below"),
    ("fiveg", 4): _room(SHELLS, "a program composes what is below"),
    ("cli", 4): _room(f"{SHELLS} {PROGRAMS} simulate testing", "the command line starts every program"),
    ("__main__", 4): _room("cli", "python -m mtc is the command line"),
    ("testing", 4): _room(f"{SHELLS} {PROGRAMS}", "fakes may stand in for anything"),
}

# Parts of a module's name that put it on another floor than its room's.
SHELL_NAMES = frozenset({"service", "http", "updater"})
MACHINE_NAMES = frozenset({"machine"})
# Single files that do so; the `__init__` of a program with pure files is imported together with them.
PURE_FILES = frozenset({("acme", "__init__"), ("k8s", "__init__"), ("k8s", "reconcile")})
# The face of a room that shows its shells as well.
FACES = frozenset({("tls", "__init__")})

IMPURE = frozenset(
    {
        "asyncio",
        "logging",
        "os",
        "pathlib",
        "random",
        "secrets",
        "socket",
        "sqlite3",
        "ssl",
        "threading",
        "time",
    }
)
CLOCK_READERS = frozenset({"now", "utcnow", "today"})
LAST_PURE_FLOOR = 2
PROGRAM_FLOOR = 4

# (room or file, module) -> why pure code may import it all the same.
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("crypto", "cryptography"): "primitives are not ours to write",
    ("crypto", "secrets"): "key generation and hedged signing draw randomness",
    ("acme/machine/jws.py", "joserfc"): "signatures of requests are not ours to check, and checking them is pure",
    ("acme/machine/jws.py", "cryptography"): "joserfc lets its exceptions through",
    ("kernel/__init__.py", "os"): "MTC_KERNEL is read once, at import",
}


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module by its full name, and the line that imports it."""

    module: str
    line: int


def floor_of(module: str) -> int:
    """Return the floor of a module of ours, named in full."""
    _, room, *rest = module.split(".")
    floors = [floor for name, floor in ROOMS if name == room]
    if MACHINE_NAMES.intersection(rest) or (room, rest[0] if rest else "__init__") in PURE_FILES:
        return LAST_PURE_FLOOR
    if max(floors) == PROGRAM_FLOOR:
        return PROGRAM_FLOOR
    if (room, rest[0] if rest else "__init__") in FACES:
        return 3
    if SHELL_NAMES.intersection(rest) or any(part.startswith("adapters") for part in rest):
        return 3
    return min(floors)


def module_of(path: Path) -> str:
    """Return the full name of the module in a file, given relative to the source directory."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(tree: ast.Module, path: Path, modules: Collection[str]) -> Iterator[Import]:
    """Yield all imports of a file, wherever they stand; `modules` tells an imported module from an imported name."""
    package = path.parent.parts
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (Import(name.name, node.lineno) for name in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = (
                    ".".join([*package[: len(package) - level + 1], *([module] if module else [])]) if level else module
                )
                for name in names:
                    whole = f"{base}.{name.name}"
                    yield Import(whole if base == "mtc" or whole in modules else str(base), node.lineno)
            case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called), args=[first, *_]) if called in {
                "import_module",
                "__import__",
            }:
                yield Import(str(first.value) if isinstance(first, ast.Constant) else "?", node.lineno)


def clock_reads(tree: ast.Module) -> Iterator[int]:
    """Yield the lines that mention `datetime.now` or a relative, called or not."""
    classes = {"datetime", "date"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "datetime":
            classes.update(name.asname for name in node.names if name.asname)
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=owner) | ast.Attribute(attr=owner), attr=name) if (
                owner in classes and name in CLOCK_READERS
            ):
                yield node.lineno


def check_own(path: Path, module: str) -> str | None:
    """Return what is wrong with an import of one of our modules, or None."""
    if module == "mtc.__version__":
        return None
    if module == "mtc":
        return "names no room"
    importer, target = module_of(path), module.split(".")[1]
    room, floor = importer.split(".")[1], floor_of(importer)
    if target not in {name for name, _ in ROOMS}:
        return "is no room of the plan"
    fault = None
    if "_native" in module.split(".") and room != "kernel":
        fault = "only kernel imports the native module"
    elif floor_of(module) > floor:
        fault = f"looks up from floor {floor} to floor {floor_of(module)}"
    elif target not in {room, "errors"} and target not in ROOMS[room, floor].imports:
        fault = f"is not listed for {room} on floor {floor}"
    return fault


def check_foreign(path: Path, module: str) -> str | None:
    """Return what is wrong with a pure file's import of a module that is not ours, or None."""
    top = module.split(".", maxsplit=1)[0]
    inside = path.relative_to("mtc")
    if (inside.parts[0], top) in EXCEPTIONS or (inside.as_posix(), top) in EXCEPTIONS:
        return None
    if top in IMPURE:
        return "is not for pure code"
    if top not in sys.stdlib_module_names:
        return "is a dependency that pure code may not have"
    return None


def check(source: str, path: Path, modules: Collection[str] = ()) -> list[str]:
    """Return the violations of one file; `path` is relative to the source directory, `modules` names all of ours."""
    tree = ast.parse(source)
    imports = list(imports_of(tree, path, modules))
    if path == Path("mtc/__init__.py"):
        return [
            f"{path}:{found.line}: {found.module}: the package itself imports nothing"
            for found in imports
            if not found.module.startswith("importlib")
        ]
    importer = module_of(path)
    if importer.split(".")[1] not in {room for room, _ in ROOMS}:
        return [f"{path}:1: {importer}: is no room of the plan"]
    pure = floor_of(importer) <= LAST_PURE_FLOOR
    violations = []
    for found in imports:
        ours = found.module.split(".")[0] == "mtc"
        fault = check_own(path, found.module) if ours else check_foreign(path, found.module) if pure else None
        if fault:
            violations.append(f"{path}:{found.line}: {found.module}: {fault}")
    if pure:
        violations.extend(f"{path}:{line}: datetime: pure code gets `now` as an argument" for line in clock_reads(tree))
    return violations


FILES = sorted(path.relative_to(SOURCE) for path in (SOURCE / "mtc").rglob("*.py"))
MODULES = frozenset(module_of(path) for path in FILES) | {"mtc.kernel._native"}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_walls_hold(path: Path) -> None:
    """Every file imports only what stands below it or is listed beside it."""
    assert check((SOURCE / path).read_text("utf-8"), path, MODULES) == []


def test_plan_names_only_rooms() -> None:
    """Every room that the plan lets somebody import is a room of the plan, on the same floor or below."""
    lowest = {room: min(floor for name, floor in ROOMS if name == room) for room, _ in ROOMS}
    for (room, floor), row in ROOMS.items():
        assert row.imports <= lowest.keys(), room
        assert all(lowest[target] <= floor for target in row.imports), room


def test_plan_has_no_circle() -> None:
    """Below the programs no room imports, over others, itself: the rooms can be built one after the other."""
    left = {key: {target for target in row.imports if target != key[0]} for key, row in ROOMS.items() if key[1] <= 1}
    while left:
        ready = {key for key, needs in left.items() if not needs & {room for room, _ in left}}
        assert ready, f"circle among {sorted(left)}"
        left = {key: needs for key, needs in left.items() if key not in ready}


@pytest.mark.parametrize(
    ("path", "floor"),
    [
        ("mtc/errors.py", 0),
        ("mtc/cert/proof.py", 1),
        ("mtc/log/__init__.py", 2),
        ("mtc/log/service.py", 3),
        ("mtc/log/http.py", 3),
        ("mtc/trust/updater.py", 3),
        ("mtc/tls/adapters_openssl.py", 3),
        ("mtc/tls/adapters/stdlib.py", 3),
        ("mtc/tls/__init__.py", 3),
        ("mtc/tls/selection.py", 2),
        ("mtc/acme/machine.py", 2),
        ("mtc/acme/server.py", 4),
        ("mtc/acme/http.py", 4),
        ("mtc/k8s/reconcile.py", 2),
        ("mtc/k8s/controller.py", 4),
        ("mtc/cli/__init__.py", 4),
        ("mtc/__main__.py", 4),
    ],
)
def test_floor_is_a_property_of_a_file(path: str, floor: int) -> None:
    """The name of a file tells its floor, and the room only where the name does not."""
    assert floor_of(module_of(Path(path))) == floor


@pytest.mark.parametrize(
    ("path", "source", "fault"),
    [
        ("mtc/merkle/tree.py", "import mtc.cert", "looks up"),
        ("mtc/merkle/tree.py", "from mtc import cert", "looks up"),
        ("mtc/merkle/tree.py", "from .. import cert", "looks up"),
        ("mtc/merkle/tree.py", "from ..cert.proof import MTCProof", "looks up"),
        ("mtc/merkle/tree.py", "def late():\n    from mtc.log import plan_batch", "looks up"),
        ("mtc/merkle/tree.py", "if TYPE_CHECKING:\n    from mtc.cert import LogEntry", "looks up"),
        ("mtc/merkle/tree.py", "importlib.import_module('mtc.cert')", "looks up"),
        ("mtc/merkle/tree.py", "importlib.import_module(name)", "pure code may not have"),
        ("mtc/merkle/tree.py", "from mtc.wire import Reader", "not listed"),
        ("mtc/wire/der.py", "from mtc.merkle import Subtree", "not listed"),
        ("mtc/note/note.py", "from mtc.kernel import active_kernel", "not listed"),
        ("mtc/errors.py", "from mtc.wire import Reader", "not listed"),
        ("mtc/log/machine.py", "from mtc.log.service import IssuanceLog", "looks up"),
        ("mtc/log/machine.py", "from mtc.log import service", "looks up"),
        ("mtc/log/machine.py", "from . import service", "looks up"),
        ("mtc/log/machine.py", "from mtc.trust import TrustStore", "not listed"),
        ("mtc/log/service.py", "from mtc.trust import TrustStore", "not listed"),
        ("mtc/log/service.py", "from mtc.ca import Issued", "looks up"),
        ("mtc/monitor/follower.py", "from mtc.ca import Issued", "not listed"),
        ("mtc/monitor/follower.py", "from mtc.testing import FakeClock", "not listed"),
        ("mtc/merkle/tree.py", "from mtc.utils import anything", "no room of the plan"),
        ("mtc/utils.py", "", "no room of the plan"),
        ("mtc/merkle/tree.py", "import mtc", "names no room"),
        ("mtc/__init__.py", "from mtc.merkle import Subtree", "imports nothing"),
        ("mtc/cert/scan.py", "from mtc.kernel import _native", "only kernel"),
        ("mtc/cert/scan.py", "from mtc.kernel._native import scan", "only kernel"),
        ("mtc/cert/scan.py", "import cryptography", "may not have"),
        ("mtc/crypto/keys.py", "import nacl", "may not have"),
        ("mtc/crypto/keys.py", "import os", "not for pure code"),
        ("mtc/kernel/_python.py", "import os", "not for pure code"),
        ("mtc/kernel/__init__.py", "import time", "not for pure code"),
        ("mtc/log/machine.py", "import asyncio.locks", "not for pure code"),
        ("mtc/log/machine.py", "from datetime import datetime\nx = datetime.now()", "gets `now`"),
        ("mtc/log/machine.py", "import datetime\nx = datetime.datetime.utcnow()", "gets `now`"),
        ("mtc/log/machine.py", "from datetime import date as day\nx = day.today", "gets `now`"),
        *(("mtc/acme/machine.py", f"import {module}", "not for pure code") for module in sorted(IMPURE)),
    ],
)
def test_checker_finds_fault(path: str, source: str, fault: str) -> None:
    """Each way through a wall is found, and only once."""
    (violation,) = check(source, Path(path), {"mtc.log.service", "mtc.kernel._native", "mtc.cert"})
    assert fault in violation


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("mtc/__init__.py", "from importlib.metadata import version"),
        (
            "mtc/merkle/tree.py",
            "from mtc.errors import ProofError\nfrom mtc.merkle.subtree import Subtree\nimport hashlib",
        ),
        ("mtc/kernel/__init__.py", "import os\nfrom mtc.kernel import _native"),
        ("mtc/crypto/keys.py", "import secrets\nfrom cryptography.hazmat.primitives import hashes"),
        ("mtc/cert/proof.py", "from mtc.crypto import Verifier\nfrom ..merkle import Subtree"),
        ("mtc/tls/machine.py", "from mtc.trust import TrustStore\nfrom mtc.ids import TrustAnchorID"),
        ("mtc/log/machine.py", "def plan(now):\n    return now.today, self.now()"),
        ("mtc/log/service.py", "import asyncio, os\nfrom mtc.log import machine\nfrom mtc.store import Register"),
        ("mtc/acme/server.py", "from mtc.ca import Issued\nfrom mtc.acme.machine import Order"),
        ("mtc/cli/__init__.py", "from mtc import __version__, acme, monitor"),
        ("mtc/testing/fakes.py", "import asyncio\nfrom mtc.log.service import IssuanceLog"),
    ],
)
def test_checker_lets_pass(path: str, source: str) -> None:
    """What the plan allows is not complained about."""
    assert check(source, Path(path), {"mtc.log.service", "mtc.kernel._native"}) == []
