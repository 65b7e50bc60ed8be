"""What all tests share: vectors from outside the repository, both kernels, and stable Hypothesis runs."""

import json
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import settings

from mtc.kernel import Kernel, is_native_built, native_kernel, python_kernel

SHARED_VECTORS = Path(os.environ.get("MTC_SHARED_VECTORS") or Path(__file__).parents[2] / "shared" / "vectors")

# The same examples in every run, so that a red run is red again; MTC_HYPOTHESIS=explore looks for new ones.
settings.register_profile("stable", deadline=None, derandomize=True, database=None, max_examples=60)
settings.register_profile("explore", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("MTC_HYPOTHESIS", "stable"))

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - pytest makes a folder of its own in it, for its user alone
SHARED_MEMORY_BYTES = 4 << 30
"""What must be free there: a run keeps some hundred megabytes."""


def _use_shared_memory() -> None:
    """Let temporary files lie in memory where it is large enough and may hold programs; TMPDIR goes before.

    A CA makes every round durable, and a disk that is asked to takes longer than everything else that a test does. No
    test is about a power cut of this machine: those that lose what was not synced have a file system of their own.
    """
    if "TMPDIR" in os.environ or not SHARED_MEMORY.is_dir() or not os.access(SHARED_MEMORY, os.W_OK):
        return
    if os.statvfs(SHARED_MEMORY).f_flag & os.ST_NOEXEC or shutil.disk_usage(SHARED_MEMORY).free < SHARED_MEMORY_BYTES:
        return
    # The programs that tests start, and the workers of pytest-xdist, hear of it by the environment.
    os.environ["TMPDIR"] = str(SHARED_MEMORY)
    tempfile.tempdir = None


_use_shared_memory()

# A shell ignores SIGINT for what it runs in the background, and programs inherit that; tests interrupt programs.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


_LOGS = structlog.get_config(), logging.root.handlers[:], logging.root.level


@pytest.fixture(autouse=True)
def plain_logs() -> Iterator[None]:
    """Undo what a test does to the log of the process; it would go to the standard error of a test that is over."""
    yield
    config, handlers, level = _LOGS
    structlog.configure(**config)
    logging.root.handlers[:] = [item for item in logging.root.handlers if type(item).__module__.startswith("_pytest")]
    logging.root.handlers += [item for item in handlers if item not in logging.root.handlers]
    logging.root.setLevel(level)


@pytest.fixture(scope="module")
def near_signer() -> Iterator[None]:
    """Let CAs that are opened in this process have their signer in it too, see `NearSigner`."""
    from tests.near_signer import NearSigner  # noqa: PLC0415 - most tests need no signer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mtc.ca.service.SignerProcess", NearSigner)
        yield


@pytest.fixture(scope="module")
def near_commands(near_signer: None) -> Iterator[None]:  # noqa: ARG001 - they open CAs
    """Let fleets run the commands that make their folders in this process; what serves is a process all the same."""
    from tests.commands import run_like_a_process  # noqa: PLC0415 - most tests need no commands

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mtc.testing.fleet.run_mtc", run_like_a_process)
        yield


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
