"""What the CA cosigner's key will sign: a state machine of its own, apart from the log that asks.

The process that holds the key trusts nobody, not even its CA: it recomputes each tree from the entries themselves, on
top of the last tree that it signed, and signs nothing else but revocation lists that never revoke less.

Spec: Merkle Tree Certificates, "Certification Authority Cosigners" and "Signing Subtrees".
"""

from mtc.signer.config import KeySource, SignerConfig, format_signer_config, parse_signer_config
from mtc.signer.crl import CRLKind, CRLPlan, CRLView, plan_crl
from mtc.signer.journal import CRLLine, JournalLine, TreeLine, parse_journal_line
from mtc.signer.machine import SignerView, SigningPlan, TreeRequest, plan_refusal, plan_signing
from mtc.signer.rules import KNOWN_ENTRY_TYPES, SignerRules

__all__ = [
    "KNOWN_ENTRY_TYPES",
    "CRLKind",
    "CRLLine",
    "CRLPlan",
    "CRLView",
    "JournalLine",
    "KeySource",
    "SignerConfig",
    "SignerRules",
    "SignerView",
    "SigningPlan",
    "TreeLine",
    "TreeRequest",
    "format_signer_config",
    "parse_journal_line",
    "parse_signer_config",
    "plan_crl",
    "plan_refusal",
    "plan_signing",
]
