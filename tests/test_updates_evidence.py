"""Logs of two histories: what the update service and relying parties make of them, and what others can verify."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.commands import Run, run_program
from tests.strategies import subtrees_in_trees
from tests.updates_sites import TownCA, online, serviced, town_ca
from tests.updating import (
    HASHER,
    MIRRORS,
    NOW,
    POLICY_KEY,
    SECONDS,
    UNTRUSTED,
    hourly,
    policy_of,
    take,
    update_of,
    verifier,
)

from mtc.cli.trust_update import write_metrics
from mtc.cosign.evidence import parse_evidence, verify_evidence
from mtc.errors import FormatError, ProofError, Reason
from mtc.landmark import Landmark
from mtc.merkle import RowReader, Subtree, prove_consistency, subtree_hash
from mtc.testing import FakeClock
from mtc.trust.updater import Updater, UpdaterConfig, count_evidence, create_updater, evidence_of
from mtc.trust.updates import UpdateTrust, encode_anchors, freshness_of, parse_anchors, prove_bulk, verify_bulk
from mtc.trust.updates.contradiction import verify_anchor
from mtc.updates.pulling import Puller

READER = RowReader(HASHER, HASHER.leaves([b"entry %d" % at for at in range(300)]))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command of `mtc`."""
    return run_program(monkeypatch, capfd)


@given(st.data())
def test_a_bulk_proof_has_the_drafts_proofs(data: st.DataObject) -> None:
    """Of a subtree that it was made for, and of what lies in front of it, it gives the same proof as tiles do."""
    size = data.draw(st.integers(1, 300))
    part = data.draw(subtrees_in_trees(size).map(lambda pair: pair[0]))
    root = subtree_hash(HASHER, READER, Subtree(0, size))
    bulk = verify_bulk(HASHER, size, root, [part], prove_bulk(HASHER, READER, size, [part]))
    if not part.is_empty:
        for subtree in (part, Subtree(0, part.end)):
            assert bulk.consistency_of(subtree) == prove_consistency(HASHER, READER, subtree, size)


@pytest.mark.parametrize("growth", [-4, 0, 9])
def test_two_histories_convict_everybody_who_signed_both(growth: int) -> None:
    """Whatever the sizes of both trees, a client shows that they are not one history; what it holds stays."""
    log, other = hourly(4), hourly(4, label="other")
    policy = policy_of(log.trusted(at_least=2))
    log.grow(4)
    other.grow(4 + growth)
    held = take(update_of(policy, log.proven(), version=SECONDS - 9)).state
    again = parse_anchors(encode_anchors(held.anchors))
    assert again == held.anchors
    planned = take(update_of(policy, other.proven()), held)
    (finding,) = planned.findings
    assert (finding.error.reason, planned.state.logs) == (Reason.EQUIVOCATION, held.logs)
    assert [item.key.name for item in finding.contradictions] == [who.oid_name for who in (log.ca_id, *MIRRORS)]
    for contradiction in finding.contradictions:
        found = verify_evidence(evidence_of(contradiction))
        assert found.is_proof
        assert found.evidence.kind == ("split-trees" if growth else "split-view")
    assert planned.state.anchors == held.anchors


def test_anchors_are_read_strictly() -> None:
    """No beginning of what is kept is read as it, and nothing may follow; a changed hash leads elsewhere."""
    log = hourly(3)
    (anchor,) = take(update_of(policy_of(log.trusted()), log.proven())).state.anchors
    data = encode_anchors([anchor])
    verify_anchor(HASHER, anchor)
    for cut in (*range(200), *range(200, len(data), 97)):
        with pytest.raises(FormatError):
            parse_anchors(data[:cut])
    with pytest.raises(FormatError):
        parse_anchors(data + b"\0")
    with pytest.raises(ProofError):
        verify_anchor(HASHER, replace(anchor, held=bytes(32)))


def test_honest_growth_and_moved_landmarks_convict_nobody() -> None:
    """A log that only grows contradicts nothing; landmarks that move are a finding, and nobody signed them."""
    log = hourly(3)
    policy = policy_of(log.trusted())
    held = take(update_of(policy, log.proven(), version=SECONDS - 9)).state
    log.mark(5)
    moved = hourly(3)
    moved.landmarks[2] = Landmark(2, moved.landmarks[2].tree_size - 1, moved.landmarks[2].expiry)
    assert take(update_of(policy, log.proven(), version=SECONDS - 1), held).findings == ()
    (finding,) = take(update_of(policy, moved.proven()), held).findings
    assert (finding.error.reason, finding.contradictions) == (Reason.EQUIVOCATION, ())


def forked(ca: TownCA) -> TownCA:
    """Return a CA with the same keys and another history, which serves in the place of the first."""
    other = town_ca(str(ca.log.ca_id))
    other.log = replace(other.log, label="another", landmarks=[])
    other.edge = type(other.edge)(HASHER.size)
    other.mark(300)
    other.mark(41)
    other.mark(7)
    ca.site.files, ca.mirror.files = other.site.files, other.mirror.files
    return other


async def pulled_twice(ca: TownCA, folder: Path, *, between: bool) -> tuple[list[str], list[str]]:
    """Look at a CA, let it change its history, and look again; return kinds and names of what that proves.

    between: the second look is that of another run of the service.
    """
    kinds, names = [], []
    async with serviced(folder, ca) as service:
        puller = Puller(service.config.cas[0], service.http, service.clock)
        first = await puller.pull()
        forked(ca)
        if between:
            puller = Puller(service.config.cas[0], service.http, service.clock, first.logs)
        second = await puller.pull()
        assert second.logs == first.logs
        assert any("evidence is kept" in trouble for trouble in second.troubles)
        for item in second.evidence:
            assert verify_evidence(item).is_proof
            kinds.append(item.kind)
            names.append(item.subject.name)
    return kinds, names


@pytest.mark.parametrize("between", [False, True], ids=["one run", "after a restart"])
def test_the_service_convicts_a_log_that_changes_its_history(tmp_path: Path, *, between: bool) -> None:
    """A larger tree that does not continue the one before is proven against everybody who signed both."""
    ca = town_ca()
    kinds, names = asyncio.run(pulled_twice(ca, tmp_path, between=between))
    assert kinds == ["inconsistent"] * 2
    assert sorted(names) == sorted(who.oid_name for who in (ca.log.ca_id, MIRRORS[0]))


def test_evidence_is_told_everywhere(tmp_path: Path, run: Run) -> None:
    """Service and client keep bundles that `mtc evidence verify` accepts; status, metrics and exit code tell."""
    ca, clock = town_ca(), FakeClock(NOW)
    folder, client = tmp_path / "service", tmp_path / "client"

    async def story() -> tuple[dict[str, object], bytes]:
        async with online(folder, ca, clock=clock) as (service, url, http):
            create_updater(client, UpdaterConfig(url, UpdateTrust((verifier(POLICY_KEY),))))
            source = service.config.cas[0]
            puller = Puller(source, service.http, service.clock)
            service.config = replace(service.config, interval=timedelta(hours=1))
            async with Updater.open(client) as updater:
                policy = policy_of(ca.log.trusted(), issued=SECONDS)
                honest, liar = update_of(policy, ca.log.proven()), forked(ca)
                first = take(honest).state
                await updater._keep(first)
                data = update_of(policy, liar.log.proven(), version=SECONDS + 1)
                await updater._keep_evidence(take(data, updater.state).findings, NOW)
            ca.site.files, before = town_ca().site.files, ca.site.files
            ca.mirror.files, seen = town_ca().mirror.files, ca.mirror.files
            await puller.pull()
            ca.site.files, ca.mirror.files = before, seen
            await service._keep((await puller.pull()).evidence)
            return service.describe(), (await http.fetch(f"{url}/metrics")).body

    health, metrics = asyncio.run(story())
    assert (health["status"], health["evidence"]) == ("degraded", 2)
    assert b'mtc_updates_evidence_total{kind="inconsistent"} 2.0' in metrics
    bundles = [*folder.glob("private/evidence/*.json"), *client.glob("private/evidence/*.json")]
    assert len(bundles) == 4
    assert count_evidence(client) == 2
    for bundle in bundles:
        assert run("evidence", "verify", "--proof", bundle).code == 0
        assert parse_evidence(bundle.read_bytes()).collected_by
    shown = run("trust", "show", client)
    assert shown.code == 1
    assert "two histories" in shown.err
    assert run("trust", "show", client, "--json").json["evidence"] == 2


@pytest.mark.parametrize(
    ("age", "word", "code"),
    [(timedelta(minutes=1), "fresh", 0), (timedelta(hours=7), "stale", 1), (timedelta(days=8), "expired", 1)],
)
def test_staleness_is_told_everywhere(tmp_path: Path, run: Run, age: timedelta, word: str, code: int) -> None:
    """Text, JSON, metrics and exit code tell the same: fresh, stale, or expired; then there is no store."""
    now = datetime.now(UTC)
    made = now - age
    seconds, log = int(made.timestamp()), hourly(2)
    state = take(update_of(policy_of(log.trusted(), issued=seconds), log.proven(), version=seconds), now=made).state
    create_updater(tmp_path / "client", UpdaterConfig("http://nobody.example", UNTRUSTED))
    (tmp_path / "client" / "state").write_bytes(state.encode())
    shown = run("trust", "show", tmp_path / "client")
    assert (shown.code, shown.out.split(":")[0]) == (code, word)
    assert run("trust", "show", tmp_path / "client", "--json").json["staleness"] == word
    printed = run("trust", "show", tmp_path / "client", "--store")
    assert (printed.code, bool(printed.out)) == (code, word != "expired")
    file = tmp_path / "trust.prom"
    write_metrics(file, state, freshness_of(state, now, 6 * 3600), now, evidence=3)
    values = dict(line.rsplit(" ", 1) for line in file.read_text().splitlines() if not line.startswith("#"))
    words = {name for name, value in values.items() if name.startswith("mtc_trust_staleness") and float(value)}
    assert words == {f'mtc_trust_staleness{{staleness="{word}"}}'}
    assert values["mtc_trust_evidence"] == "3.0"
