"""All figures that the result lines and scores of a benchmark allow."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ecgtext.evaluation.prompts.sets import PROMPT_MEAN
from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.evaluation.scores import TaskScores
from hf_ecgtext.reporting.figures.classes import class_bars, class_order, class_pages
from hf_ecgtext.reporting.figures.curves import (
    ProbeVariant,
    fraction_curves,
    probe_variant,
    recall_curves,
    recall_metrics,
    shift_slopes,
)
from hf_ecgtext.reporting.figures.dots import inflation_dots, panel_groups, prompt_dots
from hf_ecgtext.reporting.figures.embeddings import METHOD_TITLES, EmbeddedTask, Method, embedding_figure
from hf_ecgtext.reporting.figures.reliability import reliability_panels, reliability_questions
from hf_ecgtext.reporting.figures.style import (
    ENCODERS_PER_FIGURE,
    EncoderRow,
    RowStyle,
    metric_title,
    own_values,
    panel_of,
    panel_titles,
    parts,
    row_of,
    row_styles,
    save_figure,
)
from hf_ecgtext.reporting.tables.grid import split_by

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

_BARS_PER_CLASS = 4
_ROWS_OF_DOTS = 8
_TEST_EPOCH = "best test epoch"
_STRICT = "strict"


@dataclass(frozen=True)
class Drawn:
    """A figure on disk.

    Args:
        path (`Path`): The file, in the first of the formats asked for.
        title (`str`): One line.
        caption (`str`): What is shown, of how many records, under which protocol, and what the intervals are.
    """

    path: Path
    title: str
    caption: str


@dataclass
class _Album:
    """Figures as they are drawn."""

    folder: Path
    formats: Sequence[str]
    drawn: list[Drawn] = field(default_factory=list)

    def add(self, figure: Figure, title: str, caption: str, part: tuple[int, int] = (1, 1)) -> None:
        number, total = part
        if total > 1:
            title = f"{title} (part {number} of {total})"
        name = re.sub(r"[^A-Za-z0-9]+", "-", title).strip("-").lower()[:80]
        path = save_figure(figure, self.folder, f"{len(self.drawn) + 1:03d}-{name}", self.formats)
        self.drawn.append(Drawn(path, title, caption))


def draw_all(
    results: Sequence[EvaluationResult],
    scores: Sequence[TaskScores],
    folder: str | os.PathLike[str],
    features: Sequence[EmbeddedTask] | None = None,
    *,
    titles: Mapping[str, str] | None = None,
    metric: str = "auroc",
    formats: Sequence[str] = ("png",),
    embedding_method: Method = "tsne",
    skipped: list[str] | None = None,
) -> list[Drawn]:
    """Draw what the lines and scores of a run allow.

    An encoder looks the same in all figures. Many encoders, tasks or classes are shown in several figures; bars per
    class are those of the best few encoders.

    Args:
        results (`Sequence[EvaluationResult]`): Lines of one or several runs; of a repeated one the later line stands.
        scores (`Sequence[TaskScores]`): With validation scores, for reliability.
        folder (`str` or `os.PathLike`): Made if absent.
        features (`Sequence[EmbeddedTask]`, *optional*): To be shown in two dimensions.
        titles (`Mapping[str, str]`, *optional*): How checkpoints are called.
        metric (`str`): Of all figures but those of retrieval and reliability.
        formats (`Sequence[str]`): `"png"`, `"pdf"`, `"svg"`; the HTML report shows the first.
        embedding_method (`str`): `"tsne"` or `"umap"`.
        skipped (`list[str]`, *optional*): Is given a sentence for everything that is not drawn; the log has it too.

    Returns:
        `list[Drawn]`: In the order of a report.

    Raises:
        ImportError: If matplotlib, or the library of the embedding method, is not installed.
    """
    album = _Album(Path(folder), tuple(formats))
    lines = own_values(results)
    styles = row_styles([*lines, *scores], titles)
    notes: list[str] = []
    for draw in (_draw_prompts, _draw_classes, _draw_fractions, _draw_inflation, _draw_shift):
        notes += draw(album, [line for line in lines if line.metric == metric], styles)
    notes += _draw_retrieval(album, recall_metrics(lines), styles)
    notes += _draw_reliability(album, scores, styles)
    notes += _draw_embeddings(album, features or (), titles or {}, embedding_method)
    for note in notes:
        logger.info("%s", note)
    if skipped is not None:
        skipped += notes
    return album.drawn


def _draw_prompts(album: _Album, lines: Sequence[EvaluationResult], styles: Mapping[EncoderRow, RowStyle]) -> list[str]:
    # Wording means nothing to random encoders; the tables have them. The mean over the sets is none of the dots.
    asked = [line for line in lines if line.evaluation == "zero_shot" and line.prompts != PROMPT_MEAN]
    own = [line for line in asked if line.encoder != "random"]
    if not own:
        return ["Prompt sensitivity is not drawn: there are no lines of 'zero_shot' of trained encoders."]
    for protocol, of_protocol in split_by(own, lambda line: line.protocol).items():
        chunks = _chunks(panel_groups(of_protocol), styles, _ROWS_OF_DOTS)
        for number, chunk in enumerate(chunks, start=1):
            caption = (
                f"Macro {metric_title(chunk[0].metric)} of zero-shot answers, one dot per prompt set with its "
                f"interval; the grey bar spans all prompt sets. Random encoders are left out. {_facts(chunk)}"
            )
            figure = prompt_dots(chunk, styles)
            album.add(figure, f"Zero-shot by prompt set, {protocol}", caption, (number, len(chunks)))
    return []


def _draw_classes(album: _Album, lines: Sequence[EvaluationResult], styles: Mapping[EncoderRow, RowStyle]) -> list[str]:
    own = [line for line in lines if line.per_class and line.evaluation in ("zero_shot", "linear_probe", "supervised")]
    protocol = _main_protocol(own)
    own = [line for line in own if line.protocol == protocol and "upper_bound" not in line.details]
    prompts = next((line.prompts for line in own if line.evaluation == "zero_shot"), None)
    notes = []
    for panel, of_task in split_by(own, panel_of).items():
        title = panel_titles([panel])[panel]
        for evaluation, name in (("zero_shot", f"zero-shot, prompts {prompts}"), ("linear_probe", "linear probe")):
            asked = [
                line
                for line in of_task
                if (line.evaluation == "zero_shot" and line.prompts == prompts and evaluation == "zero_shot")
                or (line.evaluation != "zero_shot" and evaluation == "linear_probe")
            ]
            chosen, num_left_out = _best_rows(_largest_fraction(asked))
            if not chosen:
                continue
            left_out = f" The {_BARS_PER_CLASS} trained encoders with the highest macro value of "
            left_out = f"{left_out}{num_left_out + _BARS_PER_CLASS} are shown." if num_left_out else ""
            order = class_order(chosen, styles)
            pages = class_pages(order)
            for number, labels in enumerate(pages, start=1):
                caption = (
                    f"{metric_title(chosen[0].metric)} by class with intervals, best class of the first encoder on "
                    f"top; in brackets the positive records. The dashed line is chance.{left_out} {_facts(chosen)}"
                )
                figure = class_bars(chosen, styles, labels)
                album.add(figure, f"{title} by class, {name}", caption, (number, len(pages)))
    other = sorted({str(line.prompts) for line in own if line.evaluation == "zero_shot" and line.prompts != prompts})
    if other:
        notes.append(f"Bars per class are of the prompts '{prompts}' only, not of {', '.join(other)}.")
    return notes if own else ["Bars per class are not drawn: no line has values by class."]


def _draw_fractions(
    album: _Album, lines: Sequence[EvaluationResult], styles: Mapping[EncoderRow, RowStyle]
) -> list[str]:
    own = [line for line in lines if line.evaluation in ("linear_probe", "supervised") and "fraction" in line.settings]
    probes = [line for line in own if line.evaluation == "linear_probe"]
    if not probes:
        return ["Fraction curves are not drawn: there are no lines of 'linear_probe' with a fraction."]
    variants = _variants(probes)
    # What the papers print beside what is honest; other choices of the epoch are in the dots.
    published = {variant[:2] for variant in variants if variant.selection == _TEST_EPOCH}
    shown = [variant for variant in variants if variant.selection == _TEST_EPOCH or variant[:2] not in published]
    names = panel_titles(list(dict.fromkeys(panel_of(line) for line in own)))
    for panel, of_task in split_by(own, panel_of).items():
        chunks = _chunks([of_task], styles)
        for number, chunk in enumerate(chunks, start=1):
            here = [v for v in shown if any(probe_variant(x) == v for x in chunk if x.evaluation == "linear_probe")]
            caption = (
                f"Macro {metric_title(chunk[0].metric)} of linear probes against the percentage of training labels, "
                f"bands are intervals. Baselines are grey. {_upper_bound(here)}{_facts(chunk)}"
            )
            album.add(
                fraction_curves(chunk, styles, here), f"{names[panel]}: linear probe", caption, (number, len(chunks))
            )
    return []


def _draw_inflation(
    album: _Album, lines: Sequence[EvaluationResult], styles: Mapping[EncoderRow, RowStyle]
) -> list[str]:
    # Random encoders would stretch the axis until what the choice adds cannot be seen.
    own = [
        line
        for line in lines
        if line.evaluation == "linear_probe" and "fraction" in line.settings and line.encoder != "random"
    ]
    variants = _variants(own)
    if len(variants) < 2:
        return ["What choosing on the test split adds is not drawn: the probes were chosen in one way only."]
    by_fraction = split_by(own, lambda line: float(line.settings["fraction"]))
    for fraction in sorted(by_fraction):
        chunks = _chunks(panel_groups(by_fraction[fraction]), styles, _ROWS_OF_DOTS)
        for number, chunk in enumerate(chunks, start=1):
            here = [variant for variant in variants if any(probe_variant(line) == variant for line in chunk)]
            caption = (
                f"Macro {metric_title(chunk[0].metric)} of probes on {100 * fraction:g} % of the training labels, by "
                "the way they are trained and chosen. Between epochs chosen on test and on validation, all else is "
                f"equal; between protocols, other switches differ too. Random encoders are left out. "
                f"{_upper_bound(here)}{_facts(chunk)}"
            )
            title = f"Published and strict probes at {100 * fraction:g} percent"
            album.add(inflation_dots(chunk, styles, here), title, caption, (number, len(chunks)))
    return []


def _draw_shift(album: _Album, lines: Sequence[EvaluationResult], styles: Mapping[EncoderRow, RowStyle]) -> list[str]:
    own = [line for line in lines if line.evaluation == "distribution_shift"]
    for question, asked in split_by(own, _shift_question).items():
        classifier, prompts, label_map, protocol = question
        chunks = _chunks([asked], styles)
        name = f"{str(classifier).replace('_', ' ')}{f', prompts {prompts}' if prompts else ''}"
        for number, chunk in enumerate(chunks, start=1):
            caption = (
                f"Macro {metric_title(chunk[0].metric)} of the same classifier ({name}) on test records of the source "
                f"and of the target, over the mapped classes. Label map: {label_map}. {_facts(chunk)}"
            )
            title = f"Distribution shift, {name}, {protocol}, map {label_map}"
            album.add(shift_slopes(chunk, styles), title, caption, (number, len(chunks)))
    return [] if own else ["Distribution shift is not drawn: there are no lines of 'distribution_shift'."]


def _draw_retrieval(
    album: _Album, lines: Sequence[EvaluationResult], styles: Mapping[EncoderRow, RowStyle]
) -> list[str]:
    own = [line for line in lines if line.evaluation == "retrieval"]
    names = panel_titles(list(dict.fromkeys(panel_of(line) for line in own)))
    for (panel, duplicates, protocol), asked in split_by(
        own, lambda line: (panel_of(line), line.settings.get("duplicates"), line.protocol)
    ).items():
        chunks = _chunks([asked], styles)
        for number, chunk in enumerate(chunks, start=1):
            caption = (
                f"How often the right report or recording is among the first k. Reports with the same text: "
                f"{duplicates}. Bands are intervals. {_facts(chunk)}"
            )
            album.add(
                recall_curves(chunk, styles), f"{names[panel]}: retrieval, {protocol}", caption, (number, len(chunks))
            )
    return [] if own else ["Retrieval is not drawn: there are no lines of 'retrieval' with recall."]


def _draw_reliability(album: _Album, scores: Sequence[TaskScores], styles: Mapping[EncoderRow, RowStyle]) -> list[str]:
    questions, notes = reliability_questions(scores)
    for question in questions:
        by_row = {row_of(answer): answer for answer in question.scores}
        chunks = parts([row for row in styles if row in by_row])
        for number, rows in enumerate(chunks, start=1):
            figure = reliability_panels([by_row[row] for row in rows], [styles[row].label for row in rows])
            album.add(figure, question.title, question.caption(), (number, len(chunks)))
    return notes


def _draw_embeddings(
    album: _Album, embedded: Sequence[EmbeddedTask], titles: Mapping[str, str], method: Method
) -> list[str]:
    if not embedded:
        return ["Embeddings are not drawn: none are given."]
    notes = []
    for entry in embedded:
        name = titles.get(entry.checkpoint, entry.checkpoint)
        title = f"{entry.task}: embeddings of {name}"
        num_single = int((entry.targets.sum(axis=1) == 1).sum())
        try:
            figure = embedding_figure(entry.embeddings, entry.targets, entry.labels, method, title=title)
        except ValueError as error:
            notes.append(f"{title} are not drawn: {error}")
            continue
        caption = (
            f"{METHOD_TITLES[method]} of the {num_single:,} of {len(entry.targets):,} records with exactly one label, "
            f"seed 0. {entry.data['name']}, {entry.data['revision']}, {entry.data['split']} split. Distances between "
            "and sizes of clusters are no measurements."
        )
        album.add(figure, f"{title}, {METHOD_TITLES[method]}", caption)
    return notes


# Below, what the `_draw_...` functions above share: which lines share a figure, and what a caption says of them.


def _chunks(
    groups: Iterable[Sequence[EvaluationResult]], styles: Mapping[EncoderRow, RowStyle], size: int = ENCODERS_PER_FIGURE
) -> list[list[EvaluationResult]]:
    """The lines of each figure, so that no figure has too many encoders."""
    chunks = []
    for lines in groups:
        rows = [row for row in styles if any(row_of(line) == row for line in lines)]
        for part in parts(rows, size):
            chunks += [[line for line in lines if row_of(line) in part]]
    return chunks


def _main_protocol(lines: Sequence[EvaluationResult]) -> str | None:
    """The strict protocol, or the first where it was not asked for."""
    names = list(dict.fromkeys(line.protocol for line in lines))
    return _STRICT if _STRICT in names else next(iter(names), None)


def _variants(lines: Sequence[EvaluationResult]) -> list[ProbeVariant]:
    """Ways to train and choose a probe: those chosen on the test split first, the strict protocol last."""
    found = dict.fromkeys(probe_variant(line) for line in lines if line.evaluation == "linear_probe")
    return sorted(found, key=lambda variant: (variant.protocol == _STRICT, variant.selection != _TEST_EPOCH))


def _upper_bound(variants: Sequence[ProbeVariant]) -> str:
    if any(variant.selection == _TEST_EPOCH for variant in variants):
        return f"'{_TEST_EPOCH}': chosen on the test split, an upper bound that nobody could have known. "
    return ""


def _shift_question(line: EvaluationResult) -> tuple[Any, ...]:
    return line.settings.get("classifier"), line.prompts, line.settings.get("label_map"), line.protocol


def _largest_fraction(lines: Sequence[EvaluationResult]) -> list[EvaluationResult]:
    """Of probes: those on most labels, and of one variant."""
    probes = [line for line in lines if line.evaluation == "linear_probe"]
    if not probes:
        return list(lines)
    largest = max(float(line.settings.get("fraction", 1.0)) for line in probes)
    variant = _variants(probes)[-1]
    return [
        line
        for line in lines
        if line.evaluation == "supervised"
        or (float(line.settings.get("fraction", 1.0)) == largest and probe_variant(line) == variant)
    ]


def _best_rows(lines: Sequence[EvaluationResult]) -> tuple[list[EvaluationResult], int]:
    """The best few trained encoders with the baselines, and how many trained ones are left out."""
    trained = sorted((line for line in lines if line.encoder == "trained"), key=lambda line: -(line.value or 0.0))
    best = trained[:_BARS_PER_CLASS]
    shown = best[0].checkpoint if best else None  # one random encoder is enough to see what is easy
    baselines = [line for line in lines if line.encoder != "trained"]
    if shown is not None:
        baselines = [line for line in baselines if line.encoder != "random" or line.checkpoint == shown]
    return best + baselines[:_BARS_PER_CLASS], len(trained) - len(best)


def _facts(lines: Sequence[EvaluationResult]) -> str:
    """Numbers of records, data, protocol and intervals, as a caption says them."""
    counts = sorted({line.num_records for line in lines})
    spans = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    data = sorted({f"{line.data['name']} ({line.data['revision']}, {line.data['split']} split)" for line in lines})
    protocols = list(dict.fromkeys(line.protocol for line in lines))
    coverages = sorted({f"{100 * line.confidence:g} %" for line in lines})
    resamples = sorted({line.num_resamples for line in lines})
    number = f"{resamples[0]:,}" if len(resamples) == 1 else f"{resamples[0]:,} to {resamples[-1]:,}"
    return (
        f"n = {spans} records of {', '.join(data)}. Protocol: {', '.join(protocols)}. Intervals: "
        f"{' and '.join(coverages)}, from {number} bootstrap resamples of patients."
    )
