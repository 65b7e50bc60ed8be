"""`mtc cert upgrade`: the holder of a standalone certificate makes the landmark-relative one from what the log serves.

Nobody is asked and no key is needed: the log's landmarks, checkpoint and tiles suffice. What they say is proven before
it is used: the tiles against the checkpoint, the checkpoint by the CA's signature where the CA certificate is known,
the certificate's own entry against the log.

Spec: Merkle Tree Certificates, "Constructing Landmark-Relative Certificates"; C2SP mtc-tlog for the URLs.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from mtc.ca.certificates import find_landmark, properties_for
from mtc.ca.proofs import LogReader, ObjectSource, TreeHead
from mtc.cert import CACertificate, Certificate, CertificateChain, MTCProof, entry_hash, parse_certificate_chains
from mtc.cli.log_source import LogSource, open_log
from mtc.cli.output import ExitCode, error_console, named, print_error, read_input, shown, write_new_file
from mtc.cli.verify import find_certificate, is_der
from mtc.crypto import HASH_ALGORITHMS
from mtc.errors import Error, FormatError, PeerError, ProofError, Reason, Rejected, UsageError
from mtc.ids import DraftRevision, log_id
from mtc.kernel import active_kernel
from mtc.landmark import ActiveLandmarks, LandmarkPlace
from mtc.merkle import Hasher, HashReader, Subtree, evaluate_inclusion, prove_inclusion, subtree_hash
from mtc.note import Checkpoint, SignatureType, VerifierKey, open_note, parse_note

POLL_S = 60
"""Longest time between two looks for a landmark; the shortest is a second."""


@dataclass(frozen=True, slots=True)
class Upgraded:
    """A landmark-relative certificate. is_verified: the checkpoint carries the CA's signature."""

    chain: CertificateChain
    place: LandmarkPlace
    is_verified: bool


@dataclass(frozen=True, slots=True)
class Holder:
    """What the holder has. ca: the CA's certificate if it is known. landmark: the number that is wanted, or None."""

    standalone: Certificate
    ca: CACertificate | None = None
    landmark: int | None = None

    @property
    def revision(self) -> DraftRevision:
        """The draft revision: the CA's, or the newest one whose certificates look so."""
        return self.standalone.revision if self.ca is None else self.ca.revision

    @property
    def hasher(self) -> Hasher:
        """The log's hash."""
        name = HASH_ALGORITHMS["sha256"].name if self.ca is None else self.ca.hash.name
        return active_kernel().hasher(name)

    @property
    def log_prefix(self) -> str:
        """What stands in front of the paths of the certificate's log."""
        return f"{self.standalone.log_number}/"


def parse_standalone(data: bytes) -> Certificate:
    """Return the first certificate of a file, PEM with or without properties, or DER. Raises FormatError, Rejected."""
    if is_der(data):
        return Certificate.parse(data)
    chains = parse_certificate_chains(data, None, strict=False)
    if not chains:
        raise FormatError(Reason.BAD_PEM, "the file holds no certificate")
    return Certificate.parse(chains[0].certificates[0])


async def find_ca(source: ObjectSource, given: CACertificate | None, standalone: Certificate) -> CACertificate | None:
    """Return the CA's certificate: the given one, or the one beside the logs. None when there is none.

    Raises Rejected (UNKNOWN_CA, DRAFT_MISMATCH) when it is of another CA than the certificate.
    """
    authority = given
    if authority is None:
        (data,) = await source.fetch(["ca.pem"])
        if data is None:
            return None
        authority = CACertificate.parse(find_certificate(data))
    if authority.ca_id != standalone.ca_id:
        raise Rejected(
            Reason.UNKNOWN_CA,
            f"the certificate is of CA {standalone.ca_id}, the logs or the CA certificate are of {authority.ca_id}",
            ca=str(standalone.ca_id),
            got=str(authority.ca_id),
        )
    if authority.revision not in standalone.revisions:
        raise Rejected(
            Reason.DRAFT_MISMATCH, f"the certificate is of {standalone.revision}, its CA speaks {authority.revision}"
        )
    return authority


async def upgrade(source: LogSource, holder: Holder, now: datetime) -> Upgraded:
    """Make the landmark-relative certificate, or say why there is none.

    Raises Rejected: EXPIRED for certificate or landmark, NO_LANDMARK (fact `next_due` where it can be guessed);
    PeerError: PRUNED, or what the log answers is broken; ProofError, SignatureError when it does not fit together.
    """
    standalone, hasher = holder.standalone, holder.hasher
    if standalone.not_after.timestamp() + 1 <= now.timestamp():
        raise Rejected(Reason.EXPIRED, f"the certificate expired after {standalone.not_after:%Y-%m-%d %H:%M:%S} UTC")
    # The checkpoint is read after the landmarks, so that it is not smaller than the latest of them.
    landmarks = await _read_landmarks(source, holder, now)
    place = _choose(landmarks, holder, now, source.max_age_s)
    head, is_verified = await read_head(source, holder)
    if max(place.landmark.tree_size, standalone.proof.subtree.end) > head.tree_size:
        raise PeerError(
            Reason.PEER,
            f"the checkpoint has {head.tree_size} entries, fewer than the landmark or the certificate; a cache is "
            "behind, try again later",
        )
    reader = LogReader(hasher, source, holder.log_prefix)
    proof = await _prove(reader, head, holder, place.subtree)
    der = standalone.with_proof(MTCProof(place.subtree, proof, (), standalone.proof.extensions))
    properties = properties_for(
        standalone.ca_id, standalone.log_number, place.landmark.number, revision=holder.revision
    )
    return Upgraded(CertificateChain(properties, (der,)), place, is_verified)


async def _read_landmarks(source: ObjectSource, holder: Holder, now: datetime) -> ActiveLandmarks:
    """Fetch the landmarks file."""
    (data,) = await source.fetch([f"{holder.log_prefix}landmarks"])
    if data is None:
        raise PeerError(
            Reason.PEER,
            f"log {holder.standalone.log_number} serves no landmarks there; is it the CA's prefix URL or folder?",
            log=holder.standalone.log_number,
        )
    return ActiveLandmarks.parse(data, now, holder.revision)


def _choose(landmarks: ActiveLandmarks, holder: Holder, now: datetime, max_age_s: int | None) -> LandmarkPlace:
    """Return the lowest landmark of the entry, or the one that is asked for."""
    index = holder.standalone.index
    if holder.landmark is None:
        return find_landmark(landmarks, index, now, next_due=guess_next(landmarks, now, max_age_s))
    for landmark in landmarks.active(now):
        if landmark.number == holder.landmark:
            for subtree in landmarks.subtrees(landmark.number):
                if subtree.contains(index):
                    return LandmarkPlace(landmark, subtree)
            raise Rejected(
                Reason.INDEX_NOT_IN_SUBTREE, f"entry {index} is not in landmark {landmark.number}", index=index
            )
    raise Rejected(Reason.NO_LANDMARK, f"landmark {holder.landmark} is not active", landmark=holder.landmark)


def guess_next(landmarks: ActiveLandmarks, now: datetime, max_age_s: int | None) -> int | None:
    """Return POSIX seconds by when the next landmark may be expected; None when nothing tells.

    The server's own word is best: caches keep the file until the next one is due. Otherwise landmarks come in intervals
    that show in their expiries.
    """
    if max_age_s:
        return int(now.timestamp()) + max_age_s
    expiries = [landmark.expiry for landmark in landmarks.active(now) if landmark.expiry is not None]
    gaps = [after - before for before, after in pairwise(expiries) if after > before]
    return int(now.timestamp()) + min(gaps) if gaps else None


async def read_head(source: ObjectSource, holder: Holder) -> tuple[TreeHead, bool]:
    """Fetch the checkpoint. Returns its tree, and whether the CA's signature on it was verified."""
    (data,) = await source.fetch([f"{holder.log_prefix}checkpoint"])
    if data is None:
        raise PeerError(Reason.PEER, f"log {holder.standalone.log_number} serves no checkpoint")
    keys = _keys_of(holder.ca)
    text = open_note(data, keys).text if keys else parse_note(data).text
    checkpoint = Checkpoint.parse(text, holder.hasher.size)
    origin = log_id(holder.standalone.ca_id, holder.standalone.log_number).oid_name
    if checkpoint.origin != origin:
        raise Rejected(
            Reason.UNKNOWN_ORIGIN,
            f"the checkpoint is of {shown(checkpoint.origin)}, the certificate's log is {origin}",
            expected=origin,
            got=checkpoint.origin,
        )
    return TreeHead(checkpoint.tree_size, checkpoint.root_hash), bool(keys)


def _keys_of(authority: CACertificate | None) -> list[VerifierKey]:
    """Return the keys with which a CA cosigner may sign checkpoints; none for an algorithm that notes do not know."""
    if authority is None:
        return []
    types = {
        "ml-dsa-44": (SignatureType.COSIGNATURE_MLDSA44,),
        "ed25519": (SignatureType.ED25519, SignatureType.COSIGNATURE_ED25519),
    }.get(authority.algorithm.name, ())
    return [VerifierKey.from_spki(authority.ca_id.oid_name, kind, authority.public_key.public_key) for kind in types]


async def _prove(reader: LogReader, head: TreeHead, holder: Holder, subtree: Subtree) -> tuple[bytes, ...]:
    """Return the inclusion proof in the landmark's subtree, after the entry was found in the log."""
    standalone, hasher = holder.standalone, holder.hasher
    index, own = standalone.index, standalone.proof

    def prover(hashes: HashReader) -> tuple[list[bytes], bytes, bytes]:
        return (
            prove_inclusion(hasher, hashes, subtree, index),
            subtree_hash(hasher, hashes, subtree),
            subtree_hash(hasher, hashes, own.subtree),
        )

    proof, landmark_hash, own_hash = await reader.ask(head, prover)
    leaf = entry_hash(hasher, standalone.log_entry(hasher), holder.revision)
    if (
        evaluate_inclusion(hasher, own.subtree, index, leaf, own.inclusion_proof) != own_hash
        or evaluate_inclusion(hasher, subtree, index, leaf, proof) != landmark_hash
    ):
        raise ProofError(
            Reason.HASH_MISMATCH,
            f"the log's entry {index} is not the one of this certificate; is it the right CA's log?",
            index=index,
        )
    return tuple(proof)


async def wait_for_landmark(
    attempt: Callable[[], Awaitable[Upgraded]],
    now: Callable[[], datetime],
    sleep: Callable[[float], Awaitable[object]],
    tell: Callable[[str], None],
) -> Upgraded:
    """Try until a landmark covers the entry. A log that has answered before may be away for a while.

    Raises whatever else stands in the way.
    """
    has_answered = False
    while True:
        try:
            return await attempt()
        except (Rejected, PeerError) as error:
            has_answered = has_answered or error.reason is Reason.NO_LANDMARK
            if not has_answered or error.reason not in (Reason.NO_LANDMARK, Reason.PEER):
                raise
            due = error.facts.get("next_due")
            left = due - now().timestamp() if isinstance(due, int) else POLL_S
            tell(error.message)
            await sleep(min(max(left, 1), POLL_S))


@dataclass(frozen=True, slots=True)
class UpgradeOptions:
    """The command's arguments; see `mtc cert upgrade --help`."""

    log: str
    ca: str | None = None
    out: str | None = None
    landmark: int | None = None
    waits: bool = False
    as_json: bool = False


def upgrade_file(file: str, options: UpgradeOptions) -> ExitCode:
    """Upgrade one certificate file and print or write the result. Raises UsageError for what cannot be read."""
    try:
        standalone = parse_standalone(read_input(file))
    except UsageError:
        raise
    except Error as error:
        return _refuse(file, named(error, file), options)
    given = None
    if options.ca is not None:
        try:
            given = CACertificate.parse(find_certificate(read_input(options.ca)))
        except UsageError:
            raise
        except Error as error:
            raise UsageError(error.reason, f"{options.ca}: {error.message}") from None
    try:
        upgraded = asyncio.run(_run(standalone, given, options))
    except UsageError:
        raise
    except Error as error:
        return _refuse(file, error, options)
    _report(file, standalone, upgraded, options)
    return ExitCode.DONE


async def _run(standalone: Certificate, given: CACertificate | None, options: UpgradeOptions) -> Upgraded:
    """Open the log and upgrade, waiting if that is asked for."""
    async with open_log(options.log) as source:

        async def attempt() -> Upgraded:
            authority = await find_ca(source, given, standalone)
            holder = Holder(standalone, authority, options.landmark)
            return await upgrade(source, holder, datetime.now(UTC))

        if not options.waits:
            return await attempt()
        console = error_console()
        with console.status("waiting for a landmark") as status:

            def tell(message: str) -> None:
                if console.is_terminal:
                    status.update(shown(message))

            return await wait_for_landmark(attempt, lambda: datetime.now(UTC), asyncio.sleep, tell)


def _refuse(file: str, error: Error, options: UpgradeOptions) -> ExitCode:
    """Say why there is no certificate."""
    if options.as_json:
        facts = {name: value for name, value in error.facts.items() if isinstance(value, str | int)}
        answer = {"file": file, "upgraded": False, "reason": error.reason, "message": error.message, "facts": facts}
        sys.stdout.write(json.dumps(answer) + "\n")
    else:
        print_error(error)
    return ExitCode.NO


def _report(file: str, standalone: Certificate, upgraded: Upgraded, options: UpgradeOptions) -> None:
    """Write the certificate, and say what it is."""
    pem, der = upgraded.chain.encode(), upgraded.chain.certificates[0]
    place = upgraded.place
    if options.out is not None:
        write_new_file(Path(options.out), pem)
    if options.as_json:
        answer = {
            "file": file,
            "upgraded": True,
            "ca": str(standalone.ca_id),
            "log": standalone.log_number,
            "index": standalone.index,
            "landmark": place.landmark.number,
            "expiry": place.landmark.expiry,
            "start": place.subtree.start,
            "end": place.subtree.end,
            "bytes": len(der),
            "standalone_bytes": len(standalone.der),
            "checkpoint_verified": upgraded.is_verified,
            **({"pem": pem.decode()} if options.out is None else {"out": options.out}),
        }
        sys.stdout.write(json.dumps(answer) + "\n")
        return
    if options.out is None:
        sys.stdout.write(pem.decode())
    console = error_console()
    console.print(
        f"landmark {place.landmark.number}, subtree {place.subtree}, {len(der):,} bytes instead of "
        f"{len(standalone.der):,}{'' if options.out is None else f', in {shown(options.out)}'}"
    )
    if not upgraded.is_verified:
        console.print("[yellow]the checkpoint's signature was not verified;[/] give the CA certificate with --ca")
