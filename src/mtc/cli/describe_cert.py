"""Reports on certificates, CA certificates, chains with properties, and log entries."""

from datetime import UTC, datetime
from ipaddress import ip_address
from typing import NamedTuple

from mtc.cert import (
    CACertificate,
    Certificate,
    EntryType,
    LogEntry,
    MTCProof,
    PropertyList,
    entry_hash,
    format_name,
    parse_certificate_chains,
    parse_extensions,
)
from mtc.cert.x509 import KEY_USAGES, Extension
from mtc.cli.pictures import draw_path, trace_path
from mtc.cli.report import Report, joined, short
from mtc.crypto import algorithm_names, parse_signature_algorithm
from mtc.errors import Error, FormatError, Reason
from mtc.ids import REVISIONS, TrustAnchorID, log_id, parse_ca_name
from mtc.kernel import CertificateLayout, active_kernel, parse_layout
from mtc.merkle import Subtree, split_row
from mtc.note import SignatureType, VerifierKey
from mtc.wire import DERReader, Reader, Tag, parse_pem

_EXTENSION_NAMES = {
    "2.5.29.14": "subjectKeyIdentifier",
    "2.5.29.15": "keyUsage",
    "2.5.29.17": "subjectAltName",
    "2.5.29.18": "issuerAltName",
    "2.5.29.19": "basicConstraints",
    "2.5.29.31": "cRLDistributionPoints",
    "2.5.29.32": "certificatePolicies",
    "2.5.29.35": "authorityKeyIdentifier",
    "2.5.29.37": "extKeyUsage",
    "1.3.6.1.4.1.64829.2.1": "CA prefix URL",
    **{revision.ca_extension_oid: "MTC certification authority" for revision in REVISIONS.values()},
}
_KEY_NAMES = {
    "1.2.840.10045.2.1": "EC",
    "1.2.840.113549.1.1.1": "RSA",
    **{parse_signature_algorithm(name).oid: name for name in algorithm_names()},
}
_CURVES = {"1.2.840.10045.3.1.7": "P-256", "1.3.132.0.34": "P-384", "1.3.132.0.35": "P-521"}


def describe_pem(data: bytes) -> Report:
    """Report on a PEM file: one artefact, or a chain with properties."""
    blocks = parse_pem(data)
    if not blocks:
        raise FormatError(Reason.BAD_PEM, "the PEM text has no complete block")
    labels = [block.label for block in blocks]
    if any("PRIVATE KEY" in label for label in labels):
        raise FormatError(Reason.UNKNOWN_FORMAT, "the file holds a private key, which is not shown")
    if "CERTIFICATE PROPERTIES" in labels:
        return _describe_chains(data)
    reports = []
    for label, der in blocks:
        if label != "CERTIFICATE":
            raise FormatError(Reason.UNKNOWN_FORMAT, f"a PEM block {label} is not known here")
        reports.append(describe_der(der))
    if len(reports) == 1:
        return reports[0]
    whole = Report("chain", f"Certificate chain of {len(reports)} certificates", len(data), children=reports)
    whole.add("certificates", len(reports))
    return whole


def _describe_chains(data: bytes) -> Report:
    """Report on certification paths with properties."""
    chains = parse_certificate_chains(data, None)
    whole = Report("chain-with-properties", f"PEM with properties, {len(chains)} certification path(s)", len(data))
    whole.add("paths", len(chains))
    for chain in chains:
        if chain.properties is not None:
            whole.children.append(describe_properties(chain.properties))
        whole.children += [describe_der(der) for der in chain.certificates]
    return whole


def describe_properties(properties: PropertyList) -> Report:
    """Report on a certificate property list."""
    report = Report("properties", "Certificate properties", len(properties.encode()))
    anchor = properties.trust_anchor_id
    report.add("trust anchor ID", None if anchor is None else str(anchor))
    report.add("trust anchor groups", joined(properties.groups))
    report.add("only after negotiation", properties.needs_negotiation)
    return report


def describe_der(der: bytes) -> Report:
    """Report on a certificate of any kind."""
    layout = parse_layout(der)
    try:
        certificate = Certificate.parse(der)
    except Error as error:
        fault = error
    else:
        return _describe_certificate(certificate)
    oids = {item.oid for item in parse_extensions(der, layout.extensions_start, layout.extensions_end)}
    if any(revision.ca_extension_oid in oids for revision in REVISIONS.values()):
        return _describe_ca(CACertificate.parse(der), layout)
    exhibit = _read_older_proof(der, layout)
    if exhibit is not None:
        return _describe_exhibit(der, layout, exhibit)
    if fault.reason is Reason.NOT_MTC:
        report = Report("x509-certificate", "X.509 certificate, signed directly (no Merkle Tree certificate)", len(der))
    else:
        report = Report("damaged-certificate", "Merkle Tree certificate that cannot be read whole", len(der))
        report.notes.append(f"{fault.message} ({fault.reason})")
    _add_common(report, der, layout)
    return report


def _add_common(report: Report, der: bytes, layout: CertificateLayout) -> None:
    """Add the fields that every X.509 certificate has."""
    report.add("version", f"v{layout.version + 1}", layout.version_end - layout.fields_start or None)
    serial = int.from_bytes(der[layout.serial_start : layout.serial_end], "big", signed=True)
    report.add("serial number", f"{serial} (0x{serial:x})", layout.signature_start - layout.version_end)
    report.add("signature algorithm", _algorithm_name(der, layout), layout.signature_end - layout.signature_start)
    issuer = der[layout.issuer_start : layout.issuer_end]
    report.add("issuer", format_name(issuer) or "(empty)", len(issuer))
    report.add("not before", _time(layout.not_before))
    report.add("not after", _time(layout.not_after), layout.subject_start - layout.issuer_end)
    subject = der[layout.subject_start : layout.spki_start]
    report.add("subject", format_name(subject) or "(empty)", len(subject))
    spki = der[layout.spki_start : layout.spki_end]
    report.add("public key", _key_name(spki), len(spki))
    for extension in parse_extensions(der, layout.extensions_start, layout.extensions_end):
        name = _EXTENSION_NAMES.get(extension.oid, extension.oid)
        critical = " (critical)" if extension.is_critical else ""
        report.add(f"extension {name}{critical}", _extension_value(extension), len(extension.encode()))


def _algorithm_name(der: bytes, layout: CertificateLayout) -> str:
    """Name the signature algorithm."""
    reader = DERReader(der, "the signature algorithm", layout.signature_start, layout.signature_end).enter(Tag.SEQUENCE)
    oid = reader.read_oid()
    names = {revision.proof_oid: "id-alg-mtcProof" for revision in REVISIONS.values()}
    names["1.3.6.1.5.5.7.6.36"] = "unsigned (RFC 9925)"
    return f"{names[oid]} ({oid})" if oid in names else oid


def _key_name(spki: bytes) -> str:
    """Name the type of a public key."""
    algorithm = DERReader(spki, "the public key").enter(Tag.SEQUENCE).enter(Tag.SEQUENCE)
    oid = algorithm.read_oid()
    name = _KEY_NAMES.get(oid, oid)
    if name == "EC" and algorithm.peek_tag() == Tag.OID:
        curve = algorithm.read_oid()
        name = f"EC {_CURVES.get(curve, curve)}"
    return name


def _extension_value(extension: Extension) -> str:
    """Write an extension's value for people, hex where it is not one of the usual ones."""
    encoded = extension.encode()
    kernel = active_kernel()
    is_ca, usage, purposes, dns_names, addresses, _ = kernel.scan_extensions(encoded, 0, len(encoded))
    if isinstance(dns_names, list) and isinstance(addresses, list):
        return joined([*(name.decode("ascii") for name in dns_names), *map(_address, addresses)])
    if isinstance(is_ca, bool):
        return f"cA {str(is_ca).upper()}"
    if isinstance(usage, int):
        return joined(name for bit, name in enumerate(KEY_USAGES) if usage >> bit & 1)
    if isinstance(purposes, int):
        flags = {1: "serverAuth", 2: "clientAuth", 4: "any", 8: "others"}
        return joined(name for flag, name in flags.items() if purposes & flag)
    return short(extension.value, 24)


def _address(packed: bytes) -> str:
    """Write an IP address."""
    return str(ip_address(packed))


def _time(seconds: int) -> str:
    """Write POSIX seconds as RFC 3339."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _describe_certificate(certificate: Certificate) -> Report:
    """Report on a Merkle Tree certificate."""
    der, layout, proof = certificate.der, certificate.layout, certificate.proof
    drafts = " or ".join(revision.name for revision in certificate.revisions)
    report = Report("certificate", f"Merkle Tree certificate, draft {drafts}", len(der))
    report.add("draft", drafts)
    report.add("CA ID", str(certificate.ca_id))
    report.add("log ID", str(log_id(certificate.ca_id, certificate.log_number)))
    report.add("log number", certificate.log_number)
    report.add("entry index", certificate.index)
    _add_common(report, der, layout)
    hasher = active_kernel().hasher("sha256")
    digest = entry_hash(hasher, certificate.log_entry(hasher))
    _add_proof(report, proof, certificate)
    steps = trace_path(hasher, proof.subtree, certificate.index, digest, proof.inclusion_proof)
    report.add("entry hash (SHA-256)", digest.hex())
    report.add("subtree hash (SHA-256)", steps[-1].value.hex())
    report.add("certificate identity", hasher.digest(certificate.tbs).hex())
    report.pictures.append(("Path through the tree", draw_path(steps)))
    report.path = [
        {
            "start": step.start,
            "end": step.end,
            "hash": step.value.hex(),
            "sibling": None if step.sibling is None else step.sibling[2].hex(),
        }
        for step in steps
    ]
    report.notes.append(
        "nothing is verified here; whether it is accepted, and as standalone or landmark-relative, mtc verify decides"
    )
    return report


def _add_proof(report: Report, proof: MTCProof, certificate: Certificate) -> None:
    """Add the fields of an MTCProof."""
    width = certificate.revision.signatures_width
    extensions = joined(f"0x{item.type:04x}: {short(item.data)}" for item in proof.extensions)
    report.add("proof: entry extensions", extensions, 2 + sum(4 + len(item.data) for item in proof.extensions))
    report.add("proof: subtree", str(proof.subtree), 12)
    hashes = proof.inclusion_proof
    report.add("proof: inclusion proof", f"{len(hashes)} hashes", 2 + sum(map(len, hashes)))
    report.add("proof: signatures", len(proof.signatures), width)
    for item in proof.signatures:
        size = 3 + len(item.cosigner_id) + len(item.signature)
        report.add(f"proof: cosigner {item.name}", short(item.signature, 8), size)
    named = sum(size for _, _, size in report.fields if size is not None)
    report.add("framing", "tags, lengths, outer algorithm", report.size - named)


def _describe_ca(ca: CACertificate, layout: CertificateLayout) -> Report:
    """Report on a CA certificate."""
    kind = "unsigned (RFC 9925)" if ca.is_unsigned else "self-signed" if ca.is_self_signed else "signed"
    report = Report("ca-certificate", f"Merkle Tree CA certificate, {kind}, draft {ca.revision}", len(ca.der))
    report.add("draft", ca.revision.name)
    report.add("CA ID", str(ca.ca_id))
    report.add("log hash", ca.hash.name)
    report.add("cosigner algorithm", ca.algorithm.name)
    report.add("minimum serial", _serial(ca.min_serial))
    report.add("maximum serial", _serial(ca.max_serial))
    report.add("prefix URL", ca.prefix_url)
    report.add("origin of log 1", log_id(ca.ca_id, 1).oid_name)
    if ca.algorithm.name == "ml-dsa-44":
        key = VerifierKey.from_spki(ca.ca_id.oid_name, SignatureType.COSIGNATURE_MLDSA44, ca.public_key.public_key)
        report.add("checkpoint verifier key", key.encode())
    _add_common(report, ca.der, layout)
    if ca.is_self_signed:
        report.notes.append("a CA certificate should not be self-signed")
    return report


def _serial(serial: int) -> str:
    """Write a serial number with its log and entry."""
    return f"{serial} (log {serial >> 48}, entry {serial & 0xFFFF_FFFF_FFFF})"


class OlderProof(NamedTuple):
    """A proof in the layout before draft -04: 64-bit bounds and no entry extensions."""

    start: int
    end: int
    hashes: tuple[bytes, ...]
    signatures: bytes


def _read_older_proof(der: bytes, layout: CertificateLayout) -> OlderProof | None:
    """Return the proof of a certificate from before draft -04, or None when it is none."""
    try:
        name_oid = parse_ca_name(der[layout.issuer_start : layout.issuer_end])[1]
    except Error:
        return None
    algorithm = der[layout.signature_start : layout.signature_end]
    old = [item for item in REVISIONS.values() if item.name_oid == name_oid and item.proof_algorithm == algorithm]
    if not old or der[layout.value_start : layout.value_start + 1] != b"\x00":
        return None
    reader = Reader(der[layout.value_start + 1 : layout.value_end], "the older proof")
    try:
        start, end = reader.read_uint(8), reader.read_uint(8)
        inclusion = reader.read_vector(2)
        signatures = reader.read_vector(2)
        reader.finish()
        Subtree(start, end)
    except Error:
        return None
    if len(inclusion) % 32:
        return None
    return OlderProof(start, end, tuple(split_row(inclusion, 32)), signatures)


def _describe_exhibit(der: bytes, layout: CertificateLayout, proof: OlderProof) -> Report:
    """Report on a certificate from before draft -04, which is shown and never verified."""
    report = Report("older-certificate", "Merkle Tree certificate of an older layout (before draft -04)", len(der))
    ca_id: TrustAnchorID = parse_ca_name(der[layout.issuer_start : layout.issuer_end])[0]
    report.add("draft", "before plants-04")
    report.add("CA ID", str(ca_id))
    index = int.from_bytes(der[layout.serial_start : layout.serial_end], "big", signed=True)
    report.add("entry index", index)
    _add_common(report, der, layout)
    report.add("proof: subtree", f"[{proof.start}, {proof.end})", 16)
    report.add("proof: inclusion proof", f"{len(proof.hashes)} hashes", 2 + 32 * len(proof.hashes))
    report.add("proof: signatures", f"{len(proof.signatures)} bytes", 2 + len(proof.signatures))
    subtree = Subtree(proof.start, proof.end)
    hasher = active_kernel().hasher("sha256")
    try:
        steps = trace_path(hasher, subtree, index, hasher.empty, proof.hashes)
    except Error as error:
        report.notes.append(f"the proof does not fit its subtree: {error.message}")
    else:
        known = [step for step in steps if step.sibling is not None]
        report.path = [
            {
                "start": step.start,
                "end": step.end,
                "hash": None,
                "sibling": step.sibling[2].hex() if step.sibling else None,
            }
            for step in steps
        ]
        report.add("proof: levels", len(known))
        report.pictures.append(("Path through the tree", draw_path(steps, with_hashes=False)))
    report.notes.append(
        "an exhibit: start and end have 64 bits, there is no entry-extension block, and the serial number is the bare "
        "index without a log number; later drafts hash other entry bytes, so this layout is shown but never verified"
    )
    return report


def describe_entry(data: bytes) -> Report:
    """Report on a log entry."""
    entry = LogEntry.parse(data)
    hasher = active_kernel().hasher("sha256")
    kinds = {EntryType.NULL: "null_entry", EntryType.TBS_CERT: "tbs_cert_entry"}
    kind = kinds.get(EntryType(entry.type)) if entry.type in list(EntryType) else None
    report = Report("log-entry", f"Log entry, {kind or 'unknown type'}", len(data))
    extensions = sum(4 + len(item.data) for item in entry.extensions)
    report.add(
        "extensions", joined(f"0x{item.type:04x}: {short(item.data)}" for item in entry.extensions), 2 + extensions
    )
    report.add("type", f"{entry.type} ({kind or 'unknown'})", 2)
    certified = entry.tbs_certificate
    if certified is not None:
        report.add("version", f"v{certified.version + 1}")
        report.add("issuer", format_name(certified.issuer), len(certified.issuer))
        report.add("not before", certified.not_before.isoformat().replace("+00:00", "Z"))
        report.add("not after", certified.not_after.isoformat().replace("+00:00", "Z"), len(certified.validity))
        report.add("subject", format_name(certified.subject) or "(empty)", len(certified.subject))
        algorithm = DERReader(certified.spki_algorithm, "the key algorithm").enter(Tag.SEQUENCE)
        oid = algorithm.read_oid()
        report.add("public key algorithm", _KEY_NAMES.get(oid, oid), len(certified.spki_algorithm))
        report.add("public key hash", certified.spki_hash.hex(), 2 + len(certified.spki_hash))
        for extension in certified.extensions:
            name = _EXTENSION_NAMES.get(extension.oid, extension.oid)
            critical = " (critical)" if extension.is_critical else ""
            report.add(f"extension {name}{critical}", _extension_value(extension), len(extension.encode()))
    elif entry.body:
        report.add("body", short(entry.body), len(entry.body))
    report.add("entry hash (SHA-256)", hasher.leaf(data).hex())
    return report
