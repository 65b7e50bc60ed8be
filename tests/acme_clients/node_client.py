"""acme-client: the ACME library that programs in Node use, driven by the script beside this file."""

from pathlib import Path

from tests.acme_programs import NODE_MODULES, ACMEServerUnderTest, find_node_client, run_to_end

SCRIPT = Path(__file__).with_name("node_client.js")


class NodeClient:
    """acme-client with its account key and certificates in one folder."""

    def __init__(self, server: ACMEServerUnderTest, folder: Path) -> None:
        self._node = find_node_client()
        self._server = server
        self._folder = folder

    def issue(self, *names: str) -> bytes:
        """Get a certificate for names with http-01, from a web server in the script."""
        self._run("issue", "http-01", *names)
        return (self._folder / "chain.pem").read_bytes()

    def issue_by_dns(self, *names: str) -> bytes:
        """Get a certificate for names with dns-01."""
        self._run("issue", "dns-01", *names)
        return (self._folder / "chain.pem").read_bytes()

    def revoke(self) -> None:
        """Revoke the last certificate."""
        self._run("revoke")

    def change_key(self) -> None:
        """Give the account a new key."""
        self._run("change-key")

    def _run(self, *arguments: str) -> None:
        variables = {
            "NODE_PATH": str(NODE_MODULES),
            "NODE_EXTRA_CA_CERTS": str(self._server.ca_file),
            "ACME_DIRECTORY": self._server.directory_url,
            "HTTP_PORT": str(self._server.http_port),
            "DNS_CONTROL": self._server.names.control,
        }
        run_to_end(self._folder, [self._node, SCRIPT, *arguments], variables)
