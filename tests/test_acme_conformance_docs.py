"""What docs/acme-conformance.md says is what there is."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "acme-conformance.md").read_text("utf-8")
NAMED = sorted(set(re.findall(r"`(tests/\w+\.py)::(\w+)`", PAGE)))

PARTS = ("accounts", "certificates", "crashes", "csr", "finalize", "orders", "requests", "times", "walks")
"""The files of the server's tests."""


@cache
def names_in(file: str) -> frozenset[str]:
    """Return the names of the tests in a file."""
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize(("file", "name"), NAMED, ids=["::".join(pair) for pair in NAMED])
def test_named_tests_exist(file: str, name: str) -> None:
    """Each test that the page names stands in the file that it names."""
    assert name.startswith("test_")
    assert name in names_in(file)


def test_every_row_names_a_test() -> None:
    """Each row of the tables names a test, in the form that is checked above."""
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| rule |")]
    assert len(rows) > 90
    assert [row for row in rows if not re.search(r"`tests/\w+\.py::\w+`", row)] == []
    assert PAGE.count("tests/test_") == len(re.findall(r"`tests/\w+\.py::\w+`", PAGE))


def test_every_test_of_the_server_is_named() -> None:
    """The page leaves out no test of the server, but for longer runs of others."""
    files = ["tests/test_acme_attacks.py", *(f"tests/test_acme_server_{part}.py" for part in PARTS)]
    found = {name for file in files for name in names_in(file) if name.startswith("test_")}
    assert found - {name for _, name in NAMED} == {"test_many_random_walks"}
