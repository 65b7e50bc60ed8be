"""tls-alpn-01: the applicant's TLS server shows a certificate made for the challenge, when asked by a protocol's name.

Spec: RFC 8737, "TLS with Application-Layer Protocol Negotiation (TLS ALPN) Challenge"; RFC 8738, "IP Identifier".
"""

import asyncio
from collections.abc import Sequence
from hashlib import sha256
from ipaddress import ip_address
from ssl import SSLObject

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import ObjectIdentifier

from mtc.acme.machine.identifiers import Identifier, IdentifierType
from mtc.acme.machine.problems import ProblemType
from mtc.acme.machine.validation import ValidationTask
from mtc.acme.validation.connecting import Destination, Dialer, make_tls_context
from mtc.acme.validation.findings import Findings, ValidationError
from mtc.acme.validation.settings import ValidationSettings

Extension = x509.Extension[x509.ExtensionType]

ALPN_PROTOCOL = "acme-tls/1"
ACME_IDENTIFIER = ObjectIdentifier("1.3.6.1.5.5.7.1.31")
"""The extension id-pe-acmeIdentifier."""
_BROKEN = (ValueError, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)


class TLSALPN01:
    """Validates by tls-alpn-01."""

    def __init__(self, settings: ValidationSettings, dialer: Dialer) -> None:
        """Work by some settings."""
        self._settings = settings
        self._dialer = dialer
        self._tls = make_tls_context([ALPN_PROTOCOL])

    async def validate(self, task: ValidationTask, findings: Findings) -> None:
        """Shake hands and look at the certificate. Raises ValidationError."""
        destination = Destination(
            target=str(task.identifier),
            port=self._settings.tls_port,
            tls=self._tls,
            server_name=server_name_of(task.identifier),
        )
        try:
            async with asyncio.timeout(self._settings.control_timeout_s):
                addresses = await self._dialer.find_addresses(task.identifier.value, findings)
                async with self._dialer.dial(destination, addresses, findings) as (_, writer):
                    tls: SSLObject = writer.get_extra_info("ssl_object")
                    protocol, der = tls.selected_alpn_protocol(), tls.getpeercert(binary_form=True)
        except TimeoutError as error:
            raise ValidationError.of(
                ProblemType.CONNECTION,
                f"TLS for {task.identifier} took longer than {self._settings.control_timeout_s:g} s",
            ) from error
        where = f"TLS server for {task.identifier} at {findings.connections[-1].address}, port {destination.port}"
        if protocol != ALPN_PROTOCOL or der is None:
            raise ValidationError.of(
                ProblemType.TLS, f"{where}: expected the ALPN protocol {ALPN_PROTOCOL!r}, got {protocol or 'none'!r}"
            )
        fault = find_fault(der, task.identifier, task.key_authorization)
        if fault is not None:
            raise ValidationError.of(ProblemType.INCORRECT_RESPONSE, f"{where}: {fault}")


def server_name_of(identifier: Identifier) -> str:
    """Return what is asked for by SNI: the name, or the name of an address in the reverse tree (RFC 8738)."""
    return ip_address(identifier.value).reverse_pointer if identifier.type is IdentifierType.IP else identifier.value


def find_fault(der: bytes, identifier: Identifier, key_authorization: str) -> str | None:
    """Return what is wrong with the certificate of a challenge, None when it is right. Validity does not matter."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        extensions = list(certificate.extensions)
        is_own_issuer = certificate.issuer == certificate.subject
    except _BROKEN as error:
        return f"the certificate is broken: {str(error)[:200]}"
    try:
        certificate.verify_directly_issued_by(certificate)
    except UnsupportedAlgorithm:
        return "the certificate is signed with an algorithm that is not supported here"
    except (InvalidSignature, TypeError, ValueError):
        is_own_issuer = False
    if not is_own_issuer:
        return "the certificate is not self-signed"
    return _find_wrong_name(extensions, identifier) or _find_wrong_proof(extensions, key_authorization)


def _find_wrong_name(extensions: Sequence[Extension], identifier: Identifier) -> str | None:
    """Return what is wrong with the names of a certificate, None when there is one and it is the identifier."""
    is_ip = identifier.type is IdentifierType.IP
    wanted: x509.GeneralName = x509.IPAddress(ip_address(identifier.value)) if is_ip else x509.DNSName(identifier.value)
    values = [item.value for item in extensions if isinstance(item.value, x509.SubjectAlternativeName)]
    got = [
        x509.DNSName(name.value.lower()) if isinstance(name, x509.DNSName) else name for san in values for name in san
    ]
    if got == [wanted]:
        return None
    shown = ", ".join(str(name.value)[:100] for name in got[:5])
    return f"expected the one subjectAltName {identifier}, got {shown or 'none'}"


def _find_wrong_proof(extensions: Sequence[Extension], key_authorization: str) -> str | None:
    """Return what is wrong with the acmeIdentifier extension, None when it holds the digest."""
    proof = next((item for item in extensions if item.oid == ACME_IDENTIFIER and item.critical), None)
    if proof is None:
        return "the certificate has no critical acmeIdentifier extension"
    assert isinstance(proof.value, x509.UnrecognizedExtension)
    digest = sha256(key_authorization.encode()).digest()
    if proof.value.value == b"\x04\x20" + digest:
        return None
    return (
        f"expected the SHA-256 of the key authorization, {digest.hex()}, in acmeIdentifier, got "
        f"{proof.value.value[2:].hex()[:80]}"
    )
