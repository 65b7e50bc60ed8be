"""Servers that Chromium visits one after the other, and what it says of each: its page, and its verifier.

For tests and demonstrations. Each server has certification paths of its own, on loopback, all for the same name.
"""

import html
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from mtc.cert import Certificate
from mtc.testing.anchor_server import AnchorServer, Visit
from mtc.testing.chromium import NET_LOG, Browser, Page
from mtc.testing.chromium_netlog import Verdict, read_verdicts
from mtc.tls import CertificationPath

HOST = "www.mtc-example.com"
"""The name of every server."""


@dataclass(frozen=True, slots=True)
class Case:
    """One server. name: short, for file names. paths: most wanted first; see `AnchorServer`.

    must_load: whether a browser that does what it must shows its page.
    """

    name: str
    title: str
    paths: tuple[CertificationPath, ...]
    must_load: bool


@dataclass(frozen=True, slots=True)
class Visited:
    """One visit as it was seen while the browser ran. screenshot: PNG file."""

    case: Case
    page: Page
    visit: Visit
    screenshot: Path

    @property
    def sent(self) -> bytes:
        """The certificate that the server sent, DER; empty when nobody came."""
        return self.case.paths[self.visit.path].certificates[0] if self.visit.path >= 0 else b""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one server: what the browser said and what its verifier noted, and the connection as we saw it.

    must_load: what should have happened. screenshot: PNG file.
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

    @property
    def form(self) -> str:
        """Which form of certificate it got."""
        if not self.verdict.certificate:
            return "nothing"
        return form_of(Certificate.parse(self.verdict.certificate))

    @property
    def why(self) -> str:
        """The browser's own reason in few words."""
        trusted = self.verdict.note("trusted_subtree_hash")
        if trusted and trusted != "not found":
            is_same = trusted == self.verdict.note("expected_subtree_hash")
            return (
                "the subtree of a landmark has this hash" if is_same else "the subtree of a landmark has another hash"
            )
        signed = [line.removeprefix("VerifyMTC: ") for line in self.verdict.notes if line.startswith("VerifyMTC: ")]
        if not signed and not self.verdict.policy:
            return "no landmark with this subtree, no signatures"
        return "; ".join([*signed, self.verdict.policy])


async def visit_all(browser: Browser, cases: Sequence[Case], folder: Path) -> list[Visited]:
    """Serve all, and visit each with a browser, in order; screenshots go to the folder.

    The first ones should be those that must load: they are tried until they do, and after them the browser is known to
    have taken what its profile holds, so that a refusal is one.
    """
    seen: list[Visited] = []
    with ExitStack() as stack:
        servers = [stack.enter_context(AnchorServer(case.paths, page_of(case))) for case in cases]
        for case, server in zip(cases, servers, strict=True):
            url = f"https://{HOST}:{server.port}/"
            page = await (browser.visit_patiently(url) if case.must_load else browser.visit(url))
            file = folder / f"{case.name}.png"
            file.write_bytes(await browser.screenshot())
            seen.append(Visited(case, page, server.last_visit(), file))
    return seen


def judge_visits(visits: Sequence[Visited], folder: Path) -> list[Outcome]:
    """Return the outcomes, with the verdicts of a browser that has ended, from the net log in its folder.

    Raises FormatError.
    """
    verdicts = {verdict.certificate: verdict for verdict in read_verdicts(folder / NET_LOG)}
    nothing = Verdict(b"", (), -1)
    return [
        Outcome(
            seen.case.name,
            seen.case.title,
            seen.case.must_load,
            seen.page,
            seen.visit,
            verdicts.get(seen.sent, nothing),
            seen.screenshot,
        )
        for seen in visits
    ]


def form_of(certificate: Certificate) -> str:
    """Return which form of certificate it is, by its looks."""
    return "standalone" if certificate.proof.signatures else "landmark-relative"


_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<link rel="icon" href="data:,">
<style>
body {{ font: 18px/1.5 sans-serif; margin: 0; background: #f4f1ea; color: #22302c }}
main {{ max-width: 46rem; margin: 3rem auto; padding: 2rem 2.5rem; background: #fff; border-radius: 14px }}
h1 {{ margin: 0 0 1rem; font-size: 2rem; color: #0b6b4f }}
td {{ padding: .15rem 1.2rem .15rem 0; vertical-align: top }} td:first-child {{ color: #6b7a75 }}
code {{ font-size: .9em }}
</style></head><body><main><h1>{form}</h1><table>{rows}</table></main></body></html>"""


def page_of(case: Case) -> Callable[[Visit], str]:
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
        form = f"A {form_of(certificate)} certificate"
        return _PAGE.format(title=html.escape(case.name), form=form, rows=shown_rows)

    return page
