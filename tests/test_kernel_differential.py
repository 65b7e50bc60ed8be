"""Both kernels and the strict parser on some ten thousand mutated certificates; fuzz/kernels.py does millions."""

from dataclasses import replace
from functools import cache

import pytest
from fuzz.kernels import Outcome, run_chunk
from fuzz.seeds import Recipe, build, issuer_formats, issuer_of

from mtc.cert import Certificate, Extension, TBSCertificateLogEntry
from mtc.errors import FormatError, Reason
from mtc.ids import DEFAULT_REVISION
from mtc.kernel import Kernel, is_native_built, native_kernel, python_kernel

EXECUTIONS = 20_000
SEED = 20_261_121
DEEP_REASONS = {
    Reason.BAD_ORDER,
    Reason.DUPLICATE,
    Reason.DUPLICATE_EXTENSION,
    Reason.BAD_SUBTREE,
    Reason.BAD_PROOF_LENGTH,
    Reason.BAD_TRUST_ANCHOR_ID,
    Reason.INDEX_NOT_IN_SUBTREE,
    Reason.PROOF_TOO_LONG,
    Reason.PROOF_TOO_SHORT,
    Reason.ALGORITHM_MISMATCH,
    Reason.NOT_MTC,
    Reason.UNKNOWN_CA,
    Reason.SERIAL_OUT_OF_RANGE,
    Reason.LOG_NUMBER_ZERO,
}
"""What a scan finds only behind everything else; a run that does not reach these tests nothing."""


@cache
def _outcome(executions: int, *, with_native: bool) -> Outcome:
    """Run the first chunk once for all tests."""
    kernels = (python_kernel(), native_kernel()) if with_native else (python_kernel(), python_kernel())
    return run_chunk(SEED, 0, executions, kernels)


def test_the_twins_agree_on_mutated_certificates(twins: tuple[Kernel, Kernel]) -> None:
    """Both kernels give the same values, or the same error at the same offset, for every mutated certificate."""
    assert twins[0].name != twins[1].name
    outcome = _outcome(EXECUTIONS, with_native=True)
    assert outcome.findings == []
    assert outcome.executions == EXECUTIONS


def test_a_scan_never_accepts_more_than_the_strict_parser() -> None:
    """What a scan accepts `Certificate.parse` accepts with the same values; what a scan calls malformed it refuses."""
    outcome = _outcome(EXECUTIONS, with_native=is_native_built())
    assert outcome.findings == []
    assert outcome.parse_checks > outcome.accepted


def test_mutations_reach_deep_reasons() -> None:
    """The mutations are accepted often enough, and refused for reasons that lie behind all others."""
    outcome = _outcome(EXECUTIONS, with_native=is_native_built())
    assert outcome.accepted > outcome.scans // 10
    reached = {reason.partition(".")[2] for reason in outcome.reasons}
    assert reached >= DEEP_REASONS


@pytest.mark.parametrize("arcs", [511, 512])
def test_an_object_identifier_has_at_most_512_bytes(arcs: int, kernel: Kernel) -> None:
    """A kernel reads as long an extension OID as the parsers of log entries do, and no longer one."""
    extension = Extension("1.3" + ".127" * arcs, b"\x05\x00")
    seed = build(
        Recipe(revision=DEFAULT_REVISION, ca_id=issuer_of(DEFAULT_REVISION, "sha256"), extensions=(extension,))
    )
    scan = kernel.scanner(issuer_formats()).scan
    if arcs == 511:
        assert scan(seed.der)[6] == seed.root
        assert Certificate.parse(seed.der).extensions == (extension,)
    else:
        with pytest.raises(FormatError) as caught:
            scan(seed.der)
        assert caught.value.reason is Reason.TOO_LARGE


@pytest.mark.parametrize(
    ("unique_id", "is_good"),
    [
        ("8102000a", True),
        ("820304abc0", True),
        ("810100", True),
        ("820304abcf", False),
        ("810101", False),
        ("8100", False),
    ],
)
def test_unused_bits_are_zero(unique_id: str, kernel: Kernel, *, is_good: bool) -> None:
    """Unused bits of a bit string are there and zero, or neither a kernel nor the log entry's parser reads it."""
    revision = DEFAULT_REVISION
    plain = build(Recipe(revision=revision, ca_id=issuer_of(revision, "sha256"), extensions=()))
    certificate = Certificate.parse(plain.der)
    entry = certificate.log_entry(kernel.hasher("sha256")).tbs_certificate
    assert entry is not None
    damaged = replace(entry, tail=bytes.fromhex(unique_id))
    der = Certificate.build(damaged, certificate.spki, certificate.serial, certificate.proof, revision)
    scan = kernel.scanner(issuer_formats()).scan
    if is_good:
        scan(der)
        assert TBSCertificateLogEntry.parse(damaged.encode()) == damaged
        return
    with pytest.raises(FormatError) as caught:
        scan(der)
    assert caught.value.reason is Reason.BAD_BIT_STRING
    with pytest.raises(FormatError) as caught:
        TBSCertificateLogEntry.parse(damaged.encode())
    assert caught.value.reason is Reason.BAD_BIT_STRING


@pytest.mark.slow
def test_the_twins_agree_on_a_million(twins: tuple[Kernel, Kernel]) -> None:
    """Both kernels agree on another million of inputs."""
    for chunk in range(40):
        outcome = run_chunk(SEED, chunk, 25_000, twins)
        assert outcome.findings == []
