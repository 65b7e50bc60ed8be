"""lego: the ACME client and library in Go that Traefik and others use."""

from pathlib import Path

from tests.acme_programs import ACMEServerUnderTest, find_program, run_to_end, write_hook


class Lego:
    """lego with its own folder. Debian's is version 4; its options are not those of version 5."""

    def __init__(self, server: ACMEServerUnderTest, folder: Path) -> None:
        self._program = find_program("lego")
        self._server = server
        self._folder = folder
        self._method: tuple[str, ...] = ()

    def issue(self, *names: str) -> bytes:
        """Get a certificate for names with http-01, from its own web server."""
        return self._obtain(names, "--http", "--http.port", f"127.0.0.1:{self._server.http_port}")

    def issue_by_tls(self, *names: str) -> bytes:
        """Get a certificate for names with tls-alpn-01, from its own TLS server."""
        return self._obtain(names, "--tls", "--tls.port", f"127.0.0.1:{self._server.tls_port}")

    def issue_by_dns(self, *names: str) -> bytes:
        """Get a certificate for names with dns-01, through the provider that runs a program."""
        words = "('add' if arguments[0] == 'present' else 'remove', arguments[1], arguments[2])"
        write_hook(self._folder / "hook", self._server.names, words=words)
        return self._obtain(names, "--dns", "exec", "--dns.disable-cp", "--dns.resolvers", self._server.names.server)

    def renew_if_due(self, name: str) -> None:
        """Renew the certificate of a name if it ends within two days; by default, it takes thirty."""
        self._run(name, "renew", "--days", "2", "--no-random-sleep")

    def renew(self, name: str) -> bytes:
        """Renew the certificate of a name now."""
        self._run(name, "renew", "--days", "9999", "--no-random-sleep")
        return self._chain(name)

    def revoke(self, name: str) -> None:
        """Revoke the certificate of a name."""
        self._run(name, "revoke", "--keep", "--reason", "4")

    def _obtain(self, names: tuple[str, ...], *method: str) -> bytes:
        self._method = method
        self._run(*names, "run")
        return self._chain(names[0].replace("*", "_"))

    def _chain(self, name: str) -> bytes:
        return (self._folder / "data" / "certificates" / f"{name}.crt").read_bytes()

    def _run(self, *arguments: str) -> None:
        """Run a command. arguments: names, up to the first word without a dot, and the command."""
        names = [word for name in arguments if "." in name for word in ("--domains", name)]
        rest = [word for word in arguments if "." not in word]
        account = ["--server", self._server.directory_url, "--accept-tos", "--email", "admin@example.test"]
        command = [self._program, *account, "--path", str(self._folder / "data"), *names, *self._method, *rest]
        variables = {"LEGO_CA_CERTIFICATES": str(self._server.ca_file), "EXEC_PATH": str(self._folder / "hook")}
        variables |= {"EXEC_PROPAGATION_TIMEOUT": "10", "EXEC_POLLING_INTERVAL": "1", "EXEC_SEQUENCE_INTERVAL": "1"}
        run_to_end(self._folder, command, variables)
