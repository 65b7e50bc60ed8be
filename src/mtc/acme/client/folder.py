"""Where certificates lie: versions that never change except by growing, and two links that are swapped.

    NAME/current   -> versions/20261121T151700Z-1000000000005      what a server loads
    NAME/previous  -> versions/…                                   the one before, as long as it is valid
    NAME/versions/…/key.pem standalone.pem chain.pem state.json    landmark.pem comes later, beside them
    NAME/order/order.json key.pem                                  what is under way
    NAME/state.json                                                failures, and when to try again

A crash leaves the old set whole: a version has its name only when it is complete, and `current` is swapped after that.
An order is taken away last, so that a run that died before goes on with it and comes to the same version.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from mtc.acme.client.disk import (
    PRIVATE,
    Disk,
    NewFile,
    NewLink,
    make_folders,
    publish_folder,
    remove_leftovers,
    replace_file,
    replace_link,
    retire_folder,
)
from mtc.acme.client.documents import Fields, parse_document
from mtc.acme.client.renewal import RenewalPlan, back_off_s, optional_time, show_time
from mtc.acme.machine.identifiers import Identifier
from mtc.errors import Error, FormatError, Reason, StorageError

KEY, STANDALONE, LANDMARK, CHAIN, FULLCHAIN = "key.pem", "standalone.pem", "landmark.pem", "chain.pem", "fullchain.pem"
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderUnderWay:
    """An order that was made and is not finished. server: URL of its directory."""

    server: str
    url: str
    identifiers: tuple[Identifier, ...]
    key_type: str

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        return {
            "format": _FORMAT,
            "server": self.server,
            "url": self.url,
            "identifiers": [item.to_json() for item in self.identifiers],
            "key_type": self.key_type,
        }

    @staticmethod
    def of_json(document: object) -> "OrderUnderWay":
        """Read what `to_json` made. Raises FormatError."""
        fields = Fields(document, "the order under way")
        return OrderUnderWay(
            server=fields.text("server"),
            url=fields.text("url"),
            identifiers=_identifiers(fields),
            key_type=fields.text("key_type"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LandmarkState:
    """How far the landmark-relative certificate is. urls: where it will be; empty where the server offers none.

    next_try: when to ask again. note: why it was refused, for people.
    """

    urls: tuple[str, ...] = ()
    is_stored: bool = False
    next_try: datetime | None = None
    failures: int = 0
    note: str = ""

    @property
    def is_wanted(self) -> bool:
        """True while it is worth asking for."""
        return bool(self.urls) and not self.is_stored


_NO_PLAN, _NO_LANDMARK = RenewalPlan(), LandmarkState()


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionState:
    """What is known about one version beside its files.

    serial: of the certificate. is_mtc: it is a Merkle Tree certificate. verified: against what, or empty.
    deployed: what a deploy hook was told of, for example `standalone`. is_revoked: we revoked it.
    """

    server: str
    order_url: str
    certificate_url: str
    identifiers: tuple[Identifier, ...]
    serial: int
    not_before: datetime
    not_after: datetime
    certificate_id: str | None = None
    profile: str | None = None
    prefix_url: str | None = None
    is_mtc: bool = False
    verified: str = ""
    renewal: RenewalPlan = _NO_PLAN
    landmark: LandmarkState = _NO_LANDMARK
    deployed: tuple[str, ...] = ()
    is_revoked: bool = False

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        return {
            "format": _FORMAT,
            "server": self.server,
            "order_url": self.order_url,
            "certificate_url": self.certificate_url,
            "identifiers": [item.to_json() for item in self.identifiers],
            "serial": f"{self.serial:x}",
            "not_before": show_time(self.not_before),
            "not_after": show_time(self.not_after),
            "certificate_id": self.certificate_id,
            "profile": self.profile,
            "prefix_url": self.prefix_url,
            "mtc": self.is_mtc,
            "verified": self.verified,
            "renewal": self.renewal.to_json(),
            "landmark": {
                "urls": list(self.landmark.urls),
                "stored": self.landmark.is_stored,
                "next_try": show_time(self.landmark.next_try),
                "failures": self.landmark.failures,
                "note": self.landmark.note,
            },
            "deployed": list(self.deployed),
            "revoked": self.is_revoked,
        }

    @staticmethod
    def of_json(document: object) -> "VersionState":
        """Read what `to_json` made. Raises FormatError."""
        fields = Fields(document, "the state")
        landmark = Fields(fields.values.get("landmark"), "the landmark's state")
        failures = landmark.values.get("failures")
        not_before, not_after = optional_time(fields, "not_before"), optional_time(fields, "not_after")
        if not_before is None or not_after is None:
            raise FormatError(Reason.BAD_DOCUMENT, "the state: not_before and not_after must be times")
        return VersionState(
            server=fields.text("server"),
            order_url=fields.text("order_url"),
            certificate_url=fields.text("certificate_url"),
            identifiers=_identifiers(fields),
            serial=_hex(fields.text("serial")),
            not_before=not_before,
            not_after=not_after,
            certificate_id=fields.text("certificate_id", is_optional=True) or None,
            profile=fields.text("profile", is_optional=True) or None,
            prefix_url=fields.text("prefix_url", is_optional=True) or None,
            is_mtc=fields.values.get("mtc") is True,
            verified=fields.text("verified"),
            renewal=RenewalPlan.of_json(fields.values.get("renewal")),
            landmark=LandmarkState(
                urls=landmark.texts("urls"),
                is_stored=landmark.values.get("stored") is True,
                next_try=optional_time(landmark, "next_try"),
                failures=failures if isinstance(failures, int) else 0,
                note=landmark.text("note"),
            ),
            deployed=fields.texts("deployed"),
            is_revoked=fields.values.get("revoked") is True,
        )


@dataclass(frozen=True, slots=True)
class Version:
    """One certificate with its key and what belongs to it."""

    folder: Path
    state: VersionState

    @property
    def renewal_moment(self) -> datetime:
        """When to renew it; one that was revoked, at once."""
        if self.state.is_revoked:
            return self.state.not_before
        return self.state.renewal.moment(self.state.not_before, self.state.not_after)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """Failures in a row, and when to try again. error: the last one, for people."""

    failures: int = 0
    next_try: datetime | None = None
    error: str = ""

    def after_failure(self, error: str, now: datetime, asked_s: float | None) -> "Attempts":
        """Count one more."""
        pause = timedelta(seconds=back_off_s(self.failures + 1, asked_s))
        return Attempts(failures=self.failures + 1, next_try=now + pause, error=error)


class Lineage:
    """The versions of one certificate over time, in one folder. One process at a time may use it; see `disk.locked`.

    Raises StorageError for what the disk refuses, FormatError for state that somebody else changed.
    """

    def __init__(self, disk: Disk, folder: Path) -> None:
        """Take the folder; nothing is made yet."""
        self._disk = disk
        self.folder = folder

    def open(self) -> None:
        """Make the folder if it is not there, and clear away what a crash left."""
        make_folders(self._disk, self.folder / "versions")
        for folder in (self.folder, self.folder / "versions"):
            remove_leftovers(self._disk, folder)

    def current(self) -> Version | None:
        """Return what servers load now, None before the first."""
        return self._linked("current")

    def previous(self) -> Version | None:
        """Return the one before."""
        return self._linked("previous")

    def save(self, version: Version, state: VersionState) -> Version:
        """Write what is known about a version now."""
        if state != version.state:
            replace_file(self._disk, version.folder / "state.json", _encode(state.to_json()))
        return Version(version.folder, state)

    def publish(self, name: str, content: Mapping[str, NewFile | NewLink], state: VersionState) -> Version:
        """Make a new version and let servers load it. The same again, after a crash, comes to the same end."""
        folder = self.folder / "versions" / name
        if not folder.is_dir():
            publish_folder(self._disk, folder, {**content, "state.json": NewFile(_encode(state.to_json()))})
        old = self.current()
        if old is not None and old.folder.name != name:
            replace_link(self._disk, self.folder / "previous", f"versions/{old.folder.name}")
        if old is None or old.folder.name != name:
            replace_link(self._disk, self.folder / "current", f"versions/{name}")
        retire_folder(self._disk, self.folder / "order")
        return self._read(folder)

    def add(self, version: Version, name: str, item: NewFile | NewLink) -> None:
        """Put one more file into a version; whoever has loaded it before misses nothing."""
        path = version.folder / name
        if isinstance(item, NewFile):
            replace_file(self._disk, path, item.data, item.mode)
        elif not path.is_symlink():
            replace_link(self._disk, path, item.target)

    def begin_order(self, order: OrderUnderWay) -> None:
        """Write down that an order was made, in the place of an earlier one."""
        retire_folder(self._disk, self.folder / "order")
        publish_folder(self._disk, self.folder / "order", {"order.json": NewFile(_encode(order.to_json()))}, 0o700)

    def order(self) -> OrderUnderWay | None:
        """Return the order that is under way; one that cannot be read counts as none."""
        try:
            return OrderUnderWay.of_json(parse_document((self.folder / "order" / "order.json").read_bytes(), "it"))
        except (OSError, Error):
            return None

    def order_key(self) -> bytes | None:
        """Return the key of the order under way, PEM, None before it was made."""
        try:
            return (self.folder / "order" / KEY).read_bytes()
        except FileNotFoundError:
            return None

    def keep_order_key(self, pem: bytes) -> None:
        """Write the key of the order under way down, before anybody certifies it."""
        replace_file(self._disk, self.folder / "order" / KEY, pem, PRIVATE)

    def drop_order(self) -> None:
        """Forget the order under way."""
        retire_folder(self._disk, self.folder / "order")

    def attempts(self) -> Attempts:
        """Return what went wrong last; what cannot be read counts as nothing."""
        try:
            fields = Fields(parse_document((self.folder / "state.json").read_bytes(), "it"), "the state")
            failures = fields.values.get("failures")
            return Attempts(
                failures=failures if isinstance(failures, int) else 0,
                next_try=optional_time(fields, "next_try"),
                error=fields.text("error"),
            )
        except (OSError, Error):
            return Attempts()

    def keep_attempts(self, attempts: Attempts) -> None:
        """Write down what went wrong, or that it goes well."""
        if attempts == self.attempts():
            return
        document = {
            "format": _FORMAT,
            "failures": attempts.failures,
            "next_try": show_time(attempts.next_try),
            "error": attempts.error[:1000],
        }
        replace_file(self._disk, self.folder / "state.json", _encode(document))

    def prune(self, now: datetime) -> None:
        """Remove the versions that have expired or were revoked, except the one that servers load."""
        current, previous = self.current(), self.previous()
        for folder in sorted((self.folder / "versions").iterdir()):
            if not folder.is_dir() or (current is not None and folder == current.folder):
                continue
            state = self._read(folder).state
            if now <= state.not_after and not state.is_revoked:
                continue
            if previous is not None and previous.folder == folder:
                self._disk.unlink(self.folder / "previous")
                self._disk.sync_folder(self.folder)
            retire_folder(self._disk, folder)

    def _linked(self, name: str) -> Version | None:
        """Return the version that a link points to."""
        path = self.folder / name
        if not path.is_symlink() or not path.is_dir():
            return None
        return self._read(self.folder / "versions" / path.readlink().name)

    def _read(self, folder: Path) -> Version:
        """Read a version."""
        path = folder / "state.json"
        try:
            return Version(folder, VersionState.of_json(parse_document(path.read_bytes(), str(path))))
        except FormatError as error:
            raise FormatError(
                error.reason, f"{path}: {error.message}; put it back, or move {self.folder} away and request anew"
            ) from None
        except OSError as error:
            raise StorageError(
                Reason.STORAGE, f"{path} cannot be read: {(error.strerror or str(error)).lower()}"
            ) from None


def version_name(not_before: datetime, serial: int) -> str:
    """Return the name of a version, which follows from its certificate; names sort by time."""
    return f"{not_before:%Y%m%dT%H%M%SZ}-{serial:x}"


def with_deployed(state: VersionState, *what: str) -> VersionState:
    """Return the state after a deploy hook was told of something."""
    return replace(state, deployed=tuple(dict.fromkeys((*state.deployed, *what))))


def _encode(document: Mapping[str, object]) -> bytes:
    """Return JSON for people."""
    return (json.dumps(document, indent=2) + "\n").encode()


def _identifiers(fields: Fields) -> tuple[Identifier, ...]:
    """Read identifiers. Raises FormatError."""
    items = [Fields(item, "an identifier") for item in fields.items("identifiers")]
    return tuple(Identifier.parse(item.text("type"), item.text("value")) for item in items)


def _hex(text: str) -> int:
    """Read a serial number. Raises FormatError."""
    try:
        return int(text, 16)
    except ValueError:
        raise FormatError(Reason.BAD_NUMBER, "the state: serial must be hexadecimal") from None
