"""Who asked for what: which request became which entry, and how each round was signed."""

from mtc.log.ledger.formats import SignedRound, ledger_prefix

__all__ = ["SignedRound", "ledger_prefix"]
