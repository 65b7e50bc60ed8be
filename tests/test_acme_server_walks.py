"""Random walks of clients, validations and time: states change as RFC 8555 allows, and entries are what was shown.

Whatever clients, applicants' servers, CAA records, the disk and the clock do: an order goes forward, never back; what
is logged was validated for each of its names, by its account, within the bounds of age.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from tests.acme_server import Client, Key, ServerUnderTest, b64, csr_for, default_config, identifier, leaf_of, run_with

from mtc.acme.config import ValidationChoices
from mtc.acme.machine.evidence import EvidenceRecord, RecordKind
from mtc.acme.machine.identifiers import Identifier
from mtc.acme.machine.problems import Problem, ProblemType
from mtc.acme.server import issuing
from mtc.acme.store import ACMEStore, Change
from mtc.cert import Certificate
from mtc.errors import Reason, StorageError

NAMES = ("a.example.com", "b.example.com", "*.a.example.com", "192.0.2.1")
STEPS = 70
HOUR_S = 3600
REUSE, CAA_REUSE = timedelta(days=3), timedelta(hours=8)
ORDER_MOVES = {
    "pending": {"ready", "processing", "valid", "invalid"},
    "ready": {"processing", "valid", "invalid"},
    "processing": {"valid", "invalid"},
    "valid": set[str](),
    "invalid": set[str](),
}
"""RFC 8555, "Status Changes", for orders; between two looks an order may make several moves."""
AUTHORIZATION_MOVES = {
    "pending": {"valid", "invalid", "deactivated", "expired", "revoked"},
    "valid": {"deactivated", "expired", "revoked"},
    **{status: set[str]() for status in ("invalid", "deactivated", "expired", "revoked")},
}


class ShakyStore:
    """A store of which some commits fail: half of them are lost, the others kept and not reported.

    share: of the commits that fail. chance: which.
    """

    def __init__(self, inner: ACMEStore, chance: random.Random) -> None:
        self.share = 0.0
        self._inner, self._chance = inner, chance

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the store has
        """Pass on what does not fail."""
        return getattr(self._inner, name)

    async def commit(self, *changes: Change) -> tuple[int, ...]:
        """Commit, or fail."""
        place = self._chance.random()
        if place < self.share / 2:
            raise StorageError(Reason.STORAGE, "nothing was kept")
        numbers = await self._inner.commit(*changes)
        if place < self.share:
            raise StorageError(Reason.STORAGE, "everything was kept")
        return numbers


@dataclass
class Walk:
    """One walk. states: of orders and authorizations by URL, as last seen. orders: by URL, of whom, for which names."""

    server: ServerUnderTest
    rng: random.Random
    clients: list[Client]
    states: dict[str, str] = field(default_factory=dict)
    orders: dict[str, tuple[Client, tuple[str, ...]]] = field(default_factory=dict)
    moves: set[tuple[str, str]] = field(default_factory=set)

    def note(self, url: str, status: str, allowed: dict[str, set[str]]) -> None:
        """Remember a state; fail for a move that is not allowed."""
        before = self.states.setdefault(url, status)
        assert status == before or status in allowed[before], f"{url}: {before} -> {status}"
        self.moves.add((before, status))
        self.states[url] = status

    async def look(self) -> None:
        """Look at every order and authorization."""
        for url, (client, _) in self.orders.items():
            answer = await client.post(url)
            self.note(url, answer.json["status"], ORDER_MOVES)
            assert ("certificate" in answer.json) == (answer.json["status"] == "valid")
            states = []
            for authorization in answer.json["authorizations"]:
                shown = await client.post(authorization)
                states.append(shown.json["status"])
                self.note(authorization, shown.json["status"], AUTHORIZATION_MOVES)
            if answer.json["status"] == "ready":
                assert set(states) == {"valid"}
            if answer.json["status"] == "pending":
                assert set(states) <= {"valid", "pending"}
                assert "pending" in states

    async def order(self) -> None:
        """Make an order."""
        client = self.rng.choice(self.clients)
        names = tuple(self.rng.sample(NAMES, self.rng.randint(1, 2)))
        answer = await client.post("new-order", {"identifiers": [identifier(name) for name in names]})
        # Storage that fails is 503; whether there is an order then, this client never learns.
        assert answer.status in (201, 503), answer
        if answer.status == 201:
            self.orders[answer.location] = (client, names)

    async def respond(self) -> None:
        """Answer some challenge, rightly or not."""
        picked = await self._pick()
        if picked is None:
            return
        client, answer = picked
        for name in ("a.example.com", "b.example.com", "192.0.2.1"):
            self.server.validator.problems.pop(name, None)
            if self.rng.random() < 0.1:
                self.server.validator.refuse(name)
        url = self.rng.choice(answer["authorizations"])
        challenge = self.rng.choice((await client.post(url)).json["challenges"] or [None])
        if challenge is not None:
            await client.post(challenge["url"], {})

    async def finalize(self) -> None:
        """Finalize some order, ready or not; CAA may have changed."""
        ready = [url for url in self.orders if self.states.get(url) == "ready"]
        picked = await self._pick(ready if ready and self.rng.random() < 0.7 else None)
        if picked is None:
            return
        client, answer = picked
        self.server.validator.caa.clear()
        if self.rng.random() < 0.2:
            self.server.validator.caa["a.example.com"] = Problem(type=ProblemType.CAA, detail="no")
        names = [item["value"] for item in answer["identifiers"]]
        if self.rng.random() < 0.1:
            names.append("c.example.com")
        result = await client.post(answer["finalize"], {"csr": _csr(names)})
        assert result.status in (200, 400, 403, 503), result
        if result.status != 200:
            assert result.problem in ("orderNotReady", "badCSR", "caa", "rateLimited", "serverInternal"), result

    async def give_up(self) -> None:
        """Deactivate some authorization."""
        picked = await self._pick()
        if picked is not None and self.rng.random() < 0.4:
            client, answer = picked
            await client.post(self.rng.choice(answer["authorizations"]), {"status": "deactivated"})

    async def wait(self) -> None:
        """Let time pass."""
        self.server.clock.advance(self.rng.choice((60, HOUR_S, 5 * HOUR_S, 9 * HOUR_S, 26 * HOUR_S, 80 * HOUR_S)))

    async def _pick(self, urls: list[str] | None = None) -> tuple[Client, dict[str, Any]] | None:
        """Return some order, one of these or a newer one, its account's client first."""
        if not self.orders:
            return None
        url = self.rng.choice(urls or list(self.orders)[-6:])
        client = self.orders[url][0]
        return client, (await client.post(url)).json

    async def settle(self) -> None:
        """Let what was begun come to its end."""
        server = self.server.server
        while tasks := [*server.issuing._running.values(), *server.challenges._tasks]:
            await asyncio.wait(tasks)
            await asyncio.sleep(0)


def _csr(names: list[str]) -> str:
    """Return a certificate request as finalize wants it."""
    return b64(csr_for(names))


async def check_entries(walk: Walk) -> int:
    """Check each entry of the log against its order and its evidence. Returns how many there are."""
    server, seen = walk.server, set()
    for url, (client, names) in walk.orders.items():
        answer = await client.post(url)
        if answer.json["status"] != "valid":
            continue
        der = leaf_of((await client.post(answer.json["certificate"])).body)
        index = Certificate.parse(der).serial & ((1 << 48) - 1)
        seen.add(index)
        san = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = {*san.get_values_for_type(x509.DNSName), *map(str, san.get_values_for_type(x509.IPAddress))}
        assert found == set(names)
        records = await server.store.list_records(url.rpartition("/")[2])
        finalization = next(record for record in records if record.kind is RecordKind.FINALIZATION)
        numbers = finalization.document["evidence"]
        assert isinstance(numbers, list)
        evidence = await server.store.find_records(numbers)
        for item in answer.json["identifiers"]:
            _check_evidence(Identifier.parse(item["type"], item["value"]), finalization.moment, client, evidence)
    assert seen == set(range(server.ca.log.record.tree_size)), "each entry belongs to one valid order"
    return len(seen)


def _check_evidence(identifier: Identifier, moment: datetime, client: Client, evidence: list[EvidenceRecord]) -> None:
    """Check that a name was validated, and CAA looked up, for this account and not too long ago."""
    own = [record for record in evidence if record.identifier == identifier]
    assert all(record.is_positive and str(client.kid).endswith(record.account_id) for record in own)
    validations = [record.moment for record in own if record.kind is RecordKind.VALIDATION]
    assert validations
    assert max(validations) > moment - REUSE
    assert max(record.moment for record in own) > moment - CAA_REUSE


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the server come back soon to what a failing commit left unfinished."""
    monkeypatch.setattr(issuing, "_FOLLOW_UP_S", 0.02)


@pytest.mark.parametrize(
    ("seed", "at_once", "share"), [(0, 1, 0.0), (1, 1, 0.0), (2, 4, 0.0), (3, 1, 0.05), (4, 4, 0.1)]
)
def test_random_walks(seed: int, at_once: int, share: float) -> None:
    """Every state that is seen follows from the one before, and every entry from its evidence.

    The same holds with several requests at the same time, and when commits fail.
    """
    entries, moves = run_walk(seed, at_once, share)
    assert entries > 0
    assert ("pending", "ready") in moves


@pytest.mark.slow
@pytest.mark.parametrize(("at_once", "share"), [(1, 0.0), (4, 0.0), (1, 0.05), (4, 0.1)])
def test_many_random_walks(at_once: int, share: float) -> None:
    """The same for many walks, which together make every move that there is."""
    moves = set[tuple[str, str]]()
    for seed in range(100, 130):
        moves |= run_walk(seed, at_once, share)[1]
    assert {("ready", "invalid"), ("ready", "valid"), ("valid", "expired"), ("valid", "deactivated")} <= moves


def run_walk(seed: int, at_once: int, share: float) -> tuple[int, set[tuple[str, str]]]:
    """Walk with a server of its own. Returns the number of entries, and the moves that were seen.

    at_once: steps at the same time. share: of the commits that fail.
    """
    config = default_config(
        order_lifetime=timedelta(days=2), validation=ValidationChoices(reuse=REUSE, caa_reuse=CAA_REUSE)
    )
    total: list[tuple[int, set[tuple[str, str]]]] = []

    async def work(server: ServerUnderTest) -> None:
        rng = random.Random(seed)
        walk = Walk(server, rng, [await server.account(key) for key in (Key.make(), Key.make("EdDSA"))])
        actions: list[Callable[[], Coroutine[Any, Any, None]]] = [
            *[walk.order] * 3,
            *[walk.respond] * 6,
            *[walk.finalize] * 4,
            walk.give_up,
            walk.wait,
        ]
        assert isinstance(server.store, ShakyStore)
        server.store.share = share
        for _ in range(STEPS // at_once):
            await asyncio.gather(*(rng.choice(actions)() for _ in range(at_once)))
            await walk.settle()
            await walk.look()
        # When commits succeed again, everything comes to its end by itself.
        server.store.share = 0.0
        for url, (client, _) in walk.orders.items():
            if walk.states[url] == "processing":
                await client.settled(url)
        total.append((await check_entries(walk), walk.moves))

    run_with(work, config, store=lambda inner: ShakyStore(inner, random.Random(seed)))
    return total[0]
