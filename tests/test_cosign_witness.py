"""The witness: each rule of tlog-witness by name, over HTTP, on memory."""

import asyncio
import gzip
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from tests.cosigning import WITNESS, WITNESS_ED25519, Asker, Running, World
from tests.note_keys import CA, LOG, MIRROR, TestSigner
from tests.synthetic_logs import HASHER, NOW, ORIGIN, SyntheticLog, make_entries

from mtc.cosign.logs import KnownCA, KnownLog, LogDirectory
from mtc.cosign.requests import MAX_PROOF_LINES, MAX_TEXT_BYTES, AddCheckpoint, SignSubtree
from mtc.cosign.service.core import state_name
from mtc.errors import Error, FormatError, Reason, UsageError
from mtc.merkle import Subtree, prove_consistency
from mtc.note import (
    Checkpoint,
    Cosignature,
    Note,
    NoteSignature,
    SignatureType,
    open_note,
    parse_note,
    parse_signature_lines,
    verify_subtree_answer,
)
from mtc.testing import FailingRegister, Failure
from mtc.wire import encode_base64


def play(story: Callable[[Running, Asker], Awaitable[None]], world: World | None = None) -> None:
    """Run a story against a witness."""

    async def run() -> None:
        running = await (world or World()).open()
        await story(running, running.asker())

    asyncio.run(run())


def own_lines(body: bytes, signer: TestSigner = WITNESS) -> list[NoteSignature]:
    """Return the lines of a signer in an answer."""
    return [line for line in parse_signature_lines(body) if line.key_id == signer.key.key_id]


def test_first_checkpoint_is_cosigned_with_a_time_over_its_whole_tree() -> None:
    """200: note signature lines by the witness over the checkpoint, start 0, end its size, timestamp not 0."""
    log = SyntheticLog(make_entries(5))

    async def story(_: Running, asker: Asker) -> None:
        answer = await asker.post("add-checkpoint", log.add_checkpoint(0))
        assert (answer.status, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
        note = log.note().with_signatures(*parse_signature_lines(answer.body))
        opened = open_note(note.encode(), [CA.key, WITNESS.key])
        assert [(item.key, item.timestamp) for item in opened.verified if item.key == WITNESS.key] == [
            (WITNESS.key, NOW)
        ]

    play(story)


@pytest.mark.parametrize("sizes", [(0, 1), (1, 2), (3, 3, 3), (0, 0, 4), (7, 64, 65, 300)])
def test_sizes_follow_each_other_and_the_same_size_renews_the_time(sizes: tuple[int, ...]) -> None:
    """From each size a larger or equal one is cosigned; the served checkpoint is the newest, with its newest time."""
    log = SyntheticLog(make_entries(300))

    async def story(running: Running, asker: Asker) -> None:
        old = 0
        for size in sizes:
            running.world.clock.advance(60)
            answer = await asker.post("add-checkpoint", log.add_checkpoint(old, size))
            assert answer.status == 200, answer.text
            served = await asker.checkpoint(ORIGIN)
            opened = open_note(served.body, [CA.key, WITNESS.key])
            assert Checkpoint.parse(opened.text) == log.checkpoint(size)
            times = {item.key: item.timestamp for item in opened.verified}
            assert times[WITNESS.key] == int(running.world.clock.now().timestamp())
            assert opened.is_signed_by(CA.key)
            old = size

    play(story)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("no old line", lambda body: body.replace(b"old 3\n", b"", 1)),
        ("a leading zero", lambda body: body.replace(b"old 3", b"old 03", 1)),
        ("a sign", lambda body: body.replace(b"old 3", b"old +3", 1)),
        ("carriage returns", lambda body: body.replace(b"\n", b"\r\n")),
        ("a cut hash", lambda body: body.replace(b"\n\n", b"x\n\n", 1)),
        ("a hash of another size", lambda body: body.replace(b"\n\n", b"\nAAAA\n\n", 1)),
        ("no empty line", lambda body: body.replace(b"\n\n", b"\n", 1)),
        ("no signature", lambda body: body[: body.rindex(b"\n\n") + 2]),
        ("no newline at the end", lambda body: body[:-1]),
        ("something behind", lambda body: body + b"more\n"),
        (
            "64 hashes",
            lambda body: body.replace(b"\n\n", b"\n" + (encode_base64(bytes(32)).encode() + b"\n") * 64 + b"\n", 1),
        ),
        ("a size beyond 63 bits", lambda body: body.replace(b"\n5\n", b"\n9223372036854775808\n", 1)),
        ("nothing", lambda _: b""),
    ],
)
def test_a_malformed_request_is_400(name: str, change: Callable[[bytes], bytes]) -> None:
    """400: malformed, whatever the fault is; nothing is remembered."""
    log = SyntheticLog(make_entries(5))

    async def story(running: Running, asker: Asker) -> None:
        answer = await asker.post("add-checkpoint", change(log.add_checkpoint(3)))
        assert answer.status == 400, name
        assert not running.core.origins

    play(story)


def test_every_truncation_is_refused() -> None:
    """400 for each proper prefix of a request."""
    log = SyntheticLog(make_entries(5))
    body = log.add_checkpoint(3)
    for end in (*range(200), *range(len(body) - 40, len(body))):
        with pytest.raises(FormatError):
            AddCheckpoint.parse(body[:end])


def test_old_size_above_the_new_one_is_400() -> None:
    """400: the old size is larger than the checkpoint's."""
    log = SyntheticLog(make_entries(9))

    async def story(_: Running, asker: Asker) -> None:
        assert (await asker.post("add-checkpoint", log.add_checkpoint(0, 9))).status == 200
        body = AddCheckpoint.encode(9, [], log.note(5).encode())
        assert (await asker.post("add-checkpoint", body)).status == 400

    play(story)


def test_origin_and_signature_come_first() -> None:
    """404 for an unknown origin and 403 for a missing or failing signature, also where other things are wrong too."""
    log = SyntheticLog(make_entries(5))
    stranger = TestSigner(CA.key.name, SignatureType.COSIGNATURE_MLDSA44, 77)
    unknown = SyntheticLog(make_entries(5), origin="oid/1.3.6.1.4.1.32473.2.0.1")
    unsigned = Note(log.checkpoint().encode(), (stranger.cosign(log.checkpoint(), NOW),))
    broken = replace(log.note(), text=log.note().text.replace(b"\n5\n", b"\n4\n"))

    async def story(running: Running, asker: Asker) -> None:
        for note, status in ((unknown.note(), 404), (unsigned, 403), (broken, 403)):
            # The old size is wrong as well, and so is the proof.
            body = AddCheckpoint.encode(3, [bytes(32)], note.encode())
            assert (await asker.post("add-checkpoint", body)).status == status
        assert not running.core.origins

    play(story)


def test_another_old_size_is_409_with_the_size_last_cosigned() -> None:
    """409: the body is the size in decimal and a newline, its type text/x.tlog.size; 0 where nothing was cosigned."""
    log = SyntheticLog(make_entries(9))

    async def story(_: Running, asker: Asker) -> None:
        answer = await asker.post("add-checkpoint", log.add_checkpoint(3))
        assert (answer.status, answer.body, answer.headers["content-type"]) == (409, b"0\n", "text/x.tlog.size")
        assert (await asker.post("add-checkpoint", log.add_checkpoint(0, 7))).status == 200
        for old in (0, 3, 8):
            answer = await asker.post("add-checkpoint", log.add_checkpoint(old))
            assert (answer.status, answer.body) == (409, b"7\n")

    play(story)


def test_a_wrong_proof_is_422() -> None:
    """422: a proof that fails, one that is not empty where there is nothing to prove, another root at the same size."""
    log, other = SyntheticLog(make_entries(9)), SyntheticLog(make_entries(9, "other"))

    async def story(_: Running, asker: Asker) -> None:
        first = AddCheckpoint.encode(0, [bytes(32)], log.note(5).encode())
        assert (await asker.post("add-checkpoint", first)).status == 422
        assert (await asker.post("add-checkpoint", log.add_checkpoint(0, 5))).status == 200
        note = log.note().encode()
        for proof in ([], [bytes(32)], log.proof(5, 9)[:-1], [*log.proof(5, 9), bytes(32)], log.proof(5, 9)[::-1]):
            assert (await asker.post("add-checkpoint", AddCheckpoint.encode(5, proof, note))).status == 422
        for body in (other.add_checkpoint(5), AddCheckpoint.encode(5, [], other.note(5).encode())):
            assert (await asker.post("add-checkpoint", body)).status == 422
        assert (
            await asker.post("add-checkpoint", AddCheckpoint.encode(5, [bytes(32)], log.note(5).encode()))
        ).status == 422
        assert (await asker.checkpoint(ORIGIN)).body.startswith(log.checkpoint(5).encode())

    play(story)


def test_a_tree_of_size_zero_has_the_empty_root() -> None:
    """422: a checkpoint of size zero with another root is never cosigned."""
    log = SyntheticLog()

    async def story(_: Running, asker: Asker) -> None:
        bad = log.note(root=bytes(32))
        assert (await asker.post("add-checkpoint", AddCheckpoint.encode(0, [], bad.encode()))).status == 422
        assert (await asker.post("add-checkpoint", log.add_checkpoint(0))).status == 200
        assert (await asker.post("add-checkpoint", AddCheckpoint.encode(0, [], bad.encode()))).status == 422

    play(story)


def test_a_forged_line_in_the_witness_name_is_not_carried_on() -> None:
    """What a submitter writes under the note in this witness's name is neither believed nor served."""
    log = SyntheticLog(make_entries(5))
    forged = NoteSignature(WITNESS.key.name, WITNESS.key.key_id, bytes(8 + 2420))

    async def story(_: Running, asker: Asker) -> None:
        note = log.note().with_signatures(forged, MIRROR.cosign(log.checkpoint(), NOW))
        answer = await asker.post("add-checkpoint", AddCheckpoint.encode(0, [], note.encode()))
        assert answer.status == 200
        assert forged.encode() not in answer.body
        served = parse_note((await asker.checkpoint(ORIGIN)).body)
        assert [line.name for line in served.signatures] == [CA.key.name, WITNESS.key.name]
        assert forged not in served.signatures
        # A checkpoint that carries only the forged line is exchanged for nothing.
        body = log.sign_subtree(Subtree(4, 5), Note(note.text, (forged,)).encode(), 5)
        assert (await asker.post("sign-subtree", body)).status == 403

    play(story)


def test_two_requests_from_one_view_are_not_both_cosigned() -> None:
    """The rollback race: of concurrent requests that start from one size, one wins and all others get 409."""
    one, other = SyntheticLog(make_entries(4)), SyntheticLog(make_entries(4))
    one.append(make_entries(4, "left"))
    other.append(make_entries(5, "right"))

    async def story(running: Running, asker: Asker) -> None:
        assert (await asker.post("add-checkpoint", one.add_checkpoint(0, 4))).status == 200
        bodies = [
            one.add_checkpoint(4, 6),
            other.add_checkpoint(4, 9),
            one.add_checkpoint(4, 8),
            other.add_checkpoint(4, 6),
        ]
        answers = await asyncio.gather(*(asker.post("add-checkpoint", body) for body in bodies))
        assert sorted(answer.status for answer in answers) == [200, 409, 409, 409]
        assert isinstance(running.cosigner.checkpoint(ORIGIN), bytes)

    play(story)


def test_two_processes_on_one_register_never_sign_two_views() -> None:
    """Compare-and-store is the register's: a second process that missed a change signs nothing, and catches up."""
    one, other = SyntheticLog(make_entries(4)), SyntheticLog(make_entries(4))
    one.append(make_entries(4, "left"))
    other.append(make_entries(4, "right"))
    world = World()

    async def story(_: Running, asker: Asker) -> None:
        assert (await asker.post("add-checkpoint", one.add_checkpoint(0, 4))).status == 200
        second = (await world.open()).asker()
        assert (await asker.post("add-checkpoint", one.add_checkpoint(4))).status == 200
        lost = await second.post("add-checkpoint", other.add_checkpoint(4))
        assert lost.status == 503
        assert b"\xe2\x80\x94" not in lost.body
        assert (await second.post("add-checkpoint", other.add_checkpoint(4))).body == b"8\n"

    play(story, world)


@pytest.mark.parametrize("failure", list(Failure))
@pytest.mark.parametrize("is_restarted", [True, False])
def test_nothing_is_signed_that_is_not_durable(failure: Failure, *, is_restarted: bool) -> None:
    """Each write fails, lost or kept: what was answered with a signature is remembered; the request comes through."""
    log = SyntheticLog(make_entries(9))
    for number in range(4):
        register = FailingRegister()
        world = World(register=register)
        register.plan.fail_write(number, failure)

        async def story(_running: Running, asker: Asker, world: World = world) -> None:
            old = 0
            for size in (5, 9):
                for _ in range(3):
                    answer = await asker.post("add-checkpoint", log.add_checkpoint(old, size))
                    if answer.status == 409:
                        old = int(answer.body)
                        continue
                    if answer.status == 200:
                        break
                    assert answer.status == 503
                    if is_restarted:
                        asker = (await world.open()).asker()
                assert answer.status == 200
                again = (await world.open()).asker()
                assert (await again.checkpoint(ORIGIN)).body.startswith(log.checkpoint(size).encode())
                old = size

        play(story, world)


def test_extension_lines_that_the_log_did_not_sign_are_refused() -> None:
    """403: ML-DSA-44 does not cover extension lines, so a stranger could have added them; Ed25519 covers the text."""
    log = SyntheticLog(make_entries(5))
    plain = SyntheticLog(make_entries(5), signer=LOG, origin="log.example/7")
    world = World(logs=(KnownLog(origin="log.example/7", keys=(LOG.key,)),))

    async def story(_: Running, asker: Asker) -> None:
        assert (await asker.post("add-checkpoint", log.add_checkpoint(0))).status == 200
        text = log.checkpoint().encode() + b"a word from a stranger\n"
        added = AddCheckpoint.encode(5, [], Note(text, log.note().signatures).encode())
        assert (await asker.post("add-checkpoint", added)).status == 403
        assert b"stranger" not in (await asker.checkpoint(ORIGIN)).body
        signed = replace(plain.checkpoint(), extensions=("a word of its own",))
        note = Note(signed.encode(), (LOG.cosign(signed),))
        assert (await asker.post("add-checkpoint", AddCheckpoint.encode(0, [], note.encode()))).status == 200
        assert b"a word of its own" in (await asker.checkpoint("log.example/7")).body

    play(story, world)


def test_one_signature_of_each_key_of_the_log_is_kept() -> None:
    """A checkpoint under which the log signed many times is served with its newest line alone."""
    log = SyntheticLog(make_entries(5))
    lines = [CA.cosign(log.checkpoint(), NOW - age) for age in (30, 10, 20)]

    async def story(_: Running, asker: Asker) -> None:
        note = Note(log.checkpoint().encode(), tuple(lines * 10))
        assert (await asker.post("add-checkpoint", AddCheckpoint.encode(0, [], note.encode()))).status == 200
        served = parse_note((await asker.checkpoint(ORIGIN)).body)
        assert [line for line in served.signatures if line.name == CA.key.name] == [lines[1]]

    play(story)


def test_times_of_a_log_never_go_back() -> None:
    """A clock that is set back a little signs with the last time again; far back nothing is signed, restart or not."""
    log = SyntheticLog(make_entries(12))
    world = World()

    def times(body: bytes) -> list[int]:
        return [Cosignature.parse(line.signature).timestamp for line in own_lines(body)]

    async def story(running: Running, asker: Asker) -> None:
        assert times((await asker.post("add-checkpoint", log.add_checkpoint(0, 4))).body) == [NOW]
        running.world.clock.jump(-20)
        assert times((await asker.post("add-checkpoint", log.add_checkpoint(4, 9))).body) == [NOW]
        running.world.clock.jump(-3600)
        assert (await asker.post("add-checkpoint", log.add_checkpoint(9))).status == 503
        restarted = (await world.open()).asker()
        assert (await restarted.post("add-checkpoint", log.add_checkpoint(9))).status == 503
        running.world.clock.jump(3620)
        assert (await (await world.open()).asker().post("add-checkpoint", log.add_checkpoint(9))).status == 200

    play(story, world)


def test_refused_requests_are_looked_at_for_evidence() -> None:
    """Whoever keeps evidence hears of each request that a rule refused, a failing signature too, and of no other."""
    log, other = SyntheticLog(make_entries(9)), SyntheticLog(make_entries(9, "other"))
    heard: list[str] = []

    async def note(_log: KnownLog, _view: object, _request: object, error: Error) -> None:
        heard.append(type(error).__name__)

    async def story(running: Running, asker: Asker) -> None:
        running.core.refused = note
        assert (await asker.post("add-checkpoint", log.add_checkpoint(0, 5))).status == 200
        assert heard == []
        broken = Note(log.checkpoint().encode(), log.note(5).signatures)
        for body in (
            AddCheckpoint.encode(5, [], other.note(5).encode()),
            AddCheckpoint.encode(5, [], broken.encode()),
            log.add_checkpoint(3),
        ):
            assert (await asker.post("add-checkpoint", body)).status in {403, 409, 422}
        assert heard == ["ProofError", "SignatureError", "ConflictError"]

    play(story)


def test_a_crash_between_the_swap_and_the_answer_loses_nothing() -> None:
    """What the register holds is served after a restart, with the signature that never left."""
    log = SyntheticLog(make_entries(5))
    world = World()

    async def story(_: Running, asker: Asker) -> None:
        await asker.post("add-checkpoint", log.add_checkpoint(0))
        served = (await (await world.open()).asker().checkpoint(ORIGIN)).body
        assert open_note(served, [WITNESS.key]).is_signed_by(WITNESS.key)
        assert await world.register.read(state_name(ORIGIN)) is not None

    play(story, world)


def test_subtrees_of_a_cosigned_checkpoint_are_signed_without_any_state() -> None:
    """sign-subtree: 200 with lines of timestamp 0 for every subtree of a small tree, also by who forgot all else."""
    log = SyntheticLog(make_entries(11))

    async def story(_: Running, asker: Asker) -> None:
        lines = (await asker.post("add-checkpoint", log.add_checkpoint(0))).body
        note = log.note().encode() + lines
        fresh = (await World().open()).asker()
        for start in range(11):
            for end in range(start + 1, 12):
                if not Subtree.is_valid(start, end):
                    continue
                subtree = Subtree(start, end)
                answer = await fresh.post("sign-subtree", log.sign_subtree(subtree, note, 11))
                assert answer.status == 200, (subtree, answer.text)
                verify_subtree_answer(answer.body, WITNESS.key, ORIGIN, subtree, log.hash_of(subtree))

    play(story)


def test_sign_subtree_refuses_what_it_must() -> None:
    """400 for what is no subtree, 404 for another origin, 403 without the own line, 422 for a bad proof."""
    log = SyntheticLog(make_entries(11))

    async def story(_running: Running, asker: Asker) -> None:
        lines = (await asker.post("add-checkpoint", log.add_checkpoint(0))).body
        note = log.note().encode() + lines
        body = log.sign_subtree(Subtree(8, 11), note, 11)
        head, _, rest = body.partition(b"\n")
        for first in (
            b"subtree 8 12",
            b"subtree 9 11",
            b"subtree 11 8",
            b"subtree 8",
            b"subtree 8 11 12",
            b"tree 8 11",
        ):
            assert (await asker.post("sign-subtree", first + b"\n" + rest)).status == 400, first
        empty = SignSubtree.encode(Subtree(8, 8), HASHER.empty, [], note)
        assert (await asker.post("sign-subtree", empty)).status == 400
        hashless = head + b"\n\n" + note
        assert (await asker.post("sign-subtree", hashless)).status == 400
        unknown = SyntheticLog(make_entries(11), origin="example.com/other")
        other = unknown.note().with_signatures(WITNESS.cosign(unknown.checkpoint(), NOW)).encode()
        assert (await asker.post("sign-subtree", unknown.sign_subtree(Subtree(8, 11), other, 11))).status == 404
        assert (
            await asker.post("sign-subtree", log.sign_subtree(Subtree(8, 11), log.note().encode(), 11))
        ).status == 403
        mirrored = log.note().with_signatures(MIRROR.cosign(log.checkpoint(), NOW)).encode()
        assert (await asker.post("sign-subtree", log.sign_subtree(Subtree(8, 11), mirrored, 11))).status == 403
        proof = prove_consistency(HASHER, log.reader, Subtree(8, 11), 11)
        for wrong in ([], proof[:-1], [*proof, bytes(32)]):
            bad = SignSubtree.encode(Subtree(8, 11), log.hash_of(Subtree(8, 11)), wrong, note)
            assert (await asker.post("sign-subtree", bad)).status == 422
        bad = SignSubtree.encode(Subtree(8, 11), bytes(32), proof, note)
        assert (await asker.post("sign-subtree", bad)).status == 422

    play(story)


def test_ed25519_is_signed_where_a_log_asks_for_it() -> None:
    """A log with ed25519 gets both lines, another one ML-DSA-44 alone; subtrees are signed with ML-DSA-44 only."""
    plain = SyntheticLog(make_entries(3), signer=LOG, origin="log.example/7")
    wanted = KnownLog(origin="log.example/7", keys=(LOG.key,), with_ed25519=True)
    world = World(logs=(wanted,), signers=(WITNESS, WITNESS_ED25519))

    async def story(_: Running, asker: Asker) -> None:
        answer = await asker.post("add-checkpoint", plain.add_checkpoint(0))
        assert len(own_lines(answer.body)) == len(own_lines(answer.body, WITNESS_ED25519)) == 1
        opened = open_note(plain.note().encode() + answer.body, [WITNESS.key, WITNESS_ED25519.key])
        assert {item.timestamp for item in opened.verified} == {NOW}
        log = SyntheticLog(make_entries(3))
        other = await asker.post("add-checkpoint", log.add_checkpoint(0))
        assert not own_lines(other.body, WITNESS_ED25519)
        body = plain.sign_subtree(Subtree(2, 3), plain.note().encode() + answer.body, 3)
        signed = await asker.post("sign-subtree", body)
        assert [line.key_id for line in parse_signature_lines(signed.body)] == [WITNESS.key.key_id]
        only = b"".join(line.encode() for line in own_lines(answer.body, WITNESS_ED25519))
        body = plain.sign_subtree(Subtree(2, 3), plain.note().encode() + only, 3)
        assert (await asker.post("sign-subtree", body)).status == 403

    play(story, world)


def test_the_next_few_log_numbers_of_a_ca_are_accepted() -> None:
    """Logs come as the CA opens them: three numbers beyond the highest one seen, and no further."""
    world = World(cas=(KnownCA(key=CA.key, highest_log=6),))

    async def story(_: Running, asker: Asker) -> None:
        async def offer(number: int, text: str = "") -> int:
            log = SyntheticLog(make_entries(2), origin=f"oid/1.3.6.1.4.1.32473.1.0.{text or number}")
            return (await asker.post("add-checkpoint", log.add_checkpoint(0))).status

        assert [await offer(number) for number in (4, 0)] == [404, 404]
        assert [await offer(number) for number in (3, 6, 7)] == [200, 200, 404]
        for text in ("01", "1.1", "65536", "-1", "+1", "\u0661"):
            assert await offer(0, text) == 404
        again = (await world.open()).asker()
        log = SyntheticLog(make_entries(2), origin="oid/1.3.6.1.4.1.32473.1.0.5")
        assert (await again.post("add-checkpoint", log.add_checkpoint(0))).status == 200

    play(story, world)


def test_names_and_keys_of_roles_do_not_collide() -> None:
    """A log or CA under a cosigner's own name or key is refused, as is a log that stands there twice."""
    own = (WITNESS.key,)
    named_alike = TestSigner(WITNESS.key.name, SignatureType.COSIGNATURE_MLDSA44, 50)
    for key in (WITNESS.key, named_alike.key):
        with pytest.raises(UsageError) as caught:
            LogDirectory((), (KnownCA(key=key),), own)
        assert caught.value.reason is Reason.DUPLICATE
    log = KnownLog(origin=ORIGIN, keys=(CA.key,))
    with pytest.raises(UsageError):
        LogDirectory((log, log), (), own)
    with pytest.raises(UsageError):
        LogDirectory((log,), (KnownCA(key=CA.key),), own)


@pytest.mark.parametrize("name", ["ca.example", "oid/1.3.6.1.4.1", "oid/1.2.3.4", "oid/1.3.6.1.4.1.32473.01"])
def test_a_ca_key_is_named_after_an_id(name: str) -> None:
    """A key of a CA whose name is no trust anchor ID is refused, with the form that it must have."""
    with pytest.raises(UsageError, match="CA is named after its ID"):
        KnownCA(key=TestSigner(name, SignatureType.COSIGNATURE_MLDSA44, 5).key)


def test_bodies_are_bounded_before_and_after_decompression() -> None:
    """Oversized bodies and gzip bombs end at the limit, in small steps; a good gzip is read; another coding is 400."""
    log = SyntheticLog(make_entries(5))
    body = log.add_checkpoint(0)

    async def story(_: Running, asker: Asker) -> None:
        large = (b"x" * 65536 for _ in range(1000))
        assert (await asker.post("add-checkpoint", large)).status == 413
        taken = 1000 - 1 - sum(1 for _ in large)
        assert taken < 20
        squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
        bomb = squeeze.compress(bytes(1 << 26)) + squeeze.flush()
        assert len(bomb) < 70_000
        packed = {"Content-Encoding": "gzip"}
        assert (await asker.post("add-checkpoint", bomb, packed)).status == 413
        assert (await asker.post("add-checkpoint", gzip.compress(body)[:-4], packed)).status == 400
        assert (await asker.post("add-checkpoint", gzip.compress(body) + b"x", packed)).status == 400
        assert (await asker.post("add-checkpoint", body, packed)).status == 400
        assert (await asker.post("add-checkpoint", body, {"Content-Encoding": "br"})).status == 400
        assert (await asker.post("add-checkpoint", gzip.compress(body), packed)).status == 200
        assert len(body) < MAX_TEXT_BYTES

    play(story)


def test_monitoring_tells_only_of_logs_that_were_cosigned() -> None:
    """404 for a log without a checkpoint, another hash, another spelling, and for what a witness does not have."""
    log = SyntheticLog(make_entries(5))

    async def story(_: Running, asker: Asker) -> None:
        assert (await asker.checkpoint(ORIGIN)).status == 404
        await asker.post("add-checkpoint", log.add_checkpoint(0))
        served = await asker.checkpoint(ORIGIN)
        assert (served.status, served.headers["content-type"]) == (200, "text/plain; charset=utf-8")
        for path in ("tile/0/000.p/5", "tile/entries/000.p/5", "checkpoint/", "Checkpoint"):
            assert (await asker.fetch(ORIGIN, path)).status == 404
        assert (await asker.checkpoint("other")).status == 404

    play(story)


def test_a_proof_has_at_most_63_lines() -> None:
    """Zero to 63 hashes are read, both bounds included."""
    log = SyntheticLog(make_entries(5))
    note = log.note().encode()
    assert len(AddCheckpoint.parse(AddCheckpoint.encode(3, [bytes(32)] * 63, note)).proof) == MAX_PROOF_LINES
    assert AddCheckpoint.parse(AddCheckpoint.encode(3, [], note)).proof == ()
    with pytest.raises(FormatError):
        AddCheckpoint.parse(AddCheckpoint.encode(3, [bytes(32)] * 64, note))
