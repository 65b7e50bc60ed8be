"""dns-01: a program that puts TXT records into the zone and takes them out again.

It is called as `CMD add NAME VALUE` and `CMD remove NAME VALUE`, and has the same in its environment, also under the
names that certbot uses. `add` returns when the record can be seen.

Spec: RFC 8555, "DNS Challenge".
"""

import asyncio
import contextlib
import hashlib
import os
import shlex
import signal
from collections.abc import Mapping, Sequence

from mtc.acme.client.solvers.contract import Answer
from mtc.acme.machine.identifiers import Identifier
from mtc.acme.machine.jws import encode_base64url
from mtc.acme.machine.validation import Method
from mtc.errors import Error, Reason, UsageError

HOOK_DEADLINE_S = 600.0
"""Longest run of a hook; adding a record may wait for a slow zone."""
_MAX_TOLD = 500
_GRACE_S = 3.0


def dns_name(identifier: Identifier) -> str:
    """Return where the TXT record of an identifier lies."""
    return f"_acme-challenge.{identifier.base.value}"


def dns_value(key_authorization: str) -> str:
    """Return the value of the TXT record."""
    return encode_base64url(hashlib.sha256(key_authorization.encode()).digest())


class HookSolver:
    """Runs a program for each record. wait_s: after records were added, before the server looks."""

    method = Method.DNS_01

    def __init__(self, command: str, *, wait_s: float = 0.0, deadline_s: float = HOOK_DEADLINE_S) -> None:
        """Take the command. Raises UsageError for one that cannot be split."""
        self._command = split_command(command, "--dns-hook")
        self._wait_s = wait_s
        self._deadline_s = deadline_s
        # Zones are rarely made for two changes at once.
        self._running = asyncio.Lock()

    async def present(self, answer: Answer) -> None:
        """Add the record."""
        await self._run("add", answer)
        if self._wait_s:
            await asyncio.sleep(self._wait_s)

    async def withdraw(self, answer: Answer) -> None:
        """Remove the record; what the program says about it changes nothing any more."""
        with contextlib.suppress(Error):
            await self._run("remove", answer)

    async def close(self) -> None:
        """Hold nothing."""

    async def _run(self, action: str, answer: Answer) -> None:
        """Run the program once. Raises UsageError with what it wrote."""
        name, value = dns_name(answer.identifier), dns_value(answer.key_authorization)
        environment = {
            "MTC_REQUEST_ACTION": action,
            "MTC_REQUEST_DOMAIN": answer.identifier.value,
            "MTC_REQUEST_NAME": name,
            "MTC_REQUEST_VALUE": value,
            "CERTBOT_DOMAIN": answer.identifier.value,
            "CERTBOT_VALIDATION": value,
        }
        async with self._running:
            code, output = await run_program([*self._command, action, name, value], environment, self._deadline_s)
        if code != 0:
            raise UsageError(
                Reason.USAGE, f"the DNS hook ended with {code} on `{action} {name}`: {output or 'it said nothing'}"
            )


def split_command(command: str, option: str) -> list[str]:
    """Return the words of a command; there is no shell. Raises UsageError."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(Reason.USAGE, f"{option} cannot be read: {str(error).lower()}") from None
    if not words:
        raise UsageError(Reason.USAGE, f"{option} is empty")
    return words


async def run_program(words: Sequence[str], environment: Mapping[str, str], deadline_s: float) -> tuple[int, str]:
    """Run a program with more environment; return its exit code and the end of what it wrote.

    A program that does not start counts as 127, one that takes longer than `deadline_s` is ended and counts as 124,
    as in a shell. It is ended as well when the caller is cancelled.
    """
    try:
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                *words,
                env={**os.environ, **environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        )
        process = await asyncio.shield(starting)
    except asyncio.CancelledError:
        # It may run already, with children that only the end of its whole group reaches.
        with contextlib.suppress(OSError, ValueError):
            await _end(await starting)
        raise
    except OSError as error:
        return 127, f"{words[0]}: {(error.strerror or str(error)).lower()}"
    except ValueError:
        return 127, f"{words[0]!r} cannot be run"
    try:
        async with asyncio.timeout(deadline_s):
            output = await _read_end(process)
            code = await process.wait()
    except TimeoutError:
        return 124, f"it was stopped after {deadline_s:g} s"
    finally:
        if process.returncode is None:
            await _end(process)
    return code, output


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a program and its children: politely, and then not. A hook that is a script leaves nobody behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_GRACE_S):
            await process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


async def _read_end(process: asyncio.subprocess.Process) -> str:
    """Read all that a program writes, and keep the end, without what would steer a terminal."""
    assert process.stdout is not None
    kept = b""
    while chunk := await process.stdout.read(4096):
        kept = (kept + chunk)[-4 * _MAX_TOLD :]
    text = "".join(char if char.isprintable() else " " for char in kept.decode("utf-8", "replace"))
    return " ".join(text.split())[-_MAX_TOLD:]
