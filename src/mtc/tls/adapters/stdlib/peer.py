"""A verified Merkle Tree certificate in the form of `ssl.SSLSocket.getpeercert()`.

OpenSSL 3 cannot print the issuer's name (a RELATIVE-OID) and fails as a whole; asyncio asks after each handshake.
"""

from datetime import datetime
from ipaddress import ip_address

from mtc.kernel import active_kernel
from mtc.trust import VerifiedSignature
from mtc.wire import DERReader, Tag

_NAMES = {
    "2.5.4.3": "commonName",
    "2.5.4.6": "countryName",
    "2.5.4.7": "localityName",
    "2.5.4.8": "stateOrProvinceName",
    "2.5.4.10": "organizationName",
    "2.5.4.11": "organizationalUnitName",
}

RDNs = tuple[tuple[tuple[str, str], ...], ...]


def describe_peer(verified: VerifiedSignature) -> dict[str, object]:
    """Return what `getpeercert()` has: subject, issuer, version, serialNumber, notBefore, notAfter, subjectAltName."""
    certificate = verified.certificate
    layout = certificate.layout
    described: dict[str, object] = {
        "subject": describe_name(certificate.subject),
        "issuer": (((certificate.revision.name_oid, str(certificate.ca_id)),),),
        "version": layout.version + 1,
        "serialNumber": describe_serial(certificate.serial),
        "notBefore": describe_time(certificate.not_before),
        "notAfter": describe_time(certificate.not_after),
    }
    if layout.extensions_end:
        found = active_kernel().scan_extensions(verified.der, layout.extensions_start, layout.extensions_end)
        dns_names, addresses = found[3:5]
        if dns_names is not None:
            names = [("DNS", name.decode("ascii", "replace")) for name in dns_names]
            names += [("IP Address", str(ip_address(packed))) for packed in addresses or ()]
            described["subjectAltName"] = tuple(names)
    return described


def describe_serial(serial: int) -> str:
    """Return a serial number as OpenSSL prints it: whole bytes, capital."""
    return serial.to_bytes((serial.bit_length() + 7) // 8 or 1, "big").hex().upper()


def describe_time(moment: datetime) -> str:
    """Return a time as OpenSSL prints it, whatever the locale."""
    month = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")[moment.month - 1]
    return f"{month} {moment.day:2} {moment:%H:%M:%S} {moment.year} GMT"


def describe_name(name: bytes) -> RDNs:
    """Return the attributes of a name. Values that are no text stand in hexadecimal."""
    rdns = DERReader(name, "the subject").enter(Tag.SEQUENCE)
    described: list[tuple[tuple[str, str], ...]] = []
    while not rdns.is_empty:
        rdn = rdns.enter(Tag.SET)
        attributes: list[tuple[str, str]] = []
        while not rdn.is_empty:
            attribute = rdn.enter(Tag.SEQUENCE)
            oid = attribute.read_oid()
            tag = attribute.peek_tag()
            value = attribute.read(tag or 0)
            text = value.decode("utf-8", "replace") if tag in {0x0C, 0x13, 0x16} else "#" + value.hex()
            attributes.append((_NAMES.get(oid, oid), text))
        described.append(tuple(attributes))
    return tuple(described)
