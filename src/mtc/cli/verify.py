"""`mtc verify`."""

import json
import re
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from mtc.cert import identify_certificate
from mtc.cli.output import ExitCode, console, named, print_error, read_input, shown
from mtc.errors import Error, Reason, UsageError
from mtc.trust import ServerName, TrustStore, parse_trust_store, verify_certificate
from mtc.wire import find_pem_block

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line of `mtc verify --json`; None where a fact is not known."""

    file: str
    valid: bool
    form: str | None = None
    ca: str | None = None
    log: int | None = None
    index: int | None = None
    reason: str | None = None
    message: str | None = None


def verify_files(files: list[str], *, trust: str, name: str | None, at: str | None, as_json: bool) -> ExitCode:
    """Verify each file and print its verdict in the order given. Returns the exit code."""
    now = datetime.now(UTC) if at is None else parse_time(at)
    wanted = None if name is None else ServerName.parse(name)
    try:
        store = parse_trust_store(read_input(trust))
    except Error as error:
        raise named(error, trust) if "file" not in error.facts else error from None
    code = ExitCode.DONE
    for file in files:
        try:
            data = read_input(file)
        except UsageError as error:
            verdict = Verdict(file, valid=False, reason=error.reason, message=error.message)
            code = ExitCode.USAGE
            if not as_json:
                print_error(error)
        else:
            verdict = judge(file, data, store, now, wanted)
            if not verdict.valid:
                code = max(code, ExitCode.NO)
            if not as_json:
                print_verdict(verdict)
        if as_json:
            print(json.dumps(asdict(verdict)), flush=True)  # noqa: T201 - scripts read this line as it is
    return code


def parse_time(text: str) -> datetime:
    """Return the aware time of an RFC 3339 text. Raises UsageError."""
    if _RFC3339.fullmatch(text):
        try:
            return datetime.fromisoformat(text.upper())
        except ValueError:
            pass
    raise UsageError(Reason.USAGE, f"{text!r} is not an RFC 3339 time such as 2026-11-21T12:00:00Z")


def find_certificate(data: bytes) -> bytes:
    """Return the DER of a certificate file: of PEM the first CERTIFICATE block, otherwise the file itself."""
    return data if is_der(data) or b"-----BEGIN " not in data else find_pem_block(data, "CERTIFICATE")


def is_der(data: bytes) -> bool:
    """Tell whether the bytes begin like a SEQUENCE of more than 127 bytes, as no text does."""
    return data[:1] == b"\x30" and data[1:2] >= b"\x80"


def judge(file: str, data: bytes, store: TrustStore, now: datetime, wanted: ServerName | None) -> Verdict:
    """Return the verdict on one certificate file."""
    try:
        der = find_certificate(data)
    except Error as error:
        return Verdict(file, valid=False, reason=error.reason, message=error.message)
    facts = identify_certificate(der)
    verdict = Verdict(
        file,
        valid=True,
        ca=None if facts.ca_id is None else str(facts.ca_id),
        log=facts.log_number,
        index=facts.index,
    )
    try:
        verified = verify_certificate(der, store, now, name=wanted)
    except Error as error:
        return replace(verdict, valid=False, reason=error.reason, message=error.message)
    return replace(verdict, form=verified.form)


def print_verdict(verdict: Verdict) -> None:
    """Print a verdict for people."""
    where = ""
    if verdict.ca is not None:
        where = f"CA {verdict.ca}"
        if verdict.log is not None:
            where += f", log {verdict.log}, entry {verdict.index}"
    if verdict.valid:
        console().print(f"[bold green]valid[/]    {shown(verdict.file)}  [dim]{verdict.form}, {where}[/]")
    else:
        console().print(
            f"[bold red]invalid[/]  {shown(verdict.file)}  {shown(verdict.message or '')} "
            f"[dim]({verdict.reason}{'; ' if where else ''}{where})[/]"
        )
