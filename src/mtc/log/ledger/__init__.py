"""Who asked for what: which request became which entry, and how each round was signed, for logs of any size.

A round is one object when it is recorded. Many of them are later *sealed*: packed into a page that never grows, with a
table of their request keys and a sorted index over the keys, of which only a small filter stays in memory. A request
that was never seen costs no access to storage.

The order of a step of sealing, and what a crash means after each part:

1. Store the new objects: a page with its table of keys and its run, or a merged run. Crash: nobody refers to them; the
   same step writes them again, under the same keys.
2. Put the next *manifest*, under its generation. It is put as an immutable object, so that of two writers one loses
   and stops. Crash: the step is done, and the new manifest says what is left to discard.
3. Discard what the manifest replaces: single rounds, merged runs, the manifest before. Crash: discarded later.

`formats` and `pages` are the objects, `machine` decides, `service` runs.
"""

from mtc.log.ledger.formats import SignedRound, ledger_prefix
from mtc.log.ledger.machine import LedgerLimits
from mtc.log.ledger.pages import Manifest

__all__ = ["LedgerLimits", "Manifest", "SignedRound", "ledger_prefix"]
