"""dehydrated: an ACME client in a shell script, on curl and openssl."""

from pathlib import Path

from tests.acme_programs import ACMEServerUnderTest, find_program, run_to_end, web_root, write_hook


class Dehydrated:
    """dehydrated with its own configuration and folder."""

    def __init__(self, server: ACMEServerUnderTest, folder: Path) -> None:
        self._program = find_program("dehydrated")
        self._server = server
        self._folder = folder
        kinds = "{'deploy_challenge': 'add', 'clean_challenge': 'remove'}"
        record = f"({kinds}[arguments[0]], '_acme-challenge.' + arguments[1], arguments[3])"
        words = f"{record} if arguments[0] in {kinds} else None"
        self._hook = write_hook(folder / "hook", server.names, words=words)
        lines = {
            "CA": server.directory_url,
            "BASEDIR": folder / "data",
            "CURL_OPTS": f"--cacert {server.ca_file}",
            "WELLKNOWN": folder / "web" / ".well-known" / "acme-challenge",
            "KEY_ALGO": "prime256v1",
            # Of the account: 4096 bits, its default, can take many seconds.
            "KEYSIZE": "2048",
            "RENEW_DAYS": "2",
            "CONTACT_EMAIL": "admin@example.test",
        }
        (folder / "data").mkdir()
        (folder / "config").write_text("".join(f'{key}="{value}"\n' for key, value in lines.items()))
        self._run("--register", "--accept-terms")

    def issue(self, *names: str) -> bytes:
        """Get a certificate for names with http-01, from a web server's folder."""
        return self._sign(names, "--challenge", "http-01")

    def issue_by_dns(self, *names: str) -> bytes:
        """Get a certificate for names with dns-01, through its hook."""
        return self._sign(names, "--challenge", "dns-01", "--hook", str(self._hook))

    def renew_if_due(self, name: str) -> None:
        """Renew the certificate of a name if it ends within two days; by default, it takes thirty."""
        self._sign((name,), "--challenge", "http-01")

    def renew(self, name: str) -> bytes:
        """Renew the certificate of a name now."""
        return self._sign((name,), "--challenge", "http-01", "--force")

    def revoke(self, name: str) -> None:
        """Revoke the certificate of a name."""
        self._run("--revoke", str(self._folder / "data" / "certs" / name / "cert.pem"))

    def _sign(self, names: tuple[str, ...], *options: str) -> bytes:
        with web_root(self._folder / "web", self._server.http_port):
            # A wildcard needs a name for its folder.
            alias = ["--alias", names[0].removeprefix("*.")]
            self._run("--cron", "--domain", " ".join(names), *alias, *options)
        return (self._folder / "data" / "certs" / alias[1] / "fullchain.pem").read_bytes()

    def _run(self, *arguments: str) -> None:
        run_to_end(self._folder, [self._program, "--config", str(self._folder / "config"), *arguments], {})
