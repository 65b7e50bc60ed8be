"""Reports on trust stores."""

from datetime import UTC, datetime

from mtc.cli.report import Report, joined
from mtc.ids import SERIAL_LIMIT
from mtc.trust import CosignerState, TrustedCA, TrustedSubtree, parse_trust_store


def describe_trust_store(data: bytes) -> Report:
    """Report on a trust store document."""
    store = parse_trust_store(data)
    report = Report("trust-store", f"Trust store with {len(store.cas)} CA(s)", len(data))
    report.add("version", 1)
    report.add("CAs", len(store.cas))
    report.children = [_describe_ca(ca) for ca in store.cas]
    return report


def _describe_ca(ca: TrustedCA) -> Report:
    """Report on one trusted CA."""
    keys = sum(len(cosigner.key.public_key) for cosigner in ca.cosigners)
    hashes = sum(len(trusted.subtree_hash) for trusted in ca.trusted_subtrees)
    report = Report("trusted-ca", f"CA {ca.ca_id}", keys + hashes)
    report.add("draft", ca.revision.name)
    report.add("log hash", ca.hash.name)
    for cosigner in ca.cosigners:
        state = "" if cosigner.state is CosignerState.USABLE else f", {cosigner.state}"
        if cosigner.frozen_at is not None:
            state += f" at log {cosigner.frozen_at.log_number} size {cosigner.frozen_at.tree_size}"
        report.add(f"cosigner {cosigner.name}", f"{cosigner.key.algorithm.name}{state}", len(cosigner.key.public_key))
    report.add("policy requires", joined(ca.policy.require))
    if ca.policy.of:
        report.add("policy quorum", f"{ca.policy.at_least} of {joined(ca.policy.of)}")
    for trusted in ca.trusted_subtrees:
        report.add(f"trusted {_subtree_name(trusted)}", trusted.subtree_hash.hex(), len(trusted.subtree_hash))
    for start, end in ca.revoked:
        last = "2^64" if end == SERIAL_LIMIT else str(end)
        report.add("revoked", f"[{start}, {last}): log {start >> 48} entry {start & 0xFFFFFFFFFFFF} and up")
    return report


def _subtree_name(trusted: TrustedSubtree) -> str:
    """Name a trusted subtree with its landmark and expiry."""
    name = f"log {trusted.log_number} {trusted.subtree}"
    if trusted.landmark is not None:
        name += f" of landmark {trusted.landmark}"
    if trusted.expiry is not None:
        try:
            name += f" until {datetime.fromtimestamp(trusted.expiry, UTC):%Y-%m-%d %H:%M:%S}Z"
        except (OverflowError, ValueError):
            name += f" until POSIX second {trusted.expiry}"
    return name
