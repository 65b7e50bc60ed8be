"""The fuzz targets: one function per parser. Its docstring states the invariant; a broken one raises.

Every target takes bytes from anybody. Beyond its own words, one invariant holds for all: nothing but `mtc.errors.Error`
escapes from the parser, and a target swallows only the families of errors that it names.
"""

import io
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from typing import NamedTuple

from fuzz import corpora
from fuzz.seeds import NOW, issuer_formats
from rich.console import Console

from mtc.cert import (
    CACertificate,
    Certificate,
    CertificateFacts,
    EntryExtension,
    LogEntry,
    MTCProof,
    PropertyList,
    TBSCertificateLogEntry,
    entry_hash,
    format_name,
    identify_certificate,
    parse_certificate_chains,
)
from mtc.cli.inspection import recognise
from mtc.crypto import algorithm_names, parse_private_key, parse_public_key, parse_signature_algorithm
from mtc.errors import Error, FormatError, ProofError, Rejected, SignatureError, UsageError
from mtc.ids import (
    REVISIONS,
    DraftRevision,
    TrustAnchorID,
    TrustAnchorPattern,
    TrustAnchorRange,
    encode_ca_name,
    parse_ca_name,
)
from mtc.kernel import Kernel, Scanner, is_native_built, native_kernel, parse_layout, python_kernel
from mtc.landmark import ActiveLandmarks
from mtc.merkle import MAX_TREE_SIZE, Node, root_hash
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
    trusted_ca_from_certificate,
    verify_certificate,
    verify_signature,
    verify_signatures,
)
from mtc.wire import (
    DERReader,
    Reader,
    Tag,
    encode_integer,
    encode_oid,
    encode_pem,
    encode_time,
    encode_tlv,
    parse_pem,
)

MAX_BYTES = 1 << 16
"""Longest input that a target looks at; limits above it have tests of their own."""


class Target(NamedTuple):
    """A function to fuzz and where it starts. is_certificate: structure-aware mutations suit it."""

    check: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    is_certificate: bool = False

    @property
    def invariant(self) -> str:
        """The first line of the function's docstring."""
        return (self.check.__doc__ or "").partition("\n")[0]


TARGETS: dict[str, Target] = {}


def _target(
    seeds: Callable[[], Iterable[bytes]], *, is_certificate: bool = False
) -> Callable[[Callable[[bytes], None]], Callable[[bytes], None]]:
    """Register a function `check_<name>` as target `<name>`."""

    def register(check: Callable[[bytes], None]) -> Callable[[bytes], None]:
        TARGETS[check.__name__.removeprefix("check_")] = Target(check, seeds, is_certificate)
        return check

    return register


@cache
def _kernels() -> tuple[Kernel, ...]:
    """Return the kernels that are built."""
    return (python_kernel(), native_kernel()) if is_native_built() else (python_kernel(),)


@cache
def _scanners() -> tuple[Scanner, ...]:
    """Return a scanner of each kernel."""
    return tuple(kernel.scanner(issuer_formats()) for kernel in _kernels())


def _answers(questions: Iterable[Callable[[], object]]) -> object:
    """Return the one answer to all questions, a value or an error's type, reason and offset; they must not differ."""
    answers: list[object] = []
    for ask in questions:
        try:
            answers.append(ask())
        except Error as error:
            answers.append((type(error), error.reason, error.facts.get("offset")))
    assert answers.count(answers[0]) == len(answers), answers
    return answers[0]


def _revision(data: bytes) -> DraftRevision:
    """Choose the revision that the first byte names."""
    return list(REVISIONS.values())[data[0] % len(REVISIONS)] if data else REVISIONS["plants-07"]


@_target(corpora.certificate_seeds, is_certificate=True)
def check_certificate(data: bytes) -> None:
    """A certificate is read alike by parser and both kernels, and is rebuilt to the same bytes from its parts."""
    hasher = python_kernel().hasher("sha256")
    facts = identify_certificate(data)
    scan = _answers([lambda scanner=scanner: scanner.scan(data) for scanner in _scanners()])  # type: ignore[misc]
    try:
        certificate = Certificate.parse(data)
    except (FormatError, Rejected):
        assert not isinstance(scan, tuple) or isinstance(scan[0], type), "the kernels accept what the parser refuses"
        return
    assert certificate.layout == parse_layout(data)
    assert facts == CertificateFacts(certificate.ca_id, certificate.log_number, certificate.index)
    assert certificate.with_proof(certificate.proof) == data
    entry = certificate.log_entry(hasher)
    # What verifies must be readable for those who follow the log.
    if len(entry.encode(REVISIONS["plants-04"])) < MAX_BYTES:
        again = LogEntry.parse(entry.encode())
        assert again == entry
        tbs = again.tbs_certificate
        assert tbs is not None
        rebuilt = Certificate.build(tbs, certificate.spki, certificate.serial, certificate.proof, certificate.revision)
        assert rebuilt == data
        assert (tbs.not_before, tbs.not_after) == (certificate.not_before, certificate.not_after)
        assert tbs.extensions == certificate.extensions
    with suppress(FormatError):
        format_name(certificate.subject)


@_target(corpora.extension_seeds, is_certificate=True)
def check_extensions(data: bytes) -> None:
    """Both kernels read an Extensions block alike."""
    with suppress(FormatError):
        _, start, end = DERReader(data, "the extensions").read_header(Tag.SEQUENCE)
        _answers([lambda kernel=kernel: kernel.scan_extensions(data, start, end) for kernel in _kernels()])  # type: ignore[misc]
    _answers([lambda kernel=kernel: kernel.scan_extensions(data, 0, len(data)) for kernel in _kernels()])  # type: ignore[misc]


@_target(corpora.proof_seeds)
def check_mtc_proof(data: bytes) -> None:
    """An MTCProof of any revision that parses is encoded to the same bytes; its names can be written."""
    revision = _revision(data)
    try:
        proof = MTCProof.parse(data[1:], revision)
    except FormatError:
        return
    assert proof.subtree.end <= MAX_TREE_SIZE
    assert proof.encode(revision) == data[1:]
    assert all(signature.name for signature in proof.signatures)


@_target(corpora.log_entry_seeds)
def check_log_entry(data: bytes) -> None:
    """A log entry that parses is encoded to the same bytes, hashes, and its parts can be read."""
    try:
        entry = LogEntry.parse(data)
    except FormatError:
        return
    assert entry.encode() == data
    hasher = python_kernel().hasher("sha256")
    assert entry_hash(hasher, entry) == hasher.leaf(data)
    assert all(isinstance(extension, EntryExtension) for extension in entry.extensions)
    if entry.tbs_certificate is not None:
        check_tbs_entry(entry.body)


@_target(corpora.tbs_entry_seeds)
def check_tbs_entry(data: bytes) -> None:
    """A TBSCertificateLogEntry that parses is encoded to the same bytes, its fields are readable, a certificate parses.

    The certificate is made of it with a key whose hash does not matter, and must not be refused for its fields.
    """
    try:
        entry = TBSCertificateLogEntry.parse(data)
    except FormatError:
        return
    assert entry.encode() == data
    _, _, _, _ = entry.not_before, entry.not_after, entry.extensions, entry.unique_ids
    with suppress(FormatError):
        ca_id = entry.ca_id
        _, name_oid = parse_ca_name(entry.issuer)
        revision = next(item for item in reversed(REVISIONS.values()) if item.name_oid == name_oid)
        spki = encode_tlv(Tag.SEQUENCE, entry.spki_algorithm + encode_tlv(Tag.BIT_STRING, b"\x00key"))
        der = _empty_certificate(entry, spki, revision)
        assert identify_certificate(der) == CertificateFacts(ca_id, 1, 0), "no certificate has these fields"


def _empty_certificate(entry: TBSCertificateLogEntry, spki: bytes, revision: DraftRevision) -> bytes:
    """Return a certificate for an entry, with a proof of one entry that proves nothing."""
    proof = MTCProof.parse(bytes(13) + b"\x01" + bytes(2 + revision.signatures_width), revision)
    return Certificate.build(entry, spki, 1 << 48, proof, revision)


@_target(corpora.ca_certificate_seeds, is_certificate=True)
def check_ca_certificate(data: bytes) -> None:
    """A CA certificate that parses makes a trusted CA whose own bounds are its revoked ranges."""
    try:
        certificate = CACertificate.parse(data)
    except (FormatError, Rejected):
        return
    trusted = trusted_ca_from_certificate(certificate)
    assert trusted.name == data[slice(*_subject_of(data))]
    for serial in (certificate.min_serial, certificate.max_serial):
        assert (serial in trusted.revoked) == (certificate.min_serial > certificate.max_serial)


def _subject_of(data: bytes) -> tuple[int, int]:
    """Return where the subject lies."""
    layout = parse_layout(data)
    return layout.subject_start, layout.spki_start


@_target(corpora.property_list_seeds)
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


@_target(corpora.chain_seeds)
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


@_target(corpora.pem_seeds)
def check_pem(data: bytes) -> None:
    """PEM that parses is encoded to strict PEM with the same blocks, and strict reading finds no others."""
    try:
        blocks = parse_pem(data)
    except FormatError:
        return
    assert parse_pem(encode_pem(blocks), strict=True) == blocks
    with suppress(FormatError):
        assert parse_pem(data, strict=True) == blocks


@_target(corpora.der_seeds, is_certificate=True)
def check_der_reader(data: bytes) -> None:
    """Every TLV that is read is encoded to the same bytes, and so are the integers, OIDs and times in it."""
    reader = DERReader(data, "the value")
    with suppress(FormatError):
        _check_items(data, reader, 0)


def _check_items(data: bytes, reader: DERReader, depth: int) -> None:
    """Check the TLVs in front of a reader."""
    for item in reader.items():
        at = item.offset
        tag, start, end = item.read_header()
        assert item.is_empty
        whole = data[at:end]
        assert encode_tlv(tag, data[start:end]) == whole
        if tag & 0x20 and depth < 50:
            _check_items(data, DERReader(data, "the value", start, end), depth + 1)
        again = DERReader(data, "the value", at, end)
        with suppress(FormatError):
            if tag == Tag.INTEGER:
                assert encode_integer(again.read_integer()) == whole
            elif tag == Tag.OID:
                assert encode_oid(again.read_oid()) == whole
            elif tag in (Tag.UTC_TIME, Tag.GENERALIZED_TIME):
                moment = again.read_time()
                written = DERReader(encode_time(moment), "the time")
                assert written.read_time() == moment
            elif tag == Tag.BOOLEAN:
                again.read_boolean()
            elif tag == Tag.BIT_STRING:
                assert again.read_bit_string() == data[start + 1 : end]


@_target(corpora.anchor_seeds)
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


@_target(corpora.pattern_seeds)
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


@_target(corpora.ca_name_seeds, is_certificate=True)
def check_ca_name(data: bytes) -> None:
    """A CA's name that parses is encoded to the same bytes by every revision with that attribute."""
    with suppress(FormatError):
        format_name(data)
    try:
        ca_id, oid = parse_ca_name(data)
    except FormatError:
        return
    revisions = [revision for revision in REVISIONS.values() if revision.name_oid == oid]
    assert revisions
    assert all(encode_ca_name(ca_id, revision) == data for revision in revisions)


@_target(corpora.trust_store_seeds)
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


@_target(corpora.server_name_seeds)
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


@_target(corpora.verify_seeds, is_certificate=True)
def check_verify(data: bytes) -> None:
    """Only certificates whose covered bytes are genuine verify: the TBSCertificate and the entry extensions.

    And a batch gives the same verdict.
    """
    store = corpora.trust_store()
    (batched,) = verify_signatures([data], store, NOW)
    refusal: Error | None = None
    try:
        verify_signature(data, store, NOW)
    except (FormatError, ProofError, Rejected) as error:
        refusal = error
    if isinstance(batched, Error):
        assert refusal is not None
        assert batched.__reduce__() == refusal.__reduce__()
    else:
        assert refusal is None
    for verify in (verify_signature, verify_certificate):
        try:
            verified = verify(data, store, NOW)
        except (FormatError, ProofError, Rejected):
            continue
        assert _covered(data) in _genuine(), "a certificate verifies that nobody issued"
        assert verified.certificate.ca_id == verified.ca.ca_id
        assert (verified.log_number, verified.index) == (
            verified.certificate.log_number,
            verified.certificate.index,
        )


def _covered(der: bytes) -> tuple[bytes, tuple[EntryExtension, ...]]:
    """Return what of a certificate its log entry and its place in the log cover."""
    certificate = Certificate.parse(der)
    return certificate.tbs, certificate.proof.extensions


@cache
def _genuine() -> frozenset[tuple[bytes, tuple[EntryExtension, ...]]]:
    """Return what the genuine certificates cover."""
    return frozenset(_covered(seed.der) for seed in corpora.genuine())


@_target(corpora.note_seeds)
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


@_target(corpora.checkpoint_seeds)
def check_checkpoint(data: bytes) -> None:
    """A checkpoint that parses is encoded to the same bytes."""
    try:
        checkpoint = Checkpoint.parse(data)
    except FormatError:
        return
    assert checkpoint.encode() == data


@_target(corpora.verifier_key_seeds)
def check_verifier_key(data: bytes) -> None:
    """A verifier key that parses is encoded to the same text."""
    text = data.decode("utf-8", errors="surrogateescape")
    try:
        key = VerifierKey.parse(text)
    except FormatError:
        return
    assert key.encode() == text


@_target(corpora.message_seeds)
def check_cosigned_message(data: bytes) -> None:
    """A cosigned message that parses is encoded to the same bytes."""
    try:
        message = CosignedMessage.parse(data)
    except FormatError:
        return
    assert message.encode() == data


@_target(corpora.tlog_proof_seeds)
def check_tlog_proof(data: bytes) -> None:
    """A log proof that parses is encoded to the same bytes."""
    try:
        proof = TLogProof.parse(data)
    except FormatError:
        return
    assert proof.encode() == data


@_target(corpora.policy_seeds)
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


@_target(corpora.tile_path_seeds)
def check_tile_path(data: bytes) -> None:
    """A path that parses is the one path of its tile."""
    text = data.decode("utf-8", errors="replace")
    try:
        tile = parse_tile_path(text)
    except FormatError:
        return
    assert tile_path(tile) == text


@_target(corpora.bundle_seeds)
def check_entry_bundle(data: bytes) -> None:
    """An entry bundle that parses is encoded to the same bytes."""
    try:
        bundle = EntryBundle.parse(data)
    except FormatError:
        return
    assert bundle.encode() == data
    assert EntryBundle.parse(data, len(bundle.entries)) == bundle


@_target(corpora.landmark_seeds)
def check_landmarks(data: bytes) -> None:
    """A landmarks file of either shape that parses is encoded to the same bytes, and its subtrees can be named."""
    revision = _revision(data)
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


@_target(corpora.tile_edit_seeds)
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


@_target(corpora.private_key_seeds)
def check_keys(data: bytes) -> None:
    """A key file is read or refused; a private key is written to text that is read to the same key."""
    for name in algorithm_names():
        with suppress(FormatError):
            key = parse_public_key(data, parse_signature_algorithm(name))
            assert key.public_key == data
            with suppress(SignatureError):
                key.verify(b"message", data)
    with suppress(FormatError, UsageError):
        signer = parse_private_key(data)
        assert parse_private_key(signer.encode_pem()).public_key == signer.public_key


@_target(corpora.inspect_seeds)
def check_inspect(data: bytes) -> None:
    """Any file is described or refused by name; a description can be printed, and is JSON."""
    try:
        report = recognise(data, "tile/0/000")
    except (FormatError, ProofError, Rejected, UsageError):
        return
    json.dumps(report.to_json(), allow_nan=False)
    report.print(Console(file=io.StringIO(), width=100))
