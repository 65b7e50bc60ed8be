"""`mtc inspect`: every artefact is recognised by itself and shown field by field."""

import base64
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mtc.cert import EntryExtension, LogEntry
from mtc.cli.demo import run_demo
from mtc.cli.inspection import inspect_file, recognise
from mtc.errors import Error, FormatError
from mtc.ids import REVISIONS, DraftRevision, TrustAnchorID, log_id
from mtc.kernel import active_kernel
from mtc.landmark import ActiveLandmarks, LandmarkSequence
from mtc.note import Checkpoint
from mtc.tiles import EntryBundle
from mtc.wire import find_pem_block

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)

# The certificate that Cloudflare published in October 2025, in a layout from before draft -04.
OLDER_CERTIFICATE = b"""-----BEGIN CERTIFICATE-----
MIICSzCCAUGgAwIBAgICAhMwDAYKKwYBBAGC2ksvADAcMRowGAYKKwYBBAGC2ksv
AQwKNDQzNjMuNDguMzAeFw0yNTEwMjExNTMzMjZaFw0yNTEwMjgxNTMzMjZaMCEx
HzAdBgNVBAMTFmNsb3VkZmxhcmVyZXNlYXJjaC5jb20wWTATBgcqhkjOPQIBBggq
hkjOPQMBBwNCAARw7eGWh7Qi7/vcqc2cXO8enqsbbdcRdHt2yDyhX5Q3RZnYgONc
JE8oRrW/hGDY/OuCWsROM5DHszZRDJJtv4gno2wwajAOBgNVHQ8BAf8EBAMCB4Aw
EwYDVR0lBAwwCgYIKwYBBQUHAwEwQwYDVR0RBDwwOoIWY2xvdWRmbGFyZXJlc2Vh
cmNoLmNvbYIgc3RhdGljLWN0LmNsb3VkZmxhcmVyZXNlYXJjaC5jb20wDAYKKwYB
BAGC2ksvAAOB9QAAAAAAAAACAAAAAAAAAAJYAOBEvgOlvWq38p45d0wWTPgG5eFV
wJMhxnmDPN1b5leJwHWzTOx1igtToMocBwwakt3HfKIjXYMO5CNDOK9DIKhmRDSV
h+or8A8WUrvqZ2ceiTZPkNQFVYlG8be2aITTVzGuK8N5MYaFnSTtzyWkXP2P9nYU
Vd1nLt/WjCUNUkjI4/75fOalMFKltcc6iaXB9ktble9wuJH8YQ9tFt456aBZSSs0
cXwqFtrHr973AZQQxGLR9QCHveii9N87NXknDvzMQ+dgWt/fBujTfuuzv3slQw80
mibA021dDCi8h1hYFQAA
-----END CERTIFICATE-----
"""


@pytest.fixture(scope="module")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files of the demonstration."""
    folder = tmp_path_factory.mktemp("demo")
    run_demo(str(folder), 64, with_cosigners=False)
    return folder


def as_json(data: bytes, name: str = "") -> dict[str, Any]:
    """Return the JSON report on an artefact, through text as a script would see it."""
    report: dict[str, Any] = json.loads(json.dumps(recognise(data, name).to_json()))
    return report


def test_landmark_relative_certificate_is_shown_whole(demo_folder: Path) -> None:
    """A certificate's draft, CA, log, entry, subtree and path are there, and the parts add up to its size."""
    der = find_pem_block((demo_folder / "landmark-relative.pem").read_bytes(), "CERTIFICATE")
    report = as_json(der)
    fields = report["fields"]
    assert report["kind"] == "certificate"
    assert fields["draft"] == "plants-07"
    assert (fields["CA ID"], fields["log ID"], fields["log number"]) == ("32473.1", "32473.1.0.1", 1)
    assert fields["extension subjectAltName (critical)"] == "shop.example.com"
    assert fields["extension extKeyUsage"] == "serverAuth"
    assert fields["proof: signatures"] == 0
    assert sum(report["part_bytes"].values()) == report["bytes"] == len(der)
    index, path = fields["entry index"], report["path"]
    assert (path[0]["start"], path[0]["end"]) == (index, index + 1)
    assert path[0]["hash"] == fields["entry hash (SHA-256)"]
    assert path[-1]["hash"] == fields["subtree hash (SHA-256)"]
    assert [step["sibling"] is None for step in path] == [False] * (len(path) - 1) + [True]


def test_path_leads_from_step_to_step(demo_folder: Path) -> None:
    """Each hash of the path is the node over the one below and its sibling, on the side that the intervals say."""
    hasher = active_kernel().hasher("sha256")
    path = as_json(find_pem_block((demo_folder / "standalone.pem").read_bytes(), "CERTIFICATE"))["path"]
    for below, above in pairwise(path):
        value, sibling = bytes.fromhex(below["hash"]), bytes.fromhex(below["sibling"])
        is_left = below["start"] == above["start"]
        node = hasher.node(value, sibling) if is_left else hasher.node(sibling, value)
        assert node.hex() == above["hash"]


def test_chain_with_properties_shows_properties_and_certificate(demo_folder: Path) -> None:
    """A PEM file with properties is one report with two parts."""
    report = as_json((demo_folder / "landmark-relative.pem").read_bytes())
    assert report["kind"] == "chain-with-properties"
    assert [part["kind"] for part in report["parts"]] == ["properties", "certificate"]
    assert report["parts"][0]["fields"]["only after negotiation"] is True


def test_ca_certificate_and_trust_store_are_recognised(demo_folder: Path) -> None:
    """The CA certificate shows its serial bounds, the trust store its CAs and trusted subtrees."""
    authority = as_json((demo_folder / "ca.pem").read_bytes())
    assert authority["kind"] == "ca-certificate"
    assert authority["fields"]["minimum serial"] == "281474976710656 (log 1, entry 0)"
    store = as_json((demo_folder / "trust.json").read_bytes())
    assert store["kind"] == "trust-store"
    assert store["parts"][0]["fields"]["policy requires"] == "32473.1"


def test_older_certificate_is_an_exhibit() -> None:
    """The certificate of October 2025 is read in its older layout, and the report says that it is never verified."""
    report = as_json(OLDER_CERTIFICATE)
    fields = report["fields"]
    assert report["kind"] == "older-certificate"
    assert (fields["CA ID"], fields["entry index"], fields["proof: subtree"]) == ("44363.48.3", 531, "[512, 600)")
    assert fields["proof: inclusion proof"] == "7 hashes"
    assert fields["subject"] == "CN=cloudflareresearch.com"
    assert [step["start"] for step in report["path"]] == [531, 530, 528, 528, 528, 512, 512, 512]
    assert "never verified" in report["notes"][0]


def test_older_certificate_with_a_proof_too_short_says_so() -> None:
    """An older certificate whose proof does not fit its subtree is shown with that note, not refused."""
    der = find_pem_block(OLDER_CERTIFICATE, "CERTIFICATE")
    report = as_json(der.replace(bytes.fromhex("0000000000000258"), bytes.fromhex("0000000000000300")))
    assert any("does not fit" in note for note in report["notes"])


@pytest.mark.parametrize("revision", REVISIONS.values(), ids=str)
def test_landmarks_file_of_each_revision_is_recognised(revision: DraftRevision) -> None:
    """Both shapes of the landmarks file are told apart by their first line."""
    sequence = LandmarkSequence.start(revision)
    for number in range(1, 4):
        sequence = sequence.allocate(
            100 * number,
            NOW - timedelta(hours=4 - number),
            max_lifetime=timedelta(days=3650),
            interval=timedelta(hours=1),
        )
    report = as_json(ActiveLandmarks.of_sequence(sequence, NOW, None if revision.landmarks_have_expiry else 3).encode())
    assert report["kind"] == "landmarks"
    assert revision.name in report["fields"]["draft"]
    assert report["fields"]["latest landmark"] == 3


def test_checkpoint_is_recognised_without_and_with_signatures() -> None:
    """A checkpoint names its log; a signature line is shown by name and key ID, not verified."""
    origin = log_id(TrustAnchorID.parse("32473.1"), 7).oid_name
    text = Checkpoint(origin, 5, bytes(32)).encode()
    report = as_json(text)
    assert (report["kind"], report["fields"]["log"]) == ("checkpoint", "log 7 of CA 32473.1")
    line = base64.b64encode(b"\x01\x02\x03\x04" + int(NOW.timestamp()).to_bytes(8, "big") + bytes(2420)).decode()
    signed = as_json(text + f"\n\u2014 oid/1.3.6.1.4.1.32473.1 {line}\n".encode())
    assert "key ID 01020304, ML-DSA-44 cosignature, 2026-11-21T12:00:00Z" in str(signed["fields"])
    assert "not verified" in signed["notes"][0]


def test_published_note_and_vkey_are_recognised(load_vectors: Callable[[str], Any]) -> None:
    """The example of the signed-note specification and its key are shown."""
    example = load_vectors("signed_notes.json")["ed25519"]
    assert as_json(example["note"].encode())["fields"]["signature of example.com/foo"].startswith("key ID 530d903a")
    assert as_json(example["vkey"].encode())["fields"]["key ID"] == "530d903a"


def test_entries_bundles_and_tiles_are_told_apart() -> None:
    """A log entry, a bundle of entries and a tile are recognised; a path adds coordinates and is held to them."""
    null, extended = LogEntry().encode(), LogEntry(extensions=(EntryExtension(0xFF01, b"abcdef"),)).encode()
    assert as_json(null)["fields"]["type"] == "0 (null_entry)"
    assert as_json(extended)["fields"]["extensions"] == "0xff01: 616263646566"
    bundle = EntryBundle((null, extended, null)).encode()
    report = as_json(bundle, "public/1/tile/entries/x001/002.p/3")
    assert report["kind"] == "entry-bundle"
    assert (report["fields"]["entries"], report["fields"]["entries from"]) == (3, 1002 * 256)
    tile = as_json(bytes(range(256)) * 32, "tile/1/000")
    assert (tile["kind"], tile["fields"]["level"], tile["fields"]["is full"]) == ("tile", 1, True)
    with pytest.raises(FormatError) as caught:
        as_json(bytes(64), "tile/0/000.p/3")
    assert "its path says 3" in caught.value.message


def test_policy_file_is_recognised(load_vectors: Callable[[str], Any]) -> None:
    """A tlog-policy file shows its logs, witnesses, groups and quorum."""
    vkey = load_vectors("signed_notes.json")["ed25519"]["vkey"]
    report = as_json(f"log {vkey} https://log.example\nquorum none\n".encode())
    assert report["kind"] == "policy"
    assert "requires no witness" in report["notes"][0]


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"", "empty"), (b"hello\n", "no known kind"), (b"\x00\x01\x02", "no known kind"), (b"{}", "trust store")],
    ids=["empty", "text", "bytes", "json"],
)
def test_unknown_bytes_are_refused_with_what_was_tried(data: bytes, expected: str) -> None:
    """A file of no known kind is refused, and the message says why it is none of them."""
    with pytest.raises(FormatError) as caught:
        recognise(data)
    assert expected in caught.value.message


def test_private_key_is_not_shown(demo_folder: Path) -> None:
    """A private key is recognised and not shown."""
    key = (demo_folder / "ca" / "signer" / "key.pem").read_bytes()
    with pytest.raises(FormatError) as caught:
        recognise(key)
    assert "private key" in caught.value.message
    assert not any(line.decode() in caught.value.message for line in key.splitlines()[1:-1])


def test_mutations_of_every_artefact_raise_only_our_errors(demo_folder: Path) -> None:
    """Whatever is done to an artefact, it is shown or refused with an error of ours."""
    for file in sorted(demo_folder.glob("*.pem")):
        data = file.read_bytes()
        der = data if b"PRIVATE" in data else find_pem_block(data, "CERTIFICATE")
        for at in range(0, len(der), max(1, len(der) // 150)):
            for changed in (der[:at], der[:at] + b"\xff" + der[at + 1 :], der[:at] + der[at + 1 :]):
                with suppress(Error):
                    assert recognise(changed).to_json()["kind"]


def test_output_for_people_and_scripts(demo_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --json tables and pictures are printed, with it one JSON object that names the file."""
    file = str(demo_folder / "landmark-relative.pem")
    assert inspect_file(file, as_json=False) == 0
    shown = capsys.readouterr().out
    assert "Path through the tree" in shown
    assert "\x1b" not in shown
    assert inspect_file(file, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["file"] == file


def test_foreign_text_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Control and direction characters of a foreign text are escaped before they are printed."""
    line = base64.b64encode(bytes(4 + 64)).decode()
    note = f"log \u202egnp.\u0085 [bold]\n\n\u2014 example.com/a {line}\n"
    (tmp_path / "note").write_bytes(note.encode())
    inspect_file(str(tmp_path / "note"), as_json=False)
    printed = capsys.readouterr().out
    assert "\u202e" not in printed
    assert "\u0085" not in printed
    assert "log \\u202egnp.\\u0085 [bold]" in printed
