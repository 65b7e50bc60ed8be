"""Algorithms, keys, signers and verifiers: each signs and verifies, and refuses what is not its own."""

import base64
import dataclasses
import hashlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, mldsa, rsa, x25519

from mtc.crypto import (
    HASH_ALGORITHMS,
    LocalSigner,
    Signer,
    Verifier,
    algorithm_names,
    generate_key,
    parse_hash_algorithm,
    parse_private_key,
    parse_public_key,
    parse_public_key_pem,
    parse_signature_algorithm,
    register_algorithm,
    signature_algorithm_of,
)
from mtc.crypto import algorithms as algorithms_module
from mtc.errors import Error, FormatError, Reason, SignatureError, UsageError
from mtc.kernel import HASH_SIZES, Kernel
from mtc.wire import PEMBlock, encode_bit_string, encode_oid, encode_pem, encode_sequence, encode_tlv

LoadVectors = Callable[[str], Any]

NAMES = ("ml-dsa-44", "ml-dsa-65", "ml-dsa-87", "ecdsa-p256-sha256", "ecdsa-p384-sha384", "ed25519")
VECTOR_NAMES = {"mldsa44": "ml-dsa-44", "mldsa65": "ml-dsa-65", "ecdsa_p256_sha256": "ecdsa-p256-sha256"}
CERTIFICATE_FILES = (
    "certs_boringssl_pki_plants04.json",
    "certs_boringssl_verify_plants04.json",
    "certs_boringssl_x509_plants05.json",
    "certs_demo_plants07.json",
)
MESSAGE = b"subtree/v1\n\x00 a message"
PASSPHRASE = b"correct horse battery staple"


@pytest.fixture(scope="module", params=NAMES)
def signer(request: pytest.FixtureRequest) -> LocalSigner:
    """Return a new key of each algorithm."""
    return generate_key(parse_signature_algorithm(request.param))


@pytest.fixture(scope="module")
def signers() -> dict[str, LocalSigner]:
    """Return a new key of every algorithm, by name."""
    return {name: generate_key(parse_signature_algorithm(name)) for name in NAMES}


def fault_of(call: Callable[[], object]) -> tuple[type[Error], Reason]:
    """Return type and reason of the error that `call` must raise."""
    with pytest.raises(Error) as caught:
        call()
    return type(caught.value), caught.value.reason


def finish(coroutine: Coroutine[Any, Any, bytes]) -> bytes:
    """Run a coroutine that waits for nothing."""
    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    value = stopped.value.value
    assert isinstance(value, bytes)
    return value


def pkcs8(key: Any, passphrase: bytes | None = None, form: str = "DER") -> bytes:  # noqa: ANN401 - library types
    """Return a library key as PKCS#8."""
    protection = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    encoded = key.private_bytes(getattr(serialization.Encoding, form), serialization.PrivateFormat.PKCS8, protection)
    assert isinstance(encoded, bytes)
    return encoded


def spki(key: Any) -> bytes:  # noqa: ANN401 - library types
    """Return a library key's public half as SubjectPublicKeyInfo."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    encoded = key.public_key().public_bytes(serialization.Encoding.DER, form)
    assert isinstance(encoded, bytes)
    return encoded


# Vectors.


def cosigners(load_vectors: LoadVectors) -> Iterator[dict[str, str]]:
    """Yield each cosigner of the foreign certificates."""
    for name in CERTIFICATE_FILES:
        yield from load_vectors(name)["cosigners"]


def test_test_keys_have_their_public_keys(load_vectors: LoadVectors) -> None:
    """Each private test key of the vectors, ML-DSA seeds included, gives the public key published with it."""
    seen = set()
    for cosigner in cosigners(load_vectors):
        signer = parse_private_key(base64.b64decode(cosigner["test_private_key_pkcs8"]))
        public = base64.b64decode(cosigner["spki_der"])
        assert signer.algorithm.name == VECTOR_NAMES[cosigner["algorithm"]]
        assert signer.public_key == public
        verifier = parse_public_key(public, signer.algorithm)
        verifier.verify(MESSAGE, signer.sign_now(MESSAGE))
        seen.add(signer.algorithm.name)
    assert seen == set(VECTOR_NAMES.values())


def test_foreign_cosignature_verifies(load_vectors: LoadVectors) -> None:
    """The demo's ML-DSA-44 cosignature verifies over the published message, with the empty context, and no other."""
    vectors = load_vectors("certs_demo_plants07.json")
    keys = {cosigner["id"]: cosigner for cosigner in vectors["cosigners"]}
    for case in vectors["cosignatures"]:
        algorithm = parse_signature_algorithm(VECTOR_NAMES[case["algorithm"]])
        verifier = parse_public_key(base64.b64decode(keys[case["cosigner_id"]]["spki_der"]), algorithm)
        message, signature = bytes.fromhex(case["message"]), bytes.fromhex(case["signature"])
        assert case["valid"]
        verifier.verify(message, signature)
        with pytest.raises(SignatureError):
            verifier.verify(message + b"\x00", signature)


def test_seed_gives_the_raw_key(load_vectors: LoadVectors) -> None:
    """The ML-DSA-44 seed of the signed notes gives the raw public key there."""
    for case in load_vectors("signed_notes.json")["mldsa44_key_ids"]:
        seed = bytes.fromhex(case["seed"])
        key = parse_private_key(pkcs8(mldsa.MLDSA44PrivateKey.from_seed_bytes(seed)))
        assert key.public_key.endswith(bytes.fromhex(case["public_key"]))


# Every algorithm.


def test_algorithms_are_registered() -> None:
    """These algorithms are there, with the identifiers of their RFCs and no parameters."""
    assert algorithm_names() == NAMES
    identifiers = {name: parse_signature_algorithm(name).identifier.hex() for name in NAMES}
    assert identifiers == {
        "ml-dsa-44": "300b0609608648016503040311",
        "ml-dsa-65": "300b0609608648016503040312",
        "ml-dsa-87": "300b0609608648016503040313",
        "ecdsa-p256-sha256": "300a06082a8648ce3d040302",
        "ecdsa-p384-sha384": "300a06082a8648ce3d040303",
        "ed25519": "300506032b6570",
    }
    for name, identifier in identifiers.items():
        assert signature_algorithm_of(bytes.fromhex(identifier)) is parse_signature_algorithm(name)


def test_what_is_signed_verifies(signer: LocalSigner) -> None:
    """A signature verifies under its key over its message, awaited or not, and has at most the size promised."""
    verifier = parse_public_key(signer.public_key, signer.algorithm)
    as_signer: Signer = signer
    as_verifier: Verifier = verifier
    assert as_verifier.public_key == as_signer.public_key
    assert as_verifier.algorithm is as_signer.algorithm
    for message in (MESSAGE, b"", bytes(100_000)):
        for signature in (signer.sign_now(message), finish(as_signer.sign(message))):
            verifier.verify(message, signature)
            assert 0 < len(signature) <= signer.algorithm.signature_size
            if not signer.algorithm.name.startswith("ecdsa"):
                assert len(signature) == signer.algorithm.signature_size


def test_what_is_not_signed_is_refused(signer: LocalSigner) -> None:
    """Another message, another key, a changed bit, and signatures of any wrong length are all a bad signature."""
    verifier = parse_public_key(signer.public_key, signer.algorithm)
    signature = signer.sign_now(MESSAGE)
    other = generate_key(signer.algorithm)
    bad = [signature[:size] for size in (0, 1, 32, len(signature) - 1)]
    bad += [signature + b"\x00", bytes(len(signature)), b"\xff" * len(signature), bytes(10_000)]
    bad += [other.sign_now(MESSAGE), signer.sign_now(MESSAGE + b"x")]
    for place in (0, 1, 5, len(signature) // 2, len(signature) - 1):
        changed = bytearray(signature)
        changed[place] ^= 1
        bad.append(bytes(changed))
    for wrong in bad:
        assert fault_of(lambda: verifier.verify(MESSAGE, wrong)) == (SignatureError, Reason.BAD_SIGNATURE)  # noqa: B023
    assert fault_of(lambda: verifier.verify(b"", signature)) == (SignatureError, Reason.BAD_SIGNATURE)


def test_keys_are_of_one_algorithm(signers: dict[str, LocalSigner]) -> None:
    """A public key is taken by its own algorithm and refused by every other."""
    for name, signer in signers.items():
        for other in NAMES:
            algorithm = parse_signature_algorithm(other)
            if other == name:
                assert parse_public_key(signer.public_key, algorithm).public_key == signer.public_key
            else:
                fault = fault_of(lambda: parse_public_key(signer.public_key, algorithm))  # noqa: B023 - called at once
                assert fault == (FormatError, Reason.ALGORITHM_MISMATCH)


def test_private_keys_return(signer: LocalSigner) -> None:
    """A private key is read as it was written: as PEM, as DER, encrypted or not; the algorithm follows from the key."""
    text = signer.encode_pem()
    assert text.startswith(b"-----BEGIN PRIVATE KEY-----\n")
    encrypted = signer.encode_pem(PASSPHRASE)
    assert encrypted.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    copies = [parse_private_key(text), parse_private_key(b"\n \n" + text), parse_private_key(encrypted, PASSPHRASE)]
    copies += [parse_private_key(pkcs8(signer._key)), parse_private_key(pkcs8(signer._key, PASSPHRASE), PASSPHRASE)]
    for copy in copies:
        assert copy.algorithm is signer.algorithm
        assert copy.public_key == signer.public_key
        parse_public_key(signer.public_key, signer.algorithm).verify(MESSAGE, copy.sign_now(MESSAGE))


def test_passphrases_are_checked(signer: LocalSigner) -> None:
    """A passphrase that is missing, wrong, empty or not needed is our caller's mistake."""
    text, encrypted = signer.encode_pem(), signer.encode_pem(PASSPHRASE)
    assert fault_of(lambda: parse_private_key(encrypted)) == (UsageError, Reason.USAGE)
    assert fault_of(lambda: parse_private_key(encrypted, b"")) == (UsageError, Reason.USAGE)
    assert fault_of(lambda: parse_private_key(encrypted, b"wrong")) == (UsageError, Reason.BAD_KEY)
    assert fault_of(lambda: parse_private_key(text, PASSPHRASE)) == (UsageError, Reason.USAGE)
    assert fault_of(lambda: signer.encode_pem(b"")) == (UsageError, Reason.USAGE)


def test_errors_hold_no_secrets(signer: LocalSigner) -> None:
    """No error about a private key quotes the key or the passphrase, and no representation shows them."""
    text, der = signer.encode_pem(), pkcs8(signer._key)
    attempts: list[tuple[bytes, bytes | None]] = [
        (text[:-40], None),
        (text.replace(b"PRIVATE", b"PUBLIC"), None),
        (text.replace(b"\n", b"\n!", 2), None),
        (text, PASSPHRASE),
        (signer.encode_pem(PASSPHRASE), None),
        (signer.encode_pem(PASSPHRASE), PASSPHRASE + b"x"),
        (der[:-1], None),
        (der + b"\x00", None),
        (der[:20] + bytes((der[20] ^ 1,)) + der[21:-1], PASSPHRASE),
    ]
    secrets = [line for line in text.decode().split("\n") if line and "-" not in line]
    secrets += [der.hex()[40:80], PASSPHRASE.decode(), str(der[20:40])]
    for data, passphrase in attempts:
        with pytest.raises(Error) as caught:
            parse_private_key(data, passphrase)
        error = caught.value
        assert error.reason in {Reason.BAD_KEY, Reason.USAGE}
        assert error.__cause__ is None
        assert error.__suppress_context__
        shown = f"{error!r} {error} {error.facts}"
        assert not any(secret in shown for secret in secrets)
    assert repr(signer) == str(signer) == f"LocalSigner({signer.algorithm.name})"
    assert signer.algorithm.name in repr(signer.algorithm)


# Keys that are not taken.


@pytest.mark.parametrize("data", [b"", b"\x00", b"-----", b"-----BEGIN PRIVATE KEY-----\n", b"\x30\x03\x02\x01\x00"])
def test_what_is_no_private_key(data: bytes) -> None:
    """Bytes that are no private key are malformed, or with a passphrase perhaps only wrongly opened."""
    assert fault_of(lambda: parse_private_key(data)) == (FormatError, Reason.BAD_KEY)
    assert fault_of(lambda: parse_private_key(data, PASSPHRASE)) == (UsageError, Reason.BAD_KEY)


@pytest.fixture(scope="module")
def foreign_keys() -> list[Any]:
    """Return keys of no algorithm here: RSA, other curves, another Edwards curve, key agreement."""
    return [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP521R1()),
        ec.generate_private_key(ec.SECP256K1()),
        ed448.Ed448PrivateKey.generate(),
        x25519.X25519PrivateKey.generate(),
    ]


def test_other_keys_are_refused(foreign_keys: list[Any]) -> None:
    """Keys of no algorithm here are read and refused by name, private and public."""
    for key in foreign_keys:
        assert fault_of(lambda: parse_private_key(pkcs8(key))) == (FormatError, Reason.UNKNOWN_ALGORITHM)  # noqa: B023
        for name in NAMES:
            algorithm = parse_signature_algorithm(name)
            fault = fault_of(lambda: parse_public_key(spki(key), algorithm))  # noqa: B023 - called at once
            assert fault == (FormatError, Reason.ALGORITHM_MISMATCH)


@pytest.mark.filterwarnings("error")
def test_bad_public_keys_are_refused(signer: LocalSigner) -> None:
    """A public key that is cut off, followed by bytes, empty or a private key cannot be read."""
    key = signer.public_key
    bad = [key[:size] for size in (0, 1, 10, len(key) - 1)]
    bad += [key + b"\x00", pkcs8(signer._key), b"\x30\x00", key.replace(b"\x03", b"\x04", 1)]
    for data in bad:
        fault = fault_of(lambda: parse_public_key(data, signer.algorithm))  # noqa: B023 - called at once
        assert fault == (FormatError, Reason.BAD_KEY)


def test_public_keys_are_canonical() -> None:
    """A compressed elliptic-curve point is the same key in other bytes, and refused: a key has one encoding."""
    algorithm = parse_signature_algorithm("ecdsa-p256-sha256")
    key = ec.generate_private_key(ec.SECP256R1())
    point = key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    curve = encode_sequence(encode_oid("1.2.840.10045.2.1"), encode_oid("1.2.840.10045.3.1.7"))
    assert parse_public_key(spki(key), algorithm).algorithm is algorithm
    compressed = encode_sequence(curve, encode_bit_string(point))
    assert fault_of(lambda: parse_public_key(compressed, algorithm)) == (FormatError, Reason.BAD_KEY)


def test_public_keys_in_pem(signer: LocalSigner) -> None:
    """A public key file holds exactly one PUBLIC KEY block."""
    block = PEMBlock("PUBLIC KEY", signer.public_key)
    assert parse_public_key_pem(encode_pem([block]), signer.algorithm).public_key == signer.public_key
    for blocks in ([], [block, block], [PEMBlock("CERTIFICATE", signer.public_key)]):
        fault = fault_of(lambda: parse_public_key_pem(encode_pem(blocks), signer.algorithm))  # noqa: B023 - at once
        assert fault == (FormatError, Reason.BAD_PEM)


# The registry.


def test_unknown_algorithms_are_named() -> None:
    """An unknown name is refused with the names there are, an unknown identifier with its OID."""
    with pytest.raises(UsageError, match=", ".join(NAMES)) as caught:
        parse_signature_algorithm("rsa")
    assert caught.value.reason is Reason.UNKNOWN_ALGORITHM
    with pytest.raises(UsageError, match="sha256, sm3") as caught:
        parse_hash_algorithm("md5")
    assert caught.value.reason is Reason.UNKNOWN_ALGORITHM
    with pytest.raises(FormatError, match=r"1\.2\.3 is not known") as unknown:
        signature_algorithm_of(encode_sequence(encode_oid("1.2.3")))
    assert (unknown.value.reason, unknown.value.facts) == (Reason.UNKNOWN_ALGORITHM, {"oid": "1.2.3"})
    with pytest.raises(FormatError, match="with parameters") as unknown:
        signature_algorithm_of(encode_sequence(encode_oid("1.2.840.10045.4.3.2"), b"\x05\x00"))
    assert unknown.value.reason is Reason.UNKNOWN_ALGORITHM
    assert fault_of(lambda: signature_algorithm_of(b"")) == (FormatError, Reason.TRUNCATED)
    assert fault_of(lambda: signature_algorithm_of(encode_tlv(0x31, b""))) == (FormatError, Reason.BAD_TAG)


def test_registry_is_open_but_not_ambiguous(monkeypatch: pytest.MonkeyPatch) -> None:
    """An algorithm may be added once, under a name and an OID that no other has."""
    known = dict(algorithms_module._ALGORITHMS)
    monkeypatch.setattr(algorithms_module, "_ALGORITHMS", known)
    ed25519 = parse_signature_algorithm("ed25519")
    added = dataclasses.replace(ed25519, name="ed25519-again", oid="1.2.3.4")
    register_algorithm(added)
    register_algorithm(added)
    assert parse_signature_algorithm("ed25519-again") is added
    assert signature_algorithm_of(added.identifier) is added
    for other in (dataclasses.replace(added, name="new"), dataclasses.replace(added, oid="1.2.3.5")):
        assert fault_of(lambda: register_algorithm(other)) == (UsageError, Reason.USAGE)  # noqa: B023 - called at once
    assert algorithm_names() == (*NAMES, "ed25519-again")


def test_hashes_have_names(kernel: Kernel) -> None:
    """The tree hashes of protocols are those that the kernels compute, with the OIDs of their standards."""
    assert set(HASH_ALGORITHMS) == set(HASH_SIZES)
    identifiers = {"sha256": "300b0609608648016503040201", "sm3": "300a06082a811ccf55018311"}
    for name, algorithm in HASH_ALGORITHMS.items():
        assert parse_hash_algorithm(name) is algorithm
        assert algorithm.identifier.hex() == identifiers[name]
        assert algorithm.size == HASH_SIZES[name]
        if kernel.name == "native" or name in hashlib.algorithms_available:
            assert len(kernel.hasher(name).empty) == algorithm.size


def test_other_private_key_forms_are_refused_with_the_cure() -> None:
    """A SEC1 key file is no PKCS#8, and the message says how to convert it."""
    key = ec.generate_private_key(ec.SECP256R1())
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    with pytest.raises(FormatError) as caught:
        parse_private_key(text)
    assert caught.value.reason is Reason.BAD_KEY
    assert "openssl pkcs8" in caught.value.message
