"""Witnesses and mirrors of other people asked by our client, and their clients asking ours.

Each test skips where its programs are not named; `docs/interop.md` says by which variables, and which ones were tried.
"""

import asyncio
import base64
import gzip
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest
from tests.interop.foreign_programs import (
    Foreign,
    encode_pem,
    find_program,
    litewitness,
    make_note_key,
    omniwitness,
    run,
    running,
    sigsum_witness,
    sunlight,
    tessera_mirror,
    trust_anchor_id,
    wait_for,
    write_pollinator_config,
)
from tests.note_keys import LOG, TestSigner
from tests.synthetic_logs import HASHER, SyntheticLog, make_entries

from mtc.cosign.config import Role
from mtc.cosign.service.client import CosignerClient, CosignerPeer, StaleSize
from mtc.cosign.service.folder import read_cosigner_config
from mtc.cosign.service.uploading import upload_entries
from mtc.cosign.upload import PackagePlace, encode_package
from mtc.crypto import generate_key, parse_signature_algorithm
from mtc.errors import PeerError
from mtc.merkle import Subtree, prove_consistency, root_hash
from mtc.note import Checkpoint, Note, NoteSignature, SignatureType, VerifierKey, open_note
from mtc.testing.fleet import Member, fleet_in, free_port, run_mtc
from mtc.tiles import EntryBundle, bundles_for_growth
from mtc.web.client import HTTPClient

Start = Callable[[Path, Sequence[SyntheticLog]], AbstractContextManager[Foreign]]

SIZES = (1, 5, 100, 100, 257, 300)
SUBTREES = (Subtree(0, 300), Subtree(0, 1), Subtree(0, 256), Subtree(256, 300), Subtree(288, 290))


def ca_log(count: int) -> SyntheticLog:
    """Return a log whose origin is not the name of the key that signs it, with ML-DSA-44."""
    return SyntheticLog(make_entries(count))


def named_log(count: int) -> SyntheticLog:
    """Return a log of the kind that witnesses have always known: Ed25519, the origin the key's name, like Sigsum's."""
    name = f"sigsum.org/v1/tree/{hashlib.sha256(LOG.key.public_key).hexdigest()}"
    signer = TestSigner(name, SignatureType.ED25519, 1)
    return SyntheticLog(make_entries(count), signer=signer, origin=name)


class Packages:
    """The packages of a log in memory."""

    def __init__(self, log: SyntheticLog) -> None:
        """Take the log."""
        self.log = log

    async def read_packages(self, places: Sequence[PackagePlace], tree_size: int) -> list[bytes]:
        """Return the encoded packages of some places."""
        found = []
        for place in places:
            proof = prove_consistency(HASHER, self.log.reader, place.subtree, tree_size)
            found.append(encode_package(EntryBundle(tuple(self.log.entries[place.start : place.end])).encode(), proof))
        return found


async def show(client: CosignerClient, log: SyntheticLog, size: int) -> tuple[NoteSignature, ...]:
    """Have a checkpoint taken by a cosigner that stands anywhere."""
    note = log.note(size, timestamp=int(time.time())).encode()
    answer = await client.add_checkpoint(0, (), note)
    if isinstance(answer, StaleSize):
        answer = await client.add_checkpoint(answer.tree_size, log.proof(answer.tree_size, size), note)
    assert not isinstance(answer, StaleSize)
    return answer


def peer(foreign: Foreign, role: Role, key: VerifierKey) -> CosignerPeer:
    """Return a foreign cosigner as our client knows it."""
    return CosignerPeer(name="foreign", role=role, key=key, url=foreign.url, monitoring_url=foreign.url)


async def sign_subtrees(client: CosignerClient, log: SyntheticLog, size: int, lines: Iterable[NoteSignature]) -> int:
    """Have subtrees signed, which the client verifies; return how many."""
    note = Note(log.checkpoint(size).encode(), tuple(lines)).encode()
    signed = 0
    for subtree in SUBTREES:
        proof = prove_consistency(HASHER, log.reader, subtree, size)
        signed += len(await client.sign_subtree(subtree, log.hash_of(subtree), proof, note)) == 2420
    return signed


def check_holds(fetch: Callable[[str], bytes], keys: Iterable[VerifierKey], least: int) -> Checkpoint:
    """Rebuild the tree from the bundles that a mirror serves; return its checkpoint, which all keys signed."""
    opened = open_note(fetch("checkpoint"), wanted := list(keys))
    assert all(opened.is_signed_by(key) for key in wanted)
    checkpoint = Checkpoint.parse(opened.text)
    assert checkpoint.tree_size >= least
    row = b"".join(
        HASHER.leaves(EntryBundle.parse(fetch(bundle.path)).entries)
        for bundle in bundles_for_growth(0, checkpoint.tree_size)
    )
    assert len(row) == 32 * checkpoint.tree_size
    assert root_hash(HASHER, row) == checkpoint.root_hash
    return checkpoint


def fetch_from(member: Member, origin: str) -> Callable[[str], bytes]:
    """Return what fetches the files of one log from our mirror."""
    prefix = f"{member.url}/{hashlib.sha256(origin.encode()).hexdigest()}"

    def fetch(path: str) -> bytes:
        with urlopen(f"{prefix}/{path}", timeout=10) as answer:  # noqa: S310 - our own loopback address
            return bytes(answer.read())

    return fetch


def size_at(fetch: Callable[[str], bytes]) -> int:
    """Return the size of the checkpoint that is served, -1 while there is none."""
    try:
        return int(fetch("checkpoint").split(b"\n")[1])
    except OSError:
        return -1


# Our client, their servers


@pytest.mark.parametrize("start", [omniwitness, sunlight, tessera_mirror, litewitness, sigsum_witness])
def test_foreign_witness_cosigns_what_our_client_shows(start: Start, tmp_path: Path) -> None:
    """A foreign witness takes our checkpoints, refreshes one, and all its keys' signatures verify at our client."""
    log = named_log(300) if start in {litewitness, sigsum_witness} else ca_log(300)

    async def story(foreign: Foreign) -> None:
        async with HTTPClient() as http:
            for size in SIZES:
                for key in foreign.witness_keys:
                    lines = await show(CosignerClient(peer(foreign, Role.WITNESS, key), http, time.time), log, size)
                    assert [(line.name, line.key_id) for line in lines] == [(key.name, key.key_id)]

    with start(tmp_path, [log]) as foreign:
        asyncio.run(story(foreign))


def test_foreign_witness_signs_our_subtrees(tmp_path: Path) -> None:
    """Sunlight's witness exchanges its cosignature of a checkpoint for subtree signatures fit for certificates."""
    log = ca_log(300)

    async def story(foreign: Foreign) -> None:
        async with HTTPClient() as http:
            client = CosignerClient(peer(foreign, Role.WITNESS, foreign.witness_keys[0]), http, time.time)
            assert await sign_subtrees(client, log, 300, await show(client, log, 300)) == len(SUBTREES)

    with sunlight(tmp_path, [log]) as foreign:
        asyncio.run(story(foreign))


@pytest.mark.parametrize(("start", "sizes"), [(sunlight, (1, 300, 700, 20_000)), (tessera_mirror, (1, 300, 700, 5000))])
def test_foreign_mirror_holds_what_our_client_uploads(start: Start, sizes: tuple[int, ...], tmp_path: Path) -> None:
    """A foreign mirror takes our uploads, in several requests where they are long, serves them and cosigns."""
    log = ca_log(sizes[-1])

    async def story(foreign: Foreign, key: VerifierKey) -> None:
        async with HTTPClient() as http:
            client = CosignerClient(peer(foreign, Role.MIRROR, key), http, time.time)
            position = 0
            for size in sizes:
                await show(client, log, size)
                lines = await upload_entries(client, log.checkpoint(size), position, Packages(log))
                assert isinstance(lines, tuple)
                position = size
            # Nothing new: the mirror signs again, with the time of now.
            lines = await upload_entries(client, log.checkpoint(position), position, Packages(log))
            assert isinstance(lines, tuple)
            assert await sign_subtrees(client, log, position, lines) == len(SUBTREES)

    with start(tmp_path, [log]) as foreign:
        assert foreign.mirror_key is not None
        asyncio.run(story(foreign, foreign.mirror_key))
        keys = (log.signer.key, foreign.mirror_key)
        assert check_holds(_files(foreign, log.origin), keys, sizes[-1]) == log.checkpoint()


def test_certificates_of_our_ca_carry_the_signatures_of_strangers(tmp_path: Path) -> None:
    """A CA that needs four strangers and our mirror issues, and our verifier demands all of those who sign subtrees."""
    with ExitStack() as stack:
        fleet = stack.enter_context(fleet_in(tmp_path / "fleet"))
        ca, ours = fleet.add_ca("32473.1"), fleet.add_cosigner("mirror", "ours", "32473.8")
        fleet.introduce()
        ca_key = next(iter(read_cosigner_config(ours.folder).cas)).key
        known = [SyntheticLog(signer=_named(ca_key), origin=f"{ca_key.name}.0.1")]
        cosigners = [("ours", "mirror", VerifierKey.parse(ours.vkey), ours.url)]
        for start in (sunlight, tessera_mirror, omniwitness):
            (folder := tmp_path / start.__name__).mkdir()
            foreign = stack.enter_context(start(folder, known))
            cosigners.append((f"{start.__name__}.w", "witness", foreign.witness_keys[0], foreign.url))
            if foreign.mirror_key is not None:
                cosigners.append((f"{start.__name__}.m", "mirror", foreign.mirror_key, foreign.url))
        # Tessera's witness signs no subtrees although its name is one for certificates, so no quorum may need it.
        cosigners = [item for item in cosigners if item[0] != "tessera_mirror.w"]
        for name, role, key, url in cosigners[1:]:
            who = ["--name", name, "--role", role, "--vkey", key.encode(), "--url", url]
            run_mtc(["ca", "add-cosigner", str(ca.folder), *who])
        config = ca.folder / "ca.toml"
        rule = f"required = {json.dumps([name for name, *_ in cosigners])}"
        config.write_text(config.read_text().replace('# required = ["m1"]', rule))
        ours.start()
        ca.start()
        public_key = generate_key(parse_signature_algorithm("ecdsa-p256-sha256")).public_key
        (tmp_path / "key.pem").write_text(encode_pem(public_key))
        out = ["--dns", "www.example.com", "--out", str(tmp_path / "certificate.pem")]
        run_mtc(["ca", "issue", str(ca.folder), "--public-key", str(tmp_path / "key.pem"), *out])
        signers = [
            ("32473.1", ca_key),
            *((trust_anchor_id(key), key) for _, _, key, _ in cosigners if key.name.startswith("oid/")),
        ]
        (tmp_path / "trust.json").write_text(json.dumps(_trust(signers)))
        run_mtc(["verify", "--trust", str(tmp_path / "trust.json"), str(tmp_path / "certificate.pem")])
        assert len(signers) == 5


def _trust(signers: Sequence[tuple[str, VerifierKey]]) -> dict[str, object]:
    """Return a trust store that demands the signatures of the first, the CA, and of all others."""
    described = [
        {"id": name, "algorithm": "ml-dsa-44", "public_key": base64.b64encode(key.verifier.public_key).decode()}
        for name, key in signers
    ]
    policy = {"require": [name for name, _ in signers]}
    return {"version": 1, "cas": [{"id": signers[0][0], "cosigners": described, "policy": policy}]}


def test_tessera_wants_long_uploads_in_one_request(tmp_path: Path) -> None:
    """Tessera's mirror answers 500 to a prefix of the packages, where the specification has 202; see docs/interop.md.

    When this fails, Tessera has changed: let the test above use the same sizes for both mirrors.
    """
    log = ca_log(10_000)

    async def story(foreign: Foreign, key: VerifierKey) -> None:
        async with HTTPClient() as http:
            client = CosignerClient(peer(foreign, Role.MIRROR, key), http, time.time)
            await show(client, log, log.size)
            with pytest.raises(PeerError) as caught:
                await upload_entries(client, log.checkpoint(), 0, Packages(log))
            assert caught.value.facts["status"] == 500

    with tessera_mirror(tmp_path, [log]) as foreign:
        assert foreign.mirror_key is not None
        asyncio.run(story(foreign, foreign.mirror_key))


def _files(foreign: Foreign, origin: str) -> Callable[[str], bytes]:
    """Return what reads the files of a log that a foreign mirror would serve; Sunlight packs its bundles."""
    assert foreign.public is not None
    folder = foreign.public / hashlib.sha256(origin.encode()).hexdigest()

    def fetch(path: str) -> bytes:
        data = (folder / path).read_bytes()
        return gzip.decompress(data) if data.startswith(b"\x1f\x8b\x08") else data

    return fetch


# Their clients, our servers


@contextmanager
def our_cosigner(folder: Path, role: str, log_key: VerifierKey) -> Iterator[Member]:
    """Run our witness or mirror, which knows one key."""
    with fleet_in(folder / "fleet") as fleet:
        member = fleet.add_cosigner(role, role, "32473.8")
        run_mtc([role, "add-log", str(member.folder), "--vkey", log_key.encode()])
        member.start()
        yield member


def test_log_of_tessera_is_cosigned_by_our_witness(tmp_path: Path) -> None:
    """A log of Tessera that publishes nothing without our witness grows three times, each time with our signature."""
    program = find_program("MTC_TESSERA_ONESHOT")
    secret, folder = tmp_path / "log.private", tmp_path / "entries"
    seed = base64.b64encode(bytes((1,)) * 33).decode()  # type byte 1, and the seed of LOG
    secret.write_text(f"PRIVATE+KEY+{LOG.key.name}+{LOG.key.key_id.hex()}+{seed}")
    folder.mkdir()
    with our_cosigner(tmp_path, "witness", LOG.key) as member:
        policy = tmp_path / "policy"
        policy.write_text(f"witness ours {member.vkey} {member.url}\nquorum ours\n")
        for batch in range(3):
            for number in range(4):
                (folder / f"{batch}-{number}").write_text(f"entry {batch} {number}")
            arguments = ["--storage_dir", str(tmp_path / "log"), "--entries", str(folder / f"{batch}-*")]
            run(program, *arguments, "--private_key", secret, "--witness_policy_file", policy)
            opened = open_note((tmp_path / "log" / "checkpoint").read_bytes(), [VerifierKey.parse(member.vkey)])
            assert Checkpoint.parse(opened.text).tree_size == 4 * batch + 4


def test_log_of_tessera_is_mirrored_by_ours(tmp_path: Path) -> None:
    """Tessera's Merkle Tree certificate log publishes what our mirror has cosigned, and our mirror holds all of it."""
    program, hammer = find_program("MTC_TESSERA_MTC_LOG"), find_program("MTC_TESSERA_MTC_HAMMER")
    ca_name, count = "oid/1.3.6.1.4.1.32473.106", 300
    secret, key = make_note_key(tmp_path, ca_name, "ca")
    with our_cosigner(tmp_path, "mirror", key) as member:
        policy, port = tmp_path / "policy", free_port()
        policy.write_text(f"witness ours {member.vkey} {member.url}/\nquorum ours\n")
        who = ["--ca_id", "32473.106", "--log_number", "1"]
        arguments = ["--listen_addr", f"127.0.0.1:{port}", "--storage_dir", str(tmp_path / "log"), *who]
        arguments += ["--checkpoint_interval", "500ms", "--private_key", str(secret), "--mirror_policy", str(policy)]
        with running(tmp_path, port, program, *arguments):
            load = ["--log_url", f"file://{tmp_path}/log", "--write_log_url", f"http://127.0.0.1:{port}/", *who]
            load += ["--log_public_key", key.encode(), "--num_writers", "100", "--max_write_ops", "400"]
            run(hammer, *load, "--leaf_write_goal", str(count), "--show_ui=false", "--max_runtime", "60s")
        keys = (key, VerifierKey.parse(member.vkey))
        published = Checkpoint.parse(open_note((tmp_path / "log" / "checkpoint").read_bytes(), keys).text)
        assert published.tree_size >= count
        check_holds(fetch_from(member, f"{ca_name}.0.1"), keys, published.tree_size)


def test_pollinator_brings_our_log_to_our_mirror_and_to_sunlight(tmp_path: Path) -> None:
    """Cactus's pollinator reads the log of our CA over HTTP and brings it, whole and cosigned, to both mirrors."""
    program, count = find_program("MTC_CACTUS_POLLINATE"), 9000
    with fleet_in(tmp_path / "fleet") as fleet:
        ca, ours = fleet.add_ca("32473.1"), fleet.add_cosigner("mirror", "mirror", "32473.8")
        run_mtc(["mirror", "add-log", str(ours.folder), "--ca", str(ca.folder / "ca.pem")])
        ours.start()
        ca.start()
        ca_key = next(iter(read_cosigner_config(ours.folder).cas)).key
        origin = f"{ca_key.name}.0.1"
        public_key = generate_key(parse_signature_algorithm("ecdsa-p256-sha256")).public_key
        pem = encode_pem(public_key)
        requests = [{"public_key": pem, "dns": [f"h{n}.example.com"], "request_key": str(n)} for n in range(count)]
        (tmp_path / "bulk").write_text("".join(json.dumps(item) + "\n" for item in requests))
        out = ["--out", str(tmp_path / "certificates"), "--json"]
        run_mtc(["ca", "issue", str(ca.folder), "--bulk", str(tmp_path / "bulk"), *out])
        (tmp_path / "sunlight").mkdir()
        known = [SyntheticLog(signer=_named(ca_key), origin=origin)]
        with sunlight(tmp_path / "sunlight", known) as theirs:
            assert theirs.mirror_key is not None
            mirrors = [(ours.url, VerifierKey.parse(ours.vkey)), (theirs.url, theirs.mirror_key)]
            port = free_port()
            config = write_pollinator_config(tmp_path, (ca.url, ca_key), mirrors, port)
            fetches = [(mirrors[0][1], fetch_from(ours, origin)), (mirrors[1][1], _files(theirs, origin))]
            with running(tmp_path, port, program, "-config", config):
                for _, fetch in fetches:
                    wait_for(lambda fetch=fetch: size_at(fetch) >= count, "the mirror has everything", 60)  # type: ignore[misc]
            first, second = (check_holds(fetch, (ca_key, key), count) for key, fetch in fetches)
            assert first == second


def _named(key: VerifierKey) -> TestSigner:
    """Return a signer that only shows a key of somebody else."""
    signer = TestSigner(key.name, key.type)
    signer.key = key
    return signer
