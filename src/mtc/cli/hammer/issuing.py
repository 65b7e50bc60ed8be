"""Loads the issuing interface of a CA: certificates one by one, each verified before the next one is asked for.

A certificate must be valid for the name that was asked for, hold the key that was sent, and stand at an index that no
other certificate of the run has.
"""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mtc.cert import CACertificate, Certificate
from mtc.cli.hammer.load import Load
from mtc.cli.log_source import MAX_CA_BYTES
from mtc.cli.verify import find_certificate
from mtc.errors import FormatError, PeerError, ProofError, Reason, Rejected
from mtc.trust import ServerName, TrustStore, trusted_ca_from_certificate, verify_certificate
from mtc.web.client import Answer
from mtc.wire import find_pem_block

MAX_CERTIFICATE_BYTES = 1 << 20
_KEYS = 16


@dataclass(frozen=True, slots=True)
class IssueLoadOptions:
    """Which CA is loaded. base: URL before `/api/v1`. token: for a URL. ca: certificate, PEM or DER; None: as served.

    domain: names are `hammer-<number>.<domain>`.
    """

    base: str
    token: str | None = None
    ca: bytes | None = None
    domain: str = "example.com"


class IssueLoad:
    """The scenario; see the module."""

    def __init__(self, load: Load, options: IssueLoadOptions, chance: random.Random) -> None:
        """Take the CA, and the chance that makes names."""
        self._load = load
        self._options = options
        self._base = options.base.rstrip("/")
        self._headers = {"Content-Type": "application/json"}
        if options.token is not None:
            self._headers["Authorization"] = f"Bearer {options.token}"
        self._run = f"{chance.getrandbits(40):010x}"
        self._count = 0
        self._keys: list[tuple[str, bytes]] = []
        self._store = TrustStore([])
        self._seen: set[tuple[int, int]] = set()
        self._ca_id = ""

    def facts(self) -> Mapping[str, object]:
        """Return which CA it is, and the largest index seen."""
        return {"ca": self._ca_id, "highest_index": max((index for _, index in self._seen), default=None)}

    async def prepare(self) -> None:
        """Read the CA certificate and make keys. Raises an Error when there is none."""
        data = self._options.ca
        if data is None:
            data = await self._load.call("CA certificate", f"{self._base}/ca.pem", lambda a: a.body, most=MAX_CA_BYTES)
        if data is None:
            raise PeerError(Reason.PEER, f"{self._base} serves no CA certificate; give it with --ca FILE")
        certificate = CACertificate.parse(find_certificate(data))
        self._ca_id = str(certificate.ca_id)
        self._store = TrustStore([trusted_ca_from_certificate(certificate)])
        for _ in range(_KEYS):
            key = generate_private_key(SECP256R1()).public_key()
            pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
            self._keys.append((pem, key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)))

    async def step(self, worker: int) -> None:  # noqa: ARG002 - workers are alike
        """Have one certificate issued, and verify it."""
        number = self._count
        self._count += 1
        pem, spki = self._keys[number % _KEYS]
        name = f"hammer-{self._run}-{number}.{self._options.domain}"
        document = {"public_key": pem, "dns": [name], "request_key": f"hammer-{self._run}-{number}"}

        def check(answer: Answer) -> int:
            index = self._check(answer.body, name, spki)
            self._load.figures.amounts["certificates"] += 1
            return index

        await self._load.call(
            "issue",
            f"{self._base}/api/v1/certificates",
            check,
            method="POST",
            body=json.dumps(document).encode(),
            headers=self._headers,
            most=MAX_CERTIFICATE_BYTES,
        )

    def _check(self, body: bytes, name: str, spki: bytes) -> int:
        """Return the index of a certificate that is what was asked for. Raises an Error that says what is wrong."""
        try:
            answer = json.loads(body)
            pem, log, index = answer["certificate"], answer["log"], answer["index"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise FormatError(Reason.BAD_DOCUMENT, "the answer to a request holds no certificate") from None
        if not isinstance(pem, str):
            raise FormatError(Reason.BAD_DOCUMENT, "the certificate in the answer is no text")
        der = find_pem_block(pem.encode(), "CERTIFICATE")
        verified = verify_certificate(der, self._store, datetime.now(UTC), name=ServerName.parse(name))
        place = (verified.log_number, verified.index)
        if place != (log, index):
            raise PeerError(Reason.PEER, f"the answer names entry {index} of log {log}, the certificate {place}")
        if place in self._seen:
            raise Rejected(Reason.DUPLICATE, f"entry {index} of log {log} was certified twice", index=index)
        self._seen.add(place)
        if Certificate.parse(der).spki != spki:
            raise ProofError(Reason.BAD_KEY, f"the certificate for {name} holds another key than was sent")
        return verified.index
