"""`mtc demo browser`: Chromium loads pages over our certificates, and refuses what it must.

A CA and one mirror run as processes of their own. A browser with a fresh profile trusts them and knows the landmarks up
to some moment, another one knows none; what they say of each page is read back from themselves.
"""

import asyncio
import html
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from rich.console import Console
from rich.rule import Rule

from mtc.ca.proofs import LogReader, TreeHead
from mtc.cert import CACertificate, Certificate, CertificateChain, MTCProof, parse_certificate_chains
from mtc.cli.log_source import open_log
from mtc.cli.output import console, shown, table
from mtc.errors import PeerError, Reason, UsageError
from mtc.ids import DraftRevision, TrustAnchorID, log_id, parse_revision
from mtc.kernel import active_kernel
from mtc.landmark import ActiveLandmarks
from mtc.merkle import HashReader, subtree_hash
from mtc.note import Checkpoint, SignatureType, VerifierKey, open_note
from mtc.testing.anchor_server import AnchorServer, Visit
from mtc.testing.chromium import NET_LOG, Page, open_browser, require_chromium
from mtc.testing.chromium_netlog import Verdict, read_verdicts
from mtc.testing.fleet import Fleet, fleet_in, run_mtc
from mtc.tls import CertificationPath
from mtc.trust import Cosigner, CosignerPolicy, TrustedCA, TrustedSubtree, TrustStore, trusted_ca_from_certificate
from mtc.wire import parse_pem

HOST = "www.mtc-example.com"
CA_ID = TrustAnchorID.parse("32473.5")
MIRROR_ID = TrustAnchorID.parse("32473.21")
DRAFTS = ("plants-05", "plants-04")
"""The drafts whose bytes Chromium 156 speaks."""
FOLDER = "browser"
_LOG = 1
_FILLERS = 30
# Landmarks come every second, so that nobody waits; drafts without expiry allow 30,000 of them to be active.
_CA_OPTIONS = ("--max-lifetime", "8h", "--landmark-interval", "1s")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one server: what the browser said and what its verifier noted, and the connection as we saw it.

    name: short, for file names. must_load: what should have happened. screenshot: PNG file.
    """

    name: str
    title: str
    must_load: bool
    page: Page
    visit: Visit
    verdict: Verdict
    screenshot: Path

    @property
    def is_right(self) -> bool:
        """True when the browser did what it must."""
        is_same = self.page.certificate == self.verdict.certificate
        return is_same and self.page.is_secure == self.must_load == self.verdict.is_accepted


@dataclass(frozen=True, slots=True)
class _Site:
    """One log entry with its two certification paths, and its private key, PEM."""

    standalone: CertificateChain
    relative: CertificateChain
    key: bytes


@dataclass(frozen=True, slots=True)
class _Case:
    """One server. paths: most wanted first; see `AnchorServer`."""

    name: str
    title: str
    paths: tuple[CertificationPath, ...]
    must_load: bool


def run_browser(folder_name: str, draft: str = DRAFTS[0]) -> list[Outcome]:
    """Tell the whole story in a new folder. Raises AssertionError when the browser does not do what it must.

    draft: one of DRAFTS. Raises UsageError for another one and where there is no Chromium, PeerError when it does not
    start.
    """
    if draft not in DRAFTS:
        raise UsageError(Reason.UNSUPPORTED, f"browsers speak {', '.join(DRAFTS)}, and nothing of {draft}")
    require_chromium()
    out = console()
    place = Path(folder_name) / FOLDER
    shutil.rmtree(place, ignore_errors=True)
    revision = parse_revision(draft)
    out.print(Rule(f"A browser, and a CA of draft {revision}", align="left", style="dim"))
    with fleet_in(place) as fleet:
        _begin(fleet, draft)
        known = _issue_site(fleet, "known")
        store = asyncio.run(_learn(fleet, revision))
        later = _issue_site(fleet, "later")
    _tell_setup(out, store.cas[0], known)
    outcomes = asyncio.run(_visit_with_two(place, store, known, later))
    _tell(out, outcomes)
    wrong = [outcome.name for outcome in outcomes if not outcome.is_right]
    if wrong:
        raise AssertionError(f"the browser did not do what it must: {', '.join(wrong)}")
    return outcomes


def _begin(fleet: Fleet, draft: str) -> None:
    """Start a CA that issues nothing without its mirror."""
    ca = fleet.add_ca(str(CA_ID), "--draft", draft, *_CA_OPTIONS)
    mirror = fleet.add_cosigner("mirror", "m1", str(MIRROR_ID))
    fleet.introduce()
    config = ca.folder / "ca.toml"
    head, line, rest = config.read_text("utf-8").partition("[quorum]")
    comment, _, rest = rest.partition("\n")
    config.write_text(f'{head}{line}{comment}\nrequired = ["m1"]\nwait = "20s"\n{rest}', "utf-8")
    mirror.start()
    ca.start()


def _issue_site(fleet: Fleet, name: str) -> _Site:
    """Obtain both forms of a certificate for the host, in a round with others, so that there is something to prove."""
    place, ca = fleet.folder, fleet.members["ca"]
    key = generate_private_key(SECP256R1())
    keys = [generate_private_key(SECP256R1()) for _ in range(_FILLERS)]
    lines = []
    for host, holder in [*((f"{name}-{number}.example.com", keys[number]) for number in range(_FILLERS)), (HOST, key)]:
        public = holder.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        lines.append({"public_key": public.decode(), "dns": [host], "request_key": f"{name} {host}"})
    requests, answers = place / f"{name}.requests", place / f"{name}.answers"
    requests.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    run_mtc(["ca", "issue", str(ca.folder), "--bulk", str(requests), "--out", str(answers)])
    last = json.loads(answers.read_text("utf-8").splitlines()[-1])
    standalone, relative = place / f"{name}.standalone.pem", place / f"{name}.landmark.pem"
    standalone.write_text(last["certificate"], "utf-8")
    run_mtc(["cert", "upgrade", str(standalone), "--log", ca.url, "--wait", "--out", str(relative)])
    paths = [parse_certificate_chains(file.read_bytes(), None)[0] for file in (standalone, relative)]
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return _Site(paths[0], paths[1], private)


async def _learn(fleet: Fleet, revision: DraftRevision) -> TrustStore:
    """Return the trust of a relying party that learns the landmarks now; every hash is proven to the checkpoint."""
    certificate = CACertificate.parse(parse_pem((fleet.members["ca"].folder / "ca.pem").read_bytes())[0][1])
    mirror = VerifierKey.parse(fleet.members["m1"].vkey)
    trusted = trusted_ca_from_certificate(certificate)
    own = VerifierKey.from_spki(CA_ID.oid_name, SignatureType.COSIGNATURE_MLDSA44, certificate.public_key.public_key)
    async with open_log(fleet.members["ca"].url) as source:
        note, file = await source.fetch([f"{_LOG}/checkpoint", f"{_LOG}/landmarks"])
        if note is None or file is None:
            raise PeerError(Reason.PEER, "the CA serves no checkpoint or no landmarks")
        checkpoint = Checkpoint.parse(open_note(note, [own]).text, trusted.hash.size)
        assert checkpoint.origin == log_id(CA_ID, _LOG).oid_name, "our own CA has our own log"
        now = datetime.now(UTC)
        landmarks = ActiveLandmarks.parse(file, now, revision)
        hasher = active_kernel().hasher(trusted.hash.name)
        reader = LogReader(hasher, source, f"{_LOG}/")
        head = TreeHead(checkpoint.tree_size, checkpoint.root_hash)
        wanted = [
            (landmark, subtree)
            for landmark in landmarks.active(now)
            for subtree in landmarks.subtrees(landmark.number)
            if not subtree.is_empty
        ]

        def hash_all(hashes: HashReader) -> list[bytes]:
            return [subtree_hash(hasher, hashes, subtree) for _, subtree in wanted]

        found = await reader.ask(head, hash_all)
    subtrees = [
        TrustedSubtree(_LOG, subtree, value, landmark.number)
        for (landmark, subtree), value in zip(wanted, found, strict=True)
    ]
    return TrustStore(
        [
            replace(
                trusted,
                cosigners=(*trusted.cosigners, Cosigner(MIRROR_ID, mirror.verifier)),
                policy=CosignerPolicy(require=(CA_ID, MIRROR_ID)),
                trusted_subtrees=tuple(subtrees),
            )
        ]
    )


def _cases(known: _Site, later: _Site) -> list[_Case]:
    """Return the servers: two that are as they should be, and three that are wrong in one way each."""
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
        _case("corrupted-proof", "one bit of the proof flipped", known, (broken, known.standalone), must_load=False),
        _case("unknown-landmark", "a newer landmark misnamed", later, (misnamed, later.standalone), must_load=False),
        _case("missing-mirror", "no cosignature of the mirror", later, (short,), must_load=False),
    ]


def _case(name: str, title: str, site: _Site, chains: Sequence[CertificateChain], *, must_load: bool) -> _Case:
    """Return a server with these paths of a site."""
    return _Case(name, title, tuple(CertificationPath.build(chain, site.key) for chain in chains), must_load)


def _with_proof(chain: CertificateChain, proof: MTCProof) -> CertificateChain:
    """Return the path with another proof in its certificate."""
    return CertificateChain(chain.properties, (Certificate.parse(chain.certificates[0]).with_proof(proof),))


async def _visit_with_two(place: Path, store: TrustStore, known: _Site, later: _Site) -> list[Outcome]:
    """Visit all servers with a browser that has the landmarks, and at the same time one with another that has none."""
    bare = TrustStore([replace(ca, trusted_subtrees=()) for ca in store.cas])
    fresh = _case("no-landmarks", "both, for a new browser", known, (known.relative, known.standalone), must_load=True)
    first, second = await asyncio.gather(
        _visit_all(place / "with-landmarks", store, _cases(known, later)),
        _visit_all(place / "without-landmarks", bare, [fresh]),
    )
    return first + second


async def _visit_all(place: Path, store: TrustStore, cases: Sequence[_Case]) -> list[Outcome]:
    """Serve all, visit each with one browser, and read its net log when it has ended. place: a new folder."""
    seen: list[tuple[_Case, Page, Visit, Path]] = []
    with ExitStack() as stack:
        servers = [stack.enter_context(AnchorServer(case.paths, _page_of(case))) for case in cases]
        async with open_browser(place, store, {HOST: "127.0.0.1"}, datetime.now(UTC)) as browser:
            for case, server in zip(cases, servers, strict=True):
                url = f"https://{HOST}:{server.port}/"
                page = await (browser.visit_patiently(url) if case.must_load else browser.visit(url))
                file = place / f"{case.name}.png"
                file.write_bytes(await browser.screenshot())
                seen.append((case, page, server.last_visit(), file))
    verdicts = {verdict.certificate: verdict for verdict in read_verdicts(place / NET_LOG)}
    nothing = Verdict(b"", (), -1)
    return [
        Outcome(case.name, case.title, case.must_load, page, visit, verdicts.get(_sent(case, visit), nothing), file)
        for case, page, visit, file in seen
    ]


def _sent(case: _Case, visit: Visit) -> bytes:
    """Return the certificate that a server sent."""
    return case.paths[visit.path].certificates[0]


_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<link rel="icon" href="data:,">
<style>
body {{ font: 18px/1.5 sans-serif; margin: 0; background: #f4f1ea; color: #22302c }}
main {{ max-width: 46rem; margin: 3rem auto; padding: 2rem 2.5rem; background: #fff; border-radius: 14px }}
h1 {{ margin: 0 0 1rem; font-size: 2rem; color: #0b6b4f }}
td {{ padding: .15rem 1.2rem .15rem 0; vertical-align: top }} td:first-child {{ color: #6b7a75 }}
code {{ font-size: .9em }}
</style></head><body><main><h1>{form}</h1><table>{rows}</table></main></body></html>"""


def _page_of(case: _Case) -> Callable[[Visit], str]:
    """Return what makes the page of a server: it tells the visitor what was asked for and sent."""

    def page(visit: Visit) -> str:
        certificate = Certificate.parse(case.paths[visit.path].certificates[0])
        proof = certificate.proof
        rows = {
            "host": HOST,
            "issued by": f"CA {certificate.ca_id}, log {certificate.log_number}, entry {certificate.index}",
            "you asked for": ", ".join(map(str, visit.requested or ())) or "nothing",
            "certificate": f"{len(case.paths[visit.path].certificates[0]):,} bytes",
            "proof": f"{32 * len(proof.inclusion_proof)} bytes to subtree {proof.subtree}",
            "signatures": ", ".join(item.name for item in proof.signatures) or "none: you have the landmark",
        }
        shown_rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td><code>{html.escape(value)}</code></td></tr>"
            for name, value in rows.items()
        )
        form = f"{'A standalone' if proof.signatures else 'A landmark-relative'} certificate"
        return _PAGE.format(title=html.escape(case.name), form=form, rows=shown_rows)

    return page


def _tell_setup(out: Console, ca: TrustedCA, known: _Site) -> None:
    """Say what the browser was given."""
    entry = Certificate.parse(known.standalone.certificates[0])
    numbers = sorted({item.landmark for item in ca.trusted_subtrees if item.landmark is not None})
    out.print(
        f"CA [bold]{ca.ca_id}[/] and mirror [bold]{MIRROR_ID}[/] run; the certificate for {HOST} is entry {entry.index}"
        f" of log {entry.log_number}.\nA fresh Chromium profile trusts both, and knows "
        f"{len(ca.trusted_subtrees)} subtrees up to landmark {numbers[-1]}.\n"
    )


def _tell(out: Console, outcomes: Sequence[Outcome]) -> None:
    """Show what the browser made of each server."""
    rows = table("the server has", "it sends", "bytes", "the browser says", "and its verifier", numeric=(2,))
    for outcome in outcomes:
        sent = "as asked" if outcome.visit.is_matched else "unasked"
        colour = "green" if outcome.page.is_secure else "red"
        said = outcome.page.security_state if outcome.page.is_secure else outcome.page.error
        rows.add_row(
            outcome.title,
            f"{form_of(outcome.verdict)}, {sent}",
            f"{len(outcome.verdict.certificate):,}",
            f"[{colour}]{shown(said)}[/]",
            shown(why(outcome.verdict)),
        )
    out.print(rows)
    asked = [", ".join(map(str, outcome.visit.requested or ())) or "nothing" for outcome in outcomes]
    out.print(
        f"\nThe browser with landmarks asked every server for [bold]{asked[0]}[/], "
        f"the new one for [bold]{asked[-1]}[/].\nWhat they showed:\n"
    )
    for outcome in outcomes:
        out.print(f"  {shown(str(outcome.screenshot))}", style="cyan")


def form_of(verdict: Verdict) -> str:
    """Return which form of certificate a verdict is about."""
    if not verdict.certificate:
        return "nothing"
    return "standalone" if Certificate.parse(verdict.certificate).proof.signatures else "landmark-relative"


def why(verdict: Verdict) -> str:
    """Return the browser's own reason in few words."""
    trusted = verdict.note("trusted_subtree_hash")
    if trusted and trusted != "not found":
        matches = trusted == verdict.note("expected_subtree_hash")
        return "the subtree of a landmark has this hash" if matches else "the subtree of a landmark has another hash"
    signed = [line.removeprefix("VerifyMTC: ") for line in verdict.notes if line.startswith("VerifyMTC: ")]
    if not signed and not verdict.policy:
        return "no landmark with this subtree, no signatures"
    return "; ".join([*signed, verdict.policy])
