"""Verification of foreign certificates: every published verdict, on both kernels, with every condition around it."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.certificates import FOREIGN
from tests.makers import SmallCA, cosigned_message, make_key

from mtc.cert import CACertificate
from mtc.crypto import parse_public_key, parse_signature_algorithm
from mtc.errors import Error, Reason, SignatureError
from mtc.ids import TrustAnchorID
from mtc.kernel import Kernel
from mtc.merkle import Subtree
from mtc.note import CosignedMessage
from mtc.trust import (
    Form,
    TrustStore,
    VerifiedSignature,
    parse_trust_store,
    trusted_ca_from_certificate,
    verify_signature,
    verify_signatures,
)
from mtc.wire import find_pem_block

LoadVectors = Callable[[str], Any]
Document = dict[str, Any]

PKI_04, VERIFY_04, X509_05, DEMO_07 = FOREIGN
ALGORITHMS = {"mldsa44": "ml-dsa-44", "mldsa65": "ml-dsa-65", "ecdsa_p256_sha256": "ecdsa-p256-sha256"}
NOW = datetime.fromtimestamp(1735689600, UTC)

WITH_SUBTREES = {
    "mtc-leaf": "landmark-relative",
    "mtc-leaf-b": "landmark-relative",
    "mtc-leaf-standalone": "landmark-relative",
    "mtc-leaf-standalone-no_ca_signer": "landmark-relative",
    "mtc-leaf-standalone-cosigner_wrong_order": Reason.BAD_ORDER,
    "mtc-leaf-bitflip": Reason.TRUSTED_SUBTREE_MISMATCH,
    "cert_10_0": "standalone",
    "cert_2_0": Reason.REVOKED,
    "cert_32_0": "standalone",
    "cert_32_1": "landmark-relative",
    "cert_33_0": "standalone",
    "cert_33_2": Reason.POLICY_NOT_MET,
    "cert_33_4": Reason.POLICY_NOT_MET,
    "cert_33_5": Reason.BAD_ORDER,
    "cert_33_8": Reason.ALGORITHM_MISMATCH,
}
"""Form or reason of each certificate in a store with the published trusted subtrees, if there are any."""
SIGNED = {"mtc-leaf-standalone", "cert_10_0", "cert_32_0", "cert_33_0"}
"""The certificates with a good CA cosignature."""


def document_of(data: Document) -> Document:
    """Return the trust store document for a vector file: the CA required, the published subtrees and serials."""
    ca: Document = {
        "id": data["ca_id"],
        "draft": data["version"],
        "cosigners": [
            {"id": item["id"], "algorithm": ALGORITHMS[item["algorithm"]], "public_key": item["spki_der"]}
            for item in data["cosigners"]
        ],
        "policy": {"require": [data["ca_id"]]},
        "trusted_subtrees": data.get("trusted_subtrees", []),
    }
    if "min_serial" in data:
        ca["revoked"] = [[0, int(data["min_serial"])], [int(data["max_serial"]) + 1, 2**64]]
    return ca


def store_of(ca: Document, kernel: Kernel) -> TrustStore:
    """Return the store of one CA's document."""
    return parse_trust_store(json.dumps({"version": 1, "cas": [ca]}).encode(), kernel)


def verdicts(data: Document, store: TrustStore) -> dict[str, str | Reason]:
    """Return form or reason for each certificate of a vector file."""
    found: dict[str, str | Reason] = {}
    for case in data["certificates"]:
        try:
            verified = verify_signature(find_pem_block(case["pem"].encode(), "CERTIFICATE"), store, NOW)
        except Error as error:
            found[case["name"]] = error.reason
        else:
            assert isinstance(verified, VerifiedSignature)
            assert verified.subtree_hash.hex() == case["info"]["subtree_hash"]
            assert verified.entry_hash.hex() == case["info"]["entry_hash"]
            assert (verified.log_number, verified.index) == (case["info"]["log"], case["info"]["index"])
            assert verified.subtree == Subtree(case["info"]["start"], case["info"]["end"])
            found[case["name"]] = verified.form.value
    return found


def names_of(data: Document) -> list[str]:
    """Return the names of a file's certificates."""
    return [case["name"] for case in data["certificates"]]


@pytest.mark.parametrize("file", FOREIGN)
def test_published_verdicts(load_vectors: LoadVectors, kernel: Kernel, file: str) -> None:
    """With the published configuration each certificate verifies or fails as published, and for the known reason."""
    data = load_vectors(file)
    found = verdicts(data, store_of(document_of(data), kernel))
    assert found == {name: WITH_SUBTREES[name] for name in names_of(data)}
    for case in data["certificates"]:
        expected = case.get("expect") or case["expect_with_trusted_subtree"]
        assert isinstance(found[case["name"]], Reason) == (expected == "fail")


@pytest.mark.parametrize("file", FOREIGN)
def test_published_verdicts_without_trusted_subtrees(load_vectors: LoadVectors, kernel: Kernel, file: str) -> None:
    """Without trusted subtrees a certificate stands on the CA's cosignature alone; signatureless ones fail."""
    data = load_vectors(file)
    found = verdicts(data, store_of(document_of(data) | {"trusted_subtrees": []}, kernel))
    for case in data["certificates"]:
        name = case["name"]
        if name in SIGNED:
            assert found[name] == Form.STANDALONE
        elif WITH_SUBTREES[name] in {Reason.BAD_ORDER, Reason.REVOKED, Reason.ALGORITHM_MISMATCH}:
            assert found[name] is WITH_SUBTREES[name]
        else:
            assert found[name] is Reason.POLICY_NOT_MET
        if "expect_without_trusted_subtrees" in case:
            assert isinstance(found[name], Reason) == (case["expect_without_trusted_subtrees"] == "fail")


@pytest.mark.parametrize("file", [PKI_04, VERIFY_04, DEMO_07])
def test_a_wrong_hash_of_a_trusted_subtree_is_never_mended(
    load_vectors: LoadVectors, kernel: Kernel, file: str
) -> None:
    """With another hash for the same range every certificate fails, even one with a good CA cosignature."""
    data = load_vectors(file)
    ca = document_of(data)
    for trusted in ca["trusted_subtrees"]:
        trusted["hash"] = "00" * 32
    found = verdicts(data, store_of(ca, kernel))
    for name in names_of(data):
        is_malformed = WITH_SUBTREES[name] is Reason.BAD_ORDER
        assert found[name] is (Reason.BAD_ORDER if is_malformed else Reason.TRUSTED_SUBTREE_MISMATCH)


def test_a_wrong_hash_beside_bit_flips(load_vectors: LoadVectors, kernel: Kernel) -> None:
    """One wrong hash fails the certificates of that subtree alone."""
    data = load_vectors(VERIFY_04)
    ca = document_of(data)
    ca["trusted_subtrees"][0]["hash"] = ca["trusted_subtrees"][1]["hash"]
    found = verdicts(data, store_of(ca, kernel))
    assert found == {
        "mtc-leaf": Reason.TRUSTED_SUBTREE_MISMATCH,
        "mtc-leaf-b": Form.LANDMARK_RELATIVE,
        "mtc-leaf-bitflip": Reason.TRUSTED_SUBTREE_MISMATCH,
    }


def test_the_ca_with_another_key_has_not_signed(load_vectors: LoadVectors, kernel: Kernel) -> None:
    """With another key for the CA what matches a trusted subtree still passes; without subtrees all of it fails."""
    data = load_vectors(PKI_04)
    ca = document_of(data)
    ca["cosigners"][1]["public_key"] = ca["cosigners"][0]["public_key"]
    assert ca["cosigners"][1]["id"] == "32473.1"
    found = verdicts(data, store_of(ca, kernel))
    assert found == {name: WITH_SUBTREES[name] for name in names_of(data)}
    found = verdicts(data, store_of(ca | {"trusted_subtrees": []}, kernel))
    for name in names_of(data):
        assert found[name] is (Reason.BAD_ORDER if WITH_SUBTREES[name] is Reason.BAD_ORDER else Reason.POLICY_NOT_MET)


@pytest.mark.parametrize("file", [PKI_04, X509_05])
def test_another_cosigner_with_a_wrong_key_does_no_harm(load_vectors: LoadVectors, kernel: Kernel, file: str) -> None:
    """A cosigner known by its ID with a wrong key counts as not having signed; the certificate does not fail for it."""
    data = load_vectors(file)
    ca = document_of(data) | {"trusted_subtrees": []}
    right = verdicts(data, store_of(ca, kernel))
    wrong = make_key("ml-dsa-44", 999).public_key
    for item in ca["cosigners"]:
        if item["id"] != "32473.1":
            item |= {"algorithm": "ml-dsa-44", "public_key": base64.b64encode(wrong).decode()}
    assert verdicts(data, store_of(ca, kernel)) == right


def test_every_cosigner_of_boringssl_verifies(load_vectors: LoadVectors, kernel: Kernel) -> None:
    """ML-DSA-44, P-256 and ML-DSA-65 cosignatures of the -05 certificates all count when all are required."""
    data = load_vectors(X509_05)
    everybody = [item["id"] for item in data["cosigners"]]
    found = verdicts(data, store_of(document_of(data) | {"policy": {"require": everybody}}, kernel))
    signed_by_all = {
        case["name"]
        for case in data["certificates"]
        if case["info"].get("cosigners") == everybody and case["expect"] == "ok"
    }
    assert {name for name, verdict in found.items() if verdict == Form.STANDALONE} == signed_by_all
    assert "cert_10_0" in signed_by_all


@pytest.mark.parametrize("file", FOREIGN)
@pytest.mark.parametrize("ca_id", ["32473.0", "32473.11", "32473.1.1", "1"])
def test_another_ca_id_knows_none_of_them(load_vectors: LoadVectors, kernel: Kernel, file: str, ca_id: str) -> None:
    """With another CA ID configured the issuer is unknown, whatever is trusted of it."""
    data = load_vectors(file)
    ca = document_of(data) | {"id": ca_id}
    assert set(verdicts(data, store_of(ca, kernel)).values()) == {Reason.UNKNOWN_CA}


@pytest.mark.parametrize(("file", "draft"), [(file, draft) for file in FOREIGN for draft in ("plants-06", "plants-07")])
def test_another_draft_knows_none_of_them(load_vectors: LoadVectors, kernel: Kernel, file: str, draft: str) -> None:
    """A CA configured for another revision has another name, so its old certificates are those of an unknown CA."""
    data = load_vectors(file)
    if data["version"] == draft:
        return
    found = verdicts(data, store_of(document_of(data) | {"draft": draft}, kernel))
    assert set(found.values()) == {Reason.UNKNOWN_CA}


def test_05_certificates_are_those_of_04(load_vectors: LoadVectors, kernel: Kernel) -> None:
    """-04 and -05 write the same certificates: a CA configured for either reads both."""
    for file, draft in ((X509_05, "plants-04"), (PKI_04, "plants-05"), (VERIFY_04, "plants-05")):
        data = load_vectors(file)
        found = verdicts(data, store_of(document_of(data) | {"draft": draft}, kernel))
        assert found == {name: WITH_SUBTREES[name] for name in names_of(data)}


@pytest.mark.parametrize("file", [X509_05, DEMO_07])
def test_a_ca_certificate_makes_a_store(load_vectors: LoadVectors, kernel: Kernel, file: str) -> None:
    """From its CA certificate alone a relying party verifies standalone certificates and refuses revoked serials."""
    data = load_vectors(file)
    certificate = CACertificate.parse(find_pem_block(data["ca_certificate_pem"].encode(), "CERTIFICATE"))
    found = verdicts(data, TrustStore([trusted_ca_from_certificate(certificate)], kernel))
    assert found == {
        name: Reason.POLICY_NOT_MET if name == "cert_32_1" else WITH_SUBTREES[name] for name in names_of(data)
    }


def test_batches_give_the_published_verdicts(load_vectors: LoadVectors, kernel: Kernel) -> None:
    """`verify_signatures` over a whole file gives the verdicts one by one."""
    for file in FOREIGN:
        data = load_vectors(file)
        store = store_of(document_of(data), kernel)
        ders = [find_pem_block(case["pem"].encode(), "CERTIFICATE") for case in data["certificates"]]
        found = [
            result.reason if isinstance(result, Error) else result.form.value
            for result in verify_signatures(ders, store, NOW)
        ]
        assert found == [WITH_SUBTREES[name] for name in names_of(data)]


def test_the_demos_cosignature_verifies(load_vectors: LoadVectors) -> None:
    """The demo's CA cosignature covers the message of the draft's table, and no other."""
    data = load_vectors(DEMO_07)
    (case,) = data["cosignatures"]
    (cosigner,) = data["cosigners"]
    subtree = Subtree(int(case["start"]), int(case["end"]))
    message = cosigned_message(case["cosigner_id"], case["log_id"], subtree, bytes.fromhex(case["subtree_hash"]))
    assert message.hex() == case["message"]
    spki = base64.b64decode(cosigner["spki_der"])
    key = parse_public_key(spki, parse_signature_algorithm("ml-dsa-44"))
    key.verify(message, bytes.fromhex(case["signature"]))
    with pytest.raises(SignatureError):
        key.verify(message[:-1] + b"\x00", bytes.fromhex(case["signature"]))


def test_signed_messages_are_those_of_the_draft(load_vectors: LoadVectors) -> None:
    """The published messages are reproduced by the table of the draft and by `mtc.note` alike."""
    for case in load_vectors("cosigned_messages.json")["cases"]:
        subtree, timestamp = Subtree(int(case["start"]), int(case["end"])), int(case["timestamp"])
        digest = bytes.fromhex(case["subtree_hash"])
        by_hand = cosigned_message(case["cosigner_id"], case["log_id"], subtree, digest, timestamp)
        parse = TrustAnchorID.parse
        ours = CosignedMessage.for_subtree(
            parse(case["cosigner_id"]), parse(case["log_id"]), subtree, digest, timestamp
        )
        assert by_hand.hex() == ours.encode().hex() == case["message"]


def test_own_certificates_of_the_same_ca_do_not_match(load_vectors: LoadVectors, kernel: Kernel) -> None:
    """A certificate that somebody else makes under a foreign CA's name fails, with any subtree and any signature."""
    data = load_vectors(DEMO_07)
    store = store_of(document_of(data), kernel)
    impostor = SmallCA(algorithm="ml-dsa-44")
    for subtree in (Subtree(0, 13), Subtree(0, 8)):
        with pytest.raises(Error) as caught:
            verify_signature(impostor.certificate(3, subtree, ["32473.1"]), store, NOW)
        assert caught.value.reason is Reason.POLICY_NOT_MET
