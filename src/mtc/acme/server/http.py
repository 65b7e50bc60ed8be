"""The URLs of the ACME server, and what all answers have in common: a fresh nonce, the link to the directory, problems.

Spec: RFC 8555, "Resources", "Directory", "Getting a Nonce", "HTTPS Requests" (CORS).
"""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mtc.acme.machine.problems import Problem, ProblemError, ProblemType, refused
from mtc.acme.server.accounts import Accounts
from mtc.acme.server.authentication import Authenticator, Call
from mtc.acme.server.certificates import Certificates
from mtc.acme.server.challenges import Challenges
from mtc.acme.server.context import ServerContext
from mtc.acme.server.issuing import Issuing
from mtc.acme.server.orders import Orders
from mtc.acme.server.renewals import Renewals
from mtc.acme.server.replies import add_links, problem_of, problem_reply, reply
from mtc.acme.server.revocations import Revocations
from mtc.errors import ConflictError, Error
from mtc.web.frame import name_endpoint

_MAX_TRIES = 3
"""So often a request is decided anew when what it had read was changed meanwhile."""

_READING = ["GET", "HEAD"]
_WRONG_METHOD = 405
_OPEN = ("/directory", "/new-nonce")
_PARTS = ("{one}", "{two}")

Answer = Callable[..., Awaitable[Response]]


def _as_get(answer: Callable[[Request], Awaitable[Response]]) -> Answer:
    """Return the answer to a POST-as-GET of what anybody may get (RFC 8555, "GET and POST-as-GET Requests")."""

    async def answer_signed(call: Call) -> Response:
        call.check_empty()
        return await answer(call.request)

    return answer_signed


class ACMEServer:
    """One ACME server. `routes` answer; `start` and `close` begin and end what runs in the background."""

    def __init__(self, context: ServerContext) -> None:
        """Put the parts together."""
        self._context = context
        self._authenticator = Authenticator(context)
        self._accounts = Accounts(context)
        self._renewals = Renewals(context)
        self._orders = Orders(context, self._renewals)
        self.challenges = Challenges(context, self._orders)
        self.issuing = Issuing(context, self._orders)
        self._certificates = Certificates(context, self.issuing)
        self._revocations = Revocations(context)

    def routes(self) -> list[Route]:
        """Return all routes."""
        base = self._context.config.path
        open_routes = (
            ("directory", self._directory),
            ("new-nonce", self._new_nonce),
            ("renewal-info/{certificate}", self._renewals.read),
        )
        signed_routes: tuple[tuple[str, Answer], ...] = (
            ("directory", _as_get(self._directory)),
            ("new-nonce", _as_get(self._new_nonce)),
            ("new-account", self._accounts.create),
            ("account/{}", self._accounts.update),
            ("account/{}/orders", self._accounts.orders),
            ("key-change", self._accounts.change_key),
            ("new-order", self._orders.create),
            ("order/{}", self._orders.read),
            ("order/{}/finalize", self.issuing.finalize),
            ("authorization/{}", self._orders.authorization),
            ("challenge/{}/{}", self.challenges.respond),
            ("certificate/{}", self._certificates.standalone),
            ("certificate/{}/landmark", self._certificates.landmark_relative),
            ("revoke-cert", self._revocations.revoke),
        )
        routes = [Route(f"{base}/{path}", self._open(path, answer), methods=_READING) for path, answer in open_routes]
        routes += [self._signed(base, path, answer) for path, answer in signed_routes]
        # What no route above takes: another method is told so, another path does not exist.
        others = ("directory", "new-nonce", *(path.format(*_PARTS) for path, _ in signed_routes[2:]))
        routes += [self._refusing(f"{base}/{path}", 405) for path in others]
        return [*routes, self._refusing(f"{base}/{{path:path}}", 404)]

    def _open(self, path: str, answer: Answer) -> Answer:
        """Wrap what anybody may ask."""
        word = path.partition("/")[0]

        async def endpoint(request: Request) -> Response:
            name_endpoint(request, f"acme-{word}")
            try:
                response = await answer(request)
            except Error as error:
                response = self._refuse(error)
            return self._finish(response, word)

        return endpoint

    def _signed(self, base: str, path: str, answer: Answer) -> Route:
        """Return the route of what is asked with a signed request."""
        word = path.partition("/")[0]
        names = [f"part{number}" for number in range(path.count("{}"))]
        template = path.format(*(f"{{{name}}}" for name in names))

        async def endpoint(request: Request) -> Response:
            name_endpoint(request, f"acme-{word}")
            parts = [request.path_params[name] for name in names]
            try:
                place = path.format(*parts)
                query = request.scope["query_string"].decode("ascii", "replace")
                call = await self._authenticator.read(request, f"/{place}?{query}" if query else f"/{place}")
                response = await self._answer(call, answer, parts)
            except Error as error:
                response = self._refuse(error)
            response.headers["Replay-Nonce"] = self._context.nonces.issue()
            return self._finish(response, word)

        return Route(f"{base}/{template}", endpoint, methods=["POST"])

    def _refusing(self, path: str, status: int) -> Route:
        """Return the route of what is always refused."""
        detail = "read resources with POST-as-GET" if status == _WRONG_METHOD else "there is nothing here"

        async def endpoint(request: Request) -> Response:
            name_endpoint(request, "acme-refused")
            response = self._refuse(refused(ProblemType.MALFORMED, detail, status=status))
            if status == _WRONG_METHOD:
                response.headers["Allow"] = "GET, HEAD, POST" if path.endswith(_OPEN) else "POST"
            elif request.method == "POST":
                response.headers["Replay-Nonce"] = self._context.nonces.issue()
            return self._finish(response, "refused")

        route = Route(path, endpoint)
        # Every method, those that somebody invents too.
        route.methods = None
        return route

    async def _answer(self, call: Call, answer: Answer, parts: list[str]) -> Response:
        """Answer a call; decide anew when somebody else was faster."""
        for _ in range(_MAX_TRIES - 1):
            try:
                return await answer(call, *parts)
            except ConflictError:
                continue
        try:
            return await answer(call, *parts)
        except ConflictError:
            raise ProblemError(
                Problem(
                    type=ProblemType.RATE_LIMITED,
                    detail="too many requests change the same resource at once; come again",
                    status=503,
                    retry_after_s=1,
                )
            ) from None

    def _refuse(self, error: Error) -> Response:
        """Return the problem document of an error."""
        problem: Problem = problem_of(error)
        self._context.count("mtc_acme_problems_total", type=str(problem.type))
        response = problem_reply(problem)
        terms = self._context.config.terms_of_service
        if problem.type is ProblemType.USER_ACTION_REQUIRED and terms is not None:
            add_links(response, {"terms-of-service": terms})
        return response

    def _finish(self, response: Response, word: str) -> Response:
        """Add what every answer has."""
        if word != "directory":
            add_links(response, {"index": self._context.url("directory")})
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers["Access-Control-Allow-Origin"] = "*"
        response.headers["Access-Control-Expose-Headers"] = "Link, Location, Replay-Nonce, Retry-After"
        return response

    async def _directory(self, _: Request) -> Response:
        """Say where everything is."""
        context = self._context
        config = context.config
        meta: dict[str, object] = {
            "profiles": {item.name: item.description for item in config.profiles.values()},
            "caaIdentities": list(context.caa_domains),
            "externalAccountRequired": config.external_account == "required",
        }
        if config.terms_of_service is not None:
            meta["termsOfService"] = config.terms_of_service
        if config.website is not None:
            meta["website"] = config.website
        document: dict[str, object] = {
            "newNonce": context.url("new-nonce"),
            "newAccount": context.url("new-account"),
            "newOrder": context.url("new-order"),
            "revokeCert": context.url("revoke-cert"),
            "keyChange": context.url("key-change"),
            "renewalInfo": context.url("renewal-info"),
            "meta": meta,
        }
        response = reply(document)
        response.headers["Cache-Control"] = "public, max-age=60"
        return response

    async def _new_nonce(self, request: Request) -> Response:
        """Give out a nonce."""
        response = Response(b"", 200 if request.method == "HEAD" else 204)
        response.headers["Replay-Nonce"] = self._context.nonces.issue()
        return response
