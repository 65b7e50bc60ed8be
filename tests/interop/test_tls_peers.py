"""TLS between us and other people's programs: who asks how, what is sent, and whether it is acknowledged.

Each test skips where its program is not named or not installed; `docs/interop.md` says by which variables, which
versions were tried, and what Chromium does, for which `tests/test_browser.py` has the tests.
"""

import contextlib
import json
import socket
import ssl
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from hashlib import sha256
from pathlib import Path

import pytest
from tests.interop.foreign_programs import find_program, find_system_program, offline, run, running
from tests.makers import HOST, SmallCA
from tests.tls_pairs import (
    CLOCK,
    FIRST_8,
    LANDMARK,
    StoppedClock,
    classical,
    landmark,
    standalone,
    tls_ca,
    trust_classical,
)

from mtc.ca.certificates import properties_for
from mtc.ids import DEFAULT_REVISION, REVISIONS, DraftRevision, TrustAnchorID, landmark_id
from mtc.testing.anchor_server import AnchorServer, Visit
from mtc.testing.fleet import free_port
from mtc.tls import CertificationPath, ClientContext, ClientReport, Match, client_context, client_report
from mtc.trust import Form, TrustStore
from mtc.wire import PEMBlock, encode_pem

RELATIVE, STANDALONE, CLASSICAL = 0, 1, 2  # Places of the paths that every server here has.
REQUEST = "GET / HTTP/1.1\r\n\r\n"
CURL = """
import sys
from io import BytesIO
from curl_cffi import Curl, CurlOpt
host, port, ids = sys.argv[1:]
curl, body = Curl(), BytesIO()
curl.setopt(CurlOpt.URL, f"https://{host}:{port}/".encode())
curl.setopt(CurlOpt.RESOLVE, [f"{host}:{port}:127.0.0.1"])
curl.setopt(CurlOpt.SSL_VERIFYPEER, 0)
curl.setopt(CurlOpt.SSL_VERIFYHOST, 0)
curl.setopt(CurlOpt.WRITEDATA, body)
if ids != "-":
    curl.setopt(CurlOpt.TLS_TRUST_ANCHORS, ids.encode())
curl.perform()
print(body.getvalue().decode())
"""


@dataclass(frozen=True, slots=True)
class Cell:
    """What a client asks for (None for no extension, "" for an empty list), and what it must get, by which rule."""

    name: str
    asks: str | None
    sent: int
    match: Match

    @property
    def anchors(self) -> tuple[TrustAnchorID, ...]:
        """Return the IDs."""
        return tuple(TrustAnchorID.parse(item) for item in (self.asks or "").split(",") if item)


CELLS = (
    Cell("landmark-exact", f"32473.1.1.1.{LANDMARK}", RELATIVE, Match.LANDMARK),
    Cell("group", f"32473.1.2.1.{LANDMARK}", RELATIVE, Match.LANDMARK_GROUP),
    Cell("newer-group", f"32473.1.2.1.{LANDMARK + 2}", RELATIVE, Match.LANDMARK_GROUP),
    Cell("CA-ID", "32473.1", STANDALONE, Match.ID),
    Cell("none", None, CLASSICAL, Match.FALLBACK),
    Cell("stale", f"32473.1.2.1.{LANDMARK - 2}", STANDALONE, Match.GROUP),
    Cell("empty-list", "", CLASSICAL, Match.FALLBACK),
    Cell("others", "32473.77.2.1.9,32473.99", CLASSICAL, Match.FALLBACK),
    Cell("among-others", f"32473.99,32473.1.2.1.{LANDMARK},32473.77.2.1.9", RELATIVE, Match.LANDMARK_GROUP),
)
every_cell = pytest.mark.parametrize("cell", CELLS, ids=[cell.name for cell in CELLS])


def paths_of(ca: SmallCA) -> tuple[CertificationPath, CertificationPath, CertificationPath]:
    """Return the landmark-relative, the standalone and the classical path for the host."""
    return landmark(ca), standalone(ca), classical()


def store_of(ca: SmallCA) -> TrustStore:
    """Return the trust of a client that knows the landmark."""
    return ca.store(subtrees=[ca.trusted_subtree(FIRST_8.start, FIRST_8.end, landmark=LANDMARK)])


@dataclass(frozen=True, slots=True)
class Ours:
    """Our server with all three paths; whoever reads its page reads which certificate it was sent."""

    ca: SmallCA
    server: AnchorServer

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.server.port}"

    def check(self, cell: Cell, page: str) -> Visit:
        """Assert that the newest visitor asked for the cell's IDs, got its path by its rule, and read the page."""
        visit = self.server.last_visit()
        requested = None if visit.requested is None else sorted(map(str, visit.requested))
        assert requested == (None if cell.asks is None else sorted(map(str, cell.anchors)))
        assert (visit.path, visit.match, visit.error) == (cell.sent, cell.match, "")
        assert page.rstrip().endswith(self.fingerprint(cell.sent))
        return visit

    def fingerprint(self, place: int) -> str:
        """Return what the page says of a path."""
        return sha256(paths_of(self.ca)[place].certificates[0]).hexdigest()


@pytest.fixture(scope="module", params=REVISIONS.values(), ids=str)
def ours(request: pytest.FixtureRequest) -> Iterator[Ours]:
    """Run our server with certificates of each draft."""
    ca = tls_ca(request.param)
    relative, alone, fallback = paths_of(ca)
    served: list[Ours] = []
    with AnchorServer(
        (relative, alone), lambda visit: served[0].fingerprint(visit.path), fallback=fallback, clock=CLOCK
    ) as server:
        served.append(Ours(ca, server))
        yield served[0]


@cache
def context_of(revision: DraftRevision, *, sends_extension: bool) -> ClientContext:
    """Return our client, which trusts the CA of a draft with its landmark, and the classical path."""
    context = client_context(store_of(tls_ca(revision)), clock=CLOCK, sends_extension=sends_extension)
    trust_classical(context)
    return context


def our_client(cell: Cell, revision: DraftRevision, port: int) -> tuple[ClientReport, bytes]:
    """Connect with our client as a cell says; return its report and the certificate that came."""
    context = context_of(revision, sends_extension=cell.asks is not None)
    with (
        context.asking(*cell.anchors),
        socket.create_connection(("127.0.0.1", port), 20) as plain,
        context.wrap_socket(plain, server_hostname=HOST) as secured,
    ):
        report = client_report(secured)
        assert report is not None
        secured.sendall(REQUEST.encode())
        with contextlib.suppress(ConnectionResetError):
            while secured.recv(4096):
                pass
        return report, secured.getpeercert(binary_form=True) or b""


def check_verified(report: ClientReport, cell: Cell) -> None:
    """Assert that our client verified one of ours by its landmark, and left a classical one to OpenSSL."""
    if cell.sent == CLASSICAL:
        assert report.verified is None
    else:
        # Who has the landmark believes its subtree, whatever is signed beside it.
        assert report.verified is not None
        assert report.verified.form is Form.LANDMARK_RELATIVE


# Their clients, our server


@every_cell
def test_our_own_client_gets_the_same(ours: Ours, cell: Cell) -> None:
    """The table holds for our client over TCP, as for all the others."""
    report, sent = our_client(cell, ours.ca.revision, ours.server.port)
    assert sent == paths_of(ours.ca)[cell.sent].certificates[0]
    assert report.is_acknowledged is cell.match.is_acknowledged
    assert ours.server.last_visit().match is cell.match
    check_verified(report, cell)


@every_cell
def test_bssl_client_gets_the_best_path(ours: Ours, cell: Cell) -> None:
    """`bssl client -request-trust-anchors` is sent what it can verify, and reads the page."""
    program = find_program("MTC_BSSL")
    asking: list[str] = [] if cell.asks is None else ["-request-trust-anchors", cell.asks]
    ours.check(cell, talk([program, "client", "-connect", ours.address, "-server-name", HOST, *asking]))


@pytest.mark.parametrize(("later", "resumed"), [(timedelta(0), "yes"), (timedelta(days=8), "no")], ids=["same", "over"])
def test_bssl_client_resumes_until_the_leaf_ends(tmp_path: Path, later: timedelta, resumed: str) -> None:
    """A ticket of ours is taken back from BoringSSL as long as the certificate of the first handshake is valid."""
    program = find_program("MTC_BSSL")
    relative, alone, fallback = paths_of(tls_ca())
    clock = StoppedClock()
    with AnchorServer((relative, alone), str, fallback=fallback, clock=clock, resumption=True) as server:
        client: list[str | Path] = [program, "client", "-connect", f"127.0.0.1:{server.port}", "-server-name", HOST]
        client += ["-request-trust-anchors", CELLS[1].asks or ""]
        talk([*client, "-session-out", tmp_path / "session"])
        clock.moment += later
        done = subprocess.run(  # noqa: S603 - whoever runs the test chose it
            [*client, "-session-in", tmp_path / "session"], input=REQUEST, capture_output=True, text=True, check=False
        )
    assert f"Resumed session: {resumed}" in done.stderr


@every_cell
def test_boringssl_sees_the_list_and_the_acknowledgement(ours: Ours, cell: Cell) -> None:
    """What BoringSSL knows of the handshake is what our server meant: path, acknowledgement, its list of IDs."""
    program = find_program("MTC_BORINGSSL_PEER")
    seen = json.loads(run(program, "client", HOST, str(ours.server.port), "-" if cell.asks is None else cell.asks))
    leaf = bytes.fromhex(seen["leaf"])
    ours.check(cell, sha256(leaf).hexdigest())
    assert seen["acknowledged"] is cell.match.is_acknowledged
    listed = [landmark_id(ours.ca.anchor, 1, LANDMARK), ours.ca.anchor]
    wire = b"".join(bytes((len(item.binary),)) + item.binary for item in listed)
    assert seen["available"] == ("" if cell.asks is None else wire.hex())


@every_cell
def test_curl_cffi_gets_the_best_path(ours: Ours, cell: Cell) -> None:
    """curl_cffi with `TLS_TRUST_ANCHORS` is sent what it can verify, and reads the page."""
    python = find_program("MTC_CURL_CFFI_PYTHON")
    asks = "-" if cell.asks is None else cell.asks
    ours.check(cell, run(python, "-c", CURL, HOST, str(ours.server.port), asks, environment={"NO_PROXY": "*"}))


@pytest.mark.parametrize("version", ["-tls1_3", "-tls1_2"])
def test_openssl_gets_the_classical_path(ours: Ours, tmp_path: Path, version: str) -> None:
    """Plain `openssl s_client` asks for nothing and verifies the classical chain, host name included."""
    roots = write_path(tmp_path / "roots.pem", classical())
    checks = ["-CAfile", str(roots), "-verify_return_error", "-verify_hostname", HOST]
    page = talk([*s_client(ours), version, *checks, "-quiet"])
    ours.check(next(cell for cell in CELLS if cell.name == "none"), page)


def test_openssl_cannot_send_a_list(ours: Ours) -> None:
    """The only way in which `s_client` sends the extension is without a body, which is malformed and refused."""
    done = subprocess.run(  # noqa: S603 - the system's
        [*s_client(ours), "-serverinfo", str(0xCA34)], input="", capture_output=True, text=True, timeout=60, check=False
    )
    assert "alert decode error" in done.stderr
    assert ours.server.visits[-1].error == "BAD_EXTENSION"


def s_client(ours: Ours) -> list[str]:
    """Return the command line of OpenSSL's client, as far as it is always the same."""
    return [find_system_program("openssl"), "s_client", "-connect", ours.address, "-servername", HOST, "-ign_eof"]


def talk(command: Sequence[str | Path]) -> str:
    """Run a client that sends its standard input; return what it read."""
    done = subprocess.run(  # noqa: S603 - whoever runs the test chose it
        command, input=REQUEST, env=offline(), capture_output=True, text=True, timeout=60, check=False
    )
    assert not done.returncode, done.stderr[-2000:]
    return done.stdout


# Our client, their servers


def write_path(file: Path, path: CertificationPath) -> Path:
    """Write a path as PEM: its properties if it has some, its certificates, its key."""
    blocks = [PEMBlock("CERTIFICATE", der) for der in path.certificates]
    if path.trust_anchor_id is not None:
        blocks.insert(0, PEMBlock("CERTIFICATE PROPERTIES", path.properties.encode()))
    file.write_bytes(encode_pem([*blocks, PEMBlock("PRIVATE KEY", path.private_key)]))
    return file


def with_ranges(path: CertificationPath, ca: SmallCA) -> CertificationPath:
    """Return a path with the groups of its properties as ranges, as drafts before -06 wrote them."""
    number = LANDMARK if path.is_landmark_relative else None
    return replace(path, properties=properties_for(ca.anchor, 1, number, revision=REVISIONS["plants-05"]))


@contextlib.contextmanager
def boringssl(folder: Path, paths: Mapping[str, CertificationPath]) -> Iterator[int]:
    """Run a BoringSSL server with one credential for each path, in this order, and give its port."""
    program = find_program("MTC_BORINGSSL_PEER")
    files = [write_path(folder / f"{name}.pem", path) for name, path in paths.items()]
    command = [str(program), "server", *map(str, files)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603 - whoever runs the test chose it
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            line = process.stdout.readline()
            assert line, process.stderr.read()
            yield int(line)
        finally:
            process.kill()


@pytest.fixture(scope="module", params=REVISIONS.values(), ids=str)
def theirs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SmallCA, int]]:
    """Run BoringSSL's server with credentials of each draft; give the CA and the port."""
    ca = tls_ca(request.param)
    relative, alone, fallback = paths_of(ca)
    paths = {"relative": with_ranges(relative, ca), "standalone": with_ranges(alone, ca), "classical": fallback}
    with boringssl(tmp_path_factory.mktemp("boringssl"), paths) as port:
        yield ca, port


@every_cell
def test_boringssl_server_sends_us_the_best_path(theirs: tuple[SmallCA, int], cell: Cell) -> None:
    """A BoringSSL server with several credentials chooses as ours does, acknowledges, and we verify it."""
    ca, port = theirs
    report, sent = our_client(cell, ca.revision, port)
    assert sent == paths_of(ca)[cell.sent].certificates[0]
    assert report.is_acknowledged is cell.match.is_acknowledged
    listed = (landmark_id(ca.anchor, 1, LANDMARK), ca.anchor)
    assert (report.available and report.available.anchors) == (None if cell.asks is None else listed)
    check_verified(report, cell)


def test_boringssl_server_takes_the_first_that_fits(tmp_path: Path) -> None:
    """It does not prefer the landmark as we do: the order of its credentials decides, so that one must stand first."""
    ca = tls_ca()
    relative, alone, fallback = paths_of(ca)
    paths = {"standalone": with_ranges(alone, ca), "relative": with_ranges(relative, ca), "classical": fallback}
    with boringssl(tmp_path, paths) as port:
        report, sent = our_client(CELLS[1], ca.revision, port)
    assert sent == alone.certificates[0]
    assert report.is_acknowledged
    assert report.verified is not None


def test_boringssl_reads_groups_as_ranges_only(tmp_path: Path) -> None:
    """Properties of drafts -06 and -07, whose groups are patterns, make it refuse the whole path."""
    program = find_program("MTC_BORINGSSL_PEER")
    file = write_path(tmp_path / "path.pem", landmark(tls_ca(DEFAULT_REVISION)))
    done = subprocess.run([program, "server", file], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - whoever runs the test chose it
    assert done.returncode == 2
    assert "INVALID_CERTIFICATE_PROPERTY_LIST" in done.stderr


def test_we_retry_with_what_boringssl_lists(tmp_path: Path) -> None:
    """A server whose credentials know no groups sends the classical path; the retry asks for what it listed."""
    ca = tls_ca()
    relative, alone, fallback = paths_of(ca)
    plain = {
        name: replace(path, properties=replace(with_ranges(path, ca).properties, groups=()))
        for name, path in (("relative", relative), ("standalone", alone))
    }
    with boringssl(tmp_path, {**plain, "classical": fallback}) as port:
        context = client_context(store_of(ca), clock=CLOCK)
        with (
            socket.create_connection(("127.0.0.1", port), 20) as connection,
            pytest.raises(ssl.SSLCertVerificationError) as caught,
        ):
            context.wrap_socket(connection, server_hostname=HOST)
        refused = client_report(caught.value)
        assert refused is not None
        assert refused.retry == landmark_id(ca.anchor, 1, LANDMARK)
        with (
            context.asking(refused.retry),
            socket.create_connection(("127.0.0.1", port), 20) as again,
            context.wrap_socket(again, server_hostname=HOST) as secured,
        ):
            report = client_report(secured)
    assert report is not None
    assert report.is_acknowledged
    assert report.verified is not None
    assert report.verified.form is Form.LANDMARK_RELATIVE


@pytest.mark.parametrize("revision", REVISIONS.values(), ids=str)
def test_openssl_server_sends_us_what_it_has(tmp_path: Path, revision: DraftRevision) -> None:
    """`openssl s_server` chooses nothing: at security level 0 it sends the standalone path to all, and we verify it."""
    ca = tls_ca(revision)
    program = find_system_program("openssl")
    served = {CLASSICAL: classical(), STANDALONE: standalone(ca)}
    for place, path in served.items():
        file, port = write_path(tmp_path / f"{place}.pem", path), free_port()
        # The key stands in the same file; properties are none of its business, and it skips them.
        command = [program, "s_server", "-accept", f"127.0.0.1:{port}", "-cert", str(file), "-key", str(file), "-www"]
        with running(tmp_path, port, *command, "-cipher", "DEFAULT@SECLEVEL=0"):
            for cell in CELLS:
                report, sent = our_client(cell, revision, port)
                assert sent == path.certificates[0]
                assert (report.available, report.is_acknowledged) == (None, False)
                assert (report.verified is None) is (place == CLASSICAL)


def test_openssl_server_needs_security_level_0(tmp_path: Path) -> None:
    """At its usual level OpenSSL does not even load a Merkle Tree certificate."""
    file = write_path(tmp_path / "path.pem", standalone(tls_ca()))
    command = [find_system_program("openssl"), "s_server", "-accept", "127.0.0.1:0", "-cert", str(file)]
    done = subprocess.run(  # noqa: S603 - the system's
        [*command, "-key", str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "ca md too weak" in done.stderr
