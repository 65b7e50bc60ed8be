"""Blocks: what falls under one."""

import re
from collections.abc import Iterator, Sequence

from mtc.acme.machine.identifiers import Identifier
from mtc.acme.sqlite import queries
from mtc.errors import Error, Reason, UsageError

_HASH = re.compile(r"[0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128}", re.ASCII)


def normalize(kind: str, value: str) -> tuple[str, str]:
    """Return a block's value in its one spelling, and the name above it, empty for none. Raises UsageError."""
    if kind == "key":
        digest = value.lower().replace(":", "")
        if not _HASH.fullmatch(digest):
            raise UsageError(Reason.USAGE, f"{value[:80]!r} is no hash of a key; write SHA-256 in hex")
        return digest, ""
    if kind != "name":
        raise UsageError(Reason.USAGE, f"{kind!r} cannot be blocked; there are name and key")
    text = value.strip().removesuffix(".").removeprefix("*.")
    if _is_address(text):
        return Identifier.ip(text).value, ""
    try:
        name = Identifier.dns(text).value
    except Error as error:
        raise UsageError(error.reason, error.message) from None
    return name, name.partition(".")[2]


def plan_search(names: Sequence[str], key_hashes: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield queries with parameters; the first that finds something has found a block."""
    for digest in key_hashes:
        yield queries.FIND_BLOCK, ("key", digest.lower())
    for name in names:
        base = name.lower().removeprefix("*.")
        if base != name.lower():
            yield queries.FIND_BLOCK_BELOW, (base,)
        yield queries.FIND_BLOCK, ("name", base)
        while "." in base and not _is_address(name):
            base = base.partition(".")[2]
            yield queries.FIND_BLOCK, ("name", base)


def _is_address(text: str) -> bool:
    """Tell whether a text looks like an IP address, which is below nothing."""
    return ":" in text or text.rpartition(".")[2].isdigit()
