"""Quorums: which sets of named parties are enough. The one evaluator for trust stores, policy files and configuration.

A quorum is k of n members; a member is a name or a quorum. All of R and at least k of S is
`Quorum.require_all(R, Quorum(k, S))`, any of S is `Quorum(1, S)`, and nobody at all is `Quorum.none()`, which cannot be
written by accident.

Spec: Merkle Tree Certificates, "Trusted Cosigners"; C2SP tlog-policy, "Defining the quorum".
"""

from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Union

from mtc.errors import FormatError, Reason

MAX_QUORUM_DEPTH = 64
"""Deepest nesting of quorums; tlog-policy wants 32 groups, which may stand one in the other."""

Member = Union[str, "Quorum"]
"""What a quorum counts: a party by its name, or a quorum as one party."""


@dataclass(frozen=True, slots=True)
class Quorum:
    """At least `at_least` members of `of` must be present.

    at_least: 1 to len(of); both are empty only in `Quorum.none()`. of: names and quorums, none twice. A name may stand
    in several quorums of a tree: "all of R and k of S" means what it says also when R and S overlap; a caller that
    wants each party to count in one way only checks that itself, as policy files do.
    Raises FormatError (BAD_POLICY, DUPLICATE, TOO_DEEP).
    """

    at_least: int
    of: tuple[Member, ...]

    def __post_init__(self) -> None:
        """Refuse a quorum that nothing or everything satisfies, except the explicit one of nobody."""
        if not 0 < self.at_least <= len(self.of) and (self.at_least or self.of):
            raise FormatError(
                Reason.BAD_POLICY,
                f"a quorum of {len(self.of)} members cannot require {self.at_least}; say `none` to require nobody",
                at_least=self.at_least,
                members=len(self.of),
            )
        if len(set(self.of)) != len(self.of):
            twice = sorted({str(member) for member in self.of if self.of.count(member) > 1})
            raise FormatError(Reason.DUPLICATE, f"a quorum counts each member once; twice there is {', '.join(twice)}")
        for member in self.of:
            if isinstance(member, Quorum) and member.requires_nobody:
                raise FormatError(Reason.BAD_POLICY, "a quorum that requires nobody is no member of another")
            if not member:
                raise FormatError(Reason.BAD_NAME, "a member of a quorum has a name")
        if self.depth > MAX_QUORUM_DEPTH:
            raise FormatError(Reason.TOO_DEEP, f"quorums nest at most {MAX_QUORUM_DEPTH} deep")

    @staticmethod
    def none() -> "Quorum":
        """Return the quorum that requires nobody."""
        return Quorum(0, ())

    @staticmethod
    def require_all(names: Iterable[str], *quorums: "Quorum") -> "Quorum":
        """Return the quorum of all named parties and of each given quorum; ones that require nobody add nothing."""
        members: tuple[Member, ...] = (*names, *(quorum for quorum in quorums if not quorum.requires_nobody))
        if len(members) == 1 and isinstance(members[0], Quorum):
            return members[0]
        return Quorum(len(members), members)

    @property
    def requires_nobody(self) -> bool:
        """True when even the empty set is enough."""
        return self.at_least == 0

    @property
    def depth(self) -> int:
        """1 for a quorum of names, one more for each level of quorums in it."""
        return 1 + max((member.depth for member in self.of if isinstance(member, Quorum)), default=0)

    def names(self) -> frozenset[str]:
        """Return the names of all parties that can count."""
        found: set[str] = set()
        for member in self.of:
            found.update((member,) if isinstance(member, str) else member.names())
        return frozenset(found)

    def is_satisfied(self, present: Container[str]) -> bool:
        """Tell whether the parties that are present are enough; parties that the quorum does not name do not matter."""
        left = self.at_least
        if left:
            for member in self.of:
                if member in present if isinstance(member, str) else member.is_satisfied(present):
                    left -= 1
                    if not left:
                        return True
        return not left

    def missing(self, present: Container[str]) -> str:
        """Explain to people who is missing, for example `2 of a, b, (1 of c, d)`; empty when nobody is."""
        absent = [
            member if isinstance(member, str) else f"({member.missing(present)})"
            for member in self.of
            if not (member in present if isinstance(member, str) else member.is_satisfied(present))
        ]
        left = self.at_least - (len(self.of) - len(absent))
        return _phrase(left, absent) if left > 0 else ""

    def __str__(self) -> str:
        """Return the rule in the words of `missing`; `none` when it requires nobody."""
        return _phrase(self.at_least, [m if isinstance(m, str) else f"({m})" for m in self.of])


def _phrase(count: int, members: list[str]) -> str:
    """Say `count of members`."""
    if not members:
        return "none"
    listed = ", ".join(members)
    if len(members) == 1:
        return listed.removeprefix("(").removesuffix(")") if listed.startswith("(") else listed
    return f"all of {listed}" if count == len(members) else f"{count} of {listed}"
