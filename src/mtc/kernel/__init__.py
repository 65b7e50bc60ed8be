"""The hot path behind one seam, with two interchangeable twins: Python on hashlib, and Rust.

Buffers in and out, no state, no policy. The environment variable `MTC_KERNEL` (`python` or `native`) forces one when
this package is imported; otherwise the native kernel is used where it was built. Both give the same values and the same
errors.
"""

import os

from mtc.errors import Reason, UsageError
from mtc.kernel._layout import (
    MAX_CERTIFICATE_BYTES,
    CertificateLayout,
    ProofLayout,
    check_bit_string,
    check_entry_extensions,
    entry_size,
    frame_extension,
    parse_layout,
    parse_proof_layout,
)
from mtc.kernel._native_kernel import NativeKernel, is_native_built
from mtc.kernel._protocol import (
    FINGERPRINT_BYTES,
    HASH_SIZES,
    RECORD_BYTES,
    ExtensionFields,
    ExtensionScan,
    IssuerFormat,
    Kernel,
    KeyFilter,
    Scan,
    ScanFields,
    Scanner,
    hash_size,
)
from mtc.kernel._python import PythonKernel

__all__ = [
    "FINGERPRINT_BYTES",
    "HASH_SIZES",
    "MAX_CERTIFICATE_BYTES",
    "RECORD_BYTES",
    "CertificateLayout",
    "ExtensionFields",
    "ExtensionScan",
    "IssuerFormat",
    "Kernel",
    "KeyFilter",
    "ProofLayout",
    "Scan",
    "ScanFields",
    "Scanner",
    "active_kernel",
    "check_bit_string",
    "check_entry_extensions",
    "entry_size",
    "frame_extension",
    "hash_size",
    "is_native_built",
    "native_kernel",
    "parse_layout",
    "parse_proof_layout",
    "python_kernel",
]

_PYTHON: Kernel = PythonKernel()
_NATIVE: Kernel | None = NativeKernel() if is_native_built() else None
_FORCED = os.environ.get("MTC_KERNEL", "")


def python_kernel() -> Kernel:
    """Return the kernel in Python."""
    return _PYTHON


def native_kernel() -> Kernel:
    """Return the kernel in Rust. Raises UsageError (UNSUPPORTED) where it was not built."""
    if _NATIVE is None:
        raise UsageError(
            Reason.UNSUPPORTED,
            "the native kernel was not built; install Rust and reinstall, or unset MTC_KERNEL to use the Python kernel",
        )
    return _NATIVE


def active_kernel() -> Kernel:
    """Return the kernel that everything above uses. Raises UsageError when MTC_KERNEL asks for what is not there."""
    if _FORCED == "native":
        return native_kernel()
    if _FORCED == "python":
        return _PYTHON
    if _FORCED:
        raise UsageError(Reason.USAGE, f"MTC_KERNEL is {_FORCED!r}; it can be python or native")
    return _NATIVE or _PYTHON
