"""The ledger of one log over an object store. What it stores, and in which order, stands in `mtc.log.ledger`."""

from mtc.log.ledger.service.ledger import Ledger

__all__ = ["Ledger"]
