"""The commands around updates for relying parties and their arguments: `mtc updates`, and four of `mtc trust`."""

from typing import Annotated

import typer

updates_app = typer.Typer(help="Run an update service for relying parties.", no_args_is_help=True)

_JSON = typer.Option("--json", help="Print JSON for scripts.")
_FOLDER = typer.Argument(metavar="DIR", help="The service's folder.")
_CLIENT = typer.Argument(metavar="DIR", help="The relying party's folder.")
_PASSPHRASE = typer.Option(metavar="FILE", help="Passphrase of the keys, one line.")


@updates_app.command("init")
def init(
    folder: Annotated[str, _FOLDER],
    *,
    listen: Annotated[str, typer.Option(metavar="ADDR:PORT", help="HTTP address.")] = "127.0.0.1:8090",
    passphrase_file: Annotated[str | None, _PASSPHRASE] = None,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Make an update service: its keys and a commented updates.toml. One that is there stays."""
    from mtc.cli.updates import run_init  # noqa: PLC0415 - a command loads only what it needs

    run_init(folder, listen=listen, passphrase_file=passphrase_file, as_json=json)


@updates_app.command("add-ca")
def add_ca(  # noqa: PLR0913 - what there is to say about a CA
    folder: Annotated[str, _FOLDER],
    *,
    ca: Annotated[str, typer.Option(metavar="CA.pem|URL", help="CA certificate, or where the CA serves it.")],
    url: Annotated[str | None, typer.Option(metavar="URL", help="Prefix URL of its logs; else it says so.")] = None,
    mirror: Annotated[
        list[str] | None,
        typer.Option(metavar="[URL=]VKEY", help="A cosigner, and where it shows its checkpoints; repeatable."),
    ] = None,
    at_least: Annotated[
        int | None, typer.Option(min=0, help="How many of them must cosign, besides the CA; one without.")
    ] = None,
    max_active: Annotated[
        int | None, typer.Option(min=1, help="Active landmarks over all its logs, in place of updates.toml's bound.")
    ] = None,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Add a CA. A running service takes it over by itself."""
    from mtc.cli.updates import run_add_ca  # noqa: PLC0415 - a command loads only what it needs

    run_add_ca(folder, ca=ca, url=url, mirrors=mirror or [], at_least=at_least, max_active=max_active, as_json=json)


@updates_app.command("serve")
def serve(
    folder: Annotated[str, _FOLDER],
    *,
    listen: Annotated[str | None, typer.Option(metavar="ADDR:PORT", help="In place of updates.toml's.")] = None,
    passphrase_file: Annotated[str | None, _PASSPHRASE] = None,
    json: Annotated[bool, typer.Option("--json", help="Write the log as JSON lines also on a terminal.")] = False,
) -> None:
    """Pull, prove, publish and serve until SIGTERM or ctrl-C."""
    from mtc.cli.updates import run_serve  # noqa: PLC0415 - a command loads only what it needs

    run_serve(folder, listen=listen, passphrase_file=passphrase_file, as_json=json)


@updates_app.command("status")
def status(
    url: Annotated[str, typer.Argument(metavar="URL", help="Where the service answers.")],
    *,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Say how a running service is, and which CA has which trouble. Exit code 1 when something needs a look."""
    from mtc.cli.updates import run_status  # noqa: PLC0415 - a command loads only what it needs

    raise typer.Exit(run_status(url, as_json=json))


def add_trust_commands(app: typer.Typer) -> None:
    """Put the commands of a relying party that is kept up to date beside the other commands of `mtc trust`."""
    app.command("init")(trust_init)
    app.command("update")(trust_update)
    app.command("show")(trust_show)
    app.command("rollback")(trust_rollback)


def trust_init(  # noqa: PLR0913 - what a relying party is told
    folder: Annotated[str, _CLIENT],
    *,
    url: Annotated[str, typer.Option(metavar="URL", help="The update service.")],
    policy_key: Annotated[
        list[str],
        typer.Option(metavar="FILE", help="Key that signs the policy, PEM; repeatable. Get it by a safe way."),
    ],
    service_key: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Trust the service that signs with this key; no proofs are asked for then."),
    ] = None,
    stale_after: Annotated[int, typer.Option(min=1, metavar="SECONDS", help="When to warn.")] = 6 * 3600,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Pin keys and an update service, which need not be trusted. A folder that is there stays."""
    from mtc.cli.trust_update import run_init  # noqa: PLC0415 - a command loads only what it needs

    run_init(
        folder,
        url=url,
        policy_keys=policy_key,
        service_keys=service_key or [],
        stale_after_s=stale_after,
        as_json=json,
    )


def trust_update(
    folder: Annotated[str, _CLIENT],
    *,
    daemon: Annotated[bool, typer.Option("--daemon", help="Go on until SIGTERM or ctrl-C.")] = False,
    interval: Annotated[int, typer.Option(min=1, metavar="SECONDS", help="Between two looks, about.")] = 3600,
    metrics: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write metrics for Prometheus there, for a textfile collector.")
    ] = None,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Fetch what is new, verify it, and take it as a whole. The last good state stays when anything is wrong.

    Exit code 0 when the state is fresh, 1 when it is stale, expired, something was not taken, or evidence of two
    histories of a log is kept, 2 for wrong arguments.
    """
    from mtc.cli.trust_update import run_update  # noqa: PLC0415 - a command loads only what it needs

    raise typer.Exit(run_update(folder, is_daemon=daemon, interval_s=interval, metrics=metrics, as_json=json))


def trust_show(
    folder: Annotated[str, _CLIENT],
    *,
    store: Annotated[bool, typer.Option("--store", help="Print the trust store document, for mtc verify.")] = False,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Show what is trusted, and how old it is. Exit code 1 when it is stale or expired, or evidence is kept, else 0."""
    from mtc.cli.trust_update import run_show  # noqa: PLC0415 - a command loads only what it needs

    raise typer.Exit(run_show(folder, with_store=store, as_json=json))


def trust_rollback(
    folder: Annotated[str, _CLIENT],
    *,
    to: Annotated[int | None, typer.Option(metavar="VERSION", help="Which earlier state; the one before.")] = None,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Return to earlier landmarks. Revocations stay, and no way leads below the policy's floor."""
    from mtc.cli.trust_update import run_rollback  # noqa: PLC0415 - a command loads only what it needs

    run_rollback(folder, version=to, as_json=json)
