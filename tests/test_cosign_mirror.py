"""The mirror: each rule of tlog-mirror by name, over HTTP, on memory."""

import asyncio
import gzip
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from tests.asgi import Reply
from tests.cosigning import WITNESS, Asker, Running, World
from tests.note_keys import CA, MIRROR
from tests.synthetic_logs import HASHER, NOW, ORIGIN, SyntheticLog, make_entries

from mtc.cosign.mirroring import MAX_EXCESS, MAX_PENDING, MirrorState, make_ticket, open_ticket
from mtc.cosign.requests import AddCheckpoint
from mtc.cosign.service import mirror as service
from mtc.cosign.service.core import object_prefix
from mtc.cosign.upload import (
    MAX_PROOF_HASHES,
    MirrorInfo,
    UploadHead,
    UploadReader,
    encode_package,
    package_places,
)
from mtc.errors import Error, FormatError
from mtc.merkle import Subtree
from mtc.note import Checkpoint, open_note, parse_signature_lines, verify_subtree_answer
from mtc.store import MemoryStore
from mtc.testing import FailingRegister, FailingStore, Failure
from mtc.tiles import EntryBundle, bundles_for_growth, tiles_for_growth, verify_tiles

SIZES = (1, 2, 255, 256, 257, 300, 511, 512, 600, 700)


def play(story: Callable[[Running, Asker], Awaitable[None]], world: World | None = None) -> None:
    """Run a story against a mirror."""

    async def run() -> None:
        running = await (world or World(is_mirror=True)).open()
        await story(running, running.asker())

    asyncio.run(run())


async def add(asker: Asker, log: SyntheticLog, old: int, size: int) -> None:
    """Have a checkpoint taken."""
    answer = await asker.post("add-checkpoint", log.add_checkpoint(old, size))
    assert answer.status == 200, answer.text
    assert not answer.body


async def grow(asker: Asker, log: SyntheticLog, old: int, size: int) -> bytes:
    """Bring a mirror from one size to another; return its signature lines."""
    await add(asker, log, old, size)
    answer = await asker.post("add-entries", log.upload(old, size))
    assert answer.status == 200, answer.text
    return answer.body


async def check_served(asker: Asker, log: SyntheticLog, size: int) -> None:
    """Re-verify from public bytes that the mirror serves the whole tree of a size, cosigned."""
    note = (await asker.checkpoint(ORIGIN)).body
    opened = open_note(note, [CA.key, MIRROR.key])
    assert {item.key for item in opened.verified} == {CA.key, MIRROR.key}
    checkpoint = Checkpoint.parse(opened.text)
    assert checkpoint == log.checkpoint(size)
    found = {}
    for tile in tiles_for_growth(0, size):
        reply = await asker.fetch(ORIGIN, tile.path)
        assert reply.status == 200, tile
        found[tile] = reply.body
    if size:
        verify_tiles(HASHER, size, checkpoint.root_hash, found)
    entries: list[bytes] = []
    for bundle in bundles_for_growth(0, size):
        entries += EntryBundle.parse((await asker.fetch(ORIGIN, bundle.path)).body, bundle.width).entries
    assert entries == log.entries[:size]


def info(body: bytes) -> tuple[int, int]:
    """Return the sizes in a mirror's answer."""
    parsed = MirrorInfo.parse(body)
    return parsed.tree_size, parsed.next_entry


@pytest.mark.parametrize("first", SIZES)
@pytest.mark.parametrize("step", [0, 1, 200, 256, 300])
def test_growth_from_any_size_by_any_step_is_served_and_signed(first: int, step: int) -> None:
    """Whatever the sizes, the mirror checkpoint is signed with a time, and all its tiles and bundles are served."""
    log = SyntheticLog(make_entries(first + step))

    async def story(_: Running, asker: Asker) -> None:
        lines = await grow(asker, log, 0, first)
        opened = open_note(log.note(first).encode() + lines, [MIRROR.key])
        assert [item.timestamp for item in opened.verified] == [NOW]
        await check_served(asker, log, first)
        await grow(asker, log, first, first + step)
        await check_served(asker, log, first + step)

    play(story)


def test_add_checkpoint_is_never_answered_with_a_mirror_signature() -> None:
    """The mirror key signs nothing in add-checkpoint: 200 with an empty body, and no checkpoint is served yet."""
    log = SyntheticLog(make_entries(5))

    async def story(_: Running, asker: Asker) -> None:
        await add(asker, log, 0, 5)
        assert (await asker.checkpoint(ORIGIN)).status == 404
        await add(asker, log, 5, 5)
        await asker.post("add-entries", log.upload(0, 5))
        log.append(make_entries(4, start=5))
        await add(asker, log, 5, 9)
        await check_served(asker, log, 5)

    play(story)


def test_a_mirror_judges_checkpoints_as_a_witness_does() -> None:
    """409 with the pending size, 422 for a wrong proof, 403 and 404 as ever; the pending checkpoint stays."""
    log, other = SyntheticLog(make_entries(9)), SyntheticLog(make_entries(9, "other"))

    async def story(_: Running, asker: Asker) -> None:
        await add(asker, log, 0, 5)
        answer = await asker.post("add-checkpoint", log.add_checkpoint(0))
        assert (answer.status, answer.body, answer.headers["content-type"]) == (409, b"5\n", "text/x.tlog.size")
        assert (await asker.post("add-checkpoint", other.add_checkpoint(5))).status == 422
        unsigned = replace(log.note(), signatures=(MIRROR.cosign(log.checkpoint(), NOW),))
        body = AddCheckpoint.encode(5, log.proof(5, 9), unsigned.encode())
        assert (await asker.post("add-checkpoint", body)).status == 403

    play(story)


def test_statuses_of_add_entries() -> None:
    """404 unknown origin; 422 before any checkpoint; 409 for each size or start that does not fit, with the state."""
    log = SyntheticLog(make_entries(700))
    unknown = SyntheticLog(make_entries(3), origin="example.com/x")

    async def story(_: Running, asker: Asker) -> None:
        assert (await asker.post("add-entries", unknown.upload(0, 3))).status == 404
        assert (await asker.post("add-entries", log.upload(0, 300))).status == 422
        await add(asker, log, 0, 300)
        for body in (log.upload(0, 299), log.upload(0, 301), log.upload(256, 300)):
            answer = await asker.post("add-entries", body)
            assert (answer.status, answer.headers["content-type"]) == (409, "text/x.tlog.mirror-info")
            assert info(answer.body) == (300, 0)
        assert (await asker.post("add-entries", log.upload(0, 300))).status == 200
        await grow(asker, log, 300, 600)
        # Below the mirror checkpoint, even though it once was the pending one.
        answer = await asker.post("add-entries", log.upload(0, 300))
        assert (answer.status, info(answer.body)) == (409, (600, 600))

    play(story)


def test_too_much_overlap_is_409() -> None:
    """An upload that repeats more than 32 packages of what is here is sent on; one that repeats less is taken."""
    size = MAX_EXCESS + 600
    log = SyntheticLog(make_entries(size))

    async def story(_: Running, asker: Asker) -> None:
        await add(asker, log, 0, size)
        while (answer := await asker.post("add-entries", log.upload(0, size, count=34))).status == 409:
            pytest.fail("nothing is here yet")
        assert info(answer.body) == (size, 34 * 256)
        answer = await asker.post("add-entries", log.upload(0, size, count=1))
        assert (answer.status, info(answer.body)) == (409, (size, 34 * 256))
        assert (await asker.post("add-entries", log.upload(2 * 256, size, count=2))).status == 202
        assert (await asker.post("add-entries", log.upload(2 * 256, size))).status == 200
        await check_served(asker, log, size)

    play(story)


def test_a_prefix_is_202_and_the_rest_completes_it() -> None:
    """202 with size, next entry and ticket; the upload goes on from there, in the middle of a bundle too."""
    log = SyntheticLog(make_entries(1000))

    async def story(_: Running, asker: Asker) -> None:
        await grow(asker, log, 0, 300)
        await add(asker, log, 300, 1000)
        answer = await asker.post("add-entries", log.upload(300, 1000, count=2))
        assert (answer.status, answer.headers["content-type"]) == (202, "text/x.tlog.mirror-info")
        told = MirrorInfo.parse(answer.body)
        assert (told.tree_size, told.next_entry) == (1000, 768)
        await check_served(asker, log, 300)
        answer = await asker.post("add-entries", log.upload(768, 1000, ticket=told.ticket))
        assert answer.status == 200
        await check_served(asker, log, 1000)

    play(story)


def test_a_package_that_fails_ends_the_upload_with_422_and_keeps_what_came_before() -> None:
    """422: processing stops at the package whose proof fails; those before it are stored, those after it are not."""
    log = SyntheticLog(make_entries(1000))

    async def story(running: Running, asker: Asker) -> None:
        await add(asker, log, 0, 1000)
        packages = log.packages(0, 1000)
        changed = packages[2].replace(b"entry 600", b"entry 6oo", 1)
        head = UploadHead(ORIGIN, 0, 1000).encode()
        answer = await asker.post("add-entries", head + b"".join([*packages[:2], changed, packages[3]]))
        assert answer.status == 422
        assert running.mirror.state(ORIGIN).next_entry == 512
        assert (await asker.post("add-entries", log.upload(512, 1000))).status == 200
        await check_served(asker, log, 1000)

    play(story)


def test_every_package_needs_its_own_proof() -> None:
    """422 for no proof, a cut one, a longer one, another package's, and one to another tree size."""
    log = SyntheticLog(make_entries(600))

    async def story(_: Running, asker: Asker) -> None:
        await add(asker, log, 0, 600)
        entries = EntryBundle(tuple(log.entries[:256])).encode()
        good = [bytes(item) for item in _proof(log, Subtree(0, 256), 600)]
        for proof in (
            [],
            good[:-1],
            [*good, bytes(32)],
            _proof(log, Subtree(256, 512), 600),
            _proof(log, Subtree(0, 256), 599),
        ):
            body = UploadHead(ORIGIN, 0, 600).encode() + encode_package(entries, proof)
            assert (await asker.post("add-entries", body)).status == 422, len(proof)

    play(story)


def _proof(log: SyntheticLog, subtree: Subtree, size: int) -> list[bytes]:
    """Return a subtree consistency proof."""
    from mtc.merkle import prove_consistency  # noqa: PLC0415 - used here alone

    return prove_consistency(HASHER, log.reader, subtree, size)


def test_a_malformed_upload_is_400() -> None:
    """400: a cut head, bounds in the wrong order, a first package that is cut off, and no package where one is due."""
    log = SyntheticLog(make_entries(600))
    body = log.upload(0, 600)
    head = UploadHead(ORIGIN, 0, 600).encode()
    backwards = bytearray(head)
    backwards[2 + len(ORIGIN) + 7] = 1
    backwards[2 + len(ORIGIN) : 2 + len(ORIGIN) + 16] = (7).to_bytes(8, "big") + (3).to_bytes(8, "big")

    async def story(running: Running, asker: Asker) -> None:
        await add(asker, log, 0, 600)
        for bad in (b"", head[:-1], head, head + b"\0", body[: len(head) + 900], bytes(backwards)):
            assert (await asker.post("add-entries", bad)).status == 400, len(bad)
        assert running.mirror.state(ORIGIN).next_entry == 0

    play(story)


def test_a_body_that_breaks_off_costs_only_the_package_in_which_it_does() -> None:
    """202 after each cut behind the first package: whole packages before the cut count, partial bytes are discarded."""
    log = SyntheticLog(make_entries(600))
    body = log.upload(0, 600)
    lengths = [len(item) for item in log.packages(0, 600)]
    start = len(body) - sum(lengths)

    async def story(_: Running, __: Asker) -> None:
        for cut, stored in ((start + lengths[0], 256), (start + lengths[0] + 40, 256), (len(body) - 1, 512)):
            asker = (await World(is_mirror=True).open()).asker()
            await add(asker, log, 0, 600)
            answer = await asker.post("add-entries", body[:cut])
            assert (answer.status, info(answer.body)) == (202, (600, stored))

    play(story)


def test_more_than_the_canonical_sequence_is_not_signed() -> None:
    """Bytes behind the last package are a fault: what was proven is kept (202), nothing is committed for it."""
    log = SyntheticLog(make_entries(300))

    async def story(_: Running, asker: Asker) -> None:
        await add(asker, log, 0, 300)
        answer = await asker.post("add-entries", log.upload(0, 300) + b"x")
        assert answer.status in {202, 400}
        assert (await asker.checkpoint(ORIGIN)).status == 404

    play(story)


def test_errors_come_before_the_body_is_complete() -> None:
    """A wrong head or package is answered at once; the rest of a huge body is never read."""
    log = SyntheticLog(make_entries(600))
    head = UploadHead(ORIGIN, 0, 599).encode()
    taken = 0

    def endless(first: bytes) -> object:
        nonlocal taken
        yield first
        while taken < 10_000:
            taken += 1
            yield bytes(65536)

    async def story(_: Running, asker: Asker) -> None:
        nonlocal taken
        await add(asker, log, 0, 600)
        for first, status, most in ((head, 409, 0), (UploadHead(ORIGIN, 0, 600).encode(), 422, 1)):
            taken = 0
            answer = await asker.post("add-entries", endless(first))  # type: ignore[arg-type]  # a generator of bytes
            assert answer.status == status
            assert taken <= most

    play(story)


def test_an_empty_upload_renews_the_time() -> None:
    """upload_start = upload_end at the mirror checkpoint: signed again with a newer time; beyond it nothing is."""
    log = SyntheticLog(make_entries(300))

    async def story(running: Running, asker: Asker) -> None:
        await grow(asker, log, 0, 300)
        running.world.clock.advance(100)
        answer = await asker.post("add-entries", log.upload(300, 300))
        assert answer.status == 200
        opened = open_note(log.note().encode() + answer.body, [MIRROR.key])
        assert [item.timestamp for item in opened.verified] == [NOW + 100]
        log.append(make_entries(5, start=300))
        await add(asker, log, 300, 305)
        assert (await asker.post("add-entries", log.upload(305, 305))).status == 409
        assert (await asker.post("add-entries", log.upload(300, 300))).status == 200
        await check_served(asker, log, 300)

    play(story)


def test_an_overtaken_upload_rewinds_nothing() -> None:
    """409 at the end when another upload has committed more meanwhile; the mirror checkpoint stays where it is."""
    log = SyntheticLog(make_entries(900))
    slow = log.upload(0, 500)

    async def story(running: Running, asker: Asker) -> None:
        await add(asker, log, 0, 500)
        reached, go_on = asyncio.Event(), asyncio.Event()

        async def body() -> object:
            yield slow[:-100]
            reached.set()
            await go_on.wait()
            yield slow[-100:]

        upload = asyncio.create_task(running.mirror.add_entries(body()))  # type: ignore[arg-type]  # an iterable of bytes
        await reached.wait()
        await add(asker, log, 500, 900)
        assert (await asker.post("add-entries", log.upload(0, 900))).status == 200
        go_on.set()
        with pytest.raises(service.UploadConflict) as caught:
            await upload
        assert (caught.value.info.tree_size, caught.value.info.next_entry) == (900, 900)
        await check_served(asker, log, 900)

    play(story)


def test_a_smaller_pending_size_is_committed_after_entries_of_a_larger_one_came() -> None:
    """Any of the last pending sizes may be committed, also when what is stored goes beyond it; then the larger one."""
    log = SyntheticLog(make_entries(1400))

    async def story(_: Running, asker: Asker) -> None:
        sizes = (300, 517, 700, 1024, 1400)
        for old, size in zip((0, *sizes), sizes, strict=False):
            await add(asker, log, old, size)
        assert (await asker.post("add-entries", log.upload(0, 1400, count=5))).status == 202
        for size in sizes:
            answer = await asker.post("add-entries", log.upload(size - size % 256, size))
            assert answer.status == 200, (size, answer.text)
            await check_served(asker, log, size)

    play(story)


def test_many_uploads_at_once_are_harmless() -> None:
    """Uploaders of several sizes and pieces overlap: each is answered by the rules, the largest size is committed."""
    log = SyntheticLog(make_entries(2000))

    async def story(_: Running, asker: Asker) -> None:
        await add(asker, log, 0, 1100)
        await add(asker, log, 1100, 2000)

        async def send(size: int, chunk: int) -> None:
            start = 0
            for _ in range(50):
                body = log.upload(start, size, count=3)
                pieces = [body[at : at + chunk] for at in range(0, len(body), chunk)]
                answer = await asker.post("add-entries", pieces)
                if answer.status == 200:
                    return
                assert answer.status in {202, 409}
                told = MirrorInfo.parse(answer.body)
                size, start = told.tree_size, told.next_entry
            pytest.fail("an uploader does not come to its end")

        await asyncio.gather(*(send(size, chunk) for size in (1100, 2000) for chunk in (97, 1000, 100_000)))
        await check_served(asker, log, 2000)

    play(story)


async def _upload_all(asker: Asker, log: SyntheticLog, size: int) -> Reply:
    """Upload up to a size as a client does, from where the mirror says that it stands."""
    answer = await asker.post("add-entries", log.upload(0, size))
    if answer.status == 409:
        start = MirrorInfo.parse(answer.body).next_entry
        answer = await asker.post("add-entries", log.upload(min(start, size), size))
    return answer


@pytest.mark.parametrize("failure", list(Failure))
@pytest.mark.parametrize("is_restarted", [True, False])
def test_every_write_may_fail(failure: Failure, *, is_restarted: bool) -> None:  # noqa: C901 - retries are branches
    """Each write of three rounds fails, lost or kept: asked again, the mirror finishes and serves what it signed."""
    log = SyntheticLog(make_entries(800))

    async def attempt(world: World) -> None:
        asker, old = (await world.open()).asker(), 0
        for size in (300, 512, 800):
            for _ in range(8):
                answer = await asker.post("add-checkpoint", log.add_checkpoint(old, size))
                if answer.status == 409:
                    old = int(answer.body)
                elif answer.status == 200:
                    old = size
                    answer = await _upload_all(asker, log, size)
                if answer.status == 200:
                    break
                if answer.status == 503 and is_restarted:
                    asker = (await world.open()).asker()
            assert answer.status == 200, (size, answer.text)
            await check_served(asker, log, size)
        await check_served((await world.open()).asker(), log, 800)

    for part in ("store", "register"):
        number = 0
        while True:
            store, register = FailingStore(), FailingRegister()
            world = World(is_mirror=True, objects=store, register=register)
            plan = store.plan if part == "store" else register.plan
            plan.fail_write(number, failure)
            asyncio.run(attempt(world))
            if plan.writes <= number:
                break
            number += 1
        assert number >= 3


def test_a_restart_in_the_middle_of_a_tile_goes_on_there() -> None:
    """After a crash the next entry is the one behind the last that was stored, in the middle of a bundle too."""
    log = SyntheticLog(make_entries(1500))
    world = World(is_mirror=True)

    async def story(_: Running, asker: Asker) -> None:
        old = 0
        for size in (100, 300, 555, 1111):
            await add(asker, log, old, size)
            assert (await asker.post("add-entries", log.upload(old, size))).status == 200
            running = await world.open()
            asker = running.asker()
            assert running.mirror.state(ORIGIN).next_entry == size
            old = size
        await add(asker, log, 1111, 1500)
        await asker.post("add-entries", log.upload(1111, 1500, count=1))
        running = await world.open()
        assert running.mirror.state(ORIGIN).next_entry == 1280
        asker = running.asker()
        assert (await asker.post("add-entries", log.upload(1280, 1500))).status == 200
        await check_served(asker, log, 1500)

    play(story, world)


def test_a_mirror_that_lost_objects_says_so_and_signs_nothing() -> None:
    """A missing or changed tile of the mirror checkpoint stops the start, with its name."""
    log = SyntheticLog(make_entries(300))
    for change in ("missing", "changed"):
        world = World(is_mirror=True)

        async def story(_: Running, asker: Asker, world: World = world, change: str = change) -> None:
            await grow(asker, log, 0, 300)
            key = f"{object_prefix(ORIGIN)}tile/0/001.p/44"
            if change == "missing":
                await world.objects.discard([key])
            else:
                await world.objects.replace({key: bytes(44 * 32)})
            with pytest.raises(Error):
                await world.open()

        play(story, world)


def test_a_ticket_remembers_a_checkpoint_and_never_rewinds() -> None:
    """A ticket of this mirror makes a forgotten size known again; an old, foreign or changed one does nothing."""
    count = MAX_PENDING + 4
    log = SyntheticLog(make_entries(300 + count))

    async def story(running: Running, asker: Asker) -> None:
        await add(asker, log, 0, 300)
        ticket = MirrorInfo.parse((await asker.post("add-entries", log.upload(0, 300, count=1))).body).ticket
        for step in range(count):
            await add(asker, log, 300 + step, 301 + step)
        assert (await asker.post("add-entries", log.upload(256, 300))).status == 409
        wrong = bytes((ticket[0] ^ 1,)) + ticket[1:]
        assert (await asker.post("add-entries", log.upload(256, 300, ticket=wrong))).status == 409
        foreign = make_ticket(bytes(32), ORIGIN, running.mirror.state(ORIGIN).pending[0])
        assert (await asker.post("add-entries", log.upload(256, 300, ticket=foreign))).status == 409
        assert (await asker.post("add-entries", log.upload(256, 300, ticket=ticket))).status == 200
        await check_served(asker, log, 300)
        end = 300 + count
        assert (await asker.post("add-entries", log.upload(300, end))).status == 200
        answer = await asker.post("add-entries", log.upload(256, 300, ticket=ticket))
        assert (answer.status, info(answer.body)) == (409, (end, end))
        await check_served(asker, log, end)

    play(story)


def test_a_ticket_is_for_one_log_and_one_mirror() -> None:
    """A ticket opens only with the secret and the origin it was made with, and not after any byte was changed."""
    state = MirrorState()
    log = SyntheticLog(make_entries(3))
    from mtc.cosign.machine import CosignerView  # noqa: PLC0415 - used here alone

    view = CosignerView(3, log.root(3), log.note().encode())
    ticket = make_ticket(b"s" * 32, ORIGIN, view)
    assert open_ticket(b"s" * 32, ORIGIN, ticket) == view
    assert open_ticket(b"t" * 32, ORIGIN, ticket) is None
    assert open_ticket(b"s" * 32, "other", ticket) is None
    for at in range(0, len(ticket), 97):
        assert open_ticket(b"s" * 32, ORIGIN, ticket[:at] + bytes((ticket[at] ^ 1,)) + ticket[at + 1 :]) is None
    assert state.latest is None


def test_gzip_is_read_in_small_steps() -> None:
    """A gzip'd upload is taken; a bomb stops at the first package that fails; a cut one keeps what was whole."""
    log = SyntheticLog(make_entries(600))
    body = log.upload(0, 600)
    packed = {"Content-Encoding": "gzip"}

    async def story(_: Running, asker: Asker) -> None:
        await add(asker, log, 0, 600)
        squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
        head = UploadHead(ORIGIN, 0, 600).encode()
        bomb = squeeze.compress(head + bytes(1 << 28)) + squeeze.flush()
        assert (await asker.post("add-entries", bomb, packed)).status == 422
        assert (await asker.post("add-entries", b"no gzip", packed)).status == 400
        answer = await asker.post("add-entries", gzip.compress(body)[:-9], packed)
        assert answer.status in {202, 400}
        assert (await asker.checkpoint(ORIGIN)).status == 404
        answer = await asker.post("add-entries", gzip.compress(body), packed)
        assert (answer.status, answer.headers["accept-encoding"]) == (200, "gzip")
        await check_served(asker, log, 600)

    play(story)


def test_only_the_mirror_signature_is_exchanged_for_the_mirror_signature() -> None:
    """sign-subtree: a checkpoint with the mirror's line gives the mirror's; one that a witness signed gives 403."""
    log = SyntheticLog(make_entries(300))

    async def story(_: Running, asker: Asker) -> None:
        lines = await grow(asker, log, 0, 300)
        subtree = Subtree(256, 300)
        note = log.note().encode()
        answer = await asker.post("sign-subtree", log.sign_subtree(subtree, note + lines, 300))
        verify_subtree_answer(answer.body, MIRROR.key, ORIGIN, subtree, log.hash_of(subtree))
        witnessed = note + WITNESS.cosign(log.checkpoint(), NOW).encode()
        assert (await asker.post("sign-subtree", log.sign_subtree(subtree, witnessed, 300))).status == 403

    play(story)


def test_the_upload_reader_takes_any_pieces() -> None:
    """Whole, byte by byte or in odd pieces, the same packages come out; each truncation says that it is one."""
    log = SyntheticLog(make_entries(300))
    body = log.upload(200, 300, ticket=b"ticket")
    whole = UploadReader()
    expected = whole.receive(body)
    assert whole.is_complete
    assert [item.place for item in expected] == list(package_places(200, 300))
    assert [entry for item in expected for entry in item.entries] == log.entries[200:300]
    for size in (1, 7, 1000):
        reader = UploadReader()
        got = [item for at in range(0, len(body), size) for item in reader.receive(body[at : at + size])]
        assert got == expected
        assert reader.finish() == UploadHead(ORIGIN, 200, 300, b"ticket")
    sizes = [len(item) for item in log.packages(200, 300)]
    whole_ends = {len(body) - sum(sizes[at:]) for at in range(len(sizes) + 1)}
    for end in (*range(0, len(body), 13), *sorted(whole_ends)):
        reader = UploadReader()
        reader.receive(body[:end])
        if end not in whole_ends:
            with pytest.raises(FormatError):
                reader.finish()


def test_a_package_has_at_most_63_hashes() -> None:
    """A count of 64 is refused as soon as it is read."""
    reader = UploadReader()
    reader.receive(UploadHead(ORIGIN, 0, 1).encode() + b"\0\1a")
    reader.receive(bytes((MAX_PROOF_HASHES + 1,)))
    with pytest.raises(FormatError):
        reader.finish()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"1\n2\n",
        b"1\n2\nAA==\nx",
        b"01\n2\n\n",
        b"1\n-2\n\n",
        b"1\n2\n!\n",
        b"1\n2\n\n\n",
        b"\xff\n2\n\n",
        b"1\n2\n" + b"A" * 300_000,
    ],
)
def test_a_mirror_info_that_is_none_is_refused(body: bytes) -> None:
    """Three lines, decimals without leading zeros, base64; nothing more and nothing less."""
    with pytest.raises(FormatError):
        MirrorInfo.parse(body)


def test_objects_below_the_minimum_index_are_refused() -> None:
    """410 for full tiles and bundles that end at or below the minimum index; the rest is served."""
    log = SyntheticLog(make_entries(700))

    async def story(running: Running, asker: Asker) -> None:
        await grow(asker, log, 0, 700)
        await running.mirror.set_minimum_index(ORIGIN, 512)
        for path, status in (("tile/entries/000", 410), ("tile/0/001", 410), ("tile/entries/002.p/188", 200)):
            assert (await asker.fetch(ORIGIN, path)).status == status
        assert (await asker.fetch(ORIGIN, "tile/1/000.p/2")).status == 200
        await running.mirror.set_minimum_index(ORIGIN, 256)
        assert running.mirror.state(ORIGIN).minimum_index == 512

    play(story)


def test_costs_of_a_round() -> None:
    """A round of a few entries costs a mirror two changes of its register and one call of its store."""
    log = SyntheticLog(make_entries(20))
    store, register = FailingStore(), FailingRegister()

    async def story(_: Running, asker: Asker) -> None:
        await grow(asker, log, 0, 10)
        before = store.plan.writes, register.plan.writes
        await grow(asker, log, 10, 20)
        assert (store.plan.writes - before[0], register.plan.writes - before[1]) == (1, 2)

    play(story, World(is_mirror=True, objects=store, register=register))
    assert isinstance(store, MemoryStore)


def test_state_survives_its_encoding() -> None:
    """A mirror's state reads back as it was written; each truncation is refused."""
    log = SyntheticLog(make_entries(9))

    async def story(running: Running, asker: Asker) -> None:
        await grow(asker, log, 0, 5)
        await add(asker, log, 5, 9)
        state = running.mirror.state(ORIGIN)
        data = state.encode()
        assert MirrorState.parse(data) == state
        for end in range(0, len(data), 31):
            with pytest.raises(FormatError):
                MirrorState.parse(data[:end])
        assert len(parse_signature_lines(state.committed.lines)) == 1  # type: ignore[union-attr]  # it was committed

    play(story)
