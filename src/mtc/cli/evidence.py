"""`mtc evidence verify` and `mtc evidence show`: what a bundle proves, told so that a person can follow it."""

import json
import sys
from datetime import UTC, datetime
from typing import assert_never

from rich.console import Console

from mtc.cli.output import ExitCode, console, named, read_input, shown
from mtc.cosign.evidence import (
    BadEntries,
    BadSignature,
    EmptyRoot,
    Evidence,
    Finding,
    ForeignSubtree,
    Inconsistent,
    RolledBack,
    Side,
    SignedSubtree,
    SplitSubtree,
    SplitTrees,
    SplitView,
    WentBack,
    parse_evidence,
    verify_evidence,
)
from mtc.errors import Error, Reason, Rejected
from mtc.note import Note

_LAST_TIME = 253_402_300_799
"""The last second of the year 9999, behind which dates have no name here."""


def verify_file(file: str, *, as_json: bool, needs_proof: bool) -> ExitCode:
    """Verify one bundle and tell what it proves.

    needs_proof: testimony is not enough. Raises the Error that says why it proves nothing.
    """
    evidence = _read(file)
    try:
        finding = verify_evidence(evidence)
        if needs_proof and not finding.is_proof:
            raise Rejected(
                Reason.NOT_EVIDENCE, f"{evidence.kind} is testimony: nothing that {evidence.subject} signed convicts it"
            )
    except Error as error:
        if as_json:
            _print_json({"file": file, "verified": False, "reason": error.reason, "message": error.message})
            return ExitCode.NO
        console().print(f"[bold red]proves nothing[/]  {shown(file)}  {shown(error.message)} [dim]({error.reason})[/]")
        return ExitCode.NO
    if as_json:
        _print_json({"file": file, "verified": True, **_finding_json(finding)})
    else:
        _tell(console(), file, finding)
    return ExitCode.DONE


def show_file(file: str) -> ExitCode:
    """Print a bundle as it is, notes and hashes, without verifying anything."""
    evidence, out = _read(file), console()
    _tell_head(out, evidence)
    out.print("[yellow]not verified[/] [dim](mtc evidence verify says what it proves)[/]")
    for label, text in _parts(evidence):
        out.print(f"\n[bold]{label}[/]")
        out.print(shown(text), style="none")
    return ExitCode.DONE


def _read(file: str) -> Evidence:
    """Return the bundle in a file; errors name it."""
    data = read_input(file)
    try:
        return parse_evidence(data)
    except Error as error:
        raise named(error, "standard input" if file == "-" else file) from None


def _tell(out: Console, file: str, finding: Finding) -> None:
    """Print a finding for people."""
    if finding.is_proof:
        out.print(f"[bold red]PROOF[/]  {shown(file)}")
    else:
        out.print(f"[bold yellow]TESTIMONY[/]  {shown(file)}  [dim]convicts nobody by itself[/]")
    _tell_head(out, finding.evidence)
    out.print()
    width = max(len(side.label) for side in finding.sides)
    span = max(len(side.what) for side in finding.sides)
    for side in finding.sides:
        time = "" if side.signed_at is None else f"  signed {_time(side.signed_at)}"
        mark = "" if side.is_signed else "  [dim]not signed by the subject[/]"
        out.print(f"  [bold]{side.label:{width}}[/]  {side.what:{span}}{time}{mark}")
        out.print(f"  {'':{width}}  {_marked(side, finding.sides[0])}")
    out.print(f"\n[bold]Proven[/]     {shown(finding.proven)}")
    if finding.testimony:
        out.print(f"[bold]Testimony[/]  {shown(finding.testimony)}")
    if finding.limits:
        out.print(f"[bold]Limits[/]     {shown(finding.limits)}")


def _tell_head(out: Console, evidence: Evidence) -> None:
    """Print whom it is about."""
    subject = evidence.subject
    out.print(f"  kind       {evidence.kind}")
    out.print(f"  subject    {shown(str(subject))}  [dim]{subject.verifier.algorithm.name}[/]")
    out.print(f"  log        {shown(evidence.origin)}  [dim]{evidence.hash_name}[/]")
    remark = " by ".join(text for text in (evidence.collected_at, evidence.collected_by) if text)
    if remark:
        out.print(f"  collected  {shown(remark)}  [dim]says the file; nothing proves it[/]")


def _marked(side: Side, first: Side) -> str:
    """Return a hash; one that contradicts the first is marked from the first other digit on."""
    digits, reference = side.digest.hex(), first.digest.hex()
    if not side.contradicts or digits == reference or len(digits) != len(reference):
        return digits
    at = next(place for place, (one, other) in enumerate(zip(digits, reference, strict=True)) if one != other)
    return f"{digits[:at]}[bold red]{digits[at:]}[/]  [dim]differs[/]"


def _time(seconds: int) -> str:
    """Return POSIX seconds as a time, or as a number when they lie beyond dates."""
    if seconds > _LAST_TIME:
        return str(seconds)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _finding_json(finding: Finding) -> dict[str, object]:
    """Return a finding as JSON values."""
    evidence = finding.evidence
    return {
        "kind": evidence.kind,
        "is_proof": finding.is_proof,
        "subject": evidence.subject.encode(),
        "origin": evidence.origin,
        "hash": evidence.hash_name,
        "proven": finding.proven,
        "testimony": finding.testimony,
        "limits": finding.limits,
        "statements": [
            {
                "label": side.label,
                "what": side.what,
                "digest": side.digest.hex(),
                "signed_at": side.signed_at,
                "is_signed": side.is_signed,
                "contradicts": side.contradicts,
            }
            for side in finding.sides
        ],
        "collected": {"at": evidence.collected_at, "by": evidence.collected_by},
    }


def _print_json(value: dict[str, object]) -> None:
    """Print one line for scripts."""
    sys.stdout.write(json.dumps(value) + "\n")


def _parts(evidence: Evidence) -> list[tuple[str, str]]:  # noqa: C901, PLR0911 - one case per kind
    """Return what a bundle holds as texts with labels."""
    match evidence.exhibit:
        case SplitView(first, second):
            return [("first", _text(first)), ("second", _text(second))]
        case Inconsistent(older, newer, held, proof):
            return [("older", _text(older)), ("newer", _text(newer)), ("proof", _proof(held, proof))]
        case EmptyRoot(checkpoint):
            return [("checkpoint", _text(checkpoint))]
        case SplitSubtree(one, other):
            return [("first", _text(one)), ("second", _text(other))]
        case ForeignSubtree(signed, checkpoint, held, proof):
            return [("signed", _text(signed)), ("checkpoint", _text(checkpoint)), ("proof", _proof(held, proof))]
        case SplitTrees(subtree, one, other):
            return [
                ("subtree", str(subtree)),
                ("first", _text(one.checkpoint)),
                ("proof", _proof(one.held, one.proof)),
                ("second", _text(other.checkpoint)),
                ("proof", _proof(other.held, other.proof)),
            ]
        case WentBack(larger, later):
            return [("larger", _text(larger)), ("later", _text(later))]
        case RolledBack(checkpoint, cosigner, size, root):
            register = f"tree of {size} entries, {root.hex()}"
            return [("checkpoint", _text(checkpoint)), ("cosigner", cosigner.encode()), ("register", register)]
        case BadEntries(checkpoint, served):
            files = "\n".join(f"{place.path}  {len(content)} bytes" for place, content in served)
            return [("checkpoint", _text(checkpoint)), ("served", files)]
        case BadSignature(statement):
            return [("statement", _text(statement))]
        case _:
            assert_never(evidence.exhibit)


def _text(statement: Note | SignedSubtree) -> str:
    """Return a statement as text."""
    if isinstance(statement, Note):
        return statement.encode().decode().rstrip("\n")
    return f"{statement.subtree} {statement.subtree_hash.hex()}\nsignature {statement.signature.hex()}"


def _proof(held: bytes, proof: tuple[bytes, ...]) -> str:
    """Return a proof as text."""
    return "\n".join([f"held {held.hex()}", *(value.hex() for value in proof)])
