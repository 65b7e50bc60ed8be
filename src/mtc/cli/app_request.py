"""The arguments of `mtc request`."""

from typing import Annotated

import typer

_ACCOUNT = "Account"
_CHALLENGES = "Challenges"
_KEY = "Key and trust"
_TIME = "When"
_FALLBACK = "Classical fallback"


def request(  # noqa: PLR0913 - what can be chosen
    *,
    server: Annotated[str, typer.Option(metavar="URL", help="The ACME server's directory.")],
    dns: Annotated[list[str] | None, typer.Option(metavar="NAME", help="DNS name; may be repeated.")] = None,
    ip: Annotated[list[str] | None, typer.Option(metavar="ADDR", help="IP address; may be repeated.")] = None,
    out: Annotated[str, typer.Option(metavar="DIR", help="Where certificates and accounts are kept.")],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The certificate's folder in DIR; its first name without.")
    ] = None,
    ca_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Trusts the server's HTTPS: its root, or its own certificate.")
    ] = None,
    profile: Annotated[str | None, typer.Option(metavar="NAME", help="Certificate profile of the server.")] = None,
    email: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS", help="Contact; may be repeated.", rich_help_panel=_ACCOUNT),
    ] = None,
    agree_terms: Annotated[
        bool, typer.Option("--agree-terms", help="Agree to the server's terms.", rich_help_panel=_ACCOUNT)
    ] = False,
    eab_kid: Annotated[
        str | None, typer.Option(metavar="ID", help="External account to bind to.", rich_help_panel=_ACCOUNT)
    ] = None,
    eab_key_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Its HMAC key, base64url.", rich_help_panel=_ACCOUNT)
    ] = None,
    account_key_type: Annotated[
        str, typer.Option(metavar="TYPE", help="Of a new account's key.", rich_help_panel=_ACCOUNT)
    ] = "ecdsa-p256",
    challenge: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            help="http-01, tls-alpn-01 or dns-01; http-01 unless --dns-hook is given.",
            rich_help_panel=_CHALLENGES,
        ),
    ] = None,
    http_port: Annotated[
        int, typer.Option(min=1, max=65535, help="http-01: where to listen.", rich_help_panel=_CHALLENGES)
    ] = 80,
    webroot: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="http-01: folder of a web server that runs, instead.", rich_help_panel=_CHALLENGES
        ),
    ] = None,
    tls_port: Annotated[
        int, typer.Option(min=1, max=65535, help="tls-alpn-01: where to listen.", rich_help_panel=_CHALLENGES)
    ] = 443,
    listen: Annotated[
        str | None,
        typer.Option(metavar="HOST", help="Listen at this address only.", rich_help_panel=_CHALLENGES),
    ] = None,
    dns_hook: Annotated[
        str | None,
        typer.Option(metavar="CMD", help="dns-01: called as CMD add|remove NAME VALUE.", rich_help_panel=_CHALLENGES),
    ] = None,
    dns_wait: Annotated[
        str, typer.Option(metavar="TIME", help="dns-01: after a record was added.", rich_help_panel=_CHALLENGES)
    ] = "0s",
    key_type: Annotated[
        str, typer.Option(metavar="TYPE", help="Of the certificate's key.", rich_help_panel=_KEY)
    ] = "ecdsa-p256",
    reuse_key: Annotated[
        bool, typer.Option("--reuse-key", help="Keep the key when renewing.", rich_help_panel=_KEY)
    ] = False,
    trust: Annotated[
        str | None,
        typer.Option(metavar="TRUST.json", help="Trust store to verify against.", rich_help_panel=_KEY),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Do what is due, for cron; failures wait.", rich_help_panel=_TIME)
    ] = False,
    daemon: Annotated[
        bool, typer.Option("--daemon", help="Stay, and keep everything fresh.", rich_help_panel=_TIME)
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Renew now.", rich_help_panel=_TIME)] = False,
    wait_landmark: Annotated[
        str,
        typer.Option(metavar="TIME", help="Stay so long for the landmark-relative certificate.", rich_help_panel=_TIME),
    ] = "0s",
    revoke: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="Revoke: keyCompromise, superseded, …", rich_help_panel=_TIME),
    ] = None,
    deploy_hook: Annotated[
        str | None, typer.Option(metavar="CMD", help="Called when a certificate has changed.", rich_help_panel=_TIME)
    ] = None,
    classical_server: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Another CA, for clients without MTC.", rich_help_panel=_FALLBACK),
    ] = None,
    classical_ca_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="As --ca-file.", rich_help_panel=_FALLBACK)
    ] = None,
    classical_profile: Annotated[
        str | None, typer.Option(metavar="NAME", help="As --profile.", rich_help_panel=_FALLBACK)
    ] = None,
    classical_key_type: Annotated[
        str, typer.Option(metavar="TYPE", help="As --key-type.", rich_help_panel=_FALLBACK)
    ] = "ecdsa-p256",
    classical_eab_kid: Annotated[
        str | None, typer.Option(metavar="ID", help="As --eab-kid.", rich_help_panel=_FALLBACK)
    ] = None,
    classical_eab_key_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="As --eab-key-file.", rich_help_panel=_FALLBACK)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON for scripts.")] = False,
) -> None:
    """Request a certificate over ACME, and keep it fresh.

    Orders what is missing, renews what is due, and keeps old and new together in DIR/NAME. The landmark-relative
    certificate is fetched when it is ready and never waited for, unless asked. Exit code 0 when nothing failed, 1 when
    something did, 2 when the arguments are wrong or another run works there.
    """
    from mtc.cli.request import RequestOptions, ServerOptions, run_request  # noqa: PLC0415 - only what it needs

    options = RequestOptions(
        server=ServerOptions(server, ca_file, profile, key_type, eab_kid, eab_key_file),
        classical=None
        if classical_server is None
        else ServerOptions(
            classical_server,
            classical_ca_file,
            classical_profile,
            classical_key_type,
            classical_eab_kid,
            classical_eab_key_file,
        ),
        dns=tuple(dns or ()),
        ip=tuple(ip or ()),
        out=out,
        name=name,
        emails=tuple(email or ()),
        agrees_to_terms=agree_terms,
        account_key_type=account_key_type,
        challenge=challenge,
        http_port=http_port,
        webroot=webroot,
        tls_port=tls_port,
        listen=listen,
        dns_hook=dns_hook,
        dns_wait=dns_wait,
        reuses_key=reuse_key,
        trust=trust,
        is_once=once,
        is_daemon=daemon,
        is_forced=force,
        wait_landmark=wait_landmark,
        revoke=revoke,
        deploy_hook=deploy_hook,
        as_json=json,
    )
    raise typer.Exit(run_request(options))
