"""The README's promises that a machine can check."""

from __future__ import annotations

import json
import re
from pathlib import Path

from hf_ecgtext.evaluation.results import read_results
from hf_ecgtext.methods import method_names
from hf_ecgtext.reporting.comparison import comparison_table, runs_table
from hf_ecgtext.reporting.tables import percent

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands(name: str) -> str:
    match = re.search(rf"<!-- command: {name} -->\s*```bash\n(.*?)```", README, flags=re.DOTALL)
    assert match, f"the README has no command marked '{name}'"
    return match[1].strip()


def test_two_commands_do_all_the_set_up():
    for name in ("quickstart", "test"):
        command = commands(name)
        assert "\n" not in command
        assert command.startswith("pip install -c constraints.txt -e ")


def test_the_python_example_runs(merl_folder, real_data, monkeypatch):
    example = re.search(r"<!-- example: zero-shot -->\s*```python\n(.*?)```", README, flags=re.DOTALL)[1]
    record = str(real_data / "ptb-xl" / "records500" / "00000" / "00001_hr")
    example = example.replace("outputs/merl-quickstart-synthetic", str(merl_folder)).replace("path/to/record", record)
    scope: dict = {}
    exec(compile(example, "README.md", "exec"), scope)
    assert {answer["label"] for answer in scope["answers"]} == {"atrial fibrillation", "sinus rhythm"}


def test_every_method_stands_in_the_table():
    for method in method_names():
        assert f"`{method}`" in README


def test_the_comparison_tables_are_made_from_the_result_lines():
    markers = re.findall(r"<!-- comparison: (\w+) (\w+)(?: (\w+))? -->", README)
    assert markers
    for name, prompts, task in markers:
        lines = read_results(ROOT / "results" / f"{name}.jsonl")
        titles = {line.checkpoint: Path(line.checkpoint).name for line in lines}
        assert set(titles.values()) == set(method_names())
        chosen = [line for line in lines if line.prompts == prompts and task in ("", line.task)]
        assert comparison_table(chosen, titles).strip() in README


def test_the_cost_of_each_training_is_that_of_its_run():
    for name in re.findall(r"<!-- runs: (\w+) -->", README):
        runs = json.loads((ROOT / "results" / f"{name}.runs.json").read_text(encoding="utf-8"))
        assert runs_table(runs).strip() in README


def test_the_quickstart_s_numbers_are_those_of_its_result_lines():
    lines = read_results(ROOT / "results" / "quickstart.jsonl")
    for line in lines:
        is_other_random = line.encoder == "random" and "merl" not in line.checkpoint
        if line.metric != "auroc" or line.min_positives != 1 or is_other_random:
            continue
        assert percent(line.value, line.confidence_interval) in README.replace("\n", " ")


def test_links_to_files_lead_somewhere():
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", README):
        assert (ROOT / target).exists(), target
