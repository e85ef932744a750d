from __future__ import annotations

import re

import pytest
from benchmark_lines import TITLES, all_lines, line

from hf_ecgtext.reporting.tables.all import benchmark_tables
from hf_ecgtext.reporting.tables.documents import readme_benchmark_table
from hf_ecgtext.reporting.tables.latex import escape_latex, latex_tabular
from hf_ecgtext.reporting.tables.render import NamedTable, render_table

SPECIAL = r"\{}$&#%_~^<>|±"


def test_a_tabular_has_booktabs_rules_and_scriptsize_intervals():
    rows = [["MERL", "74.2 (72.9 to 75.4)"], ["random", "-1.5 ± 0.3 (-2.0 to 1,024.0)"], ["none", "-"]]
    assert latex_tabular(["encoder", "AUROC"], rows, breaks=(1,)).splitlines() == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"encoder & AUROC \\",
        r"\midrule",
        r"MERL & 74.2 {\scriptsize [72.9, 75.4]} \\",
        r"\midrule",
        r"random & $-$1.5 $\pm$ 0.3 {\scriptsize [$-$2.0, 1,024.0]} \\",
        r"none & - \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


@pytest.mark.parametrize("sign", SPECIAL)
def test_every_special_sign_is_escaped(sign):
    escaped = escape_latex(f"a{sign}b")
    assert escaped != f"a{sign}b"
    # What is left of it after its commands is no sign that LaTeX acts on.
    bare = re.sub(r"\\text\w+\{\}|\\[{}$&#%_]|\$(<|>|\||\\pm)\$", "", escaped)
    assert bare == "ab"


def test_what_was_escaped_is_not_escaped_again():
    assert escape_latex("\\_") == r"\textbackslash{}\_"
    assert escape_latex("{\\") == r"\{\textbackslash{}"


def test_directions_get_an_arrow_and_line_breaks_do_not_end_a_cell():
    assert escape_latex("ptbxl_super->cpsc2018") == r"ptbxl\_super$\rightarrow$cpsc2018"
    assert escape_latex("a\n b") == "a b"


def test_a_row_that_begins_with_a_bracket_is_no_option_of_the_line_above():
    assert r"{}[a] & 1 \\" in latex_tabular(["x", "y"], [["[a]", "1"]])


def test_a_hyphen_within_a_name_is_no_minus():
    assert "C-MELT & 1.0" in latex_tabular(["x", "y"], [["C-MELT", "1.0"]])
    assert "run-3" in latex_tabular(["x", "y"], [["run-3", "1.0"]])


def test_columns_of_text_are_set_to_the_left_and_numbers_to_the_right():
    rows = [["MERL", "strict", "1 %", "74.2 (72.9 to 75.4)"], ["DERI", "as published", "10 %", "-"]]
    assert latex_tabular(["encoder", "protocol", "fraction", "AUROC"], rows).startswith(r"\begin{tabular}{llrr}")


def test_a_named_table_becomes_a_float_with_caption_and_notes():
    table = NamedTable("AUROC_1", ["a", "b"], [["x", "1"]], ["100 % of it.", "More."])
    text = table.render("latex")
    assert text.startswith("\\begin{table*}\n")
    assert r"\caption{AUROC\_1.}" in text
    assert r"{\scriptsize 100 \% of it. More.}" in text
    assert text.endswith("\\end{table*}\n")


def test_markdown_and_terminal_have_title_and_notes_too():
    table = NamedTable("T", ["a", "b"], [["x", "1"]], ["Note."])
    assert table.render() == "### T\n\n| a | b |\n| --- | ---: |\n| x | 1 |\n\nNote.\n"
    assert table.render("terminal") == "T\n\na  b\n-  -\nx  1\n\nNote.\n"


def test_the_other_tables_know_the_style():
    assert render_table(["a"], [["1_0"]], "latex").splitlines()[4] == r"1\_0 \\"
    (table,) = benchmark_tables([line(0.7, prompts="plain")], published=False)
    assert r"runs/merl & 70.0 {\scriptsize [68.0, 72.0]}" in table.render("latex")
    assert r"\toprule" in readme_benchmark_table([line(prompts="plain")], style="latex")


def test_all_tables_of_a_run_are_balanced_and_have_one_cell_per_column():
    for table in benchmark_tables(all_lines(), titles=TITLES):
        text = table.render("latex")
        bare = re.sub(r"\\[{}$&#%_]", "", text)
        assert bare.count("{") == bare.count("}"), table.title
        assert bare.count("$") % 2 == 0
        assert "_" not in bare
        assert "%" not in bare
        body = re.search(r"\\toprule\n(.*)\\bottomrule", bare, flags=re.DOTALL)[1]
        for row in body.splitlines():
            if row != r"\midrule":
                assert row.count("&") == len(table.header) - 1
                assert row.endswith(r" \\")
        assert len(body.splitlines()) == len(table.rows) + 2 + len(table.breaks)
        assert text.isascii()


def test_intervals_stand_in_brackets_as_the_markdown_has_them_in_words():
    for table in benchmark_tables(all_lines(), titles=TITLES):
        in_words = sum(len(re.findall(r"\([-\d.,]+ to [-\d.,]+\)", text)) for row in table.rows for text in row)
        assert table.render("latex").count(r"{\scriptsize [") == in_words
