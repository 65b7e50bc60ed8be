"""The commands around cosigners and their arguments: `mtc witness` and `mtc mirror`, which differ in one word."""

from typing import Annotated

import typer

_JSON = typer.Option("--json", help="Print JSON for scripts.")
_FOLDER = typer.Argument(metavar="DIR", help="The cosigner's folder.")
_PASSPHRASE = typer.Option(metavar="FILE", help="Passphrase of the keys, one line.")


def make_app(role: str) -> typer.Typer:
    """Return the commands of a witness or a mirror."""
    what = (
        "Run a witness: it cosigns checkpoints that are consistent with everything it has seen."
        if role == "witness"
        else "Run a mirror: it keeps and serves logs, and cosigns what it holds."
    )
    app = typer.Typer(help=what, no_args_is_help=True)

    @app.command("init", help=f"Make a {role}: a key and a commented cosigner.toml. One that is there stays.")
    def init(  # noqa: PLR0913 - the choices that are made when a cosigner is made
        folder: Annotated[str, _FOLDER],
        *,
        cosigner_id: Annotated[
            str,
            typer.Option("--id", metavar="ID", help="Its trust anchor ID, for example 32473.7; of this role alone."),
        ],
        listen: Annotated[str, typer.Option(metavar="ADDR:PORT", help="HTTP address.")] = "127.0.0.1:8081",
        ed25519: Annotated[bool, typer.Option("--ed25519", help="Make an Ed25519 key too, for other logs.")] = False,
        passphrase_file: Annotated[str | None, _PASSPHRASE] = None,
        json: Annotated[bool, _JSON] = False,
    ) -> None:
        from mtc.cli.cosigner import run_init  # noqa: PLC0415 - a command loads only what it needs

        run_init(
            role,
            folder,
            cosigner_id=cosigner_id,
            listen=listen,
            has_ed25519=ed25519,
            passphrase_file=passphrase_file,
            as_json=json,
        )

    @app.command("serve", help=f"Run the {role} until SIGTERM or ctrl-C.")
    def serve(
        folder: Annotated[str, _FOLDER],
        *,
        listen: Annotated[str | None, typer.Option(metavar="ADDR:PORT", help="In place of cosigner.toml's.")] = None,
        passphrase_file: Annotated[str | None, _PASSPHRASE] = None,
        json: Annotated[bool, typer.Option("--json", help="Write the log as JSON lines also on a terminal.")] = False,
    ) -> None:
        from mtc.cli.cosigner import run_serve  # noqa: PLC0415 - a command loads only what it needs

        run_serve(role, folder, listen=listen, passphrase_file=passphrase_file, as_json=json)

    @app.command("add-log", help="Add a CA with all its logs (--ca or its vkey), or one log. A running one sees it.")
    def add_log(  # noqa: PLR0913 - what there is to say about a log
        folder: Annotated[str, _FOLDER],
        *,
        ca: Annotated[
            str | None, typer.Option(metavar="CA.pem|URL", help="CA certificate, or where a CA serves it.")
        ] = None,
        vkey: Annotated[str | None, typer.Option(metavar="VKEY", help="Verifier key of a log or a CA.")] = None,
        origin: Annotated[str | None, typer.Option(metavar="TEXT", help="Of a log that is not a CA's.")] = None,
        url: Annotated[str | None, typer.Option(metavar="URL", help="Prefix of a CA's logs, or of the log.")] = None,
        follow: Annotated[bool, typer.Option("--follow", help="A mirror fetches what it lacks from there.")] = False,
        ed25519: Annotated[bool, typer.Option("--ed25519", help="Cosign it with the Ed25519 key too.")] = False,
        minimum_index: Annotated[int, typer.Option(min=0, help="A new mirror of the log begins there.")] = 0,
        passphrase_file: Annotated[str | None, _PASSPHRASE] = None,
        json: Annotated[bool, _JSON] = False,
    ) -> None:
        from mtc.cli.cosigner import AddLogOptions, run_add_log  # noqa: PLC0415 - a command loads only what it needs

        options = AddLogOptions(ca, vkey, origin, url, follow, ed25519, minimum_index, passphrase_file, json)
        run_add_log(role, folder, options)

    @app.command("list", help=f"List the logs of which the {role} has a state, whether it runs or not.")
    def list_logs(folder: Annotated[str, _FOLDER], *, json: Annotated[bool, _JSON] = False) -> None:
        from mtc.cli.cosigner import run_list  # noqa: PLC0415 - a command loads only what it needs

        run_list(role, folder, as_json=json)

    @app.command("show", help=f"Show who the {role} is: name, keys, what it knows; with an origin, that log.")
    def show(
        folder: Annotated[str, _FOLDER],
        origin: Annotated[str | None, typer.Argument(metavar="[ORIGIN]", help="One log.")] = None,
        *,
        json: Annotated[bool, _JSON] = False,
    ) -> None:
        from mtc.cli.cosigner import run_show  # noqa: PLC0415 - a command loads only what it needs

        run_show(role, folder, origin, as_json=json)

    return app
