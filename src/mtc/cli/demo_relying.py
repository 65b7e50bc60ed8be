"""The part of `mtc demo` with a site and its visitors: an order over ACME, landmarks from the update service, TLS.

The site is `mtc serve-tls` with what `mtc request` keeps; a visitor is `mtc trust` and `mtc.tls.client_context`.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from mtc.cert import Certificate, parse_certificate_chains
from mtc.cli.demo_classical import Classical, keep_classical, make_classical
from mtc.cli.demo_cosign import names_of_cosigners
from mtc.cli.demo_tls import Handshake, Site, handshake_table, handshakes_of_each_kind
from mtc.cli.demo_town import Town, issue_many, patiently, run_here, until
from mtc.cli.output import shown, table
from mtc.testing.fleet import Member
from mtc.tls import client_context
from mtc.trust import TrustedSubtree, TrustStore
from mtc.trust.updater import load_trust_store

HOST = "www.example.com"
CERTIFICATES = "certificates"
CLIENT = "client"
OTHERS = 40
"""How many others get certificates in each moment in which the site orders its own."""
_LANDMARK_WAIT = "45s"
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>mtc</title>
<h1>A page over a Merkle Tree certificate</h1><p>It was served by <code>mtc serve-tls</code>.</p></html>
"""


@dataclass(slots=True)
class Visit:
    """A site and the relying party that visits it. facts: what happened, for scripts. Use `begin_visit`."""

    town: Town
    acme_url: str
    http_port: int
    classical: Classical
    updates: Member
    facts: dict[str, object] = field(default_factory=dict)

    @property
    def client(self) -> str:
        """The relying party's folder."""
        return str(self.town.folder / CLIENT)

    @property
    def certificates(self) -> Path:
        """Where `mtc request` keeps what it got."""
        return self.town.folder / CERTIFICATES / HOST

    def chain(self, name: str) -> tuple[Certificate, str]:
        """Return a certificate that is deployed now, and its trust anchor ID. name: standalone or landmark."""
        data = (self.certificates / "current" / f"{name}.pem").read_bytes()
        chain = parse_certificate_chains(data)[0]
        properties = chain.properties
        return Certificate.parse(chain.certificates[0]), str(properties.trust_anchor_id if properties else "")

    def store(self) -> TrustStore:
        """Return what the relying party trusts now."""
        return load_trust_store(Path(self.client), datetime.now(UTC))

    def trusted_landmark(self) -> TrustedSubtree | None:
        """Return the subtree that the site's landmark-relative certificate needs, if the relying party has it."""
        _, anchor = self.chain("landmark")
        for ca in self.store().cas:
            for subtree in ca.trusted_subtrees:
                if anchor.endswith(f".{subtree.log_number}.{subtree.landmark}"):
                    return subtree
        return None


def begin_visit(town: Town, resolver: str, **choices: str) -> Visit:
    """Give the CA an ACME server, and make an update service; nothing runs yet. choices: keys of updates.toml."""
    acme, http = town.ports.take("the ACME server"), town.ports.take("http-01")
    url = f"https://localhost:{acme}/acme"
    options = ["--listen", f"127.0.0.1:{acme}", "--resolver", resolver, "--unsafe-for-tests", "--http-port", str(http)]
    run_here("acme", "init", str(town.members["ca"].folder), "--url", url, *options, "--json")
    mirrors = [member for member in town.members.values() if member.role == "mirror"]
    return Visit(town, f"{url}/directory", http, make_classical(HOST), town.add_updates(mirrors, **choices))


def order(visit: Visit, *options: str) -> float:
    """Order both forms with `mtc request`, validation included, and lay a classical one beside; return the seconds."""
    ca, out = visit.town.members["ca"].folder, visit.town.folder / CERTIFICATES
    server = ["--server", visit.acme_url, "--ca-file", str(ca / "acme" / "tls.pem")]
    what = ["--dns", HOST, "--http-port", str(visit.http_port), "--listen", "127.0.0.1", "--out", str(out)]
    began = time.monotonic()
    visit.town.run(
        "request",
        *server,
        *what,
        *("--wait-landmark", _LANDMARK_WAIT, "--json", *options),
        # Others are in the same landmark; a proof in a tree of one entry would be none.
        meanwhile=lambda: patiently(visit.town, lambda: issue_many(visit.town, OTHERS)),
    )
    keep_classical(visit.certificates, visit.classical)
    return time.monotonic() - began


def tell_order(out: Console, visit: Visit, took_s: float) -> None:
    """Show the two certificates of the site."""
    out.print(
        f"[bold]mtc request[/] makes a key, orders at [bold]{visit.acme_url}[/],\nanswers http-01 on port "
        f"{visit.http_port}, stays until a landmark covers its entry, and keeps both forms: {took_s:.1f} s.\n"
    )
    rows = table("file", "trust anchor ID", "bytes", "signatures", "who signed", numeric=(2, 3))
    names = names_of_cosigners(visit.town)
    kept: list[dict[str, object]] = []
    for name in ("standalone", "landmark"):
        certificate, anchor = visit.chain(name)
        signed = [names.get(item.cosigner_id, item.name) for item in certificate.proof.signatures]
        size = sum(len(item.signature) for item in certificate.proof.signatures)
        by = ", ".join(signed) or "[bold]nobody[/]"
        rows.add_row(f"{name}.pem", anchor, f"{len(certificate.der):,}", f"{size:,}", by)
        kept.append({"file": name, "anchor": anchor, "bytes": len(certificate.der), "signed_by": signed})
    rows.add_row("classical/fullchain.pem", "", f"{visit.classical.size:,}", "", "intermediate, root (P-256)")
    out.print(rows)
    visit.facts |= {"order_s": round(took_s, 2), "certificates": kept}


def tell_updates(out: Console, visit: Visit) -> None:
    """Make a relying party that pins the policy key, and update it until it has the site's landmark; show how."""
    key = str(visit.updates.folder / "policy.pub.pem")
    run_here("trust", "init", visit.client, "--url", visit.updates.url, "--policy-key", key, "--json")
    out.print(
        "It pins one key, which signs the policy document: CAs, their cosigners' keys, revocations.\n"
        "For landmarks it trusts nobody: each is proven to a tree that CA and a mirror have cosigned.\n"
    )
    rows = table("mtc trust update", "bytes", "landmark", "tree size", "it is", numeric=(1, 2, 3))
    taken: list[dict[str, object]] = []

    def has_landmark() -> bool:
        said = json.loads(run_here("trust", "update", visit.client, "--json", must_succeed=False))
        if said.get("new"):
            logs = said["logs"] or [{"landmark": "", "tree_size": ""}]
            how = "a delta" if said["delta"] else "everything"
            marks = [str(logs[0]["landmark"]), str(logs[0]["tree_size"])]
            rows.add_row(
                f"version {said['version']}, {how}", f"{said['bytes']:,}", *marks, f"[green]{said['staleness']}[/]"
            )
            taken.append({"version": said["version"], "delta": said["delta"], "bytes": said["bytes"]})
        return bool(said.get("version")) and visit.trusted_landmark() is not None

    until(has_landmark, "the update service did not bring the landmark")
    out.print(rows)
    visit.facts["updates"] = taken


def open_site(visit: Visit) -> Site:
    """Start the TLS site."""
    root = visit.town.folder / "www"
    root.mkdir()
    (root / "index.html").write_text(_PAGE, "utf-8")
    member = visit.town.add_site(root, visit.certificates)
    return Site(HOST, (member.host, member.port), visit.classical, names_of_cosigners(visit.town))


def tell_handshakes(out: Console, visit: Visit, site: Site) -> None:
    """Shake hands in every way, revoke the certificate, shake hands once more; show all in one table."""
    landmark = visit.trusted_landmark()
    assert landmark is not None
    handshakes = handshakes_of_each_kind(site, visit.store(), landmark)
    began = time.monotonic()
    handshakes.append(_visit_revoked(visit, site))
    took = time.monotonic() - began
    _check(handshakes)
    out.print(handshake_table(handshakes))
    refusal = handshakes[-1].refusal
    assert refusal is not None
    out.print(
        f"\nThe last one came {took:.1f} s after [bold]mtc ca revoke[/] and says:\n  [red]{shown(refusal[1])}[/]\n\n"
        "[dim]bytes: all that the server sent until the client had finished. µs: to verify that certificate.\n"
        "Where nobody signed, the client has verified once what CA and mirror signed, for all of landmark "
        f"{landmark.landmark}.[/]"
    )
    visit.facts["handshakes"] = [item.to_json() for item in handshakes]


def _visit_revoked(visit: Visit, site: Site) -> Handshake:
    """Revoke the site's certificate, wait until the relying party has heard of it, and connect."""
    certificate, _ = visit.chain("standalone")
    run_here("ca", "revoke", str(visit.town.members["ca"].folder), str(certificate.serial), "--reason", "keyCompromise")

    def has_heard() -> bool:
        run_here("trust", "update", visit.client, "--json", must_succeed=False)
        return any(certificate.serial in ca.revoked for ca in visit.store().cas)

    until(has_heard, "the relying party did not hear of the revocation")
    store = visit.store()
    return site.connect("knows it is revoked", client_context(store), store)


def _check(handshakes: Sequence[Handshake]) -> None:
    """Raise AssertionError when a handshake did not go as it must."""
    served = [item.served for item in handshakes]
    wanted = ["landmark-relative", "landmark-relative", "standalone", "classical", ""]
    if served != wanted or [item.refusal is not None for item in handshakes] != [not item for item in wanted]:
        raise AssertionError(f"the handshakes went otherwise: {handshakes}")
