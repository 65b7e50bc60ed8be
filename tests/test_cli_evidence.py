"""`mtc evidence`: the story of a bundle for people, the same as JSON, and exit codes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.commands import Run, run_program
from tests.note_keys import CA, WITNESS
from tests.split_views import ORIGIN, SIGNERS, SplitViewCA, every_kind, signed

from mtc.cosign.evidence import Evidence, SplitView, WentBack, encode_evidence, verify_evidence
from mtc.note import Checkpoint, Note

ALL = [evidence for signer in SIGNERS for evidence in every_kind(signer)]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs `mtc evidence` in this process."""
    return run_program(monkeypatch, capfd, "evidence")


def written(folder: Path, evidence: Evidence) -> Path:
    """Write a bundle to a file."""
    path = folder / f"{evidence.name}.json"
    path.write_bytes(encode_evidence(evidence))
    return path


def test_every_kind_is_told(run: Run, tmp_path: Path) -> None:
    """For each kind the story names key, log, what is proven and who says the rest, and tells proof from testimony."""
    for evidence in ALL:
        finding = verify_evidence(evidence)
        ran = run("verify", written(tmp_path, evidence))
        assert ran.code == 0
        text = ran.out
        assert text.startswith("PROOF" if finding.is_proof else "TESTIMONY")
        for part in (str(evidence.subject), ORIGIN, finding.proven, finding.testimony, finding.limits, evidence.kind):
            assert part in text
        assert all(side.digest.hex() in text for side in finding.sides)


def test_difference_is_marked(run: Run, tmp_path: Path) -> None:
    """A hash that should be that of the first statement is marked as different, and no other hash is."""
    for evidence in ALL:
        marked = [
            line.split()[0] for line in run("verify", written(tmp_path, evidence)).out.splitlines() if "differs" in line
        ]
        expected = {"split-view", "inconsistent", "empty-root", "split-subtree", "subtree", "split-trees"}
        assert len(marked) == (evidence.kind in expected)
        assert marked == [side.digest.hex() for side in verify_evidence(evidence).sides if side.contradicts]


def test_json(run: Run, tmp_path: Path) -> None:
    """The JSON has a stable shape, with the finding and who collected it."""
    for evidence in ALL:
        ran = run("verify", "--json", written(tmp_path, evidence))
        value = json.loads(ran.out)
        finding = verify_evidence(evidence)
        assert list(value) == [
            *("file", "verified", "kind", "is_proof", "subject", "origin", "hash", "proven", "testimony", "limits"),
            *("statements", "collected"),
        ]
        assert (ran.code, value["verified"], value["is_proof"]) == (0, True, finding.is_proof)
        assert value["subject"] == evidence.subject.encode()
        assert [item["digest"] for item in value["statements"]] == [side.digest.hex() for side in finding.sides]


def test_what_proves_nothing(run: Run, tmp_path: Path) -> None:
    """A bundle that contradicts nothing, or whose signatures fail, leaves with 1 and says why."""
    ca = SplitViewCA(5)
    honest = Evidence(CA.key, ORIGIN, SplitView(ca.note("A", 9), ca.note("A", 9)))
    forged = Evidence(
        CA.key, ORIGIN, SplitView(ca.note("A", 9), Note(ca.note("B", 9).text, ca.note("A", 9).signatures))
    )
    for evidence, reason in ((honest, "not-evidence"), (forged, "bad-signature")):
        path = written(tmp_path, evidence)
        ran = run("verify", path)
        assert ran.code == 1
        assert ran.out.startswith("proves nothing")
        assert f"({reason})" in ran.out
        ran = run("verify", "--json", path)
        value = json.loads(ran.out)
        assert (ran.code, value["verified"], value["reason"]) == (1, False, reason)


def test_proof_can_be_asked_for(run: Run, tmp_path: Path) -> None:
    """With --proof testimony is not enough, so that a script does not convict by somebody's word."""
    for evidence in every_kind():
        assert run("verify", "--proof", written(tmp_path, evidence)).code == int(evidence.is_testimony)


def test_wrong_input(run: Run, tmp_path: Path) -> None:
    """A file that is not there or is no bundle leaves with 2, and the error names file and place."""
    path = tmp_path / "x.json"
    assert run("verify", path).code == 2
    for data in (
        b"",
        b"{}",
        b"\xff",
        encode_evidence(ALL[0])[:-9],
        encode_evidence(ALL[0]).replace(b'"first"', b'"frist"'),
    ):
        path.write_bytes(data)
        for command in ("verify", "show"):
            ran = run(command, path)
            assert ran.code == 2
            assert ran.out == ""
            assert "x.json" in ran.err
    assert "exhibit.first" in ran.err


def test_show_verifies_nothing(run: Run, tmp_path: Path) -> None:
    """What a bundle holds is printed as it is, also when it proves nothing, and is said to be unverified."""
    for evidence in ALL:
        ran = run("show", written(tmp_path, replace(evidence, subject=WITNESS.key)))
        assert ran.code == 0
        assert "not verified" in ran.out
        assert ORIGIN in ran.out


def test_hostile_texts_do_not_steer_the_terminal(run: Run, tmp_path: Path) -> None:
    """Markup and control characters in names, remarks and extension lines are shown, not obeyed."""
    ca = SplitViewCA(5, origin="[red]log[/]\u202e")
    notes = [signed(replace(ca.checkpoint(view, 9), extensions=("[blink]\u009b2J",)), CA, at=1) for view in "AB"]
    evidence = Evidence(CA.key, ca.origin, SplitView(*notes)).collected("\x1b[2J", "[bold]x")
    path = written(tmp_path, evidence)
    for ran in (run("verify", path), run("show", path)):
        assert ran.code == 0
        assert "[red]log[/]\\u202e" in ran.out
        assert "\\u001b[2J" in ran.out
        assert "[bold]x" in ran.out
        assert not {"\x1b", "\u009b", "\u202e"} & set(ran.out)


def test_times_beyond_dates(run: Run, tmp_path: Path) -> None:
    """A time that no calendar here reaches is shown as the number that it is."""
    checkpoints = [Checkpoint(ORIGIN, size, bytes(31) + bytes((size,))) for size in (9, 4)]
    larger, later = (
        Note(checkpoint.encode(), (CA.cosign(checkpoint, time),))
        for checkpoint, time in zip(checkpoints, (1, 2**63 - 1), strict=True)
    )
    ran = run("verify", written(tmp_path, Evidence(CA.key, ORIGIN, WentBack(larger, later))))
    assert ran.code == 0
    assert str(2**63 - 1) in ran.out
