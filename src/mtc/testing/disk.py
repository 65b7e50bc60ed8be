"""A disk that forgets: what a file store wrote and did not sync may be lost, kept, torn or reordered by a crash.

SIGKILL keeps the page cache, so it cannot show a missing fsync. This model keeps two states: what programs see, and
what is durable. POSIX promises no order between unsynced operations, and the model takes it at its word:

* a file's data is durable after its own sync; before, a crash leaves all of it, none, a torn beginning, or zeros;
* a name is durable after its folder's sync; before, a crash leaves each change of each name done or undone, on its own;
* a folder that was lost takes everything below it along.
"""

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mtc.errors import ConflictError, Reason
from mtc.store.contract import check_key, check_value
from mtc.store.files import FileStore


class Crash(BaseException):
    """The machine stopped here. Not an `Exception`, so that no handler of the program survives it."""


@dataclass(slots=True)
class _Node:
    """A file or a folder. data: what programs see. durable: what a crash cannot take; None before the first sync."""

    is_folder: bool
    data: bytes = b""
    durable: bytes | None = None


@dataclass(slots=True)
class _Disk:
    """Names and changes of names. pending: (name, node or None), oldest first, not yet durable.

    A name is a path's text: a crash test compares names by the million, and paths take ten times as long.
    """

    seen: dict[str, _Node] = field(default_factory=dict)
    durable: dict[str, _Node] = field(default_factory=dict)
    pending: list[tuple[str, _Node | None]] = field(default_factory=list)


class ModelDisk:
    """`mtc.store.filesystem.FileSystem` in memory, with crashes. root: the folder that is there from the beginning.

    calls: how many system calls that change something there were. `crash_at(k)` stops the machine before the k-th one,
    counted from 0; from then on every call raises `Crash`.
    """

    workers = 1

    def __init__(self, root: Path = Path("/disk")) -> None:
        """Start with an empty folder."""
        self.root = root
        self.calls = 0
        self._stop: int | None = None
        self._disk = _Disk()
        self._registers: dict[str, bytes] = {}
        for path in (*reversed(root.parents), root):
            self._disk.seen[str(path)] = self._disk.durable[str(path)] = _Node(is_folder=True)

    def crash_at(self, number: int) -> None:
        """Stop the machine before the system call with that number."""
        self._stop = number

    def count_call(self) -> None:
        """Count a call that changes something, or stop."""
        if self._stop is not None and self.calls >= self._stop:
            raise Crash
        self.calls += 1

    def check_running(self) -> None:
        """Raise `Crash` when the machine has stopped."""
        if self._stop is not None and self.calls >= self._stop:
            raise Crash

    def store(self) -> FileStore:
        """Open a file store on the disk."""
        return FileStore.open(self.root / "store", files=self)

    def register(self) -> "ModelRegister":
        """Open a register on the disk: each change is durable when it returns, and happens or not when it does not."""
        return ModelRegister(self, self._registers)

    # The system calls.

    def make_folder(self, path: Path, _mode: int) -> bool:
        """Make a folder."""
        self.count_call()
        if str(path) in self._disk.seen:
            return False
        self._name(path, _Node(is_folder=True))
        return True

    def is_folder(self, path: Path) -> bool:
        """Tell whether a folder is there."""
        self.check_running()
        node = self._disk.seen.get(str(path))
        return node is not None and node.is_folder

    def write(self, path: Path, data: bytes, _mode: int) -> None:
        """Make a new file; its data is volatile."""
        self.count_call()
        if str(path) in self._disk.seen:
            raise FileExistsError(path)
        self._name(path, _Node(is_folder=False, data=data))

    def sync_file(self, path: Path) -> None:
        """Make data durable."""
        self.count_call()
        node = self._find(path)
        node.durable = node.data

    def sync_folder(self, path: Path) -> None:
        """Make names durable."""
        self.count_call()
        self._find(path)
        disk, folder = self._disk, str(path)
        for name, node in disk.pending:
            if _parent(name) == folder:
                _apply(disk.durable, name, node)
        disk.pending = [(name, node) for name, node in disk.pending if _parent(name) != folder]

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name."""
        self.count_call()
        if str(target) in self._disk.seen:
            raise FileExistsError(target)
        self._name(target, self._find(source))

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name."""
        self.count_call()
        node = self._find(source)
        self._name(target, node)
        self._name(source, None)

    def unlink(self, path: Path) -> None:
        """Take a name away."""
        self.count_call()
        if self._find(path).is_folder:
            raise IsADirectoryError(path)
        self._name(path, None)

    def read(self, path: Path) -> bytes:
        """Return what programs see."""
        self.check_running()
        node = self._find(path)
        if node.is_folder:
            raise IsADirectoryError(path)
        return node.data

    def scan(self, folder: Path) -> Iterable[tuple[str, bool]]:
        """Yield names in a folder."""
        self.check_running()
        if not self._find(folder).is_folder:
            raise NotADirectoryError(folder)
        parent = str(folder)
        return [
            (name.rpartition("/")[2], node.is_folder)
            for name, node in self._disk.seen.items()
            if _parent(name) == parent != name
        ]

    def lock(self, _path: Path) -> Callable[[], None]:
        """Lock nothing: the model has one process at a time."""
        self.check_running()
        return lambda: None

    def _find(self, path: Path) -> _Node:
        node = self._disk.seen.get(str(path))
        if node is None:
            raise FileNotFoundError(path)
        return node

    def _name(self, path: Path, node: _Node | None) -> None:
        """Change a name, volatile."""
        name = str(path)
        parent = self._disk.seen.get(_parent(name))
        if parent is None or not parent.is_folder:
            raise FileNotFoundError(path.parent)
        _apply(self._disk.seen, name, node)
        self._disk.pending.append((name, node))

    # Crashes.

    def crash_states(self, limit: int, seed: int = 0) -> Iterator["ModelDisk"]:
        """Yield disks as a crash now may leave them: all of them up to `limit`, a seeded choice of so many beyond.

        The one in which nothing unsynced survives, and the one in which everything does, are always among them.
        """
        torn = _unsynced(self._disk)
        sizes = [2] * len(self._disk.pending) + [4] * len(torn)
        total = 1
        for size in sizes:
            total = min(total * size, limit + 1)
        if total <= limit:
            choices: Iterable[tuple[int, ...]] = itertools.product(*(range(size) for size in sizes))
        else:
            chance = random.Random(seed)  # noqa: S311 - a choice of test cases
            drawn = [tuple(chance.randrange(size) for size in sizes) for _ in range(limit - 2)]
            choices = [tuple(0 for _ in sizes), tuple(size - 1 for size in sizes), *drawn]
        names = len(self._disk.pending)
        for choice in choices:
            yield self._after(choice[:names], dict(zip(map(id, torn), choice[names:], strict=True)))

    def _after(self, kept: tuple[int, ...], data: Mapping[int, int]) -> "ModelDisk":
        """Return the disk after a crash: which pending changes of names were kept, and what is left of each file."""
        names = dict(self._disk.durable)
        for (name, node), is_kept in zip(self._disk.pending, kept, strict=True):
            if is_kept:
                _apply(names, name, node)
        after = ModelDisk(self.root)
        after._registers = dict(self._registers)
        copies: dict[int, _Node] = {}
        # Component by component, so that a folder comes before what is in it.
        for name in sorted(names, key=lambda name: name.split("/")):
            node = names[name]
            # A folder that was lost takes its files along.
            if _parent(name) not in after._disk.durable:
                continue
            if id(node) not in copies:
                content = _left(node, data.get(id(node), 3))
                copies[id(node)] = _Node(node.is_folder, content, None if node.is_folder else content)
            if name not in after._disk.durable:
                after._disk.seen[name] = after._disk.durable[name] = copies[id(node)]
        return after


def _parent(name: str) -> str:
    """Return the name of the folder that a name is in; the outermost folder is in itself."""
    return name.rpartition("/")[0] or "/"


def _apply(names: dict[str, _Node], name: str, node: _Node | None) -> None:
    """Change a name."""
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node


def _unsynced(disk: _Disk) -> list[_Node]:
    """Return the files whose data is not durable, each once."""
    nodes = [*disk.durable.values(), *(node for _, node in disk.pending if node is not None)]
    found = {id(node): node for node in nodes if not node.is_folder and node.durable != node.data}
    return list(found.values())


def _left(node: _Node, choice: int) -> bytes:
    """Return what a crash leaves of a file: 0 what was synced, 1 a torn beginning, 2 zeros, 3 everything."""
    if node.is_folder or node.durable == node.data:
        return node.data
    return (node.durable or b"", node.data[: len(node.data) // 2], bytes(len(node.data)), node.data)[choice]


class ModelRegister:
    """`Register` on a `ModelDisk`. A change counts as one system call: a crash leaves the old or the new value."""

    def __init__(self, disk: ModelDisk, values: dict[str, bytes]) -> None:
        """Take the disk that stops, and the values that survive."""
        self._disk = disk
        self.values = values
        # The machine may stop after the change was made and before the answer came.
        self.keeps_last = False

    async def read(self, name: str) -> bytes | None:
        """Return the value."""
        check_key(name)
        self._disk.check_running()
        return self.values.get(name)

    async def create(self, name: str, value: bytes) -> None:
        """Set a value that is not there yet."""
        check_value(name, value)
        if name in self.values:
            raise ConflictError(Reason.CONFLICT, f"register {name} exists already", name=name)
        self._set(name, value)

    async def swap(self, name: str, old: bytes, new: bytes) -> None:
        """Set the value to `new` if it is `old`."""
        check_value(name, new)
        if self.values.get(name) != old:
            raise ConflictError(Reason.CONFLICT, f"register {name} holds another value than expected", name=name)
        self._set(name, new)

    def _set(self, name: str, value: bytes) -> None:
        try:
            self._disk.count_call()
        except Crash:
            # Only the call at which the machine stops may still have happened.
            if self.keeps_last:
                self.values[name] = value
                self.keeps_last = False
            raise
        self.values[name] = value
