"""The contract tests of both storages; a backend is done when they pass.

Each takes an empty storage, uses keys of its own, and raises AssertionError with the broken promise.
"""

import asyncio
from collections.abc import Awaitable

from mtc.errors import ConflictError, Error, UsageError
from mtc.store import MAX_KEY_BYTES, MAX_REGISTER_BYTES, ObjectStore, Register

BAD_KEYS = (
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "../a",
    "a/../b",
    ".hidden",
    "a/.hidden",
    "a b",
    "ä",
    "a" * (MAX_KEY_BYTES + 1),
)
"""Keys and names that no storage takes."""


async def _raises(family: type[Error], call: Awaitable[object]) -> bool:
    """Tell whether a call raises an error of that family."""
    try:
        await call
    except family:
        return True
    return False


async def check_object_store(store: ObjectStore) -> None:
    """Check every promise of `ObjectStore` that can be checked without a crash."""
    assert await store.list_keys() == [], "the contract test needs an empty store"
    await store.put({"tile/0/000": b"zero", "tile/0/001": b"", "entries": bytes(range(256)) * 300})
    found = await store.fetch(["tile/0/001", "none", "tile/0/000", "entries", "tile/0/000"])
    assert found == [b"", None, b"zero", bytes(range(256)) * 300, b"zero"], "fetch returns what was put, in order"
    assert await store.fetch([]) == [], "fetching nothing returns nothing"
    assert await store.fetch(["tile", "tile/0", "entries/x"]) == [None, None, None], "folders are no objects"

    await store.put({"tile/0/000": b"zero"})
    assert await _raises(ConflictError, store.put({"tile/0/000": b"other"})), "an immutable object does not change"
    assert await store.fetch(["tile/0/000"]) == [b"zero"], "a refused put changes nothing"

    await store.replace({"checkpoint": b"one"})
    await store.replace({"checkpoint": b"two", "second": b"new"})
    assert await store.fetch(["checkpoint", "second"]) == [b"two", b"new"], "replace replaces"

    assert await store.list_keys() == ["checkpoint", "entries", "second", "tile/0/000", "tile/0/001"], "keys are sorted"
    assert await store.list_keys("tile/") == ["tile/0/000", "tile/0/001"], "a prefix chooses"
    assert await store.list_keys("nothing/") == [], "a prefix without objects is empty"

    await store.discard(["tile/0/001", "none", "tile/0"])
    assert await store.fetch(["tile/0/001", "tile/0/000"]) == [None, b"zero"], "discard removes what is named"
    await store.put({"tile/0/001": b"again"})
    assert await store.fetch(["tile/0/001"]) == [b"again"], "a discarded key may be put again"

    for key in BAD_KEYS:
        assert await _raises(UsageError, store.put({key: b""})), f"{key!r} is no key to put"
        assert await _raises(UsageError, store.replace({key: b""})), f"{key!r} is no key to replace"
        assert await _raises(UsageError, store.fetch([key])), f"{key!r} is no key to fetch"
        assert await _raises(UsageError, store.discard([key])), f"{key!r} is no key to discard"

    await asyncio.gather(*(store.put({f"many/{number % 7}/{number}": b"%d" % number}) for number in range(100)))
    assert len(await store.list_keys("many/")) == 100, "overlapping calls all succeed"
    outcomes = await asyncio.gather(
        *(_raises(ConflictError, store.put({"race": b"%d" % number})) for number in range(8))
    )
    assert outcomes.count(False) == 1, "of several puts of one key with different bytes exactly one succeeds"
    assert (await store.fetch(["race"]))[0] == b"%d" % outcomes.index(False), "and its bytes are the ones that stay"


async def check_register(register: Register) -> None:
    """Check every promise of `Register` that can be checked without a crash."""
    assert await register.read("log") is None, "the contract test needs an empty register"
    assert await _raises(ConflictError, register.swap("log", b"", b"one")), "what was never created cannot be swapped"
    await register.create("log", b"one")
    assert await register.read("log") == b"one", "a created value is read"
    assert await _raises(ConflictError, register.create("log", b"one")), "a value is created once"
    await register.swap("log", b"one", b"two")
    assert await _raises(ConflictError, register.swap("log", b"one", b"three")), "a lost swap changes nothing"
    assert await register.read("log") == b"two", "the winner stays"
    await register.swap("log", b"two", b"two")
    assert await register.read("log") == b"two", "a swap to the same value succeeds"
    await register.create("empty", b"")
    assert await register.read("empty") == b"", "an empty value is a value"
    await register.create("large", bytes(MAX_REGISTER_BYTES))
    assert await _raises(UsageError, register.create("larger", bytes(MAX_REGISTER_BYTES + 1))), "values have a limit"
    for name in BAD_KEYS:
        assert await _raises(UsageError, register.read(name)), f"{name!r} is no name to read"
        assert await _raises(UsageError, register.create(name, b"")), f"{name!r} is no name to create"
        assert await _raises(UsageError, register.swap(name, b"", b"")), f"{name!r} is no name to swap"

    outcomes = await asyncio.gather(
        *(_raises(ConflictError, register.swap("log", b"two", b"%d" % number)) for number in range(20))
    )
    assert outcomes.count(False) == 1, "of several swaps from one value exactly one succeeds"
    assert await register.read("log") == b"%d" % outcomes.index(False), "and its value is the one that stays"
