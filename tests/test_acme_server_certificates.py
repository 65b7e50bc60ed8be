"""Certificates of the ACME server: both forms, renewal information, `replaces`, and revocation."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from tests.acme_server import (
    URL,
    Answer,
    Client,
    Key,
    ServerUnderTest,
    Shared,
    b64,
    csr_for,
    default_config,
    id_of,
    identifier,
    leaf_of,
    make_folder,
    run_with,
    scratch,
    shared_server,
)

from mtc.acme.machine.evidence import RecordKind
from mtc.acme.machine.orders import Place
from mtc.acme.machine.renewal import CertificateID, Hastened, RenewalWindow
from mtc.acme.store import Replace
from mtc.cert import Certificate, CertificateRevocationList, parse_certificate_chains
from mtc.ids import REVISIONS, DraftRevision, serial_number, split_serial
from mtc.trust import Form, TrustStore, trusted_ca_from_certificate, verify_certificate
from mtc.wire import parse_pem

PLAIN = "application/pem-certificate-chain"
WITH_PROPERTIES = "application/pem-certificate-chain-with-properties"
HOUR_S, DAY_S = 3600, 86400


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    """Run one server for all tests of this file that need no other."""
    with shared_server() as server:
        yield server


async def make_landmark(server: ServerUnderTest) -> None:
    """Let an hour pass, and allocate the landmark that is due then."""
    server.clock.advance(HOUR_S)
    async with server.ca._turn:
        await server.ca.landmarks.tick()


def trust_of(server: ServerUnderTest) -> TrustStore:
    """Return the trust store of somebody who trusts the CA."""
    return TrustStore([trusted_ca_from_certificate(server.ca.parts.folder.certificate)])


# Both forms.


def test_plain_chain(shared: Shared) -> None:
    """Who asks for nothing gets PEM of two certificates, the leaf first, whose names and key are right."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        obtained = await client.obtain("plain.example.com")
        for accept in (None, "*/*", PLAIN, f"{WITH_PROPERTIES};q=0", "text/html"):
            answer = await client.post(obtained.final.json["certificate"], accept=accept)
            assert (answer.status, answer.header("content-type")) == (200, PLAIN)
            blocks = parse_pem(answer.body, strict=True)
            assert [block.label for block in blocks] == ["CERTIFICATE"] * 2
            assert blocks[1].data == server.ca.parts.folder.certificate.der
            verify_certificate(blocks[0].data, trust_of(server), server.clock.now(), name="plain.example.com")
            assert answer.header("vary") == "Accept"
        certificate = x509.load_der_x509_certificate(obtained.der)
        assert certificate.public_key() == obtained.key.public_key()
        assert answer.links["c2sp.org/mtc-tlog/prefix-url"] == "http://ca.example.test/mtc"

    shared.run(work)


def test_chain_with_properties(shared: Shared) -> None:
    """Who asks for properties gets them with the leaf alone: the trust anchor ID, and the groups."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        obtained = await client.obtain("properties.example.com")
        for accept in (WITH_PROPERTIES, f"{PLAIN};q=0.5, {WITH_PROPERTIES.upper()};q=0.9"):
            answer = await client.post(obtained.final.json["certificate"], accept=accept)
            assert answer.header("content-type") == WITH_PROPERTIES
            (chain,) = parse_certificate_chains(answer.body, server.ca.parts.folder.config.revision)
            assert chain.certificates == (obtained.der,)
            assert chain.properties is not None
            assert chain.properties.trust_anchor_id is not None
            assert chain.properties.groups

    shared.run(work)


def test_landmark_relative_certificate_comes_later(shared: Shared) -> None:
    """The standalone answer links to it; before its landmark it is 202 with Retry-After, afterwards a certificate."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        obtained = await client.obtain("landmark.example.com")
        url = obtained.chain.links["acme-optional-alternate"]
        assert "alternate" not in obtained.chain.links
        answer = await client.post(url)
        assert (answer.status, answer.body) == (202, b"")
        assert 0 < int(str(answer.header("retry-after"))) <= HOUR_S + 10
        assert (await client.post(obtained.order)).json["status"] == "valid"
        await make_landmark(server)
        answer = await client.post(url, accept=WITH_PROPERTIES)
        assert (answer.status, answer.header("content-type")) == (200, WITH_PROPERTIES)
        (chain,) = parse_certificate_chains(answer.body, server.ca.parts.folder.config.revision)
        certificate = Certificate.parse(chain.certificates[0])
        assert certificate.proof.signatures == ()
        assert certificate.serial == Certificate.parse(obtained.der).serial
        plain = await client.post(url)
        assert [block.label for block in parse_pem(plain.body)] == ["CERTIFICATE"] * 2
        assert leaf_of(plain.body) == chain.certificates[0]

    shared.run(work)


@pytest.mark.parametrize("revision", REVISIONS.values(), ids=str)
def test_certificates_of_every_draft(revision: DraftRevision) -> None:
    """A CA of each draft serves both forms over ACME. In -04 the second one is an alternate, 503 until it is there.

    A client of -04 that knows no properties is not told of it: it would fail when an alternate is not there.
    """

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        obtained = await client.obtain("draft.example.com")
        proven = verify_certificate(obtained.der, trust_of(server), server.clock.now(), name="draft.example.com")
        assert proven.form is Form.STANDALONE
        answer = await client.post(obtained.final.json["certificate"], accept=WITH_PROPERTIES)
        if revision.has_optional_alternate:
            relation, waiting = "acme-optional-alternate", 202
            assert relation in obtained.chain.links
        else:
            relation, waiting = "alternate", 503
            assert relation not in obtained.chain.links
        url = answer.links[relation]
        answer = await client.post(url)
        assert answer.status == waiting
        assert answer.header("retry-after")
        if waiting == 503:
            assert answer.problem == "orderNotReady"
        await make_landmark(server)
        answer = await client.post(url, accept=WITH_PROPERTIES)
        (chain,) = parse_certificate_chains(answer.body, revision)
        assert Certificate.parse(chain.certificates[0]).proof.signatures == ()

    with scratch() as path:
        make_folder(path, revision)
        run_with(work, folder=path)


def test_certificate_before_it_is_there(shared: Shared) -> None:
    """An order without a certificate has none to download, in either form."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        order = await client.order("not-yet.example.com")
        url = order.location.replace("/order/", "/certificate/")
        for target in (url, f"{url}/landmark"):
            answer = await client.post(target)
            assert (answer.status, answer.problem) == (404, "malformed")

    shared.run(work)


def test_certificate_is_made_again_after_a_restart() -> None:
    """A restart forgets the fresh certificates; the same bytes are made from the log again."""
    kept: list[tuple[Client, str, bytes]] = []

    async def before(server: ServerUnderTest) -> None:
        client = await server.account()
        obtained = await client.obtain("again.example.com")
        kept.append((client, obtained.final.json["certificate"], obtained.chain.body))

    async def after(server: ServerUnderTest) -> None:
        client, url, body = kept[0]
        answer = await Client(server, client.key, client.kid).post(url)
        assert (answer.status, answer.body) == (200, body)

    with scratch() as path:
        run_with(before, folder=path)
        run_with(after, folder=path)


def test_certificate_whose_log_is_gone(shared: Shared) -> None:
    """A certificate whose part of the log is not kept any more is 404 in both forms, and no failure."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        obtained = await client.obtain("pruned.example.com")
        order = await server.store.find_order(obtained.order.rpartition("/")[2])
        assert order is not None
        await server.store.commit(Replace(replace(order, place=Place(log_number=1, index=1 << 40))))
        server.server.issuing.fresh.clear()
        url = obtained.final.json["certificate"]
        answer = await client.post(url)
        assert (answer.status, answer.problem) == (404, "malformed")
        assert (await client.post(f"{url}/landmark")).status in (202, 404)

    shared.run(work)


# Renewal information.


def test_renewal_windows(shared: Shared) -> None:
    """A valid certificate's window lies around three quarters of its life; a revoked one's is over."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        obtained = await client.obtain("renewal.example.com")
        url = f"renewal-info/{id_of(obtained.der)}"
        answer = await server.ask("GET", url)
        assert answer.status == 200
        assert 60 <= int(str(answer.header("retry-after"))) <= DAY_S
        window = answer.json["suggestedWindow"]
        start, end = datetime.fromisoformat(window["start"]), datetime.fromisoformat(window["end"])
        certificate = x509.load_der_x509_certificate(obtained.der)
        begin, life = (
            certificate.not_valid_before_utc,
            certificate.not_valid_after_utc - certificate.not_valid_before_utc,
        )
        assert begin + 0.7 * life < start < begin + 0.75 * life < end < begin + 0.8 * life
        await client.post("revoke-cert", {"certificate": b64(obtained.der)})
        window = (await server.ask("GET", url)).json["suggestedWindow"]
        start, end = datetime.fromisoformat(window["start"]), datetime.fromisoformat(window["end"])
        assert start < end < server.clock.now()

    shared.run(work)


def test_renewal_is_hastened_and_never_put_off(shared: Shared) -> None:
    """What an operator wants renewed sooner has an earlier window and says why; a later one has no effect."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        obtained = await client.obtain("hastened.example.com")
        url, now = f"renewal-info/{id_of(obtained.der)}", server.clock.now().replace(microsecond=0)
        usual = (await server.ask("GET", url)).json
        log_number, index = split_serial(Certificate.parse(obtained.der).serial)
        soon = RenewalWindow(now + timedelta(hours=1), now + timedelta(hours=2))
        why = "https://ca.example.com/incidents/7"
        hastened = Hastened(log_number=log_number, start=index, end=index + 1, window=soon, explanation_url=why)
        await server.store.hasten(hastened, now)
        answer = (await server.ask("GET", url)).json
        times = {name: datetime.fromisoformat(text) for name, text in answer["suggestedWindow"].items()}
        assert times == {"start": soon.start, "end": soon.end}
        assert answer["explanationURL"] == why
        later = RenewalWindow(now + timedelta(days=300), now + timedelta(days=301))
        await server.store.hasten(replace(hastened, window=later), now)
        assert (await server.ask("GET", url)).json == usual

    shared.run(work)


def test_renewal_of_unknown_certificates(shared: Shared) -> None:
    """A certificate that this CA has not is 404; text that is no identifier is malformed; nothing is a server error."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        obtained = await client.obtain("known.example.com")
        left, right = id_of(obtained.der).split(".")
        own = server.ca.parts.folder.config.ca_id.binary
        unknown = [serial_number(1, 1 << 40), serial_number(1, (1 << 48) - 1), serial_number(2, 0)]
        unknown += [serial_number(65535, 1), 1]
        for serial in unknown:
            answer = await server.ask("GET", f"renewal-info/{CertificateID(own, serial)}")
            assert (answer.status, answer.problem) == (404, "malformed"), serial
        others = [f"{b64(b'other')}.{right}", f"{right}.{left}"]
        texts = ["", ".", "a.b.c", left, f"{left}=.{right}", f"{left}.{right}=", "x" * 500, f"{left}.{b64(bytes(30))}"]
        texts += [f"{left}.{b64(bytes.fromhex('00') + bytes([1]))}", f"{left}.{b64(bytes([0x80]))}", "ä.ö", "%00.%ff"]
        for text in others + texts:
            answer = await server.ask("GET", f"renewal-info/{text}")
            assert answer.status in (400, 404), text
            assert answer.problem == "malformed"

    shared.run(work)


# Replaces.


async def replaced(client: Client, der: bytes, *names: str) -> Answer:
    """Ask for an order that replaces a certificate."""
    return await client.post("new-order", {"identifiers": [identifier(n) for n in names], "replaces": id_of(der)})


def test_certificate_is_replaced_once(shared: Shared) -> None:
    """An order reflects what it replaces, now and later; a second one is 409 alreadyReplaced."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        obtained = await client.obtain("replaced.example.com")
        answer = await replaced(client, obtained.der, "replaced.example.com", "more.example.com")
        assert (answer.status, answer.json["replaces"]) == (201, id_of(obtained.der))
        assert (await client.post(answer.location)).json["replaces"] == id_of(obtained.der)
        again = await replaced(client, obtained.der, "replaced.example.com")
        assert (again.status, again.problem) == (409, "alreadyReplaced")
        # The successor can be replaced in turn.
        order = await client.post(answer.location)
        await client.authorize(order)
        for url in order.json["authorizations"]:
            await client.settled(url)
        await client.finalize(order, csr_for(["replaced.example.com", "more.example.com"]))
        final = await client.settled(order.location)
        assert final.json["replaces"] == id_of(obtained.der)
        successor = leaf_of((await client.post(final.json["certificate"])).body)
        assert (await replaced(client, successor, "more.example.com")).status == 201

    shared.run(work)


def test_replacing_what_is_not_ones_own(shared: Shared) -> None:
    """Another account's certificate, one without a common name, and one that is not there cannot be replaced."""

    async def work(server: ServerUnderTest) -> None:
        client, other = await server.account(), await server.account()
        obtained = await client.obtain("own.example.com")
        assert (await replaced(other, obtained.der, "own.example.com")).problem == "malformed"
        assert (await replaced(client, obtained.der, "other.example.com")).problem == "malformed"
        own = server.ca.parts.folder.config.ca_id.binary
        text = id_of(obtained.der)
        loose = text[:-1] + ("B" if text[-1] == "A" else chr(ord(text[-1]) + 1))
        wrong: list[object] = [7, [], "", "a.b", str(CertificateID(own, serial_number(1, 1 << 40))), f"{text}=", loose]
        wrong += [str(CertificateID(own, serial_number(9, 1))), str(CertificateID(own, 1)), "\u00e4.\u00e4"]
        for value in wrong:
            payload = {"identifiers": [identifier("own.example.com")], "replaces": value}
            assert (await client.post("new-order", payload)).problem == "malformed", value
        assert (await replaced(client, obtained.der, "own.example.com")).status == 201

    shared.run(work)


def test_failed_replacement_does_not_count(shared: Shared) -> None:
    """When the order that replaces a certificate fails, or ends, another one may replace it."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        obtained = await client.obtain("retry.example.com")
        server.validator.refuse("fails.retry.example.com")
        failed = await replaced(client, obtained.der, "retry.example.com", "fails.retry.example.com")
        await client.authorize(failed)
        assert (await client.settled(failed.location)).json["status"] == "invalid"
        second = await replaced(client, obtained.der, "retry.example.com")
        assert second.status == 201
        # Why the first one failed is told as before.
        error = (await client.post(failed.location)).json["error"]
        assert error["subproblems"][0]["identifier"]["value"] == "fails.retry.example.com"
        # Given up by the client.
        (url,) = second.json["authorizations"]
        await client.post(url, {"status": "deactivated"})
        third = await replaced(client, obtained.der, "retry.example.com")
        assert third.status == 201
        assert (await replaced(client, obtained.der, "retry.example.com")).problem == "alreadyReplaced"

    shared.run(work)


def test_expired_replacement_does_not_count() -> None:
    """An order that nobody finished in time does not keep a certificate from being replaced."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        obtained = await client.obtain("expired.example.com")
        assert (await replaced(client, obtained.der, "expired.example.com")).status == 201
        assert (await replaced(client, obtained.der, "expired.example.com")).problem == "alreadyReplaced"
        server.clock.advance(DAY_S)
        assert (await replaced(client, obtained.der, "expired.example.com")).status == 201

    run_with(work, default_config(order_lifetime=timedelta(days=1)))


def test_replacement_is_raced_for(shared: Shared) -> None:
    """Of several orders at the same time that replace one certificate, one is made."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        obtained = await client.obtain("race.example.com")
        twins = [Client(server, client.key, client.kid) for _ in range(6)]
        server.gate.hold(6)
        answers = await asyncio.gather(*(replaced(twin, obtained.der, "race.example.com") for twin in twins))
        assert sorted(answer.status for answer in answers) == [201] + [409] * 5

    shared.run(work)


# Revocation.


async def revoke(client: Client, der: bytes, **members: object) -> Answer:
    """Ask for a revocation."""
    return await client.post("revoke-cert", {"certificate": b64(der), **members})


async def reason_in_list(server: ServerUnderTest, der: bytes) -> object:
    """Return the reason that the published list has for a certificate, "" when it does not name it."""
    (data,) = await server.ca.parts.storage.objects.fetch(["public/ca.crl"])
    assert data is not None
    crl = x509.load_der_x509_crl(data)
    line = crl.get_revoked_certificate_by_serial_number(x509.load_der_x509_certificate(der).serial_number)
    if line is None:
        return ""
    found = [item.value.reason.name for item in line.extensions if isinstance(item.value, x509.CRLReason)]
    CertificateRevocationList.parse(data)
    return found[0] if found else None


def test_revocation_by_the_account(shared: Shared) -> None:
    """The account that ordered revokes: the list names it at once, without a reason; then it is alreadyRevoked."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        obtained = await client.obtain("revoked.example.com")
        assert await reason_in_list(server, obtained.der) == ""
        answer = await revoke(client, obtained.der)
        assert (answer.status, answer.body) == (200, b"")
        assert await reason_in_list(server, obtained.der) is None
        answer = await revoke(client, obtained.der)
        assert (answer.status, answer.problem) == (400, "alreadyRevoked")

    shared.run(work)


def test_revocation_by_the_key(shared: Shared) -> None:
    """The certificate's key revokes without an account; when it says keyCompromise it is certified no more."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        key = ec.generate_private_key(ec.SECP256R1())
        obtained = await client.obtain("by-key.example.com", key=key)
        holder = Client(server, Key(key, "ES256"))
        stranger = Client(server, Key.make())
        assert (await revoke(stranger, obtained.der)).problem == "unauthorized"
        assert (await revoke(holder, obtained.der, reason=1)).status == 200
        assert await reason_in_list(server, obtained.der) == "key_compromise"
        order = await client.order("by-key.example.com")
        answer = await client.finalize(order, csr_for(["by-key.example.com"], key))
        assert (answer.status, answer.problem) == (400, "badCSR")
        assert (await holder.post("new-account", {})).problem == "badPublicKey"

    shared.run(work)


def test_revocation_by_authorizations(shared: Shared) -> None:
    """Another account revokes when it controls all names of the certificate, not when it controls some."""

    async def work(server: ServerUnderTest) -> None:
        client, other = await server.account(), await server.account()
        names = ["control1.example.com", "*.control2.example.com", "192.0.2.77"]
        obtained = await client.obtain(*names)
        assert (await revoke(other, obtained.der)).problem == "unauthorized"
        for name in (*names[:2], "control2.example.com"):
            order = await other.order(name)
            await other.authorize(order)
            await other.settled(order.json["authorizations"][0])
        assert (await revoke(other, obtained.der)).problem == "unauthorized"
        order = await other.order(names[2])
        await other.authorize(order)
        await other.settled(order.json["authorizations"][0])
        assert (await revoke(other, obtained.der, reason=5)).status == 200
        assert await reason_in_list(server, obtained.der) == "cessation_of_operation"

    shared.run(work)


@pytest.mark.parametrize("reason", [2, 6, 8, 9, 10, 7, 11, -1, 1.0, "1", None, True, [], 1 << 70])
def test_revocation_reasons(shared: Shared, reason: object) -> None:
    """A reason that subscribers may not give is badRevocationReason, which says what they may; nothing is revoked."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        obtained = await client.obtain("reason.example.com")
        answer = await revoke(client, obtained.der, reason=reason)
        assert (answer.status, answer.problem) == (400, "badRevocationReason")
        assert "keyCompromise" in answer.json["detail"]
        assert await reason_in_list(server, obtained.der) == ""

    shared.run(work)


def test_revocation_finds_the_entry_and_not_the_bytes(shared: Shared) -> None:
    """A holder may have dropped cosignatures or taken the other form: the entry is found, and revoked for all forms."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        obtained = await client.obtain("malleable.example.com")
        certificate = Certificate.parse(obtained.der)
        stripped = certificate.with_proof(replace(certificate.proof, signatures=()))
        assert stripped != obtained.der
        assert (await revoke(client, stripped)).status == 200
        assert (await revoke(client, obtained.der)).problem == "alreadyRevoked"
        second = await client.obtain("malleable.example.com")
        await make_landmark(server)
        answer = await client.post(second.chain.links["acme-optional-alternate"])
        assert (await revoke(client, leaf_of(answer.body))).status == 200
        assert await reason_in_list(server, second.der) is None

    shared.run(work)


def test_revocation_of_what_is_not_logged(shared: Shared) -> None:
    """A certificate that differs in anything logged, of another CA, or that is none, revokes nothing."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        obtained = await client.obtain("forged.example.com")
        other = await client.obtain("forgeb.example.com")
        forged = obtained.der.replace(b"forged.example.com", b"forgeb.example.com")
        assert (await revoke(client, forged)).status == 404
        from_elsewhere = server.ca.parts.folder.certificate.der
        for der in (b"", b"\x30\x00", obtained.der[:-1], obtained.der + b"\x00", from_elsewhere, bytes(200)):
            answer = await revoke(client, der)
            assert answer.status in (400, 404)
            assert answer.problem == "malformed"
        for value in (None, 7, "", "=", "a", ["x"]):
            assert (await client.post("revoke-cert", {"certificate": value})).problem == "malformed"
        # The serial number of a log that is not there, in a certificate that parses.
        serial = Certificate.parse(obtained.der).serial
        before, after = (
            number.to_bytes(number.bit_length() // 8 + 1, "big") for number in (serial, serial + (7 << 48))
        )
        moved = obtained.der.replace(b"\x02" + bytes([len(before)]) + before, b"\x02" + bytes([len(after)]) + after, 1)
        assert (await revoke(client, moved)).problem == "malformed"
        for item in (obtained, other):
            assert await reason_in_list(server, item.der) == ""

    shared.run(work)


def test_what_happened_is_in_evidence(shared: Shared) -> None:
    """Validation, finalization, issuance and revocation of an order are on record, each with its account and time."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account(contact=["mailto:evidence@example.com"])
        obtained = await client.obtain("evidence.example.com")
        await revoke(client, obtained.der)
        order_id = obtained.order.rpartition("/")[2]
        records = await server.store.list_records(order_id)
        kinds = [record.kind for record in records]
        assert kinds == [RecordKind.FINALIZATION, RecordKind.ISSUANCE, RecordKind.REVOCATION]
        finalization, issuance, _ = records
        numbers = finalization.document["evidence"]
        assert isinstance(numbers, list)
        (validation,) = await server.store.find_records(numbers)
        assert validation.kind is RecordKind.VALIDATION
        assert validation.is_positive
        assert validation.moment.astimezone(UTC) == server.clock.now()
        certificate = Certificate.parse(obtained.der)
        assert issuance.document["index"] == certificate.serial & ((1 << 48) - 1)
        assert {f"{URL}/account/{record.account_id}" for record in [*records, validation]} == {client.kid}

    shared.run(work)
