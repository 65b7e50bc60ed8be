"""Certificates for download: the standalone one, and the landmark-relative one when it exists.

Clients that ask for it get the properties that TLS servers need; the others get a plain chain, with the CA certificate
behind the end-entity certificate, because some clients insist on two.

Spec: RFC 8555, "Downloading the Certificate"; Merkle Tree Certificates, "ACME Extensions"; TLS Trust Anchor
Identifiers, "Certificate Property Lists"; C2SP mtc-tlog for the prefix URL.
"""

from starlette.responses import Response

from mtc.acme.machine.orders import Order, Place
from mtc.acme.machine.problems import Problem, ProblemError, ProblemType, refused
from mtc.acme.server.authentication import Call
from mtc.acme.server.context import ServerContext
from mtc.acme.server.issuing import Issuing
from mtc.acme.server.replies import add_links, problem_reply
from mtc.errors import ConflictError, Reason, Rejected
from mtc.wire import PEMBlock, encode_pem, parse_pem

PLAIN = "application/pem-certificate-chain"
WITH_PROPERTIES = "application/pem-certificate-chain-with-properties"
OPTIONAL_ALTERNATE = "acme-optional-alternate"
PREFIX_URL = "c2sp.org/mtc-tlog/prefix-url"

_LEAST_RETRY_S = 1


class Certificates:
    """Answers for certificates."""

    def __init__(self, context: ServerContext, issuing: Issuing) -> None:
        """Take the server's parts."""
        self._context = context
        self._issuing = issuing

    @property
    def _has_optional_alternate(self) -> bool:
        """Tell whether the CA's draft has a relation of its own for the landmark-relative certificate."""
        return self._context.ca.parts.folder.config.revision.has_optional_alternate

    async def standalone(self, call: Call, order_id: str) -> Response:
        """Return the standalone certificate of an order."""
        order, place, spki = await self._issued(call, order_id)
        issued = self._issuing.fresh.get(order.id)
        if issued is None:
            try:
                issued = await self._context.ca.authority.standalone_of(place.log_number, place.index, spki)
            except ConflictError as error:
                raise _not_kept(error) from None
        response = self._chain(call, issued.pem)
        relation = OPTIONAL_ALTERNATE
        if not self._has_optional_alternate:
            # In draft -04 it is an alternate like others; clients that know nothing of it fail when it is not there.
            relation = "alternate" if _wants_properties(call) else ""
        if relation:
            add_links(response, {relation: self._context.url("certificate", order.id, "landmark")})
        return response

    async def landmark_relative(self, call: Call, order_id: str) -> Response:
        """Return the landmark-relative certificate of an order, or when to ask again."""
        _, place, spki = await self._issued(call, order_id)
        ca = self._context.ca
        try:
            upgraded = await ca.authority.landmark_relative_of(place.log_number, place.index, spki)
        except ConflictError as error:
            raise _not_kept(error) from None
        except Rejected as error:
            if error.reason is not Reason.NO_LANDMARK:
                raise refused(ProblemType.MALFORMED, error.message, status=404) from None
            return self._not_yet(error)
        ca.parts.metrics.count("mtc_issued_total", form="landmark")
        return self._chain(call, upgraded.pem)

    def _not_yet(self, error: Rejected) -> Response:
        """Say when a landmark will be there."""
        due = error.facts.get("next_due")
        wait = due - self._context.now().timestamp() if isinstance(due, int) else 3600.0
        response = Response(b"", 202)
        if not self._has_optional_alternate:
            detail = "the landmark-relative certificate is not there yet; the standalone one is complete without it"
            response = problem_reply(Problem(type=ProblemType.ORDER_NOT_READY, detail=detail, status=503))
        # A little later than the landmark is due, because it must be published first.
        response.headers["Retry-After"] = str(max(int(wait) + 2, _LEAST_RETRY_S))
        return response

    async def _issued(self, call: Call, order_id: str) -> tuple[Order, Place, bytes]:
        """Return an order of the account that asks, its place and its public key. Raises ProblemError without them."""
        account = call.owner
        call.check_empty()
        order = await self._context.store.find_order(order_id)
        if order is None or order.account_id != account.id:
            raise refused(ProblemType.MALFORMED, "the account has no such certificate", status=404)
        if order.place is None or order.finalized is None or not order.is_issued:
            raise refused(ProblemType.MALFORMED, "the order has no certificate", status=404)
        return order, order.place, order.finalized.spki

    def _chain(self, call: Call, pem: str) -> Response:
        """Return a chain in the form that the client wants."""
        folder = self._context.ca.parts.folder
        if _wants_properties(call):
            response = Response(pem, media_type=WITH_PROPERTIES)
        else:
            leaf = [block for block in parse_pem(pem.encode()) if block.label == "CERTIFICATE"]
            chain = [*leaf, PEMBlock("CERTIFICATE", folder.certificate.der)]
            response = Response(encode_pem(chain), media_type=PLAIN)
        # Both forms stand under one URL.
        response.headers["Vary"] = "Accept"
        if folder.config.prefix_url is not None:
            add_links(response, {PREFIX_URL: folder.config.prefix_url})
        return response


def _not_kept(error: ConflictError) -> ProblemError:
    """Make the error for a certificate whose part of the log is not kept any more."""
    return refused(ProblemType.MALFORMED, f"the certificate is not here any more: {error.message}", status=404)


def _wants_properties(call: Call) -> bool:
    """Tell whether a client knows certificate properties."""
    return accepts(call.request.headers.get("accept", ""), WITH_PROPERTIES)


def accepts(header: str, media_type: str) -> bool:
    """Tell whether an Accept header names a media type, and not with quality 0."""
    for item in header.split(","):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        if name == media_type:
            return all(part.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000") for part in parameters)
    return False
