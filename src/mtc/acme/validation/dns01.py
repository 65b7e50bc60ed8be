"""dns-01: a TXT record below the name shows the digest of the key authorization.

Spec: RFC 8555, "DNS Challenge".
"""

from base64 import urlsafe_b64encode
from hashlib import sha256

from dns.rdtypes.txtbase import TXTBase

from mtc.acme.machine.problems import ProblemType
from mtc.acme.machine.validation import ValidationTask
from mtc.acme.validation.findings import Findings, ValidationError
from mtc.acme.validation.resolver import Resolver

MAX_RECORDS = 100
"""Most TXT records that are looked at; forgotten ones of earlier validations pile up."""
_MAX_SHOWN = 3
_MAX_SHOWN_TEXT = 60


def digest_text(key_authorization: str) -> str:
    """Return the text that the TXT record has."""
    return urlsafe_b64encode(sha256(key_authorization.encode()).digest()).rstrip(b"=").decode()


class DNS01:
    """Validates by dns-01."""

    def __init__(self, resolver: Resolver) -> None:
        """Ask a resolver."""
        self._resolver = resolver

    async def validate(self, task: ValidationTask, findings: Findings) -> None:
        """Look the records up and compare. Raises ValidationError."""
        name = f"_acme-challenge.{task.identifier}"
        answer = await self._resolver.look_up(name, "TXT", findings)
        where = f"{name} from {answer.server}"
        if not answer.records:
            raise ValidationError.of(ProblemType.UNAUTHORIZED, f"no TXT record at {where} ({answer.status})")
        expected = digest_text(task.key_authorization)
        texts = [b"".join(record.strings) for record in answer.records[:MAX_RECORDS] if isinstance(record, TXTBase)]
        if expected.encode() in texts:
            return
        shown = [repr(text[:_MAX_SHOWN_TEXT].decode("ascii", "replace")) for text in texts[:_MAX_SHOWN]]
        more = len(answer.records) - len(shown)
        raise ValidationError.of(
            ProblemType.INCORRECT_RESPONSE,
            f"TXT at {where}: expected {expected!r}, got {', '.join(shown)}{f' and {more} more' if more > 0 else ''}",
        )
