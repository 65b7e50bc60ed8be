"""The promises that both kernels keep."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from mtc.errors import Error, Reason, UsageError
from mtc.merkle import Hasher

HASH_SIZES = {"sha256": 32, "sm3": 32}
"""Bytes per hash of each tree hash, by name."""

FINGERPRINT_BYTES = 8
"""Length of a request key's fingerprint."""
RECORD_BYTES = 14
"""Length of a request key's record: its fingerprint and its entry index."""


def hash_size(name: str) -> int:
    """Return the bytes per hash of a tree hash. Raises UsageError (UNKNOWN_ALGORITHM)."""
    if name not in HASH_SIZES:
        raise UsageError(Reason.UNKNOWN_ALGORITHM, f"{name!r} is no tree hash here; there are {', '.join(HASH_SIZES)}")
    return HASH_SIZES[name]


class IssuerFormat(NamedTuple):
    """How one issuer's certificates are laid out, and what the caller wants back for it."""

    signature_algorithm: bytes
    """The AlgorithmIdentifier that its certificates carry twice, DER."""
    signatures_width: int
    """Bytes of the length of MTCProof's signatures vector: 2 or 3."""
    id_limit: int
    """Longest cosigner ID in bytes."""
    entry_limit: int
    """Largest log entry in bytes; a certificate of a larger one is refused."""
    hash_name: str
    """The log's hash: `sha256` or `sm3`."""
    owner: object
    """Returned as it is in `Scan.owner`."""


class Scan(NamedTuple):
    """What one pass over a certificate yields; the kernels return plain tuples in this order, which cost less.

    Times are POSIX seconds. `root` is the subtree hash that the inclusion proof leads to: compare it with a hash that
    is trusted. `extensions_*` bound the contents of the Extensions SEQUENCE (0, 0 when absent), `signatures_start` is
    the first SubtreeSignature, which run to the end of the certificate.
    """

    owner: object
    serial: int
    not_before: int
    not_after: int
    start: int
    end: int
    root: bytes
    entry_hash: bytes
    extensions_start: int
    extensions_end: int
    signatures_start: int


ScanFields = tuple[object, int, int, int, int, int, bytes, bytes, int, int, int]
"""`Scan` as a plain tuple."""


class ExtensionScan(NamedTuple):
    """What a TLS client needs from a certificate's extensions, as a plain tuple in this order.

    is_ca: basicConstraints' cA, None when absent. key_usage: bit i set for the i-th KeyUsage bit, None when absent.
    purposes: 1 serverAuth, 2 clientAuth, 4 anyExtendedKeyUsage, 8 another; None when absent. dns_names, ip_addresses:
    from subjectAltName, in order, both None when it is absent. unknown_critical: OID contents of the first critical
    extension that is none of keyUsage, subjectAltName, basicConstraints, certificatePolicies, extKeyUsage.
    """

    is_ca: bool | None
    key_usage: int | None
    purposes: int | None
    dns_names: list[bytes] | None
    ip_addresses: list[bytes] | None
    unknown_critical: bytes | None


ExtensionFields = tuple[bool | None, int | None, int | None, list[bytes] | None, list[bytes] | None, bytes | None]
"""`ExtensionScan` as a plain tuple."""


class Scanner(Protocol):
    """Scans certificates of a fixed set of issuers. Stateless and safe to share between threads."""

    def scan(self, der: bytes) -> "ScanFields":
        """Return the fields of `Scan`.

        Raises FormatError (bytes), Rejected (UNKNOWN_CA, NOT_MTC), ProofError (index or length of the proof), checked
        in this order: layout, issuer, algorithms, MTCProof, serial number, subtree, proof.
        Spec: Merkle Tree Certificates, "Verifying Certificate Signatures", steps 1-3 and 5-10.
        """

    def scan_many(self, ders: Sequence[bytes]) -> "list[ScanFields | Error]":
        """Scan each certificate; an error stands in the place of its certificate and is not raised."""


class KeyFilter(Protocol):
    """Says of a request key that it is certainly new, or that it may be known: a Bloom filter over fingerprints.

    Both kernels set the same bits. Filled by one caller, then asked by any number of threads. When it is as full as it
    was made for, about two in a hundred thousand new keys may be known.
    """

    def add_many(self, records: bytes) -> None:
        """Add the fingerprints of a row of records, `RECORD_BYTES` each."""

    def contains_many(self, fingerprints: bytes) -> list[int]:
        """Return the positions, in a row of fingerprints, of those that may have been added."""

    def encode(self) -> bytes:
        """Return the bits: a multiple of eight bytes, 23 bits for each key that the filter was made for."""


class Kernel(Protocol):
    """The hot path. Both implementations give the same values and the same errors for the same input."""

    @property
    def name(self) -> str:
        """`python` or `native`."""

    def hasher(self, name: str) -> Hasher:
        """Return the hasher called `sha256` or `sm3`. Raises UsageError for another name, or where it is missing."""

    def evaluate_inclusion(  # noqa: PLR0913 - the procedure's inputs in the draft
        self, hash_name: str, start: int, end: int, index: int, entry_hash: bytes, proof: bytes
    ) -> bytes:
        """`merkle.evaluate_inclusion` with the proof as one row."""

    def verify_consistency(  # noqa: PLR0913 - the procedure's inputs in the draft
        self, hash_name: str, start: int, end: int, tree_size: int, node_hash: bytes, root: bytes, proof: bytes
    ) -> None:
        """`merkle.verify_consistency` with the proof as one row."""

    def inclusion_proofs(self, hash_name: str, row: bytes, first: int = 0, last: int | None = None) -> list[bytes]:
        """Return the inclusion proofs, each one row, of leaves [first, last) in the tree over a row of leaf hashes."""

    def scanner(self, issuers: Mapping[bytes, IssuerFormat]) -> Scanner:
        """Return a scanner for the issuers, keyed by the DER of their distinguished names."""

    def scan_extensions(self, der: bytes, start: int, end: int) -> "ExtensionFields":
        """Return the fields of `ExtensionScan` for the Extensions contents der[start:end], framed by a scan before.

        Raises FormatError (BAD_EXTENSION, BAD_STRING, …) on a malformed value of an extension that is read.
        """

    def fingerprints(self, keys: Sequence[bytes]) -> bytes:
        """Return the fingerprints of request keys: the first `FINGERPRINT_BYTES` of each key's SHA-256, in a row."""

    def key_records(self, keys: Sequence[bytes], first: int) -> bytes:
        """Return the sorted records of request keys: a key's fingerprint, and its index in 6 bytes, big-endian.

        first: index of the first key; the others follow. An empty key counts and has no record. Raises UsageError when
        an index does not fit.
        """

    def sort_key_records(self, row: bytes) -> bytes:
        """Return a row of records sorted; quick where sorted rows stand one after the other."""

    def key_filter(self, capacity: int) -> KeyFilter:
        """Return an empty filter made for so many keys."""

    def parse_key_filter(self, data: bytes) -> KeyFilter:
        """Return the filter with these bits. Raises FormatError (BAD_LENGTH) when no filter has so many bytes."""
