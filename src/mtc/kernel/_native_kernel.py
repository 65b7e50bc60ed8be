"""The kernel in Rust, as seen from Python; the only file that imports the native module."""

from collections.abc import Mapping, Sequence

from mtc import merkle
from mtc.errors import Reason, UsageError
from mtc.kernel._keys import check_capacity, check_filter, check_first, check_row
from mtc.kernel._protocol import FINGERPRINT_BYTES, RECORD_BYTES, IssuerFormat, KeyFilter, Scanner, hash_size
from mtc.kernel._python import PythonKernel

try:
    from mtc.kernel import _native
except ImportError:
    _NATIVE_BUILT = False
else:
    _NATIVE_BUILT = True

_PYTHON = PythonKernel()
_MAX_NATIVE = 2**64 - 1
"""Largest interval end that the native kernel computes with; Python takes over above."""


def is_native_built() -> bool:
    """Tell whether the native module is there."""
    return _NATIVE_BUILT


class NativeHasher:
    """`merkle.Hasher` in Rust."""

    __slots__ = ("_fold", "digest", "empty", "leaf", "leaves", "name", "node", "size")

    def __init__(self, name: str) -> None:
        """Bind the native functions. Raises UsageError for an unknown name."""
        size = hash_size(name)
        native = _native.NativeHasher(name)
        self.name = name
        self.size = size
        self.digest = native.digest
        self.leaf = native.leaf
        self.node = native.node
        self.leaves = native.leaves
        self._fold = native.fold
        self.empty = native.digest(b"")

    def fold(self, row: bytes) -> bytes:
        """Hash a row of 2k nodes into the row of k nodes above."""
        if len(row) % (2 * self.size):
            raise UsageError(Reason.USAGE, f"a row of {len(row)} bytes does not hold pairs of {self.size}-byte hashes")
        return self._fold(row)


class NativeKeyFilter:
    """`KeyFilter` in Rust."""

    __slots__ = ("_native", "encode")

    def __init__(self, native: "_native.NativeKeyFilter") -> None:
        """Take the native filter."""
        self._native = native
        self.encode = native.encode

    def add_many(self, records: bytes) -> None:
        """Add the fingerprints of a row of records."""
        check_row(records, RECORD_BYTES)
        self._native.add_many(records)

    def contains_many(self, fingerprints: bytes) -> list[int]:
        """Return the positions of those that may have been added."""
        check_row(fingerprints, FINGERPRINT_BYTES)
        return self._native.contains_many(fingerprints)


class NativeKernel:
    """`Kernel` in Rust. Where a proof fails, the Python twin is asked once more, so that it finds the words."""

    name = "native"

    def __init__(self) -> None:
        """Bind the native functions."""
        self.scan_extensions = _native.scan_extensions

    def hasher(self, name: str) -> NativeHasher:
        """Return the hasher of that name."""
        return NativeHasher(name)

    def evaluate_inclusion(  # noqa: PLR0913 - the procedure's inputs in the draft
        self, hash_name: str, start: int, end: int, index: int, entry_hash: bytes, proof: bytes
    ) -> bytes:
        """`merkle.evaluate_inclusion` with the proof as one row."""
        size = hash_size(hash_name)
        if (
            merkle.Subtree.is_valid(start, end)
            and start <= index < end <= _MAX_NATIVE
            and len(entry_hash) == size
            and len(proof) % size == 0
            and len(proof) <= size * merkle.MAX_PROOF_HASHES
        ):
            value = _native.evaluate_inclusion(hash_name, index - start, end - start - 1, entry_hash, proof)
            if value is not None:
                return value
        return _PYTHON.evaluate_inclusion(hash_name, start, end, index, entry_hash, proof)

    def verify_consistency(  # noqa: PLR0913 - the procedure's inputs in the draft
        self, hash_name: str, start: int, end: int, tree_size: int, node_hash: bytes, root: bytes, proof: bytes
    ) -> None:
        """`merkle.verify_consistency` with the proof as one row."""
        size = hash_size(hash_name)
        if (
            merkle.Subtree.is_valid(start, end)
            and start < end <= tree_size <= _MAX_NATIVE
            and len(node_hash) == len(root) == size
            and len(proof) % size == 0
            and len(proof) <= size * merkle.MAX_PROOF_HASHES
            and _native.verify_consistency(hash_name, start, end, tree_size, node_hash, root, proof)
        ):
            return
        _PYTHON.verify_consistency(hash_name, start, end, tree_size, node_hash, root, proof)

    def inclusion_proofs(self, hash_name: str, row: bytes, first: int = 0, last: int | None = None) -> list[bytes]:
        """Return the inclusion proofs of leaves [first, last) in the tree over a row of leaf hashes."""
        count = len(row) // hash_size(hash_name)
        last = count if last is None else last
        if len(row) % hash_size(hash_name) or not 0 <= first <= last <= count:
            return _PYTHON.inclusion_proofs(hash_name, row, first, last)
        return _native.inclusion_proofs(hash_name, row, first, last)

    def scanner(self, issuers: Mapping[bytes, IssuerFormat]) -> Scanner:
        """Return a scanner for the issuers."""
        for form in issuers.values():
            hash_size(form.hash_name)
        return _native.NativeScanner({name: tuple(form) for name, form in issuers.items()})

    def fingerprints(self, keys: Sequence[bytes]) -> bytes:
        """Return the fingerprints of request keys, in a row."""
        return _native.fingerprints(keys)

    def key_records(self, keys: Sequence[bytes], first: int) -> bytes:
        """Return the sorted records of request keys with consecutive indices."""
        check_first(first, len(keys))
        return _native.key_records(keys, first)

    def sort_key_records(self, row: bytes) -> bytes:
        """Return a row of records sorted."""
        check_row(row, RECORD_BYTES)
        return _native.sort_key_records(row)

    def key_filter(self, capacity: int) -> KeyFilter:
        """Return an empty filter made for so many keys."""
        check_capacity(capacity)
        return NativeKeyFilter(_native.NativeKeyFilter.empty(capacity))

    def parse_key_filter(self, data: bytes) -> KeyFilter:
        """Return the filter with these bits."""
        check_filter(data)
        return NativeKeyFilter(_native.NativeKeyFilter(data))
