"""The configuration of a CA: what is written is read back, and every mistake is named."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtc.ca.config import CAConfig, check_prefix_url, format_config, format_duration, parse_config, parse_duration
from mtc.ca.state import CAState, Incident, plan_rollover
from mtc.errors import FormatError, UsageError
from mtc.ids import REVISIONS, DraftRevision, TrustAnchorID
from mtc.profile import PRIVATE_SERVICE, WEB_PKI, Profile

CA_ID = TrustAnchorID.parse("32473.1")


@pytest.mark.parametrize("revision", REVISIONS.values(), ids=str)
@pytest.mark.parametrize("profile", [WEB_PKI, PRIVATE_SERVICE], ids=lambda profile: profile.name)
def test_written_configuration_is_read_back(revision: DraftRevision, profile: Profile) -> None:
    """The file that is written for a configuration means that configuration, overrides included."""
    overrides: dict[str, timedelta | int] = {
        "round_interval": timedelta(milliseconds=250),
        "max_active_landmarks": 7,
        "retention": timedelta(9),
    }
    config = CAConfig(
        ca_id=CA_ID,
        profile=replace(profile, **overrides),  # type: ignore[arg-type]  # the keys are fields of the right type
        revision=revision,
        prefix_url="https://ca.example.com/mtc",
        has_counter=True,
        listen=("::1", 0),
        signer_socket="/run/signer.sock",
        allowed_names=("example.com",),
        pruning="delete",
        overrides=overrides,
    )
    assert parse_config(format_config(config).encode()) == config
    assert config.url_path == "/mtc"


def test_defaults_come_from_the_profile() -> None:
    """A configuration of one line has all the numbers of its profile; comments show them and change nothing."""
    config = parse_config(b'id = "32473.1"\nprofile = "web-pki"\n')
    assert config.profile == WEB_PKI
    assert parse_config(format_config(config).encode()) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "id is missing"),
        ("id = 7", "id must be a string"),
        ('id = "x"', "ca.toml: id:"),
        ('id = "32473.1"\nprofil = "private"', "profil is no key"),
        ('id = "32473.1"\n[log]\nround_intervall = "1s"', "log.round_intervall is no key"),
        ('id = "32473.1"\n[log]\nround_interval = 5', "log.round_interval: 5 is no duration"),
        ('id = "32473.1"\n[log]\nround_interval = "0s"', "round_interval must be longer"),
        ('id = "32473.1"\n[log]\ncounter = "yes"', "log.counter must be true or false"),
        ('id = "32473.1"\n[certificates]\nmax_lifetime = "1d"', "default_lifetime 7d is longer than max_lifetime 1d"),
        ('id = "32473.1"\n[landmarks]\nmax_active_landmarks = 0', "must be a positive number"),
        ('id = "32473.1"\n[pruning]\npolicy = "burn"', "there are keep, refuse, delete"),
        ('id = "32473.1"\n[server]\nlisten = "here"', "is no address"),
        ('id = "32473.1"\n[revocation]\ncrl_interval = "9d"', "lists would expire"),
        ('id = "32473.1"\nprefix_url = "ftp://x"', "is no prefix URL"),
        ('id = "32473.1"\ndraft = "plants-99"', "is no draft revision"),
        ('id = "32473.1"\nlog = 1', r"\[log\] is no table"),
        ("id = ", "is no TOML"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    """Each mistake gives an error that names the file and the key, and says what would be right."""
    with pytest.raises(UsageError, match=message) as error:
        parse_config(text.encode())
    assert "ca.toml" in error.value.message


@given(st.integers(1, 10**7), st.sampled_from(["ms", "s", "m"]))
def test_durations_round_trip(number: int, unit: str) -> None:
    """A duration that was written is read as the same one."""
    value = parse_duration(f"{number}{unit}", "x")
    assert parse_duration(format_duration(value), "x") == value


@pytest.mark.parametrize("text", ["", "5", "5 s", "-5s", "5w", "99999999d", "٣s", None, 5])
def test_what_is_no_duration_is_refused(text: object) -> None:
    """Anything but digits and a unit is no duration."""
    with pytest.raises(UsageError, match="is no duration"):
        parse_duration(text, "x")


@pytest.mark.parametrize("url", ["", "ca.example.com", "https://", "https://x/?q", "https://x/#f", "https://x/ y"])
def test_what_is_no_prefix_url_is_refused(url: str) -> None:
    """A prefix URL has a scheme and a host, and neither query nor fragment."""
    with pytest.raises(UsageError):
        check_prefix_url(url)


def test_state_round_trips_and_refuses_damage() -> None:
    """The CA's state is read back whole, and nothing else is."""
    state = CAState(3, 2)
    data = state.encode()
    assert CAState.parse(data) == state
    for broken in (data[:-1], data + b"\0", b"\x02" + data[1:], data[:1] + b"\0\0" + data[3:]):
        with pytest.raises(FormatError):
            CAState.parse(broken)


def test_rollover_needs_a_reason_and_a_next_log() -> None:
    """The number of the log goes up by one, and not beyond what the profile's relying parties know."""
    assert plan_rollover(CAState(1, 0), WEB_PKI, "disk lost") == CAState(2, 1)
    with pytest.raises(UsageError, match="needs a reason"):
        plan_rollover(CAState(1, 0), WEB_PKI, " ")
    with pytest.raises(UsageError, match="is the last one"):
        plan_rollover(CAState(4, 3), WEB_PKI, "again")


def test_incident_is_a_readable_record() -> None:
    """An incident is kept as JSON under its number."""
    incident = Incident(
        number=1,
        time="2026-11-21T12:00:00+00:00",
        old_log=1,
        new_log=2,
        reason="disk lost",
        tree_size=5,
        root_hash="00",
        timestamp=1,
        is_abandoned=False,
        operator="root",
    )
    assert incident.key == "private/incidents/000001.json"
    assert b'"reason": "disk lost"' in incident.encode()
