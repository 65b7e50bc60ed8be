"""Seeds for fuzzing: well-formed values made by the project's own encoders, and foreign ones where they are at hand.

Everything is made the same in every run, so that a finding can be made again from its number.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, mldsa

from mtc.cert import (
    Certificate,
    EntryExtension,
    Extension,
    LogEntry,
    MTCProof,
    SubtreeSignature,
    TBSCertificateLogEntry,
    encode_basic_constraints,
    encode_extended_key_usage,
    encode_extensions,
    encode_key_usage,
    encode_name,
    encode_subject_alt_name,
    entry_hash,
)
from mtc.cert import issuer_format as format_of_issuer
from mtc.crypto import LocalSigner, parse_signature_algorithm
from mtc.ids import REVISIONS, DraftRevision, TrustAnchorID, encode_ca_name, serial_number
from mtc.kernel import HASH_SIZES, IssuerFormat, python_kernel
from mtc.merkle import Subtree, evaluate_inclusion
from mtc.wire import (
    encode_bit_string,
    encode_explicit,
    encode_integer,
    encode_octet_string,
    encode_oid,
    encode_sequence,
    encode_time,
    encode_tlv,
    find_pem_block,
)
from mtc.wire.der import MAX_OID_BYTES

VECTORS = Path(os.environ.get("MTC_SHARED_VECTORS") or Path(__file__).parents[2] / "shared" / "vectors")
"""Where foreign vectors may lie; fuzzing works without them."""

NOT_BEFORE = datetime(2026, 1, 1, tzinfo=UTC)
NOT_AFTER = datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)
NOW = datetime(2026, 6, 1, tzinfo=UTC)
"""A moment at which the plain seeds are valid."""

Sign = Callable[[bytes, int, Subtree], Sequence[SubtreeSignature]]
"""Makes cosignatures over (subtree hash, log number, subtree)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a certificate is made of; every default is plain."""

    revision: DraftRevision
    ca_id: TrustAnchorID
    hash_name: str = "sha256"
    log_number: int = 1
    index: int = 5
    subtree: tuple[int, int] = (0, 8)
    version: int = 2
    validity: bytes = encode_sequence(encode_time(NOT_BEFORE), encode_time(NOT_AFTER))
    subject: bytes = encode_name(CN="a.example")
    spki: bytes = b""
    unique_ids: bytes = b""
    extensions: tuple[Extension, ...] | None = None
    entry_extensions: tuple[EntryExtension, ...] = ()
    sign: Sign | None = None


@dataclass(frozen=True, slots=True)
class SeedCertificate:
    """A certificate and what it proves."""

    der: bytes
    revision: DraftRevision
    hash_name: str
    ca_id: TrustAnchorID
    log_number: int
    subtree: Subtree
    root: bytes


def make_signer(name: str, number: int) -> LocalSigner:
    """Return a deterministic signer with one of ML-DSA-44, -65, -87 or an ECDSA algorithm; for tests only."""
    algorithm = parse_signature_algorithm(name)
    seed = sha256(f"{name} {number}".encode()).digest()
    key: Any
    if name.startswith("ml-dsa"):
        kinds: dict[str, Any] = {
            "ml-dsa-44": mldsa.MLDSA44PrivateKey,
            "ml-dsa-65": mldsa.MLDSA65PrivateKey,
            "ml-dsa-87": mldsa.MLDSA87PrivateKey,
        }
        key = kinds[name].from_seed_bytes(seed)
    else:
        curve = ec.SECP256R1() if name == "ecdsa-p256-sha256" else ec.SECP384R1()
        key = ec.derive_private_key(int.from_bytes(seed, "big") >> 8, curve)
    return LocalSigner(algorithm, key, algorithm.bind_signer(key))


@cache
def leaf_keys() -> dict[str, bytes]:
    """Return subscriber keys, SPKI DER, by a short name."""
    ed25519 = encode_sequence(encode_sequence(encode_oid("1.3.101.112")), encode_bit_string(bytes(range(32))))
    modulus = encode_integer(1 << 2047 | int.from_bytes(bytes(range(1, 251)), "big") << 32 | 1)
    rsa = encode_sequence(
        encode_sequence(encode_oid("1.2.840.113549.1.1.1"), b"\x05\x00"),
        encode_bit_string(encode_sequence(modulus, encode_integer(65537))),
    )
    return {
        "p256": _spki(ec.derive_private_key(7, ec.SECP256R1())),
        "p384": _spki(ec.derive_private_key(7, ec.SECP384R1())),
        "mldsa44": make_signer("ml-dsa-44", 0).public_key,
        "rsa": rsa,
        "ed25519": ed25519,
    }


def _spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the public half, SPKI DER."""
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def proof_length(index: int, subtree: Subtree) -> int:
    """Return the number of hashes in the inclusion proof of an entry."""
    fn, sn = index - subtree.start, subtree.end - subtree.start - 1
    count = 0
    while sn:
        if fn & 1 or fn < sn:
            count += 1
        fn, sn = fn >> 1, sn >> 1
    return count


def build(recipe: Recipe) -> SeedCertificate:
    """Make a certificate whose proof holds in a tree that nobody needs to build: its sibling hashes are made up."""
    hasher = python_kernel().hasher(recipe.hash_name)
    spki = recipe.spki or leaf_keys()["p256"]
    extensions = PLAIN_EXTENSIONS if recipe.extensions is None else recipe.extensions
    plain = TBSCertificateLogEntry.build(
        hasher=hasher,
        issuer=encode_ca_name(recipe.ca_id, recipe.revision),
        subject=recipe.subject,
        spki=spki,
        not_before=NOT_BEFORE,
        not_after=NOT_AFTER,
    )
    tail = recipe.unique_ids
    if recipe.version == 2 and extensions:
        tail += encode_explicit(3, encode_extensions(extensions))
    entry = TBSCertificateLogEntry(
        recipe.version, plain.issuer, recipe.validity, plain.subject, plain.spki_algorithm, plain.spki_hash, tail
    )
    log_entry = LogEntry.of_certificate(entry, recipe.entry_extensions)
    subtree = Subtree(*recipe.subtree)
    siblings = [
        sha256(b"%d %d" % (recipe.index, depth)).digest() for depth in range(proof_length(recipe.index, subtree))
    ]
    root = evaluate_inclusion(hasher, subtree, recipe.index, entry_hash(hasher, log_entry, recipe.revision), siblings)
    signatures = () if recipe.sign is None else tuple(recipe.sign(root, recipe.log_number, subtree))
    proof = MTCProof(subtree, tuple(siblings), (), recipe.entry_extensions).with_signatures(*signatures)
    serial = serial_number(recipe.log_number, recipe.index)
    der = Certificate.build(entry, spki, serial, proof, recipe.revision)
    return SeedCertificate(der, recipe.revision, recipe.hash_name, recipe.ca_id, recipe.log_number, subtree, root)


def fake_signatures(*entries: tuple[str, int]) -> Sign:
    """Return a signer that makes nothing up but bytes: (cosigner ID in hex, size) each."""

    def sign(root: bytes, log_number: int, subtree: Subtree) -> list[SubtreeSignature]:
        rng = Random(f"{root.hex()} {log_number} {subtree}")
        return [SubtreeSignature(bytes.fromhex(cosigner), rng.randbytes(size)) for cosigner, size in entries]

    return sign


PLAIN_EXTENSIONS = (
    encode_key_usage("digitalSignature"),
    encode_extended_key_usage("1.3.6.1.5.5.7.3.1"),
    encode_subject_alt_name(["a.example", "*.b.example"]),
)

_UNKNOWN = "1.3.6.1.4.1.99999.7"
_ODD_NAMES = encode_sequence(
    encode_tlv(0xA0, encode_oid("1.2.3.4") + encode_explicit(0, encode_integer(1))),
    encode_tlv(0x81, b"mail@a.example"),
    encode_tlv(0x82, b"A.Example"),
    encode_tlv(0xA4, encode_name(CN="dir")),
    encode_tlv(0x86, b"https://a.example/"),
    encode_tlv(0x87, bytes(4)),
    encode_tlv(0x87, bytes(range(16))),
    encode_tlv(0x88, b"\x2a\x03"),
)
EXTENSION_SETS: tuple[tuple[Extension, ...], ...] = (
    (),
    PLAIN_EXTENSIONS,
    (
        encode_basic_constraints(is_ca=False),
        encode_key_usage("digitalSignature", "keyAgreement", "decipherOnly"),
        encode_extended_key_usage("1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2", is_critical=True),
        encode_subject_alt_name(["a.example"], ["127.0.0.1", "::1"], is_critical=True),
    ),
    (
        encode_basic_constraints(is_ca=True, path_length=3),
        encode_key_usage("keyCertSign", "cRLSign"),
        encode_extended_key_usage("2.5.29.37.0", "1.2.3.4.5"),
    ),
    (
        encode_basic_constraints(is_ca=True, path_length=200, is_critical=False),
        Extension("2.5.29.17", _ODD_NAMES),
        Extension("2.5.29.32", encode_sequence(encode_sequence(encode_oid("2.23.140.1.2.1"))), is_critical=True),
        Extension(_UNKNOWN, b"\x05\x00"),
    ),
    (
        Extension(_UNKNOWN, b"not DER", is_critical=True),
        Extension(_UNKNOWN + ".1", b"", is_critical=True),
        encode_subject_alt_name([f"host{number}.example" for number in range(12)]),
        Extension("2.5.29.14", encode_octet_string(bytes(20))),
        Extension("2.5.29.35", encode_sequence(encode_tlv(0x80, bytes(20)))),
    ),
)
_LARGE_EXTENSIONS = tuple(Extension(f"{_UNKNOWN}.{number}", bytes(number % 7)) for number in range(256))

_VALIDITIES = (
    (NOT_BEFORE, NOT_AFTER),
    (datetime(1950, 1, 1, tzinfo=UTC), datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)),
    (datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
    (datetime(2024, 2, 29, 12, 30, 15, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC)),
)
_TREES = (
    (5, (0, 8)),
    (0, (0, 1)),
    (1, (0, 2)),
    (6, (0, 7)),
    (11, (8, 13)),
    (2**40 + 3, (2**40, 2**40 + 2**22)),
    (2**48 - 2, (0, 2**48 - 1)),
    (2**47 - 1, (0, 2**47)),
    (2**48 - 2, (2**48 - 2, 2**48 - 1)),
)
_LOGS = (1, 2, 255, 256, 0x7FFF, 0x8000, 0xFFFF)
_SIGNATURES: tuple[Sign | None, ...] = (
    None,
    fake_signatures(("81fd5901", 64)),
    fake_signatures(("01", 3), ("81fd5901", 64), ("81fd5909", 70)),
    fake_signatures(("80", 0), ("ff", 1), ("81fd590901", 40), ("81fd590902", 40), ("7f" * 32, 1)),
)
_ENTRY_EXTENSIONS: tuple[tuple[EntryExtension, ...], ...] = (
    (),
    (EntryExtension(0xF000, b"abc"),),
    (EntryExtension(0, b""), EntryExtension(1, bytes(40)), EntryExtension(0xFFFF, b"z")),
)


def issuer_of(revision: DraftRevision, hash_name: str) -> TrustAnchorID:
    """Return the CA ID that the seeds use for a revision and a hash: one CA speaks one revision."""
    number = 10 + 2 * list(REVISIONS).index(revision.name) + list(HASH_SIZES).index(hash_name)
    return TrustAnchorID.parse(f"32473.{number}")


@cache
def certificates() -> tuple[SeedCertificate, ...]:
    """Return certificates of all revisions, both hashes, both forms, and many shapes."""
    made = []
    keys = list(leaf_keys().values())
    for revision in REVISIONS.values():
        for hash_name in HASH_SIZES:
            for number in range(12):
                index, subtree = _TREES[number % len(_TREES)]
                version = (0, 1, 2)[number % 3] if number in (6, 7) else 2
                recipe = Recipe(
                    revision=revision,
                    ca_id=issuer_of(revision, hash_name),
                    hash_name=hash_name,
                    log_number=_LOGS[number % len(_LOGS)],
                    index=index,
                    subtree=subtree,
                    version=version,
                    validity=encode_sequence(*map(encode_time, _VALIDITIES[number // 2 % len(_VALIDITIES)])),
                    subject=encode_name(CN="a.example", O="Example") if number % 4 else encode_name(),
                    spki=keys[number % len(keys)],
                    unique_ids=b"\x81\x02\x00\x0a\x82\x03\x04\xab\xc0" if version and number % 5 == 2 else b"",
                    extensions=EXTENSION_SETS[number % len(EXTENSION_SETS)],
                    entry_extensions=_ENTRY_EXTENSIONS[number // 3 % len(_ENTRY_EXTENSIONS)],
                    sign=_SIGNATURES[number % len(_SIGNATURES)],
                )
                made.append(build(recipe))
    return tuple(made)


@cache
def large_certificates() -> tuple[SeedCertificate, ...]:
    """Return certificates that cost time: at and above limits of extensions and OIDs, and with real signature sizes."""
    revision = REVISIONS["plants-07"]
    plain = Recipe(revision=revision, ca_id=issuer_of(revision, "sha256"))
    recipes = [
        Recipe(revision=revision, ca_id=plain.ca_id, extensions=_LARGE_EXTENSIONS),
        Recipe(
            revision=revision,
            ca_id=plain.ca_id,
            extensions=(*_LARGE_EXTENSIONS, Extension(f"{_UNKNOWN}.1000", b"")),
        ),
        *(
            Recipe(revision=revision, ca_id=plain.ca_id, extensions=(Extension("1.3" + ".127" * arcs, b"\x05\x00"),))
            for arcs in (MAX_OID_BYTES - 1, MAX_OID_BYTES)
        ),
        Recipe(
            revision=revision,
            ca_id=plain.ca_id,
            sign=fake_signatures(("81fd5901", 2420), ("81fd5902", 4627), ("81fd5903", 2420)),
            entry_extensions=(EntryExtension(7, bytes(30_000)),),
        ),
    ]
    return tuple(map(build, recipes))


def load_vectors(name: str) -> Any:  # noqa: ANN401 - JSON
    """Return a shared vector file; an empty object where there is none."""
    path = VECTORS / name
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


@cache
def foreign_certificates() -> tuple[tuple[bytes, DraftRevision], ...]:
    """Return certificates of other implementations."""
    found = []
    for name in (
        "certs_demo_plants07.json",
        "certs_boringssl_x509_plants05.json",
        "certs_boringssl_pki_plants04.json",
        "certs_boringssl_verify_plants04.json",
    ):
        vectors = load_vectors(name)
        found += [
            (find_pem_block(item["pem"].encode(), "CERTIFICATE"), REVISIONS[vectors["version"]])
            for item in vectors.get("certificates", ())
        ]
    return tuple(found)


def foreign_ca_certificates() -> list[bytes]:
    """Return CA certificates of other implementations."""
    names = ("certs_demo_plants07.json", "certs_boringssl_x509_plants05.json")
    pems = [load_vectors(name).get("ca_certificate_pem") for name in names]
    return [find_pem_block(pem.encode(), "CERTIFICATE") for pem in pems if pem]


def issuer_formats() -> dict[bytes, IssuerFormat]:
    """Return what a scanner must know to scan all seeds and foreign certificates; owners are plain strings."""
    formats = {}
    for revision in REVISIONS.values():
        for hash_name in HASH_SIZES:
            ca_id = issuer_of(revision, hash_name)
            formats[encode_ca_name(ca_id, revision)] = issuer_format(revision, hash_name, f"{revision} {hash_name}")
        foreign = TrustAnchorID.parse("32473.1")
        formats.setdefault(encode_ca_name(foreign, revision), issuer_format(revision, "sha256", f"{revision} foreign"))
    return formats


def issuer_format(revision: DraftRevision, hash_name: str, owner: object) -> IssuerFormat:
    """Describe the certificates of a revision to a scanner."""
    return format_of_issuer(revision, hash_name, owner)


def all_certificates() -> Iterator[tuple[bytes, DraftRevision]]:
    """Yield every seed certificate of moderate size with its revision, own ones first."""
    for seed in certificates():
        yield seed.der, seed.revision
    yield from foreign_certificates()
