"""`mtc ca issue`: one certificate, or thousands from a file of JSON lines, from a CA's folder or its URL."""

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from mtc.ca.api import describe_result, parse_json, parse_request
from mtc.ca.client import CAClient, is_served
from mtc.ca.config import read_config
from mtc.ca.service import RunningCA, open_ca
from mtc.cli.ca import read_token
from mtc.cli.output import ExitCode, console, error_console, read_input, shown, write_new_file
from mtc.errors import Error, Reason, Rejected, UsageError
from mtc.web.logs import configure_logs

BULK_LINES = 5000
"""Requests of a file that are sent together."""


class Issuer(Protocol):
    """A CA, here or elsewhere."""

    async def issue_lines(self, lines: Sequence[bytes]) -> list[dict[str, object]]:
        """Have requests issued; an answer per line, in order: a certificate, or an error with its reason."""

    async def upgrade(self, standalone: str) -> dict[str, object]:
        """Return the landmark-relative certificate, or in how many seconds to ask again."""


@dataclass(frozen=True, slots=True)
class IssueOptions:
    """What the command line asks for. form: standalone, landmark or both."""

    target: str
    csr: str | None
    public_key: str | None
    dns: tuple[str, ...]
    ip: tuple[str, ...]
    lifetime: str | None
    form: str
    out: str | None
    request_key: str | None
    bulk: str | None
    token_file: str | None
    as_json: bool


class _Remote:
    """A CA that is asked over its API."""

    def __init__(self, client: CAClient) -> None:
        self._client = client

    async def issue_lines(self, lines: Sequence[bytes]) -> list[dict[str, object]]:
        """Send the lines."""
        return await self._client.issue_lines(lines)

    async def upgrade(self, standalone: str) -> dict[str, object]:
        """Send the certificate."""
        _, answer = await self._client.request("POST", "certificates/landmark", {"certificate": standalone})
        return answer


class _Local:
    """A CA in this process."""

    def __init__(self, ca: RunningCA) -> None:
        self._ca = ca

    async def issue_lines(self, lines: Sequence[bytes]) -> list[dict[str, object]]:
        """Issue; every line was parsed before and is in order."""
        results = await self._ca.issue([parse_request(parse_json(line)) for line in lines])
        return [describe_result(result) for result in results]

    async def upgrade(self, standalone: str) -> dict[str, object]:
        """Upgrade."""
        return await self._ca.upgrade(standalone.encode())


def run_issue(options: IssueOptions) -> int:
    """Issue, and write what came out. Returns the exit code: 1 when a request was refused."""
    configure_logs(sys.stderr, level=logging.ERROR)
    _check_options(options)
    return asyncio.run(_issue_bulk(options) if options.bulk is not None else _issue_one(options))


def _check_options(options: IssueOptions) -> None:
    """Refuse options that do not go together."""
    if options.form not in ("standalone", "landmark", "both"):
        raise UsageError(Reason.USAGE, f"--form is standalone, landmark or both, not {options.form!r}")
    single = (options.csr, options.public_key, options.request_key, options.lifetime, *options.dns, *options.ip)
    if options.bulk is not None:
        if any(item is not None for item in single):
            raise UsageError(Reason.USAGE, "--bulk takes everything from its file; leave the other options away")
        if options.out is None:
            raise UsageError(Reason.USAGE, "--bulk writes its answers to a file: --out FILE")
        if options.form != "standalone":
            raise UsageError(Reason.USAGE, "--bulk issues standalone certificates; mtc cert upgrade makes the others")
    elif (options.csr is None) == (options.public_key is None):
        raise UsageError(Reason.USAGE, "give either --csr FILE or --public-key FILE")


@asynccontextmanager
async def open_issuer(target: str, token: str | None) -> AsyncIterator[Issuer]:
    """Reach the CA: over HTTP for a URL, over the socket of a folder that is served, in this process otherwise."""
    if "://" in target:
        async with CAClient.connect(target, token) as client:
            yield _Remote(client)
        return
    folder = Path(target)
    socket = folder / read_config(folder).socket
    if is_served(socket):
        async with CAClient.connect(str(socket)) as client:
            yield _Remote(client)
        return
    async with open_ca(folder) as ca, ca.sequencing():
        yield _Local(ca)


async def _issue_one(options: IssueOptions) -> int:
    """Issue one certificate."""
    line = json.dumps(_document(options)).encode()
    async with open_issuer(options.target, read_token(options.token_file)) as issuer:
        with _waiting("waiting for the round") as progress:
            (answer,) = await issuer.issue_lines([line])
            if "error" in answer:
                raise Rejected(_reason(answer), f"not issued: {answer['error']}")
            relative = None
            if options.form != "standalone":
                relative = await _wait_for_landmark(issuer, str(answer["certificate"]), progress)
    _print_one(options, answer, relative)
    return ExitCode.DONE


def _document(options: IssueOptions) -> dict[str, object]:
    """Return the request as the API reads it."""
    document: dict[str, object] = {"dns": list(options.dns), "ip": list(options.ip)}
    if options.csr is not None:
        document["csr"] = _pem_text(options.csr)
    if options.public_key is not None:
        document["public_key"] = _pem_text(options.public_key)
    if options.lifetime is not None:
        document["lifetime"] = options.lifetime
    if options.request_key is not None:
        document["request_key"] = options.request_key
    return document


def _pem_text(file: str) -> str:
    """Return a file's text; DER is wrapped so that it fits into JSON."""
    data = read_input(file)
    try:
        return data.decode("ascii")
    except UnicodeDecodeError:
        raise UsageError(
            Reason.BAD_PEM, f"{file} is no PEM; convert it, for example: openssl req -inform der"
        ) from None


async def _wait_for_landmark(issuer: Issuer, standalone: str, progress: Progress) -> dict[str, object]:
    """Ask again until a landmark covers the entry."""
    while True:
        answer = await issuer.upgrade(standalone)
        if "certificate" in answer:
            return answer
        wait = answer.get("retry_after_s")
        seconds = min(max(float(wait), 0.05), 30.0) if isinstance(wait, int | float) else 1.0
        _tell(progress, f"waiting for the landmark, due in {wait} s")
        await asyncio.sleep(seconds)


def _print_one(options: IssueOptions, answer: Mapping[str, object], relative: Mapping[str, object] | None) -> None:
    """Write the certificates, and say what they are."""
    parts = {} if options.form == "landmark" else {"standalone": str(answer["certificate"])}
    if relative is not None:
        parts["landmark-relative"] = str(relative["certificate"])
    for warning in _list(answer, "warnings"):
        error_console().print(f"[yellow]warning:[/] {shown(str(warning))}")
    if options.out is not None:
        write_new_file(Path(options.out), "".join(parts.values()).encode())
    if options.as_json:
        facts = {name: answer[name] for name in ("log", "index", "serial", "not_after", "warnings")}
        sys.stdout.write(json.dumps(facts | {"certificates": parts, "out": options.out}) + "\n")
    elif options.out is None:
        sys.stdout.write("".join(parts.values()))
    else:
        console().print(
            f"issued {' and '.join(parts)} · log {answer['log']} · entry {answer['index']} · "
            f"serial {answer['serial']} · until {answer['not_after']} · {shown(options.out)}"
        )


async def _issue_bulk(options: IssueOptions) -> int:
    """Issue what stands in a file of JSON lines; what its output file has already is left out."""
    assert options.bulk is not None
    assert options.out is not None
    lines = list(_numbered_requests(read_input(options.bulk), options.bulk))
    out = Path(options.out)
    done = _finished_keys(out)
    todo = [(key, line) for key, line in lines if key not in done]
    refused = 0
    async with open_issuer(options.target, read_token(options.token_file)) as issuer:
        with _counting(len(lines), len(lines) - len(todo)) as advance:
            for at in range(0, len(todo), BULK_LINES):
                chunk = todo[at : at + BULK_LINES]
                answers = await issuer.issue_lines([line for _, line in chunk])
                refused += sum("error" in answer for answer in answers)
                _append(out, [{"key": key} | answer for (key, _), answer in zip(chunk, answers, strict=True)])
                advance(len(chunk))
    before = len(lines) - len(todo)
    summary = {"requests": len(lines), "before": before, "issued": len(todo) - refused, "refused": refused}
    if options.as_json:
        sys.stdout.write(json.dumps(summary) + "\n")
    else:
        console().print(" · ".join(f"{value} {name}" for name, value in summary.items()) + f" · {shown(options.out)}")
    return ExitCode.NO if refused else ExitCode.DONE


def _numbered_requests(data: bytes, file: str) -> Iterator[tuple[str, bytes]]:
    """Yield the idempotency key and the line of each request; a line without a key gets the hash of its bytes.

    Equal lines without a key are one request. Raises UsageError that names file and line.
    """
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            document = parse_json(line)
            parse_request(document)
        except Error as error:
            raise UsageError(error.reason, f"{file}, line {number}: {error.message}") from None
        key = document.setdefault("request_key", hash_of(line))
        yield str(key), json.dumps(document).encode()


def hash_of(line: bytes) -> str:
    """Return the key of a request that has none."""
    return f"line-{hashlib.sha256(line.strip()).hexdigest()[:32]}"


def _finished_keys(out: Path) -> set[str]:
    """Return the keys that an earlier run has written with a certificate. A torn last line is cut off."""
    if not out.exists():
        return set()
    data = read_input(str(out))
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        with out.open("r+b") as file:
            file.truncate(len(whole))
    keys = set()
    for number, line in enumerate(whole.split(b"\n"), 1):
        if line:
            try:
                document = parse_json(line)
            except Error:
                raise UsageError(Reason.UNREADABLE, f"{out}, line {number}: is no output of mtc ca issue") from None
            if "certificate" in document:
                keys.add(str(document.get("key")))
    return keys


def _append(out: Path, answers: Sequence[Mapping[str, object]]) -> None:
    """Write answers behind those that are there, durable on return."""
    try:
        with out.open("ab") as file:
            file.write(b"".join(json.dumps(answer).encode() + b"\n" for answer in answers))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        text = (error.strerror or str(error)).lower()
        raise UsageError(
            Reason.UNREADABLE, f"{out} cannot be written: {text}; what was issued is kept, run the same command again"
        ) from None


def _reason(answer: Mapping[str, object]) -> Reason:
    """Return the reason of a refusal."""
    value = answer.get("reason")
    return Reason(value) if isinstance(value, str) and value in list(Reason) else Reason.PEER


def _list(answer: Mapping[str, object], name: str) -> list[object]:
    """Return a list in an answer."""
    value = answer.get(name)
    return value if isinstance(value, list) else []


@contextlib.contextmanager
def _waiting(text: str) -> Iterator[Progress]:
    """Show a line while something is waited for; nothing in a pipe."""
    progress = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=error_console(), transient=True
    )
    progress.disable = not error_console().is_terminal
    with progress:
        progress.add_task(text, total=None)
        yield progress


def _tell(progress: Progress, text: str) -> None:
    """Change the line."""
    for task in progress.task_ids:
        progress.update(task, description=text)


@contextlib.contextmanager
def _counting(total: int, done: int) -> Iterator[Callable[[int], None]]:
    """Show a bar while requests are issued; nothing in a pipe."""
    progress = Progress(
        TextColumn("issuing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=error_console()
    )
    progress.disable = not error_console().is_terminal
    with progress:
        task = progress.add_task("", total=total, completed=done)
        yield lambda count: progress.advance(task, count)
