"""Revocation: by the account that ordered, by an account that controls the names, by the certificate's own key.

The certificate says only which entry is meant. Its holder may have changed the proof and the cosignatures, so nothing
is compared but the log entry: it is rebuilt from the certificate and must be the one in the log.

Spec: RFC 8555, "Certificate Revocation"; RFC 5280, "Reason Code"; Merkle Tree Certificates, "Certificate Malleability".
"""

from starlette.responses import Response

from mtc.acme.machine.evidence import EvidenceRecord, RecordKind
from mtc.acme.machine.identifiers import Identifier
from mtc.acme.machine.jws import decode_base64url
from mtc.acme.machine.orders import Order
from mtc.acme.machine.problems import ProblemType, refused
from mtc.acme.server.accounts import key_hash
from mtc.acme.server.authentication import Call
from mtc.acme.server.context import ServerContext
from mtc.acme.store import Put
from mtc.ca.csr import parse_subject_alt_name
from mtc.cert import Certificate, RevocationReason
from mtc.cert.x509 import SUBJECT_ALT_NAME_OID
from mtc.errors import ConflictError, Error, FormatError
from mtc.ids import split_serial

_KEY_COMPROMISE = RevocationReason.KEY_COMPROMISE.label
REASONS = {
    0: "unspecified",
    1: _KEY_COMPROMISE,
    3: RevocationReason.AFFILIATION_CHANGED.label,
    4: RevocationReason.SUPERSEDED.label,
    5: RevocationReason.CESSATION_OF_OPERATION.label,
}
"""Reasons that a subscriber may give; the others are for CAs."""


class Revocations:
    """Answers for revokeCert."""

    def __init__(self, context: ServerContext) -> None:
        """Take the server's parts."""
        self._context = context

    async def revoke(self, call: Call) -> Response:
        """Revoke a certificate; published when this returns."""
        document, context = call.document, self._context
        certificate, log_number, index = await self._find(document.get("certificate"))
        number = document.get("reason", 0)
        reason = REASONS.get(number) if isinstance(number, int) and not isinstance(number, bool) else None
        if reason is None:
            shown = ", ".join(f"{code} ({name})" for code, name in REASONS.items())
            raise refused(ProblemType.BAD_REVOCATION_REASON, f"the reason must be one of {shown}")
        order = await context.store.find_order_at(log_number, index)
        how = await self._authorize(call, certificate, order)
        if context.ca.revocations.is_revoked(certificate.serial):
            raise refused(ProblemType.ALREADY_REVOKED, "the certificate is revoked already")
        account_id = call.account.id if call.account is not None else ""
        record = EvidenceRecord(
            kind=RecordKind.REVOCATION,
            moment=context.now(),
            account_id=account_id,
            is_positive=True,
            order_id=None if order is None else order.id,
            document={"log": log_number, "index": index, "reason": reason, "by": how, "client": call.client},
        )
        await context.store.commit(Put(record))
        await context.ca.revoke({"serials": [str(certificate.serial)], "reason": reason})
        if how == "key" and reason == _KEY_COMPROMISE:
            # Who signs with the key and says that others have it too is believed.
            await context.store.block("key", key_hash(certificate.spki), "reported as compromised", context.now())
        return Response(b"", 200)

    async def _find(self, value: object) -> tuple[Certificate, int, int]:
        """Return the certificate that is meant, and where its entry stands. Raises ProblemError for any other."""
        if not isinstance(value, str):
            raise refused(ProblemType.MALFORMED, "certificate is missing; it is DER, base64url")
        config = self._context.ca.parts.folder.config
        try:
            certificate = Certificate.parse(decode_base64url(value, "certificate"))
        except Error as error:
            raise refused(ProblemType.MALFORMED, f"this CA has no such certificate: {error.message}") from None
        if certificate.ca_id != config.ca_id:
            raise refused(ProblemType.MALFORMED, "the certificate is of another CA", status=404)
        try:
            log_number, index = split_serial(certificate.serial)
            logged = await self._context.ca.authority.logged_entry(log_number, index)
            rebuilt = certificate.log_entry(self._context.ca.parts.hasher).tbs_certificate
        except (FormatError, ConflictError) as error:
            raise refused(
                ProblemType.MALFORMED, f"this CA has no such certificate: {error.message}", status=404
            ) from None
        if rebuilt is None or rebuilt.encode() != logged.encode():
            raise refused(ProblemType.MALFORMED, "the log has another certificate under this serial number", status=404)
        return certificate, log_number, index

    async def _authorize(self, call: Call, certificate: Certificate, order: Order | None) -> str:
        """Return by what right a request revokes: key, account or authorizations. Raises ProblemError without one."""
        if call.key is not None:
            if call.key.spki == certificate.spki:
                return "key"
            raise refused(ProblemType.UNAUTHORIZED, "the request was signed by another key than the certificate's")
        account = call.owner
        if order is not None and order.account_id == account.id:
            return "account"
        identifiers = names_of(certificate)
        now = self._context.now()
        valid = await self._context.store.find_valid(account.id, identifiers, now)
        if identifiers and all(item in valid for item in identifiers):
            return "authorizations"
        raise refused(
            ProblemType.UNAUTHORIZED, "the account neither ordered the certificate nor controls all its names"
        )


def names_of(certificate: Certificate) -> list[Identifier]:
    """Return the identifiers that a certificate certifies; none when it names something that no account controls."""
    value = next((item.value for item in certificate.extensions if item.oid == SUBJECT_ALT_NAME_OID), None)
    if value is None:
        return []
    dns_names, ip_addresses, others = parse_subject_alt_name(value)
    if others:
        return []
    return [*map(Identifier.dns, dns_names), *map(Identifier.ip, ip_addresses)]
