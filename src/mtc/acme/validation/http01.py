"""http-01: the applicant's web server shows the key authorization at a path that the CA chose.

Spec: RFC 8555, "HTTP Challenge"; RFC 8738, "IP Identifier"; Baseline Requirements for TLS server certificates,
"Agreed-Upon Change to Website - ACME".
"""

import asyncio
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from mtc.acme.machine.identifiers import Identifier
from mtc.acme.machine.problems import ProblemType
from mtc.acme.machine.validation import ValidationTask
from mtc.acme.validation.addresses import Address, explain_refusal, parse_address
from mtc.acme.validation.connecting import Destination, Dialer, explain_error, make_tls_context
from mtc.acme.validation.findings import Findings, ValidationError
from mtc.acme.validation.http_answer import HTTPAnswer, read_answer
from mtc.acme.validation.settings import ValidationSettings
from mtc.errors import FormatError

MAX_REDIRECTS = 10
_REDIRECTS = frozenset({301, 302, 307, 308})
"""Those that the Baseline Requirements allow."""
_MAX_URL_CHARS = 2000
_MAX_SHOWN_BODY = 60
_USER_AGENT = "mtc-acme-validation (+RFC 8555 http-01)"
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a request goes. host: a name or an address, without brackets. port: as the URL has it, or by scheme."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


class HTTP01:
    """Validates by http-01."""

    def __init__(self, settings: ValidationSettings, dialer: Dialer) -> None:
        """Work by some settings."""
        self._settings = settings
        self._dialer = dialer
        self._tls = make_tls_context(["http/1.1"])
        # What is connected to in the place of a port; the URL and the Host header keep the port of the specification.
        self._ports = {80: settings.http_port, 443: settings.tls_port}
        self._allowed_ports = {*self._ports.keys(), *self._ports.values()}

    async def validate(self, task: ValidationTask, findings: Findings) -> None:
        """Fetch, through redirects, and compare. Raises ValidationError."""
        place = _Place("http", task.identifier.value, 80, f"/.well-known/acme-challenge/{task.token}")
        own: list[Address] = []
        try:
            async with asyncio.timeout(self._settings.control_timeout_s):
                for hop in range(MAX_REDIRECTS + 1):
                    addresses = await self._dialer.find_addresses(place.host, findings)
                    own = own or addresses
                    self._check_literal(place, own, is_redirect=hop > 0)
                    answer, address = await self._fetch(place, addresses, findings)
                    if answer.status not in _REDIRECTS:
                        return self._compare(task, place, address, answer)
                    place = self._follow(place, answer)
        except TimeoutError as error:
            raise ValidationError.of(
                ProblemType.CONNECTION, f"{place.url} took longer than {self._settings.control_timeout_s:g} s"
            ) from error
        raise ValidationError.of(
            ProblemType.CONNECTION, f"more than {MAX_REDIRECTS} redirects, the last one to {place.url}"
        )

    async def _fetch(self, place: _Place, addresses: list[Address], findings: Findings) -> tuple[HTTPAnswer, str]:
        """Send one request; return the answer and the address that it came from. Raises ValidationError."""
        request = (
            f"GET {place.path} HTTP/1.1\r\nHost: {place.authority}\r\nUser-Agent: {_USER_AGENT}\r\n"
            "Accept: */*\r\nAccept-Encoding: identity\r\nConnection: close\r\n\r\n"
        )
        is_secure = place.scheme == "https"
        destination = Destination(
            target=place.url,
            port=self._ports.get(place.port, place.port),
            tls=self._tls if is_secure else None,
            server_name=place.host if is_secure else None,
        )
        async with self._dialer.dial(destination, addresses, findings) as (reader, writer):
            address = findings.connections[-1].address
            try:
                writer.write(request.encode("ascii"))
                await writer.drain()
                return await read_answer(reader), address
            except FormatError as error:
                raise ValidationError.of(
                    ProblemType.INCORRECT_RESPONSE, f"{place.url} from {address}: {error.message}"
                ) from error
            except OSError as error:
                raise ValidationError.of(
                    ProblemType.CONNECTION, f"{place.url} from {address}: {explain_error(error)}"
                ) from error

    def _follow(self, place: _Place, answer: HTTPAnswer) -> _Place:
        """Return where a redirect leads. Raises ValidationError when that is not allowed."""

        def refuse(why: str) -> ValidationError:
            return ValidationError.of(
                ProblemType.CONNECTION, f"{place.url} redirects to {(answer.location or '')[:300]!r}, {why}"
            )

        if not answer.location or len(answer.location) > _MAX_URL_CHARS or not answer.location.isprintable():
            raise refuse("which is no URL")
        try:
            parts = urlsplit(urljoin(place.url, answer.location))
            port = _DEFAULT_PORTS.get(parts.scheme, 0) if parts.port is None else parts.port
        except ValueError:
            raise refuse("which is no URL") from None
        if parts.scheme not in _DEFAULT_PORTS:
            raise refuse("and only http and https are followed")
        if port not in self._allowed_ports:
            raise refuse("and only the ports 80 and 443 are connected to")
        if "@" in parts.netloc:
            raise refuse("and no user names are sent")
        host = parts.hostname or ""
        try:
            host = Identifier.parse("dns" if parse_address(host) is None else "ip", host.removesuffix(".")).value
        except FormatError:
            raise refuse("which has no usable host") from None
        query = f"?{parts.query}" if parts.query else ""
        return _Place(parts.scheme, host, port, quote(f"{parts.path or '/'}{query}", safe="/?%:@!$&'()*+,;=~[]"))

    def _check_literal(self, place: _Place, own: list[Address], *, is_redirect: bool) -> None:
        """Refuse a redirect to a private address that the applicant's own name does not have. Raises ValidationError.

        In a private network every name may lead anywhere in it; that is for its DNS to say, not for an applicant's web
        server.
        """
        literal = parse_address(place.host)
        if not is_redirect or literal is None or literal in own:
            return
        why = explain_refusal(literal, allows_private=False)
        if why is not None:
            raise ValidationError.of(ProblemType.CONNECTION, f"a redirect to {place.url} is not followed: it {why}")

    def _compare(self, task: ValidationTask, place: _Place, address: str, answer: HTTPAnswer) -> None:
        """Raise ValidationError unless an answer is the key authorization."""
        if answer.status != 200:
            raise ValidationError.of(
                ProblemType.UNAUTHORIZED, f"{place.url} from {address}: status {answer.status}, expected 200"
            )
        body = answer.body.rstrip()
        if body == task.key_authorization.encode():
            return
        got = f"{len(body)} bytes"
        if not self._settings.allows_private:
            # What a public server answers, everybody may read. From a private network, nothing is passed on.
            got = repr(body[:_MAX_SHOWN_BODY].decode("ascii", "replace")) + ("…" if len(body) > _MAX_SHOWN_BODY else "")
        raise ValidationError.of(
            ProblemType.INCORRECT_RESPONSE,
            f"{place.url} from {address}: expected the key authorization {task.key_authorization!r}, got {got}",
        )
