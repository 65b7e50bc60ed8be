"""Serial numbers: which log, which entry.

Spec: Merkle Tree Certificates, "Certificate Format".
"""

from mtc.errors import FormatError, Reason, UsageError

MAX_LOG_NUMBER = 65535
"""Logs are numbered from 1 to this."""
MAX_INDEX = 2**48 - 1
"""Largest 48-bit entry index; a log of 2^48 - 1 entries ends one below it, -04 and -05 allowed it."""
SERIAL_LIMIT = 2**64
"""Serial numbers are below this."""


def serial_number(log_number: int, index: int) -> int:
    """Return the serial number of entry `index` (0 to MAX_INDEX) of log `log_number` (1 to MAX_LOG_NUMBER)."""
    check_log_number(log_number)
    if not 0 <= index <= MAX_INDEX:
        raise UsageError(Reason.USAGE, f"{index} is not an entry index; it has 48 bits", index=index)
    return log_number << 48 | index


def check_log_number(log_number: int) -> None:
    """Raise UsageError unless 1 <= log_number <= MAX_LOG_NUMBER."""
    if not 1 <= log_number <= MAX_LOG_NUMBER:
        raise UsageError(Reason.USAGE, f"{log_number} is not a log number; they run from 1 to 65535", log=log_number)


def split_serial(serial: int) -> tuple[int, int]:
    """Return (log number, entry index). Raises FormatError for a serial number that no log can have."""
    if not 0 <= serial < SERIAL_LIMIT:
        # The number itself stays out of the text: it may have any size, and Python prints none above 4,300 digits.
        raise FormatError(
            Reason.SERIAL_OUT_OF_RANGE,
            f"a serial number of {serial.bit_length()} bits is negative or above 2^64 - 1",
            bits=serial.bit_length(),
        )
    if serial < 1 << 48:
        raise FormatError(Reason.LOG_NUMBER_ZERO, f"serial number {serial} names log 0, which does not exist")
    return serial >> 48, serial & MAX_INDEX
