"""A small certification authority in memory: entries of real shape, a tree over them, certificates sound or damaged.

What is sound goes through the public API (`mtc.cert`, `mtc.merkle`). What is damaged goes through `tests.certificates`,
where each part can be replaced by any bytes: `SmallCA.parts` returns a certificate in parts, `RawProof` an MTCProof.
The signed message is put together here from the draft's text, so that it does not stand on `mtc.note`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from typing import TypedDict, Unpack

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa
from tests.certificates import Parts

from mtc.cert import (
    Certificate,
    EntryExtension,
    Extension,
    LogEntry,
    MTCProof,
    SerialRanges,
    SubtreeSignature,
    TBSCertificateLogEntry,
    encode_extended_key_usage,
    encode_extensions,
    encode_key_usage,
    encode_name,
    encode_subject_alt_name,
    entry_hash,
)
from mtc.crypto import HASH_ALGORITHMS, LocalSigner, parse_public_key, parse_signature_algorithm
from mtc.ids import DEFAULT_REVISION, DraftRevision, TrustAnchorID, encode_ca_name, log_id, serial_number
from mtc.kernel import Kernel, active_kernel
from mtc.merkle import Hasher, RowReader, Subtree, prove_inclusion, subtree_hash
from mtc.trust import Cosigner, CosignerPolicy, TrustedCA, TrustedSubtree, TrustStore
from mtc.wire import Writer, encode_explicit, encode_integer, encode_time

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
"""The moment at which tests verify."""
NOT_BEFORE = NOW - timedelta(days=1)
NOT_AFTER = NOW + timedelta(days=6)
HOST = "www.example.com"
SERVER_AUTH = "1.3.6.1.5.5.7.3.1"
CLIENT_AUTH = "1.3.6.1.5.5.7.3.2"
ANY_PURPOSE = "2.5.29.37.0"
ALGORITHMS = ("ml-dsa-44", "ml-dsa-65", "ml-dsa-87", "ecdsa-p256-sha256", "ecdsa-p384-sha384", "ed25519")
GREASE_ID = TrustAnchorID.parse("32473.65000.7").binary
"""Binary ID of a cosigner that never was one."""

_MAKE_KEY: dict[str, Callable[[int], object]] = {
    "ml-dsa-44": lambda seed: mldsa.MLDSA44PrivateKey.from_seed_bytes(seed.to_bytes(32, "big")),
    "ml-dsa-65": lambda seed: mldsa.MLDSA65PrivateKey.from_seed_bytes(seed.to_bytes(32, "big")),
    "ml-dsa-87": lambda seed: mldsa.MLDSA87PrivateKey.from_seed_bytes(seed.to_bytes(32, "big")),
    "ecdsa-p256-sha256": lambda seed: ec.derive_private_key(seed + 1, ec.SECP256R1()),
    "ecdsa-p384-sha384": lambda seed: ec.derive_private_key(seed + 1, ec.SECP384R1()),
    "ed25519": lambda seed: ed25519.Ed25519PrivateKey.from_private_bytes(seed.to_bytes(32, "big")),
}


@cache
def make_key(algorithm: str, seed: int = 1) -> LocalSigner:
    """Return the signer of a private key that everybody can guess; the same one for the same algorithm and seed."""
    found = parse_signature_algorithm(algorithm)
    key = _MAKE_KEY[algorithm](seed)
    return LocalSigner(found, key, found.bind_signer(key))  # type: ignore[arg-type]  # the library's key of `found`


LEAF_SPKI = make_key("ecdsa-p256-sha256", 7).public_key
"""SubjectPublicKeyInfo of every leaf."""


def leaf_extensions(
    dns_names: Iterable[str] = (HOST, "example.com"), ip_addresses: Iterable[str] = ()
) -> tuple[Extension, ...]:
    """Return the extensions of a usual server certificate."""
    return (
        encode_key_usage("digitalSignature"),
        encode_extended_key_usage(SERVER_AUTH),
        encode_subject_alt_name(dns_names, ip_addresses, is_critical=True),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """What an entry certifies. version: 0 for v1. unique_ids: TLVs in front of the extensions, as they stand."""

    extensions: tuple[Extension, ...] = leaf_extensions()
    not_before: datetime = NOT_BEFORE
    not_after: datetime = NOT_AFTER
    subject: bytes = encode_name()
    spki: bytes = LEAF_SPKI
    version: int = 2
    unique_ids: bytes = b""
    entry_extensions: tuple[EntryExtension, ...] = ()

    def entry(self, ca: "SmallCA") -> TBSCertificateLogEntry:
        """Return what a CA certifies for this leaf."""
        built = TBSCertificateLogEntry.build(
            hasher=ca.hasher,
            issuer=ca.name,
            subject=self.subject,
            spki=self.spki,
            not_before=self.not_before,
            not_after=self.not_after,
            extensions=self.extensions,
        )
        return replace(built, version=self.version, tail=self.unique_ids + built.tail)


LEAVES = tuple(Leaf(extensions=leaf_extensions((HOST, f"entry-{number}.example"))) for number in range(13))
"""Leaves that all have the same host name, and another one each, so that no two entries are equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawProof:
    """An MTCProof in parts, in any order and beyond any limit. signatures: (cosigner ID, signature) as they stand."""

    extensions: bytes = b""
    start: int
    end: int
    inclusion_proof: bytes = b""
    signatures: tuple[tuple[bytes, bytes], ...] = ()
    width: int = 3
    tail: bytes = b""

    def encode(self) -> bytes:
        """Return the bytes."""
        signatures = Writer()
        for cosigner, signature in self.signatures:
            signatures.vector(cosigner, 1).vector(signature, 2)
        writer = Writer().vector(self.extensions, 2).uint(self.start, 6).uint(self.end, 6)
        return writer.vector(self.inclusion_proof, 2).vector(signatures.encode(), self.width).bytes(self.tail).encode()

    @staticmethod
    def of(proof: MTCProof, width: int = 3) -> "RawProof":
        """Take a sound proof apart."""
        writer = Writer()
        for extension in proof.extensions:
            writer.uint(extension.type, 2).vector(extension.data, 2)
        return RawProof(
            extensions=writer.encode(),
            start=proof.subtree.start,
            end=proof.subtree.end,
            inclusion_proof=b"".join(proof.inclusion_proof),
            signatures=tuple((item.cosigner_id, item.signature) for item in proof.signatures),
            width=width,
        )


def cosigned_message(cosigner: str, log: str, subtree: Subtree, digest: bytes, timestamp: int = 0) -> bytes:
    """Return the bytes of a CosignedMessage, by the draft's table. cosigner, log: trust anchor IDs in ASCII."""
    prefix = b"oid/1.3.6.1.4.1."
    writer = Writer().bytes(b"subtree/v1\n\x00").vector(prefix + cosigner.encode(), 1).uint(timestamp, 8)
    writer.vector(prefix + log.encode(), 1).uint(subtree.start, 8).uint(subtree.end, 8).bytes(digest)
    return writer.encode()


class Trust(TypedDict, total=False):
    """What `SmallCA.trusted_ca` and `SmallCA.store` can be told; what is left out is the plainest choice."""

    cosigners: Sequence[Cosigner]
    policy: CosignerPolicy
    subtrees: Sequence[TrustedSubtree]
    revoked: SerialRanges


@dataclass(frozen=True)
class SmallCA:
    """A CA with one log. cosigners: algorithm by ID in ASCII, beside the CA cosigner itself, which has `algorithm`.

    leaves: what is certified, or any other entry as it is; a log of 13 without.
    """

    leaves: tuple[Leaf | LogEntry, ...] = LEAVES
    ca_id: str = "32473.1"
    revision: DraftRevision = DEFAULT_REVISION
    hash_name: str = "sha256"
    algorithm: str = "ed25519"
    cosigners: Mapping[str, str] = field(default_factory=lambda: {"32473.9.1": "ed25519", "32473.9.2": "ed25519"})
    log_number: int = 1

    @cached_property
    def hasher(self) -> Hasher:
        """The log's hash."""
        return active_kernel().hasher(self.hash_name)

    @cached_property
    def anchor(self) -> TrustAnchorID:
        """The CA ID."""
        return TrustAnchorID.parse(self.ca_id)

    @cached_property
    def name(self) -> bytes:
        """The distinguished name of the CA."""
        return encode_ca_name(self.anchor, self.revision)

    @cached_property
    def log_entries(self) -> tuple[LogEntry, ...]:
        """The entries of the log."""
        return tuple(
            leaf if isinstance(leaf, LogEntry) else LogEntry.of_certificate(leaf.entry(self), leaf.entry_extensions)
            for leaf in self.leaves
        )

    @cached_property
    def reader(self) -> RowReader:
        """The tree over the entries."""
        row = b"".join(entry_hash(self.hasher, entry, self.revision) for entry in self.log_entries)
        return RowReader(self.hasher, row)

    @property
    def tree_size(self) -> int:
        """Number of entries."""
        return len(self.leaves)

    def subtree_hash(self, subtree: Subtree) -> bytes:
        """Return the hash of a subtree."""
        return subtree_hash(self.hasher, self.reader, subtree)

    def trusted_subtree(
        self, start: int, end: int, *, landmark: int | None = None, expiry: int | None = None
    ) -> TrustedSubtree:
        """Return a subtree with its true hash, to be trusted."""
        subtree = Subtree(start, end)
        return TrustedSubtree(self.log_number, subtree, self.subtree_hash(subtree), landmark, expiry)

    def key(self, cosigner: str) -> LocalSigner:
        """Return the key of a cosigner of this CA, or of the CA cosigner itself."""
        if cosigner == self.ca_id:
            return make_key(self.algorithm, 100)
        return make_key(self.cosigners[cosigner], 101 + list(self.cosigners).index(cosigner))

    def sign(self, cosigner: str, subtree: Subtree, *, signer: LocalSigner | None = None) -> SubtreeSignature:
        """Return a cosignature over a subtree of this log. signer: another key than the cosigner's own."""
        log = str(log_id(self.anchor, self.log_number))
        message = cosigned_message(cosigner, log, subtree, self.subtree_hash(subtree))
        return SubtreeSignature(TrustAnchorID.parse(cosigner).binary, (signer or self.key(cosigner)).sign_now(message))

    def proof(self, index: int, subtree: Subtree | None = None, cosigners: Iterable[str] = ()) -> MTCProof:
        """Return the proof of an entry in a subtree (the whole log without one), cosigned."""
        subtree = subtree or Subtree(0, self.tree_size)
        path = tuple(prove_inclusion(self.hasher, self.reader, subtree, index))
        plain = MTCProof(subtree, path, (), self.log_entries[index].extensions)
        return plain.with_signatures(*(self.sign(cosigner, subtree) for cosigner in cosigners))

    def certificate(
        self, index: int, subtree: Subtree | None = None, cosigners: Iterable[str] = (), proof: MTCProof | None = None
    ) -> bytes:
        """Return the certificate of an entry: landmark-relative in shape without cosigners, standalone with some."""
        entry = self.log_entries[index].tbs_certificate
        leaf = self.leaves[index]
        assert entry is not None
        assert isinstance(leaf, Leaf)
        serial = serial_number(self.log_number, index)
        return Certificate.build(
            entry, leaf.spki, serial, proof or self.proof(index, subtree, cosigners), self.revision
        )

    def parts(
        self,
        index: int,
        subtree: Subtree | None = None,
        cosigners: Iterable[str] = (),
        *,
        proof: MTCProof | RawProof | None = None,
    ) -> Parts:
        """Return the same certificate in parts, to be damaged with `dataclasses.replace`."""
        leaf = self.leaves[index]
        assert isinstance(leaf, Leaf)
        proof = proof or self.proof(index, subtree, cosigners)
        tail = encode_explicit(3, encode_extensions(leaf.extensions)) if leaf.extensions else b""
        spki_algorithm = leaf.entry(self).spki_algorithm
        key = leaf.spki[leaf.spki.index(spki_algorithm) + len(spki_algorithm) :]
        return Parts(
            version=encode_explicit(0, encode_integer(leaf.version)) if leaf.version else b"",
            serial=encode_integer(serial_number(self.log_number, index)),
            signature=self.revision.proof_algorithm,
            issuer=self.name,
            not_before=encode_time(leaf.not_before),
            not_after=encode_time(leaf.not_after),
            subject=leaf.subject,
            spki_algorithm=spki_algorithm,
            key=key,
            unique_ids=leaf.unique_ids,
            extensions=None,
            tail=tail,
            proof=proof.encode() if isinstance(proof, RawProof) else proof.encode(self.revision),
        )

    def cosigner(self, cosigner: str) -> Cosigner:
        """Return a cosigner with its key, as a relying party knows it."""
        key = self.key(cosigner)
        return Cosigner(TrustAnchorID.parse(cosigner), parse_public_key(key.public_key, key.algorithm))

    def trusted_ca(self, **trust: Unpack[Trust]) -> TrustedCA:
        """Return this CA as trusted; without a policy its own cosignature suffices, without cosigners all are known."""
        everybody = [self.cosigner(name) for name in (self.ca_id, *self.cosigners)]
        return TrustedCA(
            self.anchor,
            self.revision,
            HASH_ALGORITHMS[self.hash_name],
            tuple(trust.get("cosigners", everybody)),
            trust.get("policy", CosignerPolicy(require=(self.anchor,))),
            tuple(trust.get("subtrees", ())),
            trust.get("revoked", SerialRanges()),
        )

    def store(self, kernel: Kernel | None = None, **trust: Unpack[Trust]) -> TrustStore:
        """Return a trust store with this CA alone."""
        return TrustStore([self.trusted_ca(**trust)], kernel)


def policy(*require: str, of: Iterable[str] = (), at_least: int = 0) -> CosignerPolicy:
    """Return a policy from IDs in ASCII."""
    parse = TrustAnchorID.parse
    return CosignerPolicy(tuple(map(parse, require)), tuple(map(parse, of)), at_least)


def certify(leaf: Leaf, kernel: Kernel | None = None, **choices: Unpack["Choices"]) -> tuple[bytes, TrustStore]:
    """Return a certificate of a leaf, alone in its log, and a store that trusts its subtree [0, 1)."""
    ca = SmallCA((leaf,), **choices)
    return ca.certificate(0), ca.store(kernel, subtrees=[ca.trusted_subtree(0, 1)])


class Choices(TypedDict, total=False):
    """The choices of `SmallCA` beside its leaves."""

    ca_id: str
    revision: DraftRevision
    hash_name: str
    algorithm: str
    cosigners: Mapping[str, str]
    log_number: int
