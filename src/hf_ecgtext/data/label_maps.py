"""Which classes of one dataset's task stand for a class of another's: the six directions of the distribution shift.

A model of the source task (its probe, or the prompts of its classes) is scored on the target's recordings. A source
class is present in a recording if any of the target classes it maps to is; classes that map to none are not scored.

Two versions: `"as_published"` is Table 11 of C-MELT, which MERL and DERI use too, with the maps towards PTB-XL's
superclasses and from CSN to CPSC2018 as inverses. `"reviewed"` is ours, where every match has its reason: ST
depression is an ST change and no conduction disturbance, CPSC2018's STD is not matched to an elevation, CSN's sinus
rhythm is not called a normal ECG unless nothing else is found, and classes are matched by code and not by acronym.

Towards a broader class (CPSC2018's 1AVB to PTB-XL's CD) a recording counts that may have another conduction disturbance
instead; [`label_matches`] tells which matches those are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

VERSIONS = ("reviewed", "as_published")

# CSN's two labellings have the same classes; "super" is what the papers call the task.
_TASKS = {
    "ptbxl_super": "ptbxl_super",
    "super": "ptbxl_super",
    "cpsc2018": "cpsc2018",
    "csn": "csn",
    "csn_exact": "csn",
    "csn_merl": "csn",
}
_INVERSE_RELATION = {"same": "same", "narrower": "broader", "broader": "narrower", None: None}


class LabelMatch(NamedTuple):
    """A target class that stands for a source class.

    Args:
        source, target (`str`): The classes.
        relation (`str`, *optional*): Whether the target class is the `"same"`, `"narrower"` or `"broader"`; not given
            for what is published.
        comment (`str`): Why.
        alone (`bool`): The target class counts only in recordings that have no other class of the target task.
    """

    source: str
    target: str
    relation: str | None = None
    comment: str = ""
    alone: bool = False


def label_matches(source_task: str, target_task: str, version: str = "reviewed") -> tuple[LabelMatch, ...]:
    """The matches of a map, in the order of the source's classes.

    Args:
        source_task, target_task (`str`): Two of `"ptbxl_super"` (or `"super"`), `"cpsc2018"` and `"csn"` (or
            `"csn_exact"`, `"csn_merl"`).
        version (`str`): `"reviewed"` or `"as_published"`.

    Raises:
        ValueError: If there is no such map.
    """
    source, target = _task(source_task), _task(target_task)
    if version not in VERSIONS:
        raise ValueError(f"There is no version '{version}' of the label maps; choose one of {', '.join(VERSIONS)}.")
    if source == target:
        raise ValueError(f"'{source_task}' and '{target_task}' have the same classes; no map is needed.")
    for entry in _document()["versions"][version]["maps"]:
        if (entry["source_task"], entry["target_task"]) == (source, target):
            matches = [LabelMatch(**match) for match in entry["matches"]]
            break
        if (entry["source_task"], entry["target_task"]) == (target, source):
            # What counts only alone has no inverse: a model of sinus rhythm says nothing about a normal ECG.
            matches = [
                LabelMatch(match.target, match.source, _INVERSE_RELATION[match.relation], match.comment)
                for match in (LabelMatch(**match) for match in entry["matches"])
                if not match.alone
            ]
            break
    order = task_labels(source)
    return tuple(sorted(matches, key=lambda match: order.index(match.source)))


def label_map(source_task: str, target_task: str, version: str = "reviewed") -> dict[str, tuple[str, ...]]:
    """Each class of the source task to the target classes that stand for it; empty where there is none.

    Args:
        source_task, target_task, version (`str`): As for [`label_matches`].

    Raises:
        ValueError: If there is no such map.
    """
    targets: dict[str, tuple[str, ...]] = dict.fromkeys(task_labels(source_task), ())
    for match in label_matches(source_task, target_task, version):
        targets[match.source] += (match.target,)
    return targets


def map_targets(
    targets: NDArray[np.integer],
    target_labels: Sequence[str],
    source_task: str,
    target_task: str,
    version: str = "reviewed",
) -> tuple[NDArray[np.int8], tuple[str, ...]]:
    """The target task's 0/1 matrix in classes of the source task.

    Args:
        targets (`np.ndarray` of shape `(num_records, num_target_labels)`): 0/1.
        target_labels (`Sequence[str]`): Its columns, in any order; all classes of the target task and no other.
        source_task, target_task, version (`str`): As for [`label_matches`].

    Returns:
        `tuple[np.ndarray, tuple[str, ...]]`: int8 of shape `(num_records, num_mapped)`, and the source classes that
        have a match, in their task's order. Recordings without any of them are kept, all zero.

    Raises:
        ValueError: If there is no such map, or the columns are not the target task's classes.
    """
    matrix = np.asarray(targets)
    expected = task_labels(target_task)
    unknown = [label for label in target_labels if label not in expected]
    missing = [label for label in expected if label not in target_labels]
    if unknown or missing or len(target_labels) != len(expected):
        raise ValueError(
            f"The columns are not the classes of '{target_task}': unknown {unknown}, missing {missing}, "
            f"{len(target_labels)} names for {len(expected)} classes."
        )
    if matrix.ndim != 2 or matrix.shape[1] != len(expected):
        raise ValueError(f"targets have shape {matrix.shape}; {len(expected)} columns are needed.")
    present = matrix > 0
    column = {label: index for index, label in enumerate(target_labels)}
    is_single = present.sum(axis=1) == 1
    mapped: dict[str, NDArray[np.bool_]] = {}
    for match in label_matches(source_task, target_task, version):
        found = present[:, column[match.target]]
        if match.alone:
            found = found & is_single
        mapped[match.source] = mapped.get(match.source, np.zeros(len(matrix), dtype=bool)) | found
    return np.stack(list(mapped.values()), axis=1).astype(np.int8), tuple(mapped)


def has_label_map(source_task: str, target_task: str) -> bool:
    """Whether there is a map from one task to another; names of other tasks may be asked for too."""
    return source_task in _TASKS and target_task in _TASKS and _TASKS[source_task] != _TASKS[target_task]


def task_labels(task: str) -> tuple[str, ...]:
    """The classes of a task that the maps know.

    Raises:
        ValueError: If they know no such task.
    """
    return tuple(_document()["task_labels"][_task(task)])


def _task(name: str) -> str:
    if name not in _TASKS:
        raise ValueError(f"There are no label maps for the task '{name}'; there are for {', '.join(_TASKS)}.")
    return _TASKS[name]


@cache
def _document() -> dict[str, Any]:
    text = (resources.files("hf_ecgtext.data") / "label_maps.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document
