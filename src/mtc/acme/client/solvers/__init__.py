"""Answers to challenges: a web server or a folder of one for http-01, a hook for dns-01, a TLS server for tls-alpn-01.

Spec: RFC 8555, "Identifier Validation Challenges"; RFC 8737 (tls-alpn-01); RFC 8738 (IP identifiers).
"""

from mtc.acme.client.solvers.contract import Answer, Solver
from mtc.acme.client.solvers.hook import HookSolver, dns_name, dns_value
from mtc.acme.client.solvers.http import HTTPSolver, WebrootSolver
from mtc.acme.client.solvers.tls import TLSALPNSolver, make_challenge_certificate

__all__ = [
    "Answer",
    "HTTPSolver",
    "HookSolver",
    "Solver",
    "TLSALPNSolver",
    "WebrootSolver",
    "dns_name",
    "dns_value",
    "make_challenge_certificate",
]
