"""`mtc trust`."""

import json
import sys

from mtc.cert import CACertificate
from mtc.cli.output import named, read_input
from mtc.cli.verify import find_certificate
from mtc.errors import Error
from mtc.trust import TRUST_STORE_SCHEMA, TrustStore, format_trust_store, trusted_ca_from_certificate


def print_schema() -> None:
    """Print the JSON Schema of the trust store document."""
    sys.stdout.write(json.dumps(TRUST_STORE_SCHEMA, indent=2) + "\n")


def print_store_from_ca(file: str) -> None:
    """Print the trust store document for one CA certificate."""
    data = read_input(file)
    try:
        certificate = CACertificate.parse(find_certificate(data))
        document = format_trust_store(TrustStore([trusted_ca_from_certificate(certificate)]))
    except Error as error:
        raise named(error, file) from None
    sys.stdout.write(document.decode())
