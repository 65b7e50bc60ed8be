"""Named bundles of choices: hash, signatures, lifetimes, limits, landmark interval, serving rules.

`WEB_PKI` follows Chrome's draft Quantum-resistant Root Program policy 0.3.0 (2026-08-14), `PRIVATE_SERVICE` suits one
organisation, `CHINA_SM` names the SM algorithms. A profile is a table of numbers; nothing here decides.
"""

from dataclasses import dataclass
from datetime import timedelta

from mtc.errors import Reason, UsageError

_SECOND = timedelta(seconds=1)
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One bundle. Durations are timedeltas; counts are plain numbers.

    Algorithms. hash_name: of the log. signatures: algorithm names that cosigners may use, best first; the CA uses the
    first. is_mtc_tlog: logs may claim the C2SP mtc-tlog profile, which fixes SHA-256 and ML-DSA-44. is_public:
    certificates are for the Web, and the lint is strict about names and keys.

    Certificates. default_lifetime, max_lifetime: inclusive of both ends. backdating: how far notBefore lies before the
    request, for clients whose clocks are slow. crl_pointer_above: certificates that live longer name the CRL.
    ca_lifetime: of the CA certificate.

    Log. min_log, max_log: log numbers in use. round_interval: between two rounds. An idle round, one without entries,
    signs nothing, except that the checkpoint is signed anew after `refresh_interval`. max_skew: how far clocks may
    disagree before nothing is signed. needs_view: sign nothing at start-up and after a pause before a cosigner has
    said what it knows. min_cosigners: further cosigners that a standalone certificate needs beside the CA.
    max_quorum_wait: how long it may wait for them. may_run_ahead: the next tree may be signed before this one has its
    cosigners; otherwise a CA never signs more than those who keep the entries have.

    Landmarks. landmark_interval: between two. max_active_landmarks: cap on landmarks allocated within one
    `landmark_window`, across the logs of a CA.

    Serving. retention: how long an entry is served after it expires. partial_grace: how long a superseded partial tile
    is served. checkpoint_max_age: what caches may do with a checkpoint.

    Revocation. crl_lifetime, crl_interval: validity of the lists, and how often they are signed anew.
    """

    name: str
    hash_name: str
    signatures: tuple[str, ...]
    is_mtc_tlog: bool
    is_public: bool
    max_lifetime: timedelta
    default_lifetime: timedelta = 7 * _DAY
    backdating: timedelta = timedelta(minutes=5)
    crl_pointer_above: timedelta = 7 * _DAY
    ca_lifetime: timedelta
    min_log: int = 1
    max_log: int
    round_interval: timedelta
    refresh_interval: timedelta
    max_skew: timedelta = 30 * _SECOND
    needs_view: bool
    min_cosigners: int
    max_quorum_wait: timedelta = timedelta(minutes=5)
    may_run_ahead: bool = True
    landmark_interval: timedelta
    landmark_window: timedelta
    max_active_landmarks: int
    retention: timedelta
    partial_grace: timedelta
    checkpoint_max_age: timedelta = 2 * _SECOND
    crl_lifetime: timedelta = 7 * _DAY
    crl_interval: timedelta = _DAY


WEB_PKI = Profile(
    name="web-pki",
    hash_name="sha256",
    signatures=("ml-dsa-44",),
    is_mtc_tlog=True,
    is_public=True,
    max_lifetime=7 * _DAY,
    ca_lifetime=6 * 365 * _DAY,
    max_log=4,
    round_interval=_SECOND,
    refresh_interval=timedelta(minutes=10),
    needs_view=True,
    min_cosigners=1,
    may_run_ahead=False,
    landmark_interval=_HOUR,
    landmark_window=7 * _DAY,
    max_active_landmarks=220,
    retention=35 * _DAY,
    partial_grace=_DAY,
)
PRIVATE_SERVICE = Profile(
    name="private",
    hash_name="sha256",
    signatures=("ml-dsa-44", "ml-dsa-65", "ml-dsa-87", "ecdsa-p256-sha256", "ecdsa-p384-sha384", "ed25519"),
    is_mtc_tlog=True,
    is_public=False,
    max_lifetime=90 * _DAY,
    ca_lifetime=20 * 365 * _DAY,
    max_log=65535,
    round_interval=timedelta(milliseconds=100),
    refresh_interval=_HOUR,
    needs_view=False,
    min_cosigners=0,
    landmark_interval=_HOUR,
    landmark_window=90 * _DAY,
    max_active_landmarks=90 * 24 + 1,
    retention=timedelta(0),
    partial_grace=_HOUR,
)
CHINA_SM = Profile(
    name="china-sm",
    hash_name="sm3",
    signatures=("sm2-sm3",),
    is_mtc_tlog=False,
    is_public=False,
    max_lifetime=90 * _DAY,
    ca_lifetime=20 * 365 * _DAY,
    max_log=65535,
    round_interval=timedelta(milliseconds=100),
    refresh_interval=_HOUR,
    needs_view=False,
    min_cosigners=0,
    landmark_interval=_HOUR,
    landmark_window=90 * _DAY,
    max_active_landmarks=90 * 24 + 1,
    retention=35 * _DAY,
    partial_grace=_HOUR,
)

PROFILES: dict[str, Profile] = {profile.name: profile for profile in (WEB_PKI, PRIVATE_SERVICE, CHINA_SM)}
"""Every profile by name."""


def parse_profile(name: str) -> Profile:
    """Return the profile called `name`. Raises UsageError with the names there are."""
    if name not in PROFILES:
        raise UsageError(Reason.USAGE, f"{name!r} is no profile here; there are {', '.join(PROFILES)}")
    return PROFILES[name]
