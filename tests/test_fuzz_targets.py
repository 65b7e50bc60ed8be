"""Every fuzz target on its seeds and some mutations of them, so that no target rots between fuzzing runs."""

import ast
import inspect
from collections.abc import Iterable
from pathlib import Path
from random import Random

import pytest
from fuzz.mutate import Anatomy, Mutator
from fuzz.targets import MODULES, TARGETS

import mtc

MUTATIONS = 1500
FUZZED_ELSEWHERE = {
    "parse_layout": "by target certificate and by fuzz/kernels.py",
    "parse_proof_layout": "by targets certificate and mtc_proof",
    "parse_extensions": "by targets certificate and tbs_entry",
    "parse_entry_extensions": "by target mtc_proof",
    "parse_public_key_pem": "parse_pem and parse_public_key have targets",
    "parse_address": "part of a configuration, by target cosigner_config",
    "parse_revision": "a look-up by name",
    "parse_hash_algorithm": "a look-up by name",
    "parse_signature_algorithm": "a look-up by name",
}


@pytest.mark.parametrize("name", TARGETS)
def test_target_holds_on_its_seeds(name: str) -> None:
    """A target's invariant holds for every seed."""
    seeds = list(TARGETS[name].seeds())
    assert seeds
    for seed in seeds:
        TARGETS[name].check(seed)


@pytest.mark.parametrize("name", TARGETS)
def test_target_holds_on_mutations(name: str) -> None:
    """A target's invariant holds for mutated seeds, for nothing at all, and for single bytes."""
    target = TARGETS[name]
    rng = Random(name)
    seeds = [seed for seed in target.seeds() if len(seed) < 8192]
    mutator = Mutator(rng, [Anatomy(seed) for seed in seeds])
    for data in (b"", b"\x00", b"\xff", b"\n", b"0"):
        target.check(data)
    for _ in range(MUTATIONS):
        is_structural = target.is_certificate and rng.random() < 0.7
        data = mutator.mutate() if is_structural else mutator.mutate_bytes(rng.choice(seeds))
        target.check(data)


@pytest.mark.parametrize("name", TARGETS)
def test_target_states_its_invariant(name: str) -> None:
    """The first line of a target's docstring is a whole sentence, its invariant."""
    assert TARGETS[name].invariant.endswith(".")


def test_every_parser_has_a_target() -> None:
    """Each public `parse_*` function of floors 0 to 2 is called by a fuzz target, or why not is written down."""
    sources = [inspect.getsource(module) for module in MODULES]
    called = {name for source in sources for name in _names(source)}
    rooms = Path(next(iter(mtc.__path__)))
    missing = set()
    for room in (
        "wire",
        "kernel",
        "ids",
        "crypto",
        "cert",
        "note",
        "tiles",
        "landmark",
        "trust",
        "cosign",
        "tls",
        "acme/machine",
    ):
        for module in (rooms / room).glob("*.py"):
            for node in ast.parse(module.read_text("utf-8")).body:
                if isinstance(node, ast.FunctionDef) and node.name.startswith("parse_"):
                    missing |= {node.name} - called - FUZZED_ELSEWHERE.keys()
    assert missing == set()


def _names(source: str) -> Iterable[str]:
    """Yield the names that a module uses."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            yield node.id
