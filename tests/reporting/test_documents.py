from __future__ import annotations

import re
from pathlib import Path

import pytest
from benchmark_lines import line

from hf_ecgtext.evaluation.results import read_results
from hf_ecgtext.methods import method_names
from hf_ecgtext.reporting.tables.documents import card_table

ROOT = Path(__file__).resolve().parents[2]


def lines_of(method: str, marker: str) -> dict[str, list]:
    """Lines of a method by recipe; the superclasses stand for PTB-XL."""
    found = {}
    for recipe in marker.split():
        lines = read_results(ROOT / "results" / f"{recipe}.jsonl.gz")
        own = [one for one in lines if re.search(rf"\b{method}\b", Path(one.checkpoint).name)]
        found[recipe] = [one for one in own if one.task in ("ptbxl_super", "ptb_xl", "synthetic")]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("method", method_names())
def test_the_table_of_a_card_is_made_from_the_result_lines(method):
    card = (ROOT / "model_cards" / f"{method}.md").read_text(encoding="utf-8")
    (marker,) = re.findall(r"<!-- results: ([\w ]+) -->", card)
    assert card_table(lines_of(method, marker)) in card


def test_a_row_has_the_model_beside_its_random_initialisations():
    lines = [
        line(0.8, evaluation="zero_shot", prompts="plain"),
        line(0.5, evaluation="zero_shot", prompts="plain", encoder="random"),
        line(0.9, evaluation="zero_shot", prompts="plain", min_positives=20),
        line(0.7, evaluation="zero_shot", prompts="plain", protocol="published"),
        line(0.1, evaluation="zero_shot", prompts="plain", compared_with="other"),
        line(0.6, evaluation="linear_probe", settings={"fraction": 0.01, "solver": "logistic_regression"}),
    ]
    rows = card_table({"paper": lines}).splitlines()[2:]
    assert rows == [
        "| `paper` | ptbxl_super | zero-shot, plain prompts | 80.0 (78.0 to 82.0) | 50.0 (48.0 to 52.0) | - |",
        "| `paper` | ptbxl_super | probe, 1 % of labels | 60.0 (58.0 to 62.0) | - | - |",
    ]
    with pytest.raises(ValueError, match="several checkpoints"):
        card_table({"paper": [*lines, line(0.8, checkpoint="other")]})
    with pytest.raises(ValueError, match="no lines of the strict protocol"):
        card_table({"paper": lines[2:3]})


def test_beside_retrieval_stands_what_the_commonest_report_reaches():
    retrieval = {"evaluation": "retrieval", "metric": "recall_at_10", "task": "ptb_xl"}
    lines = [
        line(0.6, **retrieval, settings={"direction": "ecg_to_report"}, details={"always_commonest": 0.553}),
        line(0.4, **retrieval, settings={"direction": "report_to_ecg"}),
    ]
    rows = card_table({"paper": lines}).splitlines()[2:]
    assert [row.split(" | ")[-1] for row in rows] == ["55.3 |", "- |"]
