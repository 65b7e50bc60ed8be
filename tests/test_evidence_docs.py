"""What the documents about security and evidence say is what there is."""

import ast
import json
import re
from functools import cache
from pathlib import Path

import pytest
from tests.split_views import every_kind

from mtc.cosign.evidence import FORMAT, KINDS, MAX_EVIDENCE_BYTES, encode_evidence
from mtc.cosign.evidence.service import EVIDENCE_PREFIX, EvidenceLimits

ROOT = Path(__file__).parent.parent
SECURITY = (ROOT / "docs" / "security.md").read_text("utf-8")
EVIDENCE = (ROOT / "docs" / "evidence.md").read_text("utf-8")
NAMED = sorted(set(re.findall(r"`(tests/\w+\.py)::(\w+)`", SECURITY)))


@cache
def names_in(file: str) -> frozenset[str]:
    """Return the names of the tests in a file."""
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize(("file", "name"), NAMED, ids=["::".join(pair) for pair in NAMED])
def test_named_tests_exist(file: str, name: str) -> None:
    """Each test that docs/security.md names stands in the file that it names."""
    assert name.startswith("test_")
    assert name in names_in(file)


def test_every_mention_of_a_test_is_checked() -> None:
    """No mention of a test has a form that the check above passes over."""
    assert len(NAMED) > 40
    assert SECURITY.count("tests/test_") == len(re.findall(r"`tests/\w+\.py::\w+`", SECURITY))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_described(kind: str) -> None:
    """Both tables of docs/evidence.md have a row for each kind; the second one names the members of its exhibit."""
    rows = [line for line in EVIDENCE.splitlines() if line.startswith(f"| `{kind}` |")]
    assert len(rows) == 2
    assert ("*testimony*" in rows[0]) == any(item.kind == kind and item.is_testimony for item in every_kind())
    for evidence in every_kind():
        if evidence.kind == kind:
            members = json.loads(encode_evidence(evidence))["exhibit"]
            assert all(f"`{name}`" in rows[1] for name in members)


def test_numbers_are_the_limits() -> None:
    """The limits, the place and the format that docs/evidence.md names are those of the code."""
    limits = EvidenceLimits()
    text = " ".join(EVIDENCE.split())
    assert f"{limits.bundles:,} bundles and {limits.total_bytes >> 20} MiB" in text
    assert f"at most {limits.testimony_bundles} and {limits.testimony_bytes >> 20} MiB of testimony" in text
    assert f"at most {limits.subject_bundles} and {limits.subject_bytes >> 20} MiB of proof" in text
    assert f"files above {MAX_EVIDENCE_BYTES >> 20} MiB" in text
    assert f"`{EVIDENCE_PREFIX}/`" in text
    assert f'"format": "{FORMAT}"' in text
