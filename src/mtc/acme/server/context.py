"""What every handler of the ACME server shares, and the URLs of its resources."""

import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from mtc.acme.config import ACMEConfig
from mtc.acme.machine.orders import Account
from mtc.acme.machine.problems import Problem, ProblemError, ProblemType
from mtc.acme.machine.validation import Method
from mtc.acme.seams import Validator
from mtc.acme.server.nonces import NoncePool
from mtc.acme.store import ACMEStore, RateLimit
from mtc.ca.service import RunningCA

_ID_BYTES = 9
_MEMORY_S = 1.0
"""How long an account is remembered without looking again; an operator's change takes effect within this time."""
_MAX_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class ServerContext:
    """The parts of one ACME server, in the process of its CA."""

    config: ACMEConfig
    store: ACMEStore
    ca: RunningCA
    validator: Validator
    nonces: NoncePool = field(default_factory=NoncePool)
    _accounts: dict[str, tuple[float, Account]] = field(default_factory=dict)

    async def find_account(self, account_id: str) -> Account | None:
        """Return an account, perhaps as it was a moment ago: every request of a client begins with it."""
        steady = self.ca.parts.clock.monotonic()
        known = self._accounts.get(account_id)
        if known is not None and steady - known[0] < _MEMORY_S:
            return known[1]
        account = await self.store.find_account(account_id)
        if account is not None:
            if len(self._accounts) >= _MAX_REMEMBERED:
                self._accounts.clear()
            self._accounts[account_id] = (steady, account)
        return account

    def forget_account(self, account_id: str) -> None:
        """Look again at the next request of an account, because it was changed, or is about to be."""
        self._accounts.pop(account_id, None)

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

    def lifetime_of(self, profile: str) -> timedelta:
        """Return how long certificates of a profile live, those of the default profile where there is no such one."""
        chosen = self.config.profiles.get(profile, self.config.default_profile)
        return chosen.lifetime or self.ca.parts.folder.config.profile.default_lifetime

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
