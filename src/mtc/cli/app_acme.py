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
    listen: Annotated[str | None, typer.Option(metavar="ADDR:PORT", help="By default 127.0.0.1 and the port of URL, or 14000.")] = None,
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
