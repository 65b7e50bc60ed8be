"""Signed notes as they are written: a text, an empty line, signature lines. Nothing is verified here.

Spec: C2SP signed-note, "Format".
"""

import re
from dataclasses import dataclass

from mtc.errors import FormatError, Reason
from mtc.wire import decode_base64, encode_base64

MAX_NOTE_BYTES = 1_000_000
"""Largest note read; the limit of golang.org/x/mod/sumdb/note."""
MAX_SIGNATURES = 64
"""Most signature lines in a note; at least 16 must be accepted, and witnesses and mirrors add theirs."""
KEY_ID_BYTES = 4
"""Bytes of a key ID, which stand in front of every signature."""

_MARK = "— "
_KEY_NAME = re.compile(r"[^\s+\x00-\x1f\ud800-\udfff]+")
_CONTROL = re.compile(rb"[\x00-\x09\x0b-\x1f]")


def check_key_name(name: str) -> None:
    """Raise FormatError (BAD_NAME) for a name that is empty or has a Unicode space, a plus or a control character."""
    if not _KEY_NAME.fullmatch(name):
        raise FormatError(
            Reason.BAD_NAME, f"{name[:80]!r} is no key name: it is empty, or has a space, a plus or a control character"
        )


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line, verified or not.

    name: of the key. key_id: 4 bytes. signature: all that follows the key ID, at least one byte; cosignatures begin
    with a timestamp (`Cosignature`). Raises FormatError (BAD_NAME, BAD_LENGTH).
    """

    name: str
    key_id: bytes
    signature: bytes

    def __post_init__(self) -> None:
        """Refuse what cannot stand on a signature line."""
        check_key_name(self.name)
        if len(self.key_id) != KEY_ID_BYTES or not self.signature:
            raise FormatError(
                Reason.BAD_LENGTH,
                f"the note signature of {self.name} is a key ID of 4 bytes and at least one byte more",
            )

    @staticmethod
    def parse(line: str) -> "NoteSignature":
        """Read one signature line, without its newline."""
        name, space, text = line.removeprefix(_MARK).partition(" ")
        if not line.startswith(_MARK) or not space:
            raise FormatError(
                Reason.BAD_NOTE, f"{line[:80]!r} is no signature line: em dash, space, key name, space, base64"
            )
        check_key_name(name)
        data = decode_base64(text, f"the note signature of {name}")
        return NoteSignature(name, data[:KEY_ID_BYTES], data[KEY_ID_BYTES:])

    def encode(self) -> bytes:
        """Return the line with its newline."""
        return f"{_MARK}{self.name} {encode_base64(self.key_id + self.signature)}\n".encode()


@dataclass(frozen=True, slots=True)
class Note:
    """A text and the signatures under it. What the text says counts only after `open_note`.

    text: UTF-8 without control characters, ends in a newline, may hold empty lines. signatures: 1 to `MAX_SIGNATURES`.
    Raises FormatError (BAD_TEXT, BAD_NOTE, TOO_LARGE).
    """

    text: bytes
    signatures: tuple[NoteSignature, ...]

    def __post_init__(self) -> None:
        """Refuse what cannot be written as a note."""
        check_text(self.text)
        _check_count(len(self.signatures))

    def with_signatures(self, *signatures: NoteSignature) -> "Note":
        """Return the note with more signature lines behind those it has."""
        return Note(self.text, self.signatures + signatures)

    def encode(self) -> bytes:
        """Return the note; `parse_note` gives back the same bytes' value."""
        return self.text + b"\n" + b"".join([signature.encode() for signature in self.signatures])


def parse_note(data: bytes) -> Note:
    """Read a note of at most `MAX_NOTE_BYTES`; it is split at its last empty line, so the text may hold others.

    Raises FormatError: TOO_LARGE, BAD_TEXT (not UTF-8, or a control character), BAD_NOTE (no empty line, a line behind
    it that is no signature, none at all), TRUNCATED (no newline at the end), BAD_NAME, BAD_BASE64, BAD_LENGTH.
    """
    if len(data) > MAX_NOTE_BYTES:
        raise FormatError(
            Reason.TOO_LARGE, f"a note has at most {MAX_NOTE_BYTES} bytes, this one {len(data)}", got=len(data)
        )
    end = data.rfind(b"\n\n") + 1
    if not end:
        raise FormatError(Reason.BAD_NOTE, "the note has no empty line between its text and its signatures")
    signatures = parse_signature_lines(data[end + 1 :])
    return Note(data[:end], signatures)


def parse_signature_lines(data: bytes) -> tuple[NoteSignature, ...]:
    """Read 1 to `MAX_SIGNATURES` signature lines, as they stand under a note and as cosigners answer.

    Raises FormatError for the same reasons as `parse_note`.
    """
    if data and not data.endswith(b"\n"):
        raise FormatError(Reason.TRUNCATED, "the last signature line has no newline")
    lines = decode_text(data).split("\n")[:-1]
    _check_count(len(lines))
    return tuple(map(NoteSignature.parse, lines))


def decode_text(data: bytes) -> str:
    """Return text that must be UTF-8 without control characters other than newline. Raises FormatError (BAD_TEXT)."""
    if found := _CONTROL.search(data):
        raise FormatError(
            Reason.BAD_TEXT, f"a note has no control character, this one at byte {found.start()}", offset=found.start()
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(Reason.BAD_TEXT, f"the note is not UTF-8 at byte {error.start}", offset=error.start) from None


def check_text(text: bytes) -> None:
    """Raise FormatError unless `text` can stand in a note: whole lines of UTF-8, no control characters."""
    decode_text(text)
    if not text.endswith(b"\n"):
        raise FormatError(Reason.BAD_NOTE, "the text of a note is not empty and ends in a newline")


def _check_count(count: int) -> None:
    """Refuse too many signatures, and none."""
    if not count:
        raise FormatError(Reason.BAD_NOTE, "the note has no signature line")
    if count > MAX_SIGNATURES:
        raise FormatError(
            Reason.TOO_LARGE, f"a note has at most {MAX_SIGNATURES} signatures, this one {count}", got=count
        )
