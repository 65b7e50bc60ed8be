"""One certificate at one server, kept fresh: what is due now is done, and each result is durable before the next step.

Spec: RFC 8555, "Applying for Certificate Issuance"; RFC 9773; Merkle Tree Certificates, "ACME Extensions", "Renewal".
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from mtc.acme.client.acceptance import MENDABLE, check_landmark_trusted, fetch_plain_chain, verify_new
from mtc.acme.client.accounts import AccountFolder, ServerChoice, retried, sign_in
from mtc.acme.client.connection import Seams, open_configured
from mtc.acme.client.disk import PRIVATE, NewFile, NewLink
from mtc.acme.client.documents import ACMERefusal, OrderState
from mtc.acme.client.folder import (
    CHAIN,
    FULLCHAIN,
    KEY,
    LANDMARK,
    STANDALONE,
    Attempts,
    LandmarkState,
    Lineage,
    OrderUnderWay,
    Version,
    VersionState,
    version_name,
)
from mtc.acme.client.keys import build_csr, encode_key, encode_spki, generate_key, parse_key
from mtc.acme.client.leaf import Leaf, check_landmark_relative, check_ordered
from mtc.acme.client.ordering import complete, download
from mtc.acme.client.protocol import ACMEClient, Issued, NotYet
from mtc.acme.client.renewal import MOST_CHECK_S, back_off_s
from mtc.acme.client.solvers import Solver
from mtc.acme.machine.identifiers import Identifier
from mtc.acme.machine.orders import OrderStatus
from mtc.cert import CertificateChain
from mtc.errors import ConflictError, Error, Reason, Rejected
from mtc.trust import TrustStore
from mtc.wire import find_pem_block

Tell = Callable[[str], None]
LANDMARK_ASK_S = 600.0
"""When to ask again for a landmark-relative certificate, where the server does not say."""
_LEAST_LANDMARK_S = 1.0
_DEADLINE_S = 300.0


class Kind(StrEnum):
    """Which of the two certificates of one set."""

    MTC = "mtc"
    CLASSICAL = "classical"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What certificate is wanted. reuses_key: a renewal keeps the key of the version before.

    trust: to verify against, None without. deadline_s: of each wait for the server.
    """

    kind: Kind
    server: ServerChoice
    identifiers: tuple[Identifier, ...]
    key_type: str
    reuses_key: bool = False
    trust: TrustStore | None = None
    has_classical: bool = False
    deadline_s: float = _DEADLINE_S


class Keeper:
    """Keeps one lineage fresh. Use one at a time; the caller holds the lock."""

    def __init__(  # noqa: PLR0913 - what a certificate takes
        self,
        wish: Wish,
        lineage: Lineage,
        account: AccountFolder,
        solvers: Sequence[Solver],
        tell: Tell,
        seams: Seams | None = None,
    ) -> None:
        """Take what is wanted, where it lies, and who answers challenges."""
        self.wish = wish
        self.lineage = lineage
        self._account = account
        self._solvers = solvers
        self._tell = tell
        self._seams = seams or Seams()

    def is_due(self, now: datetime) -> bool:
        """Tell whether a certificate is to be ordered, or an order to be gone on with."""
        current = self.lineage.current()
        if current is None or self.lineage.order() is not None:
            return True
        changed = frozenset(current.state.identifiers) != frozenset(self.wish.identifiers)
        moved = current.state.server != self.wish.server.directory
        return changed or moved or now >= current.renewal_moment

    def next_step(self) -> datetime | None:
        """Return when there is something to do again, None for at once."""
        attempts, current = self.lineage.attempts(), self.lineage.current()
        if self.is_due(self._seams.now()):
            return attempts.next_try
        assert current is not None
        moments = [current.renewal_moment]
        if current.state.landmark.is_wanted and current.state.landmark.next_try is not None:
            moments.append(current.state.landmark.next_try)
        if current.state.certificate_id is not None and current.state.renewal.next_check is not None:
            moments.append(current.state.renewal.next_check)
        return min(moments)

    async def refresh(self, *, is_forced: bool = False, is_patient: bool = False) -> bool:
        """Do what is due: ask when to renew, go on with an order, or order. Returns whether there is a new version.

        is_patient: after a failure nothing is tried before its time has come. Raises Error, and writes it down.
        """
        now = self._seams.now()
        attempts = self.lineage.attempts()
        if is_patient and not is_forced and attempts.next_try is not None and now < attempts.next_try:
            return False
        await self._check_renewal(now)
        if not is_forced and not self.is_due(now):
            self.lineage.keep_attempts(Attempts())
            return False
        try:
            async with self._connect() as client:
                await sign_in(client, self._account, self.wish.server)
                await retried(client, self._account, self.wish.server, lambda: self._obtain(client))
        except Error as error:
            asked = error.facts.get("retry_after_s")
            self.lineage.keep_attempts(
                attempts.after_failure(error.message, now, asked if isinstance(asked, float) else None)
            )
            raise
        self.lineage.keep_attempts(Attempts())
        await self._check_renewal(self._seams.now())
        return True

    async def fetch_landmark(self) -> bool:
        """Ask for the landmark-relative certificate if it is time. Returns whether it is new. Never raises Error."""
        current = self.lineage.current()
        now = self._seams.now()
        if current is None or not current.state.landmark.is_wanted:
            return False
        landmark = current.state.landmark
        if landmark.next_try is not None and now < landmark.next_try:
            return False
        try:
            async with self._connect() as client:
                await sign_in(client, self._account, self.wish.server)
                pem, wait_s = await self._find_landmark(client, current)
        except Error as error:
            failures = landmark.failures + 1
            later = now + timedelta(seconds=back_off_s(failures))
            changed = replace(landmark, failures=failures, next_try=later, note=error.message[:500])
            self.lineage.save(current, replace(current.state, landmark=changed))
            self._tell(f"the landmark-relative certificate did not come, which stops nothing: {error.message}")
            return False
        if pem is None:
            later = now + timedelta(seconds=min(max(wait_s, _LEAST_LANDMARK_S), MOST_CHECK_S))
            changed = replace(landmark, failures=0, next_try=later, note="")
            self.lineage.save(current, replace(current.state, landmark=changed))
            return False
        self.lineage.add(current, LANDMARK, NewFile(pem))
        changed = replace(landmark, is_stored=True, next_try=None, failures=0, note="")
        self.lineage.save(current, replace(current.state, landmark=changed))
        self._tell("the landmark-relative certificate is here")
        return True

    async def revoke(self, reason: int) -> None:
        """Revoke the current certificate, and have it replaced at once. Raises Rejected without one."""
        current = self.lineage.current()
        if current is None:
            raise Rejected(Reason.CONFLICT, f"there is no certificate in {self.lineage.folder} to revoke")
        name = STANDALONE if self.wish.kind is Kind.MTC else FULLCHAIN
        der = find_pem_block((current.folder / name).read_bytes(), "CERTIFICATE")
        async with self._connect() as client:
            await sign_in(client, self._account, self.wish.server)
            try:
                await client.revoke(der, reason=reason)
            except ACMERefusal as error:
                if error.problem.kind != "alreadyRevoked":
                    raise
        self.lineage.save(current, replace(current.state, is_revoked=True))
        self.lineage.keep_attempts(Attempts())

    def _connect(self) -> AbstractAsyncContextManager[ACMEClient]:
        """Return the connection to the server."""
        return open_configured(self.wish.server, self._account, self._seams)

    async def _check_renewal(self, now: datetime) -> None:
        """Ask the server when to renew, if it is time; a failure changes nothing but when to ask again."""
        current = self.lineage.current()
        if current is None or current.state.certificate_id is None:
            return
        plan = current.state.renewal
        # A server that is not asked for certificates any more is not asked for advice either.
        if not plan.is_check_due(now) or current.state.server != self.wish.server.directory:
            return
        try:
            async with self._connect() as client:
                window = await client.fetch_renewal_info(current.state.certificate_id)
        except Error as error:
            self._tell(f"the server did not say when to renew: {error.message}")
            window = None
        changed = plan.after_failure(now) if window is None else plan.with_window(window, now, self._seams.chance())
        if changed.selected is not None and changed.selected != plan.selected:
            why = f" ({changed.explanation_url})" if changed.explanation_url else ""
            self._tell(f"the server suggests to renew at {changed.selected:%F %T} UTC{why}")
        self.lineage.save(current, replace(current.state, renewal=changed))

    async def _obtain(self, client: ACMEClient) -> None:
        """Come from nothing, or from an order under way, to a version that servers load."""
        order = await self._take_up(client) or await self._order(client)
        order = await complete(
            client, order, self._solvers, self._csr, deadline_s=self.wish.deadline_s, tell=self._tell
        )
        self._tell("downloading the certificate")
        try:
            await self._store(client, order, await download(client, order))
        except Rejected as error:
            # With another trust store it may be welcome; otherwise the same download would fail for ever.
            if error.reason not in MENDABLE:
                self.lineage.drop_order()
            raise

    async def _take_up(self, client: ACMEClient) -> OrderState | None:
        """Return the order that is under way, if it is what is wanted and can still become a certificate."""
        known = self.lineage.order()
        if known is None:
            return None
        wanted = (self.wish.server.directory, frozenset(self.wish.identifiers), self.wish.key_type)
        if (known.server, frozenset(known.identifiers), known.key_type) != wanted:
            self.lineage.drop_order()
            return None
        try:
            order = await client.fetch_order(known.url)
        except ACMERefusal as error:
            if error.problem.kind == "accountDoesNotExist" or error.reason is Reason.BUSY:
                raise
            order = None
        is_open = order is not None and order.status in (OrderStatus.PENDING, OrderStatus.READY)
        is_done = order is not None and order.status in (OrderStatus.PROCESSING, OrderStatus.VALID)
        if is_open or (is_done and self.lineage.order_key() is not None):
            self._tell("going on with the order that was under way")
            return order
        self.lineage.drop_order()
        return None

    async def _order(self, client: ACMEClient) -> OrderState:
        """Make an order, and write it down."""
        wish, current = self.wish, self.lineage.current()
        names = ", ".join(map(str, wish.identifiers))
        self._tell(f"ordering a certificate for {names}")
        replaces = None
        if current is not None and current.state.server == wish.server.directory and client.directory.renewal_info:
            replaces = current.state.certificate_id
        try:
            order = await client.new_order(wish.identifiers, profile=wish.server.profile, replaces=replaces)
        except ACMERefusal as error:
            # An order of an earlier run may have replaced it already, or the server forgot it: no reason to have none.
            if replaces is None or error.problem.kind not in ("alreadyReplaced", "malformed"):
                raise
            order = await client.new_order(wish.identifiers, profile=wish.server.profile)
        self.lineage.begin_order(
            OrderUnderWay(
                server=wish.server.directory, url=order.url, identifiers=wish.identifiers, key_type=wish.key_type
            )
        )
        return order

    def _csr(self) -> bytes:
        """Return the certificate request; the key is durable before anybody sees it."""
        pem = self.lineage.order_key()
        if pem is None:
            current = self.lineage.current()
            if self.wish.reuses_key and current is not None and not current.state.is_revoked:
                pem = (current.folder / KEY).read_bytes()
            else:
                pem = encode_key(generate_key(self.wish.key_type))
            self.lineage.keep_order_key(pem)
        return build_csr(parse_key(pem), self.wish.identifiers)

    async def _store(self, client: ACMEClient, order: OrderState, issued: Issued) -> None:
        """Check a certificate, and let servers load it."""
        pem = self.lineage.order_key()
        if pem is None:
            raise ConflictError(Reason.CONFLICT, "the key of the order is gone; the next run orders anew")
        chain = issued.chains[0]
        leaf = Leaf.parse(chain.certificates[0])
        check_ordered(leaf, encode_spki(parse_key(pem)), self.wish.identifiers)
        plain = await fetch_plain_chain(client, order, issued)
        verified = await self._verify(client, leaf, plain, issued.prefix_url)
        content: dict[str, NewFile | NewLink] = {KEY: NewFile(pem, PRIVATE)}
        if self.wish.kind is Kind.MTC:
            content |= {STANDALONE: NewFile(chain.encode()), CHAIN: NewFile(plain.encode())}
            if self.wish.has_classical:
                content[Kind.CLASSICAL] = CLASSICAL_LINK
        else:
            content[FULLCHAIN] = NewFile(plain.encode())
        alternates = issued.alternates or issued.other_alternates
        self.lineage.publish(
            version_name(leaf.not_before, leaf.serial),
            content,
            VersionState(
                server=self.wish.server.directory,
                order_url=order.url,
                certificate_url=order.certificate or "",
                identifiers=self.wish.identifiers,
                serial=leaf.serial,
                not_before=leaf.not_before,
                not_after=leaf.not_after,
                certificate_id=leaf.certificate_id if client.directory.renewal_info else None,
                profile=order.profile or self.wish.server.profile,
                prefix_url=issued.prefix_url,
                is_mtc=leaf.mtc is not None,
                verified=verified,
                landmark=LandmarkState(urls=alternates if self._has_landmarks(leaf) else ()),
            ),
        )

    async def _verify(self, client: ACMEClient, leaf: Leaf, plain: CertificateChain, prefix_url: str | None) -> str:
        """Verify a Merkle Tree certificate, and return against what. Raises Rejected and others."""
        if not self._has_landmarks(leaf):
            return ""
        wish, now = self.wish, self._seams.now()
        return await verify_new(client, leaf, plain, prefix_url, wish.trust, wish.identifiers, now)

    def _has_landmarks(self, leaf: Leaf) -> bool:
        """Tell whether another form of a certificate may come."""
        return self.wish.kind is Kind.MTC and leaf.mtc is not None

    async def _find_landmark(self, client: ACMEClient, current: Version) -> tuple[bytes | None, float]:
        """Return the landmark-relative certificate, PEM, or when to ask again. Raises Error when none of them fits."""
        der = find_pem_block((current.folder / STANDALONE).read_bytes(), "CERTIFICATE")
        standalone = Leaf.parse(der)
        wait_s: float | None = None
        refused: Error | None = None
        for url in current.state.landmark.urls:
            try:
                answer = await client.fetch_certificate(url)
                if isinstance(answer, NotYet):
                    asked = LANDMARK_ASK_S if answer.retry_after_s is None else answer.retry_after_s
                    wait_s = asked if wait_s is None else min(wait_s, asked)
                    continue
                check_landmark_relative(answer.chains[0], standalone)
                if self.wish.trust is not None:
                    relative = Leaf.parse(answer.chains[0].certificates[0])
                    check_landmark_trusted(relative, self.wish.trust, self.wish.identifiers, self._seams.now())
            except Error as error:
                refused = error
                continue
            return answer.chains[0].encode(), 0.0
        if wait_s is None and refused is not None:
            raise refused
        return None, LANDMARK_ASK_S if wait_s is None else wait_s


CLASSICAL_LINK = NewLink("../../classical/current")
"""What a version of the Merkle Tree certificate has in it where there is a classical one beside it."""
