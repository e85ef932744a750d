"""Class prompts for zero-shot classification, each set with its source and licence.

Scores depend on the wording, so results name their prompt set, and several sets are evaluated side by side
(PAPERS.md, "Evaluation protocols", defect 7). Sets that ship with the library are sentence templates in
`prompts/*.json`; sets written per class, such as MERL's CKEPE file, are read from a JSON file of the user.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from hf_ecgtext.errors import EcgTextError

_PLACEHOLDER = "{name}"


class PromptError(EcgTextError, ValueError):
    """A prompt set is unknown, malformed, or lacks a class."""


@dataclass(frozen=True)
class PromptTemplates:
    """A prompt set of the library, before the class names are filled in.

    Args:
        name (`str`): What to pass as `prompt_set`.
        description (`str`): One sentence.
        source (`str`): Where the wording is from.
        licence (`str`): Terms of the wording.
        templates (`tuple[str, ...]`): Sentences with `{name}` in the place of the class name.
        per_member (`bool`): Fill in the name of each statement that a class groups, instead of the name of the group.
    """

    name: str
    description: str
    source: str
    licence: str
    templates: tuple[str, ...]
    per_member: bool = False


@dataclass(frozen=True)
class PromptSet:
    """The prompts of every class of a task.

    Args:
        name (`str`): Name for results: of the library's set, or of the user's file without its suffix.
        source (`str`): Where the wording is from; for a file, its path and SHA-256.
        licence (`str`): Terms of the wording.
        prompts (`dict[str, list[str]]`): By class label, in the order of the task's classes.
    """

    name: str
    source: str
    licence: str
    prompts: dict[str, list[str]]


def list_prompt_sets() -> list[PromptTemplates]:
    """The prompt sets that ship with the library, with source and licence, sorted by name."""
    folder = files("hf_ecgtext.evaluation") / "prompts"
    contents = [json.loads(entry.read_text("utf-8")) for entry in folder.iterdir() if entry.name.endswith(".json")]
    sets = [PromptTemplates(**content | {"templates": tuple(content["templates"])}) for content in contents]
    return sorted(sets, key=lambda templates: templates.name)


def load_prompt_set(
    class_names: Mapping[str, str],
    prompt_set: str | os.PathLike[str] = "plain",
    class_members: Mapping[str, Sequence[str]] | None = None,
) -> PromptSet:
    """The prompts of each class of a task.

    Args:
        class_names (`Mapping[str, str]`): Class label to its name in words, such as `"LVH"` to
            `"left ventricular hypertrophy"`. The order of the labels is kept.
        prompt_set (`str` or `os.PathLike`): Name of a set of `list_prompt_sets`, or path of a JSON file: one flat
            object that maps class label to a prompt or a list of prompts. A string is one prompt, commas included, as
            in MERL's CKEPE file. Labels that the task does not have are ignored.
        class_members (`Mapping[str, Sequence[str]]`, *optional*): Names of the statements that a class groups, for
            the set `"members"`; a class that is not in it is prompted by its own name.

    Raises:
        PromptError: There is no such set or file, the file is malformed, or classes are missing from it.
    """
    if not class_names:
        raise PromptError("class_names is empty; pass the label and name of each class of the task.")
    if nameless := [label for label, name in class_names.items() if not name.strip()]:
        raise PromptError(f"These classes have no name in words: {nameless}.")
    shipped = {templates.name: templates for templates in list_prompt_sets()}
    if isinstance(prompt_set, str) and prompt_set in shipped:
        templates = shipped[prompt_set]
        prompts = {
            label: [template.replace(_PLACEHOLDER, each) for each in names for template in templates.templates]
            for label, names in _names_to_fill_in(class_names, class_members or {}, templates.per_member).items()
        }
        return PromptSet(templates.name, templates.source, templates.licence, prompts)
    path = Path(prompt_set)
    if not path.is_file():
        raise PromptError(
            f"There is no prompt set or JSON file '{prompt_set}'. The library has: {', '.join(sorted(shipped))}."
        )
    content = path.read_bytes()
    return PromptSet(
        name=path.stem,
        source=f"{path} (SHA-256 {hashlib.sha256(content).hexdigest()})",
        licence="as stated by the supplier of the file",
        prompts=_prompts_of_file(content, path, class_names),
    )


def _names_to_fill_in(
    class_names: Mapping[str, str], class_members: Mapping[str, Sequence[str]], per_member: bool
) -> dict[str, Sequence[str]]:
    return {
        label: class_members[label] if per_member and class_members.get(label) else [name]
        for label, name in class_names.items()
    }


def build_prompts(class_names: Mapping[str, str], prompt_set: str | os.PathLike[str] = "plain") -> dict[str, list[str]]:
    """The prompts of `load_prompt_set`, without their provenance.

    Args:
        class_names (`Mapping[str, str]`): Class label to its name in words.
        prompt_set (`str` or `os.PathLike`): Name of a set of `list_prompt_sets`, or path of a JSON file.

    Returns:
        `dict[str, list[str]]`: By class label, in the order of `class_names`.
    """
    return load_prompt_set(class_names, prompt_set).prompts


def _prompts_of_file(content: bytes, path: Path, class_names: Mapping[str, str]) -> dict[str, list[str]]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        labels = [label for label, _ in pairs]
        if repeated := sorted({label for label in labels if labels.count(label) > 1}):
            raise PromptError(f"{path}: these labels occur more than once: {repeated}. Keep one entry of each.")
        return dict(pairs)

    try:
        by_label = json.loads(content, object_pairs_hook=unique)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PromptError(f"{path} is not a JSON file: {error}.") from error
    if not isinstance(by_label, dict):
        raise PromptError(f"{path}: expected one JSON object that maps class label to prompt or list of prompts.")
    if missing := [label for label in class_names if label not in by_label]:
        raise PromptError(f"{path} has no prompt for these classes: {missing}. Add them, or use another prompt set.")
    return {label: _as_prompts(by_label[label], label, path) for label in class_names}


def _as_prompts(entry: object, label: str, path: Path) -> list[str]:
    prompts = [entry] if isinstance(entry, str) else entry
    if not isinstance(prompts, list) or not prompts:
        raise PromptError(f"{path}: the entry of class '{label}' is neither a string nor a list of strings.")
    if not all(isinstance(prompt, str) and prompt.strip() for prompt in prompts):
        raise PromptError(f"{path}: class '{label}' has a prompt that is empty or not a string.")
    return prompts
