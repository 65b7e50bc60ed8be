"""`mtc verify`, `mtc trust` and `mtc --version`: answers, exit codes and JSON lines, and never a traceback."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from tests import commands
from tests.certificates import Parts
from tests.judging import CA, FIRST_8, WITNESS, small_ca
from tests.makers import HOST, NOT_AFTER, NOT_BEFORE, NOW, Leaf, SmallCA, certify, make_key, policy

from mtc import __version__
from mtc.cert import CACertificate, CertificateChain, PropertyList, encode_ca_certificate, encode_name
from mtc.crypto import parse_public_key
from mtc.ids import REVISIONS, TrustAnchorID
from mtc.kernel import is_native_built
from mtc.trust import TRUST_STORE_SCHEMA, TrustStore, format_trust_store, parse_trust_store
from mtc.wire import PEMBlock, encode_pem

LoadVectors = Callable[[str], Any]
AT = NOW.isoformat()
KEYS = ["file", "valid", "form", "ca", "log", "index", "reason", "message"]
KERNELS = ["python", "native"] if is_native_built() else ["python"]


class Ran(commands.Ran):
    """What a run of `mtc` left behind, with the JSON that it promises."""

    __slots__ = ()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The JSON objects of the output, one a line; their keys stand in the promised order."""
        assert all(list(item) == KEYS for item in self.objects)
        return self.objects

    @property
    def verdicts(self) -> list[tuple[bool, str | None]]:
        """Validity, and form or reason, of each JSON line."""
        return [(item["valid"], item["form"] or item["reason"]) for item in self.lines]


Run = Callable[..., Ran]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs `mtc` in this process."""
    program = commands.run_program(monkeypatch, capfd)

    def run(*arguments: str | Path) -> Ran:
        ran = program(*arguments)
        return Ran(ran.code, ran.out, ran.err)

    return run


def spawn(*arguments: str | Path | bytes, stdin: bytes = b"", environment: Mapping[str, str] | None = None) -> Ran:
    """Run `mtc` as a process of its own."""
    command: Sequence[str | Path | bytes] = (Path(sys.executable).with_name("mtc"), *arguments)
    done = subprocess.run(  # noqa: S603 - our own program
        command, input=stdin, capture_output=True, check=False, timeout=60, env={**os.environ, **(environment or {})}
    )
    ran = Ran(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))
    assert "Traceback" not in ran.err
    assert "Exception ignored" not in ran.err
    assert "defect in mtc" not in ran.err
    return ran


def pem(der: bytes, label: str = "CERTIFICATE") -> bytes:
    """Return a PEM file with one block."""
    return encode_pem([PEMBlock(label, der)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with certificates, good and bad, and trust stores."""
    folder = tmp_path_factory.mktemp("mtc")
    ca = small_ca()
    landmark, standalone = ca.certificate(3, FIRST_8), ca.certificate(10, cosigners=[CA, WITNESS])
    broken = bytearray(landmark)
    broken[-30] ^= 1
    files = {
        "trust.json": format_trust_store(TrustStore([ca.trusted_ca(subtrees=[ca.trusted_subtree(0, 8)])])),
        "strict.json": format_trust_store(TrustStore([ca.trusted_ca(policy=policy(CA, "32473.9.2"))])),
        "nobody.json": b'{"version": 1, "cas": []}',
        "empty.json": b"",
        "mistyped.json": b'{"version": 1, "cas": [{"id": "32473.1", "cosigners": [], "polcy": {}, "policy": {}}]}',
        "landmark.pem": pem(landmark),
        "landmark.der": landmark,
        "standalone.pem": pem(standalone),
        "broken.pem": pem(bytes(broken)),
        "cut.der": landmark[:-1],
        "empty.pem": b"",
        "text.pem": b"no certificate at all\n",
        "key.pem": pem(b"\x30\x00", "PRIVATE KEY"),
        "log-0.pem": pem(replace(ca.parts(3), serial=b"\x02\x01\x05").encode()),
        "ordinary.pem": pem(Parts(issuer=encode_name(CN="Example")).encode()),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def verify(run: Run, folder: Path) -> Run:
    """Return a function that verifies files of the folder as JSON, at the time of the tests, with the usual store."""

    def verify(*files: str, trust: str = "trust.json", at: str | None = AT, name: str | None = None) -> Ran:
        options = ["--trust", folder / trust, "--json"]
        if at is not None:
            options += ["--at", at]
        if name is not None:
            options += ["--name", name]
        return run("verify", *options, *(folder / file for file in files))

    return verify


def test_json_lines_hold_the_promised_facts(verify: Run, folder: Path) -> None:
    """Each line holds exactly file, valid, form, ca, log, index, reason and message, in this order."""
    ran = verify("landmark.pem", "standalone.pem", "broken.pem", name=HOST)
    assert ran.code == 1
    assert ran.err == ""
    assert ran.lines == [
        dict(zip(KEYS, (str(folder / "landmark.pem"), True, "landmark-relative", CA, 1, 3, None, None), strict=True)),
        dict(zip(KEYS, (str(folder / "standalone.pem"), True, "standalone", CA, 1, 10, None, None), strict=True)),
        dict(
            zip(
                KEYS,
                (
                    str(folder / "broken.pem"),
                    False,
                    None,
                    CA,
                    1,
                    3,
                    "trusted-subtree-mismatch",
                    ran.lines[2]["message"],
                ),
                strict=True,
            )
        ),
    ]
    assert "[0, 8)" in ran.lines[2]["message"]


def test_exit_codes_say_yes_and_no(verify: Run) -> None:
    """All valid is 0, any invalid is 1, in any order."""
    assert verify("landmark.pem", "standalone.pem").code == 0
    assert verify("broken.pem", "landmark.pem").code == 1
    assert verify("landmark.pem", "broken.pem").code == 1


def test_an_unreadable_file_does_not_stop_the_others(verify: Run, folder: Path) -> None:
    """A file that cannot be opened is reported, the others are judged, and the exit code is 2 at the end."""
    ran = verify("landmark.pem", "missing.pem", "broken.pem", "standalone.pem")
    assert ran.code == 2
    assert ran.verdicts == [
        (True, "landmark-relative"),
        (False, "unreadable"),
        (False, "trusted-subtree-mismatch"),
        (True, "standalone"),
    ]
    missing = ran.lines[1]
    assert missing["file"] == str(folder / "missing.pem")
    assert all(missing[name] is None for name in ("form", "ca", "log", "index"))
    assert "no such file" in missing["message"]
    assert verify("broken.pem", "missing.pem").code == 2


def test_a_folder_is_no_file(verify: Run) -> None:
    """A folder in the place of a certificate cannot be read."""
    ran = verify(".", "landmark.pem")
    assert ran.code == 2
    assert ran.verdicts == [(False, "unreadable"), (True, "landmark-relative")]


def test_without_a_name_for_people_too(run: Run, folder: Path) -> None:
    """Without --json each certificate has a line of text; what cannot be read is told on standard error."""
    ran = run(
        "verify",
        "--trust",
        folder / "trust.json",
        "--at",
        AT,
        folder / "landmark.pem",
        folder / "nothing",
        folder / "broken.pem",
    )
    assert ran.code == 2
    valid, invalid = ran.out.splitlines()
    assert valid.startswith("valid")
    assert "landmark-relative, CA 32473.1, log 1, entry 3" in valid
    assert invalid.startswith("invalid")
    assert "trusted-subtree-mismatch" in invalid
    assert ran.err.startswith("mtc: ")
    assert "nothing" in ran.err


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("cut.der", "truncated"),
        ("empty.pem", "truncated"),
        ("text.pem", "bad-tag"),
        ("key.pem", "bad-pem"),
        ("trust.json", "bad-tag"),
    ],
)
def test_what_is_no_certificate_is_invalid(verify: Run, file: str, reason: str) -> None:
    """An unparsable certificate is invalid with its reason; nothing is known of it."""
    ran = verify(file)
    assert ran.code == 1
    (line,) = ran.lines
    assert (line["valid"], line["reason"]) == (False, reason)
    assert [line[name] for name in ("form", "ca", "log", "index")] == [None] * 4
    assert line["message"]


def test_facts_are_told_as_far_as_they_are_known(verify: Run) -> None:
    """A CA that is not trusted is named all the same; a serial number of no log has neither log nor index."""
    (line,) = verify("landmark.pem", trust="nobody.json").lines
    assert [line[name] for name in ("ca", "log", "index", "reason")] == [CA, 1, 3, "unknown-ca"]
    (line,) = verify("log-0.pem").lines
    assert [line[name] for name in ("ca", "log", "index", "reason")] == [CA, None, None, "log-number-zero"]
    (line,) = verify("ordinary.pem").lines
    assert [line[name] for name in ("ca", "log", "index", "reason")] == [None, None, None, "unknown-ca"]


def test_the_first_certificate_of_a_pem_file_counts(verify: Run, folder: Path) -> None:
    """Text, properties and a key may stand before it; what follows is not looked at, be it garbage."""
    ca = small_ca()
    good, bad = ca.certificate(3, FIRST_8), ca.certificate(9)
    garbage = b"-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n-----BEGIN X"
    chain = CertificateChain(PropertyList(TrustAnchorID.parse(CA)), (good, bad)).encode()
    for name, data, expected in (
        ("first", pem(good) + pem(bad), (True, "landmark-relative")),
        ("second", pem(bad) + pem(good), (False, "policy-not-met")),
        ("garbage", pem(good) + garbage, (True, "landmark-relative")),
        ("garbage first", garbage + pem(good), (False, "bad-base64")),
        ("properties", chain, (True, "landmark-relative")),
        ("key", pem(b"key", "PRIVATE KEY") + pem(good), (True, "landmark-relative")),
        ("text", b"subject=www\n\n" + pem(good), (True, "landmark-relative")),
        ("crlf", pem(good).replace(b"\n", b"\r\n"), (True, "landmark-relative")),
    ):
        (folder / name).write_bytes(data)
        assert verify(name).verdicts == [expected]


def test_der_is_read_like_pem(verify: Run) -> None:
    """A file without PEM is DER."""
    assert verify("landmark.der").verdicts == [(True, "landmark-relative")]


def test_pem_inside_of_der_is_not_the_certificate(verify: Run, folder: Path) -> None:
    """A DER certificate that quotes the PEM of a good one is judged itself: it is what a server would send."""
    good = pem(small_ca().certificate(3, FIRST_8)).decode()
    stranger = SmallCA((Leaf(subject=encode_name(CN=f"\n{good}")),), ca_id="32473.66")
    (folder / "quoting.der").write_bytes(stranger.certificate(0, cosigners=["32473.66"]))
    (line,) = verify("quoting.der").lines
    assert (line["valid"], line["reason"], line["ca"]) == (False, "unknown-ca", "32473.66")


def test_names_are_matched_on_request(verify: Run) -> None:
    """--name takes a host name or an address; another one is the answer no."""
    assert verify("landmark.pem", name=HOST.upper()).code == 0
    for name in ("other.example.com", "192.0.2.1", "2001:db8::1"):
        ran = verify("landmark.pem", name=name)
        assert ran.code == 1
        assert ran.verdicts == [(False, "name-mismatch")]


@pytest.mark.parametrize("name", ["", "*.example.com", "https://www.example.com", "b\xfccher.example", "a b"])
def test_a_bad_name_is_a_usage_error(verify: Run, name: str) -> None:
    """What is no name is refused before anything is verified."""
    ran = verify("landmark.pem", name=name)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("mtc: ")


def test_time_is_now_unless_it_is_given(verify: Run) -> None:
    """--at decides validity; without it the clock does, and the certificate of another day is refused."""
    for moment, expected in (
        (NOT_BEFORE, (True, "landmark-relative")),
        (NOT_AFTER, (True, "landmark-relative")),
    ):
        assert verify("landmark.pem", at=moment.strftime("%Y-%m-%dT%H:%M:%SZ")).verdicts == [expected]
    assert verify("landmark.pem", at="2026-11-20t11:59:59z").verdicts == [(False, "not-yet-valid")]
    assert verify("landmark.pem", at="2026-11-27 14:00:00.999+02:00").verdicts == [(True, "landmark-relative")]
    assert verify("landmark.pem", at="2026-11-27T14:00:01+02:00").verdicts == [(False, "expired")]
    assert verify("landmark.pem", at="9999-12-31T23:59:59-23:59").verdicts == [(False, "expired")]
    assert verify("landmark.pem", at="0001-01-01T00:00:00+23:59").verdicts == [(False, "not-yet-valid")]


def test_the_clock_is_used_without_a_time(verify: Run, folder: Path) -> None:
    """A certificate that is valid for ever is valid now."""
    long = Leaf(not_before=NOW.replace(year=1970), not_after=NOW.replace(year=9999))
    der, store = certify(long)
    (folder / "long.pem").write_bytes(pem(der))
    (folder / "long.json").write_bytes(format_trust_store(store))
    assert verify("long.pem", trust="long.json", at=None).code == 0


@pytest.mark.parametrize(
    "at",
    [
        "",
        "now",
        "2026-11-21",
        "2026-11-21T12:00:00",
        "2026-11-21T12:00Z",
        "2026-13-21T12:00:00Z",
        "2026-11-21T25:00:00Z",
        "2026-11-21T12:00:60Z",
        "2026-11-21T12:00:00+25:00",
        "20261121T120000Z",
        "0000-01-01T00:00:00Z",
        "1790000000",
        "\u0662026-11-21T12:00:00Z",
        "2026-11-21T12:00:00Z ",
    ],
)
def test_a_bad_time_is_a_usage_error(verify: Run, at: str) -> None:
    """--at wants RFC 3339 with a time zone."""
    ran = verify("landmark.pem", at=at)
    assert (ran.code, ran.out) == (2, "")
    assert "RFC 3339" in ran.err


@pytest.mark.parametrize(
    ("trust", "text"),
    [
        ("missing.json", "no such file"),
        (".", "is a directory"),
        ("empty.json", "not JSON"),
        ("mistyped.json", "cas[0].policy"),
        ("landmark.der", "not JSON"),
        ("landmark.pem", "not JSON"),
    ],
)
def test_a_bad_trust_store_is_a_usage_error(verify: Run, trust: str, text: str) -> None:
    """Without a trust store nothing is verified; the error names the file and the place."""
    ran = verify("landmark.pem", trust=trust)
    assert (ran.code, ran.out) == (2, "")
    assert text in ran.err
    assert trust in ran.err or trust == "."


def test_a_policy_that_is_not_met_is_the_answer_no(verify: Run) -> None:
    """A stricter policy refuses what a plainer one takes; the message says who is missing."""
    ran = verify("standalone.pem", trust="strict.json")
    assert ran.verdicts == [(False, "policy-not-met")]
    assert "32473.9.2" in ran.lines[0]["message"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify",),
        ("verify", "--trust", "x"),
        ("verify", "x"),
        ("verify", "--trust", "x", "--colour", "y"),
        ("verfy", "x"),
        ("trust", "schem"),
        ("trust", "from-ca"),
        ("trust", "from-ca", "a", "b"),
        ("--unknown",),
    ],
)
def test_wrong_arguments_are_usage_errors(run: Run, arguments: tuple[str, ...]) -> None:
    """Missing and unknown arguments and commands end with 2 and nothing on standard output."""
    ran = run(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err


def test_no_arguments_show_help(run: Run) -> None:
    """`mtc` alone lists the commands, and so do its groups; --help ends with 0."""
    for arguments, words in (((), ("verify", "inspect", "trust")), (("trust",), ("schema", "from-ca"))):
        ran = run(*arguments)
        assert ran.code == 2
        assert all(word in ran.out + ran.err for word in words)
        asked = run(*arguments, "--help")
        assert asked.code == 0
        assert all(word in asked.out for word in words)


def test_the_version_names_draft_and_kernel(run: Run) -> None:
    """`mtc --version` tells the version, the default draft and the kernel that is active."""
    ran = run("--version")
    assert ran.code == 0
    assert re.fullmatch(rf"mtc {re.escape(__version__)} · draft plants-07 · kernel (python|native)\n", ran.out)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_version_names_the_kernel_that_was_asked_for(kernel: str) -> None:
    """MTC_KERNEL decides which kernel is active."""
    ran = spawn("--version", environment={"MTC_KERNEL": kernel})
    assert (ran.code, ran.out) == (0, f"mtc {__version__} · draft plants-07 · kernel {kernel}\n")


def test_an_unknown_kernel_is_a_usage_error(folder: Path) -> None:
    """MTC_KERNEL with another value is told, and ends with 2."""
    for arguments in (("--version",), ("verify", "--trust", folder / "trust.json", folder / "landmark.pem")):
        ran = spawn(*arguments, environment={"MTC_KERNEL": "fast"})
        assert ran.code == 2
        assert "MTC_KERNEL" in ran.err


def test_both_kernels_print_the_same(folder: Path, load_vectors: LoadVectors) -> None:
    """MTC_KERNEL=python and MTC_KERNEL=native give the same lines and exit code for all certificates at hand."""
    files = sorted(folder.glob("*.pem")) + sorted(folder.glob("*.der"))
    for number, case in enumerate(load_vectors("certs_boringssl_x509_plants05.json")["certificates"]):
        files.append(folder / f"foreign-{number}")
        files[-1].write_text(case["pem"])
    options = ("verify", "--json", "--at", AT, "--name", HOST, "--trust", folder / "trust.json")
    runs = [spawn(*options, *files, environment={"MTC_KERNEL": kernel}) for kernel in KERNELS]
    assert len({(ran.code, ran.out) for ran in runs}) == 1
    assert len(runs[0].lines) == len(files)
    assert runs[0].code == 1


def test_standard_input_is_a_dash(folder: Path) -> None:
    """`-` reads the certificate, or the trust store, from standard input."""
    der = (folder / "landmark.der").read_bytes()
    options = ("verify", "--json", "--at", AT, "--trust")
    ran = spawn(*options, folder / "trust.json", "-", folder / "standalone.pem", stdin=der)
    assert ran.code == 0
    assert [line["file"] for line in ran.lines] == ["-", str(folder / "standalone.pem")]
    ran = spawn(*options, "-", folder / "landmark.pem", stdin=(folder / "trust.json").read_bytes())
    assert ran.verdicts == [(True, "landmark-relative")]
    ran = spawn(*options, folder / "trust.json", "-", stdin=b"")
    assert (ran.code, ran.verdicts) == (1, [(False, "truncated")])


def test_pipes_get_plain_text(folder: Path) -> None:
    """Output into a pipe holds no escape codes and breaks no lines, whatever the terminal's width."""
    files = (folder / "landmark.pem", folder / "broken.pem", folder / "missing")
    ran = spawn(
        "verify", "--at", AT, "--trust", folder / "trust.json", *files, environment={"COLUMNS": "20", "TERM": "xterm"}
    )
    assert ran.code == 2
    assert "\x1b" not in ran.out + ran.err
    assert len(ran.out.splitlines()) == 2
    assert len(ran.err.splitlines()) == 1


def test_file_names_may_be_any_bytes(folder: Path) -> None:
    """A file name that is no text, or looks like markup, is shown escaped and never fails."""
    strange = [os.fsencode(folder) + b"/\xff\xfe.pem", os.fsencode(folder) + b"/[bold]x.pem"]
    for name in strange:
        Path(os.fsdecode(name)).write_bytes((folder / "landmark.pem").read_bytes())
    options = ("verify", "--at", AT, "--trust", folder / "trust.json")
    for encoding in ("utf-8", "ascii"):
        environment = {"PYTHONIOENCODING": encoding}
        ran = spawn(*options, *strange, os.fsencode(folder) + b"/\xfd", environment=environment)
        assert ran.code == 2
        assert [line.split()[0] for line in ran.out.splitlines()] == ["valid", "valid"]
        assert "[bold]x.pem" in ran.out
        assert "cannot be read" in ran.err
        assert spawn("--version", environment=environment).code == 0
    ran = spawn(*options, "--json", *strange)
    assert [line["file"].encode("utf-8", "surrogateescape") for line in ran.lines] == strange


@pytest.mark.parametrize(
    "arguments",
    [("trust", "schema"), ("verify", "--help"), ("verify", "--json", "--trust", "{trust}", *["{file}"] * 400)],
)
def test_a_reader_that_leaves_is_no_failure_to_talk_about(folder: Path, arguments: tuple[str, ...]) -> None:
    """When the reader of a pipe leaves, `mtc` stops without a word."""
    found = [item.format(trust=folder / "trust.json", file=folder / "landmark.pem") for item in arguments]
    with subprocess.Popen(  # noqa: S603 - our own program
        [Path(sys.executable).with_name("mtc"), *found], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        process.wait(60)
    assert process.returncode in {0, 1}


def test_a_certificate_of_megabytes_is_refused_politely(verify: Run, folder: Path) -> None:
    """A file of zeros, and a PEM text without an end, are invalid."""
    (folder / "zeros").write_bytes(bytes(20_000_000))
    (folder / "endless").write_bytes(b"-----BEGIN CERTIFICATE-----\n" + b"A" * 5_000_000)
    assert verify("zeros", "endless").verdicts == [(False, "too-large"), (False, "bad-pem")]


def test_the_schema_is_printed(run: Run) -> None:
    """`mtc trust schema` prints the JSON Schema of the trust store, which the store of `from-ca` fits."""
    ran = run("trust", "schema")
    assert ran.code == 0
    assert json.loads(ran.out) == TRUST_STORE_SCHEMA
    Draft202012Validator.check_schema(json.loads(ran.out))


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize("is_pem", [True, False])
def test_a_store_is_made_from_a_ca_certificate(
    run: Run,
    verify: Run,
    folder: Path,
    revision: str,
    is_pem: bool,  # noqa: FBT001 - a row
) -> None:
    """`mtc trust from-ca` makes the store with which the CA's standalone certificates verify, in every revision."""
    ca = SmallCA(revision=REVISIONS[revision], algorithm="ml-dsa-44")
    key = make_key("ml-dsa-44", 100)
    der = encode_ca_certificate(
        ca_id=ca.anchor,
        public_key=parse_public_key(key.public_key, key.algorithm),
        not_before=NOT_BEFORE,
        not_after=NOT_AFTER,
        min_serial=(1 << 48) + 2,
        revision=ca.revision,
    )
    (folder / "ca").write_bytes(pem(der) if is_pem else der)
    ran = run("trust", "from-ca", folder / "ca")
    assert (ran.code, ran.err) == (0, "")
    document = json.loads(ran.out)
    Draft202012Validator(TRUST_STORE_SCHEMA).validate(document)
    assert document["cas"][0]["draft"] == CACertificate.parse(der).revision.name == revision
    assert document["cas"][0]["revoked"] == [[0, (1 << 48) + 2]]
    assert format_trust_store(parse_trust_store(ran.out.encode())).decode() == ran.out
    (folder / "from-ca.json").write_text(ran.out)
    (folder / "early").write_bytes(pem(ca.certificate(1, cosigners=[CA])))
    (folder / "late").write_bytes(pem(ca.certificate(2, cosigners=[CA])))
    assert verify("early", "late", trust="from-ca.json").verdicts == [(False, "revoked"), (True, "standalone")]


def test_from_ca_of_foreign_cas(run: Run, verify: Run, folder: Path, load_vectors: LoadVectors) -> None:
    """The stores made from BoringSSL's and the demo's CA certificates give the published verdicts."""
    for name in ("certs_boringssl_x509_plants05.json", "certs_demo_plants07.json"):
        data = load_vectors(name)
        (folder / "foreign-ca.pem").write_text(data["ca_certificate_pem"])
        ran = run("trust", "from-ca", folder / "foreign-ca.pem")
        assert ran.code == 0
        (folder / "foreign.json").write_text(ran.out)
        for case in data["certificates"]:
            (folder / "foreign.pem").write_text(case["pem"])
            found = verify("foreign.pem", trust="foreign.json", at="2025-01-01T00:00:00Z")
            is_signed = bool(case["info"].get("cosigners")) if case["expect"] == "ok" else False
            assert found.code == (0 if is_signed else 1)


@pytest.mark.parametrize("file", ["missing", ".", "landmark.pem", "empty.pem", "text.pem", "trust.json"])
def test_from_ca_of_something_else_is_a_usage_error(run: Run, folder: Path, file: str) -> None:
    """What is no MTC CA certificate makes no store; the error names the file."""
    ran = run("trust", "from-ca", folder / file)
    assert (ran.code, ran.out) == (2, "")
    assert str(folder / file) in ran.err


def test_defects_are_shown_only_on_request(folder: Path) -> None:
    """MTC_DEBUG lets errors through with their traceback; nothing else does."""
    command = [str(Path(sys.executable).with_name("mtc")), "trust", "from-ca", str(folder / "missing")]
    shown = subprocess.run(  # noqa: S603 - our own program
        command, capture_output=True, check=False, timeout=60, env={**os.environ, "MTC_DEBUG": "1"}
    )
    assert b"Traceback" in shown.stderr
    assert spawn(*command[1:]).code == 2


def test_many_files_at_once(verify: Run) -> None:
    """A thousand certificates in one run give a thousand lines in the order given."""
    files = ["landmark.pem", "standalone.pem", "broken.pem", "cut.der"] * 250
    ran = verify(*files)
    assert [Path(line["file"]).name for line in ran.lines] == files
    assert ran.verdicts[:4] * 250 == ran.verdicts
