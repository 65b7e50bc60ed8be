"""The local perspective: looks at an applicant from where this process runs.

The CA's own perspective is one, and so is what a remote agent runs.
"""

import asyncio
import re
from dataclasses import replace
from typing import Protocol

from mtc.acme.machine.identifiers import IdentifierType
from mtc.acme.machine.problems import Problem, ProblemType
from mtc.acme.machine.validation import Method, Report, ValidationTask
from mtc.acme.validation.caa import CAALookup
from mtc.acme.validation.connecting import Connect, Dialer, connect_directly
from mtc.acme.validation.dns01 import DNS01
from mtc.acme.validation.findings import Findings, ValidationError
from mtc.acme.validation.http01 import HTTP01
from mtc.acme.validation.resolver import Resolver, check_resolver
from mtc.acme.validation.settings import ValidationSettings
from mtc.acme.validation.tlsalpn01 import TLSALPN01
from mtc.web.clock import Clock, SystemClock

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,256}", re.ASCII)


class LocalPerspective:
    """Implements `mtc.acme.seams.Perspective`. Safe to use from many tasks of one event loop.

    Keeps nothing but, for seconds, that a name above others has no CAA records.
    """

    def __init__(
        self,
        settings: ValidationSettings,
        *,
        name: str = "local",
        region: str = "",
        connect: Connect = connect_directly,
        clock: Clock | None = None,
    ) -> None:
        """Look by some settings. connect: how connections to applicants are made.

        Raises UsageError when a resolver may not be trusted to validate DNSSEC, PeerError when there is none.
        """
        self._settings = settings
        self._name, self._region = name, region
        self._clock = clock or SystemClock()
        resolver = Resolver(settings)
        dialer = Dialer(settings, resolver, connect)
        self._caa = CAALookup(resolver)
        self._methods: dict[Method, HTTP01 | DNS01 | TLSALPN01] = {
            Method.HTTP_01: HTTP01(settings, dialer),
            Method.DNS_01: DNS01(resolver),
            Method.TLS_ALPN_01: TLSALPN01(settings, dialer),
        }

    @property
    def name(self) -> str:
        """Its name in evidence."""
        return self._name

    @property
    def region(self) -> str:
        """Where it stands, as configured."""
        return self._region

    async def check(self) -> None:
        """Find out whether the resolver answers and, where it has to, validates. Raises UsageError, PeerError."""
        await check_resolver(self._settings)

    async def examine(self, task: ValidationTask) -> Report:
        """Validate control, where it is asked for, and look CAA up, both at once; say what was seen.

        Takes at most `total_timeout_s` and raises nothing: whatever goes wrong is the problem of the report.
        """
        started, findings = self._clock.now(), Findings()
        control: Problem | None = None
        caa: Problem | None = None
        try:
            async with asyncio.timeout(self._settings.total_timeout_s), asyncio.TaskGroup() as group:
                looking = group.create_task(_attempt(self._caa.check, task, findings))
                if task.proves_control:
                    control = await _attempt(self._prove_control, task, findings)
                caa = await looking
        except TimeoutError:
            text = f"the examination of {task.identifier} took longer than {self._settings.total_timeout_s:g} s"
            caa = Problem(type=ProblemType.CONNECTION, detail=text)
        return Report(
            perspective=self._name,
            region=self._region,
            started=started,
            finished=self._clock.now(),
            problem=_join(control, caa),
            lookups=tuple(findings.lookups),
            connections=tuple(findings.connections),
            caa_name=findings.caa_name,
            caa_records=findings.caa_records,
        )

    async def _prove_control(self, task: ValidationTask, findings: Findings) -> None:
        """Validate by the method of a task. Raises ValidationError."""
        if task.is_wildcard and task.method is not Method.DNS_01:
            raise ValidationError.of(
                ProblemType.UNAUTHORIZED, f"a wildcard is validated by dns-01; {task.method} shows one host only"
            )
        if task.identifier.type is IdentifierType.IP and task.method is Method.DNS_01:
            raise ValidationError.of(ProblemType.UNAUTHORIZED, "an IP address cannot be validated by dns-01 (RFC 8738)")
        if not _TOKEN.fullmatch(task.token) or not task.key_authorization.startswith(f"{task.token}."):
            # The token goes into a URL and the header of a request, whoever handed us the task.
            raise ValidationError.of(ProblemType.MALFORMED, "the task has no token with its key authorization")
        await self._methods[task.method].validate(task, findings)


class _Step(Protocol):
    """One half of an examination."""

    async def __call__(self, task: ValidationTask, findings: Findings) -> None: ...


async def _attempt(step: _Step, task: ValidationTask, findings: Findings) -> Problem | None:
    """Return the problem that a step ends with, None without one."""
    try:
        await step(task, findings)
    except ValidationError as error:
        return error.problem
    return None


def _join(control: Problem | None, caa: Problem | None) -> Problem | None:
    """Return one problem of two: control's, which comes first for an applicant, that mentions CAA's."""
    if control is None or caa is None:
        return control or caa
    return replace(control, detail=f"{control.detail}. Besides: {caa.detail}")
