"""The trust store as one JSON document: read strictly, with the place of every fault; written canonically.

The format is the schema in `mtc.trust.schema`. Unknown members are refused: a mistyped `policy` must not become no
policy.
"""

import json
from collections.abc import Callable
from typing import TypeVar

from mtc.cert import SerialRanges
from mtc.crypto import parse_hash_algorithm, parse_public_key, parse_signature_algorithm
from mtc.errors import Error, FormatError, Reason
from mtc.ids import DEFAULT_REVISION, TrustAnchorID, parse_revision
from mtc.kernel import Kernel
from mtc.merkle import Subtree
from mtc.trust.store import (
    Cosigner,
    CosignerPolicy,
    CosignerState,
    FreezePoint,
    TrustedCA,
    TrustedSubtree,
    TrustStore,
)
from mtc.wire import decode_base64, encode_base64

MAX_DOCUMENT_BYTES = 64 * 1024 * 1024
"""Largest trust store document read."""
_MAX_SIZE = 2**48 - 1
_MAX_TIME = 2**63 - 1

_Item = TypeVar("_Item")


def parse_trust_store(data: bytes, kernel: Kernel | None = None) -> TrustStore:
    """Read a trust store document. Raises FormatError that names the place, for example `cas[0].policy.require[1]`.

    kernel: for tests; the active one is the default.
    """
    if len(data) > MAX_DOCUMENT_BYTES:
        raise FormatError(Reason.TOO_LARGE, f"a trust store of {len(data)} bytes is larger than {MAX_DOCUMENT_BYTES}")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique_members, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise FormatError(
            Reason.BAD_DOCUMENT,
            f"the trust store is not JSON: {error.msg} in line {error.lineno}, column {error.colno}",
            line=error.lineno,
        ) from None
    except RecursionError:
        raise FormatError(Reason.TOO_DEEP, "the trust store is nested too deeply") from None
    except ValueError as error:
        raise FormatError(Reason.BAD_DOCUMENT, f"the trust store is not JSON: {error}") from None
    top = _Members(value, "the trust store")
    version = top.take("version")
    if type(version) is not int or version != 1:
        raise FormatError(Reason.BAD_DOCUMENT, "version must be 1; no other is known here", place="version")
    cas = top.items("cas", _parse_ca)
    top.finish()
    try:
        return TrustStore(cas, kernel)
    except FormatError as error:
        raise _at("cas", error) from None


class _Members:
    """The members of one JSON object, taken one by one; `place` names it in errors."""

    def __init__(self, value: object, place: str) -> None:
        """Refuse what is no object."""
        if not isinstance(value, dict):
            raise FormatError(Reason.BAD_DOCUMENT, f"{place} must be an object", place=place)
        self._members = dict(value)
        self._place = place

    def path(self, name: str) -> str:
        """Return the place of a member."""
        return name if self._place == "the trust store" else f"{self._place}.{name}"

    def take(self, name: str, *, default: object = ...) -> object:
        """Return a member of any type; without a default it must be there."""
        if name in self._members:
            return self._members.pop(name)
        if default is ...:
            raise FormatError(Reason.BAD_DOCUMENT, f"{self._place} has no {name!r}", place=self._place)
        return default

    def text(self, name: str, *, default: str | None = None) -> str:
        """Return a string member."""
        value = self.take(name, default=... if default is None else default)
        if not isinstance(value, str):
            raise FormatError(Reason.BAD_DOCUMENT, f"{self.path(name)} must be a string", place=self.path(name))
        return value

    def number(self, name: str, least: int, most: int, *, default: object = ...) -> int:
        """Return an integer member in [least, most]."""
        return _integer(self.take(name, default=default), self.path(name), least, most)

    def items(self, name: str, parse: Callable[[object, str], _Item], *, is_optional: bool = False) -> list[_Item]:
        """Return an array member, each item read by `parse(value, place)`."""
        value = self.take(name, default=[] if is_optional else ...)
        if not isinstance(value, list):
            raise FormatError(Reason.BAD_DOCUMENT, f"{self.path(name)} must be an array", place=self.path(name))
        return [parse(item, f"{self.path(name)}[{number}]") for number, item in enumerate(value)]

    def has(self, name: str) -> bool:
        """Tell whether a member is there and was not taken yet."""
        return name in self._members

    def finish(self) -> None:
        """Refuse members that nobody took."""
        for name in self._members:
            raise FormatError(
                Reason.BAD_DOCUMENT,
                f"{self._place} has an unknown member {name[:80]!r}",
                place=self._place,
                member=name[:80],
            )


def _unique_members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Make a dict of an object's members. Raises ValueError when a name stands twice."""
    members: dict[str, object] = {}
    for name, value in pairs:
        if name in members:
            raise ValueError(f"member {name[:80]!r} stands twice")
        members[name] = value
    return members


def _no_constant(name: str) -> object:
    """Refuse NaN and the infinities, which are no JSON."""
    raise ValueError(f"{name} is no JSON number")


def _at(place: str, error: Error) -> FormatError:
    """Return the error of a part with its place in front."""
    # Below, a wrong name is a caller's mistake; here it is the document's.
    reason = Reason.BAD_DOCUMENT if error.reason is Reason.USAGE else error.reason
    return FormatError(reason, f"{place}: {error.message}", **{"place": place, **error.facts})


def _integer(value: object, place: str, least: int, most: int) -> int:
    """Return an integer in [least, most]; true and false are none."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise FormatError(Reason.BAD_DOCUMENT, f"{place} must be an integer from {least} to {most}", place=place)
    return value


def _named(parse: Callable[[str], _Item], members: _Members, name: str, *, default: str | None = None) -> _Item:
    """Return what the text of a member stands for."""
    text = members.text(name, default=default)
    try:
        return parse(text)
    except Error as error:
        raise _at(members.path(name), error) from None


def _parse_id(value: object, place: str) -> TrustAnchorID:
    """Return a trust anchor ID."""
    if not isinstance(value, str):
        raise FormatError(Reason.BAD_DOCUMENT, f"{place} must be a string such as 32473.1", place=place)
    try:
        return TrustAnchorID.parse(value)
    except FormatError as error:
        raise _at(place, error) from None


def _parse_ca(value: object, place: str) -> TrustedCA:
    """Return one CA."""
    members = _Members(value, place)
    ca_id = _parse_id(members.take("id"), members.path("id"))
    revision = _named(parse_revision, members, "draft", default=DEFAULT_REVISION.name)
    log_hash = _named(parse_hash_algorithm, members, "hash", default="sha256")
    cosigners = members.items("cosigners", _parse_cosigner)
    policy = _parse_policy(members.take("policy"), members.path("policy"))
    subtrees = members.items("trusted_subtrees", _parse_subtree, is_optional=True)
    ranges = members.items("revoked", _parse_range, is_optional=True)
    members.finish()
    try:
        return TrustedCA(ca_id, revision, log_hash, tuple(cosigners), policy, tuple(subtrees), SerialRanges(ranges))
    except FormatError as error:
        raise _at(place, error) from None


def _parse_cosigner(value: object, place: str) -> Cosigner:
    """Return one cosigner."""
    members = _Members(value, place)
    cosigner_id = _parse_id(members.take("id"), members.path("id"))
    algorithm = _named(parse_signature_algorithm, members, "algorithm")
    spki = _named(lambda text: decode_base64(text, "the key"), members, "public_key")
    state = members.text("state", default=CosignerState.USABLE)
    if state not in list(CosignerState):
        where = members.path("state")
        raise FormatError(Reason.BAD_DOCUMENT, f"{where} must be one of {', '.join(CosignerState)}", place=where)
    frozen_at = None
    if state == CosignerState.FROZEN:
        frozen_at = FreezePoint(members.number("log", 1, 65535, default=1), members.number("tree_size", 0, _MAX_SIZE))
    members.finish()
    try:
        return Cosigner(cosigner_id, parse_public_key(spki, algorithm), CosignerState(state), frozen_at)
    except Error as error:
        raise _at(place, error) from None


def _parse_policy(value: object, place: str) -> CosignerPolicy:
    """Return a cosigner policy."""
    members = _Members(value, place)
    require = members.items("require", _parse_id, is_optional=True)
    of: list[TrustAnchorID] = []
    at_least = 0
    if members.has("quorum"):
        quorum = _Members(members.take("quorum"), members.path("quorum"))
        of = quorum.items("of", _parse_id)
        at_least = quorum.number("at_least", 0, 1 << 16)
        quorum.finish()
    members.finish()
    try:
        return CosignerPolicy(tuple(require), tuple(of), at_least)
    except FormatError as error:
        raise _at(place, error) from None


def _parse_subtree(value: object, place: str) -> TrustedSubtree:
    """Return one trusted subtree."""
    members = _Members(value, place)
    log_number = members.number("log", 1, 65535)
    start, end = members.number("start", 0, _MAX_SIZE), members.number("end", 0, _MAX_SIZE)
    text = members.text("hash")
    landmark = members.number("landmark", 0, _MAX_SIZE) if members.has("landmark") else None
    expiry = members.number("expiry", 0, _MAX_TIME) if members.has("expiry") else None
    members.finish()
    try:
        subtree_hash = bytes.fromhex(text) if text.isalnum() else b""
    except ValueError:
        subtree_hash = b""
    if not subtree_hash:
        where = members.path("hash")
        raise FormatError(Reason.BAD_DOCUMENT, f"{where} must be the subtree hash in hex", place=where)
    try:
        return TrustedSubtree(log_number, Subtree(start, end), subtree_hash, landmark, expiry)
    except FormatError as error:
        raise _at(place, error) from None


def _parse_range(value: object, place: str) -> tuple[int, int]:
    """Return one revoked range."""
    if not isinstance(value, list) or len(value) != 2:
        raise FormatError(Reason.BAD_DOCUMENT, f"{place} must be a pair [start, end)", place=place)
    start = _integer(value[0], f"{place}[0]", 0, 1 << 64)
    end = _integer(value[1], f"{place}[1]", 0, 1 << 64)
    if start > end:
        raise FormatError(Reason.BAD_DOCUMENT, f"{place} runs backwards; it is half-open, start <= end", place=place)
    return start, end


def format_trust_store(store: TrustStore) -> bytes:
    """Return the document of a trust store, which `parse_trust_store` reads back to the same."""
    document = {"version": 1, "cas": [_format_ca(ca) for ca in store.cas]}
    return json.dumps(document, indent=2).encode() + b"\n"


def _format_ca(ca: TrustedCA) -> dict[str, object]:
    """Return one CA as JSON values."""
    policy: dict[str, object] = {"require": [str(item) for item in ca.policy.require]}
    if ca.policy.of:
        policy["quorum"] = {"of": [str(item) for item in ca.policy.of], "at_least": ca.policy.at_least}
    return {
        "id": str(ca.ca_id),
        "draft": ca.revision.name,
        "hash": ca.hash.name,
        "cosigners": [_format_cosigner(cosigner) for cosigner in ca.cosigners],
        "policy": policy,
        "trusted_subtrees": [_format_subtree(trusted) for trusted in ca.trusted_subtrees],
        "revoked": [list(bounds) for bounds in ca.revoked],
    }


def _format_cosigner(cosigner: Cosigner) -> dict[str, object]:
    """Return one cosigner as JSON values."""
    value: dict[str, object] = {
        "id": cosigner.name,
        "algorithm": cosigner.key.algorithm.name,
        "public_key": encode_base64(cosigner.key.public_key),
    }
    if cosigner.state is not CosignerState.USABLE:
        value["state"] = cosigner.state.value
    if cosigner.frozen_at is not None:
        value |= {"log": cosigner.frozen_at.log_number, "tree_size": cosigner.frozen_at.tree_size}
    return value


def _format_subtree(trusted: TrustedSubtree) -> dict[str, object]:
    """Return one trusted subtree as JSON values."""
    value: dict[str, object] = {
        "log": trusted.log_number,
        "start": trusted.subtree.start,
        "end": trusted.subtree.end,
        "hash": trusted.subtree_hash.hex(),
    }
    if trusted.landmark is not None:
        value["landmark"] = trusted.landmark
    if trusted.expiry is not None:
        value["expiry"] = trusted.expiry
    return value
