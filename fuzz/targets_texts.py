"""Fuzz targets for what stands around certificates: identifiers, chains, documents, signed notes, tiles, any file."""

import io
import json
from collections.abc import Iterable
from contextlib import suppress
from functools import cache

from fuzz import corpora
from fuzz.registry import chosen_revision, target
from fuzz.seeds import NOW
from rich.console import Console

from mtc.cert import (
    PropertyList,
    parse_certificate_chains,
)
from mtc.cli.inspection import recognise
from mtc.errors import FormatError, ProofError, Rejected, SignatureError, UsageError
from mtc.ids import (
    TrustAnchorID,
    TrustAnchorPattern,
    TrustAnchorRange,
)
from mtc.kernel import python_kernel
from mtc.landmark import ActiveLandmarks
from mtc.merkle import Node, root_hash
from mtc.note import (
    Checkpoint,
    Cosignature,
    CosignedMessage,
    QuorumPolicy,
    TLogProof,
    VerifierKey,
    open_note,
    parse_note,
    parse_signature_lines,
)
from mtc.tiles import EntryBundle, Tile, TileHashReader, parse_tile_path, tile_path
from mtc.trust import (
    ServerName,
    format_trust_store,
    parse_trust_store,
    verify_signature,
)
from mtc.wire import (
    Reader,
    encode_oid,
    encode_pem,
    parse_pem,
)


@target(corpora.property_list_seeds)
def check_property_list(data: bytes) -> None:
    """A property list that parses is encoded to one that parses to the same, whichever form of groups is asked for."""
    for form in (None, True, False):
        try:
            properties = PropertyList.parse(data, groups_are_patterns=form)
        except FormatError:
            continue
        again = PropertyList.parse(properties.encode(), groups_are_patterns=form)
        assert again == properties
        assert again.encode() == properties.encode()
        properties.is_selected_by([TrustAnchorID.parse("32473.1")])


@target(corpora.chain_seeds)
def check_chains(data: bytes) -> None:
    """PEM chains that parse are encoded to text that parses to the same."""
    try:
        chains = parse_certificate_chains(data, None)
    except FormatError:
        return
    if all(chain.properties is not None for chain in chains):
        text = b"".join(chain.encode() for chain in chains)
        assert parse_certificate_chains(text, None) == chains
    parse_certificate_chains(data, None, strict=False)


@target(corpora.pem_seeds)
def check_pem(data: bytes) -> None:
    """PEM that parses is encoded to strict PEM with the same blocks, and strict reading finds no others."""
    try:
        blocks = parse_pem(data)
    except FormatError:
        return
    assert parse_pem(encode_pem(blocks), strict=True) == blocks
    with suppress(FormatError):
        assert parse_pem(data, strict=True) == blocks


@target(corpora.anchor_seeds)
def check_trust_anchor_id(data: bytes) -> None:
    """A trust anchor ID has one text and one binary form, each of which parses to it."""
    with suppress(FormatError):
        anchor = TrustAnchorID(data)
        assert TrustAnchorID.parse(str(anchor)) == anchor
        assert TrustAnchorID.parse_oid_name(anchor.oid_name) == anchor
        assert encode_oid(anchor.oid).endswith(data)
    text = data.decode("latin-1")
    with suppress(FormatError):
        assert str(TrustAnchorID.parse(text)) == text
    with suppress(FormatError):
        assert TrustAnchorID.parse_oid_name(text).oid_name == text


@target(corpora.pattern_seeds)
def check_pattern(data: bytes) -> None:
    """An ID pattern has one binary form; its text parses to the same pattern; a range is encoded to the same bytes."""
    with suppress(FormatError):
        pattern = TrustAnchorPattern.parse_binary(data)
        assert pattern.encode() == data
        if len(str(pattern)) <= 2048:
            assert TrustAnchorPattern.parse(str(pattern)) == pattern
    with suppress(FormatError):
        pattern = TrustAnchorPattern.parse(data.decode("latin-1"))
        assert TrustAnchorPattern.parse(str(pattern)) == pattern
        pattern.contains(TrustAnchorID.parse("32473.1"))
    with suppress(FormatError):
        reader = Reader(data, "the range")
        found = TrustAnchorRange.read(reader)
        assert found.encode() == data[: reader.offset]
        assert found.contains(found.base.child(found.least))


@target(corpora.trust_store_seeds)
def check_trust_store(data: bytes) -> None:
    """A trust store document that parses is written to a text that parses to the same text."""
    try:
        store = parse_trust_store(data)
    except FormatError:
        return
    text = format_trust_store(store)
    again = parse_trust_store(text)
    assert format_trust_store(again) == text
    assert [ca.name for ca in again.cas] == [ca.name for ca in store.cas]
    with suppress(FormatError, Rejected, ProofError):
        verify_signature(corpora.genuine()[0].der, store, NOW)


@target(corpora.server_name_seeds)
def check_server_name(data: bytes) -> None:
    """A server name that parses is written to a text that parses to the same, and it matches itself alone."""
    try:
        name = ServerName.parse(data.decode("utf-8", errors="replace"))
    except UsageError:
        return
    assert ServerName.parse(str(name)) == name
    assert (name.host is None) != (name.address is None)
    if name.host is not None:
        assert name.is_in([name.host], [])
        assert not name.is_in([b"*." + name.host], [name.host])
    else:
        assert name.address is not None
        assert name.is_in([], [name.address])
        assert not name.is_in([str(name).encode()], [])
    name.is_in([data], [data])


@target(corpora.note_seeds)
def check_note(data: bytes) -> None:
    """A note that parses is encoded to the same bytes; it opens only with a text that a known key signed."""
    with suppress(FormatError):
        lines = parse_signature_lines(data)
        assert b"".join(line.encode() for line in lines) == data
    try:
        note = parse_note(data)
    except FormatError:
        return
    assert note.encode() == data
    for signature in note.signatures:
        with suppress(FormatError):
            assert Cosignature.parse(signature.signature).encode() == signature.signature
    with suppress(FormatError, Rejected, SignatureError):
        opened = open_note(data, [key for _, key in corpora.note_signers()])
        assert opened.text in {seed.text for seed in corpora.notes()}, "a note opens that nobody signed"


@target(corpora.checkpoint_seeds)
def check_checkpoint(data: bytes) -> None:
    """A checkpoint that parses is encoded to the same bytes."""
    try:
        checkpoint = Checkpoint.parse(data)
    except FormatError:
        return
    assert checkpoint.encode() == data


@target(corpora.verifier_key_seeds)
def check_verifier_key(data: bytes) -> None:
    """A verifier key that parses is encoded to the same text."""
    text = data.decode("utf-8", errors="surrogateescape")
    try:
        key = VerifierKey.parse(text)
    except FormatError:
        return
    assert key.encode() == text


@target(corpora.message_seeds)
def check_cosigned_message(data: bytes) -> None:
    """A cosigned message that parses is encoded to the same bytes."""
    try:
        message = CosignedMessage.parse(data)
    except FormatError:
        return
    assert message.encode() == data


@target(corpora.tlog_proof_seeds)
def check_tlog_proof(data: bytes) -> None:
    """A log proof that parses is encoded to the same bytes."""
    try:
        proof = TLogProof.parse(data)
    except FormatError:
        return
    assert proof.encode() == data


@target(corpora.policy_seeds)
def check_policy(data: bytes) -> None:
    """A policy that parses is encoded to one that parses to the same, and judges a note without failing."""
    try:
        policy = QuorumPolicy.parse(data)
    except FormatError:
        return
    again = QuorumPolicy.parse(policy.encode())
    assert again == policy
    assert again.encode() == policy.encode()
    with suppress(FormatError, Rejected, SignatureError):
        policy.verify_checkpoint(corpora.notes()[2])


@target(corpora.tile_path_seeds)
def check_tile_path(data: bytes) -> None:
    """A path that parses is the one path of its tile."""
    text = data.decode("utf-8", errors="replace")
    try:
        tile = parse_tile_path(text)
    except FormatError:
        return
    assert tile_path(tile) == text


@target(corpora.bundle_seeds)
def check_entry_bundle(data: bytes) -> None:
    """An entry bundle that parses is encoded to the same bytes."""
    try:
        bundle = EntryBundle.parse(data)
    except FormatError:
        return
    assert bundle.encode() == data
    assert EntryBundle.parse(data, len(bundle.entries)) == bundle


@target(corpora.landmark_seeds)
def check_landmarks(data: bytes) -> None:
    """A landmarks file of either shape that parses is encoded to the same bytes, and its subtrees can be named."""
    revision = chosen_revision(data)
    with suppress(FormatError, Rejected):
        landmarks = ActiveLandmarks.parse(data[1:], NOW, revision, max_active_landmarks=100)
        assert landmarks.encode() == data[1:]
        assert len(landmarks.active(NOW)) <= 100
        landmarks.active_subtrees(NOW)
        landmarks.landmark_for(landmarks.latest.tree_size - 1)
    if revision.landmarks_have_expiry:
        with suppress(FormatError):
            prefix = ActiveLandmarks.parse(data[1:], NOW, revision, prefix=True)
            assert ActiveLandmarks.parse(prefix.encode(), NOW, revision) == prefix


class _Edited:
    """A tile source that serves true tiles with some bytes changed."""

    def __init__(self, edits: bytes) -> None:
        """Take edits: tile number, offset in 2 bytes, and the byte to put there, in 4 bytes each."""
        self.contents = dict(corpora.tile_contents())
        self.saved: dict[Tile, bytes] = {}
        for at in range(0, len(edits) - 3, 4):
            tile = list(self.contents)[edits[at] % len(self.contents)]
            content = bytearray(self.contents[tile])
            offset = int.from_bytes(edits[at + 1 : at + 3], "big")
            if offset < len(content):
                content[offset] = edits[at + 3]
            else:
                del content[edits[at + 3] :]
            self.contents[tile] = bytes(content)

    def read_tiles(self, tiles: Iterable[Tile]) -> list[bytes]:
        """Serve tiles."""
        return [self.contents[tile] for tile in tiles]

    def save(self, tiles: dict[Tile, bytes]) -> None:
        """Keep what the reader calls proven."""
        self.saved |= tiles


@target(corpora.tile_edit_seeds)
def check_tile_reader(data: bytes) -> None:
    """Whatever a source serves, the reader returns the true hashes or raises, and saves nothing but true tiles."""
    hasher = python_kernel().hasher("sha256")
    size = corpora.TILED_ENTRIES
    nodes, expected, root = _true_hashes()
    source = _Edited(data)
    reader = TileHashReader(hasher, size, root, source)  # type: ignore[arg-type]  # any iterable of tiles will do
    for node, value in zip(nodes, expected, strict=True):
        with suppress(FormatError, ProofError):
            assert reader.read([node]) == [value], "an unproven hash"
    with suppress(FormatError, ProofError):
        assert reader.read(nodes) == expected
    true = corpora.tile_contents()
    assert all(true[tile] == content for tile, content in source.saved.items()), "an unproven tile was saved"


@cache
def _true_hashes() -> tuple[list[Node], list[bytes], bytes]:
    """Return some nodes, their hashes, and the root of the tree whose tiles are served."""
    hasher = python_kernel().hasher("sha256")
    row = hasher.leaves(b"entry %d" % number for number in range(corpora.TILED_ENTRIES))
    nodes = [Node(0, 0), Node(0, 699), Node(3, 40), Node(7, 4), Node(8, 1), Node(9, 0)]
    hashes = [root_hash(hasher, row[32 * (node[1] << node[0]) : 32 * (node[1] + 1 << node[0])]) for node in nodes]
    return nodes, hashes, root_hash(hasher, row)


@target(corpora.inspect_seeds)
def check_inspect(data: bytes) -> None:
    """Any file is described or refused by name; a description can be printed, and is JSON."""
    try:
        report = recognise(data, "tile/0/000")
    except (FormatError, ProofError, Rejected, UsageError):
        return
    json.dumps(report.to_json(), allow_nan=False)
    # A terminal encodes, so that text which cannot be encoded would be a traceback there.
    with io.TextIOWrapper(io.BytesIO(), encoding="utf-8") as terminal:
        report.print(Console(file=terminal, width=100))
