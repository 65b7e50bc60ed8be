"""Fuzz targets for what ACME clients, DNS servers and perspectives send: signed requests, keys, CAA, reports."""

import json
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache

from cryptography.hazmat.primitives.asymmetric import ec
from fuzz.registry import target
from joserfc import jws
from joserfc.jwk import ECKey, JWKRegistry, Key
from joserfc.registry import HeaderParameter

from mtc.acme.machine.caa import CAARecord, judge_caa, parse_issuer
from mtc.acme.machine.identifiers import Identifier, IdentifierType
from mtc.acme.machine.jws import (
    ALGORITHMS,
    PublicKey,
    SignedRequest,
    decode_base64url,
    encode_base64url,
    parse_object,
    problem_of,
)
from mtc.acme.machine.problems import Problem, ProblemType
from mtc.acme.machine.renewal import CertificateID
from mtc.acme.machine.validation import Connection, Lookup, Method, Report, ValidationTask
from mtc.errors import Error, FormatError, SignatureError

_URL = "https://ca.example/acme/new-account"
_PAYLOAD = b'{"termsOfServiceAgreed":true,"contact":["mailto:a@example.com"]}'
_MOMENT = datetime(2026, 11, 21, 12, tzinfo=UTC)


@cache
def _keys() -> tuple[Key, ...]:
    """Return keys that are the same in every run."""
    return tuple(ECKey.import_key(ec.derive_private_key(7, curve)) for curve in (ec.SECP256R1(), ec.SECP384R1()))


@cache
def request_seeds() -> tuple[bytes, ...]:
    """Return signed requests: of a new key and of an account, one of them a POST-as-GET."""
    registry = jws.JWSRegistry({name: HeaderParameter(name, "str") for name in ("url", "nonce")}, list(ALGORITHMS))
    made = []
    for key, algorithm in zip(_keys(), ("ES256", "ES384"), strict=True):
        who = {"jwk": key.as_dict(private=False)}
        for header, payload in ((who, _PAYLOAD), ({"kid": "https://ca.example/acme/account/1"}, b"")):
            protected = {"alg": algorithm, "nonce": "AAAA", "url": _URL, **header}
            document = jws.serialize_json({"protected": protected}, payload, key, registry=registry)
            made.append(json.dumps(document).encode())
    return tuple(made)


@target(request_seeds)
def check_signed_request(data: bytes) -> None:
    """A request verifies only with a payload that a known key signed; every fault has its problem document."""
    fault: Error | None = None
    try:
        request = SignedRequest.parse(data)
        key = PublicKey.parse(_keys()[0].as_dict(private=False) if request.jwk is None else request.jwk)
        payload = request.verify(key)
    except (FormatError, SignatureError) as error:
        fault = error
    if fault is not None:
        assert 400 <= problem_of(fault).http_status < 500
        return
    known = {PublicKey.parse(item.as_dict(private=False)).thumbprint for item in _keys()}
    assert key.thumbprint not in known or payload in (_PAYLOAD, b""), "a payload that nobody signed"
    with suppress(SignatureError):
        request.verify_mac(bytes(32))
        raise AssertionError("a signature passes for a MAC")


@target(lambda: [json.dumps(key.as_dict(private=False)).encode() for key in _keys()])
def check_public_key(data: bytes) -> None:
    """A key that parses has one text, one thumbprint, and the same by way of its SubjectPublicKeyInfo."""
    try:
        key = PublicKey.parse(parse_object(data, "the key"))
    except FormatError:
        return
    assert PublicKey.of_text(key.jwk) == key
    assert PublicKey.thumbprint_of(key.spki) == key.thumbprint
    assert JWKRegistry.import_key(json.loads(key.jwk)).thumbprint() == key.thumbprint
    assert key.algorithm in ALGORITHMS


@target(lambda: [_PAYLOAD, b'{"a":[1,{"b":"\\u00e4\\ud83d\\ude00"}]}', b'{"a":1,"a":2}', b'{"x":"\\ud800"}'])
def check_json_object(data: bytes) -> None:
    """A JSON object that is read can be written, as UTF-8 too, and reads back to the same."""
    try:
        document = parse_object(data, "it")
    except FormatError:
        return
    text = json.dumps(document, ensure_ascii=False).encode("utf-8")
    assert parse_object(text, "it") == document


@target(lambda: [b"AAAA", b"_-8", b"AQAB", b""])
def check_base64url(data: bytes) -> None:
    """Text that decodes has only the alphabet, and what it decodes to is encoded to text that decodes to the same."""
    try:
        decoded = decode_base64url(data.decode("latin-1"), "it")
    except FormatError:
        return
    assert decode_base64url(encode_base64url(decoded), "it") == decoded


@target(lambda: [b"www.example.com", b"*.example.com", b"192.0.2.1", b"2001:db8::1", b"xn--bcher-kva.example"])
def check_identifier(data: bytes) -> None:
    """An identifier has one spelling, which parses to it; what is a name is no address."""
    text = data.decode("utf-8", errors="surrogateescape")
    found = []
    for kind in IdentifierType:
        with suppress(FormatError):
            identifier = Identifier.parse(str(kind), text)
            assert Identifier.parse(str(identifier.type), identifier.value) == identifier
            assert identifier.value.isascii()
            assert identifier.base.base == identifier.base
            found.append(identifier)
    assert len(found) < 2


@target(lambda: [b"ca.example", b"ca.example; accounturi=https://a; validationmethods=dns-01,http-01", b";", b""])
def check_caa_issuer(data: bytes) -> None:
    """A CAA value that follows the grammar is read the same with more space; none lets this CA issue by chance."""
    issuer = parse_issuer(data)
    if issuer is not None:
        assert issuer.domain == issuer.domain.lower()
        assert parse_issuer(b" " + data + b"\t") == issuer
    task = ValidationTask(
        identifier=Identifier.dns("example.com"),
        is_wildcard=False,
        method=Method.HTTP_01,
        account_url="https://a",
        caa_domains=("ca.example",),
    )
    record = CAARecord(data[0] if data else 0, "issue", data)
    problem = judge_caa(task, [record], "example.com")
    assert (problem is None) <= (issuer is not None and issuer.domain == "ca.example")
    assert judge_caa(task, [], "") is None


@target(lambda: [str(CertificateID(b"\x01\x02", serial)).encode() for serial in (0, 127, 128, (1 << 64) - 1)])
def check_certificate_id(data: bytes) -> None:
    """The identifier of a certificate has one text."""
    text = data.decode("latin-1")
    try:
        identifier = CertificateID.parse(text)
    except FormatError:
        return
    assert str(identifier) == text


def _report_seeds() -> Iterable[bytes]:
    """Return reports and tasks of perspectives."""
    task = ValidationTask(
        identifier=Identifier.dns("example.com"),
        is_wildcard=True,
        method=Method.DNS_01,
        account_url="https://a",
        caa_domains=("ca.example",),
        token="t",  # noqa: S106 - no password
        key_authorization="t.k",
    )
    below = Problem(type=ProblemType.DNS, detail="x", identifier=task.identifier)
    report = Report(
        perspective="p1",
        region="r1",
        started=_MOMENT,
        finished=_MOMENT,
        problem=Problem(type=ProblemType.CAA, detail="no", subproblems=(below,)),
        lookups=(Lookup(name="example.com", type="CAA", status="NOERROR", answers=("x",)),),
        connections=(Connection(target="http://example.com", address="192.0.2.1", port=80, outcome="200"),),
    )
    return [json.dumps(item.to_json()).encode() for item in (task, report)]


@target(_report_seeds)
def check_report(data: bytes) -> None:
    """A report, or a task, that parses reads back to the same."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return
    with suppress(FormatError):
        report = Report.of_json(document)
        assert Report.of_json(report.to_json()).to_json() == report.to_json()
    with suppress(FormatError):
        task = ValidationTask.of_json(document)
        assert ValidationTask.of_json(task.to_json()) == task
