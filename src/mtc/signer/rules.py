"""What a key is for, as its signer was told when it was made."""

from dataclasses import dataclass

from mtc.cert import EntryType
from mtc.ids import DEFAULT_REVISION, MAX_LOG_NUMBER, DraftRevision, TrustAnchorID

KNOWN_ENTRY_TYPES = frozenset({int(EntryType.NULL), int(EntryType.TBS_CERT)})
"""The entry types of the draft."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerRules:
    """What the key is for.

    ca_id, revision: whose key it is, and how that CA is named in its lists. highest_log: last log number that may be
    used. max_skew_s: how far a timestamp may lie ahead of now, in seconds. max_crl_lifetime_s: longest validity of a
    revocation list. known_entry_types, known_extension_types: anything else is not signed. has_counter: every entry
    carries the counter of accumulated entries, and it is right.
    """

    ca_id: TrustAnchorID
    revision: DraftRevision = DEFAULT_REVISION
    highest_log: int = MAX_LOG_NUMBER
    max_skew_s: int = 300
    max_crl_lifetime_s: int = 32 * 86400
    known_entry_types: frozenset[int] = KNOWN_ENTRY_TYPES
    known_extension_types: frozenset[int] = frozenset()
    has_counter: bool = False
