"""The sequencer: entries come in one by one, and leave in rounds with an index, signed and published.

The order of a round and what a crash means after each step stand in `mtc.log.machine`. Two rules keep it true here: a
round that is decided is finished before another is planned, and finishing is the same function that start-up uses.

Keys in the object store: `public/<N>/…` is served as it is; `private/staging/<N>/…`, `private/ledger/<N>/…` and
`private/owed/<N>/…` are not.
"""

from mtc.log.owed import OwedRound
from mtc.log.seams import CosignatureSource, CosignerView, NoQuorumError, SignedTree, TreeSigner, TreeToSign
from mtc.log.service.abandoning import close_abandoned_log
from mtc.log.service.limits import RoundLimits
from mtc.log.service.pool import Appended, PublishedRound
from mtc.log.service.sequencer import IssuanceLog

__all__ = [
    "Appended",
    "CosignatureSource",
    "CosignerView",
    "IssuanceLog",
    "NoQuorumError",
    "OwedRound",
    "PublishedRound",
    "RoundLimits",
    "SignedTree",
    "TreeSigner",
    "TreeToSign",
    "close_abandoned_log",
]
