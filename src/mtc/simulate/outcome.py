"""What a run found: bytes, staleness and kinds of handshakes, over all, by class of clients, and over time."""

from dataclasses import asdict, dataclass

PERCENTILES = (50, 90, 99, 99.9)
"""The percentiles of staleness that are told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Shares of handshakes, 1 together.

    landmark_relative: the client knows the landmark, and the server has the certificate. standalone: not so, but the
    client accepts cosignatures. fallback: the client's state is too old to ask, or the server's certificate has expired
    because its CA was out of order: the classical chain.
    """

    landmark_relative: float
    standalone: float
    fallback: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Staleness:
    """How old the state of a client is at a handshake, in seconds: the mean, and percentiles by their number.

    Clients that have no state at all count as infinitely stale in percentiles (None) and not in the mean.
    """

    mean_s: float
    percentiles_s: dict[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassOutcome:
    """One class of clients, as the mean of the run. Bytes and updates are of one client and one day."""

    name: str
    clients: int
    handshakes_per_day: float
    updates_per_day: float
    full_states_per_day: float
    delta_bytes_per_day: float
    full_bytes_per_day: float
    shares: Shares
    staleness: Staleness

    @property
    def bytes_per_day(self) -> float:
        """All bytes of updates of one client and one day."""
        return self.delta_bytes_per_day + self.full_bytes_per_day


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One point of the time series, the mean of an interval; shares and staleness are of its first step.

    at_s: seconds from the start of the run. egress_bits_per_s, updates_per_s: of the update service. landmarks: active
    ones of all CAs.
    """

    at_s: float
    shares: Shares
    staleness_p50_s: float | None
    staleness_p99_s: float | None
    egress_bits_per_s: float
    updates_per_s: float
    landmarks: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Egress:
    """What the update service sends. Peaks are of one step of the model."""

    bytes_per_day: float
    mean_bits_per_s: float
    peak_bits_per_s: float
    mean_updates_per_s: float
    peak_updates_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HandshakeBytes:
    """Bytes that authenticate servers, per handshake, as the mean over CAs by their traffic.

    landmark_relative, standalone, fallback: of a handshake of each kind. certificates: of all, as the kinds are mixed.
    updates: of the update service, spread over all handshakes. without_landmarks: of certificates alone, if what is
    landmark-relative were standalone; landmarks pay where it is more than the two before together.
    """

    landmark_relative: float
    standalone: float
    fallback: float
    certificates: float
    updates: float
    without_landmarks: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Everything about a run. landmarks, full_state_bytes: at its end, of all CAs together."""

    clients: int
    cas: int
    days: float
    landmarks: float
    full_state_bytes: float
    bytes_per_client_day: float
    delta_bytes_per_client_day: float
    full_bytes_per_client_day: float
    egress: Egress
    handshakes_per_day: float
    handshake_bytes: HandshakeBytes
    shares: Shares
    staleness: Staleness
    classes: tuple[ClassOutcome, ...]
    series: tuple[Moment, ...]

    def to_json(self) -> dict[str, object]:
        """Return the outcome as JSON values, under the names of the fields."""
        return asdict(self)
