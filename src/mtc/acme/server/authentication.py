"""Who sends a request: from the bytes of a body to a verified payload and the account, or key, that signed it.

The order of the checks: form, URL, key, signature, nonce. A request that nobody has signed changes nothing, not even
which nonces are left.

Spec: RFC 8555, "Request Authentication", "Request URL Integrity", "Replay Protection".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from mtc.acme.machine.jws import MAX_JWS_BYTES, PublicKey, SignedRequest, parse_object, problem_of
from mtc.acme.machine.orders import Account, AccountStatus
from mtc.acme.machine.problems import ProblemError, ProblemType, refused
from mtc.acme.server.context import ServerContext
from mtc.errors import FormatError, SignatureError

CONTENT_TYPE = "application/jose+json"


@dataclass(frozen=True, slots=True)
class Call:
    """A request whose signature was verified. payload: empty for POST-as-GET. client: the address that it came from.

    account: who signed it, None when a bare key did. key: the one in the header, None for a request of an account.
    """

    request: Request
    url: str
    payload: bytes
    client: str
    account: Account | None = None
    key: PublicKey | None = None

    @property
    def is_get(self) -> bool:
        """True for POST-as-GET."""
        return not self.payload

    @property
    def document(self) -> Mapping[str, Any]:
        """The JSON object in the payload. Raises ProblemError when there is none."""
        try:
            return parse_object(self.payload, "the payload")
        except FormatError as error:
            raise refused(ProblemType.MALFORMED, error.message) from None

    @property
    def owner(self) -> Account:
        """The account that sent the request. Raises ProblemError when it was signed by a bare key."""
        if self.account is None:
            raise refused(ProblemType.MALFORMED, "this request is signed by an account: kid in the protected header")
        return self.account

    def check_empty(self) -> None:
        """Raise ProblemError unless this is a POST-as-GET."""
        if not self.is_get:
            raise refused(ProblemType.MALFORMED, "this resource is read with POST-as-GET: an empty payload")


class Authenticator:
    """Reads signed requests."""

    def __init__(self, context: ServerContext) -> None:
        """Take the server's parts."""
        self._context = context
        self._account_prefix = context.account_url("")

    async def read(self, request: Request, path: str) -> Call:
        """Return the call in a request for a path of this server. Raises ProblemError."""
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type != CONTENT_TYPE:
            raise refused(ProblemType.MALFORMED, f"requests here have the media type {CONTENT_TYPE}", status=415)
        try:
            signed = SignedRequest.parse(await self._body(request))
            signed.check_algorithm()
            url = self._context.config.url + path
            if signed.url != url:
                raise refused(
                    ProblemType.UNAUTHORIZED, f"the request was signed for {str(signed.url)[:200]!r}, and sent to {url}"
                )
            account = None if signed.kid is None else await self._account(signed.kid)
            key = PublicKey.parse(signed.jwk) if account is None else PublicKey.of_text(account.jwk)
            payload = signed.verify(key)
        except (FormatError, SignatureError) as error:
            raise ProblemError(problem_of(error)) from None
        if signed.nonce is None or not self._context.nonces.is_accepted(signed.nonce):
            raise refused(ProblemType.BAD_NONCE, "the nonce is not one of this server's, or was used; take the new one")
        return Call(request, url, payload, self._client(request), account, None if account else key)

    async def _body(self, request: Request) -> bytes:
        """Return the body. Raises FormatError when it is too large."""
        data = bytearray()
        async for chunk in request.stream():
            data += chunk
            if len(data) > MAX_JWS_BYTES:
                break
        return bytes(data)

    async def _account(self, kid: str) -> Account:
        """Return the account that a key ID names. Raises ProblemError when there is none, or it may not ask."""
        account = None
        if kid.startswith(self._account_prefix):
            account = await self._context.find_account(kid.removeprefix(self._account_prefix))
        if account is None:
            raise refused(ProblemType.ACCOUNT_DOES_NOT_EXIST, f"there is no account {kid[:200]!r} here")
        if account.status is not AccountStatus.VALID:
            raise refused(ProblemType.UNAUTHORIZED, f"the account is {account.status}", status=401)
        return account

    def _client(self, request: Request) -> str:
        """Return the address of the client: behind a trusted proxy, the last one that the proxy saw."""
        address = request.client.host if request.client else ""
        if address in self._context.config.proxies:
            forwarded = request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
            return forwarded or address
        return address
