"""`mtc perspective`: make, run and look at remote perspectives."""

import asyncio
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from mtc.acme.perspective.config import PerspectivePeer, format_perspective, parse_name
from mtc.acme.perspective.folder import (
    PerspectiveConfig,
    allow_client,
    create_perspective,
    describe_perspective,
    own_fingerprint,
    read_perspective_config,
)
from mtc.acme.perspective.running import run_perspective
from mtc.ca.config import parse_address
from mtc.cli.output import console, read_input, shown
from mtc.errors import FormatError, Reason, UsageError
from mtc.web.logs import configure_logs
from mtc.web.server import loop_factory


def run_init(folder: str, *, name: str, region: str, listen: str, as_json: bool) -> None:
    """Make a perspective, and say what to do next."""
    names = []
    for option, text in (("--name", name), ("--region", region)):
        try:
            names.append(parse_name(text))
        except FormatError as error:
            raise UsageError(error.reason, f"{option}: {error.message}") from None
    address = parse_address(listen)
    if address is None:
        raise UsageError(Reason.USAGE, "a perspective listens somewhere; write for example --listen 0.0.0.0:8443")
    path = Path(folder)
    wanted = PerspectiveConfig(name=names[0], region=names[1].lower(), listen=address)
    is_new = create_perspective(path, wanted, datetime.now(UTC))
    config = read_perspective_config(path)
    if as_json:
        _print({**describe_perspective(path, config), "new": is_new})
        return
    out = console()
    if not is_new:
        out.print(f"perspective [bold]{shown(config.name)}[/] is in {shown(folder)} already; nothing was changed.")
        return
    out.print(f"perspective [bold]{config.name}[/] in {config.region} · in {shown(folder)}\n")
    _print_lines(path, config)
    out.print("\nNext:\n")
    out.print(
        f"  mtc perspective allow {shown(folder)} CERT.pem [dim]the CA's acme/perspective-client.pem[/]", style="cyan"
    )
    out.print(f"  mtc perspective serve {shown(folder)}", style="cyan")


def run_serve(folder: str, *, listen: str | None, as_json: bool) -> None:
    """Run a perspective until it is told to stop."""
    read_perspective_config(Path(folder))
    configure_logs(sys.stderr, is_json=True if as_json else None)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(run_perspective(Path(folder), listen=listen))


def run_allow(folder: str, certificate: str, *, as_json: bool) -> None:
    """Let a CA ask."""
    data = read_input(certificate)
    client, is_new = allow_client(Path(folder), data, certificate)
    if as_json:
        _print({"allowed": client.fingerprint, "new": is_new})
    elif is_new:
        console().print(
            f"the CA with the key {client.fingerprint} may ask from now on; a running perspective takes it over within "
            "seconds. To take it back, delete its lines in perspective.toml."
        )
    else:
        console().print(f"the CA with the key {client.fingerprint} may ask already; nothing was changed.")


def run_show(folder: str, *, as_json: bool) -> None:
    """Print who a perspective is."""
    path = Path(folder)
    config = read_perspective_config(path)
    if as_json:
        _print(describe_perspective(path, config))
        return
    out = console()
    out.print(f"perspective [bold]{shown(config.name)}[/] in {shown(config.region)}\n")
    _print_lines(path, config)
    out.print("\nmay be asked by:")
    for client in config.clients:
        out.print(f"  {client.fingerprint} [dim]until {client.certificate.not_valid_after_utc:%Y-%m-%d}[/]")
    if not config.clients:
        out.print("  nobody yet; mtc perspective allow lets a CA in")


def _print_lines(path: Path, config: PerspectiveConfig) -> None:
    """Print what a CA writes into its acme.toml."""
    peer = PerspectivePeer(
        name=config.name,
        region=config.region,
        url=f"https://HOST:{config.listen[1] or 'PORT'}",
        fingerprint=own_fingerprint(path),
    )
    out = console()
    out.print("For the CA's acme.toml, with the host name or address under which it finds this machine:\n")
    out.print(shown(format_perspective(peer)), style="dim", soft_wrap=True, end="")


def _print(fields: dict[str, object]) -> None:
    """Print one JSON object."""
    sys.stdout.write(json.dumps(fields) + "\n")
