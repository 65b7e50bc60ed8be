"""`mtc ca evidence`: who asked for an entry of the log, and by what it was validated."""

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from rich.console import Console

from mtc.acme.machine.evidence import EvidenceRecord, RecordKind
from mtc.acme.tracing import Trace, names_of, trace_entry
from mtc.ca.pages.search import parse_query
from mtc.cli.acme_output import account_json, order_json, status_of, time
from mtc.cli.output import ExitCode, console, shown, table
from mtc.errors import FormatError, UsageError
from mtc.ids import serial_number
from mtc.web.clock import SystemClock


def show_evidence(folder: str, entry: str, *, log_number: int | None, as_json: bool) -> ExitCode:
    """Print everything about one entry. entry: an index, or a serial number.

    Returns NO when it does not fit together. Raises UsageError when there is no such entry.
    """
    try:
        place = parse_query(entry)
    except FormatError as error:
        raise UsageError(error.reason, error.message) from None
    trace = asyncio.run(trace_entry(Path(folder), place.index, place.log_number or log_number))
    if as_json:
        sys.stdout.write(json.dumps(_trace_json(trace)) + "\n")
    else:
        _print(console(), trace)
    return ExitCode.NO if trace.findings else ExitCode.DONE


def _trace_json(trace: Trace) -> dict[str, object]:
    """Return a trace for scripts."""
    entry, order, account = trace.entry, trace.order, trace.account
    status = None if order is None else order.status_at(SystemClock().now(), [])
    return {
        "log": trace.log_number,
        "index": trace.index,
        "serial": str(serial_number(trace.log_number, trace.index)),
        "request_key": _text(trace.request_key),
        "acme": trace.order_id is not None,
        "signed": trace.is_signed,
        "entry": None
        if entry is None
        else {
            "names": [item.to_json() for item in sorted(names_of(entry))],
            "spki_hash": entry.spki_hash.hex(),
            "not_before": entry.not_before.isoformat(),
            "not_after": entry.not_after.isoformat(),
        },
        "order": None if order is None or status is None else order_json(order, status),
        "account": None if account is None else account_json(account),
        "evidence": [record.to_json() for record in trace.records],
        "findings": list(trace.findings),
    }


def _print(out: Console, trace: Trace) -> None:
    """Print a trace for people."""
    out.print(f"[bold]Entry {trace.index}[/] of log {trace.log_number}")
    rows = table("field", "value")
    rows.add_row("serial number", f"0x{serial_number(trace.log_number, trace.index):x}")
    rows.add_row("round", "signed" if trace.is_signed else "[yellow]decided, not signed yet[/]")
    if trace.entry is not None:
        entry = trace.entry
        rows.add_row("names", shown(", ".join(item.value for item in sorted(names_of(entry)))) or "none")
        rows.add_row("valid", f"{time(entry.not_before)} to {time(entry.not_after)}")
        rows.add_row("key", f"SHA-256 {entry.spki_hash.hex()}")
    else:
        rows.add_row("entry", "[dim]not published, or pruned[/]")
    if trace.order_id is None:
        key = _text(trace.request_key)
        asked = f"request key {shown(key)}" if key else "no request key is kept"
        rows.add_row("asked for", f"not by ACME: {asked}")
        out.print(rows)
        return
    rows.add_row("asked for", f"by ACME, order {shown(trace.order_id)}")
    if trace.order is not None:
        rows.add_row("order", status_of(trace.order.status_at(SystemClock().now(), [])))
    out.print(rows)
    _print_applicant(out, trace)
    for record in trace.records:
        out.print()
        _print_record(out, record)
    out.print()
    for finding in trace.findings:
        out.print(f"[bold red]does not fit[/]  {shown(finding)}")
    if not trace.findings:
        out.print("[green]log, database and journal agree[/]")


def _print_applicant(out: Console, trace: Trace) -> None:
    """Print who asked: as the evidence says, and what the account says today."""
    said = next((item.document for item in trace.records if item.kind is RecordKind.FINALIZATION), {})
    account = trace.account
    rows = table("who asked", "")
    rows.add_row("account", shown(account.id if account is not None else "unknown"))
    rows.add_row("contacts", shown(_joined(said.get("contacts"))) or "none")
    rows.add_row("from", shown(str(said.get("client") or "an unknown address")))
    rows.add_row("key thumbprint", shown(str(said.get("account_thumbprint", "unknown"))))
    if account is not None and account.eab_kid is not None:
        rows.add_row("external account", shown(account.eab_kid))
    out.print()
    out.print(rows)


def _print_record(out: Console, record: EvidenceRecord) -> None:
    """Print a record of evidence."""
    outcome = "[green]yes[/]" if record.is_positive else "[red]no[/]"
    name = "" if record.identifier is None else f" of {shown(record.identifier.value)}"
    method = record.document.get("method")
    by = f" by {shown(str(method))}" if method and record.kind is RecordKind.VALIDATION else ""
    kind = {"caa": "CAA check"}.get(record.kind, str(record.kind))
    out.print(f"[bold]{kind}{name}[/]{by}  {outcome}  [dim]record {record.id}, {time(record.moment)}[/]")
    reports = record.document.get("reports")
    if isinstance(reports, Sequence) and not isinstance(reports, str):
        for report in reports:
            if isinstance(report, Mapping):
                _print_report(out, report)
        for absence in _items(record.document.get("absent")):
            out.print(f"  [yellow]no report[/]  {shown(str(absence))}")
        return
    for key, value in record.document.items():
        if value not in (None, "", [], {}):
            out.print(f"  {shown(key.replace('_', ' '))}: {shown(_joined(value))}")


def _print_report(out: Console, report: Mapping[str, object]) -> None:
    """Print what one perspective saw."""
    problem = report.get("problem")
    verdict = f"[red]no[/] {shown(str(problem.get('detail')))}" if isinstance(problem, Mapping) else "[green]yes[/]"
    region = f" ({shown(str(report.get('region')))})" if report.get("region") else ""
    out.print(f"  [bold]{shown(str(report.get('perspective')))}[/]{region}  {verdict}  [dim]{_span(report)}[/]")
    for lookup in _items(report.get("lookups")):
        if isinstance(lookup, Mapping):
            secure = " [green]DNSSEC[/]" if lookup.get("secure") else ""
            answers = shown(_joined(lookup.get("answers")) or str(lookup.get("status")))
            question = shown(f"{lookup.get('name')} {lookup.get('type')}")
            out.print(f"    DNS  {question}  {answers}{secure}  [dim]{shown(str(lookup.get('server')))}[/]")
    for connection in _items(report.get("connections")):
        if isinstance(connection, Mapping):
            place = f"{connection.get('address')} port {connection.get('port')}"
            parts = (str(connection.get("target")), place, str(connection.get("outcome")))
            out.print(f"    TCP  {'  '.join(shown(part) for part in parts)}")
    found = _joined(report.get("caa_records"))
    where = f" at {report.get('caa_name')}" if report.get("caa_name") else ""
    out.print(f"    CAA  {shown(found + where) if found else 'no records'}")


def _span(report: Mapping[str, object]) -> str:
    """Return when a perspective looked, and how long."""
    try:
        started = datetime.fromisoformat(str(report.get("started")))
        finished = datetime.fromisoformat(str(report.get("finished")))
    except ValueError:
        return "at an unknown time"
    return f"{time(started)}, {(finished - started).total_seconds() * 1000:.0f} ms"


def _items(value: object) -> Sequence[object]:
    """Return a list's items, none of anything else."""
    return value if isinstance(value, list | tuple) else ()


def _joined(value: object) -> str:
    """Return a JSON value as text: lists with commas, identifiers by their value."""
    if isinstance(value, list | tuple):
        return ", ".join(_joined(item) for item in value)
    if isinstance(value, Mapping):
        return str(value["value"]) if "value" in value else json.dumps(value)
    return str(value) if value is not None else ""


def _text(key: bytes) -> str:
    """Return a request key as text, as hex when it is none."""
    try:
        text = key.decode("ascii")
    except UnicodeDecodeError:
        return key.hex()
    return text if text.isprintable() else key.hex()
