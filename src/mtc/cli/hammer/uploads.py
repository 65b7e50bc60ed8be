"""Uploads to a mirror: good ones, and those that it must refuse.

Spec: C2SP tlog-mirror, "add-entries".
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from mtc.cli.hammer.synthetic import SyntheticLog, flipped, with_flipped
from mtc.cosign.upload import (
    PACKAGES_PER_REQUEST,
    MirrorInfo,
    PackagePlace,
    UploadHead,
    encode_package,
    package_places,
)
from mtc.errors import FormatError, Reason
from mtc.web.client import Answer

_INFO_TYPE = "text/x.tlog.mirror-info"


def upload_body(
    log: SyntheticLog, start: int, end: int, ticket: bytes = b"", most: int = PACKAGES_PER_REQUEST
) -> bytes:
    """Return an upload of the entries [start, end), cut after `most` packages."""
    head = UploadHead(log.origin, start, end, ticket).encode()
    return head + b"".join(_package(log, place, end) for place in islice(package_places(start, end), most))


def parse_info(answer: Answer) -> MirrorInfo:
    """Return what a mirror says about its state. Raises FormatError."""
    kind = answer.headers.get("content-type", "").partition(";")[0].strip()
    if kind != _INFO_TYPE:
        raise FormatError(Reason.BAD_DOCUMENT, f"the mirror's state is of type {kind[:80]!r}, not {_INFO_TYPE}")
    return MirrorInfo.parse(answer.body)


@dataclass(frozen=True, slots=True)
class WrongUpload:
    """An upload that a mirror must refuse. kind: for the figures. status: the right one."""

    kind: str
    status: int
    body: bytes


def _package(log: SyntheticLog, place: PackagePlace, end: int) -> bytes:
    return encode_package(log.bundle(place.start, place.end), log.prove(place.subtree, end))


def _other_entries(log: SyntheticLog, start: int, end: int, _: random.Random) -> WrongUpload:
    place = next(package_places(start, end))
    package = encode_package(flipped(log.bundle(place.start, place.end)), log.prove(place.subtree, end))
    return WrongUpload("refuse other entries", 422, UploadHead(log.origin, start, end).encode() + package)


def _wrong_proof(log: SyntheticLog, start: int, end: int, _: random.Random) -> WrongUpload:
    place = next(package_places(start, end))
    package = encode_package(log.bundle(place.start, place.end), with_flipped(log.prove(place.subtree, end)))
    return WrongUpload("refuse a wrong package proof", 422, UploadHead(log.origin, start, end).encode() + package)


def _half_package(log: SyntheticLog, start: int, end: int, chance: random.Random) -> WrongUpload:
    package = _package(log, next(package_places(start, end)), end)
    head = UploadHead(log.origin, start, end).encode()
    return WrongUpload("refuse half a package", 400, head + package[: chance.randrange(len(package))])


def _unknown_origin(log: SyntheticLog, start: int, end: int, _: random.Random) -> WrongUpload:
    head = UploadHead("unknown.invalid", start, end).encode()
    return WrongUpload(
        "refuse an upload of no known log", 404, head + _package(log, next(package_places(start, end)), end)
    )


def _unknown_size(log: SyntheticLog, start: int, end: int, _: random.Random) -> WrongUpload:
    # Nothing was ever signed at this size.
    return WrongUpload("refuse an unknown size", 409, UploadHead(log.origin, start, end + 10**9).encode())


def _foreign_ticket(log: SyntheticLog, start: int, end: int, chance: random.Random) -> WrongUpload:
    # A ticket that the mirror did not make says nothing, so the size stays unknown.
    head = UploadHead(log.origin, start, end + 10**9, chance.randbytes(200))
    return WrongUpload("refuse a ticket that is not its own", 409, head.encode())


WRONG_UPLOADS: tuple[Callable[[SyntheticLog, int, int, random.Random], WrongUpload], ...] = (
    _other_entries,
    _wrong_proof,
    _half_package,
    _unknown_origin,
    _unknown_size,
    _foreign_ticket,
)
"""Each makes an upload of a log's entries from the first that the mirror lacks to the size that is pending."""
