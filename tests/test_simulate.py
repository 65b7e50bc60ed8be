"""The simulation of landmarks against closed formulas, laws, and every client simulated one by one."""

from dataclasses import replace
from datetime import timedelta
from math import exp

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.simulated_clients import Town

from mtc.errors import UsageError
from mtc.landmark import max_active
from mtc.simulate import (
    CAGroup,
    ClientClass,
    Failure,
    Outage,
    Outcome,
    Scenario,
    Shares,
    UpdateService,
    simulate,
    web_scenario,
)
from mtc.simulate.cohort import Cohort
from mtc.simulate.timeline import Calendar, Timeline

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
ALWAYS = ClientClass(name="clients", count=1000, update_interval=6 * HOUR)
WEEK = CAGroup(name="cas", count=1)


def scenario_of(
    clients: ClientClass = ALWAYS,
    group: CAGroup = WEEK,
    *outages: Outage,
    service: UpdateService | None = None,
    days: int = 4,
    step: timedelta = HOUR / 2,
) -> Scenario:
    """Return a scenario of one class and one group, reported at every step."""
    return Scenario(
        classes=(clients,),
        groups=(group,),
        service=service or UpdateService(),
        outages=outages,
        duration=days * DAY,
        step=step,
        report_interval=step,
    )


def total_of(cohort: Cohort) -> float:
    """Return all shares together."""
    return sum(cohort.online) + sum(cohort.offline) + sum(cohort.waiting or ())


habits = st.builds(
    ClientClass,
    name=st.just("clients"),
    count=st.just(1000),
    update_interval=st.integers(1, 30).map(lambda halves: halves * HOUR / 2),
    online=st.floats(0.5, 48).map(lambda hours: hours * HOUR),
    offline=st.one_of(st.just(timedelta(0)), st.floats(0.5, 48).map(lambda hours: hours * HOUR)),
    retry=st.floats(0.1, 5).map(lambda hours: hours * HOUR),
)


@given(habits, st.integers(1, 50))
@settings(max_examples=40)
def test_cohort_without_outages_stays_as_it_is(clients: ClientClass, steps: int) -> None:
    """The distribution at the start is the stationary one: nothing changes while nothing fails."""
    cohort = Cohort(clients, scenario_of(clients), 0)
    online, offline = list(cohort.online), list(cohort.offline)
    for _ in range(steps):
        cohort.advance(is_up=True)
    assert cohort.online == pytest.approx(online, abs=1e-9)
    assert cohort.offline == pytest.approx(offline, abs=1e-9)


@given(habits, st.lists(st.booleans(), max_size=80))
@settings(max_examples=60)
def test_no_client_is_lost_or_invented(clients: ClientClass, weather: list[bool]) -> None:
    """Whatever the service does, all clients remain, as many are online as ever, and those seen are those online."""
    cohort = Cohort(clients, scenario_of(clients), weather.count(False))
    for is_up in weather:
        polls, seen = cohort.advance(is_up=is_up)
        assert total_of(cohort) == pytest.approx(1)
        assert sum(seen) == pytest.approx(clients.share_online, abs=1e-6)
        assert sum(cohort.ages()) == pytest.approx(clients.share_online, abs=1e-6)
        assert len(seen) == cohort.max_age + 1
        assert min(*seen, *cohort.offline) >= 0
        assert is_up or polls.total == 0


@given(st.integers(1, 24), st.sampled_from((1, 2, 4, 6)), st.integers(0, 8), st.integers(2, 40))
@settings(max_examples=40, deadline=None)
def test_share_of_clients_always_online_follows_the_formula(
    update_steps: int, interval_h: int, delay_steps: int, cas: int
) -> None:
    """A certificate waits for its landmark, the service, and the client: half an interval, the delay, half an update.

    While it waits it is presented standalone, so the standalone share is that time over the time it is in use.
    """
    step = HOUR / 2
    clients = replace(ALWAYS, update_interval=update_steps * step)
    group = replace(WEEK, count=cas, landmark_interval=interval_h * HOUR, upgrade_delay=timedelta(0))
    outcome = simulate(
        scenario_of(clients, group, service=UpdateService(publish_delay=delay_steps * step), days=1, step=step)
    )
    waiting = interval_h * HOUR / 2 + delay_steps * step + update_steps * step / 2
    assert outcome.shares.standalone == pytest.approx(waiting / (group.lifetime * group.renew_at))
    assert outcome.shares.fallback == 0


@given(st.sampled_from((1, 2, 4, 6)), st.integers(3, 200))
@settings(max_examples=30, deadline=None)
def test_share_waits_for_slow_servers(interval_h: int, delay_steps: int) -> None:
    """When servers fetch landmark-relative certificates later than clients update, it is they who are waited for."""
    group = replace(WEEK, landmark_interval=interval_h * HOUR, upgrade_delay=delay_steps * HOUR / 2)
    clients = replace(ALWAYS, update_interval=HOUR / 2)
    outcome = simulate(scenario_of(clients, group, service=UpdateService(publish_delay=HOUR / 2), days=1))
    waiting = interval_h * HOUR / 2 + group.upgrade_delay
    assert outcome.shares.standalone == pytest.approx(waiting / (group.lifetime * group.renew_at))


def test_server_that_fetches_too_late_presents_no_landmark() -> None:
    """A landmark-relative certificate fetched when its renewal is due is never presented."""
    group = replace(WEEK, upgrade_delay=WEEK.lifetime * WEEK.renew_at)
    assert simulate(scenario_of(group=group, days=1)).shares.landmark_relative == 0


@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(1, 100)), max_size=3),
    st.floats(0.1, 20),
    st.sampled_from((0.5, 0.75, 1.0)),
)
@settings(max_examples=30, deadline=None)
def test_no_certificate_is_lost_or_invented(outages: list[tuple[int, int]], retry_h: float, renew_at: float) -> None:
    """Every subscriber has one certificate in use at any time, however often its CA is out of order."""
    group = replace(WEEK, lifetime=2 * DAY, renewal_retry=retry_h * HOUR, renew_at=renew_at)
    failures = [Outage(failure=Failure.CA, start=start * HOUR / 2, length=n * HOUR / 2) for start, n in outages]
    scenario = scenario_of(ALWAYS, group, *failures, days=6)
    timeline = Timeline(group, scenario, Calendar.of(scenario))
    for step in range(timeline.total):
        due_at = step - timeline.period
        ends = (timeline.issued[due_at + timeline.history] + timeline.issued[step + timeline.history]) / 2
        held = sum(amount for _, amount in timeline.held[step].amounts) if step in timeline.held else 0.0
        assert timeline.issued_between(due_at + 1, step) + ends + held == pytest.approx(group.certificates)


@given(st.integers(1, 12), st.sampled_from((1, 2, 3, 4, 6)), st.integers(1, 500), st.integers(0, 5000))
@settings(max_examples=25, deadline=None)
def test_bytes_of_clients_always_online_follow_the_formula(
    update_h: int, interval_h: int, cas: int, proof_bytes: int
) -> None:
    """Every landmark is sent once, every answer has its base, and every CA with news its proof."""
    clients = replace(ALWAYS, update_interval=update_h * HOUR)
    group = replace(WEEK, count=cas, landmark_interval=interval_h * HOUR)
    service = UpdateService(proof_bytes=proof_bytes, base_bytes=1000)
    outcome = simulate(scenario_of(clients, group, service=service, days=6, step=HOUR))
    updates = 24 / update_h
    news = min(updates, 24 / interval_h)
    expected = cas * (24 / interval_h * 64 + news * proof_bytes) + updates * 1000
    assert outcome.bytes_per_client_day == pytest.approx(expected)
    assert outcome.full_bytes_per_client_day == 0
    assert outcome.classes[0].updates_per_day == pytest.approx(updates)
    assert outcome.egress.bytes_per_day == pytest.approx(expected * 1000)
    assert outcome.egress.mean_bits_per_s == pytest.approx(expected * 1000 * 8 / 86400)


@given(st.integers(1, 48))
@settings(max_examples=20, deadline=None)
def test_staleness_of_clients_always_online_is_uniform(update_steps: int) -> None:
    """The state of a client is of any age below its interval, alike."""
    interval_s = update_steps * 1800
    outcome = simulate(scenario_of(replace(ALWAYS, update_interval=update_steps * HOUR / 2), days=1))
    assert outcome.staleness.mean_s == pytest.approx(interval_s / 2)
    assert outcome.staleness.percentiles_s == pytest.approx(
        {"50": interval_s * 0.5, "90": interval_s * 0.9, "99": interval_s * 0.99, "99.9": interval_s * 0.999}
    )


@pytest.mark.parametrize(("lifetime_days", "interval_h"), [(7, 1), (7, 2), (47, 4), (1, 1)])
def test_full_state_is_two_hashes_per_active_landmark(lifetime_days: int, interval_h: int) -> None:
    """Without failures one landmark fewer is active than can be: 10,752 bytes for a week of hourly ones."""
    group = replace(WEEK, count=3, lifetime=lifetime_days * DAY, landmark_interval=interval_h * HOUR)
    outcome = simulate(scenario_of(group=group, service=UpdateService(ca_bytes=0, publish_delay=timedelta(0)), days=1))
    active = max_active(group.lifetime, group.landmark_interval) - 1
    assert outcome.landmarks == pytest.approx(3 * active)
    assert outcome.full_state_bytes == pytest.approx(3 * active * 64)
    assert (lifetime_days, interval_h) != (7, 1) or active * 64 == 10_752


def test_updates_of_clients_that_come_and_go_approach_the_formula() -> None:
    """Between two updates lie the interval and, for those offline at its end, the rest of the stretch offline."""
    clients = replace(ALWAYS, online=3 * HOUR, offline=9 * HOUR)
    away = 0.75 * (1 - exp(-(1 / 3 + 1 / 9) * 6))
    expected = 24 / (6 + away * 9)
    errors = []
    for parts in (1, 2, 4):
        outcome = simulate(scenario_of(clients, step=HOUR / parts, days=1))
        errors.append(abs(outcome.classes[0].updates_per_day / expected - 1))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.003


def test_certificates_are_as_large_as_their_proofs_are_deep() -> None:
    """A proof has a hash for each doubling of the entries under a landmark, or in a round: those of real certificates.

    Two cosignatures of ML-DSA-44 and 22 hashes make the certificates of 1,006 and 5,861 bytes that are measured.
    """
    # 2^22 entries in each interval of a landmark, and of a round.
    group = replace(WEEK, certificates=2**22 * 126, round=HOUR)
    found = simulate(scenario_of(group=group, days=1))
    sizes = found.handshake_bytes
    assert (sizes.landmark_relative, sizes.standalone) == (1006, 5861)
    share = found.shares.landmark_relative
    assert sizes.certificates == pytest.approx(share * 1006 + (1 - share) * 5861)
    assert sizes.without_landmarks == pytest.approx(5861)
    assert sizes.updates == pytest.approx(found.bytes_per_client_day / ALWAYS.handshakes_per_day)
    few = simulate(scenario_of(group=replace(WEEK, certificates=100), days=1))
    assert (few.handshake_bytes.landmark_relative, few.handshake_bytes.standalone) == (302, 302 + 4855)


def test_rare_issuance_makes_fewer_landmarks() -> None:
    """A CA has a landmark in an interval with the probability that it issued anything."""
    group = replace(WEEK, count=1, certificates=63)
    outcome = simulate(scenario_of(group=group, service=UpdateService(base_bytes=0, proof_bytes=1), days=6))
    per_interval = 63 / (7 * 24 * 0.75)
    grown = 1 - exp(-per_interval)
    # An update brings six intervals together, and the CA's proof unless all six were without entries.
    proofs = 4 * (1 - exp(-6 * per_interval))
    assert outcome.bytes_per_client_day == pytest.approx(24 * grown * 64 + proofs)


def test_certificates_expire_when_their_ca_stays_away() -> None:
    """What falls due after the failure expires a quarter of its life later, at the rate at which it was issued."""
    outage = Outage(failure=Failure.CA, start=DAY, length=20 * DAY)
    outcome = simulate(scenario_of(ALWAYS, WEEK, outage, days=12))
    in_use = WEEK.lifetime * WEEK.renew_at
    for moment in outcome.series:
        away = timedelta(seconds=moment.at_s) - DAY - WEEK.lifetime * (1 - WEEK.renew_at)
        expected = min(max(away / in_use, 0.0), 1.0)
        # Half of those of a step count; the rest is the step's own width.
        assert moment.shares.fallback == pytest.approx(expected, abs=1 / 252 + 1e-9)
    assert outcome.series[-1].shares.fallback == pytest.approx(1)


def test_clients_without_news_give_up() -> None:
    """When the service stays away, clients fall back one after the other as their policy expires, and then all."""
    outage = Outage(failure=Failure.SERVICE, start=timedelta(0), length=20 * DAY)
    service = UpdateService(policy_lifetime=3 * DAY)
    outcome = simulate(scenario_of(ALWAYS, WEEK, outage, service=service, days=5))
    for moment in outcome.series:
        given_up = (moment.at_s / 3600 - 72 + 6) / 6
        assert moment.shares.fallback == pytest.approx(min(max(given_up, 0), 1), abs=0.1)
        assert moment.updates_per_s == moment.egress_bits_per_s == 0
    assert outcome.series[-1].shares == Shares(landmark_relative=0.0, standalone=0.0, fallback=1.0)
    # The service learns nothing either: what is active becomes less by one an hour.
    assert outcome.series[0].landmarks - outcome.series[-1].landmarks == pytest.approx(5 * 24 - 1)
    assert outcome.series[-1].staleness_p50_s == pytest.approx((5 * 24 + 3) * 3600, rel=0.01)


@pytest.mark.parametrize("retry_h", [0.25, 1.0, 4.0])
def test_clients_return_as_they_retry(retry_h: float) -> None:
    """After a failure that all noticed, those who still wait become fewer by the law of their retries."""
    clients = replace(ALWAYS, retry=retry_h * HOUR)
    outcome = simulate(scenario_of(clients, WEEK, Outage(failure=Failure.SERVICE, start=DAY, length=DAY), days=3))
    part = exp(-0.5 / retry_h)
    back = [one for one in outcome.series if 2 * 86400 <= one.at_s < 2 * 86400 + 6 * 3600]
    for number, moment in enumerate(back):
        assert moment.updates_per_s * 1800 / 1000 == pytest.approx(part**number * (1 - part), abs=1e-9)
    # Six hours later the first of them are back, and meet the last that still wait.
    assert outcome.egress.peak_updates_per_s == max(one.updates_per_s for one in outcome.series)


def test_full_state_is_sent_when_it_is_smaller() -> None:
    """A client that knows none of the active landmarks gets those, and not the expired ones as well."""
    clients = replace(ALWAYS, update_interval=3 * DAY)
    group = replace(WEEK, lifetime=DAY, count=2)
    service = UpdateService(delta_window=7 * DAY, publish_delay=timedelta(0), base_bytes=1000, ca_bytes=10)
    (found,) = simulate(scenario_of(clients, group, service=service, days=6)).classes
    assert found.delta_bytes_per_day == 0
    assert found.full_bytes_per_day == pytest.approx((1000 + 2 * (10 + 24 * 64)) / 3)
    assert found.full_states_per_day == pytest.approx(1 / 3)


def test_landmark_that_comes_too_late_is_never_active() -> None:
    """What becomes visible after it has expired counts for nothing."""
    group = replace(WEEK, lifetime=DAY)
    outage = Outage(failure=Failure.PUBLISHER, start=DAY, length=3 * DAY)
    service = UpdateService(publish_delay=timedelta(0))
    outcome = simulate(scenario_of(ALWAYS, group, outage, service=service, days=6))
    active = {one.at_s / 86400: one.landmarks for one in outcome.series}
    assert active[0.5] == active[4] == active[5.5] == pytest.approx(24)
    assert active[3] == pytest.approx(0)
    assert min(active.values()) >= -1e-9


def test_caches_keep_clients_content_while_the_publisher_is_away() -> None:
    """Without news no certificate gains a landmark, but clients update, and none gives up."""
    start, length = DAY, 2 * DAY
    away = simulate(
        scenario_of(ALWAYS, WEEK, Outage(failure=Failure.PUBLISHER, start=start, length=length), days=4),
    )
    for moment in away.series:
        assert moment.shares.fallback == 0
        assert moment.updates_per_s == pytest.approx(1000 / 6 / 3600)
    at_end = next(one for one in away.series if one.at_s == 3 * 86400 - 1800)
    # Two days' certificates have no landmark, and those of the hours that clients lag behind.
    assert at_end.shares.standalone == pytest.approx((48 + 0.5 + 0.5) / (7 * 24 * 0.75), rel=0.02)
    assert away.series[-1].shares.landmark_relative > 0.95


def test_clients_without_updates_always_fall_back() -> None:
    """A class without updates costs nothing, knows nothing, and counts as infinitely stale."""
    never = replace(ALWAYS, name="never", update_interval=None)
    outcome = simulate(replace(scenario_of(), classes=(ALWAYS, never)))
    first, second = outcome.classes
    assert second.shares.fallback == 1
    assert second.bytes_per_day == second.updates_per_day == 0
    assert second.staleness.percentiles_s["50"] is None
    assert outcome.shares.fallback == pytest.approx(0.5)
    assert outcome.bytes_per_client_day == pytest.approx(first.bytes_per_day / 2)
    assert outcome.staleness.percentiles_s["99"] is None


@pytest.fixture(scope="module")
def stormy() -> Scenario:
    """A scenario in which everything happens."""
    return replace(
        web_scenario(10**9, 7),
        duration=6 * DAY,
        # A coarse step: none of the laws below depends on it, and the cost falls with its square.
        step=HOUR,
        outages=(
            Outage(failure=Failure.SERVICE, start=DAY, length=18 * HOUR),
            Outage(failure=Failure.CA, start=3 * DAY, length=9 * HOUR, group="7-day"),
            Outage(failure=Failure.PUBLISHER, start=4 * DAY, length=9 * HOUR),
        ),
        service=UpdateService(proof_bytes=5000),
    )


@pytest.fixture(scope="module")
def stormy_outcome(stormy: Scenario) -> Outcome:
    """What comes of it."""
    return simulate(stormy)


def assert_same(one: Outcome, other: Outcome) -> None:
    """Compare what must not depend on how clients and CAs are grouped."""
    assert one.bytes_per_client_day == pytest.approx(other.bytes_per_client_day)
    assert one.egress.peak_bits_per_s == pytest.approx(other.egress.peak_bits_per_s)
    for mine, theirs in zip(one.series, other.series, strict=True):
        assert mine.shares.landmark_relative == pytest.approx(theirs.shares.landmark_relative)
        assert mine.shares.fallback == pytest.approx(theirs.shares.fallback, abs=1e-9)
        assert mine.staleness_p99_s == pytest.approx(theirs.staleness_p99_s)


def test_grouping_makes_no_difference(stormy: Scenario, stormy_outcome: Outcome) -> None:
    """A class or group cut in two, by name or by a hair, has the outcome of the whole."""
    whole = stormy_outcome
    classes = tuple(
        replace(one, name=f"{one.name}-{half}", count=one.count // 2) for one in stormy.classes for half in "ab"
    )
    assert_same(whole, simulate(replace(stormy, classes=classes)))
    short, long = stormy.groups
    # By a hair: another timeline, so that the sum over different CAs is at work.
    parts = (replace(short, count=1), replace(short, name="rest", count=short.count - 1, certificates=1_000_001), long)
    outages = (*stormy.outages, replace(stormy.outages[1], group="rest"))
    cut = simulate(replace(stormy, groups=parts, outages=outages))
    for mine, theirs in zip(whole.series, cut.series, strict=True):
        assert mine.shares.landmark_relative == pytest.approx(theirs.shares.landmark_relative, abs=1e-6)
        assert mine.egress_bits_per_s == pytest.approx(theirs.egress_bits_per_s, rel=1e-6)


def test_equal_groups_share_a_timeline_only_while_nothing_differs(stormy: Scenario, stormy_outcome: Outcome) -> None:
    """Groups that are alike count together, unless one of them fails alone."""
    short, long = stormy.groups
    halves = (replace(short, count=1), replace(short, name="rest", count=short.count - 1), long)
    whole = replace(stormy, groups=halves, outages=(*stormy.outages, replace(stormy.outages[1], group="rest")))
    assert_same(stormy_outcome, simulate(whole))
    alone = simulate(replace(whole, outages=stormy.outages))
    other = replace(halves[1], certificates=1_000_001)
    apart = simulate(replace(whole, outages=stormy.outages, groups=(halves[0], other, long)))
    assert alone.shares.landmark_relative == pytest.approx(apart.shares.landmark_relative, abs=1e-6)
    assert alone.bytes_per_client_day == pytest.approx(apart.bytes_per_client_day, rel=1e-6)


def test_outcome_is_exact_shares_and_repeats(stormy: Scenario, stormy_outcome: Outcome) -> None:
    """Shares make one whole everywhere, and a second run says the same to the last bit."""
    outcome = stormy_outcome
    for shares in (outcome.shares, *(one.shares for one in outcome.classes), *(one.shares for one in outcome.series)):
        parts = (shares.landmark_relative, shares.standalone, shares.fallback)
        assert sum(parts) == pytest.approx(1)
        assert min(parts) >= -1e-12
    assert simulate(stormy) == outcome
    assert simulate(replace(stormy, outages=())) != outcome


TOWNS = {
    "calm": (replace(ALWAYS, online=3 * HOUR, offline=5 * HOUR, update_interval=4 * HOUR), WEEK, ()),
    "service": (
        replace(ALWAYS, online=6 * HOUR, offline=10 * HOUR, retry=2 * HOUR),
        replace(WEEK, landmark_interval=2 * HOUR, lifetime=3 * DAY),
        (Outage(failure=Failure.SERVICE, start=2 * DAY, length=30 * HOUR),),
    ),
    "ca": (
        replace(ALWAYS, online=12 * HOUR, offline=4 * HOUR, update_interval=2 * HOUR),
        replace(WEEK, lifetime=2 * DAY, upgrade_delay=2 * HOUR, renewal_retry=5 * HOUR),
        (Outage(failure=Failure.CA, start=2 * DAY, length=26 * HOUR),),
    ),
    "both": (
        replace(ALWAYS, online=2 * HOUR, offline=20 * HOUR, update_interval=3 * HOUR),
        replace(WEEK, lifetime=4 * DAY, landmark_interval=4 * HOUR),
        (
            Outage(failure=Failure.CA, start=2 * DAY, length=6 * HOUR),
            Outage(failure=Failure.PUBLISHER, start=3 * DAY, length=12 * HOUR),
            Outage(failure=Failure.SERVICE, start=4 * DAY, length=12 * HOUR),
        ),
    ),
}


@pytest.mark.parametrize("name", TOWNS)
def test_cohorts_agree_with_every_client_one_by_one(name: str) -> None:
    """Thousands of clients and servers drawn by lot, in continuous time, have the shares and bytes of the model."""
    clients, group, outages = TOWNS[name]
    service = UpdateService(delta_window=DAY, policy_lifetime=3 * DAY, proof_bytes=500, base_bytes=1000)
    scenario = scenario_of(clients, replace(group, count=3), *outages, service=service, days=6, step=HOUR / 4)
    outcome = simulate(scenario)
    town = Town(scenario, 1, clients=3000, servers=3000)
    stale, tries = [], 2000
    for start_h in range(0, 144, 12):
        found = town.shares(start_h, start_h + 12, tries)
        stale.append(found["staleness_h"])
        moments = [one.shares for one in outcome.series if start_h * 3600 <= one.at_s < (start_h + 12) * 3600]
        for kind in ("landmark_relative", "standalone", "fallback"):
            expected = sum(getattr(shares, kind) for shares in moments) / len(moments)
            # Five standard deviations of both drawings, and what a step of a quarter of an hour may cost.
            spread = 5 * (max(expected * (1 - expected), 0.0) * (1 / tries + 2 / 3000)) ** 0.5
            assert found[kind] == pytest.approx(expected, abs=spread + 0.004), (start_h, kind)
    updates, size = town.traffic()
    assert outcome.classes[0].updates_per_day == pytest.approx(updates, rel=0.02)
    assert outcome.bytes_per_client_day == pytest.approx(size, rel=0.02)
    assert outcome.staleness.mean_s / 3600 == pytest.approx(sum(stale) / len(stale), rel=0.04)


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        (lambda: replace(ALWAYS, count=-1), "count"),
        (lambda: replace(ALWAYS, update_interval=timedelta(0)), "update_interval"),
        (lambda: replace(ALWAYS, online=timedelta(0)), "online"),
        (lambda: replace(ALWAYS, retry=timedelta(0)), "retry"),
        (lambda: replace(ALWAYS, handshakes_per_hour=-1.0), "handshakes_per_hour"),
        (lambda: replace(WEEK, landmark_interval=8 * DAY), "landmark_interval"),
        (lambda: replace(WEEK, renew_at=0.0), "renew_at"),
        (lambda: replace(WEEK, traffic=-1.0), "traffic"),
        (lambda: UpdateService(landmark_bytes=-1), "sizes"),
        (lambda: UpdateService(policy_lifetime=timedelta(0)), "policy_lifetime"),
        (lambda: Outage(failure=Failure.SERVICE, start=DAY, length=DAY, group="cas"), "only CAs"),
        (lambda: Outage(failure=Failure.CA, start=-DAY, length=DAY), "not negative"),
        (lambda: scenario_of(ALWAYS, WEEK, Outage(failure=Failure.CA, start=DAY, length=DAY, group="x")), "no CA gr"),
        (lambda: scenario_of(replace(ALWAYS, update_interval=HOUR / 4)), "smaller step"),
        (lambda: scenario_of(group=replace(WEEK, landmark_interval=HOUR * 0.75)), "multiple"),
        (lambda: replace(scenario_of(), classes=()), "has clients"),
        (lambda: replace(scenario_of(), classes=(ALWAYS, ALWAYS)), "names of their own"),
        (lambda: replace(scenario_of(), report_interval=HOUR / 4), "report_interval"),
        (lambda: replace(scenario_of(), duration=timedelta(0)), "at least one step"),
        (lambda: replace(scenario_of(), duration=DAY * 10**6), "at most"),
    ],
)
def test_impossible_scenario_is_refused(wrong: object, rule: str) -> None:
    """What cannot be simulated is refused with the rule that it breaks."""
    assert callable(wrong)
    with pytest.raises(UsageError, match=rule):
        wrong()
