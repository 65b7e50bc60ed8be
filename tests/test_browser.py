"""Chromium and our certificates: what a fresh profile holds, what the browser makes of it, and what its net log says.

One test starts two CAs, a mirror and Chromium, once, and looks at everything; without Chromium it is skipped.
"""

import asyncio
import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from tests.makers import HOST as MADE_FOR
from tests.makers import Leaf, SmallCA, leaf_extensions
from typer.testing import CliRunner

from mtc.cert import Certificate, CertificateChain, PropertyList
from mtc.cli.app import app
from mtc.cli.demo_browser import CA_ID, MIRROR_ID, OTHER_CA_ID, run_browser
from mtc.errors import FormatError, Reason, UsageError
from mtc.ids import REVISIONS, TrustAnchorRange
from mtc.testing.anchor_server import AnchorServer, Visit
from mtc.testing.chromium import PACKAGE, find_chromium, open_browser
from mtc.testing.chromium_netlog import read_verdicts
from mtc.testing.chromium_profile import (
    COMPONENT_FILES,
    Message,
    encode_config,
    encode_landmarks,
    write_components,
)
from mtc.testing.chromium_visits import HOST, Case, Outcome, Visited, judge_visits, visit_all
from mtc.tls import CertificationPath, Match

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
MLDSA_CA = SmallCA(algorithm="ml-dsa-44", cosigners={"32473.9.1": "ml-dsa-44", "32473.9.2": "ml-dsa-65"})
Fields = list[tuple[int, int | bytes]]
FIELD_NUMBERS = st.integers(1, (1 << 29) - 1)
WRONG = ("corrupted-proof", "unknown-landmark", "missing-mirror")
Outcomes = Mapping[str, Outcome]


def _require_browser() -> None:
    """Skip where there is no browser."""
    if find_chromium() is None:
        pytest.skip(f"{PACKAGE} is not installed (Debian: apt install {PACKAGE})")


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a base-128 number and where it ends; another reader than the code has."""
    end = next(place for place in range(at, len(data)) if data[place] < 0x80) + 1
    return sum((byte & 0x7F) << 7 * place for place, byte in enumerate(data[at:end])), end


def _read_fields(data: bytes) -> Fields:
    """Return the fields of a protocol buffer, messages as bytes."""
    fields: Fields = []
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        number, at = _read_varint(data, at)
        if tag & 7 == 0:
            fields.append((tag >> 3, number))
        else:
            assert tag & 7 == 2
            fields.append((tag >> 3, data[at : at + number]))
            assert at + number <= len(data)
            at += number
    return fields


def _submessages(data: bytes, number: int) -> Iterator[Fields]:
    """Yield the messages in fields of a number."""
    for found, value in _read_fields(data):
        if found == number:
            assert isinstance(value, bytes)
            yield _read_fields(value)


# The format


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        (Message.of((1, 150)), "089601"),
        (Message.of((2, "testing")), "120774657374696e67"),
        (Message.of((3, Message.of((1, 150)))), "1a03089601"),
        (Message.of(), ""),
    ],
)
def test_messages_are_written_as_the_documentation_shows(message: Message, wire: str) -> None:
    """The examples of the page "Encoding" of Protocol Buffers come out byte for byte."""
    assert message.encode().hex() == wire


@given(st.lists(st.tuples(FIELD_NUMBERS, st.integers(0, (1 << 64) - 1) | st.binary(max_size=300))))
def test_another_reader_reads_what_was_written(fields: Fields) -> None:
    """Every field comes back with its number and value, in order."""
    assert _read_fields(Message(tuple(fields)).encode()) == fields


def test_a_negative_number_is_refused() -> None:
    """A varint here is unsigned; an endless loop would follow otherwise."""
    with pytest.raises(UsageError) as caught:
        Message.of((1, -1)).encode()
    assert caught.value.reason is Reason.BAD_NUMBER


# What a profile holds


def test_configuration_tells_ca_and_mirrors_apart() -> None:
    """The CA cosigner is a CA (type 1), all others are mirrors (type 2), each with its key and algorithm."""
    trusted = MLDSA_CA.trusted_ca()
    (signers,) = _submessages(encode_config([trusted], NOW), 1)
    by_kind: dict[int, list[dict[int, int | bytes]]] = {4: [], 5: [], 6: []}
    for number, value in signers:
        if isinstance(value, bytes) and number in by_kind:
            by_kind[number].append(dict(_read_fields(value)))
    (ca,) = by_kind[5]
    assert (ca[2], ca[7], ca[5], ca[14]) == (b"32473.1", 1, MLDSA_CA.key("32473.1").public_key, 1)
    assert [(mirror[2], mirror[7], mirror[14]) for mirror in by_kind[6]] == [
        (b"32473.9.1", 2, 1),
        (b"32473.9.2", 2, 2),
    ]


def test_mirrors_have_another_operator_than_the_ca() -> None:
    """The browser does not count a mirror of the CA's own operator, and each operator is in the list of operators."""
    (signers,) = _submessages(encode_config([MLDSA_CA.trusted_ca()], NOW), 1)
    listed = [dict(_read_fields(value))[1] for number, value in signers if number == 4 and isinstance(value, bytes)]
    used = {}
    for number, value in signers:
        if number in (5, 6) and isinstance(value, bytes):
            (operator,) = _submessages(value, 4)
            used[number] = dict(operator)[1]
    assert used[5] != used[6]
    assert set(used.values()) == set(listed)


def test_other_algorithms_than_ml_dsa_are_refused() -> None:
    """A cosigner that the browser cannot verify is an error that names it."""
    with pytest.raises(UsageError) as caught:
        encode_config([SmallCA().trusted_ca()], NOW)
    assert caught.value.reason is Reason.UNSUPPORTED
    assert "32473.1 signs with ed25519" in caught.value.message


def test_landmarks_are_written_by_log_with_their_range() -> None:
    """Each log has its lowest and highest landmark, and start, end and hash of each subtree; a CA without has none."""
    subtrees = (MLDSA_CA.trusted_subtree(0, 8, landmark=3), MLDSA_CA.trusted_subtree(8, 13, landmark=4))
    trusted = MLDSA_CA.trusted_ca(subtrees=subtrees)
    data = encode_landmarks([trusted], NOW)
    assert _read_fields(data)[0] == (1, int(NOW.timestamp()))
    (ca,) = _submessages(data, 2)
    assert ca[0] == (5, MLDSA_CA.anchor.binary)
    ((_, log),) = ca[1:]
    assert isinstance(log, bytes)
    assert _read_fields(log)[0] == (1, 1)
    assert list(_submessages(log, 2)) == [[(2, 3), (3, 4)]]
    hashes = [subtree.subtree_hash for subtree in subtrees]
    assert list(_submessages(log, 3)) == [[(1, 0), (2, 8), (3, hashes[0])], [(1, 8), (2, 13), (3, hashes[1])]]
    assert len(_read_fields(encode_landmarks([MLDSA_CA.trusted_ca()], NOW))) == 1


def test_a_subtree_without_landmark_is_refused() -> None:
    """Browsers ask for landmarks, so a subtree that belongs to none would never be used."""
    trusted = MLDSA_CA.trusted_ca(subtrees=[MLDSA_CA.trusted_subtree(0, 8)])
    with pytest.raises(UsageError):
        encode_landmarks([trusted], NOW)


def test_components_have_manifests(tmp_path: Path) -> None:
    """Each component folder has a manifest whose version is the folder's name."""
    write_components(tmp_path, MLDSA_CA.store(), NOW)
    for file in COMPONENT_FILES:
        path = tmp_path / file
        assert path.stat().st_size
        manifest = json.loads((path.parent / "manifest.json").read_text("utf-8"))
        assert manifest["version"] == path.parent.name


# The server


def _paths_now() -> tuple[SmallCA, tuple[CertificationPath, ...]]:
    """Return a CA that browsers know, and both paths of a certificate for the host that is valid today."""
    today = datetime.now(UTC).replace(microsecond=0)
    leaf = Leaf(
        not_before=today - timedelta(hours=1),
        not_after=today + timedelta(days=1),
        extensions=leaf_extensions((HOST, MADE_FOR)),
    )
    small = SmallCA(
        leaves=(leaf,),
        revision=REVISIONS["plants-05"],
        algorithm="ml-dsa-44",
        cosigners={"32473.9.1": "ml-dsa-44"},
    )
    key = ec.derive_private_key(8, ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    properties = PropertyList(small.anchor, (TrustAnchorRange(small.anchor.child(2, 1), 0, 9),))
    signers: tuple[tuple[str, ...], ...] = ((), (small.ca_id, "32473.9.1"))
    chains = [CertificateChain(properties, (small.certificate(0, cosigners=names),)) for names in signers]
    return small, tuple(CertificationPath.build(chain, key) for chain in chains)


def test_server_tells_what_a_visitor_without_the_extension_got() -> None:
    """Who asks for nothing gets the standalone path, unacknowledged, and the page made for this visit."""
    _, paths = _paths_now()
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    with AnchorServer(paths, lambda visit: f"path {visit.path}") as server:
        with (
            socket.create_connection(("127.0.0.1", server.port), 10) as plain,
            client.wrap_socket(plain, server_hostname=MADE_FOR) as secured,
        ):
            assert secured.getpeercert(binary_form=True) == paths[1].certificates[0]
            secured.sendall(b"GET / HTTP/1.1\r\n\r\n")
            answer = b"".join(iter(lambda: secured.recv(4096), b""))
        assert answer.endswith(b"\r\n\r\npath 1")
        assert server.last_visit() == Visit(None, 1, Match.FALLBACK)


# The net log


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"constants": {"logEventTypes": {}}}'])
def test_a_net_log_that_is_cut_off_is_refused(tmp_path: Path, text: str) -> None:
    """What a killed browser leaves is no evidence."""
    file = tmp_path / "net-log.json"
    file.write_text(text, "utf-8")
    with pytest.raises(FormatError) as caught:
        read_verdicts(file)
    assert caught.value.reason is Reason.BAD_DOCUMENT


# The browser


def loads_a_page_over_a_landmark_relative_certificate(outcomes: Outcomes) -> None:
    """The browser asks for its landmark group, gets a certificate without signatures, and says that it is secure."""
    outcome = outcomes["landmark-relative"]
    assert outcome.page.is_secure
    assert outcome.page.protocol == "TLS 1.3"
    assert outcome.visit.match is Match.LANDMARK_GROUP
    certificate = Certificate.parse(outcome.page.certificate)
    assert not certificate.proof.signatures
    assert outcome.verdict.note("trusted_subtree_hash") == outcome.verdict.note("expected_subtree_hash")


def loads_a_page_over_a_standalone_certificate(outcomes: Outcomes) -> None:
    """A landmark that is newer than the browser's is not sent; both cosignatures of the other form count."""
    outcome = outcomes["standalone"]
    assert outcome.page.is_secure
    assert (outcome.visit.path, outcome.visit.match) == (1, Match.GROUP)
    assert len(Certificate.parse(outcome.page.certificate).proof.signatures) == 2
    assert "VerifyMTC: CA signature valid" in outcome.verdict.notes
    assert outcome.verdict.cosigners == ((str(MIRROR_ID), "satisfies policy"),)
    assert outcome.verdict.policy == "mirror policy satisfied"


def asks_by_ca_id_where_it_has_no_landmarks(outcomes: Outcomes) -> None:
    """It names the newest landmark group of one CA and the ID of the other, in every ClientHello."""
    for outcome in outcomes.values():
        group, other = outcome.visit.requested or ()
        assert str(group).rpartition(".")[0] == f"{CA_ID}.2.1"
        assert other == OTHER_CA_ID
    outcome = outcomes["ca-id"]
    assert outcome.page.is_secure
    assert (outcome.visit.path, outcome.visit.match) == (1, Match.ID)
    assert Certificate.parse(outcome.page.certificate).ca_id == OTHER_CA_ID
    assert outcome.verdict.policy == "mirror policy satisfied"


def refuses_what_is_wrong(outcomes: Outcomes) -> None:
    """The pages are not loaded, and the browser's verifier, not only its page, says no."""
    for name in WRONG:
        outcome = outcomes[name]
        assert outcome.page.error == "net::ERR_CERT_AUTHORITY_INVALID"
        assert outcome.page.security_state == "insecure-broken"
        assert outcome.verdict.net_error == -202
        assert outcome.visit.error == "SSLV3_ALERT_CERTIFICATE_UNKNOWN"


def has_a_reason_for_each_refusal(outcomes: Outcomes) -> None:
    """Another hash for a known subtree; no such subtree and no signatures; the CA's signature alone."""
    corrupted, unknown, missing = (outcomes[name].verdict for name in WRONG)
    known = outcomes["landmark-relative"].verdict
    assert corrupted.note("trusted_subtree_hash") == known.note("trusted_subtree_hash")
    assert corrupted.note("expected_subtree_hash") != known.note("expected_subtree_hash")
    assert (unknown.note("trusted_subtree_hash"), unknown.policy) == ("not found", "")
    assert "VerifyMTC: CA signature valid" in missing.notes
    assert (missing.policy, missing.cosigners) == ("policy not satisfied", ())


def leaves_screenshots(outcomes: Outcomes) -> None:
    """Every page has left a picture, and what was loaded looks different each time."""
    pictures = {name: outcome.screenshot.read_bytes() for name, outcome in outcomes.items()}
    assert all(picture.startswith(b"\x89PNG\r\n") and len(picture) > 5000 for picture in pictures.values())
    assert len({picture for name, picture in pictures.items() if name not in WRONG}) == len(pictures) - len(WRONG)


def leaves_no_process(outcomes: Outcomes) -> None:
    """Nothing runs any more that was started in the folder: browser or signers."""
    assert not _processes_of(outcomes["standalone"].screenshot.parents[1])


FACTS = (
    loads_a_page_over_a_landmark_relative_certificate,
    loads_a_page_over_a_standalone_certificate,
    asks_by_ca_id_where_it_has_no_landmarks,
    refuses_what_is_wrong,
    has_a_reason_for_each_refusal,
    leaves_screenshots,
    leaves_no_process,
)


def test_browser_loads_and_refuses_what_it_must(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """One browser visits every server of `mtc demo browser`; whatever is said of that is one of the facts above."""
    _require_browser()
    outcomes = {outcome.name: outcome for outcome in run_browser(str(tmp_path))}
    for fact in FACTS:
        with subtests.test(fact.__name__):
            fact(outcomes)


@pytest.mark.slow
def test_browser_speaks_draft_04_as_well(tmp_path: Path) -> None:
    """Certificates of drafts -04 and -05 have the same bytes; the whole story holds for a CA of -04."""
    _require_browser()
    assert all(outcome.is_right for outcome in run_browser(str(tmp_path), "plants-04"))


@pytest.mark.slow
def test_browser_without_the_extension_gets_the_standalone_certificate(tmp_path: Path) -> None:
    """It asks for nothing, so the landmark that it has is never used; it believes the standalone one, sent unasked."""
    _require_browser()
    small, paths = _paths_now()

    async def visit() -> list[Visited]:
        store = small.store(subtrees=[small.trusted_subtree(0, 1, landmark=3)])
        now = datetime.now(UTC)
        async with open_browser(tmp_path, store, {HOST: "127.0.0.1"}, now, is_asking=False) as browser:
            return await visit_all(browser, [Case("silent", "both", paths, must_load=True)], tmp_path)

    (outcome,) = judge_visits(asyncio.run(visit()), tmp_path)
    assert outcome.is_right
    assert outcome.visit == Visit(None, 1, Match.FALLBACK)


@pytest.mark.slow
def test_an_error_ends_the_browser_and_keeps_its_type(tmp_path: Path) -> None:
    """What is raised while the browser runs comes out as it is, and no process is left."""
    _require_browser()

    async def fail() -> None:
        async with open_browser(tmp_path, MLDSA_CA.store(), {HOST: "127.0.0.1"}, datetime.now(UTC)):
            raise FormatError(Reason.TRUNCATED, "as it is")

    with pytest.raises(FormatError, match="as it is"):
        asyncio.run(fail())
    assert not _processes_of(tmp_path)


def _processes_of(folder: Path) -> list[Path]:
    """Return who runs and was called with something in a folder."""
    return [entry for entry in Path("/proc").glob("[0-9]*") if str(folder).encode() in _command_line(entry)]


def _command_line(process: Path) -> bytes:
    """Return how a process was called; it may be gone by now."""
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def test_without_a_browser_the_demonstration_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is started, and the message names the package."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError) as caught:
        run_browser(str(tmp_path))
    assert "apt install chromium" in caught.value.message
    assert not (tmp_path / "browser").exists()


def test_only_drafts_that_browsers_speak_are_offered(tmp_path: Path) -> None:
    """A CA of another draft would be refused for nothing; the error names the drafts."""
    with pytest.raises(UsageError) as caught:
        run_browser(str(tmp_path), "plants-07")
    assert "plants-05, plants-04" in caught.value.message


def test_the_command_exists() -> None:
    """`mtc demo browser` explains itself."""
    shown = CliRunner().invoke(app, ["demo", "browser", "--help"])
    assert shown.exit_code == 0
    assert "Chromium" in shown.stdout
    assert HOST.endswith("mtc-example.com")
