"""Certificates made for a purpose: every field can be replaced by any bytes, right or wrong."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mtc.cert import issuer_format as format_of_issuer
from mtc.ids import DEFAULT_REVISION, REVISIONS, TrustAnchorID, encode_ca_name
from mtc.kernel import IssuerFormat
from mtc.wire import (
    Writer,
    encode_bit_string,
    encode_explicit,
    encode_integer,
    encode_octet_string,
    encode_oid,
    encode_sequence,
    encode_time,
    encode_tlv,
    encode_utf8_string,
    parse_pem,
)

LoadVectors = Callable[[str], Any]

CA_ID = TrustAnchorID.parse("32473.1")
CA_NAME = encode_ca_name(CA_ID, DEFAULT_REVISION)
ALGORITHM = DEFAULT_REVISION.proof_algorithm
SPKI_ALGORITHM = encode_sequence(encode_oid("1.3.101.112"))

V2 = encode_explicit(0, encode_integer(1))
V3 = encode_explicit(0, encode_integer(2))

TRUE = b"\x01\x01\xff"


def issuer_format(hash_name: str = "sha256", owner: object = "the owner") -> IssuerFormat:
    """Return the format of the certificates made here."""
    return format_of_issuer(DEFAULT_REVISION, hash_name, owner)


def extension(oid: str, value: bytes, *, critical: bool = False) -> bytes:
    """Return one Extension."""
    return encode_sequence(encode_oid(oid), TRUE if critical else b"", encode_octet_string(value))


def serial(log_number: int, index: int) -> bytes:
    """Return a serialNumber, in range or not."""
    return encode_integer(log_number << 48 | index)


def encode_proof(
    start: int = 5, end: int = 6, proof: bytes = b"", *, extensions: bytes = b"", signatures: bytes = b""
) -> bytes:
    """Return an MTCProof as -07 writes it."""
    writer = Writer().vector(extensions, 2).uint(start, 6).uint(end, 6)
    return writer.vector(proof, 2).vector(signatures, 3).encode()


def encode_signatures(cosigners: Sequence[bytes], signature: bytes = b"signature") -> bytes:
    """Return subtree signatures by cosigners with these binary IDs, in the order given."""
    writer = Writer()
    for cosigner in cosigners:
        writer.vector(cosigner, 1).vector(signature, 2)
    return writer.encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts of a certificate, each as the DER that is put in its place; `encode` frames them."""

    version: bytes = V3
    serial: bytes = serial(1, 5)
    signature: bytes = ALGORITHM
    issuer: bytes = CA_NAME
    not_before: bytes = encode_time(datetime(2026, 1, 1, tzinfo=UTC))
    not_after: bytes = encode_time(datetime(2026, 1, 8, tzinfo=UTC))
    validity_tail: bytes = b""
    subject: bytes = encode_sequence()
    spki_algorithm: bytes = SPKI_ALGORITHM
    key: bytes = encode_bit_string(bytes(32))
    unique_ids: bytes = b""
    extensions: tuple[bytes, ...] | None = (extension("2.5.29.14", b"\x04\x01k"),)
    tail: bytes = b""
    outer_signature: bytes | None = None
    proof: bytes = encode_proof()
    unused_bits: bytes = b"\x00"
    outer_tail: bytes = b""

    @property
    def validity(self) -> bytes:
        """The Validity."""
        return encode_sequence(self.not_before, self.not_after, self.validity_tail)

    @property
    def spki(self) -> bytes:
        """The SubjectPublicKeyInfo."""
        return encode_sequence(self.spki_algorithm, self.key)

    @property
    def rest(self) -> bytes:
        """All fields behind the SubjectPublicKeyInfo."""
        framed = b""
        if self.extensions is not None:
            framed = encode_explicit(3, encode_sequence(*self.extensions))
        return self.unique_ids + framed + self.tail

    def encode(self) -> bytes:
        """Return the certificate, DER as far as its parts are."""
        tbs = encode_sequence(
            self.version,
            self.serial,
            self.signature,
            self.issuer,
            self.validity,
            self.subject,
            self.spki,
            self.rest,
        )
        outer = self.signature if self.outer_signature is None else self.outer_signature
        return encode_sequence(tbs, outer, encode_tlv(0x03, self.unused_bits + self.proof), self.outer_tail)

    def log_entry(self, hash_name: str = "sha256", extensions: bytes = b"") -> bytes:
        """Return the log entry behind the certificate, put together from the draft's text."""
        return b"".join(
            (
                Writer().vector(extensions, 2).encode(),
                b"\x00\x01",
                self.version,
                self.issuer,
                self.validity,
                self.subject,
                self.spki_algorithm,
                b"\x04\x20" + hashlib.new(hash_name, self.spki).digest(),
                self.rest,
            )
        )

    def entry_hash(self, hash_name: str = "sha256", extensions: bytes = b"") -> bytes:
        """Return the leaf hash of the log entry."""
        return hashlib.new(hash_name, b"\x00" + self.log_entry(hash_name, extensions)).digest()


def extensions_of_a_leaf() -> list[bytes]:
    """Return the extensions of a usual TLS certificate, and some unusual ones."""
    names = encode_sequence(
        encode_tlv(0x82, b"example.com"),
        encode_tlv(0x87, bytes((192, 0, 2, 1))),
        encode_tlv(0x81, b"somebody@example.com"),
        encode_tlv(0x86, b"https://example.com/"),
        encode_tlv(0x88, b"\x2b\x06"),
        encode_tlv(0xA0, encode_oid("1.2.3") + encode_explicit(0, encode_utf8_string("other"))),
        encode_tlv(0xA4, encode_sequence()),
        encode_tlv(0x82, b"*.example.com"),
        encode_tlv(0x87, bytes(16)),
    )
    purposes = encode_sequence(*(encode_oid(f"1.3.6.1.5.5.7.3.{number}") for number in (1, 2)))
    return [
        extension("2.5.29.15", b"\x03\x02\x07\x80", critical=True),
        extension("2.5.29.37", purposes),
        extension("2.5.29.19", encode_sequence(), critical=True),
        extension("2.5.29.17", names, critical=True),
        extension("2.5.29.32", encode_sequence(encode_sequence(encode_oid("2.23.140.1.2.1"))), critical=True),
        extension("1.3.6.1.5.5.7.1.24", b"\x30\x03\x02\x01\x05"),
        extension("1.2.3.4", b"", critical=True),
        extension("1.2.3.5", b"", critical=True),
    ]


def made_certificates() -> list[bytes]:
    """Return purpose-made certificates that differ in structure, to be mutated."""
    siblings = b"".join(bytes((number,)) * 32 for number in range(3))
    cosigners = [b"\x01", b"\x02", b"\x81\x01", bytes([0x81] * 31) + b"\x01"]
    entry_extensions = b"\x00\x01\x00\x00" + b"\x00\x07\x00\x02xy" + b"\xff\xff\x00\x00"
    return [
        Parts().encode(),
        Parts(version=b"", extensions=None).encode(),
        Parts(version=V2, extensions=None, unique_ids=b"\x81\x02\x00a\x82\x03\x07b\x80").encode(),
        Parts(
            serial=serial(65535, 10),
            proof=encode_proof(8, 13, siblings, extensions=entry_extensions, signatures=encode_signatures(cosigners)),
            extensions=tuple(extensions_of_a_leaf()),
        ).encode(),
    ]


FOREIGN = (
    "certs_boringssl_pki_plants04.json",
    "certs_boringssl_verify_plants04.json",
    "certs_boringssl_x509_plants05.json",
    "certs_demo_plants07.json",
)
FORMATS = {
    encode_ca_name(CA_ID, revision): format_of_issuer(revision, "sha256", name)
    for name, revision in REVISIONS.items()
    if name in {"plants-04", "plants-06", "plants-07"}  # -05 has the names and bytes of -04
}
MADE = {CA_NAME: issuer_format()}


def foreign_certificates(load_vectors: LoadVectors) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield each foreign certificate: its case and its DER."""
    for name in FOREIGN:
        for case in load_vectors(name)["certificates"]:
            (der,) = (block.data for block in parse_pem(case["pem"].encode()) if block.label == "CERTIFICATE")
            yield case, der
