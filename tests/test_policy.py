"""Policy files and log proofs: who must have signed a checkpoint, and what is in the log then."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.note_keys import CA, LOG, MIRROR, WITNESS, TestSigner

from mtc.errors import FormatError, ProofError, Reason, Rejected, SignatureError
from mtc.kernel import Kernel, active_kernel
from mtc.merkle import RowReader, Subtree, prove_inclusion, root_hash
from mtc.note import (
    Checkpoint,
    Note,
    NoteSignature,
    PolicyGroup,
    PolicyLog,
    PolicyWitness,
    Quorum,
    QuorumPolicy,
    SignatureType,
    TLogProof,
    VerifierKey,
    open_note,
    verify_tlog_proof,
)

HASHER = active_kernel().hasher("sha256")
OTHERS = [TestSigner(f"w{number}.example", SignatureType.COSIGNATURE_ED25519, 10 + number) for number in range(6)]
VKEYS = [signer.key.encode() for signer in OTHERS]


def _policy(text: str) -> QuorumPolicy:
    """Parse a policy in which {log}, {ca}, {0} to {5} stand for keys."""
    return QuorumPolicy.parse(text.format(*VKEYS, log=LOG.key.encode(), ca=CA.key.encode()).encode())


# The structure of the example in C2SP tlog-policy, "Example policy", with keys in the place of the elided ones.
EXAMPLE = """log {log}

witness X1 {0}
witness X2 {1}
witness X3 {2}
group X-witnesses 2 X1 X2 X3

witness Y1 {3}
witness Y2 {4}
witness Y3 {5}
group Y-witnesses any Y1 Y2 Y3

group X-and-Y all X-witnesses Y-witnesses
quorum X-and-Y
"""


class TestPolicyFile:
    """The form of policy files."""

    def test_example_of_the_specification(self) -> None:
        """The example means two of the X-witnesses and one of the Y-witnesses, and is written so that it reads back."""
        policy = _policy(EXAMPLE)
        assert [log.key for log in policy.logs] == [LOG.key]
        assert [witness.name for witness in policy.witnesses] == ["X1", "X2", "X3", "Y1", "Y2", "Y3"]
        expected = Quorum(2, (Quorum(2, ("X1", "X2", "X3")), Quorum(1, ("Y1", "Y2", "Y3"))))
        assert policy.quorum == expected
        assert not policy.quorum.is_satisfied({"X1", "X2"})
        assert not policy.quorum.is_satisfied({"X1", "Y1", "Y2", "Y3"})
        assert policy.quorum.is_satisfied({"X1", "X3", "Y2"})
        assert QuorumPolicy.parse(policy.encode()) == policy

    def test_white_space_comments_and_urls(self) -> None:
        """Spaces and tabs separate and surround, empty lines and comments are skipped, lines may carry a URL."""
        policy = _policy(
            "# comment\n \t# another one\n\n \t\n\tlog  {log}\thttps://log.example/ \nwitness\tä {0} https://ẃ.example\n"
            "quorum ä\n"
        )
        assert policy.logs == (PolicyLog(LOG.key, "https://log.example/"),)
        assert policy.witnesses == (PolicyWitness("ä", OTHERS[0].key, "https://ẃ.example"),)
        assert policy.quorum == Quorum(1, ("ä",))
        assert QuorumPolicy.parse(policy.encode()) == policy

    def test_names_are_opaque_bytes(self) -> None:
        """Names are bytes: no encoding, no normal forms; a Kelvin sign is no K, and invalid UTF-8 is a name."""
        vkey = [key.encode() for key in VKEYS]
        data = b"witness K %s\nwitness \xe2\x84\xaa %s\nwitness \xff#none %s\ngroup g all K \xe2\x84\xaa \xff#none\n"
        policy = QuorumPolicy.parse(data % (vkey[0], vkey[1], vkey[2]) + b"quorum g\n")
        assert len(policy.quorum.names()) == 3
        assert QuorumPolicy.parse(policy.encode()) == policy
        assert b"\xff#none" in policy.encode()

    def test_smallest(self) -> None:
        """Only the quorum is mandatory."""
        policy = _policy("quorum none\n")
        assert (policy.logs, policy.witnesses, policy.quorum.requires_nobody) == ((), (), True)

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", Reason.BAD_POLICY),
            ("log {log}\n", Reason.BAD_POLICY),
            ("quorum none", Reason.TRUNCATED),
            ("quorum none\n\r\n", Reason.BAD_TEXT),
            ("quorum none\n\x7f\n", Reason.BAD_TEXT),
            ("quorum none\n\x00\n", Reason.BAD_TEXT),
            ("quorum\u00a0none\n", Reason.BAD_POLICY),
            ("quorum\n", Reason.BAD_POLICY),
            ("quorum none none\n", Reason.BAD_POLICY),
            ("quorum none\nquorum none\n", Reason.DUPLICATE),
            ("Quorum none\n", Reason.BAD_POLICY),
            ("quorum w\nwitness w {0}\n", Reason.BAD_POLICY),
            ("quorum w\n", Reason.BAD_POLICY),
            ("log\nquorum none\n", Reason.BAD_POLICY),
            ("log {log} a b\nquorum none\n", Reason.BAD_POLICY),
            ("log x\nquorum none\n", Reason.BAD_KEY),
            ("log {log}\nlog {log} https://elsewhere.example\nquorum none\n", Reason.DUPLICATE),
            ("witness w\nquorum none\n", Reason.BAD_POLICY),
            ("witness w {0} a b\nquorum none\n", Reason.BAD_POLICY),
            ("witness w {0}\nwitness w {1}\nquorum none\n", Reason.DUPLICATE),
            ("witness w {0}\nwitness v {0}\nquorum none\n", Reason.DUPLICATE),
            ("witness none {0}\nquorum none\n", Reason.BAD_POLICY),
            ("witness w {log}\nquorum none\n", Reason.BAD_POLICY),
            ("witness w {0}\ngroup g all\nquorum g\n", Reason.BAD_POLICY),
            ("witness w {0}\ngroup g\nquorum g\n", Reason.BAD_POLICY),
            ("witness w {0}\ngroup g 0 w\nquorum g\n", Reason.BAD_POLICY),
            ("witness w {0}\ngroup g 2 w\nquorum g\n", Reason.BAD_NUMBER),
            ("witness w {0}\ngroup g 01 w\nquorum g\n", Reason.BAD_NUMBER),
            ("witness w {0}\ngroup g -1 w\nquorum g\n", Reason.BAD_NUMBER),
            ("witness w {0}\ngroup g some w\nquorum g\n", Reason.BAD_NUMBER),
            ("witness w {0}\ngroup g all w w\nquorum g\n", Reason.DUPLICATE),
            ("witness w {0}\ngroup g all none\nquorum g\n", Reason.BAD_POLICY),
            ("witness w {0}\ngroup none all w\nquorum none\n", Reason.BAD_POLICY),
            ("witness w {0}\ngroup w all w\nquorum w\n", Reason.DUPLICATE),
            ("group g all w\nwitness w {0}\nquorum g\n", Reason.BAD_POLICY),
            ("witness w {0}\ngroup g all g\nquorum g\n", Reason.BAD_POLICY),
            ("witness w {0}\ngroup g all w\ngroup h all w\nquorum g\n", Reason.DUPLICATE),
            ("witness w {0}\ngroup g all w\ngroup h all w g\nquorum h\n", Reason.DUPLICATE),
            ("unknown line\nquorum none\n", Reason.BAD_POLICY),
        ],
    )
    def test_other_forms_are_refused(self, text: str, reason: Reason) -> None:
        """Each rule of the format has a file that breaks it and is refused for it."""
        with pytest.raises(FormatError) as caught:
            _policy(text)
        assert caught.value.reason == reason

    def test_same_key_in_other_clothes_is_a_duplicate(self) -> None:
        """Keys are duplicates when the public key is the same, whatever name and type they go under."""
        twin = VerifierKey("other.example", SignatureType.COSIGNATURE_ED25519, OTHERS[0].key.public_key).encode()
        with pytest.raises(FormatError) as caught:
            _policy(f"witness w {{0}}\nwitness v {twin}\nquorum none\n")
        assert caught.value.reason == Reason.DUPLICATE
        twin = VerifierKey("other.example", SignatureType.COSIGNATURE_ED25519, LOG.key.public_key).encode()
        with pytest.raises(FormatError):
            _policy(f"log {{log}}\nlog {twin}\nquorum none\n")
        assert _policy(f"log {{log}}\nwitness w {twin}\nquorum w\n").witnesses

    def test_keys_must_be_told_apart(self) -> None:
        """Two keys with one name and one key ID could not be told apart under a note."""
        twin = VerifierKey(OTHERS[0].key.name, OTHERS[0].key.type, OTHERS[1].key.public_key)
        object.__setattr__(twin, "key_id", OTHERS[0].key.key_id)
        with pytest.raises(FormatError) as caught:
            QuorumPolicy((), (PolicyWitness("a", OTHERS[0].key), PolicyWitness("b", twin)), (), "none")
        assert caught.value.reason == Reason.DUPLICATE

    def test_fault_names_its_line(self) -> None:
        """A fault in a line comes with the line's number."""
        with pytest.raises(FormatError) as caught:
            _policy("# one\n\nlog {log}\nwitness w x\nquorum none\n")
        assert caught.value.facts["line"] == 4

    def test_every_truncation(self) -> None:
        """The example cut off anywhere is refused: without its last line it has no quorum."""
        data = _policy(EXAMPLE).encode()
        for cut in range(0, len(data), 1 if len(data) < 2000 else 7):
            with pytest.raises(FormatError):
                QuorumPolicy.parse(data[:cut])
        for cut in range(data.rindex(b"quorum"), len(data)):
            with pytest.raises(FormatError):
                QuorumPolicy.parse(data[:cut])

    @given(st.data())
    def test_mutations(self, data: st.DataObject) -> None:
        """The example with a byte changed is refused, or is a policy that is read back from what it writes."""
        whole = bytearray(_policy(EXAMPLE).encode())
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
        try:
            policy = QuorumPolicy.parse(bytes(whole))
        except FormatError:
            return
        assert QuorumPolicy.parse(policy.encode()) == policy

    def test_limits(self) -> None:
        """At least 32 logs, witnesses and groups are read, 129 are not, nor a file above a mebibyte."""
        keys = [
            VerifierKey(f"k{number}", SignatureType.COSIGNATURE_ED25519, bytes((number, 1)) * 16)
            for number in range(129)
        ]

        def build(count: int) -> QuorumPolicy:
            groups = [PolicyGroup("g0", 1, ("w0",))]
            groups += [PolicyGroup(f"g{n}", 2, (f"w{n}", f"g{n - 1}")) for n in range(1, min(count, 64))]
            return QuorumPolicy(
                tuple(map(PolicyLog, keys[:count])),
                tuple(PolicyWitness(f"w{n}", key) for n, key in enumerate(keys[:count])),
                tuple(groups),
                groups[-1].name,
            )

        for count in (32, 128):
            assert QuorumPolicy.parse(build(count).encode()) == build(count)
        assert build(64).quorum.depth == 64
        with pytest.raises(FormatError) as caught:
            build(129)
        assert caught.value.reason == Reason.TOO_LARGE
        with pytest.raises(FormatError) as caught:
            QuorumPolicy.parse(b"#" * (1 << 20) + b"\n")
        assert caught.value.reason == Reason.TOO_LARGE

    @pytest.mark.parametrize(
        ("witnesses", "groups", "quorum"),
        [
            ((PolicyWitness("a b", OTHERS[0].key),), (), "none"),
            ((PolicyWitness("", OTHERS[0].key),), (), "none"),
            ((PolicyWitness("a", OTHERS[0].key, "two words"),), (), "none"),
            ((PolicyWitness("a", OTHERS[0].key),), (PolicyGroup("g", 1, ("b",)),), "none"),
            ((PolicyWitness("a", OTHERS[0].key),), (PolicyGroup("g", 0, ()),), "none"),
            ((PolicyWitness("a", OTHERS[0].key),), (PolicyGroup("g", 0, ("a",)),), "none"),
            ((PolicyWitness("a", OTHERS[0].key),), (), "b"),
        ],
    )
    def test_policy_is_valid_once_built(
        self, witnesses: tuple[PolicyWitness, ...], groups: tuple[PolicyGroup, ...], quorum: str
    ) -> None:
        """No policy exists that could not be written and read back."""
        with pytest.raises(FormatError) as caught:
            QuorumPolicy((), witnesses, groups, quorum)
        assert caught.value.reason == Reason.BAD_POLICY


class TestAcceptance:
    """Which checkpoints a policy accepts."""

    CHECKPOINT = Checkpoint("log.example/7", 300, bytes(32))

    def _note(self, *signers: TestSigner, checkpoint: Checkpoint = CHECKPOINT) -> Note:
        lines = [signer.cosign(checkpoint, 0 if signer.key.type == SignatureType.ED25519 else 9) for signer in signers]
        return Note(checkpoint.encode(), tuple(lines))

    def test_log_and_quorum(self) -> None:
        """A checkpoint is accepted exactly when the log signed it and the witnesses are enough."""
        policy = _policy(EXAMPLE)
        accepted = policy.verify_checkpoint(self._note(LOG, OTHERS[0], OTHERS[2], OTHERS[4], WITNESS))
        assert accepted.checkpoint == self.CHECKPOINT
        assert len(accepted.note.verified) == 4
        assert [line.name for line in accepted.note.unverified] == [WITNESS.key.name]
        with pytest.raises(Rejected) as caught:
            policy.verify_checkpoint(self._note(LOG, OTHERS[0], OTHERS[4]))
        assert caught.value.reason == Reason.POLICY_NOT_MET
        assert "X2" in caught.value.message
        assert caught.value.facts["present"] == ["X1", "Y2"]
        with pytest.raises(Rejected) as caught:
            policy.verify_checkpoint(self._note(OTHERS[0], OTHERS[2], OTHERS[4]))
        assert caught.value.reason == Reason.UNKNOWN_SIGNER

    def test_origin_must_be_listed(self) -> None:
        """A checkpoint of an origin that no log line names is rejected, and by a policy without logs every one."""
        other = Checkpoint("log.example/8", 300, bytes(32))
        for policy, note in [
            (_policy("log {log}\nquorum none\n"), self._note(LOG, checkpoint=other)),
            (_policy("quorum none\n"), self._note(LOG)),
        ]:
            with pytest.raises(Rejected) as caught:
                policy.verify_checkpoint(note)
            assert caught.value.reason == Reason.UNKNOWN_ORIGIN

    def test_failing_signatures_reject(self) -> None:
        """A wrong signature of a witness in the policy rejects the checkpoint, even where the quorum needs it not."""
        policy = _policy("log {log}\nwitness w {0}\nquorum none\n")
        bad = NoteSignature(OTHERS[0].key.name, OTHERS[0].key.key_id, bytes(72))
        with pytest.raises(SignatureError):
            policy.verify_checkpoint(self._note(LOG).with_signatures(bad))

    @pytest.mark.parametrize(
        ("origin", "accepted"),
        [
            ("oid/1.3.6.1.4.1.32473.1.0.1", True),
            ("oid/1.3.6.1.4.1.32473.1.0.65535", True),
            ("oid/1.3.6.1.4.1.32473.1", True),
            ("oid/1.3.6.1.4.1.32473.1.0.0", False),
            ("oid/1.3.6.1.4.1.32473.1.0.65536", False),
            ("oid/1.3.6.1.4.1.32473.1.1.1", False),
            ("oid/1.3.6.1.4.1.32473.1.0", False),
            ("oid/1.3.6.1.4.1.32473.2.0.1", False),
            ("oid/1.3.6.1.4.1.32473.1.0.1.0.1", False),
            ("oid/1.3.6.1.4.1.1", False),
            ("oid/1.3.6.1.4.1.0.1", False),
        ],
    )
    def test_ca_key_stands_for_its_logs(self, origin: str, accepted: bool) -> None:  # noqa: FBT001 - a table
        """A log line with the key of a CA cosigner accepts the CA's issuance logs 1 to 65535, and no other log."""
        policy = _policy("log {ca}\nquorum none\n")
        assert policy.log_keys(origin) == ([CA.key] if accepted else [])
        if accepted:
            checkpoint = Checkpoint(origin, 5, bytes(32))
            assert policy.verify_checkpoint(self._note(CA, checkpoint=checkpoint)).checkpoint == checkpoint


def _proof(size: int = 11, index: int = 4, extra: bytes = b"") -> tuple[TLogProof, bytes]:
    """Return a proof for an entry of a log of `size` entries, and the entry's hash."""
    row = HASHER.leaves([b"%d" % number for number in range(size)])
    checkpoint = Checkpoint("log.example/7", size, root_hash(HASHER, row))
    path = prove_inclusion(HASHER, RowReader(HASHER, row), Subtree(0, size), index)
    note = Note(checkpoint.encode(), (LOG.cosign(checkpoint), WITNESS.cosign(checkpoint, 9)))
    return TLogProof(index, tuple(path), note, extra), row[index * 32 : index * 32 + 32]


class TestTLogProof:
    """Proof files."""

    POLICY = f"log {{log}}\nwitness w {WITNESS.key.encode()}\nquorum w\n"

    def test_layout(self) -> None:
        """A proof file is a version, extra data if any, index, hashes, an empty line, and the checkpoint as it is."""
        proof, _ = _proof(extra=b"\x01")
        lines = proof.encode().decode().split("\n")
        assert lines[:3] == ["c2sp.org/tlog-proof@v1", "extra AQ==", "index 4"]
        assert lines[3 + len(proof.inclusion_proof)] == ""
        assert proof.encode().endswith(b"\n\n" + proof.note.encode())
        plain, _ = _proof()
        assert b"extra" not in plain.encode()

    @pytest.mark.parametrize("extra", [b"", b"some data"])
    @pytest.mark.parametrize(("size", "index"), [(1, 0), (2, 1), (11, 10), (300, 17)])
    def test_round_trip_and_proof(self, kernel: Kernel, size: int, index: int, extra: bytes) -> None:
        """A proof is read back from its file and proves that the entry is in the accepted checkpoint."""
        proof, entry_hash = _proof(size, index, extra)
        assert TLogProof.parse(proof.encode()) == proof
        accepted = verify_tlog_proof(kernel.hasher("sha256"), proof, entry_hash, _policy(self.POLICY))
        assert accepted.checkpoint.tree_size == size

    def test_every_lie_is_found(self) -> None:
        """Another entry, index, path or tree, a missing witness, and a log that did not sign are each found."""
        proof, entry_hash = _proof()
        policy = _policy(self.POLICY)
        path, note = proof.inclusion_proof, proof.note
        for wrong, value in [
            (proof, bytes(32)),
            (TLogProof(5, path, note), entry_hash),
            (TLogProof(11, path, note), entry_hash),
            (TLogProof(4, path[:-1], note), entry_hash),
            (TLogProof(4, (*path, bytes(32)), note), entry_hash),
            (TLogProof(4, path[::-1], note), entry_hash),
        ]:
            with pytest.raises(ProofError):
                verify_tlog_proof(HASHER, wrong, value, policy)
        for position, reason in [(0, Reason.POLICY_NOT_MET), (1, Reason.UNKNOWN_SIGNER)]:
            with pytest.raises(Rejected) as caught:
                verify_tlog_proof(
                    HASHER, TLogProof(4, path, Note(note.text, (note.signatures[position],))), entry_hash, policy
                )
            assert caught.value.reason == reason
        other, _ = _proof(12)
        with pytest.raises(SignatureError):
            verify_tlog_proof(HASHER, TLogProof(4, path, Note(other.note.text, note.signatures)), entry_hash, policy)

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda data: data[:0], Reason.UNKNOWN_FORMAT),
            (lambda data: data.replace(b"@v1", b"@v2"), Reason.UNKNOWN_FORMAT),
            (lambda data: b"\n" + data, Reason.UNKNOWN_FORMAT),
            (lambda data: data.replace(b"extra AQ==", b"extra "), Reason.BAD_DOCUMENT),
            (lambda data: data.replace(b"extra AQ==", b"extra"), Reason.BAD_DOCUMENT),
            (lambda data: data.replace(b"extra AQ==", b"extra AQ==\nextra AQ=="), Reason.BAD_DOCUMENT),
            (lambda data: data.replace(b"extra AQ==", b"extra AQ="), Reason.BAD_BASE64),
            (lambda data: data.replace(b"extra AQ==", b"extra  AQ=="), Reason.BAD_BASE64),
            (lambda data: data.replace(b"index 4\n", b""), Reason.BAD_DOCUMENT),
            (lambda data: data.replace(b"index 4", b"index"), Reason.BAD_DOCUMENT),
            (lambda data: data.replace(b"index 4", b"index "), Reason.BAD_NUMBER),
            (lambda data: data.replace(b"index 4", b"index 04"), Reason.BAD_NUMBER),
            (lambda data: data.replace(b"index 4", b"index 9223372036854775808"), Reason.BAD_NUMBER),
            (lambda data: data.replace(b"index 4\n", b"index 4\n\n"), Reason.BAD_NUMBER),
            (lambda data: data.replace(b"index 4\n", b"index 4\nAAAA\n"), Reason.BAD_HASH_SIZE),
            (lambda data: data.replace(b"index 4\n", b"index 4\n=\n"), Reason.BAD_BASE64),
            (lambda data: data.replace(b"index 4\n", b"index 4\n" + b"A" * 43 + b"=\n"), None),
            (lambda data: data.replace(b"index 4\n", b"index 4\n" + (b"A" * 43 + b"=\n") * 65), Reason.TOO_LARGE),
            (lambda data: data.replace(b"index 4\n", b"index 4\r\n"), Reason.BAD_TEXT),
            (lambda data: data.partition(b"\n\n")[0] + b"\n", Reason.TRUNCATED),
            (lambda data: data.partition(b"\n\n")[0], Reason.TRUNCATED),
            (lambda data: data + b"\n", Reason.BAD_NOTE),
            (lambda data: data + b"#" * 2_000_000, Reason.TOO_LARGE),
        ],
    )
    def test_other_forms_are_refused(self, change: Callable[[bytes], bytes], reason: Reason | None) -> None:
        """Each way to miss the form is refused with its reason."""
        data = change(_proof(extra=b"\x01")[0].encode())
        if reason is None:
            assert TLogProof.parse(data).encode() == data
            return
        with pytest.raises(FormatError) as caught:
            TLogProof.parse(data)
        assert caught.value.reason == reason

    def test_every_truncation(self) -> None:
        """A proof file cut off anywhere is refused, or lacks signatures at its end."""
        proof, _ = _proof(extra=b"\x01")
        data = proof.encode()
        for cut in range(len(data)):
            try:
                shorter = TLogProof.parse(data[:cut])
            except FormatError:
                continue
            assert shorter.note.signatures == proof.note.signatures[:1]

    def test_note_must_be_a_checkpoint(self) -> None:
        """A proof with a note that is no checkpoint, or with hashes of another size, does not exist."""
        note = Note(b"text\n", _proof()[0].note.signatures)
        with pytest.raises(FormatError):
            TLogProof(0, (), note)
        with pytest.raises(FormatError):
            TLogProof(-1, (), _proof()[0].note)

    def test_mirror_counts_as_a_witness(self) -> None:
        """An ML-DSA-44 cosignature counts like an Ed25519 one, also with timestamp 0."""
        policy = QuorumPolicy((PolicyLog(LOG.key),), (PolicyWitness("m", MIRROR.key),), (), "m")
        checkpoint = Checkpoint("log.example/7", 3, bytes(32))
        note = Note(checkpoint.encode(), (LOG.cosign(checkpoint), MIRROR.cosign(checkpoint, 0)))
        assert policy.verify_checkpoint(note).note == open_note(note.encode(), [LOG.key, MIRROR.key])
