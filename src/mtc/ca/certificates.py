"""Certificates from what a log serves: both forms, many at a time.

A log entry holds only the hash of the public key, so whoever asks brings the key. Everything that comes from storage is
proven against a tree head before it goes into a certificate: the entry against its leaf hash, the hashes against the
root.

Spec: Merkle Tree Certificates, "Issuing Standalone Certificates" and "Constructing Landmark-Relative Certificates".
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Protocol

from mtc.ca.proofs import LogReader, SubtreeProver, TreeHead
from mtc.cert import CertificateAssembler, PropertyList, SubtreeSignature
from mtc.errors import ConflictError, ProofError, Reason, Rejected
from mtc.ids import (
    DEFAULT_REVISION,
    DraftRevision,
    TrustAnchorID,
    TrustAnchorRange,
    landmark_id,
    landmark_pattern,
    serial_number,
    standalone_pattern,
)
from mtc.landmark import Landmark, LandmarkPlace
from mtc.merkle import Subtree
from mtc.tiles import TILE_HEIGHT

_CHUNK_TILES = 64
"""Level-0 tiles, and bundles of about 100 kB, that are read at a time."""


class Landmarks(Protocol):
    """A run of landmarks: `LandmarkSequence` or `ActiveLandmarks`."""

    def landmark_for(self, index: int) -> LandmarkPlace | None:
        """Return where entry `index` is found, None when no landmark covers it yet. Raises Rejected (EXPIRED)."""


@dataclass(frozen=True, slots=True)
class LogContext:
    """The log whose certificates are made, and how it is read. head: believed, and everything in it published."""

    log_number: int
    head: TreeHead
    reader: LogReader
    revision: DraftRevision = DEFAULT_REVISION


@dataclass(frozen=True, slots=True)
class Wanted:
    """One certificate that is asked for. spki: the public key that the entry certifies, DER."""

    index: int
    spki: bytes


@dataclass(frozen=True, slots=True)
class LandmarkRelative:
    """A landmark-relative certificate, DER, and its landmark, which its properties name."""

    certificate: bytes
    landmark: Landmark


async def standalone_certificates(
    log: LogContext,
    signatures: Mapping[Subtree, Sequence[SubtreeSignature]],
    wanted: Sequence[Wanted],
    *,
    entries: Mapping[int, bytes] | None = None,
    check: Callable[[bytes], object] | None = None,
) -> list[bytes]:
    """Return the standalone certificates of entries of one round, in the order asked.

    signatures: cosignatures by covering subtree, as the round was signed. entries: encoded ones by index that are in
    memory; the others are read. check: called with one certificate of each subtree, to verify it as a relying party
    does; what it raises is raised. Raises ConflictError when an entry is not in the round, UsageError for another key.
    """

    def place(index: int) -> Subtree:
        for subtree in signatures:
            if subtree.contains(index):
                return subtree
        raise ConflictError(Reason.CONFLICT, f"entry {index} is not in the signed round", index=index)

    return await _build(log, wanted, place, signatures, entries or {}, check)


async def landmark_relative_certificates(
    log: LogContext, landmarks: Landmarks, wanted: Sequence[Wanted], now: datetime, *, next_due: int | None = None
) -> list[bytes]:
    """Return the landmark-relative certificates of any entries of a log, in the order asked.

    landmarks: none of them above the log's head. next_due: POSIX seconds when the next landmark is expected, for the
    error. Raises Rejected: NO_LANDMARK when no landmark covers an entry yet, EXPIRED when its landmark is expired.
    """

    def place(index: int) -> Subtree:
        return find_landmark(landmarks, index, now, next_due=next_due).subtree

    return await _build(log, wanted, place, {}, {}, None)


async def landmark_relative(
    log: LogContext, landmarks: Landmarks, wanted: Wanted, now: datetime, *, next_due: int | None = None
) -> LandmarkRelative:
    """Return one landmark-relative certificate; see `landmark_relative_certificates`."""
    found = find_landmark(landmarks, wanted.index, now, next_due=next_due)
    (certificate,) = await _build(log, [wanted], lambda _: found.subtree, {}, {}, None)
    return LandmarkRelative(certificate, found.landmark)


def find_landmark(landmarks: Landmarks, index: int, now: datetime, *, next_due: int | None = None) -> LandmarkPlace:
    """Return the landmark of an entry, active at `now`, and its subtree with the entry.

    Raises Rejected: NO_LANDMARK (fact `next_due` where it is known) when none covers it yet, EXPIRED.
    """
    place = landmarks.landmark_for(index)
    if place is None:
        when = "" if next_due is None else f"; the next one is due at {datetime.fromtimestamp(next_due, UTC):%FT%TZ}"
        facts = {} if next_due is None else {"next_due": next_due}
        raise Rejected(Reason.NO_LANDMARK, f"no landmark covers entry {index} yet{when}", index=index, **facts)
    if not place.landmark.is_active(now):
        raise Rejected(
            Reason.EXPIRED,
            f"landmark {place.landmark.number}, which covers entry {index}, has expired",
            index=index,
            landmark=place.landmark.number,
        )
    return place


async def _build(  # noqa: PLR0913 - what the two forms differ in
    log: LogContext,
    wanted: Sequence[Wanted],
    place: Callable[[int], Subtree],
    signatures: Mapping[Subtree, Sequence[SubtreeSignature]],
    entries: Mapping[int, bytes],
    check: Callable[[bytes], object] | None,
) -> list[bytes]:
    """Return the certificates in the order asked, made in the order of the log, a few tiles at a time."""
    order = sorted(range(len(wanted)), key=lambda position: wanted[position].index)
    made: list[bytes] = [b""] * len(wanted)
    for subtree, positions in _by_subtree(wanted, order, place):
        assembler = CertificateAssembler(log.reader.hasher, subtree, signatures.get(subtree, ()), log.revision)
        by_tile = [
            (tile, list(group))
            for tile, group in groupby(positions, key=lambda item: wanted[item].index >> TILE_HEIGHT)
        ]
        for at in range(0, len(by_tile), _CHUNK_TILES):
            chunk = by_tile[at : at + _CHUNK_TILES]
            await _build_chunk(log, wanted, subtree, assembler, chunk, entries, made)
        if check is not None:
            check(made[positions[0]])
    return made


def _by_subtree(
    wanted: Sequence[Wanted], order: Sequence[int], place: Callable[[int], Subtree]
) -> list[tuple[Subtree, list[int]]]:
    """Group positions, sorted by index, by the subtree that their certificates point to.

    The subtree of an entry is also that of the following ones as far as it reaches.
    """
    groups: list[tuple[Subtree, list[int]]] = []
    for position in order:
        index = wanted[position].index
        if not groups or index >= groups[-1][0].end:
            groups.append((place(index), []))
        groups[-1][1].append(position)
    return groups


async def _build_chunk(  # noqa: PLR0913 - the parts of a chunk
    log: LogContext,
    wanted: Sequence[Wanted],
    subtree: Subtree,
    assembler: CertificateAssembler,
    chunk: Sequence[tuple[int, list[int]]],
    entries: Mapping[int, bytes],
    made: list[bytes],
) -> None:
    """Read and prove the tiles and bundles of a chunk, and make its certificates in a thread."""
    head, reader = log.head, log.reader
    places = [tile for tile, _ in chunk]
    tiles = await reader.prove(head, SubtreeProver.nodes_for(subtree, places))
    unread = [tile for tile, positions in chunk if any(wanted[item].index not in entries for item in positions)]
    bundles = await reader.fetch_bundles(head.tree_size, unread)
    prover = SubtreeProver(reader.hasher, tiles, head.tree_size, subtree)

    def make() -> None:
        for tile, positions in chunk:
            bundle = bundles.get(tile, ())
            _build_tile(log, [(item, wanted[item]) for item in positions], prover, assembler, bundle, entries, made)

    await asyncio.to_thread(make)


def _build_tile(  # noqa: PLR0913 - the parts of a tile
    log: LogContext,
    wanted: Sequence[tuple[int, Wanted]],
    prover: SubtreeProver,
    assembler: CertificateAssembler,
    bundle: Sequence[bytes],
    entries: Mapping[int, bytes],
    made: list[bytes],
) -> None:
    """Make the certificates of entries of one level-0 tile."""
    first, last = wanted[0][1].index, wanted[-1][1].index
    base, size = first >> TILE_HEIGHT << TILE_HEIGHT, log.reader.hasher.size
    found = [entries[item.index] if item.index in entries else bundle[item.index - base] for _, item in wanted]
    hashes = log.reader.hasher.leaves(found)
    proven = prover.leaf_hashes(first, last + 1)
    proofs = prover.proofs(first, last + 1)
    prover.verify(first, hashes[:size], proofs[0])
    for number, (position, item) in enumerate(wanted):
        offset = item.index - first
        if hashes[number * size : (number + 1) * size] != proven[offset * size : (offset + 1) * size]:
            raise ProofError(
                Reason.HASH_MISMATCH,
                f"the entry bundle of log {log.log_number} holds another entry {item.index} than its tile",
                log=log.log_number,
                index=item.index,
            )
        serial = serial_number(log.log_number, item.index)
        made[position] = assembler.assemble(found[number], item.spki, serial, proofs[offset])


def properties_for(
    ca_id: TrustAnchorID,
    log_number: int,
    landmark: int | None = None,
    *,
    revision: DraftRevision = DEFAULT_REVISION,
    max_active_landmarks: int | None = None,
) -> PropertyList:
    """Return the properties that a certificate is delivered with: standalone without a landmark, else relative to it.

    max_active_landmarks: for revisions whose landmarks do not expire: a client at landmark L knows that many up to L.
    Spec: Merkle Tree Certificates, "Using Trust Anchor Identifiers"; TLS Trust Anchor Identifiers, "Certificate
    Properties".
    """
    if revision.groups_are_patterns:
        if landmark is None:
            return PropertyList(ca_id, (standalone_pattern(ca_id),))
        pattern = landmark_pattern(ca_id, log_number, landmark)
        return PropertyList(landmark_id(ca_id, log_number, landmark), (pattern,), needs_negotiation=True)
    base = ca_id.child(2, log_number)
    if landmark is None:
        return PropertyList(ca_id, (TrustAnchorRange(base, 0, (1 << 64) - 1),))
    # SPEC: a client's group is "the last max_active_landmarks" up to its own one, so that a landmark leaves the groups
    # again; without knowing how many, the range is left open and a client may be offered what it has forgotten.
    most = (1 << 64) - 1 if max_active_landmarks is None else landmark + max_active_landmarks - 1
    return PropertyList(landmark_id(ca_id, log_number, landmark), (TrustAnchorRange(base, landmark, most),))
