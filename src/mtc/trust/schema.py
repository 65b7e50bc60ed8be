"""The published JSON Schema of the trust store document (`mtc trust schema`)."""

_ID = {
    "type": "string",
    "description": "Trust anchor ID, relative to 1.3.6.1.4.1",
    "pattern": r"^(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*$",
    "maxLength": 1024,
}
_IDS = {"type": "array", "items": {"$ref": "#/$defs/id"}, "uniqueItems": True}
_SIZE = {"type": "integer", "minimum": 0, "maximum": 2**48 - 1}
_LOG = {"type": "integer", "minimum": 1, "maximum": 65535}

TRUST_STORE_SCHEMA: dict[str, object] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "mtc trust store",
    "description": "Whom a relying party trusts: CAs, cosigners and policy, trusted subtrees, revoked serial ranges.",
    "type": "object",
    "required": ["version", "cas"],
    "additionalProperties": False,
    "properties": {
        "version": {"const": 1},
        "cas": {"type": "array", "items": {"$ref": "#/$defs/ca"}},
    },
    "$defs": {
        "id": _ID,
        "ca": {
            "type": "object",
            "required": ["id", "cosigners", "policy"],
            "additionalProperties": False,
            "properties": {
                "id": {"$ref": "#/$defs/id"},
                "draft": {
                    "enum": ["plants-04", "plants-05", "plants-06", "plants-07"],
                    "default": "plants-07",
                    "description": "The one draft revision that the CA speaks",
                },
                "hash": {"enum": ["sha256", "sm3"], "default": "sha256"},
                "cosigners": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/cosigner"}},
                "policy": {"$ref": "#/$defs/policy"},
                "trusted_subtrees": {"type": "array", "items": {"$ref": "#/$defs/trusted_subtree"}},
                "revoked": {
                    "description": "Half-open ranges [start, end) of serial numbers, start <= end",
                    "type": "array",
                    "items": {
                        "type": "array",
                        "minItems": 2,
                        "maxItems": 2,
                        "items": {"type": "integer", "minimum": 0, "maximum": 2**64},
                    },
                },
            },
        },
        "cosigner": {
            "type": "object",
            "required": ["id", "algorithm", "public_key"],
            "additionalProperties": False,
            "properties": {
                "id": {"$ref": "#/$defs/id"},
                "algorithm": {
                    "type": "string",
                    "examples": [
                        "ml-dsa-44",
                        "ml-dsa-65",
                        "ml-dsa-87",
                        "ecdsa-p256-sha256",
                        "ecdsa-p384-sha384",
                        "ed25519",
                    ],
                },
                "public_key": {
                    "type": "string",
                    "contentEncoding": "base64",
                    "description": "SubjectPublicKeyInfo, DER",
                },
                "state": {"enum": ["usable", "frozen", "removed"], "default": "usable"},
                "tree_size": {
                    **_SIZE,
                    "description": "With state frozen: signatures count up to this size of `log`, and for earlier logs",
                },
                "log": {**_LOG, "default": 1, "description": "With state frozen: the log that tree_size is of"},
            },
            "if": {"properties": {"state": {"const": "frozen"}}, "required": ["state"]},
            "then": {"required": ["tree_size"]},
            "else": {"properties": {"tree_size": False, "log": False}},
        },
        "policy": {
            "type": "object",
            "description": "All of `require` and, if there is a quorum, at_least of its members; somebody at least",
            "additionalProperties": False,
            "properties": {
                "require": _IDS,
                "quorum": {
                    "type": "object",
                    "required": ["of", "at_least"],
                    "additionalProperties": False,
                    "properties": {"of": _IDS, "at_least": {"type": "integer", "minimum": 0}},
                },
            },
            "anyOf": [
                {"required": ["require"], "properties": {"require": {"minItems": 1}}},
                {"required": ["quorum"], "properties": {"quorum": {"properties": {"at_least": {"minimum": 1}}}}},
            ],
        },
        "trusted_subtree": {
            "type": "object",
            "required": ["log", "start", "end", "hash"],
            "additionalProperties": False,
            "properties": {
                "log": _LOG,
                "start": _SIZE,
                "end": _SIZE,
                "hash": {"type": "string", "pattern": "^([0-9a-fA-F]{2})+$"},
                "landmark": {"type": "integer", "minimum": 0, "maximum": 2**48 - 1},
                "expiry": {
                    "type": "integer",
                    "minimum": 0,
                    "maximum": 2**63 - 1,
                    "description": "POSIX seconds; that second is included",
                },
            },
        },
    },
}
