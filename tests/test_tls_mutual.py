"""Certificates on both sides: clients that prove who they are with Merkle Tree certificates."""

import ssl
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.makers import CLIENT_AUTH, NOW, Leaf, SmallCA
from tests.tls_pairs import (  # noqa: F401 - a fixture for the whole module
    CLOCK,
    LANDMARK,
    StoppedClock,
    classical,
    connect,
    landmark,
    no_system_roots,
    standalone,
    tls_ca,
    trust_classical,
)

from mtc.cert import SerialRanges, encode_extended_key_usage, encode_key_usage, encode_subject_alt_name
from mtc.errors import Error, Reason
from mtc.ids import serial_number
from mtc.tls import (
    CertificationPath,
    ClientContext,
    Match,
    ServerContext,
    client_context,
    client_report,
    server_context,
    server_report,
)
from mtc.trust import Form, TrustStore


def clients_ca() -> SmallCA:
    """Return a CA of clients."""
    extensions = (
        encode_key_usage("digitalSignature"),
        encode_extended_key_usage(CLIENT_AUTH),
        encode_subject_alt_name(("client.example",), (), is_critical=True),
    )
    leaves = tuple(Leaf(extensions=extensions, not_after=NOW + timedelta(days=number + 1)) for number in range(13))
    return SmallCA(leaves, ca_id="32473.200")


def knows(ca: SmallCA) -> TrustStore:
    """Return a store with the landmark."""
    return ca.store(subtrees=[ca.trusted_subtree(0, 8, landmark=LANDMARK)])


def server(clients: TrustStore) -> ServerContext:
    """Return a server that asks for client certificates."""
    return server_context([standalone(tls_ca())], clients=clients, clock=CLOCK)


def client(*paths: CertificationPath) -> ClientContext:
    """Return a client with certification paths."""
    context = client_context(tls_ca().store(), paths=paths, clock=CLOCK)
    trust_classical(context)
    return context


def both_forms() -> tuple[CertificationPath, CertificationPath]:
    """Return the paths of one client."""
    return landmark(clients_ca()), standalone(clients_ca())


@pytest.mark.parametrize(
    ("store", "match", "form"),
    [
        (knows(clients_ca()), Match.LANDMARK_GROUP, Form.LANDMARK_RELATIVE),
        (clients_ca().store(), Match.ID, Form.STANDALONE),
    ],
)
def test_clients_send_what_the_server_can_verify(store: TrustStore, match: Match, form: Form) -> None:
    """The server lists what it trusts in CertificateRequest, and the client sends the path that fits."""
    ours, theirs = connect(client(*both_forms()), server(store))
    asked, sent = client_report(ours), server_report(theirs)
    assert asked is not None
    assert asked.sent is not None
    assert asked.sent.match is match
    assert asked.verified is not None
    assert sent is not None
    assert sent.client is not None
    assert sent.client.form is form
    assert str(sent.client.ca.ca_id) == "32473.200"
    described = theirs.getpeercert()
    assert described is not None
    assert described["subjectAltName"] == (("DNS", "client.example"),)


def refused(context: ssl.SSLContext, ours: ServerContext, reason: Reason | None) -> None:
    """Assert that the server lets a client not in, for a reason of ours or of OpenSSL's."""
    with pytest.raises(ssl.SSLError) as caught:
        connect(context, ours)
    cause = caught.value.__cause__
    assert (cause.reason if isinstance(cause, Error) else None) is reason


def test_clients_are_judged() -> None:
    """No certificate, one of another CA, expired, revoked, for servers, classical or of no known landmark: refused."""
    ca = clients_ca()
    refused(client(), server(ca.store()), None)
    refused(client(standalone(tls_ca())), server(ca.store()), Reason.UNKNOWN_CA)
    refused(client(standalone(tls_ca())), server(tls_ca().store()), Reason.WRONG_EXTENDED_KEY_USAGE)
    refused(client(classical()), server(ca.store()), Reason.UNKNOWN_CA)
    serial = serial_number(1, 3)
    revoked = ca.store(revoked=SerialRanges([(serial, serial + 1)]))
    refused(client(standalone(ca)), server(revoked), Reason.REVOKED)
    late = server_context([classical()], clients=ca.store(), clock=StoppedClock(NOW + timedelta(days=5)))
    refused(client(standalone(ca)), late, Reason.EXPIRED)
    unasked = replace(landmark(ca), is_landmark_relative=False, properties=standalone(ca).properties)
    refused(client(unasked), server(ca.store()), Reason.POLICY_NOT_MET)


def test_certificates_may_be_optional() -> None:
    """With CERT_OPTIONAL a client without a certificate is let in as nobody, and a bad certificate is still refused."""
    optional = server(clients_ca().store())
    optional.verify_mode = ssl.CERT_OPTIONAL
    _, theirs = connect(client(), optional)
    report = server_report(theirs)
    assert report is not None
    assert report.client is None
    refused(client(standalone(tls_ca())), optional, Reason.UNKNOWN_CA)


def test_nobody_is_trusted_by_default() -> None:
    """A server that asks for certificates but was given no trust store lets nobody in who sends one."""
    careless = server_context([standalone(tls_ca())], clock=CLOCK)
    careless.verify_mode = ssl.CERT_REQUIRED
    refused(client(standalone(clients_ca())), careless, Reason.USAGE)


def test_clients_send_nothing_unasked() -> None:
    """A server that does not ask gets no certificate, and no landmark-relative one where it did not list its group."""
    ours, theirs = connect(client(*both_forms()), server_context([standalone(tls_ca())], clock=CLOCK))
    asked, sent = client_report(ours), server_report(theirs)
    assert asked is not None
    assert asked.sent is None
    assert sent is not None
    assert sent.client is None
    refused(client(landmark(clients_ca())), server(clients_ca().store()), None)
