"""Policy files: which logs, which witnesses, and how many of them make a checkpoint acceptable.

Spec: C2SP tlog-policy.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from mtc.errors import FormatError, Reason, Rejected
from mtc.ids import MAX_LOG_NUMBER, TrustAnchorID
from mtc.note.checkpoint import Checkpoint
from mtc.note.keys import VerifierKey
from mtc.note.note import Note
from mtc.note.opening import OpenedNote, verify_note
from mtc.note.quorum import Quorum
from mtc.wire import decode_decimal

MAX_POLICY_BYTES = 1 << 20
"""Largest policy file read; a line with an ML-DSA-44 key has about 2,000 bytes."""
MAX_POLICY_ITEMS = 128
"""Most logs, most witnesses and most groups in a policy, four times what tlog-policy recommends at least."""

_FORBIDDEN = re.compile(rb"[^\t\n\x20-\x7e\x80-\xff]")
_SPACE = re.compile(r"[ \t]+")
_NAME = re.compile(r"[^ \t\n]+")


@dataclass(frozen=True, slots=True)
class PolicyLog:
    """A log whose checkpoints are acceptable. url: where it is, empty when the policy does not say."""

    key: VerifierKey
    url: str = ""


@dataclass(frozen=True, slots=True)
class PolicyWitness:
    """A witness; `name` counts only inside the policy."""

    name: str
    key: VerifierKey
    url: str = ""


@dataclass(frozen=True, slots=True)
class PolicyGroup:
    """A group that witnesses what at least `at_least` of its members witness."""

    name: str
    at_least: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AcceptedCheckpoint:
    """A checkpoint that a policy accepted, and the note with the verified signatures that made it so."""

    checkpoint: Checkpoint
    note: OpenedNote


@dataclass(frozen=True, slots=True)
class QuorumPolicy:
    """What a policy file says: a checkpoint is acceptable when a listed log signed it and the quorum witnessed it.

    groups: each names witnesses and groups before it; no name is in two groups. quorum_name: of a witness or group, or
    `none`. Names are opaque bytes, held as text with surrogate escapes. quorum: follows from the rest.
    Raises FormatError (BAD_POLICY, DUPLICATE, TOO_LARGE, TOO_DEEP).
    """

    logs: tuple[PolicyLog, ...]
    witnesses: tuple[PolicyWitness, ...]
    groups: tuple[PolicyGroup, ...]
    quorum_name: str
    quorum: Quorum = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse what no policy file may say."""
        if max(len(self.logs), len(self.witnesses), len(self.groups)) > MAX_POLICY_ITEMS:
            raise FormatError(
                Reason.TOO_LARGE, f"a policy has at most {MAX_POLICY_ITEMS} logs, as many witnesses and as many groups"
            )
        _check_unique("log key", (log.key.public_key.hex() for log in self.logs))
        _check_unique("witness key", (witness.key.public_key.hex() for witness in self.witnesses))
        # Two keys that share name and key ID could not be told apart under a note.
        _check_unique("key ID", map(str, {log.key for log in self.logs} | {item.key for item in self.witnesses}))
        _check_unique("name", [item.name for item in self.witnesses] + [group.name for group in self.groups])
        _check_unique("group member", (name for group in self.groups for name in group.members))
        known: dict[str, str | Quorum] = {}
        for witness in self.witnesses:
            _check_name(witness.name)
            if not witness.key.is_cosigner:
                raise FormatError(
                    Reason.BAD_POLICY, f"witness {witness.name} has key type 0x01; a witness has type 0x04 or 0x06"
                )
            known[witness.name] = witness.name
        for group in self.groups:
            _check_name(group.name)
            known[group.name] = Quorum(group.at_least, tuple(_look_up(known, name) for name in group.members))
            if not group.members:
                raise FormatError(Reason.BAD_POLICY, f"group {group.name} has no member")
        for url in [log.url for log in self.logs] + [item.url for item in self.witnesses]:
            if url and not _NAME.fullmatch(url):
                raise FormatError(Reason.BAD_POLICY, f"{url[:80]!r} is no URL")
        if self.quorum_name == "none":
            quorum = Quorum.none()
        else:
            found = _look_up(known, self.quorum_name)
            quorum = Quorum(1, (found,)) if isinstance(found, str) else found
        object.__setattr__(self, "quorum", quorum)

    @staticmethod
    def parse(data: bytes) -> "QuorumPolicy":
        """Read a policy file. Raises FormatError, with the fact `line` for a fault in one line."""
        if len(data) > MAX_POLICY_BYTES:
            raise FormatError(Reason.TOO_LARGE, f"a policy has at most {MAX_POLICY_BYTES} bytes, this one {len(data)}")
        if found := _FORBIDDEN.search(data):
            raise FormatError(
                Reason.BAD_TEXT, f"the policy has a forbidden character at byte {found.start()}", offset=found.start()
            )
        if data and not data.endswith(b"\n"):
            raise FormatError(Reason.TRUNCATED, "the last line of the policy has no newline")
        draft = _PolicyLines()
        for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), 1):
            items = _SPACE.split(line.strip(" \t"))
            if items[0] and not items[0].startswith("#"):
                try:
                    draft.read(items)
                except FormatError as error:
                    raise FormatError(
                        error.reason, f"line {number} of the policy: {error.message}", **{**error.facts, "line": number}
                    ) from None
        if draft.quorum_name is None:
            raise FormatError(Reason.BAD_POLICY, "the policy has no quorum line; `quorum none` requires no witness")
        return QuorumPolicy(tuple(draft.logs), tuple(draft.witnesses), tuple(draft.groups), draft.quorum_name)

    def encode(self) -> bytes:
        """Return a policy file that says the same: logs, witnesses, groups, quorum."""
        lines = [
            *(f"log {log.key.encode()} {log.url}".rstrip(" ") for log in self.logs),
            *(f"witness {item.name} {item.key.encode()} {item.url}".rstrip(" ") for item in self.witnesses),
            *(f"group {group.name} {group.at_least} {' '.join(group.members)}" for group in self.groups),
            f"quorum {self.quorum_name}",
        ]
        return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")

    def log_keys(self, origin: str) -> list[VerifierKey]:
        """Return the keys of the listed logs that sign checkpoints with this origin."""
        return [log.key for log in self.logs if _is_log_of(log.key.name, origin)]

    def verify_checkpoint(self, note: Note) -> AcceptedCheckpoint:
        """Return the checkpoint in the note, acceptable under this policy.

        Raises FormatError for what is no checkpoint, SignatureError for a failing signature of a known key, Rejected:
        UNKNOWN_ORIGIN (no listed log has it), UNKNOWN_SIGNER (the log did not sign), POLICY_NOT_MET (the quorum).
        """
        checkpoint = Checkpoint.parse(note.text)
        log_keys = self.log_keys(checkpoint.origin)
        if not log_keys:
            raise Rejected(
                Reason.UNKNOWN_ORIGIN,
                f"the policy lists no log with origin {checkpoint.origin[:80]!r}",
                origin=checkpoint.origin,
            )
        opened = verify_note(note, [*log_keys, *(witness.key for witness in self.witnesses)])
        if not any(map(opened.is_signed_by, log_keys)):
            raise Rejected(
                Reason.UNKNOWN_SIGNER,
                f"the log {checkpoint.origin[:80]!r} did not sign its checkpoint",
                origin=checkpoint.origin,
            )
        present = {witness.name for witness in self.witnesses if opened.is_signed_by(witness.key)}
        if not self.quorum.is_satisfied(present):
            raise Rejected(
                Reason.POLICY_NOT_MET,
                f"the checkpoint of {checkpoint.origin[:80]!r} lacks cosignatures: {self.quorum.missing(present)}",
                origin=checkpoint.origin,
                present=sorted(present),
            )
        return AcceptedCheckpoint(checkpoint, opened)


class _PolicyLines:
    """Collects a policy line by line; a name must be defined before the line that uses it."""

    def __init__(self) -> None:
        self.logs: list[PolicyLog] = []
        self.witnesses: list[PolicyWitness] = []
        self.groups: list[PolicyGroup] = []
        self.quorum_name: str | None = None
        self._names: set[str] = set()

    def read(self, items: list[str]) -> None:
        """Take the items of one line."""
        readers: dict[str, Callable[[list[str]], None]] = {
            "log": self._read_log,
            "witness": self._read_witness,
            "group": self._read_group,
            "quorum": self._read_quorum,
        }
        if items[0] not in readers:
            raise FormatError(Reason.BAD_POLICY, f"{items[0][:40]!r} is none of {', '.join(readers)}")
        readers[items[0]](items[1:])

    def _read_log(self, items: list[str]) -> None:
        if not 1 <= len(items) <= 2:
            raise FormatError(Reason.BAD_POLICY, "write: log <vkey> [<url>]")
        self.logs.append(PolicyLog(VerifierKey.parse(items[0]), *items[1:]))

    def _read_witness(self, items: list[str]) -> None:
        if not 2 <= len(items) <= 3:
            raise FormatError(Reason.BAD_POLICY, "write: witness <name> <vkey> [<url>]")
        name, vkey, *url = items
        self._define(name)
        self.witnesses.append(PolicyWitness(name, VerifierKey.parse(vkey), *url))

    def _read_group(self, items: list[str]) -> None:
        if len(items) < 3:
            raise FormatError(Reason.BAD_POLICY, "write: group <name> all|any|<number> <name>...")
        name, rule, *members = items
        for member in members:
            self._use(member)
        self._define(name)
        words = {"all": len(members), "any": 1}
        if rule in words:
            at_least = words[rule]
        else:
            at_least = decode_decimal(rule, len(members), f"the threshold of group {name}")
        if not at_least:
            raise FormatError(Reason.BAD_POLICY, f"group {name} cannot require 0 of its members")
        self.groups.append(PolicyGroup(name, at_least, tuple(members)))

    def _read_quorum(self, items: list[str]) -> None:
        if len(items) != 1:
            raise FormatError(Reason.BAD_POLICY, "write: quorum <name>, or quorum none")
        if self.quorum_name is not None:
            raise FormatError(Reason.DUPLICATE, "a policy has one quorum line")
        if items[0] != "none":
            self._use(items[0])
        self.quorum_name = items[0]

    def _define(self, name: str) -> None:
        _check_name(name)
        if name in self._names:
            raise FormatError(Reason.DUPLICATE, f"the name {name} is defined twice")
        self._names.add(name)

    def _use(self, name: str) -> None:
        if name not in self._names:
            raise FormatError(Reason.BAD_POLICY, f"{name} is not defined on a line before")


def _is_log_of(key_name: str, origin: str) -> bool:
    """Tell whether a key with this name signs checkpoints with this origin.

    SPEC: tlog-policy says that a log's key name "MUST correspond to the log's origin line". An MTC issuance log is
    signed by its CA cosigner, whose name is the CA ID while the origin is the log ID, caID.0.N (mtc-tlog, "Serving
    Issuance Logs"); that is taken as corresponding, so that one log line accepts all logs of a CA.
    """
    if key_name == origin:
        return True
    try:
        ca_id, log = TrustAnchorID.parse_oid_name(key_name), TrustAnchorID.parse_oid_name(origin)
    except FormatError:
        return False
    *parent, zero, number = log.components if len(log.components) > 2 else (0, 0, 0)
    return tuple(parent) == ca_id.components and zero == 0 and 1 <= number <= MAX_LOG_NUMBER


def _look_up(known: dict[str, str | Quorum], name: str) -> str | Quorum:
    """Return what a name stands for."""
    if name not in known:
        raise FormatError(Reason.BAD_POLICY, f"{name} is no witness and no group defined before")
    return known[name]


def _check_name(name: str) -> None:
    """Refuse what cannot name a witness or a group."""
    if name == "none" or not _NAME.fullmatch(name):
        raise FormatError(Reason.BAD_POLICY, f"{name[:80]!r} cannot be the name of a witness or a group")


def _check_unique(what: str, values: Iterable[str]) -> None:
    """Refuse the second appearance of a value."""
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise FormatError(Reason.DUPLICATE, f"the {what} {value[:80]} appears twice in the policy")
        seen.add(value)
