"""`mtc inspect`: recognise an artefact by its bytes, and show every field by name."""

import json
import sys
from collections.abc import Callable

from mtc.cert import EntryType, LogEntry
from mtc.cli.describe_cert import describe_der, describe_entry, describe_pem
from mtc.cli.describe_log import (
    describe_bundle,
    describe_landmarks,
    describe_note,
    describe_policy,
    describe_proof,
    describe_tile,
    describe_vkey,
)
from mtc.cli.describe_trust import describe_trust_store
from mtc.cli.output import ExitCode, console, named, read_input
from mtc.cli.report import Report
from mtc.cli.verify import is_der
from mtc.errors import Error, FormatError, Reason, UsageError

Describe = Callable[[bytes], Report]


def inspect_file(file: str, *, as_json: bool) -> ExitCode:
    """Recognise and print one file."""
    data = read_input(file)
    try:
        report = recognise(data, file)
    except Error as error:
        raise named(error, "standard input" if file == "-" else file) from None
    if as_json:
        sys.stdout.write(json.dumps({"file": file, **report.to_json()}) + "\n")
    else:
        report.print(console())
    return ExitCode.DONE


def recognise(data: bytes, name: str = "") -> Report:
    """Return the report on an artefact. name: its file name, which may carry a tile's coordinates.

    What can be told by its first bytes is read as that, and its fault reported; the rest is tried in order. Raises
    FormatError (UNKNOWN_FORMAT, or the fault of what it was recognised as).
    """
    if not data:
        raise FormatError(Reason.UNKNOWN_FORMAT, "an empty file is no artefact of any kind")
    if is_der(data) and _is_whole_sequence(data):
        return describe_der(data)
    if b"-----BEGIN " in data[:65536]:
        return describe_pem(data)
    text = data.lstrip()
    if text[:1] == b"{":
        if b'"mtc-evidence/' in text[:4096]:
            raise UsageError(Reason.UNKNOWN_FORMAT, "this is a bundle of evidence; look at it with: mtc evidence show")
        return describe_trust_store(data)
    if "\n\n\u2014 ".encode() in data or data.startswith(b"c2sp.org/tlog-proof@"):
        return describe_proof(data) if data.startswith(b"c2sp.org/tlog-proof@") else describe_note(data)
    tries: list[tuple[str, Describe]]
    if _is_text(data):
        tries = [
            ("a landmarks file", describe_landmarks),
            ("a checkpoint", describe_note),
            ("a policy file", describe_policy),
            ("a verifier key", describe_vkey),
        ]
    else:
        tries = []
    binary: list[tuple[str, Describe]] = [
        ("a log entry", _describe_known_entry),
        ("an entry bundle", lambda raw: describe_bundle(raw, name)),
        ("a tile", lambda raw: describe_tile(raw, name)),
        ("a log entry of an unknown type", describe_entry),
        ("a certificate", describe_der),
    ]
    faults = []
    for kind, describe in tries + binary:
        try:
            return describe(data)
        except Error as error:
            faults.append(f"not {kind}: {error.message}")
    shown = faults[: len(tries)] if tries else faults
    raise FormatError(Reason.UNKNOWN_FORMAT, "the file is of no known kind\n  " + "\n  ".join(shown))


def _describe_known_entry(data: bytes) -> Report:
    """Report on a log entry of a known type; almost any bytes could be one of an unknown type."""
    entry = LogEntry.parse(data)
    if entry.type not in list(EntryType):
        raise FormatError(Reason.BAD_ENTRY_TYPE, f"type {entry.type} is not known")
    return describe_entry(data)


def _is_whole_sequence(data: bytes) -> bool:
    """Tell whether the file claims to be one DER SEQUENCE about as long as itself; binary tiles rarely do."""
    if len(data) < 4:
        return False
    count = data[1] & 0x7F if data[1] & 0x80 else 0
    length = int.from_bytes(data[2 : 2 + count], "big") if count else data[1]
    return count <= 4 and abs(2 + count + length - len(data)) <= 64


def _is_text(data: bytes) -> bool:
    """Tell whether the bytes are UTF-8 text without control characters other than white space."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return False
    return all(char.isprintable() or char in "\n\r\t" for char in text)
