"""What a TLS client reads from a certificate's extensions, on both kernels."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.certificates import (
    TRUE,
    extension,
    extensions_of_a_leaf,
)
from tests.outcomes import alike

from mtc.errors import FormatError, Reason
from mtc.kernel import (
    ExtensionScan,
    Kernel,
    python_kernel,
)
from mtc.wire import (
    encode_integer,
    encode_oid,
    encode_sequence,
    encode_tlv,
)

LoadVectors = Callable[[str], Any]


def read_extensions(kernel: Kernel, *extensions: bytes) -> ExtensionScan:
    """Return what is read from the extensions, which stand in the middle of other bytes."""
    data = b"".join(extensions)
    value = kernel.scan_extensions(b"before" + data + b"behind", 6, 6 + len(data))
    return ExtensionScan(*value)


def test_no_extensions_read_as_nothing(kernel: Kernel) -> None:
    """Where an extension is absent, its field is None."""
    assert read_extensions(kernel) == ExtensionScan(None, None, None, None, None, None)


def test_usual_extensions_are_read(kernel: Kernel) -> None:
    """Key usage, purposes, names and constraints of a leaf are read; the first unknown critical extension is named."""
    found = read_extensions(kernel, *extensions_of_a_leaf())
    assert found == ExtensionScan(
        is_ca=False,
        key_usage=1,
        purposes=3,
        dns_names=[b"example.com", b"*.example.com"],
        ip_addresses=[bytes((192, 0, 2, 1)), bytes(16)],
        unknown_critical=b"\x2a\x03\x04",
    )


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        ("03020780", 1),
        ("03020186", 0b1100001),
        ("0302000f", 0xF0),
        ("030200ff", 0xFF),
        ("0303070080", 1 << 8),
        ("0303070680", 0b101100000),
        ("03020700", 0),
    ],
)
def test_key_usage_bits(kernel: Kernel, value: str, bits: int) -> None:
    """Bit i of the key usage is bit i of the number: digitalSignature is 1, keyCertSign 32, decipherOnly 256."""
    assert read_extensions(kernel, extension("2.5.29.15", bytes.fromhex(value))).key_usage == bits


@pytest.mark.parametrize(
    ("oids", "flags"),
    [
        (["1.3.6.1.5.5.7.3.1"], 1),
        (["1.3.6.1.5.5.7.3.2"], 2),
        (["2.5.29.37.0"], 4),
        (["1.3.6.1.5.5.7.3.3"], 8),
        (["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2", "2.5.29.37.0", "1.2.3"], 15),
    ],
)
def test_purposes(kernel: Kernel, oids: list[str], flags: int) -> None:
    """Purposes are flags for serverAuth, clientAuth, any and others."""
    value = encode_sequence(*map(encode_oid, oids))
    assert read_extensions(kernel, extension("2.5.29.37", value)).purposes == flags


@pytest.mark.parametrize(
    ("value", "is_ca"),
    [
        (encode_sequence(), False),
        (encode_sequence(TRUE), True),
        (encode_sequence(TRUE, encode_integer(0)), True),
        (encode_sequence(TRUE, encode_integer(300)), True),
    ],
)
def test_basic_constraints(kernel: Kernel, value: bytes, is_ca: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Constraints tell whether this is a CA, with or without a path length."""
    assert read_extensions(kernel, extension("2.5.29.19", value)).is_ca is is_ca


@pytest.mark.parametrize(
    ("oid", "value", "reason"),
    [
        ("2.5.29.17", b"", Reason.TRUNCATED),
        ("2.5.29.17", b"\x31\x00", Reason.BAD_TAG),
        ("2.5.29.17", encode_sequence(), Reason.BAD_EXTENSION),
        ("2.5.29.17", encode_sequence(encode_tlv(0x82, b"a")) + b"\x00", Reason.TRAILING_DATA),
        ("2.5.29.17", encode_sequence(encode_tlv(0x82, b"\xc3\xa4")), Reason.BAD_STRING),
        ("2.5.29.17", encode_sequence(b"\x82\x05a"), Reason.TRUNCATED),
        ("2.5.29.17", encode_sequence(encode_tlv(0x87, b"")), Reason.BAD_EXTENSION),
        ("2.5.29.17", encode_sequence(encode_tlv(0x87, bytes(5))), Reason.BAD_EXTENSION),
        ("2.5.29.17", encode_sequence(encode_tlv(0x87, bytes(8))), Reason.BAD_EXTENSION),
        ("2.5.29.17", encode_sequence(encode_tlv(0x87, bytes(32))), Reason.BAD_EXTENSION),
        ("2.5.29.17", encode_sequence(encode_tlv(0x80, b"")), Reason.BAD_TAG),
        ("2.5.29.17", encode_sequence(encode_tlv(0x89, b"")), Reason.BAD_TAG),
        ("2.5.29.17", encode_sequence(encode_tlv(0xA2, b"")), Reason.BAD_TAG),
        ("2.5.29.17", encode_sequence(encode_tlv(0x0C, b"a")), Reason.BAD_TAG),
        ("2.5.29.15", b"\x03\x01\x00", Reason.BAD_BIT_STRING),
        ("2.5.29.15", b"\x03\x04\x00\x00\x00\x00", Reason.BAD_BIT_STRING),
        ("2.5.29.15", b"\x03\x02\x08\x00", Reason.BAD_BIT_STRING),
        ("2.5.29.15", b"\x03\x02\x07\xc0", Reason.BAD_BIT_STRING),
        ("2.5.29.15", b"\x03\x02\x07\x80\x00", Reason.TRAILING_DATA),
        ("2.5.29.15", b"\x04\x02\x07\x80", Reason.BAD_TAG),
        ("2.5.29.37", encode_sequence(), Reason.BAD_EXTENSION),
        ("2.5.29.37", encode_sequence(b"\x06\x00"), Reason.BAD_OID),
        ("2.5.29.37", encode_sequence(b"\x0d\x01\x01"), Reason.BAD_TAG),
        ("2.5.29.37", encode_sequence(encode_oid("1.2")) + b"\x00", Reason.TRAILING_DATA),
        ("2.5.29.19", encode_sequence(b"\x01\x01\x00"), Reason.BAD_BOOLEAN),
        ("2.5.29.19", encode_sequence(b"\x01\x02\xff\xff"), Reason.BAD_BOOLEAN),
        ("2.5.29.19", encode_sequence(encode_integer(0)), Reason.TRAILING_DATA),
        ("2.5.29.19", encode_sequence(TRUE, encode_integer(-1)), Reason.BAD_INTEGER),
        ("2.5.29.19", encode_sequence(TRUE, b"\x02\x00"), Reason.BAD_INTEGER),
        ("2.5.29.19", encode_sequence(TRUE, b"\x02\x02\x00\x01"), Reason.BAD_INTEGER),
        ("2.5.29.19", encode_sequence(TRUE, encode_integer(1), encode_integer(1)), Reason.TRAILING_DATA),
        ("2.5.29.19", encode_sequence(TRUE) + b"\x00", Reason.TRAILING_DATA),
    ],
)
def test_bad_extension_values(kernel: Kernel, oid: str, value: bytes, reason: Reason) -> None:
    """A malformed value of an extension that is read has its reason, at the same place in both kernels."""
    for critical in (False, True):
        data = extension("1.2", b"") + extension(oid, value, critical=critical)
        found = alike((python_kernel(), kernel), lambda either: either.scan_extensions(data, 0, len(data)))  # noqa: B023
        assert isinstance(found, tuple)
        assert found[:2] == (FormatError, reason)
        assert found[3]["offset"] >= len(extension("1.2", b""))


def test_policies_are_known_and_not_read(kernel: Kernel) -> None:
    """Certificate policies may be critical and hold anything; other critical extensions are unknown."""
    policies = extension("2.5.29.32", b"anything", critical=True)
    assert read_extensions(kernel, policies).unknown_critical is None
    constraints = extension("2.5.29.30", b"", critical=True)
    assert read_extensions(kernel, policies, constraints).unknown_critical == b"\x55\x1d\x1e"
    assert read_extensions(kernel, extension("2.5.29.30", b"")).unknown_critical is None
