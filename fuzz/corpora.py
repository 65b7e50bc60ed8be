"""Seeds of the fuzz targets beyond plain certificates: documents, texts, chains and trees, from our own encoders."""

import base64
import json
from datetime import timedelta
from functools import cache

from cryptography.hazmat.primitives.asymmetric import ed25519
from fuzz.seeds import (
    EXTENSION_SETS,
    NOT_AFTER,
    NOT_BEFORE,
    NOW,
    PLAIN_EXTENSIONS,
    Recipe,
    SeedCertificate,
    all_certificates,
    build,
    certificates,
    foreign_ca_certificates,
    foreign_certificates,
    issuer_of,
    leaf_keys,
    load_vectors,
    make_signer,
)

from mtc.cert import (
    TBSCRL,
    CertificateChain,
    EntryExtension,
    LogEntry,
    PropertyList,
    RevocationReason,
    RevokedSerial,
    SerialRanges,
    SubtreeSignature,
    assemble_crl,
    encode_ca_certificate,
    encode_extensions,
    encode_name,
    encode_tbs_crl,
)
from mtc.cert.certificate import Certificate
from mtc.crypto import HASH_ALGORITHMS, LocalSigner, parse_public_key, parse_signature_algorithm
from mtc.errors import Error
from mtc.ids import (
    REVISIONS,
    DraftRevision,
    TrustAnchorID,
    TrustAnchorPattern,
    TrustAnchorRange,
    encode_ca_name,
    landmark_pattern,
    log_id,
    standalone_pattern,
)
from mtc.kernel import python_kernel
from mtc.landmark import ActiveLandmarks, LandmarkSequence
from mtc.merkle import RowReader, Subtree, prove_consistency, prove_inclusion, root_hash
from mtc.note import (
    Checkpoint,
    CosignedMessage,
    Note,
    PolicyGroup,
    PolicyLog,
    PolicyWitness,
    QuorumPolicy,
    SignatureType,
    TLogProof,
    VerifierKey,
    checkpoint_message,
    note_signature,
)
from mtc.tiles import EntryBundle, Tile, TileEdge, build_tiles
from mtc.trust import (
    Cosigner,
    CosignerPolicy,
    CosignerState,
    FreezePoint,
    TrustedCA,
    TrustedSubtree,
    TrustStore,
    format_trust_store,
)
from mtc.wire import PEMBlock, encode_integer, encode_oid, encode_pem, encode_sequence, encode_time

TILED_ENTRIES = 700
"""Entries of the tree whose tiles are fuzzed: three tiles on level 0, the last one partial, and one on level 1."""


def certificate_seeds() -> list[bytes]:
    """Return certificates of all kinds."""
    return [der for der, _ in all_certificates()]


def extension_seeds() -> list[bytes]:
    """Return Extensions SEQUENCEs."""
    return [encode_extensions(extensions) for extensions in EXTENSION_SETS if extensions]


def proof_seeds() -> list[bytes]:
    """Return MTCProofs behind the number of their revision."""
    names = list(REVISIONS)
    return [
        bytes((names.index(revision.name),)) + Certificate.parse(der).proof.encode(revision)
        for der, revision in _readable()
    ]


def _readable() -> list[tuple[bytes, DraftRevision]]:
    """Return the certificates that can be read; some foreign ones are examples of what cannot."""
    readable = []
    for der, revision in all_certificates():
        try:
            Certificate.parse(der)
        except Error:
            continue
        readable.append((der, revision))
    return readable


def tree_proof_seeds() -> list[bytes]:
    """Return true proofs: hash, start, end, index or tree size, what is proven, root, and the sibling hashes."""
    made = []
    for number, name in enumerate(("sha256", "sm3")):
        hasher = python_kernel().hasher(name)
        row = hasher.leaves(b"%d" % leaf for leaf in range(21))
        reader = RowReader(hasher, row)
        for start, end in ((0, 1), (0, 8), (8, 13), (16, 21), (0, 21), (12, 14)):
            head = bytes((number,)) + start.to_bytes(6, "big") + end.to_bytes(6, "big")
            subtree = Subtree(start, end)
            node = root_hash(hasher, row[32 * start : 32 * end])
            leaf = row[32 * (end - 1) : 32 * end]
            inclusion = b"".join(prove_inclusion(hasher, reader, subtree, end - 1))
            made.append(b"".join((head, _place(end - 1), leaf, node, inclusion)))
            consistency = b"".join(prove_consistency(hasher, reader, subtree, 21))
            made.append(head + _place(21) + node + root_hash(hasher, row) + consistency)
    return made


def _place(number: int) -> bytes:
    """Return an index or tree size, and the byte that pads it."""
    return number.to_bytes(6, "big") + b"\x00"


def log_entry_seeds() -> list[bytes]:
    """Return log entries, of unknown types too."""
    hasher = python_kernel().hasher("sha256")
    entries = [Certificate.parse(der).log_entry(hasher).encode() for der, _ in _readable()]
    entries += [LogEntry().encode(), LogEntry(7, b"body", (EntryExtension(3, b"x"),)).encode()]
    for case in load_vectors("log_entries.json").get("cases", ()):
        entries += [bytes.fromhex(case["log_entry"])] if case.get("log_entry") else []
    return entries


def tbs_entry_seeds() -> list[bytes]:
    """Return bodies of log entries that certify something."""
    entries = [LogEntry.parse(data) for data in log_entry_seeds()]
    return [entry.body for entry in entries if entry.tbs_certificate is not None]


@cache
def own_ca_certificates() -> tuple[bytes, ...]:
    """Return CA certificates of all revisions and several algorithms."""
    made = []
    for number, revision in enumerate(REVISIONS.values()):
        for name in ("ml-dsa-44", "ecdsa-p256-sha256"):
            signer = make_signer(name, number)
            made.append(
                encode_ca_certificate(
                    ca_id=issuer_of(revision, "sha256"),
                    public_key=parse_public_key(signer.public_key, signer.algorithm),
                    not_before=NOT_BEFORE,
                    not_after=NOT_AFTER,
                    min_serial=(1 << 48) + number,
                    prefix_url="https://log.example/" if number % 2 else None,
                    can_sign_crls=bool(number % 2),
                    hash_name="sm3" if revision.ca_extension_has_hash and name.startswith("ec") else "sha256",
                    revision=revision,
                )
            )
    return tuple(made)


def ca_certificate_seeds() -> list[bytes]:
    """Return CA certificates, foreign ones too."""
    return [*own_ca_certificates(), *foreign_ca_certificates()]


@cache
def property_lists() -> tuple[PropertyList, ...]:
    """Return property lists of both forms."""
    ca_id = TrustAnchorID.parse("32473.1")
    return (
        PropertyList(),
        PropertyList(ca_id, (standalone_pattern(ca_id),), needs_negotiation=True),
        PropertyList(ca_id.child(1, 1, 5), (landmark_pattern(ca_id, 1, 5), standalone_pattern(ca_id))),
        PropertyList(
            None,
            (TrustAnchorRange(ca_id.child(2, 1), 0, 2**64 - 1), TrustAnchorRange(ca_id, 3, 9)),
            needs_negotiation=True,
        ),
    )


def property_list_seeds() -> list[bytes]:
    """Return encoded property lists."""
    cases = load_vectors("certificate_properties.json")
    foreign = [case["base64"] for case in (*cases.get("cases", ()), *cases.get("must_reject", ())) if "base64" in case]
    return [item.encode() for item in property_lists()] + list(map(base64.b64decode, foreign))


def chain_seeds() -> list[bytes]:
    """Return PEM chains with and without properties."""
    leaf, ca = certificates()[0].der, own_ca_certificates()[1]
    plain, standalone, landmark, ranges = property_lists()
    chains = [
        CertificateChain(None, (leaf, ca)),
        CertificateChain(plain, (leaf,)),
        CertificateChain(standalone, (leaf,)),
        CertificateChain(ranges, (leaf, ca)),
    ]
    both = CertificateChain(landmark, (leaf,)).encode() + CertificateChain(standalone, (leaf, ca)).encode()
    return [*(chain.encode() for chain in chains), both]


def pem_seeds() -> list[bytes]:
    """Return PEM texts."""
    return [
        *chain_seeds(),
        encode_pem([PEMBlock("A", b""), PEMBlock("PUBLIC KEY", bytes(range(100)))]),
        b"text before\r\n-----BEGIN X-----\r\nAAAA\r\n-----END X-----\r\ntext behind",
    ]


def der_seeds() -> list[bytes]:
    """Return DER of many kinds."""
    return [
        certificates()[3].der,
        *extension_seeds(),
        own_ca_certificates()[1],
        encode_sequence(encode_integer(-1), encode_integer(1 << 70), encode_oid("2.999.1"), encode_time(NOW)),
        encode_name(CN="a", O="b"),
        leaf_keys()["rsa"],
    ]


def anchor_seeds() -> list[bytes]:
    """Return trust anchor IDs in binary and in text."""
    texts = ["0", "32473.1", "32473.1.0.65535", "4294967295.18446744073709551616", "127.128.16383.16384"]
    ids = [TrustAnchorID.parse(text) for text in texts]
    return [anchor.binary for anchor in ids] + [text.encode() for text in texts] + [ids[1].oid_name.encode()]


def pattern_seeds() -> list[bytes]:
    """Return ID patterns in binary and in text, and ranges."""
    texts = ["32473.{1-9}.{0-}", "{0-}", "1.{5-5}.2", "32473.1.2.{0-}.{0-}"]
    patterns = [TrustAnchorPattern.parse(text) for text in texts]
    ranges = TrustAnchorRange(TrustAnchorID.parse("32473.1"), 4, 2**64 - 1)
    return [*(pattern.encode() for pattern in patterns), *(text.encode() for text in texts), ranges.encode()]


def ca_name_seeds() -> list[bytes]:
    """Return names of CAs in every form."""
    names = [encode_ca_name(TrustAnchorID.parse("32473.1"), revision) for revision in REVISIONS.values()]
    return [*names, encode_name(CN="no CA"), encode_name()]


@cache
def note_signers() -> tuple[tuple[LocalSigner, VerifierKey], ...]:
    """Return a log's key, a witness's and a mirror's: one of each type that signs notes."""
    algorithm = parse_signature_algorithm("ed25519")
    made = []
    for number, (name, kind) in enumerate(
        (
            ("log.example/7", SignatureType.ED25519),
            ("witness.example/w", SignatureType.COSIGNATURE_ED25519),
            ("oid/1.3.6.1.4.1.32473.9", SignatureType.COSIGNATURE_MLDSA44),
        )
    ):
        if kind is SignatureType.COSIGNATURE_MLDSA44:
            signer = make_signer("ml-dsa-44", 50)
        else:
            key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes((number + 1,)) * 32)
            signer = LocalSigner(algorithm, key, algorithm.bind_signer(key))
        made.append((signer, VerifierKey.from_spki(name, kind, signer.public_key)))
    return tuple(made)


@cache
def checkpoints() -> tuple[Checkpoint, ...]:
    """Return checkpoints of a log."""
    return (
        Checkpoint("log.example/7", 0, bytes(32)),
        Checkpoint("log.example/7", 1234, bytes(range(32))),
        Checkpoint("oid/1.3.6.1.4.1.32473.1.0.1", 2**63 - 1, bytes(32), ("an extension", "b — ü")),
    )


def checkpoint_seeds() -> list[bytes]:
    """Return texts of checkpoints."""
    return [checkpoint.encode() for checkpoint in checkpoints()]


@cache
def notes() -> tuple[Note, ...]:
    """Return checkpoints as signed notes."""
    made = []
    for checkpoint in checkpoints():
        lines = []
        for signer, key in note_signers():
            timestamp = 1_790_000_000 if key.is_cosigner else 0
            raw = signer.sign_now(checkpoint_message(key, checkpoint, timestamp))
            lines.append(note_signature(key, raw, timestamp))
        made += [Note(checkpoint.encode(), tuple(lines)), Note(checkpoint.encode(), tuple(lines[:2]))]
    return tuple(made)


def note_seeds() -> list[bytes]:
    """Return signed notes, a foreign one too."""
    foreign = load_vectors("signed_notes.json").get("ed25519", {}).get("note", "")
    texts = [note.encode() for note in notes()]
    texts.append(Note(b"Free text.\n\nWith an empty line.\n", notes()[1].signatures[:1]).encode())
    return texts + ([foreign.encode()] if foreign else [])


def verifier_key_seeds() -> list[bytes]:
    """Return verifier keys."""
    foreign = load_vectors("signed_notes.json").get("ed25519", {}).get("vkey", "")
    return [key.encode().encode() for _, key in note_signers()] + ([foreign.encode()] if foreign else [])


def message_seeds() -> list[bytes]:
    """Return cosigned messages."""
    ca_id = TrustAnchorID.parse("32473.1")
    made = [
        CosignedMessage.for_subtree(ca_id, log_id(ca_id, 65535), Subtree(8, 13), bytes(32)).encode(),
        CosignedMessage.for_checkpoint("witness", checkpoints()[1], 1_790_000_000).encode(),
    ]
    cases = load_vectors("cosigned_messages.json").get("cases", ())
    return made + [bytes.fromhex(case["message"]) for case in cases]


def tlog_proof_seeds() -> list[bytes]:
    """Return proof files."""
    note = notes()[3]
    return [
        TLogProof(0, (), note).encode(),
        TLogProof(77, (bytes(32), bytes(range(32))), note, b"extra data").encode(),
        TLogProof(2**63 - 1, (bytes(32),) * 60, note).encode(),
    ]


@cache
def policies() -> tuple[QuorumPolicy, ...]:
    """Return policies with and without witnesses."""
    (_, log), (_, witness), (_, mirror) = note_signers()
    logs = (PolicyLog(log, "https://log.example/"),)
    witnesses = (PolicyWitness("w1", witness), PolicyWitness("m1", mirror, "https://m.example/"))
    groups = (PolicyGroup("both", 2, ("w1", "m1")), PolicyGroup("top", 1, ("both",)))
    return QuorumPolicy(logs, (), (), "none"), QuorumPolicy(logs, witnesses, groups, "top")


def policy_seeds() -> list[bytes]:
    """Return policy files."""
    return [
        *(policy.encode() for policy in policies()),
        b"# comment\n\n" + policies()[1].encode().replace(b" 2 ", b" all ").replace(b" 1 ", b" any "),
    ]


def tile_path_seeds() -> list[bytes]:
    """Return paths of tiles and bundles."""
    return [
        b"tile/0/000",
        b"tile/0/x001/x234/067.p/8",
        b"tile/63/999.p/255",
        b"tile/entries/x999/000",
        b"tile/entries/123.p/1",
        Tile(5, 2**56 - 1).path.encode(),
    ]


def bundle_seeds() -> list[bytes]:
    """Return entry bundles."""
    entries = tuple(log_entry_seeds()[:4])
    return [EntryBundle((b"",)).encode(), EntryBundle(entries).encode(), EntryBundle((b"x",) * 256).encode()]


def landmark_seeds() -> list[bytes]:
    """Return landmarks files of all revisions, behind the number of their revision."""
    made = []
    for number, revision in enumerate(REVISIONS.values()):
        sequence = LandmarkSequence.start(revision)
        for day in range(12):
            moment = NOW + timedelta(days=day - 11)
            sequence = sequence.allocate(
                (day + 1) * 1000, moment, max_lifetime=timedelta(days=7), interval=timedelta(days=1)
            )
        window = None if revision.landmarks_have_expiry else 8
        made.append(bytes((number,)) + ActiveLandmarks.of_sequence(sequence, NOW, window).encode())
    return made


@cache
def tile_contents() -> dict[Tile, bytes]:
    """Return the tiles of a tree."""
    hasher = python_kernel().hasher("sha256")
    row = hasher.leaves(b"entry %d" % number for number in range(TILED_ENTRIES))
    return build_tiles(hasher, TileEdge(hasher.size), row)[1]


def tile_edit_seeds() -> list[bytes]:
    """Return edits of served tiles: tile number, offset and byte in 4 bytes each."""
    return [b"", b"\x00\x00\x00\x00", b"\x01\x00\x05\xff", b"\x03\x00\x00\x01\x02\x01\x00\x00"]


@cache
def genuine() -> tuple[SeedCertificate, ...]:
    """Return certificates that `trust_store` verifies: signed ones, and ones of trusted subtrees."""
    made = []
    for number, revision in enumerate(REVISIONS.values()):
        ca_id = issuer_of(revision, "sha256")

        def sign(
            root: bytes, log_number: int, subtree: Subtree, ca_id: TrustAnchorID = ca_id
        ) -> list[SubtreeSignature]:
            message = CosignedMessage.for_subtree(ca_id, log_id(ca_id, log_number), subtree, root).encode()
            raw = make_signer("ecdsa-p256-sha256", 60).sign_now(message)
            return [SubtreeSignature(ca_id.binary, raw), SubtreeSignature(ca_id.child(77).binary, b"grease")]

        for log_number, extensions in ((1, PLAIN_EXTENSIONS), (65535, EXTENSION_SETS[2])):
            for signer in (sign, None):
                recipe = Recipe(
                    revision=revision,
                    ca_id=ca_id,
                    log_number=log_number,
                    index=11 + number,
                    subtree=(8, 16),
                    extensions=extensions,
                    entry_extensions=(EntryExtension(5, b"covered"),) if number % 2 else (),
                    sign=signer,
                )
                made.append(build(recipe))
    return tuple(made)


@cache
def trust_store() -> TrustStore:
    """Return the relying party that trusts the CAs of `genuine`."""
    cas = []
    signer = make_signer("ecdsa-p256-sha256", 60)
    key = parse_public_key(signer.public_key, signer.algorithm)
    other = make_signer("ml-dsa-44", 61)
    other_key = parse_public_key(other.public_key, other.algorithm)
    for revision in REVISIONS.values():
        ca_id = issuer_of(revision, "sha256")
        subtrees = {
            (seed.log_number, seed.subtree): TrustedSubtree(seed.log_number, seed.subtree, seed.root, 3, 2**33)
            for seed in genuine()
            if seed.ca_id == ca_id and seed.log_number == 65535
        }
        cosigners = (
            Cosigner(ca_id, key),
            Cosigner(ca_id.child(9, 1), other_key, CosignerState.FROZEN, FreezePoint(1, 2**20)),
            Cosigner(ca_id.child(9, 2), other_key, CosignerState.REMOVED),
        )
        cas.append(
            TrustedCA(
                ca_id,
                revision,
                HASH_ALGORITHMS["sha256"],
                cosigners,
                CosignerPolicy((ca_id,), (ca_id, ca_id.child(9, 1)), 1),
                tuple(subtrees.values()),
                SerialRanges([(5 << 48, 6 << 48), (7, 7), (2**64 - 1, 2**64)]),
            )
        )
    return TrustStore(cas)


def verify_seeds() -> list[bytes]:
    """Return genuine certificates."""
    return [seed.der for seed in genuine()]


def trust_store_seeds() -> list[bytes]:
    """Return trust store documents."""
    document = format_trust_store(trust_store())
    first = json.loads(document)
    first["cas"] = first["cas"][:1]
    plain = {"version": 1, "cas": []}
    return [json.dumps(first).encode(), json.dumps(plain).encode(), document]


def server_name_seeds() -> list[bytes]:
    """Return names that clients ask for."""
    names = "a.example A.Example. xn--bcher-kva.example localhost 127.0.0.1 ::1 [2001:db8::1] _x.a 1.2.3 0x7f.1 a%b"
    return [name.encode() for name in names.split()]


def private_key_seeds() -> list[bytes]:
    """Return keys, private and public, in all forms that are read."""
    signer = make_signer("ecdsa-p256-sha256", 1)
    return [
        signer.encode_pem(),
        make_signer("ml-dsa-44", 1).encode_pem(),
        note_signers()[0][0].encode_pem(),
        *leaf_keys().values(),
    ]


def revocation_list_seeds() -> list[bytes]:
    """Return revocation lists of both kinds and every revision, signed."""
    signer = make_signer("ml-dsa-44", 1)
    algorithm, first = signer.algorithm.identifier, 1 << 48
    lines = tuple(
        RevokedSerial(first + number, NOT_BEFORE, reason)
        for number, reason in enumerate((None, *RevocationReason), start=1)
    )
    ranges = SerialRanges([(first + 5, first + 9), (first + 20, first + 21), (2 * first, 1 << 64)])
    contents = ((), None, None), (lines, None, None), ((), ranges, first), ((), SerialRanges(), 0)
    seeds = []
    for revision in REVISIONS.values():
        for serials, bounds, least in contents:
            crl = TBSCRL(
                issuer=encode_ca_name(TrustAnchorID.parse("32473.1"), revision),
                algorithm=algorithm,
                this_update=NOW,
                next_update=NOW + timedelta(days=7),
                number=300,
                serials=serials,
                ranges=bounds,
                min_serial=least,
            )
            tbs = encode_tbs_crl(crl)
            seeds.append(assemble_crl(tbs, algorithm, signer.sign_now(tbs)))
    return seeds


def inspect_seeds() -> list[bytes]:
    """Return one or two artefacts of every kind that `mtc inspect` knows."""
    every = (
        certificate_seeds()[:60:7],
        ca_certificate_seeds()[:3],
        chain_seeds()[:4],
        [seed[1:] for seed in landmark_seeds()[2:]],
        checkpoint_seeds(),
        note_seeds()[:2],
        list(tile_contents().values())[:1],
        bundle_seeds()[:2],
        log_entry_seeds()[:3],
        trust_store_seeds()[:1],
        policy_seeds(),
        verifier_key_seeds()[:2],
        tlog_proof_seeds()[:2],
        property_list_seeds()[:2],
        [der for der, _ in foreign_certificates()[:2]],
    )
    return [seed for seeds in every for seed in seeds]
