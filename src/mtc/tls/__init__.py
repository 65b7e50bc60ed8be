"""TLS 1.3 with Merkle Tree certificates: what a client asks for, which path a server sends, and contexts that do it.

`mtc.tls.extension`, `hello`, `paths` and `selection` are pure: formats and decisions. `mtc.tls.adapters` puts them into
TLS libraries. No handshake here is our own.

    context = client_context(parse_trust_store(document))
    urllib.request.urlopen("https://www.example.com/", context=context)

    paths = load_request_folder(Path("/etc/mtc/www.example.com"))
    context = server_context(paths.paths, fallback=paths.fallback)

Spec: TLS Trust Anchor Identifiers; Merkle Tree Certificates, "Use in TLS".
"""

from mtc.tls.adapters.choose import (
    BackEndName,
    ClientContext,
    ServerContext,
    client_context,
    client_report,
    negotiated_group,
    server_context,
    server_report,
)
from mtc.tls.adapters.clients import ClientReport
from mtc.tls.adapters.connecting import connect, open_connection
from mtc.tls.adapters.doctor import BackEnd, describe_back_ends
from mtc.tls.adapters.files import RequestFolder, load_request_folder
from mtc.tls.adapters.servers import ServerReport
from mtc.tls.extension import CODE_POINT, TrustAnchorsExtension, check_acknowledgement
from mtc.tls.hello import ClientHello, find_client_hello, parse_client_hello
from mtc.tls.paths import CertificationPath, is_merkle_tree_certificate, parse_paths
from mtc.tls.selection import (
    Match,
    Offer,
    Selection,
    available_anchors,
    match_path,
    parse_server_name,
    plan_retry,
    requested_anchors,
    select_path,
)

__all__ = [
    "CODE_POINT",
    "BackEnd",
    "BackEndName",
    "CertificationPath",
    "ClientContext",
    "ClientHello",
    "ClientReport",
    "Match",
    "Offer",
    "RequestFolder",
    "Selection",
    "ServerContext",
    "ServerReport",
    "TrustAnchorsExtension",
    "available_anchors",
    "check_acknowledgement",
    "client_context",
    "client_report",
    "connect",
    "describe_back_ends",
    "find_client_hello",
    "is_merkle_tree_certificate",
    "load_request_folder",
    "match_path",
    "negotiated_group",
    "open_connection",
    "parse_client_hello",
    "parse_paths",
    "parse_server_name",
    "plan_retry",
    "requested_anchors",
    "select_path",
    "server_context",
    "server_report",
]
