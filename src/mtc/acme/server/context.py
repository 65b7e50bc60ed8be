"""What every handler of the ACME server shares, and the URLs of its resources."""

import secrets
from dataclasses import dataclass, field
from datetime import datetime

from mtc.acme.config import ACMEConfig
from mtc.acme.machine.problems import Problem, ProblemError, ProblemType
from mtc.acme.machine.validation import Method
from mtc.acme.seams import Validator
from mtc.acme.server.nonces import NoncePool
from mtc.acme.store import ACMEStore, RateLimit
from mtc.ca.service import RunningCA

_ID_BYTES = 9


@dataclass(frozen=True, slots=True)
class ServerContext:
    """The parts of one ACME server, in the process of its CA."""

    config: ACMEConfig
    store: ACMEStore
    ca: RunningCA
    validator: Validator
    nonces: NoncePool = field(default_factory=NoncePool)

    def now(self) -> datetime:
        """Return the time of day."""
        return self.ca.parts.clock.now()

    def new_id(self) -> str:
        """Return the ID of a new resource: IDs that are made later sort later."""
        milliseconds = int(self.now().timestamp() * 1000)
        return f"{milliseconds:011x}{secrets.token_hex(_ID_BYTES)}"

    def url(self, *parts: str) -> str:
        """Return the URL of a resource."""
        return "/".join((self.config.url, *parts))

    def account_url(self, account_id: str) -> str:
        """Return the URL of an account, which is also its key ID."""
        return self.url("account", account_id)

    def order_url(self, order_id: str) -> str:
        """Return the URL of an order."""
        return self.url("order", order_id)

    def authorization_url(self, authorization_id: str) -> str:
        """Return the URL of an authorization."""
        return self.url("authorization", authorization_id)

    def challenge_url(self, authorization_id: str, method: Method) -> str:
        """Return the URL of a challenge."""
        return self.url("challenge", authorization_id, str(method))

    def certificate_url(self, order_id: str) -> str:
        """Return the URL of the standalone certificate of an order."""
        return self.url("certificate", order_id)

    @property
    def caa_domains(self) -> tuple[str, ...]:
        """The issuer domain names of this CA in CAA records."""
        return self.config.caa_identities or (self.config.hostname,)

    def count(self, name: str, **labels: object) -> None:
        """Count something for the metrics."""
        self.ca.parts.metrics.count(name, 1, **labels)

    async def take(self, limit: RateLimit, key: str, what: str) -> None:
        """Take from a rate limit. Raises ProblemError (rateLimited) that says when to come again."""
        wait = await self.store.take(limit, key, self.now())
        if wait <= 0:
            return
        self.count("mtc_acme_limited_total", limit=limit.name)
        seconds = max(int(wait + 0.999), 1)
        raise ProblemError(
            Problem(
                type=ProblemType.RATE_LIMITED,
                detail=f"too many {what}: {limit.burst} in {limit.period_s:.0f} s are allowed; wait for {seconds} s",
                retry_after_s=seconds,
            )
        )
