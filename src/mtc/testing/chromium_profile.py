"""What a fresh Chromium profile must hold so that the browser trusts Merkle Tree certificates of a CA of one's own.

Chromium learns MTC CAs, mirrors and landmarks from components that its vendor updates, in protocol buffers whose schema
is not published. The field numbers here were observed with version 156 and may change with any other; a browser that
reads them otherwise refuses every certificate.

Spec: none; Merkle Tree Certificates, "Relying Party Configuration", for what is configured.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from mtc.errors import Reason, UsageError
from mtc.trust import Cosigner, TrustedCA, TrustedSubtree, TrustStore
from mtc.web.tls import make_certificate

COMPONENT_VERSION = "99999"
"""Version of the components, above every one that the browser brings with it."""
COMPONENT_FILES = (
    f"PKIMetadata/{COMPONENT_VERSION}/mtc_config.pb",
    f"PKIMetadata/{COMPONENT_VERSION}/crs.pb",
    f"PKIMetadataFastpush/{COMPONENT_VERSION}/mtc_metadata.pb",
)
"""Where they lie in a profile."""
_ALGORITHMS = {"ml-dsa-44": 1, "ml-dsa-65": 2, "ml-dsa-87": 3}
_CA, _MIRROR = 1, 2
_USABLE = 3
_CA_SPAN_S = 28 * 86400
_ROOTS_VERSION = 10**6
# A mirror of the CA's own operator does not count for the browser's policy.
_OPERATORS = {_CA: "Operator of the CA", _MIRROR: "Operator of the mirrors"}
_SINCE = timedelta(days=30)
_ROOT_LIFETIME = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Message:
    """A protocol buffer: fields by number, in the order written.

    An integer is written as a varint; text, bytes and messages with their length in front.
    Spec: Protocol Buffers, "Encoding".
    """

    fields: tuple[tuple[int, "int | str | bytes | Message"], ...]

    @staticmethod
    def of(*fields: "tuple[int, int | str | bytes | Message]") -> "Message":
        """Make a message of fields."""
        return Message(fields)

    def encode(self) -> bytes:
        """Return the message on the wire."""
        return b"".join(_encode_field(number, value) for number, value in self.fields)


def _encode_field(number: int, value: int | str | bytes | Message) -> bytes:
    """Return one field with its tag."""
    if isinstance(value, int):
        return _encode_varint(number << 3) + _encode_varint(value)
    data = value if isinstance(value, bytes) else value.encode()
    return _encode_varint(number << 3 | 2) + _encode_varint(len(data)) + data


def _encode_varint(value: int) -> bytes:
    """Return an unsigned integer in base 128, lowest digit first."""
    if value < 0:
        raise UsageError(Reason.BAD_NUMBER, f"{value} is negative; fields here hold unsigned integers")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def write_components(profile: Path, store: TrustStore, now: datetime) -> None:
    """Write a trust store into a profile that no browser has used yet.

    Who has a CA's ID is its CA cosigner, everybody else is a mirror; the browser's own policy decides who must sign:
    the CA and one mirror of another operator, all with ML-DSA. Trusted subtrees must have a landmark number; a CA
    without them is trusted for standalone certificates only. Classical certificates are not trusted at all. Raises
    UsageError for another algorithm.
    """
    contents = (encode_config(store.cas, now), _encode_roots(now), encode_landmarks(store.cas, now))
    for file, data in zip(COMPONENT_FILES, contents, strict=True):
        path = profile / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        manifest = {"manifest_version": 2, "name": path.parts[-3], "version": COMPONENT_VERSION}
        (path.parent / "manifest.json").write_text(json.dumps(manifest), "utf-8")


def encode_config(cas: Sequence[TrustedCA], now: datetime) -> bytes:
    """Return `mtc_config.pb`: the CAs and mirrors with their keys. Raises UsageError for a key that is not ML-DSA."""
    since = _time(now - _SINCE)
    signers = [
        (5, _signer(cosigner, _CA, since))
        for ca in cas
        for cosigner in ca.cosigners
        if cosigner.cosigner_id == ca.ca_id
    ]
    mirrors = {
        cosigner.cosigner_id: cosigner for ca in cas for cosigner in ca.cosigners if cosigner.cosigner_id != ca.ca_id
    }
    signers += [(6, _signer(cosigner, _MIRROR, since)) for cosigner in mirrors.values()]
    operators = [(4, Message.of((1, name), (2, "nobody@example.com"))) for name in _OPERATORS.values()]
    signer_set = Message.of((1, _time(now)), (2, "1.0"), (3, 1), *operators, *signers)
    return Message.of((1, signer_set)).encode()


def _signer(cosigner: Cosigner, kind: int, since: Message) -> Message:
    """Return one CA or mirror."""
    algorithm = cosigner.key.algorithm.name
    if algorithm not in _ALGORITHMS:
        raise UsageError(
            Reason.UNSUPPORTED, f"cosigner {cosigner.name} signs with {algorithm}; the browser knows ML-DSA alone"
        )
    is_ca = kind == _CA
    return Message.of(
        (1, f"{'CA' if is_ca else 'mirror'} {cosigner.name}"),
        (2, cosigner.name),
        (3, Message.of((1, _USABLE), (2, since))),
        (4, Message.of((1, _OPERATORS[kind]), (2, since))),
        (5, cosigner.key.public_key),
        (6, f"https://{cosigner.name}.example.com/"),
        (7, kind),
        (8, 2),
        *(((9, Message.of((1, _CA_SPAN_S))), (13, 1)) if is_ca else ()),
        (14, _ALGORITHMS[algorithm]),
    )


def encode_landmarks(cas: Iterable[TrustedCA], now: datetime) -> bytes:
    """Return `mtc_metadata.pb`: the landmarks of each CA, and the hashes of their subtrees."""
    return Message.of(
        (1, int(now.timestamp())),
        *((2, Message.of((5, ca.ca_id.binary), *((6, log) for log in _logs(ca)))) for ca in cas if ca.trusted_subtrees),
    ).encode()


def _logs(ca: TrustedCA) -> list[Message]:
    """Return what is known of each log of a CA."""
    by_log: dict[int, list[TrustedSubtree]] = {}
    for trusted in ca.trusted_subtrees:
        by_log.setdefault(trusted.log_number, []).append(trusted)
    messages = []
    for number, subtrees in sorted(by_log.items()):
        landmarks = [trusted.landmark for trusted in subtrees if trusted.landmark is not None]
        if len(landmarks) < len(subtrees):
            raise UsageError(
                Reason.USAGE, f"a trusted subtree of log {number} has no landmark; browsers ask by landmark"
            )
        active = Message.of((2, min(landmarks)), (3, max(landmarks)))
        hashes = [
            (3, Message.of((1, item.subtree.start), (2, item.subtree.end), (3, item.subtree_hash))) for item in subtrees
        ]
        messages.append(Message.of((1, number), (2, active), *hashes))
    return messages


def _encode_roots(now: datetime) -> bytes:
    """Return `crs.pb` with one root whose key is thrown away: the browser takes no store without a root."""
    root = make_certificate(
        ec.generate_private_key(ec.SECP256R1()), [x509.DNSName("root.invalid")], now, _ROOT_LIFETIME
    ).public_bytes(Encoding.DER)
    return Message.of((1, Message.of((1, root))), (2, _ROOTS_VERSION)).encode()


def _time(moment: datetime) -> Message:
    """Return a moment in whole seconds."""
    return Message.of((1, int(moment.timestamp())))
