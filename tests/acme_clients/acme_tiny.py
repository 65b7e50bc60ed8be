"""acme-tiny: two hundred lines of Python that get a certificate by http-01, and do nothing else."""

from pathlib import Path

from tests.acme_programs import ACMEServerUnderTest, find_program, run_to_end, web_root


class AcmeTiny:
    """acme-tiny with an account key and requests that openssl makes. It cannot revoke."""

    def __init__(self, server: ACMEServerUnderTest, folder: Path) -> None:
        self._program = find_program("acme-tiny")
        self._openssl = find_program("openssl")
        self._server = server
        self._folder = folder
        self._run([self._openssl, "genrsa", "-out", "account.key", "2048"])

    def issue(self, *names: str) -> bytes:
        """Get a certificate for names with http-01, from a web server's folder."""
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "key.pem"]
        wanted = ",".join(f"DNS:{name}" for name in names)
        request = ["-subj", "/", "-addext", f"subjectAltName={wanted}", "-out", "request.pem"]
        self._run([self._openssl, "req", "-new", *curve, *request])
        return self.renew()

    def renew(self) -> bytes:
        """Ask again, as its documentation wants it, with the same request."""
        with web_root(self._folder / "web", self._server.http_port) as tokens:
            files = ["--account-key", "account.key", "--csr", "request.pem", "--acme-dir", str(tokens)]
            # Its own check would need the system to know the name.
            options = ["--disable-check", "--quiet", "--directory-url", self._server.directory_url]
            return self._run([self._program, *files, *options]).encode()

    @property
    def key_file(self) -> Path:
        """Where the private key is."""
        return self._folder / "key.pem"

    def _run(self, command: list[str]) -> str:
        return run_to_end(self._folder, command, {"SSL_CERT_FILE": str(self._server.ca_file)})
