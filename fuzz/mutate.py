"""Structure-aware mutation of certificates and of plain bytes, fast enough for tens of millions of inputs.

An `Anatomy` knows where every TLV of a DER value lies, with DER inside extension values and the MTCProof inside the
signature. A structural mutation changes one part and writes the lengths around it anew, so that the fault lies deep
and the frame stays whole; a raw mutation leaves the lengths as they are.
"""

from collections.abc import Sequence
from enum import IntEnum
from random import Random
from typing import NamedTuple

from mtc.errors import Error
from mtc.kernel import parse_layout, parse_proof_layout

_EDGE_BYTES = bytes.fromhex("0001027f808182838485feff300306a0a3")
_TAGS = bytes.fromhex("010203040506080c0d13161718303181828586878889a0a1a2a3a4a51f3f9fbf")
_EDGE_CONTENTS = (
    b"",
    b"\x00",
    b"\x01",
    b"\xff",
    b"\x80",
    b"\x7f",
    b"\x00\x00",
    b"\x00\x80",
    b"\xff\x7f",
    b"\xff\xff",
    b"\x08\x00",
    b"\x07\x80",
    b"\x05\x00",
    b"\x01\x00\x00\x00\x00\x00\x00",
    b"\x00\x01\x00\x00\x00\x00\x00\x00",
    b"\x00\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x01\x00\x00\x00\x00\x00\x00\x00\x00",
    b"\x00\xff\xff\xff\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff\xff\xff\xff\xff",
    b"\x01\x01\xff",
    b"\x01\x01\x00",
    b"\x01\x01\xff\x02\x01\x00",
    b"\x01\x01\xff\x02\x02\x00\x01",
    b"\x02\x01\x00",
    b"\x80\x01",
    b"\x2a\x80\x01",
    b"\x2a\x81\x80\x01",
    b"\x55\x1d\x11",
    b"\x55\x1d\x0f",
    b"\x30\x00",
    b"\x82\x01\x80",
    b"\x87\x04\x7f\x00\x00\x01",
    b"\x87\x05\x7f\x00\x00\x01\x00",
)
_TIMES = (
    b"\x17\x0d500101000000Z",
    b"\x17\x0d491231235959Z",
    b"\x17\x0d000229000000Z",
    b"\x17\x0d010229000000Z",
    b"\x17\x0d251231235960Z",
    b"\x17\x0d251231236000Z",
    b"\x17\x0d251231240000Z",
    b"\x17\x0d251301000000Z",
    b"\x17\x0d250001000000Z",
    b"\x17\x0d250100000000Z",
    b"\x17\x0d250431000000Z",
    b"\x17\x0d25010100000 Z",
    b"\x17\x0d25010100000+Z",
    b"\x17\x0d250101000000z",
    b"\x17\x0b2501010000Z",
    b"\x17\x11250101000000+0000",
    b"\x18\x0f20250101000000Z",
    b"\x18\x0f00000101000000Z",
    b"\x18\x0f00010101000000Z",
    b"\x18\x0f19691231235959Z",
    b"\x18\x0f20491231235959Z",
    b"\x18\x0f20500101000000Z",
    b"\x18\x0f99991231235959Z",
    b"\x18\x0f19000229000000Z",
    b"\x18\x0f20000229000000Z",
    b"\x18\x0f21000229000000Z",
    b"\x18\x1120250101000000.5Z",
    b"\x18\x0d250101000000Z",
    b"\x17\x0f20250101000000Z",
    b"\x18\x00",
    b"\x17\x00",
    b"\x17\x01Z",
)


class Kind(IntEnum):
    """How the length of a part is written."""

    DER = 0
    BITS = 1
    """A BIT STRING whose body starts behind the count of unused bits."""
    VECTOR1 = 2
    VECTOR2 = 3
    VECTOR3 = 4
    RAW = 5
    """Bytes without a length of their own."""


class Part(NamedTuple):
    """One part of a value: data[start:end], its body from `body` on, and the number of the part around it or -1."""

    start: int
    body: int
    end: int
    kind: Kind
    parent: int


def _header(data: bytes, at: int, end: int) -> tuple[int, int] | None:
    """Return body and end of the TLV at `at` when it lies within [at, end); None otherwise."""
    if at + 2 > end or data[at] & 0x1F == 0x1F:
        return None
    length, body = data[at + 1], at + 2
    if length >= 0x80:
        count = length & 0x7F
        if not 1 <= count <= 3 or body + count > end:
            return None
        body += count
        length = int.from_bytes(data[at + 2 : body], "big")
    return (body, body + length) if body + length <= end else None


def _wrap(kind: Kind, tag: int, body: bytes) -> bytes:
    """Write a part anew around a new body."""
    if kind is Kind.RAW:
        return body
    length = len(body)
    if kind in (Kind.VECTOR1, Kind.VECTOR2, Kind.VECTOR3):
        width = kind - 1
        return (length & (1 << 8 * width) - 1).to_bytes(width, "big") + body
    if kind is Kind.BITS:
        body = b"\x00" + body
        length += 1
    if length < 0x80:
        return bytes((tag, length)) + body
    size = (length.bit_length() + 7) >> 3
    return bytes((tag, 0x80 | size)) + length.to_bytes(size, "big") + body


class Anatomy:
    """A value and its parts. parts[0] is the whole when it is one TLV; there are none in what is no DER."""

    def __init__(self, data: bytes, signatures_width: int = 0) -> None:
        """Take the value apart. signatures_width: of the MTCProof inside, when it is a certificate; 0 for none."""
        self.data = data
        self.parts: list[Part] = []
        self.children: list[list[int]] = []
        self.times: list[int] = []
        self.width = signatures_width
        self._value_start = 0
        if signatures_width:
            try:
                layout = parse_layout(data)
                parse_proof_layout(data, layout.value_start + 1, layout.value_end, 32, signatures_width, 255)
                self._value_start = layout.value_start
            except Error:
                self.width = 0
        found = _header(data, 0, len(data))
        if found is not None and found[1] == len(data):
            self._add_tlv(0, len(data), -1)

    def _add(self, part: Part) -> int:
        """Keep a part and return its number."""
        number = len(self.parts)
        self.parts.append(part)
        self.children.append([])
        if part.parent >= 0:
            self.children[part.parent].append(number)
        return number

    def _add_tlv(self, at: int, end: int, parent: int) -> int:
        """Keep the TLV at `at` and all that is in it; return where it ends, or 0 when there is none."""
        data = self.data
        found = _header(data, at, end)
        if found is None:
            return 0
        body, stop = found
        tag = data[at]
        if self.width and body == self._value_start:
            self._add_proof(self._add(Part(at, body + 1, stop, Kind.BITS, parent)))
            return stop
        number = self._add(Part(at, body, stop, Kind.DER, parent))
        if tag in (0x17, 0x18):
            self.times.append(number)
        if tag & 0x20 or (tag == 0x04 and self._is_der(body, stop)):
            inner = body
            while inner < stop:
                inner = self._add_tlv(inner, stop, number)
                if not inner:
                    break
        return stop

    def _is_der(self, at: int, end: int) -> bool:
        """Tell whether [at, end) is one TLV."""
        found = _header(self.data, at, end)
        return found is not None and found[1] == end

    def _add_proof(self, parent: int) -> None:
        """Keep the parts of the MTCProof in the body of `parent`."""
        data, (_, at, end, _, _) = self.data, self.parts[parent]
        stop = at + 2 + int.from_bytes(data[at : at + 2], "big")
        extensions = self._add(Part(at, at + 2, stop, Kind.VECTOR2, parent))
        at += 2
        while at < stop:
            item = at + 4 + int.from_bytes(data[at + 2 : at + 4], "big")
            entry = self._add(Part(at, at, item, Kind.RAW, extensions))
            self._add(Part(at, at, at + 2, Kind.RAW, entry))
            self._add(Part(at + 2, at + 4, item, Kind.VECTOR2, entry))
            at = item
        for _ in range(2):
            self._add(Part(at, at, at + 6, Kind.RAW, parent))
            at += 6
        stop = at + 2 + int.from_bytes(data[at : at + 2], "big")
        inclusion = self._add(Part(at, at + 2, stop, Kind.VECTOR2, parent))
        for place in range(at + 2, stop - 31, 32):
            self._add(Part(place, place, place + 32, Kind.RAW, inclusion))
        at = stop
        signatures = self._add(Part(at, at + self.width, end, Kind(self.width + 1), parent))
        at += self.width
        while at < end:
            middle = at + 1 + data[at]
            item = middle + 2 + int.from_bytes(data[middle : middle + 2], "big")
            signature = self._add(Part(at, at, item, Kind.RAW, signatures))
            self._add(Part(at, at + 1, middle, Kind.VECTOR1, signature))
            self._add(Part(middle, middle + 2, item, Kind.VECTOR2, signature))
            at = item

    def bytes_of(self, number: int) -> bytes:
        """Return a part whole."""
        return self.data[self.parts[number].start : self.parts[number].end]

    def replace(self, number: int, new: bytes) -> bytes:
        """Return the value with another part in the place of part `number`, and all lengths around it right."""
        data, parts = self.data, self.parts
        start, _, end, _, parent = parts[number]
        while parent >= 0:
            outer_start, body, outer_end, kind, grand = parts[parent]
            new = _wrap(kind, data[outer_start], data[body:start] + new + data[end:outer_end])
            start, end, parent = outer_start, outer_end, grand
        return new

    def replace_body(self, number: int, body: bytes) -> bytes:
        """Return the value with another body in part `number`, and all lengths right."""
        part = self.parts[number]
        return self.replace(number, _wrap(part.kind, self.data[part.start], body))


class Mutator:
    """An endless source of mutated values, the same for the same seed of chance.

    pool: what to start from; values chosen by `rare` with a chance of 1 in 400 (large ones, which cost time).
    """

    def __init__(self, rng: Random, pool: Sequence[Anatomy], rare: Sequence[Anatomy] = ()) -> None:
        """Take the pool; nothing in it is changed."""
        self._random = rng.random
        self._bytes = rng.randbytes
        self._pool = list(pool)
        self._rare = list(rare)
        self._operations = [
            self._flip,
            self._flip_in_part,
            self._flip_in_part,
            self._set_byte,
            self._set_byte_in_part,
            self._edit_header,
            self._edit_header,
            self._truncate,
            self._insert,
            self._remove,
            self._splice,
            self._drop_part,
            self._double_part,
            self._swap_parts,
            self._swap_parts,
            self._edge_contents,
            self._edge_contents,
            self._resize_contents,
            self._nudge_integer,
            self._nudge_integer,
            self._retag,
            self._edit_time,
            self._graft,
            self._graft,
            self._long_length,
        ]

    def mutate(self) -> bytes:
        """Return the next value: mostly one mutation, sometimes more on top of it."""
        random = self._random
        pool = self._rare if self._rare and random() < 0.0025 else self._pool
        source = pool[int(random() * len(pool))]
        operations = self._operations
        data = operations[int(random() * len(operations))](source)
        chance = random()
        if chance < 0.22:
            data = self._havoc(data)
        elif chance < 0.25:
            again = Anatomy(data, source.width)
            if again.parts and again.width == source.width:
                data = operations[int(random() * len(operations))](again)
        return data

    def mutate_bytes(self, source: bytes) -> bytes:
        """Return a mutation of a value that is no DER."""
        data = self._havoc(source)
        while self._random() < 0.4:
            data = self._havoc(data)
        return data

    def _part(self, source: Anatomy) -> int:
        """Choose a part; -1 when there is none."""
        return int(self._random() * len(source.parts)) if source.parts else -1

    def _havoc(self, data: bytes) -> bytes:  # noqa: PLR0911 - one return per kind of change
        """Change bytes anywhere, without regard for structure."""
        if not data:
            return self._bytes(1 + int(self._random() * 4))
        random = self._random
        choice = int(random() * 6)
        at = int(random() * len(data))
        if choice == 0:
            return data[:at] + bytes((data[at] ^ 1 << int(random() * 8),)) + data[at + 1 :]
        if choice == 1:
            return data[:at] + bytes((_EDGE_BYTES[int(random() * len(_EDGE_BYTES))],)) + data[at + 1 :]
        if choice == 2:
            return data[:at] + data[at + 1 + int(random() * 4) :]
        if choice == 3:
            return data[:at] + self._bytes(1 + int(random() * 4)) + data[at:]
        if choice == 4:
            size = 1 + int(random() * 16)
            other = int(random() * len(data))
            return data[:at] + data[other : other + size] + data[at:]
        return data[:at]

    def _flip(self, source: Anatomy) -> bytes:
        """Flip a bit anywhere."""
        data = bytearray(source.data)
        data[int(self._random() * len(data))] ^= 1 << int(self._random() * 8)
        return bytes(data)

    def _flip_in_part(self, source: Anatomy) -> bytes:
        """Flip a bit in some part, so that short parts are hit as often as long ones."""
        number = self._part(source)
        if number < 0:
            return self._flip(source)
        start, _, end, _, _ = source.parts[number]
        data = bytearray(source.data)
        data[min(start + int(self._random() * (end - start)), len(data) - 1)] ^= 1 << int(self._random() * 8)
        return bytes(data)

    def _set_byte(self, source: Anatomy) -> bytes:
        """Set a byte anywhere to one at the edge of a range."""
        data = bytearray(source.data)
        data[int(self._random() * len(data))] = _EDGE_BYTES[int(self._random() * len(_EDGE_BYTES))]
        return bytes(data)

    def _set_byte_in_part(self, source: Anatomy) -> bytes:
        """Set a byte in some part to any value."""
        number = self._part(source)
        if number < 0:
            return self._set_byte(source)
        start, _, end, _, _ = source.parts[number]
        data = bytearray(source.data)
        data[min(start + int(self._random() * (end - start)), len(data) - 1)] = int(self._random() * 256)
        return bytes(data)

    def _edit_header(self, source: Anatomy) -> bytes:
        """Change a byte of a part's header, lengths around it unchanged."""
        number = self._part(source)
        if number < 0:
            return self._flip(source)
        start, body, _, _, _ = source.parts[number]
        at = start + int(self._random() * max(body - start, 1))
        data = bytearray(source.data)
        if at >= len(data):
            return source.data[:-1]
        choice = int(self._random() * 4)
        if choice == 0:
            data[at] = data[at] + 1 & 0xFF
        elif choice == 1:
            data[at] = data[at] - 1 & 0xFF
        elif choice == 2:
            data[at] = _EDGE_BYTES[int(self._random() * len(_EDGE_BYTES))]
        else:
            data[at] = int(self._random() * 256)
        return bytes(data)

    def _truncate(self, source: Anatomy) -> bytes:
        """Cut the value off, sometimes with the outermost length mended."""
        data = source.data
        data = data[: int(self._random() * len(data))]
        if self._random() < 0.5 and len(source.parts) > 1:
            return _wrap(Kind.DER, source.data[0], data[source.parts[0].body :])
        return data

    def _insert(self, source: Anatomy) -> bytes:
        """Insert random bytes before some part, lengths right or as they were."""
        new = self._bytes(1 + int(self._random() * 5))
        number = self._part(source)
        if number < 0 or self._random() < 0.5:
            at = int(self._random() * (len(source.data) + 1))
            return source.data[:at] + new + source.data[at:]
        whole = source.bytes_of(number)
        return source.replace(number, new + whole if self._random() < 0.5 else whole + new)

    def _remove(self, source: Anatomy) -> bytes:
        """Remove a few bytes anywhere."""
        at = int(self._random() * len(source.data))
        return source.data[:at] + source.data[at + 1 + int(self._random() * 8) :]

    def _splice(self, source: Anatomy) -> bytes:
        """Join the front of one value and the back of another."""
        other = self._pool[int(self._random() * len(self._pool))].data
        if self._random() < 0.5:
            at = int(self._random() * min(len(source.data), len(other)))
            return source.data[:at] + other[at:]
        return source.data[: int(self._random() * len(source.data))] + other[int(self._random() * len(other)) :]

    def _drop_part(self, source: Anatomy) -> bytes:
        """Leave a part out."""
        number = self._part(source)
        return source.replace(number, b"") if number >= 0 else self._remove(source)

    def _double_part(self, source: Anatomy) -> bytes:
        """Write a part twice."""
        number = self._part(source)
        if number < 0:
            return self._insert(source)
        whole = source.bytes_of(number)
        return source.replace(number, whole + whole)

    def _swap_parts(self, source: Anatomy) -> bytes:
        """Swap two parts that stand side by side."""
        number = self._part(source)
        for _ in range(4):
            if number >= 0 and len(source.children[number]) > 1:
                break
            number = self._part(source)
        else:
            return self._flip(source)
        children = source.children[number]
        first = int(self._random() * (len(children) - 1))
        left, right = source.parts[children[first]], source.parts[children[first + 1]]
        data = source.data
        return b"".join(
            (
                data[: left.start],
                data[right.start : right.end],
                data[left.end : right.start],
                data[left.start : left.end],
                data[right.end :],
            )
        )

    def _edge_contents(self, source: Anatomy) -> bytes:
        """Give a part a body at the edge of what its type allows."""
        number = self._part(source)
        if number < 0:
            return self._set_byte(source)
        return source.replace_body(number, _EDGE_CONTENTS[int(self._random() * len(_EDGE_CONTENTS))])

    def _resize_contents(self, source: Anatomy) -> bytes:
        """Shorten or lengthen a part's body, lengths right."""
        number = self._part(source)
        if number < 0:
            return self._remove(source)
        _, body, end, _, _ = source.parts[number]
        contents = source.data[body:end]
        choice = int(self._random() * 4)
        if choice == 0:
            contents = contents[:-1]
        elif choice == 1:
            contents = contents[1:]
        elif choice == 2:
            contents += self._bytes(1)
        else:
            contents = contents[: int(self._random() * (len(contents) + 1))]
        return source.replace_body(number, contents)

    def _nudge_integer(self, source: Anatomy) -> bytes:
        """Move a short body by a little, or to a power of two around it, as a number of the same size."""
        number = self._part(source)
        for _ in range(6):
            if number >= 0 and 1 <= source.parts[number].end - source.parts[number].body <= 10:
                break
            number = self._part(source)
        else:
            return self._flip(source)
        _, body, end, _, _ = source.parts[number]
        size = end - body
        value = int.from_bytes(source.data[body:end], "big")
        choice = int(self._random() * 4)
        if choice == 0:
            value += 1
        elif choice == 1:
            value -= 1
        elif choice == 2:
            value ^= 1 << int(self._random() * 8 * size)
        else:
            value = (1 << int(self._random() * (8 * size + 1))) - int(self._random() * 2)
        return source.replace_body(number, (value & (1 << 8 * size) - 1).to_bytes(size, "big"))

    def _retag(self, source: Anatomy) -> bytes:
        """Give a part another tag."""
        number = self._part(source)
        if number < 0:
            return self._set_byte(source)
        data = bytearray(source.data)
        data[min(source.parts[number].start, len(data) - 1)] = _TAGS[int(self._random() * len(_TAGS))]
        return bytes(data)

    def _edit_time(self, source: Anatomy) -> bytes:
        """Put another time in the place of one, or change one of its characters."""
        if not source.times:
            return self._flip_in_part(source)
        number = source.times[int(self._random() * len(source.times))]
        if self._random() < 0.5:
            return source.replace(number, _TIMES[int(self._random() * len(_TIMES))])
        _, body, end, _, _ = source.parts[number]
        data = bytearray(source.data)
        data[body + int(self._random() * (end - body))] = b"0123456789Z+. "[int(self._random() * 14)]
        return bytes(data)

    def _graft(self, source: Anatomy) -> bytes:
        """Put a part of another value in the place of one, or beside it; mostly one in the same place."""
        other = self._pool[int(self._random() * len(self._pool))]
        number = self._part(source)
        if number < 0 or not other.parts:
            return self._splice(source)
        same = number < len(other.parts) and self._random() < 0.7
        whole = other.bytes_of(number if same else int(self._random() * len(other.parts)))
        choice = self._random()
        if choice < 0.7:
            return source.replace(number, whole)
        mine = source.bytes_of(number)
        return source.replace(number, mine + whole if choice < 0.85 else whole + mine)

    def _long_length(self, source: Anatomy) -> bytes:
        """Write a length with more bytes than it needs, or with a huge value."""
        number = self._part(source)
        for _ in range(4):
            if number >= 0 and source.parts[number].kind is Kind.DER:
                break
            number = self._part(source)
        else:
            return self._flip(source)
        start, body, end, _, _ = source.parts[number]
        contents = source.data[body:end]
        size = 1 + int(self._random() * 5)
        length = len(contents) if self._random() < 0.8 else int(self._random() * (1 << 8 * size))
        header = bytes((source.data[start], 0x80 | size)) + (length & (1 << 8 * size) - 1).to_bytes(size, "big")
        if self._random() < 0.1:
            header = bytes((source.data[start], 0x80))
        return source.replace(number, header + contents)
