"""Reports on what logs and cosigners publish: notes, checkpoints, proofs, policies, landmarks, tiles and bundles."""

import re
from datetime import UTC, datetime

from mtc.cert import EntryType, LogEntry
from mtc.cli.describe_cert import describe_entry
from mtc.cli.report import Report, joined, short
from mtc.errors import FormatError, Reason
from mtc.ids import REVISIONS, TrustAnchorID
from mtc.kernel import active_kernel
from mtc.landmark import ActiveLandmarks
from mtc.merkle import root_hash
from mtc.note import Checkpoint, Note, NoteSignature, QuorumPolicy, TLogProof, VerifierKey, parse_note
from mtc.tiles import EntriesTile, EntryBundle, Tile, parse_tile_path

_TIMESTAMP_BYTES = 8
_ED25519_BYTES = 64
_MLDSA44_BYTES = 2420
_BUNDLE_ENTRIES_SHOWN = 5
_LANDMARKS_SHOWN = 12


def describe_note(data: bytes) -> Report:
    """Report on a signed note, a signed checkpoint, or the bare text of a checkpoint."""
    if "\n\n\u2014 ".encode() not in data:
        checkpoint = Checkpoint.parse(data)
        report = Report("checkpoint", "Checkpoint without signatures", len(data))
        _add_checkpoint(report, checkpoint)
        return report
    note = parse_note(data)
    try:
        checkpoint = Checkpoint.parse(note.text)
    except FormatError:
        report = Report("note", "Signed note", len(data))
        report.add("text", note.text.decode(), len(note.text))
    else:
        report = Report("checkpoint", "Signed checkpoint", len(data))
        _add_checkpoint(report, checkpoint)
    _add_signatures(report, note)
    report.notes.append("the signatures were not verified; that needs the keys of those who signed")
    return report


def _add_checkpoint(report: Report, checkpoint: Checkpoint) -> None:
    """Add the fields of a checkpoint."""
    report.add("origin", checkpoint.origin)
    try:
        log = TrustAnchorID.parse_oid_name(checkpoint.origin)
    except FormatError:
        pass
    else:
        *ca, logs, number = (0, 0, *log.components)[2:] if len(log.components) > 2 else (0, 0)
        if logs == 0 and ca:
            report.add("log", f"log {number} of CA {'.'.join(map(str, ca))}")
    report.add("tree size", checkpoint.tree_size)
    report.add("root hash", checkpoint.root_hash.hex())
    for line in checkpoint.extensions:
        report.add("extension line", line)


def _add_signatures(report: Report, note: Note) -> None:
    """Add one field for each signature line."""
    for line in note.signatures:
        report.add(f"signature of {line.name}", _signature_text(line), len(line.encode()))


def _signature_text(line: NoteSignature) -> str:
    """Guess from its length what a signature is; only the key could tell for certain."""
    size = len(line.signature)
    kinds = {
        _ED25519_BYTES: "Ed25519",
        _MLDSA44_BYTES: "ML-DSA-44 without a timestamp, as early demonstrations wrote",
        _TIMESTAMP_BYTES + _ED25519_BYTES: "Ed25519 cosignature",
        _TIMESTAMP_BYTES + _MLDSA44_BYTES: "ML-DSA-44 cosignature",
    }
    text = f"key ID {line.key_id.hex()}, {kinds.get(size, f'{size} bytes of an unknown kind')}"
    if size in (_TIMESTAMP_BYTES + _ED25519_BYTES, _TIMESTAMP_BYTES + _MLDSA44_BYTES):
        seconds = int.from_bytes(line.signature[:_TIMESTAMP_BYTES], "big")
        text += f", {_time(seconds) if seconds else 'no time'}"
    return text


def _time(seconds: int) -> str:
    """Write POSIX seconds as RFC 3339, or as they are where no calendar reaches."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return f"POSIX second {seconds}"


def describe_proof(data: bytes) -> Report:
    """Report on a tlog-proof file."""
    proof = TLogProof.parse(data)
    report = Report("tlog-proof", "Log proof (tlog-proof)", len(data))
    report.add("entry index", proof.index)
    report.add("inclusion proof", f"{len(proof.inclusion_proof)} hashes", sum(map(len, proof.inclusion_proof)))
    if proof.extra:
        report.add("extra", short(proof.extra), len(proof.extra))
    report.children.append(describe_note(proof.note.encode()))
    return report


def describe_policy(data: bytes) -> Report:
    """Report on a tlog-policy file."""
    policy = QuorumPolicy.parse(data)
    report = Report("policy", "Policy of logs and witnesses (tlog-policy)", len(data))
    for log in policy.logs:
        report.add("log", f"{log.key.name} {log.key.type.name} {log.url}".rstrip())
    for witness in policy.witnesses:
        report.add(f"witness {witness.name}", f"{witness.key.name} {witness.key.type.name} {witness.url}".rstrip())
    for group in policy.groups:
        report.add(f"group {group.name}", f"{group.at_least} of {joined(group.members)}")
    report.add("quorum", f"{policy.quorum_name}: {policy.quorum}" if policy.groups else policy.quorum_name)
    if policy.quorum.requires_nobody:
        report.notes.append("the policy requires no witness at all")
    return report


def describe_vkey(data: bytes) -> Report:
    """Report on a verifier key in its text form."""
    key = VerifierKey.parse(data.decode().strip())
    report = Report("vkey", "Verifier key of signed notes", len(data))
    report.add("name", key.name)
    report.add("key ID", key.key_id.hex(), 4)
    report.add("type", f"0x{key.type:02x} {key.type.name}", 1)
    report.add("public key", short(key.public_key), len(key.public_key))
    return report


def describe_landmarks(data: bytes) -> Report:
    """Report on a landmarks file of either shape."""
    first = data.split(b"\n", 1)[0]
    has_expiry = re.fullmatch(rb"[0-9]+", first) is not None
    if not has_expiry and not re.fullmatch(rb"[0-9]+ [0-9]+", first):
        raise FormatError(Reason.BAD_LANDMARKS, "a landmarks file begins with a line of one or two numbers")
    revisions = [revision for revision in REVISIONS.values() if revision.landmarks_have_expiry is has_expiry]
    landmarks = ActiveLandmarks.parse(data, datetime.now(UTC), revisions[-1])
    drafts = " or ".join(revision.name for revision in revisions)
    report = Report("landmarks", f"Landmarks file, draft {drafts}", len(data))
    report.add("draft", drafts)
    report.add("latest landmark", landmarks.latest.number)
    report.add("landmarks listed", len(landmarks.landmarks))
    for number, landmark in enumerate(reversed(landmarks.landmarks)):
        if number == _LANDMARKS_SHOWN:
            report.notes.append(f"{len(landmarks.landmarks) - number} older landmarks are not shown")
            break
        until = "" if landmark.expiry is None else f", until {_time(landmark.expiry)}"
        report.add(f"landmark {landmark.number}", f"tree size {landmark.tree_size}{until}")
    return report


def _coordinates(name: str) -> Tile | EntriesTile | None:
    """Return the coordinates that a file's path ends with, if it does."""
    at = name.rfind("tile/")
    if at < 0:
        return None
    try:
        return parse_tile_path(name[at:])
    except FormatError:
        return None


def describe_bundle(data: bytes, name: str) -> Report:
    """Report on an entry bundle: every entry must parse. name: its path, which may carry its coordinates."""
    place = _coordinates(name)
    if isinstance(place, Tile):
        raise FormatError(Reason.BAD_TILE, "its path is that of a tile of hashes")
    bundle = EntryBundle.parse(data, None if place is None else place.width)
    entries = [LogEntry.parse(entry) for entry in bundle.entries]
    hasher = active_kernel().hasher("sha256")
    leaves = hasher.leaves(bundle.entries)
    report = Report("entry-bundle", "Entry bundle", len(data))
    if place is not None:
        report.add("path", place.path)
        report.add("entries from", place.start)
    report.add("entries", len(entries))
    certificates = sum(entry.type == EntryType.TBS_CERT for entry in entries)
    report.add("tbs_cert_entry", certificates)
    report.add("null_entry", sum(entry.type == EntryType.NULL for entry in entries))
    report.add("root of its entries (SHA-256)", root_hash(hasher, leaves).hex())
    for number, entry in enumerate(bundle.entries[:_BUNDLE_ENTRIES_SHOWN]):
        child = describe_entry(entry)
        child.title = f"Entry {number if place is None else place.start + number}: {child.title}"
        report.children.append(child)
    if len(entries) > _BUNDLE_ENTRIES_SHOWN:
        report.notes.append(f"the first {_BUNDLE_ENTRIES_SHOWN} of {len(entries)} entries are shown")
    return report


def describe_tile(data: bytes, name: str) -> Report:
    """Report on a tile of hashes. name: its path, which may carry its coordinates."""
    place = _coordinates(name)
    if isinstance(place, EntriesTile):
        raise FormatError(Reason.BAD_TILE, "its path is that of an entry bundle")
    size = 32
    if not data or len(data) % size or len(data) > 256 * size:
        raise FormatError(
            Reason.BAD_TILE, f"a tile holds 1 to 256 hashes of {size} bytes, the file has {len(data)} bytes"
        )
    width = len(data) // size
    if place is not None and place.width != width:
        raise FormatError(Reason.BAD_TILE, f"the tile holds {width} hashes, its path says {place.width}")
    report = Report("tile", f"Tile of {width} hashes", len(data))
    if place is not None:
        report.add("path", place.path)
        report.add("level", place.level)
        report.add("entries from", place.start)
    report.add("hashes", width, len(data))
    report.add("is full", width == 256)
    report.add("root of its hashes (SHA-256)", root_hash(active_kernel().hasher("sha256"), data).hex())
    report.add("first hash", data[:size].hex())
    report.add("last hash", data[-size:].hex())
    if place is None:
        report.notes.append("a tile is recognised by its length alone; any bytes of this length look like one")
    return report
