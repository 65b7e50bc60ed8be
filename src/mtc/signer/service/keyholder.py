"""Who holds the key: decides, makes durable, signs, one request at a time.

The order of one answer, each step durable before the next: decide, write the journal, move the record, sign, answer. A
crash after the journal leaves a message that was perhaps never signed, and never a signature that the journal does not
name. So a tree that the journal names counts as signed, also where the record does not know it yet.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import assert_never

from mtc.crypto import LocalSigner, SignatureAlgorithm, Signer
from mtc.errors import Reason, Rejected
from mtc.merkle import Hasher
from mtc.signer.crl import CRLKind, CRLView, plan_crl
from mtc.signer.journal import CRLLine, TreeLine
from mtc.signer.machine import SignerView, SigningPlan, TreeRequest, plan_refusal, plan_signing
from mtc.signer.protocol import Answer, CRLRequest, KeyAnswer, KeyQuery, Request, SignedCRL, SignedMessages
from mtc.signer.rules import SignerRules
from mtc.signer.service.journal import Journal
from mtc.store import MAX_REGISTER_BYTES, Register
from mtc.web.clock import Clock

LOG_NAME = "signer-log"
CRL_NAME = "signer-crl"


class ThreadSigner:
    """`Signer` that makes the signatures of a key in this process in threads, several at a time.

    The library lets go of the interpreter's lock while it signs, so two cores sign twice as fast as one.
    """

    def __init__(self, key: LocalSigner) -> None:
        """Take the key."""
        self._key = key

    @property
    def algorithm(self) -> SignatureAlgorithm:
        """The one algorithm that this key signs with."""
        return self._key.algorithm

    @property
    def public_key(self) -> bytes:
        """SubjectPublicKeyInfo, DER."""
        return self._key.public_key

    async def sign(self, message: bytes) -> bytes:
        """Return a signature over `message`."""
        return await asyncio.to_thread(self._key.sign_now, message)


class KeyHolder:
    """Answers requests one at a time: decides, makes durable, signs."""

    def __init__(  # noqa: PLR0913 - the seams of a signer
        self, hasher: Hasher, rules: SignerRules, key: Signer, register: Register, journal: Journal, clock: Clock
    ) -> None:
        """Take the key and where its record and journal are."""
        self._hasher = hasher
        self._rules = rules
        self._key = key
        self._register = register
        self._journal = journal
        self._clock = clock
        self._turn = asyncio.Lock()

    async def answer(self, request: Request) -> Answer:
        """Do what a request asks for, or raise why not."""
        match request:
            case TreeRequest():
                return await self.sign(request)
            case CRLRequest(tbs):
                return SignedCRL(await self.sign_crl(tbs))
            case KeyQuery():
                return KeyAnswer(self._key.public_key)
            case _:
                assert_never(request)

    async def sign(self, request: TreeRequest) -> SignedMessages:
        """Sign a tree, or raise what `plan_signing` raises. StorageError: nothing was signed."""
        async with self._turn:
            now = self._clock.now()
            views, known = await self._read_views(request.log_number)
            plan = await self._plan(request, views, known, int(now.timestamp()))
            line = TreeLine(
                time=now.isoformat(),
                cosigner_id=self._rules.ca_id,
                log_number=request.log_number,
                tree_size=request.tree_size,
                root_hash=plan.checkpoint.subtree_hash,
                timestamp=plan.checkpoint.timestamp,
                subtrees=tuple((message.subtree, message.subtree_hash) for message in plan.subtrees),
            )
            await asyncio.to_thread(self._journal.append, line.encode())
            await self._keep(f"{LOG_NAME}-{request.log_number}", known, plan.view.encode())
            return await self._sign(plan)

    async def _plan(
        self, request: TreeRequest, views: Mapping[int, SignerView], known: bytes | None, now: int
    ) -> SigningPlan:
        """Decide about a tree. A refusal as stale is durable before it is told; see `plan_refusal`."""
        hasher, rules = self._hasher, self._rules
        try:
            return await asyncio.to_thread(plan_signing, hasher, rules, views, request, now)
        except Rejected as refusal:
            if refusal.reason is not Reason.STALE_EVIDENCE:
                raise
            line = await asyncio.to_thread(self._journal.find_tree, request.log_number)
            if line is not None and (line.tree_size, line.root_hash) == (request.tree_size, request.root_hash):
                announced = replace(request, evidence_until=0)
                return await asyncio.to_thread(plan_signing, hasher, rules, views, announced, now)
            refused = plan_refusal(views, request, now)
            await self._keep(f"{LOG_NAME}-{request.log_number}", known, refused.encode())
            raise

    async def sign_crl(self, tbs: bytes) -> bytes:
        """Sign a revocation list (TBSCertList, DER), or raise what `plan_crl` raises. StorageError: nothing signed."""
        async with self._turn:
            now = self._clock.now()
            known = {kind: await self._register.read(f"{CRL_NAME}-{kind}") for kind in CRLKind}
            views = {kind: CRLView.parse(data) for kind, data in known.items() if data is not None}
            identifier = self._key.algorithm.identifier
            plan = await asyncio.to_thread(plan_crl, self._rules, identifier, views, tbs, int(now.timestamp()))
            view = plan.view
            value = view.encode()
            if len(value) > MAX_REGISTER_BYTES:
                raise Rejected(
                    Reason.TOO_LARGE,
                    f"a revocation list of {len(view.ranges)} ranges is too scattered to be remembered; join ranges, "
                    "or raise the minimum serial",
                )
            line = CRLLine(time=now.isoformat(), kind=view.kind, number=view.number, tbs=tbs)
            await asyncio.to_thread(lambda: self._journal.append(line.encode()))
            await self._keep(f"{CRL_NAME}-{view.kind}", known[view.kind], value)
            return await self._key.sign(plan.message)

    async def _read_views(self, number: int) -> tuple[dict[int, SignerView], bytes | None]:
        """Return the views that a decision needs, this log's and its followers', and this log's as it is stored."""
        views: dict[int, SignerView] = {}
        own = await self._register.read(f"{LOG_NAME}-{number}")
        if own is not None:
            views[number] = SignerView.parse(own)
        # Logs are numbered without gaps, so the first one that was never signed ends the search.
        for later in range(number + 1, self._rules.highest_log + 1):
            data = await self._register.read(f"{LOG_NAME}-{later}")
            if data is None:
                break
            views[later] = SignerView.parse(data)
        return views, own

    async def _keep(self, name: str, known: bytes | None, value: bytes) -> None:
        """Make a view durable; a lost swap means that another process holds this key, and nothing is signed."""
        if known is None:
            await self._register.create(name, value)
        elif known != value:
            await self._register.swap(name, known, value)

    async def _sign(self, plan: SigningPlan) -> SignedMessages:
        """Sign the messages of a plan that is durable, all at once."""
        checkpoint, *subtrees = await asyncio.gather(
            *(self._key.sign(message.encode()) for message in (plan.checkpoint, *plan.subtrees))
        )
        return SignedMessages(
            checkpoint,
            tuple(
                (message.subtree, message.subtree_hash, signature)
                for message, signature in zip(plan.subtrees, subtrees, strict=True)
            ),
        )
