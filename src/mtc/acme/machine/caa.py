"""CAA: may this CA issue for this account, validated by this method? Records in, a verdict out.

Which records count (those of the name itself or of the closest name above that has any) is found out by whoever looks
them up; here they are judged.

Spec: RFC 8659, "Relevant Resource Record Set", "Mechanism"; RFC 8657, "Extensions to the CAA Record: The accounturi
Parameter" and "… The validationmethods Parameter"; RFC 9495 for issuemail.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mtc.acme.machine.problems import Problem, ProblemType
from mtc.acme.machine.validation import ValidationTask

_CRITICAL = 0x80
_RECOGNIZED_TAGS = frozenset({"issue", "issuewild", "iodef", "issuemail", "contactemail", "contactphone"})
"""Tags whose meaning is known here. Of these, only the first two restrict certificates for TLS servers."""
_MAX_SHOWN = 5
_MAX_SHOWN_VALUE = 200

_DOMAIN = re.compile(r"[A-Za-z0-9]+(-+[A-Za-z0-9]+)*(\.[A-Za-z0-9]+(-+[A-Za-z0-9]+)*)*", re.ASCII)
_PARAMETER_TAG = re.compile(r"[A-Za-z0-9]+(-+[A-Za-z0-9]+)*", re.ASCII)
_PARAMETER_VALUE = re.compile(r"[\x21-\x3A\x3C-\x7E]*")
_METHOD_LABEL = re.compile(r"[A-Za-z0-9-]+", re.ASCII)
_WHITESPACE = " \t"


@dataclass(frozen=True, slots=True)
class CAARecord:
    """One CAA record. flags: one byte. tag: as it came, in any case. value: bytes as they came."""

    flags: int
    tag: str
    value: bytes

    @property
    def is_critical(self) -> bool:
        """Whoever does not understand the tag must not issue."""
        return bool(self.flags & _CRITICAL)

    def __str__(self) -> str:
        """Return the record as a zone file has it, long values cut."""
        value = self.value.decode("latin-1")
        shown = "".join(char if " " <= char <= "~" and char not in '"\\' else f"\\{ord(char):03}" for char in value)
        return f'{self.flags} {self.tag} "{shown[:_MAX_SHOWN_VALUE]}{"…" if len(shown) > _MAX_SHOWN_VALUE else ""}"'


@dataclass(frozen=True, slots=True)
class Issuer:
    """What an issue or issuewild record allows. domain: lower case, empty for nobody. parameters: in their order."""

    domain: str
    parameters: tuple[tuple[str, str], ...] = ()

    def values(self, tag: str) -> list[str]:
        """Return the values of a parameter; there may be several."""
        return [value for name, value in self.parameters if name == tag]


def parse_issuer(value: bytes) -> Issuer | None:
    """Return what the value of an issue or issuewild record says, None when it does not follow the grammar.

    A record that does not is as one with an empty issuer domain name: it restricts, and authorizes nobody.
    Spec: RFC 8659, "CAA issue Property".
    """
    if not value.isascii():
        return None
    domain, _, rest = value.decode("ascii").partition(";")
    domain = domain.strip(_WHITESPACE)
    if domain and not _DOMAIN.fullmatch(domain):
        return None
    parameters = []
    # A semicolon separates parameters and ends none: after the first one there may be nothing, after others may not.
    for item in rest.split(";") if rest.strip(_WHITESPACE) else ():
        tag, equals, text = item.partition("=")
        tag, text = tag.strip(_WHITESPACE), text.strip(_WHITESPACE)
        if not equals or not _PARAMETER_TAG.fullmatch(tag) or not _PARAMETER_VALUE.fullmatch(text):
            return None
        parameters.append((tag.lower(), text))
    return Issuer(domain.lower(), tuple(parameters))


def judge_caa(task: ValidationTask, records: Sequence[CAARecord], found_at: str) -> Problem | None:
    """Return why CAA forbids what a task asks for, None when it allows it. The problem names the records.

    records: the relevant set, empty when no name up to the root has any: then everybody may issue. found_at: the name
    that they stand at.
    """
    for record in records:
        if record.is_critical and record.tag.lower() not in _RECOGNIZED_TAGS:
            return _forbid(task, found_at, f"{record} is critical, and its tag is not known here")
    issue = [record for record in records if record.tag.lower() == "issue"]
    issuewild = [record for record in records if record.tag.lower() == "issuewild"]
    deciding = issuewild if task.is_wildcard and issuewild else issue
    if not deciding:
        return None
    reasons = []
    for record in deciding:
        reason = _explain_refusal(task, record)
        if reason is None:
            return None
        reasons.append(f"{record} {reason}")
    more = len(reasons) - _MAX_SHOWN
    shown = "; ".join(reasons[:_MAX_SHOWN]) + (f"; and {more} more" if more > 0 else "")
    return _forbid(task, found_at, shown)


def _explain_refusal(task: ValidationTask, record: CAARecord) -> str | None:
    """Return why one issue or issuewild record does not authorize a task, None when it does."""
    issuer = parse_issuer(record.value)
    if issuer is None:
        return "does not follow the grammar and authorizes nobody"
    if not issuer.domain:
        return "forbids everybody to issue"
    if issuer.domain not in {domain.lower() for domain in task.caa_domains}:
        return "is for another CA"
    return _explain_binding(task, issuer.values("accounturi"), issuer.values("validationmethods"))


def _explain_binding(task: ValidationTask, accounts: list[str], methods: list[str]) -> str | None:
    """Return why a record for this CA does not authorize this account and method, None when it does."""
    if len(accounts) > 1 or len(methods) > 1:
        return "has a parameter twice, which nothing satisfies"
    if accounts and (not accounts[0] or accounts[0] != task.account_url):
        return f"is for another account, this one is {task.account_url}"
    if methods and str(task.method) not in _parse_methods(methods[0]):
        return f"does not allow {task.method}"
    return None


def _parse_methods(value: str) -> list[str]:
    """Return the labels of a validationmethods parameter, none when it does not follow the grammar."""
    labels = value.split(",")
    return labels if all(_METHOD_LABEL.fullmatch(label) for label in labels) else []


def _forbid(task: ValidationTask, found_at: str, why: str) -> Problem:
    name = f"*.{task.identifier}" if task.is_wildcard else str(task.identifier)
    us = ", ".join(task.caa_domains) or "no domain"
    return Problem(
        type=ProblemType.CAA,
        detail=f"CAA at {found_at} does not let this CA ({us}) issue for {name}: {why}",
    )
