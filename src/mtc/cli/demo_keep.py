"""What `mtc demo --keep` leaves running: a site with a fresh certificate, addresses, and what to try."""

import contextlib
import time

from rich.console import Console

from mtc.cli.demo_relying import HOST, Visit, order
from mtc.cli.demo_telling import heading
from mtc.cli.demo_town import last_words, run_here, until
from mtc.cli.output import shown, table, write_new_file
from mtc.errors import PeerError, Reason

_LOOK_S = 0.5


def addresses_of(visit: Visit) -> dict[str, str]:
    """Return where everybody answers, by name; all but the ACME directory and the site are pages for browsers."""
    members = visit.town.members
    pages = {name: f"{members[name].url}/" for name in ("ca", "w1", "m1", "m2")}
    site = members["site"]
    return {
        **pages,
        "updates": f"{visit.updates.url}/health",
        "acme": visit.acme_url,
        "site": f"https://{HOST}/ at {site.host}:{site.port}",
    }


def renew(visit: Visit) -> None:
    """Give the site another certificate in the place of the one that was revoked, and tell the relying party."""
    order(visit, "--force")

    def has_landmark() -> bool:
        run_here("trust", "update", visit.client, "--json", must_succeed=False)
        return visit.trusted_landmark() is not None

    until(has_landmark, "the update service did not bring the new landmark")
    text = run_here("trust", "show", visit.client, "--store", must_succeed=False)
    write_new_file(visit.town.folder / "trust.json", text.encode())
    write_new_file(visit.town.folder / "old-root.pem", visit.classical.root)


def keep_running(out: Console, visit: Visit) -> None:
    """Print the addresses, and wait for ctrl-C. Raises PeerError when a process ends by itself."""
    town, site = visit.town, visit.town.members["site"]
    out.print()
    heading(out, "They stay until ctrl-C")
    about = {
        "ca": "certification authority, status page",
        "w1": "witness",
        "m1": "mirror",
        "m2": "mirror",
        "updates": "update service",
        "acme": "ACME directory",
        "site": "TLS site with a new certificate; /.mtc shows its visitors",
    }
    rows = table("who", "address", "what")
    for name, address in addresses_of(visit).items():
        rows.add_row(name, f"[bold]{shown(address)}[/]", about[name])
    out.print(rows)
    folder = shown(str(town.folder))
    get = f"https://{HOST}/ --connect {site.host}:{site.port}"
    out.print("\nVisit the site, and see what it says of each visitor:\n")
    for line in (
        f"mtc get {get} --trust {folder}/trust.json",
        f"mtc handshake {get} --trust {folder}/trust.json",
        f"mtc get {get} --ca-file {folder}/old-root.pem  [dim]# as a client that knows nothing of this[/]",
        f"mtc get https://{HOST}/.mtc/visits.json --connect {site.host}:{site.port} --trust {folder}/trust.json",
        f"tail -f {folder}/site.log",
    ):
        out.print(f"  {line}", style="cyan", soft_wrap=True)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            for member in town.members.values():
                if not member.is_running:
                    raise PeerError(Reason.PEER, f"{member.name} ended: {last_words(member)}")
            time.sleep(_LOOK_S)
    out.print("\nended")
