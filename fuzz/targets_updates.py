"""Fuzz targets of landmark updates: what a service that nobody trusts sends, and what a user writes by hand."""

from contextlib import suppress

from fuzz.registry import target

from mtc.errors import FormatError, UsageError
from mtc.trust import TrustStore
from mtc.trust.updater import UpdaterConfig, format_updater_config, parse_pinned_key, parse_updater_config
from mtc.trust.updates import PolicyDocument, SignedDocument, UpdateState, UpdateTrust, unsigned_policy
from mtc.trust.updates.envelope import POLICY_LABEL
from mtc.trust.updates.formats import Update

# A SubjectPublicKeyInfo of Ed25519 (RFC 8410); the point is the base point's y in one of its encodings.
_ED25519 = bytes.fromhex("302a300506032b6570032100") + bytes([0x58, *[0x66] * 31])


def document_seeds() -> list[bytes]:
    """Return a policy document as signed by nobody, its payload, a state with it, and updates that hold it."""
    policy = PolicyDocument(version=7, issued=1, expires=9, store=TrustStore([]))
    document = unsigned_policy(policy)
    update = Update(version=8, base=0, policy_digest=policy.digest, policy=document.encode(), logs=())
    delta = Update(version=8, base=7, policy_digest=policy.digest, policy=b"", logs=())
    return [document.encode(), policy.payload, update.encode(), delta.encode(), UpdateState().encode()]


@target(document_seeds)
def check_update_documents(data: bytes) -> None:
    """What parses as a document, an update or a state has one form; a policy keeps the bytes that it was read from."""
    with suppress(FormatError):
        document = SignedDocument.parse(data, POLICY_LABEL)
        assert document.encode() == data
    with suppress(FormatError):
        assert PolicyDocument.parse(data).payload == data
    with suppress(FormatError):
        assert Update.parse(data).encode() == data
    with suppress(FormatError):
        assert UpdateState.parse(data).encode() == data


def configuration_seeds() -> list[bytes]:
    """Return configurations with keys and without, and a key by itself."""
    key = parse_pinned_key(_ED25519)
    config = UpdaterConfig("https://updates.example/", UpdateTrust((key,), (key,)))
    return [format_updater_config(config).encode(), b'url = "https://a"\npolicy_keys = []\n', _ED25519]


@target(configuration_seeds)
def check_updater_configuration(data: bytes) -> None:
    """A configuration that parses survives being written; a key that is read has the bytes that it was read from."""
    with suppress(UsageError):
        text = format_updater_config(parse_updater_config(data))
        assert format_updater_config(parse_updater_config(text.encode())) == text
    with suppress(FormatError):
        assert parse_pinned_key(data).public_key == data
