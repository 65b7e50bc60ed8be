"""The small CA of the verification tests, its certificates, and what it means that one is accepted or refused."""

from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from typing import Any

import pytest
from tests.makers import (
    NOW,
    RawProof,
    SmallCA,
)

from mtc.errors import Error, Reason
from mtc.kernel import Kernel
from mtc.merkle import Subtree
from mtc.trust import (
    Form,
    TrustStore,
    VerifiedSignature,
    verify_signature,
    verify_signatures,
)

CA, WITNESS, MIRROR = "32473.1", "32473.9.1", "32473.9.2"
FIRST_8 = Subtree(0, 8)
EXPIRY = int(NOW.timestamp())


@lru_cache
def small_ca() -> SmallCA:
    """Return the CA of most tests; it is never changed."""
    return SmallCA()


@lru_cache
def landmark_der() -> bytes:
    """Return the landmark-relative certificate of entry 3 in [0, 8)."""
    return small_ca().certificate(3, FIRST_8)


@lru_cache
def standalone_der() -> bytes:
    """Return the standalone certificate of entry 3 in [0, 8), cosigned by the CA and one witness."""
    return small_ca().certificate(3, FIRST_8, [CA, WITNESS])


def trusting(kernel: Kernel, **changes: Any) -> TrustStore:  # noqa: ANN401 - what a store can be told
    """Return a store that trusts [0, 8) of the log, and the CA's cosignature alone."""
    ca = small_ca()
    return ca.store(kernel, **({"subtrees": [ca.trusted_subtree(0, 8)]} | changes))


def cosigned(kernel: Kernel, **changes: Any) -> TrustStore:  # noqa: ANN401 - what a store can be told
    """Return a store that trusts no subtree."""
    return small_ca().store(kernel, **changes)


def refused(der: bytes, store: TrustStore, reason: Reason, family: type[Error], now: datetime = NOW) -> Error:
    """Assert that a certificate is refused, alone and in a batch, and return the error."""
    with pytest.raises(family) as caught:
        verify_signature(der, store, now)
    assert caught.value.reason is reason
    (batched,) = verify_signatures([der], store, now)
    assert isinstance(batched, family)
    assert (batched.reason, batched.message, batched.facts) == (reason, caught.value.message, caught.value.facts)
    return caught.value


def accepted(der: bytes, store: TrustStore, form: Form, now: datetime = NOW) -> VerifiedSignature:
    """Assert that a certificate verifies in a form, alone and in a batch, and return what was verified."""
    verified = verify_signature(der, store, now)
    assert verified.form is form
    (batched,) = verify_signatures([der], store, now)
    assert isinstance(batched, VerifiedSignature)
    assert (batched.form, batched.cosigners) == (form, verified.cosigners)
    return verified


def by(*cosigners: str) -> bytes:
    """Return the certificate of entry 3 cosigned by some."""
    return small_ca().certificate(3, FIRST_8, cosigners)


def raw(**changes: Any) -> bytes:  # noqa: ANN401 - any field
    """Return the certificate of entry 3 in [0, 8) with parts of its proof changed."""
    proof = replace(RawProof.of(small_ca().proof(3, FIRST_8)), **changes)
    return small_ca().parts(3, proof=proof).encode()
