"""What a new certificate goes through before anybody serves it.

Spec: Merkle Tree Certificates, "Relying Parties", "ACME Extensions"; C2SP mtc-tlog, "CA prefix URL".
"""

from collections.abc import Sequence
from datetime import datetime

from mtc.acme.client.documents import OrderState
from mtc.acme.client.leaf import Leaf, check_trusted, trust_in
from mtc.acme.client.protocol import PLAIN, ACMEClient, Issued, NotYet
from mtc.acme.machine.identifiers import Identifier
from mtc.cert import CertificateChain
from mtc.errors import Error, Reason, Rejected
from mtc.trust import TrustStore
from mtc.wire import find_pem_block

MENDABLE = frozenset({Reason.POLICY_NOT_MET, Reason.UNKNOWN_CA})
"""Why a trust store refuses what another trust store would not: the certificate is kept for then."""


async def fetch_plain_chain(client: ACMEClient, order: OrderState, issued: Issued) -> CertificateChain:
    """Return the chain for servers that know no properties: as the server has it, else the certificate alone."""
    certificates = issued.chains[0].certificates
    if not issued.has_properties or order.certificate is None:
        return CertificateChain(None, certificates)
    try:
        plain = await client.fetch_certificate(order.certificate, accept=PLAIN)
    except Error:
        plain = NotYet(None)
    if isinstance(plain, Issued) and plain.chains[0].certificates[0] == certificates[0]:
        return CertificateChain(None, plain.chains[0].certificates)
    return CertificateChain(None, certificates)


async def verify_new(  # noqa: PLR0913 - what a verdict takes
    client: ACMEClient,
    leaf: Leaf,
    plain: CertificateChain,
    prefix_url: str | None,
    trust: TrustStore | None,
    names: Sequence[Identifier],
    now: datetime,
) -> str:
    """Verify a Merkle Tree certificate, and return against what: `trust-store`, `ca-certificate`, or nothing.

    trust: the store of the user. Without one, the CA certificate is taken from the plain chain or from below the prefix
    URL: what a server says of itself proves little, but a certificate that fails even this serves nobody. Raises
    Rejected and others.
    """
    if trust is not None:
        try:
            check_trusted(leaf, trust, now, names)
        except Rejected as error:
            raise Rejected(
                error.reason, f"the new certificate is not valid under --trust: {error.message}; nothing was changed"
            ) from None
        return "trust-store"
    for candidate in (*plain.certificates[1:], await _fetch_ca(client, prefix_url)):
        try:
            store = trust_in(candidate)
        except Error:
            continue
        check_trusted(leaf, store, now, names)
        return "ca-certificate"
    return ""


def check_landmark_trusted(relative: Leaf, trust: TrustStore, names: Sequence[Identifier], now: datetime) -> None:
    """Verify a landmark-relative certificate as far as a trust store goes. Raises Rejected and others.

    A store that does not have its landmark says nothing against it: that is what its clients get the other form for.
    """
    try:
        check_trusted(relative, trust, now, names)
    except Rejected as error:
        if error.reason is not Reason.POLICY_NOT_MET:
            raise


async def _fetch_ca(client: ACMEClient, prefix_url: str | None) -> bytes:
    """Return the CA certificate that lies below the prefix URL, DER; nothing when it cannot be had."""
    if prefix_url is None:
        return b""
    try:
        url = f"{prefix_url.rstrip('/')}/ca.pem"
        return find_pem_block((await client.transport.fetch(url)).body, "CERTIFICATE")
    except Error:
        return b""
