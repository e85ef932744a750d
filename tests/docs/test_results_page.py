"""What the page of results says in words is what the result lines say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from code_blocks import ROOT

from hf_ecgtext.evaluation.results import read_results
from hf_ecgtext.evaluation.statistics.permutation import holm

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "results" / "index.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())


def results_of(name: str):
    return read_results(ROOT / "results" / f"{name}.jsonl.gz")


def test_numbers_in_the_text_are_those_of_the_result_lines():
    lines = [line for line in results_of("ptb_xl_100hz") if line.compared_with is None and line.encoder == "trained"]
    assert f"all {len(results_of('ptb_xl_100hz')):,} lines" in TEXT
    merl = [
        100 * line.value
        for line in lines
        if (line.evaluation, line.task, line.protocol, line.metric, line.min_positives)
        == ("zero_shot", "ptbxl_super", "strict", "auroc", 1)
        and line.checkpoint.endswith("merl")
    ]
    assert f"Super goes from {min(merl):.1f} to {max(merl):.1f}" in TEXT
    found = {
        Path(line.checkpoint).name: line
        for line in lines
        if (line.protocol, line.metric, line.settings.get("direction")) == ("strict", "recall_at_1", "ecg_to_report")
    }
    constant = 100 * found["merl"].details["always_commonest"]
    assert f"always gives R@1 {constant:.1f}" in TEXT
    values = {method: f"{100 * found[method].value:.1f}" for method in ("deri", "merl", "etp")}
    assert f"DERI reaches {values['deri']}, MERL {values['merl']}, ETP {values['etp']}." in TEXT


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
    tests = int(re.search(r"Holm's correction \((\d+) tests", TEXT)[1])
    assert len(lines) == tests
    adjusted = holm([line.p_value for line in lines])
    survivors = {Path(line.checkpoint).name for line, p in zip(lines, adjusted, strict=True) if p < 0.05}
    assert survivors == {"cmelt", "cgdmer"}
