"""Prompts that are written per class: the layouts of a JSON file, and the prompts of one task in it.

A file has one of three layouts:

    flat         {"LVH": "tall R waves", "AFIB": ["irregular rhythm", "no P waves"]}
    by task      {"ptbxl_sub": {"LVH": "tall R waves"}, "csn_exact": {"AF": "atrial flutter"}}
    by concept   {"concepts": {"atrial_flutter": ["atrial flutter"]}, "tasks": {"csn_exact": {"AF": "atrial_flutter"}}}

The last is that of the library's own `prompts/descriptions.json`: a concept is worded and reviewed once, and acronyms
that mean different things in different datasets (`AF` is flutter in CSN and fibrillation in CODE-test) stay apart.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from hf_ecgtext.errors import EcgTextError


class PromptError(EcgTextError, ValueError):
    """A prompt set is unknown, malformed, or lacks a class."""


def read_prompt_object(content: bytes, location: str) -> dict[str, Any]:
    """The JSON object of a prompt file.

    Args:
        content (`bytes`): Of the file.
        location (`str`): What messages call it.

    Raises:
        PromptError: It is not JSON, no object, or has a label twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if repeated := sorted(label for label, count in Counter(label for label, _ in pairs).items() if count > 1):
            raise PromptError(f"{location}: these labels occur more than once: {repeated}. Keep one entry of each.")
        return dict(pairs)

    try:
        entries = json.loads(content, object_pairs_hook=unique)
    except PromptError:
        raise
    except RecursionError as error:
        raise PromptError(f"{location} is nested too deeply for a prompt file; see the layouts in the docs.") from error
    except ValueError as error:  # no JSON, no text, or a number of thousands of digits
        raise PromptError(f"{location} is not a JSON file: {error}.") from error
    if not isinstance(entries, dict):
        raise PromptError(f"{location}: expected one JSON object that maps class label to prompt or list of prompts.")
    return entries


def prompts_by_task(entries: Mapping[str, Any], location: str) -> dict[str, dict[str, Any]] | None:
    """Task to class label to prompts, of a file that is written by task or by concept; `None` of a flat one.

    Args:
        entries (`Mapping[str, Any]`): From `read_prompt_object`.
        location (`str`): What messages call the file.

    Raises:
        PromptError: A task names a concept that the file does not word.
    """
    if {"concepts", "tasks"} <= set(entries):
        concepts, tasks = entries["concepts"], entries["tasks"]
        if not _all_objects([concepts, tasks]) or not _all_objects(tasks.values()):
            raise PromptError(
                f"{location}: 'concepts' maps a concept to its prompts, and 'tasks' a task to an object of label and "
                "concept. Write both as JSON objects."
            )
        named = {str(concept) for labels in tasks.values() for concept in labels.values()}
        if unknown := sorted(named - set(concepts)):
            raise PromptError(f"{location}: its tasks name the concepts {unknown}, which it does not word. Add them.")
        return {task: {label: concepts[concept] for label, concept in labels.items()} for task, labels in tasks.items()}
    if entries and _all_objects(entries.values()):
        return dict(entries)
    return None


def prompts_of_classes(
    entries: Mapping[str, Any], class_names: Mapping[str, str], location: str, task: str | None = None
) -> dict[str, list[str]]:
    """The prompts of each class of a task, from a file of any layout.

    Args:
        entries (`Mapping[str, Any]`): From `read_prompt_object`.
        class_names (`Mapping[str, str]`): Class label to its name; the order of the labels is kept. Labels that the
            task does not have are ignored in the file.
        location (`str`): What messages call the file.
        task (`str`, *optional*): Name of the task; needed for files that are written by task or by concept.

    Raises:
        PromptError: The file has not the task or not all its classes, or a prompt is no text.
    """
    by_task = prompts_by_task(entries, location)
    if by_task is not None:
        entries = prompts_of_task(by_task, location, task)
        location = f"{location}, task '{task}'"
    if missing := [label for label in class_names if label not in entries]:
        raise PromptError(
            f"{location} has no prompt for these classes: {missing}. Add them, or use another prompt set."
        )
    return {label: _as_prompts(entries[label], label, location) for label in class_names}


def prompts_of_task(by_task: Mapping[str, dict[str, Any]], location: str, task: str | None) -> dict[str, Any]:
    """The entry of one task, or an error that names the tasks there are."""
    if task is None:
        raise PromptError(
            f"{location} is written per task, because one label means different things in different datasets. Say "
            f"which task is asked (task=); it has: {', '.join(sorted(by_task))}."
        )
    if task not in by_task:
        raise PromptError(f"{location} has no task '{task}'; it has: {', '.join(sorted(by_task))}.")
    return by_task[task]


def _all_objects(entries: Iterable[Any]) -> bool:
    return all(isinstance(entry, dict) for entry in entries)


def _as_prompts(entry: object, label: str, location: str) -> list[str]:
    prompts = [entry] if isinstance(entry, str) else entry
    if not isinstance(prompts, list) or not prompts:
        raise PromptError(f"{location}: the entry of class '{label}' is neither a string nor a list of strings.")
    if not all(isinstance(prompt, str) and prompt.strip() for prompt in prompts):
        raise PromptError(f"{location}: class '{label}' has a prompt that is empty or not a string.")
    return prompts
