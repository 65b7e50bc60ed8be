"""Certificate requests in finalize: they must ask for exactly what the order was made for.

Spec: RFC 8555, "Applying for Certificate Issuance" (finalize); RFC 8738, "IP Identifier".
"""

from collections.abc import Sequence

from mtc.acme.machine.identifiers import Identifier
from mtc.acme.machine.problems import ProblemError, ProblemType, refused
from mtc.ca.csr import CSR
from mtc.errors import FormatError

_MAX_SHOWN = 5


def check_csr(csr: CSR, identifiers: Sequence[Identifier]) -> None:
    """Raise ProblemError (badCSR) unless the names of a request are the identifiers of its order, all and no others.

    A commonName counts as one of the names, because clients that are old put one there.
    """
    if csr.other_names:
        raise _bad(f"the request has {csr.other_names} names that are neither DNS names nor IP addresses")
    try:
        asked = {Identifier.dns(name) for name in csr.dns_names} | {Identifier.ip(text) for text in csr.ip_addresses}
        asked |= {_of_common_name(text) for text in csr.subject_cns}
    except FormatError as error:
        raise _bad(f"a name in the request cannot be used: {error.message}") from None
    ordered = set(identifiers)
    if extra := sorted(asked - ordered):
        raise _bad(f"the request has names that the order has not: {_list(extra)}")
    if missing := sorted(ordered - asked):
        raise _bad(f"the request lacks names of the order: {_list(missing)}")


def _of_common_name(text: str) -> Identifier:
    """Return the identifier in a commonName. Raises FormatError."""
    try:
        return Identifier.ip(text)
    except FormatError:
        return Identifier.dns(text)


def _list(identifiers: Sequence[Identifier]) -> str:
    """Return some identifiers for people."""
    more = f" and {len(identifiers) - _MAX_SHOWN} more" if len(identifiers) > _MAX_SHOWN else ""
    return ", ".join(map(str, identifiers[:_MAX_SHOWN])) + more


def _bad(detail: str) -> ProblemError:
    """Make the error."""
    return refused(ProblemType.BAD_CSR, detail)
