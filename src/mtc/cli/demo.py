"""`mtc demo`: from a growing log to TLS with certificates from it, on this machine.

First a certification authority alone, inside this process, so that one can see into it; then a town of processes: CA,
witness, two mirrors, update service and a TLS site, which are visited.
"""

import asyncio
import json
import logging
import sys
import time
from dataclasses import dataclass

from rich.console import Console

from mtc import __version__
from mtc.cli.demo_cosign import found_town, tell_cosigners
from mtc.cli.demo_keep import addresses_of, keep_running, renew
from mtc.cli.demo_log import CA_FOLDER, HOST, tell_log
from mtc.cli.demo_relying import HOST as VISITED
from mtc.cli.demo_relying import Visit, begin_visit, open_site, order, tell_handshakes, tell_updates
from mtc.cli.demo_relying import tell_order as tell_order_of_site
from mtc.cli.demo_telling import heading, open_console, pausing
from mtc.cli.demo_town import Ports, Town, reporting_disk, serving_names, town_in
from mtc.cli.output import shown
from mtc.ids import DEFAULT_REVISION
from mtc.web.logs import configure_logs

TOWN = "town"
PORTS = 8
"""How many ports the processes listen on."""
CA_OPTIONS = ("--round-interval", "50ms", "--landmark-interval", "2s", "--max-lifetime", "7d")
"""Of the CA that runs as a process: landmarks come every few seconds, so that nobody waits."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What `mtc demo` is asked for.

    entries: in the log of the first CA. is_alone: without processes. is_kept: they go on until ctrl-C. port: the first
    of those that they listen on; None for any that are free.
    """

    folder: str
    entries: int
    is_alone: bool = False
    is_kept: bool = False
    as_json: bool = False
    port: int | None = None


def run_demo(  # noqa: PLR0913 - what there is to choose
    folder: str,
    entries: int,
    *,
    with_cosigners: bool = True,
    is_kept: bool = False,
    as_json: bool = False,
    port: int | None = None,
) -> dict[str, object]:
    """Run the whole story and leave its files in the folder; return what happened, for scripts.

    with_cosigners: also its second half, with everybody else and their processes. The others: see `DemoOptions`.
    Raises UsageError when the folder or a port cannot be used, PeerError when a process does not do what it should.
    """
    return _run(DemoOptions(folder, entries, not with_cosigners, is_kept, as_json, port))


def _run(options: DemoOptions) -> dict[str, object]:
    """Run the story as it is asked for."""
    configure_logs(sys.stderr, level=logging.ERROR)
    out = open_console(is_quiet=options.as_json)
    began = time.monotonic()
    facts: dict[str, object] = {"folder": options.folder, "draft": str(DEFAULT_REVISION), "software": __version__}
    if not options.is_alone:
        Ports(options.port).check(PORTS)
    with reporting_disk(options.folder):
        folder, index = asyncio.run(tell_log(out, options.folder, options.entries))
        if options.is_alone:
            _show_next(out, options, index, 6)
            facts["seconds"] = round(time.monotonic() - began, 1)
            print_facts(facts, options)
        else:
            with serving_names(VISITED) as resolver, town_in(folder / TOWN, Ports(options.port)) as town:
                visit = _tell_town(out, town, resolver)
                facts |= visit.facts | {"seconds": round(time.monotonic() - began, 1)}
                if options.is_kept:
                    facts["addresses"] = addresses_of(visit)
                _show_next(out, options, index, 10)
                out.print(f"\n[dim]All of this took {facts['seconds']} s.[/]")
                if options.is_kept:
                    with pausing(out, "a new certificate in the place of the one that was revoked"):
                        renew(visit)
                    print_facts(facts, options)
                    keep_running(out, visit)
            if not options.is_kept:
                print_facts(facts, options)
    return facts


def print_facts(facts: dict[str, object], options: DemoOptions) -> None:
    """Print what happened as one line of JSON, if that was asked for."""
    if options.as_json:
        sys.stdout.write(json.dumps(facts) + "\n")
        sys.stdout.flush()


def _tell_town(out: Console, town: Town, resolver: str) -> Visit:
    """Tell the story of a CA among others, as processes."""
    heading(out, "6  Others watch")
    with pausing(out, "making keys and folders"):
        found_town(town, *CA_OPTIONS)
        visit = begin_visit(town, resolver)
    with pausing(out, "starting five processes"):
        began = time.perf_counter()
        town.start(*town.members.values())
        took = time.perf_counter() - began
    with pausing(out, "watching mirrors die and come back"):
        tell_cosigners(out, town, took)
    out.print()
    heading(out, "7  A site gets its certificates")
    with pausing(out, "ordering, and waiting for a landmark"):
        took = order(visit)
    tell_order_of_site(out, visit, took)
    out.print()
    heading(out, "8  A relying party learns landmarks")
    with pausing(out, "updating"):
        tell_updates(out, visit)
    out.print()
    heading(out, "9  They meet: TLS handshakes of each kind")
    with pausing(out, "shaking hands"):
        tell_handshakes(out, visit, open_site(visit))
    out.print()
    return visit


def _show_next(out: Console, options: DemoOptions, index: int, number: int) -> None:
    """Say what to try."""
    heading(out, f"{number}  Try it")
    folder = shown(options.folder)
    out.print(f"The files are in [bold]{folder}[/]. Next:\n")
    files = " ".join(f"{folder}/{name}.pem" for name in ("standalone", "landmark-relative", "broken"))
    lines = [
        f"mtc verify --trust {folder}/trust.json --name {HOST} \\\n    {files}",
        f"mtc inspect {folder}/landmark-relative.pem",
        f"mtc ca evidence {folder}/{CA_FOLDER} {index}  [dim]# why entry {index} was logged[/]",
        f"mtc ca serve {folder}/{CA_FOLDER}  [dim]# then look at http://127.0.0.1:8080/[/]",
        "mtc demo outage  [dim]# CA, mirrors and update service gone for a day[/]",
        "mtc demo rollback  [dim]# yesterday's disk, and who remembers[/]",
    ]
    if not options.is_kept:
        lines.append("make demo KEEP=1  [dim]# everybody stays, with status pages to look at[/]")
    for line in lines:
        out.print(f"  {line}", style="cyan", soft_wrap=True)
