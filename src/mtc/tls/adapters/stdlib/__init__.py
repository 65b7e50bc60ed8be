"""The back end on the stdlib's `ssl`: contexts that speak `trust_anchors`, through ctypes."""

from mtc.tls.adapters.stdlib.client import ClientContext, ClientReport, client_context, client_report
from mtc.tls.adapters.stdlib.libssl import load_libssl
from mtc.tls.adapters.stdlib.server import ServerContext, ServerReport, server_context, server_report

__all__ = [
    "ClientContext",
    "ClientReport",
    "ServerContext",
    "ServerReport",
    "client_context",
    "client_report",
    "load_libssl",
    "server_context",
    "server_report",
]
