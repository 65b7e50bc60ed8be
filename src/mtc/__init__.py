"""A Merkle Tree Certificates platform: logs, certification authorities, cosigners, relying parties and monitors.

Import the rooms that you need (`mtc.merkle`, `mtc.cert`, `mtc.trust`, ...); this module holds the version alone.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
