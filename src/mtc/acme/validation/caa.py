"""Finds the CAA records that count for a name: its own, or those of the closest name above it that has any.

Spec: RFC 8659, "Relevant Resource Record Set".
"""

import asyncio
from dataclasses import replace

from dns.rdtypes.ANY.CAA import CAA

from mtc.acme.machine.caa import CAARecord, judge_caa
from mtc.acme.machine.identifiers import IdentifierType
from mtc.acme.machine.problems import ProblemType
from mtc.acme.machine.validation import Lookup, ValidationTask
from mtc.acme.validation.findings import Findings, ValidationError
from mtc.acme.validation.resolver import Resolver

MAX_RECORDS = 100
"""Most CAA records of one name; with more, nobody can have meant what they say."""
_MAX_RECORDS_CHARS = 32 << 10
MEMORY_S = 10.0
"""How long it is remembered that a name above another has no records: whoever validates many names below one zone asks
for the zone's once. Far less than what CAs may remember (Baseline Requirements, "CAA record processing")."""
_MAX_REMEMBERED = 10_000


class CAALookup:
    """Looks CAA up and judges it."""

    def __init__(self, resolver: Resolver) -> None:
        """Ask a resolver."""
        self._resolver = resolver
        # Names without records of their own by when that is forgotten, steady seconds, and the questions that said so.
        self._empty: dict[str, tuple[float, tuple[Lookup, ...]]] = {}

    async def check(self, task: ValidationTask, findings: Findings) -> None:
        """Raise ValidationError (caa) when CAA forbids what a task asks for, (dns) when that cannot be found out."""
        if task.identifier.type is IdentifierType.IP:
            return  # Addresses have no CAA (RFC 8738, "IP Identifier").
        found_at, records = await self._climb(task.identifier.value, findings)
        findings.caa_name, findings.caa_records = found_at, tuple(str(record) for record in records)
        problem = judge_caa(task, records, found_at)
        if problem is not None:
            raise ValidationError(problem)

    async def _climb(self, name: str, findings: Findings) -> tuple[str, list[CAARecord]]:
        """Return the relevant records and the name that they stand at, nothing when there are none."""
        first = name
        while name:
            # One after the other: most names have records or are few labels deep, and a question less is a cost less.
            if name != first and self._recall(name, findings):
                name = name.partition(".")[2]
                continue
            seen = Findings()
            try:
                answer = await self._resolver.look_up(name, "CAA", seen)
            finally:
                for lookup in seen.lookups:
                    findings.add_lookup(lookup)
            if not answer.records and name != first:
                self._remember(name, seen)
            if answer.records:
                records = [
                    CAARecord(record.flags, record.tag.decode("latin-1"), record.value)
                    for record in answer.records
                    if isinstance(record, CAA)
                ]
                size = sum(len(record.value) for record in records)
                if len(records) > MAX_RECORDS or size > _MAX_RECORDS_CHARS:
                    raise ValidationError.of(
                        ProblemType.DNS, f"{name} has {len(records)} CAA records of {size} bytes, which is too many"
                    )
                return name, records
            name = name.partition(".")[2]
        return "", []

    def _recall(self, name: str, findings: Findings) -> bool:
        """Tell whether a name is known to have no records; the questions that said so are evidence again."""
        until, lookups = self._empty.get(name, (0.0, ()))
        if until <= asyncio.get_running_loop().time():
            return False
        for lookup in lookups:
            findings.add_lookup(lookup)
        return True

    def _remember(self, name: str, seen: Findings) -> None:
        """Remember for a moment that a name has no records."""
        if len(self._empty) >= _MAX_REMEMBERED:
            self._empty.clear()
        # What is evidence again says that it was asked before.
        again = tuple(replace(item, server=f"{item.server}, up to {MEMORY_S:g} s before") for item in seen.lookups)
        self._empty[name] = asyncio.get_running_loop().time() + MEMORY_S, again
