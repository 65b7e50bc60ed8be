"""The parts of the ACME client: what servers say, keys and requests, when to renew, what fits, who has a port."""

import asyncio
import hashlib
import json
import os
import socket
import ssl
import time
from base64 import urlsafe_b64decode
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey, OctKey
from tests.makers import NOW, Leaf, SmallCA, leaf_extensions

from mtc.acme.client import KEY_TYPES, AccountKey, ACMERefusal, ServerProblem, build_csr, generate_key
from mtc.acme.client.disk import Disk, NewFile, locked, publish_folder, replace_file
from mtc.acme.client.documents import (
    AuthorizationState,
    ChallengeState,
    Directory,
    OrderState,
    RenewalWindow,
    parse_links,
    parse_retry_after,
    parse_time,
)
from mtc.acme.client.keys import (
    ACCOUNT_KEY_TYPES,
    bind_external_account,
    encode_key,
    encode_spki,
    parse_key,
    parse_mac_key,
)
from mtc.acme.client.leaf import Leaf as ReadLeaf
from mtc.acme.client.leaf import check_landmark_relative, check_ordered, check_trusted
from mtc.acme.client.renewal import RENEWAL_SHARE, RenewalPlan, back_off_s, renewal_by_lifetime
from mtc.acme.client.solvers import (
    Answer,
    HookSolver,
    HTTPSolver,
    TLSALPNSolver,
    WebrootSolver,
    dns_name,
    dns_value,
    make_challenge_certificate,
)
from mtc.acme.client.solvers.hook import run_program
from mtc.acme.client.solvers.ports import name_holder
from mtc.acme.client.solvers.tls import ACME_IDENTIFIER_OID, server_name
from mtc.acme.client.transport import check_url
from mtc.acme.machine.identifiers import Identifier
from mtc.ca.certificates import properties_for
from mtc.cert import CertificateChain, PropertyList, encode_authority_key_identifier
from mtc.errors import ConflictError, Error, FormatError, PeerError, Reason, Rejected, StorageError, UsageError
from mtc.merkle import Subtree
from mtc.testing.fleet import free_port

NAME = Identifier.dns("www.example.com")
URL = "https://ca.example/acme"
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
moments = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))  # noqa: DTZ001 - the zone follows


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_request_says_names_and_nothing_else(key_type: str) -> None:
    """A certificate request of every type of key is signed by it, and has the names as its only content."""
    key = generate_key(key_type)
    assert encode_spki(parse_key(encode_key(key))) == encode_spki(key)
    csr = x509.load_der_x509_csr(build_csr(key, [NAME, Identifier.ip("2001:db8::1"), Identifier.dns("*.example.com")]))
    assert csr.is_signature_valid
    assert list(csr.subject) == []
    (extension,) = csr.extensions
    names = extension.value
    assert isinstance(names, x509.SubjectAlternativeName)
    assert [str(name.value) for name in names] == ["www.example.com", "2001:db8::1", "*.example.com"]


@pytest.mark.parametrize("key_type", ACCOUNT_KEY_TYPES)
def test_requests_are_signed_as_rfc_8555_says(key_type: str) -> None:
    """Header and payload are what was signed, and the key survives its file; it is never shown."""
    key = AccountKey.generate(key_type)
    body = json.loads(key.sign({"nonce": "n", "url": URL, "jwk": key.jwk}, b"payload"))
    assert body.keys() == {"protected", "payload", "signature"}
    header = json.loads(urlsafe_b64decode(body["protected"] + "=="))
    assert header == {"alg": key.algorithm, "nonce": "n", "url": URL, "jwk": dict(key.jwk)}
    assert "d" not in key.jwk
    again = AccountKey.parse(key.encode_pem())
    assert (again.thumbprint, again.jwk) == (key.thumbprint, key.jwk)
    assert "PRIVATE" not in repr(key)


def test_thumbprint_is_the_hash_of_the_key() -> None:
    """RFC 7638: members in order, without spaces, SHA-256."""
    key = AccountKey.generate()
    text = json.dumps({name: key.jwk[name] for name in ("crv", "kty", "x", "y")}, separators=(",", ":"))
    assert urlsafe_b64decode(key.thumbprint + "=") == hashlib.sha256(text.encode()).digest()


def test_signature_verifies_elsewhere() -> None:
    """Another library object that knows the public key alone verifies a request."""
    key = AccountKey.generate()
    body = json.loads(key.sign({"kid": f"{URL}/1"}, b"{}"))
    public = ECKey.import_key(dict(key.jwk))
    jws.deserialize_compact(".".join((body["protected"], body["payload"], body["signature"])), public)


def test_external_binding_is_signed_with_its_key() -> None:
    """The binding covers the account's key and the URL, under the HMAC key of the external account."""
    key, secret = AccountKey.generate(), b"s" * 32
    binding = bind_external_account("kid", secret, key, URL)
    compact = ".".join((binding["protected"], binding["payload"], binding["signature"]))
    registry = jws.JWSRegistry(strict_check_header=False)
    found = jws.deserialize_compact(compact, OctKey.import_key(secret), registry=registry)
    assert json.loads(found.payload) == dict(key.jwk)
    assert found.headers() == {"alg": "HS256", "kid": "kid", "url": URL}


def test_keys_that_cannot_be_used_are_named() -> None:
    """A type that does not exist, an ML-DSA account key, an encrypted or broken file: each says so, none is quoted."""
    with pytest.raises(UsageError, match="ml-dsa-44"):
        generate_key("dsa-1024")
    with pytest.raises(UsageError, match="account's key"):
        AccountKey.generate("ml-dsa-44")
    with pytest.raises(UsageError):
        AccountKey(generate_key("ml-dsa-44"))
    with pytest.raises(FormatError) as caught:
        parse_key(b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
    assert "c2VjcmV0" not in str(caught.value)
    with pytest.raises(UsageError):
        parse_mac_key(b"short")
    assert parse_mac_key(b"c2VjcmV0LXNlY3JldC1zZWNyZXQ\n") == b"secret-secret-secret"


@given(json_values)
def test_any_document_is_a_value_or_an_error(document: object) -> None:
    """Whatever a server sends becomes a value or one of our errors; problems are always readable."""
    ServerProblem.of_json(document)
    for parse in (
        Directory.of_json,
        ChallengeState.of_json,
        RenewalWindow.of_json,
        RenewalPlan.of_json,
        lambda value: OrderState.of_json(URL, value),
        lambda value: AuthorizationState.of_json(URL, value),
    ):
        try:
            parse(document)
        except Error:
            continue


@pytest.mark.parametrize("token", ["../../etc/passwd", "a/b", "a b", "ü", "a" * 600, "a.b"])
def test_tokens_are_no_paths(token: str) -> None:
    """A token that is not base64url is refused before it can be a file's name."""
    document = {"type": "http-01", "url": URL, "status": "pending", "token": token}
    with pytest.raises(FormatError, match="base64url"):
        ChallengeState.of_json(document)


def test_problem_tells_its_parts_and_a_cure() -> None:
    """Type, detail, each subproblem with its name, and what may help stand in one line, without the URN."""
    namespace = "urn:ietf:params:acme:error:"
    document = {
        "type": f"{namespace}compound",
        "detail": "two things",
        "status": 403,
        "subproblems": [
            {"type": f"{namespace}caa", "detail": "forbidden", "identifier": {"type": "dns", "value": "a.example"}},
            {"type": f"{namespace}somethingNew", "detail": "unknown"},
        ],
    }
    error = ACMERefusal.of("refused", ServerProblem.of_json(document), 60.0)
    assert "two things (compound)" in error.message
    assert "a.example: forbidden (caa)" in error.message
    assert "CAA records" in error.message
    assert "unknown (somethingNew)" in error.message
    assert error.facts == {"problem_type": "compound", "status": 403, "retry_after_s": 60.0}


@pytest.mark.parametrize(
    ("headers", "links"),
    [
        ([f'<{URL}/dir>;rel="index"'], {"index": [f"{URL}/dir"]}),
        (
            ['</other>; rel="a b"; title="x, <y>; z"'],
            {"a": ["https://ca.example/other"], "b": ["https://ca.example/other"]},
        ),
        (['<x>;rel=up, <y>;rel="up"'], {"up": ["https://ca.example/x", "https://ca.example/y"]}),
        (['<x>; title="no relation"', "broken", '<z>;rel="next"'], {"next": ["https://ca.example/z"]}),
        (['<x>;rel="up" <y>;rel="up"', "<", "", "<>"], {}),
    ],
)
def test_links_are_read(headers: list[str], links: dict[str, list[str]]) -> None:
    """Several headers, several links in one, several relations of one, quoted commas, relative targets; no rubbish."""
    assert parse_links(headers, f"{URL}") == links


@given(st.lists(st.text(alphabet='<>;,="ab \\relx/', max_size=60), max_size=4))
def test_any_link_header_is_read(headers: list[str]) -> None:
    """No header makes the reader fail."""
    parse_links(headers, URL)


@given(st.integers(0, 10**9), moments)
def test_retry_after_is_seconds_or_a_date(seconds: int, now: datetime) -> None:
    """Both forms of RFC 9110 are read; a date in the past means now, and rubbish means nothing."""
    assert parse_retry_after(str(seconds), now) == seconds
    later = (now + timedelta(seconds=90)).replace(microsecond=0)
    assert parse_retry_after(format_datetime(later, usegmt=True), now) == pytest.approx(90, abs=1)
    assert parse_retry_after(format_datetime(now - timedelta(days=1), usegmt=True), now) == 0
    assert parse_retry_after("soon", now) is None
    assert parse_retry_after(None, now) is None


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-21T12:00:00Z", NOW),
        ("2026-11-21T12:00:00.000000000Z", NOW),
        ("2026-11-21T13:00:00+01:00", NOW),
        ("2026-11-21T12:00:00.5Z", NOW + timedelta(seconds=0.5)),
    ],
)
def test_times_are_read_as_servers_write_them(text: str, moment: datetime) -> None:
    """Fractions of any length and any zone."""
    assert parse_time(text) == moment


@pytest.mark.parametrize("text", ["2026-11-21T12:00:00", "yesterday", ""])
def test_times_without_a_zone_are_none(text: str) -> None:
    """A time that could mean several moments is refused."""
    with pytest.raises(FormatError):
        parse_time(text)


@given(moments, st.integers(1, 10**6), st.floats(0, 1, exclude_max=True), st.integers(0, 10**6))
def test_moment_lies_in_the_window_and_stays(start: datetime, length: int, chance: float, asked: int) -> None:
    """The moment is drawn once from [start, end); the same window again keeps it, another one draws anew."""
    window = RenewalWindow(start=start, end=start + timedelta(seconds=length), retry_after_s=float(asked))
    plan = RenewalPlan().with_window(window, start, chance)
    assert plan.selected is not None
    assert window.start <= plan.selected <= window.end
    assert plan.next_check is not None
    assert timedelta(minutes=1) <= plan.next_check - start <= timedelta(days=1)
    again = plan.with_window(window, start, 0.999 - chance)
    assert again.selected == plan.selected
    moved = RenewalWindow(start=window.start - timedelta(days=9), end=window.end - timedelta(days=9))
    assert plan.with_window(moved, start, chance).selected != plan.selected
    assert RenewalPlan.of_json(json.loads(json.dumps(plan.to_json()))) == plan


@given(moments, st.integers(60, 10**8))
def test_without_advice_three_quarters_count(not_before: datetime, seconds: int) -> None:
    """Without a window the moment is at 75 % of the lifetime, and a failed question changes only when to ask."""
    not_after = not_before + timedelta(seconds=seconds)
    plan = RenewalPlan()
    moment = plan.moment(not_before, not_after)
    assert moment == renewal_by_lifetime(not_before, not_after)
    assert (moment - not_before) / (not_after - not_before) == pytest.approx(RENEWAL_SHARE)
    assert plan.after_failure(not_before).moment(not_before, not_after) == moment
    assert not plan.after_failure(not_before).is_check_due(not_before)


def test_window_that_ends_before_it_starts_is_refused() -> None:
    """RFC 9773: such information is an error."""
    window = {"start": "2026-11-22T00:00:00Z", "end": "2026-11-21T00:00:00Z"}
    with pytest.raises(FormatError, match="ends before"):
        RenewalWindow.of_json({"suggestedWindow": window})


@given(st.integers(1, 10**6), st.floats(0, 10**9))
def test_back_off_grows_to_its_bound(failures: int, asked: float) -> None:
    """Each failure waits longer, at most six hours; what a server asks for counts up to a day."""
    assert back_off_s(1) == 60
    assert back_off_s(failures) <= back_off_s(failures + 1) <= 6 * 3600
    assert back_off_s(failures, asked) == max(back_off_s(failures), min(asked, 86400))


def small_ca(count: int = 3) -> SmallCA:
    """Return a CA whose entries name their number."""
    aki = encode_authority_key_identifier(b"\x81\xfd\x59\x01")
    return SmallCA(tuple(Leaf(extensions=(aki, *leaf_extensions((f"{n}.example.com",)))) for n in range(count)))


def test_certificates_are_read_with_their_ids() -> None:
    """The ID of RFC 9773 is base64url of the key identifier, a dot, and base64url of the serial as DER has it."""
    leaf = ReadLeaf.parse(small_ca().certificate(1, cosigners=("32473.1",)))
    assert leaf.identifiers == {Identifier.dns("1.example.com")}
    assert leaf.serial == 1 << 48 | 1
    assert leaf.certificate_id == "gf1ZAQ.AQAAAAAAAQ"
    assert leaf.mtc is not None


def test_only_what_was_ordered_is_taken() -> None:
    """Another key and other names, more or fewer, are refused."""
    leaf = ReadLeaf.parse(small_ca().certificate(1))
    name = Identifier.dns("1.example.com")
    check_ordered(leaf, leaf.spki, [name])
    for names in ([], [NAME], [name, NAME]):
        with pytest.raises(Rejected) as caught:
            check_ordered(leaf, leaf.spki, names)
        assert caught.value.reason is Reason.NAME_MISMATCH
    with pytest.raises(Rejected) as caught:
        check_ordered(leaf, b"another", [name])
    assert caught.value.reason is Reason.BAD_KEY


def test_trust_is_checked_for_every_name() -> None:
    """Each exact name must be the certificate's; a wildcard alone is no name that could be asked for."""
    ca = small_ca()
    leaf = ReadLeaf.parse(ca.certificate(1, Subtree(1, 2), ("32473.1",)))
    check_trusted(leaf, ca.store(), NOW, [Identifier.dns("1.example.com")])
    check_trusted(leaf, ca.store(), NOW, [Identifier.dns("*.example.org")])
    with pytest.raises(Rejected):
        check_trusted(leaf, ca.store(), NOW, [Identifier.dns("1.example.com"), NAME])


def test_landmark_form_must_be_of_the_same_entry() -> None:
    """Only the same TBSCertificate with properties that name a landmark of its log is the other form."""
    ca = small_ca()
    standalone = ReadLeaf.parse(ca.certificate(1, cosigners=("32473.1",)))
    landmark = properties_for(ca.anchor, 1, 4)

    def check(index: int, properties: PropertyList | None) -> None:
        check_landmark_relative(CertificateChain(properties, (ca.certificate(index),)), standalone)

    check(1, landmark)
    for index, properties in (
        (0, landmark),
        (1, None),
        (1, properties_for(ca.anchor, 1)),
        (1, properties_for(ca.anchor, 2, 4)),
        (1, properties_for(ca.anchor.child(1, 1), 1, 4)),
    ):
        with pytest.raises(Rejected):
            check(index, properties)
    other = SmallCA((Leaf(extensions=leaf_extensions(("else.example.com",))),) * 3)
    with pytest.raises(Rejected, match="more than its proof"):
        check_landmark_relative(CertificateChain(landmark, (other.certificate(1),)), standalone)


@pytest.mark.parametrize("url", ["http://ca.example/", "ftp://ca.example/", "https:///x", "", "file:///etc/passwd"])
def test_only_https_is_spoken(url: str) -> None:
    """Plain HTTP is for this machine alone (RFC 8555, "HTTPS Requests")."""
    with pytest.raises(PeerError):
        check_url(url, allows_http=True)


@pytest.mark.parametrize("url", ["https://ca.example/", "http://localhost:1/", "http://127.0.0.1/", "http://[::1]:5/"])
def test_https_and_loopback_are_spoken(url: str) -> None:
    """HTTPS to anybody, HTTP to this machine, unless a server elsewhere leads there."""
    check_url(url, allows_http=True)
    if url.startswith("http:"):
        with pytest.raises(PeerError):
            check_url(url)


def answer(identifier: Identifier = NAME) -> Answer:
    """Return an answer to a challenge."""
    return Answer(identifier, "t" * 22, "t" * 22 + ".thumbprint")


def test_taken_port_names_its_holder() -> None:
    """The error says which process has the port, what it is called, and what can be done."""

    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            assert f"pid {os.getpid()}" in name_holder(port)
            for solver in (HTTPSolver(port, "127.0.0.1"), TLSALPNSolver(port, "127.0.0.1")):
                with pytest.raises(UsageError, match=rf"port {port} is taken by .* \(pid {os.getpid()}\).*--webroot"):
                    await solver.present(answer())
                await solver.withdraw(answer())

    asyncio.run(run())
    assert name_holder(free_port()) == ""


def test_web_server_answers_what_it_was_told_and_nothing_else() -> None:
    """Known tokens are answered with 200, everything else with 404; garbage and slowness end; the last one closes."""

    async def ask(port: int, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        writer.write_eof()
        data = await reader.read()
        writer.close()
        return data

    async def run() -> None:
        port = free_port()
        solver = HTTPSolver(port, "127.0.0.1")
        first, second = answer(), Answer(NAME, "u" * 22, "other")
        await solver.present(first)
        await solver.present(second)
        path = f"/.well-known/acme-challenge/{first.token}"
        found = await ask(port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert found.startswith(b"HTTP/1.1 200 OK\r\n")
        assert found.endswith(b"\r\n\r\n" + first.key_authorization.encode())
        for wrong in (f"POST {path} HTTP/1.1", "GET / HTTP/1.1", f"GET {path}/../x HTTP/1.1", "", "\xff\xfe", "GET"):
            assert (await ask(port, wrong.encode("latin-1") + b"\r\n\r\n")).startswith(b"HTTP/1.1 404")
        assert await ask(port, b"GET /" + b"a" * 20_000) == b""
        await solver.withdraw(first)
        assert (await ask(port, f"GET {path} HTTP/1.1\r\n\r\n".encode())).startswith(b"HTTP/1.1 404")
        await solver.withdraw(second)
        with pytest.raises(ConnectionRefusedError):
            await ask(port, b"")

    asyncio.run(run())


def test_webroot_holds_readable_files(tmp_path: Path) -> None:
    """The file is there for everybody, and gone afterwards; a folder that cannot be is named."""

    async def run() -> None:
        solver = WebrootSolver(tmp_path)
        await solver.present(answer())
        path = tmp_path / ".well-known" / "acme-challenge" / ("t" * 22)
        assert path.read_text() == answer().key_authorization
        assert path.stat().st_mode & 0o777 == 0o644
        await solver.withdraw(answer())
        assert not path.exists()
        (tmp_path / "file").touch()
        with pytest.raises(UsageError, match="--webroot"):
            await WebrootSolver(tmp_path / "file").present(answer())

    asyncio.run(run())


@pytest.mark.parametrize("identifier", [NAME, Identifier.ip("192.0.2.1"), Identifier.ip("2001:db8::1")])
def test_challenge_certificate_is_rfc_8737s(identifier: Identifier) -> None:
    """One name, and a critical extension with the hash of the key authorization as an OCTET STRING."""
    certificate, key = make_challenge_certificate(answer(identifier))
    parsed = x509.load_pem_x509_certificate(certificate)
    found = parsed.extensions.get_extension_for_oid(x509.ObjectIdentifier(ACME_IDENTIFIER_OID))
    assert found.critical
    assert isinstance(found.value, x509.UnrecognizedExtension)
    assert found.value.value == b"\x04\x20" + hashlib.sha256(answer().key_authorization.encode()).digest()
    names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == [identifier.value]
    spki = parsed.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert encode_spki(parse_key(key)) == spki
    assert server_name(Identifier.ip("192.0.2.1")) == "1.2.0.192.in-addr.arpa"
    assert server_name(Identifier.ip("2001:db8::1")).endswith(".8.b.d.0.1.0.0.2.ip6.arpa")


def test_tls_server_knows_its_names_only() -> None:
    """It shows the certificate of the name that is asked for, with ALPN acme-tls/1, and refuses other names."""

    async def ask(port: int, name: str) -> bytes:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["acme-tls/1"])
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
        session = writer.get_extra_info("ssl_object")
        assert session.selected_alpn_protocol() == "acme-tls/1"
        der = session.getpeercert(binary_form=True)
        writer.close()
        assert isinstance(der, bytes)
        return der

    async def run() -> None:
        port = free_port()
        solver = TLSALPNSolver(port, "127.0.0.1")
        await solver.present(answer())
        await solver.present(answer(Identifier.dns("b.example.com")))
        assert b"www.example.com" in await ask(port, "www.example.com")
        assert b"b.example.com" in await ask(port, "b.example.com")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await ask(port, "c.example.com")
        # A second CA that validates the same name waits until the first one has looked.
        second = Answer(NAME, "u" * 22, "another")
        waiting = asyncio.create_task(solver.present(second))
        before = await ask(port, "www.example.com")
        assert not waiting.done()
        await solver.withdraw(answer())
        await waiting
        assert await ask(port, "www.example.com") != before
        await solver.close()

    asyncio.run(run())


def test_dns_record_is_rfc_8555s() -> None:
    """The record lies below the name without `*.`, and holds the hash of the key authorization, base64url."""
    assert dns_name(Identifier.dns("*.example.com")) == "_acme-challenge.example.com"
    digest = hashlib.sha256(b"token.thumbprint").digest()
    assert urlsafe_b64decode(dns_value("token.thumbprint") + "=") == digest


def test_hook_is_told_and_its_failure_is_told(tmp_path: Path) -> None:
    """Arguments and environment say the same; a failure stops `add` with the hook's words, and `remove` nothing."""
    log = tmp_path / "log"
    script = tmp_path / "hook.sh"
    script.write_text(
        f'echo "$1 $2 $3|$MTC_REQUEST_ACTION|$MTC_REQUEST_NAME|$CERTBOT_DOMAIN|$CERTBOT_VALIDATION" >> {log}\n'
        f"test ! -e {tmp_path}/broken || {{ printf 'no \\033[31mzone\\n' >&2; exit 4; }}\n"
    )

    async def run() -> None:
        solver = HookSolver(f"sh {script}")
        await solver.present(answer())
        name, value = dns_name(NAME), dns_value(answer().key_authorization)
        assert log.read_text() == f"add {name} {value}|add|{name}|www.example.com|{value}\n"
        (tmp_path / "broken").touch()
        with pytest.raises(UsageError, match=r"ended with 4 on `add _acme-challenge.www.example.com`: no +\[31mzone"):
            await solver.present(answer())
        await solver.withdraw(answer())
        assert log.read_text().splitlines()[-1].startswith("remove ")
        with pytest.raises(UsageError, match="127"):
            await HookSolver("/nowhere/at-all").present(answer())

    asyncio.run(run())
    for wrong in ("", "  ", 'unclosed "'):
        with pytest.raises(UsageError, match="--dns-hook"):
            HookSolver(wrong)


def test_program_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    """A hook has a deadline, after which it and what it started are gone; so they are when the run is cancelled."""
    script = tmp_path / "hang.sh"
    script.write_text(f"sleep 600 & echo $! > {tmp_path}/child; wait\n")

    def wait_for_child() -> None:
        until = time.monotonic() + 20
        while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text():
            assert time.monotonic() < until
            time.sleep(0.01)

    def is_gone() -> bool:
        pid = int((tmp_path / "child").read_text())
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        return state == "Z"

    async def run() -> None:
        code, text = await run_program(["sh", str(script)], {}, 0.3)
        assert (code, "stopped after" in text) == (124, True)
        assert is_gone()
        (tmp_path / "child").unlink()
        task = asyncio.create_task(run_program(["sh", str(script)], {}, 60))
        await asyncio.to_thread(wait_for_child)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert is_gone()

    asyncio.run(run())


def test_files_are_replaced_whole_with_their_mode(tmp_path: Path) -> None:
    """A file gets its mode whatever the process's mask, and nothing stays beside it; a folder is made once."""
    old = os.umask(0o077)
    try:
        replace_file(Disk(), tmp_path / "file", b"one")
        replace_file(Disk(), tmp_path / "file", b"two")
    finally:
        os.umask(old)
    assert (tmp_path / "file").read_bytes() == b"two"
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644
    publish_folder(Disk(), tmp_path / "folder", {"a": NewFile(b"a", 0o600)})
    with pytest.raises(StorageError):
        publish_folder(Disk(), tmp_path / "folder", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_lock_is_one_processs(tmp_path: Path) -> None:
    """Whoever comes second is told who is there; afterwards the lock is free."""
    path = tmp_path / "lock"
    with locked(path, "it"), pytest.raises(ConflictError, match=f"pid {os.getpid()}"), locked(path, "it"):
        raise AssertionError
    with locked(tmp_path / "lock", "it"):
        pass
