"""The kinds of certificates that are compared, made up with real shapes: paths, and what a client must trust.

Every leaf is for the same name with the same usages. What is classical has what the Web has today: an intermediate,
and two timestamps of Certificate Transparency logs in the leaf; the post-quantum chain is the same with ML-DSA-44.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, mldsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from mtc.ca.certificates import properties_for
from mtc.cert import (
    Certificate,
    CertificateChain,
    EntryType,
    LogEntry,
    MTCProof,
    PropertyList,
    SubtreeSignature,
    TBSCertificateLogEntry,
    encode_extended_key_usage,
    encode_key_usage,
    encode_name,
    encode_subject_alt_name,
    entry_hash,
)
from mtc.cert.x509 import SERVER_AUTH_OID
from mtc.crypto import HASH_ALGORITHMS, generate_key, parse_public_key, parse_signature_algorithm
from mtc.ids import DEFAULT_REVISION, TrustAnchorID, encode_ca_name, log_id, serial_number
from mtc.kernel import active_kernel
from mtc.merkle import Subtree, evaluate_inclusion
from mtc.note import CosignedMessage
from mtc.tls import CODE_POINT, CertificationPath
from mtc.trust import Cosigner, CosignerPolicy, TrustedCA, TrustedSubtree, TrustStore
from mtc.wire import encode_octet_string

HOST = "www.example.com"
PROOF_HASHES = 22
"""Hashes of every inclusion proof, as below a landmark of four million entries."""
LANDMARK = 168
_CA = TrustAnchorID.parse("32473.1")
_MIRROR = TrustAnchorID.parse("32473.9.1")
_P256_SIGNATURE_BYTES = 71
_ML_DSA_44_SIGNATURE_BYTES = 2420
_ACKNOWLEDGEMENT = CODE_POINT.to_bytes(2, "big") + bytes(2)
_SCT_LIST = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")


class LeafKey(StrEnum):
    """What a leaf signs its handshakes with."""

    P256 = "p-256"
    ML_DSA_44 = "ml-dsa-44"


class Kind(StrEnum):
    """How a leaf is certified. The numbers behind `standalone` count cosignatures, all ML-DSA-44."""

    LANDMARK_RELATIVE = "landmark_relative"
    STANDALONE_1 = "standalone_1"
    STANDALONE_2 = "standalone_2"
    CLASSICAL = "classical"
    POST_QUANTUM = "post_quantum"

    @property
    def label(self) -> str:
        """The kind for people."""
        return {
            Kind.LANDMARK_RELATIVE: "landmark-relative",
            Kind.STANDALONE_1: "standalone, 1 cosignature",
            Kind.STANDALONE_2: "standalone, 2 cosignatures",
            Kind.CLASSICAL: "classical P-256 chain",
            Kind.POST_QUANTUM: "ML-DSA-44 chain",
        }[self]

    @property
    def is_mtc(self) -> bool:
        """Whether it is a Merkle Tree certificate."""
        return self not in {Kind.CLASSICAL, Kind.POST_QUANTUM}


@dataclass(frozen=True, slots=True)
class Credential:
    """What a server has and what its client trusts.

    sent: the path that is to be sent. further: paths beside it, without which a server would not start: what needs
    negotiation never stands alone. trust: the client's trust store. root: of a classical chain, DER.
    """

    kind: Kind
    leaf_key: LeafKey
    sent: CertificationPath
    further: tuple[CertificationPath, ...]
    trust: TrustStore
    root: bytes | None

    def certificate_message(self, *, is_acknowledged: bool = False) -> bytes:
        """Return the body of the server's Certificate message. is_acknowledged: with an empty `trust_anchors`.

        Spec: RFC 8446, "Certificate".
        """
        entries = b""
        for number, der in enumerate(self.sent.certificates):
            extensions = _ACKNOWLEDGEMENT if is_acknowledged and number == 0 else b""
            entries += len(der).to_bytes(3, "big") + der + len(extensions).to_bytes(2, "big") + extensions
        return b"\x00" + len(entries).to_bytes(3, "big") + entries


_PrivateKey = ec.EllipticCurvePrivateKey | mldsa.MLDSA44PrivateKey


def make_credential(kind: Kind, leaf_key: LeafKey, now: datetime | None = None) -> Credential:
    """Make keys and certificates of one kind, valid from an hour before `now` for a week.

    The chain of `Kind.CLASSICAL` signs with P-256, whatever the leaf's key is.
    """
    now = (now or datetime.now(UTC)).replace(microsecond=0)
    key = _make_key(leaf_key)
    if not kind.is_mtc:
        return _make_chain(kind, leaf_key, key, now)
    private = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    cosigners = 2 if kind is Kind.STANDALONE_2 else 1
    issued = _Issued.make(key, now, cosigners)
    standalone = CertificationPath.build(CertificateChain(properties_for(_CA, 1), (issued.standalone,)), private)
    if kind is not Kind.LANDMARK_RELATIVE:
        return Credential(kind, leaf_key, standalone, (), TrustStore([issued.trusted(())]), None)
    properties: PropertyList = properties_for(_CA, 1, LANDMARK, max_active_landmarks=LANDMARK)
    relative = CertificationPath.build(CertificateChain(properties, (issued.relative,)), private)
    expiry = int((now + timedelta(days=6)).timestamp())
    known = TrustedSubtree(1, issued.subtree, issued.root, LANDMARK, expiry)
    return Credential(kind, leaf_key, relative, (standalone,), TrustStore([issued.trusted((known,))]), None)


def _make_key(leaf_key: LeafKey) -> _PrivateKey:
    """Make a leaf's key."""
    if leaf_key is LeafKey.ML_DSA_44:
        return mldsa.MLDSA44PrivateKey.generate()
    return ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True, slots=True)
class _Issued:
    """An entry of a made-up log, certified in both forms."""

    subtree: Subtree
    root: bytes
    relative: bytes
    standalone: bytes
    cosigners: tuple[Cosigner, ...]

    @staticmethod
    def make(key: _PrivateKey, now: datetime, cosigners: int) -> "_Issued":
        """Certify a key. The sibling hashes are made up: a path needs no four million real entries."""
        hasher = active_kernel().hasher("sha256")
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        entry = TBSCertificateLogEntry.build(
            hasher=hasher,
            issuer=encode_ca_name(_CA, DEFAULT_REVISION),
            subject=encode_name(),
            spki=spki,
            not_before=now - timedelta(hours=1),
            not_after=now - timedelta(hours=1) + timedelta(days=7),
            extensions=(
                encode_key_usage("digitalSignature"),
                encode_extended_key_usage(SERVER_AUTH_OID),
                encode_subject_alt_name([HOST, "example.com"], is_critical=True),
            ),
        )
        index, subtree = 0x2AAAAA, Subtree(0, 1 << PROOF_HASHES)
        hashes_up = tuple(hasher.digest(bytes((level,))) for level in range(PROOF_HASHES))
        own = entry_hash(hasher, LogEntry(EntryType.TBS_CERT, entry.encode()))
        root = evaluate_inclusion(hasher, subtree, index, own, hashes_up)
        known, signatures = [], []
        algorithm = parse_signature_algorithm("ml-dsa-44")
        for cosigner_id in (_CA, _MIRROR)[:cosigners]:
            signer = generate_key(algorithm)
            message = CosignedMessage.for_subtree(cosigner_id, log_id(_CA, 1), subtree, root).encode()
            signatures.append(SubtreeSignature(cosigner_id.binary, signer.sign_now(message)))
            known.append(Cosigner(cosigner_id, parse_public_key(signer.public_key, algorithm)))
        serial, plain = serial_number(1, index), MTCProof(subtree, hashes_up)
        return _Issued(
            subtree,
            root,
            Certificate.build(entry, spki, serial, plain),
            Certificate.build(entry, spki, serial, plain.with_signatures(*signatures)),
            tuple(known),
        )

    def trusted(self, subtrees: Sequence[TrustedSubtree]) -> TrustedCA:
        """Return the CA as its relying party trusts it: every cosignature that is there is required."""
        mirrors = tuple(cosigner.cosigner_id for cosigner in self.cosigners[1:])
        return TrustedCA(
            ca_id=_CA,
            revision=DEFAULT_REVISION,
            hash=HASH_ALGORITHMS["sha256"],
            cosigners=self.cosigners,
            policy=CosignerPolicy(require=(_CA,), of=mirrors, at_least=len(mirrors)),
            trusted_subtrees=tuple(subtrees),
        )


# Chains as on the Web.


@dataclass(frozen=True, slots=True)
class _Chain:
    """How the keys of one chain are made, and how long a timestamp's signature is."""

    make: Callable[[], _PrivateKey]
    hash: hashes.SHA256 | None
    sct_signature_bytes: int


_CHAINS = {
    Kind.CLASSICAL: _Chain(lambda: ec.generate_private_key(ec.SECP256R1()), hashes.SHA256(), _P256_SIGNATURE_BYTES),
    Kind.POST_QUANTUM: _Chain(mldsa.MLDSA44PrivateKey.generate, None, _ML_DSA_44_SIGNATURE_BYTES),
}


def _make_chain(kind: Kind, leaf_key: LeafKey, key: _PrivateKey, now: datetime) -> Credential:
    """Make a root, an intermediate and a leaf with two timestamps."""
    chain = _CHAINS[kind]
    root_key, issuing_key = chain.make(), chain.make()
    root_name, issuing_name = _name("Example Root X1"), _name("E5")
    root = _sign(_builder(root_name, root_name, root_key, now, 3650, path_length=1), root_key, chain)
    intermediate = _sign(_issuer(root_name, issuing_name, issuing_key, root_key, now), root_key, chain)
    leaf = _sign(_leaf(issuing_name, key, issuing_key, chain, now), issuing_key, chain)
    certificates = tuple(one.public_bytes(Encoding.DER) for one in (leaf, intermediate))
    path = CertificationPath.build(
        CertificateChain(None, certificates), key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    )
    return Credential(kind, leaf_key, path, (), TrustStore([]), root.public_bytes(Encoding.DER))


def _sign(builder: x509.CertificateBuilder, key: _PrivateKey, chain: _Chain) -> x509.Certificate:
    """Sign a certificate with a key of the chain."""
    return builder.sign(key, chain.hash)


def _name(common_name: str) -> x509.Name:
    """Return the name of a CA as CAs of the Web have it."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example Trust Services"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _builder(  # noqa: PLR0913 - what makes two CA certificates differ
    issuer: x509.Name, subject: x509.Name, key: _PrivateKey, now: datetime, days: int, *, path_length: int
) -> x509.CertificateBuilder:
    """Begin a CA certificate."""
    return (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_usage(is_ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _issuer(
    root_name: x509.Name, name: x509.Name, key: _PrivateKey, root_key: _PrivateKey, now: datetime
) -> x509.CertificateBuilder:
    """Begin the intermediate."""
    return (
        _builder(root_name, name, key, now, 1000, path_length=0)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_access("http://x1.i.example.org/"), critical=False)
        .add_extension(_policy(), critical=False)
        .add_extension(_revocation_list("http://x1.c.example.org/"), critical=False)
    )


def _leaf(
    issuer: x509.Name, key: _PrivateKey, issuing_key: _PrivateKey, chain: _Chain, now: datetime
) -> x509.CertificateBuilder:
    """Begin the leaf."""
    names = [x509.DNSName(HOST), x509.DNSName("example.com")]
    return (
        x509.CertificateBuilder(issuer, x509.Name([]), key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now - timedelta(hours=1) + timedelta(days=7))
        .add_extension(_usage(is_ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuing_key.public_key()), critical=False)
        .add_extension(_access("http://e5.i.example.org/"), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(_policy(), critical=False)
        .add_extension(_revocation_list("http://e5.c.example.org/42.crl"), critical=False)
        .add_extension(_timestamps(chain.sct_signature_bytes, now), critical=False)
    )


def _usage(*, is_ca: bool) -> x509.KeyUsage:
    """Return the key usage of a CA or of a server."""
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )


def _access(url: str) -> x509.AuthorityInformationAccess:
    """Say where the issuer's certificate lies."""
    place = x509.UniformResourceIdentifier(url)
    return x509.AuthorityInformationAccess([x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, place)])


def _policy() -> x509.CertificatePolicies:
    """Return the policy "domain validated"."""
    return x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("2.23.140.1.2.1"), None)])


def _revocation_list(url: str) -> x509.CRLDistributionPoints:
    """Say where revocations are published."""
    place = [x509.UniformResourceIdentifier(url)]
    return x509.CRLDistributionPoints([x509.DistributionPoint(place, None, None, None)])


def _timestamps(signature_bytes: int, now: datetime) -> x509.UnrecognizedExtension:
    """Return two timestamps with random log IDs and signatures: what nobody verifies here, but of the true length.

    Spec: RFC 6962, "Structure of the Signed Certificate Timestamp".
    """
    listed = b""
    for _ in range(2):
        milliseconds = int(now.timestamp() * 1000).to_bytes(8, "big")
        sct = b"\x00" + os.urandom(32) + milliseconds + b"\x00\x00"
        sct += b"\x04\x03" + signature_bytes.to_bytes(2, "big") + os.urandom(signature_bytes)
        listed += len(sct).to_bytes(2, "big") + sct
    # The value is an OCTET STRING within the extension's own.
    return x509.UnrecognizedExtension(_SCT_LIST, encode_octet_string(len(listed).to_bytes(2, "big") + listed))
