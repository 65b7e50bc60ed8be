"""Damaged variants of DER, for tests that two readers treat them alike."""

import random
from collections.abc import Iterator

from mtc.wire import encode_tlv


def mutants(der: bytes, chance: random.Random, count: int) -> Iterator[bytes]:
    """Yield variants of `der`: flipped bits, other bytes, cuts, insertions, edited lengths, moved and copied pieces."""
    size = len(der)
    telling = (0x00, 0x01, 0x02, 0x30, 0x7F, 0x80, 0x81, 0x82, 0x84, 0xFF)
    # Half of all faults go into the front and the back, where the structure is; signatures fill the middle.
    edge = min(size, 400)
    for _ in range(count):
        at = chance.choice(
            (chance.randrange(size), chance.randrange(edge), size - 1 - chance.randrange(min(size, 150)))
        )
        to = min(size, at + chance.randrange(1, 40))
        changed = bytearray(der)
        match chance.randrange(8):
            case 0:
                changed[at] ^= 1 << chance.randrange(8)
            case 1:
                changed[at] = chance.choice(telling)
            case 2:
                del changed[at:]
            case 3:
                del changed[at:to]
            case 4:
                changed[at:at] = chance.randbytes(chance.randrange(1, 4))
            case 5:
                changed[at] = (changed[at] + chance.choice((-2, -1, 1, 2))) & 0xFF
            case 6:
                other = chance.randrange(size)
                changed[other:other] = der[at:to]
            case _:
                for _ in range(chance.randrange(2, 5)):
                    changed[chance.randrange(size)] = chance.choice((*telling, chance.randrange(256)))
        yield bytes(changed)


def grown_mutants(der: bytes, chance: random.Random, count: int) -> Iterator[bytes]:
    """Yield variants with one inner TLV replaced and all lengths around it written anew: the frame still fits."""
    for _ in range(count):
        yield rewritten(der, chance)


def rewritten(der: bytes, chance: random.Random, depth: int = 0) -> bytes:
    """Return a TLV, or a row of TLVs, of which one somewhere inside is dropped, doubled, retagged or changed."""
    pieces = split_tlvs(der)
    if not pieces:
        return bytes(mutants(der, chance, 1).__next__()) if der else chance.randbytes(2)
    at = chance.randrange(len(pieces))
    tag, contents = pieces[at]
    choice = chance.randrange(8)
    parts = [encode_tlv(*piece) for piece in pieces]
    if choice < 5 and depth < 9 and contents:
        parts[at] = encode_tlv(tag, rewritten(contents, chance, depth + 1))
    elif choice == 5:
        del parts[at]
    elif choice == 6:
        parts.insert(chance.randrange(len(parts) + 1), parts[at])
    else:
        tags = (0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x17, 0x18, 0x30, 0x31, 0x81, 0x82, 0x87, 0xA0, 0xA3)
        parts[at] = encode_tlv(chance.choice(tags), contents)
    return b"".join(parts)


def split_tlvs(data: bytes) -> list[tuple[int, bytes]]:
    """Return tag and contents of each TLV in `data`, nothing when it is no row of TLVs; lengths need not be minimal."""
    found, at = [], 0
    while at < len(data):
        if at + 2 > len(data):
            return []
        length, start = data[at + 1], at + 2
        if length > 0x80:
            start += length & 0x7F
            length = int.from_bytes(data[at + 2 : start], "big")
        if length == 0x80 or start + length > len(data):
            return []
        found.append((data[at], data[start : start + length]))
        at = start + length
    return found
