"""`mtc demo browser`: Chromium loads pages over our certificates, and refuses what it must.

Two CAs and their mirror run in this process, each CA with its signer in another one. A browser with a fresh profile
trusts them and knows the landmarks of the first up to some moment; what it says of each page is read back from itself.
"""

import asyncio
import logging
import shutil
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from rich.console import Console
from rich.rule import Rule

from mtc.ca.config import CAConfig
from mtc.ca.cosigning.adding import add_cosigner
from mtc.ca.cosigning.config import CosignerTable
from mtc.ca.folder import CAFolder, create_folder
from mtc.ca.proofs import LogReader, TreeHead
from mtc.ca.requests import IssuanceRequest
from mtc.ca.service import RunningCA, open_ca
from mtc.cert import Certificate, CertificateChain, MTCProof, parse_certificate_chains
from mtc.cli.log_source import open_log
from mtc.cli.output import console, shown, table
from mtc.cosign.config import CosignerConfig, Role
from mtc.cosign.logs import KnownCA
from mtc.cosign.service.folder import CosignerFolder, add_log, create_cosigner
from mtc.cosign.service.running import open_cosigner, serving
from mtc.errors import Error, PeerError, Reason, UsageError
from mtc.ids import DraftRevision, TrustAnchorID, log_id, parse_revision
from mtc.kernel import active_kernel
from mtc.landmark import ActiveLandmarks
from mtc.merkle import HashReader, subtree_hash
from mtc.note import Checkpoint, SignatureType, VerifierKey, open_note
from mtc.profile import PRIVATE_SERVICE
from mtc.testing.chromium import open_browser, require_chromium
from mtc.testing.chromium_visits import HOST, Case, Outcome, judge_visits, visit_all
from mtc.tls import CertificationPath
from mtc.trust import Cosigner, CosignerPolicy, TrustedCA, TrustedSubtree, TrustStore, trusted_ca_from_certificate
from mtc.web.logs import configure_logs

CA_ID = TrustAnchorID.parse("32473.5")
OTHER_CA_ID = TrustAnchorID.parse("32473.6")
"""A CA of whose landmarks the browser has none."""
MIRROR_ID = TrustAnchorID.parse("32473.21")
DRAFTS = ("plants-05", "plants-04")
"""The drafts whose bytes Chromium 156 speaks."""
FOLDER = "browser"
_LOG = 1
_REFUSED = "net::ERR_CERT_"
_FILLERS = 30
_PATIENCE_S = 60.0
_POLL_S = 0.05
_Found = TypeVar("_Found")
# Landmarks come every second, so that nobody waits; drafts without expiry have a number of active ones instead.
_OVERRIDES: dict[str, timedelta | int] = {
    "default_lifetime": timedelta(hours=8),
    "max_lifetime": timedelta(hours=8),
    "landmark_interval": timedelta(seconds=1),
    "max_active_landmarks": 1000,
}


@dataclass(frozen=True, slots=True)
class _Site:
    """One log entry with its two certification paths, and its private key, PEM."""

    standalone: CertificateChain
    relative: CertificateChain
    key: bytes


@dataclass(frozen=True, slots=True)
class _Town:
    """Who runs. mirror: its key."""

    ca: RunningCA
    other: RunningCA
    mirror: VerifierKey


def run_browser(folder_name: str, draft: str = DRAFTS[0]) -> list[Outcome]:
    """Tell the whole story in a new folder. Raises AssertionError when the browser does not do what it must.

    draft: one of DRAFTS. Raises UsageError for another one and where there is no Chromium, PeerError when it does not
    start.
    """
    if draft not in DRAFTS:
        raise UsageError(Reason.UNSUPPORTED, f"browsers speak {', '.join(DRAFTS)}, and nothing of {draft}")
    require_chromium()
    configure_logs(sys.stderr, level=logging.ERROR)
    out = console()
    place = Path(folder_name) / FOLDER
    shutil.rmtree(place, ignore_errors=True)
    revision = parse_revision(draft)
    out.print(Rule(f"A browser, and two CAs of draft {revision}", align="left", style="dim"))
    began = time.monotonic()
    try:
        outcomes = asyncio.run(_tell_story(out, place, revision))
    except asyncio.CancelledError:
        raise SystemExit(128 + signal.SIGTERM) from None
    wrong = [outcome.name for outcome in outcomes if not outcome.is_right]
    if wrong:
        raise AssertionError(f"the browser did not do what it must: {', '.join(wrong)}")
    loaded = sum(outcome.must_load for outcome in outcomes)
    out.print(
        f"\n[green]All as it must be[/]: {loaded} pages loaded, {len(outcomes) - loaded} refused, "
        f"in {time.monotonic() - began:.0f} s."
    )
    return outcomes


async def _tell_story(out: Console, place: Path, revision: DraftRevision) -> list[Outcome]:
    """Issue, start the browser, visit, and show what came of it. SIGTERM cancels it, as ctrl-C does."""
    story = asyncio.current_task()
    assert story is not None
    if threading.current_thread() is threading.main_thread():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, story.cancel)
    async with AsyncExitStack() as stack:
        with out.status("two CAs, their signers and a mirror start"):
            town = await stack.enter_async_context(_running(place, revision))
        with out.status("certificates are issued, and landmarks come"):
            known, foreign = await asyncio.gather(_issue_site(town.ca, "known"), _issue_site(town.other, "foreign"))
            index = Certificate.parse(known.standalone.certificates[0]).index
            subtrees = await _wait_for(lambda: _learn_subtrees(town.ca.parts.folder, index), "the landmark")
            store = TrustStore([_trust(town.ca, town.mirror, subtrees), _trust(town.other, town.mirror, ())])
        _tell_setup(out, store.cas[0], known)
        with out.status("Chromium starts, and reads what its profile holds"):
            # More is issued while it does: what the browser cannot know yet.
            issuing = asyncio.create_task(_issue_site(town.ca, "later"))
            stack.callback(issuing.cancel)
            browser = await stack.enter_async_context(
                open_browser(place, store, {HOST: "127.0.0.1"}, datetime.now(UTC))
            )
            later = await issuing
        with out.status("it visits one server after the other"):
            visits = await visit_all(browser, _cases(known, later, foreign), place)
    outcomes = judge_visits(visits, place)
    _tell(out, outcomes)
    return outcomes


@asynccontextmanager
async def _running(place: Path, revision: DraftRevision) -> AsyncIterator[_Town]:
    """Run two CAs that issue nothing without their mirror."""
    create_cosigner(place / "mirror", CosignerConfig(role=Role.MIRROR, cosigner_id=MIRROR_ID), None)
    mirror = CosignerFolder.read(place / "mirror").keys[0].key
    folders = [_make_ca(place / name, ca_id, revision) for name, ca_id in (("ca", CA_ID), ("other-ca", OTHER_CA_ID))]
    for folder in folders:
        add_log(place / "mirror", KnownCA(key=_key_of(folder)), (mirror,))
    async with AsyncExitStack() as stack:
        cosigner = await stack.enter_async_context(open_cosigner(place / "mirror"))
        listening = await stack.enter_async_context(serving(cosigner, ("127.0.0.1", 0)))
        for folder in folders:
            add_cosigner(folder.path, CosignerTable(name="m1", role=Role.MIRROR, key=mirror, url=listening.url))
        cas = await asyncio.gather(*(stack.enter_async_context(open_ca(folder.path)) for folder in folders))
        for ca in cas:
            await stack.enter_async_context(ca.sequencing())
        yield _Town(cas[0], cas[1], mirror)


def _make_ca(path: Path, ca_id: TrustAnchorID, revision: DraftRevision) -> CAFolder:
    """Make the folder of a CA."""
    profile = replace(PRIVATE_SERVICE, **_OVERRIDES)  # type: ignore[arg-type]  # the keys are fields of the right type
    config = CAConfig(ca_id=ca_id, profile=profile, revision=revision, listen=None, overrides=_OVERRIDES)
    return create_folder(path, config, None, datetime.now(UTC))[0]


def _key_of(folder: CAFolder) -> VerifierKey:
    """Return a CA's key as notes know it."""
    name, key = folder.config.ca_id.oid_name, folder.certificate.public_key.public_key
    return VerifierKey.from_spki(name, SignatureType.COSIGNATURE_MLDSA44, key)


async def _issue_site(ca: RunningCA, name: str) -> _Site:
    """Obtain both forms of a certificate for the host, in a round with others, so that there is something to prove."""
    key = generate_private_key(SECP256R1())
    spki = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    hosts = [*(f"{name}-{number}.example.com" for number in range(_FILLERS)), HOST]
    answers = await ca.issue(
        [IssuanceRequest(spki=spki, dns_names=(host,), request_key=f"{name} {host}".encode()) for host in hosts]
    )
    last = answers[-1]
    if isinstance(last, Error):
        raise last
    pem = last.pem.encode()

    async def upgrade() -> str | None:
        """Ask for the other form; None before there is a landmark."""
        answer = await ca.upgrade(pem)
        return str(answer["certificate"]) if "certificate" in answer else None

    upgraded = await _wait_for(upgrade, "the landmark-relative certificate")
    texts = (pem, upgraded.encode())
    standalone, relative = (parse_certificate_chains(text, None)[0] for text in texts)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return _Site(standalone, relative, private)


def _trust(ca: RunningCA, mirror: VerifierKey, subtrees: tuple[TrustedSubtree, ...]) -> TrustedCA:
    """Return a CA as a relying party trusts it, with its mirror."""
    trusted = trusted_ca_from_certificate(ca.parts.folder.certificate)
    return replace(
        trusted,
        cosigners=(*trusted.cosigners, Cosigner(MIRROR_ID, mirror.verifier)),
        policy=CosignerPolicy(require=(trusted.ca_id, MIRROR_ID)),
        trusted_subtrees=subtrees,
    )


async def _wait_for(look: Callable[[], Awaitable[_Found | None]], what: str) -> _Found:
    """Return what is found by looking again and again. Raises PeerError when it does not come."""
    until = time.monotonic() + _PATIENCE_S
    while (found := await look()) is None:
        if time.monotonic() > until:
            raise PeerError(Reason.PEER, f"{what} did not come within {_PATIENCE_S:.0f} s")
        await asyncio.sleep(_POLL_S)
    return found


async def _learn_subtrees(folder: CAFolder, index: int) -> tuple[TrustedSubtree, ...] | None:
    """Return the subtrees of a CA's active landmarks, from what it serves, every hash proven to the checkpoint.

    None while no subtree has the entry: a certificate can be there a moment before the file that lists its landmark.
    """
    async with open_log(str(folder.path)) as source:
        note, file = await source.fetch([f"{_LOG}/checkpoint", f"{_LOG}/landmarks"])
        if note is None or file is None:
            raise PeerError(Reason.PEER, "the CA serves no checkpoint or no landmarks")
        hasher = active_kernel().hasher(folder.certificate.hash.name)
        checkpoint = Checkpoint.parse(open_note(note, [_key_of(folder)]).text, hasher.size)
        assert checkpoint.origin == log_id(folder.config.ca_id, _LOG).oid_name, "our own CA has our own log"
        now = datetime.now(UTC)
        landmarks = ActiveLandmarks.parse(file, now, folder.config.revision)
        wanted = [
            (landmark, subtree)
            for landmark in landmarks.active(now)
            for subtree in landmarks.subtrees(landmark.number)
            if not subtree.is_empty
        ]

        def hash_all(hashes: HashReader) -> list[bytes]:
            return [subtree_hash(hasher, hashes, subtree) for _, subtree in wanted]

        head = TreeHead(checkpoint.tree_size, checkpoint.root_hash)
        found = await LogReader(hasher, source, f"{_LOG}/").ask(head, hash_all)
    if not any(subtree.contains(index) for _, subtree in wanted):
        return None
    return tuple(
        TrustedSubtree(_LOG, subtree, value, landmark.number)
        for (landmark, subtree), value in zip(wanted, found, strict=True)
    )


def _cases(known: _Site, later: _Site, foreign: _Site) -> list[Case]:
    """Return the servers: three that are as they should be, and three that are wrong in one way each."""
    signed = Certificate.parse(later.standalone.certificates[0]).proof
    own = tuple(item for item in signed.signatures if item.cosigner_id == CA_ID.binary)
    short = _with_proof(later.standalone, replace(signed, signatures=own))
    proof = Certificate.parse(known.relative.certificates[0]).proof
    first, *rest = proof.inclusion_proof
    flipped = bytes((first[0] ^ 1,)) + first[1:]
    broken = _with_proof(known.relative, replace(proof, inclusion_proof=(flipped, *rest)))
    # A server would not send it to this browser if its properties named its own landmark.
    misnamed = CertificateChain(known.relative.properties, later.relative.certificates)
    return [
        _case("landmark-relative", "both, landmark known", known, (known.relative, known.standalone), must_load=True),
        _case("standalone", "both, landmark newer", later, (later.relative, later.standalone), must_load=True),
        _case("ca-id", "both, no landmarks known", foreign, (foreign.relative, foreign.standalone), must_load=True),
        _case("corrupted-proof", "one bit of the proof flipped", known, (broken, known.standalone), must_load=False),
        _case("unknown-landmark", "a newer landmark misnamed", later, (misnamed, later.standalone), must_load=False),
        _case("missing-mirror", "no cosignature of the mirror", later, (short,), must_load=False),
    ]


def _case(name: str, title: str, site: _Site, chains: Sequence[CertificateChain], *, must_load: bool) -> Case:
    """Return a server with these paths of a site."""
    return Case(name, title, tuple(CertificationPath.build(chain, site.key) for chain in chains), must_load)


def _with_proof(chain: CertificateChain, proof: MTCProof) -> CertificateChain:
    """Return the path with another proof in its certificate."""
    return CertificateChain(chain.properties, (Certificate.parse(chain.certificates[0]).with_proof(proof),))


def _tell_setup(out: Console, ca: TrustedCA, known: _Site) -> None:
    """Say what the browser is given."""
    entry = Certificate.parse(known.standalone.certificates[0])
    numbers = sorted({item.landmark for item in ca.trusted_subtrees if item.landmark is not None})
    out.print(
        f"CAs [bold]{CA_ID}[/] and [bold]{OTHER_CA_ID}[/] and mirror [bold]{MIRROR_ID}[/] run; the certificate for "
        f"{HOST} is entry {entry.index} of log {entry.log_number} of {CA_ID}.\nA fresh Chromium profile trusts all "
        f"three, and knows {len(ca.trusted_subtrees)} subtrees of {CA_ID}, up to landmark {numbers[-1]}.\n"
    )


def _tell(out: Console, outcomes: Sequence[Outcome]) -> None:
    """Show what the browser made of each server."""
    rows = table("", "the server has", "it sends", "bytes", "the browser says", "and its verifier", numeric=(3,))
    for outcome in outcomes:
        colour = "green" if outcome.page.is_secure else "red"
        said = outcome.page.security_state if outcome.page.is_secure else outcome.page.error.removeprefix(_REFUSED)
        rows.add_row(
            "[green]✓[/]" if outcome.is_right else "[bold red]wrong[/]",
            outcome.title,
            outcome.form if outcome.visit.is_matched else f"{outcome.form}, unasked",
            f"{len(outcome.verdict.certificate):,}",
            f"[{colour}]{shown(said)}[/]",
            shown(outcome.why),
        )
    out.print(rows)
    asked = ", ".join(map(str, outcomes[0].visit.requested or ())) or "nothing"
    out.print(f"\nIt asked every server for [bold]{asked}[/]. What it showed:\n")
    for outcome in outcomes:
        out.print(f"  {shown(str(outcome.screenshot))}", style="cyan", soft_wrap=True)
