"""The command `mtc`: parses arguments, calls rooms, prints.

Exit codes everywhere: 0 done, 1 the answer is no, 2 usage or unreadable input. There is never a traceback, unless
`MTC_DEBUG` is set.
"""

from mtc.cli.app import main

__all__ = ["main"]
