"""Certificates made in bulk from what a log serves: equal to those built field by field, never from unproven bytes."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.makers import HOST, LEAF_SPKI, NOW, Leaf, SmallCA, leaf_extensions, make_key
from tests.strategies import log_numbers, subtrees

from mtc.ca.certificates import (
    LogContext,
    Wanted,
    landmark_relative,
    landmark_relative_certificates,
    properties_for,
    standalone_certificates,
)
from mtc.ca.proofs import LogReader, SubtreeProver, TreeHead
from mtc.cert import (
    Certificate,
    CertificateAssembler,
    EntryExtension,
    LogEntry,
    MTCProof,
    SubtreeSignature,
    TBSCertificateLogEntry,
    encode_name,
)
from mtc.errors import ConflictError, FormatError, PeerError, ProofError, Reason, Rejected, UsageError
from mtc.ids import REVISIONS, DraftRevision, TrustAnchorID, landmark_group, serial_number
from mtc.kernel import Kernel, active_kernel
from mtc.landmark import LandmarkSequence
from mtc.log.formats import public_prefix
from mtc.merkle import Node, RowReader, Subtree, cover, prove_inclusion
from mtc.store import MemoryStore
from mtc.tiles import Tile, TileEdge, build_bundles, build_tiles
from mtc.trust import Form, verify_certificate
from mtc.wire import encode_oid, encode_sequence

HASHER = active_kernel().hasher("sha256")
LIFETIME, HOUR = timedelta(days=7), timedelta(hours=1)
revisions = st.sampled_from(list(REVISIONS.values()))


class CountingStore(MemoryStore):
    """Remembers what was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    async def fetch(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the objects."""
        self.asked += keys
        return await super().fetch(keys)


def serve(ca: SmallCA) -> CountingStore:
    """Return a store with the tiles and bundles of a CA's log."""
    store = CountingStore()
    entries = [entry.encode(ca.revision) for entry in ca.log_entries]
    _, tiles = build_tiles(ca.hasher, TileEdge(ca.hasher.size), ca.hasher.leaves(entries))
    prefix = public_prefix(ca.log_number)
    store.objects |= {f"{prefix}{tile.path}": data for tile, data in tiles.items()}
    store.objects |= {f"{prefix}{place.path}": data for place, data in build_bundles(0, b"", entries).items()}
    return store


def context(ca: SmallCA, store: MemoryStore) -> LogContext:
    """Return the log of a CA, with nothing proven yet."""
    head = TreeHead(ca.tree_size, ca.subtree_hash(Subtree(0, ca.tree_size)))
    return LogContext(ca.log_number, head, LogReader(ca.hasher, store, public_prefix(ca.log_number)), ca.revision)


@cache
def large_ca(revision: DraftRevision = REVISIONS["plants-07"], size: int = 700) -> SmallCA:
    """Return a CA with a log of several tiles, the last one partial."""
    leaves = tuple(Leaf(extensions=leaf_extensions((HOST, f"entry-{number}.example"))) for number in range(size))
    return SmallCA(leaves, revision=revision)


def landmarks_of(ca: SmallCA, *sizes: int) -> LandmarkSequence:
    """Return landmarks at these sizes, an hour apart, the last one now."""
    sequence = LandmarkSequence.start(ca.revision)
    for number, size in enumerate(sizes):
        moment = NOW - HOUR * (len(sizes) - 1 - number)
        sequence = sequence.allocate(size, moment, max_lifetime=LIFETIME, interval=HOUR)
    return sequence


@st.composite
def certified(draw: st.DrawFn) -> tuple[TBSCertificateLogEntry, tuple[EntryExtension, ...], bytes]:
    """Draw what an entry certifies, its extensions, and the public key; version, names and extensions of any shape."""
    version = draw(st.sampled_from((0, 2)))
    spki = make_key(draw(st.sampled_from(("ecdsa-p256-sha256", "ml-dsa-44", "ed25519")))).public_key
    host = "a" * draw(st.integers(1, 60)) + ".example"
    leaf = Leaf(
        spki=spki,
        version=version,
        subject=draw(st.sampled_from((encode_name(), encode_sequence(b"x" * 40), encode_sequence(b"x" * 700)))),
        extensions=leaf_extensions([host] * draw(st.sampled_from((1, 2, 30)))) if version else (),
    )
    types = sorted(draw(st.sets(st.integers(0, 0xFFFF), max_size=3)))
    extensions = tuple(EntryExtension(kind, draw(st.binary(max_size=300))) for kind in types)
    return leaf.entry(SmallCA()), extensions, spki


signature_sets = st.lists(
    st.tuples(st.binary(min_size=1, max_size=32), st.binary(max_size=3000)), max_size=4, unique_by=lambda item: item[0]
).map(lambda items: tuple(SubtreeSignature(*item) for item in items))


@given(certified(), revisions, log_numbers, subtrees(least_size=1), st.integers(0, 48), signature_sets)
def test_assembled_certificate_is_the_built_one(  # noqa: PLR0913 - the parts of a certificate
    made: tuple[TBSCertificateLogEntry, tuple[EntryExtension, ...], bytes],
    revision: DraftRevision,
    log_number: int,
    subtree: Subtree,
    count: int,
    signatures: tuple[SubtreeSignature, ...],
) -> None:
    """What is cut out of the entry's bytes is byte for byte what `Certificate.build` puts together, in every draft."""
    entry, extensions, spki = made
    path = tuple(bytes((number,)) * 32 for number in range(count))
    proof = MTCProof(subtree, path, (), extensions).with_signatures(*signatures)
    serial = serial_number(log_number, subtree.start)
    encoded = LogEntry.of_certificate(entry, extensions).encode(revision)
    assembler = CertificateAssembler(HASHER, subtree, signatures, revision)
    built = Certificate.build(entry, spki, serial, proof, revision)
    assert assembler.assemble(encoded, spki, serial, b"".join(path)) == built


def test_assembler_refuses_what_the_entry_does_not_certify() -> None:
    """Another public key, an entry that certifies nothing and one that is cut off give no certificate."""
    ca = SmallCA()
    entry = ca.log_entries[0].encode()
    assembler = CertificateAssembler(HASHER, Subtree(0, 1))
    assert Certificate.parse(assembler.assemble(entry, LEAF_SPKI, 1 << 48, b"")).spki == LEAF_SPKI
    with pytest.raises(UsageError, match="not the one that the log entry certifies"):
        assembler.assemble(entry, make_key("ed25519").public_key, 1 << 48, b"")
    certified = ca.log_entries[0].tbs_certificate
    assert certified is not None
    other = replace(certified, spki_algorithm=encode_sequence(encode_oid("1.3.101.112")))
    with pytest.raises(UsageError, match="not the one that the log entry certifies"):
        assembler.assemble(LogEntry.of_certificate(other).encode(), LEAF_SPKI, 1 << 48, b"")
    with pytest.raises(UsageError, match="no certificate's"):
        assembler.assemble(LogEntry().encode(), LEAF_SPKI, 1 << 48, b"")
    end = entry.index(HASHER.digest(LEAF_SPKI)) + 32
    for length in range(end):
        with pytest.raises((FormatError, UsageError)):
            assembler.assemble(entry[:length], LEAF_SPKI, 1 << 48, b"")


@cache
def tall_tree(size: int) -> tuple[RowReader, dict[Tile, bytes]]:
    """Return a tree with three levels of tiles, and the tiles."""
    row = b"".join(HASHER.digest(number.to_bytes(4, "big")) for number in range(size))
    return RowReader(HASHER, row), build_tiles(HASHER, TileEdge(HASHER.size), row)[1]


@given(subtrees(66_000, least_size=1), st.data())
def test_tiles_give_the_proofs_of_the_draft(kernel: Kernel, subtree: Subtree, data: st.DataObject) -> None:
    """Proofs put together from the named tiles alone are those of the draft's procedure, in any subtree."""
    reader, tiles = tall_tree(66_000)
    index = data.draw(st.integers(subtree.start, subtree.end - 1))
    place = index >> 8
    nodes = SubtreeProver.nodes_for(subtree, [place])
    named = {tile: tiles[tile] for tile in tiles if any(_holds(tile, node) for node in nodes)}
    prover = SubtreeProver(HASHER, named, 66_000, subtree, kernel)
    first, stop = max(subtree.start, place << 8), min(subtree.end, place + 1 << 8)
    proof = b"".join(prove_inclusion(HASHER, reader, subtree, index))
    assert prover.proofs(first, stop)[index - first] == proof
    assert prover.proofs(index, index + 1) == [proof]
    leaf = reader.read([Node(0, index)])[0]
    assert prover.leaf_hashes(index, index + 1) == leaf
    prover.verify(index, leaf, proof)
    with pytest.raises(ProofError):
        prover.verify(index, bytes(32), proof)


def _holds(tile: Tile, node: Node) -> bool:
    """Tell whether a node on a tile's own level stands in it."""
    return node.level == 8 * tile.level and node.index >> 8 == tile.index


class EvenTree(dict[Tile, bytes]):
    """The tiles of a tree of equal leaves, and its nodes, of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = [bytes(32)]
        for _ in range(48):
            self.levels.append(HASHER.node(self.levels[-1], self.levels[-1]))

    def __missing__(self, tile: Tile) -> bytes:
        """Return a tile."""
        return self.levels[8 * tile.level] * tile.width

    def read(self, nodes: Sequence[Node]) -> list[bytes]:
        """Return nodes."""
        return [self.levels[node.level] for node in nodes]


@given(subtrees(least_size=1), st.data())
def test_tiles_give_proofs_in_the_largest_logs(subtree: Subtree, data: st.DataObject) -> None:
    """Also with six levels of tiles, up to 2^48 - 1 entries, the path leads to the subtree's hash."""
    tree = EvenTree()
    index = data.draw(st.integers(subtree.start, subtree.end - 1))
    prover = SubtreeProver(HASHER, tree, 2**48 - 1, subtree)
    (proof,) = prover.proofs(index, index + 1)
    assert proof == b"".join(prove_inclusion(HASHER, tree, subtree, index))
    prover.verify(index, bytes(32), proof)


@pytest.mark.parametrize("revision", REVISIONS.values(), ids=str)
def test_landmark_relative_certificates_verify(revision: DraftRevision) -> None:
    """Every entry that a landmark covers gets its certificate, in the order asked, trusted by its landmark alone."""
    ca = large_ca(revision)
    landmarks = landmarks_of(ca, 1, 300, 513, 700)
    trusted = [
        ca.trusted_subtree(item.start, item.end, landmark=number, expiry=landmarks.landmarks[number].expiry)
        for number in range(1, 5)
        for item in landmarks.subtrees(number)
        if not item.is_empty
    ]
    trust = ca.store(subtrees=trusted)
    asked = [(number * 389) % 700 for number in range(700)]
    wanted = [Wanted(index, LEAF_SPKI) for index in asked]
    ders = asyncio.run(landmark_relative_certificates(context(ca, serve(ca)), landmarks, wanted, NOW))
    for index, der in zip(asked, ders, strict=True):
        place = landmarks.landmark_for(index)
        assert place is not None
        assert der == ca.certificate(index, place.subtree)
        verified = verify_certificate(der, trust, NOW, name=f"entry-{index}.example")
        assert (verified.form, verified.index) == (Form.LANDMARK_RELATIVE, index)


@pytest.mark.parametrize("revision", REVISIONS.values(), ids=str)
def test_standalone_certificates_verify(revision: DraftRevision) -> None:
    """A round's entries get their certificates, the same ones from memory and from bundles, each one's key its own."""
    ca = large_ca(revision)
    signatures = {subtree: (ca.sign(ca.ca_id, subtree),) for subtree in cover(300, 700)}
    wanted = [Wanted(index, LEAF_SPKI) for index in range(699, 299, -1)]
    checked: list[bytes] = []
    log = context(ca, serve(ca))
    ders = asyncio.run(standalone_certificates(log, signatures, wanted, check=checked.append))
    memory = {index: ca.log_entries[index].encode(revision) for index in range(300, 700)}
    store = serve(ca)
    again = asyncio.run(standalone_certificates(context(ca, store), signatures, wanted, entries=memory))
    assert ders == again
    assert not [key for key in store.asked if "entries" in key], "entries in memory are not read"
    for item, der in zip(wanted, ders, strict=True):
        verified = verify_certificate(der, ca.store(), NOW, name=f"entry-{item.index}.example")
        assert (verified.form, verified.index) == (Form.STANDALONE, item.index)
    assert len(checked) == 2
    assert set(checked) <= set(ders)


def test_check_and_round_decide() -> None:
    """What the check raises is raised, and an entry outside of the round has no standalone certificate."""
    ca = large_ca()
    signatures: dict[Subtree, tuple[SubtreeSignature, ...]] = dict.fromkeys(cover(300, 700), ())

    def refuse(_: bytes) -> None:
        raise Rejected(Reason.POLICY_NOT_MET, "no")

    with pytest.raises(Rejected, match="no"):
        asyncio.run(
            standalone_certificates(context(ca, serve(ca)), signatures, [Wanted(5 * 100, LEAF_SPKI)], check=refuse)
        )
    with pytest.raises(ConflictError, match="not in the signed round"):
        asyncio.run(standalone_certificates(context(ca, serve(ca)), signatures, [Wanted(0, LEAF_SPKI)]))


@pytest.mark.parametrize("size", [3, 256, 300, 700])
def test_no_flipped_byte_reaches_a_certificate(size: int) -> None:
    """Whichever byte of whichever stored object is flipped: the right certificate comes out, or an error."""
    ca = large_ca(size=size)
    landmarks = landmarks_of(ca, size)
    wanted = [Wanted(index, LEAF_SPKI) for index in {0, size // 2, size - 1}]
    right = asyncio.run(landmark_relative_certificates(context(ca, serve(ca)), landmarks, wanted, NOW))
    errors = 0
    store = serve(ca)
    for key, data in list(store.objects.items()):
        for at in range(0, len(data), max(1, len(data) // 40)):
            store.objects[key] = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
            try:
                assert asyncio.run(landmark_relative_certificates(context(ca, store), landmarks, wanted, NOW)) == right
            except (ProofError, FormatError):
                errors += 1
        store.objects[key] = data
    assert errors


def test_what_is_gone_is_said() -> None:
    """Without a tile or bundle there is an error that names it; the full one stands in for a partial one."""
    ca = large_ca()
    landmarks = landmarks_of(ca, 700)
    for index in (0, 699):
        needed = serve(ca)
        asyncio.run(landmark_relative(context(ca, needed), landmarks, Wanted(index, LEAF_SPKI), NOW))
        for key in needed.asked:
            store = serve(ca)
            del store.objects[key]
            with pytest.raises(PeerError) as caught:
                asyncio.run(landmark_relative(context(ca, store), landmarks, Wanted(index, LEAF_SPKI), NOW))
            assert (caught.value.reason, caught.value.facts["tile"]) == (Reason.PRUNED, key.removeprefix("public/1/"))
    grown = serve(large_ca(size=768))
    assert "public/1/tile/0/002.p/188" not in grown.objects
    for key in ("tile/1/000.p/2",):
        grown.objects[f"public/1/{key}"] = serve(ca).objects[f"public/1/{key}"]
    made = asyncio.run(landmark_relative(context(ca, grown), landmarks, Wanted(699, LEAF_SPKI), NOW))
    assert made.certificate == ca.certificate(699, Subtree(512, 700))


def test_proven_tiles_are_read_once() -> None:
    """A reader fetches each tile once, and forgets the oldest when it holds too many."""
    ca = large_ca()
    landmarks, store = landmarks_of(ca, 700), serve(ca)
    log = context(ca, store)
    for _ in range(3):
        asyncio.run(
            landmark_relative_certificates(log, landmarks, [Wanted(index, LEAF_SPKI) for index in (1, 699)], NOW)
        )
    tiles = [key for key in store.asked if "entries" not in key]
    assert len(tiles) == len(set(tiles))
    small = LogContext(1, log.head, LogReader(HASHER, store, "public/1/", max_cached_tiles=1))
    first = asyncio.run(landmark_relative(small, landmarks, Wanted(1, LEAF_SPKI), NOW))
    assert first == asyncio.run(landmark_relative(small, landmarks, Wanted(1, LEAF_SPKI), NOW))


def test_entry_without_an_active_landmark_is_refused() -> None:
    """No landmark yet (with the time of the next one), an expired one, a forgotten one: three different answers."""
    ca = large_ca()
    landmarks = landmarks_of(ca, 300, 600)

    def ask(index: int, sequence: LandmarkSequence = landmarks, days: int = 0) -> Rejected:
        with pytest.raises(Rejected) as caught:
            asyncio.run(
                landmark_relative(
                    context(ca, serve(ca)),
                    sequence,
                    Wanted(index, LEAF_SPKI),
                    NOW + timedelta(days=days),
                    next_due=1_800_000_000,
                )
            )
        return caught.value

    early = ask(600)
    assert (early.reason, early.facts["next_due"]) == (Reason.NO_LANDMARK, 1_800_000_000)
    assert "2027-01-15T08:00:00Z" in early.message
    assert ask(0, days=8).reason is Reason.EXPIRED
    assert ask(0, LandmarkSequence(landmarks.landmarks[1:])).reason is Reason.EXPIRED


@pytest.mark.parametrize("revision", REVISIONS.values(), ids=str)
def test_properties_are_selected_by_the_groups_of_the_draft(revision: DraftRevision) -> None:
    """Clients get the landmark-relative form from its landmark on, and as long as they know it where that is told."""
    ca_id = TrustAnchorID.parse("32473.1")
    plain = properties_for(ca_id, 2, revision=revision)
    assert plain.is_selected_by([ca_id])
    assert plain.is_selected_by([landmark_group(ca_id, 2, 9)])
    relative = properties_for(ca_id, 2, 7, revision=revision, max_active_landmarks=3)
    chosen = [number for number in range(5, 20) if relative.is_selected_by([landmark_group(ca_id, 2, number)])]
    assert chosen == (list(range(7, 20)) if revision.groups_are_patterns else [7, 8, 9])
    assert not relative.is_selected_by([ca_id, landmark_group(ca_id, 1, 8)])
    assert relative.needs_negotiation == revision.groups_are_patterns
    assert type(relative).parse(relative.encode(), groups_are_patterns=revision.groups_are_patterns) == relative
    unlimited = properties_for(ca_id, 2, 7, revision=revision)
    assert unlimited.is_selected_by([landmark_group(ca_id, 2, 10**6)])
