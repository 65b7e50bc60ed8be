"""One order from beginning to certificate: challenges answered side by side, and the answers always withdrawn.

Spec: RFC 8555, "Applying for Certificate Issuance".
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from mtc.acme.client.documents import ACMERefusal, AuthorizationState, OrderState
from mtc.acme.client.protocol import ACMEClient, Issued, NotYet
from mtc.acme.client.solvers import Answer, Solver
from mtc.acme.machine.orders import AuthorizationStatus, OrderStatus
from mtc.errors import Error, PeerError, Reason, UsageError

Tell = Callable[[str], None]
"""Takes one line about what happens now."""

_FINALIZED = frozenset({OrderStatus.PROCESSING, OrderStatus.VALID, OrderStatus.INVALID})
_READY = _FINALIZED | {OrderStatus.READY}


def _nothing(_text: str) -> None:
    """Tell nobody."""


async def authorize(
    client: ACMEClient,
    order: OrderState,
    solvers: Sequence[Solver],
    *,
    deadline_s: float = 300.0,
    tell: Tell = _nothing,
) -> None:
    """Have everything validated that an order needs. Raises ACMERefusal, PeerError, UsageError without a solver.

    Several failures are told together, as the first of them; all answers are withdrawn in any case.
    """
    states = await asyncio.gather(*(client.fetch_authorization(url) for url in order.authorizations))
    pending = [state for state in states if state.status is not AuthorizationStatus.VALID]
    by_method: Mapping[str, Solver] = {str(solver.method): solver for solver in solvers}
    results = await asyncio.gather(
        *(_validate(client, state, by_method, deadline_s, tell) for state in pending), return_exceptions=True
    )
    failures: list[Error] = []
    for result in results:
        if isinstance(result, Error):
            failures.append(result)
        elif isinstance(result, BaseException):
            # A defect must not hide behind a refusal.
            raise result
    if failures:
        raise _together(failures)


def _together(failures: Sequence[Error]) -> Error:
    """Return one error for several names: the first one, with what the others say."""
    first = failures[0]
    if len(failures) == 1:
        return first
    text = "; ".join(dict.fromkeys(failure.message for failure in failures))
    if isinstance(first, ACMERefusal):
        return ACMERefusal.told(first, text)
    return type(first)(first.reason, text, **first.facts)


async def _validate(
    client: ACMEClient, state: AuthorizationState, solvers: Mapping[str, Solver], deadline_s: float, tell: Tell
) -> None:
    """Have one identifier validated."""
    shown = f"*.{state.identifier}" if state.is_wildcard else str(state.identifier)
    if state.status is not AuthorizationStatus.PENDING:
        raise PeerError(Reason.FORBIDDEN, f"the authorization of {shown} is {state.status}")
    challenge = next((item for item in state.challenges if item.type in solvers), None)
    if challenge is None:
        offered = ", ".join(item.type for item in state.challenges) or "nothing"
        raise UsageError(
            Reason.UNSUPPORTED,
            f"the server offers {offered} for {shown}, and this run answers {', '.join(solvers) or 'nothing'}"
            + ("; a wildcard needs dns-01 (--dns-hook)" if state.is_wildcard else ""),
        )
    solver = solvers[challenge.type]
    answer = Answer(state.identifier, challenge.token, client.key_authorization(challenge))
    try:
        tell(f"preparing {challenge.type} for {shown}")
        await solver.present(answer)
        await client.respond(challenge)
        tell(f"waiting for the server to validate {shown} ({challenge.type})")
        await client.wait_for_authorization(state.url, deadline_s)
        tell(f"{shown} is validated ({challenge.type})")
    finally:
        await solver.withdraw(answer)


async def complete(  # noqa: PLR0913 - what an order needs
    client: ACMEClient,
    order: OrderState,
    solvers: Sequence[Solver],
    csr: Callable[[], bytes],
    *,
    deadline_s: float = 300.0,
    tell: Tell = _nothing,
) -> OrderState:
    """Take an order from where it stands to `valid`. csr: makes the request, DER, when it is time for it.

    deadline_s: for each wait. Raises as `authorize`; the order goes on from where it stood when this is called again.
    """
    if order.status is OrderStatus.PENDING:
        await authorize(client, order, solvers, deadline_s=deadline_s, tell=tell)
        order = await client.wait_for_order(await client.fetch_order(order.url), deadline_s, until=_READY)
    if order.status is OrderStatus.READY:
        tell("sending the certificate request")
        order = await client.finalize(order, csr())
    if order.status is not OrderStatus.VALID:
        tell("waiting for the certificate")
        order = await client.wait_for_order(order, deadline_s)
    return order


async def download(client: ACMEClient, order: OrderState) -> Issued:
    """Return the certificate of a valid order. Raises PeerError when the server does not have it after all."""
    if order.certificate is None:
        raise PeerError(Reason.BAD_DOCUMENT, "the order is valid, and the server does not say where its certificate is")
    issued = await client.fetch_certificate(order.certificate)
    if isinstance(issued, NotYet):
        raise PeerError(Reason.PEER, "the order is valid, and the server does not have its certificate yet")
    return issued
