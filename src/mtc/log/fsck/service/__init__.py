"""Reading a log to check it. See `mtc.log.fsck`."""

from mtc.log.fsck.service.check import CheckedLog, LogTask, check_log
from mtc.log.fsck.service.sources import LogFiles, StoreFiles
from mtc.log.fsck.service.tree import TreeHashes

__all__ = ["CheckedLog", "LogFiles", "LogTask", "StoreFiles", "TreeHashes", "check_log"]
