"""Asking all perspectives at the same time: who is waited for and how long, what counts, what agents cannot break."""

import asyncio
from collections.abc import Iterator, MutableMapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from tests.perspectives import (
    NO_CONTROL,
    TASK,
    FakePerspective,
    in_loop,
    make_folder,
    make_identity,
    never,
    peer_of,
    report,
    running_agent,
    until,
)

from mtc.acme.machine.problems import ProblemType
from mtc.acme.machine.quorum import PUBLIC_RULE, CorroborationRule
from mtc.acme.machine.validation import Report, ValidationTask
from mtc.acme.perspective.client import open_perspectives
from mtc.acme.perspective.corroboration import Corroborator
from mtc.acme.seams import Validator
from mtc.errors import PeerError, Reason, UsageError

PLACES = [("eu-1", "ripe"), ("eu-2", "ripe"), ("us-1", "arin"), ("us-2", "arin"), ("ap-1", "apnic")]


@pytest.fixture(autouse=True)
def quiet_logs() -> Iterator[list[MutableMapping[str, Any]]]:
    """Keep log events instead of printing them."""
    structlog.reset_defaults()
    with structlog.testing.capture_logs() as events:
        yield events


def five() -> list[FakePerspective]:
    """Return five remote perspectives that agree."""
    return [FakePerspective(*place) for place in PLACES]


async def absent(_task: ValidationTask) -> Report:
    """Be no perspective."""
    raise PeerError(Reason.PEER, "perspective us-1 at https://10.0.0.7:8443 does not answer")


async def broken(_task: ValidationTask) -> Report:
    """Have a defect."""
    raise ZeroDivisionError


@in_loop
async def test_all_agree() -> None:
    """Everybody gets the same task, and every report is handed on, the primary's first."""
    local, remotes = FakePerspective(), five()
    validator: Validator = Corroborator(local, remotes, PUBLIC_RULE)
    outcome = await validator.examine(TASK)
    assert outcome.problem is None
    assert [item.perspective for item in outcome.reports] == ["local", *(name for name, _ in PLACES)]
    assert outcome.absences == ()
    assert all(item.seen == [TASK] for item in (local, *remotes))


@in_loop
async def test_primary_alone() -> None:
    """Without remote perspectives the primary decides; its problem is the outcome's."""
    local = FakePerspective()
    assert (await Corroborator(local).examine(TASK)).problem is None
    local.problem = NO_CONTROL
    outcome = await Corroborator(local).examine(TASK)
    assert outcome.problem is NO_CONTROL
    assert len(outcome.reports) == 1


@pytest.mark.parametrize("look", [absent, broken, never])
@in_loop
async def test_one_may_be_missing_and_two_may_not(look: Any) -> None:  # noqa: ANN401 - one of the functions above
    """An agent that does not answer, fails or takes too long is one failure; evidence and operators read why."""
    remotes = five()
    remotes[2].look = look
    seen: list[tuple[str, str]] = []
    validator = Corroborator(
        FakePerspective(),
        remotes,
        PUBLIC_RULE,
        grace_s=0.05,
        observe=lambda name, result, _: seen.append((name, result)),
    )
    outcome = await validator.examine(TASK)
    assert outcome.problem is None
    assert [item.perspective for item in outcome.reports] == ["local", "eu-1", "eu-2", "us-2", "ap-1"]
    (line,) = outcome.absences
    assert line.startswith("us-1: ")
    assert sorted(seen) == sorted(
        [("local", "agrees"), ("us-1", "silent"), *((name, "agrees") for name in ("eu-1", "eu-2", "us-2", "ap-1"))]
    )
    remotes[0].problem = NO_CONTROL
    outcome = await validator.examine(TASK)
    assert outcome.problem is not None
    assert outcome.problem.type is NO_CONTROL.type
    assert "10.0.0.7" not in outcome.problem.detail
    assert ("eu-1", "disagrees") in seen
    assert remotes[2].ended == 2


@in_loop
async def test_slow_agents_are_waited_for_within_the_grace() -> None:
    """All look at the same time; a slow one is waited for, even when it cannot change the outcome any more."""
    remotes, gate = five(), asyncio.Event()

    async def late(_task: ValidationTask) -> Report:
        await gate.wait()
        return report("ap-1", "apnic")

    remotes[4].look = late
    running = asyncio.create_task(Corroborator(FakePerspective(problem=NO_CONTROL), remotes).examine(TASK))
    await until(lambda: all(item.seen for item in remotes))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not running.done()
    gate.set()
    outcome = await running
    assert outcome.problem is NO_CONTROL
    assert len(outcome.reports) == 6


@in_loop
async def test_remotes_look_while_the_primary_does() -> None:
    """Nobody waits for the primary to begin, and reports that came before its own count."""
    remotes = five()

    async def last(_task: ValidationTask) -> Report:
        await until(lambda: all(item.ended for item in remotes))
        return report("local", "")

    assert (await Corroborator(FakePerspective(look=last), remotes, PUBLIC_RULE).examine(TASK)).problem is None


@pytest.mark.parametrize("look", [absent, broken, never])
@in_loop
async def test_primary_that_fails(look: Any) -> None:  # noqa: ANN401 - one of the functions above
    """When the CA cannot look itself, nothing is validated, and the applicant may try again."""
    outcome = await Corroborator(FakePerspective(look=look), five(), PUBLIC_RULE, primary_s=0.05).examine(TASK)
    assert outcome.problem is not None
    assert outcome.problem.type is ProblemType.SERVER_INTERNAL
    assert [item.perspective for item in outcome.reports] == [name for name, _ in PLACES]
    assert outcome.absences[0].startswith("local: ")


@pytest.mark.parametrize(("name", "region"), [("eu-2", "ripe"), ("eu-1", "arin"), ("", ""), ("local", "")])
@in_loop
async def test_report_in_another_name_is_refused(name: str, region: str) -> None:
    """An agent cannot speak for another, nor from another region than the configured one."""
    remotes = five()

    async def pose(_task: ValidationTask) -> Report:
        return report(name, region)

    remotes[0].look = pose
    outcome = await Corroborator(FakePerspective(), remotes, replace(PUBLIC_RULE, allowed_failures=0)).examine(TASK)
    assert outcome.problem is not None
    assert outcome.problem.type is ProblemType.SERVER_INTERNAL
    assert "make its perspective.toml and acme.toml agree" in outcome.absences[0]
    assert len(outcome.reports) == 5


@in_loop
async def test_cancelled_examination_leaves_nobody_looking() -> None:
    """A validation that is given up ends at every perspective."""
    local, remotes = FakePerspective(), five()
    for item in remotes:
        item.look = never
    running = asyncio.create_task(Corroborator(local, remotes).examine(TASK))
    await until(lambda: all(item.seen for item in remotes))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert all(item.ended for item in remotes)


def test_rule_that_cannot_be_met_is_refused_at_start() -> None:
    """Four agents, or five in one region, are no perspectives of a public CA."""
    with pytest.raises(UsageError):
        Corroborator(FakePerspective(), five()[:4], PUBLIC_RULE)
    with pytest.raises(UsageError):
        Corroborator(FakePerspective(), [FakePerspective(f"eu-{n}", "ripe") for n in range(5)], PUBLIC_RULE)
    Corroborator(FakePerspective(), [], CorroborationRule(least_regions=2))


@in_loop
async def test_agents_that_die_while_they_are_asked(tmp_path: Path) -> None:
    """Of five real agents one may be shut down in the middle of a look; with a second one the quorum is lost."""
    folders = [make_folder(tmp_path / name, name, region) for name, region in PLACES]
    identity = make_identity(tmp_path / "ca", *folders)
    fakes = five()
    agents = [running_agent(folder, fake) for folder, fake in zip(folders, fakes, strict=True)]
    peers = [(await agent.__aenter__())[1] for agent in agents]
    async with open_perspectives(peers, identity) as clients:
        validator = Corroborator(FakePerspective(), clients, PUBLIC_RULE, grace_s=0.5)
        assert (await validator.examine(TASK)).problem is None
        for number, is_enough in ((0, True), (1, False)):
            fakes[number].look = never
            fakes[number].seen.clear()
            running = asyncio.create_task(validator.examine(TASK))
            await until(lambda seen=fakes[number].seen: seen)  # type: ignore[misc]  # the list of this round
            closing = asyncio.create_task(agents[number].__aexit__(None, None, None))
            outcome = await running
            assert (outcome.problem is None) is is_enough
            assert len(outcome.absences) == number + 1
            await closing
    for agent in agents[2:]:
        await agent.__aexit__(None, None, None)


@in_loop
async def test_reports_cross_the_network_whole(tmp_path: Path) -> None:
    """What is kept as evidence of a remote look is what the agent saw, its times and records included."""
    folder = make_folder(tmp_path / "agent")
    identity = make_identity(tmp_path / "ca", folder)
    fake = FakePerspective("eu-1", "ripe")
    made = report("eu-1", "ripe")
    made = replace(made, started=made.started - timedelta(seconds=3))

    async def look(_task: ValidationTask) -> Report:
        return made

    fake.look = look
    async with running_agent(folder, fake) as (_, peer), open_perspectives([peer], identity) as clients:
        outcome = await Corroborator(FakePerspective(), clients).examine(TASK)
    assert outcome.reports[1] == made
    assert peer == peer_of(folder, fake, peer.url)
