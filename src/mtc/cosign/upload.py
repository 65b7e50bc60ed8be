"""Uploading entries to a mirror: the head of a request, its entry packages, and the mirror's answer about its state.

The canonical sequence of packages for [start, end) follows the bundles of the log: package i covers the part of bundle
`start // 256 + i` that lies in the range. Each package is proven by itself against the tree of `end` entries, so what
is stored is right whoever sent it.

`UploadReader` takes the body in pieces as they arrive, and gives each package as soon as it is complete.

Spec: C2SP tlog-mirror, "add-entries".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mtc.errors import FormatError, Reason, UsageError
from mtc.merkle import Subtree
from mtc.note import MAX_CHECKPOINT_SIZE
from mtc.tiles import TILE_WIDTH
from mtc.wire import Writer, decode_base64, decode_decimal, encode_base64

MAX_PROOF_HASHES = 63
"""Most hashes of a package's proof."""
PACKAGES_PER_REQUEST = 32
"""How many packages a client puts into one request, as tlog-mirror recommends at most."""
MAX_TICKET_BYTES = 65535
"""Longest ticket: its length has two bytes."""

_MAX_INFO_BYTES = 64 + 2 * MAX_TICKET_BYTES
_HASH_BYTES = 32


@dataclass(frozen=True, slots=True)
class UploadHead:
    """What an upload says before its packages. ticket: the mirror's own words from an earlier answer, or empty.

    origin: of the log. start, end: entries [start, end); end is the size of a checkpoint that the mirror knows.
    Raises FormatError for bounds that are no interval.
    """

    origin: str
    start: int
    end: int
    ticket: bytes = b""

    def __post_init__(self) -> None:
        """Refuse bounds that are no interval."""
        if not 0 <= self.start <= self.end <= MAX_CHECKPOINT_SIZE:
            raise FormatError(Reason.BAD_NUMBER, f"an upload of [{self.start}, {self.end}) has no such entries")

    def encode(self) -> bytes:
        """Return the bytes before the packages."""
        writer = Writer().vector(self.origin.encode(), 2).uint(self.start, 8).uint(self.end, 8)
        return writer.vector(self.ticket, 2).encode()


@dataclass(frozen=True, slots=True)
class PackagePlace:
    """Where a package stands in the log. start, end: the entries that it carries.

    subtree: what its proof is about; it begins where the bundle does, so it may hold entries that the mirror has.
    """

    start: int
    end: int

    @property
    def subtree(self) -> Subtree:
        """The subtree that the proof is about."""
        return Subtree(self.start - self.start % TILE_WIDTH, self.end)

    @property
    def bundle(self) -> int:
        """Index of the entry bundle."""
        return self.start // TILE_WIDTH


def package_places(start: int, end: int) -> Iterator[PackagePlace]:
    """Return the canonical sequence of packages for the entries [start, end), lazily."""
    while start < end:
        after = min(start - start % TILE_WIDTH + TILE_WIDTH, end)
        yield PackagePlace(start, after)
        start = after


@dataclass(frozen=True, slots=True)
class Package:
    """The entries of one place, as they stand in a bundle, and their proof. Unproven.

    data: each entry behind its length in two bytes. bounds: the offsets in `data` where the entries' lengths begin, and
    its end.
    """

    place: PackagePlace
    data: bytes
    bounds: tuple[int, ...]
    proof: tuple[bytes, ...]

    @property
    def entries(self) -> list[bytes]:
        """The entries."""
        return [self.data[at + 2 : end] for at, end in zip(self.bounds, self.bounds[1:], strict=False)]


def encode_package(entries: bytes, proof: Sequence[bytes]) -> bytes:
    """Return a package. entries: each behind its length in two bytes. proof: at most 63 hashes of 32 bytes."""
    if len(proof) > MAX_PROOF_HASHES or any(len(value) != _HASH_BYTES for value in proof):
        raise UsageError(
            Reason.BAD_PROOF_LENGTH, f"a package's proof has at most {MAX_PROOF_HASHES} hashes of 32 bytes"
        )
    return b"".join((entries, bytes((len(proof),)), *proof))


class UploadReader:
    """Reads the body of an upload as it arrives. Never holds more than one package and one piece."""

    def __init__(self) -> None:
        """Start before the first byte."""
        self._held = bytearray()
        self._head: UploadHead | None = None
        self._places: Iterator[PackagePlace] = iter(())
        self._place: PackagePlace | None = None
        # How far the package at hand was looked through: the offsets of its entries.
        self._bounds = [0]
        self.fault: FormatError | None = None

    @property
    def head(self) -> UploadHead | None:
        """The head, once it has arrived."""
        return self._head

    @property
    def is_complete(self) -> bool:
        """True once the last package of the sequence was given and nothing stands behind it."""
        return self._head is not None and self._place is None and not self._held

    def receive(self, data: bytes) -> list[Package]:
        """Take the next bytes and return the packages that they complete.

        A fault behind them is kept in `fault`, so that they are not lost with it. Raises that FormatError when called
        again.
        """
        if self.fault is not None:
            raise self.fault
        self._held += data
        packages: list[Package] = []
        try:
            if self._head is not None or self._read_head():
                self._read_packages(packages)
        except FormatError as error:
            self.fault = error
        return packages

    def _read_packages(self, packages: list[Package]) -> None:
        """Add the packages that are whole."""
        while self._place is not None:
            package = self._read_package(self._place)
            if package is None:
                return
            packages.append(package)
            self._place = next(self._places, None)
        if self._held:
            raise FormatError(Reason.TRAILING_DATA, "the upload goes on behind its last package")

    def finish(self) -> UploadHead:
        """Say that the body has ended. Raises FormatError: the fault, or TRUNCATED in the head or in a package."""
        if self.fault is not None:
            raise self.fault
        if self._head is None or self._held:
            raise FormatError(
                Reason.TRUNCATED, "the upload ends in the middle of " + ("a package" if self._head else "its head")
            )
        return self._head

    def _read_head(self) -> bool:
        """Read the head if it is whole."""
        held = self._held
        if len(held) < 2:
            return False
        name_end = 2 + int.from_bytes(held[:2], "big")
        ticket_at = name_end + 18
        if len(held) < ticket_at:
            return False
        end = ticket_at + int.from_bytes(held[ticket_at - 2 : ticket_at], "big")
        if len(held) < end:
            return False
        try:
            origin = held[2:name_end].decode("utf-8")
        except UnicodeDecodeError:
            raise FormatError(Reason.BAD_NAME, "the log origin of the upload is not UTF-8") from None
        start = int.from_bytes(held[name_end : name_end + 8], "big")
        stop = int.from_bytes(held[name_end + 8 : name_end + 16], "big")
        self._head = UploadHead(origin, start, stop, bytes(held[ticket_at:end]))
        del held[:end]
        self._places = package_places(start, stop)
        self._place = next(self._places, None)
        return True

    def _read_package(self, place: PackagePlace) -> Package | None:
        """Read a package if it is whole."""
        held, bounds = self._held, self._bounds
        size, at, count = len(held), bounds[-1], place.end - place.start + 1
        while len(bounds) < count:
            if at + 2 > size:
                return None
            at += 2 + (held[at] << 8 | held[at + 1])
            if at > size:
                return None
            bounds.append(at)
        if at == size:
            return None
        hashes = held[at]
        if hashes > MAX_PROOF_HASHES:
            raise FormatError(
                Reason.BAD_PROOF_LENGTH, f"a package's proof has at most {MAX_PROOF_HASHES} hashes", got=hashes
            )
        end = at + 1 + hashes * _HASH_BYTES
        if end > size:
            return None
        proof = bytes(held[at + 1 : end])
        package = Package(
            place,
            bytes(held[:at]),
            tuple(bounds),
            tuple(proof[i : i + _HASH_BYTES] for i in range(0, len(proof), _HASH_BYTES)),
        )
        del held[:end]
        self._bounds = [0]
        return package


@dataclass(frozen=True, slots=True)
class MirrorInfo:
    """What a mirror answers with 202 and 409: where it stands, to go on from there.

    tree_size: of a checkpoint that it will take entries for. next_entry: the first entry it lacks. ticket: to be sent
    with the next upload.
    """

    tree_size: int
    next_entry: int
    ticket: bytes

    @staticmethod
    def parse(body: bytes) -> "MirrorInfo":
        """Read the body of an answer. Raises FormatError."""
        if len(body) > _MAX_INFO_BYTES:
            raise FormatError(Reason.TOO_LARGE, "a mirror's answer about its state is three short lines", got=len(body))
        try:
            lines = body.decode("ascii").split("\n")
        except UnicodeDecodeError:
            lines = []
        if len(lines) != 4 or lines[3]:
            raise FormatError(
                Reason.BAD_TEXT, "a mirror's answer about its state has three lines: size, next entry, ticket"
            )
        return MirrorInfo(
            decode_decimal(lines[0], MAX_CHECKPOINT_SIZE, "the mirror's pending size"),
            decode_decimal(lines[1], MAX_CHECKPOINT_SIZE, "the mirror's next entry"),
            decode_base64(lines[2], "the mirror's ticket"),
        )

    def encode(self) -> bytes:
        """Return the body of an answer."""
        return f"{self.tree_size}\n{self.next_entry}\n{encode_base64(self.ticket)}\n".encode()
