"""Where sealed rounds and their request keys lie: pages, tables of keys, runs, and the manifest that names them all.

A page holds many rounds without their keys, a table of keys the keys of the same entries. A run is the sorted index
over the keys of neighbouring pages, cut into buckets by the first bits of the fingerprints.
"""

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

from mtc.errors import FormatError, Reason
from mtc.log.ledger.formats import SIZE_DIGITS, SignedRound, encode_keys, ledger_prefix
from mtc.merkle import MAX_TREE_SIZE
from mtc.wire import Reader, Writer

MAX_BUCKET_BITS = 16
"""Most bits that choose a bucket of a run: as many as the beginning of a fingerprint in the buckets' names."""

_FEW_CANDIDATES = 64
"""So many keys are cut out of a table one by one; for more, all keys are."""

_PAGE_VERSION = 1
_KEYS_VERSION = 1
_MANIFEST_VERSION = 1


class Page:
    """Rounds in order, each read only when it is asked for."""

    __slots__ = ("_data", "_offsets", "_sizes")

    def __init__(self, data: bytes, sizes: Sequence[int], offsets: Sequence[int]) -> None:
        """Use `parse`. sizes: after each round. offsets: of the rounds in `data`, and the end of the last one."""
        self._data = data
        self._sizes = sizes
        self._offsets = offsets

    @staticmethod
    def encode(rounds: Sequence[SignedRound]) -> bytes:
        """Return the bytes of the page that holds these rounds."""
        bodies = [round_.encode(has_keys=False) for round_ in rounds]
        writer = Writer().uint(_PAGE_VERSION, 1).uint(len(rounds), 4)
        for round_, body in zip(rounds, bodies, strict=True):
            writer.uint(round_.new_size, 6).uint(len(body), 4)
        return writer.bytes(b"".join(bodies)).encode()

    @staticmethod
    def parse(data: bytes) -> "Page":
        """Read a page, which must fill `data`. Raises FormatError."""
        reader = Reader(data, "the ledger's page")
        _check_version(reader.read_uint(1), _PAGE_VERSION, "the ledger's page")
        count = reader.read_uint(4)
        directory = Reader(reader.read_bytes(10 * count), "the directory of the ledger's page")
        sizes, lengths = [], []
        for _ in range(count):
            sizes.append(directory.read_uint(6))
            lengths.append(directory.read_uint(4))
        offsets = list(accumulate(lengths, initial=reader.offset))
        reader.read_bytes(sum(lengths))
        reader.finish()
        if any(before >= after for before, after in pairwise(sizes)):
            raise FormatError(Reason.BAD_ORDER, "the rounds of the ledger's page do not grow")
        return Page(data, sizes, offsets)

    def round_of(self, index: int) -> SignedRound | None:
        """Return the round that holds entry `index`, without its keys; None when it lies behind the page."""
        place = bisect_right(self._sizes, index)
        return self._round(place) if place < len(self._sizes) else None

    def rounds(self) -> list[SignedRound]:
        """Return all rounds in order, without their keys. Raises FormatError."""
        return [self._round(place) for place in range(len(self._sizes))]

    def _round(self, place: int) -> SignedRound:
        """Read one round."""
        round_ = SignedRound.parse(self._data[self._offsets[place] : self._offsets[place + 1]])
        if round_.new_size != self._sizes[place]:
            raise FormatError(Reason.BAD_NUMBER, f"a page of the ledger has another round at {self._sizes[place]}")
        return round_


class KeyTable:
    """The request keys of the entries [start, end) of a page."""

    __slots__ = ("_at", "_data", "_lengths", "start")

    def __init__(self, data: bytes, start: int, lengths: bytes, at: int) -> None:
        """Use `parse`. at: offset of the first key in `data`."""
        self._data = data
        self._lengths = lengths
        self._at = at
        self.start = start

    @staticmethod
    def encode(start: int, keys: list[bytes]) -> bytes:
        """Return the bytes of a table of the keys from entry `start` on, empty ones for entries without."""
        return Writer().uint(_KEYS_VERSION, 1).uint(start, 6).bytes(encode_keys(keys)).encode()

    @staticmethod
    def parse(data: bytes) -> "KeyTable":
        """Read a table, which must fill `data`. Raises FormatError."""
        reader = Reader(data, "the ledger's table of keys")
        _check_version(reader.read_uint(1), _KEYS_VERSION, "the ledger's table of keys")
        start = reader.read_uint(6)
        lengths = reader.read_bytes(reader.read_uint(4))
        at = reader.offset
        reader.read_bytes(sum(lengths))
        reader.finish()
        return KeyTable(data, start, lengths, at)

    def key_at(self, index: int) -> bytes:
        """Return the key of entry `index`, empty when it has none here."""
        place = index - self.start
        if not 0 <= place < len(self._lengths):
            return b""
        at = self._at + sum(self._lengths[:place])
        return self._data[at : at + self._lengths[place]]

    def matches(self, candidates: Sequence[tuple[bytes, int]]) -> dict[bytes, int]:
        """Return those request keys, each with an index, that are the keys of their entries."""
        if len(candidates) < _FEW_CANDIDATES:
            return {key: index for key, index in candidates if self.key_at(index) == key}
        keys = self.keys_of(self.start, self.start + len(self._lengths))
        return {
            key: index
            for key, index in candidates
            if 0 <= index - self.start < len(keys) and keys[index - self.start] == key
        }

    def keys_of(self, start: int, end: int) -> list[bytes]:
        """Return the keys of entries [start, end) of the page, empty ones for entries without."""
        first, last = start - self.start, end - self.start
        at = self._at + sum(self._lengths[:first])
        ends = accumulate(self._lengths[first:last], initial=at)
        return [self._data[before:after] for before, after in pairwise(ends)]


@dataclass(frozen=True, slots=True)
class Run:
    """The sorted index over the request keys of entries [start, end).

    level: how often its keys were merged. count: records. bucket_bits: it has 2^bucket_bits buckets.
    """

    start: int
    end: int
    level: int
    count: int
    bucket_bits: int

    def bucket_key(self, log_number: int, bucket: int) -> str:
        """Return the key of a bucket."""
        return f"{self._prefix(log_number)}{bucket:04x}"

    def filter_key(self, log_number: int) -> str:
        """Return the key of the filter."""
        return f"{self._prefix(log_number)}filter"

    def keys(self, log_number: int) -> list[str]:
        """Return the keys of everything that belongs to the run."""
        buckets = [self.bucket_key(log_number, bucket) for bucket in range(1 << self.bucket_bits)]
        return [*buckets, self.filter_key(log_number)]

    def _prefix(self, log_number: int) -> str:
        # With the number of buckets, so that a run that is cut otherwise never mixes with this one.
        return f"{ledger_prefix(log_number)}run/{_interval(self.start, self.end)}-{self.bucket_bits}-"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What of a ledger is sealed. Each step of sealing writes the next one; the highest generation is true.

    generation: 0 for the empty ledger, of which nothing is stored. start: first entry that the ledger knows.
    page_ends: in order; the first page begins at `start`. runs: oldest first. keys_from: request keys of entries below
    it are forgotten. dead_runs, dead_from: what this generation no longer needs, to be discarded: runs, and the tables
    of keys from entry `dead_from` up to `keys_from`.
    """

    generation: int = 0
    start: int = 0
    page_ends: "array[int]" = field(default_factory=lambda: array("Q"))
    runs: tuple[Run, ...] = ()
    keys_from: int = 0
    dead_runs: tuple[Run, ...] = ()
    dead_from: int = 0

    def __post_init__(self) -> None:
        """Refuse a manifest that contradicts itself."""
        sizes = [self.start, *self.page_ends]
        if sizes[-1] > MAX_TREE_SIZE or any(before >= after for before, after in pairwise(sizes)):
            raise FormatError(Reason.BAD_ORDER, "the pages of the ledger do not grow")
        if not self.start <= self.dead_from <= self.keys_from <= self.end:
            raise FormatError(Reason.BAD_NUMBER, "the ledger forgets keys that it does not have")
        at = self.start
        for run in self.runs:
            if not at <= run.start < run.end <= self.end:
                raise FormatError(Reason.BAD_ORDER, "the runs of the ledger overlap or lie outside of it")
            at = run.end

    @property
    def end(self) -> int:
        """First entry that is not sealed."""
        return self.page_ends[-1] if self.page_ends else self.start

    def page_of(self, index: int) -> tuple[int, int] | None:
        """Return [start, end) of the page that holds entry `index`, None when none does."""
        if not self.start <= index < self.end:
            return None
        place = bisect_right(self.page_ends, index)
        return (self.page_ends[place - 1] if place else self.start), self.page_ends[place]

    def pages(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return [start, end) of the pages that lie wholly in [start, end)."""
        first = bisect_right(self.page_ends, start)
        found = []
        for place in range(first, len(self.page_ends)):
            page = (self.page_ends[place - 1] if place else self.start), self.page_ends[place]
            if page[1] > end:
                break
            if page[0] >= start:
                found.append(page)
        return found

    def encode(self) -> bytes:
        """Return the manifest's bytes."""
        writer = Writer().uint(_MANIFEST_VERSION, 1).uint(self.generation, 8)
        writer.uint(self.start, 6).uint(self.keys_from, 6).uint(self.dead_from, 6)
        writer.uint(len(self.page_ends), 4).bytes(b"".join([end.to_bytes(6, "big") for end in self.page_ends]))
        for runs in (self.runs, self.dead_runs):
            writer.uint(len(runs), 2)
            for run in runs:
                writer.uint(run.start, 6).uint(run.end, 6).uint(run.level, 1)
                writer.uint(run.count, 6).uint(run.bucket_bits, 1)
        return writer.encode()

    @staticmethod
    def parse(data: bytes) -> "Manifest":
        """Read a manifest, which must fill `data`. Raises FormatError."""
        reader = Reader(data, "the ledger's manifest")
        _check_version(reader.read_uint(1), _MANIFEST_VERSION, "the ledger's manifest")
        generation = reader.read_uint(8)
        start, keys_from, dead_from = reader.read_uint(6), reader.read_uint(6), reader.read_uint(6)
        row = reader.read_bytes(6 * reader.read_uint(4))
        ends = array("Q", [int.from_bytes(row[at : at + 6], "big") for at in range(0, len(row), 6)])
        runs, dead_runs = _read_runs(reader), _read_runs(reader)
        reader.finish()
        return Manifest(generation, start, ends, runs, keys_from, dead_runs, dead_from)


def parse_interval(key: str) -> tuple[int, int]:
    """Return [start, end) of the key of a page or a table of keys. Raises FormatError."""
    start, _, end = key.rpartition("/")[2].partition("-")
    if not (start.isdecimal() and end.isdecimal()) or not int(start) < int(end) <= MAX_TREE_SIZE:
        raise FormatError(Reason.BAD_NAME, f"{key} is no object of a ledger", key=key)
    return int(start), int(end)


def manifest_prefix(log_number: int) -> str:
    """Return what the keys of a log's manifests begin with."""
    return f"{ledger_prefix(log_number)}manifest/"


def manifest_key(log_number: int, generation: int) -> str:
    """Return the key of a manifest."""
    return f"{manifest_prefix(log_number)}{generation:0{SIZE_DIGITS}d}"


def page_key(log_number: int, start: int, end: int) -> str:
    """Return the key of the page of entries [start, end)."""
    return f"{ledger_prefix(log_number)}page/{_interval(start, end)}"


def table_key(log_number: int, start: int, end: int) -> str:
    """Return the key of the table of keys of entries [start, end)."""
    return f"{ledger_prefix(log_number)}keys/{_interval(start, end)}"


def _interval(start: int, end: int) -> str:
    """Write [start, end) so that names sort as intervals do."""
    return f"{start:0{SIZE_DIGITS}d}-{end:0{SIZE_DIGITS}d}"


def _read_runs(reader: Reader) -> tuple[Run, ...]:
    """Read a list of runs."""
    runs = tuple(
        Run(reader.read_uint(6), reader.read_uint(6), reader.read_uint(1), reader.read_uint(6), reader.read_uint(1))
        for _ in range(reader.read_uint(2))
    )
    if any(run.bucket_bits > MAX_BUCKET_BITS for run in runs):
        raise FormatError(Reason.BAD_NUMBER, f"a run of the ledger has at most 2^{MAX_BUCKET_BITS} buckets")
    return runs


def _check_version(got: int, expected: int, what: str) -> None:
    """Raise FormatError for a version that this program did not write."""
    if got != expected:
        raise FormatError(
            Reason.BAD_VERSION,
            f"{what} has version {got}, this program knows {expected}; use the program that wrote it",
        )
