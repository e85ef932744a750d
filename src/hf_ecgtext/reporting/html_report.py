"""One self-contained HTML page per run: what was evaluated, how, tables, figures, and the bad news."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from hf_ecgtext.evaluation.protocols import EvaluationProtocol
from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.io import written_whole
from hf_ecgtext.reporting.figures.album import Drawn
from hf_ecgtext.reporting.report_facts import (
    bad_news,
    checkpoint_table,
    data_table,
    protocol_table,
    provenance_table,
)
from hf_ecgtext.reporting.tables.render import NamedTable

_MEDIA_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}


def write_html_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    tables: Sequence[NamedTable],
    figures: Sequence[Drawn],
    results: Sequence[EvaluationResult],
    notes: Sequence[str] = (),
    failed: Mapping[str, str] | None = None,
    protocols: Sequence[EvaluationProtocol] = (),
) -> Path:
    """Write the page of a run. It needs no network, no script and no other file, and prints well.

    Names, labels and messages are data: whatever they hold is shown as text.

    Args:
        path (`str` or `os.PathLike`): A `.html` file; its folder is made if absent. It appears whole or not at all.
        title (`str`): Of the page.
        tables (`Sequence[NamedTable]`): With numbers.
        figures (`Sequence[Drawn]`): PNG or SVG files, put into the page.
        results (`Sequence[EvaluationResult]`): All lines of the run: what was evaluated, and what is wrong with it.
        notes (`Sequence[str]`): Such as what the figures leave out.
        failed (`Mapping[str, str]`, *optional*): Why an evaluation could not be done, by its title.
        protocols (`Sequence[EvaluationProtocol]`): Those of the run that the library does not define.

    Returns:
        `Path`: The page.

    Raises:
        ValueError: If there are no results, a figure is neither PNG nor SVG, or a row of a table has too many cells.
        FileNotFoundError: If a figure is gone.
    """
    from jinja2 import Environment, StrictUndefined

    if not results:
        raise ValueError("There are no results to report.")
    for table in tables:
        _check_shape(table)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = resources.files("hf_ecgtext.reporting").joinpath("report.html.j2").read_text(encoding="utf-8")
    dates = sorted(line.date for line in results)
    page = environment.from_string(template).render(
        title=title,
        first_date=dates[0],
        last_date=dates[-1],
        num_lines=len(results),
        evaluated=[checkpoint_table(results), data_table(results), provenance_table(results)],
        protocols=protocol_table(results, protocols),
        tables=list(tables),
        figures=[{"title": one.title, "caption": one.caption, "address": _inline(one.path)} for one in figures],
        bad_news=bad_news(results, failed or {}),
        notes=list(notes),
    )
    with written_whole(path) as unfinished:
        unfinished.write_text(page, encoding="utf-8")
    return Path(path)


def _check_shape(table: NamedTable) -> None:
    for row in table.rows:
        if len(row) != len(table.header):
            raise ValueError(
                f"Table '{table.title}': the row '{' | '.join(row)}' has {len(row)} cells for "
                f"{len(table.header)} columns."
            )


def _inline(path: Path) -> str:
    """The file as an address of its own content."""
    media_type = _MEDIA_TYPES.get(path.suffix.lower())
    if media_type is None:
        raise ValueError(
            f"{path} cannot be put into a page; pass PNG or SVG figures (formats=('png', 'pdf') gives the PNG first)."
        )
    return f"data:{media_type};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
