"""The README's promises that a machine can check."""

from __future__ import annotations

import json
import re
from pathlib import Path

from hf_ecgtext.evaluation.results import read_results
from hf_ecgtext.evaluation.statistics.permutation import holm
from hf_ecgtext.methods import method_names
from hf_ecgtext.reporting.tables.documents import readme_benchmark_table, runs_table
from hf_ecgtext.reporting.tables.probes import inflation_summary
from hf_ecgtext.reporting.tables.render import percent

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


def results_of(name: str):
    return read_results(ROOT / "results" / f"{name}.jsonl.gz")


def test_the_benchmark_tables_are_made_from_the_result_lines():
    markers = re.findall(r"<!-- benchmark: (\w+) (\S+) (\w+) -->", README)
    assert markers
    for name, prompts, task in markers:
        lines = results_of(name)
        titles = {line.checkpoint: Path(line.checkpoint).name for line in lines}
        assert set(titles.values()) >= set(method_names())
        tasks = None if task == "all" else [task]
        table = readme_benchmark_table(lines, titles=titles, tasks=tasks, prompts=prompts, intervals=task != "all")
        assert table.strip() in README


def test_the_inflation_table_is_made_from_the_result_lines():
    for name in re.findall(r"<!-- inflation: (\w+) -->", README):
        table = inflation_summary([*results_of(name), *results_of(f"{name}.recipes")])
        assert table.render("markdown").split("\n\n", 1)[1].strip() in README


def test_numbers_in_the_text_are_those_of_the_result_lines():
    lines = [line for line in results_of("ptb_xl_100hz") if line.compared_with is None and line.encoder == "trained"]
    assert f"All {len(results_of('ptb_xl_100hz')):,} lines" in README.replace("\n", " ")
    merl = [
        100 * line.value
        for line in lines
        if (line.evaluation, line.task, line.protocol, line.metric, line.min_positives)
        == ("zero_shot", "ptbxl_super", "strict", "auroc", 1)
        and line.checkpoint.endswith("merl")
    ]
    assert f"Super goes from {min(merl):.1f} to {max(merl):.1f}" in README
    found = {
        Path(line.checkpoint).name: line
        for line in lines
        if (line.protocol, line.metric, line.settings.get("direction")) == ("strict", "recall_at_1", "ecg_to_report")
    }
    constant = 100 * found["merl"].details["always_commonest"]
    assert f"always gives R@1 {constant:.1f}" in README
    values = {method: f"{100 * found[method].value:.1f}" for method in ("deri", "merl", "etp")}
    assert f"DERI reaches {values['deri']}, MERL {values['merl']}, ETP {values['etp']}." in README


def test_measured_intervals_lead_the_probes_with_all_labels_as_the_text_says():
    probes = {
        (line.task, line.encoder, line.checkpoint): line.value
        for line in results_of("ptb_xl_100hz")
        if line.protocol == "strict" and line.compared_with is None
        and (line.metric, line.min_positives, line.settings.get("fraction")) == ("auroc", 1, 1.0)
    }  # fmt: skip
    for task in {task for task, *_ in probes}:
        best = max((value, encoder) for (name, encoder, _), value in probes.items() if name == task)
        assert best[1] == "interval_features"


def test_the_differences_that_survive_are_those_of_the_text():
    lines = [
        line
        for line in results_of("ptb_xl_100hz")
        if line.compared_with is not None
        and (line.evaluation, line.metric, line.min_positives) == ("zero_shot", "auroc", 1)
    ]
    assert len(lines) == 96
    adjusted = holm([line.p_value for line in lines])
    survivors = {Path(line.checkpoint).name for line, p in zip(lines, adjusted, strict=True) if p < 0.05}
    assert survivors == {"cmelt", "cgdmer"}


def test_the_cost_of_each_training_is_that_of_its_run():
    for name in re.findall(r"<!-- runs: (\w+) -->", README):
        runs = json.loads((ROOT / "results" / f"{name}.runs.json").read_text(encoding="utf-8"))
        assert runs_table(runs).strip() in README


def test_the_quickstart_s_numbers_are_those_of_its_result_lines():
    lines = results_of("quickstart")
    for line in lines:
        is_other_random = line.encoder == "random" and "merl" not in line.checkpoint
        if line.metric != "auroc" or line.min_positives != 1 or is_other_random:
            continue
        assert percent(line.value, line.confidence_interval) in README.replace("\n", " ")


def test_links_to_files_lead_somewhere():
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", README):
        assert (ROOT / target).exists(), target
