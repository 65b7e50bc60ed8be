"""`mtc acme`: what admins see of accounts and orders, and what they may change, beside a server or without one."""

import asyncio
import base64
import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.commands import Run, run_program
from tests.test_ca_service import PEM, SPKI, make

from mtc.acme.machine.orders import Account, AccountStatus, Authorization, AuthorizationStatus, Order, Place
from mtc.acme.machine.problems import Problem, ProblemType
from mtc.acme.sqlite import DATABASE_NAME, SQLiteACMEStore
from mtc.acme.store import Add, ExternalAccount, Put, Replace, Use
from mtc.errors import ConflictError
from mtc.ids import serial_number
from mtc.testing.acme_values import make_account, make_authorization, make_finalized, make_order, make_record

NOW = datetime.now(UTC)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs `mtc acme` in this process."""
    return run_program(monkeypatch, capfd, "acme")


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a CA's folder with some accounts and orders. Tests change what is theirs alone."""
    folder = tmp_path_factory.mktemp("ca")
    make(folder)
    asyncio.run(_fill(folder))
    return folder


async def _fill(folder: Path) -> None:
    store = SQLiteACMEStore.open(folder / "acme" / DATABASE_NAME, folder / "acme" / "evidence")
    problem = Problem(type=ProblemType.CAA, detail="[bold]CAA[/] says \x1b[31mno")
    await store.commit(
        *(Add(_account(number)) for number in range(3)),
        Add(_authorization(0)),
        Add(replace(_authorization(1), status=AuthorizationStatus.VALID)),
        Add(replace(_authorization(2), status=AuthorizationStatus.INVALID)),
        Add(_order(0, "authorization-0")),
        Add(_order(1, "authorization-1")),
        Add(_order(2, "authorization-2")),
        Add(replace(_order(3, "authorization-0"), error=problem)),
        Add(replace(_order(4, "authorization-0"), expires=NOW - timedelta(hours=1))),
        Add(replace(_order(5, "authorization-1"), finalized=make_finalized())),
        Put(make_record()),
    )
    issued = replace(_order(6, "authorization-1"), account_id="account-1", finalized=replace(
        make_finalized(), evidence_ids=(1,)
    ))  # fmt: skip
    await store.commit(Add(replace(issued, place=Place(log_number=1, index=7), is_issued=True)))
    await store.commit(Put(make_record("order-6")))
    await store.close()


def _account(number: int) -> Account:
    return replace(make_account(number), created=NOW + timedelta(seconds=number))


def _authorization(number: int) -> Authorization:
    return replace(make_authorization(number), created=NOW, expires=NOW + timedelta(hours=1))


def _order(number: int, *authorizations: str) -> Order:
    order = make_order(number, authorizations=authorizations)
    return replace(order, created=NOW + timedelta(seconds=number), expires=NOW + timedelta(hours=1))


def test_accounts_are_listed(run: Run, ca: Path) -> None:
    """Accounts are listed newest first, for people and for scripts; with a limit it says that there are more."""
    found = run("accounts", ca, "--json").json
    assert [item["id"] for item in found] == ["account-2", "account-1", "account-0"]
    assert found[2]["open_orders"] == 3
    assert found[2]["contacts"] == ["mailto:ä@example.com"]
    table = run("accounts", ca, "--limit", "2").out
    assert table.index("account-2") < table.index("account-1")
    assert "account-0" not in table
    assert "--limit" in table


@pytest.mark.parametrize(
    ("status", "orders"),
    [
        ("pending", [0]),
        ("ready", [1]),
        ("invalid", [4, 3, 2]),
        ("processing", [5]),
        ("valid", [6]),
        (None, [6, 5, 4, 3, 2, 1, 0]),
    ],
)
def test_orders_are_found_by_the_state_that_clients_see(
    run: Run, ca: Path, status: str | None, orders: list[int]
) -> None:
    """A state is derived as for clients: what expired, or whose validation failed, is invalid."""
    options = [] if status is None else ["--status", status]
    found = run("orders", ca, *options, "--json").json
    assert [item["id"] for item in found] == [f"order-{number}" for number in orders]
    assert status is None or {item["status"] for item in found} == {status}
    assert len(run("orders", ca, *options, "--limit", "1", "--json").json) == 1


def test_orders_of_an_account(run: Run, ca: Path) -> None:
    """Orders can be chosen by account, and a state that does not exist is refused."""
    assert [item["id"] for item in run("orders", ca, "--account", "account-1", "--json").json] == ["order-6"]
    assert "no orders" in run("orders", ca, "--account", "account-2").out
    refused = run("orders", ca, "--status", "odd")
    assert refused.code == 2
    assert "pending, ready" in refused.err


def test_renewal_is_hastened(run: Run, ca: Path) -> None:
    """Serial numbers, a range, or a share of what was issued lately get an earlier window; the report says which."""
    first = serial_number(1, 7)
    found = run("hasten", ca, str(first), f"{first + 3}-{first + 5}", "--begin", "1h", "--span", "2h", "--json").json
    assert found["certificates"] == 4
    assert found["serials"] == [[str(first)] * 2, [str(first + 3), str(first + 5)]]
    start, end = (datetime.fromisoformat(found["window"][name]) for name in ("start", "end"))
    assert end - start == timedelta(hours=2)
    assert "1 certificates are to be renewed" in run("hasten", ca, hex(first)).out
    sampled = run("hasten", ca, "--sample", "3", "--issued-within", "36500d", "--json").json
    assert sampled["certificates"] in (0, 1)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "--sample"),
        (["1", "--sample", "3"], "--sample"),
        (["--sample", "101"], "101"),
        (["7"], "log 0"),
        ([f"{serial_number(1, 5)}-{serial_number(1, 4)}"], "FIRST-LAST"),
        ([f"{serial_number(1, 5)}-{serial_number(2, 4)}"], "FIRST-LAST"),
        ([str(serial_number(1, 5)), "--span", "0s"], "--span"),
        ([str(serial_number(1, 5)), "--explanation", "why"], "https"),
    ],
)
def test_wrong_hastening_is_refused(run: Run, ca: Path, arguments: list[str], text: str) -> None:
    """What cannot be hastened is refused with the argument that is wrong, and nothing is kept."""
    refused = run("hasten", ca, *arguments)
    assert refused.code == 2
    assert text in refused.err


def test_order_shows_its_evidence(run: Run, ca: Path) -> None:
    """An order is shown with authorizations and the evidence that it was finalized with, and that names it."""
    found = run("order", ca, "order-6", "--json").json
    assert (found["status"], found["log"], found["index"]) == ("valid", 1, 7)
    assert [item["id"] for item in found["authorizations"]] == ["authorization-1"]
    assert [item["id"] for item in found["evidence"]] == [1, 2]
    text = run("order", ca, "order-6").out
    assert "log 1, index 7" in text
    assert "http-01" in text
    assert text.count("validation") == 2


def test_foreign_text_does_not_steer_the_terminal(run: Run, ca: Path) -> None:
    """What came from outside is printed as it is, without markup or escape sequences."""
    text = run("order", ca, "order-3").out
    assert "[bold]CAA[/] says \\u001b[31mno" in text
    assert "\x1b[31m" not in text


def test_account_may_be_limited_and_deactivated(run: Run, ca: Path) -> None:
    """An admin says what an account may ask for, and that it may do nothing more; twice is no error."""
    found = run("account", ca, "account-1", "--allow-names", "Example.org, *.example.net", "--json").json
    assert found["allowed_names"] == ["example.org", "example.net"]
    assert [order["id"] for order in found["orders"]] == ["order-6"]
    assert run("account", ca, "account-1", "--allow-names", "", "--json").json["allowed_names"] == []
    for _ in range(2):
        assert run("account", ca, "account-1", "--deactivate", "--json").json["status"] == AccountStatus.REVOKED
    text = run("account", ca, "account-1").out
    assert "revoked" in text
    assert "all names" in text
    refused = run("account", ca, "account-1", "--allow-names", "not a name")
    assert refused.code == 2
    assert "--allow-names" in refused.err


@pytest.mark.parametrize("words", [("account", "none"), ("order", "none")])
def test_what_is_not_there_is_named(run: Run, ca: Path, words: tuple[str, str]) -> None:
    """An ID that nobody has is an error that says which command lists them."""
    refused = run(words[0], ca, words[1])
    assert refused.code == 2
    assert f"mtc acme {words[0]}s" in refused.err


def test_folder_without_accounts_is_left_alone(run: Run, tmp_path: Path) -> None:
    """Looking into a folder without ACME, or without a CA, is an error, and makes nothing there."""
    assert "ca.toml" in run("accounts", tmp_path).err
    make(tmp_path)
    refused = run("accounts", tmp_path)
    assert refused.code == 2
    assert "mtc acme init" in refused.err
    assert not (tmp_path / "acme").exists()


def test_blocks(run: Run, tmp_path: Path) -> None:
    """Names and keys are blocked before any server ran, listed, and taken back."""
    make(tmp_path)
    key = tmp_path / "key.pem"
    key.write_text(PEM)
    digest = hashlib.sha256(SPKI).hexdigest()
    assert "all names below" in run("block", tmp_path, "name", "Bad.Example", "--reason", "phishing").out
    assert run("block", tmp_path, "key", key, "--reason", "leaked", "--json").json["value"] == digest
    found = {(item["kind"], item["value"]): item["reason"] for item in run("blocks", tmp_path, "--json").json}
    assert found == {("name", "bad.example"): "phishing", ("key", digest): "leaked"}
    assert "phishing" in run("blocks", tmp_path).out
    assert run("unblock", tmp_path, "key", digest).code == 0
    assert run("unblock", tmp_path, "name", "bad.example").code == 0
    again = run("unblock", tmp_path, "name", "bad.example")
    assert (again.code, "was not blocked" in again.out) == (1, True)
    assert "no blocks" in run("blocks", tmp_path).out
    for kind, value in (("name", "not a name"), ("key", "00"), ("colour", "red")):
        assert run("block", tmp_path, kind, value, "--reason", "").code == 2


def test_external_accounts(run: Run, tmp_path: Path) -> None:
    """A key is printed once, is the one that the server checks with, and can be revoked."""
    make(tmp_path)
    made = run("eab", "add", tmp_path, "--allow-names", "shop.example", "--note", "the shop", "--json").json
    secret = base64.urlsafe_b64decode(made["hmac_key"] + "=")
    assert len(secret) == 32
    text = run("eab", "add", tmp_path, "--kid", "second").out
    assert text.splitlines()[0].split() == ["kid", "second"]

    async def use() -> tuple[ExternalAccount | None, ExternalAccount | None]:
        store = SQLiteACMEStore.open(tmp_path / "acme" / DATABASE_NAME, None)
        await store.commit(Use(made["kid"]))
        with pytest.raises(ConflictError):
            await store.commit(Use(made["kid"]))
        found = await store.find_external(made["kid"]), await store.find_external("second")
        await store.close()
        return found

    first, second = asyncio.run(use())
    assert first is not None
    assert second is not None
    assert (first.secret, first.allowed_names, first.note) == (secret, ("shop.example",), "the shop")
    assert second.secret != secret
    assert run("eab", "revoke", tmp_path, "second").code == 0
    listed = run("eab", "list", tmp_path, "--json")
    assert {item["kid"]: (item["used"], item["revoked"]) for item in listed.json} == {
        made["kid"]: (True, False),
        "second": (False, True),
    }
    table = run("eab", "list", tmp_path).out
    assert "the shop" in table
    assert made["hmac_key"] not in table + listed.out
    assert run("eab", "add", tmp_path, "--kid", "second").code == 2
    assert run("eab", "revoke", tmp_path, "third").code == 2


def test_command_works_beside_a_server(run: Run, ca: Path) -> None:
    """While a server has the database open a command changes it, and the server sees that at its next request."""
    server = SQLiteACMEStore.open(ca / "acme" / DATABASE_NAME, ca / "acme" / "evidence")
    before = asyncio.run(server.find_account("account-2"))
    assert before is not None
    run("account", ca, "account-2", "--deactivate")
    assert asyncio.run(server.find_account("account-2")) == replace(before, status=AccountStatus.REVOKED, version=1)
    with pytest.raises(ConflictError):
        asyncio.run(server.commit(Replace(replace(before, address="other"))))
    asyncio.run(server.close())
