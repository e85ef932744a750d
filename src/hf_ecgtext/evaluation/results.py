"""Evaluation results as JSON lines: the only source of this library's tables, figures and model cards."""

from __future__ import annotations

import errno
import gzip
import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args

import numpy as np

from hf_ecgtext.errors import EcgTextError
from hf_ecgtext.evaluation.scores import NOT_CHECKED, Encoder
from hf_ecgtext.evaluation.statistics.bootstrap import BootstrapDistribution
from hf_ecgtext.evaluation.statistics.intervals import NO_INTERVAL, STRATIFIED_BOOTSTRAP, method_name
from hf_ecgtext.evaluation.statistics.permutation import PairedDifference
from hf_ecgtext.io import full_disk_named, written_whole

SCHEMA_VERSION = 3
"""Version of the result lines. Version 1, before it was written down, knew zero-shot evaluation only; up to version 2,
macro intervals came from a bootstrap that was stratified by class and pooled the resamples of all runs."""

_NEW_IN_VERSION: dict[int, set[str]] = {
    2: {
        *("compared_with", "contamination", "evaluation", "settings", "details", "spread", "p_value", "schema_version")
    },
    3: {
        *("compared_encoder", "interval_method", "num_classes", "num_task_classes", "prediction_interval", "run_values")
    },
}
_OBJECTS = {
    *("num_positives", "per_class", "per_class_intervals", "num_undefined", "data", "library_versions"),
    *("settings", "details"),
}
_UNBOUNDED = {
    "median_rank": (1.0, math.inf),
    "cinc2021_score": (-math.inf, 1.0),
    "negative_log_likelihood": (0.0, math.inf),
}
"""Metrics that are no fractions, and what they can be. A difference of fractions is between -1 and 1."""

_COUNTS = ("num_records", "min_positives", "num_resamples", "num_classes", "num_task_classes")
_DATA_KEYS = {"name", "revision", "split"}
_VERSIONED_PACKAGES = ("hf-ecgtext", "torch", "transformers", "numpy")


class ResultError(EcgTextError, ValueError):
    """An evaluation result is incomplete, or a results file has a line that is not one."""


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """One metric of one checkpoint on one task. Metrics are fractions (0.742); tables print them times 100.

    A median rank, of retrieval, is a number of places.

    Args:
        task (`str`): Such as `"ptbxl_super"`.
        protocol (`str`): `"strict"` or `"published"`, see docs/protocols.md.
        metric (`str`): Name of the metric function, such as `"auroc"`; `value` is its mean over classes.
        value (`float`, *optional*): `None` where undefined.
        confidence_interval (`tuple[float, float]`, *optional*): Low and high, of this value: of this encoder, or of the
            mean of these runs. `None` where no interval holds, see `statistics/intervals.py`.
        num_records (`int`): Records evaluated.
        num_positives (`dict[str, int]`): Positive records by class.
        per_class (`dict[str, float | None]`): Value by class; `None` for a class without positives or negatives.
        per_class_intervals (`dict[str, tuple[float, float] | None]`): Low and high by class.
        seed (`int` or `tuple[int, ...]`): Seed of the checkpoint's training, or of the random encoders pooled here.
        checkpoint (`str`): Name or path. For a random encoder, the checkpoint whose configuration it shares, so that
            tables put the two side by side.
        data (`dict[str, str]`): `name`, `revision` (version or fingerprint) and `split`.
        prompts (`str`, *optional*): Name of the prompt set.
        encoder (`str`): `"trained"`, or a baseline: `"random"` weights, `"interval_features"` (heart rate, axes and
            durations), `"supervised"` (trained from scratch on the task).
        evaluation (`str`): What was done, the name of a module: `"zero_shot"`, `"linear_probe"`, `"retrieval"`, ...
        settings (`dict[str, Any]`): What was asked beyond that, such as `{"fraction": 0.01}`; JSON values. Results
            with other settings are other entries of a table.
        details (`dict[str, Any]`): What came up on the way, such as absent labels or the epoch chosen; JSON values.
        spread (`float`, *optional*): Standard deviation of `run_values`.
        p_value (`float`, *optional*): Of a paired difference: two-sided permutation test.
        interval_method (`str`): How `confidence_interval` was made; those of classes have methods of their own.
        prediction_interval (`tuple[float, float]`, *optional*): Where the value of another run would lie: of another
            training, initialisation or draw, as `prediction_for` says.
        run_values (`tuple[float, ...]`): `value` of each training, initialisation or draw, where there are several.
        num_classes (`int`): How many classes `value` averages over.
        num_task_classes (`int`): And how many the task has.
        min_positives (`int`): `value` averages over classes with at least this many positive records; above 1, the
            others are left out of the line.
        confidence (`float`): Coverage of the intervals.
        num_resamples (`int`): Bootstrap resamples behind the intervals, the same for all runs; of a paired difference,
            permutations.
        num_undefined (`dict[str, int]`): Resamples in which a class had no value; classes with none are left out.
        compared_with (`str`, *optional*): Of a paired difference: the checkpoint whose values were subtracted.
        compared_encoder (`str`, *optional*): And what kind of encoder it was, as in `encoder`.
        contamination (`str`): What the checkpoint has seen of these records: `"none"`, `"unknown: ..."`, such as
            `"12 of 500 test records were seen in training"`, or `"not checked"`, as in lines of before it was.
        library_versions (`dict[str, str]`): See `library_versions`.
        command (`str`): The command line that made this result.
        date (`str`): ISO 8601, UTC.

    Raises:
        ResultError: A number is not finite, class names disagree, or `data` or `encoder` is not as described.
    """

    task: str
    protocol: str
    metric: str
    value: float | None
    confidence_interval: tuple[float, float] | None
    num_records: int
    num_positives: dict[str, int]
    per_class: dict[str, float | None]
    per_class_intervals: dict[str, tuple[float, float] | None]
    seed: int | tuple[int, ...]
    checkpoint: str
    data: dict[str, str]
    prompts: str | None
    encoder: Encoder
    min_positives: int = 1
    confidence: float = 0.95
    num_resamples: int = 0
    num_undefined: dict[str, int] = field(default_factory=dict)
    compared_with: str | None = None
    compared_encoder: Encoder | None = None
    contamination: str = NOT_CHECKED
    evaluation: str = "zero_shot"
    settings: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    spread: float | None = None
    p_value: float | None = None
    interval_method: str = NO_INTERVAL
    prediction_interval: tuple[float, float] | None = None
    run_values: tuple[float, ...] = ()
    num_classes: int = 0
    num_task_classes: int = 0
    schema_version: int = SCHEMA_VERSION
    library_versions: dict[str, str] = field(default_factory=lambda: library_versions())
    command: str = field(default_factory=lambda: shlex.join(sys.argv))
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def __post_init__(self) -> None:
        where = f"Result of task '{self.task}', metric '{self.metric}'"
        if self.encoder not in get_args(Encoder):
            raise ResultError(f"{where}: encoder is '{self.encoder}'; expected one of {get_args(Encoder)}.")
        if missing := _DATA_KEYS - set(self.data):
            raise ResultError(f"{where}: data lacks {sorted(missing)}; an unnamed data revision cannot be repeated.")
        for name in ("num_positives", "per_class_intervals"):
            if set(getattr(self, name)) != set(self.per_class):
                raise ResultError(f"{where}: the classes of {name} are not those of per_class.")
        numbers: list[float | None] = [self.value, *(self.confidence_interval or ()), *self.per_class.values()]
        numbers += [self.spread, self.p_value, *(self.prediction_interval or ()), *self.run_values]
        for interval in self.per_class_intervals.values():
            numbers.extend(interval or ())
        for number in numbers:
            if number is not None and not (_is_number(number) and math.isfinite(number)):
                raise ResultError(f"{where}: the value {number!r} is no finite number; None stands for undefined.")
        self._check_ranges(where)

    def _check_ranges(self, where: str) -> None:
        """Refuse numbers that no metric, interval or count can be."""
        low, high = self._possible_values()
        values = {"value": self.value, **{f"value of '{name}'": value for name, value in self.per_class.items()}}
        for what, value in values.items():
            if value is not None and not low <= value <= high:
                raise ResultError(f"{where}: the {what} is {value:g}; it must be between {low:g} and {high:g}.")
        intervals = {
            "confidence_interval": self.confidence_interval,
            "prediction_interval": self.prediction_interval,
            **self.per_class_intervals,
        }
        for what, interval in intervals.items():
            if interval is not None and not low <= interval[0] <= interval[1] <= high:
                raise ResultError(
                    f"{where}: the interval '{what}' is {interval[0]:g} to {interval[1]:g}; it must rise, and lie "
                    f"between {low:g} and {high:g}."
                )
        counts = {
            **{
                name: getattr(self, name)
                for name in ("num_records", "min_positives", "num_resamples", "num_classes", "num_task_classes")
            },
            **{f"num_positives of '{name}'": count for name, count in self.num_positives.items()},
            **{f"num_undefined of '{name}'": count for name, count in self.num_undefined.items()},
        }
        for what, count in counts.items():
            if not isinstance(count, int) or isinstance(count, bool) or count < 0:
                raise ResultError(f"{where}: {what} is {count!r}, not a number of records or resamples.")
        if any(count > self.num_records for count in self.num_positives.values()):
            raise ResultError(f"{where}: a class has more positive records than the {self.num_records} there are.")
        for what, value, largest in (("spread", self.spread, math.inf), ("p_value", self.p_value, 1.0)):
            if value is not None and not 0 <= value <= largest:
                raise ResultError(f"{where}: {what} is {value:g}; it must be between 0 and {largest:g}.")
        if not (_is_number(self.confidence) and 0 < self.confidence < 1):
            raise ResultError(f"{where}: confidence is {self.confidence!r}; it must be between 0 and 1.")

    def _possible_values(self) -> tuple[float, float]:
        if self.metric in _UNBOUNDED:
            return _UNBOUNDED[self.metric] if self.compared_with is None else (-math.inf, math.inf)
        return (-1.0, 1.0) if self.compared_with is not None else (0.0, 1.0)

    @property
    def prediction_for(self) -> str:
        """What `prediction_interval` and `spread` are about: `"training"`, `"initialisation"` or `"draw"`."""
        if isinstance(self.seed, tuple) and len(self.seed) > 1:
            return "initialisation" if self.encoder == "random" else "training"
        return "draw"

    @classmethod
    def from_bootstrap(
        cls,
        distribution: BootstrapDistribution,
        class_names: Sequence[str],
        *,
        min_positives: int = 1,
        **provenance: Any,
    ) -> EvaluationResult:
        """A result with the values, intervals and counts of a bootstrap, of the classes that count.

        Args:
            distribution (`BootstrapDistribution`): One metric's entry of `bootstrap_intervals`.
            class_names (`Sequence[str]`): In the order of the columns of the scores.
            min_positives (`int`): For `value`: leave out classes with fewer positive records.
            **provenance: The remaining fields: task, protocol, metric, num_records, seed, checkpoint, data, ...
        """
        names = list(class_names)
        if len(set(names)) != len(distribution.values) or len(names) != len(distribution.values):
            raise ResultError(f"{len(names)} class names for {len(distribution.values)} classes; names must be unique.")
        macro = distribution.macro(min_positives)
        num_positives = dict(zip(names, distribution.num_positives.tolist(), strict=True))
        counted = {name for name, count in num_positives.items() if count >= min_positives or min_positives == 1}
        averaged, too_rare = distribution.counted(min_positives), distribution.too_rare(min_positives)
        run_values = distribution.unit_values(min_positives)
        several = len(run_values) > 1 and bool(np.isfinite(run_values).all())
        if macro_is_bare := (np.isnan(macro.low) and not np.isnan(macro.value)):
            rare = [name for name, is_rare in zip(names, too_rare, strict=True) if is_rare]
            details = dict(provenance.pop("details", {}))
            provenance["details"] = {**details, "too_rare_for_an_interval": rare} if rare else details
        intervals = zip(names, distribution.per_class(), strict=True)
        per_class = {name: interval for name, interval in intervals if name in counted}
        missing = zip(names, distribution.num_undefined.tolist(), strict=True)
        undefined = {name: count for name, count in missing if name in counted}
        return cls(
            value=_number(macro.value),
            confidence_interval=_range(macro.low, macro.high),
            num_positives={name: num_positives[name] for name in per_class},
            per_class={name: _number(interval.value) for name, interval in per_class.items()},
            per_class_intervals={name: _range(interval.low, interval.high) for name, interval in per_class.items()},
            min_positives=min_positives,
            confidence=distribution.confidence,
            num_resamples=distribution.resamples.shape[1],
            interval_method=(
                NO_INTERVAL
                if macro_is_bare or np.isnan(macro.value)
                else method_name(distribution.metric, single_class=int(averaged.sum()) == 1)
            ),
            prediction_interval=distribution.prediction(min_positives),
            run_values=tuple(run_values.tolist()) if several else (),
            spread=float(run_values.std(ddof=1)) if several else None,
            num_classes=int(averaged.sum()),
            num_task_classes=len(names),
            num_undefined={name: count for name, count in undefined.items() if count},
            **provenance,
        )

    @classmethod
    def from_difference(
        cls, difference: PairedDifference, class_names: Sequence[str], *, min_positives: int, **provenance: Any
    ) -> EvaluationResult:
        """A result with the differences, intervals and p of a permutation test.

        Args:
            difference ([`~hf_ecgtext.evaluation.statistics.permutation.PairedDifference`]): One metric's entry.
            class_names (`Sequence[str]`): In the order of the columns of the scores.
            min_positives (`int`): For `value`: leave out classes with fewer positive records.
            **provenance: The remaining fields.
        """
        macro, p_value = difference.macro(min_positives), difference.macro_p_value(min_positives)
        runs = difference.macro_runs(min_positives)
        several = len(runs) > 1 and bool(np.isfinite(runs).all())
        per_class = {
            name: interval
            for name, interval, count in zip(
                class_names, difference.per_class(), difference.num_positives.tolist(), strict=True
            )
            if count >= min_positives or min_positives == 1
        }
        counts = dict(zip(class_names, difference.num_positives.tolist(), strict=True))
        return cls(
            value=_number(macro.value),
            confidence_interval=_bounded(macro.low, macro.high),
            num_positives={name: counts[name] for name in per_class},
            per_class={name: _number(interval.value) for name, interval in per_class.items()},
            per_class_intervals={name: _bounded(interval.low, interval.high) for name, interval in per_class.items()},
            min_positives=min_positives,
            confidence=difference.confidence,
            num_resamples=len(difference.permuted),
            p_value=_number(p_value),
            run_values=tuple(runs.tolist()) if several else (),
            spread=float(runs.std(ddof=1)) if several else None,
            num_classes=sum(interval.value == interval.value for interval in per_class.values()),
            num_task_classes=len(class_names),
            **provenance,
        )

    def to_json(self) -> str:
        """The result as one line of JSON, without the line break; one of an older schema as it was written."""
        later = {name for version, new in _NEW_IN_VERSION.items() if version > self.schema_version for name in new}
        content = {name: value for name, value in asdict(self).items() if name not in later}
        return json.dumps(content, allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> EvaluationResult:
        """The result that `to_json` wrote.

        Raises:
            ResultError: The line is not JSON, lacks a field, or has an unknown one.
        """
        try:
            content = json.loads(line)
        except json.JSONDecodeError as error:
            raise ResultError(f"not valid JSON ({error.msg} at column {error.colno}).") from error
        if not isinstance(content, dict):
            raise ResultError("not a JSON object.")
        known = {entry.name for entry in fields(cls)}
        schema_version = content.get("schema_version", 1)
        if schema_version not in range(1, SCHEMA_VERSION + 1):
            raise ResultError(
                f"is of schema version {schema_version!r}; this library reads versions 1 to {SCHEMA_VERSION}. Update "
                "hf-ecgtext."
            )
        # Fields with a default describe when and how; a line without them must not get today's date and versions.
        # Those that version 1 did not have are what their defaults say: zero-shot, alone, and nobody looked.
        optional = {name for version, new in _NEW_IN_VERSION.items() if version > schema_version for name in new}
        if missing := known - set(content) - optional:
            raise ResultError(f"lacks the fields {sorted(missing)}.")
        if unknown := set(content) - known:
            raise ResultError(f"has the unknown fields {sorted(unknown)}.")
        content["schema_version"] = schema_version  # a line stays what it is, so that tables can say it
        if schema_version < 3:
            content["interval_method"] = STRATIFIED_BOOTSTRAP
        for name in _OBJECTS & set(content):
            if not isinstance(content[name], Mapping):
                raise ResultError(f"the field '{name}' is not a JSON object.")
        content["confidence_interval"] = _pair(content["confidence_interval"], "confidence_interval")
        content["prediction_interval"] = _pair(content.get("prediction_interval"), "prediction_interval")
        content["run_values"] = tuple(content.get("run_values", ()))
        content["per_class_intervals"] = {
            name: _pair(interval, f"per_class_intervals of '{name}'")
            for name, interval in content["per_class_intervals"].items()
        }
        if isinstance(content["seed"], list):
            content["seed"] = tuple(content["seed"])
        return cls(**content)


def append_result(path: str | os.PathLike[str], result: EvaluationResult) -> None:
    """Add one line to a results file; safe with several writers and with a crash.

    The whole line goes out in one write to a file opened for appending, then to the disk. If an earlier writer died in
    the middle of its line, this one starts on a new line and stays readable.

    Args:
        path (`str` or `os.PathLike`): A `.jsonl` file; it and its folder are made if absent.
        result (`EvaluationResult`): What to add.
    """
    target = Path(path)
    line = result.to_json().encode() + b"\n"
    with full_disk_named(target, "Make room, then add the result again"):
        target.parent.mkdir(parents=True, exist_ok=True)
        _append_line(target, line)


def _append_line(target: Path, line: bytes) -> None:
    descriptor = os.open(target, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        written = os.write(descriptor, line)
        if written != len(line):
            raise OSError(errno.ENOSPC, f"Only {written} of {len(line)} bytes could be written", str(target))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_results(path: str | os.PathLike[str], results: Iterable[EvaluationResult]) -> None:
    """Write a results file, whole or not at all; compressed where its name ends in `.gz`."""
    content = "".join(result.to_json() + "\n" for result in results).encode()
    if str(path).endswith(".gz"):
        content = gzip.compress(content, mtime=0)  # the same lines give the same file
    with written_whole(path) as unfinished:
        unfinished.write_bytes(content)


def read_results(path: str | os.PathLike[str]) -> list[EvaluationResult]:
    """All results of a file, in the order in which they were added.

    Args:
        path (`str` or `os.PathLike`): A file of `append_result` or `write_results`. Empty lines are skipped.

    Raises:
        ResultError: A line is not a result; the message names the file, the line and what is wrong.
    """
    results = []
    opened = gzip.open if str(path).endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                results.append(EvaluationResult.from_json(line))
            except ResultError as error:
                raise ResultError(f"{path}, line {number}: {error} Correct or delete this line.") from error
    return results


def library_versions() -> dict[str, str]:
    """Versions of this library, of what its numbers depend on, and of Python.

    They come from the installed packages' metadata, so nothing is imported.

    Returns:
        `dict[str, str]`: `hf_ecgtext`, `torch`, `transformers`, `numpy`, `python`.
    """
    versions = {package.replace("-", "_"): _version(package) for package in _VERSIONED_PACKAGES}
    return versions | {"python": platform.python_version()}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"  # such as hf_ecgtext itself, when run from its source folder


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _range(low: float, high: float) -> tuple[float, float] | None:
    return None if math.isnan(low) or math.isnan(high) else (float(low), float(high))


def _bounded(low: float, high: float) -> tuple[float, float] | None:
    """The interval of a difference of two fractions, which lies between -1 and 1."""
    return None if math.isnan(low) or math.isnan(high) else (max(float(low), -1.0), min(float(high), 1.0))


def _pair(interval: object, what: str) -> tuple[float, float] | None:
    if interval is None:
        return None
    if not isinstance(interval, list) or len(interval) != 2:
        raise ResultError(f"{what} is {interval}; expected null or [low, high].")
    return (interval[0], interval[1])
