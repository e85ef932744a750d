"""The method that the page "How to add a method" makes up passes the contract tests, as the page says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from code_blocks import ROOT, code_blocks

PAGE = ROOT / "docs" / "extending" / "method.md"


@pytest.mark.slow
def test_the_files_of_the_page_are_a_method_that_passes_the_contract(tmp_path):
    for name in ("src", "tests", "model_cards", "docs", "dataset_scripts", "scripts", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "train.py"):
        shutil.copy(ROOT / name, tmp_path)
    written = []
    for block in code_blocks(PAGE):
        first = block.code.splitlines()[0]
        if block.language == "python" and first.startswith("# src/"):
            path = tmp_path / first.removeprefix("# ")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.code.split("\n", 1)[1], encoding="utf-8")
            written.append(path.name)
    assert len(written) == 5
    card = (ROOT / "model_cards" / "TEMPLATE.md").read_text(encoding="utf-8")
    (tmp_path / "model_cards" / "pairsig.md").write_text(card, encoding="utf-8")
    (tmp_path / "docs" / "methods" / "pairsig.md").write_text("# PairSig\n", encoding="utf-8")
    overview = tmp_path / "docs" / "methods" / "index.md"
    overview.write_text(overview.read_text(encoding="utf-8") + "\n[`pairsig`](pairsig.md)\n", encoding="utf-8")
    tests = ["tests/methods/test_contract.py", "tests/test_architecture.py", "-k", "pairsig or architecture"]
    outcome = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path / "src")}, capture_output=True, text=True,
        timeout=900, check=False,
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stdout[-3000:]
