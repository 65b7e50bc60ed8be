"""The signer as a process of its own: started, killed, restarted, asked by strangers, and left by its parent."""

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from mtc.cli.signer import show_folder
from mtc.crypto import parse_public_key, parse_signature_algorithm
from mtc.errors import ConflictError, PeerError, Reason, StorageError, UsageError
from mtc.ids import TrustAnchorID
from mtc.kernel import active_kernel
from mtc.merkle import Subtree, root_hash
from mtc.signer import SignerConfig, SignerView, TreeLine, TreeRequest
from mtc.signer.protocol import SignedMessages
from mtc.signer.service import SignerClient, SignerProcess, create_signer, read_journal
from mtc.signer.service.folder import locked
from mtc.store import SQLiteRegister
from mtc.web import SystemClock

CONFIG = SignerConfig(ca_id=TrustAnchorID.parse("32473.1"), max_skew_s=86400)
HASHER = active_kernel().hasher("sha256")
SERVE = (
    sys.executable,
    "-c",
    """
import argparse
from mtc.cli.signer import serve_folder
parser = argparse.ArgumentParser()
parser.add_argument("folder")
parser.add_argument("--socket")
parser.add_argument("--passphrase-file")
parser.add_argument("--exit-with-parent", action="store_true")
parser.add_argument("--json", action="store_true", dest="as_json")
arguments = vars(parser.parse_args())
serve_folder(arguments.pop("folder"), **arguments)
""",
)
"""`mtc signer serve` without the command line's other rooms, which need their time to load."""


def request(size: int, start: int = 0) -> TreeRequest:
    """Return a request for the tree of so many null entries, now."""
    entries = [b"\0\0\0\0"] * size
    return TreeRequest(
        log_number=1,
        tree_size=size,
        root_hash=root_hash(HASHER, HASHER.leaves(entries)),
        timestamp=int(SystemClock().now().timestamp()),
        start=start,
        entries=entries[start:],
    )


def process(folder: Path, **settings: object) -> SignerProcess:
    """Return the signer of a folder, not started yet."""
    return SignerProcess(folder, command=SERVE, **settings)  # type: ignore[arg-type]  # each test gives what it is about


def check(messages: SignedMessages, asked: TreeRequest, public_key: bytes, folder: Path) -> None:
    """Check the signatures against the messages in the journal, which must name the tree that was asked for."""
    verifier = parse_public_key(public_key, parse_signature_algorithm("ml-dsa-44"))
    *_, line = (line for line in read_journal(folder / "journal.jsonl") if isinstance(line, TreeLine))
    assert (line.tree_size, line.root_hash) == (asked.tree_size, asked.root_hash)
    signatures = [messages.checkpoint, *(signature for _, _, signature in messages.subtrees)]
    for message, signature in zip(line.messages, signatures, strict=True):
        verifier.verify(message.encode(), signature)


def test_serves_and_stops(tmp_path: Path) -> None:
    """A started signer answers with its key and with signatures, on a socket for its owner alone, and leaves none."""

    async def run() -> None:
        public_key = create_signer(tmp_path, CONFIG)
        async with process(tmp_path) as signer:
            assert stat.S_IMODE(signer.socket.stat().st_mode) == 0o600
            client = signer.client()
            assert await client.fetch_public_key() == public_key
            asked = request(5)
            check(await client.sign(asked), asked, public_key, tmp_path)
            with pytest.raises(ConflictError):
                await client.sign(request(4))
            client.close()
        assert signer.pid is None
        assert not signer.socket.exists()
        with pytest.raises(PeerError, match="is it running"):
            await client.sign(asked)

    asyncio.run(run())


def test_is_a_command(tmp_path: Path) -> None:
    """What is started without further ado is `python -m mtc signer serve`."""

    async def run() -> None:
        public_key = create_signer(tmp_path, CONFIG)
        async with SignerProcess(tmp_path) as signer:
            assert await signer.client().fetch_public_key() == public_key

    asyncio.run(run())


def test_moved_time_alone_signs_the_checkpoint_alone(tmp_path: Path) -> None:
    """A request without subtrees gets one signature; asked with them afterwards, the same tree gets them again."""

    async def run() -> None:
        create_signer(tmp_path, CONFIG)
        async with process(tmp_path) as signer:
            client = signer.client()
            asked = request(5)
            first = await client.sign(asked)
            assert [subtree for subtree, _, _ in first.subtrees] == [Subtree(0, 4), Subtree(4, 5)]
            later = replace(asked, timestamp=asked.timestamp + 1, start=5, entries=())
            assert (await client.sign(replace(later, with_subtrees=False))).subtrees == ()
            again = await client.sign(later)
            assert [item[:2] for item in again.subtrees] == [item[:2] for item in first.subtrees]
            client.close()

    asyncio.run(run())


async def ask_until_answered(signer: SignerProcess, client: SignerClient, asked: TreeRequest) -> SignedMessages:
    """Ask a signer that may just be dying until one answers that was started after it."""
    for _ in range(100_000):
        await signer.wait_ready()
        with suppress(PeerError):
            return await client.sign(asked)
        # The keeper hears of the death in one of the loop's next turns.
        await asyncio.sleep(0)
    raise AssertionError


def test_killed_in_the_middle_and_started_again(tmp_path: Path) -> None:
    """Killed while it is asked, the signer comes back, and signs what was asked for: the same tree, and no other."""

    async def run() -> None:
        public_key = create_signer(tmp_path, CONFIG)
        pids = set()
        async with process(tmp_path, report=lambda *_: None) as signer:
            client = signer.client()
            for step in range(1, 5):
                asked = request(step * 2000, (step - 1) * 2000)
                pid = signer.pid
                assert pid is not None
                pids.add(pid)
                asking = asyncio.create_task(client.sign(asked))
                # The kill comes after so many turns of the loop, so that it hits another place each time.
                for _ in range(step):
                    await asyncio.sleep(0)
                os.kill(pid, signal.SIGKILL)
                await asyncio.gather(asking, return_exceptions=True)
                check(await ask_until_answered(signer, client, asked), asked, public_key, tmp_path)
            client.close()
        assert len(pids) == 4

    asyncio.run(run())
    sizes = [line.tree_size for line in read_journal(tmp_path / "journal.jsonl") if isinstance(line, TreeLine)]
    assert sizes == sorted(sizes)
    assert set(sizes) == {2000, 4000, 6000, 8000}


def test_second_signer_on_a_folder_is_refused(tmp_path: Path) -> None:
    """While one runs, another one on the same folder says so and changes nothing; the first goes on."""

    async def run() -> None:
        create_signer(tmp_path, CONFIG)
        async with process(tmp_path) as signer:
            before = signer.socket.stat().st_ino
            second = await asyncio.create_subprocess_exec(
                *SERVE, str(tmp_path), "--json", stdout=asyncio.subprocess.PIPE
            )
            out, _ = await asyncio.wait_for(second.communicate(), 60)
            assert second.returncode == 2
            assert json.loads(out)["reason"] == Reason.BUSY
            assert signer.socket.stat().st_ino == before
            assert await signer.client().fetch_public_key()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("number", "with_parent"), [(signal.SIGTERM, False), (signal.SIGINT, False), (signal.SIGTERM, True)]
)
def test_signals_end_it_in_order(tmp_path: Path, number: signal.Signals, *, with_parent: bool) -> None:
    """SIGTERM and SIGINT end the process with code 0, and its socket is gone."""
    create_signer(tmp_path, CONFIG)
    options = ["--exit-with-parent"] if with_parent else []
    with subprocess.Popen(  # noqa: S603 - our own command
        [*SERVE, str(tmp_path), *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert b"is ready on" in child.stdout.readline()
        assert (tmp_path / "signer.sock").exists()
        child.send_signal(number)
        assert child.wait(20) == 0
    assert not (tmp_path / "signer.sock").exists()


def test_ends_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    """When the process that started it is killed, the signer ends by itself and frees the folder."""
    create_signer(tmp_path, CONFIG)
    program = (
        "import asyncio, sys, pathlib\n"
        "from mtc.signer.service import SignerProcess\n"
        "async def run():\n"
        "    async with SignerProcess(pathlib.Path(sys.argv[1]), command=eval(sys.argv[2])) as signer:\n"
        "        print(signer.pid, flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(run())\n"
    )
    with subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-c", program, str(tmp_path), repr(SERVE)], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        assert int(parent.stdout.readline()) > 0
        parent.kill()
        parent.wait()

    async def run() -> None:
        async with locked(tmp_path, 20):
            assert not (tmp_path / "signer.sock").exists()

    asyncio.run(run())


def test_wrong_start_reaches_the_parent(tmp_path: Path) -> None:
    """What keeps the child from starting is raised in the parent, with its reason and cure."""

    async def start(**settings: object) -> None:
        async with process(tmp_path, **settings):
            pass

    with pytest.raises(UsageError, match="holds no signer"):
        asyncio.run(start())
    assert list(tmp_path.iterdir()) == []
    create_signer(tmp_path, CONFIG, b"secret")
    environ = {name: value for name, value in os.environ.items() if name != "MTC_SIGNER_PASSPHRASE"}
    with pytest.raises(UsageError, match="--passphrase-file"):
        asyncio.run(start(environ=environ))
    asyncio.run(start(environ={**environ, "MTC_SIGNER_PASSPHRASE": "secret"}))
    passphrase = tmp_path / "passphrase"
    passphrase.write_bytes(b"secret\n")
    passphrase.chmod(0o600)
    asyncio.run(start(environ=environ, passphrase_file=str(passphrase)))
    with pytest.raises(PeerError, match="did not start"):
        asyncio.run(_start(tmp_path, [sys.executable, "-c", "pass"]))
    with pytest.raises(PeerError, match="was not ready"):
        asyncio.run(_start(tmp_path, [sys.executable, "-c", "import sys; sys.stdin.read()"], ready_s=0.2))


async def _start(folder: Path, command: Sequence[str], ready_s: float = 20.0) -> None:
    """Start something else in the signer's place."""
    async with SignerProcess(folder, command=command, ready_s=ready_s):
        pass


def test_long_path_of_the_socket(tmp_path: Path) -> None:
    """A socket whose path is longer than an address may be is reached all the same."""
    folder = tmp_path / ("d" * 60) / ("e" * 60)

    async def run() -> None:
        public_key = create_signer(folder, CONFIG)
        async with process(folder) as signer:
            assert len(os.fsencode(signer.socket)) > 107
            assert await signer.client().fetch_public_key() == public_key
        other = folder / ("f" * 120)
        with pytest.raises(UsageError, match="choose a shorter one"):
            await SignerClient(other).fetch_public_key()

    asyncio.run(run())


def test_record_from_a_backup_is_refused(tmp_path: Path) -> None:
    """A record that is older than the journal keeps the signer from starting; one decision ahead is only a crash."""

    async def sign(*sizes: int) -> None:
        async with process(tmp_path) as signer:
            client = signer.client()
            for start, size in zip((0, *sizes), sizes, strict=False):
                await client.sign(request(size, 0 if start == 0 else start))
            client.close()

    create_signer(tmp_path, CONFIG)
    asyncio.run(sign(3))
    old = _read_view(tmp_path)
    asyncio.run(sign(5))
    new = _read_view(tmp_path)
    _swap_view(tmp_path, new, old)
    asyncio.run(sign(5))
    assert SignerView.parse(_read_view(tmp_path)).frontier.tree_size == 5
    asyncio.run(sign(9))
    _swap_view(tmp_path, _read_view(tmp_path), old)
    with pytest.raises(StorageError, match="older copy"):
        asyncio.run(sign(9))


def _read_view(folder: Path) -> bytes:
    """Return the view of log 1 as the signer stored it."""
    register = SQLiteRegister.open(folder / "register.sqlite")
    value = asyncio.run(register.read("signer-log-1"))
    register.close()
    assert value is not None
    return value


def _swap_view(folder: Path, old: bytes, new: bytes) -> None:
    """Put another view in the place of the signer's."""
    register = SQLiteRegister.open(folder / "register.sqlite")
    asyncio.run(register.swap("signer-log-1", old, new))
    register.close()


def test_show_tells_what_was_signed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last size, root and time of each log, and the length of the journal, are shown, also while it runs."""

    async def run() -> None:
        async with process(tmp_path) as signer:
            asked = request(7)
            await signer.client().sign(asked)
            await asyncio.to_thread(show_folder, str(tmp_path), as_json=True)
            shown = json.loads(capsys.readouterr().out)
            assert shown["logs"] == [{"log": 1, "size": 7, "root": asked.root_hash.hex(), "timestamp": asked.timestamp}]
            assert shown["journal"] == {"trees": 1, "crls": 0}

    with pytest.raises(UsageError, match="holds no signer"):
        show_folder(str(tmp_path), as_json=False)
    create_signer(tmp_path, CONFIG)
    show_folder(str(tmp_path), as_json=False)
    assert "no tree was signed yet" in capsys.readouterr().out
    asyncio.run(run())
    show_folder(str(tmp_path), as_json=False)
    assert root_hash(HASHER, HASHER.leaves([b"\0\0\0\0"] * 7)).hex() in capsys.readouterr().out


def test_many_entries_in_one_request(tmp_path: Path) -> None:
    """A round of fifty thousand entries, larger than any socket's buffer, goes over in one request."""

    async def run() -> None:
        create_signer(tmp_path, CONFIG)
        async with process(tmp_path) as signer:
            entries = [b"\0\0\0\1" + number.to_bytes(4, "big") * 60 for number in range(50_000)]
            root = root_hash(HASHER, HASHER.leaves(entries))
            asked = replace(request(0), tree_size=len(entries), root_hash=root, entries=entries)
            answer = await signer.client().sign(asked)
            assert answer.subtrees[-1][0].end == 50_000

    asyncio.run(run())
