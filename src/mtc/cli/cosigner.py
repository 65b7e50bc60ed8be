"""`mtc witness` and `mtc mirror`: make, run and look at cosigners."""

import asyncio
import json
import os
import sys
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path

from mtc.cert import CACertificate
from mtc.cli.output import console, read_input, shown, table
from mtc.cosign.config import CosignerConfig, Role, check_url, describe_config, parse_address
from mtc.cosign.logs import KnownCA, KnownLog
from mtc.cosign.service.folder import CosignerFolder, add_log, create_cosigner, read_cosigner_config
from mtc.cosign.service.pages import LogLine
from mtc.cosign.service.running import read_lines, run_cosigner
from mtc.errors import FormatError, PeerError, Reason, UsageError
from mtc.ids import TrustAnchorID
from mtc.note import SignatureType, VerifierKey
from mtc.signer.service.folder import read_passphrase
from mtc.web.client import HTTPClient
from mtc.web.logs import configure_logs
from mtc.web.server import loop_factory
from mtc.wire import parse_pem


def _run(work: Coroutine[object, object, None]) -> None:
    """Run to the end on the event loop of servers."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(work)


def _read(role: str, folder: str) -> CosignerConfig:
    """Read a folder that must hold this role."""
    config = read_cosigner_config(Path(folder))
    if config.role != role:
        raise UsageError(
            Reason.CONFLICT, f"{folder} holds a {config.role}, not a {role}; say mtc {config.role} instead"
        )
    return config


def run_init(  # noqa: PLR0913 - the choices that are made when a cosigner is made
    role: str,
    folder: str,
    *,
    cosigner_id: str,
    listen: str,
    has_ed25519: bool,
    passphrase_file: str | None,
    as_json: bool,
) -> None:
    """Make a cosigner, and say what to do next."""
    try:
        name = TrustAnchorID.parse(cosigner_id)
    except FormatError as error:
        raise UsageError(error.reason, f"--id: {error.message}") from None
    config = CosignerConfig(
        role=Role(role),
        cosigner_id=name,
        has_ed25519=has_ed25519,
        listen=parse_address(listen),
        passphrase_file=None if passphrase_file is None else str(Path(passphrase_file).resolve()),
    )
    passphrase = read_passphrase(os.environ, passphrase_file)
    path = Path(folder)
    is_new = create_cosigner(path, config, passphrase)
    opened = CosignerFolder.read(path, passphrase_file)
    keys = [item.key.encode() for item in opened.keys]
    if as_json:
        _print({"folder": folder, "role": role, "id": cosigner_id, "vkeys": keys, "new": is_new})
        return
    out = console()
    if not is_new:
        out.print(f"{role} [bold]{opened.config.cosigner_id}[/] is in {shown(folder)} already; nothing was changed.")
        return
    out.print(f"{role} [bold]{cosigner_id}[/] · {opened.config.name} · in {shown(folder)}\n")
    for key in keys:
        out.print(key, style="dim", soft_wrap=True)
    out.print("\nNext:\n")
    out.print(f"  mtc {role} add-log {shown(folder)} --ca https://ca.example.com/mtc", style="cyan")
    out.print(f"  mtc {role} serve {shown(folder)}", style="cyan")
    out.print(f"  mtc ca add-cosigner CA-DIR --name … --role {role} --url … --vkey … [dim]on the CA's side[/]")


def run_serve(role: str, folder: str, *, listen: str | None, passphrase_file: str | None, as_json: bool) -> None:
    """Run a cosigner until it is told to stop."""
    _read(role, folder)
    configure_logs(sys.stderr, is_json=True if as_json else None)
    _run(run_cosigner(Path(folder), listen=listen, passphrase_file=passphrase_file))


@dataclass(frozen=True, slots=True)
class AddLogOptions:
    """What is said about a log. ca: file or URL of a CA certificate. url: of the CA's logs, or of the log."""

    ca: str | None
    vkey: str | None
    origin: str | None
    url: str | None
    follow: bool
    ed25519: bool
    minimum_index: int
    passphrase_file: str | None
    as_json: bool


def run_add_log(role: str, folder: str, options: AddLogOptions) -> None:
    """Add a log to a cosigner's configuration."""
    config = _read(role, folder)
    if (options.ca is None) == (options.vkey is None):
        raise UsageError(Reason.USAGE, "name the log by --ca, a CA certificate or its URL, or by --vkey")
    if options.ed25519 and not config.has_ed25519:
        raise UsageError(Reason.USAGE, f"this {role} has no Ed25519 key; mtc {role} init --ed25519 makes one")
    log = asyncio.run(_from_ca(options)) if options.ca is not None else _from_vkey(options)
    if options.follow and (log.prefix_url if isinstance(log, KnownCA) else log.url) is None:
        raise UsageError(Reason.USAGE, "--follow needs --url, where the log is served")
    opened = CosignerFolder.read(Path(folder), options.passphrase_file)
    is_new = add_log(Path(folder), log, tuple(item.key for item in opened.keys))
    name = f"CA {log.ca_id}" if isinstance(log, KnownCA) else log.origin
    if options.as_json:
        _print({"added": name, "new": is_new, "role": role, "id": str(config.cosigner_id)})
    elif is_new:
        console().print(f"{shown(name)} was added; a running {role} takes it over within seconds.")
    else:
        console().print(f"{shown(name)} is known already; nothing was changed.")


def _from_vkey(options: AddLogOptions) -> KnownLog | KnownCA:
    """Return the log or CA of a verifier key: a CA when its name is an ID's and no origin is given."""
    assert options.vkey is not None
    key = VerifierKey.parse(options.vkey.strip())
    url = None if options.url is None else check_url(options.url, "--url")
    if options.origin is None and _is_ca_name(key.name):
        return KnownCA(key=key, prefix_url=url, is_followed=options.follow, with_ed25519=options.ed25519)
    return KnownLog(
        origin=options.origin or key.name,
        keys=(key,),
        url=url,
        minimum_index=options.minimum_index,
        is_followed=options.follow,
        with_ed25519=options.ed25519,
    )


def _is_ca_name(name: str) -> bool:
    """Tell whether a key's name can be a CA's."""
    try:
        TrustAnchorID.parse_oid_name(name)
    except FormatError:
        return False
    return True


async def _from_ca(options: AddLogOptions) -> KnownCA:
    """Return the CA of a certificate, read from a file or from where the CA serves it."""
    assert options.ca is not None
    url = options.url
    if "://" in options.ca:
        prefix = check_url(options.ca, "--ca")
        async with HTTPClient() as client:
            answer = await client.fetch(f"{prefix}/ca.pem", most=1 << 20)
        if answer.status != 200:
            raise PeerError(Reason.PEER, f"{prefix}/ca.pem answers {answer.status}; is this a CA's prefix URL?")
        data, url = answer.body, url or prefix
    else:
        data = read_input(options.ca)
    blocks = [block.data for block in parse_pem(data) if block.label == "CERTIFICATE"]
    if len(blocks) != 1:
        raise UsageError(Reason.BAD_PEM, f"{options.ca} must hold exactly one CA certificate, PEM")
    certificate = CACertificate.parse(blocks[0])
    key = VerifierKey.from_spki(
        certificate.ca_id.oid_name, SignatureType.COSIGNATURE_MLDSA44, certificate.public_key.public_key
    )
    url = url or certificate.prefix_url
    return KnownCA(
        key=key,
        prefix_url=None if url is None else check_url(url, "--url"),
        is_followed=options.follow,
        with_ed25519=options.ed25519,
    )


def run_list(role: str, folder: str, *, as_json: bool) -> None:
    """Print the logs of a cosigner."""
    _read(role, folder)
    lines = asyncio.run(read_lines(Path(folder)))
    if as_json:
        _print({"role": role, "logs": [line.describe() for line in lines]})
    elif lines:
        console().print(_table(role, lines))
    else:
        console().print("no log has come yet")


def run_show(role: str, folder: str, origin: str | None, *, as_json: bool) -> None:
    """Print who a cosigner is, or one of its logs."""
    config = _read(role, folder)
    lines = asyncio.run(read_lines(Path(folder)))
    if origin is not None:
        lines = [line for line in lines if line.origin == origin]
        if not lines:
            raise UsageError(
                Reason.UNKNOWN_ORIGIN, f"this {role} has no state of {origin!r}; mtc {role} list shows all"
            )
    keys = [item.key.encode() for item in CosignerFolder.read(Path(folder)).keys]
    if as_json:
        _print({**describe_config(config), "vkeys": keys, "states": [line.describe() for line in lines]})
        return
    out = console()
    if origin is None:
        out.print(f"{role} [bold]{config.cosigner_id}[/] · {config.name}\n")
        for key in keys:
            out.print(key, style="dim", soft_wrap=True)
        known = [f"CA {ca.ca_id}" for ca in config.cas] + [log.origin for log in config.logs]
        out.print(f"\nknows: {shown(', '.join(known)) or 'no log yet'}\n")
    out.print(_table(role, lines) if lines else "no log has come yet")


def _table(role: str, lines: list[LogLine]) -> object:
    """Return the logs as a table."""
    is_mirror = role == "mirror"
    columns = ["origin", "signed", *(["pending", "held up to"] if is_mirror else []), "at (UTC)", "root"]
    rows = table(*columns, numeric=(1, 2, 3) if is_mirror else (1,))
    for line in lines:
        moment = "not yet" if line.signed is None else f"{line.signed:%Y-%m-%d %H:%M:%S}"
        mirror = [f"{line.pending:,}", f"{line.next_entry:,}"] if is_mirror else []
        rows.add_row(shown(line.origin), f"{line.tree_size:,}", *mirror, moment, line.root[:16])
    return rows


def _print(fields: dict[str, object]) -> None:
    """Print one JSON object."""
    sys.stdout.write(json.dumps(fields) + "\n")
