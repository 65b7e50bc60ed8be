"""Evidence: what each kind proves, that nobody innocent is convicted, and what can be found where."""

from dataclasses import replace
from random import Random

import pytest
from tests.note_keys import CA, LOG, MIRROR, WITNESS, TestSigner
from tests.split_views import ORIGIN, SIGNERS, SplitViewCA, every_kind, signed, signed_subtree

from mtc.cosign.evidence import (
    KINDS,
    BadEntries,
    BadSignature,
    EmptyRoot,
    Evidence,
    ForeignSubtree,
    Inconsistent,
    RolledBack,
    SignedSubtree,
    SplitSubtree,
    SplitTrees,
    SplitView,
    WentBack,
    compare_checkpoints,
    compare_subtree,
    compare_trees,
    encode_evidence,
    find_evidence,
    parse_evidence,
    verify_evidence,
)
from mtc.cosign.evidence.kinds import Exhibit, only_lines_of
from mtc.cosign.logs import KnownLog
from mtc.cosign.machine import CosignerView, plan_checkpoint
from mtc.cosign.requests import AddCheckpoint
from mtc.errors import Error, FormatError, ProofError, Reason, Rejected, SignatureError
from mtc.kernel import Kernel, active_kernel
from mtc.merkle import Subtree, prove_consistency, subtree_hash
from mtc.note import Checkpoint, Note
from mtc.tiles import MAX_BUNDLE_BYTES, EntriesTile, Tile

ALL = [evidence for signer in SIGNERS for evidence in every_kind(signer)]
NAMES = [f"{evidence.kind}-{evidence.subject.type.name}" for evidence in ALL]
ELSEWHERE = "oid/1.3.6.1.4.1.32473.1.0.2"


def refused(evidence: Evidence) -> Error:
    """Return why evidence proves nothing."""
    with pytest.raises(Error) as caught:
        verify_evidence(evidence)
    return caught.value


def view_of(ca: SplitViewCA, view: str, size: int) -> CosignerView:
    """Return what an honest cosigner keeps after it accepted a checkpoint."""
    return CosignerView(size, ca.checkpoint(view, size).root_hash, ca.note(view, size).encode())


class TestKinds:
    """What each kind proves."""

    @pytest.mark.parametrize("evidence", ALL, ids=NAMES)
    def test_sound_evidence_verifies(self, evidence: Evidence, kernel: Kernel) -> None:
        """Each kind verifies for each type of key that can commit it, on both kernels, and says who and which log."""
        finding = verify_evidence(evidence, kernel)
        assert str(evidence.subject) in finding.proven
        assert evidence.origin in finding.proven
        assert finding.sides

    def test_every_kind_is_tried(self) -> None:
        """The examples show every kind there is."""
        assert {evidence.kind for evidence in ALL} == KINDS.keys()

    @pytest.mark.parametrize("evidence", ALL, ids=NAMES)
    def test_proof_and_testimony_are_apart(self, evidence: Evidence) -> None:
        """What the subject's signatures prove needs nobody's word; what needs one says so."""
        finding = verify_evidence(evidence)
        assert finding.is_proof == (not evidence.is_testimony) == (not finding.testimony)

    def test_name_of_a_key_counts_where_it_is_signed(self) -> None:
        """ML-DSA-44 signatures cover the name of the key; for other keys the finding says that they do not."""
        for signer in SIGNERS:
            finding = verify_evidence(every_kind(signer)[0])
            assert ("do not cover its name" in finding.proven) == (signer is not CA)

    @pytest.mark.parametrize("evidence", ALL, ids=NAMES)
    def test_collected_is_only_a_remark(self, evidence: Evidence) -> None:
        """When and by whom evidence was collected changes neither its name nor what it proves."""
        other = evidence.collected("never", "nobody")
        assert other.name == evidence.name
        assert verify_evidence(other).proven == verify_evidence(evidence).proven

    def test_same_claim_has_the_same_name(self) -> None:
        """A contradiction that is signed again, later, or shown the other way round is the same claim."""
        ca = SplitViewCA(5)
        first = Evidence(CA.key, ORIGIN, SplitView(ca.note("A", 9), ca.note("B", 9)))
        again = Evidence(CA.key, ORIGIN, SplitView(ca.note("B", 9, at=77), ca.note("A", 9, at=78)))
        other = Evidence(CA.key, ORIGIN, SplitView(ca.note("A", 8), ca.note("B", 8)))
        assert first.name == again.name != other.name
        notes = [signed(replace(ca.checkpoint(view, 9), extensions=("x",)), CA, at=1) for view in "AB"]
        assert Evidence(CA.key, ORIGIN, SplitView(*notes)).name == first.name
        one, two = ca.subtree("A", 4, 8), ca.subtree("B", 4, 8)
        names = {Evidence(CA.key, ORIGIN, exhibit).name for exhibit in (SplitSubtree(one, two), SplitSubtree(two, one))}
        assert len(names) == 1
        assert len({evidence.name for evidence in ALL}) == len(ALL)

    def test_sm3_log(self) -> None:
        """Evidence about a log with another tree hash names it, and is judged by it."""
        ca = SplitViewCA(5, hash_name="sm3")
        found = compare_trees(ca.hasher, ca.readers["B"], CA.key, ca.note("A", 7), ca.note("B", 12))
        assert found is not None
        assert found.hash_name == "sm3"
        assert parse_evidence(encode_evidence(found)) == found
        assert isinstance(refused(replace(found, hash_name="sha256")), ProofError)


class TestInnocent:
    """Nobody is convicted by what an honest key signs."""

    def test_honest_log_cannot_be_convicted_by_its_checkpoints(self) -> None:
        """For every two checkpoints of one history, no constructor finds anything and no exhibit of them verifies."""
        ca = SplitViewCA(24, signer=LOG)
        other = SplitViewCA(0, signer=LOG)
        key, hasher, reader = LOG.key, ca.hasher, ca.readers["A"]
        for newer in range(1, 18):
            new = ca.note("A", newer)
            for older in range(newer + 1):
                old = ca.note("A", older)
                assert compare_checkpoints(hasher, key, old, new) is None
                assert compare_trees(hasher, reader, key, old, new) is None
                proof = tuple(prove_consistency(hasher, reader, Subtree(0, older), newer))
                false = subtree_hash(hasher, other.readers["B"], Subtree(0, older))
                for held in {subtree_hash(hasher, reader, Subtree(0, older)), false}:
                    refused(Evidence(key, ORIGIN, Inconsistent(old, new, held, proof)))
                    refused(Evidence(key, ORIGIN, Inconsistent(new, old, held, proof)))
                refused(Evidence(key, ORIGIN, SplitView(old, new)))

    def test_honest_cosigner_cannot_be_convicted_by_its_subtrees(self) -> None:
        """A subtree that is in the tree is no evidence, whatever hash is said to be held there instead."""
        ca = SplitViewCA(24)
        for start, end in ((0, 8), (4, 8), (6, 7), (8, 13), (0, 13)):
            one = ca.subtree("A", start, end)
            assert compare_subtree(ca.hasher, ca.readers["A"], CA.key, one, ca.note("A", 13)) is None
            proof = tuple(prove_consistency(ca.hasher, ca.readers["A"], one.subtree, 13))
            same = ForeignSubtree(one, ca.note("A", 13), one.subtree_hash, proof)
            assert refused(Evidence(CA.key, ORIGIN, same)).reason is Reason.NOT_EVIDENCE
            false = replace(same, held=bytes(32))
            assert isinstance(refused(Evidence(CA.key, ORIGIN, false)), ProofError)

    def test_subtrees_of_others_are_no_evidence(self) -> None:
        """A subtree that somebody else signed, or two signatures over different subtrees, convict nobody."""
        ca = SplitViewCA(5)
        foreign = ca.subtree("A", 4, 8, MIRROR)
        held, proof = (
            ca.subtree("B", 4, 8).subtree_hash,
            prove_consistency(ca.hasher, ca.readers["B"], Subtree(4, 8), 13),
        )
        exhibit = ForeignSubtree(foreign, ca.note("B", 13), held, tuple(proof))
        assert isinstance(refused(Evidence(CA.key, ORIGIN, exhibit)), SignatureError)
        elsewhere = SplitSubtree(ca.subtree("A", 4, 8), ca.subtree("A", 8, 12))
        assert refused(Evidence(CA.key, ORIGIN, elsewhere)).reason is Reason.NOT_EVIDENCE
        assert (
            compare_checkpoints(ca.hasher, CA.key, ca.note("A", 9), SplitViewCA(5, origin=ELSEWHERE).note("B", 9))
            is None
        )

    def test_exhibits_are_valid_once_built(self) -> None:
        """No exhibit holds a subtree without entries, or a file that nobody could have served."""
        with pytest.raises(FormatError):
            SignedSubtree(Subtree(4, 4), bytes(32), b"x")
        with pytest.raises(FormatError):
            BadEntries(SplitViewCA(5).note("A", 9), ((EntriesTile(0, 9), bytes(MAX_BUNDLE_BYTES + 1)),))

    @pytest.mark.parametrize("named", ["sha256", "sm3"])
    @pytest.mark.parametrize("used", ["sha256", "sm3"])
    def test_empty_root_of_another_hash(self, named: str, used: str) -> None:
        """A log whose empty tree has the right root is not convicted by a bundle that names another hash."""
        empty = Checkpoint(ORIGIN, 0, active_kernel().hasher(used).empty)
        found = refused(Evidence(CA.key, ORIGIN, EmptyRoot(signed(empty, CA)), named))
        assert found.reason is Reason.NOT_EVIDENCE

    @pytest.mark.parametrize("evidence", ALL, ids=NAMES)
    def test_another_key_did_not_do_it(self, evidence: Evidence) -> None:
        """What one key signed is no evidence against another one, nor about another log."""
        strangers = [signer.key for signer in (*SIGNERS, MIRROR) if signer.key != evidence.subject]
        for key in strangers:
            # A raw signature fails under every other key, and that is all that its testimony says.
            is_raw = isinstance(evidence.exhibit, BadSignature) and isinstance(
                evidence.exhibit.statement, SignedSubtree
            )
            if not is_raw:
                refused(replace(evidence, subject=key))
        if not isinstance(evidence.exhibit, BadSignature):
            refused(replace(evidence, origin=ELSEWHERE))

    @pytest.mark.parametrize("evidence", ALL, ids=NAMES)
    def test_other_kinds_of_the_same_statements(self, evidence: Evidence) -> None:  # noqa: C901 - one case per kind
        """An older time, the same root twice, or a register that knows the tree contradict nothing."""
        match evidence.exhibit:
            case SplitView(first, _):
                innocent: Exhibit = SplitView(first, first)
            case Inconsistent(_, newer, held, proof):
                innocent = Inconsistent(newer, newer, held, proof)
            case EmptyRoot():
                innocent = EmptyRoot(SplitViewCA(5, signer=_signer(evidence)).note("A", 9))
            case SplitSubtree(first_subtree, _):
                innocent = SplitSubtree(first_subtree, first_subtree)
            case ForeignSubtree(subtree, checkpoint, _, proof):
                innocent = ForeignSubtree(subtree, checkpoint, subtree.subtree_hash, proof)
                assert isinstance(refused(replace(evidence, exhibit=innocent)), ProofError)
                return
            case SplitTrees(subtree, one, _):
                innocent = SplitTrees(subtree, one, one)
            case WentBack(larger, later):
                innocent = WentBack(later, larger)
            case RolledBack(checkpoint, cosigner, _, _):
                known = Checkpoint.parse(checkpoint.text)
                innocent = RolledBack(checkpoint, cosigner, known.tree_size, known.root_hash)
            case BadEntries(checkpoint, _):
                innocent = BadEntries(checkpoint, tuple(SplitViewCA(5).tiles("A", 9).items()))
            case BadSignature():
                innocent = BadSignature(SplitViewCA(5, signer=_signer(evidence)).note("A", 9))
        assert refused(replace(evidence, exhibit=innocent)).reason is Reason.NOT_EVIDENCE

    def test_times(self) -> None:
        """A smaller tree signed earlier, or in the same second, or without a time, is no going back."""
        ca = SplitViewCA(24)
        for larger_at, later_at in ((10, 10), (20, 10)):
            exhibit = WentBack(ca.note("A", 9, at=larger_at), ca.note("A", 4, at=later_at))
            assert refused(Evidence(CA.key, ORIGIN, exhibit)).reason is Reason.NOT_EVIDENCE
        timeless = {
            size: Note(ca.checkpoint("A", size).encode(), (CA.cosign(ca.checkpoint("A", size), 0),)) for size in (4, 9)
        }
        for larger, later in (
            (ca.note("A", 9, at=1), timeless[4]),
            (timeless[9], ca.note("A", 4, at=2)),
            (timeless[9], timeless[4]),
            (ca.note("A", 4, at=1), ca.note("A", 9, at=2)),
            (ca.note("A", 9, at=1), ca.note("A", 9, at=2)),
        ):
            assert refused(Evidence(CA.key, ORIGIN, WentBack(larger, later))).reason is Reason.NOT_EVIDENCE

    def test_register_that_knows_more_was_not_rolled_back(self) -> None:
        """A cosigned tree of at most the register's size shows nothing, unless its root is another one."""
        ca = SplitViewCA(5)
        note = signed(ca.checkpoint("A", 9), CA, MIRROR, at=9)
        for size, root, is_shown in ((10, bytes(32), False), (8, bytes(32), True), (9, bytes(32), True)):
            evidence = Evidence(CA.key, ORIGIN, RolledBack(note, MIRROR.key, size, root))
            if is_shown:
                assert not verify_evidence(evidence).is_proof
            else:
                assert refused(evidence).reason is Reason.NOT_EVIDENCE

    def test_cosigner_of_a_rollback_is_another_party(self) -> None:
        """A log does not testify for itself that somebody has its checkpoint."""
        note = SplitViewCA(24).note("A", 9)
        exhibit = RolledBack(note, CA.key, 3, bytes(32))
        assert refused(Evidence(CA.key, ORIGIN, exhibit)).reason is Reason.NOT_EVIDENCE

    def test_cosigner_of_a_rollback_signed_it(self) -> None:
        """That a cosigner has a checkpoint is shown by its signature, not by naming it."""
        exhibit = RolledBack(SplitViewCA(24).note("A", 9), MIRROR.key, 3, bytes(32))
        assert refused(Evidence(CA.key, ORIGIN, exhibit)).reason is Reason.UNKNOWN_SIGNER

    def test_only_lines_of_the_subject_can_fail(self) -> None:
        """One failing line in the subject's name is enough, beside good ones; without any line nothing is shown."""
        ca = SplitViewCA(5)
        good, other = ca.note("A", 9), ca.note("B", 9)
        mixed = Evidence(CA.key, ORIGIN, BadSignature(good.with_signatures(*other.signatures)))
        assert not verify_evidence(mixed).is_proof
        absent = Evidence(MIRROR.key, ORIGIN, BadSignature(Note(good.text, other.signatures)))
        assert refused(absent).reason is Reason.UNKNOWN_SIGNER

    def test_only_mldsa_keys_sign_subtrees(self) -> None:
        """A subtree in the name of another key is refused, as a failing signature too."""
        one = signed_subtree(Subtree(4, 8), bytes(32), CA)
        two = signed_subtree(Subtree(4, 8), bytes(31) + b"\1", CA)
        for exhibit in (SplitSubtree(one, two), BadSignature(one)):
            assert refused(Evidence(LOG.key, ORIGIN, exhibit)).reason is Reason.BAD_KEY


def _signer(evidence: Evidence) -> TestSigner:
    """Return the signer of the subject."""
    return next(signer for signer in SIGNERS if signer.key == evidence.subject)


class TestTampering:
    """A bundle that was changed."""

    @pytest.mark.parametrize(
        "evidence", [item for item in ALL if not item.is_testimony][:8], ids=lambda item: item.kind
    )
    def test_changed_proof_proves_nothing_else(self, evidence: Evidence) -> None:
        """A document of a proof with a byte changed is refused, or makes the same claim."""
        data = encode_evidence(evidence)
        rng = Random(evidence.name)
        for _ in range(400):
            changed = bytearray(data)
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            try:
                found = verify_evidence(parse_evidence(bytes(changed)))
            except Error:
                continue
            assert found.evidence.name == evidence.name

    def test_lines_of_others_do_not_matter(self) -> None:
        """Lines of unknown keys under a note change nothing; a failing line of the subject makes it useless."""
        ca = SplitViewCA(5)
        note = ca.note("A", 9).with_signatures(WITNESS.cosign(ca.checkpoint("B", 9), 5))
        assert verify_evidence(Evidence(CA.key, ORIGIN, SplitView(note, ca.note("B", 9)))).is_proof
        forged = ca.note("A", 9).with_signatures(CA.cosign(ca.checkpoint("B", 9), 5))
        assert isinstance(refused(Evidence(CA.key, ORIGIN, SplitView(forged, ca.note("B", 9)))), SignatureError)

    def test_lines_are_chosen(self) -> None:
        """A note is cut down to the lines of given keys; nothing is left of a note without them."""
        note = signed(SplitViewCA(5).checkpoint("A", 9), CA, MIRROR, at=1)
        assert [line.name for line in only_lines_of(note, MIRROR.key).signatures] == [MIRROR.key.name]
        with pytest.raises(FormatError):
            only_lines_of(note, WITNESS.key)


class TestServedFiles:
    """Tiles and bundles against a signed root."""

    def files(self, *changes: tuple[Tile | EntriesTile, bytes | None]) -> Evidence:
        """Return evidence of the true files of view A with some changed or, with None, left out."""
        ca = SplitViewCA(24)
        files: dict[Tile | EntriesTile, bytes] = ca.tiles("A", 9)
        for place, content in changes:
            if content is None:
                del files[place]
            else:
                files[place] = content
        return Evidence(CA.key, ORIGIN, BadEntries(ca.note("A", 9), tuple(files.items())))

    def test_true_files_are_no_evidence(self) -> None:
        """The files of the tree that was signed show nothing."""
        assert refused(self.files()).reason is Reason.NOT_EVIDENCE

    @pytest.mark.parametrize(
        ("place", "content", "words"),
        [
            (Tile(0, 0, 9), bytes(32 * 9), "root"),
            (Tile(0, 0, 9), bytes(32 * 8), "bytes"),
            (EntriesTile(0, 9), b"\0\0" * 9, "other entries"),
            (EntriesTile(0, 9), b"\0\0" * 8, "no entry bundle"),
            (EntriesTile(0, 9), b"", "no entry bundle"),
        ],
    )
    def test_false_files(self, place: Tile | EntriesTile, content: bytes, words: str) -> None:
        """A tile or bundle with other contents, too short or no bundle at all is named."""
        finding = verify_evidence(self.files((place, content)))
        assert words in finding.proven
        assert not finding.is_proof

    def test_files_that_cannot_be_judged(self) -> None:
        """Without the tile above it, or in another tree, a file shows nothing."""
        for changes in ([(Tile(0, 0, 9), None)], [(Tile(0, 0, 7), bytes(32 * 7))], [(EntriesTile(0, 7), b"\0\0" * 7)]):
            assert refused(self.files(*changes)).reason is Reason.BAD_DOCUMENT

    def test_not_too_many_and_none_twice(self) -> None:
        """An exhibit holds at least one file, none twice, and a bounded number."""
        note = SplitViewCA(24).note("A", 9)
        tile = (Tile(0, 0, 9), b"")
        for served in ((), (tile, tile), tuple((Tile(0, at), b"") for at in range(65))):
            with pytest.raises(FormatError):
                BadEntries(note, served)


class TestFinding:
    """Evidence in what a cosigner is asked to accept."""

    LOG = KnownLog(ORIGIN, (LOG.key,))

    def found(self, ca: SplitViewCA, view: CosignerView | None, request: AddCheckpoint) -> Evidence | None:
        """Return what is found, which must verify; and nothing where the machine accepts."""
        log = KnownLog(ca.origin, (ca.signer.key,))
        found = find_evidence(ca.hasher, log, view, request)
        if found is not None:
            assert verify_evidence(found).evidence == found
        try:
            plan_checkpoint(ca.hasher, log, view, request)
        except Error:
            return found
        assert found is None
        return None

    @pytest.mark.parametrize("fork", [0, 1, 3, 4, 6])
    def test_all_sizes(self, fork: int) -> None:
        """For every two views, a request convicts exactly when its signatures and proof do.

        That is for one size when the views differ there; for a larger tree of the other view when the proof starts
        from the old size, and that is no power of two.
        """
        ca = SplitViewCA(fork, length=12, signer=LOG)
        for size in range(1, 12):
            view = view_of(ca, "A", size)
            for new in range(1, 12):
                for old in {size, max(0, size - 1), 0}:
                    found = self.found(ca, view, ca.request("B", min(old, new), new))
                    differ = min(size, new) > fork
                    by_proof = old == size < new and size & (size - 1)
                    assert (found is not None) == bool(differ and (new == size or by_proof))

    def test_honest_requests(self) -> None:
        """A request that is only stale, early or repeated convicts nobody, also with times."""
        ca = SplitViewCA(24)
        view = view_of(ca, "A", 9)
        for old, new in ((9, 9), (9, 12), (5, 12), (0, 9), (5, 7), (0, 5)):
            assert self.found(ca, view, ca.request("A", old, new)) is None
        assert self.found(ca, None, ca.request("A", 0, 9)) is None

    def test_smaller_tree_with_a_later_time(self) -> None:
        """A log that was set back and signs a smaller tree later than the larger one is told by its times."""
        ca = SplitViewCA(24)
        found = self.found(ca, view_of(ca, "A", 9), ca.request("A", 0, 7, at=100))
        assert found is not None
        assert found.kind == "bad-timestamp"

    def test_empty_tree_with_another_root(self) -> None:
        """A tree of no entries with a root of its own is found, with and without a view."""
        note = signed(Checkpoint(ORIGIN, 0, bytes(32)), LOG)
        request = AddCheckpoint.parse(AddCheckpoint.encode(0, (), note.encode()))
        ca = SplitViewCA(24, signer=LOG)
        for view in (None, view_of(ca, "A", 9)):
            found = self.found(ca, view, request)
            assert found is not None
            assert found.kind == "empty-root"

    def test_failing_signature_is_testimony(self) -> None:
        """A line of a known key that fails is kept for what it is, unless something is proven beside it."""
        ca = SplitViewCA(5)
        note = Note(ca.checkpoint("B", 9).encode(), ca.note("A", 9).signatures)
        request = AddCheckpoint.parse(AddCheckpoint.encode(0, (), note.encode()))
        found = self.found(ca, view_of(ca, "A", 9), request)
        assert found is not None
        assert found.kind == "bad-signature"

    def test_proof_that_leads_nowhere_is_no_evidence(self) -> None:
        """A proof too short, too long or of other hashes shows nothing: anybody can send one."""
        ca = SplitViewCA(5)
        view, good = view_of(ca, "A", 7), ca.request("B", 7, 12)
        assert self.found(ca, view, good) is not None
        for proof in ((), good.proof[:-1], (*good.proof, bytes(32)), (bytes(32), *good.proof[1:])):
            assert self.found(ca, view, replace(good, proof=proof)) is None

    def test_nothing_against_others(self) -> None:
        """A request for another log, or one that no known key signed, is evidence against nobody."""
        ca = SplitViewCA(5)
        hasher, view = ca.hasher, view_of(ca, "A", 9)
        assert find_evidence(hasher, KnownLog(ELSEWHERE, (CA.key,)), view, ca.request("B", 9, 9)) is None
        assert find_evidence(hasher, KnownLog(ORIGIN, (WITNESS.key,)), view, ca.request("B", 9, 9)) is None

    def test_logs_with_two_keys(self) -> None:
        """Of two keys of a log, that one is convicted which signed both checkpoints."""
        ca = SplitViewCA(5)
        log = KnownLog(ORIGIN, (LOG.key, CA.key))
        note = signed(ca.checkpoint("B", 9), LOG, CA, at=9)
        request = AddCheckpoint.parse(AddCheckpoint.encode(9, (), note.encode()))
        found = find_evidence(ca.hasher, log, view_of(ca, "A", 9), request)
        assert found is not None
        assert (found.kind, found.subject) == ("split-view", CA.key)
        assert isinstance(found.exhibit, SplitView)
        assert {line.name for line in found.exhibit.first.signatures} == {CA.key.name}

    def test_proof_goes_before_testimony(self) -> None:
        """Where one key of a log is convicted and a line of the other one fails, it is the proof that is found."""
        ca = SplitViewCA(5, signer=LOG)
        log = KnownLog(ORIGIN, (CA.key, LOG.key))
        note = ca.note("B", 9).with_signatures(CA.cosign(ca.checkpoint("A", 9), 1))
        request = AddCheckpoint.parse(AddCheckpoint.encode(9, (), note.encode()))
        found = find_evidence(ca.hasher, log, view_of(ca, "A", 9), request)
        assert found is not None
        assert (found.kind, found.subject) == ("split-view", LOG.key)

    def test_trees_tell_at_every_size(self) -> None:
        """Who holds the larger tree proves every contradiction, powers of two included."""
        for fork in (0, 1, 3, 4, 7):
            ca = SplitViewCA(fork, length=12, signer=LOG)
            for newer in range(1, 12):
                for older in range(1, newer):
                    found = compare_trees(ca.hasher, ca.readers["B"], LOG.key, ca.note("A", older), ca.note("B", newer))
                    assert (found is not None) == (older > fork)

    def test_another_tree_is_an_error(self) -> None:
        """A reader of another tree than the newer checkpoint's is the caller's mistake, and convicts nobody."""
        ca = SplitViewCA(5)
        with pytest.raises(ProofError):
            compare_trees(ca.hasher, ca.readers["B"], CA.key, ca.note("A", 7), ca.note("A", 12))
        with pytest.raises(Rejected):
            compare_trees(ca.hasher, ca.readers["B"], MIRROR.key, ca.note("A", 7), ca.note("B", 12))
        elsewhere = SplitViewCA(5, origin=ELSEWHERE).note("A", 7)
        assert compare_trees(ca.hasher, ca.readers["B"], CA.key, elsewhere, ca.note("B", 12)) is None


def test_hash_is_the_logs() -> None:
    """Evidence carries the name of the hash that it was found with."""
    ca = SplitViewCA(5, hash_name="sm3")
    found = compare_checkpoints(ca.hasher, CA.key, ca.note("A", 9), ca.note("B", 9))
    assert found is not None
    assert found.hash_name == "sm3"
