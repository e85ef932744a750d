"""Every table of README and cards is what its command makes of the result lines today."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_no_table_is_stale():
    documents = runpy.run_path(str(ROOT / "scripts" / "update_docs.py"))["documents"]()
    stale = [path.name for path, text in documents.items() if path.read_text(encoding="utf-8") != text]
    assert not stale, "run python scripts/update_docs.py"
    assert {"README.md", "merl.md", "cmelt.md"} <= {path.name for path in documents}


def test_a_table_that_was_edited_by_hand_counts_as_stale():
    module = runpy.run_path(str(ROOT / "scripts" / "update_docs.py"))
    text = "before\n<!-- runs: some -->\n| a | b |\n|---|---|\n| 1 | 2 |\n\nbehind\n"
    made = module["rewritten"](text, "runs", module["_TABLE"], lambda name: f"| {name} |\n")
    assert made == "before\n<!-- runs: some -->\n| some |\n\nbehind\n"
