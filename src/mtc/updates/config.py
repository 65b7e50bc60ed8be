"""`updates.toml`: which CAs an update service serves, by which rules, read strictly.

A key that is not there has its default; a key that is not known is an error. CAs are added by hand, or with
`mtc updates add-ca`; a running service reads the file again by itself.
"""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from mtc.cert import CACertificate, SerialRanges
from mtc.cosign.config import check_url, parse_address
from mtc.crypto import HASH_ALGORITHMS
from mtc.errors import Error, FormatError, Reason, UsageError
from mtc.ids import TrustAnchorID
from mtc.note import SignatureType, VerifierKey
from mtc.trust import Cosigner, CosignerPolicy, CosignerState, FreezePoint, TrustedCA
from mtc.trust.updates.policy import DEFAULT_MAX_ACTIVE
from mtc.wire import find_pem_block

CONFIG_NAME = "updates.toml"
MAX_CONFIG_BYTES = 16 << 20
"""Largest configuration: hundreds of CAs with a certificate and a few keys each have a few megabytes."""
MAX_CAS = 2000
MAX_ACTIVE = 1 << 20
"""Largest bound on the active landmarks of a CA, that of the policy document."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_Value = TypeVar("_Value", str, int)
_Parsed = TypeVar("_Parsed")


@dataclass(frozen=True, slots=True)
class MirrorSource:
    """A cosigner besides the CA, and where it shows its checkpoints; None when the CA's checkpoint carries them."""

    cosigner: Cosigner
    monitoring_url: str | None


@dataclass(frozen=True, slots=True)
class CASource:
    """One CA that is served. prefix_url: of its logs. at_least: how many mirrors must cosign, besides the CA.

    max_active: landmarks over all its logs. revoked: what the service's operator refuses beside the CA's own list.
    """

    certificate: CACertificate
    prefix_url: str
    mirrors: tuple[MirrorSource, ...] = ()
    at_least: int = 0
    max_active: int = DEFAULT_MAX_ACTIVE
    revoked: SerialRanges = SerialRanges()  # noqa: RUF009 - it is immutable

    @property
    def identity(self) -> tuple[object, ...]:
        """What changes when any of it does; keys do not compare by themselves."""
        mirrors = [
            (item.cosigner.name, item.cosigner.key.public_key, item.cosigner.state, item.cosigner.frozen_at)
            for item in self.mirrors
        ]
        urls = [item.monitoring_url for item in self.mirrors]
        return self.certificate.der, self.prefix_url, mirrors, urls, self.at_least, self.max_active, self.revoked

    def trusted(self, revoked: SerialRanges) -> TrustedCA:
        """Return the CA as relying parties will know it. revoked: in addition to what is known here."""
        about = self.certificate
        own = Cosigner(about.ca_id, about.public_key)
        others = tuple(item.cosigner for item in self.mirrors)
        of = tuple(item.cosigner_id for item in others) if self.at_least else ()
        return TrustedCA(
            about.ca_id,
            about.revision,
            HASH_ALGORITHMS[about.hash.name],
            (own, *others),
            CosignerPolicy((about.ca_id,), of, self.at_least),
            revoked=about.revoked | self.revoked | revoked,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdatesConfig:
    """An update service's configuration, checked.

    interval: between two looks at whether there is something to publish. pull_interval: between two looks at one CA.
    deadline: of one look. policy_lifetime, policy_renewal: of a policy document, and after how long the next one is
    made even when nothing changed. deltas: to how many earlier versions. floor: lowest version that may be used.
    max_active: of CAs that do not say it themselves.
    """

    listen: tuple[str, int] = ("127.0.0.1", 8090)
    interval: timedelta = timedelta(seconds=10)
    pull_interval: timedelta = timedelta(seconds=60)
    deadline: timedelta = timedelta(seconds=30)
    policy_lifetime: timedelta = timedelta(days=7)
    policy_renewal: timedelta = timedelta(days=1)
    deltas: int = 48
    floor: int = 0
    max_active: int = DEFAULT_MAX_ACTIVE
    removed: tuple[TrustAnchorID, ...] = ()
    cas: tuple[CASource, ...] = ()


class _Table:
    """A table of the file, of which every key must be taken."""

    def __init__(self, values: object, file: str, name: str) -> None:
        self._file, self._name = file, name
        if not isinstance(values, dict):
            raise UsageError(Reason.USAGE, f"{file}: {name or 'the file'} is no table")
        self._values = dict(values)

    def fault(self, key: str, why: str, reason: Reason = Reason.USAGE) -> UsageError:
        """Make the error for a key."""
        return UsageError(reason, f"{self._file}: {self._name}{key} {why}", file=self._file, key=key)

    def take(self, key: str, kind: type[_Value], default: _Value | None = None) -> _Value:
        """Take a value of one type; without a default it must be there."""
        value = self._values.pop(key, default)
        if type(value) is not kind:
            raise self.fault(key, "is missing" if value is None else f"must be of type {kind.__name__}")
        return value

    def number(self, key: str, default: int, most: int) -> int:
        """Take a number from 0."""
        value = self.take(key, int, default)
        if not 0 <= value <= most:
            raise self.fault(key, f"is {value}; it must be 0 to {most}")
        return value

    def items(self, key: str) -> list[object]:
        """Take an array that need not be there."""
        value = self._values.pop(key, [])
        if not isinstance(value, list) or len(value) > MAX_CAS:
            raise self.fault(key, f"must be an array of at most {MAX_CAS}")
        return value

    def has(self, key: str) -> bool:
        """Tell whether a key is there and was not taken."""
        return key in self._values

    def duration(self, key: str, default: str) -> timedelta:
        """Take a duration such as `10s`, `5m`, `1h` or `7d`, longer than nothing."""
        text = self.take(key, str, default)
        if not text[:-1].isascii() or not text[:-1].isdecimal() or len(text) > 9 or text[-1] not in _UNITS:
            raise self.fault(key, f"is {text!r}, no duration; write for example 10s, 5m, 1h or 7d")
        seconds = int(text[:-1]) * _UNITS[text[-1]]
        if not seconds:
            raise self.fault(key, "must be longer than nothing")
        return timedelta(seconds=seconds)

    def parsed(self, key: str, text: str, parse: Callable[[str], _Parsed]) -> _Parsed:
        """Parse a value; the parser's error gets the key's name in front."""
        try:
            return parse(text)
        except Error as error:
            raise self.fault(key, f"is wrong: {error.message}", error.reason) from None

    def finish(self) -> None:
        """Refuse what nobody took."""
        for key in self._values:
            raise self.fault(key, "is no key of an update service's configuration; is it misspelt?")


def parse_updates_config(data: bytes, file: str = CONFIG_NAME) -> UpdatesConfig:
    """Read a configuration, strictly. Raises UsageError that names the file, the key, why, and what to write."""
    try:
        table = _Table(tomllib.loads(data.decode("utf-8")), file, "")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(Reason.USAGE, f"{file} is no TOML: {error}", file=file) from None
    most = table.number("max_active", DEFAULT_MAX_ACTIVE, MAX_ACTIVE)
    cas = tuple(_parse_ca(_Table(item, file, f"ca {n}: "), file, most) for n, item in enumerate(table.items("ca"), 1))
    if len({item.certificate.ca_id for item in cas}) != len(cas):
        raise UsageError(Reason.DUPLICATE, f"{file}: a CA stands twice")
    config = UpdatesConfig(
        listen=table.parsed("listen", table.take("listen", str, "127.0.0.1:8090"), parse_address),
        interval=table.duration("interval", "10s"),
        pull_interval=table.duration("pull_interval", "1m"),
        deadline=table.duration("deadline", "30s"),
        policy_lifetime=table.duration("policy_lifetime", "7d"),
        policy_renewal=table.duration("policy_renewal", "1d"),
        deltas=table.number("deltas", 48, 1000),
        floor=table.number("floor", 0, 2**53 - 1),
        max_active=most,
        removed=tuple(table.parsed("removed", str(item), TrustAnchorID.parse) for item in table.items("removed")),
        cas=cas,
    )
    for ca in cas:
        if ca.certificate.ca_id in config.removed:
            raise table.fault("removed", f"names CA {ca.certificate.ca_id}, which is served; take its table out")
    table.finish()
    return config


def _parse_ca(table: _Table, file: str, max_active: int) -> CASource:
    """Read one CA. max_active: where it does not say."""
    pem = table.take("certificate", str)
    certificate = table.parsed("certificate", pem, _certificate)
    prefix_url = check_url(table.take("prefix_url", str, certificate.prefix_url), f"{file}: prefix_url")
    mirrors = tuple(_parse_mirror(_Table(item, file, "mirror: "), file) for item in table.items("mirror"))
    ranges = []
    for item in table.items("revoked"):
        match item:
            case [int(start), int(end)]:
                ranges.append((start, end))
            case _:
                raise table.fault("revoked", "holds pairs [start, end) of serial numbers")
    source = CASource(
        certificate,
        prefix_url,
        mirrors,
        table.number("at_least", min(len(mirrors), 1), 64),
        table.number("max_active", max_active, MAX_ACTIVE),
        SerialRanges(ranges),
    )
    table.finish()
    try:
        source.trusted(SerialRanges())
    except FormatError as error:
        raise UsageError(error.reason, f"{file}: CA {certificate.ca_id}: {error.message}") from None
    return source


def _certificate(text: str) -> CACertificate:
    """Read a CA certificate, PEM."""
    return CACertificate.parse(find_pem_block(text.encode(), "CERTIFICATE"))


def _parse_mirror(table: _Table, file: str) -> MirrorSource:
    """Read one mirror."""
    key = table.parsed("vkey", table.take("vkey", str), VerifierKey.parse)
    if key.type is not SignatureType.COSIGNATURE_MLDSA44:
        raise table.fault("vkey", "is of a type that cannot stand in certificates; it needs ML-DSA-44")
    cosigner_id = table.parsed("vkey", key.name, TrustAnchorID.parse_oid_name)
    url = (
        check_url(table.take("monitoring_url", str), f"{file}: monitoring_url") if table.has("monitoring_url") else None
    )
    state = table.take("state", str, CosignerState.USABLE.value)
    if state not in list(CosignerState):
        raise table.fault("state", f"is {state!r}; it must be one of {', '.join(CosignerState)}")
    frozen_at = None
    if state == CosignerState.FROZEN:
        frozen_at = FreezePoint(table.number("log", 1, 65535), table.take("tree_size", int))
    table.finish()
    return MirrorSource(Cosigner(cosigner_id, key.verifier, CosignerState(state), frozen_at), url)


def format_updates_config(config: UpdatesConfig) -> str:
    """Return the commented file of a new service without CAs; `parse_updates_config` reads it."""
    host, port = config.listen
    listen = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f"""# An update service: it pulls CAs, proves their landmarks, and publishes versions, deltas and a policy.

listen = "{listen}"
interval = "{int(config.interval.total_seconds())}s"  # between two looks at whether there is something to publish
pull_interval = "{int(config.pull_interval.total_seconds())}s"  # between two looks at one CA
deadline = "{int(config.deadline.total_seconds())}s"  # of one look; a CA that is slow delays nobody else
policy_lifetime = "{config.policy_lifetime.days}d"  # relying parties trust nothing any more when it has passed
policy_renewal = "{config.policy_renewal.days}d"  # a new policy is signed so often, also when nothing changed
deltas = {config.deltas}  # earlier versions to which there are deltas
floor = 0  # the lowest version that may be used, rollback included
max_active = {config.max_active}  # active landmarks of a CA over all its logs; the newest beyond are dropped
removed = []  # CAs that are distrusted for ever, for example ["32473.9"]; take their tables out

# [[ca]]  # mtc updates add-ca writes these
# certificate = "-----BEGIN CERTIFICATE-----…"
# prefix_url = "https://ca.example.com/mtc"
# at_least = 1  # mirrors that must cosign, besides the CA
# max_active = 2200  # of this CA, in place of the above
# revoked = [[0, 5]]  # serial numbers [start, end), beside the CA's own list
# [[ca.mirror]]
# vkey = "oid/1.3.6.1.4.1.32473.8+…"
# monitoring_url = "https://mirror.example.com"  # where the CA's own checkpoint does not carry its cosignature
"""


def format_ca(pem: str, source: CASource, vkeys: list[tuple[str, str | None]], max_active: int | None) -> str:
    """Return the lines that add a CA to a configuration. vkeys: of mirrors, each with its monitoring URL or None.

    max_active: None where the default of the file holds.
    """
    lines = ["", "[[ca]]", f'certificate = """\n{pem.strip()}\n"""', f'prefix_url = "{source.prefix_url}"']
    lines += [f"at_least = {source.at_least}"]
    lines += [] if max_active is None else [f"max_active = {max_active}"]
    for vkey, url in vkeys:
        lines += ["[[ca.mirror]]", f'vkey = "{vkey}"']
        lines += [] if url is None else [f'monitoring_url = "{url}"']
    return "\n".join([*lines, ""])
