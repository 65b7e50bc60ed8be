"""Hash and signature algorithms by name, keys, and the one pair of seams through which everything signs and verifies.

All cryptography is pyca/cryptography's; this room maps names, object identifiers and key files to it.

Spec: Merkle Tree Certificates, "Signature Algorithms"; RFC 9881 (ML-DSA), RFC 5758 (ECDSA), RFC 8410 (Ed25519).
"""

from mtc.crypto.algorithms import (
    HASH_ALGORITHMS,
    HashAlgorithm,
    SignatureAlgorithm,
    Signer,
    Verifier,
    algorithm_names,
    generate_key,
    parse_hash_algorithm,
    parse_private_key,
    parse_public_key,
    parse_public_key_pem,
    parse_signature_algorithm,
    register_algorithm,
    signature_algorithm_of,
)
from mtc.crypto.keys import LocalSigner

__all__ = [
    "HASH_ALGORITHMS",
    "HashAlgorithm",
    "LocalSigner",
    "SignatureAlgorithm",
    "Signer",
    "Verifier",
    "algorithm_names",
    "generate_key",
    "parse_hash_algorithm",
    "parse_private_key",
    "parse_public_key",
    "parse_public_key_pem",
    "parse_signature_algorithm",
    "register_algorithm",
    "signature_algorithm_of",
]
