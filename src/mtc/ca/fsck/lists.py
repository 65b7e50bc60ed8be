"""The CA certificate and the revocation lists as they are served, and the register's view of them."""

from mtc.ca.fsck.context import FolderTask, ServedFiles
from mtc.ca.fsck.registers import RegisterCopy
from mtc.ca.revocation import RevocationRules, lists_of
from mtc.ca.revocation_state import STATE_NAME, RevocationState
from mtc.cert import CACertificate, CertificateRevocationList, RevocationList, encode_tbs_crl
from mtc.errors import Error
from mtc.ids import encode_ca_name
from mtc.log.fsck import Findings, Severity
from mtc.log.fsck.service.check import MAX_SKEW_S
from mtc.wire import posix_seconds

PLAIN, RANGES = "ca.crl", "revocations.crl"


async def check_lists(
    files: ServedFiles, authority: CACertificate, findings: Findings, now: int
) -> dict[str, CertificateRevocationList]:
    """Check both revocation lists, and return those whose signature verifies, by file name. now: POSIX seconds."""
    issuer = encode_ca_name(authority.ca_id, authority.revision)
    found: dict[str, CertificateRevocationList] = {}
    for name, data in zip((PLAIN, RANGES), await files.fetch([PLAIN, RANGES]), strict=True):
        if data is None:
            findings.add(name, "is missing")
            continue
        try:
            crl = CertificateRevocationList.parse(data)
            proven = crl.verify_signature(authority.public_key, issuer)
        except Error as error:
            findings.add_error(name, error)
            continue
        findings.count("signatures")
        if isinstance(proven, RevocationList) != (name == RANGES):
            findings.add(name, "is the other kind of list")
            continue
        found[name] = crl
        # The clock that signed may be a little ahead of this one.
        if posix_seconds(crl.tbs.this_update) > now + MAX_SKEW_S:
            findings.add(name, f"is from the future, {crl.tbs.this_update:%Y-%m-%dT%H:%M:%SZ}")
        if posix_seconds(crl.tbs.next_update) < now:
            text = f"ended at {crl.tbs.next_update:%Y-%m-%dT%H:%M:%SZ}; a CA that runs makes the next one"
            findings.add(name, text, severity=Severity.WARNING)
    if len(found) == 2 and found[PLAIN].tbs.number != found[RANGES].tbs.number:
        # The one is replaced after the other, so a crash between leaves them so; the next start makes both anew.
        findings.note(f"{PLAIN} and {RANGES} are of different numbers; the CA publishes both again when it starts")
    return found


def check_revocations(task: FolderTask, register: RegisterCopy, lists: dict[str, CertificateRevocationList]) -> None:
    """Compare the published lists with the register, from which they follow byte by byte."""
    findings, authority = task.findings, task.folder.certificate
    data = register.read(STATE_NAME, findings)
    if data is None:
        return
    where = register.where(STATE_NAME)
    try:
        state = RevocationState.parse(data)
        if not state.number:
            # No lists were made yet.
            return
        rules = RevocationRules.of_profile(task.folder.config.profile)
        issuer = encode_ca_name(authority.ca_id, authority.revision)
        made = lists_of(state, issuer, authority.algorithm.identifier, rules)
        messages = dict(zip((PLAIN, RANGES), map(encode_tbs_crl, made), strict=True))
    except Error as error:
        findings.add_error(where, error)
        return
    for name, crl in lists.items():
        if crl.tbs.number > state.number:
            findings.add(where, f"has number {state.number}, but {name} {crl.tbs.number}: the register is too old")
        elif crl.tbs.number < state.number:
            findings.note(f"{name} has number {crl.tbs.number}, the register {state.number}: not published yet")
        elif crl.message != messages[name]:
            findings.add(where, f"is not what {name} says")
