"""Checkpoints, signed messages and cosignatures, as cosigners make them and certificates carry them."""

import asyncio
from base64 import b64decode
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.note_keys import CA, LOG, MIRROR, WITNESS, TestSigner

from mtc.crypto import parse_public_key, parse_signature_algorithm
from mtc.errors import FormatError, Reason, Rejected, SignatureError, UsageError
from mtc.ids import TrustAnchorID, log_id
from mtc.merkle import Subtree
from mtc.note import (
    MAX_CHECKPOINT_SIZE,
    MAX_TIMESTAMP,
    Checkpoint,
    Cosignature,
    CosignedMessage,
    NoteSignature,
    SignatureType,
    VerifierKey,
    certificate_signature,
    checkpoint_message,
    encode_subtree_message,
    note_signature,
    verify_subtree_answer,
)

HASH = bytes(range(32))
CHECKPOINT = Checkpoint("log.example/7", 300, HASH)
ORIGIN = "oid/1.3.6.1.4.1.32473.1.0.1"

LINES = st.text(st.characters(min_codepoint=0x20, exclude_categories=["Cs"]), min_size=1, max_size=20)
CHECKPOINTS = st.builds(
    Checkpoint,
    LINES,
    st.integers(0, MAX_CHECKPOINT_SIZE),
    st.binary(min_size=32, max_size=32),
    st.lists(LINES, max_size=3).map(tuple),
)


class TestCheckpoint:
    """The text of a checkpoint."""

    def test_facts_of_the_demonstration(self, load_vectors: Callable[[str], Any]) -> None:
        """The checkpoint of the working group's demonstration has the origin of its log ID, its size and its root."""
        facts = load_vectors("certs_demo_plants07.json")["checkpoint"]
        text = f"{facts['origin']}\n{facts['size']}\n{facts['root_base64']}\n".encode()
        checkpoint = Checkpoint.parse(text)
        assert checkpoint.origin == log_id(TrustAnchorID.parse("32473.1"), 1).oid_name == ORIGIN
        assert checkpoint.tree_size == int(facts["size"])
        assert checkpoint.root_hash == b64decode(facts["root_base64"])
        assert checkpoint.encode() == text

    @given(CHECKPOINTS)
    def test_round_trip(self, checkpoint: Checkpoint) -> None:
        """Every checkpoint is read back from its text."""
        assert Checkpoint.parse(checkpoint.encode()) == checkpoint

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", Reason.BAD_CHECKPOINT),
            ("a\n1\n", Reason.BAD_CHECKPOINT),
            ("a\n1\n{root}", Reason.BAD_CHECKPOINT),
            ("a\n1\n{root}\nextension", Reason.BAD_CHECKPOINT),
            ("a\n1\n{root}\n\n", Reason.BAD_CHECKPOINT),
            ("a\n1\n{root}\n\nextension\n", Reason.BAD_CHECKPOINT),
            ("\n1\n{root}\n", Reason.BAD_NAME),
            ("a\n\n{root}\n", Reason.BAD_NUMBER),
            ("a\n01\n{root}\n", Reason.BAD_NUMBER),
            ("a\n00\n{root}\n", Reason.BAD_NUMBER),
            ("a\n+1\n{root}\n", Reason.BAD_NUMBER),
            ("a\n-1\n{root}\n", Reason.BAD_NUMBER),
            ("a\n 1\n{root}\n", Reason.BAD_NUMBER),
            ("a\n1 \n{root}\n", Reason.BAD_NUMBER),
            ("a\n1_0\n{root}\n", Reason.BAD_NUMBER),
            ("a\n0x1\n{root}\n", Reason.BAD_NUMBER),
            ("a\n١\n{root}\n", Reason.BAD_NUMBER),  # noqa: RUF001 - a digit that is not ASCII
            ("a\n9223372036854775808\n{root}\n", Reason.BAD_NUMBER),
            ("a\n" + "9" * 5000 + "\n{root}\n", Reason.BAD_NUMBER),
            ("a\n1\n\n", Reason.BAD_HASH_SIZE),
            ("a\n1\nAAAA\n", Reason.BAD_HASH_SIZE),
            ("a\n1\n{root}A\n", Reason.BAD_BASE64),
            ("a\n1\n{root} \n", Reason.BAD_BASE64),
            ("a\r\n1\r\n{root}\r\n", Reason.BAD_TEXT),
            ("a\t\n1\n{root}\n", Reason.BAD_TEXT),
        ],
    )
    def test_other_forms_are_refused(self, text: str, reason: Reason) -> None:
        """Each way to miss the form is refused with its reason."""
        root = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
        assert Checkpoint.parse(f"a\n1\n{root}\n".encode()) == Checkpoint("a", 1, HASH)
        with pytest.raises(FormatError) as caught:
            Checkpoint.parse(text.replace("{root}", root).encode())
        assert caught.value.reason == reason

    def test_every_truncation(self) -> None:
        """A checkpoint cut off anywhere is refused, or lacks extension lines at its end."""
        checkpoint = Checkpoint("a", 10, HASH, ("one", "two"))
        data = checkpoint.encode()
        whole = {len(Checkpoint("a", 10, HASH, ("one", "two")[:count]).encode()) for count in (0, 1)}
        for cut in range(len(data)):
            if cut in whole:
                assert Checkpoint.parse(data[:cut]).encode() == data[:cut]
                continue
            with pytest.raises(FormatError):
                Checkpoint.parse(data[:cut])

    def test_other_hash_sizes(self) -> None:
        """A root of another size is read where the caller expects it, and only there."""
        checkpoint = Checkpoint("a", 1, bytes(48))
        assert Checkpoint.parse(checkpoint.encode(), 48) == checkpoint
        with pytest.raises(FormatError):
            Checkpoint.parse(checkpoint.encode())

    @pytest.mark.parametrize(
        ("origin", "size", "root", "extensions"),
        [
            ("", 1, HASH, ()),
            ("a\nb", 1, HASH, ()),
            ("\ud800", 1, HASH, ()),
            ("a", -1, HASH, ()),
            ("a", MAX_CHECKPOINT_SIZE + 1, HASH, ()),
            ("a", 1, b"", ()),
            ("a", 1, HASH, ("",)),
            ("a", 1, HASH, ("x\ny",)),
        ],
    )
    def test_checkpoint_is_valid_once_built(
        self, origin: str, size: int, root: bytes, extensions: tuple[str, ...]
    ) -> None:
        """No checkpoint exists that could not be written and read back."""
        with pytest.raises(FormatError):
            Checkpoint(origin, size, root, extensions)


class TestCosignedMessage:
    """The bytes that cosignatures cover."""

    def test_vectors(self, load_vectors: Callable[[str], Any]) -> None:
        """The signed bytes are those that verify the cosignatures of other implementations."""
        for case in load_vectors("cosigned_messages.json")["cases"]:
            message = CosignedMessage.for_subtree(
                TrustAnchorID.parse(case["cosigner_id"]),
                TrustAnchorID.parse(case["log_id"]),
                Subtree(int(case["start"]), int(case["end"])),
                bytes.fromhex(case["subtree_hash"]),
                int(case["timestamp"]),
            )
            assert message.encode().hex() == case["message"]
            assert CosignedMessage.parse(bytes.fromhex(case["message"])) == message

    def test_cosignature_of_the_demonstration(self, load_vectors: Callable[[str], Any]) -> None:
        """A cosignature of the working group's demonstration verifies over our bytes, and as a cosigner's answer."""
        demo = load_vectors("certs_demo_plants07.json")
        (cosigner,) = [found for found in demo["cosigners"] if found["id"] == "32473.1"]
        spki = b64decode(cosigner["spki_der"])
        for case in demo["cosignatures"]:
            cosigner_id, log = TrustAnchorID.parse(case["cosigner_id"]), TrustAnchorID.parse(case["log_id"])
            subtree = Subtree(int(case["start"]), int(case["end"]))
            subtree_hash, signature = bytes.fromhex(case["subtree_hash"]), bytes.fromhex(case["signature"])
            message = CosignedMessage.for_subtree(cosigner_id, log, subtree, subtree_hash)
            assert message.encode().hex() == case["message"]
            verifier = parse_public_key(spki, parse_signature_algorithm("ml-dsa-44"))
            verifier.verify(message.encode(), signature)
            key = VerifierKey.from_spki(cosigner_id.oid_name, SignatureType.COSIGNATURE_MLDSA44, spki)
            assert key.key_id.hex() == demo["checkpoint"]["ca_key_id"]
            answer = note_signature(key, signature).encode()
            assert verify_subtree_answer(answer, key, log.oid_name, subtree, subtree_hash) == signature

    @given(
        st.binary(min_size=1, max_size=32),
        st.integers(1, 65535),
        st.integers(0, 47),
        st.binary(min_size=32, max_size=32),
    )
    def test_short_cut_gives_the_same_bytes(self, seed: bytes, number: int, bits: int, subtree_hash: bytes) -> None:
        """The hot path of verifiers makes the bytes of a message without the message."""
        cosigner_id = TrustAnchorID(bytes(byte & 0x7F for byte in seed))
        log, subtree = log_id(cosigner_id, number), Subtree(1 << bits, 2 << bits)
        message = CosignedMessage.for_subtree(cosigner_id, log, subtree, subtree_hash)
        assert encode_subtree_message(cosigner_id, log, subtree, subtree_hash) == message.encode()

    def test_names_longer_than_the_message_allows(self) -> None:
        """An ID whose name has more than 255 bytes cannot be signed for or verified, on no path."""
        long = TrustAnchorID(b"\x01" * 128)
        for make in (CosignedMessage.for_subtree, encode_subtree_message):
            for ids in ((long, TrustAnchorID(b"\x01")), (TrustAnchorID(b"\x01"), long)):
                with pytest.raises(FormatError) as caught:
                    make(*ids, Subtree(0, 1), HASH)
                assert caught.value.reason == Reason.BAD_NAME

    @given(LINES, LINES, st.integers(0, 2**63 - 1), st.integers(0, 60), st.booleans())
    def test_round_trip(self, name: str, origin: str, timestamp: int, bits: int, checkpoint: bool) -> None:  # noqa: FBT001 - drawn
        """Every message is read back from its bytes, for subtrees with timestamp 0 and checkpoints with any."""
        name = "".join(name.replace("+", "").split()) or "k"
        subtree = Subtree(0, 1 << bits) if checkpoint else Subtree(3 << bits, (3 << bits) + 1)
        message = CosignedMessage(name, origin, subtree, HASH, timestamp if checkpoint else 0)
        assert CosignedMessage.parse(message.encode()) == message

    def test_every_truncation_and_trailing_data(self) -> None:
        """A message cut off anywhere or with a byte behind it is refused."""
        data = CosignedMessage("k", ORIGIN, Subtree(8, 13), HASH).encode()
        for cut in range(len(data)):
            with pytest.raises(FormatError):
                CosignedMessage.parse(data[:cut])
        with pytest.raises(FormatError) as caught:
            CosignedMessage.parse(data + b"\0")
        assert caught.value.reason == Reason.TRAILING_DATA

    def test_mutations(self) -> None:
        """A message with a bit changed is refused, or is another message with exactly these bytes."""
        data = CosignedMessage("k.example", ORIGIN, Subtree(8, 13), HASH).encode()
        for at in range(len(data) * 8):
            changed = bytearray(data)
            changed[at // 8] ^= 1 << at % 8
            try:
                other = CosignedMessage.parse(bytes(changed))
            except FormatError:
                continue
            assert at // 8 >= 12
            assert other.encode() == bytes(changed)

    @pytest.mark.parametrize(
        ("name", "origin", "subtree", "subtree_hash", "timestamp", "reason"),
        [
            ("", "o", Subtree(0, 1), HASH, 0, Reason.BAD_NAME),
            ("a b", "o", Subtree(0, 1), HASH, 0, Reason.BAD_NAME),
            ("k", "", Subtree(0, 1), HASH, 0, Reason.BAD_NAME),
            ("k", "a\nb", Subtree(0, 1), HASH, 0, Reason.BAD_NAME),
            ("k" * 256, "o", Subtree(0, 1), HASH, 0, Reason.BAD_NAME),
            ("k", "é" * 128, Subtree(0, 1), HASH, 0, Reason.BAD_NAME),
            ("k", "o", Subtree(0, 1), HASH, -1, Reason.BAD_TIME),
            ("k", "o", Subtree(0, 1), HASH, MAX_TIMESTAMP + 1, Reason.BAD_TIME),
            ("k", "o", Subtree(4, 6), HASH, 1, Reason.BAD_TIME),
            ("k", "o", Subtree(0, 1 << 64), HASH, 0, Reason.BAD_SUBTREE),
            ("k", "o", Subtree(0, 1), b"", 0, Reason.BAD_HASH_SIZE),
        ],
    )
    def test_message_is_valid_once_built(  # noqa: PLR0913 - the fields of a message
        self, name: str, origin: str, subtree: Subtree, subtree_hash: bytes, timestamp: int, reason: Reason
    ) -> None:
        """No message breaks the rules: names fit, a subtree that does not start at 0 has timestamp 0."""
        with pytest.raises(FormatError) as caught:
            CosignedMessage(name, origin, subtree, subtree_hash, timestamp)
        assert caught.value.reason == reason

    def test_rules_hold_for_bytes_too(self) -> None:
        """Bytes that say what no cosigner may say are refused: a time with a later start, no subtree, another label."""
        message = CosignedMessage("k", "o", Subtree(8, 13), HASH).encode()
        timed = message[:14] + (1).to_bytes(8, "big") + message[22:]
        crooked = message.replace((8).to_bytes(8, "big"), (9).to_bytes(8, "big"))
        latin = message[:13] + b"\xff" + message[14:]
        for data, reason in [
            (timed, Reason.BAD_TIME),
            (crooked, Reason.BAD_SUBTREE),
            (b"mtc-" + message, Reason.UNKNOWN_FORMAT),
            (latin, Reason.BAD_TEXT),
        ]:
            with pytest.raises(FormatError) as caught:
                CosignedMessage.parse(data)
            assert caught.value.reason == reason


class TestSigning:
    """From bytes to sign to signature lines."""

    def test_messages_of_each_type(self) -> None:
        """A plain key signs the text, an Ed25519 cosigner the text behind two lines, ML-DSA-44 a cosigned message."""
        checkpoint = Checkpoint("example.com/behind-the-sofa", 5, HASH, ("extension",))
        text = checkpoint.encode()
        assert checkpoint_message(LOG.key, checkpoint) == text
        # Provenance of the two lines: the example in C2SP tlog-cosignature, "Ed25519 signed message".
        assert checkpoint_message(WITNESS.key, checkpoint, 1679315147) == b"cosignature/v1\ntime 1679315147\n" + text
        expected = CosignedMessage(MIRROR.key.name, checkpoint.origin, Subtree(0, 5), HASH, 9)
        assert checkpoint_message(MIRROR.key, checkpoint, 9) == expected.encode()
        assert checkpoint_message(MIRROR.key, Checkpoint(checkpoint.origin, 5, HASH), 9) == expected.encode()

    def test_signer_is_awaited_between(self) -> None:
        """Any `Signer` fits between the message and the line."""

        async def cosign() -> NoteSignature:
            raw = await CA.signer.sign(checkpoint_message(CA.key, CHECKPOINT, 3))
            return note_signature(CA.key, raw, 3)

        line = asyncio.run(cosign())
        assert (line.name, line.key_id) == (CA.key.name, CA.key.key_id)
        assert Cosignature.parse(line.signature).timestamp == 3

    @pytest.mark.parametrize(("signer", "timestamp"), [(LOG, 1), (WITNESS, 0)])
    def test_times_that_do_not_go_with_the_type(self, signer: TestSigner, timestamp: int) -> None:
        """A plain key signs no time, and an Ed25519 cosigner never none."""
        with pytest.raises(UsageError):
            checkpoint_message(signer.key, CHECKPOINT, timestamp)

    @pytest.mark.parametrize("timestamp", [-1, MAX_TIMESTAMP + 1])
    def test_times_beyond_the_limit(self, timestamp: int) -> None:
        """No cosigner signs a time before 1970 or beyond 2^63 - 1."""
        for signer in (WITNESS, MIRROR):
            with pytest.raises(FormatError) as caught:
                checkpoint_message(signer.key, CHECKPOINT, timestamp)
            assert caught.value.reason == Reason.BAD_TIME

    def test_raw_signature_has_its_size(self) -> None:
        """A line is made only of a raw signature of the key's size, and of a time only where the type has one."""
        for signer in (LOG, WITNESS, MIRROR):
            with pytest.raises(UsageError):
                note_signature(signer.key, bytes(signer.key.signature_bytes + 1))
        with pytest.raises(UsageError):
            note_signature(LOG.key, bytes(64), 5)
        assert len(note_signature(LOG.key, bytes(64)).signature) == 64
        assert len(note_signature(WITNESS.key, bytes(64), 5).signature) == 72
        assert len(note_signature(MIRROR.key, bytes(2420), 5).signature) == 2428

    @given(st.integers(0, MAX_TIMESTAMP), st.binary(min_size=1, max_size=64))
    def test_cosignature_round_trip(self, timestamp: int, signature: bytes) -> None:
        """A cosignature is its time in eight bytes and the raw signature."""
        cosignature = Cosignature(timestamp, signature)
        assert cosignature.encode() == timestamp.to_bytes(8, "big") + signature
        assert Cosignature.parse(cosignature.encode()) == cosignature

    def test_cosignature_limits(self) -> None:
        """A time of 2^63 or more is refused, and so are eight bytes and fewer."""
        with pytest.raises(FormatError) as caught:
            Cosignature.parse(b"\x80" + bytes(71))
        assert caught.value.reason == Reason.BAD_TIME
        for size in range(9):
            with pytest.raises(FormatError) as short:
                Cosignature.parse(bytes(size))
            assert short.value.reason == Reason.TRUNCATED
        with pytest.raises(FormatError):
            Cosignature(0, b"")


class TestCertificateSignatures:
    """From a cosigner's answer to what a certificate carries."""

    SUBTREE = Subtree(8, 13)

    def _answer(self, signer: TestSigner = MIRROR, subtree: Subtree = SUBTREE, timestamp: int = 0) -> bytes:
        message = CosignedMessage(signer.key.name, ORIGIN, subtree, HASH, timestamp)
        return note_signature(signer.key, signer.signer.sign_now(message.encode()), timestamp).encode()

    def _verify(self, answer: bytes, key: VerifierKey = MIRROR.key) -> bytes:
        return verify_subtree_answer(answer, key, ORIGIN, self.SUBTREE, HASH)

    def test_answer_becomes_a_raw_signature(self) -> None:
        """The raw signature is the line without key ID and time, and verifies over the message of certificates."""
        raw = self._verify(self._answer())
        assert len(raw) == 2420
        message = CosignedMessage.for_subtree(
            TrustAnchorID.parse("32473.9"), log_id(TrustAnchorID.parse("32473.1"), 1), self.SUBTREE, HASH
        )
        MIRROR.key.verifier.verify(message.encode(), raw)

    def test_lines_of_others_are_ignored(self) -> None:
        """An answer may hold lines of other keys, in any order; without one of this key it is rejected."""
        grease = NoteSignature(MIRROR.key.name, b"abcd", bytes(3)).encode()
        assert self._verify(grease + self._answer(CA) + self._answer())
        with pytest.raises(Rejected) as caught:
            self._verify(grease + self._answer(CA))
        assert caught.value.reason == Reason.UNKNOWN_SIGNER

    def test_wrong_answers(self) -> None:
        """An answer about another subtree, or with a wrong signature beside a right one, does not verify."""
        with pytest.raises(SignatureError):
            self._verify(self._answer(subtree=Subtree(8, 12)))
        bad = note_signature(MIRROR.key, bytes(2420)).encode()
        with pytest.raises(SignatureError):
            self._verify(self._answer() + bad)

    def test_time_must_be_zero(self) -> None:
        """A line with a time cannot go into a certificate, whose message has none."""
        answer = self._answer(subtree=Subtree(0, 13), timestamp=7)
        with pytest.raises(FormatError) as caught:
            verify_subtree_answer(answer, MIRROR.key, ORIGIN, Subtree(0, 13), HASH)
        assert caught.value.reason == Reason.BAD_TIME
        assert certificate_signature(NoteSignature("k", b"1234", bytes(8) + b"raw")) == b"raw"
        with pytest.raises(FormatError):
            certificate_signature(NoteSignature("k", b"1234", bytes(8)))

    def test_only_subtree_cosigners_answer(self) -> None:
        """A key of a type that signs no subtrees is our caller's fault."""
        with pytest.raises(UsageError):
            self._verify(self._answer(), WITNESS.key)
