"""Named bundles of choices: hash, signatures, lifetimes, limits, landmark interval, serving rules.

`WEB_PKI` follows Chrome's draft Quantum-resistant Root Program policy 0.3.0 (2026-08-14), `PRIVATE_SERVICE` suits one
organisation, `CHINA_SM` names the SM algorithms. A profile is a table of numbers; nothing here decides.
"""

from dataclasses import dataclass
from datetime import timedelta

from mtc.errors import Reason, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One bundle. Durations are timedeltas; counts are plain numbers.

    signatures: algorithm names that cosigners may use, best first. max_lifetime: of a certificate. min_log, max_log:
    log numbers in use. max_active_landmarks: cap on landmarks allocated within one `max_lifetime`. min_cosigners:
    further cosigners that a standalone certificate needs beside the CA. retention: how long an entry is served after it
    expires. is_mtc_tlog: logs may claim the C2SP mtc-tlog profile, which fixes SHA-256 and ML-DSA-44.
    """

    name: str
    hash_name: str
    signatures: tuple[str, ...]
    max_lifetime: timedelta
    landmark_interval: timedelta
    max_active_landmarks: int
    max_log: int
    min_cosigners: int
    retention: timedelta
    is_mtc_tlog: bool
    min_log: int = 1


WEB_PKI = Profile(
    name="web-pki",
    hash_name="sha256",
    signatures=("ml-dsa-44",),
    max_lifetime=timedelta(days=7),
    landmark_interval=timedelta(hours=1),
    max_active_landmarks=220,
    max_log=4,
    min_cosigners=1,
    retention=timedelta(days=35),
    is_mtc_tlog=True,
)
PRIVATE_SERVICE = Profile(
    name="private",
    hash_name="sha256",
    signatures=("ml-dsa-44", "ml-dsa-65", "ml-dsa-87", "ecdsa-p256-sha256", "ecdsa-p384-sha384", "ed25519"),
    max_lifetime=timedelta(days=90),
    landmark_interval=timedelta(hours=1),
    max_active_landmarks=90 * 24 + 1,
    max_log=65535,
    min_cosigners=0,
    retention=timedelta(days=0),
    is_mtc_tlog=True,
)
CHINA_SM = Profile(
    name="china-sm",
    hash_name="sm3",
    signatures=("sm2-sm3",),
    max_lifetime=timedelta(days=90),
    landmark_interval=timedelta(hours=1),
    max_active_landmarks=90 * 24 + 1,
    max_log=65535,
    min_cosigners=0,
    retention=timedelta(days=35),
    is_mtc_tlog=False,
)

PROFILES: dict[str, Profile] = {profile.name: profile for profile in (WEB_PKI, PRIVATE_SERVICE, CHINA_SM)}
"""Every profile by name."""


def parse_profile(name: str) -> Profile:
    """Return the profile called `name`. Raises UsageError with the names there are."""
    if name not in PROFILES:
        raise UsageError(Reason.USAGE, f"{name!r} is no profile here; there are {', '.join(PROFILES)}")
    return PROFILES[name]
