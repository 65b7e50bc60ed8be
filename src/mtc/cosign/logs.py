"""Which logs a cosigner knows, and by which keys: single logs by their origin, and all logs of a CA by its ID.

Spec: C2SP tlog-witness, "Witness"; C2SP mtc-tlog, "Serving Issuance Logs": "Non-CA cosigners SHOULD accept the next few
unused log numbers".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mtc.errors import FormatError, Reason, Rejected, UsageError
from mtc.ids import MAX_LOG_NUMBER, TrustAnchorID, log_id
from mtc.note import VerifierKey

LOGS_AHEAD = 3
"""How many unused log numbers of a CA are accepted beyond the highest one seen."""


@dataclass(frozen=True, slots=True)
class KnownLog:
    """A log whose checkpoints a cosigner takes.

    keys: any one of them must have signed. url: prefix under which the log serves its tiles, None when not known.
    minimum_index: a new mirror of it begins there. is_followed: the mirror fetches what it lacks from `url`.
    with_ed25519: also cosigned with the cosigner's Ed25519 key, for clients that know no other.
    """

    origin: str
    keys: tuple[VerifierKey, ...]
    url: str | None = None
    minimum_index: int = 0
    is_followed: bool = False
    with_ed25519: bool = False


@dataclass(frozen=True, slots=True)
class KnownCA:
    """A CA of which all logs are taken, as they come. ca_id: from the name of `key`.

    prefix_url: log N is served at `<prefix_url>/N`. logs_ahead: unused log numbers accepted beyond the highest one
    seen. highest_log: none above it.
    """

    key: VerifierKey
    prefix_url: str | None = None
    logs_ahead: int = LOGS_AHEAD
    highest_log: int = MAX_LOG_NUMBER
    is_followed: bool = False
    with_ed25519: bool = False
    ca_id: TrustAnchorID = field(init=False)

    def __post_init__(self) -> None:
        """Refuse a key that is not named like a CA."""
        try:
            object.__setattr__(self, "ca_id", TrustAnchorID.parse_oid_name(self.key.name))
        except FormatError as error:
            raise UsageError(
                error.reason,
                f"the key of a CA is named after its ID, oid/1.3.6.1.4.1.<CA ID>, not {self.key.name[:80]!r}; an other "
                "log is named by its origin",
            ) from None

    def log(self, number: int) -> KnownLog:
        """Return log `number`, from 1."""
        return KnownLog(
            origin=log_id(self.ca_id, number).oid_name,
            keys=(self.key,),
            url=None if self.prefix_url is None else f"{self.prefix_url}/{number}",
            is_followed=self.is_followed,
            with_ed25519=self.with_ed25519,
        )

    def number_of(self, origin: str) -> int | None:
        """Return the log number that an origin of this CA names, None for another origin."""
        prefix, _, number = origin.rpartition(".")
        if prefix != f"{self.key.name}.0" or not number.isascii() or not number.isdecimal() or len(number) > 5:
            return None
        value = int(number)
        return value if 1 <= value <= self.highest_log and str(value) == number else None


class LogDirectory:
    """All logs that a cosigner knows; immutable. Raises UsageError for an origin, a CA or a name that comes twice.

    own_keys: of the cosigner: no log may be signed by one of them, nor under one of their names, because then nobody
    could tell the two apart.
    """

    def __init__(self, logs: tuple[KnownLog, ...], cas: tuple[KnownCA, ...], own_keys: tuple[VerifierKey, ...]) -> None:
        """Take logs, CAs and the cosigner's own keys."""
        self.logs: Mapping[str, KnownLog] = {log.origin: log for log in logs}
        self.cas: Mapping[str, KnownCA] = {ca.key.name: ca for ca in cas}
        self.own_keys = own_keys
        if len(self.logs) != len(logs) or len(self.cas) != len(cas):
            raise UsageError(Reason.DUPLICATE, "a log or a CA stands in the configuration twice")
        own_names = {key.name for key in own_keys}
        own_bytes = {key.public_key for key in own_keys}
        for key in [key for log in logs for key in log.keys] + [ca.key for ca in cas]:
            if key.name in own_names or key.public_key in own_bytes:
                raise UsageError(
                    Reason.DUPLICATE,
                    f"{key} has the name or the key of this cosigner; roles have names and keys of their own",
                )
        for log in logs:
            for ca in cas:
                if ca.number_of(log.origin) is not None:
                    raise UsageError(
                        Reason.DUPLICATE,
                        f"{log.origin} is a log of CA {ca.ca_id}, which stands in the configuration too",
                    )

    def find(self, origin: str, highest_seen: Mapping[str, int]) -> KnownLog:
        """Return the log with this origin. highest_seen: by name of a CA's key, the highest log number with a state.

        Raises Rejected (UNKNOWN_ORIGIN).
        """
        found = self.logs.get(origin)
        if found is not None:
            return found
        for ca in self.cas.values():
            number = ca.number_of(origin)
            if number is not None and number <= highest_seen.get(ca.key.name, 0) + ca.logs_ahead:
                return ca.log(number)
        raise Rejected(Reason.UNKNOWN_ORIGIN, f"no log with origin {origin[:120]!r} is known here", origin=origin[:255])
