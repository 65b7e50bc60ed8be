"""The commands around a CA and their arguments: `mtc ca`, `mtc signer`, `mtc cert`."""

from typing import Annotated

import typer

ca_app = typer.Typer(help="Run a certification authority with its issuance log.", no_args_is_help=True)
signer_app = typer.Typer(help="Run the process that holds a CA's key.", no_args_is_help=True)
cert_app = typer.Typer(help="Work with certificates that one holds.", no_args_is_help=True)

_JSON = typer.Option("--json", help="Print JSON for scripts.")
_FOLDER = typer.Argument(metavar="DIR", help="The CA's folder.")
_TARGET = typer.Argument(metavar="DIR|URL", help="The CA's folder, or where it serves.")
_TOKEN = typer.Option(metavar="FILE", help="File with the token for a CA's URL (mtc ca token).")


@ca_app.command("init")
def ca_init(  # noqa: PLR0913 - the choices that are made when a CA is made
    folder: Annotated[str, _FOLDER],
    *,
    ca_id: Annotated[str, typer.Option("--id", metavar="ID", help="The CA's trust anchor ID, for example 32473.1.")],
    profile: Annotated[str, typer.Option(metavar="NAME", help="Table of numbers: private or web-pki.")] = "private",
    draft: Annotated[str, typer.Option(metavar="NAME", help="Draft revision; it never changes.")] = "plants-07",
    prefix_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Where the logs will be served; stands in the CA certificate.")
    ] = None,
    counter: Annotated[bool, typer.Option("--counter", help="Entries carry the accumulated counter.")] = False,
    listen: Annotated[str, typer.Option(metavar="ADDR:PORT", help="HTTP address, or none.")] = "127.0.0.1:8080",
    max_lifetime: Annotated[str | None, typer.Option(metavar="7d", help="Longest certificate.")] = None,
    round_interval: Annotated[str | None, typer.Option(metavar="100ms", help="Time between two rounds.")] = None,
    landmark_interval: Annotated[str | None, typer.Option(metavar="1h", help="Time between two landmarks.")] = None,
    passphrase_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Encrypt the key under the passphrase in this file.")
    ] = None,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Make a CA: key, unsigned CA certificate, commented ca.toml, and an empty log 1.

    In a folder that holds this CA already nothing is changed.
    """
    from mtc.cli.ca import InitOptions, run_init  # noqa: PLC0415 - a command loads only what it needs

    run_init(
        InitOptions(
            folder=folder,
            ca_id=ca_id,
            profile=profile,
            draft=draft,
            prefix_url=prefix_url,
            has_counter=counter,
            listen=listen,
            overrides={
                "max_lifetime": max_lifetime,
                "round_interval": round_interval,
                "landmark_interval": landmark_interval,
            },
            passphrase_file=passphrase_file,
            as_json=json,
        )
    )


@ca_app.command("serve")
def ca_serve(
    folder: Annotated[str, _FOLDER],
    *,
    listen: Annotated[str | None, typer.Option(metavar="ADDR:PORT", help="In place of what ca.toml says.")] = None,
    passphrase_file: Annotated[str | None, typer.Option(metavar="FILE", help="Passphrase of the key.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Write the log as JSON lines also on a terminal.")] = False,
) -> None:
    """Run a CA: rounds, landmarks, revocation lists, read path, status page and API, until SIGTERM or ctrl-C."""
    from mtc.cli.ca import run_serve  # noqa: PLC0415 - a command loads only what it needs

    run_serve(folder, listen=listen, passphrase_file=passphrase_file, as_json=json)


@ca_app.command("issue")
def ca_issue(  # noqa: PLR0913 - what a certificate is asked for with
    target: Annotated[str, _TARGET],
    *,
    csr: Annotated[str | None, typer.Option(metavar="FILE", help="Certificate request, PEM.")] = None,
    public_key: Annotated[str | None, typer.Option(metavar="FILE", help="Public key, PEM.")] = None,
    dns: Annotated[list[str] | None, typer.Option(metavar="NAME", help="DNS name; may be repeated.")] = None,
    ip: Annotated[list[str] | None, typer.Option(metavar="ADDR", help="IP address; may be repeated.")] = None,
    lifetime: Annotated[str | None, typer.Option(metavar="7d", help="How long it is valid.")] = None,
    form: Annotated[str, typer.Option(metavar="FORM", help="standalone, landmark or both.")] = "standalone",
    out: Annotated[str | None, typer.Option(metavar="FILE", help="Where to write; standard output without.")] = None,
    key: Annotated[
        str | None,
        typer.Option("--request-key", metavar="TEXT", help="Same key, same entry, however often sent."),
    ] = None,
    bulk: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="JSON lines: csr or public_key, dns, ip, lifetime, request_key."),
    ] = None,
    token_file: Annotated[str | None, _TOKEN] = None,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Issue one certificate, or many from a file, and wait until they are logged.

    A folder that is served is asked over its socket; another one is opened for one round. Never asks anything. A bulk
    run that broke off goes on where it was when it is started again. Exit code 1 when a request was refused.
    """
    from mtc.cli.ca_issue import IssueOptions, run_issue  # noqa: PLC0415 - a command loads only what it needs

    options = IssueOptions(
        target, csr, public_key, tuple(dns or ()), tuple(ip or ()), lifetime, form, out, key, bulk, token_file, json
    )
    raise typer.Exit(run_issue(options))


@ca_app.command("revoke")
def ca_revoke(  # noqa: PLR0913 - what a revocation is asked for with
    target: Annotated[str, _TARGET],
    serials: Annotated[list[str], typer.Argument(metavar="SERIAL|FIRST-LAST...", help="Numbers, decimal or 0x….")],
    *,
    reason: Annotated[str, typer.Option(metavar="REASON", help="For example keyCompromise.")] = "unspecified",
    future: Annotated[bool, typer.Option("--future", help="Allow serial numbers that do not exist yet.")] = False,
    token_file: Annotated[str | None, _TOKEN] = None,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Revoke serial numbers and ranges, and publish both lists. Nothing is ever un-revoked."""
    from mtc.cli.ca import run_revoke  # noqa: PLC0415 - a command loads only what it needs

    run_revoke(target, serials, reason=reason, is_future=future, token_file=token_file, as_json=json)


@ca_app.command("prune")
def ca_prune(
    target: Annotated[str, _TARGET],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go, and why not more.")] = False,
    token_file: Annotated[str | None, _TOKEN] = None,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Stop publishing entries that have expired, are excluded by the minimum serial, and that cosigners have passed."""
    from mtc.cli.ca import run_prune  # noqa: PLC0415 - a command loads only what it needs

    run_prune(target, is_dry_run=dry_run, token_file=token_file, as_json=json)


@ca_app.command("rollover")
def ca_rollover(
    target: Annotated[str, _TARGET],
    *,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="What happened; it goes into the incident's record.")],
    abandon: Annotated[
        bool, typer.Option("--abandon", help="The current log cannot be opened or its last round not be finished.")
    ] = False,
    token_file: Annotated[str | None, _TOKEN] = None,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Close the current log for good and go on in the next one. This is an incident; relying parties know few logs."""
    from mtc.cli.ca import run_rollover  # noqa: PLC0415 - a command loads only what it needs

    run_rollover(target, reason=reason, is_abandoned=abandon, token_file=token_file, as_json=json)


@ca_app.command("add-cosigner")
def ca_add_cosigner(  # noqa: PLR0913 - what a cosigner is
    folder: Annotated[str, _FOLDER],
    *,
    name: Annotated[str, typer.Option(metavar="NAME", help="How ca.toml calls it, for example m1.")],
    role: Annotated[str, typer.Option(metavar="ROLE", help="witness or mirror.")],
    vkey: Annotated[str, typer.Option(metavar="VKEY|FILE", help="Its verifier key, or a file with it.")],
    url: Annotated[str, typer.Option(metavar="URL", help="Its submission prefix.")],
    monitoring_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Its monitoring prefix, where that is another one.")
    ] = None,
    deadline: Annotated[str | None, typer.Option(metavar="10s", help="How long an answer may take.")] = None,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Add a witness or a mirror to ca.toml, checked first. A cosigner that stands there already changes nothing."""
    from mtc.cli.ca import CosignerOptions, run_add_cosigner  # noqa: PLC0415 - a command loads only what it needs

    run_add_cosigner(CosignerOptions(folder, name, role, vkey, url, monitoring_url, deadline, json))


@ca_app.command("evidence")
def ca_evidence(
    folder: Annotated[str, _FOLDER],
    entry: Annotated[str, typer.Argument(metavar="INDEX|SERIAL", help="The entry, or a certificate's serial number.")],
    *,
    log: Annotated[int | None, typer.Option(metavar="N", min=1, help="Log number; the current log without.")] = None,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Show who asked for an entry, and how its names were validated: methods, perspectives, DNS answers, CAA, times.

    It reads the log's own ledger, the ACME server's database and its journal, also while the CA runs, and compares
    them. Exit code 1 when they do not fit together, 2 when there is no such entry.
    """
    from mtc.cli.acme_evidence import show_evidence  # noqa: PLC0415 - a command loads only what it needs

    raise typer.Exit(show_evidence(folder, entry, log_number=log, as_json=json))


@ca_app.command("token")
def ca_token(
    folder: Annotated[str, _FOLDER],
    *,
    name: Annotated[str, typer.Option(metavar="NAME", help="For whom; stands beside the hash.")] = "token",
) -> None:
    """Make a token that may issue over HTTP, and print it once; the folder keeps its hash."""
    from mtc.cli.ca import run_token  # noqa: PLC0415 - a command loads only what it needs

    run_token(folder, name)


@ca_app.command("status")
def ca_status(
    target: Annotated[str, _TARGET],
    *,
    token_file: Annotated[str | None, _TOKEN] = None,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Say how a running CA is. Exit code 1 when it is not well."""
    from mtc.cli.ca import run_status  # noqa: PLC0415 - a command loads only what it needs

    raise typer.Exit(run_status(target, token_file=token_file, as_json=json))


@signer_app.command("serve")
def signer_serve(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="The signer's folder, for example DIR/signer.")],
    *,
    socket: Annotated[str | None, typer.Option(metavar="PATH", help="Where to listen.")] = None,
    passphrase_file: Annotated[str | None, typer.Option(metavar="FILE", help="Passphrase of the key.")] = None,
    exit_with_parent: Annotated[bool, typer.Option("--exit-with-parent", help="End when standard input ends.")] = False,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Serve the key on a Unix socket that only its owner may open, until SIGTERM or ctrl-C."""
    from mtc.cli.signer import serve_folder  # noqa: PLC0415 - a command loads only what it needs

    serve_folder(
        folder, socket=socket, passphrase_file=passphrase_file, exit_with_parent=exit_with_parent, as_json=json
    )


@signer_app.command("show")
def signer_show(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="The signer's folder, for example DIR/signer.")],
    *,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Show what the key has signed: per log the last tree, and the revocation lists."""
    from mtc.cli.signer import show_folder  # noqa: PLC0415 - a command loads only what it needs

    show_folder(folder, as_json=json)


@cert_app.command("upgrade")
def cert_upgrade(  # noqa: PLR0913 - the command's options
    file: Annotated[str, typer.Argument(metavar="STANDALONE.pem", help="The standalone certificate; - for input.")],
    *,
    log: Annotated[str, typer.Option(metavar="URL|DIR", help="The CA's prefix URL, or its folder.")],
    ca: Annotated[str | None, typer.Option(metavar="CA.pem", help="CA certificate; else that of the log.")] = None,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="Where to write; standard output without.")] = None,
    landmark: Annotated[int | None, typer.Option(metavar="N", min=1, help="Take this landmark if it fits.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until a landmark covers the entry.")] = False,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Make the landmark-relative certificate from a standalone one and what the log serves; no key is needed.

    Exit code 1 when there is none (yet), 2 when a file cannot be opened.
    """
    from mtc.cli.upgrade import UpgradeOptions, upgrade_file  # noqa: PLC0415 - a command loads only what it needs

    raise typer.Exit(upgrade_file(file, UpgradeOptions(log, ca, out, landmark, wait, json)))


@cert_app.command("cosign")
def cert_cosign(  # noqa: PLR0913 - the command's options
    files: Annotated[list[str], typer.Argument(metavar="CERT...", help="Standalone certificates, PEM or DER.")],
    *,
    log: Annotated[str, typer.Option(metavar="URL|DIR", help="The CA's prefix URL, or its folder.")],
    cosigner: Annotated[
        list[str], typer.Option(metavar="URL=VKEY", help="Whom to ask; URL,MONITORING=VKEY; VKEY may be a file.")
    ],
    ca: Annotated[str | None, typer.Option(metavar="CA.pem", help="CA certificate; else that of the log.")] = None,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="Where to write one; in its place without.")] = None,
    deadline: Annotated[float, typer.Option(min=0.1, max=300.0, help="Seconds for each request.")] = 20.0,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Add cosignatures of witnesses and mirrors to a standalone certificate; no key and no CA is needed.

    Exit code 1 when somebody added nothing, 2 when a file cannot be opened.
    """
    from mtc.cli.cosign import CosignOptions, cosign_files  # noqa: PLC0415 - a command loads only what it needs

    raise typer.Exit(cosign_files(files, CosignOptions(log, tuple(cosigner), ca, out, deadline, json)))
