"""`mtc witness` and `mtc mirror` as operators use them: made, told of logs, run, looked at, and used wrongly."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from tests.commands import Run, run_program
from tests.note_keys import CA, LOG
from tests.synthetic_logs import ORIGIN, SyntheticLog, make_entries

from mtc.cosign.config import CosignerConfig, Role, format_cosigner_config, parse_cosigner_config
from mtc.cosign.logs import KnownLog
from mtc.cosign.service.core import origin_hash
from mtc.cosign.service.folder import add_log, create_cosigner
from mtc.cosign.service.metrics import METRICS
from mtc.cosign.service.running import open_cosigner
from mtc.errors import UsageError
from mtc.ids import TrustAnchorID
from mtc.note import VerifierKey, open_note
from mtc.testing.fleet import Member, free_port
from mtc.web.metrics import metrics_table


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs `mtc` in this process."""
    return run_program(monkeypatch, capfd)


@pytest.mark.parametrize("role", ["witness", "mirror"])
def test_init_makes_a_key_and_a_commented_file_once(run: Run, tmp_path: Path, role: str) -> None:
    """A folder with a private key and cosigner.toml; the same again changes nothing; another one is refused."""
    folder = tmp_path / role
    made = json.loads(run(role, "init", folder, "--id", "32473.7", "--ed25519", "--json").out)
    assert made["new"]
    keys = [VerifierKey.parse(text) for text in made["vkeys"]]
    assert [key.type for key in keys] == [6, 4]
    assert {key.name for key in keys} == {"oid/1.3.6.1.4.1.32473.7"}
    assert (folder / "key.pem").stat().st_mode & 0o777 == 0o600
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    again = run(role, "init", folder, "--id", "32473.7", "--ed25519")
    assert "already" in again.out
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    other = run(role, "init", folder, "--id", "32473.8")
    assert (other.code, "already" in other.err) == (2, True)
    wrong = "mirror" if role == "witness" else "witness"
    for command in ("list", "show", "serve", "add-log"):
        refused = run(wrong, command, folder, *(["--vkey", CA.key.encode()] if command == "add-log" else []))
        assert (refused.code, f"say mtc {role} instead" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("init", "DIR", "--id", "x"), "--id"),
        (("init", "DIR", "--id", "32473." + "9" * 700), "--id"),
        (("init", "DIR", "--id", "32473.7", "--listen", "nowhere"), "no address"),
        (("serve", "DIR"), "holds no cosigner"),
        (("list", "DIR"), "holds no cosigner"),
        (("show", "DIR"), "holds no cosigner"),
        (("add-log", "DIR", "--vkey", "x"), "holds no cosigner"),
    ],
)
def test_wrong_input_says_where_and_what_to_do(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    """A clear error, exit code 2, no traceback, and nothing is made."""
    folder = tmp_path / "w"
    ran = run("witness", *(str(folder) if item == "DIR" else item for item in arguments))
    assert (ran.code, message in ran.err) == (2, True), ran.err
    assert not (folder / "cosigner.toml").exists()


def test_add_log_takes_cas_and_logs_and_refuses_what_cannot_be(run: Run, tmp_path: Path) -> None:
    """A CA by its key, a log by key and origin; twice is once; the own key and other settings are refused."""
    folder = tmp_path / "m"
    own = json.loads(run("mirror", "init", folder, "--id", "32473.9", "--json").out)["vkeys"][0]
    added = run("mirror", "add-log", folder, "--vkey", CA.key.encode(), "--url", "http://127.0.0.1:1", "--follow")
    assert added.code == 0
    again = run("mirror", "add-log", folder, "--vkey", CA.key.encode(), "--url", "http://127.0.0.1:1", "--follow")
    assert "nothing was changed" in again.out
    assert run("mirror", "add-log", folder, "--vkey", LOG.key.encode(), "--origin", "log.example/7").code == 0
    for arguments, message in (
        (("--vkey", CA.key.encode()), "other settings"),
        (("--vkey", own), "name or the key of this cosigner"),
        (("--vkey", LOG.key.encode(), "--origin", ORIGIN), "stands in the configuration too"),
        (("--vkey", "nonsense"), "key"),
        ((), "--ca"),
        (("--vkey", LOG.key.encode(), "--ca", "x.pem"), "--ca"),
        (("--ca", str(tmp_path / "none.pem")), "cannot be read"),
        (("--vkey", LOG.key.encode(), "--url", "ftp://x"), "no URL"),
        (("--vkey", LOG.key.encode(), "--origin", "b", "--follow"), "--follow needs --url"),
        (("--vkey", LOG.key.encode(), "--origin", "c", "--ed25519"), "no Ed25519 key"),
    ):
        ran = run("mirror", "add-log", folder, *arguments)
        assert (ran.code, message in ran.err) == (2, True), (arguments, ran.err)
    shown = json.loads(run("mirror", "show", folder, "--json").out)
    assert (shown["cas"], shown["logs"]) == (["32473.1"], ["log.example/7"])
    assert "no log has come yet" in run("mirror", "list", folder).out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("role = ", "rolle = "), "role is missing"),
        (('role = "witness"', 'role = "judge"'), "must be one of"),
        (('id = "', 'id = "x'), "id"),
        (("ed25519 = false", 'ed25519 = "no"'), "ed25519"),
        (("[server]", "[sever]"), "sever"),
        ((":8081", ":http"), "listen"),
        (('submission_path = ""', 'submission_path = "a b"'), "submission_path"),
        (("ed25519 = false", "ed25519 = false\nmore = 1"), "misspelt"),
        (("[server]", "[[log]]\n[server]"), "vkey is missing"),
        (("[server]", '[[ca]]\nvkey = "log.example+00000000+AAAA"\n[server]'), "ca 1"),
        (('id = "', 'id = "'), None),
    ],
)
def test_a_wrong_configuration_names_the_key(change: tuple[str, str], message: str | None) -> None:
    """Each fault is an error that names file and key; the file as written is read back to the same value."""
    config = CosignerConfig(role=Role.WITNESS, cosigner_id=TrustAnchorID.parse("32473.7"))
    text = format_cosigner_config(config).replace(*change, 1)
    if message is None:
        assert parse_cosigner_config(text.encode()) == config
        return
    with pytest.raises(UsageError) as caught:
        parse_cosigner_config(text.encode(), "here.toml")
    assert "here.toml" in caught.value.message
    assert message in caught.value.message


def _post(url: str, body: bytes) -> bytes:
    """Send a POST and return the answer."""
    with urlopen(Request(url, data=body), timeout=60) as answer:  # noqa: S310 - our own loopback address
        return bytes(answer.read())


def test_a_log_that_is_added_before_the_first_look_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cosigner knows a log that was added between its opening and its first look at the configuration."""
    monkeypatch.setattr("mtc.cosign.service.running._RELOAD_S", 0.01)
    config = CosignerConfig(role=Role.WITNESS, cosigner_id=TrustAnchorID.parse("32473.7"))
    create_cosigner(tmp_path, config, None)

    async def story() -> list[str]:
        async with open_cosigner(tmp_path) as running:
            assert not running.core.directory.logs
            add_log(tmp_path, KnownLog(ORIGIN, (LOG.key,)), ())
            watching = asyncio.create_task(running.watch_config())
            async with asyncio.timeout(60):
                while not running.core.directory.logs:  # noqa: ASYNC110 - a program outside would look again, too
                    await asyncio.sleep(0.01)
            watching.cancel()
            return list(running.core.directory.logs)

    assert asyncio.run(story()) == [ORIGIN]


@pytest.mark.parametrize("role", ["witness", "mirror"])
def test_a_served_cosigner_cosigns_and_is_looked_at(run: Run, tmp_path: Path, role: str) -> None:
    """As a process: it cosigns, takes a log that is added while it runs, survives a kill, and tells its state."""
    folder = tmp_path / role
    vkey = json.loads(run(role, "init", folder, "--id", "32473.7", "--json").out)["vkeys"][0]
    log = SyntheticLog(make_entries(300))
    member = Member(role, role, folder, free_port())
    try:
        member.start()
        assert run(role, "add-log", folder, "--vkey", CA.key.encode()).code == 0
        _retry(lambda: _post(f"{member.url}/add-checkpoint", log.add_checkpoint(0, 300)))
        if role == "mirror":
            _post(f"{member.url}/add-entries", log.upload(0, 300))
        for _ in range(2):
            with urlopen(f"{member.url}/{origin_hash(ORIGIN)}/checkpoint", timeout=60) as answer:  # noqa: S310 - loopback
                opened = open_note(answer.read(), [VerifierKey.parse(vkey)])
            assert opened.text == log.checkpoint(300).encode()
            with urlopen(f"{member.url}/metrics", timeout=60) as answer:  # noqa: S310 - loopback
                assert f'mtc_cosigner_log_size{{origin="{ORIGIN}"}} 300.0' in answer.read().decode()
            listed = json.loads(run(role, "list", folder, "--json").out)["logs"]
            assert [(item["origin"], item["tree_size"]) for item in listed] == [(ORIGIN, 300)]
            assert "300" in run(role, "show", folder, ORIGIN).out
            assert member.health()["status"] == "ok"
            with urlopen(f"{member.url}/", timeout=60) as answer:  # noqa: S310 - loopback
                page = answer.read().decode()
            assert ORIGIN in page
            member.kill()
            member.start()
    finally:
        member.stop()
    assert run(role, "show", folder, "elsewhere").code == 2


def test_a_second_process_on_one_folder_is_refused(run: Run, tmp_path: Path) -> None:
    """One process for a folder; the other one says so and leaves with an exit code."""
    folder = tmp_path / "w"
    run("witness", "init", folder, "--id", "32473.7")
    member = Member("w", "witness", folder, free_port())
    try:
        member.start()
        ran = run("witness", "serve", folder, "--listen", "127.0.0.1:0")
        assert (ran.code, "in use by another process" in ran.err) == (2, True)
    finally:
        member.stop()


def test_a_wrong_configuration_leaves_a_running_cosigner_as_it_is(run: Run, tmp_path: Path) -> None:
    """A typing mistake in cosigner.toml is shown in the health of the running process, which goes on."""
    folder = tmp_path / "w"
    run("witness", "init", folder, "--id", "32473.7")
    member = Member("w", "witness", folder, free_port())
    file = folder / "cosigner.toml"
    try:
        member.start()
        text = file.read_text()
        file.write_text(text + "\n[[log]]\nnonsense = 1\n")
        _retry(lambda: _expect(member.health()["status"] == "degraded"))
        file.write_text(text)
        _retry(lambda: _expect(member.health()["status"] == "ok"))
    finally:
        member.stop()


def _expect(is_so: bool) -> None:  # noqa: FBT001 - a condition
    """Raise unless something is so."""
    if not is_so:
        raise OSError("not yet")


def _retry(call: Callable[[], object]) -> None:
    """Call until it works: a running cosigner looks at its configuration once a second."""
    until = time.monotonic() + 60
    while True:
        try:
            call()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
        else:
            return


def test_cert_cosign_refuses_wrong_input(run: Run, tmp_path: Path) -> None:
    """`mtc cert cosign`: a missing file, a cosigner that is none, a key that cannot stand in certificates."""
    missing = tmp_path / "none.pem"
    for cosigner, message in (
        ("http://127.0.0.1:9", "write URL=VKEY"),
        (f"http://127.0.0.1:9={LOG.key.encode()}", "cannot stand in certificates"),
        (f"http://127.0.0.1:9={CA.key.encode()}", "none.pem"),
    ):
        ran = run("cert", "cosign", missing, "--log", "http://127.0.0.1:9", "--cosigner", cosigner)
        assert (ran.code, message in ran.err) == (2, True), ran.err


def test_documentation_lists_every_metric() -> None:
    """docs/cosigners.md holds the table of metrics as the code has it."""
    text = (Path(__file__).parent.parent / "docs" / "cosigners.md").read_text("utf-8")
    assert metrics_table(METRICS) in text
