"""Signed notes: their form, the keys, and what opening one proves."""

import base64
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.note_keys import CA, LOG, MIRROR, WITNESS, TestSigner

from mtc.crypto import parse_signature_algorithm
from mtc.errors import FormatError, Reason, Rejected, SignatureError, UsageError
from mtc.note import (
    MAX_NOTE_BYTES,
    MAX_SIGNATURES,
    Checkpoint,
    Note,
    NoteSignature,
    SignatureType,
    VerifierKey,
    compute_key_id,
    note_signature,
    open_note,
    parse_note,
    parse_signature_lines,
    verify_note,
)

CHECKPOINT = Checkpoint("log.example/7", 300, bytes(range(32)))
LINE = NoteSignature("k.example", b"\x01\x02\x03\x04", b"signature")

LINES = st.text(st.characters(min_codepoint=0x20, exclude_categories=["Cs"]), max_size=12)
TEXTS = st.lists(LINES, min_size=1, max_size=5).map(lambda lines: "".join(f"{line}\n" for line in lines).encode())
NAMES = st.from_regex(r"[a-z0-9./é-]{1,12}", fullmatch=True)
SIGNATURES = st.builds(NoteSignature, NAMES, st.binary(min_size=4, max_size=4), st.binary(min_size=1, max_size=70))
NOTES = st.builds(Note, TEXTS, st.lists(SIGNATURES, min_size=1, max_size=4).map(tuple))


def _plain(signer: TestSigner, text: bytes) -> NoteSignature:
    """Return the signature line of a plain key."""
    return note_signature(signer.key, signer.signer.sign_now(text))


class TestVectors:
    """What others have published."""

    def test_example_of_the_specification(self, load_vectors: Callable[[str], Any]) -> None:
        """The example note of C2SP signed-note verifies under its example key; both are written as they were read."""
        vector = load_vectors("signed_notes.json")["ed25519"]
        key = VerifierKey.parse(vector["vkey"])
        data = vector["note"].encode()
        opened = open_note(data, [key])
        assert opened.text == b"This is an example message.\n"
        assert [(found.key, found.timestamp) for found in opened.verified] == [(key, None)]
        assert opened.unverified == ()
        assert key.encode() == vector["vkey"]
        assert (key.name, key.key_id.hex(), key.type) == ("example.com/foo", "530d903a", SignatureType.ED25519)
        assert parse_note(data).encode() == data

    def test_key_ids(self, load_vectors: Callable[[str], Any]) -> None:
        """The key IDs of ML-DSA-44 cosigners are those that the demonstration of the working group wrote."""
        for case in load_vectors("signed_notes.json")["mldsa44_key_ids"]:
            public_key = bytes.fromhex(case["public_key"])
            signature_type = SignatureType(int(case["type"], 16))
            assert compute_key_id(case["name"], signature_type, public_key).hex() == case["key_id"]
            key = VerifierKey(case["name"], signature_type, public_key)
            assert key.key_id.hex() == case["key_id"]
            assert VerifierKey.parse(key.encode()) == key

    def test_examples_with_unknown_keys_parse(self) -> None:
        """The example checkpoint of C2SP tlog-cosignature parses and is written as it was read; its keys are elided."""
        data = (
            "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
            "— example.com/behind-the-sofa "
            "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
            "— witness.example.com/w1 "
            "jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
        ).encode()
        note = parse_note(data)
        assert note.encode() == data
        assert [(line.name, line.key_id.hex(), len(line.signature)) for line in note.signatures] == [
            ("example.com/behind-the-sofa", "033de0ae", 64),
            ("witness.example.com/w1", "8d66cf3f", 72),
        ]
        assert int.from_bytes(note.signatures[1].signature[:8], "big") == 1679315147
        checkpoint = Checkpoint.parse(note.text)
        assert (checkpoint.origin, checkpoint.tree_size) == ("example.com/behind-the-sofa", 20852163)
        with pytest.raises(Rejected) as caught:
            open_note(data, [LOG.key])
        assert caught.value.reason == Reason.UNKNOWN_SIGNER


class TestForm:
    """How a note is written."""

    @given(NOTES)
    def test_round_trip(self, note: Note) -> None:
        """Every note is read back from its bytes, empty lines in its text included."""
        assert parse_note(note.encode()) == note

    def test_splits_at_the_last_empty_line(self) -> None:
        """The text may hold empty lines, and what looks like signatures; only behind the last empty line they count."""
        text = b"a\n\n" + LINE.encode() + b"\nb\n\n"
        assert parse_note(text + b"\n" + LINE.encode()) == Note(text, (LINE,))
        assert parse_note(b"\n\n" + LINE.encode()) == Note(b"\n", (LINE,))

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", Reason.BAD_NOTE),
            (b"\n", Reason.BAD_NOTE),
            (b"\n\n", Reason.BAD_NOTE),
            (b"text\n", Reason.BAD_NOTE),
            (b"text\n\n", Reason.BAD_NOTE),
            (b"\n" + LINE.encode(), Reason.BAD_NOTE),
            (b"text\n" + LINE.encode(), Reason.BAD_NOTE),
            (b"text\n\n" + LINE.encode() + b"\n", Reason.BAD_NOTE),
            (b"text\n\n" + LINE.encode()[:-1], Reason.TRUNCATED),
            (b"text\n\n\n" + LINE.encode() + b"x", Reason.TRUNCATED),
            (b"text\n\n" + LINE.encode() + b"x\n", Reason.BAD_NOTE),
            (b"te\txt\n\n" + LINE.encode(), Reason.BAD_TEXT),
            (b"te\rxt\n\n" + LINE.encode(), Reason.BAD_TEXT),
            (b"te\0xt\n\n" + LINE.encode(), Reason.BAD_TEXT),
            (b"te\xffxt\n\n" + LINE.encode(), Reason.BAD_TEXT),
            (b"te\xed\xa0\x80xt\n\n" + LINE.encode(), Reason.BAD_TEXT),
            (b"text\r\n\r\n" + LINE.encode(), Reason.BAD_NOTE),
            ("text\n\n– k.example AQIDBHM=\n".encode(), Reason.BAD_NOTE),  # noqa: RUF001 - an en dash, on purpose
            ("text\n\n—k.example AQIDBHM=\n".encode(), Reason.BAD_NOTE),
            ("text\n\n—  k.example AQIDBHM=\n".encode(), Reason.BAD_NAME),
            ("text\n\n—  AQIDBHM=\n".encode(), Reason.BAD_NAME),
            ("text\n\n— k.example\n".encode(), Reason.BAD_NOTE),
            ("text\n\n— k.example \n".encode(), Reason.BAD_LENGTH),
            ("text\n\n— k+example AQIDBHM=\n".encode(), Reason.BAD_NAME),
            ("text\n\n— k\u00a0example AQIDBHM=\n".encode(), Reason.BAD_NAME),
            ("text\n\n— k\u2003example AQIDBHM=\n".encode(), Reason.BAD_NAME),
            ("text\n\n— k\u0085example AQIDBHM=\n".encode(), Reason.BAD_NAME),
            ("text\n\n— k.example  AQIDBHM=\n".encode(), Reason.BAD_BASE64),
            ("text\n\n— k.example AQIDBHM= \n".encode(), Reason.BAD_BASE64),
            ("text\n\n— k.example AQIDBHM\n".encode(), Reason.BAD_BASE64),
            ("text\n\n— k.example AQIDBHN=\n".encode(), Reason.BAD_BASE64),
            ("text\n\n— k.example AQIDBHM==\n".encode(), Reason.BAD_BASE64),
            ("text\n\n— k.example AQID_HM=\n".encode(), Reason.BAD_BASE64),
            ("text\n\n— k.example é\n".encode(), Reason.BAD_BASE64),
            ("text\n\n— k.example AQIDBA==\n".encode(), Reason.BAD_LENGTH),
            ("text\n\n— k.example AQ==\n".encode(), Reason.BAD_LENGTH),
        ],
    )
    def test_other_forms_are_refused(self, data: bytes, reason: Reason) -> None:
        """Each way to miss the form is refused with its reason."""
        with pytest.raises(FormatError) as caught:
            parse_note(data)
        assert caught.value.reason == reason

    def test_every_truncation(self) -> None:
        """A note cut off anywhere is refused, or is the note with fewer signatures."""
        whole = Note(b"one\n\ntwo\n", (LINE, LINE))
        data = whole.encode()
        for cut in range(len(data)):
            try:
                note = parse_note(data[:cut])
            except FormatError:
                continue
            assert note == Note(whole.text, (LINE,))
            assert note.encode() == data[:cut]

    @given(NOTES, st.data())
    def test_mutations_are_refused_or_written_as_read(self, note: Note, data: st.DataObject) -> None:
        """A note with a byte changed, put in or taken out is refused, or is another note with exactly these bytes."""
        encoded = note.encode()
        at = data.draw(st.integers(0, len(encoded) - 1))
        insert = data.draw(st.sampled_from([b"", b"\n", b" ", b"=", b"A", b"\xff", b"+"]))
        changed = encoded[:at] + insert + encoded[at + data.draw(st.integers(0, 1)) :]
        try:
            other = parse_note(changed)
        except FormatError:
            return
        assert other.encode() == changed
        assert (other == note) == (changed == encoded)

    def test_limits(self) -> None:
        """64 signatures are read, 65 are not, and neither is a note above the size limit."""
        assert len(parse_note(Note(b"x\n", (LINE,) * MAX_SIGNATURES).encode()).signatures) == MAX_SIGNATURES == 64
        for data in (b"x\n\n" + LINE.encode() * 65, b"x" * (MAX_NOTE_BYTES + 1)):
            with pytest.raises(FormatError) as caught:
                parse_note(data)
            assert caught.value.reason == Reason.TOO_LARGE
        with pytest.raises(FormatError):
            Note(b"x\n", (LINE,) * 65)

    def test_sixteen_large_signatures_fit(self) -> None:
        """Sixteen signatures of the largest ML-DSA key fit into a note, as verifiers must accept, and so do 64."""
        large = NoteSignature("k" * 255, b"\0\0\0\0", bytes(8 + 4627))
        for count in (16, 64):
            assert len(parse_note(Note(b"x\n", (large,) * count).encode()).signatures) == count

    @pytest.mark.parametrize("text", [b"", b"x", b"x\n\ty\n", b"\xff\n", b"x\x1f\n"])
    def test_note_is_valid_once_built(self, text: bytes) -> None:
        """No note has a text that could not be read back, and none is without signatures."""
        with pytest.raises(FormatError):
            Note(text, (LINE,))
        with pytest.raises(FormatError):
            Note(b"x\n", ())

    @pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\tb", "a\x00", "\ud800", "a\u3000b", "a\u2028"])
    def test_key_names(self, name: str) -> None:
        """A key name has no space of any script, no plus, no control character, and is not empty."""
        with pytest.raises(FormatError) as caught:
            NoteSignature(name, b"1234", b"x")
        assert caught.value.reason == Reason.BAD_NAME

    def test_signature_lines_alone(self) -> None:
        """Signature lines are also read without a note, as cosigners answer."""
        assert parse_signature_lines(LINE.encode() * 2) == (LINE, LINE)
        for data in (b"", b"\n", LINE.encode() + b"\n", LINE.encode()[:-1]):
            with pytest.raises(FormatError):
                parse_signature_lines(data)


class TestKeys:
    """Verifier keys."""

    @pytest.mark.parametrize("signer", [LOG, WITNESS, MIRROR], ids=lambda signer: f"{signer.key.type:02x}")
    def test_round_trip(self, signer: TestSigner) -> None:
        """A key of each usable type is read back from its text, which ends with its type and raw key in base64."""
        key = signer.key
        text = key.encode()
        assert VerifierKey.parse(text) == key
        name, key_id, rest = text.split("+", 2)
        assert (name, key_id) == (key.name, key.key_id.hex())
        assert base64.b64decode(rest) == bytes((key.type,)) + key.public_key
        assert str(key) == f"{name}+{key_id}"
        assert key.public_key.hex() not in repr(key)

    def test_type_changes_the_key_id(self) -> None:
        """The same public key has another ID as a witness than as a log, and under another name."""
        ids = {
            VerifierKey(name, signature_type, LOG.key.public_key).key_id
            for name in ("a", "b")
            for signature_type in (SignatureType.ED25519, SignatureType.COSIGNATURE_ED25519)
        }
        assert len(ids) == 4

    @pytest.mark.parametrize(
        ("type_byte", "reason"),
        [
            (0x02, Reason.UNSUPPORTED),
            (0x05, Reason.UNSUPPORTED),
            (0xFF, Reason.UNSUPPORTED),
            (0x00, Reason.UNKNOWN_ALGORITHM),
            (0x03, Reason.UNKNOWN_ALGORITHM),
            (0x07, Reason.UNKNOWN_ALGORITHM),
            (0xFA, Reason.UNKNOWN_ALGORITHM),
        ],
    )
    def test_types_without_use(self, type_byte: int, reason: Reason) -> None:
        """Types that are assigned but not usable here are told apart from types that nobody knows."""
        material = base64.b64encode(bytes((type_byte,)) + bytes(32)).decode()
        with pytest.raises(FormatError) as caught:
            VerifierKey.parse(f"k.example+00000000+{material}")
        assert caught.value.reason == reason
        assert caught.value.facts["got"] == type_byte

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda text: text[:0], Reason.BAD_KEY),
            (lambda text: text.split("+")[0], Reason.BAD_KEY),
            (lambda text: text.rsplit("+", 1)[0], Reason.BAD_KEY),
            (lambda text: text + "\n", Reason.BAD_BASE64),
            (lambda text: text + "=", Reason.BAD_BASE64),
            (lambda text: text[:-1], Reason.BAD_BASE64),
            (lambda text: text[:-4], Reason.BAD_KEY),
            (lambda text: text[:-4] + "AAAA" + text[-4:], Reason.BAD_KEY),
            (lambda text: " " + text, Reason.BAD_NAME),
            (lambda text: text[1:], Reason.BAD_KEY),
            (lambda text: text.replace("+", "+0", 1), Reason.BAD_KEY),
            (lambda text: text[:14] + text[14:22].upper() + text[22:], Reason.BAD_KEY),
            (lambda text: text[:14] + "00000000" + text[22:], Reason.BAD_KEY),
            (lambda text: text[:23], Reason.BAD_KEY),
            (lambda text: text + "A" * 5000, Reason.TOO_LARGE),
            (lambda text: "\udcff" + text, Reason.BAD_NAME),
        ],
    )
    def test_other_forms_are_refused(self, change: Callable[[str], str], reason: Reason) -> None:
        """Each way to miss the form is refused, also upper-case hex and a key ID of another key."""
        text = LOG.key.encode()
        assert text[13] == "+"
        assert any(character in "abcdef" for character in text[14:22])
        with pytest.raises(FormatError) as caught:
            VerifierKey.parse(change(text))
        assert caught.value.reason == reason

    def test_every_truncation(self) -> None:
        """A key cut off anywhere is refused."""
        text = LOG.key.encode()
        for cut in range(len(text)):
            with pytest.raises(FormatError):
                VerifierKey.parse(text[:cut])

    @pytest.mark.parametrize("size", [0, 31, 33, 1312])
    def test_size_of_the_key(self, size: int) -> None:
        """An Ed25519 key has 32 bytes and an ML-DSA-44 key 1312, no others."""
        with pytest.raises(FormatError) as caught:
            VerifierKey("k", SignatureType.ED25519, bytes(size))
        assert caught.value.reason == Reason.BAD_KEY
        with pytest.raises(FormatError):
            VerifierKey("k", SignatureType.COSIGNATURE_MLDSA44, bytes(size - 1 if size == 1312 else size))

    def test_cosigner_names_fit_their_message(self) -> None:
        """An ML-DSA-44 cosigner has a name of at most 255 bytes, because it signs its name with a one-byte length."""
        key = MIRROR.key
        assert VerifierKey("é" * 127, key.type, key.public_key).key_id
        with pytest.raises(FormatError) as caught:
            VerifierKey("é" * 128, key.type, key.public_key)
        assert caught.value.reason == Reason.BAD_NAME

    def test_key_from_a_signer(self) -> None:
        """A key comes from the public key of a signer, if that is of the algorithm of the type."""
        assert VerifierKey.from_spki(CA.key.name, CA.key.type, CA.signer.public_key) == CA.key
        for signer, wrong in [(LOG, SignatureType.COSIGNATURE_MLDSA44), (CA, SignatureType.ED25519)]:
            with pytest.raises(FormatError):
                VerifierKey.from_spki("k", wrong, signer.signer.public_key)
        x25519 = LOG.signer.public_key.replace(bytes.fromhex("06032b6570"), bytes.fromhex("06032b656e"))
        for spki in (x25519, LOG.signer.public_key + b"\0"):
            with pytest.raises(FormatError):
                VerifierKey.from_spki("k", SignatureType.ED25519, spki)
        assert LOG.key.verifier.algorithm == parse_signature_algorithm("ed25519")


class TestOpening:
    """What opening a note proves."""

    TEXT = CHECKPOINT.encode()

    def _note(self) -> Note:
        lines = [LOG.cosign(CHECKPOINT), WITNESS.cosign(CHECKPOINT, 1_700_000_000), MIRROR.cosign(CHECKPOINT, 5)]
        return Note(self.TEXT, tuple(lines))

    def test_all_types_under_one_note(self) -> None:
        """Keys of all usable types sign one checkpoint; each verified signature comes with its time, if it has one."""
        opened = open_note(self._note().encode(), [LOG.key, WITNESS.key, MIRROR.key, CA.key])
        assert [(found.key, found.timestamp) for found in opened.verified] == [
            (LOG.key, None),
            (WITNESS.key, 1_700_000_000),
            (MIRROR.key, 5),
        ]
        assert opened.text == self.TEXT
        assert opened.unverified == ()
        assert opened.is_signed_by(WITNESS.key)
        assert not opened.is_signed_by(CA.key)

    def test_unknown_keys_are_ignored(self) -> None:
        """Signatures of unknown keys are neither verified nor in the way, also with a known name or a known ID."""
        good = LOG.cosign(CHECKPOINT)
        same_name = NoteSignature(LOG.key.name, b"\0\0\0\0", b"x")
        same_id = NoteSignature("other.example", LOG.key.key_id, b"x")
        grease = NoteSignature("grease.example", b"abcd", bytes(100))
        note = Note(self.TEXT, (same_name, good, same_id, grease))
        opened = verify_note(note, [LOG.key])
        assert [found.signature for found in opened.verified] == [good]
        assert opened.unverified == (same_name, same_id, grease)

    def test_failing_signature_of_a_known_key_rejects_the_note(self) -> None:
        """One wrong signature under a known name and ID rejects the note, however many good ones stand beside it."""
        bad = NoteSignature(LOG.key.name, LOG.key.key_id, bytes(64))
        note = self._note().with_signatures(bad)
        with pytest.raises(SignatureError) as caught:
            verify_note(note, [LOG.key, WITNESS.key])
        assert caught.value.reason == Reason.BAD_SIGNATURE
        assert len(verify_note(note, [WITNESS.key]).verified) == 1

    def test_no_known_signature_rejects_the_note(self) -> None:
        """A note that no known key signed is rejected, and so is any note when no key is known."""
        for keys in ([CA.key], []):
            with pytest.raises(Rejected) as caught:
                verify_note(self._note(), keys)
            assert caught.value.reason == Reason.UNKNOWN_SIGNER

    @pytest.mark.parametrize("signer", [LOG, WITNESS, MIRROR], ids=lambda signer: f"{signer.key.type:02x}")
    def test_every_changed_byte_is_found(self, signer: TestSigner) -> None:
        """Whichever byte of text, time or signature changes, the signature of a known key fails."""
        line = signer.cosign(CHECKPOINT, 0 if signer is LOG else 77)
        verify_note(Note(self.TEXT, (line,)), [signer.key])
        step = 1 if len(line.signature) < 100 else 131
        for at in [*range(min(9, len(line.signature))), *range(9, len(line.signature), step)]:
            changed = bytearray(line.signature)
            changed[at] ^= 0x01
            with pytest.raises(SignatureError):
                verify_note(Note(self.TEXT, (NoteSignature(line.name, line.key_id, bytes(changed)),)), [signer.key])
        for other in (
            Checkpoint("log.example/8", 300, CHECKPOINT.root_hash),
            Checkpoint("log.example/7", 301, CHECKPOINT.root_hash),
            Checkpoint("log.example/7", 300, bytes(32)),
        ):
            with pytest.raises(SignatureError):
                verify_note(Note(other.encode(), (line,)), [signer.key])

    @pytest.mark.parametrize("signer", [LOG, WITNESS, MIRROR], ids=lambda signer: f"{signer.key.type:02x}")
    def test_every_truncation_of_a_signature(self, signer: TestSigner) -> None:
        """A signature of a known key that is too short or too long rejects the note."""
        line = signer.cosign(CHECKPOINT, 0 if signer is LOG else 77)
        cuts = {cut for cut in (1, 7, 8, 9, 63, 64, 71, len(line.signature) - 1) if cut < len(line.signature)}
        for changed in [line.signature[:cut] for cut in cuts] + [line.signature + b"\0"]:
            with pytest.raises((SignatureError, FormatError)):
                verify_note(Note(self.TEXT, (NoteSignature(line.name, line.key_id, changed),)), [signer.key])

    def test_repeated_signatures_are_each_verified(self) -> None:
        """A key may sign twice, at two times; both are verified."""
        note = Note(self.TEXT, (WITNESS.cosign(CHECKPOINT, 1), WITNESS.cosign(CHECKPOINT, 2)))
        assert [found.timestamp for found in verify_note(note, [WITNESS.key]).verified] == [1, 2]

    def test_plain_keys_sign_any_text_and_cosigners_only_checkpoints(self) -> None:
        """A plain key signs any text; a cosigner's line under a text that is no checkpoint rejects the note."""
        text = b"hello\n"
        plain = _plain(LOG, text)
        assert verify_note(Note(text, (plain,)), [LOG.key]).text == text
        line = WITNESS.cosign(CHECKPOINT, 9)
        with pytest.raises(FormatError) as caught:
            verify_note(Note(text, (plain, line)), [LOG.key, WITNESS.key])
        assert caught.value.reason == Reason.BAD_CHECKPOINT

    def test_keys_that_cannot_be_told_apart(self) -> None:
        """Two different keys with one name and one ID are our caller's fault; the same key twice is not."""
        twin = VerifierKey(LOG.key.name, LOG.key.type, WITNESS.key.public_key)
        object.__setattr__(twin, "key_id", LOG.key.key_id)
        with pytest.raises(UsageError):
            verify_note(self._note(), [LOG.key, twin])
        assert verify_note(self._note(), [LOG.key, LOG.key]).verified
