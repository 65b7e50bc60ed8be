"""`mtc perspective` and `perspective.toml`: made once, read strictly, run as a process, killed as one."""

import asyncio
import base64
import json
import re
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import structlog
from tests.commands import Run, run_program
from tests.perspectives import TASK, FakePerspective, in_loop, make_folder, make_identity, now, peer_of, until

from mtc.acme.machine.validation import Method
from mtc.acme.perspective.client import open_identity, open_perspectives
from mtc.acme.perspective.config import PerspectivePeer, format_perspective, read_perspective
from mtc.acme.perspective.corroboration import Corroborator
from mtc.acme.perspective.folder import (
    CONFIG_NAME,
    PerspectiveConfig,
    format_perspective_config,
    own_fingerprint,
    parse_perspective_config,
    read_perspective_config,
)
from mtc.acme.perspective.metrics import METRICS
from mtc.acme.validation.settings import DNSSEC, ValidationSettings
from mtc.ca.sections import Section
from mtc.errors import PeerError, Reason, UsageError
from mtc.testing.names import Failure, NameServer
from mtc.web.metrics import metrics_table
from mtc.web.tls import TLSFiles, ensure_identity

NAMES = PerspectiveConfig(name="eu-1", region="ripe")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs `mtc` in this process."""
    return run_program(monkeypatch, capfd)


@pytest.fixture(autouse=True)
def quiet_logs() -> Iterator[list[MutableMapping[str, Any]]]:
    """Keep log events instead of printing them."""
    structlog.reset_defaults()
    with structlog.testing.capture_logs() as events:
        yield events


def test_init_makes_a_key_and_a_commented_file_once(run: Run, tmp_path: Path) -> None:
    """A folder with a private key and perspective.toml; the same again changes nothing; another is refused."""
    folder = tmp_path / "eu-1"
    arguments = ("perspective", "init", folder, "--name", "eu-1", "--region", "RIPE", "--listen", "[::1]:9443")
    made = run(*arguments)
    assert made.code == 0
    assert own_fingerprint(folder) in made.out
    assert "mtc perspective allow" in made.out
    assert stat.S_IMODE((folder / "tls-key.pem").stat().st_mode) == 0o600
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(before) == [CONFIG_NAME, "tls-key.pem", "tls.pem"]
    config = read_perspective_config(folder)
    assert (config.name, config.region, config.listen) == ("eu-1", "ripe", ("::1", 9443))
    assert "nothing was changed" in run(*arguments).out
    again = json.loads(run(*arguments, "--json").out)
    assert (again["new"], again["fingerprint"]) == (False, own_fingerprint(folder))
    assert run("perspective", "init", folder, "--name", "eu-2", "--region", "ripe").code == 2
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("arguments", [("--name", "a b"), ("--region", ""), ("--listen", "none"), ("--listen", "8443")])
def test_init_refuses_what_cannot_be(run: Run, tmp_path: Path, arguments: tuple[str, str]) -> None:
    """Wrong names and addresses make no folder."""
    options = {"--name": "eu-1", "--region": "ripe"} | dict([arguments])
    ran = run("perspective", "init", tmp_path / "p", *(part for item in options.items() for part in item))
    assert ran.code == 2
    assert not (tmp_path / "p").exists()


def test_init_leaves_other_programs_alone(run: Run, tmp_path: Path) -> None:
    """The folder of a CA or of a cosigner becomes no perspective."""
    for name in ("ca.toml", "cosigner.toml"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).touch()
        assert "a program of its own" in run("perspective", "init", folder, "--name", "a", "--region", "ripe").err


def test_lines_for_the_ca_are_read_by_it(run: Run, tmp_path: Path) -> None:
    """What init and show print goes into acme.toml as it is, but for the host."""
    folder = make_folder(tmp_path / "p")
    shown = run("perspective", "show", folder).out
    block = shown[shown.index("[[perspective]]") :].split("\n\n")[0]
    values = dict(re.findall(r'^(\w+) = "(.*)"$', block.replace("HOST:PORT", "eu-1.example:8443"), re.MULTILINE))
    peer = read_perspective(Section("perspective 1", values, "acme.toml"))
    assert (peer.name, peer.region, peer.fingerprint) == ("eu-1", "ripe", own_fingerprint(folder))
    assert "nobody yet" in shown
    assert json.loads(run("perspective", "show", folder, "--json").out)["clients"] == []


def test_allow_adds_a_ca_once(run: Run, tmp_path: Path) -> None:
    """A CA's certificate is added under what was written by hand, once; show lists it."""
    folder = make_folder(tmp_path / "p")
    file = folder / CONFIG_NAME
    file.write_text(file.read_text() + "# by hand\n")
    identity = make_identity(tmp_path / "ca")
    added = json.loads(run("perspective", "allow", folder, identity.certificate, "--json").out)
    assert added["new"] is True
    assert "# by hand" in file.read_text()
    before = file.read_bytes()
    assert "nothing was changed" in run("perspective", "allow", folder, identity.certificate).out
    assert file.read_bytes() == before
    assert [client.fingerprint for client in read_perspective_config(folder).clients] == [added["allowed"]]
    assert added["allowed"] in run("perspective", "show", folder).out
    other = make_identity(tmp_path / "other")
    assert "may ask from now on" in run("perspective", "allow", folder, other.certificate).out
    assert len(read_perspective_config(folder).clients) == 2


def test_allow_refuses_what_no_ca_shows(run: Run, tmp_path: Path) -> None:
    """A CA certificate, a key and a missing file are refused with the name of the file that is meant."""
    folder = make_folder(tmp_path / "p")
    before = (folder / CONFIG_NAME).read_bytes()
    run("ca", "init", tmp_path / "ca", "--id", "32473.1")
    refused = run("perspective", "allow", folder, tmp_path / "ca" / "ca.pem")
    assert refused.code == 2
    assert "perspective-client.pem" in refused.err
    identity = make_identity(tmp_path / "identity")
    for file in (identity.key, tmp_path / "none.pem"):
        assert run("perspective", "allow", folder, file).code == 2
    assert (folder / CONFIG_NAME).read_bytes() == before


def test_serve_says_what_is_missing(run: Run, tmp_path: Path) -> None:
    """A folder without a perspective is an error with the command that makes one."""
    for command in (("serve", tmp_path), ("show", tmp_path), ("allow", tmp_path, tmp_path)):
        ran = run("perspective", *command)
        assert ran.code == 2
    assert "mtc perspective init" in run("perspective", "serve", tmp_path).err


def test_written_configuration_is_read_back(tmp_path: Path) -> None:
    """What is written with comments is the same configuration when it is read."""
    identity = make_identity(tmp_path / "ca", make_folder(tmp_path / "p"))
    assert identity.certificate.exists()
    clients = read_perspective_config(tmp_path / "p").clients
    for config in (
        NAMES,
        replace(
            NAMES,
            listen=("::1", 1),
            monitoring=("127.0.0.1", 2),
            examinations=3,
            clients=clients,
            looking=ValidationSettings(
                servers=("127.0.0.1:53", "[::1]:5353"),
                trusted_servers=("192.0.2.1",),
                dnssec=DNSSEC.RESOLVER,
                dnssec_anchor="example.",
                allows_private=True,
                http_port=5002,
                tls_port=5001,
            ),
        ),
    ):
        assert parse_perspective_config(format_perspective_config(config).encode()) == config


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("nmae = 'x'", "nmae"),
        ("listen = 8443", "listen"),
        ("listen = 'here'", "listen"),
        ("monitoring = 'here'", "monitoring"),
        ("examinations = 0", "examinations"),
        ("examinations = -1", "examinations"),
        ("[validation]\nresolver = []", "resolver"),
        ("[validation]\nresolvers = ['dns.example']", "dns.example"),
        ("[validation]\ndnssec = 'maybe'", "dnssec"),
        ("[validation]\nhttp_port = 65536", "http_port"),
        ("[validation]\nallow_private = 1", "allow_private"),
        ("[[client]]\nname = 'x'", "certificate"),
        ("[[client]]\ncertificate = 'x'", "certificate"),
        ("[client]\ncertificate = 'x'", "client"),
        ("= 1", "no TOML"),
    ],
)
def test_wrong_configuration_is_refused_by_key(line: str, text: str) -> None:
    """An unknown key or a wrong value is an error that names file and key."""
    data = f"name = 'eu-1'\nregion = 'ripe'\n{line}\n".encode()
    with pytest.raises(UsageError) as caught:
        parse_perspective_config(data, "p/perspective.toml")
    assert "p/perspective.toml" in caught.value.message
    assert text in caught.value.message


def test_configuration_needs_name_and_region() -> None:
    """Who it is has no default."""
    for data in (b"name = 'eu-1'", b"region = 'ripe'", b"name = 'a/b'\nregion = 'ripe'", b"\xff", b"#" * (2 << 20)):
        with pytest.raises(UsageError):
            parse_perspective_config(data)


PEER = PerspectivePeer(name="eu-1", region="ripe", url="https://eu-1.example:8443", fingerprint=f"sha256:{'0a' * 32}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", None),
        ("name", "a b"),
        ("name", 'x"'),
        ("region", None),
        ("region", ""),
        ("url", None),
        ("url", "http://eu-1.example"),
        ("url", "https://"),
        ("url", "https://eu-1.example?x"),
        ("url", "https://user@eu-1.example"),
        ("url", "https://eu-1.example:123456"),
        ("url", "https://eu-1.example:65536"),
        ("url", "https://eu 1.example"),
        ("url", "eu-1.example:8443"),
        ("fingerprint", None),
        ("fingerprint", "sha256:00"),
        ("fingerprint", "0a" * 32),
        ("certificate", "x"),
    ],
)
def test_wrong_peer_is_refused_by_key(key: str, value: str | None) -> None:
    """A `[[perspective]]` of acme.toml without one of its keys, or with another, is refused by name."""
    values = {"name": PEER.name, "region": PEER.region, "url": PEER.url, "fingerprint": PEER.fingerprint}
    with pytest.raises(UsageError, match=f"acme.toml: perspective 1.{key}"):
        read_perspective(
            Section("perspective 1", {k: v for k, v in {**values, key: value}.items() if v is not None}, "acme.toml")
        )


@pytest.mark.parametrize("url", ["https://192.0.2.1", "https://[2001:db8::1]:8443", "https://eu-1.example/agent/1"])
def test_peer_is_read_in_one_spelling(url: str) -> None:
    """Regions and fingerprints have one spelling, so that "RIPE" and "ripe" are not two regions; URLs end bare."""
    values = {"name": "eu-1", "region": "RIPE", "url": f"{url}/", "fingerprint": PEER.fingerprint.upper().lower()}
    peer = read_perspective(Section("perspective 1", values, "acme.toml"))
    assert peer == replace(PEER, url=url)
    lines = dict(re.findall(r'^(\w+) = "(.*)"$', format_perspective(peer), re.MULTILINE))
    assert read_perspective(Section("perspective 1", lines, "acme.toml")) == peer


def test_identity_of_a_ca_stays(tmp_path: Path) -> None:
    """A CA's client certificate is made once and then left alone: agents know it byte for byte."""
    identity = open_identity(tmp_path, "ca-32473.1", now())
    before = identity.certificate.read_bytes()
    assert stat.S_IMODE(identity.key.stat().st_mode) == 0o600
    open_identity(tmp_path, "ca-32473.1", now() + timedelta(days=3000))
    assert identity.certificate.read_bytes() == before
    ensure_identity(TLSFiles(tmp_path / "a.pem", tmp_path / "a-key.pem"), "Ünicode name / 1", now(), timedelta(days=1))


def test_documentation_has_the_metrics() -> None:
    """The table in docs/perspectives.md is the one of the program."""
    text = (Path(__file__).parent.parent / "docs" / "perspectives.md").read_text("utf-8")
    assert metrics_table(METRICS) in text


@asynccontextmanager
async def running_process(folder: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Run `mtc perspective serve` as a process; give it and its URL."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mtc", "perspective", "serve", str(folder), "--json"), stderr=subprocess.PIPE
    )
    try:
        assert process.stderr is not None
        line = json.loads(await process.stderr.readline())
        assert line["event"] == "serving", line
        yield process, line["url"]
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def look_at_loopback(folder: Path, names: NameServer) -> None:
    """Have an agent ask a name server of the test."""
    file = folder / CONFIG_NAME
    text = file.read_text().replace("resolvers = []", f'resolvers = ["{names.server}"]')
    file.write_text(text.replace("allow_private = false", "allow_private = true"))


@in_loop
async def test_process_looks_and_is_killed(tmp_path: Path) -> None:
    """A real agent sees a DNS record and its absence; killed in the middle of a look it is absent, and only that."""
    folder = make_folder(tmp_path / "agent")
    identity = make_identity(tmp_path / "ca", folder)
    task = replace(TASK, method=Method.DNS_01)
    digest = base64.urlsafe_b64encode(sha256(TASK.key_authorization.encode()).digest()).decode().rstrip("=")
    async with NameServer() as names:
        names.set("www.example.com", "A", "127.0.0.1")
        look_at_loopback(folder, names)
        async with running_process(folder) as (process, url):
            peer = peer_of(folder, FakePerspective("eu-1", "ripe"), url)
            async with open_perspectives([peer], identity) as clients:
                first = await clients[0].examine(task)
                assert first.problem is not None
                names.set("_acme-challenge.www.example.com", "TXT", f'"{digest}"')
                second = await clients[0].examine(task)
                assert (second.problem, second.perspective, second.region) == (None, "eu-1", "ripe")
                assert any(digest in answer for lookup in second.lookups for answer in lookup.answers)
                names.fail("_acme-challenge.www.example.com", Failure.TIMEOUT)
                asked = names.asked("_acme-challenge.www.example.com", "TXT")
                looking = asyncio.create_task(Corroborator(FakePerspective(), clients, grace_s=20).examine(task))
                await until(lambda: names.asked("_acme-challenge.www.example.com", "TXT") > asked)
                process.kill()
                outcome = await looking
                assert outcome.problem is not None
                assert outcome.absences[0].startswith("eu-1: ")
                with pytest.raises(PeerError) as caught:
                    await clients[0].examine(task)
                assert caught.value.reason is Reason.PEER
                assert "refused" in caught.value.message


@in_loop
async def test_process_ends_by_sigterm(tmp_path: Path) -> None:
    """SIGTERM ends an agent with exit code 0, and it says so."""
    folder = make_folder(tmp_path / "agent")
    async with NameServer() as names:
        look_at_loopback(folder, names)
        async with running_process(folder) as (process, _):
            process.send_signal(signal.SIGTERM)
            assert process.stderr is not None
            rest = await process.stderr.read()
            assert await process.wait() == 0
            assert b'"stopped"' in rest
