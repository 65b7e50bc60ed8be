"""What an ACME server says, as values: parsed once, bounded, and lenient where RFC 8555 leaves servers free.

Spec: RFC 8555, "Resources", "Errors"; RFC 9773, "Getting Renewal Information"; RFC 8288 (Link); the ACME profiles
draft.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar
from urllib.parse import urljoin

from mtc.acme.machine.identifiers import Identifier
from mtc.acme.machine.orders import AuthorizationStatus, ChallengeStatus, OrderStatus
from mtc.acme.machine.problems import ERROR_NAMESPACE
from mtc.errors import FormatError, Reason, Rejected

MAX_ITEMS = 1000
"""Most authorizations, challenges or subproblems that are read of one object."""
_MAX_TEXT = 2000
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,512}", re.ASCII)
_LINK = re.compile(
    r'\s*<([^<>]*)>((?:\s*;\s*[A-Za-z0-9!#$%&\'*+.^_`|~-]+\s*=\s*(?:"(?:[^"\\]|\\.)*"|[^",;\s]+))*)\s*(?:,|$)'
)
_PARAMETER = re.compile(r';\s*([A-Za-z0-9!#$%&\'*+.^_`|~-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^",;\s]+))')
_FRACTION = re.compile(r"(?<=\d)\.(\d+)")

_Status = TypeVar("_Status", OrderStatus, AuthorizationStatus, ChallengeStatus)

_REASONS = {
    "accountDoesNotExist": Reason.UNAUTHORIZED,
    "externalAccountRequired": Reason.UNAUTHORIZED,
    "rateLimited": Reason.BUSY,
    "serverInternal": Reason.PEER,
    "unauthorized": Reason.UNAUTHORIZED,
}
_CURES = {
    "caa": "look at the CAA records of the name",
    "connection": "the server must reach this machine at the port of the challenge",
    "dns": "look at the DNS records of the name",
    "externalAccountRequired": "this server wants an external account: --eab-kid and --eab-key-file",
    "invalidProfile": "choose another --profile",
    "rateLimited": "wait, and do not force",
    "rejectedIdentifier": "this server does not certify that name",
    "tls": "look at what answers at the port of the challenge",
    "userActionRequired": "open the link that the server names",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerProblem:
    """A problem document as a server sent it; types that are not known here are kept as they are.

    kind: the type without ACME's namespace. identifier: whose problem a subproblem is, as text.
    """

    kind: str
    detail: str
    status: int
    identifier: str = ""
    subproblems: tuple["ServerProblem", ...] = ()
    instance: str = ""

    @staticmethod
    def of_json(document: object, status: int = 0) -> "ServerProblem":
        """Read a document; whatever is missing or wrong is left empty, because this is already about an error."""
        if not isinstance(document, dict):
            return ServerProblem(kind="", detail="", status=status)
        identifier = document.get("identifier")
        inner = document.get("subproblems")
        given = document.get("status")
        return ServerProblem(
            kind=_loose(document.get("type")).removeprefix(ERROR_NAMESPACE),
            detail=_loose(document.get("detail")),
            status=given if isinstance(given, int) else status,
            identifier=_loose(identifier.get("value")) if isinstance(identifier, dict) else "",
            subproblems=tuple(
                ServerProblem.of_json({**item, "subproblems": None})
                for item in inner[:MAX_ITEMS]
                if isinstance(item, dict)
            )
            if isinstance(inner, list)
            else (),
            instance=_loose(document.get("instance")),
        )

    def __str__(self) -> str:
        """Tell it in one line, with the parts and what may help."""
        text = f"{self.detail or 'no detail given'} ({self.kind or f'status {self.status}'})"
        parts = [f"{item.identifier or 'also'}: {item.detail} ({item.kind})" for item in self.subproblems]
        cures = dict.fromkeys(_CURES[item.kind] for item in (self, *self.subproblems) if item.kind in _CURES)
        link = [self.instance] if self.kind == "userActionRequired" and self.instance else []
        return "; ".join([text, *parts, *cures, *link])


class ACMERefusal(Rejected):
    """The server said no. problem: its document. Facts hold `problem_type`, `status` and perhaps `retry_after_s`."""

    problem = ServerProblem(kind="", detail="", status=0)

    @staticmethod
    def of(what: str, problem: ServerProblem, retry_after_s: float | None = None) -> "ACMERefusal":
        """Make the error. what: a sentence's beginning, what was asked for."""
        error = ACMERefusal(
            _REASONS.get(problem.kind, Reason.FORBIDDEN),
            f"{what}: {problem}",
            problem_type=problem.kind,
            status=problem.status,
            **({} if retry_after_s is None else {"retry_after_s": retry_after_s}),
        )
        error.problem = problem
        return error

    @staticmethod
    def told(refusal: "ACMERefusal", message: str) -> "ACMERefusal":
        """Return the same refusal with another text."""
        error = ACMERefusal(refusal.reason, message, **refusal.facts)
        error.problem = refusal.problem
        return error


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """Where a server's resources are. renewal_info: None without RFC 9773. profiles: name to description."""

    new_nonce: str
    new_account: str
    new_order: str
    revoke_cert: str
    key_change: str
    new_authz: str | None = None
    renewal_info: str | None = None
    terms_of_service: str | None = None
    external_account_required: bool = False
    profiles: Mapping[str, str] | None = None

    @staticmethod
    def of_json(document: object) -> "Directory":
        """Read a directory. Raises FormatError."""
        fields = Fields(document, "the directory")
        meta = Fields(fields.values.get("meta", {}), "the directory's meta")
        profiles = meta.values.get("profiles")
        return Directory(
            new_nonce=fields.text("newNonce"),
            new_account=fields.text("newAccount"),
            new_order=fields.text("newOrder"),
            revoke_cert=fields.text("revokeCert", is_optional=True),
            key_change=fields.text("keyChange", is_optional=True),
            new_authz=fields.text("newAuthz", is_optional=True) or None,
            renewal_info=fields.text("renewalInfo", is_optional=True) or None,
            terms_of_service=meta.text("termsOfService", is_optional=True) or None,
            external_account_required=meta.values.get("externalAccountRequired") is True,
            profiles={str(name): _loose(text) for name, text in profiles.items()}
            if isinstance(profiles, dict)
            else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountState:
    """An account as the server describes it. is_new: it was made by this request."""

    url: str
    status: str
    contacts: tuple[str, ...] = ()
    orders: str | None = None
    is_new: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengeState:
    """One challenge. type: any, also one that is not known here."""

    type: str
    url: str
    status: ChallengeStatus
    token: str = ""
    problem: ServerProblem | None = None

    @staticmethod
    def of_json(document: object) -> "ChallengeState":
        """Read a challenge. Raises FormatError, also for a token that could be more than a file name."""
        fields = Fields(document, "a challenge")
        token = fields.text("token", is_optional=True)
        if token and not _TOKEN.fullmatch(token):
            raise FormatError(Reason.BAD_DOCUMENT, "a challenge's token must be base64url")
        return ChallengeState(
            type=fields.text("type"),
            url=fields.text("url"),
            status=_status(ChallengeStatus, fields),
            token=token,
            problem=fields.problem("error"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationState:
    """One authorization. is_wildcard: the order asked for `*.` and the identifier."""

    url: str
    identifier: Identifier
    status: AuthorizationStatus
    challenges: tuple[ChallengeState, ...]
    is_wildcard: bool = False
    retry_after_s: float | None = None

    @staticmethod
    def of_json(url: str, document: object, retry_after_s: float | None = None) -> "AuthorizationState":
        """Read an authorization. Raises FormatError."""
        fields = Fields(document, "an authorization")
        identifier = Fields(fields.values.get("identifier"), "an authorization's identifier")
        return AuthorizationState(
            url=url,
            identifier=Identifier.parse(identifier.text("type"), identifier.text("value")),
            status=_status(AuthorizationStatus, fields),
            challenges=tuple(ChallengeState.of_json(item) for item in fields.items("challenges")),
            is_wildcard=fields.values.get("wildcard") is True,
            retry_after_s=retry_after_s,
        )

    @property
    def problem(self) -> ServerProblem | None:
        """Why it is invalid, None when no challenge says so."""
        return next((item.problem for item in self.challenges if item.problem is not None), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderState:
    """One order. retry_after_s: what the answer asked to wait."""

    url: str
    status: OrderStatus
    identifiers: tuple[Identifier, ...]
    authorizations: tuple[str, ...]
    finalize: str
    certificate: str | None = None
    expires: datetime | None = None
    problem: ServerProblem | None = None
    profile: str | None = None
    replaces: str | None = None
    retry_after_s: float | None = None

    @staticmethod
    def of_json(url: str, document: object, retry_after_s: float | None = None) -> "OrderState":
        """Read an order. Raises FormatError."""
        fields = Fields(document, "an order")
        named = [Fields(item, "an order's identifier") for item in fields.items("identifiers")]
        expires = fields.text("expires", is_optional=True)
        return OrderState(
            url=url,
            status=_status(OrderStatus, fields),
            identifiers=tuple(Identifier.parse(item.text("type"), item.text("value")) for item in named),
            authorizations=fields.texts("authorizations"),
            finalize=fields.text("finalize"),
            certificate=fields.text("certificate", is_optional=True) or None,
            expires=parse_time(expires) if expires else None,
            problem=fields.problem("error"),
            profile=fields.text("profile", is_optional=True) or None,
            replaces=fields.text("replaces", is_optional=True) or None,
            retry_after_s=retry_after_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalWindow:
    """When a server suggests to renew a certificate. retry_after_s: when to ask again."""

    start: datetime
    end: datetime
    explanation_url: str | None = None
    retry_after_s: float | None = None

    @staticmethod
    def of_json(document: object, retry_after_s: float | None = None) -> "RenewalWindow":
        """Read renewal information. Raises FormatError, also for a window that ends before it starts."""
        window = Fields(Fields(document, "renewal information").values.get("suggestedWindow"), "the suggested window")
        start, end = parse_time(window.text("start")), parse_time(window.text("end"))
        if end <= start:
            raise FormatError(Reason.BAD_DOCUMENT, "the suggested window ends before it starts")
        explanation = Fields(document, "renewal information").text("explanationURL", is_optional=True)
        return RenewalWindow(start=start, end=end, explanation_url=explanation or None, retry_after_s=retry_after_s)


class Fields:
    """The members of a JSON object, read one by one; each error says what is wrong where."""

    def __init__(self, document: object, what: str) -> None:
        """Take an object. Raises FormatError for anything else."""
        if not isinstance(document, dict):
            raise FormatError(Reason.BAD_DOCUMENT, f"{what} must be a JSON object")
        self.values: Mapping[str, object] = document
        self._what = what

    def text(self, name: str, *, is_optional: bool = False) -> str:
        """Return a text; an optional one that is absent or null is empty."""
        value = self.values.get(name)
        if value is None and is_optional:
            return ""
        if not isinstance(value, str) or len(value) > _MAX_TEXT:
            raise FormatError(Reason.BAD_DOCUMENT, f"{self._what}: {name} must be a text of at most {_MAX_TEXT}")
        return value

    def items(self, name: str) -> Sequence[object]:
        """Return a list."""
        value = self.values.get(name)
        if not isinstance(value, list) or len(value) > MAX_ITEMS:
            raise FormatError(Reason.BAD_DOCUMENT, f"{self._what}: {name} must be a list of at most {MAX_ITEMS}")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of texts."""
        items = self.items(name)
        if not all(isinstance(item, str) and len(item) <= _MAX_TEXT for item in items):
            raise FormatError(Reason.BAD_DOCUMENT, f"{self._what}: {name} must be a list of texts")
        return tuple(str(item) for item in items)

    def problem(self, name: str) -> ServerProblem | None:
        """Return a problem document, None without one."""
        value = self.values.get(name)
        return None if value is None else ServerProblem.of_json(value)


def parse_document(body: bytes, what: str) -> object:
    """Read JSON. Raises FormatError."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise FormatError(Reason.BAD_DOCUMENT, f"{what} is no JSON") from None


def parse_time(text: str) -> datetime:
    """Read a time of RFC 3339. Raises FormatError."""
    # Go writes nanoseconds, of which datetime takes six digits.
    shorter = _FRACTION.sub(lambda match: "." + match[1][:6].ljust(6, "0"), text, count=1)
    try:
        moment = datetime.fromisoformat(shorter)
    except ValueError:
        raise FormatError(Reason.BAD_TIME, f"{text[:40]!r} is no time of RFC 3339") from None
    if moment.tzinfo is None:
        raise FormatError(Reason.BAD_TIME, f"{text[:40]!r} has no time zone")
    return moment.astimezone(UTC)


def parse_retry_after(text: str | None, now: datetime) -> float | None:
    """Return the seconds that a Retry-After header asks for, None when it asks for nothing that can be read."""
    if text is None:
        return None
    stripped = text.strip()
    if stripped.isascii() and stripped.isdecimal():
        return float(int(stripped[:10]))
    try:
        moment = parsedate_to_datetime(stripped)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max((moment - now).total_seconds(), 0.0)


def parse_links(headers: Sequence[str], base: str) -> dict[str, list[str]]:
    """Return the targets of Link headers by relation, absolute, in order; what cannot be read is left out."""
    links: dict[str, list[str]] = {}
    for header in headers:
        at = 0
        while match := _LINK.match(header, at):
            at = match.end()
            for name, quoted, plain in _PARAMETER.findall(match[2]):
                if name.lower() != "rel":
                    continue
                for relation in (quoted or plain).split():
                    links.setdefault(relation, []).append(urljoin(base, match[1]))
                break
            if at >= len(header):
                break
    return links


def _loose(value: object) -> str:
    """Return a text, shortened, or nothing."""
    return value[:_MAX_TEXT] if isinstance(value, str) else ""


def _status(kind: type[_Status], fields: Fields) -> _Status:
    """Return a state. Raises FormatError for one that RFC 8555 does not have."""
    text = fields.text("status")
    try:
        return kind(text)
    except ValueError:
        raise FormatError(Reason.BAD_DOCUMENT, f"{text[:40]!r} is no state of this object") from None
