"""`mtc cert upgrade`: holders make landmark-relative certificates themselves, from a folder or over HTTP."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.makers import HOST, Leaf, SmallCA, leaf_extensions

from mtc.cert import CACertificate, Certificate, encode_ca_certificate, parse_certificate_chains
from mtc.cli.log_source import open_log
from mtc.cli.output import ExitCode
from mtc.cli.upgrade import (
    Holder,
    Upgraded,
    UpgradeOptions,
    find_ca,
    parse_standalone,
    upgrade,
    upgrade_file,
    wait_for_landmark,
)
from mtc.crypto import parse_public_key
from mtc.errors import Error, FormatError, PeerError, ProofError, Reason, Rejected, SignatureError, UsageError
from mtc.ids import REVISIONS, DraftRevision, landmark_group
from mtc.landmark import ActiveLandmarks, LandmarkSequence
from mtc.merkle import Subtree, cover
from mtc.note import Checkpoint, Note, SignatureType, VerifierKey, checkpoint_message, note_signature
from mtc.tiles import TileEdge, build_bundles, build_tiles
from mtc.trust import Form, verify_certificate
from mtc.wire import PEMBlock, encode_pem

NOW = datetime.now(UTC).replace(microsecond=0)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
SIZE, SIZES = 600, (300, 520)
PLANTS_07 = REVISIONS["plants-07"]


@cache
def make_ca(revision: DraftRevision = PLANTS_07, ca_id: str = "32473.1", label: str = "entry") -> SmallCA:
    """Return a CA with a log of a few tiles; entries that live until in six days."""
    leaves = tuple(
        Leaf(
            extensions=leaf_extensions((HOST, f"{label}-{number}.example")),
            not_before=NOW - DAY,
            not_after=NOW + 6 * DAY,
        )
        for number in range(SIZE)
    )
    return SmallCA(leaves, ca_id, revision, algorithm="ml-dsa-44")


def landmarks_of(ca: SmallCA) -> LandmarkSequence:
    """Return two landmarks; they do not cover the log's last entries."""
    sequence = LandmarkSequence.start(ca.revision)
    for number, size in enumerate(SIZES):
        sequence = sequence.allocate(size, NOW - HOUR * (1 - number), max_lifetime=7 * DAY, interval=HOUR)
    return sequence


def ca_pem(ca: SmallCA) -> bytes:
    """Return the CA certificate."""
    key = ca.key(ca.ca_id)
    der = encode_ca_certificate(
        ca_id=ca.anchor,
        public_key=parse_public_key(key.public_key, key.algorithm),
        not_before=NOW - DAY,
        not_after=NOW + 365 * DAY,
        revision=ca.revision,
    )
    return encode_pem([PEMBlock("CERTIFICATE", der)])


def checkpoint(ca: SmallCA, size: int = SIZE) -> bytes:
    """Return the log's checkpoint, signed by the CA."""
    signer = ca.key(ca.ca_id)
    key = VerifierKey.from_spki(ca.anchor.oid_name, SignatureType.COSIGNATURE_MLDSA44, signer.public_key)
    value = Checkpoint(f"{ca.anchor.oid_name}.0.1", size, ca.subtree_hash(Subtree(0, size)))
    time = int(NOW.timestamp())
    raw = signer.sign_now(checkpoint_message(key, value, time))
    return Note(value.encode(), (note_signature(key, raw, time),)).encode()


def write(folder: Path, ca: SmallCA) -> Path:
    """Write what a CA serves into `public` of a folder, and return that."""
    public = folder / "public"
    entries = [entry.encode(ca.revision) for entry in ca.log_entries]
    _, tiles = build_tiles(ca.hasher, TileEdge(ca.hasher.size), ca.hasher.leaves(entries))
    limit = None if ca.revision.landmarks_have_expiry else 2
    objects = {
        "ca.pem": ca_pem(ca),
        "1/checkpoint": checkpoint(ca),
        "1/landmarks": ActiveLandmarks.of_sequence(landmarks_of(ca), NOW, limit).encode(),
        **{f"1/{tile.path}": data for tile, data in tiles.items()},
        **{f"1/{place.path}": data for place, data in build_bundles(0, b"", entries).items()},
    }
    for key, data in objects.items():
        (public / key).parent.mkdir(parents=True, exist_ok=True)
        (public / key).write_bytes(data)
    return public


def standalone(ca: SmallCA, index: int) -> bytes:
    """Return the standalone certificate of an entry, DER, as if the last 400 entries had been one round."""
    subtree = next(item for item in cover(SIZE - 400, SIZE) if item.contains(index))
    return ca.certificate(index, subtree, [ca.ca_id])


def standalone_file(folder: Path, ca: SmallCA, index: int) -> str:
    """Write the standalone certificate of an entry and return the file's name."""
    path = folder / f"standalone-{index}.pem"
    path.write_bytes(encode_pem([PEMBlock("CERTIFICATE", standalone(ca, index))]))
    return str(path)


def run_upgrade(log: str, der: bytes, landmark: int | None = None, now: datetime = NOW) -> Upgraded:
    """Upgrade one certificate as the command does."""

    async def run() -> Upgraded:
        async with open_log(log) as source:
            certificate = Certificate.parse(der)
            return await upgrade(source, Holder(certificate, await find_ca(source, None, certificate), landmark), now)

    return asyncio.run(run())


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, with a hint for caches."""

    def end_headers(self) -> None:
        """Add the hint."""
        self.send_header("Cache-Control", "public, max-age=1234")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Be quiet."""


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine; gives the URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: Handler(*args, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("revision", REVISIONS.values(), ids=str)
def test_upgraded_certificate_is_the_cas_own(tmp_path: Path, revision: DraftRevision) -> None:
    """What the holder makes is what the CA would make, and a relying party with the landmark trusts it."""
    ca = make_ca(revision)
    write(tmp_path, ca)
    landmarks = landmarks_of(ca)
    trusted = [
        ca.trusted_subtree(item.start, item.end, landmark=number, expiry=landmarks.landmarks[number].expiry)
        for number in (1, 2)
        for item in landmarks.subtrees(number)
    ]
    for index in (200, 299, 300, 511, 519):
        upgraded = run_upgrade(str(tmp_path), standalone(ca, index))
        place = landmarks.landmark_for(index)
        assert place is not None
        assert (upgraded.place, upgraded.is_verified) == (place, True)
        (der,) = upgraded.chain.certificates
        assert der == ca.certificate(index, place.subtree)
        verified = verify_certificate(der, ca.store(subtrees=trusted), NOW, name=f"entry-{index}.example")
        assert verified.form is Form.LANDMARK_RELATIVE
        properties = upgraded.chain.properties
        assert properties is not None
        assert properties.is_selected_by([landmark_group(ca.anchor, 1, place.landmark.number)])


def test_command_writes_chain_with_properties(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command writes a PEM chain to a file or to its output, and says on the side what it made."""
    ca = make_ca()
    write(tmp_path, ca)
    file = standalone_file(tmp_path, ca, 400)
    assert upgrade_file(file, UpgradeOptions(str(tmp_path))) is ExitCode.DONE
    printed = capsys.readouterr()
    (chain,) = parse_certificate_chains(printed.out.encode())
    assert "landmark 2, subtree [256, 512)" in printed.err
    assert "not verified" not in printed.err
    out = tmp_path / "out.pem"
    assert upgrade_file(file, UpgradeOptions(str(tmp_path), out=str(out), as_json=True)) is ExitCode.DONE
    answer = json.loads(capsys.readouterr().out)
    assert parse_certificate_chains(out.read_bytes()) == [chain]
    assert (answer["landmark"], answer["start"], answer["end"], answer["index"]) == (2, 256, 512, 400)
    assert answer["bytes"] == len(chain.certificates[0]) < answer["standalone_bytes"]
    assert answer["checkpoint_verified"] is True


def test_log_is_read_over_http(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a URL the same certificate comes as from a folder; the server's word tells when to come back."""
    ca = make_ca()
    public = write(tmp_path, ca)
    with serving(public) as url:
        assert run_upgrade(f"{url}/", standalone(ca, 400)) == run_upgrade(str(tmp_path), standalone(ca, 400))
        assert upgrade_file(standalone_file(tmp_path, ca, 599), UpgradeOptions(url, as_json=True)) is ExitCode.NO
        answer = json.loads(capsys.readouterr().out)
        assert (answer["upgraded"], answer["reason"]) == (False, "no-landmark")
        assert abs(answer["facts"]["next_due"] - datetime.now(UTC).timestamp() - 1234) < 60
        (public / "1" / "landmarks").write_bytes(b"1\n" + b"0" * (2 << 20))
        with pytest.raises(PeerError) as caught:
            run_upgrade(url, standalone(ca, 400))
        assert caught.value.reason is Reason.TOO_LARGE
        (public / "1" / "landmarks").unlink()
        with pytest.raises(PeerError, match="prefix URL"):
            run_upgrade(url, standalone(ca, 400))


def test_entry_behind_the_last_landmark_has_to_wait(tmp_path: Path) -> None:
    """Without a landmark the error says when to come back, as far as the landmarks' own rhythm tells."""
    ca = make_ca()
    write(tmp_path, ca)
    with pytest.raises(Rejected) as caught:
        run_upgrade(str(tmp_path), standalone(ca, 520))
    assert (caught.value.reason, caught.value.facts["next_due"]) == (Reason.NO_LANDMARK, int((NOW + HOUR).timestamp()))
    assert f"{NOW + HOUR:%Y-%m-%dT%H:%M:%SZ}" in caught.value.message


def test_landmark_can_be_chosen(tmp_path: Path) -> None:
    """A later landmark serves as well where one of its subtrees reaches back to the entry; no other one does."""
    ca = make_ca()
    write(tmp_path, ca)
    der = standalone(ca, 290)
    assert run_upgrade(str(tmp_path), der).place.landmark.number == 1
    later = run_upgrade(str(tmp_path), der, landmark=2)
    assert (later.place.landmark.number, later.place.subtree) == (2, Subtree(256, 512))
    assert later.chain.certificates == (ca.certificate(290, Subtree(256, 512)),)
    with pytest.raises(Rejected, match="not in landmark 2"):
        run_upgrade(str(tmp_path), standalone(ca, 200), landmark=2)
    with pytest.raises(Rejected, match="landmark 3 is not active"):
        run_upgrade(str(tmp_path), der, landmark=3)


def test_other_logs_and_cas_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A log with other entries, of another CA, of another draft or with another signature gives no certificate."""
    ca = make_ca()
    public = write(tmp_path, ca)
    with pytest.raises(ProofError, match="not the one of this certificate"):
        run_upgrade(str(tmp_path), standalone(make_ca(label="other"), 400))
    stranger = make_ca(ca_id="32473.2")
    with pytest.raises(Rejected) as caught:
        run_upgrade(str(tmp_path), standalone(stranger, 400))
    assert caught.value.reason is Reason.UNKNOWN_CA
    given = tmp_path / "stranger.pem"
    given.write_bytes(ca_pem(stranger))
    options = UpgradeOptions(str(tmp_path), ca=str(given))
    assert upgrade_file(standalone_file(tmp_path, ca, 400), options) is ExitCode.NO
    assert "unknown-ca" in capsys.readouterr().err
    (public / "ca.pem").write_bytes(ca_pem(make_ca(REVISIONS["plants-06"])))
    with pytest.raises(Rejected) as caught:
        run_upgrade(str(tmp_path), standalone(ca, 400))
    assert caught.value.reason is Reason.DRAFT_MISMATCH
    (public / "ca.pem").write_bytes(ca_pem(ca))
    note = bytearray((public / "1" / "checkpoint").read_bytes())
    note[-40] = ord("A") if note[-40] != ord("A") else ord("B")
    (public / "1" / "checkpoint").write_bytes(note)
    with pytest.raises(SignatureError):
        run_upgrade(str(tmp_path), standalone(ca, 400))
    (public / "ca.pem").unlink()
    (public / "1" / "checkpoint").write_bytes(checkpoint(stranger))
    with pytest.raises(Rejected) as caught:
        run_upgrade(str(tmp_path), standalone(ca, 400))
    assert caught.value.reason is Reason.UNKNOWN_ORIGIN


def test_unverified_checkpoint_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a CA certificate the command works and says that nobody vouches for the checkpoint; --ca mends it."""
    ca = make_ca()
    (write(tmp_path, ca) / "ca.pem").unlink()
    file = standalone_file(tmp_path, ca, 400)
    assert upgrade_file(file, UpgradeOptions(str(tmp_path))) is ExitCode.DONE
    assert "not verified" in capsys.readouterr().err
    given = tmp_path / "ca.pem"
    given.write_bytes(ca_pem(ca))
    assert upgrade_file(file, UpgradeOptions(str(tmp_path), ca=str(given))) is ExitCode.DONE
    assert "not verified" not in capsys.readouterr().err


def test_expired_pruned_and_stale_are_told_apart(tmp_path: Path) -> None:
    """An expired certificate or landmark, a pruned log, a broken tile and a checkpoint that is behind: each says so."""
    ca = make_ca()
    public = write(tmp_path, ca)
    der = standalone(ca, 290)
    with pytest.raises(Rejected, match="the certificate expired"):
        run_upgrade(str(tmp_path), der, now=NOW + 6 * DAY + timedelta(seconds=1))
    old = LandmarkSequence.start().allocate(300, NOW - 9 * DAY, max_lifetime=7 * DAY, interval=HOUR)
    (public / "1" / "landmarks").write_bytes(ActiveLandmarks.of_sequence(old, NOW).encode())
    with pytest.raises(Rejected) as caught:
        run_upgrade(str(tmp_path), der)
    assert caught.value.reason is Reason.EXPIRED
    write(tmp_path, ca)
    tile = public / "1" / "tile" / "0" / "001"
    data = tile.read_bytes()
    tile.write_bytes(bytes((data[0] ^ 1,)) + data[1:])
    with pytest.raises(ProofError):
        run_upgrade(str(tmp_path), der)
    tile.unlink()
    with pytest.raises(PeerError) as gone:
        run_upgrade(str(tmp_path), der)
    assert (gone.value.reason, gone.value.facts["tile"]) == (Reason.PRUNED, "tile/0/001")
    (public / "1" / "checkpoint").write_bytes(checkpoint(ca, 500))
    with pytest.raises(PeerError, match="a cache is behind"):
        run_upgrade(str(tmp_path), der)


def test_waiting_ends_with_the_landmark_or_a_reason() -> None:
    """The wait lasts as long as was said, at most a minute a time; a log that was never there is not waited for."""

    def story(*answers: Error | Upgraded) -> tuple[list[float], Callable[[], object]]:
        pauses: list[float] = []
        left = list(answers)

        async def attempt() -> Upgraded:
            answer = left.pop(0)
            if isinstance(answer, Error):
                raise answer
            return answer

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)

        def run() -> object:
            return asyncio.run(wait_for_landmark(attempt, lambda: NOW, sleep, said.append))

        return pauses, run

    said: list[str] = []
    ca = make_ca()
    place = landmarks_of(ca).landmark_for(0)
    assert place is not None
    made = Upgraded(parse_certificate_chains(ca_pem(ca))[0], place, is_verified=True)
    now = int(NOW.timestamp())
    away = PeerError(Reason.PEER, "away")
    waits = [Rejected(Reason.NO_LANDMARK, "not yet", next_due=now + left) for left in (-5, 20, 5000)]
    unknown = Rejected(Reason.NO_LANDMARK, "not yet")
    pauses, run = story(*waits, away, unknown, made)
    assert run() is made
    assert pauses == [1, 20, 60, 60, 60]
    assert said == ["not yet", "not yet", "not yet", "away", "not yet"]
    for answers in (
        [away],
        [unknown, Rejected(Reason.EXPIRED, "too late")],
        [unknown, PeerError(Reason.PRUNED, "gone")],
    ):
        with pytest.raises(Error) as caught:
            story(*answers)[1]()
        assert caught.value is answers[-1]


def test_bad_input_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is missing is a usage error, what cannot be understood gives exit code 1, and nothing is made by the way."""
    ca = make_ca()
    public = write(tmp_path, ca)
    file = standalone_file(tmp_path, ca, 400)
    with pytest.raises(UsageError, match="neither a folder nor a URL"):
        upgrade_file(file, UpgradeOptions(str(tmp_path / "none")))
    assert not (tmp_path / "none").exists()
    with pytest.raises(UsageError, match="cannot be read"):
        upgrade_file(str(tmp_path / "none"), UpgradeOptions(str(tmp_path)))
    with pytest.raises(UsageError, match=r"checkpoint: "):
        upgrade_file(file, UpgradeOptions(str(tmp_path), ca=str(public / "1" / "checkpoint")))
    broken = tmp_path / "broken.pem"
    broken.write_bytes(b"nothing")
    assert upgrade_file(str(broken), UpgradeOptions(str(tmp_path))) is ExitCode.NO
    assert "broken.pem: the file holds no certificate" in capsys.readouterr().err
    with pytest.raises(FormatError):
        parse_standalone(b"")
    assert parse_standalone(standalone(ca, 400)).index == 400
    assert CACertificate.parse(parse_certificate_chains(ca_pem(ca))[0].certificates[0]).ca_id == ca.anchor
