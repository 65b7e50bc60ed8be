"""A CA whose ACME server validates nothing: for one figure of `mtc bench acme`, which says so by its name.

    python -m mtc.cli.bench_acme_mocked DIR --json

What such a CA certifies has been shown by nobody. It is no command of `mtc`, and needs `unsafe_for_tests` in acme.toml.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from mtc.acme.config import read_acme_config
from mtc.acme.machine.validation import Report, ValidationTask
from mtc.acme.seams import Outcome
from mtc.acme.serve import serving_acme
from mtc.ca.serve import run_ca
from mtc.ca.service import RunningCA
from mtc.errors import Reason, UsageError
from mtc.web.clock import SystemClock
from mtc.web.logs import configure_logs
from mtc.web.server import Listening, loop_factory


class AgreeingValidator:
    """Looks at nothing, and agrees."""

    async def examine(self, task: ValidationTask) -> Outcome:
        """Agree; the report says that nobody looked."""
        now = SystemClock().now()
        report = Report(perspective="mocked", region=str(task.method), started=now, finished=now)
        return Outcome(None, (report,))


@asynccontextmanager
async def mocked_acme(ca: RunningCA) -> AsyncIterator[list[Listening]]:
    """Serve ACME without validation beside a CA that is marked as one for tests. Raises UsageError for others."""
    folder = ca.parts.folder
    config = read_acme_config(folder.path, folder.config.profile)
    if config is None or not config.is_for_tests:
        raise UsageError(Reason.USAGE, f"{folder.path} is not for tests: there is no unsafe_for_tests in acme.toml")
    async with serving_acme(ca, config, AgreeingValidator()) as listening:
        yield [listening]


def main(folder: str) -> None:
    """Run until SIGTERM."""
    configure_logs(sys.stderr, is_json=True)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(run_ca(Path(folder), beside=[mocked_acme]))


if __name__ == "__main__":
    main(sys.argv[1])
