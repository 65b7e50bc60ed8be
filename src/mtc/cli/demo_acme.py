"""The part of `mtc demo` in which a shop gets its certificate over ACME, and is looked at before.

Server and client are the real ones and speak HTTPS; the shop answers on loopback, and a name server beside it stands in
for the world's.
"""

import shutil
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from rich.console import Console

from mtc.acme.client import AccountKey, ACMEClient, Issued, OrderState, build_csr, generate_key, open_client
from mtc.acme.client.ordering import authorize, download
from mtc.acme.client.solvers import HTTPSolver
from mtc.acme.config import FOLDER_NAME, ACMEConfig, IssuanceProfile, ValidationChoices
from mtc.acme.machine.evidence import RecordKind
from mtc.acme.machine.identifiers import Identifier
from mtc.acme.machine.validation import Report
from mtc.acme.serve import open_validator, serving_acme
from mtc.acme.sqlite import DATABASE_NAME, SQLiteACMEStore
from mtc.acme.validation.settings import ValidationSettings
from mtc.ca.service import RunningCA
from mtc.cert import Certificate
from mtc.cli.demo_telling import heading
from mtc.cli.output import shown, table
from mtc.testing.fleet import free_port
from mtc.testing.names import NameServer
from mtc.web.tls import CERTIFICATE_NAME

ISSUER_NAME = "ca.example.net"
"""What stands for the CA in CAA records."""
_DEADLINE_S = 60.0
_ID_SHOWN = 8


class Shop:
    """A client with one order. steps: what it did, each with its text and milliseconds. Use `open_shop`."""

    def __init__(self, client: ACMEClient, host: str, solver: HTTPSolver) -> None:
        """Take the connection to the server, the name, and what answers for it."""
        self._client = client
        self._host = host
        self._solver = solver
        self._order: OrderState | None = None
        self.steps: list[tuple[str, str, float]] = []

    @property
    def order_id(self) -> str:
        """The server's name for the order."""
        return "" if self._order is None else self._order.url.rpartition("/")[2]

    async def authorize(self) -> None:
        """Make an account and an order, and have the CA look. Raises PeerError, ACMERefusal."""
        began = time.perf_counter()
        account = await self._client.register(agrees_to_terms=True)
        self._note("account", f"a new key is account …{account.url[-_ID_SHOWN:]}", began)
        began = time.perf_counter()
        self._order = await self._client.new_order([Identifier.dns(self._host)])
        self._note("order", f"for {self._host}; {self._order.status}", began)
        began = time.perf_counter()
        await authorize(self._client, self._order, [self._solver], deadline_s=_DEADLINE_S)
        self._order = await self._client.fetch_order(self._order.url)
        self._note("http-01", f"the CA looked, see below; {self._order.status}", began)

    async def finish(self, key: EllipticCurvePrivateKey) -> Issued:
        """Ask for the certificate, and download it when its round is signed. Raises PeerError, ACMERefusal."""
        assert self._order is not None, "authorize comes first"
        began = time.perf_counter()
        csr = build_csr(key, [Identifier.dns(self._host)])
        self._order = await self._client.finalize(self._order, csr)
        self._order = await self._client.wait_for_order(self._order, _DEADLINE_S)
        self._note("finalize", f"logged together with the order; {self._order.status}", began)
        began = time.perf_counter()
        issued = await download(self._client, self._order)
        size = len(issued.chains[0].certificates[0])
        self._note("certificate", f"{size:,} bytes, standalone; the landmark-relative one comes later", began)
        return issued

    def _note(self, step: str, text: str, began: float) -> None:
        self.steps.append((step, text, (time.perf_counter() - began) * 1000))


@asynccontextmanager
async def open_shop(ca: RunningCA, host: str) -> AsyncIterator[Shop]:
    """Serve ACME beside a CA, and connect a client to it that holds a name."""
    home = ca.parts.folder.path / FOLDER_NAME
    shutil.rmtree(home, ignore_errors=True)
    http_port, acme_port = free_port(), free_port()
    async with NameServer() as names:
        names.set(host, "A", "127.0.0.1")
        names.set(host.partition(".")[2], "CAA", f'0 issue "{ISSUER_NAME}"')
        looking = ValidationSettings(servers=(names.server,), allows_private=True, http_port=http_port)
        config = ACMEConfig(
            url=f"https://localhost:{acme_port}/acme",
            listen=("127.0.0.1", acme_port),
            caa_identities=(ISSUER_NAME,),
            profiles={"default": IssuanceProfile(name="default", description="The demonstration's.")},
            validation=ValidationChoices(settings=looking),
        )
        async with open_validator(ca, config) as validator, serving_acme(ca, config, validator):
            directory = f"{config.url}/directory"
            key = AccountKey.generate()
            async with open_client(directory, key, ca_file=home / CERTIFICATE_NAME) as client:
                yield Shop(client, host, HTTPSolver(http_port, "127.0.0.1"))


async def read_reports(ca_folder: Path, order_id: str) -> list[Report]:
    """Return what every perspective reported for an order, from the evidence that the CA keeps."""
    store = SQLiteACMEStore.open(ca_folder / FOLDER_NAME / DATABASE_NAME, None)
    try:
        records = await store.list_records(order_id)
        (finalization,) = [record for record in records if record.kind is RecordKind.FINALIZATION]
        evidence = finalization.document["evidence"]
        assert isinstance(evidence, list)
        found = await store.find_records(evidence)
    finally:
        await store.close()
    documents = [report for record in found for report in _reports_in(record.document.get("reports"))]
    return [Report.of_json(document) for document in documents]


def _reports_in(value: object) -> Sequence[object]:
    """Return the reports in a record."""
    assert isinstance(value, list)
    return value


def tell_order(out: Console, shop: Shop, reports: Sequence[Report], certificate: Certificate, number: int) -> None:
    """Show what the shop did, and what the CA saw."""
    heading(out, f"{number}  One of them came over ACME")
    out.print(
        "The shop is a stranger. So the CA, an ACME server like others, looks before it logs anything;\n"
        f"what it saw is kept beside entry {certificate.index}, which the log takes in one step with the order.\n"
    )
    rows = table("the shop", "", "ms", numeric=(2,))
    for step, text, took in shop.steps:
        rows.add_row(step, shown(text), f"{took:.0f}")
    out.print(rows)
    out.print()
    rows = table("the CA saw", "", "answer")
    for report in reports:
        for lookup in report.lookups:
            rows.add_row("DNS", f"{shown(lookup.name)} {lookup.type}", shown(", ".join(lookup.answers) or "nothing"))
        for connection in report.connections:
            target = connection.target.rpartition("/")
            rows.add_row("HTTP", shown(f"{target[0]}/{target[2][:_ID_SHOWN]}…"), shown(connection.outcome))
        verdict = "[green]allows this CA[/]" if report.problem is None else "[red]no[/]"
        rows.add_row("CAA", f"the records of {shown(report.caa_name)} hold", verdict)
    out.print(rows)


def new_shop_key() -> EllipticCurvePrivateKey:
    """Return a P-256 key."""
    key = generate_key("ecdsa-p256")
    assert isinstance(key, EllipticCurvePrivateKey)
    return key
