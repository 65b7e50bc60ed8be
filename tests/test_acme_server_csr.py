"""Tricks with certificate requests at the ACME server: names, keys and signatures that it must not take."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import NameOID
from tests.acme_server import (
    Answer,
    Client,
    Key,
    ServerUnderTest,
    Shared,
    csr_for,
    leaf_of,
    shared_server,
)

from mtc.wire import encode_bit_string, encode_oid, encode_sequence

NAME = "victim.example.com"


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    """Run one server for all tests of this file that need no other."""
    with shared_server() as server:
        yield server


async def ready_order(client: Client, *names: str) -> Answer:
    """Return an order that is ready to be finalized."""
    order = await client.order(*names)
    await client.authorize(order)
    for url in order.json["authorizations"]:
        await client.settled(url)
    order = await client.post(order.location)
    assert order.json["status"] == "ready"
    return order


async def entries_of(server: ServerUnderTest) -> int:
    """Return how many entries the log has."""
    return server.ca.log.record.tree_size


def sign_by_hand(key: Any, csr: bytes, oid: str, digest: hashes.HashAlgorithm) -> bytes:  # noqa: ANN401 - any key
    """Return a request signed anew, with an algorithm that the library does not offer for requests."""
    tbs = x509.load_der_x509_csr(csr).tbs_certrequest_bytes
    if isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(tbs, padding.PKCS1v15(), digest)
    else:
        signature = key.sign(tbs, ec.ECDSA(digest))
    return encode_sequence(tbs, encode_sequence(encode_oid_tlv(oid)), encode_bit_string(signature))


def sign_with_rsa(oid: str, digest: hashes.HashAlgorithm) -> bytes:
    """Return a request with an RSA key, signed with an algorithm."""
    key = rsa.generate_private_key(65537, 2048)
    return sign_by_hand(key, csr_for([NAME], key), oid, digest)


def encode_oid_tlv(oid: str) -> bytes:
    """Return an OBJECT IDENTIFIER with its tag and length."""
    contents = encode_oid(oid)
    return contents if contents[:1] == b"\x06" else b"\x06" + bytes([len(contents)]) + contents


def two_common_names(first: str, second: str) -> bytes:
    """Return a request with two commonNames."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.NameAttribute(NameOID.COMMON_NAME, name) for name in (first, second)]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def tricks() -> dict[str, Callable[[Client], bytes]]:
    """Return certificate requests that must not be taken for an order of NAME, by the trick."""
    p256 = ec.generate_private_key(ec.SECP256R1())
    good = csr_for([NAME], p256)
    x509_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    other_name = x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.5.7.8.7"), b"\x16\x01x")
    return {
        "another name": lambda _: csr_for(["other.example.com"]),
        "one name more": lambda _: csr_for([NAME, "other.example.com"]),
        "a wildcard more": lambda _: csr_for([NAME, f"*.{NAME}"]),
        "an address more": lambda _: csr_for([NAME, "192.0.2.1"]),
        "the name above": lambda _: csr_for([NAME, "example.com"]),
        "no name": lambda _: csr_for([]),
        "commonName of another": lambda _: csr_for([NAME], common_name="other.example.com"),
        "commonName alone of another": lambda _: csr_for([], common_name="other.example.com"),
        "commonName that is no name": lambda _: csr_for([NAME], common_name="My Server"),
        "commonName with NUL": lambda _: csr_for([NAME], common_name=f"{NAME}\x00.evil.example"),
        "second commonName": lambda _: two_common_names(NAME, "other.example.com"),
        "mail address": lambda _: csr_for([NAME], others=[x509.RFC822Name("a@example.com")]),
        "URI": lambda _: csr_for([NAME], others=[x509.UniformResourceIdentifier("https://example.com")]),
        "directory name": lambda _: csr_for([NAME], others=[x509.DirectoryName(x509_name)]),
        "other name": lambda _: csr_for([NAME], others=[other_name]),
        "registered ID": lambda _: csr_for([NAME], others=[x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))]),
        "name with NUL": lambda _: good.replace(NAME.encode(), NAME[:-1].encode() + b"\x00"),
        "RSA of 1024 bits": lambda _: csr_for([NAME], rsa.generate_private_key(65537, 1024)),  # noqa: S505 - weak
        "RSA with exponent 3": lambda _: csr_for([NAME], rsa.generate_private_key(3, 2048)),
        "secp256k1": lambda _: csr_for([NAME], ec.generate_private_key(ec.SECP256K1())),
        "P-224": lambda _: csr_for([NAME], ec.generate_private_key(ec.SECP224R1())),
        "Ed448": lambda _: csr_for([NAME], ed448.Ed448PrivateKey.generate()),
        "SHA-1 with ECDSA": lambda _: sign_by_hand(p256, good, "1.2.840.10045.4.1", hashes.SHA1()),  # noqa: S303
        "SHA-1 with RSA": lambda _: sign_with_rsa("1.2.840.113549.1.1.5", hashes.SHA1()),  # noqa: S303
        "signed by another key": lambda _: sign_by_hand(
            ec.generate_private_key(ec.SECP256R1()), good, "1.2.840.10045.4.3.2", hashes.SHA256()
        ),
        "the account's key": lambda client: csr_for([NAME], client.key.private),
        "cut": lambda _: good[:-1],
        "with a tail": lambda _: good + b"\x00",
        "a certificate": lambda client: client.server.ca.parts.folder.certificate.der,
        "PEM": lambda _: b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        "a private key": lambda _: p256.private_numbers().private_value.to_bytes(32, "big"),
        "nothing": lambda _: b"",
        "zeros": lambda _: bytes(60000),
    }


TRICKS = tricks()


@pytest.mark.parametrize("trick", TRICKS)
def test_tricks_with_requests(shared: Shared, trick: str) -> None:
    """Each trick is badCSR, logs nothing, and leaves the order ready for a right request."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        order = await ready_order(client, NAME)
        size = await entries_of(server)
        answer = await client.finalize(order, TRICKS[trick](client))
        assert (answer.status, answer.problem) == (400, "badCSR")
        assert (await client.post(order.location)).json["status"] == "ready"
        assert await entries_of(server) == size

    shared.run(work)


def test_keys_that_are_never_certified(shared: Shared) -> None:
    """The CA's own key, another account's key, and one that an operator has blocked are badCSR."""

    async def work(server: ServerUnderTest) -> None:
        client, other = await server.account(), await server.account(Key.make("EdDSA"))
        pem = (server.ca.parts.folder.path / "signer" / "key.pem").read_bytes()
        blocked = ec.generate_private_key(ec.SECP384R1())
        spki = blocked.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        digest = hashes.Hash(hashes.SHA256())
        digest.update(spki)
        await server.store.block("key", digest.finalize().hex(), "stolen", server.clock.now())
        order = await ready_order(client, NAME)
        size = await entries_of(server)
        for key in (load_pem_private_key(pem, None), other.key.private, blocked):
            answer = await client.finalize(order, csr_for([NAME], key))
            assert (answer.status, answer.problem) == (400, "badCSR")
        assert await entries_of(server) == size

    shared.run(work)


def test_names_blocked_after_validation(shared: Shared) -> None:
    """A name that an operator blocks while its order is ready is not certified any more."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        order = await ready_order(client, "late.blocked.example")
        await server.store.block("name", "blocked.example", "court order", server.clock.now())
        answer = await client.finalize(order, csr_for(["late.blocked.example"]))
        assert answer.problem == "badCSR"
        assert "blocked.example" in answer.json["detail"] or "blocked here" in answer.json["detail"]

    shared.run(work)


@pytest.mark.parametrize(
    "kind",
    [mldsa.MLDSA44PrivateKey, mldsa.MLDSA65PrivateKey, mldsa.MLDSA87PrivateKey, ed25519.Ed25519PrivateKey],
    ids=lambda kind: kind.__name__,
)
def test_new_kinds_of_keys_are_certified(shared: Shared, kind: Any) -> None:  # noqa: ANN401 - a class of keys
    """ML-DSA and Ed25519 keys get certificates, as RSA and ECDSA keys do."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        key = kind.generate()
        obtained = await client.obtain(NAME, key=key)
        certificate = x509.load_der_x509_certificate(obtained.der)
        spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert spki == key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    shared.run(work)


def test_extensions_of_requests_are_not_copied(shared: Shared) -> None:
    """A request that asks to be a CA gets a certificate that is none."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        order = await ready_order(client, NAME)
        key = ec.generate_private_key(ec.SECP256R1())
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        await client.finalize(order, builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER))
        final = await client.settled(order.location)
        certificate = x509.load_der_x509_certificate(leaf_of((await client.post(final.json["certificate"])).body))
        kinds = {type(extension.value) for extension in certificate.extensions}
        assert x509.BasicConstraints not in kinds
        assert not certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign

    shared.run(work)
