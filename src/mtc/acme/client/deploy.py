"""Deploy hooks: a program that is told once of each change, and again until it has succeeded."""

from dataclasses import dataclass
from pathlib import Path

from mtc.acme.client.folder import Version
from mtc.acme.client.solvers.hook import run_program, split_command

DEPLOY_DEADLINE_S = 600.0
"""Longest run of a deploy hook."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """One run of a hook. changed: what is new, for example `standalone`. code: its exit code. output: its end."""

    changed: tuple[str, ...]
    code: int
    output: str

    @property
    def is_done(self) -> bool:
        """True when the hook says that it succeeded."""
        return self.code == 0

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        return {"changed": list(self.changed), "code": self.code, "output": self.output}


async def deploy(command: str, folder: Path, changed: tuple[str, ...], version: Version) -> Deployment:
    """Run a deploy hook. folder: of the certificate, in which `current` is. Never raises for what the hook does.

    The environment is the interface, docs/request.md has it; RENEWED_* are what certbot's hooks read.
    """
    names = " ".join(map(str, version.state.identifiers))
    current = folder / "current"
    environment = {
        "MTC_REQUEST_DIR": str(current.absolute()),
        "MTC_REQUEST_NAME": folder.name,
        "MTC_REQUEST_NAMES": names,
        "MTC_REQUEST_CHANGED": " ".join(changed),
        "MTC_REQUEST_SERIAL": f"{version.state.serial:x}",
        "MTC_REQUEST_NOT_AFTER": version.state.not_after.isoformat(),
        "RENEWED_LINEAGE": str(current.absolute()),
        "RENEWED_DOMAINS": names,
    }
    code, output = await run_program(split_command(command, "--deploy-hook"), environment, DEPLOY_DEADLINE_S)
    return Deployment(changed, code, output)
