"""Scenarios of `mtc simulate` as TOML, read strictly, and written so that they can be changed and read again."""

import tomllib
from collections.abc import Callable
from dataclasses import MISSING, fields, replace
from datetime import timedelta
from itertools import accumulate, pairwise
from typing import Any, TypeVar, get_args

from mtc.ca.sections import Section, format_duration, parse_duration, read_tables
from mtc.errors import Reason, UsageError
from mtc.simulate import (
    CAGroup,
    ClientClass,
    Failure,
    HandshakeSizes,
    Outage,
    Scenario,
    UpdateService,
    web_scenario,
)

NEVER = "never"
"""The update interval of clients that never update."""

_Part = TypeVar("_Part", ClientClass, CAGroup, UpdateService, HandshakeSizes, Outage)


def parse_scenario(text: str, file: str) -> Scenario:
    """Read a scenario; what is not given has its default. Raises UsageError that names file and key."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(Reason.USAGE, f"{file}: no TOML: {error}") from None
    classes = tuple(_client_class(section) for section in read_tables(document, "clients", file))
    groups = tuple(_build(section, CAGroup) for section in read_tables(document, "ca", file))
    outages = tuple(_outage(section) for section in read_tables(document, "outage", file))
    service = _build(Section("service", document.pop("service", {}), file), UpdateService)
    sizes = _build(Section("handshake_bytes", document.pop("handshake_bytes", {}), file), HandshakeSizes)
    top = Section("", document, file)
    durations = {key: top.duration(key) for key in ("duration", "step", "report_interval")}
    _finish(top)
    default = web_scenario()
    return replace(
        default,
        classes=classes or default.classes,
        groups=groups or default.groups,
        service=service,
        outages=outages,
        sizes=sizes,
        **{key: value for key, value in durations.items() if value is not None},
    )


def format_scenario(scenario: Scenario) -> str:
    """Return a scenario as TOML that `parse_scenario` reads."""
    lines = ["# A scenario of `mtc simulate landmarks`; docs/simulation.md says what each key means."]
    lines += [_line(key, getattr(scenario, key)) for key in ("duration", "step", "report_interval")]
    parts: list[tuple[str, object]] = [("[service]", scenario.service), ("[handshake_bytes]", scenario.sizes)]
    parts += [("[[clients]]", one) for one in scenario.classes]
    parts += [("[[ca]]", one) for one in scenario.groups]
    parts += [("[[outage]]", one) for one in scenario.outages]
    for title, part in parts:
        lines += ["", title]
        assert isinstance(part, ClientClass | CAGroup | UpdateService | HandshakeSizes | Outage)
        for one in fields(part):
            value = getattr(part, one.name)
            if value is None and one.name == "update_interval":
                value = NEVER
            if value is not None:
                lines.append(_line(one.name, value))
    return "\n".join([*lines, ""])


def parse_outage(text: str) -> Outage:
    """Read `WHAT@START+LENGTH`, for example `service@10d+24h` or `ca/7-day@20d+3d`. Raises UsageError."""
    what, _, when = text.partition("@")
    start, _, length = when.partition("+")
    failure, _, group = what.partition("/")
    if failure not in set(Failure) or not length:
        raise UsageError(
            Reason.USAGE,
            f"--outage: {text[:80]!r} is no outage; write for example service@10d+24h, publisher@5d+6h or "
            "ca/GROUP@20d+3d",
        )
    return Outage(
        failure=Failure(failure),
        start=parse_duration(start, "--outage"),
        length=parse_duration(length, "--outage"),
        group=group or None,
    )


def scale(counts: list[int], total: int) -> list[int]:
    """Return counts in the same proportions that add up to `total`; equal parts where all are zero."""
    whole = sum(counts)
    sums = [0, *accumulate(counts if whole else [1] * len(counts))]
    edges = [(part * total * 2 + sums[-1]) // (2 * sums[-1]) for part in sums]
    return [end - start for start, end in pairwise(edges)]


def _client_class(section: Section) -> ClientClass:
    """Read a class of clients."""
    if section.values.get("update_interval") == NEVER:
        del section.values["update_interval"]
        return _build(section, ClientClass, update_interval=None)
    return _build(section, ClientClass)


def _outage(section: Section) -> Outage:
    """Read an outage."""
    known = section.values.pop("failure", None)
    if known not in set(Failure):
        raise UsageError(Reason.USAGE, f"{section.where('failure')} is one of {', '.join(Failure)}")
    return _build(section, Outage, failure=Failure(known))


def _build(section: Section, kind: type[_Part], **given: object) -> _Part:
    """Make a part of the scenario, each key read by the type that the part declares; `given` are not in the file."""
    readers: dict[object, Callable[[str], object]] = {
        str: section.text,
        int: section.number,
        float: lambda key: _real(section, key),
        timedelta: section.duration,
    }
    # The values are of the types declared, and the part itself checks their ranges.
    values: dict[str, Any] = dict(given)
    for one in fields(kind):
        types = get_args(one.type) or (one.type,)
        read = next((readers[declared] for declared in types if declared in readers), None)
        if one.name in section.values and read is not None:
            values[one.name] = read(one.name)
        elif one.name not in values and one.default is MISSING:
            raise UsageError(Reason.USAGE, f"{section.where(one.name)} is missing")
    _finish(section)
    return kind(**values)


def _real(section: Section, key: str) -> float:
    """Take a number with or without a fraction."""
    value = section.values.pop(key)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UsageError(Reason.USAGE, f"{section.where(key)} must be a number")
    return float(value)


def _finish(section: Section) -> None:
    """Refuse what nobody took."""
    if section.values:
        raise UsageError(Reason.USAGE, f"{section.where(min(section.values))} is no key of a scenario; is it misspelt?")


def _line(key: str, value: object) -> str:
    """Return a key with its value."""
    match value:
        case timedelta():
            return f'{key} = "{format_duration(value)}"'
        case str():
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            return f'{key} = "{escaped}"'
        case _:
            return f"{key} = {value}"
