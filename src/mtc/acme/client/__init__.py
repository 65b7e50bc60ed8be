"""An ACME client: a library, and what `mtc request` runs.

`protocol` speaks to servers, `solvers` answer challenges, `renewal` decides when, `folder` keeps certificates so that a
crash leaves the old ones whole, and `service` brings them together.

Spec: RFC 8555; RFC 8737; RFC 8738; RFC 9773; Merkle Tree Certificates, "ACME Extensions".
"""

from mtc.acme.client.documents import (
    AccountState,
    ACMERefusal,
    AuthorizationState,
    ChallengeState,
    Directory,
    OrderState,
    RenewalWindow,
    ServerProblem,
)
from mtc.acme.client.keys import ACCOUNT_KEY_TYPES, KEY_TYPES, AccountKey, build_csr, generate_key
from mtc.acme.client.protocol import (
    ACCEPT,
    PLAIN,
    WITH_PROPERTIES,
    ACMEClient,
    ExternalAccount,
    Issued,
    NotYet,
    connect,
    open_client,
)
from mtc.acme.client.transport import Reply, Signature, Transport, TransportLimits, open_transport

__all__ = [
    "ACCEPT",
    "ACCOUNT_KEY_TYPES",
    "KEY_TYPES",
    "PLAIN",
    "WITH_PROPERTIES",
    "ACMEClient",
    "ACMERefusal",
    "AccountKey",
    "AccountState",
    "AuthorizationState",
    "ChallengeState",
    "Directory",
    "ExternalAccount",
    "Issued",
    "NotYet",
    "OrderState",
    "RenewalWindow",
    "Reply",
    "ServerProblem",
    "Signature",
    "Transport",
    "TransportLimits",
    "build_csr",
    "connect",
    "generate_key",
    "open_client",
    "open_transport",
]
