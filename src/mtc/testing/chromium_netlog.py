"""What Chromium's net log says of the Merkle Tree certificates that it verified.

The log is JSON: constants that name the event types, and events, each of a source; all that belongs to one verification
has one source. A log whose browser was killed is cut off and is refused.

Spec: none; names of events and texts are Chromium's, as seen with version 156.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from mtc.errors import FormatError, Reason
from mtc.wire import parse_pem

_TARGET = "CERT_VERIFY_PROC_TARGET_CERT"
_DEBUG = "CERT_VERIFY_PROC_PATH_BUILDER_DEBUG"
_POLICY = "CERT_MTC_COSIGNER_POLICY_CHECKED"
_END = "CERT_VERIFY_PROC"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One verification. certificate: the leaf, DER. notes: what the browser's verifier wrote about it, line by line.

    net_error: 0 for a certificate that was accepted, a negative number such as -202 (authority invalid) otherwise.
    policy: the result of the browser's cosigner policy, empty when it was not reached. cosigners: IDs whose signatures
    verified beside the CA's, each with what the policy makes of it.
    """

    certificate: bytes
    notes: tuple[str, ...]
    net_error: int
    policy: str = ""
    cosigners: tuple[tuple[str, str], ...] = ()

    @property
    def is_accepted(self) -> bool:
        """True when the browser believes the certificate."""
        return self.net_error == 0

    def note(self, name: str) -> str:
        """Return the value of a line `name=value`, empty when there is none."""
        return next((line.partition("=")[2] for line in self.notes if line.startswith(f"{name}=")), "")


def read_verdicts(path: Path) -> list[Verdict]:
    """Return the verdicts of a browser that has ended, in order; verifications of other certificates are left out.

    Raises FormatError for what is no whole net log.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
        names = {number: name for name, number in document["constants"]["logEventTypes"].items()}
        by_source: dict[int, list[tuple[str, dict[str, object]]]] = {}
        for event in document["events"]:
            name = names.get(event["type"], "")
            by_source.setdefault(event["source"]["id"], []).append((name, event.get("params", {})))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise FormatError(Reason.BAD_DOCUMENT, f"{path.name} is no whole net log; was the browser killed?") from None
    found = [_verdict(events) for events in by_source.values()]
    return [verdict for verdict in found if verdict is not None]


def _verdict(events: list[tuple[str, dict[str, object]]]) -> Verdict | None:
    """Return what the events of one source say, None when they are about something else."""
    leaf, policy, error = b"", "", 0
    notes: list[str] = []
    cosigners: list[tuple[str, str]] = []
    for name, parameters in events:
        if name == _TARGET:
            leaf = parse_pem(str(parameters["certificate"]).encode())[0][1]
        elif name == _DEBUG and "VerifyMTC" in str(parameters.get("debug")):
            notes += [line.strip() for line in str(parameters["debug"]).splitlines() if line.strip()]
        elif name == _POLICY:
            policy = str(parameters.get("reason", ""))
            listed = parameters.get("verified_cosigners")
            cosigners = [(str(item["id"]), str(item["status"])) for item in listed] if isinstance(listed, list) else []
        elif name == _END and isinstance(parameters.get("net_error"), int):
            error = int(str(parameters["net_error"]))
    return Verdict(leaf, tuple(notes), error, policy, tuple(cosigners)) if leaf and notes else None
