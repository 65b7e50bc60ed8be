"""The part of `mtc demo` in which a certification authority issues both forms of certificate, and one breaks.

It is a real one, with files, a register and a signer process, in a folder that can be served and checked afterwards.
Keys and names are made up; one certificate is obtained over ACME on loopback, and nothing leaves this machine.
"""

import asyncio
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from rich.console import Console
from rich.markup import escape

from mtc import __version__
from mtc.ca.config import CONFIG_NAME, CAConfig
from mtc.ca.folder import create_folder
from mtc.ca.requests import IssuanceRequest
from mtc.ca.service import RunningCA, open_ca
from mtc.cert import Certificate, entry_hash, parse_certificate_chains
from mtc.cli.demo_acme import Shop, new_shop_key, open_shop, read_reports, tell_order
from mtc.cli.demo_telling import heading
from mtc.cli.output import table, write_new_file
from mtc.cli.pictures import draw_intervals, draw_path, trace_path
from mtc.errors import Error, Reason, UsageError
from mtc.ids import DEFAULT_REVISION, TrustAnchorID, log_id
from mtc.kernel import active_kernel
from mtc.landmark import LandmarkSequence
from mtc.profile import PRIVATE_SERVICE
from mtc.trust import (
    TrustedCA,
    TrustedSubtree,
    TrustStore,
    Verified,
    format_trust_store,
    trusted_ca_from_certificate,
    verify_certificate,
)
from mtc.web.clock import SystemClock
from mtc.wire import PEMBlock, encode_pem

CA_ID = TrustAnchorID.parse("32473.1")
BATCHES = 5
HOST = "shop.example.com"
CA_FOLDER = "ca"
_LANDMARK_INTERVAL = timedelta(seconds=1)
_PATIENCE_S = 30.0


class _Clock(SystemClock):
    """The machine's clock, which the demonstration may push on, so that it need not wait for landmarks."""

    def __init__(self) -> None:
        self._ahead = timedelta(0)

    def push(self, span: timedelta) -> None:
        """Let time pass at once."""
        self._ahead += span

    def now(self) -> datetime:
        """Return the time of day."""
        return super().now() + self._ahead

    def monotonic(self) -> float:
        """Return steady seconds."""
        return super().monotonic() + self._ahead.total_seconds()


@dataclass(slots=True)
class _Story:
    """What happened. sizes: of the log after each batch. pem: what the shop got."""

    sizes: list[int] = field(default_factory=lambda: [0])
    pem: bytes = b""

    @property
    def certificate(self) -> Certificate:
        """The shop's standalone certificate."""
        return Certificate.parse(parse_certificate_chains(self.pem)[0].certificates[0])


async def tell_log(out: Console, folder_name: str, entries: int) -> tuple[Path, int]:
    """Tell the story of a CA alone, step by step; return the folder of the files, and the shop's entry."""
    folder = _prepare_folder(folder_name)
    out.print(f"[bold]mtc {__version__}[/] · draft {DEFAULT_REVISION} · kernel {active_kernel().name}\n")
    clock = _Clock()
    path = folder / CA_FOLDER
    overrides: dict[str, timedelta | int] = {"landmark_interval": _LANDMARK_INTERVAL, "max_lifetime": timedelta(days=7)}
    profile = replace(PRIVATE_SERVICE, **overrides)  # type: ignore[arg-type]  # the keys are fields of the right type
    config = CAConfig(ca_id=CA_ID, profile=profile, overrides=overrides)
    create_folder(path, config, None, clock.now())
    async with open_ca(path, clock=clock) as ca:
        await ca.publish_lists()
        async with open_shop(ca, HOST) as shop:
            story = await _grow(out, ca, clock, entries, shop)
        out.print()
        tell_order(out, shop, await read_reports(path, shop.order_id), story.certificate, 2)
        await _show_certificates(out, ca, clock, story, folder)
        return folder, story.certificate.index


def _prepare_folder(out: str) -> Path:
    """Make the folder for the files; a CA of an earlier demonstration goes. Raises UsageError."""
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        old = folder / CA_FOLDER
        if (old / CONFIG_NAME).exists():
            shutil.rmtree(old)
    except OSError as error:
        raise UsageError(
            Reason.UNREADABLE, f"folder {out} cannot be made: {(error.strerror or str(error)).lower()}"
        ) from None
    return folder


def _requests(start: int, count: int) -> list[IssuanceRequest]:
    """Return requests for new P-256 keys under made-up names."""
    requests = []
    for number in range(start, start + count):
        key = generate_private_key(SECP256R1()).public_key()
        name = f"host-{number}.example.com"
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        requests.append(IssuanceRequest(spki=spki, dns_names=(name,), request_key=name.encode()))
    return requests


async def _grow(out: Console, ca: RunningCA, clock: _Clock, entries: int, shop: Shop) -> _Story:
    """Issue batch by batch, one with the shop's order in it, allocate a landmark after each; show what happened."""
    heading(out, "1  A log grows")
    out.print(
        f"CA [bold]{CA_ID}[/] certifies by appending to its log [bold]{log_id(CA_ID, 1)}[/]. Each batch is staged,\n"
        "decided by the register, and covered with two subtrees; those are signed, not each certificate.\n"
    )
    rows = table("batch", "entries", "tree size", "covering subtrees", "signatures", "ms", numeric=(1, 2, 4, 5))
    bounds = [
        entries * (number * number + number + 1) // (BATCHES * (BATCHES + 1) + 1) for number in range(BATCHES + 1)
    ]
    bounds[0], bounds[-1] = 0, entries
    shop_at = bounds[BATCHES - 2] + (bounds[BATCHES - 1] - bounds[BATCHES - 2]) // 3
    story = _Story()
    for number in range(BATCHES):
        start, end = bounds[number], bounds[number + 1]
        if start == end:
            continue
        if has_shop := start <= shop_at < end:
            await shop.authorize()
        before = _requests(start, shop_at - start if has_shop else end - start)
        after = _requests(shop_at + 1, end - shop_at - 1) if has_shop else []
        began = time.perf_counter()
        story.pem += await _issue(ca, before, shop if has_shop else None, after)
        took = (time.perf_counter() - began) * 1000
        size = ca.log.record.tree_size
        story.sizes.append(size)
        round_ = await ca.log.ledger.round_of(size - 1)
        assert round_ is not None
        covering = " ".join(map(str, round_.signatures))
        signed = sum(map(len, round_.signatures.values()))
        rows.add_row(f"{number + 1}", f"{end - start}", f"{size}", covering, f"{signed}", f"{took:.0f}")
        clock.push(_LANDMARK_INTERVAL)
        await ca.landmarks.tick()
    out.print(rows)
    _draw_log(out, ca.landmarks.state.sequence, story)
    return story


async def _issue(
    ca: RunningCA, before: Sequence[IssuanceRequest], shop: Shop | None, after: Sequence[IssuanceRequest]
) -> bytes:
    """Issue in one round, with the shop's order between the others; return what the shop got, PEM."""
    tasks: list[asyncio.Task[object]] = [asyncio.create_task(_issue_all(ca, before))]
    order = None
    if shop is not None:
        await _until_waiting(ca, len(before))
        order = asyncio.create_task(shop.finish(new_shop_key()))
        await _until_waiting(ca, len(before) + 1)
        tasks += [order, asyncio.create_task(_issue_all(ca, after))]
        await _until_waiting(ca, len(before) + 1 + len(after))
    while not all(task.done() for task in tasks):
        await ca.log.run_round()
        await asyncio.sleep(0.001)
    await asyncio.gather(*tasks)
    return b"" if order is None else order.result().pem


async def _issue_all(ca: RunningCA, requests: Sequence[IssuanceRequest]) -> None:
    """Issue for all. Raises what one of them was refused with."""
    for result in await ca.issue(requests):
        if isinstance(result, Error):
            raise result


async def _until_waiting(ca: RunningCA, count: int) -> None:
    """Wait until so many entries wait for the next round."""
    async with asyncio.timeout(_PATIENCE_S):
        while ca.log.waiting < count:  # noqa: ASYNC110 - the pool tells nobody, and servers need not know
            await asyncio.sleep(0.001)


def _draw_log(out: Console, sequence: LandmarkSequence, story: _Story) -> None:
    """Draw batches, landmarks and the entry of interest across the log."""
    index = story.certificate.index
    out.print("\n[bold]The log, from its first entry to its last[/]")
    sizes = story.sizes
    rows: list[tuple[str, list[tuple[int, int]], str]] = [("batches", list(pairwise(sizes)), "")]
    for landmark in sequence.landmarks[1:]:
        parts = sequence.subtrees(landmark.number)
        shown = " ".join(map(str, parts))
        rows.append((f"landmark {landmark.number}", [(part.start, part.end) for part in parts], shown))
    rows.append((HOST, [(index, index + 1)], f"entry {index}"))
    out.print(draw_intervals(rows, sizes[-1]))


async def _show_certificates(out: Console, ca: RunningCA, clock: _Clock, story: _Story, folder: Path) -> None:
    """Show both forms for one entry, verify them, break one, and write the files."""
    certificate = story.certificate
    standalone, index = certificate.der, certificate.index
    upgraded = await ca.authority.upgrade(certificate, certificate.spki)
    relative = parse_certificate_chains(upgraded.pem.encode())[0].certificates[0]
    proof = Certificate.parse(relative).proof
    out.print()
    heading(out, "3  Two certificates for one entry")
    out.print(f"The proof's path for [bold]{HOST}[/], entry {index}, to landmark subtree {proof.subtree}:\n")
    hasher = ca.parts.hasher
    leaf = entry_hash(hasher, certificate.log_entry(hasher))
    out.print(draw_path(trace_path(hasher, proof.subtree, index, leaf, proof.inclusion_proof)))

    signed_only = TrustStore([trusted_ca_from_certificate(ca.parts.folder.certificate)])
    store = await _with_landmarks(ca, signed_only.cas[0])
    now = clock.now()
    out.print()
    heading(out, "4  A relying party verifies")
    accepted = [
        ("standalone.pem", standalone, verify_certificate(standalone, signed_only, now, name=HOST), signed_only),
        ("landmark-relative.pem", relative, verify_certificate(relative, store, now, name=HOST), store),
    ]
    _print_sizes(out, accepted, now)
    broken = _refuse_flipped(out, relative, store, now)
    write_new_file(folder / "standalone.pem", story.pem)
    write_new_file(folder / "landmark-relative.pem", upgraded.pem.encode())
    write_new_file(folder / "broken.pem", encode_pem([PEMBlock("CERTIFICATE", broken)]))
    write_new_file(folder / "ca.pem", ca.parts.folder.certificate_pem)
    write_new_file(folder / "trust.json", format_trust_store(store))


async def _with_landmarks(ca: RunningCA, trusted: TrustedCA) -> TrustStore:
    """Return the trust of a relying party that has learned the landmarks."""
    sequence = ca.landmarks.state.sequence
    subtrees = [
        (subtree, landmark)
        for landmark in sequence.landmarks[1:]
        for subtree in sequence.subtrees(landmark.number)
        if not subtree.is_empty
    ]
    learned = [
        TrustedSubtree(1, subtree, await ca.log.hash_of(subtree), landmark.number, landmark.expiry)
        for subtree, landmark in subtrees
    ]
    return TrustStore([replace(trusted, trusted_subtrees=tuple(learned))])


def _time_call(call: Callable[[], object], count: int) -> float:
    """Return the median microseconds of a call."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e6)
    return statistics.median(times)


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


def _refuse_flipped(out: Console, der: bytes, store: TrustStore, now: datetime) -> bytes:
    """Flip one bit in the inclusion proof, show the refusal, and return the broken certificate."""
    at = len(der) - 3 - 16
    broken = der[:at] + bytes((der[at] ^ 1,)) + der[at + 1 :]
    heading(out, "5  One bit flips")
    try:
        verify_certificate(broken, store, now, name=HOST)
    except Error as error:
        out.print(f"Byte {at} of the landmark-relative certificate: 0x{der[at]:02x} → 0x{broken[at]:02x}")
        out.print(f"[bold red]refused[/] {escape(error.message)} [dim]({error.reason})[/]\n")
    else:
        raise AssertionError("a broken certificate was accepted")
    return broken
