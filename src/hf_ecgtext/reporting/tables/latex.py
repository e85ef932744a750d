"""Tables for papers: a `tabular` with booktabs' rules, whatever the cells contain."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    # Without a T1 font these come out as other signs.
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "±": r"$\pm$",
    "→": r"$\rightarrow$",
}
_NUMBER = r"-?\d[\d,]*(?:\.\d+)?"
_INTERVAL = re.compile(rf"\(({_NUMBER}) to ({_NUMBER})\)")
_NUMERIC = re.compile(r"[-+<]?\d|-?$")
_NEGATIVE = re.compile(r"(?<![\w.-])-(?=\d)")


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it stands; `->` becomes an arrow.

    A line break would end a cell, so whitespace becomes one space.
    """
    words = " ".join(text.split())
    return "".join(_SPECIAL.get(sign, sign) for sign in words.replace("->", "→"))


def latex_tabular(header: Sequence[str], rows: Sequence[Sequence[str]], breaks: Sequence[int] = ()) -> str:
    r"""The rows below their header between booktabs' rules.

    Args:
        header (`Sequence[str]`): Column titles. Columns of numbers are set to the right, others to the left.
        rows (`Sequence[Sequence[str]]`): Plain text; an interval `(72.9 to 75.4)` becomes `{\scriptsize [72.9, 75.4]}`.
        breaks (`Sequence[int]`): Rows before which a rule is drawn.
    """
    numeric = [bool(place) and all(_NUMERIC.match(row[place]) for row in rows) for place in range(len(header))]
    columns = "".join("r" if is_number else "l" for is_number in numeric)
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", _line(header), r"\midrule"]
    for number, row in enumerate(rows):
        if number in breaks:
            lines.append(r"\midrule")
        lines.append(_line(row))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def latex_table(
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str] = (),
    breaks: Sequence[int] = (),
) -> str:
    """A float over both columns of a page: caption, table, and the notes below it."""
    lines = [r"\begin{table*}", r"\centering", r"\footnotesize", r"\setlength{\tabcolsep}{3pt}"]
    lines += [rf"\caption{{{escape_latex(title)}.}}", latex_tabular(header, rows, breaks)]
    if notes:
        lines += ["", r"\medskip", rf"\parbox{{\linewidth}}{{\scriptsize {escape_latex(' '.join(notes))}}}"]
    return "\n".join([*lines, r"\end{table*}"]) + "\n"


def _line(cells: Sequence[str]) -> str:
    texts = [_cell(cell) for cell in cells]
    # A row that begins with [ would be read as an option of the \\ above it.
    return ("{}" if texts[0].startswith("[") else "") + " & ".join(texts) + r" \\"


def _cell(text: str) -> str:
    interval = _INTERVAL.search(text)
    if interval is None:
        return _minus(escape_latex(text))
    low, high = (_minus(bound) for bound in interval.groups())
    before, after = (_minus(escape_latex(part)) for part in (text[: interval.start()], text[interval.end() :]))
    return " ".join(part for part in (before, rf"{{\scriptsize [{low}, {high}]}}", after) if part)


def _minus(text: str) -> str:
    return _NEGATIVE.sub("$-$", text)
