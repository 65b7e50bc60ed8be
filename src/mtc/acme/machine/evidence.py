"""Evidence: what is kept, for good, of every validation, CAA check and issuance.

A record is written once and never changed: a line of JSON in a file of its day, and a row in the database. Years later
it answers for a log entry: who asked, which method, from which perspectives, which DNS answers, when.

Spec: Baseline Requirements for TLS server certificates, "Audit Logging"; Chrome's draft Quantum-resistant Root Program
policy 0.3.0, "Issuance and certificates".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from mtc.acme.machine.identifiers import Identifier


class RecordKind(StrEnum):
    """What a record tells of."""

    VALIDATION = "validation"
    """An attempt to validate an identifier, with CAA, from every perspective."""
    CAA = "caa"
    """CAA looked up again, because the last answer was too old."""
    FINALIZATION = "finalization"
    """What an order asked the CA for, and which records allowed it."""
    ISSUANCE = "issuance"
    """Where the entry of an order stands."""
    REVOCATION = "revocation"
    """Who revoked a certificate, and how that was authorized."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceRecord:
    """One record. id: given by the store when it is added, 0 before. is_positive: the outcome allowed what was asked.

    identifier: None where the record is about several. document: everything else, JSON.
    """

    kind: RecordKind
    moment: datetime
    account_id: str
    is_positive: bool
    identifier: Identifier | None = None
    authorization_id: str | None = None
    order_id: str | None = None
    document: Mapping[str, object] = field(default_factory=dict)
    id: int = 0

    def to_json(self) -> dict[str, object]:
        """Return the line of the journal."""
        return {
            "id": self.id,
            "kind": str(self.kind),
            "time": self.moment.isoformat(),
            "account": self.account_id,
            "ok": self.is_positive,
            "identifier": None if self.identifier is None else self.identifier.to_json(),
            "authorization": self.authorization_id,
            "order": self.order_id,
            **self.document,
        }
