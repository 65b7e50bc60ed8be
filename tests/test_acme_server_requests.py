"""Requests to the ACME server: directory, nonces, signatures, and how errors look."""

import json
from collections.abc import Iterator
from itertools import permutations
from typing import Any

import pytest
from tests.acme_server import JSON_TYPE, URL, Client, Key, ServerUnderTest, Shared, b64, jws, mac, shared_server

from mtc.acme.machine.jws import ALGORITHMS
from mtc.acme.machine.problems import ERROR_NAMESPACE

POSTED = (
    "new-account",
    "new-order",
    "revoke-cert",
    "key-change",
    "account/1",
    "account/1/orders",
    "order/1",
    "order/1/finalize",
    "authorization/1",
    "challenge/1/http-01",
    "certificate/1",
    "certificate/1/landmark",
)


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    """Run one server for all tests of this file."""
    with shared_server() as server:
        yield server


def test_directory_names_every_resource(shared: Shared) -> None:
    """The directory has the URL of each resource, no newAuthz, and what clients should know in meta."""

    async def work(server: ServerUnderTest) -> None:
        answer = await server.ask("GET", "directory")
        assert answer.status == 200
        document = answer.json
        names = ("newNonce", "newAccount", "newOrder", "revokeCert", "keyChange", "renewalInfo")
        assert set(document) == {*names, "meta"}
        assert all(document[name].startswith(URL) for name in names)
        meta = document["meta"]
        assert meta["caaIdentities"] == ["ca.example.test"]
        assert meta["externalAccountRequired"] is False
        assert set(meta["profiles"]) == {"default", "short"}
        assert "index" not in answer.links

    shared.run(work)


def test_nonces_are_given_out(shared: Shared) -> None:
    """HEAD gives a nonce with 200, GET with 204; base64url, no two alike, never cached."""

    async def work(server: ServerUnderTest) -> None:
        seen = set()
        for method, status in (("HEAD", 200), ("GET", 204)):
            for _ in range(50):
                answer = await server.ask(method, "new-nonce")
                assert (answer.status, answer.body) == (status, b"")
                assert answer.header("cache-control") == "no-store"
                assert answer.links["index"] == f"{URL}/directory"
                nonce = answer.header("replay-nonce")
                assert nonce
                assert nonce.replace("-", "").replace("_", "").isalnum()
                seen.add(nonce)
        assert len(seen) == 100

    shared.run(work)


def test_directory_and_nonce_by_signed_request(shared: Shared) -> None:
    """Directory and newNonce answer POST-as-GET as they answer GET."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        answer = await client.post("directory")
        assert (answer.status, answer.json) == (200, (await server.ask("GET", "directory")).json)
        answer = await client.post("new-nonce")
        assert answer.status == 204
        assert answer.header("replay-nonce")
        assert (await client.post("directory", {})).problem == "malformed"

    shared.run(work)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_other_methods_are_refused(shared: Shared, method: str) -> None:
    """What is not posted is 405 with type malformed, and says what is allowed; nothing is shown without a signature."""

    async def work(server: ServerUnderTest) -> None:
        for path in POSTED:
            answer = await server.ask(method, path)
            assert (answer.status, answer.problem) == (405, "malformed")
            assert answer.header("allow") == "POST"
        for path in ("directory", "new-nonce"):
            assert (await server.ask("PUT", path)).header("allow") == "GET, HEAD, POST"

    shared.run(work)


def test_unknown_paths_are_problems_too(shared: Shared) -> None:
    """A path below the server's that is no resource is 404 with a problem of ACME's, whatever the method."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        for path in ("nothing", "order/1/2/3", "account/", "order//finalize", "new-order/"):
            assert (await server.ask("GET", path)).status in (404, 405)
            answer = await client.post(path)
            assert (answer.status, answer.problem) == (404, "malformed")

    shared.run(work)


def test_answers_have_what_all_of_them_need(shared: Shared) -> None:
    """Each answer, good or bad, has a fresh nonce, the link to the directory and the header for browsers."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        good = await client.order("common.example.com")
        bad = await client.post("new-order", {"identifiers": []})
        worst = await server.ask("POST", "new-order", b"junk", {"content-type": JSON_TYPE})
        nonces = set()
        for answer in (good, bad, worst):
            assert answer.links["index"] == f"{URL}/directory"
            assert answer.header("access-control-allow-origin") == "*"
            nonces.add(answer.header("replay-nonce"))
        assert len(nonces - {None}) == 3

    shared.run(work)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_signs_requests(shared: Shared, algorithm: str) -> None:
    """Accounts with keys of each algorithm are made, found again, and may order."""

    async def work(server: ServerUnderTest) -> None:
        key = Key.make(algorithm)
        client = await server.account(key)
        assert (await client.order(f"{algorithm.lower()}.example.com")).json["status"] == "pending"
        again = await Client(server, key).post("new-account", {})
        assert (again.status, again.location) == (200, client.kid)

    shared.run(work)


@pytest.mark.parametrize("algorithm", ["none", "HS256", "RS1", "ES512", "PS256", "Ed25519", "", "es256"])
def test_other_algorithms_are_refused(shared: Shared, algorithm: str) -> None:
    """An algorithm that is not served is badSignatureAlgorithm with the list of those that are; MACs and none too."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        answer = await client.post("new-order", {}, alg=algorithm)
        assert (answer.status, answer.problem) == (400, "badSignatureAlgorithm")
        assert answer.json["algorithms"] == list(ALGORITHMS)

    shared.run(work)


@pytest.mark.parametrize(("signer", "claimed"), list(permutations(ALGORITHMS, 2)))
def test_algorithm_and_key_must_fit(shared: Shared, signer: str, claimed: str) -> None:
    """A served algorithm with a key of another kind is badPublicKey."""

    async def work(server: ServerUnderTest) -> None:
        client = Client(server, KEYS[signer])
        answer = await client.post("new-account", {}, alg=claimed)
        assert (answer.status, answer.problem) == (400, "badPublicKey")

    shared.run(work)


KEYS = {algorithm: Key.make(algorithm) for algorithm in ALGORITHMS}


def _jwks() -> dict[str, object]:
    """Return public keys that must not be accepted, by what is wrong with them."""
    ec_key, rsa_key, ed_key = KEYS["ES256"].jwk, KEYS["RS256"].jwk, KEYS["EdDSA"].jwk
    return {
        "private": ec_key | {"d": b64(bytes(31) + b"\x01")},
        "short RSA": rsa_key | {"n": b64((1 << 1023).to_bytes(128, "big"))},
        "long RSA": rsa_key | {"n": b64(((1 << 16384) + 1).to_bytes(2049, "big"))},
        "exponent 1": rsa_key | {"e": b64(b"\x01")},
        "even exponent": rsa_key | {"e": b64(b"\x04")},
        "not on the curve": ec_key | {"y": ec_key["x"]},
        "zero point": ec_key | {"x": b64(bytes(32)), "y": b64(bytes(32))},
        "short coordinate": ec_key | {"x": b64(bytes(5))},
        "unknown curve": ec_key | {"crv": "P-521"},
        "secp256k1": ec_key | {"crv": "secp256k1"},
        "Ed448": ed_key | {"crv": "Ed448"},
        "X25519": ed_key | {"crv": "X25519"},
        "short Ed25519": ed_key | {"x": b64(bytes(31))},
        "octets": {"kty": "oct", "k": b64(bytes(32))},
        "no type": {"x": "", "y": ""},
        "empty": {},
        "numbers": {"kty": "EC", "crv": "P-256", "x": 1, "y": 2},
        "no base64url": ec_key | {"x": "+/=="},
        "leading zero": rsa_key | {"e": b64(b"\x00\x01\x00\x01")},
        "loose bits": ed_key | {"x": ed_key["x"][:-1] + ("B" if ed_key["x"][-1] != "B" else "C")},
    }


@pytest.mark.parametrize("case", list(_jwks()))
def test_unusable_keys_are_refused(shared: Shared, case: str) -> None:
    """A key that is weak, private, of another curve, or not written in its one form is badPublicKey with the reason."""

    async def work(server: ServerUnderTest) -> None:
        key = KEYS["RS256" if "RSA" in case or "exponent" in case or case == "leading zero" else "ES256"]
        key = KEYS["EdDSA"] if "Ed25519" in case or case == "loose bits" else key
        answer = await Client(server, key).post("new-account", {}, jwk=_jwks()[case])
        assert (answer.status, answer.problem) == (400, "badPublicKey")

    shared.run(work)


def test_nonce_counts_once(shared: Shared) -> None:
    """A replayed, invented or missing nonce is badNonce, with a new one that works for the same request."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        header = await client.header(f"{URL}/new-order")
        payload = {"identifiers": [{"type": "dns", "value": "nonce.example.com"}]}
        body = json.dumps(jws(header, payload, client.key.sign)).encode()
        assert (await client.send("new-order", body)).status == 201
        replayed = await client.send("new-order", body)
        assert (replayed.status, replayed.problem) == (400, "badNonce")
        assert client.nonce is not None
        assert (await client.post("new-order", payload)).status == 201
        for nonce in ("AAAA", None):
            answer = await client.post("new-order", payload, nonce=nonce)
            assert (answer.status, answer.problem) == (400, "badNonce")
            assert answer.header("replay-nonce")

    shared.run(work)


@pytest.mark.parametrize("nonce", ["a=", "a b", "ä", "AAAA==", "+/+/", "", 7, ["A"]])
def test_nonce_must_be_base64url(shared: Shared, nonce: object) -> None:
    """A nonce that is not base64url is malformed, which is another fault than badNonce."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        assert (await client.post("new-order", {}, nonce=nonce)).problem == "malformed"

    shared.run(work)


def test_a_refused_signature_uses_no_nonce(shared: Shared) -> None:
    """A stranger cannot use up somebody's nonce: it still works after a request with a wrong signature."""

    async def work(server: ServerUnderTest) -> None:
        client, stranger = await server.account(), Key.make()
        header = await client.header(f"{URL}/new-order")
        payload = {"identifiers": [{"type": "dns", "value": "kept.example.com"}]}
        wrong = json.dumps(jws(header, payload, stranger.sign)).encode()
        assert (await client.send("new-order", wrong)).problem == "unauthorized"
        right = json.dumps(jws(header, payload, client.key.sign)).encode()
        assert (await client.send("new-order", right)).status == 201

    shared.run(work)


@pytest.mark.parametrize(
    "url", [f"{URL}/revoke-cert", "http://ca.example.test/acme/new-order", f"{URL}/new-order?", "/acme/new-order", None]
)
def test_request_is_for_the_url_it_was_signed_for(shared: Shared, url: str | None) -> None:
    """A request that was signed for another URL, or for none, is unauthorized."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        answer = await client.post("new-order", {}, url=url)
        assert (answer.status, answer.problem) == (403, "unauthorized")

    shared.run(work)


def test_query_is_part_of_the_url(shared: Shared) -> None:
    """A query that was not signed is refused; the host in the request does not matter."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        header = await client.header(f"{client.kid}/orders")
        body = json.dumps(jws(header, None, client.key.sign)).encode()
        assert (await client.send(f"{client.kid}/orders?after=1", body)).problem == "unauthorized"
        for host in ("elsewhere", "[", "]:x", ""):
            header = await client.header(f"{client.kid}/orders")
            body = json.dumps(jws(header, None, client.key.sign)).encode()
            headers = {"content-type": JSON_TYPE, "host": host}
            assert (await server.ask("POST", f"{client.kid}/orders", body, headers)).status == 200

    shared.run(work)


@pytest.mark.parametrize(
    ("kid", "problem"),
    [
        (f"{URL}/account/nobody", "accountDoesNotExist"),
        (f"{URL}/account/", "accountDoesNotExist"),
        (f"{URL}/account/\ud800", "malformed"),
        ("https://other.example/acme/account/1", "accountDoesNotExist"),
        ("", "accountDoesNotExist"),
        (7, "malformed"),
        (None, "malformed"),
    ],
)
def test_unknown_accounts(shared: Shared, kid: object, problem: str) -> None:
    """A key ID that is no account's of this server is refused with the type that clients act on."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        answer = await client.post("new-order", {}, kid=kid)
        assert (answer.status, answer.problem) == (400, problem)

    shared.run(work)


def test_kid_of_another_host_with_the_right_account(shared: Shared) -> None:
    """The account's ID behind another host is not the account."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        assert client.kid is not None
        elsewhere = client.kid.replace("ca.example.test", "other.example")
        assert (await client.post("new-order", {}, kid=elsewhere)).problem == "accountDoesNotExist"

    shared.run(work)


def test_either_jwk_or_kid(shared: Shared) -> None:
    """Both are malformed together; resources of accounts want kid, newAccount wants jwk."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        assert (await client.post("new-order", {}, jwk=client.key.jwk)).problem == "malformed"
        for path in POSTED[1:]:
            if path == "revoke-cert":
                continue
            answer = await Client(server, client.key).post(path, {} if "change" in path else None)
            assert (answer.status, answer.problem) == (400, "malformed"), path
        assert (await client.post("new-account", {})).problem == "malformed"

    shared.run(work)


@pytest.mark.parametrize("media_type", ["application/json", "", "text/plain", "application/jose", "*/*"])
def test_media_type_of_requests(shared: Shared, media_type: str) -> None:
    """A request of another media type is 415; one with a parameter is taken."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        for value, status in ((media_type, 415), (f"{JSON_TYPE}; charset=utf-8", 200)):
            header = await client.header(f"{client.kid}/orders")
            body = json.dumps(jws(header, None, client.key.sign)).encode()
            answer = await server.ask("POST", f"{client.kid}/orders", body, {"content-type": value})
            assert answer.status == status

    shared.run(work)


def _mangled(whole: dict[str, str]) -> dict[str, bytes]:
    """Return bodies that are no JWS as ACME wants it, by what is wrong."""
    text = json.dumps(whole)
    general = {"payload": whole["payload"], "signatures": [{k: whole[k] for k in ("protected", "signature")}]}
    protected = whole["protected"]
    return {
        "empty": b"",
        "no JSON": b"protected",
        "no object": json.dumps([whole]).encode(),
        "general form": json.dumps(general).encode(),
        "two signatures": json.dumps(general | {"signatures": general["signatures"] * 2}).encode(),  # type: ignore[operator]
        "both forms": json.dumps(general | whole).encode(),
        "compact form": f"{protected}.{whole['payload']}.{whole['signature']}".encode(),
        "unprotected header": json.dumps(whole | {"header": {}}).encode(),
        "unprotected alg": json.dumps(whole | {"header": {"alg": "ES256"}}).encode(),
        "no payload": json.dumps({k: whole[k] for k in ("protected", "signature")}).encode(),
        "no signature": json.dumps({k: whole[k] for k in ("protected", "payload")}).encode(),
        "no header": json.dumps({k: whole[k] for k in ("payload", "signature")}).encode(),
        "null payload": json.dumps(whole | {"payload": None}).encode(),
        "twice": (text[:-1] + f', "payload": "{whole["payload"]}"}}').encode(),
        "padding": json.dumps(whole | {"signature": whole["signature"] + "=="}).encode(),
        "base64": json.dumps(whole | {"protected": "+/" + protected}).encode(),
        "line ends": json.dumps(whole | {"payload": whole["payload"] + "\n"}).encode(),
        "trailing": text.encode() + b"x",
        "deep": b'{"protected":' + b"[" * 30000 + b"]" * 30000 + b"}",
        "NUL": text.encode() + b"\x00",
    }


@pytest.mark.parametrize("case", list(_mangled({"protected": "", "payload": "", "signature": ""})))
def test_requests_have_one_form(shared: Shared, case: str) -> None:
    """Only the flattened form with exactly its three members, base64url without padding, is taken."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        whole = jws(await client.header(f"{URL}/new-order"), {"identifiers": []}, client.key.sign)
        answer = await client.send("new-order", _mangled(whole)[case])
        assert (answer.status, answer.problem) == (400, "malformed")

    shared.run(work)


@pytest.mark.parametrize(
    "change",
    [
        {"crit": ["b64"], "b64": False},
        {"crit": ["exp"], "exp": 1},
        {"crit": []},
        {"crit": "url"},
        {"b64": False},
    ],
    ids=str,
)
def test_critical_headers_are_refused(shared: Shared, change: dict[str, Any]) -> None:
    """The unencoded payload option must not be used, and no critical header is known here."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        answer = await client.post("new-order", {"identifiers": [{"type": "dns", "value": "a.b"}]}, **change)
        assert answer.status in (400, 403)
        assert answer.problem in ("malformed", "unauthorized")

    shared.run(work)


def test_headers_that_nobody_knows_are_ignored(shared: Shared) -> None:
    """A header parameter that is not critical and not known changes nothing (RFC 7515)."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        payload = {"identifiers": [{"type": "dns", "value": "unknown-header.example.com"}]}
        assert (await client.post("new-order", payload, typ="JOSE", cty="x", something={"a": 1})).status == 201

    shared.run(work)


@pytest.mark.parametrize("text", ['{"alg":"ES256","alg":"ES256"}', "[]", "7", "", "{", '{"alg":NaN}', "[" * 20000])
def test_protected_header_is_one_object(shared: Shared, text: str) -> None:
    """A protected header that is no JSON object, or has a name twice, is malformed."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        body = json.dumps(jws(text, {}, client.key.sign)).encode()
        assert (await client.send("new-order", body)).problem == "malformed"

    shared.run(work)


def test_a_name_twice_in_the_header_of_a_right_request(shared: Shared) -> None:
    """A protected header with two URLs is malformed, whichever of them is right."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        for urls in ((f"{URL}/new-order", "other"), ("other", f"{URL}/new-order")):
            header = json.dumps(await client.header("URL")).replace(
                '"url": "URL"', f'"url": "{urls[0]}", "url": "{urls[1]}"'
            )
            body = json.dumps(jws(header, {}, client.key.sign)).encode()
            assert (await client.send("new-order", body)).problem == "malformed"

    shared.run(work)


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"7", b"null", b"{", b'{"identifiers":[],"identifiers":[]}', b"\xff", b"[" * 20000]
)
def test_payload_is_one_object(shared: Shared, payload: bytes) -> None:
    """A signed payload that is no JSON object, or has a name twice, is malformed where one is needed."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        for path in ("new-order", "key-change", "revoke-cert"):
            assert (await client.post(path, payload)).problem == "malformed"
        assert (await Client(server, Key.make()).post("new-account", payload)).problem == "malformed"

    shared.run(work)


def test_symmetric_signature_with_the_public_key(shared: Shared) -> None:
    """The public key, in any of its forms, is no secret for HS256."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        secrets = (json.dumps(client.key.jwk).encode(), client.key.jwk["x"].encode(), client.key.thumbprint.encode())
        for secret in secrets:
            header = await client.header(f"{URL}/new-order") | {"alg": "HS256"}
            body = json.dumps(jws(header, {"identifiers": []}, mac(secret))).encode()
            assert (await client.send("new-order", body)).problem == "badSignatureAlgorithm"

    shared.run(work)


@pytest.mark.parametrize("signature", [b"", b"\x00" * 64, b"\x01", b"\xff" * 5000])
def test_wrong_signatures(shared: Shared, signature: bytes) -> None:
    """An empty, zero, short or huge signature is unauthorized."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        header = await client.header(f"{URL}/new-order")
        body = json.dumps(jws(header, {"identifiers": []}, lambda _: signature)).encode()
        answer = await client.send("new-order", body)
        assert (answer.status, answer.problem) == (403, "unauthorized")

    shared.run(work)


def test_huge_bodies_are_refused(shared: Shared) -> None:
    """A request above the limit is 413, however much larger, and whether or not its signature would be right."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        for size in (128 << 10, 200 << 10, 1 << 20):
            answer = await client.post("new-order", {"identifiers": [], "x": "x" * size})
            assert (answer.status, answer.problem) == (413, "malformed")

    shared.run(work)


def test_huge_headers_are_refused(shared: Shared) -> None:
    """A protected header of tens of thousands of bytes is refused, whoever sends it."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        for client_ in (client, Client(server, Key.make())):
            answer = await client_.post("new-account" if client_.kid is None else "new-order", {}, typ="x" * 60000)
            assert answer.status in (400, 403)
            assert answer.json["type"].startswith(ERROR_NAMESPACE)

    shared.run(work)


def test_deep_payloads_are_refused(shared: Shared) -> None:
    """Nesting that the reader just bears breaks nothing that comes after it."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        for depth in range(880, 1000, 8):
            deep = b'{"a":' * (depth // 2) + b"[" * (depth // 2) + b"]" * (depth // 2) + b"}" * (depth // 2)
            for name in (b"profile", b"notBefore", b"replaces"):
                first = b'{"identifiers":[{"type":"dns","value":"a.example.com"}],"'
                answer = await client.post("new-order", first + name + b'":' + deep + b"}")
                assert answer.status == 400

    shared.run(work)
