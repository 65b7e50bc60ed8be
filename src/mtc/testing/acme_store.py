"""The contract test of the ACME server's repository; an implementation is done when it passes.

It takes an empty store, and raises AssertionError with the broken promise.
"""

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from datetime import timedelta

from mtc.acme.machine.evidence import EvidenceRecord, RecordKind
from mtc.acme.machine.identifiers import Identifier
from mtc.acme.machine.orders import (
    AccountStatus,
    AuthorizationStatus,
    ChallengeStatus,
    OrderStatus,
    Place,
)
from mtc.acme.machine.problems import Problem, ProblemType
from mtc.acme.machine.renewal import Hastened, RenewalWindow
from mtc.acme.store import ACMEStore, Add, ExternalAccount, Put, RateLimit, Replace, Use
from mtc.errors import ConflictError, Error, StorageError, UsageError
from mtc.testing.acme_values import (
    HOUR,
    START,
    make_account,
    make_authorization,
    make_finalized,
    make_order,
    make_record,
)


async def _raises(family: type[Error], call: Awaitable[object]) -> bool:
    """Tell whether a call raises an error of that family."""
    try:
        await call
    except family:
        return True
    return False


_PROBLEM = Problem(
    type=ProblemType.RATE_LIMITED,
    detail="too much",
    retry_after_s=7,
    members={"algorithms": ["ES256"]},
    subproblems=(Problem(type=ProblemType.CAA, detail="no", status=418, identifier=Identifier.dns("a.example")),),
)


async def check_acme_store(store: ACMEStore) -> None:
    """Check every promise of `ACMEStore` that can be checked without a crash."""
    assert await store.list_accounts() == [], "the contract test needs an empty store"
    await _check_accounts(store)
    await _check_authorizations(store)
    await _check_orders(store)
    await _check_lists(store)
    await _check_replacements(store)
    await _check_commits(store)
    await _check_evidence(store)
    await _check_rates(store)
    await _check_external(store)
    await _check_blocks(store)
    await _check_hastened(store)
    await _check_races(store)


async def _check_accounts(store: ACMEStore) -> None:
    """Check that accounts are found by ID and key, and listed newest first."""
    account = make_account()
    await store.commit(Add(account))
    assert await store.find_account(account.id) == account, "an account comes back as it was"
    assert await store.find_account_by_key(account.thumbprint) == account, "an account is found by its key"
    assert await store.find_account("none") is None, "an unknown account is None"
    assert await store.find_account_by_key("none") is None, "an unknown key is None"
    assert await _raises(ConflictError, store.commit(Add(account))), "an ID is taken once"
    twin = replace(make_account(1), thumbprint=account.thumbprint)
    assert await _raises(ConflictError, store.commit(Add(twin))), "a key is taken once"
    changed = replace(account, status=AccountStatus.DEACTIVATED, contacts=(), thumbprint="other")
    await store.commit(Replace(changed))
    found = await store.find_account(account.id)
    assert found == replace(changed, version=1), "a change counts the version up"
    assert await store.find_account_by_key("thumbprint-0") is None, "a key that was given up finds nothing"
    assert await store.find_account_by_key("other") == found, "the new key finds the account"
    assert await _raises(ConflictError, store.commit(Replace(changed))), "a change of an old version fails"
    assert await _raises(ConflictError, store.commit(Replace(make_account(9)))), "what is not there is not changed"
    await store.commit(*(Add(make_account(number)) for number in (1, 2, 3)))
    taken = replace(make_account(1), thumbprint="other")
    assert await _raises(ConflictError, store.commit(Replace(taken))), "a change does not take another's key"
    assert [item.id for item in await store.list_accounts(most=3)] == ["account-3", "account-2", "account-1"]
    page = await store.list_accounts(after="account-1")
    assert [item.id for item in page] == ["account-0"], "a page goes on after the account that is named"
    await store.commit(Replace(replace(account, version=1)))


async def _check_authorizations(store: ACMEStore) -> None:
    """Check that authorizations are found by ID, by what they are valid for, and while they run."""
    first, second = make_authorization(0), make_authorization(1, "*.example.com")
    await store.commit(Add(first), Add(second))
    assert await store.find_authorization(first.id) == first, "an authorization comes back as it was"
    assert await store.find_authorization("none") is None, "an unknown authorization is None"
    assert await store.find_authorizations([second.id, first.id, second.id]) == [second, first, second], "in order"
    assert await store.find_authorizations([]) == [], "nothing asked, nothing found"
    assert await _raises(StorageError, store.find_authorizations([first.id, "none"])), "a missing one is an error"
    assert await store.list_running() == [], "what nobody began does not run"
    running = replace(first, challenges=(replace(first.challenges[0], status=ChallengeStatus.PROCESSING),))
    await store.commit(Replace(running))
    running = replace(running, version=1)
    assert await store.list_running() == [running], "what was begun runs"

    identifiers = [first.identifier, second.identifier]
    assert await store.find_valid("account-0", identifiers, START) == {}, "what is pending is not valid"
    done = replace(
        running,
        status=AuthorizationStatus.VALID,
        challenges=(replace(first.challenges[0], status=ChallengeStatus.VALID, validated=START, error=_PROBLEM),),
        validated=START,
        validation_id=17,
        caa_checked=START,
        caa_id=18,
        expires=START + 5 * HOUR,
    )
    await store.commit(Replace(done))
    done = replace(done, version=2)
    assert await store.list_running() == [], "what is done does not run any more"
    assert await store.find_authorization(first.id) == done, "all that was learned comes back"
    assert await store.find_valid("account-0", identifiers, START) == {first.identifier: done}, "by identifier"
    assert await store.find_valid("account-1", identifiers, START) == {}, "of the account alone"
    assert await store.find_valid("account-0", identifiers, START + 5 * HOUR) == {}, "it must expire after"
    shorter = replace(done, id="authorization-2", expires=START + 4 * HOUR, version=0)
    longer = replace(done, id="authorization-3", expires=START + 6 * HOUR, version=0)
    await store.commit(Add(shorter), Add(longer))
    assert await store.find_valid("account-0", identifiers, START) == {first.identifier: longer}, "the longest"
    await store.commit(Replace(replace(longer, status=AuthorizationStatus.DEACTIVATED)))
    assert await store.find_valid("account-0", identifiers, START) == {first.identifier: done}, "only valid ones"


async def _check_orders(store: ACMEStore) -> None:
    """Check that an order comes back as it was, at each step of its life."""
    order = make_order(0, authorizations=("authorization-0",))
    await store.commit(Add(order))
    assert await store.find_order(order.id) == order, "an order comes back as it was"
    assert await store.find_order("none") is None, "an unknown order is None"
    assert await _raises(ConflictError, store.commit(Add(order))), "an ID is taken once"
    assert await store.count_open_orders("account-0", START) == 1, "a new order is open"
    assert await store.count_open_orders("account-0", order.expires) == 0, "until it expires"
    assert await store.count_open_orders("account-1", START) == 0, "for its account"
    assert await store.list_unfinished() == [], "a new order asked for nothing yet"

    order = replace(order, finalized=make_finalized())
    await store.commit(Replace(order))
    order = replace(order, version=1)
    assert await store.find_order(order.id) == order, "what was asked for comes back"
    assert await store.list_unfinished() == [order], "what was asked for and not issued is unfinished"
    assert await store.count_open_orders("account-0", START) == 0, "a finalized order is not open"
    assert await store.find_order_at(1, 5) is None, "no place was noted"
    order = replace(order, place=Place(log_number=1, index=5))
    await store.commit(Replace(order))
    order = replace(order, version=2)
    assert await store.find_order_at(1, 5) == order, "an order is found at its place"
    assert await store.find_order_at(2, 5) is None, "in its log"
    assert await store.list_unfinished() == [order], "a place is not a certificate"
    await store.commit(Replace(replace(order, is_issued=True)))
    assert await store.list_unfinished() == [], "an issued order is finished"
    assert await _raises(ConflictError, store.commit(Replace(order))), "a change of an old version fails"

    failed = replace(make_order(1), finalized=make_finalized(), error=_PROBLEM)
    await store.commit(Add(failed))
    assert await store.find_order(failed.id) == failed, "a problem comes back whole"
    assert await store.list_unfinished() == [], "what failed is finished"


async def _check_lists(store: ACMEStore) -> None:
    """Check that orders are listed newest first, by account and by what is stored of their status."""
    finalized = replace(make_order(2, "account-1"), finalized=make_finalized())
    # Made at the same time as the one before.
    pending = replace(make_order(3, "account-1"), created=finalized.created)
    await store.commit(Add(finalized), Add(pending))

    async def ids(account: str | None = None, **choice: object) -> list[str]:
        return [item.id for item in await store.list_orders(account, **choice)]  # type: ignore[arg-type]  # as given

    assert await ids() == ["order-3", "order-2", "order-1", "order-0"], "newest first, then by ID"
    assert await ids(most=2) == ["order-3", "order-2"], "no more than asked for"
    assert await ids(after="order-3", most=2) == ["order-2", "order-1"], "after the one that is named"
    assert await ids(after="order-0") == [], "and nothing after the last"
    assert await ids("account-1") == ["order-3", "order-2"], "of an account"
    assert await ids("account-1", after="order-3") == ["order-2"], "of an account, after one"
    expected = {
        OrderStatus.PENDING: "order-3",
        OrderStatus.PROCESSING: "order-2",
        OrderStatus.INVALID: "order-1",
        OrderStatus.VALID: "order-0",
    }
    for status, order_id in expected.items():
        assert await ids(status=status) == [order_id], f"{status} orders"
        assert await ids(status=status, after=order_id) == [], f"{status} orders after one"
    assert await ids("account-0", status=OrderStatus.PENDING) == [], "account and status together"
    assert await _raises(UsageError, store.list_orders(status=OrderStatus.READY)), "what is derived is not asked for"


async def _check_replacements(store: ACMEStore) -> None:
    """Check that one order at a time replaces a certificate."""
    first = replace(make_order(10), replaces="certificate")
    second = replace(make_order(11), replaces="certificate")
    assert await store.find_replacement("certificate") is None, "nothing replaces it"
    await store.commit(Add(first))
    assert await store.find_replacement("certificate") == first, "the order that replaces it is found"
    assert await _raises(ConflictError, store.commit(Add(second))), "a second one may not"
    await store.commit(Replace(replace(first, error=_PROBLEM)))
    assert await store.find_replacement("certificate") is None, "an invalid order replaces nothing"
    await store.commit(Add(second))
    assert await store.find_replacement("certificate") == second, "another one may take its place"
    late = replace(make_order(12), replaces="certificate", created=second.expires, expires=second.expires + HOUR)
    await store.commit(Add(late))
    assert await store.find_replacement("certificate") == late, "an order that expired keeps nobody away"
    await store.commit(Replace(replace(late, finalized=make_finalized())))
    later = replace(late, id="order-13", created=late.expires + HOUR, expires=late.expires + 2 * HOUR)
    assert await _raises(ConflictError, store.commit(Add(later))), "a finalized one does, however old"


async def _check_commits(store: ACMEStore) -> None:
    """Check that all changes of a commit are made, or none."""
    account = make_account(20)
    refused = store.commit(Add(account), Put(make_record("none")), Add(make_account(0)))
    assert await _raises(ConflictError, refused), "one change that fails refuses them all"
    assert await store.find_account(account.id) is None, "and nothing of them stays"
    assert await store.list_records("none") == [], "no evidence either"
    assert await store.commit() == (), "a commit of nothing is one"
    await store.commit(Add(account), Replace(replace(account, address="other")))
    found = await store.find_account(account.id)
    assert found is not None, "changes of one commit see each other"
    assert (found.address, found.version) == ("other", 1), "in their order"


async def _check_evidence(store: ACMEStore) -> None:
    """Check that records get rising IDs, and come back as they were."""
    first, second = make_record("order-0"), make_record("order-0", RecordKind.CAA)
    bare = EvidenceRecord(kind=RecordKind.REVOCATION, moment=START, account_id="", is_positive=False)
    ids = await store.commit(Put(first), Add(make_account(30)), Put(second), Put(bare))
    assert len(ids) == 3, "one ID for each record"
    assert list(ids) == sorted(set(ids)), "IDs rise"
    assert ids[0] > 0, "and 0 is none"
    more = await store.commit(Put(make_record()))
    assert more[0] > ids[2], "from commit to commit"
    assert await store.find_records([ids[2], ids[0]]) == [replace(bare, id=ids[2]), replace(first, id=ids[0])], (
        "in order"
    )
    assert await store.find_records([10**9, ids[1]]) == [replace(second, id=ids[1])], "missing ones are left out"
    assert [record.id for record in await store.list_records("order-0")] == list(ids[:2]), "those of an order"
    taken = store.commit(Put(replace(first, document={"id": 1})))
    assert await _raises(UsageError, taken), "a document does not overwrite what the record says"


async def _check_rates(store: ACMEStore) -> None:
    """Check that a limit gives its burst at once, and the rest evenly, to each key."""
    limit = RateLimit(name="orders", burst=4, period_s=40.0)
    assert [await store.take(limit, "a", START) for _ in range(4)] == [0.0] * 4, "the burst at once"
    assert await store.take(limit, "a", START) == 10.0, "then the time to wait"
    assert await store.take(limit, "b", START) == 0.0, "another key has its own"
    assert await store.take(replace(limit, name="other"), "a", START) == 0.0, "another limit as well"
    later = START + timedelta(seconds=10)
    assert await store.take(limit, "a", later - timedelta(seconds=1)) == 1.0, "a refusal takes nothing"
    assert await store.take(limit, "a", later) == 0.0, "after that time there is one"
    assert await store.take(limit, "a", later) == 10.0, "and no more"
    assert await store.take(limit, "a", later, cost=3) == 30.0, "more costs more time"
    assert await store.take(limit, "c", START, cost=4) == 0.0, "the whole burst may be taken at once"
    assert await store.take(limit, "d", START, cost=5) > 0.0, "more than that never"
    await store.take(limit, "e", START + 1000 * HOUR, cost=4)
    assert await store.take(limit, "e", START) <= 40.0, "a clock that was put back locks nobody out"


async def _check_external(store: ACMEStore) -> None:
    """Check that a key for external account binding is used once."""
    first = ExternalAccount(kid="kid-1", secret=bytes(range(32)), created=START, allowed_names=("a.example",), note="ä")
    second = ExternalAccount(kid="kid-2", secret=bytes(32), created=START + HOUR)
    await store.add_external(first)
    await store.add_external(second)
    assert await store.find_external("kid-1") == first, "a key comes back as it was"
    assert await store.find_external("none") is None, "an unknown one is None"
    assert await _raises(ConflictError, store.add_external(first)), "a name is taken once"
    assert await store.list_external() == [second, first], "newest first"
    await store.commit(Use("kid-1"), Add(make_account(40)))
    assert await store.find_external("kid-1") == replace(first, is_used=True), "a key is used"
    assert await _raises(ConflictError, store.commit(Add(make_account(41)), Use("kid-1"))), "once"
    assert await store.find_account("account-41") is None, "and nothing of the rest is kept"
    await store.revoke_external("kid-2")
    assert await _raises(ConflictError, store.commit(Use("kid-2"))), "a revoked key is not used"
    assert await _raises(ConflictError, store.commit(Use("none"))), "nor an unknown one"
    assert await store.list_external() == [replace(second, is_revoked=True), replace(first, is_used=True)], "all"
    assert await _raises(ConflictError, store.revoke_external("none")), "what is not there is not revoked"


async def _check_blocks(store: ACMEStore) -> None:
    """Check that a name is blocked with all below it, and a key by its hash."""
    digest = "ab" * 32
    await store.block("name", "Bad.Example", "phishing", START)
    await store.block("name", "192.0.2.7", "address", START)
    await store.block("key", digest.upper(), "leaked", START + HOUR)
    bad = ("name", "bad.example", "phishing")
    for name in ("bad.example", "www.bad.example", "*.bad.example", "a.b.bad.example", "*.example"):
        assert await store.find_block(["good.example", name], []) == bad, f"{name} falls under the block"
    for name in ("example", "notbad.example", "bad.example.com", "*.com", "2.7", "192.0.2.8", "*.2.bad.test"):
        assert await store.find_block([name], ["00" * 32]) is None, f"{name} does not"
    assert await store.find_block(["192.0.2.7"], []) == ("name", "192.0.2.7", "address"), "an address is a name here"
    assert await store.find_block([], [digest]) == ("key", digest, "leaked"), "a key by its hash"
    assert await store.find_block([], []) is None, "nothing asked, nothing found"
    await store.block("name", "bad.example", "malware", START + 2 * HOUR)
    blocks = await store.list_blocks()
    assert ("name", "bad.example", "malware", START + 2 * HOUR) in blocks, "a block anew replaces the one before"
    assert len(blocks) == 3, "and counts once"
    assert await store.unblock("name", "BAD.example"), "a block is taken back"
    assert not await store.unblock("name", "bad.example"), "once"
    assert await store.find_block(["bad.example"], []) is None, "and does not hold any more"
    assert await _raises(UsageError, store.block("colour", "red", "", START)), "only names and keys are blocked"


async def _check_hastened(store: ACMEStore) -> None:
    """Check that what was said last about the renewal of an entry counts, and only about that entry."""
    early, late = RenewalWindow(START, START + HOUR), RenewalWindow(START + HOUR, START + 2 * HOUR)
    many = Hastened(log_number=1, start=10, end=20, window=late)
    one = Hastened(log_number=1, start=12, end=13, window=early, explanation_url="https://ca.example/why")
    await store.hasten(many, START)
    await store.hasten(one, START)
    assert await store.find_hastened(1, 10) == many, "the first entry of a span is in it"
    assert await store.find_hastened(1, 19) == many, "and the last one"
    assert await store.find_hastened(1, 12) == one, "the later word counts"
    for log_number, index in ((1, 9), (1, 20), (2, 12)):
        assert await store.find_hastened(log_number, index) is None, "nothing was said of others"
    await store.hasten(replace(many, window=early), START)
    assert await store.find_hastened(1, 12) == replace(many, window=early), "also for a part of the span"


async def _check_races(store: ACMEStore) -> None:
    """Check that of many that change one version exactly one succeeds, and nobody else is hurt."""
    await store.commit(Add(make_order(50)))
    order = await store.find_order("order-50")
    assert order is not None

    async def change(number: int) -> bool:
        own = make_account(1000 + number)
        lost = await _raises(ConflictError, store.commit(Add(own), Replace(replace(order, profile=f"p{number}"))))
        assert (await store.find_account(own.id) is None) == lost, "a commit is made whole or not"
        await store.commit(Add(make_account(2000 + number)), Put(make_record("order-50")))
        return not lost

    outcomes = await asyncio.gather(*(change(number) for number in range(40)))
    assert outcomes.count(True) == 1, "of several changes of one version exactly one succeeds"
    found = await store.find_order("order-50")
    assert found is not None
    assert (found.profile, found.version) == (f"p{outcomes.index(True)}", 1), "and its value is the one that stays"
    ids = [record.id for record in await store.list_records("order-50")]
    assert len(ids) == len(set(ids)) == 40, "every record has an ID of its own"
