"""The commands and their arguments."""

import io
import os
import sys
from typing import Annotated

import typer

from mtc import __version__
from mtc.cli.app_acme import acme_app
from mtc.cli.app_ca import ca_app, cert_app, signer_app
from mtc.cli.app_cosign import make_app
from mtc.cli.app_demo import demo_app
from mtc.cli.app_hammer import hammer
from mtc.cli.app_perspective import perspective_app
from mtc.cli.app_request import request
from mtc.cli.app_simulate import simulate_app
from mtc.cli.app_tls import doctor, get, handshake, serve_tls
from mtc.cli.app_updates import add_trust_commands, updates_app
from mtc.cli.output import ExitCode, console, error_console, fail
from mtc.errors import Error, Reason, UsageError
from mtc.ids import DEFAULT_REVISION
from mtc.kernel import active_kernel

app = typer.Typer(
    name="mtc",
    help="Merkle Tree Certificates: logs, certification authorities, cosigners, relying parties and monitors.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
trust_app = typer.Typer(help="Make and describe trust stores.", no_args_is_help=True)
evidence_app = typer.Typer(help="Judge evidence of misbehaviour.", no_args_is_help=True)
bench_app = typer.Typer(help="Measure, in ratios within one run.", no_args_is_help=True)
app.add_typer(trust_app, name="trust")
add_trust_commands(trust_app)
app.add_typer(updates_app, name="updates")
app.add_typer(evidence_app, name="evidence")
app.add_typer(bench_app, name="bench")
app.add_typer(demo_app, name="demo")
app.command("doctor")(doctor)
app.command("get")(get)
app.command("handshake")(handshake)
app.command("serve-tls")(serve_tls)
app.add_typer(ca_app, name="ca")
app.add_typer(acme_app, name="acme")
app.add_typer(cert_app, name="cert")
app.add_typer(signer_app, name="signer")
app.command()(hammer)
app.command()(request)
app.add_typer(make_app("witness"), name="witness")
app.add_typer(make_app("mirror"), name="mirror")
app.add_typer(perspective_app, name="perspective")
app.add_typer(simulate_app, name="simulate")

JSONOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


def _print_version(value: bool) -> None:  # noqa: FBT001 - the option's callback takes its value so
    """Print version, draft and kernel, and stop."""
    if value:
        console().print(f"mtc {__version__} · draft {DEFAULT_REVISION} · kernel {active_kernel().name}", style="none")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print version, default draft and active kernel."
        ),
    ] = False,
) -> None:
    """Merkle Tree Certificates: logs, certification authorities, cosigners, relying parties and monitors."""


@app.command()
def verify(
    certificates: Annotated[
        list[str], typer.Argument(metavar="CERT...", help="Certificate files, PEM or DER; - is standard input.")
    ],
    *,
    trust: Annotated[str, typer.Option(metavar="TRUST.json", help="The trust store (see mtc trust schema).")],
    name: Annotated[str | None, typer.Option(metavar="HOST", help="Host name or IP address to match.")] = None,
    at: Annotated[str | None, typer.Option(metavar="RFC3339", help="Time of verification; now without it.")] = None,
    json: JSONOption = False,
) -> None:
    """Verify Merkle Tree certificates against a trust store.

    Exit code 0 when all are valid, 1 when one is not, 2 when a file cannot be opened or the arguments are wrong.
    """
    from mtc.cli.verify import verify_files  # noqa: PLC0415 - a command loads only what it needs

    raise typer.Exit(verify_files(certificates, trust=trust, name=name, at=at, as_json=json))


@app.command()
def inspect(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="Any artefact of the field; - is standard input.")],
    *,
    json: JSONOption = False,
) -> None:
    """Show what a file holds, field by field: certificates, logs, notes, tiles, policies, trust stores.

    The kind of file is recognised by itself. Exit code 0 when it was, 2 when it was not or cannot be read.
    """
    from mtc.cli.inspection import inspect_file  # noqa: PLC0415 - a command loads only what it needs

    raise typer.Exit(inspect_file(file, as_json=json))


@trust_app.command("schema")
def trust_schema() -> None:
    """Print the JSON Schema of the trust store document."""
    from mtc.cli.trust import print_schema  # noqa: PLC0415 - a command loads only what it needs

    print_schema()


@trust_app.command("from-ca")
def trust_from_ca(
    certificate: Annotated[str, typer.Argument(metavar="CA.pem", help="A CA certificate, PEM or DER.")],
) -> None:
    """Make a trust store from a CA certificate: its cosignature alone suffices."""
    from mtc.cli.trust import print_store_from_ca  # noqa: PLC0415 - a command loads only what it needs

    print_store_from_ca(certificate)


@evidence_app.command("verify")
def evidence_verify(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="A bundle of evidence; - is standard input.")],
    *,
    needs_proof: Annotated[
        bool, typer.Option("--proof", help="Testimony is not enough: what the accused signed must convict it.")
    ] = False,
    json: JSONOption = False,
) -> None:
    """Verify a bundle of evidence, offline and with nothing but itself, and tell what it proves.

    Exit code 0 when it proves what it says, 1 when it does not, 2 when it is no bundle or cannot be read.
    """
    from mtc.cli.evidence import verify_file  # noqa: PLC0415 - a command loads only what it needs

    raise typer.Exit(verify_file(file, as_json=json, needs_proof=needs_proof))


@evidence_app.command("show")
def evidence_show(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="A bundle of evidence; - is standard input.")],
) -> None:
    """Print the notes, hashes and files in a bundle as they are; nothing is verified."""
    from mtc.cli.evidence import show_file  # noqa: PLC0415 - a command loads only what it needs

    raise typer.Exit(show_file(file))


@bench_app.command("core")
def bench_core(
    *,
    json: JSONOption = False,
    seconds: Annotated[float, typer.Option(min=0.05, max=60.0, help="Time to spend on each measurement, about.")] = 1.0,
) -> None:
    """Measure verification, hashing and proofs against P-256 in one run."""
    from mtc.cli.bench_core import run_bench  # noqa: PLC0415 - a command loads only what it needs

    run_bench(as_json=json, seconds=seconds)


@app.command()
def fsck(
    target: Annotated[str, typer.Argument(metavar="DIR|URL", help="A CA's folder, or its prefix URL.")],
    *,
    ca: Annotated[str | None, typer.Option(metavar="CA.pem", help="The CA certificate; else the one served.")] = None,
    json: JSONOption = False,
) -> None:
    """Re-verify a whole CA: every entry, tile, signature and landmark; with its folder also everything that decides.

    It reads and never repairs. Exit code 0 when nothing is wrong, 1 with findings, 2 when it cannot be read.
    """
    from mtc.cli.fsck import run_fsck  # noqa: PLC0415 - a command loads only what it needs

    raise typer.Exit(run_fsck(target, ca=ca, as_json=json))


_BENCH_FOLDER = typer.Option(metavar="FOLDER", help="Where the measured CA lies, to choose the disk.")


@bench_app.command("log")
def bench_log(
    *,
    json: JSONOption = False,
    seconds: Annotated[float, typer.Option(min=0.2, max=3600.0, help="How long to sequence.")] = 10.0,
    entries: Annotated[int | None, typer.Option(min=1, max=10**9, help="Up to this many entries instead.")] = None,
    folder: Annotated[str | None, _BENCH_FOLDER] = None,
) -> None:
    """Measure the sequencer: entries a second that are durable, signed and served."""
    from mtc.cli.bench_ca import run_bench_log  # noqa: PLC0415 - a command loads only what it needs

    run_bench_log(as_json=json, seconds=seconds, entries=entries, folder=folder)


@bench_app.command("issue")
def bench_issue(
    *,
    json: JSONOption = False,
    seconds: Annotated[float, typer.Option(min=0.2, max=3600.0, help="How long to measure each form.")] = 10.0,
    folder: Annotated[str | None, _BENCH_FOLDER] = None,
) -> None:
    """Measure issuance: certificates a second from request to certificate, in both forms."""
    from mtc.cli.bench_ca import run_bench_issue  # noqa: PLC0415 - a command loads only what it needs

    run_bench_issue(as_json=json, seconds=seconds, folder=folder)


@bench_app.command("cosign")
def bench_cosign(  # noqa: PLR0913 - what is measured, and beside what
    *,
    json: JSONOption = False,
    seconds: Annotated[float, typer.Option(min=0.2, max=600.0, help="About how long to measure each figure.")] = 5.0,
    folder: Annotated[str | None, _BENCH_FOLDER] = None,
    log_key: Annotated[
        str | None, typer.Option(metavar="FILE", help="Logs to send (mtc hammer --make-log); new ones without.")
    ] = None,
    foreign_witness: Annotated[
        list[str] | None, typer.Option(metavar="URL,VKEY", help="Another witness, which knows the logs.")
    ] = None,
    foreign_mirror: Annotated[
        list[str] | None, typer.Option(metavar="URL,VKEY", help="Another mirror, which knows the logs.")
    ] = None,
) -> None:
    """Measure what a local quorum adds to a round, and what a witness and a mirror take."""
    from mtc.cli.bench_cosign import (  # noqa: PLC0415 - a command loads only what it needs
        CosignBenchOptions,
        run_bench_cosign,
    )

    run_bench_cosign(
        CosignBenchOptions(
            seconds=seconds,
            folder=folder,
            log_key=log_key,
            foreign_witnesses=tuple(foreign_witness or ()),
            foreign_mirrors=tuple(foreign_mirror or ()),
            as_json=json,
        )
    )


@bench_app.command("acme")
def bench_acme(
    *,
    json: JSONOption = False,
    clients: Annotated[int, typer.Option(min=1, max=10_000, help="Clients at once.")] = 64,
    seconds: Annotated[float, typer.Option(min=0.2, max=3600.0, help="How long to measure each server.")] = 20.0,
    folder: Annotated[str | None, _BENCH_FOLDER] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only own, mocked_validation, web_profile or pebble; repeatable."),
    ] = None,
) -> None:
    """Measure complete ACME orders a second, validation included, beside Pebble with the same clients."""
    from mtc.cli.bench_acme import ACMEBenchOptions, run_bench_acme  # noqa: PLC0415 - a command loads only what it needs

    run_bench_acme(
        ACMEBenchOptions(clients=clients, seconds=seconds, folder=folder, parts=tuple(part or ()), as_json=json)
    )


@bench_app.command("handshake")
def bench_handshake(  # noqa: PLR0913 - what is measured, and where it is written
    *,
    json: JSONOption = False,
    loopback: Annotated[bool, typer.Option("--loopback", help="Without namespaces, which need root.")] = False,
    handshakes: Annotated[int, typer.Option(min=8, max=1_000_000, help="How many of each row.")] = 400,
    rtt: Annotated[
        list[float] | None, typer.Option(min=1, max=10_000, metavar="MS", help="Round trip times; 20, 100 and 300.")
    ] = None,
    loss: Annotated[
        list[float] | None, typer.Option(min=0, max=50, metavar="PERCENT", help="Packets lost each way; 0 and 1.")
    ] = None,
    back_end: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="TLS back ends; all that mtc doctor finds usable.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides which packets are lost.")] = 1,
    write: Annotated[
        str | None, typer.Option(metavar="FILE.md", help="Put tables there, and a picture beside it.")
    ] = None,
) -> None:
    """Measure what each kind of certificate costs a handshake: bytes, round trips, time, processors.

    Through network namespaces, which needs root, after a part over loopback; with --loopback that part alone.
    """
    from mtc.cli.bench_handshake.command import (  # noqa: PLC0415 - a command loads only what it needs
        LOSSES_PERCENT,
        RTTS_MS,
        HandshakeBenchOptions,
        run_bench_handshake,
    )

    run_bench_handshake(
        HandshakeBenchOptions(
            handshakes=handshakes,
            is_loopback=loopback,
            rtts_ms=tuple(rtt or RTTS_MS),
            losses_percent=LOSSES_PERCENT if loss is None else tuple(loss),
            back_ends=tuple(back_end or ()),
            seed=seed,
            write=write,
            as_json=json,
        )
    )


def main() -> None:
    """Run the command line; the console script."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file name may hold what the locale cannot show; it is escaped, as it is in error messages.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            app()
        finally:
            # What could not be written is found out here, and not when the interpreter ends.
            sys.stdout.flush()
    except Error as error:
        if os.environ.get("MTC_DEBUG"):
            raise
        fail(error)
    except KeyboardInterrupt:
        error_console().print("mtc: interrupted", style="yellow")
        raise SystemExit(130) from None
    except BrokenPipeError:
        # The reader left, for example `mtc … | head`; nobody is there to be told.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(ExitCode.NO) from None
    except OSError as error:
        # Files that are read or written by name say so themselves; what is left is the output.
        fail(UsageError(Reason.UNREADABLE, f"the output cannot be written: {(error.strerror or str(error)).lower()}"))
    except Exception as error:
        if os.environ.get("MTC_DEBUG"):
            raise
        fail(
            UsageError(
                Reason.USAGE,
                f"this is a defect in mtc, please report it: {type(error).__name__}: {error}; "
                "MTC_DEBUG=1 shows where it happened",
            )
        )
