"""A CA from request to certificate: log on files and SQLite, key behind a socket, certificates verified."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mtc.ca.authority import CertificationAuthority, IssuanceRequest
from mtc.ca.signing import CATreeSigner
from mtc.crypto import HASH_ALGORITHMS, generate_key, parse_public_key, parse_signature_algorithm
from mtc.errors import ConflictError, PeerError, SignatureError
from mtc.ids import DEFAULT_REVISION, TrustAnchorID
from mtc.kernel import active_kernel
from mtc.log.service import IssuanceLog
from mtc.merkle import Frontier
from mtc.note import SignatureType, VerifierKey, open_note
from mtc.signer import SignerRules, TreeRequest
from mtc.signer.protocol import SignedMessages
from mtc.signer.service import Journal, KeyHolder, SignerClient, serve_signer
from mtc.store import FileStore, MemoryRegister, MemoryStore, SQLiteRegister
from mtc.testing import FakeClock
from mtc.trust import Cosigner, CosignerPolicy, Form, TrustedCA, TrustStore, verify_certificate
from mtc.web import ClockGuard

CA_ID = TrustAnchorID.parse("32473.1")
ALGORITHM = parse_signature_algorithm("ml-dsa-44")
KEY = generate_key(ALGORITHM)
HASHER = active_kernel().hasher("sha256")
SPKI = (
    ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
)


def trust() -> TrustStore:
    """Return a store in which the CA's own cosignature suffices."""
    key = parse_public_key(KEY.public_key, ALGORITHM)
    policy = CosignerPolicy(require=(CA_ID,))
    return TrustStore([TrustedCA(CA_ID, DEFAULT_REVISION, HASH_ALGORITHMS["sha256"], (Cosigner(CA_ID, key),), policy)])


def request(clock: FakeClock, name: str) -> IssuanceRequest:
    """Return a request for one name, with the name as its idempotency key."""
    start = clock.now()
    return IssuanceRequest(
        spki=SPKI,
        dns_names=(name,),
        not_before=start,
        not_after=start + timedelta(days=7, seconds=-1),
        request_key=name.encode(),
    )


@asynccontextmanager
async def running(folder: Path, clock: FakeClock) -> AsyncIterator[tuple[CertificationAuthority, IssuanceLog]]:
    """Run a CA with its log in the folder and its key behind a socket; everything is closed at the end."""
    store, register = FileStore.open(folder / "public"), SQLiteRegister.open(folder / "log.db")
    own, journal = SQLiteRegister.open(folder / "signer.db"), Journal(folder / "journal")
    key = KeyHolder(HASHER, SignerRules(ca_id=CA_ID), KEY, own, journal, clock)
    try:
        async with serve_signer(key, folder / "signer.sock"):
            signer = CATreeSigner(CA_ID, KEY.public_key, SignerClient(folder / "signer.sock"))
            log = await IssuanceLog.open(HASHER, 1, store, register, signer, ClockGuard(clock))
            yield CertificationAuthority(CA_ID, HASHER, log, store), log
    finally:
        store.close()
        register.close()
        own.close()
        journal.close()


async def issue(authority: CertificationAuthority, log: IssuanceLog, *requests: IssuanceRequest) -> list[bytes]:
    """Issue requests in one round; return the standalone certificates."""
    tasks = [asyncio.create_task(authority.issue(item)) for item in requests]
    await asyncio.sleep(0)
    try:
        await log.run_round()
    except (SignatureError, ConflictError):
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    return [(await task).standalone for task in tasks]


def test_certificates_come_out_and_verify(tmp_path: Path) -> None:
    """Requests of several rounds get certificates that verify for their names, and the served checkpoint is signed."""

    async def run() -> None:
        clock = FakeClock()
        async with running(tmp_path, clock) as (authority, log):
            for names in (["a.example.com"], [f"h{number}.example.com" for number in range(300)]):
                clock.advance(1)
                made = await issue(authority, log, *(request(clock, name) for name in names))
                for name, der in list(zip(names, made, strict=True))[:: max(1, len(names) // 20)]:
                    verified = verify_certificate(der, trust(), clock.now(), name=name)
                    assert verified.form is Form.STANDALONE
        note = (tmp_path / "public" / "1" / "checkpoint").read_bytes()
        key = VerifierKey.from_spki(CA_ID.oid_name, SignatureType.COSIGNATURE_MLDSA44, KEY.public_key)
        assert open_note(note, [key]).text.split(b"\n")[:2] == [b"oid/1.3.6.1.4.1.32473.1.0.1", b"301"]

    asyncio.run(run())


def test_repeated_request_gets_the_same_entry_after_a_restart(tmp_path: Path) -> None:
    """After a restart the same request gets its certificate again without a new entry; a changed one is refused."""

    async def run() -> None:
        clock = FakeClock()
        asked = request(clock, "a.example.com")
        async with running(tmp_path, clock) as (authority, log):
            (first,) = await issue(authority, log, asked)
        clock.advance(60)
        async with running(tmp_path, clock) as (authority, log):
            again = await authority.issue(asked)
            assert (again.index, again.standalone) == (0, first)
            assert log.record.tree_size == 1
            with pytest.raises(ConflictError, match="certifies something else"):
                await authority.issue(request(clock, "a.example.com"))

    asyncio.run(run())


def test_signer_that_lies_is_not_believed() -> None:
    """A signer that answers with other subtrees, or with signatures that fail, stops the log before its checkpoint."""

    class Liar:
        """Signs garbage."""

        def __init__(self, *, keeps_subtrees: bool) -> None:
            self.keeps_subtrees = keeps_subtrees

        async def sign(self, asked: TreeRequest) -> SignedMessages:
            """Return the subtrees asked for, or none, with made-up signatures."""
            covered = Frontier().cover_growth(HASHER, HASHER.leaves(asked.entries))
            subtrees = tuple((subtree, value, bytes(2420)) for subtree, value in covered)
            return SignedMessages(bytes(2420), subtrees if self.keeps_subtrees else ())

    async def run() -> None:
        for keeps in (True, False):
            store, clock = MemoryStore(), FakeClock()
            signer = CATreeSigner(CA_ID, KEY.public_key, Liar(keeps_subtrees=keeps))
            log = await IssuanceLog.open(HASHER, 1, store, MemoryRegister(), signer, ClockGuard(clock))
            authority = CertificationAuthority(CA_ID, HASHER, log, store)
            with pytest.raises((SignatureError, ConflictError)):
                await issue(authority, log, request(clock, "a.example.com"))
            assert "1/checkpoint" not in store.objects

    asyncio.run(run())


def test_signer_that_is_away_costs_nothing_but_time(tmp_path: Path) -> None:
    """When the signer does not answer, the round stays decided, and is finished when the signer is back."""

    async def run() -> None:
        store, register, clock = MemoryStore(), MemoryRegister(), FakeClock()
        signer = CATreeSigner(CA_ID, KEY.public_key, SignerClient(tmp_path / "signer.sock"))
        log = await IssuanceLog.open(HASHER, 1, store, register, signer, ClockGuard(clock))
        authority = CertificationAuthority(CA_ID, HASHER, log, store)
        task = asyncio.create_task(authority.issue(request(clock, "a.example.com")))
        await asyncio.sleep(0)
        with pytest.raises(PeerError, match="is it running"):
            await log.run_round()
        assert "1/checkpoint" not in store.objects
        own, journal = MemoryRegister(), Journal(tmp_path / "journal")
        key = KeyHolder(HASHER, SignerRules(ca_id=CA_ID), KEY, own, journal, clock)
        async with serve_signer(key, tmp_path / "signer.sock"):
            await log.run_round()
        verify_certificate((await task).standalone, trust(), clock.now(), name="a.example.com")
        journal.close()

    asyncio.run(run())
