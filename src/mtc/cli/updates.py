"""`mtc updates`: make, run and look at an update service."""

import asyncio
import json
import os
import sys
from pathlib import Path

from mtc.cli.output import console, read_input, shown
from mtc.cosign.config import check_url, parse_address
from mtc.errors import PeerError, Reason, UsageError
from mtc.signer.service.folder import read_passphrase
from mtc.updates.config import UpdatesConfig
from mtc.updates.folder import add_ca, create_service, read_updates_config
from mtc.updates.serve import run_service
from mtc.web.client import HTTPClient
from mtc.web.logs import configure_logs
from mtc.web.server import loop_factory


def run_init(folder: str, *, listen: str, passphrase_file: str | None, as_json: bool) -> None:
    """Make a service, and say what to do next."""
    path = Path(folder)
    config = UpdatesConfig(listen=parse_address(listen))
    is_new = create_service(path, config, read_passphrase(os.environ, passphrase_file))
    if as_json:
        keys = {name: str(path / f"{name}.pub.pem") for name in ("policy", "service")}
        _print({"folder": folder, "new": is_new, "keys": keys})
        return
    out = console()
    if not is_new:
        out.print(f"an update service is in {shown(folder)} already; nothing was changed.")
        return
    out.print(f"update service in {shown(folder)}\n\nNext:\n")
    out.print(f"  mtc updates add-ca {shown(folder)} --ca https://ca.example.com/mtc --mirror VKEY", style="cyan")
    out.print(f"  mtc updates serve {shown(folder)}", style="cyan")
    out.print(
        f"  mtc trust init CLIENT-DIR --url http://{listen} --policy-key {shown(folder)}/policy.pub.pem "
        "[dim]on each relying party[/]",
        style="cyan",
        soft_wrap=True,
    )


def run_add_ca(  # noqa: PLR0913 - what there is to say about a CA
    folder: str, *, ca: str, url: str | None, mirrors: list[str], at_least: int | None, max_active: int, as_json: bool
) -> None:
    """Add a CA to a service's configuration."""
    pem, prefix = asyncio.run(_fetch_ca(ca)) if "://" in ca else (read_input(ca), None)
    chosen = check_url(url, "--url") if url is not None else prefix
    parsed = [_parse_mirror(text) for text in mirrors]
    least = min(1, len(parsed)) if at_least is None else at_least
    is_new = add_ca(Path(folder), pem, chosen, parsed, least, max_active)
    added = read_updates_config(Path(folder)).cas
    if as_json:
        _print({"added": str(added[-1].certificate.ca_id) if is_new else None, "new": is_new, "cas": len(added)})
    elif is_new:
        console().print(f"CA {added[-1].certificate.ca_id} was added; a running service takes it over by itself.")
    else:
        console().print("that CA is served already; nothing was changed. Its table in updates.toml can be edited.")


def _parse_mirror(text: str) -> tuple[str, str | None]:
    """Read `VKEY` or `MONITORING-URL=VKEY`; a key may be a file's name."""
    url, monitoring = "", None
    if "://" in text:
        url, equals, text = text.partition("=")
        if not equals:
            raise UsageError(Reason.USAGE, f"--mirror: {url[:80]!r} has no key; write URL=VKEY")
        monitoring = check_url(url, "--mirror")
    if "+" not in text:
        text = read_input(text).decode("utf-8", "replace").strip()
    return text, monitoring


async def _fetch_ca(url: str) -> tuple[bytes, str]:
    """Return the certificate that a CA serves, and its prefix URL."""
    prefix = check_url(url, "--ca")
    async with HTTPClient() as client:
        answer = await client.fetch(f"{prefix}/ca.pem", most=1 << 20)
    if answer.status != 200:
        raise PeerError(Reason.PEER, f"{prefix}/ca.pem answers {answer.status}; is this a CA's prefix URL?")
    return answer.body, prefix


def run_serve(folder: str, *, listen: str | None, passphrase_file: str | None, as_json: bool) -> None:
    """Run a service until it is told to stop."""
    read_updates_config(Path(folder))
    configure_logs(sys.stderr, is_json=True if as_json else None)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(run_service(Path(folder), listen=listen, passphrase_file=passphrase_file))


def _print(fields: dict[str, object]) -> None:
    """Print one JSON object."""
    sys.stdout.write(json.dumps(fields) + "\n")
