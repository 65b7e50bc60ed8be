"""certbot, of the Electronic Frontier Foundation: the client that most people know."""

from pathlib import Path

from tests.acme_programs import ACMEServerUnderTest, find_program, run_to_end, write_hook

_LAX_OPENSSL = """\
openssl_conf = main
[main]
ssl_conf = libssl
[libssl]
system_default = lax
[lax]
CipherString = DEFAULT:@SECLEVEL=0
"""


class Certbot:
    """certbot with all of its folders below one. external: key ID and HMAC key of an external account to bind to."""

    def __init__(self, server: ACMEServerUnderTest, folder: Path, external: tuple[str, str] | None = None) -> None:
        self._external = external
        self._program = find_program("certbot")
        self._server = server
        self._folder = folder

    def issue(self, *names: str) -> bytes:
        """Get a certificate for names with http-01, from its own web server."""
        return self._certonly(names, "--standalone", *self._standalone())

    def issue_by_dns(self, *names: str) -> bytes:
        """Get a certificate for names with dns-01, through its hooks."""
        words = "('{}', '_acme-challenge.' + variables['CERTBOT_DOMAIN'], variables['CERTBOT_VALIDATION'])"
        add = write_hook(self._folder / "add", self._server.names, words=words.format("add"))
        remove = write_hook(self._folder / "remove", self._server.names, words=words.format("remove"))
        hooks = ["--manual-auth-hook", str(add), "--manual-cleanup-hook", str(remove)]
        return self._certonly(names, "--manual", "--preferred-challenges", "dns", *hooks)

    def renew(self, name: str) -> bytes:
        """Renew the certificate of a name now."""
        self._run("renew", "--force-renewal", "--no-random-sleep-on-renew", "--cert-name", name)
        return self._chain(name)

    def renew_if_due(self, name: str) -> None:
        """Renew the certificate of a name if it ends within two days; by default, version 2 takes thirty."""
        config = self._folder / "config" / "renewal" / f"{name}.conf"
        config.write_text(f"renew_before_expiry = 2 days\n{config.read_text()}")
        self._run("renew", "--no-random-sleep-on-renew", "--cert-name", name)

    def revoke(self, name: str) -> None:
        """Revoke the certificate of a name, as the account that asked for it."""
        reason = ["--reason", "superseded", "--no-delete-after-revoke"]
        self._run("revoke", *self._with_server(), "--cert-name", name, *reason)

    def revoke_by_key(self, certificate: Path, key: Path) -> None:
        """Revoke a certificate that another client holds, with its own private key."""
        # It loads both into OpenSSL, to which before 4.0.3 a signature algorithm that it does not know is a weak one.
        config = self._folder / "openssl.cnf"
        config.write_text(_LAX_OPENSSL)
        files = ["--cert-path", str(certificate), "--key-path", str(key), "--no-delete-after-revoke"]
        self._run("revoke", *self._with_server(), *files, "--reason", "keycompromise", openssl=config)

    def refused(self, name: str) -> str:
        """Ask for a name that will be refused; return what certbot says."""
        command = ["certonly", *self._with_server(), "--standalone", *self._standalone(), "-d", name]
        return self._run(*command, must_fail=True)

    def unanswered(self, name: str) -> str:
        """Ask for a name whose web server has no token where the CA looks; return what certbot says."""
        elsewhere = ["--webroot", "--webroot-path", str(self._folder)]
        return self._run("certonly", *self._with_server(), *elsewhere, "-d", name, must_fail=True)

    def key_file(self, name: str) -> Path:
        """Return where the private key is."""
        return self._folder / "config" / "live" / name / "privkey.pem"

    def _certonly(self, names: tuple[str, ...], *options: str) -> bytes:
        wanted = [word for name in names for word in ("-d", name)]
        self._run("certonly", *self._with_server(), *options, "--key-type", "ecdsa", *wanted)
        return self._chain(names[0].removeprefix("*."))

    def _chain(self, name: str) -> bytes:
        return (self._folder / "config" / "live" / name / "fullchain.pem").read_bytes()

    def _standalone(self) -> list[str]:
        return ["--http-01-port", str(self._server.http_port), "--http-01-address", "127.0.0.1"]

    def _with_server(self) -> list[str]:
        account = ["--agree-tos", "--register-unsafely-without-email", "--no-eff-email"]
        if self._external is not None:
            # With an equals sign, because either may begin with a hyphen.
            account += [f"--eab-kid={self._external[0]}", f"--eab-hmac-key={self._external[1]}"]
        return ["--server", self._server.directory_url, *account]

    def _run(self, *arguments: str, must_fail: bool = False, openssl: Path | None = None) -> str:
        folders = [word for name in ("config", "work", "logs") for word in (f"--{name}-dir", str(self._folder / name))]
        command = [self._program, *arguments, "--non-interactive", *folders]
        variables = {"REQUESTS_CA_BUNDLE": str(self._server.ca_file)}
        if openssl is not None:
            variables["OPENSSL_CONF"] = str(openssl)
        return run_to_end(self._folder, command, variables, must_fail=must_fail)
