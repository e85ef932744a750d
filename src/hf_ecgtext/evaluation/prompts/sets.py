"""Class prompts for zero-shot classification, each set with its source and licence.

Scores depend on the wording, so results name their prompt set, and several sets are evaluated side by side
(docs/protocols.md, defect 7). The sets that ship with the library are in `prompts/*.json`: sentence
templates, which fit any task, and our own descriptions, which are written per task and class. Other sets written per
class, such as MERL's CKEPE file, are read from a JSON file of the user ([`~hf_ecgtext.evaluation.prompts.files`]).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from hf_ecgtext.evaluation.prompts.files import (
    PromptError,
    prompts_by_task,
    prompts_of_classes,
    prompts_of_task,
    read_prompt_object,
)

__all__ = [
    "PROMPT_MEAN",
    "PromptDescriptions",
    "PromptError",
    "PromptProvenance",
    "PromptSet",
    "PromptTemplates",
    "build_prompts",
    "list_prompt_sets",
    "load_prompt_set",
    "load_prompt_sets",
]

PROMPT_MEAN = "mean"
"""What stands in place of a prompt set where a value is the mean over the sets of the library."""

_PLACEHOLDER = "{name}"
_JOIN = "+"


@dataclass(frozen=True)
class PromptProvenance:
    """When the wording of a set was fixed, and what was known by then.

    Args:
        commit (`str`): Of this repository, with which the wording entered; it has not changed since.
        fixed (`str`): Date of that commit. Nothing shows an earlier one.
        scores_seen (`str`): Test scores, of any set, that had been seen.
    """

    commit: str
    fixed: str
    scores_seen: str


@dataclass(frozen=True)
class PromptTemplates:
    """A prompt set of the library, before the class names are filled in.

    Args:
        name (`str`): What to pass as `prompt_set`.
        description (`str`): One sentence.
        source (`str`): Where the wording is from.
        licence (`str`): Terms of the wording.
        provenance ([`PromptProvenance`]): When it was fixed.
        templates (`tuple[str, ...]`): Sentences with `{name}` in the place of the class name.
        per_member (`bool`): Fill in the name of each statement that a class groups, instead of the name of the group.
    """

    name: str
    description: str
    source: str
    licence: str
    provenance: PromptProvenance
    templates: tuple[str, ...]
    per_member: bool = False


@dataclass(frozen=True)
class PromptDescriptions:
    """A prompt set of the library that is written per task and class.

    Args:
        name (`str`): What to pass as `prompt_set`.
        description (`str`): One sentence.
        source (`str`): Where the wording is from.
        licence (`str`): Terms of the wording.
        provenance ([`PromptProvenance`]): When it was fixed.
        review (`str`): Who has looked at it.
        tasks (`Mapping[str, dict[str, list[str]]]`): Task to class label to prompts.
    """

    name: str
    description: str
    source: str
    licence: str
    provenance: PromptProvenance
    review: str
    tasks: Mapping[str, dict[str, list[str]]]


@dataclass(frozen=True)
class PromptSet:
    """The prompts of every class of a task.

    Args:
        name (`str`): Name for results: of the library's set, or of the user's file without its suffix; of several sets
            together, their names joined by `+`.
        source (`str`): Where the wording is from; for a file, its path and SHA-256.
        licence (`str`): Terms of the wording.
        prompts (`dict[str, list[str]]`): By class label, in the order of the task's classes.
    """

    name: str
    source: str
    licence: str
    prompts: dict[str, list[str]]


def list_prompt_sets() -> list[PromptTemplates | PromptDescriptions]:
    """The prompt sets that ship with the library, with source and licence, sorted by name."""
    folder = files("hf_ecgtext.evaluation") / "prompts"
    sets: list[PromptTemplates | PromptDescriptions] = []
    for entry in folder.iterdir():
        if not entry.name.endswith(".json"):
            continue
        content = json.loads(entry.read_text("utf-8"))
        tasks = prompts_by_task(content, entry.name)
        content["provenance"] = PromptProvenance(**content["provenance"])
        if tasks is None:
            sets.append(PromptTemplates(**content | {"templates": tuple(content["templates"])}))
        else:
            about = {name: text for name, text in content.items() if name not in ("concepts", "tasks")}
            sets.append(PromptDescriptions(**about, tasks=tasks))
    return sorted(sets, key=lambda prompt_set: prompt_set.name)


def load_prompt_set(
    class_names: Mapping[str, str],
    prompt_set: str | os.PathLike[str] = "plain",
    class_members: Mapping[str, Sequence[str]] | None = None,
    *,
    task: str | None = None,
) -> PromptSet:
    """The prompts of each class of a task.

    Args:
        class_names (`Mapping[str, str]`): Class label to its name in words, such as `"LVH"` to
            `"left ventricular hypertrophy"`. The order of the labels is kept.
        prompt_set (`str` or `os.PathLike`): One of

            * the name of a set of `list_prompt_sets`;
            * the path of a JSON file in one of the layouts of [`~hf_ecgtext.evaluation.prompts.files`], such as one
              flat object that maps class label to a prompt or a list of prompts. A string is one prompt, commas
              included, as in MERL's CKEPE file. Labels that the task does not have are ignored;
            * several of those joined by `+`, such as `"plain+members+descriptions"`: each class has the prompts of all
              of them, the same text once, and its embedding is the normalised mean over all its prompts. So a set with
              more prompts has more weight. A path that contains a `+` itself is passed as `Path`.
        class_members (`Mapping[str, Sequence[str]]`, *optional*): Names of the statements that a class groups, for
            the set `"members"`; a class that is not in it is prompted by its own name.
        task (`str`, *optional*): Name of the task, such as `"csn_exact"`; needed for sets that are written per task.

    Raises:
        PromptError: There is no such set or file, the file is malformed, the set does not have the task, or classes
            are missing from it.
    """
    if not class_names:
        raise PromptError("class_names is empty; pass the label and name of each class of the task.")
    if nameless := [label for label, name in class_names.items() if not name.strip()]:
        raise PromptError(f"These classes have no name in words: {nameless}.")
    members = class_members or {}
    if not isinstance(prompt_set, str) or _JOIN not in prompt_set:
        return _load_one(class_names, prompt_set, members, task)
    parts = [_load_one(class_names, part, members, task) for part in prompt_set.split(_JOIN)]
    _check_names(parts, f"The ensemble '{prompt_set}'")
    return PromptSet(
        name=_JOIN.join(part.name for part in parts),
        source="; ".join(f"{part.name}: {part.source}" for part in parts),
        licence="; ".join(f"{part.name}: {part.licence}" for part in parts),
        prompts={
            label: list(dict.fromkeys(prompt for part in parts for prompt in part.prompts[label]))
            for label in class_names
        },
    )


def load_prompt_sets(
    class_names: Mapping[str, str],
    prompt_sets: Sequence[str | os.PathLike[str]],
    class_members: Mapping[str, Sequence[str]] | None = None,
    *,
    task: str | None = None,
) -> list[PromptSet]:
    """Several prompt sets of one task, which results must be able to tell apart; arguments as in `load_prompt_set`.

    Raises:
        PromptError: As in `load_prompt_set`; there is no set, or two have the same name.
    """
    if not prompt_sets:
        raise PromptError("No prompt set is asked for; 'plain' is the name of the class alone.")
    loaded = [load_prompt_set(class_names, prompt_set, class_members, task=task) for prompt_set in prompt_sets]
    _check_names(loaded, "The list of prompt sets")
    return loaded


def build_prompts(
    class_names: Mapping[str, str], prompt_set: str | os.PathLike[str] = "plain", *, task: str | None = None
) -> dict[str, list[str]]:
    """The prompts of `load_prompt_set`, without their provenance.

    Args:
        class_names (`Mapping[str, str]`): Class label to its name in words.
        prompt_set (`str` or `os.PathLike`): As in `load_prompt_set`.
        task (`str`, *optional*): Name of the task, for sets that are written per task.

    Returns:
        `dict[str, list[str]]`: By class label, in the order of `class_names`.
    """
    return load_prompt_set(class_names, prompt_set, task=task).prompts


def _load_one(
    class_names: Mapping[str, str],
    prompt_set: str | os.PathLike[str],
    class_members: Mapping[str, Sequence[str]],
    task: str | None,
) -> PromptSet:
    shipped = {each.name: each for each in list_prompt_sets()}
    if isinstance(prompt_set, str) and prompt_set in shipped:
        known = shipped[prompt_set]
        prompts = (
            _described(known, class_names, task, list(shipped.values()))
            if isinstance(known, PromptDescriptions)
            else _filled_in(known, class_names, class_members)
        )
        return PromptSet(known.name, known.source, known.licence, prompts)
    path = Path(prompt_set)
    if not path.is_file():
        raise PromptError(
            f"There is no prompt set or JSON file '{prompt_set}'. The library has: {', '.join(sorted(shipped))}."
        )
    if path.stem == PROMPT_MEAN:
        raise PromptError(
            f"'{path}' would be called '{PROMPT_MEAN}' in result lines, which stands for the mean over prompt sets. "
            "Rename the file."
        )
    content = path.read_bytes()
    return PromptSet(
        name=path.stem,
        source=f"{path} (SHA-256 {hashlib.sha256(content).hexdigest()})",
        licence="as stated by the supplier of the file",
        prompts=prompts_of_classes(read_prompt_object(content, str(path)), class_names, str(path), task),
    )


def _filled_in(
    known: PromptTemplates, class_names: Mapping[str, str], class_members: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    names = {
        label: class_members[label] if known.per_member and class_members.get(label) else [name]
        for label, name in class_names.items()
    }
    return {
        label: [template.replace(_PLACEHOLDER, each) for each in filled for template in known.templates]
        for label, filled in names.items()
    }


def _described(
    known: PromptDescriptions,
    class_names: Mapping[str, str],
    task: str | None,
    shipped: Sequence[PromptTemplates | PromptDescriptions],
) -> dict[str, list[str]]:
    where = f"The prompt set '{known.name}'"
    if task is not None and task not in known.tasks:
        others = [each.name for each in shipped if isinstance(each, PromptTemplates) or task in each.tasks]
        raise PromptError(
            f"{where} has no task '{task}'; it has: {', '.join(sorted(known.tasks))}. Sets that have '{task}': "
            f"{', '.join(others)}, or a JSON file of yours."
        )
    return prompts_of_classes(prompts_of_task(known.tasks, where, task), class_names, f"{where}, task '{task}'")


def _check_names(prompt_sets: Sequence[PromptSet], where: str) -> None:
    names = [prompt_set.name for prompt_set in prompt_sets]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise PromptError(
            f"{where} has more than one set named {', '.join(repeated)}. Results are told apart by that name, and a "
            "file's is its name without folder and suffix: rename one, or ask for it once."
        )
