"""The `trust_anchors` extension, read and written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import trust_anchor_ids

from mtc.errors import FormatError, Reason, UsageError
from mtc.ids import TrustAnchorID
from mtc.tls import TrustAnchorsExtension, check_acknowledgement
from mtc.tls.extension import MAX_ANCHORS, unique_anchors

ONE = TrustAnchorID.parse("32473.1")
SOUND = b"\x00\x09\x04\x81\xfdY\x01\x03\x81\xfdY"

extensions = st.lists(trust_anchor_ids(), max_size=20).map(lambda anchors: TrustAnchorsExtension(tuple(anchors)))


@given(extensions)
def test_what_is_written_is_read(extension: TrustAnchorsExtension) -> None:
    """Every list reads back as it was, in a request also the empty one, which a server must not send."""
    data = extension.encode()
    assert TrustAnchorsExtension.parse_request(data) == extension
    if extension.anchors:
        assert TrustAnchorsExtension.parse_available(data) == extension
    else:
        with pytest.raises(FormatError):
            TrustAnchorsExtension.parse_available(data)


def test_bytes_are_those_of_the_draft() -> None:
    """A list has a length of two bytes, each ID one of one byte and its RELATIVE-OID contents."""
    assert TrustAnchorsExtension((ONE, TrustAnchorID.parse("32473"))).encode() == SOUND
    assert [str(anchor) for anchor in TrustAnchorsExtension.parse_request(SOUND).anchors] == ["32473.1", "32473"]


@pytest.mark.parametrize("size", range(len(SOUND)))
def test_truncated_lists_are_refused(size: int) -> None:
    """Every beginning of an extension is refused, and so is anything behind its end."""
    with pytest.raises(FormatError):
        TrustAnchorsExtension.parse_request(SOUND[:size])
    with pytest.raises(FormatError) as caught:
        TrustAnchorsExtension.parse_request(SOUND + bytes(size + 1))
    assert caught.value.reason is Reason.TRAILING_DATA


def test_entries_without_bytes_are_refused() -> None:
    """An ID has at least one byte."""
    with pytest.raises(FormatError) as caught:
        TrustAnchorsExtension.parse_request(b"\x00\x01\x00")
    assert caught.value.reason is Reason.BAD_LENGTH


@pytest.mark.parametrize("grease", [b"\x80", b"\x80\x01", b"\x81", b"\x01\xff", bytes([0xFF]) * 255])
def test_entries_that_are_no_id_are_left_out(grease: bytes) -> None:
    """What cannot be a trust anchor ID is stepped over, and its neighbours are read."""
    body = bytes([len(grease)]) + grease + bytes([4]) + ONE.binary
    assert TrustAnchorsExtension.parse_request(len(body).to_bytes(2, "big") + body).anchors == (ONE,)


def test_lists_are_limited() -> None:
    """More IDs than the limit are refused when read and cut off when written; what does not fit raises."""
    anchors = tuple(TrustAnchorID(b"\x01") for _ in range(MAX_ANCHORS + 1))
    assert TrustAnchorsExtension.parse_request(TrustAnchorsExtension(anchors[1:]).encode()).anchors == anchors[1:]
    with pytest.raises(FormatError) as caught:
        TrustAnchorsExtension.parse_request(TrustAnchorsExtension(anchors).encode())
    assert caught.value.reason is Reason.TOO_LARGE
    assert TrustAnchorsExtension(anchors).cut_to_fit().anchors == anchors[1:]
    long = TrustAnchorsExtension((TrustAnchorID(b"\x01" * 255),) * 257)
    with pytest.raises(UsageError):
        long.encode()
    assert len(long.cut_to_fit().encode()) == 2 + 255 * 256


def test_acknowledgement_is_empty() -> None:
    """The extension of a Certificate message has no body."""
    check_acknowledgement(b"")
    with pytest.raises(FormatError):
        check_acknowledgement(b"\x00\x00")


def test_unique_anchors_keep_their_order() -> None:
    """Each ID stands once, where it stood first."""
    other = TrustAnchorID.parse("32473.2")
    assert unique_anchors([other, ONE, other, ONE]) == (other, ONE)
