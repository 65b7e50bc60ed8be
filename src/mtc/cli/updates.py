"""`mtc updates`: make, run and look at an update service."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from mtc.cli.output import ExitCode, console, read_input, shown, table
from mtc.cosign.config import check_url, parse_address
from mtc.errors import PeerError, Reason, UsageError
from mtc.signer.service.folder import read_passphrase
from mtc.updates.config import UpdatesConfig
from mtc.updates.folder import add_ca, create_service, read_updates_config
from mtc.updates.serve import run_service
from mtc.web.client import Answer, ClientLimits, HTTPClient
from mtc.web.logs import configure_logs
from mtc.web.server import loop_factory

MAX_HEALTH_BYTES = 16 << 20
"""Largest answer about a service's health; hundreds of CAs may each have a trouble."""


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
    folder: str,
    *,
    ca: str,
    url: str | None,
    mirrors: list[str],
    at_least: int | None,
    max_active: int | None,
    as_json: bool,
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


def run_status(url: str, *, as_json: bool) -> ExitCode:
    """Say how a running service is."""

    async def fetch() -> Answer:
        async with HTTPClient(ClientLimits(attempts=1)) as client:
            return await client.fetch(f"{check_url(url, 'URL')}/health", most=MAX_HEALTH_BYTES)

    found = _parse_health(asyncio.run(fetch()).body, url)
    if as_json:
        _print(found)
    else:
        _show_health(found)
    return ExitCode.DONE if found["status"] == "ok" else ExitCode.NO


def _parse_health(body: bytes, url: str) -> dict[str, Any]:
    """Return what a service says of itself. Raises PeerError for what no update service says."""
    try:
        found = json.loads(body)
        if {"status", "reasons", "version", "policy_version", "evidence", "cas"} <= found.keys():
            return dict(found)
    except (ValueError, AttributeError, RecursionError):
        pass
    raise PeerError(Reason.PEER, f"{url} does not say how it is; is it an update service?")


def _show_health(found: dict[str, Any]) -> None:
    """Print what a service says of itself for people."""
    out = console()
    colour = "green" if found["status"] == "ok" else "yellow"
    out.print(
        f"[{colour}]{shown(str(found['status']))}[/]: version {shown(str(found['version']))}, policy "
        f"{shown(str(found['policy_version']))}, {shown(str(found['evidence']))} bundles of evidence"
    )
    for reason in found["reasons"]:
        out.print(shown(str(reason)))
    rows = table("CA", "logs", "landmarks", "trouble", numeric=(1, 2))
    for ca in found["cas"]:
        active = sum(log["active"] for log in ca["logs"])
        rows.add_row(
            shown(str(ca["ca"])), str(len(ca["logs"])), str(active), shown("; ".join(map(str, ca["troubles"])))
        )
    out.print(rows)


def _print(fields: dict[str, object]) -> None:
    """Print one JSON object."""
    sys.stdout.write(json.dumps(fields) + "\n")
