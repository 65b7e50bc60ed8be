"""Problem documents: what ACME clients are told when something does not go, from one table.

Spec: RFC 8555, "Errors" and "Subproblems"; RFC 9773 (alreadyReplaced); the ACME profiles draft (invalidProfile); RFC
9457 for the document.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from http import HTTPStatus

from mtc.acme.machine.identifiers import Identifier
from mtc.errors import FormatError, Reason, Rejected

ERROR_NAMESPACE = "urn:ietf:params:acme:error:"
_MAX_DETAIL = 2000


class ProblemType(StrEnum):
    """The error types, without their namespace."""

    ACCOUNT_DOES_NOT_EXIST = "accountDoesNotExist"
    ALREADY_REPLACED = "alreadyReplaced"
    ALREADY_REVOKED = "alreadyRevoked"
    BAD_CSR = "badCSR"
    BAD_NONCE = "badNonce"
    BAD_PUBLIC_KEY = "badPublicKey"
    BAD_REVOCATION_REASON = "badRevocationReason"
    BAD_SIGNATURE_ALGORITHM = "badSignatureAlgorithm"
    CAA = "caa"
    COMPOUND = "compound"
    CONFLICT = "conflict"
    CONNECTION = "connection"
    DNS = "dns"
    EXTERNAL_ACCOUNT_REQUIRED = "externalAccountRequired"
    INCORRECT_RESPONSE = "incorrectResponse"
    INVALID_CONTACT = "invalidContact"
    INVALID_PROFILE = "invalidProfile"
    MALFORMED = "malformed"
    ORDER_NOT_READY = "orderNotReady"
    RATE_LIMITED = "rateLimited"
    REJECTED_IDENTIFIER = "rejectedIdentifier"
    SERVER_INTERNAL = "serverInternal"
    TLS = "tls"
    UNAUTHORIZED = "unauthorized"
    UNSUPPORTED_CONTACT = "unsupportedContact"
    UNSUPPORTED_IDENTIFIER = "unsupportedIdentifier"
    USER_ACTION_REQUIRED = "userActionRequired"


STATUS_OF_TYPE: dict[ProblemType, int] = {
    ProblemType.ALREADY_REPLACED: 409,
    ProblemType.CONFLICT: 409,
    ProblemType.CAA: 403,
    ProblemType.EXTERNAL_ACCOUNT_REQUIRED: 403,
    ProblemType.ORDER_NOT_READY: 403,
    ProblemType.RATE_LIMITED: 429,
    ProblemType.REJECTED_IDENTIFIER: 403,
    ProblemType.SERVER_INTERNAL: 500,
    ProblemType.UNAUTHORIZED: 403,
    ProblemType.USER_ACTION_REQUIRED: 403,
}
"""HTTP status by type; the others are 400."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One problem document. status: None for the type's. identifier: in subproblems, whose problem it is.

    retry_after_s: for the Retry-After header. members: further ones, for example `algorithms` of
    badSignatureAlgorithm.
    """

    type: ProblemType
    detail: str
    status: int | None = None
    identifier: Identifier | None = None
    subproblems: tuple["Problem", ...] = ()
    retry_after_s: int | None = None
    members: Mapping[str, object] | None = None

    @property
    def http_status(self) -> int:
        """The status of an answer with this problem."""
        return self.status or STATUS_OF_TYPE.get(self.type, int(HTTPStatus.BAD_REQUEST))

    def to_json(self) -> dict[str, object]:
        """Return the document."""
        document: dict[str, object] = {
            "type": ERROR_NAMESPACE + self.type,
            "detail": self.detail[:_MAX_DETAIL],
            "status": self.http_status,
        }
        if self.identifier is not None:
            document["identifier"] = self.identifier.to_json()
        if self.subproblems:
            document["subproblems"] = [problem.to_json() for problem in self.subproblems]
        return document | dict(self.members or {})

    @staticmethod
    def of_json(document: object) -> "Problem":
        """Read a document that `to_json` made, or that a perspective sent. Raises FormatError."""
        if not isinstance(document, dict):
            raise FormatError(Reason.BAD_DOCUMENT, "a problem document is a JSON object")
        name, detail, status = document.get("type"), document.get("detail", ""), document.get("status")
        try:
            kind = ProblemType(str(name).removeprefix(ERROR_NAMESPACE))
        except ValueError:
            raise FormatError(Reason.BAD_DOCUMENT, f"{str(name)[:80]!r} is no type of an ACME problem") from None
        if not isinstance(detail, str) or not (status is None or isinstance(status, int)):
            raise FormatError(Reason.BAD_DOCUMENT, "detail and status of a problem are text and a number")
        identifier, inner = document.get("identifier"), document.get("subproblems", [])
        if not isinstance(inner, list):
            raise FormatError(Reason.BAD_DOCUMENT, "subproblems are a list")
        # Subproblems have none of their own (RFC 8555), so hostile input goes no deeper.
        return Problem(
            type=kind,
            detail=detail[:_MAX_DETAIL],
            status=status,
            identifier=None if identifier is None else _identifier(identifier),
            subproblems=tuple(Problem.of_json({**_object(item), "subproblems": []}) for item in inner),
        )


class ProblemError(Rejected):
    """A request that is answered with a problem document."""

    def __init__(self, problem: Problem) -> None:
        """Take the document."""
        super().__init__(Reason.ACME, problem.detail, type=str(problem.type))
        self.problem = problem

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling."""
        return (ProblemError, (self.problem,))


def refused(kind: ProblemType, detail: str, *, status: int | None = None) -> ProblemError:
    """Make the error for a simple problem."""
    return ProblemError(Problem(type=kind, detail=detail, status=status))


def compound(kind: ProblemType, detail: str, problems: Sequence[Problem]) -> Problem:
    """Return one problem about several identifiers.

    A single one stands for itself, but its identifier may not stand at the top (RFC 8555, "Subproblems").
    """
    if len(problems) == 1:
        (only,) = problems
        return only if only.identifier is None else replace(only, identifier=None, subproblems=(only,))
    types = {problem.type for problem in problems}
    return Problem(type=types.pop() if len(types) == 1 else kind, detail=detail, subproblems=tuple(problems))


def _object(value: object) -> dict[str, object]:
    """Return a JSON object. Raises FormatError."""
    if not isinstance(value, dict):
        raise FormatError(Reason.BAD_DOCUMENT, "a problem document is a JSON object")
    return value


def _identifier(value: object) -> Identifier:
    """Return the identifier of a subproblem. Raises FormatError."""
    document = _object(value)
    return Identifier.parse(document.get("type"), document.get("value"))
