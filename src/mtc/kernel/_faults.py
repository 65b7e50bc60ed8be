"""One table of what a certificate scan can find wrong, so that both twins raise the same error."""

from mtc.errors import Error, FormatError, ProofError, Reason, Rejected

_TEXTS: dict[Reason, tuple[type[Error], str]] = {
    Reason.TRUNCATED: (FormatError, "the certificate ends inside a value that starts"),
    Reason.TRAILING_DATA: (FormatError, "the certificate has bytes too many"),
    Reason.TOO_LARGE: (FormatError, "the certificate is larger, or has more parts, than is read here"),
    Reason.BAD_TAG: (FormatError, "the certificate has an unexpected tag"),
    Reason.BAD_LENGTH: (FormatError, "the certificate has a length that is indefinite, oversized or not minimal"),
    Reason.BAD_INTEGER: (FormatError, "the certificate has an integer that is empty or not minimal"),
    Reason.BAD_BOOLEAN: (FormatError, "the certificate has a boolean that DER does not allow"),
    Reason.BAD_OID: (FormatError, "the certificate has an object identifier that is empty or not minimal"),
    Reason.BAD_BIT_STRING: (FormatError, "the certificate has a bit string with wrong or unused bits"),
    Reason.BAD_STRING: (FormatError, "the certificate has a string with characters that its type does not have"),
    Reason.BAD_TIME: (FormatError, "the certificate has a time that is not YYMMDDHHMMSSZ or YYYYMMDDHHMMSSZ"),
    Reason.BAD_VERSION: (FormatError, "the certificate has a version that does not exist or does not allow this field"),
    Reason.BAD_EXTENSION: (FormatError, "the certificate has a malformed extension"),
    Reason.DUPLICATE_EXTENSION: (FormatError, "the certificate has the same extension twice"),
    Reason.BAD_TRUST_ANCHOR_ID: (FormatError, "the MTCProof has a cosigner ID that is empty or too long"),
    Reason.BAD_ORDER: (FormatError, "the MTCProof has entry extensions or cosigners out of order"),
    Reason.DUPLICATE: (FormatError, "the MTCProof has the same entry extension or cosigner twice"),
    Reason.BAD_PROOF_LENGTH: (FormatError, "the MTCProof has an inclusion proof that does not hold whole hashes"),
    Reason.BAD_SUBTREE: (FormatError, "the MTCProof's [start, end) is not a subtree"),
    Reason.ALGORITHM_MISMATCH: (FormatError, "the certificate's two signature algorithms differ"),
    Reason.SERIAL_OUT_OF_RANGE: (FormatError, "the certificate's serial number is negative or above 2^64 - 1"),
    Reason.LOG_NUMBER_ZERO: (FormatError, "the certificate's serial number names log 0, which does not exist"),
    Reason.INDEX_NOT_IN_SUBTREE: (ProofError, "the certificate's entry index is not in the MTCProof's subtree"),
    Reason.PROOF_TOO_LONG: (ProofError, "the inclusion proof has more hashes than the subtree has levels"),
    Reason.PROOF_TOO_SHORT: (ProofError, "the inclusion proof ends before the top of the subtree"),
    Reason.UNKNOWN_CA: (Rejected, "the certificate's issuer is no CA of the trust store"),
    Reason.NOT_MTC: (
        Rejected,
        "the certificate's signature algorithm is not id-alg-mtcProof as its CA's draft writes it",
    ),
}


def scan_fault(reason: str, offset: int) -> Error:
    """Return the error for a fault found while scanning a certificate.

    reason: the value of a `Reason` in the table. offset: where in the DER, in bytes. The native twin calls this too.
    """
    key = Reason(reason)
    family, text = _TEXTS[key]
    return family(key, f"{text} (byte {offset})", offset=offset)


def fault(reason: Reason, offset: int) -> Error:
    """`scan_fault` for callers on this side of the border."""
    return scan_fault(reason, offset)
