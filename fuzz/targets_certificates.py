"""Fuzz targets around certificates: both kernels and every parser of them, log entries, CAs, keys, verification."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache, partial

from fuzz import corpora
from fuzz.registry import chosen_revision, target
from fuzz.seeds import NOW, issuer_formats, make_signer

from mtc.cert import (
    MAX_ENTRY_BYTES,
    CACertificate,
    Certificate,
    CertificateFacts,
    CertificateRevocationList,
    EntryExtension,
    LogEntry,
    MTCProof,
    RevocationList,
    TBSCertificateLogEntry,
    assemble_crl,
    encode_tbs_crl,
    entry_hash,
    format_name,
    identify_certificate,
    parse_tbs_crl,
)
from mtc.crypto import algorithm_names, parse_private_key, parse_public_key, parse_signature_algorithm
from mtc.errors import Error, FormatError, ProofError, Rejected, SignatureError, UsageError
from mtc.ids import (
    REVISIONS,
    DraftRevision,
    encode_ca_name,
    parse_ca_name,
)
from mtc.kernel import Kernel, Scanner, is_native_built, native_kernel, parse_layout, python_kernel
from mtc.merkle import MAX_TREE_SIZE
from mtc.trust import (
    trusted_ca_from_certificate,
    verify_certificate,
    verify_signature,
    verify_signatures,
)
from mtc.wire import (
    DERReader,
    Tag,
    encode_integer,
    encode_oid,
    encode_time,
    encode_tlv,
)


@cache
def _kernels() -> tuple[Kernel, ...]:
    """Return the kernels that are built."""
    return (python_kernel(), native_kernel()) if is_native_built() else (python_kernel(),)


@cache
def _scanners() -> tuple[Scanner, ...]:
    """Return a scanner of each kernel."""
    return tuple(kernel.scanner(issuer_formats()) for kernel in _kernels())


def _answers(questions: Iterable[Callable[[], object]]) -> object:
    """Return the one answer to all questions, a value or an error's type, reason and offset; they must not differ."""
    answers: list[object] = []
    for ask in questions:
        try:
            answers.append(ask())
        except Error as error:
            answers.append((type(error), error.reason, error.facts.get("offset")))
    assert answers.count(answers[0]) == len(answers), answers
    return answers[0]


@target(corpora.certificate_seeds, is_certificate=True)
def check_certificate(data: bytes) -> None:
    """A certificate is read alike by parser and both kernels, and is rebuilt to the same bytes from its parts."""
    hasher = python_kernel().hasher("sha256")
    facts = identify_certificate(data)
    scan = _answers([partial(scanner.scan, data) for scanner in _scanners()])
    try:
        certificate = Certificate.parse(data)
    except (FormatError, Rejected):
        assert not isinstance(scan, tuple) or isinstance(scan[0], type), "the kernels accept what the parser refuses"
        return
    assert certificate.layout == parse_layout(data)
    assert facts == CertificateFacts(certificate.ca_id, certificate.log_number, certificate.index)
    assert certificate.with_proof(certificate.proof) == data
    entry = certificate.log_entry(hasher)
    # What verifies must be readable for those who follow the log.
    if len(entry.encode(REVISIONS["plants-04"])) <= MAX_ENTRY_BYTES:
        again = LogEntry.parse(entry.encode())
        assert again == entry
        tbs = again.tbs_certificate
        assert tbs is not None
        rebuilt = Certificate.build(tbs, certificate.spki, certificate.serial, certificate.proof, certificate.revision)
        assert rebuilt == data
        assert (tbs.not_before, tbs.not_after) == (certificate.not_before, certificate.not_after)
        assert tbs.extensions == certificate.extensions
    with suppress(FormatError):
        format_name(certificate.subject)


@target(corpora.extension_seeds, is_certificate=True)
def check_extensions(data: bytes) -> None:
    """Both kernels read an Extensions block alike."""
    with suppress(FormatError):
        _, start, end = DERReader(data, "the extensions").read_header(Tag.SEQUENCE)
        _answers([partial(kernel.scan_extensions, data, start, end) for kernel in _kernels()])
    _answers([partial(kernel.scan_extensions, data, 0, len(data)) for kernel in _kernels()])


@target(corpora.proof_seeds)
def check_mtc_proof(data: bytes) -> None:
    """An MTCProof of any revision that parses is encoded to the same bytes; its names can be written."""
    revision = chosen_revision(data)
    try:
        proof = MTCProof.parse(data[1:], revision)
    except FormatError:
        return
    assert proof.subtree.end <= MAX_TREE_SIZE
    assert proof.encode(revision) == data[1:]
    assert all(signature.name for signature in proof.signatures)


@target(corpora.tree_proof_seeds)
def check_tree_proofs(data: bytes) -> None:
    """Both kernels evaluate inclusion proofs and verify consistency proofs alike: values, or errors with a reason."""
    if len(data) < 84:
        return
    name = ("sha256", "sm3")[data[0] & 1]
    start, end, place = (int.from_bytes(data[at : at + 6], "big") for at in (1, 7, 13))
    value, root, proof = data[20:52], data[52:84], data[84:]
    twins = [(kernel.evaluate_inclusion, kernel.verify_consistency) for kernel in _kernels()]
    _answers([partial(evaluate, name, start, end, place, value, proof) for evaluate, _ in twins])
    _answers([partial(verify, name, start, end, place, value, root, proof) for _, verify in twins])


@target(corpora.log_entry_seeds)
def check_log_entry(data: bytes) -> None:
    """A log entry that parses is encoded to the same bytes, hashes, and its parts can be read."""
    try:
        entry = LogEntry.parse(data)
    except FormatError:
        return
    assert entry.encode() == data
    hasher = python_kernel().hasher("sha256")
    assert entry_hash(hasher, entry) == hasher.leaf(data)
    assert all(isinstance(extension, EntryExtension) for extension in entry.extensions)
    if entry.tbs_certificate is not None:
        check_tbs_entry(entry.body)


@target(corpora.tbs_entry_seeds)
def check_tbs_entry(data: bytes) -> None:
    """A TBSCertificateLogEntry that parses is encoded to the same bytes, its fields are readable, a certificate parses.

    The certificate is made of it with a key whose hash does not matter, and must not be refused for its fields.
    """
    try:
        entry = TBSCertificateLogEntry.parse(data)
    except FormatError:
        return
    assert entry.encode() == data
    _, _, _, _ = entry.not_before, entry.not_after, entry.extensions, entry.unique_ids
    with suppress(FormatError):
        ca_id = entry.ca_id
        _, name_oid = parse_ca_name(entry.issuer)
        revision = next(item for item in reversed(REVISIONS.values()) if item.name_oid == name_oid)
        spki = encode_tlv(Tag.SEQUENCE, entry.spki_algorithm + encode_tlv(Tag.BIT_STRING, b"\x00key"))
        der = _empty_certificate(entry, spki, revision)
        assert identify_certificate(der) == CertificateFacts(ca_id, 1, 0), "no certificate has these fields"


def _empty_certificate(entry: TBSCertificateLogEntry, spki: bytes, revision: DraftRevision) -> bytes:
    """Return a certificate for an entry, with a proof of one entry that proves nothing."""
    proof = MTCProof.parse(bytes(13) + b"\x01" + bytes(2 + revision.signatures_width), revision)
    return Certificate.build(entry, spki, 1 << 48, proof, revision)


@target(corpora.ca_certificate_seeds, is_certificate=True)
def check_ca_certificate(data: bytes) -> None:
    """A CA certificate that parses makes a trusted CA whose own bounds are its revoked ranges."""
    try:
        certificate = CACertificate.parse(data)
    except (FormatError, Rejected):
        return
    trusted = trusted_ca_from_certificate(certificate)
    assert trusted.name == data[slice(*_subject_of(data))]
    for serial in (certificate.min_serial, certificate.max_serial):
        assert (serial in trusted.revoked) == (certificate.min_serial > certificate.max_serial)


def _subject_of(data: bytes) -> tuple[int, int]:
    """Return where the subject lies."""
    layout = parse_layout(data)
    return layout.subject_start, layout.spki_start


@target(corpora.revocation_list_seeds, is_certificate=True)
def check_revocation_list(data: bytes) -> None:
    """A revocation list that parses is encoded to the same bytes, and what it revokes can be asked for."""
    try:
        crl = CertificateRevocationList.parse(data)
    except FormatError:
        return
    tbs = crl.tbs
    assert parse_tbs_crl(crl.message) == tbs
    assert assemble_crl(encode_tbs_crl(tbs), tbs.algorithm, crl.signature) == data
    assert tbs.ca_id == parse_ca_name(tbs.issuer)[0]
    key = parse_public_key(make_signer("ml-dsa-44", 1).public_key, parse_signature_algorithm("ml-dsa-44"))
    with suppress(Rejected, SignatureError):
        proven = crl.verify(key, tbs.issuer, NOW)
        assert crl.message in _signed_lists(), "a revocation list verifies that nobody signed"
        assert isinstance(proven, RevocationList) == (tbs.ranges is not None)


@cache
def _signed_lists() -> frozenset[bytes]:
    """Return what was signed of the genuine revocation lists."""
    return frozenset(CertificateRevocationList.parse(seed).message for seed in corpora.revocation_list_seeds())


@target(corpora.der_seeds, is_certificate=True)
def check_der_reader(data: bytes) -> None:
    """Every TLV that is read is encoded to the same bytes, and so are the integers, OIDs and times in it."""
    reader = DERReader(data, "the value")
    with suppress(FormatError):
        _check_items(data, reader, 0)


def _check_items(data: bytes, reader: DERReader, depth: int) -> None:
    """Check the TLVs in front of a reader."""
    for item in reader.items():
        at = item.offset
        tag, start, end = item.read_header()
        assert item.is_empty
        whole = data[at:end]
        assert encode_tlv(tag, data[start:end]) == whole
        if tag & 0x20 and depth < 50:
            _check_items(data, DERReader(data, "the value", start, end), depth + 1)
        again = DERReader(data, "the value", at, end)
        with suppress(FormatError):
            if tag == Tag.INTEGER:
                assert encode_integer(again.read_integer()) == whole
            elif tag == Tag.OID:
                assert encode_oid(again.read_oid()) == whole
            elif tag in (Tag.UTC_TIME, Tag.GENERALIZED_TIME):
                moment = again.read_time()
                written = DERReader(encode_time(moment), "the time")
                assert written.read_time() == moment
            elif tag == Tag.BOOLEAN:
                again.read_boolean()
            elif tag == Tag.BIT_STRING:
                assert again.read_bit_string() == data[start + 1 : end]


@target(corpora.ca_name_seeds, is_certificate=True)
def check_ca_name(data: bytes) -> None:
    """A CA's name that parses is encoded to the same bytes by every revision with that attribute."""
    with suppress(FormatError):
        format_name(data)
    try:
        ca_id, oid = parse_ca_name(data)
    except FormatError:
        return
    revisions = [revision for revision in REVISIONS.values() if revision.name_oid == oid]
    assert revisions
    assert all(encode_ca_name(ca_id, revision) == data for revision in revisions)


@target(corpora.verify_seeds, is_certificate=True)
def check_verify(data: bytes) -> None:
    """Only certificates whose covered bytes are genuine verify: the TBSCertificate and the entry extensions.

    And a batch gives the same verdict.
    """
    store = corpora.trust_store()
    (batched,) = verify_signatures([data], store, NOW)
    refusal: Error | None = None
    try:
        verify_signature(data, store, NOW)
    except (FormatError, ProofError, Rejected) as error:
        refusal = error
    if isinstance(batched, Error):
        assert refusal is not None
        assert batched.__reduce__() == refusal.__reduce__()
    else:
        assert refusal is None
    for verify in (verify_signature, verify_certificate):
        try:
            verified = verify(data, store, NOW)
        except (FormatError, ProofError, Rejected):
            continue
        assert _covered(data) in _genuine(), "a certificate verifies that nobody issued"
        assert verified.certificate.ca_id == verified.ca.ca_id
        assert (verified.log_number, verified.index) == (
            verified.certificate.log_number,
            verified.certificate.index,
        )


def _covered(der: bytes) -> tuple[bytes, tuple[EntryExtension, ...]]:
    """Return what of a certificate its log entry and its place in the log cover."""
    certificate = Certificate.parse(der)
    return certificate.tbs, certificate.proof.extensions


@cache
def _genuine() -> frozenset[tuple[bytes, tuple[EntryExtension, ...]]]:
    """Return what the genuine certificates cover."""
    return frozenset(_covered(seed.der) for seed in corpora.genuine())


@target(corpora.private_key_seeds)
def check_keys(data: bytes) -> None:
    """A key file is read or refused; a private key is written to text that is read to the same key."""
    for name in algorithm_names():
        with suppress(FormatError):
            key = parse_public_key(data, parse_signature_algorithm(name))
            assert key.public_key == data
            with suppress(SignatureError):
                key.verify(b"message", data)
    with suppress(FormatError, UsageError):
        signer = parse_private_key(data)
        assert parse_private_key(signer.encode_pem()).public_key == signer.public_key
