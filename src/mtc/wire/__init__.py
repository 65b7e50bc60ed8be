"""TLS presentation language, strict DER and strict PEM, with limits.

Readers take whole byte strings, never streams: every structure of this project fits in memory and has a bound. They
raise FormatError with the byte offset of the fault. Writers refuse what a reader would refuse.

Spec: RFC 8446, "Presentation Language"; ITU-T X.690 (DER); RFC 7468 (PEM).
"""

from mtc.wire.der import (
    DERReader,
    Tag,
    decode_oid,
    encode_bit_string,
    encode_explicit,
    encode_integer,
    encode_octet_string,
    encode_oid,
    encode_sequence,
    encode_set,
    encode_time,
    encode_tlv,
    encode_utf8_string,
    posix_seconds,
)
from mtc.wire.pem import PEMBlock, encode_pem, find_pem_block, parse_pem
from mtc.wire.text import decode_base64, decode_decimal, encode_base64
from mtc.wire.tls import Reader, Writer

__all__ = [
    "DERReader",
    "PEMBlock",
    "Reader",
    "Tag",
    "Writer",
    "decode_base64",
    "decode_decimal",
    "decode_oid",
    "encode_base64",
    "encode_bit_string",
    "encode_explicit",
    "encode_integer",
    "encode_octet_string",
    "encode_oid",
    "encode_pem",
    "encode_sequence",
    "encode_set",
    "encode_time",
    "encode_tlv",
    "encode_utf8_string",
    "find_pem_block",
    "parse_pem",
    "posix_seconds",
]
