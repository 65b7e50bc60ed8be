"""One fuzz target under atheris, in a process of its own; run.py starts it, and its output is libFuzzer's.

python fuzz/worker.py TARGET [libFuzzer options and corpus folders]
"""

import sys
from importlib import import_module
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if TYPE_CHECKING:
    from fuzz.targets import Target


def main() -> None:
    """Fuzz until libFuzzer's options say stop; the exit code is libFuzzer's, not 0 on a finding."""
    # Atheris has wheels for some platforms only, and no type information.
    atheris: Any = import_module("atheris")
    name, *options = sys.argv[1:]
    with atheris.instrument_imports(
        include=[
            "mtc",
            "fuzz.targets_certificates",
            "fuzz.targets_cosign",
            "fuzz.targets_evidence",
            "fuzz.targets_texts",
        ]
    ):
        target: Target = import_module("fuzz.targets").TARGETS[name]
    hooks = {"custom_mutator": _structural(atheris)} if target.is_certificate else {}
    atheris.Setup([sys.argv[0], *options], target.check, **hooks)
    atheris.Fuzz()


def _structural(atheris: Any) -> Any:  # noqa: ANN401 - a module without types, and the hook that it wants
    """Return a mutator that keeps DER and MTCProofs whole half of the time, and leaves the rest to libFuzzer."""
    mutate: Any = import_module("fuzz.mutate")

    def custom_mutator(data: bytes, max_size: int, seed: int) -> bytes:
        rng = Random(seed)
        if rng.random() < 0.5:
            anatomy = mutate.Anatomy(data, rng.choice((2, 3)))
            if anatomy.parts:
                changed: bytes = mutate.Mutator(rng, [anatomy]).mutate()
                return changed[:max_size]
        other: bytes = atheris.Mutate(data, max_size)
        return other

    return custom_mutator


if __name__ == "__main__":
    main()
