"""`mtc demo`: a log grows in memory, certificates come out of it, verify, and one breaks.

Everything runs in this process on made-up keys and names; nothing listens and nothing is fetched.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from rich.console import Console
from rich.markup import escape
from rich.rule import Rule

from mtc import __version__
from mtc.cert import (
    Certificate,
    CertificateChain,
    LogEntry,
    MTCProof,
    PropertyList,
    SerialRanges,
    SubtreeSignature,
    TBSCertificateLogEntry,
    encode_ca_certificate,
    encode_extended_key_usage,
    encode_key_usage,
    encode_name,
    encode_subject_alt_name,
)
from mtc.cert.x509 import SERVER_AUTH_OID
from mtc.cli.output import console, table, write_new_file
from mtc.cli.pictures import draw_intervals, draw_path, trace_path
from mtc.crypto import HASH_ALGORITHMS, LocalSigner, generate_key, parse_public_key, parse_signature_algorithm
from mtc.errors import Error, Reason, UsageError
from mtc.ids import (
    DEFAULT_REVISION,
    TrustAnchorID,
    encode_ca_name,
    landmark_id,
    landmark_pattern,
    log_id,
    serial_number,
    standalone_pattern,
)
from mtc.kernel import active_kernel
from mtc.landmark import LandmarkSequence
from mtc.merkle import Hasher, RowReader, Subtree, cover, prove_inclusion, subtree_hash
from mtc.note import CosignedMessage
from mtc.profile import PRIVATE_SERVICE
from mtc.trust import (
    Cosigner,
    CosignerPolicy,
    TrustedCA,
    TrustedSubtree,
    TrustStore,
    Verified,
    format_trust_store,
    verify_certificate,
)
from mtc.wire import PEMBlock, encode_pem

CA_ID = TrustAnchorID.parse("32473.1")
MIRROR_ID = TrustAnchorID.parse("32473.9.1")
LOG_NUMBER = 1
BATCHES = 5
LIFETIME = timedelta(days=7)
BACKDATING = timedelta(minutes=5)
"""How far notBefore lies back, for clients whose clocks are slow."""
HOST = "shop.example.com"


@dataclass(slots=True)
class DemoLog:
    """An issuance log in memory with its two cosigners. bodies, keys: of each entry, by index."""

    hasher: Hasher
    reader: RowReader
    signers: dict[TrustAnchorID, LocalSigner]
    bodies: list[TBSCertificateLogEntry] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    cosigned: dict[Subtree, tuple[SubtreeSignature, ...]] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=lambda: [0])

    def append(self, names: Sequence[str], now: datetime) -> None:
        """Certify one new P-256 key per name, and have both cosigners sign what covers the new entries."""
        leaves = []
        for name in names:
            key = generate_private_key(SECP256R1()).public_key()
            spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            body = TBSCertificateLogEntry.build(
                hasher=self.hasher,
                issuer=encode_ca_name(CA_ID, DEFAULT_REVISION),
                subject=encode_name(),
                spki=spki,
                not_before=now - BACKDATING,
                not_after=now - BACKDATING + LIFETIME - timedelta(seconds=1),
                extensions=(
                    encode_key_usage("digitalSignature"),
                    encode_extended_key_usage(SERVER_AUTH_OID),
                    encode_subject_alt_name([name], is_critical=True),
                ),
            )
            self.bodies.append(body)
            self.keys.append(spki)
            leaves.append(LogEntry.of_certificate(body).encode())
        start = self.sizes[-1]
        self.reader.extend(self.hasher.leaves(leaves))
        self.sizes.append(self.reader.tree_size)
        for subtree in cover(start, self.reader.tree_size):
            if not subtree.is_empty:
                self.cosigned[subtree] = self._cosign(subtree)

    def _cosign(self, subtree: Subtree) -> tuple[SubtreeSignature, ...]:
        """Return both cosigners' signatures over a subtree."""
        value = subtree_hash(self.hasher, self.reader, subtree)
        log = log_id(CA_ID, LOG_NUMBER)
        return tuple(
            SubtreeSignature(
                name.binary, signer.sign_now(CosignedMessage.for_subtree(name, log, subtree, value).encode())
            )
            for name, signer in self.signers.items()
        )

    def certificate(self, index: int, subtree: Subtree, signatures: Sequence[SubtreeSignature] = ()) -> bytes:
        """Return the certificate of an entry with the proof to a subtree."""
        path = prove_inclusion(self.hasher, self.reader, subtree, index)
        proof = MTCProof(subtree, tuple(path)).with_signatures(*signatures)
        return Certificate.build(self.bodies[index], self.keys[index], serial_number(LOG_NUMBER, index), proof)


def _prepare_folder(out: str) -> Path:
    """Make the folder for the files. Raises UsageError."""
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            Reason.UNREADABLE, f"folder {out} cannot be made: {(error.strerror or str(error)).lower()}"
        ) from None
    return folder


def _grow(out: Console, entries: int, now: datetime) -> DemoLog:
    """Grow the log batch by batch and show each."""
    algorithm = parse_signature_algorithm("ml-dsa-44")
    hasher = active_kernel().hasher("sha256")
    signers = {CA_ID: generate_key(algorithm), MIRROR_ID: generate_key(algorithm)}
    log = DemoLog(hasher, RowReader(hasher), signers)
    out.print(Rule("1  A log grows", align="left", style="dim"))
    out.print(
        f"Log [bold]{log_id(CA_ID, LOG_NUMBER)}[/] of CA [bold]{CA_ID}[/], cosigned by a mirror [bold]{MIRROR_ID}[/]. "
        "Each batch is appended, covered\nwith two subtrees, and those are signed: not each certificate.\n"
    )
    rows = table("batch", "entries", "tree size", "covering subtrees", "signatures", "ms", numeric=(1, 2, 4, 5))
    bounds = [
        entries * (number * number + number + 1) // (BATCHES * (BATCHES + 1) + 1) for number in range(BATCHES + 1)
    ]
    bounds[0], bounds[-1] = 0, entries
    with out.status("issuing") if out.is_terminal else _Silence():
        for number in range(BATCHES):
            count = bounds[number + 1] - bounds[number]
            start = time.perf_counter()
            names = [f"host-{bounds[number] + item}.example.com" for item in range(count)]
            if number == BATCHES - 2:
                names[count // 3] = HOST
            log.append(names, now)
            took = (time.perf_counter() - start) * 1000
            covering = [item for item in cover(bounds[number], bounds[number + 1]) if not item.is_empty]
            signed = sum(len(log.cosigned[item]) for item in covering)
            shown = " ".join(map(str, covering))
            rows.add_row(f"{number + 1}", f"{count}", f"{log.reader.tree_size}", shown, f"{signed}", f"{took:.0f}")
    out.print(rows)
    return log


class _Silence:
    """Stands for a spinner where there is no terminal."""

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, *_: object) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class Landmarked:
    """A landmark's number with its subtrees and expiry."""

    number: int
    subtrees: tuple[Subtree, ...]
    expiry: int


def _allocate(log: DemoLog, now: datetime) -> list[Landmarked]:
    """Allocate a landmark after each batch, as if an interval lay between them, and return those with subtrees."""
    sequence = LandmarkSequence.start()
    interval = PRIVATE_SERVICE.landmark_interval
    for number, size in enumerate(log.sizes[1:]):
        moment = now + interval * (number - len(log.sizes))
        sequence = sequence.allocate(
            size, moment, max_lifetime=LIFETIME, interval=interval, latest_not_after=now + LIFETIME
        )
    return [
        Landmarked(landmark.number, sequence.subtrees(landmark.number), landmark.expiry or 0)
        for landmark in sequence.landmarks[1:]
    ]


def _draw_log(out: Console, log: DemoLog, landmarks: Sequence[Landmarked], index: int) -> None:
    """Draw batches, landmarks and the entry of interest across the log."""
    out.print("\n[bold]The log, from its first entry to its last[/]")
    rows: list[tuple[str, list[tuple[int, int]], str]] = [
        ("batches", list(zip(log.sizes, log.sizes[1:], strict=False)), "")
    ]
    for landmark in landmarks:
        intervals = [(item.start, item.end) for item in landmark.subtrees]
        rows.append((f"landmark {landmark.number}", intervals, " ".join(map(str, landmark.subtrees))))
    rows.append((HOST, [(index, index + 1)], f"entry {index}"))
    out.print(draw_intervals(rows, log.reader.tree_size))


def _make_store(log: DemoLog, landmarks: Sequence[Landmarked]) -> TrustStore:
    """Make the relying party's trust: CA and mirror must cosign, landmarks are known."""
    cosigners = tuple(
        Cosigner(name, parse_public_key(signer.public_key, signer.algorithm)) for name, signer in log.signers.items()
    )
    trusted = tuple(
        TrustedSubtree(LOG_NUMBER, item, subtree_hash(log.hasher, log.reader, item), landmark.number, landmark.expiry)
        for landmark in landmarks
        for item in landmark.subtrees
        if not item.is_empty
    )
    ca = TrustedCA(
        ca_id=CA_ID,
        revision=DEFAULT_REVISION,
        hash=HASH_ALGORITHMS["sha256"],
        cosigners=cosigners,
        policy=CosignerPolicy(require=(CA_ID,), of=(MIRROR_ID,), at_least=1),
        trusted_subtrees=trusted,
        revoked=SerialRanges([(0, 1 << 48), ((LOG_NUMBER + 1) << 48, 1 << 64)]),
    )
    return TrustStore([ca])


def _time_call(call: Callable[[], object], count: int) -> float:
    """Return the median microseconds of a call."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e6)
    return statistics.median(times)


def _refuse_flipped(out: Console, der: bytes, store: TrustStore, now: datetime) -> bytes:
    """Flip one bit in the inclusion proof, show the refusal, and return the broken certificate."""
    at = len(der) - 3 - 16
    broken = der[:at] + bytes((der[at] ^ 1,)) + der[at + 1 :]
    out.print(Rule("4  One bit flips", align="left", style="dim"))
    try:
        verify_certificate(broken, store, now, name=HOST)
    except Error as error:
        out.print(f"Byte {at} of the landmark-relative certificate: 0x{der[at]:02x} → 0x{broken[at]:02x}")
        out.print(f"[bold red]refused[/] {escape(error.message)} [dim]({error.reason})[/]\n")
    else:
        raise AssertionError("a broken certificate was accepted")
    return broken


def run_demo(folder_name: str, entries: int) -> None:
    """Run the whole story and leave its files in the folder."""
    out = console()
    folder = _prepare_folder(folder_name)
    now = datetime.now(UTC).replace(microsecond=0)
    out.print(f"[bold]mtc {__version__}[/] · draft {DEFAULT_REVISION} · kernel {active_kernel().name}\n")
    log = _grow(out, entries, now)
    landmarks = _allocate(log, now)
    index = next(number for number, body in enumerate(log.bodies) if HOST.encode() in body.tail)
    _draw_log(out, log, landmarks, index)

    batch = next(item for item in log.cosigned if item.contains(index))
    landmark = next(item for item in landmarks if any(part.contains(index) for part in item.subtrees))
    part = next(part for part in landmark.subtrees if part.contains(index))
    standalone = log.certificate(index, batch, log.cosigned[batch])
    relative = log.certificate(index, part)
    out.print()
    out.print(Rule("2  Two certificates for one entry", align="left", style="dim"))
    out.print(f"The proof's path for [bold]{HOST}[/], entry {index}, to landmark subtree {part}:\n")
    proof = prove_inclusion(log.hasher, log.reader, part, index)
    leaf = log.hasher.leaf(LogEntry.of_certificate(log.bodies[index]).encode())
    out.print(draw_path(trace_path(log.hasher, part, index, leaf, proof)))

    store = _make_store(log, landmarks)
    signed_only = TrustStore([TrustedCA(ca.ca_id, ca.revision, ca.hash, ca.cosigners, ca.policy) for ca in store.cas])
    out.print()
    out.print(Rule("3  A relying party verifies", align="left", style="dim"))
    accepted = [
        ("standalone.pem", standalone, verify_certificate(standalone, signed_only, now, name=HOST), signed_only),
        ("landmark-relative.pem", relative, verify_certificate(relative, store, now, name=HOST), store),
    ]
    _print_sizes(out, accepted, now)
    broken = _refuse_flipped(out, relative, store, now)
    _write_files(folder, log, landmark, {"standalone": standalone, "landmark-relative": relative}, broken, store, now)
    out.print(Rule("5  Try it", align="left", style="dim"))
    shown = escape(folder_name)
    out.print(f"The files are in [bold]{shown}[/]. Next:\n")
    files = " ".join(f"{shown}/{name}.pem" for name in ("standalone", "landmark-relative", "broken"))
    out.print(f"  mtc verify --trust {shown}/trust.json --name {HOST} \\\n    {files}", style="cyan")
    out.print(f"  mtc inspect {shown}/landmark-relative.pem", style="cyan")


def _print_sizes(out: Console, accepted: Sequence[tuple[str, bytes, Verified, TrustStore]], now: datetime) -> None:
    """Print what each certificate weighs and what its verification costs."""
    rows = table("certificate", "accepted as", "bytes", "proof", "signatures", "µs to verify", numeric=(2, 3, 4, 5))
    for name, der, verified, store in accepted:
        proof = verified.certificate.proof
        took = _time_call(lambda der=der, store=store: verify_certificate(der, store, now, name=HOST), 200)  # type: ignore[misc]  # bound early
        rows.add_row(
            name,
            f"[green]{verified.form}[/]",
            f"{len(der):,}",
            f"{sum(map(len, proof.inclusion_proof)):,}",
            f"{sum(len(item.signature) for item in proof.signatures):,}",
            f"{took:,.1f}",
        )
    out.print(rows)
    out.print("[dim]The same entry, the same key; who knows the landmark needs no signature at all.[/]\n")


def _write_files(  # noqa: PLR0913 - the parts of the story
    folder: Path,
    log: DemoLog,
    landmark: Landmarked,
    certificates: dict[str, bytes],
    broken: bytes,
    store: TrustStore,
    now: datetime,
) -> None:
    """Write certificates with their properties, the CA certificate and the trust store."""
    properties = {
        "standalone": PropertyList(CA_ID, (standalone_pattern(CA_ID),)),
        "landmark-relative": PropertyList(
            landmark_id(CA_ID, LOG_NUMBER, landmark.number),
            (landmark_pattern(CA_ID, LOG_NUMBER, landmark.number),),
            needs_negotiation=True,
        ),
    }
    for name, der in certificates.items():
        write_new_file(folder / f"{name}.pem", CertificateChain(properties[name], (der,)).encode())
    write_new_file(folder / "broken.pem", encode_pem([PEMBlock("CERTIFICATE", broken)]))
    signer = log.signers[CA_ID]
    authority = encode_ca_certificate(
        ca_id=CA_ID,
        public_key=parse_public_key(signer.public_key, signer.algorithm),
        not_before=now - timedelta(days=1),
        not_after=now + timedelta(days=365),
    )
    write_new_file(folder / "ca.pem", encode_pem([PEMBlock("CERTIFICATE", authority)]))
    write_new_file(folder / "ca-key.pem", signer.encode_pem(), is_private=True)
    write_new_file(folder / "trust.json", format_trust_store(store))
