"""`hf-ecgtext report`: tables, figures and one HTML page of a benchmark run, from its result lines."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from hf_ecgtext.evaluation.protocols import EvaluationProtocol
from hf_ecgtext.evaluation.results import EvaluationResult, read_results
from hf_ecgtext.evaluation.scores import TaskScores
from hf_ecgtext.io import written_whole
from hf_ecgtext.reporting.figures.album import Drawn, draw_all
from hf_ecgtext.reporting.figures.embeddings import EmbeddedTask
from hf_ecgtext.reporting.html_report import write_html_report
from hf_ecgtext.reporting.tables.all import benchmark_tables
from hf_ecgtext.reporting.tables.render import NamedTable, Style


def run(arguments: argparse.Namespace) -> None:
    """Write everything."""
    results = [result for path in arguments.results for result in read_results(path)]
    write_pages(
        arguments.output_dir,
        results,
        read_scores(arguments.scores) if arguments.scores else [],
        titles=parse_titles(arguments.titles, results),
        title=arguments.title,
        published=arguments.published,
        latex=arguments.latex,
        figures=arguments.figures,
    )


def write_pages(
    folder: Path,
    results: Sequence[EvaluationResult],
    scores: Sequence[TaskScores],
    *,
    titles: Mapping[str, str],
    title: str = "ECG-text benchmark",
    published: bool = True,
    latex: bool = False,
    figures: bool = True,
    features: Sequence[EmbeddedTask] = (),
    failed: Mapping[str, str] | None = None,
    protocols: Sequence[EvaluationProtocol] = (),
    more_tables: Sequence[NamedTable] = (),
) -> Path:
    """`tables.md`, `tables.tex` if asked for, the figures, and `index.html` with all of them.

    Returns:
        `Path`: The page.
    """
    tables = [*benchmark_tables(results, titles=titles, published=published), *more_tables]
    write_tables(folder / "tables.md", tables, "markdown")
    if latex:
        write_tables(folder / "tables.tex", tables, "latex")
    drawn: list[Drawn] = []
    skipped: list[str] = []
    if figures:
        drawn = draw_all(results, scores, folder / "figures", features, titles=titles, skipped=skipped)
    page = write_html_report(
        folder / "index.html",
        title=title,
        tables=tables,
        figures=drawn,
        results=results,
        notes=skipped,
        failed=failed,
        protocols=protocols,
    )
    print(f"{len(results):,} result lines, {len(tables)} tables, {len(drawn)} figures: {page}")
    return page


def parse_titles(texts: list[str], results: Sequence[EvaluationResult]) -> dict[str, str]:
    """`CHECKPOINT=NAME` options.

    Raises:
        ValueError: If one is no such pair, or no result is of its checkpoint.
    """
    known = dict.fromkeys(result.checkpoint for result in results)
    titles = {}
    for text in texts:
        # The checkpoint may be a path with an equals sign; a title has none.
        checkpoint, equals, title = text.rpartition("=")
        if not (checkpoint and equals and title.strip()):
            raise ValueError(f"--titles {text}: expected CHECKPOINT=NAME.")
        if checkpoint not in known:
            raise ValueError(f"--titles {text}: no result is of '{checkpoint}'; checkpoints: {', '.join(known)}.")
        titles[checkpoint] = title.strip()
    return titles


def read_scores(folder: Path) -> list[TaskScores]:
    """All scores below a folder, in the order of their paths.

    Raises:
        FileNotFoundError: If there are none.
    """
    paths = sorted(folder.rglob("scores-*.npz"))
    if not paths:
        raise FileNotFoundError(f"There are no scores (.npz) in '{folder}'; leave --scores out, or give their folder.")
    return [TaskScores.load(path) for path in paths]


def write_tables(path: Path, tables: list[NamedTable], style: Style) -> None:
    """All tables in one file, whole or not at all."""
    with written_whole(path) as unfinished:
        unfinished.write_text("\n".join(table.render(style) for table in tables), encoding="utf-8")
