"""The cosigners in `ca.toml`: who they are, and which of them a round needs.

    [[cosigner]]  name, role, vkey, url, monitoring_url, deadline
    [[group]]     name, at_least, members
    [quorum]      required, at_least, of, policy_file, wait, grace, run_ahead, needs_view

Names here are short names of this file; in signatures a cosigner has the name of its key. Without a rule in [quorum]
one mirror is needed, any of them.

Spec: C2SP tlog-policy for the policy file; Merkle Tree Certificates, "Cosigners".
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from mtc.ca.sections import Section, format_duration, read_tables
from mtc.cosign.config import Role, check_url
from mtc.cosign.service.client import CosignerPeer
from mtc.errors import Error, FormatError, Reason, UsageError
from mtc.ids import TrustAnchorID
from mtc.note import MAX_SIGNATURES, Quorum, QuorumPolicy, SignatureType, VerifierKey
from mtc.note.policy import MAX_POLICY_BYTES
from mtc.note.quorum import Member
from mtc.profile import Profile

MAX_COSIGNERS = 32
"""Most cosigners of a CA; a note has room for 64 lines, and a certificate with so many has 80 kB."""
DEFAULT_DEADLINE = timedelta(seconds=10)
DEFAULT_GRACE = timedelta(milliseconds=500)

assert MAX_COSIGNERS < MAX_SIGNATURES

_DISTINCT: tuple[tuple[str, Callable[[CosignerPeer], object]], ...] = (
    ("name", lambda peer: peer.name),
    ("name in its vkey", lambda peer: peer.key.name),
    ("public key", lambda peer: peer.key.public_key),
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_LONGEST_DEADLINE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class CosignerTable:
    """One [[cosigner]] as it stands in the file; what is None follows from the policy file or from the rest."""

    name: str
    role: Role = Role.WITNESS
    key: VerifierKey | None = None
    url: str | None = None
    monitoring_url: str | None = None
    deadline: timedelta | None = None


@dataclass(frozen=True, slots=True)
class GroupTable:
    """One [[group]]: present when at least `at_least` of its members are, cosigners or groups before it."""

    name: str
    at_least: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuorumTable:
    """[quorum] as it stands in the file.

    required: cosigners or groups, all of them. at_least, of: and so many of these. policy_file: in place of the rule, a
    C2SP tlog-policy. wait: how long after its signing a round may lack its quorum before nothing new is taken. grace:
    how long those are waited for that are not needed any more. run_ahead: sign the next tree before this one has its
    quorum. needs_view: sign nothing at start-up before a cosigner has said what it knows. None: what the profile says,
    and for at_least 1 of the mirrors unless there is another rule.
    """

    required: tuple[str, ...] = ()
    at_least: int | None = None
    of: tuple[str, ...] = ()
    policy_file: str | None = None
    wait: timedelta | None = None
    grace: timedelta | None = None
    run_ahead: bool | None = None
    needs_view: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CosigningConfig:
    """The cosigners of a CA and its quorum, checked. peers, quorum: follow from the rest; the quorum counts `peers`.

    policy: what the policy file says. Raises UsageError for what cannot be, without a file's name.
    """

    tables: tuple[CosignerTable, ...] = ()
    groups: tuple[GroupTable, ...] = ()
    rule: QuorumTable = QuorumTable()
    policy: QuorumPolicy | None = None
    peers: tuple[CosignerPeer, ...] = field(init=False, compare=False)
    quorum: Quorum = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Find out who is asked and what is enough."""
        peers = _find_peers(self.tables, self.policy)
        _check_peers(peers)
        try:
            quorum = self.policy.quorum if self.policy else _build_quorum(peers, self.groups, self.rule)
        except FormatError as error:
            raise UsageError(error.reason, f"quorum: {error.message}") from None
        if not quorum.is_satisfied({peer.name for peer in peers}):
            raise UsageError(
                Reason.BAD_POLICY, f"all cosigners together do not meet the quorum; it needs {quorum.missing(())}"
            )
        object.__setattr__(self, "peers", peers)
        object.__setattr__(self, "quorum", quorum)

    @property
    def keys(self) -> tuple[VerifierKey, ...]:
        """The keys of all cosigners."""
        return tuple(peer.key for peer in self.peers)

    def check(self, ca_id: TrustAnchorID, profile: Profile) -> None:
        """Raise UsageError for what does not go with a CA: its own name, or a quorum below what the profile needs."""
        for peer in self.peers:
            if peer.key.name == ca_id.oid_name:
                raise UsageError(
                    Reason.DUPLICATE, f"cosigner {peer.name} has the name of this CA, {peer.key.name}; it is another"
                )
        others = {peer.name for peer in self.peers if peer.role is not Role.MIRROR}
        if self.peers and profile.min_cosigners and self.quorum.is_satisfied(others):
            raise UsageError(
                Reason.BAD_POLICY,
                f"in profile {profile.name} a certificate needs a mirror beside the CA, but the quorum ({self.quorum}) "
                "can be met without one; require a mirror, or a group of mirrors",
            )


def _find_peers(tables: Sequence[CosignerTable], policy: QuorumPolicy | None) -> tuple[CosignerPeer, ...]:
    """Return everybody who is asked: the tables, completed from the policy file, and who stands only in that."""
    listed = {witness.name: witness for witness in policy.witnesses} if policy else {}
    peers = []
    for table in tables:
        witness = listed.pop(table.name, None)
        key = table.key if table.key is not None or witness is None else witness.key
        if key is None:
            raise UsageError(Reason.USAGE, f"cosigner {table.name} has no vkey")
        if witness and witness.key != key:
            raise UsageError(Reason.CONFLICT, f"the policy file has another key for {table.name} than its own table")
        if policy and not witness:
            raise UsageError(
                Reason.CONFLICT, f"the policy file does not know cosigner {table.name}; names are the same in both"
            )
        peers.append(_peer(table, key, table.url or (witness.url if witness else "")))
    peers += [_peer(CosignerTable(name=name), witness.key, witness.url) for name, witness in listed.items()]
    return tuple(peers)


def _peer(table: CosignerTable, key: VerifierKey, url: str) -> CosignerPeer:
    """Return a cosigner with all that it needs to be asked."""
    if not _NAME.fullmatch(table.name):
        raise UsageError(
            Reason.BAD_NAME,
            f"{table.name[:80]!r} is no name of a cosigner here; write letters, digits, dots and dashes",
        )
    if not url:
        raise UsageError(Reason.USAGE, f"cosigner {table.name} has no url, so it cannot be asked")
    deadline = DEFAULT_DEADLINE if table.deadline is None else table.deadline
    if not timedelta(0) < deadline <= _LONGEST_DEADLINE:
        raise UsageError(
            Reason.USAGE, f"the deadline of cosigner {table.name} must be longer than nothing, and at most 5m"
        )
    url = check_url(url, f"url of cosigner {table.name}")
    monitoring = check_url(table.monitoring_url or url, f"monitoring_url of cosigner {table.name}")
    return CosignerPeer(
        name=table.name,
        role=table.role,
        key=key,
        url=url,
        monitoring_url=monitoring,
        deadline_s=deadline.total_seconds(),
    )


def _check_peers(peers: Sequence[CosignerPeer]) -> None:
    """Refuse cosigners that could be taken for one another, and those whose signatures nobody can use."""
    if len(peers) > MAX_COSIGNERS:
        raise UsageError(Reason.TOO_LARGE, f"a CA has at most {MAX_COSIGNERS} cosigners, not {len(peers)}")
    for what, value_of in _DISTINCT:
        seen: dict[object, str] = {}
        for peer in peers:
            value = value_of(peer)
            if value in seen:
                raise UsageError(
                    Reason.DUPLICATE,
                    f"cosigner {peer.name} has the same {what} as {seen[value]}; each has its own, also a witness and "
                    "a mirror of one operator",
                )
            seen[value] = peer.name
    for peer in peers:
        key = peer.key
        if not key.is_cosigner:
            raise UsageError(
                Reason.BAD_KEY, f"the key of cosigner {peer.name} is of type 0x01; a cosigner has type 0x04 or 0x06"
            )
        if peer.cosigner_id is None and (peer.role is Role.MIRROR or key.name.startswith("oid/")):
            raise UsageError(
                Reason.BAD_NAME,
                f"{peer.role} {peer.name} cannot stand in certificates: that needs a key of ML-DSA-44 (type 0x06) "
                f"whose name is oid/1.3.6.1.4.1.<its ID> with components that a trust anchor ID can have, not {key}. A "
                "witness with another name cosigns checkpoints only",
            )
        if key.type == SignatureType.COSIGNATURE_ED25519 and peer.role is Role.MIRROR:
            raise UsageError(Reason.BAD_KEY, f"mirror {peer.name} signs with ML-DSA-44, its key is of Ed25519")


def _build_quorum(peers: Sequence[CosignerPeer], groups: Sequence[GroupTable], rule: QuorumTable) -> Quorum:
    """Return the quorum of [[group]] and [quorum]. Raises FormatError and UsageError."""
    known: dict[str, Member] = {peer.name: peer.name for peer in peers}

    def find(name: str, where: str) -> Member:
        if name not in known:
            raise UsageError(Reason.BAD_POLICY, f"{where}: {name[:80]!r} is no cosigner and no group above")
        return known[name]

    for group in groups:
        if group.name in known:
            raise UsageError(Reason.DUPLICATE, f"two cosigners or groups are called {group.name[:80]}")
        if not group.members:
            raise UsageError(Reason.BAD_POLICY, f"group {group.name[:80]} has no members")
        members = tuple(find(name, f"group {group.name[:80]}") for name in group.members)
        known[group.name] = Quorum(group.at_least, members)
    required = [find(name, "quorum.required") for name in rule.required]
    at_least, of = rule.at_least, rule.of
    if of and at_least is None:
        raise UsageError(Reason.USAGE, "quorum.of says of whom; say with at_least how many")
    if at_least is None:
        at_least = 0 if required or not peers else 1
        of = tuple(peer.name for peer in peers if peer.role is Role.MIRROR)
    counted = tuple(find(name, "quorum.of") for name in of or [peer.name for peer in peers])
    parts = [Quorum(at_least, counted)] if at_least else []
    names = [member for member in required if isinstance(member, str)]
    parts += [member for member in required if isinstance(member, Quorum)]
    return Quorum.require_all(names, *parts) if names or parts else Quorum.none()


def read_cosigning(document: dict[str, Any], file: str, folder: Path | None) -> CosigningConfig:
    """Take the tables of the cosigners out of a document.

    folder: to which a policy file is relative; None where no file may be read. Raises UsageError that names the file.
    """
    tables = []
    for section in read_tables(document, "cosigner", file):
        tables.append(_read_cosigner(section))
        section.finish()
    groups = []
    for section in read_tables(document, "group", file):
        name, at_least = section.text("name"), section.number("at_least")
        if name is None or at_least is None:
            raise UsageError(Reason.USAGE, f"{section.where('name')} and at_least must be there")
        groups.append(GroupTable(name, at_least, section.texts("members")))
        section.finish()
    section = Section("quorum", document.pop("quorum", {}), file)
    rule = QuorumTable(
        required=section.texts("required"),
        at_least=section.number("at_least"),
        of=section.texts("of"),
        policy_file=section.text("policy_file"),
        wait=section.duration("wait"),
        grace=section.duration("grace"),
        run_ahead=section.choice("run_ahead"),
        needs_view=section.choice("needs_view"),
    )
    section.finish()
    if rule.policy_file and (groups or rule.required or rule.of or rule.at_least is not None):
        raise UsageError(
            Reason.USAGE, f"{section.where('policy_file')} says what is enough; required, at_least, of and groups go"
        )
    try:
        policy = _read_policy(rule.policy_file, folder)
        return CosigningConfig(tables=tuple(tables), groups=tuple(groups), rule=rule, policy=policy)
    except Error as error:
        raise UsageError(error.reason, f"{file}: {error.message}") from None


def _read_cosigner(section: Section) -> CosignerTable:
    """Read one [[cosigner]]."""
    name, role = section.text("name"), section.text("role") or Role.WITNESS
    if name is None:
        raise UsageError(Reason.USAGE, f"{section.where('name')} is missing; it is how you call the cosigner here")
    if role not in list(Role):
        raise UsageError(Reason.USAGE, f"{section.where('role')}: {role!r} is neither witness nor mirror")
    return CosignerTable(
        name=name,
        role=Role(role),
        key=section.parsed("vkey", VerifierKey.parse, None),
        url=section.text("url"),
        monitoring_url=section.text("monitoring_url"),
        deadline=section.duration("deadline"),
    )


def _read_policy(name: str | None, folder: Path | None) -> QuorumPolicy | None:
    """Read the policy file, if there is one. Raises UsageError, FormatError."""
    if name is None or folder is None:
        return None
    path = folder / name
    try:
        with path.open("rb") as file:
            return QuorumPolicy.parse(file.read(MAX_POLICY_BYTES + 1))
    except OSError as error:
        raise UsageError(Reason.UNREADABLE, f"{path} cannot be read: {(error.strerror or '').lower()}") from None
    except FormatError as error:
        raise UsageError(error.reason, f"{path}: {error.message}") from None


def format_cosigner(table: CosignerTable) -> str:
    """Return the lines that add a cosigner to a configuration."""
    lines = ["[[cosigner]]", f"name = {quote(table.name)}", f'role = "{table.role}"']
    lines += [] if table.key is None else [f'vkey = "{table.key.encode()}"']
    lines += [] if table.url is None else [f"url = {quote(table.url)}"]
    lines += [] if table.monitoring_url is None else [f"monitoring_url = {quote(table.monitoring_url)}"]
    lines += [] if table.deadline is None else [f'deadline = "{format_duration(table.deadline)}"']
    return "\n".join([*lines, ""])


def format_cosigning(config: CosigningConfig, profile: Profile) -> list[str]:
    """Return the commented lines for the cosigners of a CA; `read_cosigning` reads them back."""
    rule = config.rule

    def line(key: str, value: str | None, default: str, comment: str) -> str:
        return f"{'# ' if value is None else ''}{key} = {default if value is None else value}  # {comment}"

    def names(values: Sequence[str]) -> str | None:
        return f"[{', '.join(map(quote, values))}]" if values else None

    def flag(*, value: bool | None) -> str | None:
        return None if value is None else str(value).lower()

    def span(value: timedelta | None) -> str | None:
        return None if value is None else f'"{format_duration(value)}"'

    at_least = None if rule.at_least is None else str(rule.at_least)
    policy_file = None if rule.policy_file is None else quote(rule.policy_file)
    lines = [
        "[quorum]  # which cosigners a certificate needs beside the CA; without a rule one mirror, any of them",
        line("required", names(rule.required), '["m1"]', "all of these cosigners or groups"),
        line("at_least", at_least, "1", "and so many of `of`; 0 asks everybody and needs nobody"),
        line("of", names(rule.of), '["m1", "m2"]', "cosigners or groups; all cosigners when it is not there"),
        line("policy_file", policy_file, '"policy.txt"', "C2SP tlog-policy in place of the three above"),
        line("wait", span(rule.wait), f'"{format_duration(profile.max_quorum_wait)}"', "then nothing new is taken"),
        line("grace", span(rule.grace), f'"{format_duration(DEFAULT_GRACE)}"', "for those who come late"),
        line("run_ahead", flag(value=rule.run_ahead), str(profile.may_run_ahead).lower(), "of the quorum"),
        line("needs_view", flag(value=rule.needs_view), str(profile.needs_view).lower(), "before the first signature"),
        "",
        "# Cosigners, each under a line [[cosigner]]: name, role (witness or mirror), vkey, url, and where they differ",
        "# monitoring_url and deadline. mtc ca add-cosigner writes one.",
        "",
    ]
    for group in config.groups:
        lines += ["[[group]]", f"name = {quote(group.name)}", f"at_least = {group.at_least}"]
        lines += [f"members = {names(group.members) or '[]'}", ""]
    for table in config.tables:
        lines += [format_cosigner(table)]
    return lines


def quote(text: str) -> str:
    """Return a TOML string."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in plain) + '"'


def describe_cosigning(config: CosigningConfig) -> Mapping[str, object]:
    """Return cosigners and quorum for scripts."""
    return {
        "quorum": str(config.quorum),
        "cosigners": [
            {"name": peer.name, "role": str(peer.role), "key": str(peer.key), "url": peer.url} for peer in config.peers
        ],
    }
