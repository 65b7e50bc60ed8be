"""What a perspective is asked to find out, and what it answers: values with a JSON form, for the wire and for evidence.

Every perspective, local or remote, gets the same task and looks for itself. Its report says what it saw, so that years
later it can be shown why an entry was logged.

Spec: RFC 8555, "Identifier Validation Challenges"; RFC 8737; RFC 8738; RFC 8659; RFC 8657.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from mtc.acme.machine.identifiers import Identifier
from mtc.acme.machine.problems import Problem
from mtc.errors import FormatError, Reason

MAX_REPORT_BYTES = 256 << 10
"""Largest report, encoded."""
MAX_LOOKUPS = 100
"""Most DNS lookups of one report."""
MAX_CONNECTIONS = 100
"""Most connections of one report."""


class Method(StrEnum):
    """How control of an identifier is shown: the challenge types, as CAA's validationmethods spells them."""

    HTTP_01 = "http-01"
    DNS_01 = "dns-01"
    TLS_ALPN_01 = "tls-alpn-01"


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationTask:
    """What to find out about one identifier.

    identifier: without `*.`. is_wildcard: CAA is read for a wildcard. method: what CAA's validationmethods is compared
    with, and what is validated when `proves_control`. proves_control: False when only CAA is to be looked up again.
    token, key_authorization: of the challenge, empty without one. account_url: for CAA's accounturi. caa_domains: the
    issuer domain names that stand for this CA in CAA records.
    """

    identifier: Identifier
    is_wildcard: bool
    method: Method
    account_url: str
    caa_domains: tuple[str, ...]
    proves_control: bool = True
    token: str = ""
    key_authorization: str = ""

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        return {
            "identifier": self.identifier.to_json(),
            "wildcard": self.is_wildcard,
            "method": str(self.method),
            "account": self.account_url,
            "caa_domains": list(self.caa_domains),
            "proves_control": self.proves_control,
            "token": self.token,
            "key_authorization": self.key_authorization,
        }

    @staticmethod
    def of_json(document: object) -> "ValidationTask":
        """Read a task that another process sent. Raises FormatError."""
        fields = _Fields(document, "a validation task")
        identifier = fields.mapping("identifier")
        return ValidationTask(
            identifier=Identifier.parse(identifier.get("type"), identifier.get("value")).base,
            is_wildcard=fields.flag("wildcard"),
            method=fields.method("method"),
            account_url=fields.text("account"),
            caa_domains=fields.texts("caa_domains"),
            proves_control=fields.flag("proves_control"),
            token=fields.text("token"),
            key_authorization=fields.text("key_authorization"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """One DNS question and its answer. status: the response code's name, or "TIMEOUT". answers: records as text.

    is_secure: the answer was validated with DNSSEC. server: who answered.
    """

    name: str
    type: str
    status: str
    answers: tuple[str, ...] = ()
    is_secure: bool = False
    server: str = ""

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        return {
            "name": self.name,
            "type": self.type,
            "status": self.status,
            "answers": list(self.answers),
            "secure": self.is_secure,
            "server": self.server,
        }

    @staticmethod
    def of_json(document: object) -> "Lookup":
        """Read a lookup. Raises FormatError."""
        fields = _Fields(document, "a DNS lookup")
        return Lookup(
            name=fields.text("name"),
            type=fields.text("type"),
            status=fields.text("status"),
            answers=fields.texts("answers"),
            is_secure=fields.flag("secure"),
            server=fields.text("server"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """One connection to the applicant: for which URL or host, to which address and port, and what came of it."""

    target: str
    address: str
    port: int
    outcome: str

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        return {"target": self.target, "address": self.address, "port": self.port, "outcome": self.outcome}

    @staticmethod
    def of_json(document: object) -> "Connection":
        """Read a connection. Raises FormatError."""
        fields = _Fields(document, "a connection")
        return Connection(
            target=fields.text("target"),
            address=fields.text("address"),
            port=fields.number("port"),
            outcome=fields.text("outcome"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one perspective found. perspective, region: who it is, "local" and "" for the CA's own.

    problem: why the answer is no, None when everything asked for holds (control, where it was asked for, and CAA).
    caa_name: where the CAA records that counted were found, empty when there are none. caa_records: as text.
    """

    perspective: str
    region: str
    started: datetime
    finished: datetime
    problem: Problem | None = None
    lookups: tuple[Lookup, ...] = ()
    connections: tuple[Connection, ...] = ()
    caa_name: str = ""
    caa_records: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        return {
            "perspective": self.perspective,
            "region": self.region,
            "started": self.started.isoformat(),
            "finished": self.finished.isoformat(),
            "problem": None if self.problem is None else self.problem.to_json(),
            "lookups": [lookup.to_json() for lookup in self.lookups],
            "connections": [connection.to_json() for connection in self.connections],
            "caa_name": self.caa_name,
            "caa_records": list(self.caa_records),
        }

    @staticmethod
    def of_json(document: object) -> "Report":
        """Read a report that another process sent. Raises FormatError."""
        fields = _Fields(document, "a perspective's report")
        problem = fields.values.get("problem")
        return Report(
            perspective=fields.text("perspective"),
            region=fields.text("region"),
            started=fields.moment("started"),
            finished=fields.moment("finished"),
            problem=None if problem is None else Problem.of_json(problem),
            lookups=tuple(Lookup.of_json(item) for item in fields.items("lookups", MAX_LOOKUPS)),
            connections=tuple(Connection.of_json(item) for item in fields.items("connections", MAX_CONNECTIONS)),
            caa_name=fields.text("caa_name"),
            caa_records=fields.texts("caa_records"),
        )


class _Fields:
    """The members of a JSON object, read one by one; each error says what is wrong where."""

    def __init__(self, document: object, what: str) -> None:
        if not isinstance(document, dict):
            raise FormatError(Reason.BAD_DOCUMENT, f"{what} is a JSON object")
        self.values: Mapping[str, object] = document
        self._what = what

    def text(self, name: str) -> str:
        value = self.values.get(name)
        if not isinstance(value, str):
            raise self._wrong(name, "text")
        return value

    def flag(self, name: str) -> bool:
        value = self.values.get(name)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def number(self, name: str) -> int:
        value = self.values.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._wrong(name, "a number")
        return value

    def mapping(self, name: str) -> Mapping[str, object]:
        value = self.values.get(name)
        if not isinstance(value, dict):
            raise self._wrong(name, "an object")
        return value

    def items(self, name: str, most: int) -> list[object]:
        value = self.values.get(name)
        if not isinstance(value, list) or len(value) > most:
            raise self._wrong(name, f"a list of at most {most}")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        items = self.items(name, 1000)
        if not all(isinstance(item, str) for item in items):
            raise self._wrong(name, "a list of texts")
        return tuple(str(item) for item in items)

    def moment(self, name: str) -> datetime:
        try:
            moment = datetime.fromisoformat(self.text(name))
        except ValueError:
            raise self._wrong(name, "a time, ISO 8601") from None
        if moment.tzinfo is None:
            raise self._wrong(name, "a time with its zone")
        return moment

    def method(self, name: str) -> Method:
        try:
            return Method(self.text(name))
        except ValueError:
            raise self._wrong(name, f"one of {', '.join(Method)}") from None

    def _wrong(self, name: str, expected: str) -> FormatError:
        return FormatError(Reason.BAD_DOCUMENT, f"{self._what}: {name} must be {expected}")
