"""The back end on the stdlib's `ssl`: contexts that speak `trust_anchors`, through ctypes."""

from mtc.tls.adapters.stdlib.client import ClientContext, client_context, client_report
from mtc.tls.adapters.stdlib.libssl import load_libssl
from mtc.tls.adapters.stdlib.server import ServerContext, server_context, server_report

__all__ = [
    "ClientContext",
    "ServerContext",
    "client_context",
    "client_report",
    "load_libssl",
    "server_context",
    "server_report",
]
