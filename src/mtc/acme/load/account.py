"""The signed requests of one account: its key, its nonces, its connection.

Spec: RFC 8555, "Message Transport"; RFC 7515, "Flattened JWS JSON Serialization Syntax".
"""

import asyncio
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc.jwk import ECKey, thumbprint

from mtc.acme.load.connection import Answer, KeptConnection
from mtc.acme.machine.problems import ERROR_NAMESPACE, ProblemType
from mtc.errors import FormatError, PeerError, Reason, Rejected

_HEADERS = {"Content-Type": "application/jose+json"}
_ES256 = ECDSA(SHA256())
_ATTEMPTS = 8
_LONGEST_WAIT_S = 5.0
_RETRY_S = 0.1
Document = dict[str, object]
"""A JSON object of the server's."""


class Account:
    """One account at one server, with a new P-256 key. Use `register` before anything else."""

    def __init__(self, directory_url: str, connection: KeptConnection, patience_s: float = 0.0) -> None:
        """Take the connection. patience_s: how long a request is repeated while the server is away."""
        self._directory_url = directory_url
        self._connection = connection
        self._patience_s = patience_s
        self._key = generate_private_key(SECP256R1())
        self._jwk = ECKey.import_key(self._key.public_key()).as_dict(private=False)
        self.thumbprint = thumbprint(self._jwk)
        """Of the key (RFC 7638), the second half of every key authorization."""
        self.url = ""
        """The account's URL, empty before it is registered."""
        self.requests = 0
        """How many requests were answered."""
        self.directory: Mapping[str, object] = {}
        """The server's directory."""
        self._nonces: list[str] = []

    async def register(self) -> None:
        """Read the directory and make the account."""
        self.directory = read_object((await self._send("GET", self._directory_url)).body)
        answer, _ = await self.post(self.resource("newAccount"), {"termsOfServiceAgreed": True})
        self.url = location_of(answer)

    def resource(self, name: str) -> str:
        """Return the URL of a resource in the directory. Raises FormatError."""
        return text_of(self.directory, name)

    async def post(self, url: str, payload: Mapping[str, object] | None = None) -> tuple[Answer, Document]:
        """Post a signed request and return the answer and its JSON object. payload: None reads (POST-as-GET).

        Raises Rejected with the problem's type as the fact `type`.
        """
        answer = await self.fetch(url, payload)
        return answer, read_object(answer.body)

    async def fetch(self, url: str, payload: Mapping[str, object] | None = None) -> Answer:
        """Post a signed request and return the answer, whatever its form; a server that is busy is asked again."""
        body = b"" if payload is None else json.dumps(payload).encode()
        for _ in range(_ATTEMPTS):
            signed = self._sign(url, await self._nonce(), body)
            answer = await self._send("POST", url, signed, _HEADERS)
            if answer.status < HTTPStatus.BAD_REQUEST:
                return answer
            problem = read_object(answer.body)
            kind = str(problem.get("type", "")).removeprefix(ERROR_NAMESPACE)
            if answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
                await asyncio.sleep(_wait_of(answer))
            elif kind != ProblemType.BAD_NONCE:
                text = f"{urlsplit(url).path}: {answer.status} {kind}: {problem.get('detail')}"
                raise Rejected(Reason.PEER, text, type=kind, status=answer.status)
        raise PeerError(Reason.PEER, f"{url} refused {_ATTEMPTS} times: it is busy, or takes no nonce")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    async def _send(self, method: str, url: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """Send one request, again and again while the server is away, and keep the nonce that comes with the answer."""
        path = urlsplit(url).path
        until = time.monotonic() + self._patience_s
        while True:
            try:
                answer = await self._connection.request(method, path, body, headers or {})
            except PeerError:
                if time.monotonic() >= until:
                    raise
                # Nonces of a server that was killed need not be good any more; one that is not costs a request.
                await asyncio.sleep(_RETRY_S)
            else:
                self.requests += 1
                if nonce := answer.headers.get("replay-nonce"):
                    self._nonces = [nonce]
                return answer

    async def _nonce(self) -> str:
        """Return an unused nonce."""
        if not self._nonces:
            await self._send("GET", self.resource("newNonce"))
        if not self._nonces:
            raise FormatError(Reason.BAD_DOCUMENT, f"{self._directory_url}: newNonce gives no nonce")
        return self._nonces.pop()

    def _sign(self, url: str, nonce: str, payload: bytes) -> bytes:
        """Return a flattened JWS."""
        who: dict[str, object] = {"kid": self.url} if self.url else {"jwk": self._jwk}
        protected = _base64url(json.dumps({"alg": "ES256", **who, "nonce": nonce, "url": url}).encode())
        message = protected + b"." + _base64url(payload)
        # Half of the time of joserfc, which the server uses; the machine is the server's, too.
        numbers = decode_dss_signature(self._key.sign(message, _ES256))
        signature = _base64url(b"".join(number.to_bytes(32, "big") for number in numbers))
        head, _, body = message.partition(b".")
        return b'{"protected":"%b","payload":"%b","signature":"%b"}' % (head, body, signature)


def _base64url(data: bytes) -> bytes:
    """Encode without padding."""
    return urlsafe_b64encode(data).rstrip(b"=")


def read_object(data: bytes) -> Document:
    """Read a JSON object. Raises FormatError."""
    try:
        document = json.loads(data)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise FormatError(Reason.BAD_DOCUMENT, f"the server answered with something else than JSON: {data[:80]!r}")
    return document


def _wait_of(answer: Answer) -> float:
    """Return the seconds until a busy server may be asked again, as far as it says so."""
    text = answer.headers.get("retry-after", "")
    return min(float(text), _LONGEST_WAIT_S) if text.isdecimal() else _RETRY_S


def text_of(document: Mapping[str, object], name: str) -> str:
    """Return a member that is text. Raises FormatError."""
    value = document.get(name)
    if not isinstance(value, str):
        raise FormatError(Reason.BAD_DOCUMENT, f"the server's object has no {name}")
    return value


def objects_of(document: Mapping[str, object], name: str) -> list[Document]:
    """Return a member that is a list of objects. Raises FormatError."""
    value = document.get(name)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise FormatError(Reason.BAD_DOCUMENT, f"{name} is no list of objects")
    return value


def location_of(answer: Answer) -> str:
    """Return the Location of a new resource. Raises FormatError."""
    if "location" not in answer.headers:
        raise FormatError(Reason.BAD_DOCUMENT, "the server does not say where the new resource is")
    return answer.headers["location"]
