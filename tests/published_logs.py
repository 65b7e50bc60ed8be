"""Logs as a CA publishes them, made without a sequencer: tiles, bundles, a signed checkpoint, landmarks, the record."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from tests.makers import LEAF_SPKI, leaf_extensions, make_key

from mtc.ca.status import CAStatus, LogStatus, PublishedLogs, StoreView
from mtc.cert import LogEntry, TBSCertificateLogEntry, encode_name
from mtc.ids import DEFAULT_REVISION, DraftRevision, TrustAnchorID, encode_ca_name, log_id
from mtc.kernel import active_kernel
from mtc.landmark import ActiveLandmarks, LandmarkSequence
from mtc.log.formats import LogRecord
from mtc.note import Checkpoint, Note, SignatureType, VerifierKey, checkpoint_message, note_signature
from mtc.store import MemoryRegister, MemoryStore
from mtc.tiles import TileEdge, build_bundles, build_tiles

CA_ID = TrustAnchorID.parse("32473.1")
HASHER = active_kernel().hasher("sha256")
MOMENT = datetime(2026, 11, 21, 12, tzinfo=UTC)


def certificate_entry(*names: str, moment: datetime = MOMENT) -> bytes:
    """Return the encoded entry of a server certificate of seven days."""
    entry = TBSCertificateLogEntry.build(
        hasher=HASHER,
        issuer=encode_ca_name(CA_ID, DEFAULT_REVISION),
        subject=encode_name(),
        spki=LEAF_SPKI,
        not_before=moment,
        not_after=moment + timedelta(days=7, seconds=-1),
        extensions=leaf_extensions(names, ["192.0.2.7"]),
    )
    return LogEntry.of_certificate(entry).encode()


def many_entries(count: int) -> list[bytes]:
    """Return entries that differ in their first name, made fast."""
    entry = certificate_entry("host-0000000.example.com", "www.example.com")
    head, tail = entry.split(b"host-0000000")
    return [b"%bhost-%07d%b" % (head, number, tail) for number in range(count)]


@dataclass
class PublishedCA:
    """A CA's store and register. extra: fields of the status that a running program would fill in."""

    store: MemoryStore = field(default_factory=MemoryStore)
    register: MemoryRegister = field(default_factory=MemoryRegister)
    numbers: list[int] = field(default_factory=list)
    now: datetime = MOMENT
    last_round: tuple[int, int] | None = None
    rates: tuple[float, ...] = ()
    revision: DraftRevision = DEFAULT_REVISION
    status: CAStatus = field(
        default_factory=lambda: CAStatus(
            ca_id=CA_ID,
            profile="private",
            revision=DEFAULT_REVISION,
            kernel="native",
            version="0.1.0",
            started=MOMENT - timedelta(hours=30),
            now=MOMENT,
        )
    )

    async def publish(  # noqa: PLR0913 - the choices of a log
        self,
        entries: Sequence[bytes],
        *,
        number: int = 1,
        landmarks: LandmarkSequence | None = None,
        timestamp: datetime = MOMENT,
        minimum_index: int = 0,
        is_closed: bool = False,
    ) -> bytes:
        """Publish a log with these entries; return its root hash."""
        edge, tiles = build_tiles(HASHER, TileEdge(HASHER.size, 0, ()), HASHER.leaves(entries))
        prefix = f"public/{number}/"
        objects = {f"{prefix}{tile.path}": content for tile, content in tiles.items()}
        objects |= {f"{prefix}{place.path}": content for place, content in build_bundles(0, b"", entries).items()}
        root = edge.root(HASHER)
        if landmarks is not None:
            most = None if self.revision.landmarks_have_expiry else 100
            objects[f"{prefix}landmarks"] = ActiveLandmarks.of_sequence(landmarks, self.now, most).encode()
        await self.store.put(objects)
        await self.store.replace({f"{prefix}checkpoint": sign_checkpoint(number, len(entries), root, timestamp)})
        record = LogRecord(
            log_number=number,
            tree_size=len(entries),
            root_hash=root,
            timestamp=int(timestamp.timestamp()),
            minimum_index=minimum_index,
            is_closed=is_closed,
        )
        await self.register.create(f"log-{number}", record.encode())
        self.numbers.append(number)
        return root

    def view(self) -> StoreView:
        """Return the view that pages get."""

        async def describe(logs: tuple[LogStatus, ...]) -> CAStatus:
            if logs:
                newest = replace(logs[-1], last_round=self.last_round, rates=self.rates, rate_1min=sum(self.rates[-1:]))
                logs = (*logs[:-1], newest)
            return replace(self.status, logs=logs, now=self.now, revision=self.revision)

        logs = PublishedLogs(self.store, self.register, HASHER, self.revision, CA_ID, now=lambda: self.now)
        return StoreView(logs, describe, lambda: self.numbers)


def sign_checkpoint(number: int, tree_size: int, root: bytes, timestamp: datetime) -> bytes:
    """Return the signed note of a log's checkpoint."""
    key = make_key("ml-dsa-44")
    name = VerifierKey.from_spki(CA_ID.oid_name, SignatureType.COSIGNATURE_MLDSA44, key.public_key)
    checkpoint = Checkpoint(log_id(CA_ID, number).oid_name, tree_size, root)
    seconds = int(timestamp.timestamp())
    raw = key.sign_now(checkpoint_message(name, checkpoint, seconds))
    return Note(checkpoint.encode(), (note_signature(name, raw, seconds),)).encode()
