"""`mtc cert cosign`: a holder adds cosignatures later, from whoever follows the log."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
from tests.pooled_logs import Cosigner, always, changed, served, signer
from tests.test_ca_cosigned import CA_ID, M1, W1, cosigner, issue, make, strict_trust

from mtc.ca.authority import Issued
from mtc.ca.cosigning.pool import CosignerPool
from mtc.ca.folder import CAFolder
from mtc.ca.service import open_ca
from mtc.cert import Certificate, parse_certificate_chains
from mtc.cli.cosign import CosignOptions, cosign_files
from mtc.cli.output import ExitCode
from mtc.cosign.config import Role
from mtc.errors import UsageError
from mtc.trust import verify_certificate

pytestmark = pytest.mark.usefixtures("near_signer")


@pytest.fixture(autouse=True)
def quiet_logs() -> Iterator[list[MutableMapping[str, Any]]]:
    """Keep log events instead of printing them."""
    with structlog.testing.capture_logs() as events:
        yield events


@asynccontextmanager
async def followed(path: Path, folder: CAFolder, *names: str) -> AsyncIterator[tuple[Cosigner, list[Issued]]]:
    """Issue certificates of a CA that asks nobody, and let a mirror follow its log afterwards."""
    from mtc.ca.cosigning.config import CosigningConfig, QuorumTable  # noqa: PLC0415 - used here alone
    from mtc.ca.proofs import TreeHead  # noqa: PLC0415 - used here alone
    from mtc.log.seams import SignedTree, TreeToSign  # noqa: PLC0415 - used here alone
    from mtc.note import Checkpoint, open_note  # noqa: PLC0415 - used here alone

    mirror = cosigner(folder, "m1", M1, Role.MIRROR)
    async with served(mirror), open_ca(path) as ca:
        issued = [item for name in names for item in await issue(ca, name)]
        assert all(isinstance(item, Issued) for item in issued)
        parts, record = ca.parts, ca.log.record

        async def head(_number: int) -> TreeHead:
            return TreeHead(record.tree_size, record.root_hash)

        async def keep(_evidence: object) -> None:
            return None

        config = CosigningConfig(tables=(mirror.table,), rule=QuorumTable(at_least=1))
        objects = parts.storage.objects
        note = (path / "public/1/checkpoint").read_bytes()
        assert Checkpoint.parse(open_note(note, [parts.key]).text).tree_size == record.tree_size
        tree = TreeToSign(1, record.tree_size, record.root_hash, record.timestamp, ())
        pool = CosignerPool(config, CA_ID, parts.key, parts.hasher, objects, head, parts.clock, keep, parts.metrics)
        async with pool:
            await pool.cosign(tree, SignedTree(note, {}))
        yield mirror, [item for item in issued if isinstance(item, Issued)]


def run_command(files: list[str], options: CosignOptions) -> ExitCode:
    """Run the command as the shell does, with a loop of its own."""
    return cosign_files(files, options)


def test_cosignature_is_added_later(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What only the CA signed satisfies a relying party that needs the mirror, after the mirror was asked."""
    folder = make(tmp_path / "ca")

    async def run() -> None:
        async with followed(tmp_path / "ca", folder, "a.example.com", "b.example.com") as (mirror, issued):
            paths = [tmp_path / f"{number}.pem" for number in range(2)]
            for path, item in zip(paths, issued, strict=True):
                path.write_text(item.pem)
            files = [str(path) for path in paths]
            der = tmp_path / "0.der"
            der.write_bytes(issued[0].standalone)
            cosigners = (f"{mirror.url}={signer(M1).key.encode()}",)
            options = CosignOptions(str(tmp_path / "ca"), cosigners, as_json=True)
            assert await asyncio.to_thread(run_command, [*files, str(der)], options) is ExitCode.DONE
            for path, item in zip(paths, issued, strict=True):
                (chain,) = parse_certificate_chains(path.read_bytes(), None)
                (before,) = parse_certificate_chains(item.pem.encode(), None)
                assert chain.properties == before.properties
                verify_certificate(chain.certificates[0], strict_trust(folder, M1), datetime.now(UTC))
                old, new = Certificate.parse(item.standalone), Certificate.parse(chain.certificates[0])
                assert new.tbs == old.tbs
                assert [found.name for found in new.proof.signatures] == ["32473.1", "32473.9"]
            verify_certificate(der.read_bytes(), strict_trust(folder, M1), datetime.now(UTC))
            answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
            assert [answer["added"] for answer in answers] == [[signer(M1).key.name]] * 3
            # A second time there is nothing to do, and nobody is asked.
            asked, data = len(mirror.asked), paths[0].read_bytes()
            assert await asyncio.to_thread(run_command, files, options) is ExitCode.DONE
            assert (len(mirror.asked), paths[0].read_bytes()) == (asked, data)

    asyncio.run(run())


def test_refusals_leave_the_file_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A cosigner that is away, lies, or has not seen the entry adds nothing, and is named with its reason."""
    folder = make(tmp_path / "ca")

    async def run() -> None:
        async with followed(tmp_path / "ca", folder, "a.example.com") as (mirror, (item,)):
            path = tmp_path / "cert.pem"
            path.write_text(item.pem)
            cosigners = (f"{mirror.url}={signer(M1).key.encode()}", f"http://127.0.0.1:1={signer(W1).key.encode()}")
            options = CosignOptions(str(tmp_path / "ca"), cosigners)
            for endpoint, rule in (
                ("sign-subtree", always(403)),
                ("sign-subtree", changed(lambda body: body.replace(b"A", b"B"))),
                ("checkpoint", always(404)),
                ("checkpoint", always(200, b"nothing")),
            ):
                mirror.rules = {endpoint: rule}
                assert await asyncio.to_thread(run_command, [str(path)], options) is ExitCode.NO
                assert path.read_text() == item.pem
                told = capsys.readouterr().err
                assert signer(M1).key.name in told
                assert "127.0.0.1:1" in told

    asyncio.run(run())


def test_certificate_of_another_log_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A certificate whose entry the log does not hold is shown to nobody."""
    folder = make(tmp_path / "ca")
    make(tmp_path / "other")

    async def run() -> None:
        async with open_ca(tmp_path / "other") as ca:
            (stranger,) = await issue(ca, "x.example.com")
            assert isinstance(stranger, Issued)
        path = tmp_path / "cert.pem"
        path.write_text(stranger.pem)
        async with followed(tmp_path / "ca", folder, "a.example.com", "b.example.com") as (mirror, _):
            mirror.asked.clear()
            options = CosignOptions(str(tmp_path / "ca"), (f"{mirror.url}={signer(M1).key.encode()}",))
            assert await asyncio.to_thread(run_command, [str(path)], options) is ExitCode.NO
            assert "is not the one of this certificate" in capsys.readouterr().err
            assert not mirror.asked

    asyncio.run(run())


@pytest.mark.parametrize(
    ("cosigner_text", "message"),
    [
        ("http://192.0.2.1", "write URL=VKEY"),
        ("http://192.0.2.1=a+b", "--cosigner http://192.0.2.1"),
        ("nowhere=" + signer(M1).key.encode(), "is no URL prefix"),
        ("http://192.0.2.1=/nonexistent", "cannot be read"),
    ],
)
def test_wrong_arguments_are_named(cosigner_text: str, message: str) -> None:
    """Each wrong --cosigner is refused before anything is read."""
    with pytest.raises(UsageError, match=message):
        cosign_files(["x.pem"], CosignOptions("/nonexistent", (cosigner_text,)))
