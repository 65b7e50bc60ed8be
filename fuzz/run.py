"""Coverage-guided fuzzing of every parser: each target for a number of seconds, and a table at the end.

    python fuzz/run.py [--seconds 30] [--targets certificate,note] [--jobs 2]

Needs atheris, which has wheels for some platforms only; without it nothing is fuzzed, and this program says so. Inputs
that grew coverage stay in fuzz/corpus/ for the next run, inputs that break an invariant in fuzz/findings/, and the exit
code is then 1. To see a finding again: python fuzz/worker.py TARGET fuzz/findings/FILE.
"""

import argparse
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz.targets import MAX_BYTES, TARGETS

FOLDER = Path(__file__).parent
FINDINGS = FOLDER / "findings"
CORPUS = FOLDER / "corpus"
_GRACE_S = 60
"""How much longer than asked a target may take to start and to stop; its start reads the whole corpus."""
_INTERRUPTED = (72, 130, -signal.SIGINT)
"""Exit codes after an interrupt: libFuzzer's, Python's, and none."""
_STATUS = re.compile(r"^#(\d+)\s+\S+\s+cov: (\d+) ft: (\d+) corp: (\d+)/", re.MULTILINE)
_EXECUTIONS = re.compile(r"^stat::number_of_executed_units:\s+(\d+)", re.MULTILINE)


class Result(NamedTuple):
    """What fuzzing one target came to. edges, features: libFuzzer's `cov` and `ft`. fault: empty without a finding."""

    name: str
    executions: int
    seconds: float
    edges: int
    features: int
    corpus: int
    findings: int
    fault: str


def write_seeds(name: str) -> Path:
    """Write a target's seeds into its corpus and return the folder."""
    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    for seed in TARGETS[name].seeds():
        (folder / sha256(seed).hexdigest()[:20]).write_bytes(seed)
    return folder


def fuzz(name: str, seconds: int, running: list[subprocess.Popen[str]]) -> Result:
    """Fuzz one target in a process of its own. running: the processes to end when this one is interrupted."""
    folder = write_seeds(name)
    FINDINGS.mkdir(exist_ok=True)
    before = set(FINDINGS.glob(f"{name}-*"))
    command = [
        sys.executable,
        str(FOLDER / "worker.py"),
        name,
        f"-max_total_time={seconds}",
        f"-max_len={MAX_BYTES}",
        f"-artifact_prefix={FINDINGS / name}-",
        "-timeout=20",
        "-rss_limit_mb=3000",
        "-print_final_stats=1",
        str(folder),
    ]
    started = time.monotonic()
    process = subprocess.Popen(  # noqa: S603 - our own program
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    running.append(process)
    try:
        output, _ = process.communicate(timeout=seconds + _GRACE_S)
        fault = "" if process.returncode in (0, *_INTERRUPTED) else _fault(output, process.returncode)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        fault = "did not stop in time"
    status = _STATUS.findall(output)
    done, edges, features, corpus = map(int, status[-1]) if status else (0, 0, 0, 0)
    executions = _EXECUTIONS.search(output)
    new = set(FINDINGS.glob(f"{name}-*")) - before
    if fault:
        (FINDINGS / f"{name}.log").write_text(output)
    return Result(
        name,
        int(executions[1]) if executions else done,
        time.monotonic() - started,
        edges,
        features,
        corpus,
        len(new) or bool(fault),
        fault,
    )


def _fault(output: str, code: int) -> str:
    """Return the one line that says best what went wrong."""
    lines = output.splitlines()
    after = [position for position, line in enumerate(lines) if "Uncaught Python exception" in line]
    errors = lines[after[0] + 1 :] if after else [line for line in lines if "ERROR: libFuzzer" in line]
    return (errors[0].strip() if errors else f"exit code {code}")[:160]


def print_table(results: Sequence[Result]) -> None:
    """Print one line per target, and what was found."""
    print(f"{'target':<18}{'executions':>12}{'exec/s':>9}{'edges':>8}{'features':>10}{'corpus':>8}{'findings':>10}")
    for item in results:
        rate = item.executions / max(item.seconds, 1e-9)
        print(
            f"{item.name:<18}{item.executions:>12,}{rate:>9,.0f}{item.edges:>8,}{item.features:>10,}{item.corpus:>8,}"
            f"{item.findings:>10}"
        )
    total = sum(item.executions for item in results)
    seconds = sum(item.seconds for item in results)
    print(f"{'all':<18}{total:>12,}{total / max(seconds, 1e-9):>9,.0f}{'':>26}{sum(i.findings for i in results):>10}")
    print(f"fuzzed for {seconds:,.0f} s in {len(results)} targets")
    for item in results:
        if item.fault:
            print(f"FINDING in {item.name}: {item.fault}\n  invariant: {TARGETS[item.name].invariant}")


def main() -> int:
    """Run as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(description="Fuzz every parser, guided by coverage.")
    parser.add_argument("--seconds", type=int, default=30, help="for each target")
    parser.add_argument("--targets", default=",".join(TARGETS), help="names, separated by commas")
    parser.add_argument("--jobs", type=int, default=2, help="targets at a time")
    arguments = parser.parse_args()
    names = arguments.targets.split(",")
    if unknown := [name for name in names if name not in TARGETS]:
        print(f"no targets {', '.join(unknown)}; there are {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    if find_spec("atheris") is None:
        print(
            "NOT FUZZED: atheris is not installed; it has wheels for some platforms only. The targets themselves run "
            "with fixed mutations in tests/test_fuzz_targets.py."
        )
        return 0
    running: list[subprocess.Popen[str]] = []
    results: list[Result] = []
    is_interrupted = False
    with ThreadPoolExecutor(arguments.jobs) as pool:
        tasks = [pool.submit(fuzz, name, arguments.seconds, running) for name in names]
        try:
            for task in tasks:
                results.append(task.result())
                print(f"{len(results)}/{len(names)} {results[-1].name}", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            is_interrupted = True
            pool.shutdown(wait=False, cancel_futures=True)
            for process in running:
                process.send_signal(signal.SIGINT)
            results += [task.result() for task in tasks[len(results) :] if not task.cancelled()]
            print("stopped; what follows is what was done", file=sys.stderr)
    print_table(results)
    if any(item.findings for item in results):
        return 1
    return 130 if is_interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
