"""Result lines of a made-up benchmark run, of every evaluation, with numbers that name their place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zlib import crc32

from hf_ecgtext.evaluation.results import EvaluationResult

CHECKPOINTS = ("runs/merl", "runs/deri_v2")
TASKS = ("ptbxl_super", "ptbxl_sub")
TITLES = {"runs/merl": "MERL", "runs/deri_v2": "DERI"}
FRACTIONS = (0.01, 0.1, 1.0)
EPOCHS = ("best test epoch", "best validation epoch", "last epoch")
DATA = {"name": "ptb_xl", "revision": "1.0.3, 100 Hz", "split": "test"}

_SEEDS: dict[str, int | tuple[int, ...]] = {"random": (0, 1)}


def line(value: float | None = None, **changes: Any) -> EvaluationResult:
    """A line whose value, if none is given, is a number of its own between 0.5 and 0.9."""
    if value is None:
        value = 0.5 + crc32(repr(sorted(changes.items(), key=str)).encode()) % 4000 / 10000
    interval = (value - 0.02, value + 0.02 if value > 1 else min(value + 0.02, 1.0))  # a rank, or a fraction
    encoder = changes.get("encoder", "trained")
    fields = {
        "task": "ptbxl_super",
        "protocol": "strict",
        "metric": "auroc",
        "value": value,
        "confidence_interval": interval,
        "num_records": 2158,
        "num_positives": {"NORM": 963, "MI": 550, "CD": 496},
        "per_class": {"NORM": value, "MI": None, "CD": value},
        "per_class_intervals": {"NORM": interval, "MI": None, "CD": interval},
        "seed": _SEEDS.get(encoder, 0),
        "checkpoint": "runs/merl",
        "data": DATA,
        "prompts": None,
        "encoder": encoder,
        "num_resamples": 1000,
        "interval_method": "percentiles of a bootstrap of patients",
        "contamination": "none",
        "library_versions": {"hf_ecgtext": "0.1.0"},
        "command": "hf-ecgtext evaluate",
        "date": "2026-01-01T00:00:00+00:00",
    }
    return EvaluationResult(**(fields | changes))


def encoders(random: bool = True, others: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Both checkpoints, their random initialisations, and other baselines."""
    rows = [{"checkpoint": name, "encoder": "trained"} for name in CHECKPOINTS]
    rows += [{"checkpoint": name, "encoder": "random"} for name in CHECKPOINTS] if random else []
    return rows + [{"checkpoint": name, "encoder": name} for name in others]


def zero_shot_lines() -> list[EvaluationResult]:
    """Two prompt sets; AUROC over all and over frequent classes, AUPRC."""
    return [
        line(evaluation="zero_shot", task=task, prompts=prompts, metric=metric, min_positives=least, **row)
        for row in encoders()
        for task in TASKS
        for prompts in ("plain", "descriptions")
        for metric, least in (("auroc", 1), ("auroc", 20), ("average_precision", 1))
    ]


def probe_lines() -> list[EvaluationResult]:
    """The strict probe, and MERL's recipe at three epochs."""
    lines = []
    for row in encoders(others=["interval_features"]):
        for task in TASKS:
            for fraction in FRACTIONS:
                common = {"evaluation": "linear_probe", "task": task, **row}
                strict = {"fraction": fraction, "solver": "logistic_regression"}
                lines.append(line(settings=strict, spread=0.013, **common))
                lines.append(line(settings=strict, metric="average_precision", **common))
                epochs = [{"fraction": fraction, "solver": "merl", "selection": epoch} for epoch in EPOCHS]
                lines += [line(settings=settings, protocol="published", **common) for settings in epochs]
    return lines


def supervised_lines() -> list[EvaluationResult]:
    """The network trained from scratch."""
    return [
        line(
            evaluation="supervised",
            encoder="supervised",
            checkpoint="supervised",
            task=task,
            metric=metric,
            settings={"fraction": 1.0},
        )
        for task in TASKS
        for metric in ("auroc", "average_precision")
    ]


def shift_lines() -> list[EvaluationResult]:
    """Two directions, both classifiers, sides and maps."""
    lines = []
    for row in encoders(random=False):
        for protocol, label_map in (("strict", "reviewed"), ("published", "as_published")):
            for target in ("cpsc2018", "csn_merl"):
                for classifier, prompts in (("linear_probe", None), ("zero_shot", "plain")):
                    for side in ("source", "target"):
                        settings = {
                            "classifier": classifier,
                            "target_task": target,
                            "label_map": label_map,
                            "side": side,
                        }
                        lines.append(
                            line(
                                evaluation="distribution_shift",
                                data=DATA if side == "source" else {**DATA, "name": target},
                                task=f"ptbxl_super->{target}",
                                protocol=protocol,
                                prompts=prompts,
                                settings=settings,
                                **row,
                            )
                        )
    return lines


def retrieval_lines() -> list[EvaluationResult]:
    """Both directions; of recalls and the median rank."""
    lines = []
    for row in encoders():
        for direction in ("ecg_to_report", "report_to_ecg"):
            settings = {"direction": direction, "duplicates": "recognised"}
            common = {"evaluation": "retrieval", "task": "ptb_xl", "settings": settings, "num_positives": {}}
            common |= {"per_class": {}, "per_class_intervals": {}, **row}
            for k in (1, 5, 10):
                details = {"gallery": 1200, "chance": k / 1200}
                lines.append(line(metric=f"recall_at_{k}", details=details, **common))
            rank = {"value": 17.5, "confidence_interval": (12.0, 1024.0), "metric": "median_rank"}
            lines.append(line(details={"gallery": 1200, "chance": 600.5}, **rank, **common))
    return lines


def lead_lines() -> list[EvaluationResult]:
    """Fine-tuning and identification with fewer and fewer leads."""
    common = {"task": "cinc2021", "data": {"name": "cinc2021", "revision": "1.0.3", "split": "test"}}
    lines = []
    for leads in (12, 6, 3, 2, 1):
        for lora in (False, True):
            settings = {"leads": leads, "lora": lora, "recipe": "cmelt"}
            lines += [
                line(evaluation="finetune", metric=metric, settings=settings, **common)
                for metric in ("cinc2021_score", "auroc")
            ]
        identified = {"evaluation": "identification", "metric": "accuracy", "details": {"chance": 0.001}}
        lines.append(line(settings={"leads": leads}, **identified, **common))
    return lines


def other_lines() -> list[EvaluationResult]:
    """Decisions and calibration, single-label records, and an evaluation that no table was made for."""
    decisions = ("f1", "sensitivity", "specificity", "brier_score", "ece_equal_mass")
    lines = [line(evaluation="zero_shot", prompts="plain", metric=metric) for metric in decisions]
    for fraction in (0.1, 1.0):
        settings = {"fraction": fraction, "solver": "logistic_regression"}
        lines += [line(evaluation="linear_probe", settings=settings, metric=metric) for metric in decisions]
    single = ("auroc", "top1_accuracy", "top1_class_accuracy", "top1_f1")
    lines += [line(evaluation="single_label", prompts="etp", metric=metric) for metric in single]
    return [*lines, line(evaluation="readers", metric="f1", settings={"reader": "cardiologist_1"})]


def difference_lines() -> list[EvaluationResult]:
    """DERI less MERL, zero-shot, with p values 0.01, 0.04 and 0.03."""
    common = {"checkpoint": "runs/deri_v2", "compared_with": "runs/merl", "evaluation": "zero_shot"}
    return [
        line(-0.018, confidence_interval=(-0.041, 0.006), task=task, prompts=prompts, p_value=p_value, **common)
        for task, prompts, p_value in (
            ("ptbxl_super", "plain", 0.01),
            ("ptbxl_sub", "plain", 0.04),
            ("ptbxl_super", "descriptions", 0.03),
        )
    ]


def all_lines() -> list[EvaluationResult]:
    """The whole run."""
    return [
        *zero_shot_lines(),
        *probe_lines(),
        *supervised_lines(),
        *shift_lines(),
        *retrieval_lines(),
        *lead_lines(),
        *other_lines(),
        *difference_lines(),
    ]
