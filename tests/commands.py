"""Running `mtc` in the process of a test, as a user's shell would."""

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog

from mtc.cli import main


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


def run_program(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *command: str) -> Run:
    """Return a function that runs a command of `mtc` in this process; no traceback is ever shown."""

    def run(*arguments: str | Path) -> Ran:
        monkeypatch.setattr(sys, "argv", ["mtc", *command, *map(str, arguments)])
        code = 0
        # A command may send the log to this test's standard error, which is closed when the test is over.
        before, handlers = structlog.get_config(), logging.root.handlers[:]
        try:
            main()
        except SystemExit as left:
            code = int(left.code or 0)
        finally:
            structlog.configure(**before)
            logging.root.handlers[:] = handlers
        captured = capfd.readouterr()
        assert "Traceback" not in captured.out + captured.err
        assert "defect in mtc" not in captured.err
        return Ran(code, captured.out, captured.err)

    return run
