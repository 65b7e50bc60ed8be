"""What every entry of a log must be, one after the other.

Spec: Merkle Tree Certificates, "Log Entries".
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mtc.cert import EntryType, LogEntry, TBSCertificateLogEntry
from mtc.cert.entry import parse_entry_extensions
from mtc.errors import FormatError
from mtc.log.fsck.findings import Findings
from mtc.log.machine import ACCUMULATED_COUNT, ACCUMULATED_ENTRY, accumulated_count
from mtc.wire import Reader, posix_seconds

_MAX_ENDS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryRules:
    """What entries must be. issuer: the CA's name, DER. hash_size: bytes of a key's hash.

    has_counter: entries carry the accumulated counter; None when nobody said, then from the first one on that does.
    """

    issuer: bytes
    hash_size: int
    has_counter: bool | None = None


@dataclass(frozen=True, slots=True)
class SizeFacts:
    """What follows from the first entries of a log, as many as a tree size says.

    latest_not_after: POSIX seconds, 0 without a certificate. accumulated_count: accumulated entries.
    """

    latest_not_after: int = 0
    accumulated_count: int = 0


class EntryWatch:
    """Looks at entries in order and remembers what follows from them at certain sizes.

    facts: by size; those sizes that were asked for and reached. The counter's rules are R1 to R5: it counts accumulated
    entries, inclusively; once an entry carries it, all do; it has six bytes; each log begins again at 0.
    """

    def __init__(self, rules: EntryRules, findings: Findings, sizes: Iterable[int] = (), start: int = 0) -> None:
        """Begin at entry `start`; above 0, what lies before is pruned, and the first entry's counter is believed."""
        self._rules = rules
        self._findings = findings
        self._sizes = sorted({size for size in sizes if size >= start}, reverse=True)
        self._index = start
        self._has_counter = bool(rules.has_counter)
        # After pruning nobody knows how many accumulated entries there were.
        self._is_count_known = not start
        self._latest = 0
        self._count = 0
        # The end of validities seen lately, DER: many entries have the same one.
        self._ends: dict[bytes, int] = {}
        self.facts: dict[int, SizeFacts] = {}
        self._note_sizes()

    @property
    def now(self) -> SizeFacts:
        """What follows from all entries so far."""
        return SizeFacts(self._latest, self._count)

    def look(self, path: str, entries: Sequence[bytes], *, skip: int = 0) -> None:
        """Look at the entries of a bundle, all but the first `skip`, which were looked at before."""
        at = 0
        for position, data in enumerate(entries):
            if position >= skip:
                try:
                    self._look_at(path, data)
                except FormatError as error:
                    self._findings.add(path, error.message, offset=at + 2, index=self._index)
                self._index += 1
                self._note_sizes()
            at += 2 + len(data)

    def pass_over(self, count: int) -> None:
        """Go on behind entries that cannot be read; a finding says so already."""
        self._index += count
        self._is_count_known = False
        self._note_sizes()

    def _note_sizes(self) -> None:
        """Remember what was asked for."""
        while self._sizes and self._sizes[-1] <= self._index:
            self.facts[self._sizes.pop()] = self.now

    def _look_at(self, path: str, data: bytes) -> None:
        """Look at one entry. Raises FormatError."""
        # Read field by field, and not with `LogEntry.parse`, so that a certificate is read once.
        reader = Reader(data, "the log entry")
        extensions = parse_entry_extensions(reader.read_vector(2))
        kind = reader.read_uint(2)
        body = reader.read_rest()
        self._check_counter(path, LogEntry(kind, b"", extensions))
        for extension in extensions:
            if extension.type != ACCUMULATED_COUNT or self._rules.has_counter is False:
                self._add(path, f"has an extension of type 0x{extension.type:04x}, which is not known")
        if kind == EntryType.TBS_CERT:
            self._check_certificate(path, TBSCertificateLogEntry.parse(body))
        elif kind == EntryType.NULL:
            if body:
                self._add(path, f"is a null entry with a body of {len(body)} bytes")
        elif kind != ACCUMULATED_ENTRY or self._rules.has_counter is False:
            self._add(path, f"has type 0x{kind:04x}, which is not known")

    def _check_certificate(self, path: str, entry: TBSCertificateLogEntry) -> None:
        """Check what a CA says in every entry."""
        if entry.issuer != self._rules.issuer:
            self._add(path, "is issued by another CA")
        if len(entry.spki_hash) != self._rules.hash_size:
            self._add(path, f"has a key hash of {len(entry.spki_hash)} bytes, not {self._rules.hash_size}")
        end = self._ends.get(entry.validity)
        if end is None:
            if len(self._ends) >= _MAX_ENDS:
                self._ends.clear()
            end = self._ends[entry.validity] = posix_seconds(entry.not_after)
        self._latest = max(self._latest, end)

    def _check_counter(self, path: str, entry: LogEntry) -> None:
        """Check the accumulated counter, and go on from what the entry says, so that one fault is found once."""
        found = accumulated_count(entry)
        is_accumulated = entry.type == ACCUMULATED_ENTRY
        if found is None:
            if self._has_counter or is_accumulated:
                self._add(path, "carries no accumulated counter")
            self._count += is_accumulated
            return
        expected = self._count + is_accumulated
        if found != expected and self._is_count_known:
            self._add(path, f"carries counter {found} where {expected} should be")
        self._has_counter, self._is_count_known, self._count = True, True, found

    def _add(self, path: str, what: str) -> None:
        """Keep a finding about the entry that is looked at."""
        self._findings.add(path, what, index=self._index)
