"""The back end on pyOpenSSL: ML-DSA leaf keys and post-quantum key exchange, whatever OpenSSL Python itself has.

`client` and `server` import pyOpenSSL, which may be missing; `load_binding` says so.
"""

from mtc.tls.adapters.pyopenssl.binding import load_binding

__all__ = ["load_binding"]
