"""The process that holds the key: what is durable before a signature leaves, and what a stranger on its socket gets."""

import asyncio
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.test_signer_machine import null_entries, request

from mtc.crypto import generate_key, parse_public_key, parse_signature_algorithm
from mtc.errors import ConflictError, Error, FormatError, PeerError, Reason, Rejected, StorageError, UsageError
from mtc.ids import TrustAnchorID, log_id
from mtc.kernel import active_kernel
from mtc.merkle import Subtree
from mtc.note import CosignedMessage
from mtc.signer import SignerRules, TreeLine, TreeRequest
from mtc.signer.protocol import (
    Answer,
    CRLRequest,
    KeyAnswer,
    KeyQuery,
    Request,
    SignedCRL,
    SignedMessages,
    encode_answer,
    encode_request,
    parse_answer,
    parse_request,
)
from mtc.signer.service import Journal, KeyHolder, SignerClient, read_journal, serve_signer
from mtc.signer.service.server import MAX_CONNECTIONS
from mtc.testing import FailingRegister, Failure, FakeClock

CA_ID = TrustAnchorID.parse("32473.1")
ALGORITHM = parse_signature_algorithm("ml-dsa-44")
KEY = generate_key(ALGORITHM)


class CountingSigner:
    """`Signer` that counts the signatures of all its instances."""

    count = 0
    algorithm = ALGORITHM
    public_key = KEY.public_key

    async def sign(self, message: bytes) -> bytes:
        """Count, and sign."""
        CountingSigner.count += 1
        return await KEY.sign(message)


def asked(count: int, start: int = 0) -> TreeRequest:
    """Return a request for the tree of so many null entries, at the fake clock's time."""
    return request(null_entries(count), start, timestamp=int(FakeClock().now().timestamp()))


def holder(folder: Path, register: FailingRegister, clock: FakeClock | None = None) -> KeyHolder:
    """Return a key holder with its journal in the folder."""
    hasher, rules = active_kernel().hasher("sha256"), SignerRules(ca_id=CA_ID)
    return KeyHolder(hasher, rules, CountingSigner(), register, Journal(folder / "journal"), clock or FakeClock())


def journal(folder: Path) -> list[bytes]:
    """Return every message in the journal."""
    return [
        message.encode()
        for line in read_journal(folder / "journal")
        if isinstance(line, TreeLine)
        for message in line.messages
    ]


def test_signatures_verify_and_stand_in_the_journal(tmp_path: Path) -> None:
    """What is signed verifies under the key, is a checkpoint and its subtrees, and was journalled before."""

    async def run() -> None:
        register = FailingRegister()
        signed = await holder(tmp_path, register).sign(asked(5))
        origin, key = log_id(CA_ID, 1), parse_public_key(KEY.public_key, ALGORITHM)
        written = journal(tmp_path)
        checkpoint = CosignedMessage.parse(written[0])
        assert (checkpoint.subtree, checkpoint.timestamp) == (Subtree(0, 5), asked(5).timestamp)
        key.verify(written[0], signed.checkpoint)
        assert [subtree for subtree, _, _ in signed.subtrees] == [Subtree(0, 4), Subtree(4, 5)]
        for message, (subtree, value, signature) in zip(written[1:], signed.subtrees, strict=True):
            assert message == CosignedMessage.for_subtree(CA_ID, origin, subtree, value).encode()
            key.verify(message, signature)
        again = await holder(tmp_path, register).sign(asked(9, 5))
        assert [subtree for subtree, _, _ in again.subtrees] == [Subtree(4, 8), Subtree(8, 9)]

    asyncio.run(run())


@pytest.mark.parametrize("failure", Failure, ids=lambda failure: failure.value)
@pytest.mark.parametrize("number", [0, 1], ids=["first tree", "second tree"])
def test_no_signature_before_the_record_is_durable(tmp_path: Path, number: int, failure: Failure) -> None:
    """When the record cannot be kept, nothing is signed; a retry signs the same tree."""

    async def run() -> None:
        register = FailingRegister()
        register.plan.fail_write(number, failure)
        for size, start in ((3, 0), (8, 3)):
            before = CountingSigner.count
            try:
                await holder(tmp_path, register).sign(asked(size, start))
            except StorageError:
                assert CountingSigner.count == before
                await holder(tmp_path, register).sign(asked(size, start))
        assert len(register.values) == 1

    asyncio.run(run())


@pytest.mark.parametrize("failure", Failure, ids=lambda failure: failure.value)
def test_refusal_as_stale_is_durable_before_it_is_told(tmp_path: Path, failure: Failure) -> None:
    """Whoever hears that evidence is stale may rely on it: a key whose clock goes back afterwards still refuses."""

    async def run() -> None:
        register, clock = FailingRegister(), FakeClock()
        stale = replace(asked(3), evidence_until=asked(3).timestamp + 10)
        clock.advance(11)
        register.plan.fail_write(0, failure)
        with pytest.raises(StorageError):
            await holder(tmp_path, register, clock).sign(stale)
        with pytest.raises(Rejected) as caught:
            await holder(tmp_path, register, clock).sign(stale)
        assert caught.value.reason is Reason.STALE_EVIDENCE
        clock.advance(-11)
        writes, before = register.plan.writes, CountingSigner.count
        with pytest.raises(Rejected):
            await holder(tmp_path, register, clock).sign(stale)
        assert register.plan.writes == writes, "it is remembered once"
        assert (CountingSigner.count, journal(tmp_path)) == (before, [])
        await holder(tmp_path, register, clock).sign(replace(stale, evidence_until=asked(3).timestamp + 11))

    asyncio.run(run())


@pytest.mark.parametrize("failure", Failure, ids=lambda failure: failure.value)
def test_announced_tree_is_signed_whatever_its_age(tmp_path: Path, failure: Failure) -> None:
    """A crash behind the journal leaves a tree that counts as signed, with the record or without it."""

    async def run() -> None:
        register, clock = FailingRegister(), FakeClock()
        aging = replace(asked(3), evidence_until=asked(3).timestamp + 10)
        register.plan.fail_write(0, failure)
        with pytest.raises(StorageError):
            await holder(tmp_path, register, clock).sign(aging)
        clock.advance(86400)
        assert len((await holder(tmp_path, register, clock).sign(aging)).subtrees) == 2
        grown = replace(asked(5, 3), evidence_until=asked(3).timestamp + 10)
        with pytest.raises(Rejected):
            await holder(tmp_path, register, clock).sign(grown)

    asyncio.run(run())


def test_two_holders_of_one_key_cannot_both_move_on(tmp_path: Path) -> None:
    """A holder whose record was moved by another one refuses instead of signing a second view."""

    async def run() -> None:
        register = FailingRegister()
        first = holder(tmp_path, register)
        await first.sign(asked(3))
        other = replace(asked(4, 3), root_hash=bytes(32))
        with pytest.raises(ConflictError):
            await first.sign(other)
        with pytest.raises(ConflictError):
            await first.sign(asked(2))

    asyncio.run(run())


def test_over_the_socket(tmp_path: Path) -> None:
    """A client gets signatures and refusals as if the key were here; the socket is its owner's alone."""

    async def run() -> None:
        path = tmp_path / "signer.sock"
        client = SignerClient(path)
        with pytest.raises(PeerError, match="is it running"):
            await client.sign(asked(1))
        async with serve_signer(holder(tmp_path, FailingRegister()), path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            signed = await client.sign(asked(5))
            parse_public_key(KEY.public_key, ALGORITHM).verify(journal(tmp_path)[0], signed.checkpoint)
            with pytest.raises(ConflictError, match="the signer refused") as caught:
                await client.sign(asked(2))
            assert caught.value.facts["tree_size"] == 5
            with pytest.raises(Rejected) as rejected:
                await client.sign(replace(asked(6, 5), entries=[b"\0\0\0\2"]))
            assert rejected.value.reason is Reason.BAD_ENTRY_TYPE

    asyncio.run(run())


@pytest.mark.parametrize(
    "data", [b"\xff\xff\xff\xff", b"\0\0\0\4abcd", b"\0\0\0\x09abc", b"\0"], ids=["huge", "garbage", "cut off", "short"]
)
def test_stranger_on_the_socket_changes_nothing(tmp_path: Path, data: bytes) -> None:
    """Garbage, oversized and unfinished frames get a refusal or a closed connection, and the next client is served."""

    async def run() -> None:
        path = tmp_path / "signer.sock"
        async with serve_signer(holder(tmp_path, FailingRegister()), path):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(data)
            writer.write_eof()
            answer = await asyncio.wait_for(reader.read(), 10)
            if answer:
                with pytest.raises(FormatError):
                    parse_answer(answer[4:])
            writer.close()
            assert len((await SignerClient(path).sign(asked(2))).subtrees) == 2

    asyncio.run(run())


@given(st.binary(max_size=120))
def test_hostile_frames_raise_only_our_errors(data: bytes) -> None:
    """Any bytes are a request or an answer that encodes to itself, or an error of ours."""
    with suppress(FormatError):
        assert encode_request(parse_request(data)) == data
    with suppress(Error):
        assert encode_answer(parse_answer(data)) == data


@given(st.lists(st.binary(max_size=40), max_size=20), st.booleans(), st.binary(max_size=99))
def test_requests_survive_the_socket(entries: list[bytes], with_subtrees: bool, tbs: bytes) -> None:  # noqa: FBT001 - given
    """Every request is read as it was written, whatever its entries are; an entry too large for the log is not sent."""
    tree = replace(asked(0), entries=entries, with_subtrees=with_subtrees, evidence_until=len(tbs))
    for sent in (tree, CRLRequest(tbs), KeyQuery()):
        assert parse_request(encode_request(sent)) == sent
    with pytest.raises(UsageError):
        encode_request(replace(tree, entries=[*entries, bytes(65536)]))


def test_formats_refuse_truncation_and_trailing_bytes() -> None:
    """Requests and answers are refused when cut off anywhere, or followed by a byte."""
    requests: list[Request] = [asked(3), CRLRequest(b"tbs"), KeyQuery()]
    answers: list[Answer] = [
        SignedMessages(b"c", ((Subtree(0, 1), b"h", b"s"),)),
        SignedCRL(b"s"),
        KeyAnswer(b"k"),
    ]
    whole: list[tuple[Callable[[bytes], object], bytes]] = [(parse_request, encode_request(item)) for item in requests]
    whole += [(parse_answer, encode_answer(item)) for item in answers]
    for parse, data in whole:
        parse(data)
        for changed in (*(data[:at] for at in range(len(data))), data + b"\0"):
            with pytest.raises(FormatError):
                parse(changed)


def test_connection_that_ended_is_opened_again(tmp_path: Path) -> None:
    """A client whose signer went away and came back asks the new one; without one it says so."""

    async def run() -> None:
        path = tmp_path / "signer.sock"
        client = SignerClient(path)
        register = FailingRegister()
        for size in (3, 5, 7):
            async with serve_signer(holder(tmp_path, register), path):
                assert (await client.sign(asked(size))).checkpoint
        with pytest.raises(PeerError, match="is it running"):
            await client.sign(asked(7))
        assert await asyncio.wait_for(_ask_a_liar(tmp_path, b"\0\0\0\2\2\0"), 10) is FormatError
        assert await asyncio.wait_for(_ask_a_liar(tmp_path, b"\0\0\0\3\3\0\0"), 10) is PeerError
        assert await asyncio.wait_for(_ask_a_liar(tmp_path, b""), 10) is PeerError

    asyncio.run(run())


async def _ask_a_liar(folder: Path, answer: bytes) -> type[Error]:
    """Ask something that is no signer; return the family of the error."""

    async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(4)
        writer.write(answer)
        writer.close()

    path = folder / "liar.sock"
    async with await asyncio.start_unix_server(lie, path):
        with pytest.raises(Error) as caught:
            await SignerClient(path).sign(asked(1))
    return caught.type


def test_strangers_cannot_take_every_connection(tmp_path: Path) -> None:
    """Beyond a number of open connections new ones are closed at once; those that are open go on."""

    async def run() -> None:
        path = tmp_path / "signer.sock"
        events: list[str] = []
        async with serve_signer(holder(tmp_path, FailingRegister()), path, lambda event, _: events.append(event)):
            clients = [SignerClient(path) for _ in range(MAX_CONNECTIONS)]
            for client in clients:
                assert await client.fetch_public_key() == KEY.public_key
            with pytest.raises(PeerError):
                await SignerClient(path).fetch_public_key()
            assert events == ["connection-refused"]
            clients[0].close()
            assert await clients[1].fetch_public_key() == KEY.public_key

    asyncio.run(run())


def test_refusals_are_reported(tmp_path: Path) -> None:
    """What is refused, and why, is told to the log of the process, with log and size."""

    async def run() -> None:
        events: list[tuple[str, dict[str, object]]] = []
        path = tmp_path / "signer.sock"
        async with serve_signer(holder(tmp_path, FailingRegister()), path, lambda *event: events.append(event)):
            with pytest.raises(Rejected):
                await SignerClient(path).sign(replace(asked(1), log_number=0))
        ((event, facts),) = events
        assert (event, facts["log"], facts["size"], facts["reason"]) == ("refused", 0, 1, "unknown-origin")

    asyncio.run(run())
