"""Whatever the names in result lines hold is shown as text, in every form of a table."""

from __future__ import annotations

import pytest

from hf_ecgtext.reporting.tables.render import NamedTable

HOSTILE = [
    "<script>alert(1)</script>",
    "a | b",
    "two\nlines | three",
    "</table><img src=x onerror=f()>",
    "x_1 & $y^2$ #",
]


@pytest.fixture
def table():
    rows = [[name, "74.2", "p < 0.05"] for name in HOSTILE]
    return NamedTable("<b>Title</b>\n# x", ["checkpoint", "AUROC", "p"], rows, ["<!-- hidden -->", "n < 5"])


def test_markdown_holds_no_html_and_every_row_is_one_line(table):
    text = table.render("markdown")
    assert "<script" not in text
    assert "<b>" not in text
    assert "<img" not in text
    assert "<!--" not in text
    assert "p < 0.05" in text, "a comparison is no tag"
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(HOSTILE)
    assert all(line.replace(r"\|", "").count("|") == 4 for line in lines)


def test_latex_prints_the_names_as_they_stand(table):
    text = table.render("latex")
    assert r"x\_1 \& \$y\textasciicircum{}2\$ \#" in text
    rows = [line for line in text.splitlines() if "74.2" in line]
    assert len(rows) == len(HOSTILE)
    assert all(line.count(" & ") == 2 + line.count(r" \& ") * 0 for line in rows)
