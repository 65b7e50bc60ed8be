"""From an entry of the log to who asked for it: what fits together is shown, and what does not is named."""

import asyncio
import contextlib
import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.commands import Run, run_program
from tests.test_ca_service import SPKI, Cosigners, ask, issue_all, make

from mtc.acme.machine.evidence import EvidenceRecord, RecordKind
from mtc.acme.machine.identifiers import Identifier
from mtc.acme.machine.orders import Finalized, Order, Place
from mtc.acme.sqlite import DATABASE_NAME, EVIDENCE_NAME, SQLiteACMEStore
from mtc.acme.store import Add, Put
from mtc.acme.tracing import trace_entry
from mtc.ca.requests import IssuanceRequest
from mtc.ca.service import open_ca
from mtc.errors import ConflictError, Error, Reason, UsageError
from mtc.ids import serial_number
from mtc.log.service import SignedTree, TreeToSign
from mtc.testing.acme_values import START, make_account

pytestmark = pytest.mark.usefixtures("near_signer")

NAMES = (Identifier.dns("a.example.com"), Identifier.dns("*.b.example.com"), Identifier.ip("2001:db8::1"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs `mtc ca evidence` in this process."""
    return run_program(monkeypatch, capfd, "ca", "evidence")


def _record(kind: RecordKind, identifier: Identifier | None = None, **document: object) -> EvidenceRecord:
    is_own = kind in (RecordKind.FINALIZATION, RecordKind.ISSUANCE)
    return EvidenceRecord(
        kind=kind,
        moment=START,
        account_id="account-0",
        is_positive=True,
        identifier=identifier,
        order_id="order-0" if is_own else None,
        document=document,
    )


def _report(*answers: str) -> dict[str, object]:
    lookup = {"name": "a.example.com", "type": "A", "status": "NOERROR", "answers": list(answers), "secure": True}
    connection = {"target": "http://a.example.com/", "address": "192.0.2.1", "port": 80, "outcome": "200"}
    return {
        "perspective": "west-1",
        "region": "west",
        "started": START.isoformat(),
        "finished": (START + timedelta(milliseconds=12)).isoformat(),
        "problem": None,
        "lookups": [lookup | {"server": "192.0.2.53"}],
        "connections": [connection],
        "caa_name": "example.com",
        "caa_records": ['0 issue "ca.example"'],
    }


async def _issue(folder: Path) -> None:
    """Log an entry that nobody asked for by ACME, and one that an order asked for, with its evidence."""
    async with open_ca(folder) as ca:
        await issue_all(ca, ask("other.example.com", "other"))
        request = IssuanceRequest(
            spki=SPKI,
            dns_names=tuple(item.value for item in NAMES[:2]),
            ip_addresses=(NAMES[2].value,),
            request_key=b"acme/order-0",
        )
        (made,) = await issue_all(ca, request)
    home = folder / "acme"
    store = SQLiteACMEStore.open(home / DATABASE_NAME, home / EVIDENCE_NAME)
    validations = [
        _record(RecordKind.VALIDATION, name, method="http-01", reports=[_report("192.0.2.1")]) for name in NAMES
    ]
    ids = await store.commit(*(Put(record) for record in validations))
    ids += await store.commit(Put(_record(RecordKind.CAA, NAMES[0], absent=["north-1: no answer"], reports=[])))
    finalized = Finalized(
        spki=SPKI, not_before=START, not_after=START, moment=START, evidence_until=0, evidence_ids=ids
    )
    order = Order(
        id="order-0",
        account_id="account-0",
        identifiers=NAMES,
        authorization_ids=(),
        created=START,
        expires=START,
        finalized=finalized,
        place=Place(log_number=1, index=made.index),
        is_issued=True,
    )
    applicant = {"evidence": list(ids), "contacts": ["mailto:who@example.com"], "client": "198.51.100.7"}
    await store.commit(
        Add(make_account()),
        Add(order),
        Put(_record(RecordKind.FINALIZATION, None, **applicant, account_thumbprint="thumbprint-0")),
        Put(_record(RecordKind.ISSUANCE, None, log=1, index=made.index)),
    )
    await store.close()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a CA's folder with entry 1 made by ACME, and entry 0 by somebody else."""
    folder = tmp_path_factory.mktemp("original")
    make(folder)
    asyncio.run(_issue(folder))
    return folder


@pytest.fixture
def ca(original: Path, tmp_path: Path) -> Path:
    """Return a copy of it."""
    shutil.copytree(original, tmp_path / "ca", ignore=shutil.ignore_patterns("*.sock"))
    return tmp_path / "ca"


def _execute(ca: Path, statement: str) -> None:
    with closing(sqlite3.connect(ca / "acme" / DATABASE_NAME)) as connection:
        connection.execute(statement)
        connection.commit()


def test_everything_about_an_entry_is_found(ca: Path) -> None:
    """From the log's request key to order, account, validations, finalization and issuance; all of it fits."""
    trace = asyncio.run(trace_entry(ca, 1))
    assert trace.findings == ()
    assert (trace.order_id, trace.is_signed) == ("order-0", True)
    assert trace.order is not None
    assert trace.order.place == Place(log_number=1, index=1)
    assert trace.account == make_account()
    kinds = [str(record.kind) for record in trace.records]
    assert kinds == ["validation", "validation", "validation", "caa", "finalization", "issuance"]


def test_it_is_told_to_people(run: Run, ca: Path) -> None:
    """The printed story names who asked, every perspective with what it saw, and the times."""
    text = run(ca, "1").out
    for part in (
        "order-0",
        "mailto:who@example.com",
        "198.51.100.7",
        "validation of *.b.example.com by http-01",
        "west-1 (west)",
        "a.example.com A  192.0.2.1 DNSSEC  192.0.2.53",
        "http://a.example.com/  192.0.2.1 port 80  200",
        '0 issue "ca.example" at example.com',
        "12 ms",
        "CAA check of a.example.com",
        "north-1: no answer",
        "issuance",
        "log, database and journal agree",
    ):
        assert part in text, part


def test_it_is_told_to_scripts(run: Run, ca: Path) -> None:
    """JSON has everything, by index or by serial number."""
    found = run(ca, "1", "--json").json
    assert (found["acme"], found["order"]["id"], found["findings"]) == (True, "order-0", [])
    assert found["entry"]["names"] == [item.to_json() for item in sorted(NAMES)]
    assert [record["id"] for record in found["evidence"]] == [1, 2, 3, 4, 5, 6]
    assert run(ca, hex(serial_number(1, 1)), "--json").json == found
    assert run(ca, "1", "--log", "1", "--json").json == found


def test_other_entries_say_so(run: Run, ca: Path) -> None:
    """An entry that was not made by ACME says so, with its request key."""
    assert "not by ACME: request key other" in run(ca, "0").out
    found = run(ca, "0", "--json").json
    assert (found["acme"], found["request_key"], found["evidence"]) == (False, "other", [])


def test_entries_that_are_not_there(run: Run, ca: Path) -> None:
    """An index behind the log, another log, and what is no index are errors that say so."""
    assert "has 2 entries" in run(ca, "2").err
    assert "log 7" in run(ca, "0", "--log", "7").err
    assert run(ca, "what").code == 2
    with pytest.raises(UsageError):
        asyncio.run(trace_entry(ca, -1))


def test_place_in_the_database_is_not_believed(ca: Path) -> None:
    """When the database puts the order elsewhere, the log's own ledger still leads to it, and that is a finding."""
    _execute(ca, "UPDATE orders SET log_index = 0")
    trace = asyncio.run(trace_entry(ca, 1))
    assert trace.order_id == "order-0"
    assert trace.findings == ("the database says that the order's entry is 1/0",)
    assert asyncio.run(trace_entry(ca, 0)).order_id is None


def test_forgotten_order_leaves_its_evidence(run: Run, ca: Path) -> None:
    """After the order was pruned, the entry still leads to all of its evidence."""
    _execute(ca, "DELETE FROM orders")
    trace = asyncio.run(trace_entry(ca, 1))
    assert (trace.order, trace.findings) == (None, ())
    assert [record.id for record in trace.records] == [1, 2, 3, 4, 5, 6]
    assert run(ca, "1").code == 0


def test_lost_database_is_a_finding(run: Run, ca: Path) -> None:
    """Without the database the entry is still known as one of ACME's, and that is a finding."""
    (ca / "acme" / DATABASE_NAME).unlink()
    shown = run(ca, "1")
    assert shown.code == 1
    assert "there is no database" in shown.out


def _other_key(ca: Path) -> None:
    with closing(sqlite3.connect(ca / "acme" / DATABASE_NAME)) as connection:
        (text,) = connection.execute("SELECT finalized FROM orders").fetchone()
    document = json.loads(text) | {"spki": SPKI[::-1].hex()}
    _execute(ca, f"UPDATE orders SET finalized = '{json.dumps(document)}'")  # noqa: S608 - ours


def _other_line(ca: Path) -> None:
    (path,) = (ca / "acme" / EVIDENCE_NAME).glob("*.jsonl")
    path.write_bytes(path.read_bytes().replace(b'"id":2,"kind":"validation"', b'"id":2,"kind":"revocation"'))


def _no_line(ca: Path) -> None:
    (path,) = (ca / "acme" / EVIDENCE_NAME).glob("*.jsonl")
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[1:]))


@pytest.mark.parametrize(
    ("tamper", "finding"),
    [
        (_other_key, "another key than the order"),
        (lambda ca: _execute(ca, """UPDATE orders SET identifiers = '[["dns","a.example.com"]]'"""), "other names"),
        (lambda ca: _execute(ca, "UPDATE orders SET finalized = NULL, is_issued = 0"), "never finalized"),
        (lambda ca: _execute(ca, "DELETE FROM records WHERE id = 2"), "no validation of *.b.example.com"),
        (
            lambda ca: _execute(ca, "DELETE FROM records WHERE id = 2"),
            "the finalization names is missing: 2",
        ),
        (lambda ca: _execute(ca, "UPDATE records SET is_positive = 0 WHERE id = 1"), "no validation of a.example.com"),
        (lambda ca: _execute(ca, "DELETE FROM records WHERE order_id IS NOT NULL"), "no evidence that the order was"),
        (_other_line, "another record 2 than the database"),
        (_no_line, "the journal has no record 1"),
    ],
)
def test_what_does_not_fit_is_named(run: Run, ca: Path, tamper: Callable[[Path], None], finding: str) -> None:
    """Evidence that was changed or lost after the fact is a finding, and exit code 1."""
    assert run(ca, "1").code == 0
    tamper(ca)
    found = run(ca, "1")
    assert found.code == 1
    assert finding in found.out


def test_voided_line_counts_for_nothing(ca: Path) -> None:
    """A line that the journal voids later is not the record's line."""
    (path,) = (ca / "acme" / EVIDENCE_NAME).glob("*.jsonl")
    with path.open("ab") as file:
        file.write(b'{"void":[3,4],"time":"2026-11-21T15:00:00+00:00"}\n')
    findings = asyncio.run(trace_entry(ca, 1)).findings
    assert findings == ("the journal has no record 3", "the journal has no record 4")


class Contradicting(Cosigners):
    """Cosigners that stop the log, in the middle of its round."""

    async def cosign(self, tree: TreeToSign, signed: SignedTree) -> SignedTree:
        """Contradict the tree."""
        raise ConflictError(
            Reason.CONFLICT, "another tree", tree_size=tree.tree_size, checkpoint=len(signed.checkpoint)
        )


def test_unsigned_entry_is_found_in_the_staged_round(run: Run, ca: Path) -> None:
    """An entry whose round is decided and not published yet leads to its order as well."""

    async def stage() -> None:
        async with open_ca(ca, cosigners=Contradicting()) as running:
            request = replace(ask("c.example.com"), request_key=b"acme/order-9")
            task = asyncio.create_task(running.issue([request]))
            while running.log.record.tree_size < 3:
                await asyncio.sleep(0.001)
                with contextlib.suppress(Error):
                    await running.log.run_round()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(stage())
    trace = asyncio.run(trace_entry(ca, 2))
    assert (trace.order_id, trace.is_signed, trace.entry) == ("order-9", False, None)
    assert "not signed yet" in run(ca, "2").out
