"""Re-verifies a whole CA: every log from what it serves, and with the folder also everything that decides.

With the folder: the register's values, the ledger with every checkpoint and cosignature that was ever published, the
signer's record, and its journal, each message of which is computed again from the final log. What nothing signs is
compared with the register. It reads and never repairs, also while the CA runs.
"""

from mtc.ca.fsck.check import check_folder, check_public
from mtc.ca.fsck.context import ListedFiles, ObjectFiles, Tell

__all__ = ["ListedFiles", "ObjectFiles", "Tell", "check_folder", "check_public"]
