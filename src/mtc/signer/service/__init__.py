"""The process that holds the key: a Unix socket, a record of its own, a journal, and nothing else."""

from mtc.signer.service.backends import KeyOpener, open_key, register_key_backend
from mtc.signer.service.client import SignerClient
from mtc.signer.service.folder import (
    JOURNAL_NAME,
    KEY_NAME,
    PASSPHRASE_VARIABLE,
    REGISTER_NAME,
    SOCKET_NAME,
    LoadedSigner,
    create_signer,
    load_signer,
    read_passphrase,
    read_signer_config,
)
from mtc.signer.service.journal import Journal, read_journal
from mtc.signer.service.keyholder import CRL_NAME, LOG_NAME, KeyHolder, ThreadSigner
from mtc.signer.service.process import SignerProcess
from mtc.signer.service.run import RunningSigner, SignerStatus, read_status, running_signer
from mtc.signer.service.server import Report, serve_signer

__all__ = [
    "CRL_NAME",
    "JOURNAL_NAME",
    "KEY_NAME",
    "LOG_NAME",
    "PASSPHRASE_VARIABLE",
    "REGISTER_NAME",
    "SOCKET_NAME",
    "Journal",
    "KeyHolder",
    "KeyOpener",
    "LoadedSigner",
    "Report",
    "RunningSigner",
    "SignerClient",
    "SignerProcess",
    "SignerStatus",
    "ThreadSigner",
    "create_signer",
    "load_signer",
    "open_key",
    "read_journal",
    "read_passphrase",
    "read_signer_config",
    "read_status",
    "register_key_backend",
    "running_signer",
    "serve_signer",
]
