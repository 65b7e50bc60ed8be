"""What a CA remembers of itself beyond its logs: which log is current, and why there was a change.

The register value `ca` decides. A change of the log is an incident: an operator asks for it, gives a reason, and a
record of it stays.

Spec: Merkle Tree Certificates, "Log Numbers" and "Recovering from Log Failures".
"""

import json
from dataclasses import dataclass

from mtc.errors import FormatError, Reason, UsageError
from mtc.ids import MAX_LOG_NUMBER
from mtc.profile import Profile
from mtc.wire import Reader, Writer

STATE_NAME = "ca"
"""Name of the register value."""
_VERSION = 1


@dataclass(frozen=True, slots=True)
class CAState:
    """The current log and the number of incidents so far. Earlier logs are closed; later ones do not exist."""

    current_log: int = 1
    incidents: int = 0

    def __post_init__(self) -> None:
        """Refuse a log number that cannot be."""
        if not 1 <= self.current_log <= MAX_LOG_NUMBER:
            raise FormatError(Reason.BAD_NUMBER, f"{self.current_log} is no log number", got=self.current_log)

    def encode(self) -> bytes:
        """Return the register's bytes."""
        return Writer().uint(_VERSION, 1).uint(self.current_log, 2).uint(self.incidents, 4).encode()

    @staticmethod
    def parse(data: bytes) -> "CAState":
        """Read the register's bytes, whole. Raises FormatError."""
        reader = Reader(data, "the CA's state")
        if (version := reader.read_uint(1)) != _VERSION:
            raise FormatError(
                Reason.BAD_VERSION, f"the CA's state has version {version}, this program knows {_VERSION}"
            )
        state = CAState(reader.read_uint(2), reader.read_uint(4))
        reader.finish()
        return state


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """A change of the log. number: from 1. time: RFC 3339. old_log, new_log: numbers. reason: the operator's words.

    tree_size, root_hash (hex), timestamp: what the register says of the old log. is_abandoned: its last round, from
    `unfinished_from` entries on, was decided and never finished; its entries may have been signed.
    """

    number: int
    time: str
    old_log: int
    new_log: int
    reason: str
    tree_size: int
    root_hash: str
    timestamp: int
    is_abandoned: bool
    operator: str

    def encode(self) -> bytes:
        """Return the record as JSON."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps(fields, indent=2, ensure_ascii=False).encode() + b"\n"

    @property
    def key(self) -> str:
        """Where the record is kept."""
        return self.key_of(self.number)

    @staticmethod
    def key_of(number: int) -> str:
        """Return where the record with a number is kept."""
        return f"private/incidents/{number:06d}.json"


def plan_rollover(state: CAState, profile: Profile, reason: str) -> CAState:
    """Return the state after the next log took over. Raises UsageError without a reason, or when there is no next log.

    The numbers of logs are few: relying parties of the Web know logs 1 to 4 of a key.
    """
    if not reason.strip():
        raise UsageError(Reason.USAGE, "a change of the log is an incident and needs a reason: --reason TEXT")
    if state.current_log >= profile.max_log:
        raise UsageError(
            Reason.USAGE,
            f"log {state.current_log} is the last one in profile {profile.name}; a new CA with a new ID must take over",
            log=state.current_log,
        )
    return CAState(state.current_log + 1, state.incidents + 1)
