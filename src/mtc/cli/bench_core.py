"""`mtc bench core`: verification, hashing and proofs, measured against P-256 in the same run."""

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import repeat
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from mtc.cert import (
    Certificate,
    EntryType,
    LogEntry,
    MTCProof,
    SerialRanges,
    SubtreeSignature,
    TBSCertificateLogEntry,
    encode_extended_key_usage,
    encode_key_usage,
    encode_name,
    encode_subject_alt_name,
    entry_hash,
)
from mtc.cert.x509 import SERVER_AUTH_OID
from mtc.cli.output import console, table
from mtc.crypto import HASH_ALGORITHMS, generate_key, parse_public_key, parse_signature_algorithm
from mtc.ids import DEFAULT_REVISION, TrustAnchorID, encode_ca_name, log_id, serial_number
from mtc.kernel import Kernel, active_kernel, is_native_built, native_kernel, python_kernel
from mtc.merkle import Subtree, evaluate_inclusion, root_hash
from mtc.note import CosignedMessage
from mtc.trust import (
    Cosigner,
    CosignerPolicy,
    TrustedCA,
    TrustedSubtree,
    TrustStore,
    verify_certificate,
    verify_signature,
    verify_signatures,
)

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOST = "www.example.com"
PROOF_HASHES = 22
ROUNDS = 7
BATCH = 1000


@dataclass(frozen=True, slots=True)
class Workload:
    """Certificates of one made-up log, and the signatures beneath them."""

    ca: TrustedCA
    landmark_der: bytes
    standalone_der: bytes
    tbs_entry: bytes
    cosignatures: tuple[tuple[Cosigner, bytes, bytes], ...]


def make_workload() -> Workload:
    """Make one entry with a P-256 key and both certificates for it, 22 hashes below a subtree.

    The sibling hashes are made up: nobody needs four million real entries to measure a path through them.
    """
    hasher = active_kernel().hasher("sha256")
    ca_id = TrustAnchorID.parse("32473.1")
    spki = generate_private_key(SECP256R1()).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    entry = TBSCertificateLogEntry.build(
        hasher=hasher,
        issuer=encode_ca_name(ca_id, DEFAULT_REVISION),
        subject=encode_name(),
        spki=spki,
        not_before=NOW - timedelta(days=1),
        not_after=NOW + timedelta(days=6),
        extensions=(
            encode_key_usage("digitalSignature"),
            encode_extended_key_usage(SERVER_AUTH_OID),
            encode_subject_alt_name([HOST, "example.com"], is_critical=True),
        ),
    )
    log_entry = LogEntry(EntryType.TBS_CERT, entry.encode())
    index, subtree = 0x2AAAAA, Subtree(0, 1 << PROOF_HASHES)
    proof = tuple(hasher.digest(bytes((level,))) for level in range(PROOF_HASHES))
    root = evaluate_inclusion(hasher, subtree, index, entry_hash(hasher, log_entry), proof)
    cosigners, signatures, cosigned = [], [], []
    algorithm = parse_signature_algorithm("ml-dsa-44")
    for cosigner_id in (ca_id, TrustAnchorID.parse("32473.9.1")):
        signer = generate_key(algorithm)
        message = CosignedMessage.for_subtree(cosigner_id, log_id(ca_id, 1), subtree, root).encode()
        signature = signer.sign_now(message)
        cosigner = Cosigner(cosigner_id, parse_public_key(signer.public_key, algorithm))
        cosigners.append(cosigner)
        signatures.append(SubtreeSignature(cosigner_id.binary, signature))
        cosigned.append((cosigner, message, signature))
    ca = TrustedCA(
        ca_id=ca_id,
        revision=DEFAULT_REVISION,
        hash=HASH_ALGORITHMS["sha256"],
        cosigners=tuple(cosigners),
        policy=CosignerPolicy(require=(ca_id,), of=(cosigners[1].cosigner_id,), at_least=1),
        trusted_subtrees=(TrustedSubtree(1, subtree, root),),
        revoked=SerialRanges([(0, 1 << 48), (5 << 48, 1 << 64)]),
    )
    plain = MTCProof(subtree, proof)
    serial = serial_number(1, index)
    return Workload(
        ca,
        Certificate.build(entry, spki, serial, plain),
        Certificate.build(entry, spki, serial, plain.with_signatures(*signatures)),
        log_entry.body,
        tuple(cosigned),
    )


@dataclass(slots=True)
class Timer:
    """Times one call over and over. rounds: microseconds per call of each round."""

    call: Callable[[], object]
    per_call: int
    count: int
    rounds: list[float]

    @staticmethod
    def calibrate(call: Callable[[], object], seconds: float, per_call: int = 1) -> "Timer":
        """Choose how many calls make a round of `seconds`. per_call: things done in one call."""
        call()
        start = time.perf_counter()
        call()
        once = max(time.perf_counter() - start, 1e-7)
        return Timer(call, per_call, max(1, int(seconds / once)), [])

    def run(self) -> None:
        """Run one round."""
        call, start = self.call, time.perf_counter()
        for _ in repeat(None, self.count):
            call()
        self.rounds.append((time.perf_counter() - start) / self.count / self.per_call * 1e6)

    @property
    def microseconds(self) -> float:
        """The median round."""
        return statistics.median(self.rounds)


def _verification_calls(load: Workload, kernel: Kernel) -> dict[str, tuple[Callable[[], object], int]]:
    """Name the calls whose ratio to P-256 is of interest, with the number of things each does."""
    trusting = TrustStore([load.ca], kernel)
    without = TrustedCA(load.ca.ca_id, load.ca.revision, load.ca.hash, load.ca.cosigners, load.ca.policy)
    cosigned = TrustStore([without], kernel)
    landmark, standalone = load.landmark_der, load.standalone_der
    batch = [landmark] * BATCH
    return {
        "landmark_verify_us": (lambda: verify_signature(landmark, trusting, NOW), 1),
        "landmark_path_verify_us": (lambda: verify_certificate(landmark, trusting, NOW, name=HOST), 1),
        "landmark_verify_batch_us": (lambda: verify_signatures(batch, trusting, NOW), BATCH),
        "standalone_verify_us": (lambda: verify_certificate(standalone, cosigned, NOW, name=HOST), 1),
    }


def _reference_calls(load: Workload) -> dict[str, tuple[Callable[[], object], int]]:
    """Name the calls that the ratios are taken against."""
    key = generate_private_key(SECP256R1())
    method = ECDSA(SHA256())
    signature, public = key.sign(load.tbs_entry, method), key.public_key()
    message = load.tbs_entry

    def verify_cosignatures() -> None:
        for cosigner, cosigned, raw in load.cosignatures:
            cosigner.key.verify(cosigned, raw)

    return {
        "p256_verify_us": (lambda: public.verify(signature, message, method), 1),
        "two_mldsa44_verify_us": (verify_cosignatures, 1),
    }


def _resident_kib() -> int | None:
    """Return the resident set of this process in KiB, or None where the system does not tell."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    except OSError:
        pass
    return None


def _memory_growth(load: Workload, count: int) -> int | None:
    """Return by how many KiB the process grows while it verifies `count` certificates, after a warm-up."""
    store = TrustStore([load.ca])
    der = load.landmark_der
    for _ in repeat(None, 10_000):
        verify_certificate(der, store, NOW, name=HOST)
    gc.collect()
    before = _resident_kib()
    for _ in repeat(None, count):
        verify_certificate(der, store, NOW, name=HOST)
    after = _resident_kib()
    return None if before is None or after is None else after - before


def _once(call: Callable[[], object], repeats: int = 3) -> float:
    """Return the seconds of the median of a few calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(seconds: float, tell: Callable[[str], None]) -> dict[str, object]:
    """Run every measurement and return the figures; `tell` hears what is going on. seconds: per measurement, about."""
    kernel = active_kernel()
    tell("making certificates")
    load = make_workload()
    calls = _verification_calls(load, kernel) | _reference_calls(load)
    if kernel.name != "python":
        calls["python_landmark_verify_us"] = _verification_calls(load, python_kernel())["landmark_verify_us"]
    timers = {name: Timer.calibrate(call, seconds / ROUNDS, per_call) for name, (call, per_call) in calls.items()}
    for number in range(ROUNDS):
        # The calls take turns, so that a slow moment of the machine falls on all of them.
        for name, timer in timers.items():
            tell(f"round {number + 1} of {ROUNDS}: {name.removesuffix('_us').replace('_', ' ')}")
            timer.run()
    figures: dict[str, object] = {"kernel": kernel.name}
    times = {name: timer.microseconds for name, timer in timers.items()}
    figures |= {name: round(value, 3) for name, value in times.items()}
    p256 = times["p256_verify_us"]
    figures["landmark_vs_p256"] = round(p256 / times["landmark_verify_us"], 2)
    figures["landmark_path_vs_p256"] = round(p256 / times["landmark_path_verify_us"], 2)
    figures["landmark_batch_vs_p256"] = round(p256 / times["landmark_verify_batch_us"], 2)
    python_us = times.get("python_landmark_verify_us", times["landmark_verify_us"])
    figures["python_landmark_vs_p256"] = round(p256 / python_us, 2)
    figures["standalone_overhead_percent"] = round(
        (times["standalone_verify_us"] / times["two_mldsa44_verify_us"] - 1) * 100, 2
    )
    tell("root of 1,000,000 leaf hashes")
    row = kernel.hasher("sha256").digest(b"leaf") * 1_000_000
    root_s = _once(lambda: root_hash(kernel.hasher("sha256"), row))
    figures["root_1m_s"] = round(root_s, 4)
    python_s = _once(lambda: root_hash(python_kernel().hasher("sha256"), row)) if is_native_built() else root_s
    if is_native_built() and kernel.name == "python":
        figures["native_root_1m_s"] = round(_once(lambda: root_hash(native_kernel().hasher("sha256"), row)), 4)
    figures["python_root_1m_s"] = round(python_s, 4)
    figures["root_vs_python_kernel"] = round(python_s / root_s, 2)
    tell("inclusion proofs of 65,536 leaves")
    leaves = row[: 65_536 * 32]
    figures["proofs_per_s"] = round(65_536 / _once(lambda: kernel.inclusion_proofs("sha256", leaves), 5))
    count = 1_000_000 if seconds >= 0.5 else 20_000
    tell(f"memory over {count:,} certificates")
    figures["memory_certificates"] = count
    figures["memory_growth_kib"] = _memory_growth(load, count)
    figures["landmark_certificate_bytes"] = len(load.landmark_der)
    figures["standalone_certificate_bytes"] = len(load.standalone_der)
    return figures


_LABELS = {
    "p256_verify_us": "P-256 ECDSA verification (the reference)",
    "landmark_verify_us": "landmark-relative: signature procedure and validity",
    "landmark_path_verify_us": "landmark-relative: with host name, usages and the rest",
    "landmark_verify_batch_us": "landmark-relative: in batches of 1,000",
    "python_landmark_verify_us": "landmark-relative: on the Python kernel",
    "standalone_verify_us": "standalone: two ML-DSA-44 cosignatures, full path",
    "two_mldsa44_verify_us": "two ML-DSA-44 verifications alone",
}


def run_bench(*, as_json: bool, seconds: float) -> None:
    """Measure and print, with progress while it lasts."""
    columns = (TextColumn("[dim]{task.description}"), TimeElapsedColumn())
    with Progress(*columns, transient=True, disable=as_json or not sys.stdout.isatty()) as progress:
        task = progress.add_task("", total=None)
        figures = measure(seconds, lambda text: progress.update(task, description=text))
    if as_json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    out = console()
    times = table("operation", "µs", "times faster than P-256", numeric=(1, 2), title="Verification")
    p256 = float(str(figures["p256_verify_us"]))
    for name, label in _LABELS.items():
        if name in figures:
            value = float(str(figures[name]))
            times.add_row(label, f"{value:,.2f}", f"{p256 / value:,.1f}")
    out.print(times)
    rest = table("what", "figure", numeric=(1,), title="\nTree and process")
    rest.add_row("standalone beyond its two signatures", f"{figures['standalone_overhead_percent']} %")
    rest.add_row("root of 1,000,000 leaf hashes", f"{figures['root_1m_s']} s")
    rest.add_row("  times faster than the Python kernel", f"{figures['root_vs_python_kernel']}")
    rest.add_row("inclusion proofs of a 65,536-leaf batch", f"{figures['proofs_per_s']:,} a second")
    rest.add_row(
        f"memory growth over {figures['memory_certificates']:,} certificates", f"{figures['memory_growth_kib']} KiB"
    )
    rest.add_row("landmark-relative certificate", f"{figures['landmark_certificate_bytes']} bytes")
    rest.add_row("standalone certificate", f"{figures['standalone_certificate_bytes']} bytes")
    rest.add_row("kernel", str(figures["kernel"]))
    out.print(rest)
