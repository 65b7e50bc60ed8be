"""What the CA cosigner's key will sign: a state machine of its own, apart from the log that asks.

The process that holds the key trusts nobody, not even its CA: it recomputes each tree from the entries themselves, on
top of the last tree that it signed, and signs nothing else.

Spec: Merkle Tree Certificates, "Certification Authority Cosigners" and "Signing Subtrees".
"""

from mtc.signer.machine import (
    KNOWN_ENTRY_TYPES,
    SignerRules,
    SignerView,
    SigningPlan,
    TreeRequest,
    plan_signing,
)

__all__ = ["KNOWN_ENTRY_TYPES", "SignerRules", "SignerView", "SigningPlan", "TreeRequest", "plan_signing"]
