"""What all tests share: vectors from outside the repository, both kernels, and stable Hypothesis runs."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from mtc.kernel import Kernel, is_native_built, native_kernel, python_kernel

SHARED_VECTORS = Path(os.environ.get("MTC_SHARED_VECTORS") or Path(__file__).parents[2] / "shared" / "vectors")

# The same examples in every run, so that a red run is red again; MTC_HYPOTHESIS=explore looks for new ones.
settings.register_profile("stable", deadline=None, derandomize=True, database=None, max_examples=60)
settings.register_profile("explore", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("MTC_HYPOTHESIS", "stable"))


@pytest.fixture(scope="session")
def load_vectors() -> Callable[[str], Any]:
    """Return a function from the name of a shared vector file to its parsed JSON; it skips where there is none."""

    def load(name: str) -> Any:  # noqa: ANN401 - JSON
        path = SHARED_VECTORS / name
        if not path.is_file():
            pytest.skip(f"shared vectors are not here: {name}")
        return json.loads(path.read_text("utf-8"))

    return load


def _require_native() -> Kernel:
    """Return the native kernel; without one skip, or fail where MTC_REQUIRE_NATIVE=1 says that it must be there."""
    if not is_native_built():
        if os.environ.get("MTC_REQUIRE_NATIVE") == "1":
            pytest.fail("MTC_REQUIRE_NATIVE=1, but the native kernel is not built")
        pytest.skip("the native kernel is not built")
    return native_kernel()


@pytest.fixture(scope="session", params=["python", "native"])
def kernel(request: pytest.FixtureRequest) -> Kernel:
    """Return each kernel in turn: what holds for one holds for the other."""
    return python_kernel() if request.param == "python" else _require_native()


@pytest.fixture(scope="session")
def twins() -> tuple[Kernel, Kernel]:
    """Return both kernels, to compare them."""
    return python_kernel(), _require_native()
