"""The web profile as `mtc bench acme` measures it: a public CA with five remote perspectives and three cosigners.

All are processes of their own, as they would be on nine machines; here they share one. What the profile asks for is
there: agents in two regions known by their keys, a quorum that needs a mirror, rounds of a second. Only addresses on
the loopback are allowed, because that is where the clients are.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from mtc.acme.config import FOLDER_NAME
from mtc.acme.perspective.client import open_identity
from mtc.acme.perspective.config import PerspectivePeer, format_perspective
from mtc.acme.perspective.folder import PerspectiveConfig, allow_client, create_perspective, own_fingerprint
from mtc.acme.validation.settings import ValidationSettings
from mtc.ca.config import CONFIG_NAME, CAConfig, format_config
from mtc.ca.cosigning.config import CosignerTable, CosigningConfig
from mtc.ca.folder import create_folder
from mtc.cert import CACertificate
from mtc.cli.bench_acme_servers import CA_ID, Surroundings, Target, own_target, running, running_ca, write_acme_config
from mtc.cli.bench_processes import make_cosigner, running_cosigner
from mtc.cli.verify import find_certificate
from mtc.cosign.config import Role
from mtc.cosign.logs import KnownCA
from mtc.note import SignatureType, VerifierKey
from mtc.profile import WEB_PKI
from mtc.testing.fleet import free_port

REGIONS = ("arin", "ripe", "arin", "ripe", "arin")
"""Where the perspectives are said to be."""
COSIGNERS = (Role.WITNESS, Role.MIRROR, Role.MIRROR)


@asynccontextmanager
async def running_web(folder: Path, surroundings: Surroundings) -> AsyncIterator[Target]:
    """Start perspectives, cosigners and the CA. Raises PeerError when one of them does not come up."""
    config, port = CAConfig(ca_id=CA_ID, profile=WEB_PKI, listen=None), free_port()
    folder.mkdir()
    path = folder / "ca"
    create_folder(path, config, None, datetime.now(UTC))
    async with AsyncExitStack() as stack:
        tables, pids = await _start_cosigners(stack, folder, _key_of(path))
        _write_config(path, replace(config, cosigning=CosigningConfig(tables=tuple(tables))))
        peers = await _start_perspectives(stack, folder, surroundings, pids)
        write_acme_config(path, port, surroundings, "\n".join(format_perspective(peer) for peer in peers))
        pids.append(await stack.enter_async_context(running_ca(path, ("-m", "mtc", "ca", "serve"), port)))
        yield own_target(path, port, pids, config.profile.round_interval)


async def _start_cosigners(
    stack: AsyncExitStack, folder: Path, key: VerifierKey
) -> tuple[list[CosignerTable], list[int]]:
    """Start a witness and two mirrors, which know the CA; return what the CA knows of them, and their processes."""
    tables = []
    for number, role in enumerate(COSIGNERS):
        path = folder / f"cosigner-{number}"
        keys = make_cosigner(path, role, 200 + number, [KnownCA(key=key)])
        url = await stack.enter_async_context(running_cosigner(path, role))
        tables.append(CosignerTable(name=path.name, role=role, key=keys[0], url=url))
    return tables, []


async def _start_perspectives(
    stack: AsyncExitStack, folder: Path, surroundings: Surroundings, pids: list[int]
) -> list[PerspectivePeer]:
    """Start the remote perspectives, which let the CA in; return what the CA knows of them."""
    now = datetime.now(UTC)
    identity = open_identity(folder / "ca" / FOLDER_NAME, f"ca-{CA_ID}", now)
    looking = ValidationSettings(
        servers=(surroundings.name_server,), allows_private=True, http_port=surroundings.http_port
    )
    peers = []
    for number, region in enumerate(REGIONS):
        name, port, path = f"perspective-{number}", free_port(), folder / f"perspective-{number}"
        config = PerspectiveConfig(name=name, region=region, listen=("127.0.0.1", port), looking=looking)
        create_perspective(path, config, now)
        allow_client(path, identity.certificate.read_bytes(), str(identity.certificate))
        arguments = [sys.executable, "-m", "mtc", "perspective", "serve", str(path), "--json"]
        pids.append(await stack.enter_async_context(running(arguments, folder / f"{name}.log", port)))
        peers.append(
            PerspectivePeer(
                name=name, region=region, url=f"https://127.0.0.1:{port}", fingerprint=own_fingerprint(path)
            )
        )
    return peers


def _write_config(folder: Path, config: CAConfig) -> None:
    """Write a CA's configuration again."""
    (folder / CONFIG_NAME).write_text(format_config(config), encoding="utf-8")


def _key_of(folder: Path) -> VerifierKey:
    """Return the key of the CA in a folder."""
    certificate = CACertificate.parse(find_certificate((folder / "ca.pem").read_bytes()))
    key = certificate.public_key.public_key
    return VerifierKey.from_spki(certificate.ca_id.oid_name, SignatureType.COSIGNATURE_MLDSA44, key)
