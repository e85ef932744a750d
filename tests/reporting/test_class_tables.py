from __future__ import annotations

import pytest
from benchmark_lines import TITLES, line

from hf_ecgtext.reporting.tables.classes import class_tables
from hf_ecgtext.reporting.tables.render import percent, render_table

RARE = {
    "num_positives": {"NORM": 963, "A|B": 0},
    "per_class": {"NORM": 0.7, "A|B": None},
    "per_class_intervals": {"NORM": (0.68, 0.72), "A|B": None},
    "prompts": "plain",
}


def test_classes_stand_beside_those_of_random_weights_and_undefined_ones_are_dashes():
    lines = [
        line(**RARE),
        line(encoder="random", **RARE | {"per_class": {"NORM": 0.5, "A|B": None}}),
        line(metric="average_precision", **RARE),
        line(min_positives=20, **RARE),
        line(evaluation="linear_probe", **RARE),
        line(compared_with="runs/deri_v2", **RARE),
    ]
    (table,) = class_tables(lines, TITLES)
    assert table.title == "Classes of ptbxl_super: MERL, plain prompts, strict protocol"
    assert table.header == ["class", "AUROC", "random weights", "AUPRC", "positives"]
    assert table.rows == [
        ["NORM", "70.0 (68.0 to 72.0)", "50.0 (68.0 to 72.0)", "70.0 (68.0 to 72.0)", "963"],
        ["A|B", "-", "-", "-", "0"],
    ]
    assert "Intervals: 95 %" in table.render()
    assert r"| A\|B | - |" in table.render()


def test_each_checkpoint_question_and_prompt_set_has_a_table_of_its_own():
    lines = [line(**RARE), line(**RARE | {"prompts": "etp"}), line(task="csn", **RARE)]
    lines.append(line(checkpoint="runs/deri_v2", **RARE))
    titles = [table.title for table in class_tables(lines, TITLES)]
    assert len(set(titles)) == 4
    assert titles[1] == "Classes of ptbxl_super: MERL, etp prompts, strict protocol"


def test_percent_has_one_decimal_and_a_dash_for_undefined():
    assert percent(0.74249) == "74.2"
    assert percent(1.0, (0.99949, 1.0)) == "100.0 (99.9 to 100.0)"
    assert percent(None) == "-"


def test_plain_text_has_aligned_columns_and_an_unknown_style_is_refused():
    header, rows = ["task", "AUROC"], [["ptbxl_super", "74.2"], ["csn", "100.0"]]
    lines = render_table(header, rows, "terminal").splitlines()
    assert len({len(text) for text in lines}) == 1
    assert lines[2].split() == ["ptbxl_super", "74.2"]
    with pytest.raises(ValueError, match="style is 'html'"):
        render_table(header, rows, "html")
