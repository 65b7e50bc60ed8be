"""A CA's signer in the process of a test: the same service on the same socket, without the start of a process.

Starting Python takes longer than most tests of a CA. What the process itself promises (that it is started, restarted
and ended with its parent) stands in `test_signer_process.py`; the programs' tests run it as it is.
"""

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from mtc.signer.service import SOCKET_NAME, SignerClient, read_passphrase, running_signer


def _keep_quiet(_event: str, _facts: dict[str, object]) -> None:
    """Report nothing; errors come as exceptions."""


class NearSigner:
    """What `SignerProcess` is for a CA: an async context in which the signer of a folder answers."""

    def __init__(self, folder: Path, *, passphrase_file: str | None = None) -> None:
        """Take the folder; nothing is started yet."""
        self._folder = folder
        self._passphrase_file = passphrase_file
        self._stack = contextlib.AsyncExitStack()

    def client(self) -> SignerClient:
        """Return a client of this signer."""
        return SignerClient(self._folder / SOCKET_NAME)

    async def __aenter__(self) -> Self:
        """Start to answer. Raises what a process would report."""
        passphrase = read_passphrase(os.environ, self._passphrase_file)
        await self._stack.enter_async_context(running_signer(self._folder, passphrase, _keep_quiet))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Answer the request in hand, and no other."""
        await self._stack.aclose()
