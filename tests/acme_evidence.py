"""An independent reader of the evidence's journal, written from its description alone."""

import json
from collections.abc import Mapping
from pathlib import Path


def read_evidence(folder: Path) -> dict[int, Mapping[str, object]]:
    """Return what the journal says by ID: the last line about an ID counts. Every line must be whole."""
    found: dict[int, Mapping[str, object]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        text = path.read_bytes()
        assert text == b"" or text.endswith(b"\n"), f"{path} has a torn end"
        for line in text.splitlines():
            document = json.loads(line)
            if "void" in document:
                first, last = document["void"]
                for number in range(first, last + 1):
                    found.pop(number, None)
            else:
                found[document["id"]] = document
    return found
