"""A log entry for people: names, validity, key, extensions. Text comes out as it stands; the templates escape it."""

import re
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address

from mtc.cert import EntryType, LogEntry, TBSCertificateLogEntry, format_name
from mtc.cert.x509 import KEY_USAGES, Extension
from mtc.crypto import algorithm_names, parse_signature_algorithm
from mtc.errors import Error
from mtc.kernel import active_kernel
from mtc.log.machine import ACCUMULATED_COUNT, ACCUMULATED_ENTRY
from mtc.wire import DERReader, Tag

_EXTENSIONS = {
    "2.5.29.14": "Subject key identifier",
    "2.5.29.15": "Key usage",
    "2.5.29.17": "Subject alternative name",
    "2.5.29.19": "Basic constraints",
    "2.5.29.31": "CRL distribution points",
    "2.5.29.32": "Certificate policies",
    "2.5.29.35": "Authority key identifier",
    "2.5.29.37": "Extended key usage",
}
_KEYS = {
    "1.2.840.10045.2.1": "EC",
    "1.2.840.113549.1.1.1": "RSA",
    **{parse_signature_algorithm(name).oid: name.upper() for name in algorithm_names() if "ecdsa" not in name},
}
_CURVES = {"1.2.840.10045.3.1.7": "P-256", "1.3.132.0.34": "P-384", "1.3.132.0.35": "P-521"}
_PURPOSES = {1: "serverAuth", 2: "clientAuth", 4: "any", 8: "others"}
_TYPES = {EntryType.NULL: "null entry", EntryType.TBS_CERT: "certificate", ACCUMULATED_ENTRY: "accumulated entry"}
_CRL_POINTERS = "2.5.29.31"
_URL = re.compile(rb"https?://[!-~]+")
_SHOWN_BYTES = 40


@dataclass(frozen=True, slots=True)
class ExtensionText:
    """An extension for people."""

    name: str
    value: str
    is_critical: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryText:
    """An entry for people. fault: why it cannot be read further, empty when it can. Fields are empty where it has none.

    names, addresses: of the subject alternative name. entry_extensions: of the log entry, not of the certificate.
    """

    kind: str
    size: int
    fault: str = ""
    names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    not_before: datetime | None = None
    not_after: datetime | None = None
    issuer: str = ""
    subject: str = ""
    key: str = ""
    key_hash: str = ""
    extensions: tuple[ExtensionText, ...] = ()
    entry_extensions: tuple[ExtensionText, ...] = ()


def describe_entry(data: bytes) -> EntryText:
    """Describe an encoded log entry; never raises, because a log may hold what nobody can read."""
    try:
        entry = LogEntry.parse(data)
        kind = _TYPES.get(entry.type, f"entry of type {entry.type}")
        own = tuple(_entry_extension(item.type, item.data) for item in entry.extensions)
        certified = entry.tbs_certificate
        if certified is None:
            return EntryText(kind=kind, size=len(data), entry_extensions=own)
        return _describe_certificate(certified, kind, len(data), own)
    except Error as error:
        return EntryText(kind="entry that cannot be read", size=len(data), fault=error.message)


def _describe_certificate(
    certified: TBSCertificateLogEntry, kind: str, size: int, own: tuple[ExtensionText, ...]
) -> EntryText:
    """Describe what an entry certifies."""
    names: list[str] = []
    addresses: list[str] = []
    for extension in certified.extensions:
        found = _scan(extension)
        names += found[0]
        addresses += found[1]
    return EntryText(
        kind=kind,
        size=size,
        names=tuple(names),
        addresses=tuple(addresses),
        not_before=certified.not_before,
        not_after=certified.not_after,
        issuer=format_name(certified.issuer),
        subject=format_name(certified.subject),
        key=_key_name(certified.spki_algorithm),
        key_hash=certified.spki_hash.hex(),
        extensions=tuple(
            ExtensionText(_EXTENSIONS.get(item.oid, item.oid), _extension_value(item), item.is_critical)
            for item in certified.extensions
        ),
        entry_extensions=own,
    )


def _entry_extension(kind: int, data: bytes) -> ExtensionText:
    """Describe an extension of the log entry itself."""
    if kind == ACCUMULATED_COUNT:
        return ExtensionText("Accumulated count", str(int.from_bytes(data, "big")))
    return ExtensionText(f"0x{kind:04x}", _short(data))


def _fields(extension: Extension) -> tuple[object, ...]:
    """Return what the kernel reads in an extension; nothing when the value is malformed, which a log may well hold."""
    encoded = extension.encode()
    try:
        return active_kernel().scan_extensions(encoded, 0, len(encoded))
    except Error:
        return (None,) * 6


def _scan(extension: Extension) -> tuple[list[str], list[str]]:
    """Return the DNS names and IP addresses in an extension; none in any other one than the alternative names."""
    names, addresses = _fields(extension)[3:5]
    if not isinstance(names, list) or not isinstance(addresses, list):
        return [], []
    return [name.decode("ascii", "replace") for name in names], [str(ip_address(packed)) for packed in addresses]


def _extension_value(extension: Extension) -> str:
    """Write an extension's value for people, hex where it is not one of the usual ones."""
    is_ca, usage, purposes, names, _, _ = _fields(extension)
    if isinstance(names, list):
        found = _scan(extension)
        return ", ".join(found[0] + found[1])
    if isinstance(is_ca, bool):
        return "a CA" if is_ca else "no CA"
    if isinstance(usage, int):
        return ", ".join(name for bit, name in enumerate(KEY_USAGES) if usage >> bit & 1)
    if isinstance(purposes, int):
        return ", ".join(name for flag, name in _PURPOSES.items() if purposes & flag)
    if extension.oid == _CRL_POINTERS and (urls := _URL.findall(extension.value)):
        return ", ".join(url.decode("ascii") for url in urls)
    return _short(extension.value)


def _key_name(algorithm: bytes) -> str:
    """Name the type of a public key by its AlgorithmIdentifier."""
    reader = DERReader(algorithm, "the key algorithm").enter(Tag.SEQUENCE)
    oid = reader.read_oid()
    name = _KEYS.get(oid, oid)
    if name == "EC" and reader.peek_tag() == Tag.OID:
        curve = reader.read_oid()
        name = f"ECDSA {_CURVES.get(curve, curve)}"
    return name


def _short(data: bytes) -> str:
    """Write bytes in hex, the first ones of many."""
    return data[:_SHOWN_BYTES].hex() + (f"… ({len(data)} bytes)" if len(data) > _SHOWN_BYTES else "")
