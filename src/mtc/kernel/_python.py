"""The kernel in Python on hashlib: the reference, and what runs where no native kernel was built."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

from mtc import merkle
from mtc.errors import Error, FormatError, Reason, UsageError
from mtc.kernel._faults import fault
from mtc.kernel._keys import PythonKeyFilter, check_capacity, check_filter, check_first, check_row, filter_bytes
from mtc.kernel._layout import entry_size, frame_extension, parse_layout, parse_proof_layout, tlv
from mtc.kernel._protocol import (
    FINGERPRINT_BYTES,
    RECORD_BYTES,
    ExtensionFields,
    IssuerFormat,
    KeyFilter,
    ScanFields,
    Scanner,
    hash_size,
)


class PythonHasher:
    """`merkle.Hasher` on hashlib."""

    __slots__ = ("_new", "empty", "name", "size")

    def __init__(self, name: str) -> None:
        """Take the hash from the running OpenSSL. Raises UsageError where it is unknown or missing."""
        self.size = hash_size(name)
        try:
            self._new: Callable[[bytes], hashlib._Hash] = hashlib.sha256 if name == "sha256" else _named(name)
        except ValueError:
            raise UsageError(
                Reason.UNSUPPORTED, f"this Python's OpenSSL has no {name}; the native kernel has it: install with Rust"
            ) from None
        self.name = name
        self.empty = self._new(b"").digest()

    def digest(self, data: bytes) -> bytes:
        """HASH(data)."""
        return self._new(data).digest()

    def leaf(self, data: bytes) -> bytes:
        """HASH(0x00 || data)."""
        return self._new(b"\x00" + data).digest()

    def node(self, left: bytes, right: bytes) -> bytes:
        """HASH(0x01 || left || right)."""
        return self._new(b"\x01" + left + right).digest()

    def leaves(self, items: Iterable[bytes]) -> bytes:
        """Return the row of leaf hashes."""
        new = self._new
        return b"".join([new(b"\x00" + item).digest() for item in items])

    def fold(self, row: bytes) -> bytes:
        """Hash a row of 2k nodes into the row of k nodes above."""
        pair = 2 * self.size
        if len(row) % pair:
            raise UsageError(Reason.USAGE, f"a row of {len(row)} bytes does not hold pairs of {self.size}-byte hashes")
        new = self._new
        return b"".join([new(b"\x01" + row[at : at + pair]).digest() for at in range(0, len(row), pair)])


def _named(name: str) -> "Callable[[bytes], hashlib._Hash]":
    """Return a constructor of the hash that hashlib knows by name. Raises ValueError when it does not."""
    hashlib.new(name)
    return lambda data: hashlib.new(name, data)


class PythonScanner:
    """`Scanner` on the strict parser."""

    def __init__(self, issuers: Mapping[bytes, IssuerFormat]) -> None:
        """Prepare one hasher per hash in use."""
        self._issuers = {name: (form, PythonHasher(form.hash_name)) for name, form in issuers.items()}

    def scan(self, der: bytes) -> ScanFields:
        """Return the fields of `Scan`."""
        layout = parse_layout(der)
        known = self._issuers.get(der[layout.issuer_start : layout.issuer_end])
        if known is None:
            raise fault(Reason.UNKNOWN_CA, layout.issuer_start)
        form, hasher = known
        algorithm = der[layout.signature_start : layout.signature_end]
        if algorithm != form.signature_algorithm:
            raise fault(Reason.NOT_MTC, layout.signature_start)
        if der[layout.outer_signature_start : layout.outer_signature_end] != algorithm:
            raise fault(Reason.ALGORITHM_MISMATCH, layout.outer_signature_start)
        value = layout.value_start
        if value == layout.value_end or der[value]:
            raise fault(Reason.BAD_BIT_STRING, value)
        proof = parse_proof_layout(der, value + 1, layout.value_end, hasher.size, form.signatures_width, form.id_limit)
        serial = int.from_bytes(der[layout.serial_start : layout.serial_end], "big", signed=True)
        if not 0 <= serial < 1 << 64:
            raise fault(Reason.SERIAL_OUT_OF_RANGE, layout.serial_start)
        if serial < 1 << 48:
            raise fault(Reason.LOG_NUMBER_ZERO, layout.serial_start)
        index = serial & 0xFFFF_FFFF_FFFF
        if not merkle.Subtree.is_valid(proof.start, proof.end):
            raise fault(Reason.BAD_SUBTREE, proof.extensions_end)
        if not proof.start <= index < proof.end:
            raise fault(Reason.INDEX_NOT_IN_SUBTREE, proof.extensions_end)
        if entry_size(layout, proof.extensions_end - proof.extensions_start, hasher.size) > form.entry_limit:
            raise fault(Reason.TOO_LARGE, layout.fields_start)
        entry_hash = hasher.leaf(
            b"".join(
                (
                    der[proof.extensions_start : proof.extensions_end],
                    b"\x00\x01",
                    der[layout.fields_start : layout.version_end],
                    der[layout.issuer_start : layout.spki_start],
                    der[layout.spki_algorithm_start : layout.spki_algorithm_end],
                    bytes((0x04, hasher.size)),
                    hasher.digest(der[layout.spki_start : layout.spki_end]),
                    der[layout.spki_end : layout.tbs_end],
                )
            )
        )
        root = _evaluate(
            hasher,
            index - proof.start,
            proof.end - proof.start - 1,
            entry_hash,
            der,
            proof.inclusion_start,
            proof.inclusion_end,
        )
        return (
            form.owner,
            serial,
            layout.not_before,
            layout.not_after,
            proof.start,
            proof.end,
            root,
            entry_hash,
            layout.extensions_start,
            layout.extensions_end,
            proof.signatures_start,
        )

    def scan_many(self, ders: Sequence[bytes]) -> "list[ScanFields | Error]":
        """Scan each certificate; an error stands in the place of its certificate."""
        results: list[ScanFields | Error] = []
        for der in ders:
            try:
                results.append(self.scan(der))
            except Error as error:
                results.append(error)
        return results


def _split_proof(proof: bytes, size: int) -> list[bytes]:
    """Cut a proof into hashes. Raises FormatError (BAD_PROOF_LENGTH)."""
    if len(proof) % size:
        raise FormatError(
            Reason.BAD_PROOF_LENGTH, f"a proof of {len(proof)} bytes does not hold whole hashes of {size} bytes"
        )
    return merkle.split_row(proof, size)


def _evaluate(  # noqa: PLR0913 - a proof inside a larger buffer
    hasher: PythonHasher, fn: int, sn: int, value: bytes, data: bytes, at: int, end: int
) -> bytes:
    """Evaluate the proof data[at:end] for leaf `fn` of a tree whose last leaf is `sn`."""
    size, new = hasher.size, hasher._new  # noqa: SLF001 - this file's own class; nobody else needs the bare hash
    begin = at
    while at < end:
        if sn == 0:
            raise fault(Reason.PROOF_TOO_LONG, begin)
        if fn & 1 or fn == sn:
            value = new(b"\x01" + data[at : at + size] + value).digest()
            while not fn & 1:
                fn >>= 1
                sn >>= 1
        else:
            value = new(b"\x01" + value + data[at : at + size]).digest()
        fn >>= 1
        sn >>= 1
        at += size
    if sn:
        raise fault(Reason.PROOF_TOO_SHORT, begin)
    return value


# OID contents of the extensions that a TLS client reads.
KEY_USAGE = bytes.fromhex("551d0f")
SUBJECT_ALT_NAME = bytes.fromhex("551d11")
BASIC_CONSTRAINTS = bytes.fromhex("551d13")
CERTIFICATE_POLICIES = bytes.fromhex("551d20")
EXTENDED_KEY_USAGE = bytes.fromhex("551d25")
_PURPOSES = {
    bytes.fromhex("2b06010505070301"): 1,
    bytes.fromhex("2b06010505070302"): 2,
    bytes.fromhex("551d2500"): 4,
}


def _scan_basic_constraints(data: bytes, at: int, end: int) -> bool:
    """Return cA of a BasicConstraints value."""
    inner, stop = tlv(data, at, end, 0x30)
    if stop != end:
        raise fault(Reason.TRAILING_DATA, stop)
    is_ca = False
    if inner < stop and data[inner] == 0x01:
        start, after = tlv(data, inner, stop, 0x01)
        if after - start != 1 or data[start] != 0xFF:
            raise fault(Reason.BAD_BOOLEAN, inner)
        is_ca, inner = True, after
    if inner < stop and is_ca:
        start, after = tlv(data, inner, stop, 0x02)
        if start == after or data[start] >= 0x80 or (after - start > 1 and data[start] == 0 and data[start + 1] < 0x80):
            raise fault(Reason.BAD_INTEGER, inner)
        inner = after
    if inner != stop:
        raise fault(Reason.TRAILING_DATA, inner)
    return is_ca


def _scan_key_usage(data: bytes, at: int, end: int) -> int:
    """Return the bits of a KeyUsage value, bit 0 (digitalSignature) as 1."""
    start, stop = tlv(data, at, end, 0x03)
    if stop != end:
        raise fault(Reason.TRAILING_DATA, stop)
    count = stop - start
    if count not in (2, 3) or data[start] > 7 or data[stop - 1] & (1 << data[start]) - 1:
        raise fault(Reason.BAD_BIT_STRING, at)
    bits = 0
    for number in range(8 * (count - 1)):
        if data[start + 1 + number // 8] & 0x80 >> number % 8:
            bits |= 1 << number
    return bits


def _scan_purposes(data: bytes, at: int, end: int) -> int:
    """Return the flags of an ExtKeyUsageSyntax value."""
    inner, stop = tlv(data, at, end, 0x30)
    if stop != end:
        raise fault(Reason.TRAILING_DATA, stop)
    if inner == stop:
        raise fault(Reason.BAD_EXTENSION, at)
    flags = 0
    while inner < stop:
        start, after = tlv(data, inner, stop, 0x06)
        if start == after:
            raise fault(Reason.BAD_OID, inner)
        flags |= _PURPOSES.get(data[start:after], 8)
        inner = after
    return flags


def _scan_alt_names(data: bytes, at: int, end: int) -> tuple[list[bytes], list[bytes]]:
    """Return the DNS names and IP addresses of a GeneralNames value; other names are stepped over."""
    inner, stop = tlv(data, at, end, 0x30)
    if stop != end:
        raise fault(Reason.TRAILING_DATA, stop)
    if inner == stop:
        raise fault(Reason.BAD_EXTENSION, at)
    dns_names, ip_addresses = [], []
    while inner < stop:
        tag = data[inner]
        start, after = tlv(data, inner, stop, tag)
        value = data[start:after]
        if tag == 0x82:
            if not value.isascii():
                raise fault(Reason.BAD_STRING, inner)
            dns_names.append(value)
        elif tag == 0x87:
            if after - start not in (4, 16):
                raise fault(Reason.BAD_EXTENSION, inner)
            ip_addresses.append(value)
        elif tag not in (0xA0, 0x81, 0xA3, 0xA4, 0xA5, 0x86, 0x88):
            raise fault(Reason.BAD_TAG, inner)
        inner = after
    return dns_names, ip_addresses


class PythonKernel:
    """`Kernel` without native code."""

    name = "python"

    def hasher(self, name: str) -> PythonHasher:
        """Return the hasher of that name."""
        return PythonHasher(name)

    def evaluate_inclusion(  # noqa: PLR0913 - the procedure's inputs in the draft
        self, hash_name: str, start: int, end: int, index: int, entry_hash: bytes, proof: bytes
    ) -> bytes:
        """`merkle.evaluate_inclusion` with the proof as one row."""
        hasher = PythonHasher(hash_name)
        hashes = _split_proof(proof, hasher.size)
        return merkle.evaluate_inclusion(hasher, merkle.Subtree(start, end), index, entry_hash, hashes)

    def verify_consistency(  # noqa: PLR0913 - the procedure's inputs in the draft
        self, hash_name: str, start: int, end: int, tree_size: int, node_hash: bytes, root: bytes, proof: bytes
    ) -> None:
        """`merkle.verify_consistency` with the proof as one row."""
        hasher = PythonHasher(hash_name)
        hashes = _split_proof(proof, hasher.size)
        merkle.verify_consistency(hasher, merkle.Subtree(start, end), tree_size, node_hash, root, hashes)

    def inclusion_proofs(self, hash_name: str, row: bytes, first: int = 0, last: int | None = None) -> list[bytes]:
        """Return the inclusion proofs of leaves [first, last) in the tree over a row of leaf hashes."""
        hasher = PythonHasher(hash_name)
        size = hasher.size
        levels = [merkle.split_row(row, size)]
        count = len(levels[0])
        last = count if last is None else last
        if not 0 <= first <= last <= count:
            raise UsageError(Reason.USAGE, f"leaves [{first}, {last}) are not all among {count}")
        while len(levels[-1]) > 1:
            below = levels[-1]
            even = len(below) & ~1
            levels.append(merkle.split_row(hasher.fold(b"".join(below[:even])), size) + below[even:])
        # A lone last node rises unchanged: it has no sibling on its level, and contributes none to its proof.
        return [
            b"".join(
                [
                    level[index >> depth ^ 1]
                    for depth, level in enumerate(levels[:-1])
                    if index >> depth ^ 1 < len(level)
                ]
            )
            for index in range(first, last)
        ]

    def scanner(self, issuers: Mapping[bytes, IssuerFormat]) -> Scanner:
        """Return a scanner for the issuers."""
        return PythonScanner(issuers)

    def scan_extensions(self, der: bytes, start: int, end: int) -> ExtensionFields:
        """Return the fields of `ExtensionScan`."""
        is_ca: bool | None = None
        key_usage: int | None = None
        purposes: int | None = None
        names: tuple[list[bytes] | None, list[bytes] | None] = (None, None)
        unknown: bytes | None = None
        at = start
        while at < end:
            oid_start, oid_end, critical, value, at = frame_extension(der, at, end)
            oid = der[oid_start:oid_end]
            if oid == SUBJECT_ALT_NAME:
                names = _scan_alt_names(der, value, at)
            elif oid == KEY_USAGE:
                key_usage = _scan_key_usage(der, value, at)
            elif oid == EXTENDED_KEY_USAGE:
                purposes = _scan_purposes(der, value, at)
            elif oid == BASIC_CONSTRAINTS:
                is_ca = _scan_basic_constraints(der, value, at)
            elif critical and oid != CERTIFICATE_POLICIES and unknown is None:
                unknown = oid
        return is_ca, key_usage, purposes, *names, unknown

    def fingerprints(self, keys: Sequence[bytes]) -> bytes:
        """Return the fingerprints of request keys, in a row."""
        new = hashlib.sha256
        return b"".join([new(key).digest()[:FINGERPRINT_BYTES] for key in keys])

    def key_records(self, keys: Sequence[bytes], first: int) -> bytes:
        """Return the sorted records of request keys with consecutive indices."""
        check_first(first, len(keys))
        new = hashlib.sha256
        records = [
            new(key).digest()[:FINGERPRINT_BYTES] + index.to_bytes(RECORD_BYTES - FINGERPRINT_BYTES, "big")
            for index, key in enumerate(keys, first)
            if key
        ]
        records.sort()
        return b"".join(records)

    def sort_key_records(self, row: bytes) -> bytes:
        """Return a row of records sorted."""
        check_row(row, RECORD_BYTES)
        return b"".join(sorted(merkle.split_row(row, RECORD_BYTES)))

    def key_filter(self, capacity: int) -> KeyFilter:
        """Return an empty filter made for so many keys."""
        check_capacity(capacity)
        return PythonKeyFilter(bytes(filter_bytes(capacity)))

    def parse_key_filter(self, data: bytes) -> KeyFilter:
        """Return the filter with these bits."""
        check_filter(data)
        return PythonKeyFilter(data)
