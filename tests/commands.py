"""Running `mtc` in the process of a test, as a user's shell would."""

import contextlib
import io
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog

from mtc.cli import main
from mtc.errors import PeerError, Reason
from mtc.testing.fleet import run_mtc


@dataclass(frozen=True, slots=True)
class Ran:
    """What a run of `mtc` left behind."""

    code: int
    out: str
    err: str

    @property
    def objects(self) -> list[Any]:
        """The JSON of the output, a value a line."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def json(self) -> Any:  # noqa: ANN401 - JSON
        """The one line of JSON."""
        (value,) = self.objects
        return value


Run = Callable[..., Ran]


def _run_main() -> int:
    """Run what `sys.argv` says; return the exit code."""
    # A command may send the log to a test's standard error, which is closed when the test is over.
    before, handlers, level = structlog.get_config(), logging.root.handlers[:], logging.root.level
    try:
        main()
    except SystemExit as left:
        return int(left.code or 0)
    finally:
        structlog.configure(**before)
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
    return 0


@contextlib.contextmanager
def _heard() -> Iterator[tuple[io.BytesIO, io.BytesIO]]:
    """Take what is written to standard output and standard error meanwhile."""
    out, err = io.BytesIO(), io.BytesIO()
    with (
        contextlib.redirect_stdout(io.TextIOWrapper(out, "utf-8", write_through=True)) as out_text,
        contextlib.redirect_stderr(io.TextIOWrapper(err, "utf-8", write_through=True)) as err_text,
    ):
        yield out, err
        # The bytes outlive the text around them.
        out_text.detach()
        err_text.detach()


def run_here(*arguments: str | Path) -> Ran:
    """Run a command of `mtc` in this process; no traceback is ever shown. For fixtures and tests alike.

    Starting Python for it takes most of a second; what is tested with a process is what only a process shows.
    """
    with pytest.MonkeyPatch.context() as patch, _heard() as (out, err):
        patch.setattr(sys, "argv", ["mtc", *map(str, arguments)])
        code = _run_main()
    ran = Ran(code, out.getvalue().decode(), err.getvalue().decode())
    assert "Traceback" not in ran.out + ran.err
    assert "defect in mtc" not in ran.err
    return ran


def mtc(*arguments: str | Path, code: int = 0) -> str:
    """Run a command here; return what it wrote to standard output, and to standard error too when it must fail."""
    ran = run_here(*arguments)
    assert ran.code == code, f"{arguments}: {ran.code}\n{ran.out}\n{ran.err}"
    return ran.out + ran.err if code else ran.out


def run_like_a_process(arguments: Sequence[str], *, prefix: Sequence[str] = ()) -> str:
    """Be `mtc.testing.fleet.run_mtc` without a process. prefix: a command that needs one gets one."""
    if prefix:
        return run_mtc(arguments, prefix=prefix)
    ran = run_here(*arguments)
    if ran.code:
        raise PeerError(Reason.PEER, f"mtc {arguments[0]} {arguments[1]} failed: {ran.err}", status=ran.code)
    return ran.out


def run_program(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *command: str) -> Run:
    """Return a function that runs a command of `mtc` in this process; no traceback is ever shown."""

    def run(*arguments: str | Path) -> Ran:
        monkeypatch.setattr(sys, "argv", ["mtc", *command, *map(str, arguments)])
        code = _run_main()
        captured = capfd.readouterr()
        assert "Traceback" not in captured.out + captured.err
        assert "defect in mtc" not in captured.err
        return Ran(code, captured.out, captured.err)

    return run
