"""Validation from one place: DNS, CAA, http-01, dns-01 and tls-alpn-01, as a public CA does them.

settings = ValidationSettings(servers=("127.0.0.1",), dnssec=DNSSEC.RESOLVER)
perspective = LocalPerspective(settings)
await perspective.check()
report = await perspective.examine(task)
"""

from mtc.acme.validation.connecting import Connect, connect_directly
from mtc.acme.validation.dns01 import digest_text
from mtc.acme.validation.local import LocalPerspective
from mtc.acme.validation.resolver import check_resolver
from mtc.acme.validation.settings import DNSSEC, ValidationSettings

__all__ = [
    "DNSSEC",
    "Connect",
    "LocalPerspective",
    "ValidationSettings",
    "check_resolver",
    "connect_directly",
    "digest_text",
]
