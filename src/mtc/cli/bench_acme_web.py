"""The web profile as `mtc bench acme` measures it: a public CA with five remote perspectives and three cosigners.

All are processes of their own, as they would be on nine machines; here they share one. What the profile asks for is
there: agents in two regions known by their keys, a quorum that needs a mirror, rounds of a second. Not there: DNSSEC,
which a resolver would validate, and the ban on private addresses, because the clients are on the loopback.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
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
from mtc.cli.bench_processes import make_cosigner
from mtc.cli.verify import find_certificate
from mtc.cosign.config import Role
from mtc.cosign.logs import KnownCA
from mtc.note import SignatureType, VerifierKey
from mtc.profile import WEB_PKI
from mtc.testing.fleet import free_port

REGIONS = ("arin", "ripe", "arin", "ripe", "arin")
"""Where the perspectives are said to be."""
Program = AbstractAsyncContextManager[int]
COSIGNERS = (Role.WITNESS, Role.MIRROR, Role.MIRROR)


@asynccontextmanager
async def running_web(folder: Path, surroundings: Surroundings) -> AsyncIterator[Target]:
    """Start perspectives, cosigners and the CA. Raises PeerError when one of them does not come up."""
    config, port = CAConfig(ca_id=CA_ID, profile=WEB_PKI, listen=None), free_port()
    path = folder / "ca"
    create_folder(path, config, None, datetime.now(UTC))
    async with AsyncExitStack() as stack:
        cosigners = _make_cosigners(folder, key_of(path))
        tables = tuple(table for table, _ in cosigners)
        (path / CONFIG_NAME).write_text(format_config(replace(config, cosigning=CosigningConfig(tables=tables))))
        perspectives = _make_perspectives(folder, surroundings)
        write_acme_config(path, port, surroundings, "\n".join(format_perspective(peer) for peer, _ in perspectives))
        others = [program for _, program in (*cosigners, *perspectives)]
        pids = await asyncio.gather(*(stack.enter_async_context(program) for program in others))
        pids.append(await stack.enter_async_context(running_ca(path, ("-m", "mtc", "ca", "serve"), port)))
        yield own_target(path, port, pids, config.profile.round_interval)


def _make_cosigners(folder: Path, key: VerifierKey) -> list[tuple[CosignerTable, Program]]:
    """Make a witness and two mirrors, which know the CA; return what the CA knows of each, and what runs it."""
    made: list[tuple[CosignerTable, Program]] = []
    for number, role in enumerate(COSIGNERS):
        name, port = f"cosigner-{number}", free_port()
        keys = make_cosigner(folder / name, role, 200 + number, [KnownCA(key=key)])
        arguments = [sys.executable, "-m", "mtc", role, "serve", str(folder / name), "--json"]
        arguments += ["--listen", f"127.0.0.1:{port}"]
        table = CosignerTable(name=name, role=role, key=keys[0], url=f"http://127.0.0.1:{port}")
        made.append((table, running(arguments, folder / f"{name}.log", port)))
    return made


def _make_perspectives(folder: Path, surroundings: Surroundings) -> list[tuple[PerspectivePeer, Program]]:
    """Make the remote perspectives, which let the CA in; return what the CA knows of each, and what runs it."""
    now = datetime.now(UTC)
    identity = open_identity(folder / "ca" / FOLDER_NAME, f"ca-{CA_ID}", now)
    looking = ValidationSettings(
        servers=(surroundings.name_server,), allows_private=True, http_port=surroundings.http_port
    )
    made: list[tuple[PerspectivePeer, Program]] = []
    for number, region in enumerate(REGIONS):
        name, port, path = f"perspective-{number}", free_port(), folder / f"perspective-{number}"
        config = PerspectiveConfig(name=name, region=region, listen=("127.0.0.1", port), looking=looking)
        create_perspective(path, config, now)
        allow_client(path, identity.certificate.read_bytes(), str(identity.certificate))
        arguments = [sys.executable, "-m", "mtc", "perspective", "serve", str(path), "--json"]
        url = f"https://127.0.0.1:{port}"
        peer = PerspectivePeer(name=name, region=region, url=url, fingerprint=own_fingerprint(path))
        made.append((peer, running(arguments, folder / f"{name}.log", port)))
    return made


def key_of(folder: Path) -> VerifierKey:
    """Return the key of the CA in a folder."""
    certificate = CACertificate.parse(find_certificate((folder / "ca.pem").read_bytes()))
    key = certificate.public_key.public_key
    return VerifierKey.from_spki(certificate.ca_id.oid_name, SignatureType.COSIGNATURE_MLDSA44, key)
