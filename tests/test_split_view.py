"""A CA that shows two views of one log is caught wherever the views meet, and convicted by what it signed.

View A is shown to witnesses 1 and 2, view B to mirror 1, in sizes of the CA's choice. The two views meet when a
checkpoint of one comes to somebody who knows the other: a client brings it, a monitor compares what cosigners serve, a
relying party holds two certificates. What the one who holds both can prove depends on what else it holds; the tests say
so for every case, also where nothing can be proven.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from tests.commands import mtc
from tests.cosigning import WITNESS, Asker, Running, World
from tests.note_keys import CA, LOG, MIRROR, TestSigner
from tests.split_views import ORIGIN, SplitViewCA, signed
from tests.synthetic_logs import HASHER, SyntheticLog

from mtc.cosign.evidence import (
    Evidence,
    Inconsistent,
    compare_checkpoints,
    compare_subtree,
    compare_trees,
    encode_evidence,
    find_evidence,
    parse_evidence,
    verify_evidence,
)
from mtc.cosign.evidence.service import EvidenceKeeper, HeldTree, find_in_refusal
from mtc.cosign.logs import KnownLog
from mtc.cosign.machine import CosignerView, plan_checkpoint
from mtc.cosign.mirroring import MirrorState, add_pending, advance, commit, verify_package
from mtc.cosign.requests import AddCheckpoint
from mtc.cosign.service.core import object_prefix
from mtc.cosign.upload import Package, package_places
from mtc.errors import Error, ProofError
from mtc.merkle import prove_consistency
from mtc.note import Checkpoint, Note, Quorum, parse_note
from mtc.store import MemoryRegister, MemoryStore
from mtc.testing.fleet import Member, fleet_in
from mtc.tiles import EntryBundle

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def is_convicted(evidence: Evidence | None, key: TestSigner = CA) -> bool:
    """Tell whether a stranger who reads the bundle finds the key convicted by its own signatures."""
    if evidence is None:
        return False
    finding = verify_evidence(parse_evidence(encode_evidence(evidence)))
    assert finding.is_proof
    assert finding.evidence.subject == key.key
    return True


@dataclass
class PureWitness:
    """An honest witness without a server: the machine and its view. refused: evidence in what it refused."""

    ca: SplitViewCA
    view: CosignerView | None = None
    refused: list[Evidence] = field(default_factory=list)

    @property
    def log(self) -> KnownLog:
        """The log as the witness knows it."""
        return KnownLog(self.ca.origin, (self.ca.signer.key,))

    def ask(self, request: AddCheckpoint) -> bool:
        """Send a request; tell whether it was cosigned."""
        try:
            self.view = plan_checkpoint(self.ca.hasher, self.log, self.view, request)
        except Error:
            found = find_evidence(self.ca.hasher, self.log, self.view, request)
            if found is not None:
                self.refused.append(found)
            return False
        return True


@dataclass
class PureMirror(PureWitness):
    """An honest mirror without a server: it holds the entries and the tree of what it signed."""

    state: MirrorState = field(default_factory=MirrorState)
    entries: list[bytes] = field(default_factory=list)

    def upload(self, view: str) -> None:
        """Send all entries of a view up to the pending checkpoint; raises ProofError unless they lead to its root."""
        assert self.view is not None
        self.state = add_pending(self.state, self.view)
        size, entries = self.view.tree_size, self.ca.entries[view]
        for place in package_places(self.state.next_entry, size):
            proof = tuple(prove_consistency(self.ca.hasher, self.ca.readers[view], place.subtree, size))
            data = EntryBundle(tuple(entries[place.start : place.end])).encode()
            bounds = [0]
            for entry in entries[place.start : place.end]:
                bounds.append(bounds[-1] + 2 + len(entry))
            held = self.ca.hasher.leaves(self.entries[place.subtree.start : place.start])
            verify_package(self.ca.hasher, self.view, Package(place, data, tuple(bounds), proof), held)
            self.entries += entries[place.start : place.end]
            self.state = advance(self.state, place.end)
        self.state = commit(self.state, self.view)


FORKS = range(8)
SIZES = range(1, 12)


class TestMachines:
    """Every place and every size at which two views can meet, against the pure machines."""

    @pytest.mark.parametrize("fork", FORKS)
    def test_no_cosigner_signs_two_views(self, fork: int) -> None:
        """Whoever accepted a tree of one view accepts none of the other that is not the same log.

        Where the tree is a beginning of the other view, both are one log so far, and nothing is wrong yet.
        """
        ca = SplitViewCA(fork, length=12, signer=LOG)
        for size in SIZES:
            for other in range(size, 12):
                witness = PureWitness(ca)
                assert witness.ask(ca.request("A", 0, size))
                assert witness.ask(ca.request("B", size, other)) == (size <= fork)

    @pytest.mark.parametrize("fork", FORKS)
    def test_views_that_meet_at_one_size(self, fork: int) -> None:
        """Two checkpoints of one size convict the CA by themselves, whoever holds them: witness, mirror, monitor."""
        ca = SplitViewCA(fork, length=12, signer=LOG)
        for size in SIZES:
            differ = size > fork
            witnesses, mirror = [PureWitness(ca), PureWitness(ca)], PureMirror(ca)
            for witness in witnesses:
                assert witness.ask(ca.request("A", 0, size))
            assert mirror.ask(ca.request("B", 0, size))
            mirror.upload("B")
            for witness in witnesses:
                witness.ask(ca.request("B", size, size))
                assert is_convicted(witness.refused[0] if witness.refused else None, LOG) == differ
                assert witness.view is not None
                assert mirror.view is not None
                served = parse_note(witness.view.note), parse_note(mirror.view.note)
                assert is_convicted(compare_checkpoints(ca.hasher, LOG.key, *served), LOG) == differ
            mirror.ask(ca.request("A", size, size))
            assert is_convicted(mirror.refused[0] if mirror.refused else None, LOG) == differ

    @pytest.mark.parametrize("fork", FORKS)
    def test_mirror_with_the_larger_tree_convicts_by_its_tiles(self, fork: int) -> None:
        """A mirror that holds n entries of B convicts the CA by any checkpoint of A with up to n, however it comes."""
        ca = SplitViewCA(fork, length=12, signer=LOG)
        for larger in SIZES:
            mirror = PureMirror(ca)
            assert mirror.ask(ca.request("B", 0, larger))
            mirror.upload("B")
            assert mirror.view is not None
            assert mirror.entries == ca.entries["B"][:larger]
            for smaller in range(1, larger):
                found = compare_trees(
                    ca.hasher, ca.readers["B"], LOG.key, ca.note("A", smaller), parse_note(mirror.view.note)
                )
                assert is_convicted(found, LOG) == (smaller > fork)

    def test_mirror_with_the_smaller_tree_needs_the_others_tiles(self) -> None:
        """A larger checkpoint of A, without A's tiles, proves nothing to who holds B: it is refused, and that is all.

        With the tiles of A, which the CA must serve to those to whom it shows A, the contradiction is proven.
        """
        ca = SplitViewCA(5)
        mirror = PureMirror(ca)
        assert mirror.ask(ca.request("B", 0, 8))
        mirror.upload("B")
        assert not mirror.ask(ca.request("A", 8, 12))
        assert mirror.refused == []
        assert compare_checkpoints(ca.hasher, CA.key, ca.note("B", 8), ca.note("A", 12)) is None
        found = compare_trees(ca.hasher, ca.readers["A"], CA.key, ca.note("B", 8), ca.note("A", 12))
        assert is_convicted(found)

    def test_honest_proof_of_the_other_view_convicts(self) -> None:
        """A client that was shown B and proves it from a size of A convicts the CA, unless that is a power of two."""
        ca = SplitViewCA(2)
        for size in range(3, 17):
            witness = PureWitness(ca)
            assert witness.ask(ca.request("A", 0, size))
            assert not witness.ask(ca.request("B", size, 20))
            is_node = size & (size - 1) == 0
            assert is_convicted(witness.refused[0] if witness.refused else None) == (not is_node)
            for found in witness.refused:
                assert isinstance(found.exhibit, Inconsistent)

    def test_entries_of_the_other_view_do_not_fit(self) -> None:
        """A mirror that has the checkpoint of A pending takes no entry of B from the fork on; it never signs A."""
        ca = SplitViewCA(5)
        mirror = PureMirror(ca)
        assert mirror.ask(ca.request("A", 0, 12))
        with pytest.raises(ProofError):
            mirror.upload("B")
        assert mirror.state.committed is None
        assert mirror.entries == []

    def test_views_that_never_meet_are_not_caught(self) -> None:
        """As long as A stays with its witnesses and B with its mirror, both are right, and nobody knows better.

        That is the limit of cosigners; gossip between them, or monitors that ask all of them, make views meet.
        """
        ca = SplitViewCA(5)
        witness, mirror = PureWitness(ca), PureMirror(ca)
        for size in (6, 9, 12):
            old = 0 if witness.view is None else witness.view.tree_size
            assert witness.ask(ca.request("A", old, size))
            assert mirror.ask(ca.request("B", old, size))
            mirror.upload("B")
        assert witness.refused == mirror.refused == []

    def test_witnesses_of_one_view_agree(self) -> None:
        """Comparing what the two witnesses of A serve convicts nobody."""
        ca = SplitViewCA(5)
        for one in SIZES:
            for other in SIZES:
                assert compare_checkpoints(ca.hasher, CA.key, ca.note("A", one), ca.note("A", other)) is None

    def test_certificate_from_one_view_meets_a_checkpoint_of_the_other(self) -> None:
        """A subtree that the CA signed for a certificate of A convicts it before the tree of B, from the fork on."""
        ca = SplitViewCA(5)
        for start, end in ((0, 4), (4, 5), (4, 6), (5, 6), (4, 8), (8, 12), (0, 12)):
            found = compare_subtree(ca.hasher, ca.readers["B"], CA.key, ca.subtree("A", start, end), ca.note("B", 13))
            assert is_convicted(found) == (end > ca.fork)

    def test_cosigner_that_signs_both_views_convicts_itself(self) -> None:
        """A witness or mirror that colludes and signs both views leaves proof against its own key as well."""
        ca = SplitViewCA(5)
        for accomplice in (WITNESS, MIRROR):
            one, other = (signed(ca.checkpoint(view, 9), CA, accomplice, at=9) for view in "AB")
            assert is_convicted(compare_checkpoints(ca.hasher, accomplice.key, one, other), accomplice)
            assert is_convicted(compare_checkpoints(ca.hasher, CA.key, one, other))
            smaller = signed(ca.checkpoint("A", 8), CA, accomplice, at=8)
            found = compare_trees(ca.hasher, ca.readers["B"], accomplice.key, smaller, other)
            assert is_convicted(found, accomplice)

    def test_two_quorums_without_a_common_cosigner_can_be_given_two_views(self) -> None:
        """With c dishonest of n cosigners both views get k cosignatures exactly when 2k is at most n + c.

        An honest one signs the view that it sees first, a dishonest one both. A policy whose quorums overlap in more
        than c stops a split view before any certificate is valid; any other one only lets it be found out afterwards.
        """
        ca = SplitViewCA(5, signer=LOG)
        requests = {view: ca.request(view, 0, 9) for view in "AB"}
        signs = {"liar": {"A", "B"}}
        for order in ("AB", "BA"):
            witness = PureWitness(ca)
            signs[order] = {view for view in order if witness.ask(requests[view])}
        for count in range(1, 6):
            for liars in range(count + 1):
                shown = [[*("liar",) * liars, *orders] for orders in product(("AB", "BA"), repeat=count - liars)]
                for least in range(1, count + 1):
                    quorum = Quorum(least, tuple(f"c{number}" for number in range(count)))
                    is_possible = any(
                        all(
                            quorum.is_satisfied({f"c{at}" for at, how in enumerate(hows) if view in signs[how]})
                            for view in "AB"
                        )
                        for hows in shown
                    )
                    assert is_possible == (2 * least <= count + liars)

    def test_ca_that_was_set_back_is_told_by_its_times(self) -> None:
        """A CA that signs a smaller tree later than a larger one contradicts itself, even if no root differs."""
        ca = SplitViewCA(24)
        witness = PureWitness(ca)
        assert witness.ask(ca.request("A", 0, 9, at=100))
        assert not witness.ask(ca.request("A", 0, 7, at=200))
        assert is_convicted(witness.refused[0])
        assert not witness.ask(ca.request("A", 0, 7, at=50))
        assert len(witness.refused) == 1


@dataclass
class Server:
    """A witness or mirror that answers over HTTP and keeps evidence."""

    running: Running
    asker: Asker
    keeper: EvidenceKeeper

    @staticmethod
    async def open(*, is_mirror: bool) -> "Server":
        """Start one, in memory."""
        running = await World(is_mirror=is_mirror).open()
        server = Server(running, running.asker(), EvidenceKeeper(MemoryStore()))
        running.core.refused = server.refused
        return server

    async def refused(self, log: KnownLog, view: CosignerView | None, request: object, _error: Error) -> None:
        """Keep what a refused request proves."""
        assert isinstance(request, AddCheckpoint)
        core = self.running.core
        committed = self.running.mirror.state(log.origin).committed if self.running.world.is_mirror else None
        held = None if committed is None else (core.objects, HeldTree(committed, object_prefix(log.origin)))
        found = await find_in_refusal(core.hasher, log, view, request, held)
        if found is not None:
            assert await self.keeper.keep(found, NOW, "a test") is not None

    async def show(self, log: SyntheticLog, old: int, size: int) -> int:
        """Show a checkpoint; return the status."""
        return (await self.asker.post("add-checkpoint", log.add_checkpoint(old, size))).status

    async def upload(self, log: SyntheticLog, start: int, size: int) -> None:
        """Upload entries, which must be taken and cosigned."""
        answer = await self.asker.post("add-entries", log.upload(start, size))
        assert answer.status == 200, answer.text

    async def kinds(self) -> list[str]:
        """Return the kinds of what is kept, each of which must convict the CA."""
        kinds = []
        for name in await self.keeper.names():
            kept = await self.keeper.fetch(name)
            assert is_convicted(kept.evidence)
            kinds.append(kept.evidence.kind)
        return kinds


def views(fork: int, size: int) -> tuple[SyntheticLog, SyntheticLog]:
    """Return two histories of one log with one key."""
    one, other = ([f"entry {at}{view if at >= fork else ''}".encode() for at in range(size)] for view in ("A", "B"))
    return SyntheticLog(one), SyntheticLog(other)


def play(story: Callable[[Server, Server, Server], Awaitable[None]]) -> None:
    """Run a story with two witnesses and a mirror."""

    async def run() -> None:
        servers = [await Server.open(is_mirror=is_mirror) for is_mirror in (False, False, True)]
        await story(*servers)

    asyncio.run(run())


class TestServers:
    """The same over HTTP, against the servers."""

    @pytest.mark.parametrize(("fork", "size"), [(0, 1), (5, 9), (5, 8), (255, 256), (300, 700)])
    def test_caught_at_one_size(self, fork: int, size: int) -> None:
        """Each of the three refuses the view that it was not shown first, 422, and keeps proof that convicts the CA."""
        a, b = views(fork, size)

        async def story(one: Server, two: Server, mirror: Server) -> None:
            assert await one.show(a, 0, size) == await two.show(a, 0, size) == await mirror.show(b, 0, size) == 200
            await mirror.upload(b, 0, size)
            for server, other in ((one, b), (two, b), (mirror, a)):
                assert await server.show(other, size, size) == 422
                assert await server.kinds() == ["split-view"]

        play(story)

    @pytest.mark.parametrize(("fork", "smaller", "larger"), [(0, 1, 2), (5, 8, 9), (3, 256, 300), (300, 512, 700)])
    def test_mirror_catches_smaller_checkpoints(self, fork: int, smaller: int, larger: int) -> None:
        """The witness's smaller checkpoint, brought to the mirror, is answered with 409 and convicts by the tiles."""
        a, b = views(fork, larger)

        async def story(one: Server, _: Server, mirror: Server) -> None:
            assert await one.show(a, 0, smaller) == await mirror.show(b, 0, larger) == 200
            await mirror.upload(b, 0, larger)
            assert await mirror.show(a, 0, smaller) == 409
            assert await mirror.kinds() == ["inconsistent"]
            served = parse_note((await mirror.asker.checkpoint(ORIGIN)).body)
            assert Checkpoint.parse(served.text) == b.checkpoint(larger)

        play(story)

    @pytest.mark.parametrize(
        ("old", "size", "kind"), [(9, 9, "split-view"), (9, 15, "inconsistent"), (8, 9, "split-view")]
    )
    def test_mirror_with_a_newer_pending_checkpoint_still_knows_its_tree(self, old: int, size: int, kind: str) -> None:
        """What a mirror holds convicts also while it waits for the entries of a larger checkpoint."""
        a, b = views(5, 30)

        async def story(_: Server, __: Server, mirror: Server) -> None:
            assert await mirror.show(b, 0, 9) == 200
            await mirror.upload(b, 0, 9)
            assert await mirror.show(b, 9, 20) == 200
            assert await mirror.show(a, old, size) == 409
            assert await mirror.kinds() == [kind]

        play(story)

    def test_mirror_without_its_tiles_proves_nothing(self) -> None:
        """Where tiles are gone, or the request is not of the key that signed, the refusal is the same without proof."""
        a, b = views(5, 300)

        async def story(_: Server, __: Server, mirror: Server) -> None:
            assert await mirror.show(b, 0, 300) == 200
            await mirror.upload(b, 0, 300)
            store = mirror.running.core.objects
            await store.discard([key for key in await store.list_keys() if "/tile/0/" in key])
            assert await mirror.show(a, 0, 200) == 409
            assert await mirror.kinds() == []

        play(story)

    def test_witness_catches_proofs_of_the_other_view(self) -> None:
        """A proof from the size that the witness has, made for the other view, is 422 and convicts the CA."""
        a, b = views(2, 20)

        async def story(one: Server, *_: Server) -> None:
            assert await one.show(a, 0, 7) == 200
            assert await one.show(b, 7, 20) == 422
            assert await one.kinds() == ["inconsistent"]

        play(story)

    def test_cosignatures_are_only_of_one_view(self) -> None:
        """After all that, each cosigner serves the view that it saw first, and cosigns its growth."""
        a, b = views(5, 30)

        async def story(one: Server, two: Server, mirror: Server) -> None:
            for server, own, other in ((one, a, b), (two, a, b), (mirror, b, a)):
                assert await server.show(own, 0, 9) == 200
                if server is mirror:
                    await server.upload(own, 0, 9)
                for old, size in ((9, 9), (9, 20), (0, 7), (8, 20), (0, 30)):
                    assert await server.show(other, old, size) in {409, 422}
                assert await server.show(own, 9, 30) == 200
                if server is mirror:
                    await server.upload(own, 9, 30)
                served = parse_note((await server.asker.checkpoint(ORIGIN)).body)
                assert Checkpoint.parse(served.text) == own.checkpoint(30)

        play(story)

    def test_honest_log_leaves_no_evidence(self) -> None:
        """Requests of an honest log that come late, twice or out of order are refused, and nothing is kept."""
        log, _ = views(40, 40)

        async def story(one: Server, _: Server, mirror: Server) -> None:
            for server in (one, mirror):
                assert await server.show(log, 0, 9) == 200
                if server is mirror:
                    await server.upload(log, 0, 9)
                for old, size in ((0, 9), (8, 20), (0, 5), (3, 8), (0, 1)):
                    assert await server.show(log, old, size) == 409
                assert await server.kinds() == []

        play(story)

    def test_views_that_never_meet(self) -> None:
        """Witness and mirror that nobody brings together both cosign, and keep nothing: here the protection ends."""
        a, b = views(5, 30)

        async def story(one: Server, two: Server, mirror: Server) -> None:
            for old, size in ((0, 9), (9, 30)):
                assert await one.show(a, old, size) == await two.show(a, old, size) == 200
                assert await mirror.show(b, old, size) == 200
                await mirror.upload(b, old, size)
            assert [await server.kinds() for server in (one, two, mirror)] == [[], [], []]

        play(story)

    def test_witness_restored_from_an_older_copy_convicts_itself(self) -> None:
        """A witness whose register is an older copy signs a second history: nothing stops it, and both keys are caught.

        That is why its register is never restored.
        """
        a, b = views(5, 9)

        async def run() -> None:
            world = World()
            register = world.register
            assert isinstance(register, MemoryRegister)
            await _cosigned(world, a, 0, 5)
            copy = dict(register.values)
            first = await _cosigned(world, a, 5, 9)
            register.values = copy
            second = await _cosigned(world, b, 5, 9)
            for signer in (CA, WITNESS):
                assert is_convicted(compare_checkpoints(HASHER, signer.key, first, second), signer)

        asyncio.run(run())


PARTIES = (("witness", "w1", 81), ("witness", "w2", 82), ("mirror", "m1", 83))
"""Role, name and number of each cosigner."""


@pytest.mark.usefixtures("near_commands")
def test_real_processes_keep_bundles_that_the_command_verifies(tmp_path: Path) -> None:
    """Two witnesses and a mirror, started as an operator would, refuse the other view; `mtc evidence` says why."""
    a, b = views(5, 300)
    with fleet_in(tmp_path) as fleet:
        members = [fleet.add_cosigner(role, name, f"32473.{number}") for role, name, number in PARTIES]
        for member in members:
            mtc(member.role, "add-log", member.folder, "--vkey", CA.key.encode())
            member.start(wait=False)
        for member, own, other in zip(members, (a, a, b), (b, b, a), strict=True):
            member.wait_until_up()
            assert post(member, "add-checkpoint", own.add_checkpoint(0, 300)) == 200
            if member.role == "mirror":
                assert post(member, "add-entries", own.upload(0, 300)) == 200
            assert post(member, "add-checkpoint", other.add_checkpoint(300, 300)) == 422
        fleet.stop()
        for member in members:
            (bundle,) = (member.folder / "private" / "evidence").glob("*.json")
            story = json.loads(mtc("evidence", "verify", "--proof", "--json", bundle))
            assert (story["kind"], story["subject"]) == ("split-view", CA.key.encode())
            assert {item["digest"] for item in story["statements"]} == {a.root(300).hex(), b.root(300).hex()}


def post(member: Member, endpoint: str, body: bytes) -> int:
    """Send a request to a process; return the status."""
    request = Request(f"{member.url}/{endpoint}", body, {"Content-Type": "application/octet-stream"})  # noqa: S310 - our own loopback address
    try:
        with urlopen(request, timeout=60) as answer:  # noqa: S310 - our own loopback address
            return int(answer.status)
    except HTTPError as error:
        with error:
            return error.code


async def _cosigned(world: World, log: SyntheticLog, old: int, size: int) -> Note:
    """Start a witness, show it a checkpoint, which it must take, and return what it serves."""
    asker = (await world.open()).asker()
    assert (await asker.post("add-checkpoint", log.add_checkpoint(old, size))).status == 200
    return parse_note((await asker.checkpoint(ORIGIN)).body)
