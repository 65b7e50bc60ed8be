"""Caddy: a web server that gets its certificates itself, and serves them."""

import contextlib
import json
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.acme_programs import ACMEServerUnderTest, find_program, running, wait_for

from mtc.testing.fleet import free_port


@dataclass(frozen=True, slots=True)
class Site:
    """A name that Caddy serves at a port of loopback."""

    name: str
    port: int
    storage: Path
    process: subprocess.Popen[bytes]
    log: Path

    def wait_for_chain(self, other_than: bytes = b"") -> bytes:
        """Wait until there is a chain in its storage, other than the one that is known; return it, PEM."""

        def is_new() -> bool:
            chain = self._chain()
            # It is not written in one piece.
            return chain.endswith(b"-----END CERTIFICATE-----\n") and chain != other_than

        wait_for(is_new, "Caddy has a certificate", self.process, self.log)
        return self._chain()

    def wait_until_shown(self, leaf: bytes) -> None:
        """Wait until a TLS client that asks for the name is shown a certificate (DER)."""
        wait_for(lambda: self._shown() == leaf, "Caddy shows the certificate", self.process, self.log)

    def _chain(self) -> bytes:
        found = list(self.storage.glob(f"certificates/*/{self.name}/{self.name}.crt"))
        return found[0].read_bytes() if found else b""

    def _shown(self) -> bytes | None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), 5.0) as plain,
            context.wrap_socket(plain, server_hostname=self.name) as secured,
        ):
            return secured.getpeercert(binary_form=True)
        return None


class Caddy:
    """Caddy with its storage in one folder, without its admin endpoint, OCSP and anything that asks the internet."""

    def __init__(self, server: ACMEServerUnderTest, folder: Path) -> None:
        self._program = find_program("caddy")
        self._server = server
        self._folder = folder

    @contextlib.contextmanager
    def serving(self, name: str, method: str, *, renews_early: bool = False) -> Iterator[Site]:
        """Run Caddy as the web server of a name until the context ends.

        method: "http" or "tls-alpn". renews_early: renew whatever is already there, at once and then again and again.
        """
        port = self._server.tls_port if method == "tls-alpn" else free_port()
        config, log = self._folder / "caddy.json", self._folder / "caddy.log"
        config.write_text(json.dumps(self._config(name, port, method, renews_early=renews_early)))
        variables = {"XDG_DATA_HOME": str(self._folder), "XDG_CONFIG_HOME": str(self._folder)}
        with running(self._folder, log, [self._program, "run", "--config", str(config)], variables) as process:
            yield Site(name, port, self._folder / "storage", process, log)

    def _config(self, name: str, port: int, method: str, *, renews_early: bool) -> dict[str, object]:
        server = self._server
        challenges: dict[str, object] = {"bind_host": "127.0.0.1"}
        ports = {"http": server.http_port, "tls-alpn": server.tls_port}
        challenges |= {
            which: {"alternate_port": port} if which == method else {"disabled": True} for which, port in ports.items()
        }
        issuer = {
            "module": "acme",
            "ca": server.directory_url,
            "email": "admin@example.test",
            "trusted_roots_pem_files": [str(server.ca_file)],
            "challenges": challenges,
        }
        policy = {"subjects": [name], "issuers": [issuer], "key_type": "p256", "disable_ocsp_stapling": True}
        if renews_early:
            policy["renewal_window_ratio"] = 0.9999999999
        route = {"match": [{"host": [name]}], "handle": [{"handler": "static_response", "body": "here"}]}
        site = {"listen": [f"127.0.0.1:{port}"], "routes": [route]}
        site["automatic_https"] = {"disable_redirects": True}
        http = {"http_port": server.http_port, "https_port": port, "servers": {"site": site}}
        automation = {"policies": [policy], "renew_interval": "1s"}
        return {
            "admin": {"disabled": True},
            "storage": {"module": "file_system", "root": str(self._folder / "storage")},
            "apps": {"http": http, "tls": {"automation": automation}},
        }
