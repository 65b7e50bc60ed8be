"""Trust anchor IDs, their patterns and ranges, the IDs that a CA ID owns, serial numbers, and the draft revisions.

Spec: TLS Trust Anchor Identifiers, "Trust Anchor Identifiers" and "Trust Anchor Groups"; Merkle Tree Certificates,
"Certification Authority Identifiers".
"""

from mtc.ids.anchor import (
    MAX_ID_BYTES,
    TrustAnchorID,
    TrustAnchorPattern,
    TrustAnchorRange,
    landmark_group,
    landmark_id,
    landmark_pattern,
    log_id,
    standalone_pattern,
)
from mtc.ids.draft import (
    DEFAULT_REVISION,
    REVISIONS,
    DraftRevision,
    encode_ca_name,
    parse_ca_name,
    parse_revision,
    revision_of,
)
from mtc.ids.serial import MAX_INDEX, MAX_LOG_NUMBER, SERIAL_LIMIT, serial_number, split_serial

__all__ = [
    "DEFAULT_REVISION",
    "MAX_ID_BYTES",
    "MAX_INDEX",
    "MAX_LOG_NUMBER",
    "REVISIONS",
    "SERIAL_LIMIT",
    "DraftRevision",
    "TrustAnchorID",
    "TrustAnchorPattern",
    "TrustAnchorRange",
    "encode_ca_name",
    "landmark_group",
    "landmark_id",
    "landmark_pattern",
    "log_id",
    "parse_ca_name",
    "parse_revision",
    "revision_of",
    "serial_number",
    "split_serial",
    "standalone_pattern",
]
