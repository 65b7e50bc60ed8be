"""The files of a throw-away log: a key, and a document with its origins, beside each other in a folder.

The key is worth nothing: it signs made-up trees, and on purpose also trees that contradict each other.
"""

import json
import secrets
from dataclasses import dataclass
from pathlib import Path

from mtc.cli.hammer.synthetic import SyntheticLog, key_of_log
from mtc.cli.output import console, named, read_input, shown, write_new_file
from mtc.crypto import LocalSigner, generate_key, parse_private_key, parse_signature_algorithm
from mtc.errors import Error, FormatError, Reason, UsageError

KEY_FILE = "log-key.pem"
DOCUMENT_FILE = "logs.json"
MAX_LOGS = 10_000
DEFAULT_ENTRY_BYTES = 250


@dataclass(frozen=True, slots=True)
class MakeOptions:
    """What `--make-log` is asked for. name: origins are `<name>/<number>`. algorithm: ml-dsa-44 or ed25519."""

    folder: str
    logs: int
    entry_bytes: int
    name: str | None
    algorithm: str
    as_json: bool


def make_logs(options: MakeOptions) -> None:
    """Write the files of throw-away logs, and print what a cosigner must be told. Raises UsageError."""
    if not 1 <= options.logs <= MAX_LOGS:
        raise UsageError(Reason.USAGE, f"--logs is from 1 to {MAX_LOGS}")
    folder = Path(options.folder)
    if (folder / KEY_FILE).exists():
        raise UsageError(
            Reason.DUPLICATE, f"{folder / KEY_FILE} exists; a target may know its logs, so it is not replaced"
        )
    signer = generate_key(parse_signature_algorithm(options.algorithm))
    name = options.name or f"hammer.invalid/{secrets.token_hex(4)}"
    origins = [f"{name}/{number}" for number in range(1, options.logs + 1)]
    vkeys = [key_of_log(signer, origin).encode() for origin in origins]
    SyntheticLog(origins[0], signer, options.entry_bytes)  # Refuses an entry size that no log has.
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(Reason.UNREADABLE, f"{folder} cannot be made: {(error.strerror or '').lower()}") from None
    document = {
        "entry_bytes": options.entry_bytes,
        "logs": [{"origin": origin, "vkey": vkey} for origin, vkey in zip(origins, vkeys, strict=True)],
    }
    text = json.dumps(document, indent=2)
    write_new_file(folder / DOCUMENT_FILE, text.encode() + b"\n")
    write_new_file(folder / KEY_FILE, signer.encode_pem(), is_private=True)
    if options.as_json:
        print(json.dumps({"key": str(folder / KEY_FILE), **document}))  # noqa: T201 - scripts read this line as it is
        return
    out = console()
    out.print(f"throw-away logs in {shown(str(folder))}; add them to a cosigner, each with its vkey:")
    for origin, vkey in zip(origins, vkeys, strict=True):
        out.print(f"  --origin {shown(origin)} --vkey {shown(vkey)}", soft_wrap=True)
    out.print(f"then: mtc hammer URL --witness --vkey VKEY --log-key {shown(str(folder / KEY_FILE))}")


def read_logs(key_file: str, origins: list[str], entry_bytes: int | None) -> list[SyntheticLog]:
    """Return the logs of a key file: those with the given origins, or all that stand in the document beside it.

    entry_bytes: in place of what the document says. Raises UsageError or FormatError.
    """
    try:
        signer: LocalSigner = parse_private_key(read_input(key_file))
    except Error as error:
        raise named(error, key_file) from None
    document = Path(key_file).parent / DOCUMENT_FILE
    known, size = _read_document(document) if document.exists() else ([], DEFAULT_ENTRY_BYTES)
    if not origins and not known:
        raise UsageError(Reason.USAGE, f"--origin names a log, because there is no {document}")
    # Other entries under the same origin would be another log, which a target that knows the first must refuse.
    return [SyntheticLog(origin, signer, entry_bytes or size) for origin in origins or known]


def _read_document(file: Path) -> tuple[list[str], int]:
    """Return the origins and the entry size in the document."""
    try:
        document = json.loads(read_input(str(file)))
        origins = [log["origin"] for log in document["logs"]]
        size = document["entry_bytes"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise FormatError(Reason.BAD_DOCUMENT, f"{file} is not what --make-log wrote") from None
    if not all(isinstance(origin, str) for origin in origins) or not isinstance(size, int):
        raise FormatError(Reason.BAD_DOCUMENT, f"{file} is not what --make-log wrote")
    return origins, size
