"""A CA's cosigners, asked all at once: rounds end with the first answers that suffice, and nobody can hold them up."""

import asyncio
import contextlib
import gzip
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from datetime import timedelta
from typing import Any

import pytest
import structlog
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tests.asgi import Reply
from tests.note_keys import CA
from tests.pooled_logs import Cosigner, Honest, OwnLog, Pooled, Rule, always, changed, message, pooled, served, signer
from tests.synthetic_logs import NOW, SyntheticLog, make_entries

from mtc.ca.cosigning.config import GroupTable, QuorumTable
from mtc.cosign.config import Role
from mtc.cosign.evidence import BadSignature, Inconsistent, RolledBack, SplitView
from mtc.errors import ConflictError, Reason, StorageError
from mtc.log.seams import NoQuorumError, SignedTree, TreeToSign
from mtc.note import NoteSignature, SignatureType, VerifierKey, open_note, parse_signature_lines
from mtc.store import MemoryStore

W1, W2, M1, M2, M3 = 8, 18, 9, 19, 29
ANY_TWO = QuorumTable(at_least=2)
BEST_EFFORT = QuorumTable(at_least=0)


@pytest.fixture(autouse=True)
def quiet_logs() -> Iterator[list[MutableMapping[str, Any]]]:
    """Keep log events instead of printing them."""
    with structlog.testing.capture_logs() as events:
        yield events


def check(tree: TreeToSign, cosigned: SignedTree, *numbers: int) -> None:
    """Every checkpoint line and every subtree signature verifies, and they are of the CA and exactly these others."""
    signers = [CA, *map(signer, numbers)]
    opened = open_note(cosigned.checkpoint, [item.key for item in signers])
    assert not opened.unverified
    assert [item.key for item in opened.verified] == [item.key for item in signers]
    assert set(cosigned.signatures) == {subtree for subtree, _ in tree.subtrees}
    for subtree, value in tree.subtrees:
        found = cosigned.signatures[subtree]
        assert len(found) == len(signers)
        for item, by in zip(found, signers, strict=True):
            by.key.verifier.verify(message(by, subtree, value), item.signature)


def witness(name: str = "w1", number: int = W1) -> Cosigner:
    """Return a witness."""
    return Cosigner.of(name, number)


def mirror(name: str = "m1", number: int = M1) -> Cosigner:
    """Return a mirror."""
    return Cosigner.of(name, number, Role.MIRROR)


def trouble(run: Pooled, name: str) -> str:
    """Return what is wrong with a cosigner."""
    return next(item.note for item in run.pool.describe(1) if item.name == name)


def test_rounds_are_cosigned_by_witness_and_mirror() -> None:
    """Rounds of any size get all signatures, the CA's first, and nobody is asked for anything twice."""

    async def run() -> None:
        w, m = witness(), mirror()
        async with served(w, m), pooled(w, m, rule=QuorumTable(required=("w1", "m1"))) as run:
            for count in (1, 3, 300, 0, 257, 2000, 1):
                tree, signed = await run.log.grow(make_entries(count, start=run.log.history.size))
                check(tree, await run.pool.cosign(tree, signed), W1, M1)
                run.log.timestamp += 1
            assert m.asked.count("add-checkpoint") == m.asked.count("add-entries") == 7
            assert w.asked.count("add-checkpoint") == 7
            assert not run.kept

    asyncio.run(run())


def test_empty_tree_needs_nobody() -> None:
    """A tree without entries is not shown to anybody, so that a log can begin while cosigners are away."""

    async def run() -> None:
        w = witness()
        async with served(w), pooled(w) as run:
            tree, signed = run.log.tree()
            assert await run.pool.cosign(tree, signed) == signed
            assert not w.asked

    asyncio.run(run())


def test_dead_cosigner_costs_nothing() -> None:
    """With two of three enough, rounds go on while the third is silent, and only one request of it is under way."""

    async def run() -> None:
        cosigners = [mirror("m1", M1), mirror("m2", M2), mirror("m3", M3)]
        cosigners[0].fall_silent()
        async with served(*cosigners), pooled(*cosigners, rule=QuorumTable(at_least=2)) as run:
            for _ in range(5):
                tree, signed = await run.log.grow(make_entries(2, start=run.log.history.size))
                check(tree, await run.pool.cosign(tree, signed), M2, M3)
            assert cosigners[0].asked == ["add-checkpoint"]

    asyncio.run(run())


def test_all_deadlines_pass_and_the_round_is_asked_for_again() -> None:
    """When nobody answers in time the error names everybody; asked again, it needs only what is still lacking."""

    async def run() -> None:
        w, m = Cosigner.of("w1", W1, deadline_s=0.2), Cosigner.of("m1", M1, Role.MIRROR, deadline_s=0.2)
        m.fall_silent()
        async with served(w, m), pooled(w, m, rule=ANY_TWO) as run:
            tree, signed = await run.log.grow(make_entries(2))
            with pytest.raises(NoQuorumError, match="m1") as error:
                await run.pool.cosign(tree, signed)
            assert error.value.reason is Reason.NO_QUORUM
            assert error.value.signed is not None
            check(tree, error.value.signed, W1)
            await run.pool.idle()
            assert "no answer in 0.2 s" in trouble(run, "m1")
            before = list(w.asked)
            m.rules.clear()
            check(tree, await run.pool.cosign(tree, signed), W1, M1)
            assert w.asked == before
            await run.pool.idle()
            assert trouble(run, "m1") == ""

    asyncio.run(run())


def test_round_that_cannot_succeed_ends_at_once() -> None:
    """When a required cosigner has refused, nobody waits for the deadline of another one."""

    async def run() -> None:
        w, m = Cosigner.of("w1", W1, deadline_s=300), mirror()
        w.fall_silent()
        m.rules["*"] = always(500, b"out of\x00 order\n")
        async with served(w, m), pooled(w, m, rule=QuorumTable(required=("m1",))) as run:
            tree, signed = await run.log.grow(make_entries(2))
            with pytest.raises(NoQuorumError, match="it answered 500 to add-checkpoint: out of order"):
                await run.pool.cosign(tree, signed)

    asyncio.run(run())


def test_every_mirror_is_attempted_and_witnesses_rest() -> None:
    """A mirror that fails is asked in every round; a witness that fails rests, unless it does not work without it."""

    async def run() -> None:
        w, m, other = witness(), mirror(), mirror("m2", M2)
        w.rules["*"] = m.rules["*"] = always(500)
        async with served(w, m, other), pooled(w, m, other) as run:
            for _ in range(3):
                tree, signed = await run.log.grow(make_entries(2, start=run.log.history.size))
                check(tree, await run.pool.cosign(tree, signed), M2)
                await run.pool.idle()
            assert (len(w.asked), len(m.asked)) == (1, 3)
            run.clock.advance(1.5)
            tree, signed = await run.log.grow(make_entries(2, start=run.log.history.size))
            await run.pool.cosign(tree, signed)
            await run.pool.idle()
            assert (len(w.asked), len(m.asked)) == (2, 4)
        async with served(w, other), pooled(w, other, log=run.log, rule=ANY_TWO) as run:
            w.asked.clear()
            for _ in range(3):
                tree, signed = await run.log.grow(make_entries(2, start=run.log.history.size))
                with pytest.raises(NoQuorumError):
                    await run.pool.cosign(tree, signed)
            assert len(w.asked) == 3

    asyncio.run(run())


def test_resting_witness_is_woken_when_another_falls_silent() -> None:
    """A witness that failed and rests is asked after the grace when the one that was counted on does not answer."""

    async def run() -> None:
        first, second = witness(), witness("w2", W2)
        first.rules["*"] = always(500)
        async with served(first, second), pooled(first, second, rule=QuorumTable(at_least=1, of=("w1", "w2"))) as run:
            tree, signed = await run.log.grow(make_entries(2))
            await run.pool.cosign(tree, signed)
            await run.pool.idle()
            first.rules.clear()
            gate = asyncio.Event()

            async def silent(_honest: Honest) -> Reply:
                await gate.wait()
                return Reply(500, {}, b"")

            second.rules["*"] = silent
            first.asked.clear()
            tree, signed = await run.log.grow(make_entries(2, start=2))
            check(tree, await run.pool.cosign(tree, signed), W1)
            assert first.asked
            gate.set()

    asyncio.run(run())


def test_mirror_that_was_away_for_a_thousand_rounds_catches_up() -> None:
    """A mirror that missed 1,000 rounds gets all that it lacks while the first round after that passes."""

    async def run() -> None:
        away, other = mirror(), mirror("m2", M2)
        log = OwnLog()
        async with served(away, other):
            async with pooled(away, other, log=log, rule=BEST_EFFORT) as run:
                tree, signed = await log.grow(make_entries(10))
                await run.pool.cosign(tree, signed)
                await run.pool.idle()
                away.rules["*"] = always(503)
                for _ in range(1000):
                    tree, signed = await log.grow(make_entries(20, start=log.history.size))
                    if not log.history.size % 100:
                        await run.pool.cosign(tree, signed)
                away.rules.clear()
                tree, signed = await log.grow(make_entries(5, start=log.history.size))
                await run.pool.cosign(tree, signed)
                await run.pool.idle()
                check(tree, await run.pool.cosign(tree, signed), M1, M2)
            assert away.running is not None
            (status,) = [item for item in run.pool.describe(1) if item.name == "m1"]
            assert status.tree_size == log.history.size == 20_015

    asyncio.run(run())


def test_restart_of_ca_and_mirror() -> None:
    """Neither side needs to remember the other: after restarts, sizes are learned from answers and views."""

    async def run() -> None:
        w, m, log = witness(), mirror(), OwnLog()
        rule = QuorumTable(required=("w1", "m1"))
        async with served(w, m):
            for ask_views in (False, True, False):
                async with pooled(w, m, log=log, rule=rule) as run:
                    if ask_views:
                        views = await run.pool.fetch_views(1)
                        assert [view.tree_size for view in views] == [log.history.size] * 2
                        assert {view.root_hash for view in views} == {log.head.root_hash}
                    for _ in range(2):
                        tree, signed = await log.grow(make_entries(300, start=log.history.size))
                        check(tree, await run.pool.cosign(tree, signed), W1, M1)
                        await m.restart()
                        await w.restart()

    asyncio.run(run())


def test_mirror_restored_from_an_older_copy_is_brought_up_to_date() -> None:
    """A mirror that lost what it had says so in its answers, and gets it again."""

    async def run() -> None:
        m = mirror()
        async with served(m), pooled(m) as run:
            for _ in range(3):
                tree, signed = await run.log.grow(make_entries(700, start=run.log.history.size))
                check(tree, await run.pool.cosign(tree, signed), M1)
            fresh = mirror()
            m.world = fresh.world
            await m.restart()
            tree, signed = await run.log.grow(make_entries(1, start=run.log.history.size))
            check(tree, await run.pool.cosign(tree, signed), M1)

    asyncio.run(run())


def test_checkpoint_witness_counts_without_standing_in_certificates() -> None:
    """A witness with an Ed25519 key, which signs no subtrees, satisfies the quorum by its checkpoint line."""

    async def run() -> None:
        from tests.cosigning import World  # noqa: PLC0415 - used here alone
        from tests.note_keys import TestSigner  # noqa: PLC0415 - used here alone

        from mtc.cosign.logs import KnownCA  # noqa: PLC0415 - used here alone

        key = TestSigner("witness.example/w", SignatureType.COSIGNATURE_ED25519, 77)
        world = World(signers=(key,), cas=(KnownCA(key=CA.key, with_ed25519=True),))
        plain, m = Cosigner("plain", Role.WITNESS, key, world), mirror()
        async with served(plain, m), pooled(plain, m, rule=ANY_TWO) as run:
            tree, signed = await run.log.grow(make_entries(3))
            cosigned = await run.pool.cosign(tree, signed)
            opened = open_note(cosigned.checkpoint, [CA.key, key.key, signer(M1).key])
            assert len(opened.verified) == 3
            assert {len(found) for found in cosigned.signatures.values()} == {2}
            assert "sign-subtree" not in plain.asked

    asyncio.run(run())


def test_groups_are_counted() -> None:
    """One mirror of two and the witness: with one mirror down it is met, with the witness down it is not."""

    async def run() -> None:
        w, m, other = witness(), mirror(), mirror("m2", M2)
        rule, groups = QuorumTable(required=("w1", "mirrors")), (GroupTable("mirrors", 1, ("m1", "m2")),)
        async with served(w, m, other), pooled(w, m, other, rule=rule, groups=groups) as run:
            m.rules["*"] = always(500)
            tree, signed = await run.log.grow(make_entries(3))
            check(tree, await run.pool.cosign(tree, signed), W1, M2)
            w.rules["*"] = always(500)
            tree, signed = await run.log.grow(make_entries(3, start=3))
            with pytest.raises(NoQuorumError, match="w1"):
                await run.pool.cosign(tree, signed)

    asyncio.run(run())


def test_owed_subtrees_are_asked_for_and_given_once_complete() -> None:
    """What earlier rounds are owed is asked for with the next tree, and returned when it has its quorum."""

    async def run() -> None:
        w, m = witness(), mirror()
        m.rules["*"] = always(500)
        async with served(w, m), pooled(w, m, rule=ANY_TWO) as run:
            first, signed = await run.log.grow(make_entries(5))
            with pytest.raises(NoQuorumError):
                await run.pool.cosign(first, signed)
            m.rules.clear()
            second, signed = await run.log.grow(make_entries(5, start=5))
            second = TreeToSign(
                1, 10, second.root_hash, second.timestamp, second.subtrees, 5, second.entries, owed=first.subtrees
            )
            cosigned = await run.pool.cosign(second, signed)
            asked = w.asked.count("sign-subtree")
            assert asked == len(first.subtrees) + len(second.subtrees), "the witness had signed the owed ones already"
            if any(subtree not in cosigned.signatures for subtree, _ in first.subtrees):
                idle, signed = run.log.tree(owed=first.subtrees)
                cosigned = await run.pool.cosign(idle, signed)
            for subtree, value in first.subtrees:
                found = {item.cosigner_id: item.signature for item in cosigned.signatures[subtree]}
                assert len(found) == 2
                for number in (W1, M1):
                    by = signer(number)
                    item = found[bytes.fromhex("81fd59") + bytes((number,))]
                    by.key.verifier.verify(message(by, subtree, value), item)

    asyncio.run(run())


# --- lies


def forged(answer: bytes) -> bytes:
    """Return signature lines of which the last byte is another."""
    lines = parse_signature_lines(answer)
    return b"".join(
        NoteSignature(line.name, line.key_id, line.signature[:-1] + bytes((line.signature[-1] ^ 1,))).encode()
        for line in lines
    )


def shifted(answer: bytes) -> bytes:
    """Return signature lines that claim another second."""
    lines = parse_signature_lines(answer)
    return b"".join(
        NoteSignature(
            line.name,
            line.key_id,
            (int.from_bytes(line.signature[:8], "big") + 1).to_bytes(8, "big") + line.signature[8:],
        ).encode()
        for line in lines
    )


def other_key(answer: bytes) -> bytes:
    """Return signature lines under another name."""
    stranger = VerifierKey("oid/1.3.6.1.4.1.32473.99", SignatureType.COSIGNATURE_MLDSA44, signer(99).key.public_key)
    lines = parse_signature_lines(answer)
    return b"".join(NoteSignature(stranger.name, stranger.key_id, line.signature).encode() for line in lines)


LIES = {
    "forged line": ("add-checkpoint", changed(forged), "signature"),
    "forged subtree": ("sign-subtree", changed(forged), "signature"),
    "other second": ("add-checkpoint", changed(shifted), "signature"),
    "subtree with a time": ("sign-subtree", changed(shifted), "timestamp"),
    "other key": ("add-checkpoint", changed(other_key), "did not sign"),
    "other key on a subtree": ("sign-subtree", changed(other_key), "no signature"),
    "empty": ("add-checkpoint", always(200), "no signature line"),
    "garbage": ("add-checkpoint", always(200, b"\xff\xfe garbage"), ""),
    "html": ("add-checkpoint", always(200, b"<html>welcome</html>\n"), "no signature line"),
    "huge": ("add-checkpoint", always(200, bytes(1 << 20)), "larger than"),
    "bomb": ("add-checkpoint", always(200, gzip.compress(bytes(64 << 20)), Content_Encoding="gzip"), "larger than"),
    "broken gzip": ("add-checkpoint", always(200, b"\x1f\x8b\x08 no", Content_Encoding="gzip"), "gzip"),
    "half a gzip": ("add-checkpoint", always(200, gzip.compress(b"x" * 99)[:-9], Content_Encoding="gzip"), "gzip"),
    "unknown encoding": ("add-checkpoint", always(200, b"", Content_Encoding="br"), "br"),
    "elsewhere": ("add-checkpoint", always(307, Location="http://192.0.2.1/"), "another origin"),
    "refusal": ("add-checkpoint", always(403, b"no\n"), "403"),
    "stale forever": ("add-checkpoint", always(409, b"0\n"), "refuses a proof from there"),
    "size that is none": ("add-checkpoint", always(409, b"-1\n"), "decimal"),
    "size without end": ("add-checkpoint", always(409, b"5"), "newline"),
    "size of pages": ("add-checkpoint", always(409, b"9" * 5000 + b"\n"), "newline"),
    "more than there is": ("add-checkpoint", always(409, b"999\n"), "claims a checkpoint of 999 entries"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_cost_the_liar_alone(lie: str) -> None:
    """Whatever a witness answers, the round ends with the others' signatures, and its trouble says what it was."""
    endpoint, rule, text = LIES[lie]

    async def run() -> None:
        liar, m = witness(), mirror()
        async with served(liar, m), pooled(liar, m) as run:
            liar.rules[endpoint] = rule
            for _ in range(2):
                tree, signed = await run.log.grow(make_entries(3, start=run.log.history.size))
                cosigned = await run.pool.cosign(tree, signed)
                await run.pool.idle()
                assert trouble(run, "w1"), "it is known to be in trouble"
                assert text in trouble(run, "w1")
                known = [signer(M1).key, signer(W1).key, CA.key]
                assert signer(M1).key in [item.key for item in open_note(cosigned.checkpoint, known).verified]
                for subtree, value in tree.subtrees:
                    _, item = cosigned.signatures[subtree]
                    signer(M1).key.verifier.verify(message(signer(M1), subtree, value), item.signature)
                run.clock.advance(100)
            kinds = {type(item.exhibit) for item in run.kept}
            assert kinds == ({BadSignature} if lie in ("forged line", "forged subtree", "other second") else set())
            assert all(item.subject == signer(W1).key for item in run.kept)

    asyncio.run(run())


UPLOAD_LIES: dict[str, Callable[[], Rule]] = {
    "never forward": lambda: always(202, b"3\n0\n\n"),
    "back and forth": lambda: always(409, b"3\n3\n\n"),
    "another size": lambda: always(409, b"2\n0\n\n"),
    "larger size": lambda: always(409, b"77\n0\n\n"),
    "garbage": lambda: always(202, b"<html>"),
    "forged": lambda: changed(forged),
    "ticket of pages": lambda: always(202, b"3\n0\n" + b"A" * 400_000 + b"\n"),
    "refusal": lambda: always(422, b"no\n"),
}


@pytest.mark.parametrize("lie", UPLOAD_LIES)
def test_lies_about_uploads_end(lie: str) -> None:
    """Whatever a mirror answers to an upload, it is asked a few times only, and the others' round goes on."""

    async def run() -> None:
        liar, other = mirror(), mirror("m2", M2)
        async with served(liar, other), pooled(liar, other) as run:
            liar.rules["add-entries"] = UPLOAD_LIES[lie]()
            tree, signed = await run.log.grow(make_entries(3))
            check(tree, await run.pool.cosign(tree, signed), M2)
            await run.pool.idle()
            assert trouble(run, "m1")
            assert len(liar.asked) < 20
            assert [type(item.exhibit) for item in run.kept] == ([BadSignature] if lie == "forged" else [])

    asyncio.run(run())


def test_clock_of_one_cosigner_is_its_own_affair() -> None:
    """A witness that signs in what is the future here is left out, of rounds and of views, as long as it is alone."""

    async def run() -> None:
        w, m = witness(), mirror()
        async with served(w, m), pooled(w, m) as run:
            w.world.clock.advance(3600)
            tree, signed = await run.log.grow(make_entries(3))
            check(tree, await run.pool.cosign(tree, signed), M1)
            await run.pool.idle()
            assert "3600 s after" in trouble(run, "w1")
            assert [view.name for view in await run.pool.fetch_views(1)] == ["m1"]
            m.world.clock.advance(3600)
            tree, signed = await run.log.grow(make_entries(3, start=3))
            with pytest.raises(NoQuorumError):
                await run.pool.cosign(tree, signed)
            await run.pool.idle()
            views = await run.pool.fetch_views(1)
            assert [view.timestamp for view in views] == [NOW + 3600] * 2, "when all say so, it may be this clock"

    asyncio.run(run())


# --- contradictions


async def show(cosigner: Cosigner, history: SyntheticLog, sizes: tuple[int, ...], *, by: Role) -> None:
    """Let a cosigner follow another history of our log, signed with our key."""
    assert cosigner.running is not None
    asker, old = cosigner.running.asker(), 0
    for size in sizes:
        assert (await asker.post("add-checkpoint", history.add_checkpoint(old, size))).status == 200
        if by is Role.MIRROR:
            assert (await asker.post("add-entries", history.upload(old, size))).status == 200
        old = size


@pytest.mark.parametrize("role", Role)
def test_cosigner_with_more_than_the_register_stops_the_log(role: Role) -> None:
    """A cosigner that shows our signature on a larger tree proves that an old copy runs: nothing is signed any more."""

    async def run() -> None:
        found = Cosigner.of("c1", M1, role)
        async with served(found), pooled(found, rule=QuorumTable(at_least=1)) as run:
            tree, signed = await run.log.grow(make_entries(5))
            future = SyntheticLog(make_entries(9))
            await show(found, future, (9,), by=role)
            for _ in range(2):
                with pytest.raises(ConflictError, match="c1 shows a checkpoint of 9 entries") as error:
                    await run.pool.cosign(tree, signed)
            assert error.value.facts["cosigner"] == "c1"
            assert error.value.facts["evidence"] == run.kept[0].name
            exhibit = run.kept[0].exhibit
            assert isinstance(exhibit, RolledBack)
            assert (exhibit.register_size, exhibit.cosigner) == (5, signer(M1).key)
            run.kept.clear()
            (view,) = await run.pool.fetch_views(1)
            assert view.tree_size == 9
            assert isinstance(run.kept[0].exhibit, RolledBack)

    asyncio.run(run())


@pytest.mark.parametrize(("size", "kind"), [(5, SplitView), (3, Inconsistent)])
def test_cosigner_with_another_history_stops_the_log(size: int, kind: type) -> None:
    """A cosigner that shows our signature on another root of a size that we have, proves a split view."""

    async def run() -> None:
        w = witness()
        async with served(w), pooled(w, rule=QuorumTable(at_least=1)) as run:
            tree, signed = await run.log.grow(make_entries(5))
            await show(w, SyntheticLog(make_entries(size, "other")), (size,), by=Role.WITNESS)
            with pytest.raises(ConflictError, match=f"another root hash at {size} entries"):
                await run.pool.cosign(tree, signed)
            assert [type(item.exhibit) for item in run.kept] == [kind]
            assert run.kept[0].subject == CA.key

    asyncio.run(run())


def test_larger_tree_without_our_signature_discredits_the_cosigner() -> None:
    """A cosigner that claims or shows more than we signed is left out, and the log goes on."""

    async def run() -> None:
        liar, m = witness(), mirror()
        async with served(liar, m), pooled(liar, m) as run:
            tree, signed = await run.log.grow(make_entries(5))
            stranger = SyntheticLog(make_entries(9), signer=signer(77))
            note = stranger.note().with_signatures(liar.signer.cosign(stranger.checkpoint(), NOW))
            liar.rules["add-checkpoint"] = always(409, b"9\n")
            liar.rules["checkpoint"] = always(200, note.encode())
            check(tree, await run.pool.cosign(tree, signed), M1)
            await run.pool.idle()
            assert "without this CA's signature" in trouble(run, "w1")
            assert [view.name for view in await run.pool.fetch_views(1)] == ["m1"]
            assert not run.kept

    asyncio.run(run())


def test_contradiction_found_late_stops_the_next_round() -> None:
    """A round may end before the cosigner that contradicts has answered; then the next one does not begin."""

    async def run() -> None:
        w, m = witness(), mirror()
        gate = asyncio.Event()

        async def late(honest: Honest) -> Reply:
            await gate.wait()
            return await honest()

        async with served(w, m), pooled(w, m) as run:
            tree, signed = await run.log.grow(make_entries(5))
            await show(w, SyntheticLog(make_entries(9)), (9,), by=Role.WITNESS)
            w.rules["add-checkpoint"] = late
            check(tree, await run.pool.cosign(tree, signed), M1)
            gate.set()
            await run.pool.idle()
            tree, signed = await run.log.grow(make_entries(5, start=5))
            with pytest.raises(ConflictError):
                await run.pool.cosign(tree, signed)

    asyncio.run(run())


def test_views_of_those_who_saw_nothing_count_as_such() -> None:
    """A cosigner without a checkpoint of the log answers with nothing, one that is away not at all."""

    async def run() -> None:
        w, m = witness(), Cosigner.of("m1", M1, Role.MIRROR, deadline_s=0.2)
        m.fall_silent()
        async with served(w, m), pooled(w, m, rule=ANY_TWO) as run:
            (view,) = await run.pool.fetch_views(1)
            assert (view.name, view.tree_size, view.root_hash) == ("w1", 0, run.log.head.root_hash)

    asyncio.run(run())


def test_own_storage_is_nobody_elses_fault() -> None:
    """When our tiles do not lead to our root, the round fails with a storage error, and no cosigner is blamed."""

    async def run() -> None:
        m = mirror()
        async with served(m), pooled(m) as run:
            tree, signed = await run.log.grow(make_entries(300))
            check(tree, await run.pool.cosign(tree, signed), M1)
            tree, signed = await run.log.grow(make_entries(300, start=300))
            assert isinstance(run.log.store, MemoryStore)
            await run.log.store.discard(await run.log.store.list_keys())
            with pytest.raises(StorageError, match="do not give a proof"):
                await run.pool.cosign(tree, signed)
            assert trouble(run, "m1") == ""

    asyncio.run(run())


def test_newer_tree_elsewhere_is_no_contradiction_of_the_older_one() -> None:
    """While a slow cosigner works on one tree, others may bring it a newer one of ours: it goes on with that."""

    async def run() -> None:
        w, m = witness(), mirror()
        gate = asyncio.Event()

        async def late(honest: Honest) -> Reply:
            await gate.wait()
            return await honest()

        async with served(w, m), pooled(w, m) as run:
            w.rules["add-checkpoint"] = late
            tree, signed = await run.log.grow(make_entries(5))
            check(tree, await run.pool.cosign(tree, signed), M1)
            tree, signed = await run.log.grow(make_entries(5, start=5))
            await show(w, run.log.history, (10,), by=Role.WITNESS)
            check(tree, await run.pool.cosign(tree, signed), M1)
            gate.set()
            await run.pool.idle()
            check(tree, await run.pool.cosign(tree, signed), W1, M1)
            assert trouble(run, "w1") == ""

    asyncio.run(run())


def test_busy_cosigner_is_not_waited_for() -> None:
    """A round that takes a cosigner which is busy with an older tree gives up soon, and keeps what comes later."""

    async def run() -> None:
        slow, other = Cosigner.of("m1", M1, Role.MIRROR, deadline_s=300), mirror("m2", M2)
        gate = asyncio.Event()

        async def late(honest: Honest) -> Reply:
            await gate.wait()
            return await honest()

        rule = QuorumTable(at_least=1, grace=timedelta(milliseconds=20))
        async with served(slow, other), pooled(slow, other, rule=rule) as run:
            slow.rules["add-checkpoint"] = late
            tree, signed = await run.log.grow(make_entries(5))
            check(tree, await run.pool.cosign(tree, signed), M2)
            other.rules["*"] = always(500)
            tree, signed = await run.log.grow(make_entries(5, start=5))
            async with asyncio.timeout(60):
                with pytest.raises(NoQuorumError, match="m1 has not answered yet"):
                    await run.pool.cosign(tree, signed)
            gate.set()
            await run.pool.idle()
            check(tree, await run.pool.cosign(tree, signed), M1)

    asyncio.run(run())


def test_upload_that_was_cut_off_goes_on_where_the_mirror_stands() -> None:
    """When an upload gets no answer, the next one asks first, and what the mirror stored is not sent again."""

    async def run() -> None:
        m, other = Cosigner.of("m1", M1, Role.MIRROR), mirror("m2", M2)
        async with served(m, other), pooled(m, other) as run:

            async def cut(honest: Honest) -> Reply:
                await honest()
                return Reply(504, {}, b"")

            m.rules["add-entries"] = cut
            tree, signed = await run.log.grow(make_entries(9000))
            check(tree, await run.pool.cosign(tree, signed), M2)
            await run.pool.idle()
            m.rules.clear()
            m.upload_bytes.clear()
            tree, signed = await run.log.grow(make_entries(1, start=9000))
            await run.pool.cosign(tree, signed)
            await run.pool.idle()
            check(tree, await run.pool.cosign(tree, signed), M1, M2)
            asked, *sent = m.upload_bytes
            assert asked < 200, "the first request only asks where it stands"
            assert len(sent) == 1

    asyncio.run(run())


def draw_rules(data: st.DataObject, cosigner: Cosigner) -> None:
    """Choose what a cosigner does in a round: mostly right, else one of the lies."""
    lies = [rule for _, rule, _ in LIES.values()]
    uploads = [make() for make in UPLOAD_LIES.values()]
    for endpoint, rules in (("add-checkpoint", lies), ("add-entries", uploads), ("sign-subtree", lies)):
        cosigner.rules.pop(endpoint, None)
        if data.draw(st.integers(0, 2)) == 2:
            cosigner.rules[endpoint] = data.draw(st.sampled_from(rules))


def check_quorum(tree: TreeToSign, cosigned: SignedTree, cosigners: Sequence[Cosigner]) -> None:
    """Two of the cosigners signed the checkpoint and each subtree, and everything verifies."""
    opened = open_note(cosigned.checkpoint, [CA.key, *(item.signer.key for item in cosigners)])
    assert not opened.unverified
    assert len({item.key for item in opened.verified}) >= 3
    by_name = {item.signer.key.name.removeprefix("oid/1.3.6.1.4.1."): item.signer for item in cosigners}
    for subtree, value in tree.subtrees:
        others = cosigned.signatures[subtree][1:]
        assert len(others) >= 2
        for item in others:
            by = by_name[item.name]
            by.key.verifier.verify(message(by, subtree, value), item.signature)


@settings(max_examples=8, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(st.data())
def test_whatever_cosigners_do_a_round_has_its_quorum_or_none(data: st.DataObject) -> None:
    """In any mixture of lies and restarts an answer verifies and satisfies the policy, and when it ends all sign."""

    async def run() -> None:
        cosigners = [witness(), mirror(), mirror("m2", M2)]
        async with served(*cosigners), pooled(*cosigners, rule=ANY_TWO) as run:
            for _ in range(data.draw(st.integers(2, 6))):
                for item in cosigners:
                    draw_rules(data, item)
                    if data.draw(st.integers(0, 4)) == 4:
                        # Two processes of one cosigner would hinder each other, so the old one ends first.
                        await run.pool.idle()
                        await item.restart()
                run.log.timestamp += 1
                count = data.draw(st.integers(1, 300))
                tree, signed = await run.log.grow(make_entries(count, start=run.log.history.size))
                with contextlib.suppress(NoQuorumError):
                    check_quorum(tree, await run.pool.cosign(tree, signed), cosigners)
            for item in cosigners:
                item.rules.clear()
            await run.pool.idle()
            run.clock.advance(100)
            tree, signed = await run.log.grow(make_entries(3, start=run.log.history.size))
            # Who failed the last time is not waited for, but its answer is kept.
            with contextlib.suppress(NoQuorumError):
                await run.pool.cosign(tree, signed)
            await run.pool.idle()
            check(tree, await run.pool.cosign(tree, signed), W1, M1, M2)

    asyncio.run(run())
