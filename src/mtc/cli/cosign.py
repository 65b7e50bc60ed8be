"""`mtc cert cosign`: the holder of a standalone certificate adds cosignatures of those who follow the log.

A cosigner signs any subtree of a tree that it has cosigned, so no key and no CA is needed: its own checkpoint comes
from its monitoring prefix, the proof from the log's tiles. The tiles are proven against the log's checkpoint, and what
the cosigner shows and the certificate itself are compared with them before the cosigner is asked.

Spec: Merkle Tree Certificates, "Issuing Standalone Certificates"; C2SP tlog-witness, "sign-subtree".
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from mtc import __version__
from mtc.ca.cosigning.adding import replace_file
from mtc.ca.proofs import LogReader, TreeHead
from mtc.cert import (
    CACertificate,
    Certificate,
    CertificateChain,
    SubtreeSignature,
    entry_hash,
    parse_certificate_chains,
)
from mtc.cli.log_source import LogSource, open_log
from mtc.cli.output import ExitCode, error_console, named, print_error, read_input, shown, write_new_file
from mtc.cli.upgrade import Holder, find_ca, read_head
from mtc.cli.verify import find_certificate, is_der
from mtc.cosign.config import Role, check_url
from mtc.cosign.service.client import CosignerClient, CosignerPeer, SeenCheckpoint
from mtc.errors import ConflictError, Error, FormatError, ProofError, Reason, Rejected, UsageError
from mtc.ids import log_id
from mtc.merkle import HashReader, Subtree, evaluate_inclusion, prove_consistency, subtree_hash
from mtc.note import VerifierKey
from mtc.web.client import ClientLimits, HTTPClient


@dataclass(frozen=True, slots=True)
class CosignOptions:
    """The command's arguments. cosigners: `URL=VKEY`, or `URL,MONITORING-URL=VKEY`; a key may be a file's name.

    log: the CA's prefix URL, or its folder. ca: file of the CA certificate, that of the log without. out: where the one
    file is written; in its own place without. deadline_s: of one request to a cosigner.
    """

    log: str
    cosigners: tuple[str, ...]
    ca: str | None = None
    out: str | None = None
    deadline_s: float = 20.0
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class Cosigned:
    """A certificate with what was added. refused: by the cosigner's name, why it added nothing."""

    der: bytes
    added: tuple[str, ...]
    already: tuple[str, ...]
    refused: tuple[tuple[str, Error], ...]


def parse_cosigner(text: str, deadline_s: float) -> CosignerPeer:
    """Read `URL=VKEY` or `URL,MONITORING-URL=VKEY`. Raises UsageError."""
    urls, equals, vkey = text.partition("=")
    if not equals:
        raise UsageError(Reason.USAGE, f"--cosigner: {text[:80]!r} is no cosigner; write URL=VKEY or URL=FILE")
    url, _, monitoring = urls.partition(",")
    if "+" not in vkey:
        vkey = read_input(vkey).decode("utf-8", "replace").strip()
    try:
        key = VerifierKey.parse(vkey)
    except FormatError as error:
        raise UsageError(error.reason, f"--cosigner {url}: {error.message}") from None
    url = check_url(url, "--cosigner")
    # Which of the two it is does not matter here: both sign subtrees of what they have signed.
    peer = CosignerPeer(
        name=key.name,
        role=Role.WITNESS,
        key=key,
        url=url,
        monitoring_url=check_url(monitoring, "--cosigner") if monitoring else url,
        deadline_s=deadline_s,
    )
    if peer.cosigner_id is None:
        raise UsageError(
            Reason.BAD_KEY, f"--cosigner {url}: {key} cannot stand in certificates; it needs ML-DSA-44 and an OID name"
        )
    return peer


async def cosign(source: LogSource, holder: Holder, clients: Sequence[CosignerClient]) -> Cosigned:
    """Return a certificate with the cosignatures of those who give them; the others are named with their reason.

    Raises PeerError when the log does not answer, ProofError when the certificate is not of this log, Rejected for one
    without cosignatures, whose subtree is a landmark's.
    """
    standalone = holder.standalone
    if not standalone.proof.signatures:
        raise Rejected(
            Reason.UNSUPPORTED, "the certificate is relative to a landmark, which relying parties know already"
        )
    known = {item.cosigner_id for item in standalone.proof.signatures}
    head, _ = await read_head(source, holder)
    reader = LogReader(holder.hasher, source, holder.log_prefix)
    value = await _check_entry(holder, reader, head)
    added: dict[str, bytes] = {}
    already, refused = [], []
    for client in clients:
        assert client.peer.cosigner_id is not None
        if client.peer.cosigner_id.binary in known:
            already.append(client.peer.name)
            continue
        try:
            added[client.peer.name] = await _ask(client, holder, reader, head, value)
        except Error as error:
            refused.append((client.peer.name, error))
    lines = [
        SubtreeSignature(client.peer.cosigner_id.binary, added[client.peer.name])
        for client in clients
        if client.peer.name in added and client.peer.cosigner_id is not None
    ]
    der = standalone.with_proof(standalone.proof.with_signatures(*lines)) if lines else standalone.der
    return Cosigned(der, tuple(added), tuple(already), tuple(refused))


async def _check_entry(holder: Holder, reader: LogReader, head: TreeHead) -> bytes:
    """Return the hash of the certificate's subtree in the log, after its entry was found in there."""
    standalone, hasher = holder.standalone, holder.hasher
    own = standalone.proof
    if own.subtree.end > head.tree_size:
        raise ProofError(
            Reason.SUBTREE_NOT_IN_TREE, f"the log has {head.tree_size} entries, too few for {own.subtree}; try later"
        )
    value = await reader.ask(head, lambda hashes: subtree_hash(hasher, hashes, own.subtree))
    leaf = entry_hash(hasher, standalone.log_entry(hasher), holder.revision)
    if evaluate_inclusion(hasher, own.subtree, standalone.index, leaf, own.inclusion_proof) != value:
        raise ProofError(
            Reason.HASH_MISMATCH,
            f"the log's entry {standalone.index} is not the one of this certificate; is it the right CA's log?",
            index=standalone.index,
        )
    return value


async def _ask(client: CosignerClient, holder: Holder, reader: LogReader, head: TreeHead, value: bytes) -> bytes:
    """Return one cosigner's signature over the certificate's subtree."""
    subtree = holder.standalone.proof.subtree
    origin = log_id(holder.standalone.ca_id, holder.standalone.log_number).oid_name
    seen = await client.fetch_checkpoint(origin)
    if seen is None:
        raise Rejected(Reason.UNKNOWN_ORIGIN, f"{client.peer.name} has no checkpoint of {origin}")
    size = seen.checkpoint.tree_size
    if subtree.end > size:
        raise Rejected(
            Reason.STALE_SIZE, f"{client.peer.name} has {size} entries so far, too few for {subtree}; try again later"
        )
    proof = await _prove(holder, reader, head, seen)
    return await client.sign_subtree(subtree, value, proof, seen.note.encode())


async def _prove(holder: Holder, reader: LogReader, head: TreeHead, seen: SeenCheckpoint) -> tuple[bytes, ...]:
    """Return the proof from the certificate's subtree to the cosigner's tree, which must be the log's own."""
    hasher, subtree, size = holder.hasher, holder.standalone.proof.subtree, seen.checkpoint.tree_size
    if size > head.tree_size:
        # It has cosigned what the log is about to publish; the tiles are there already.
        head = TreeHead(size, seen.checkpoint.root_hash)

    def prover(hashes: HashReader) -> tuple[tuple[bytes, ...], bytes]:
        # Every complete node of a smaller tree is one of the larger, too, whose tiles are served for sure.
        return tuple(prove_consistency(hasher, hashes, subtree, size)), subtree_hash(hasher, hashes, Subtree(0, size))

    proof, root = await reader.ask(head, prover)
    if root != seen.checkpoint.root_hash:
        raise ConflictError(
            Reason.EQUIVOCATION,
            f"the cosigner has signed another root hash at {size} entries than the log shows; keep both checkpoints",
            tree_size=size,
        )
    return proof


def cosign_files(files: Sequence[str], options: CosignOptions) -> ExitCode:
    """Add cosignatures to certificate files. Raises UsageError for arguments and files that cannot be read."""
    if options.out is not None and len(files) != 1:
        raise UsageError(Reason.USAGE, "--out goes with one file")
    peers = [parse_cosigner(text, options.deadline_s) for text in options.cosigners]
    if not peers:
        raise UsageError(Reason.USAGE, "name at least one --cosigner URL=VKEY")
    if len({peer.key.name for peer in peers}) != len(peers):
        raise UsageError(Reason.DUPLICATE, "a cosigner is named twice")
    given = None
    if options.ca is not None:
        try:
            given = CACertificate.parse(find_certificate(read_input(options.ca)))
        except UsageError:
            raise
        except Error as error:
            raise UsageError(error.reason, f"{options.ca}: {error.message}") from None
    codes = asyncio.run(_run(files, given, peers, options))
    return ExitCode.DONE if all(code is ExitCode.DONE for code in codes) else ExitCode.NO


async def _run(
    files: Sequence[str], given: CACertificate | None, peers: Sequence[CosignerPeer], options: CosignOptions
) -> list[ExitCode]:
    """Open the log and the connections, and go through the files."""
    limits = ClientLimits(attempts=3, attempt_s=options.deadline_s)
    async with open_log(options.log) as source, HTTPClient(limits, user_agent=f"mtc/{__version__}") as http:
        clients = [CosignerClient(peer, http, lambda: datetime.now(UTC).timestamp()) for peer in peers]
        return [await _cosign_file(file, source, given, clients, options) for file in files]


async def _cosign_file(
    file: str,
    source: LogSource,
    given: CACertificate | None,
    clients: Sequence[CosignerClient],
    options: CosignOptions,
) -> ExitCode:
    """Cosign every standalone certificate of a file, and write it anew when something was added."""
    data = read_input(file)
    try:
        is_binary = is_der(data)
        chains = [CertificateChain(None, (data,))] if is_binary else parse_certificate_chains(data, None, strict=False)
        results = []
        for at, chain in enumerate(chains):
            certificate = Certificate.parse(chain.certificates[0])
            if len(chains) > 1 and not certificate.proof.signatures:
                # The landmark-relative form beside the standalone one.
                continue
            holder = Holder(certificate, await find_ca(source, given, certificate))
            found = await cosign(source, holder, clients)
            results.append(found)
            chains[at] = replace(chain, certificates=(found.der, *chain.certificates[1:]))
        if not results:
            raise FormatError(Reason.BAD_PEM, "the file holds no standalone certificate")
    except UsageError:
        raise
    except Error as error:
        return _refuse(file, named(error, file), options)
    new = chains[0].certificates[0] if is_binary else b"".join(chain.encode() for chain in chains)
    _write(file, new, options, is_changed=any(item.added for item in results))
    return _report(file, results, options)


def _write(file: str, data: bytes, options: CosignOptions, *, is_changed: bool) -> None:
    """Write the file anew, whole or not at all; one to which nothing was added stays as it is."""
    if options.out is not None:
        write_new_file(Path(options.out), data)
    elif file == "-":
        sys.stdout.buffer.write(data)
    elif is_changed:
        replace_file(Path(file), data)


def _refuse(file: str, error: Error, options: CosignOptions) -> ExitCode:
    """Say why nothing was added."""
    if options.as_json:
        answer = {"file": file, "cosigned": False, "reason": error.reason, "message": error.message}
        sys.stdout.write(json.dumps(answer) + "\n")
    else:
        print_error(error)
    return ExitCode.NO


def _report(file: str, results: Sequence[Cosigned], options: CosignOptions) -> ExitCode:
    """Say who signed and who did not."""
    added = sorted({name for item in results for name in item.added})
    already = sorted({name for item in results for name in item.already} - set(added))
    refused = {name: error for item in results for name, error in item.refused}
    if options.as_json:
        answer = {
            "file": file,
            "cosigned": not refused,
            "added": added,
            "already": already,
            "refused": {name: {"reason": error.reason, "message": error.message} for name, error in refused.items()},
        }
        sys.stdout.write(json.dumps(answer) + "\n")
        return ExitCode.NO if refused else ExitCode.DONE
    console = error_console()
    for words, names in (("added", added), ("there already", already)):
        if names:
            console.print(f"{shown(file)}: {words}: {shown(', '.join(names))}")
    for name, error in refused.items():
        console.print(f"{shown(file)}: [bold red]{shown(name)}[/]: {shown(error.message)} [dim]({error.reason})[/]")
    return ExitCode.NO if refused else ExitCode.DONE
