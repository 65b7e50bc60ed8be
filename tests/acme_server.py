"""An ACME server in this process, with a real CA in a folder, and a client that can also do everything wrong.

The client signs with `cryptography` alone, so that the server's JWS library is not tested against itself.
"""

import asyncio
import contextlib
import hashlib
import json
import re
import tempfile
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from starlette.types import ASGIApp, Message

from mtc.acme.config import ACMEConfig, IssuanceProfile, default_limits
from mtc.acme.machine.jws import MAX_JWS_BYTES
from mtc.acme.machine.problems import ERROR_NAMESPACE, Problem, ProblemType
from mtc.acme.machine.validation import Report, ValidationTask
from mtc.acme.seams import Outcome
from mtc.acme.server.context import ServerContext
from mtc.acme.server.http import ACMEServer
from mtc.acme.sqlite import SQLiteACMEStore
from mtc.acme.store import ACMEStore, Change
from mtc.ca.config import CAConfig
from mtc.ca.folder import create_folder
from mtc.ca.service import RunningCA, open_ca
from mtc.ids import REVISIONS, DraftRevision, TrustAnchorID
from mtc.log.service import CosignatureSource
from mtc.profile import PRIVATE_SERVICE
from mtc.signer.service import running_signer
from mtc.testing.clock import FakeClock
from mtc.web.clock import Clock
from mtc.web.frame import FrameChoices, Limits, create_app

URL = "https://ca.example.test/acme"
CA_ID = TrustAnchorID.parse("32473.1")
ROUND = timedelta(milliseconds=5)
PATIENCE_S = 60.0
"""How long a test waits for something that comes in some milliseconds."""
JSON_TYPE = "application/jose+json"

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


def b64(data: bytes | str) -> str:
    """Encode base64url without padding."""
    raw = data.encode() if isinstance(data, str) else data
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer. headers: in their order, names in lower case."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """Return a header's value, None without it."""
        return next((value for key, value in self.headers if key == name), None)

    @property
    def json(self) -> Any:  # noqa: ANN401 - JSON
        """The body."""
        return json.loads(self.body)

    @property
    def links(self) -> dict[str, str]:
        """URLs of the Link headers by relation."""
        found = [re.fullmatch(r'<([^>]*)>;rel="([^"]*)"', value) for key, value in self.headers if key == "link"]
        return {match[2]: match[1] for match in found if match}

    @property
    def location(self) -> str:
        """The Location header, which there is."""
        value = self.header("location")
        assert value is not None, (self.status, self.body)
        return value

    @property
    def problem(self) -> str:
        """The type of the problem document, without its namespace; checked for its form."""
        assert self.header("content-type") == "application/problem+json", (self.status, self.headers, self.body)
        document = self.json
        assert document["status"] == self.status
        assert document["detail"]
        assert document["type"].startswith(ERROR_NAMESPACE)
        return str(document["type"].removeprefix(ERROR_NAMESPACE))


async def exchange(
    app: ASGIApp, method: str, url: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> Answer:
    """Send one request to an application and return its whole answer."""
    path, _, query = url.removeprefix(URL.removesuffix("/acme")).partition("?")
    names = {"host": "ca.example.test"} | {name.lower(): value for name, value in (headers or {}).items()}
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "https",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in names.items()],
        "server": ("ca.example.test", 443),
        "client": ("192.0.2.1", 1234),
        "state": {},
    }
    sent: list[Message] = []
    pieces = iter([body])

    async def receive() -> Message:
        return {"type": "http.request", "body": next(pieces, b""), "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start, *rest = sent
    found = tuple((name.decode().lower(), value.decode()) for name, value in start["headers"])
    return Answer(start["status"], found, b"".join(message.get("body", b"") for message in rest))


class ScriptedValidator:
    """`Validator` that says what a test told it. All is well with whatever it was told nothing about.

    problems: by name, control and CAA alike. caa: by name, only where CAA alone is asked for. held: names whose answer
    waits until the event is set. tasks: what it was asked, in order.
    """

    def __init__(self, clock: Clock) -> None:
        """Agree with everything."""
        self._clock = clock
        self.problems: dict[str, Problem] = {}
        self.caa: dict[str, Problem] = {}
        self.held: dict[str, asyncio.Event] = {}
        self.tasks: list[ValidationTask] = []

    async def examine(self, task: ValidationTask) -> Outcome:
        """Answer as told."""
        self.tasks.append(task)
        name = task.identifier.value
        started = self._clock.now()
        if name in self.held:
            await self.held[name].wait()
        problem = (self.problems if task.proves_control else self.caa).get(name)
        report = Report(perspective="local", region="", started=started, finished=self._clock.now(), problem=problem)
        return Outcome(problem, (report,))

    def hold(self, name: str) -> asyncio.Event:
        """Have answers about a name wait for the event that this returns."""
        return self.held.setdefault(name, asyncio.Event())

    def refuse(self, name: str, kind: ProblemType = ProblemType.INCORRECT_RESPONSE) -> None:
        """Have validations of a name fail."""
        self.problems[name] = Problem(type=kind, detail=f"{name} is not answered rightly")

    def count(self, name: str, *, control: bool = True) -> int:
        """Return how often a name was looked at, for control or for CAA alone."""
        return sum(task.identifier.value == name and task.proves_control is control for task in self.tasks)


def default_config(**changes: Any) -> ACMEConfig:  # noqa: ANN401 - fields of different types
    """Return a configuration of two profiles."""
    profiles = {
        "default": IssuanceProfile(name="default", description="a week"),
        "short": IssuanceProfile(name="short", description="an hour", lifetime=timedelta(hours=1)),
    }
    config = ACMEConfig(
        url=URL, caa_identities=("ca.example.test",), profiles=profiles, limits=default_limits(PRIVATE_SERVICE)
    )
    return replace(config, **changes)


class GatedStore:
    """A store whose commits can be held back, so that several requests have read before the first one writes."""

    def __init__(self, inner: ACMEStore) -> None:
        """Hold nothing back."""
        self._inner = inner
        self._left = 0
        self._gate: asyncio.Event | None = None

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the store has
        """Pass on what is not held back."""
        return getattr(self._inner, name)

    def hold(self, count: int) -> None:
        """Let the next commits wait until there are so many of them."""
        self._left, self._gate = count, asyncio.Event()

    async def commit(self, *changes: Change) -> tuple[int, ...]:
        """Commit, perhaps after waiting for others."""
        if self._gate is not None and not self._gate.is_set():
            self._left -= 1
            if self._left <= 0:
                self._gate.set()
            async with asyncio.timeout(PATIENCE_S):
                await self._gate.wait()
        return await self._inner.commit(*changes)


@dataclass(slots=True)
class ServerUnderTest:
    """A server that runs. gate: the database, where commits can be held back; store: around it, if a test wants so."""

    app: ASGIApp
    ca: RunningCA
    store: ACMEStore
    gate: GatedStore
    context: ServerContext
    server: ACMEServer
    validator: ScriptedValidator
    clock: FakeClock

    async def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """Send a request. path: whole URL, or relative to the server's."""
        return await exchange(self.app, method, path if path.startswith("https:") else f"{URL}/{path}", body, headers)

    async def nonce(self) -> str:
        """Return a fresh nonce."""
        value = (await self.ask("HEAD", "new-nonce")).header("replay-nonce")
        assert value is not None
        return value

    async def account(self, key: "Key | None" = None, **members: object) -> "Client":
        """Return a client with a new account."""
        client = Client(self, key or Key.make())
        answer = await client.post("new-account", {"termsOfServiceAgreed": True, **members})
        assert answer.status == 201, answer
        client.kid = answer.location
        return client


@dataclass(frozen=True, slots=True)
class Key:
    """A key that signs requests. algorithm: the name that JWS has for it."""

    private: PrivateKey
    algorithm: str

    @staticmethod
    def make(algorithm: str = "ES256") -> "Key":
        """Return a new key."""
        match algorithm:
            case "ES256":
                return Key(ec.generate_private_key(ec.SECP256R1()), algorithm)
            case "ES384":
                return Key(ec.generate_private_key(ec.SECP384R1()), algorithm)
            case "EdDSA":
                return Key(ed25519.Ed25519PrivateKey.generate(), algorithm)
            case _:
                return Key(rsa.generate_private_key(65537, 2048), algorithm)

    @property
    def jwk(self) -> dict[str, str]:
        """The public key as a JSON Web Key."""
        public = self.private.public_key()
        if isinstance(public, ec.EllipticCurvePublicKey):
            size = (public.curve.key_size + 7) // 8
            numbers = public.public_numbers()
            x, y = (b64(number.to_bytes(size, "big")) for number in (numbers.x, numbers.y))
            return {"kty": "EC", "crv": f"P-{public.curve.key_size}", "x": x, "y": y}
        if isinstance(public, ed25519.Ed25519PublicKey):
            raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
            return {"kty": "OKP", "crv": "Ed25519", "x": b64(raw)}
        modulus, exponent = public.public_numbers().n, public.public_numbers().e
        return {
            "kty": "RSA",
            "n": b64(modulus.to_bytes((modulus.bit_length() + 7) // 8, "big")),
            "e": b64(exponent.to_bytes(3, "big")),
        }

    @property
    def thumbprint(self) -> str:
        """The key's thumbprint, RFC 7638."""
        return b64(hashlib.sha256(json.dumps(self.jwk, sort_keys=True, separators=(",", ":")).encode()).digest())

    def sign(self, message: bytes) -> bytes:
        """Return a signature as JWS has it."""
        key = self.private
        if isinstance(key, ec.EllipticCurvePrivateKey):
            size = (key.curve.key_size + 7) // 8
            digest = hashes.SHA384() if size == 48 else hashes.SHA256()
            r, s = decode_dss_signature(key.sign(message, ec.ECDSA(digest)))
            return r.to_bytes(size, "big") + s.to_bytes(size, "big")
        if isinstance(key, rsa.RSAPrivateKey):
            return key.sign(message, padding.PKCS1v15(), hashes.SHA256())
        return key.sign(message)


def mac(secret: bytes) -> Callable[[bytes], bytes]:
    """Return what authenticates with HMAC-SHA256, as HS256 does."""

    def sign(message: bytes) -> bytes:
        made = hmac.HMAC(secret, hashes.SHA256())
        made.update(message)
        return made.finalize()

    return sign


def jws(header: Mapping[str, object] | str, payload: object, sign: Callable[[bytes], bytes]) -> dict[str, str]:
    """Return a JSON Web Signature, flattened. header: text is taken as it is. payload: None for an empty one."""
    protected = b64(header if isinstance(header, str) else json.dumps(header))
    text = payload if isinstance(payload, bytes) else b"" if payload is None else json.dumps(payload).encode()
    body = b64(text)
    return {"protected": protected, "payload": body, "signature": b64(sign(f"{protected}.{body}".encode()))}


@dataclass(slots=True)
class Client:
    """A client of the server. kid: the account's URL, None without an account."""

    server: ServerUnderTest
    key: Key
    kid: str | None = None
    # The nonce of the last answer.
    nonce: str | None = None
    # URLs of challenges by name, in the order in which they were seen.
    challenges: dict[str, list[str]] = field(default_factory=dict)

    async def header(self, url: str) -> dict[str, object]:
        """Return the protected header of a request that is right."""
        nonce, self.nonce = self.nonce or await self.server.nonce(), None
        who = {"jwk": self.key.jwk} if self.kid is None else {"kid": self.kid}
        return {"alg": self.key.algorithm, "nonce": nonce, "url": url, **who}

    async def post(
        self,
        url: str,
        payload: object = None,
        /,
        *,
        accept: str | None = None,
        **changes: object,
    ) -> Answer:
        """Send a signed request. payload: None for POST-as-GET. changes: to the header; None takes a member out."""
        where = url if url.startswith("https:") else f"{URL}/{url}"
        header = await self.header(where) | changes
        header = {name: value for name, value in header.items() if value is not None}
        return await self.send(where, json.dumps(jws(header, payload, self.key.sign)).encode(), accept=accept)

    async def send(self, url: str, body: bytes, *, accept: str | None = None) -> Answer:
        """Send a body."""
        headers = {"content-type": JSON_TYPE} | ({} if accept is None else {"accept": accept})
        answer = await self.server.ask("POST", url, body, headers)
        self.nonce = answer.header("replay-nonce")
        return answer

    async def order(self, *names: str, **members: object) -> Answer:
        """Order a certificate for names."""
        answer = await self.post("new-order", {"identifiers": [identifier(name) for name in names], **members})
        assert answer.status == 201, answer
        return answer

    async def authorize(self, order: Answer, method: str | None = None) -> None:
        """Bring the authorizations of an order to their end. method: the first that is offered, without."""
        for url in order.json["authorizations"]:
            document = (await self.post(url)).json
            if document["status"] != "pending":
                continue
            chosen = next(item for item in document["challenges"] if method in (None, item["type"]))
            while (await self.post(chosen["url"], {})).status == 503:  # noqa: ASYNC110 - what is waited for is a poll
                await asyncio.sleep(0.002)
            await self.settled(url)

    async def settled(self, url: str) -> Answer:
        """Ask for a resource until it is neither pending nor processing."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                answer = await self.post(url)
                if answer.json["status"] not in ("pending", "processing"):
                    return answer
                await asyncio.sleep(0.002)

    async def finalize(self, order: Answer, csr: bytes) -> Answer:
        """Finalize an order."""
        return await self.post(order.json["finalize"], {"csr": b64(csr)})

    async def obtain(self, *names: str, key: Any = None, **members: object) -> "Obtained":  # noqa: ANN401 - any key
        """Order, authorize, finalize and download."""
        order = await self.order(*names, **members)
        await self.authorize(order)
        certificate_key = key or ec.generate_private_key(ec.SECP256R1())
        answer = await self.finalize(order, csr_for(names, certificate_key))
        assert answer.status == 200, answer
        final = await self.settled(order.location)
        assert final.json["status"] == "valid", final
        chain = await self.post(final.json["certificate"])
        return Obtained(order.location, final, chain, certificate_key)


@dataclass(frozen=True, slots=True)
class Obtained:
    """An order that is done. order: its URL. final: its last state. chain: the answer with the certificate."""

    order: str
    final: Answer
    chain: Answer
    key: Any

    @property
    def der(self) -> bytes:
        """The certificate, DER."""
        return leaf_of(self.chain.body)


def leaf_of(pem: bytes) -> bytes:
    """Return the first certificate of a chain, DER."""
    return x509.load_pem_x509_certificates(pem)[0].public_bytes(Encoding.DER)


def id_of(der: bytes) -> str:
    """Return the identifier of a certificate, made from the certificate alone."""
    certificate = x509.load_der_x509_certificate(der)
    key_identifier = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert key_identifier is not None
    serial = certificate.serial_number
    return f"{b64(key_identifier)}.{b64(serial.to_bytes(serial.bit_length() // 8 + 1, 'big'))}"


def identifier(name: str) -> dict[str, str]:
    """Return the identifier of a name or an address."""
    with contextlib.suppress(ValueError):
        return {"type": "ip", "value": str(ip_address(name))}
    return {"type": "dns", "value": name}


def general_name(name: str) -> x509.GeneralName:
    """Return a name or an address for a subjectAltName."""
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ip_address(name))
    return x509.DNSName(name)


def csr_for(
    names: Sequence[str],
    key: Any = None,  # noqa: ANN401 - any key
    *,
    common_name: str | None = None,
    others: Sequence[x509.GeneralName] = (),
    digest: Any = None,  # noqa: ANN401 - a hash algorithm
) -> bytes:
    """Return a certificate request, DER. others: names of other kinds. digest: SHA-256 without, where one is needed."""
    private = key or ec.generate_private_key(ec.SECP256R1())
    attributes = [] if common_name is None else [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    found = [*map(general_name, names), *others]
    if found:
        builder = builder.add_extension(x509.SubjectAlternativeName(found), critical=False)
    needs_digest = isinstance(private, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    return builder.sign(private, (digest or hashes.SHA256()) if needs_digest else None).public_bytes(Encoding.DER)


def make_folder(path: Path, revision: DraftRevision = REVISIONS["plants-07"], **changes: Any) -> None:  # noqa: ANN401
    """Make the folder of a CA whose signer runs by itself. changes: to its configuration."""
    config = CAConfig(
        ca_id=CA_ID,
        revision=revision,
        profile=replace(PRIVATE_SERVICE, round_interval=ROUND),
        prefix_url="http://ca.example.test/mtc",
        listen=None,
        signer_socket="signer/signer.sock",
        overrides={"round_interval": ROUND},
    )
    create_folder(path, replace(config, **changes), None, FakeClock().now())


@contextlib.asynccontextmanager
async def running_server(  # noqa: PLR0913 - what tests choose
    path: Path,
    config: ACMEConfig | None = None,
    *,
    clock: FakeClock | None = None,
    store: Callable[[ACMEStore], ACMEStore] = lambda store: store,
    cosigners: CosignatureSource | None = None,
    is_sequencing: bool = True,
) -> AsyncIterator[ServerUnderTest]:
    """Run a CA in a folder, made where it is missing, and its ACME server. store: wraps the database.

    is_sequencing: rounds run by themselves; else the test runs them.
    """
    if not (path / "ca.toml").exists():
        make_folder(path)
    time = clock or FakeClock()
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(running_signer(path / "signer", None, lambda *_: None, clock=time))
        ca = await stack.enter_async_context(open_ca(path, clock=time, cosigners=cosigners))
        if is_sequencing:
            await stack.enter_async_context(ca.sequencing())
        database = SQLiteACMEStore.open(path / "acme" / "acme.sqlite", path / "acme" / "evidence")
        stack.push_async_callback(database.close)
        gate = GatedStore(database)
        wrapped = store(gate)
        validator = ScriptedValidator(time)
        context = ServerContext(config or default_config(), wrapped, ca, validator)
        server = ACMEServer(context)
        limits = Limits(body_bytes=2 * MAX_JWS_BYTES, time_s=60.0)
        app = create_app(server.routes(), FrameChoices(limits=limits))
        follow_up = asyncio.create_task(server.issuing.follow_up())
        try:
            await server.challenges.resume()
            yield ServerUnderTest(app, ca, wrapped, gate, context, server, validator, time)
        finally:
            follow_up.cancel()
            await asyncio.gather(follow_up, return_exceptions=True)
            await server.challenges.close()
            await server.issuing.close()


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Give a folder for a CA, in memory where the system has such a place: nothing of it outlives the test."""
    memory = Path("/dev/shm")  # noqa: S108 - only for tests, and the folder in it is made safely
    with tempfile.TemporaryDirectory(prefix="acme-", dir=memory if memory.is_dir() else None) as path:
        yield Path(path) / "ca"


Work = Callable[[ServerUnderTest], Coroutine[Any, Any, None]]


def run_with(
    work: Work,
    config: ACMEConfig | None = None,
    *,
    folder: Path | None = None,
    timeout_s: float = 60.0,
    **choices: Any,  # noqa: ANN401 - of `running_server`
) -> None:
    """Run one test with a server of its own. folder: of its CA, a new one without. timeout_s: for all of it."""

    async def main(path: Path) -> None:
        async with asyncio.timeout(timeout_s), running_server(path, config, **choices) as server:
            await work(server)

    with contextlib.ExitStack() as stack:
        asyncio.run(main(folder or stack.enter_context(scratch())))


@contextlib.contextmanager
def shared_server(config: ACMEConfig | None = None, revision: DraftRevision | None = None) -> Iterator["Shared"]:
    """Run a server in a thread of its own, for all tests of a module: each makes its own accounts."""
    with scratch() as path, ThreadPoolExecutor(1) as threads:
        make_folder(path, revision or REVISIONS["plants-07"])
        opened: Future[Shared] = Future()

        async def main() -> None:
            over = asyncio.Event()
            async with running_server(path, config) as server:
                opened.set_result(Shared(server, asyncio.get_running_loop(), over))
                await over.wait()

        done = threads.submit(asyncio.run, main())
        done.add_done_callback(lambda task: opened.set_exception(task.exception()) if not opened.done() else None)
        shared = opened.result(PATIENCE_S)
        try:
            yield shared
        finally:
            shared.loop.call_soon_threadsafe(shared.over.set)
            done.result(PATIENCE_S)


@dataclass(frozen=True, slots=True)
class Shared:
    """A server that runs elsewhere. loop: its event loop. over: set to end it."""

    server: ServerUnderTest
    loop: asyncio.AbstractEventLoop
    over: asyncio.Event

    def run(self, work: Work) -> None:
        """Run one test where the server runs."""
        asyncio.run_coroutine_threadsafe(work(self.server), self.loop).result(60)
