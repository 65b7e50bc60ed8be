"""The two kernels against each other, and both against the strict parser, over millions of mutated certificates.

    python fuzz/kernels.py --executions 10000000 --jobs 2 --json

Invariants, for every input:

- `scan` of the Python and of the native kernel give the same tuple, or the same type of error with the same reason and
  offset; `scan_extensions` likewise.
- `scan_many` gives what `scan` gives (the first inputs of each chunk).
- What `scan` accepts, `Certificate.parse` accepts, with the same serial number, subtree, times and entry hash; so what
  the strict parser refuses no fast path accepts. And what `scan` calls malformed, `Certificate.parse` refuses (one in
  16 is asked).

Inputs come from seeds.py and mutate.py and are the same in every run with the same --seed, however many the jobs. The
exit code is 1 when an invariant broke; the inputs are then in fuzz/findings/.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz.mutate import Anatomy, Mutator
from fuzz.seeds import EXTENSION_SETS, all_certificates, issuer_formats, large_certificates

from mtc.cert import Certificate, encode_extensions, entry_hash
from mtc.errors import Error, FormatError
from mtc.ids import REVISIONS
from mtc.kernel import MAX_CERTIFICATE_BYTES, IssuerFormat, Kernel, is_native_built, native_kernel, python_kernel

FINDINGS = Path(__file__).parent / "findings"
CHUNK = 25_000
"""Executions per chunk: what one task of a job is, and what one seed of chance is for."""
_BATCH = 64
"""Inputs per chunk that `scan_many` gets."""
_MAX_FINDINGS = 20
_PARSE_REFUSED_EVERY = 16
_EXTENSIONS_SHARE = 0.15
"""Part of the executions that mutate an extensions block alone."""


@dataclass
class Outcome:
    """What a number of executions found."""

    executions: int = 0
    scans: int = 0
    accepted: int = 0
    extension_scans: int = 0
    extension_scans_accepted: int = 0
    parse_checks: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    extension_reasons: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, str]] = field(default_factory=list)

    def add(self, other: "Outcome") -> None:
        """Take the numbers of another outcome in."""
        self.executions += other.executions
        self.scans += other.scans
        self.accepted += other.accepted
        self.extension_scans += other.extension_scans
        self.extension_scans_accepted += other.extension_scans_accepted
        self.parse_checks += other.parse_checks
        self.reasons += other.reasons
        self.extension_reasons += other.extension_reasons
        self.findings += other.findings[: _MAX_FINDINGS - len(self.findings)]


@cache
def _pools() -> tuple[list[Anatomy], list[Anatomy], list[Anatomy]]:
    """Return the certificates, the large ones, and the extension blocks to start from."""
    certificates = [Anatomy(der, revision.signatures_width) for der, revision in all_certificates()]
    large = [Anatomy(seed.der, seed.revision.signatures_width) for seed in large_certificates()]
    blocks = [Anatomy(encode_extensions(extensions)) for extensions in EXTENSION_SETS if extensions]
    return certificates, large, blocks


class Differential:
    """One job: both kernels, and what they were asked."""

    def __init__(self, formats: dict[bytes, IssuerFormat], kernels: tuple[Kernel, Kernel]) -> None:
        """Make the scanners."""
        first, second = kernels
        self.scanners = first.scanner(formats), second.scanner(formats)
        self.scan, self.other_scan = (scanner.scan for scanner in self.scanners)
        self.scan_extensions, self.other_scan_extensions = first.scan_extensions, second.scan_extensions
        self._hashers = {name: python_kernel().hasher(name) for name in ("sha256", "sm3")}
        self._formats = formats
        self.outcome = Outcome()

    def check(self, der: bytes) -> None:
        """Put one input to both kernels and to the strict parser."""
        outcome = self.outcome
        outcome.scans += 1
        try:
            found: Any = self.scan(der)
        except Error as error:
            found = type(error), error.reason, error.facts["offset"]
            outcome.reasons[f"{type(error).__name__}.{error.reason}"] += 1
            if outcome.scans % _PARSE_REFUSED_EVERY == 0:
                self._check_refused(der, error)
            is_accepted = False
        else:
            outcome.accepted += 1
            is_accepted = True
        other = self._ask(self.other_scan, der)
        if found != other:
            self._report("scan", der, found, other)
        elif is_accepted:
            self._check_accepted(der, found)
            if found[9]:
                self.check_extensions(der, found[8], found[9])

    def check_extensions(self, der: bytes, start: int, end: int) -> None:
        """Put one extensions block to both kernels."""
        outcome = self.outcome
        outcome.extension_scans += 1
        try:
            found: Any = self.scan_extensions(der, start, end)
            outcome.extension_scans_accepted += 1
        except Error as error:
            found = type(error), error.reason, error.facts["offset"]
            outcome.extension_reasons[f"{type(error).__name__}.{error.reason}"] += 1
        other = self._ask(self.other_scan_extensions, der, start, end)
        if found != other:
            self._report(f"scan_extensions [{start}, {end})", der, found, other)

    def check_batch(self, ders: list[bytes]) -> None:
        """Check that `scan_many` of both kernels gives what `scan` gives."""
        single = [self._ask(self.scan, der) for der in ders]
        for scanner in self.scanners:
            for der, expected, found in zip(ders, single, scanner.scan_many(ders), strict=True):
                result: object = found
                if isinstance(found, Error):
                    result = type(found), found.reason, found.facts["offset"]
                if result != expected:
                    self._report("scan_many differs from scan", der, expected, result)

    def _ask(self, question: Callable[..., tuple[object, ...]], *arguments: object) -> object:
        """Return the answer of the second kernel: a tuple, an error as a tuple, or what should never come."""
        try:
            return question(*arguments)
        except Error as error:
            return type(error), error.reason, error.facts["offset"]
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a panic in Rust is no Exception, and is a finding
            return repr(error)

    def _check_accepted(self, der: bytes, scan: tuple[Any, ...]) -> None:
        """Check that the strict parser accepts what the scan accepted, with the same values."""
        self.outcome.parse_checks += 1
        try:
            certificate = Certificate.parse(der)
            form = self._formats[certificate.issuer]
            hasher = self._hashers[form.hash_name]
            subtree = certificate.proof.subtree
            # Only the older revisions allow entries above 65,535 bytes; whether one is allowed is not asked here.
            hashed = entry_hash(hasher, certificate.log_entry(hasher), REVISIONS["plants-05"])
            parsed = (
                form.owner,
                certificate.serial,
                certificate.layout.not_before,
                certificate.layout.not_after,
                subtree.start,
                subtree.end,
                hashed,
                certificate.log_number << 48 | certificate.index,
            )
        except Error as error:
            self._report("accepted, but Certificate.parse refuses", der, scan, repr(error))
            return
        expected = (*scan[:6], scan[7], scan[1])
        if parsed != expected:
            self._report("Certificate.parse gives other values", der, expected, parsed)

    def _check_refused(self, der: bytes, error: Error) -> None:
        """Check that the strict parser refuses what the scan calls malformed."""
        if not isinstance(error, FormatError):
            return
        self.outcome.parse_checks += 1
        try:
            Certificate.parse(der)
        except Error:
            return
        self._report("refused as malformed, but Certificate.parse accepts", der, repr(error), "accepted")

    def _report(self, what: str, data: bytes, first: object, second: object) -> None:
        """Keep a finding."""
        if len(self.outcome.findings) < _MAX_FINDINGS:
            self.outcome.findings.append(
                {"what": what, "input": data.hex(), "first": repr(first), "second": repr(second)}
            )


def run_chunk(seed: int, chunk: int, executions: int, kernels: tuple[Kernel, Kernel]) -> Outcome:
    """Run the executions of one chunk; the same numbers give the same inputs."""
    certificates, large, blocks = _pools()
    rng = Random(f"{seed}/{chunk}")
    scans = Mutator(rng, certificates, large)
    extensions = Mutator(rng, blocks)
    differential = Differential(issuer_formats(), kernels)
    if chunk == 0:
        for anatomy in (*certificates, *large):
            differential.check(anatomy.data)
        differential.check(bytes(MAX_CERTIFICATE_BYTES + 1))
    random = rng.random
    batch: list[bytes] = []
    for _ in range(executions):
        if random() < _EXTENSIONS_SHARE:
            data = extensions.mutate()
            whole = Anatomy(data).parts
            start, end = (whole[0].body, whole[0].end) if whole else (0, len(data))
            differential.check_extensions(data, start, end)
        else:
            data = scans.mutate()
            differential.check(data)
            if len(batch) < _BATCH:
                batch.append(data)
    differential.check_batch(batch)
    differential.outcome.executions = executions
    return differential.outcome


def _run_job(task: tuple[int, int, int]) -> Outcome:
    """Run a chunk in a process of its own."""
    return run_chunk(*task, _kernels())


def _kernels() -> tuple[Kernel, Kernel]:
    """Return the Python kernel and the native one; the Python one twice where no native one is needed."""
    if os.environ.get("MTC_FUZZ_PYTHON_ONLY"):
        return python_kernel(), python_kernel()
    return python_kernel(), native_kernel()


def run(executions: int, jobs: int, seed: int) -> Iterator[Outcome]:
    """Yield the outcome of each chunk as it ends, in any order."""
    tasks = [
        (seed, chunk, min(CHUNK, executions - chunk * CHUNK)) for chunk in range((executions + CHUNK - 1) // CHUNK)
    ]
    if jobs == 1:
        yield from map(_run_job, tasks)
        return
    _pools()
    with get_context("fork").Pool(jobs) as pool:
        yield from pool.imap_unordered(_run_job, tasks)


def measure_coverage(executions: int) -> dict[str, Any]:
    """Return lines and branches of the Python kernel that a run reaches, by file; empty where coverage is missing."""
    with tempfile.TemporaryDirectory() as folder:
        data, settings, report = (Path(folder) / name for name in ("data", "settings", "report.json"))
        settings.write_text(f"[run]\nbranch = true\ninclude = */mtc/kernel/*\ndata_file = {data}\n")
        coverage = [sys.executable, "-m", "coverage"]
        program = [__file__, "--executions", str(executions), "--jobs", "1", "--coverage-executions", "0", "--json"]
        for command in (["run", *program], ["json", "-q", "-o", str(report)]):
            done = subprocess.run(  # noqa: S603 - our own program
                [*coverage, command[0], f"--rcfile={settings}", *command[1:]],
                env={**os.environ, "MTC_FUZZ_PYTHON_ONLY": "1"},
                capture_output=True,
                check=False,
            )
            if done.returncode:
                return {}
        files = json.loads(report.read_text())["files"]
    return {
        Path(name).name: {
            "lines": f"{found['summary']['covered_lines']}/{found['summary']['num_statements']}",
            "branches": f"{found['summary']['covered_branches']}/{found['summary']['num_branches']}",
            "missing_lines": found["missing_lines"],
            "missing_branches": found["missing_branches"],
        }
        for name, found in files.items()
        if Path(name).name in ("_python.py", "_layout.py")
    }


def save_findings(findings: list[dict[str, str]]) -> None:
    """Write each finding's input and what was said about it into fuzz/findings/."""
    FINDINGS.mkdir(exist_ok=True)
    for finding in findings:
        data = bytes.fromhex(finding["input"])
        name = f"kernels-{sha256(data).hexdigest()[:16]}"
        (FINDINGS / f"{name}.bin").write_bytes(data)
        (FINDINGS / f"{name}.json").write_text(json.dumps(finding, indent=1))


def main() -> int:
    """Run as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(description="Compare the native and the Python kernel on mutated certificates.")
    parser.add_argument("--executions", type=int, default=1_000_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--coverage-executions", type=int, default=100_000, help="0 measures no coverage")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    if not is_native_built() and not os.environ.get("MTC_FUZZ_PYTHON_ONLY"):
        print("The native kernel is not built, so there is nothing to compare.", file=sys.stderr)
        return 2
    total = Outcome()
    started = shown = time.monotonic()
    try:
        for outcome in run(arguments.executions, arguments.jobs, arguments.seed):
            total.add(outcome)
            if time.monotonic() - shown > 15:
                shown = time.monotonic()
                rate = total.executions / (shown - started)
                print(f"{total.executions:,} executions, {rate:,.0f}/s", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print("stopped; what follows is what was done", file=sys.stderr)
    seconds = time.monotonic() - started
    result = {
        "executions": total.executions,
        "scans": total.scans,
        "accepted": total.accepted,
        "extension_scans": total.extension_scans,
        "extension_scans_accepted": total.extension_scans_accepted,
        "parse_checks": total.parse_checks,
        "reasons": dict(total.reasons.most_common()),
        "extension_reasons": dict(total.extension_reasons.most_common()),
        "seed": arguments.seed,
        "jobs": arguments.jobs,
        "seconds": round(seconds, 1),
        "executions_per_second": round(total.executions / max(seconds, 1e-9)),
        "coverage": measure_coverage(arguments.coverage_executions) if arguments.coverage_executions else {},
        "findings": total.findings,
    }
    save_findings(total.findings)
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        _print_table(result)
    return 1 if total.findings else 0


def _print_table(result: dict[str, Any]) -> None:
    """Print the result for people."""
    for name, value in result.items():
        if isinstance(value, dict):
            print(f"{name}:")
            for key, count in value.items():
                print(f"  {key:<44} {count if isinstance(count, dict) else f'{count:>12,}'}")
        elif name == "findings":
            print(f"findings: {len(value)}")
            for finding in value:
                print(f"  {finding['what']}: {finding['first']} / {finding['second']}")
        else:
            print(f"{name}: {value:,}")


if __name__ == "__main__":
    sys.exit(main())
