"""Both contracts in memory, for demonstrations and tests. Nothing survives the process; `mtc.testing` makes it fail."""

from collections.abc import Mapping, Sequence

from mtc.errors import ConflictError, Reason
from mtc.store.contract import check_key, check_value


class MemoryStore:
    """`ObjectStore` in a dict. objects: the content, for tests to look at."""

    def __init__(self) -> None:
        """Start empty."""
        self.objects: dict[str, bytes] = {}

    async def put(self, objects: Mapping[str, bytes]) -> None:
        """Store immutable objects."""
        for key, data in objects.items():
            check_key(key)
            if self.objects.get(key, data) != data:
                raise ConflictError(Reason.CONFLICT, f"object {key} is there with other bytes", key=key)
        self.objects.update(objects)

    async def replace(self, objects: Mapping[str, bytes]) -> None:
        """Store objects over others."""
        for key in objects:
            check_key(key)
        self.objects.update(objects)

    async def fetch(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the objects, None for one that is not there."""
        for key in keys:
            check_key(key)
        return [self.objects.get(key) for key in keys]

    async def discard(self, keys: Sequence[str]) -> None:
        """Remove objects."""
        for key in keys:
            check_key(key)
            self.objects.pop(key, None)

    async def list_keys(self, prefix: str = "") -> list[str]:
        """Return the keys below `prefix`, sorted."""
        return sorted(key for key in self.objects if key.startswith(prefix))


class MemoryRegister:
    """`Register` in a dict. values: the content, for tests to look at."""

    def __init__(self) -> None:
        """Start empty."""
        self.values: dict[str, bytes] = {}

    async def read(self, name: str) -> bytes | None:
        """Return the value, None when it was never created."""
        check_key(name)
        return self.values.get(name)

    async def create(self, name: str, value: bytes) -> None:
        """Set a value that is not there yet."""
        check_value(name, value)
        if name in self.values:
            raise ConflictError(Reason.CONFLICT, f"register {name} exists already", name=name)
        self.values[name] = value

    async def swap(self, name: str, old: bytes, new: bytes) -> None:
        """Set the value to `new` if it is `old`."""
        check_value(name, new)
        if self.values.get(name) != old:
            raise ConflictError(Reason.CONFLICT, f"register {name} holds another value than expected", name=name)
        self.values[name] = new
