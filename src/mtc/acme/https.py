"""The HTTPS of the ACME server: a classical certificate and, for clients that trust the CA, a Merkle Tree certificate.

The latter lies in a folder of `mtc request`, which may well have ordered it from this very server. So there need be
none at the first start: until it is there the classical one serves all, and it always serves those who cannot use the
other.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from mtc.acme.config import FOLDER_NAME, ACMEConfig
from mtc.errors import Error, FormatError, Reason, UsageError
from mtc.tls import CertificationPath, ServerContext, load_request_folder, parse_paths, server_context
from mtc.web.clock import Clock
from mtc.web.files import file_stamp, read_config_file
from mtc.web.logs import open_logger
from mtc.web.tls import CIPHERS_OF_TLS12, MAX_FILE_BYTES, ServerTLS, TLSFiles, ensure_bootstrap, keep_fresh

FOLLOW_S = 10.0
"""How often a renewed Merkle Tree certificate is looked for, in seconds."""
_LOG = open_logger("acme")


@asynccontextmanager
async def open_https(folder: Path, config: ACMEConfig, clock: Clock) -> AsyncIterator[ssl.SSLContext | None]:
    """Give the context to serve with, which follows its files until the end; None behind a proxy.

    folder: of the CA. Raises UsageError and FormatError for files that are there and cannot be used, and StorageError
    when the bootstrap certificate cannot be written.
    """
    if config.tls == "none":
        yield None
        return
    home = folder / FOLDER_NAME

    def renew() -> TLSFiles:
        return ensure_bootstrap(home, [config.hostname], clock.now())

    def keep() -> TLSFiles:
        return TLSFiles(folder / str(config.certificate), folder / str(config.key))

    find = renew if config.tls == "bootstrap" else keep
    async with contextlib.AsyncExitStack() as stack:
        if config.requested is None:
            tls = ServerTLS(find())
            task = asyncio.create_task(keep_fresh(tls, find))
            context: ssl.SSLContext = tls.context
        else:
            own = OwnCertificates(folder / config.requested, find, clock)
            task = asyncio.create_task(_follow(own))
            context = own.context
        stack.callback(task.cancel)
        yield context


class OwnCertificates:
    """Both certificates of a server of ours, and the context that sends each client the one for it.

    requested: the folder of `mtc request` (DIR/NAME). classical: makes, renews or only names the files of the classical
    certificate.
    """

    def __init__(self, requested: Path, classical: Callable[[], TLSFiles], clock: Clock) -> None:
        """Load what is there. Raises UsageError, also where this Python cannot do it, and FormatError."""
        self._requested, self._classical = requested, classical
        self._stamp = self._now_there()
        paths, fallback = self._load()
        self.context: ServerContext = server_context(paths, fallback=fallback, clock=clock)
        self.context.set_ciphers(CIPHERS_OF_TLS12)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        self.context.set_alpn_protocols(["http/1.1"])

    @property
    def has_requested(self) -> bool:
        """True when a Merkle Tree certificate is served, as long as it is valid."""
        return any(path.is_mtc for path in self.context.paths)

    def reload(self) -> bool:
        """Take over what changed; tell whether anything did. Raises Error, and what is served stays as it was."""
        stamp = self._now_there()
        if stamp == self._stamp:
            return False
        paths, fallback = self._load()
        self.context.reload(paths, fallback=fallback)
        self._stamp = stamp
        return True

    def _now_there(self) -> tuple[object, ...]:
        """Return what changes when one of the files does. A landmark-relative certificate joins a version later."""
        files, version = self._classical(), (self._requested / "current").resolve()
        ours = [version / name for name in ("key.pem", "standalone.pem", "landmark.pem")]
        return version, *(file_stamp(path) for path in (files.certificate, files.key, *ours))

    def _load(self) -> tuple[tuple[CertificationPath, ...], CertificationPath]:
        """Read all files. Without a version that is deployed there is the classical certificate alone."""
        files = self._classical()
        fallback = _read_path(files)
        if not (self._requested / "current").exists():
            return (), fallback
        return load_request_folder(self._requested).paths, fallback


def _read_path(files: TLSFiles) -> CertificationPath:
    """Return the classical certificate with its key. Raises UsageError, FormatError."""
    texts = []
    for path in (files.certificate, files.key):
        text = read_config_file(path, MAX_FILE_BYTES)
        if text is None:
            raise UsageError(Reason.UNREADABLE, f"{path} is not there; tls.certificate and tls.key name PEM files")
        texts.append(text)
    try:
        (found,) = parse_paths(*texts)
    except (FormatError, UsageError) as error:
        raise type(error)(error.reason, f"{files.certificate} with {files.key}: {error.message}") from None
    return found


async def _follow(own: OwnCertificates) -> None:
    """Take over what changes, until cancelled. A failure is logged and leaves what is served as it is."""
    _LOG.info("HTTPS", merkle_tree_certificate=own.has_requested)
    while True:
        await asyncio.sleep(FOLLOW_S)
        try:
            if own.reload():
                _LOG.info("certificates taken", merkle_tree_certificate=own.has_requested)
        except Error as error:
            _LOG.warning("certificates not taken", error=error.message)
