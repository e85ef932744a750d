"""`hf-ecgtext classify`: ask a saved model about recordings, in words."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from tqdm.auto import tqdm

from hf_ecgtext.commands.checkpoints import load_checkpoint
from hf_ecgtext.pipelines import ZeroShotEcgClassificationPipeline
from hf_ecgtext.pipelines.base import SkippedRecording
from hf_ecgtext.pipelines.inputs import LeadNames, UnknownLeadError

_MEANING = {
    "independent": "Scores are cosines in [-1, 1]: they rank recordings for one label, and are no probabilities.",
    "exclusive": "Scores are the model's shares among these labels, and sum to one.",
}
_MANY_RECORDS = 50


def run(arguments: argparse.Namespace) -> int:
    """Classify and print; the exit code is 1 if a record has no answer."""
    lead_names = _lead_names(arguments.lead_names)
    device = _device(arguments.device)
    model, processor = load_checkpoint(arguments.model)
    classifier = ZeroShotEcgClassificationPipeline(model=model, processor=processor, device=device)
    scoring = "exclusive" if arguments.exclusive else "independent"
    show, skipped = _writer(arguments, scoring), []
    answers = classifier(
        iter(arguments.records) if len(arguments.records) > 1 else arguments.records,
        candidate_labels=arguments.labels,
        template=arguments.template,
        scoring=scoring,
        windows=arguments.windows,
        lead_names=lead_names,
        unknown_leads=None if arguments.unknown_leads == "raise" else arguments.unknown_leads,
        batch_size=arguments.batch_size,
        on_error="skip",
    )
    # Where the answers are seen as they come, they are progress enough.
    has_bar = len(arguments.records) >= _MANY_RECORDS and not sys.stdout.isatty()
    for record, answer in tqdm(
        zip(arguments.records, answers, strict=True),
        total=len(arguments.records),
        desc="Recordings",
        unit="recording",
        dynamic_ncols=True,
        disable=None if has_bar else True,  # None: unless it is a terminal
    ):
        if isinstance(answer, SkippedRecording):
            if isinstance(answer.error, UnknownLeadError):
                name = answer.error.names[0]
                answer.error.explain(f"--lead-names {name}={answer.error.likely_lead(name)}", "--unknown-leads ignore")
            skipped.append(answer)
        show(record, answer)
    if len(skipped) < len(arguments.records):
        to = sys.stderr if arguments.json or arguments.csv else sys.stdout
        print(f"{_MEANING[scoring]} Research software; not a medical device.", file=to)
    if len(skipped) > 1:
        print(
            f"hf-ecgtext classify: {len(skipped)} of {len(arguments.records)} records have no answer:", file=sys.stderr
        )
    for _, error in skipped:
        print(f"hf-ecgtext classify: {error}", file=sys.stderr)
    return 1 if skipped else 0


def _lead_names(words: Sequence[str] | None) -> LeadNames | None:
    if words is None or not any("=" in word for word in words):
        return words
    pairs = [word.partition("=") for word in words]
    if not all(old and new for old, _, new in pairs):
        raise ValueError(f"--lead-names {' '.join(words)}: give one name per row, or OLD=NEW for each that changes.")
    return {old: new for old, _, new in pairs}


def _device(name: str | None) -> torch.device | None:
    """The device of a name; `None` lets transformers choose.

    Raises:
        ValueError: If there is no such device.
    """
    if name is None:
        return None
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # AssertionError: a PyTorch without CUDA
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {name}: there is no such device here ({reason}).") from error
    return torch.device(name)


def _writer(arguments: argparse.Namespace, scoring: str) -> Callable[[str, Any], None]:
    """What prints one record's answer in the form that was asked for."""
    if arguments.json:
        return _print_json
    if arguments.csv:
        table = csv.writer(sys.stdout, lineterminator="\n")
        table.writerow(["record", "start_s", "end_s", "label", "score", "error"])
        return lambda record, answer: table.writerows(_rows(record, answer))
    number = ".3f" if scoring == "exclusive" else "+.3f"

    def show(record: str, answer: Any) -> None:
        if isinstance(answer, SkippedRecording):
            return  # named at the end
        print(record)
        for start, end, answers in _windows(answer):
            if start != "":
                print(f"  {start:g} to {end:g} s")
            indent = "    " if start != "" else "  "
            for one in answers:
                print(f"{indent}{one['score']:{number}}  {one['label']}")

    return show


def _print_json(record: str, answer: Any) -> None:
    if isinstance(answer, SkippedRecording):
        content: dict[str, Any] = {"error": str(answer.error)}
    else:
        content = {"windows" if "answers" in answer[0] else "answers": answer}
    print(json.dumps({"record": record, **content}, ensure_ascii=False), flush=True)


def _rows(record: str, answer: Any) -> Iterator[list[Any]]:
    if isinstance(answer, SkippedRecording):
        yield [record, "", "", "", "", str(answer.error)]
        return
    for start, end, answers in _windows(answer):
        for one in answers:
            yield [record, start, end, one["label"], one["score"], ""]


def _windows(answer: list[dict[str, Any]]) -> list[tuple[Any, Any, list[dict[str, Any]]]]:
    """Start, end and answers of each window; the answers of a whole recording have no times."""
    if "answers" not in answer[0]:
        return [("", "", answer)]
    return [(window["start_s"], window["end_s"], window["answers"]) for window in answer]
