"""The commands around a CA's ACME server and their arguments: `mtc acme`."""

from typing import Annotated

import typer

acme_app = typer.Typer(help="Set up and look after a CA's ACME server.", no_args_is_help=True)

_JSON = typer.Option("--json", help="Print JSON for scripts.")
_FOLDER = typer.Argument(metavar="DIR", help="The CA's folder.")


@acme_app.command("init")
def acme_init(  # noqa: PLR0913 - the choices that are made when a server is set up
    folder: Annotated[str, _FOLDER],
    *,
    url: Annotated[str, typer.Option(metavar="URL", help="What clients see; the directory is URL/directory.")],
    listen: Annotated[
        str | None, typer.Option(metavar="ADDR:PORT", help="By default 127.0.0.1 and the port of URL, or 14000.")
    ] = None,
    resolver: Annotated[
        list[str] | None, typer.Option(metavar="HOST:PORT", help="DNS resolver; by default the system's.")
    ] = None,
    http_port: Annotated[int, typer.Option(metavar="PORT", help="Of http-01, for tests.")] = 80,
    tls_port: Annotated[int, typer.Option(metavar="PORT", help="Of tls-alpn-01, for tests.")] = 443,
    behind_proxy: Annotated[bool, typer.Option("--behind-proxy", help="Speak plain HTTP to a proxy.")] = False,
    external_account: Annotated[
        bool, typer.Option("--external-account", help="New accounts need a key of mtc acme eab add.")
    ] = False,
    caa: Annotated[
        list[str] | None, typer.Option(metavar="DOMAIN", help="The CA in CAA records; by default the host of URL.")
    ] = None,
    profile: Annotated[
        list[str] | None, typer.Option(metavar="NAME=7d", help="Kind of certificate to choose; the first is default.")
    ] = None,
    unsafe_for_tests: Annotated[
        bool, typer.Option("--unsafe-for-tests", help="Do not enforce what a public CA must do.")
    ] = False,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Give a CA an ACME server: acme.toml, and a bootstrap certificate for HTTPS. `mtc ca serve` then serves both.

    Where there is one already nothing is changed.
    """
    from mtc.cli.acme_init import ACMEInitOptions, run_acme_init  # noqa: PLC0415 - a command loads only what it needs

    run_acme_init(
        ACMEInitOptions(
            folder=folder,
            url=url,
            listen=listen,
            resolvers=tuple(resolver or ()),
            http_port=http_port,
            tls_port=tls_port,
            is_behind_proxy=behind_proxy,
            needs_external_account=external_account,
            caa_identities=tuple(caa or ()),
            profiles=dict(item.partition("=")[::2] for item in profile or ()),
            is_for_tests=unsafe_for_tests,
            as_json=json,
        )
    )


eab_app = typer.Typer(help="Keys that bind new accounts to accounts elsewhere.", no_args_is_help=True)
acme_app.add_typer(eab_app, name="eab")

_LIMIT = typer.Option("--limit", min=1, max=100_000, help="Show at most so many.")
_ALLOW = typer.Option(metavar="NAME,NAME", help="What may be asked for: these names and those below; empty for all.")
_KIND = typer.Argument(metavar="name|key", help="name: it and all below it. key: in any certificate.")
_VALUE = typer.Argument(metavar="VALUE", help="A name or address; SHA-256 of a key in hex, or a file with it.")


@acme_app.command("accounts")
def acme_accounts(
    folder: Annotated[str, _FOLDER],
    *,
    limit: Annotated[int, _LIMIT] = 100,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """List accounts, newest first."""
    from mtc.cli.acme import list_accounts  # noqa: PLC0415 - a command loads only what it needs

    list_accounts(folder, most=limit, as_json=json)


@acme_app.command("account")
def acme_account(
    folder: Annotated[str, _FOLDER],
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="Its ID (mtc acme accounts).")],
    *,
    deactivate: Annotated[
        bool, typer.Option("--deactivate", help="It may do nothing more, for good; certificates stay valid.")
    ] = False,
    allow_names: Annotated[str | None, _ALLOW] = None,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Show an account with its newest orders; change what it may do."""
    from mtc.cli.acme import AccountOptions, run_account  # noqa: PLC0415 - a command loads only what it needs

    run_account(AccountOptions(folder, account, deactivate, allow_names, json))


@acme_app.command("orders")
def acme_orders(
    folder: Annotated[str, _FOLDER],
    *,
    account: Annotated[str | None, typer.Option(metavar="ACCOUNT", help="Only those of an account.")] = None,
    status: Annotated[
        str | None, typer.Option(metavar="STATUS", help="pending, ready, processing, valid or invalid.")
    ] = None,
    limit: Annotated[int, _LIMIT] = 100,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """List orders, newest first."""
    from mtc.cli.acme import list_orders  # noqa: PLC0415 - a command loads only what it needs

    list_orders(folder, account=account, status=status, most=limit, as_json=json)


@acme_app.command("order")
def acme_order(
    folder: Annotated[str, _FOLDER],
    order: Annotated[str, typer.Argument(metavar="ORDER", help="Its ID (mtc acme orders).")],
    *,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Show an order with its authorizations and its evidence."""
    from mtc.cli.acme import show_order  # noqa: PLC0415 - a command loads only what it needs

    show_order(folder, order, as_json=json)


@acme_app.command("hasten")
def acme_hasten(  # noqa: PLR0913 - which certificates, and when
    folder: Annotated[str, _FOLDER],
    serials: Annotated[
        list[str] | None, typer.Argument(metavar="SERIAL|FIRST-LAST...", help="Numbers, decimal or 0x….")
    ] = None,
    *,
    sample: Annotated[
        float | None, typer.Option(metavar="PERCENT", help="Instead: so many of those issued lately, at random.")
    ] = None,
    issued_within: Annotated[str, typer.Option(metavar="336h", help="What --sample chooses from.")] = "336h",
    begin: Annotated[str, typer.Option(metavar="1h", help="When the window begins, from now.")] = "0s",
    span: Annotated[str, typer.Option(metavar="24h", help="How long the window is.")] = "24h",
    explanation: Annotated[str | None, typer.Option(metavar="URL", help="Where people read why.")] = None,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Have certificates renewed sooner, by renewal information: before they are revoked, or to try it."""
    from mtc.cli.acme_hasten import HastenOptions, run_hasten  # noqa: PLC0415 - a command loads only what it needs

    run_hasten(
        HastenOptions(
            folder=folder,
            serials=tuple(serials or ()),
            sample=sample,
            issued_within=issued_within,
            begin=begin,
            span=span,
            explanation=explanation,
            as_json=json,
        )
    )


@acme_app.command("block")
def acme_block(
    folder: Annotated[str, _FOLDER],
    kind: Annotated[str, _KIND],
    value: Annotated[str, _VALUE],
    *,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; applicants are told.")],
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Issue no more certificates for a name or a key."""
    from mtc.cli.acme import run_block  # noqa: PLC0415 - a command loads only what it needs

    run_block(folder, kind, value, reason=reason, as_json=json)


@acme_app.command("unblock")
def acme_unblock(
    folder: Annotated[str, _FOLDER],
    kind: Annotated[str, _KIND],
    value: Annotated[str, _VALUE],
    *,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Take a block back. Exit code 1 when there was none."""
    from mtc.cli.acme import run_unblock  # noqa: PLC0415 - a command loads only what it needs

    raise typer.Exit(run_unblock(folder, kind, value, as_json=json))


@acme_app.command("blocks")
def acme_blocks(folder: Annotated[str, _FOLDER], *, json: Annotated[bool, _JSON] = False) -> None:
    """List what is blocked, newest first."""
    from mtc.cli.acme import list_blocks  # noqa: PLC0415 - a command loads only what it needs

    list_blocks(folder, as_json=json)


@eab_app.command("add")
def eab_add(
    folder: Annotated[str, _FOLDER],
    *,
    kid: Annotated[str | None, typer.Option(metavar="KID", help="Its name; by default one is drawn.")] = None,
    allow_names: Annotated[str, _ALLOW] = "",
    note: Annotated[str, typer.Option(metavar="TEXT", help="For whom it is.")] = "",
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Make a key for one new account, and print it once."""
    from mtc.cli.acme import add_external  # noqa: PLC0415 - a command loads only what it needs

    add_external(folder, kid=kid, allowed_names=allow_names, note=note, as_json=json)


@eab_app.command("list")
def eab_list(folder: Annotated[str, _FOLDER], *, json: Annotated[bool, _JSON] = False) -> None:
    """List the keys, newest first, without their secrets."""
    from mtc.cli.acme import list_external  # noqa: PLC0415 - a command loads only what it needs

    list_external(folder, as_json=json)


@eab_app.command("revoke")
def eab_revoke(
    folder: Annotated[str, _FOLDER],
    kid: Annotated[str, typer.Argument(metavar="KID", help="Its name (mtc acme eab list).")],
    *,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Let a key bind no account any more."""
    from mtc.cli.acme import revoke_external  # noqa: PLC0415 - a command loads only what it needs

    revoke_external(folder, kid, as_json=json)
