"""Which entries the key certifies: those of a known type with known extensions, and with the right counter.

Nearly all entries of a log begin with the same few bytes, so one comparison decides about them; only the others are
read field by field.

Spec: Merkle Tree Certificates, "Log Entries" and "Certification Authority Cosigners".
"""

from collections.abc import Sequence

from mtc.cert import MAX_ENTRY_BYTES, EntryType
from mtc.cert.entry import parse_entry_extensions
from mtc.errors import FormatError, Reason, Rejected
from mtc.log.machine import ACCUMULATED_COUNT, ACCUMULATED_ENTRY
from mtc.signer.rules import SignerRules
from mtc.wire import Reader


def check_entries(rules: SignerRules, start: int, entries: Sequence[bytes], count: int) -> int:
    """Refuse entries that must not be certified; return the number of accumulated entries behind them.

    start: index of the first. count: accumulated entries before it. Raises FormatError for bytes that are no entry,
    Rejected (BAD_ENTRY_TYPE, BAD_NUMBER) with the `index` of the first entry that is not certified.
    """
    if max(map(len, entries), default=0) > MAX_ENTRY_BYTES:
        index, entry = next((index, entry) for index, entry in enumerate(entries) if len(entry) > MAX_ENTRY_BYTES)
        raise FormatError(
            Reason.TOO_LARGE,
            f"entry {start + index} has {len(entry)} bytes, allowed are {MAX_ENTRY_BYTES}",
            index=start + index,
        )
    usual = _usual_heads(rules, count)
    for index, entry in enumerate(entries, start):
        if entry.startswith(usual):
            continue
        after = _check_entry(rules, index, entry, count)
        if after != count:
            count, usual = after, _usual_heads(rules, after)
    return count


def _usual_heads(rules: SignerRules, count: int) -> tuple[bytes, ...]:
    """Return what an entry may begin with to need no closer look; nothing when certificates are not known here."""
    if EntryType.TBS_CERT not in rules.known_entry_types:
        return ()
    counter = b""
    if rules.has_counter:
        counter = ACCUMULATED_COUNT.to_bytes(2, "big") + b"\0\6" + count.to_bytes(6, "big")
    return (len(counter).to_bytes(2, "big") + counter + int(EntryType.TBS_CERT).to_bytes(2, "big"),)


def _check_entry(rules: SignerRules, index: int, entry: bytes, count: int) -> int:
    """Read one entry up to its body; return the number of accumulated entries behind it."""
    reader = Reader(entry, f"entry {index}")
    extensions = parse_entry_extensions(reader.read_vector(2))
    kind = reader.read_uint(2)
    found: int | None = None
    for extension in extensions:
        if rules.has_counter and extension.type == ACCUMULATED_COUNT and len(extension.data) == 6:
            found = int.from_bytes(extension.data, "big")
        elif extension.type not in rules.known_extension_types:
            raise _unknown(index, f"extension type 0x{extension.type:04x}")
    is_accumulated = rules.has_counter and kind == ACCUMULATED_ENTRY
    if kind not in rules.known_entry_types and not is_accumulated:
        raise _unknown(index, f"entry type 0x{kind:04x}")
    if kind == EntryType.NULL and reader.remaining:
        raise FormatError(
            Reason.TRAILING_DATA, f"entry {index} is a null entry with a body of {reader.remaining} bytes", index=index
        )
    count += is_accumulated
    if rules.has_counter and found != count:
        raise Rejected(
            Reason.BAD_NUMBER, f"entry {index} carries counter {found} where {count} should be", index=index, got=found
        )
    return count


def _unknown(index: int, what: str) -> Rejected:
    """Make the error for an entry that must not be certified."""
    return Rejected(
        Reason.BAD_ENTRY_TYPE,
        f"entry {index} has {what}, which this signer does not know; signing would certify what nobody understood",
        index=index,
    )
