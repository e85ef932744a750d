from __future__ import annotations

import pytest

from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.reporting.tables.render import group_results, per_class_table, percent, zero_shot_table


def make_result(value: float | None = 0.7424, **changes) -> EvaluationResult:
    interval = None if value is None else (value - 0.01, value + 0.01)
    arguments = {
        "task": "ptbxl_super",
        "protocol": "strict",
        "metric": "auroc",
        "value": value,
        "confidence_interval": interval,
        "num_records": 2158,
        "num_positives": {"NORM": 963, "A|B": 0},
        "per_class": {"NORM": value, "A|B": None},
        "per_class_intervals": {"NORM": interval, "A|B": None},
        "seed": 0,
        "checkpoint": "runs/merl",
        "data": {"name": "ptb-xl", "revision": "1.0.3", "split": "test"},
        "prompts": "plain",
        "encoder": "trained",
        "date": "2025-01-01T00:00:00+00:00",
    }
    return EvaluationResult(**(arguments | changes))


RESULTS = [
    make_result(),
    make_result(0.5, encoder="random", seed=(0, 1, 2)),
    make_result(0.6, metric="average_precision"),
    make_result(0.81, task="ptbxl_sub"),
]


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines() if "|" in line]


def test_the_zero_shot_table_has_a_row_per_task_with_the_random_encoder_beside_it():
    header, _, first, second = cells(zero_shot_table(RESULTS))
    assert header == ["task", "AUROC (95 % CI)", "random encoder", "AUPRC", "n"]
    assert first == [
        "ptbxl_super",
        "74.2 (73.2 to 75.2)",
        "50.0 (49.0 to 51.0)",
        "60.0 (59.0 to 61.0)",
        "2,158",
    ]
    assert second == ["ptbxl_sub", "81.0 (80.0 to 82.0)", "-", "-", "2,158"]


def test_the_table_states_protocol_prompts_checkpoint_and_data():
    table = zero_shot_table(RESULTS)
    for fact in ("Protocol: strict.", "Prompts: plain.", "Checkpoint: runs/merl.", "Data revision: 1.0.3."):
        assert fact in table


def test_what_differs_between_rows_becomes_a_column():
    table = zero_shot_table([make_result(), make_result(0.7, prompts="etp")])
    header, _, first, second = cells(table)
    assert header[:2] == ["task", "prompts"]
    assert (first[1], second[1]) == ("plain", "etp")
    assert "Prompts:" not in table


def test_auroc_over_frequent_classes_has_columns_of_its_own():
    header, _, row = cells(zero_shot_table([make_result(), make_result(0.7, min_positives=20)]))
    assert header[3:5] == ["AUROC, 20+ positives (95 % CI)", "random encoder, 20+ positives"]
    assert row[1:5] == ["74.2 (73.2 to 75.2)", "-", "70.0 (69.0 to 71.0)", "-"]


def test_a_repeated_run_replaces_the_earlier_line():
    (group,) = group_results([make_result(0.1), make_result(0.9)])
    result = group.get("auroc")
    assert result is not None
    assert result.value == 0.9


def test_the_random_encoder_of_another_checkpoint_is_not_put_beside_this_one():
    table = cells(zero_shot_table([make_result(), make_result(0.5, encoder="random", checkpoint="runs/etp")]))
    assert [row[2:4] for row in table[2:]] == [["74.2 (73.2 to 75.2)", "-"], ["-", "50.0 (49.0 to 51.0)"]]


def test_the_terminal_style_aligns_its_columns():
    lines = zero_shot_table(RESULTS, style="terminal").splitlines()[:4]
    assert len({len(line) for line in lines}) == 1
    assert all("|" not in line for line in lines)
    assert lines[2].split()[:2] == ["ptbxl_super", "74.2"]


def test_the_per_class_table_marks_classes_without_a_value_and_escapes_their_names():
    table = per_class_table(RESULTS, task="ptbxl_super")
    assert "| NORM | 74.2 (73.2 to 75.2) | 50.0 (49.0 to 51.0) | 60.0 (59.0 to 61.0) | 963 |" in table
    assert r"| A\|B | - | - | - | 0 |" in table


def test_the_per_class_table_refuses_several_tasks_at_once():
    with pytest.raises(ValueError, match=r"ptbxl_super.*ptbxl_sub"):
        per_class_table(RESULTS)
    with pytest.raises(ValueError, match="selects: none"):
        per_class_table(RESULTS, task="csn")


def test_tables_of_nothing_or_of_intervals_of_different_coverage_are_refused():
    with pytest.raises(ValueError, match="no results"):
        zero_shot_table([])
    with pytest.raises(ValueError, match="different coverage"):
        zero_shot_table([make_result(), make_result(encoder="random", confidence=0.9)])
    with pytest.raises(ValueError, match="style is 'html'"):
        zero_shot_table(RESULTS, style="html")


def test_percent_has_one_decimal_and_a_dash_for_undefined():
    assert percent(0.74249) == "74.2"
    assert percent(1.0, (0.99949, 1.0)) == "100.0 (99.9 to 100.0)"
    assert percent(None) == "-"
