"""A classical certificate in the form of `ssl.SSLSocket.getpeercert()`."""

from ipaddress import ip_address

from cryptography import x509

from mtc.kernel import active_kernel, parse_layout
from mtc.tls.adapters.stdlib.peer import describe_name, describe_serial, describe_time


def describe_classical(der: bytes) -> dict[str, object]:
    """Return what `getpeercert()` has: subject, issuer, version, serialNumber, notBefore, notAfter, subjectAltName."""
    certificate = x509.load_der_x509_certificate(der)
    described: dict[str, object] = {
        "subject": describe_name(certificate.subject.public_bytes()),
        "issuer": describe_name(certificate.issuer.public_bytes()),
        "version": certificate.version.value + 1,
        "serialNumber": describe_serial(certificate.serial_number),
        "notBefore": describe_time(certificate.not_valid_before_utc),
        "notAfter": describe_time(certificate.not_valid_after_utc),
    }
    layout = parse_layout(der)
    if layout.extensions_end:
        found = active_kernel().scan_extensions(der, layout.extensions_start, layout.extensions_end)
        dns_names, addresses = found[3:5]
        names = [("DNS", name.decode("ascii", "replace")) for name in dns_names or ()]
        names += [("IP Address", str(ip_address(packed))) for packed in addresses or ()]
        if names:
            described["subjectAltName"] = tuple(names)
    return described
