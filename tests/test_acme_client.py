"""The parts of the ACME client that decide: what servers say, keys and requests, when to renew, what fits."""

import hashlib
import json
from base64 import urlsafe_b64decode
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey, OctKey
from tests.makers import NOW, Leaf, SmallCA, leaf_extensions

from mtc.acme.client import KEY_TYPES, AccountKey, ACMERefusal, ServerProblem, build_csr, generate_key
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
from mtc.acme.client.transport import check_url
from mtc.acme.machine.identifiers import Identifier
from mtc.ca.certificates import properties_for
from mtc.cert import CertificateChain, PropertyList, encode_authority_key_identifier
from mtc.errors import Error, FormatError, PeerError, Reason, Rejected, UsageError
from mtc.merkle import Subtree

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
