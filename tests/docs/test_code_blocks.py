"""Every shell and Python block of the README and the pages is run, or says why not; every command at least parses."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from code_blocks import PAGES, ROOT, CodeBlock, code_blocks, own_command

from hf_ecgtext.cli import main
from hf_ecgtext.data.synthetic import SyntheticEcgGenerator

BLOCKS = [block for page in PAGES for block in code_blocks(page) if block.language in ("bash", "python")]
# Run by tests of their own (tests/docs/test_readme.py) and by CI.
MARKED = ("command: quickstart", "command: test", "example: zero-shot")
RUNNABLE = [block for block in BLOCKS if block.reason_not_to_run is None and block.marker not in MARKED]
# A page's blocks build on one another, so a page is run as a whole.
PAGES_TO_RUN = sorted({block.page for block in RUNNABLE})


def test_every_marker_is_known_and_every_reason_is_one():
    for block in BLOCKS:
        if block.marker and block.marker not in MARKED:
            assert block.reason_not_to_run, f"{block}: '{block.marker}' is no reason"
            assert len(block.reason_not_to_run.split()) >= 2, f"{block}: say why"


def commands() -> list[tuple[CodeBlock, list[str]]]:
    found = []
    for block in BLOCKS:
        if block.language != "bash":
            continue
        for words in block.commands():
            arguments = own_command(words)
            if arguments is not None and "..." not in arguments:
                found.append((block, arguments))
    return found


@pytest.mark.parametrize(("block", "arguments"), commands(), ids=lambda value: str(value)[:60])
def test_every_command_has_options_that_exist(block, arguments, parse_command):
    parse_command(arguments)


@pytest.fixture
def parse_command():
    from hf_ecgtext_cli.main import build_parser

    parser = build_parser()

    def parse(arguments: list[str]) -> None:
        try:
            parser.parse_args(arguments)
        except SystemExit as stop:
            raise AssertionError(f"hf-ecgtext {' '.join(arguments)} is refused") from stop

    return parse


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """An empty folder with one WFDB record, where the pages' commands run."""
    record = next(iter(SyntheticEcgGenerator(seed=0, sampling_rate_hz=500.0).records(1)))
    folder = tmp_path / "records500" / "00000"
    folder.mkdir(parents=True)
    adc = np.round(1000 * record.signal).astype("<i2")  # 1000 units per mV
    (folder / "00001_hr.dat").write_bytes(adc.T.tobytes())
    leads = [
        f"00001_hr.dat 16 1000/mV 16 0 {row[0]} {int(row.sum(dtype=np.int64)) & 0xFFFF} 0 {name}"
        for row, name in zip(adc, record.lead_names, strict=True)
    ]
    header = [f"00001_hr {len(leads)} 500 {adc.shape[1]}", *leads]
    (folder / "00001_hr.hea").write_text("\n".join(header) + "\n", encoding="ascii")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_line(words: list[str], monkeypatch) -> None:
    arguments = own_command(words)
    if arguments is not None:
        assert main(arguments) == 0, f"hf-ecgtext {' '.join(arguments)}"
        return
    program, *rest = words
    assert program == "python", f"who can run '{' '.join(words)}'?"
    script = ROOT / rest[0]
    assert script.is_file()
    monkeypatch.setattr(sys, "argv", rest)
    exec(compile(script.read_text(encoding="utf-8"), str(script), "exec"), {"__name__": "__main__"})


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES_TO_RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_a_page_run_one_after_the_other(page, workplace, monkeypatch):
    scope: dict = {}
    for block in RUNNABLE:
        if block.page != page:
            continue
        if block.language == "python":
            exec(compile(block.code, str(block), "exec"), scope)
            continue
        for words in block.commands():
            try:
                run_line(words, monkeypatch)
            except SystemExit as stop:
                if stop.code:
                    pytest.fail(f"{block} ended with {stop.code}")


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"


def test_no_page_promises_what_is_there_or_keeps_a_word_that_went():
    # Sentences that were true once. What does not exist yet belongs on the page of limits, without a promise.
    stale = r"(?i)\b(to come|coming soon|not yet implemented|will be added|has no reader|PAPERS\.md|DATA\.md)\b"
    places = [*PAGES, ROOT / "CONTRIBUTING.md", *(ROOT / "model_cards").glob("*.md"), *(ROOT / "src").rglob("*.py")]
    wrong = [
        f"{path.relative_to(ROOT)}: {found[0]}"
        for path in places
        for found in re.finditer(stale, path.read_text(encoding="utf-8"))
    ]
    assert not wrong, "\n".join(wrong)
