"""The families of failure, one per party at fault, and the reasons they carry.

An error says whose fault it is by its type, what went wrong by its `reason`, and where by its `facts`. Programs decide
on type and reason; the text is for people and ends with the cure where there is one. Nothing secret goes into a
message.

Spec: none; this is the project's own vocabulary. The values of `Reason` are part of the public interface (they appear
in `mtc verify --json`) and never change their meaning.
"""

from enum import StrEnum


class Reason(StrEnum):
    """What went wrong. Distinct faults have distinct reasons; the value is stable and fit for scripts."""

    # Bytes that do not follow their format (FormatError).
    TRUNCATED = "truncated"
    TRAILING_DATA = "trailing-data"
    TOO_LARGE = "too-large"
    TOO_DEEP = "too-deep"
    BAD_TAG = "bad-tag"
    BAD_LENGTH = "bad-length"
    BAD_INTEGER = "bad-integer"
    BAD_BOOLEAN = "bad-boolean"
    BAD_OID = "bad-oid"
    BAD_BIT_STRING = "bad-bit-string"
    BAD_STRING = "bad-string"
    BAD_TIME = "bad-time"
    BAD_VERSION = "bad-version"
    BAD_NAME = "bad-name"
    BAD_EXTENSION = "bad-extension"
    DUPLICATE_EXTENSION = "duplicate-extension"
    BAD_PEM = "bad-pem"
    BAD_BASE64 = "bad-base64"
    BAD_NUMBER = "bad-number"
    BAD_TEXT = "bad-text"
    BAD_TRUST_ANCHOR_ID = "bad-trust-anchor-id"
    BAD_ORDER = "bad-order"
    DUPLICATE = "duplicate"
    BAD_PROOF_LENGTH = "bad-proof-length"
    BAD_SUBTREE = "bad-subtree"
    BAD_HASH_SIZE = "bad-hash-size"
    BAD_ENTRY_TYPE = "bad-entry-type"
    BAD_KEY = "bad-key"
    BAD_NOTE = "bad-note"
    BAD_CHECKPOINT = "bad-checkpoint"
    BAD_TILE = "bad-tile"
    BAD_LANDMARKS = "bad-landmarks"
    BAD_POLICY = "bad-policy"
    BAD_DOCUMENT = "bad-document"
    BAD_PROPERTY = "bad-property"
    DAMAGED = "damaged"
    ALGORITHM_MISMATCH = "algorithm-mismatch"
    UNKNOWN_ALGORITHM = "unknown-algorithm"
    UNKNOWN_FORMAT = "unknown-format"
    SERIAL_OUT_OF_RANGE = "serial-out-of-range"
    LOG_NUMBER_ZERO = "log-number-zero"

    # The mathematics says no (ProofError, SignatureError).
    INDEX_NOT_IN_SUBTREE = "index-not-in-subtree"
    PROOF_TOO_SHORT = "proof-too-short"
    PROOF_TOO_LONG = "proof-too-long"
    SUBTREE_NOT_IN_TREE = "subtree-not-in-tree"
    HASH_MISMATCH = "hash-mismatch"
    ROOT_MISMATCH = "root-mismatch"
    MISSING_HASH = "missing-hash"
    BAD_SIGNATURE = "bad-signature"

    # Valid, but policy says no (Rejected).
    NOT_MTC = "not-mtc"
    UNKNOWN_CA = "unknown-ca"
    DRAFT_MISMATCH = "draft-mismatch"
    REVOKED = "revoked"
    REVOCATION_SHRUNK = "revocation-shrunk"
    SUPERSEDED = "superseded"
    EQUIVOCATION = "equivocation"
    NOT_EVIDENCE = "not-evidence"
    NO_CHECKPOINT = "no-checkpoint"
    STALE_SIZE = "stale-size"
    NOT_YET_VALID = "not-yet-valid"
    NO_LANDMARK = "no-landmark"
    NO_PATH = "no-path"
    SESSION_UNFIT = "session-unfit"
    STALE_LANDMARKS = "stale-landmarks"
    WRONG_BASE = "wrong-base"
    EXPIRED = "expired"
    TRUSTED_SUBTREE_MISMATCH = "trusted-subtree-mismatch"
    POLICY_NOT_MET = "policy-not-met"
    NAME_MISMATCH = "name-mismatch"
    NO_SUBJECT_ALT_NAME = "no-subject-alt-name"
    WRONG_KEY_USAGE = "wrong-key-usage"
    WRONG_EXTENDED_KEY_USAGE = "wrong-extended-key-usage"
    IS_A_CA = "is-a-ca"
    UNKNOWN_CRITICAL_EXTENSION = "unknown-critical-extension"
    UNKNOWN_SIGNER = "unknown-signer"
    UNKNOWN_ORIGIN = "unknown-origin"
    NO_QUORUM = "no-quorum"
    STALE_EVIDENCE = "stale-evidence"
    ABANDONED = "abandoned"
    LINT = "lint"
    VALIDATION_FAILED = "validation-failed"
    ACME = "acme"

    # Our caller, the peer, the state, the disk.
    USAGE = "usage"
    UNREADABLE = "unreadable"
    UNSUPPORTED = "unsupported"
    BUSY = "busy"
    CLOCK = "clock"
    CONFLICT = "conflict"
    FORBIDDEN = "forbidden"
    LOG_FULL = "log-full"
    PEER = "peer"
    PRUNED = "pruned"
    STORAGE = "storage"
    UNAUTHORIZED = "unauthorized"


class Error(Exception):
    """Base of every error that this package raises on purpose.

    reason: the fault. message: one sentence for people. facts: what is known about it (offset, expected, got, index,
    origin, …), by name; values are numbers, strings and identifiers, never keys or tokens.
    """

    def __init__(self, reason: Reason, message: str, **facts: object) -> None:
        """Keep reason and facts as fields; the message is the text of the exception."""
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.facts = facts

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling, so that an error crosses a process border whole."""
        return (_rebuild, (type(self), self.reason, self.message, self.facts))


def _rebuild(family: type[Error], reason: Reason, message: str, facts: dict[str, object]) -> Error:
    """Make an error again from its parts; the counterpart of `Error.__reduce__`."""
    return family(reason, message, **facts)


class FormatError(Error):
    """The bytes do not follow their format: whoever wrote them is at fault. Facts usually hold `offset` in bytes."""


class ProofError(Error):
    """A Merkle proof does not lead where it must."""


class SignatureError(Error):
    """A signature does not verify under the key it claims."""


class Rejected(Error):  # noqa: N818 - the specification's word for the outcome, not an exceptional fault
    """Well formed and mathematically sound, but policy says no."""


class PeerError(Error):
    """Another party answered wrongly, late or not at all."""


class ConflictError(Error):
    """The state moved on: what was true when the caller read it no longer is."""


class StorageError(Error):
    """The storage below failed or contradicts itself."""


class UsageError(Error):
    """Our caller asked for something that cannot be: a wrong argument, an unreadable file, a missing feature."""
