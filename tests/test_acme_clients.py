"""Clients of other people, unmodified, get, renew and revoke certificates at `mtc ca serve`, which really validates.

What they got is verified as a relying party does, and counted in the log. `docs/acme-clients.md` has the same commands.
Debian's lego and Caddy are built with a Go that cannot read the names of draft -07, so they meet a CA of draft -05.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.acme_ca import CAA_IDENTITY, RunningCA, ca_in
from tests.acme_clients.acme_tiny import AcmeTiny
from tests.acme_clients.caddy import Caddy
from tests.acme_clients.certbot import Certbot
from tests.acme_clients.dehydrated import Dehydrated
from tests.acme_clients.lego import Lego
from tests.acme_clients.node_client import NodeClient

from mtc.cert import RevocationReason
from mtc.wire import find_pem_block


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory, near_signer: None) -> Iterator[RunningCA]:  # noqa: ARG001 - to be made with
    """Return a CA of the draft that is the default."""
    with ca_in(tmp_path_factory.mktemp("ca"), "plants-07") as running:
        yield running


@pytest.fixture(scope="module")
def older_ca(tmp_path_factory: pytest.TempPathFactory, near_signer: None) -> Iterator[RunningCA]:  # noqa: ARG001 - to be made with
    """Return a CA of draft -05, whose names every X.509 parser reads."""
    with ca_in(tmp_path_factory.mktemp("older"), "plants-05") as running:
        yield running


def test_certbot(ca: RunningCA, tmp_path: Path) -> None:
    """Debian's certbot issues with http-01 from its own web server, renews when due, and revokes; each is one entry."""
    before = ca.tree_size
    certbot = Certbot(ca.server, tmp_path)
    first = ca.verify(certbot.issue("a.example.test", "b.example.test"), "a.example.test", "b.example.test")
    certbot.renew_if_due("a.example.test")
    assert ca.tree_size == before + 1
    second = ca.verify(certbot.renew("a.example.test"), "a.example.test", "b.example.test")
    assert second.serial > first.serial
    assert second.spki != first.spki
    assert ca.tree_size == before + 2
    assert ca.methods_of(second) == {("a.example.test", "http-01"), ("b.example.test", "http-01")}
    certbot.revoke("a.example.test")
    ca.verify_revoked(second, RevocationReason.SUPERSEDED)
    assert ca.tree_size == before + 2


def test_certbot_by_dns(ca: RunningCA, tmp_path: Path) -> None:
    """Debian's certbot issues a wildcard and the name below it with dns-01, two TXT records at one name."""
    names = ("w.example.test", "*.w.example.test")
    issued = ca.verify(Certbot(ca.server, tmp_path).issue_by_dns(*names), *names)
    assert ca.methods_of(issued) == {(name, "dns-01") for name in names}


def test_certbot_is_told_of_caa(ca: RunningCA, tmp_path: Path) -> None:
    """Where CAA names another CA certbot shows the refusal and nothing is logged; where it names this one it issues."""
    names = ca.server.names
    names.add_caa("caa.example.test", "ca.other.test")
    before = ca.tree_size
    certbot = Certbot(ca.server, tmp_path)
    said = certbot.refused("caa.example.test")
    assert "CAA" in said
    assert "ca.other.test" in said
    assert ca.tree_size == before
    names.add_caa("allowed.example.test", CAA_IDENTITY)
    ca.verify(certbot.issue("allowed.example.test"), "allowed.example.test")


def test_certbot_with_external_account(ca: RunningCA, tmp_path: Path) -> None:
    """Bound to an external account, certbot gets the names that account may have, and is told which it may not."""
    kid, key = ca.add_external_account("customer.example.test")
    for name in ("right", "wrong"):
        (tmp_path / name).mkdir()
    said = Certbot(ca.server, tmp_path / "wrong", (kid, key[::-1])).refused("www.customer.example.test")
    assert "signature" in said
    certbot = Certbot(ca.server, tmp_path / "right", (kid, key))
    ca.verify(certbot.issue("www.customer.example.test"), "www.customer.example.test")
    said = certbot.refused("www.example.test")
    assert "www.example.test" in said


def test_certbot_is_told_who_did_not_answer(ca: RunningCA, tmp_path: Path) -> None:
    """Where nobody answers on the port of http-01 certbot shows the name and what was tried, and nothing is logged."""
    before = ca.tree_size
    said = Certbot(ca.server, tmp_path).unanswered("nobody.example.test")
    assert "nobody.example.test" in said
    assert str(ca.server.http_port) in said
    assert ca.tree_size == before


def test_dehydrated(ca: RunningCA, tmp_path: Path) -> None:
    """Debian's dehydrated issues with http-01 from a web server's folder, renews when it is due, and revokes."""
    dehydrated = Dehydrated(ca.server, tmp_path)
    first = ca.verify(dehydrated.issue("d.example.test"), "d.example.test")
    before = ca.tree_size
    dehydrated.renew_if_due("d.example.test")
    assert ca.tree_size == before
    second = ca.verify(dehydrated.renew("d.example.test"), "d.example.test")
    assert second.serial > first.serial
    dehydrated.revoke("d.example.test")
    ca.verify_revoked(second, None)


def test_dehydrated_by_dns(ca: RunningCA, tmp_path: Path) -> None:
    """Debian's dehydrated issues a wildcard with dns-01 through its hook."""
    ca.verify(Dehydrated(ca.server, tmp_path).issue_by_dns("*.dd.example.test"), "*.dd.example.test")


def test_acme_tiny(ca: RunningCA, tmp_path: Path) -> None:
    """acme-tiny issues and issues again; as it cannot revoke, certbot does with the certificate's own key."""
    tiny = AcmeTiny(ca.server, tmp_path)
    chain = tiny.issue("t.example.test", "t2.example.test")
    first = ca.verify(chain, "t.example.test", "t2.example.test")
    second = ca.verify(tiny.renew(), "t.example.test", "t2.example.test")
    assert second.serial > first.serial
    assert second.spki == first.spki
    (tmp_path / "certbot").mkdir()
    (tmp_path / "chain.pem").write_bytes(chain)
    Certbot(ca.server, tmp_path / "certbot").revoke_by_key(tmp_path / "chain.pem", tiny.key_file)
    ca.verify_revoked(first, RevocationReason.KEY_COMPROMISE)


def test_node_client(ca: RunningCA, tmp_path: Path) -> None:
    """Node's acme-client issues with http-01 and dns-01, revokes, and goes on with a new account key."""
    client = NodeClient(ca.server, tmp_path)
    first = ca.verify(client.issue("n.example.test"), "n.example.test")
    names = ("n.example.test", "*.n.example.test")
    second = ca.verify(client.issue_by_dns(*names), *names)
    assert second.serial > first.serial
    client.revoke()
    ca.verify_revoked(second, RevocationReason.SUPERSEDED)
    client.change_key()
    third = ca.verify(client.issue("n.example.test"), "n.example.test")
    assert third.serial > second.serial


def test_lego(older_ca: RunningCA, tmp_path: Path) -> None:
    """Debian's lego issues with http-01 from its own web server, renews when it is due, and revokes."""
    lego = Lego(older_ca.server, tmp_path)
    first = older_ca.verify(lego.issue("l.example.test", "l2.example.test"), "l.example.test", "l2.example.test")
    before = older_ca.tree_size
    lego.renew_if_due("l.example.test")
    assert older_ca.tree_size == before
    second = older_ca.verify(lego.renew("l.example.test"), "l.example.test", "l2.example.test")
    assert second.serial > first.serial
    lego.revoke("l.example.test")
    older_ca.verify_revoked(second, RevocationReason.SUPERSEDED)


def test_lego_by_tls(older_ca: RunningCA, tmp_path: Path) -> None:
    """Debian's lego issues with tls-alpn-01."""
    issued = older_ca.verify(Lego(older_ca.server, tmp_path).issue_by_tls("lt.example.test"), "lt.example.test")
    assert older_ca.methods_of(issued) == {("lt.example.test", "tls-alpn-01")}


def test_lego_by_dns(older_ca: RunningCA, tmp_path: Path) -> None:
    """Debian's lego issues a wildcard and its own name with dns-01."""
    names = ("ld.example.test", "*.ld.example.test")
    older_ca.verify(Lego(older_ca.server, tmp_path).issue_by_dns(*names), *names)


def test_lego_takes_no_harm_from_alternates(tmp_path: Path) -> None:
    """Of a CA of draft -04 lego gets the one chain that there is, though it fetches every alternate it is shown."""
    folder = tmp_path / "lego"
    folder.mkdir()
    with ca_in(tmp_path, "plants-04") as oldest:
        oldest.verify(Lego(oldest.server, folder).issue("l4.example.test"), "l4.example.test")


@pytest.mark.parametrize("method", ["http", "tls-alpn"])
def test_caddy(older_ca: RunningCA, tmp_path: Path, method: str) -> None:
    """Caddy gets a certificate by itself, shows it to TLS clients, and renews it."""
    caddy, name = Caddy(older_ca.server, tmp_path), f"{method}.caddy.example.test"
    with caddy.serving(name, method) as site:
        chain = site.wait_for_chain()
        first = older_ca.verify(chain, name)
        site.wait_until_shown(find_pem_block(chain, "CERTIFICATE"))
    with caddy.serving(name, method, renews_early=True) as site:
        renewed = site.wait_for_chain(other_than=chain)
    assert older_ca.verify(renewed, name).serial > first.serial


def test_page_tells_every_option() -> None:
    """Each option and setting that these tests give to a client stands in `docs/acme-clients.md`."""
    tests = Path(__file__).parent
    page = (tests.parent / "docs" / "acme-clients.md").read_text("utf-8")
    sources = "".join(path.read_text("utf-8") for path in (tests / "acme_clients").glob("*.py"))
    words = set(re.findall(r'"(--[a-z][a-z0-9.-]*[a-z0-9]|[A-Z][A-Z_]{5,})[":=]', sources))
    inner = {"ACME_DIRECTORY", "HTTP_PORT", "DNS_CONTROL", "NODE_PATH", "XDG_DATA_HOME", "XDG_CONFIG_HOME"}
    assert len(words) > 40
    assert [word for word in sorted(words - inner) if word not in page] == []
