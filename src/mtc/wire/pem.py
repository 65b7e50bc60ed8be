"""Strict PEM: labelled base64 blocks of 64 characters a line.

Spec: RFC 7468, "Textual Encodings of PKIX, PKCS, and CMS Structures", strict generation; reading allows explanatory
text outside blocks, other line lengths and CRLF, as deployed files have them.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mtc.errors import FormatError, Reason, UsageError

MAX_PEM_BYTES = 16 * 1024 * 1024
"""Largest PEM text read."""
MAX_PEM_BLOCKS = 10_000
"""Most blocks in one PEM text."""

_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 #._]{1,64})-----")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]*={0,2}")


class PEMBlock(NamedTuple):
    """One block: its label (`CERTIFICATE`) and the decoded bytes."""

    label: str
    data: bytes


def parse_pem(text: bytes, *, strict: bool = False) -> list[PEMBlock]:
    """Return the blocks of a PEM text in order; an empty list when there is none.

    strict: nothing may stand outside the blocks (RFC 7468 strict files, certificate chains with properties).
    Raises FormatError (BAD_PEM, BAD_BASE64) with the line number.
    """
    blocks = []
    for block in _read_blocks(text, strict=strict):
        blocks.append(block)
        if len(blocks) > MAX_PEM_BLOCKS:
            raise FormatError(Reason.TOO_LARGE, f"the PEM text has more than {MAX_PEM_BLOCKS} blocks")
    return blocks


def find_pem_block(text: bytes, label: str) -> bytes:
    """Return the data of the first block with that label; what stands behind it is not looked at.

    Raises FormatError (BAD_PEM) when there is none.
    """
    for block in _read_blocks(text, strict=False):
        if block.label == label:
            return block.data
    raise FormatError(Reason.BAD_PEM, f"the PEM text has no {label} block")


def _read_blocks(text: bytes, *, strict: bool) -> Iterator[PEMBlock]:
    """Yield the blocks of a PEM text as they end."""
    if len(text) > MAX_PEM_BYTES:
        raise FormatError(Reason.TOO_LARGE, f"a PEM text of {len(text)} bytes is larger than {MAX_PEM_BYTES}")
    label: bytes | None = None
    started = 0
    lines: list[bytes] = []
    for number, raw in enumerate(text.split(b"\n"), 1):
        line = raw.rstrip(b" \t\r")
        if label is None:
            match = _BEGIN.fullmatch(line)
            if match:
                label, started, lines = match[1], number, []
            elif line and (strict or line.startswith((b"-----BEGIN", b"-----END"))):
                raise FormatError(
                    Reason.BAD_PEM, f"line {number} of the PEM text is neither a BEGIN line nor in a block", line=number
                )
        elif line == b"-----END " + label + b"-----":
            yield PEMBlock(label.decode(), _decode(lines, started))
            label = None
        elif line.startswith(b"-----"):
            raise FormatError(
                Reason.BAD_PEM, f"line {number} does not end the block that line {started} began", line=number
            )
        else:
            lines.append(line)
    if label is not None:
        raise FormatError(Reason.BAD_PEM, f"the PEM block that line {started} began has no END line", line=started)


def _decode(lines: list[bytes], started: int) -> bytes:
    """Decode the body of the block that began at line `started`."""
    body = b"".join(lines)
    if not _BASE64.fullmatch(body):
        raise FormatError(Reason.BAD_BASE64, f"the PEM block at line {started} is not base64", line=started)
    try:
        data = base64.b64decode(body, validate=True)
    except binascii.Error:
        raise FormatError(
            Reason.BAD_BASE64, f"the PEM block at line {started} is not whole base64", line=started
        ) from None
    if base64.b64encode(data) != body:
        raise FormatError(
            Reason.BAD_BASE64, f"the PEM block at line {started} has bits set behind its last byte", line=started
        )
    return data


def encode_pem(blocks: Iterable[PEMBlock]) -> bytes:
    """Return the strict PEM text of the blocks: 64 characters a line, LF."""
    out = []
    for label, data in blocks:
        if not _BEGIN.fullmatch(f"-----BEGIN {label}-----".encode()):
            raise UsageError(Reason.USAGE, f"{label!r} is not a PEM label")
        body = base64.b64encode(data).decode()
        lines = [body[at : at + 64] for at in range(0, len(body), 64)]
        out.append("\n".join((f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", "")))
    return "".join(out).encode()
