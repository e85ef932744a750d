from __future__ import annotations

import json
import multiprocessing
import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hf_ecgtext.evaluation.results import (
    EvaluationResult,
    ResultError,
    append_result,
    library_versions,
    read_results,
    write_results,
)
from hf_ecgtext.evaluation.statistics.bootstrap import bootstrap_intervals
from hf_ecgtext.evaluation.statistics.metrics import auroc


def make_result(**changes) -> EvaluationResult:
    arguments = {
        "task": "ptbxl_super",
        "protocol": "strict",
        "metric": "auroc",
        "value": 0.75,
        "confidence_interval": (0.7, 0.8),
        "num_records": 100,
        "num_positives": {"NORM": 40, "HYP": 0},
        "per_class": {"NORM": 0.75, "HYP": None},
        "per_class_intervals": {"NORM": (0.7, 0.8), "HYP": None},
        "seed": 0,
        "checkpoint": "runs/merl",
        "data": {"name": "ptb-xl", "revision": "1.0.3", "split": "test"},
        "prompts": "plain",
        "encoder": "trained",
    }
    return EvaluationResult(**(arguments | changes))


def append_many(path: Path, writer: int) -> None:
    for index in range(20):
        append_result(path, make_result(task=f"{writer}-{index}", command="x" * 5000))


def test_what_was_appended_is_read_back_in_order(tmp_path):
    path = tmp_path / "new" / "results.jsonl"
    results = [make_result(), make_result(seed=(0, 1, 2), encoder="random", prompts=None, checkpoint="läuft")]
    for result in results:
        append_result(path, result)
    assert read_results(path) == results
    assert len(path.read_text("utf-8").splitlines()) == 2


@pytest.mark.slow
def test_writers_in_several_processes_lose_no_line(tmp_path):
    path = tmp_path / "results.jsonl"
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads warns
    writers = [context.Process(target=append_many, args=(path, writer)) for writer in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    expected = {f"{writer}-{index}" for writer in range(2) for index in range(20)}
    assert {result.task for result in read_results(path)} == expected


def test_a_result_after_a_torn_line_starts_on_its_own_line(tmp_path):
    path = tmp_path / "results.jsonl"
    append_result(path, make_result())
    torn = path.read_text()[:-20]
    path.write_text(torn)
    append_result(path, make_result(task="after"))
    lines = path.read_text().splitlines()
    assert lines[0] == torn
    assert EvaluationResult.from_json(lines[1]).task == "after"
    with pytest.raises(ResultError, match=r"results\.jsonl, line 1: not valid JSON"):
        read_results(path)


def edited(**changes) -> str:
    content = json.loads(make_result().to_json()) | changes
    return json.dumps({name: value for name, value in content.items() if value != "absent"})


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a JSON object"),
        (edited(date="absent"), r"lacks the fields \['date'\]"),
        (edited(auc=0.5), r"unknown fields \['auc'\]"),
        (edited(per_class=[0.5]), "'per_class' is not a JSON object"),
        (edited(confidence_interval=[0.5]), r"expected null or \[low, high\]"),
        (edited(value="0.75"), "no finite number"),
        (edited(value=float("nan")), "no finite number"),
    ],
)
def test_a_broken_line_is_named_by_file_and_number(tmp_path, line, problem):
    path = tmp_path / "results.jsonl"
    path.write_text(f"{make_result().to_json()}\n\n{line}\n")
    with pytest.raises(ResultError, match=rf"results\.jsonl, line 3: .*{problem}"):
        read_results(path)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"encoder": "untrained"}, "encoder is 'untrained'"),
        ({"data": {"name": "ptb-xl", "split": "test"}}, r"data lacks \['revision'\]"),
        ({"num_positives": {"NORM": 40}}, "classes of num_positives"),
        ({"value": float("nan")}, "None stands for undefined"),
        ({"per_class_intervals": {"NORM": (0.1, float("inf")), "HYP": None}}, "no finite number"),
    ],
)
def test_a_result_that_could_mislead_is_refused(changes, problem):
    with pytest.raises(ResultError, match=problem):
        make_result(**changes)


def test_a_result_takes_its_numbers_from_a_bootstrap():
    rng = np.random.default_rng(0)
    targets = (rng.random((80, 3)) < (0.5, 0.1, 0.0)).astype(int)
    scores = rng.normal(size=(80, 3)) + targets
    distribution = bootstrap_intervals(scores, targets, None, [auroc], 30)["auroc"]
    given = make_result()
    provenance = {
        name: getattr(given, name)
        for name in ("task", "protocol", "metric", "num_records", "seed", "checkpoint", "data", "prompts", "encoder")
    }
    result = EvaluationResult.from_bootstrap(distribution, ["A", "B", "C"], **provenance)
    first, second, _ = distribution.per_class()
    assert result.per_class == {"A": first.value, "B": second.value, "C": None}
    assert result.per_class_intervals == {"A": first[1:], "B": second[1:], "C": None}
    assert result.num_positives == dict(zip("ABC", targets.sum(axis=0).tolist(), strict=True))
    assert result.value == pytest.approx((first.value + second.value) / 2)
    assert result.num_undefined == {"C": 30}
    assert EvaluationResult.from_json(result.to_json()) == result

    frequent = EvaluationResult.from_bootstrap(distribution, ["A", "B", "C"], min_positives=20, **provenance)
    assert frequent.per_class == {"A": first.value}  # the other two are too rare to count
    assert frequent.num_positives == {"A": int(targets[:, 0].sum())}
    assert (frequent.value, frequent.confidence_interval) == (first.value, first[1:])
    assert frequent.num_undefined == {}
    with pytest.raises(ResultError, match="2 class names for 3 classes"):
        EvaluationResult.from_bootstrap(distribution, ["A", "B"], **provenance)


def test_a_result_records_versions_command_and_date_by_itself(monkeypatch):
    monkeypatch.setattr("sys.argv", ["hf-ecgtext", "evaluate", "--prompts", "a b"])
    result = make_result()
    assert result.library_versions == library_versions()
    assert set(result.library_versions) == {"hf_ecgtext", "torch", "transformers", "numpy", "python"}
    assert result.library_versions["numpy"] == np.__version__
    assert result.library_versions["python"] == platform.python_version()
    assert result.command == "hf-ecgtext evaluate --prompts 'a b'"
    assert result.date.endswith("+00:00")
    assert replace(result, seed=1) != result


def test_a_compressed_file_holds_the_same_lines_and_is_the_same_each_time(tmp_path):
    results = [make_result(date="then"), make_result(task="läuft", date="then")]
    for name in ("a.jsonl", "a.jsonl.gz", "b.jsonl.gz"):
        write_results(tmp_path / name, results)
        assert read_results(tmp_path / name) == results
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    assert (tmp_path / "a.jsonl.gz").read_bytes()[:2] == b"\x1f\x8b"


def test_lines_of_the_first_schema_are_read_as_zero_shot():
    line = json.loads(make_result().to_json())
    new = {"compared_with", "contamination", "evaluation", "settings", "details", "spread", "p_value", "schema_version"}
    old = EvaluationResult.from_json(json.dumps({name: value for name, value in line.items() if name not in new}))
    assert (old.evaluation, old.settings, old.p_value) == ("zero_shot", {}, None)
    assert old.contamination == "not checked"
    with pytest.raises(ResultError, match="lacks the fields"):
        EvaluationResult.from_json(json.dumps({name: value for name, value in line.items() if name != "settings"}))


@pytest.mark.parametrize("version", [4, 0, "2", None])
def test_a_line_of_another_schema_version_is_refused(version):
    line = {**json.loads(make_result().to_json()), "schema_version": version}
    with pytest.raises(ResultError, match=f"is of schema version {version!r}; this library reads versions 1 to 3"):
        EvaluationResult.from_json(json.dumps(line))


IMPOSSIBLE = {
    "a value above 1": {"value": 1.2, "confidence_interval": None},
    "a negative value": {"value": -0.1, "confidence_interval": None},
    "a value of a class above 1": {"per_class": {"NORM": 75.0, "HYP": None}},
    "an interval that falls": {"confidence_interval": (0.8, 0.7)},
    "an interval of a class that falls": {"per_class_intervals": {"NORM": (0.8, 0.7), "HYP": None}},
    "an interval out of the range": {"confidence_interval": (0.7, 7.0)},
    "no records": {"num_records": -1},
    "half a record": {"num_records": 100.5},
    "a negative count": {"num_positives": {"NORM": -4, "HYP": 0}},
    "a count that is none": {"num_positives": {"NORM": True, "HYP": 0}},
    "more positives than records": {"num_positives": {"NORM": 101, "HYP": 0}},
    "negative resamples": {"num_resamples": -1},
    "negative undefined": {"num_undefined": {"NORM": -1}},
    "a negative spread": {"spread": -0.1},
    "a probability above 1": {"p_value": 1.5},
    "all confidence": {"confidence": 1.0},
    "no confidence": {"confidence": float("nan")},
    "a rank below the first": {"metric": "median_rank", "value": 0.0, "confidence_interval": None},
    "a difference above 1": {"compared_with": "runs/deri", "value": 1.5, "confidence_interval": None},
}


@pytest.mark.parametrize("changes", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_numbers_that_cannot_be_are_refused(changes, tmp_path):
    with pytest.raises(ResultError, match="Result of task 'ptbxl_super'"):
        make_result(**changes)
    line = {**json.loads(make_result().to_json()), **changes}
    (tmp_path / "results.jsonl").write_text(json.dumps(line))
    with pytest.raises(ResultError, match=r"results\.jsonl, line 1: .*Correct or delete"):
        read_results(tmp_path / "results.jsonl")


def test_numbers_at_their_bounds_are_results():
    make_result(value=1.0, confidence_interval=(1.0, 1.0), p_value=1.0, spread=0.0)
    make_result(value=0.0, confidence_interval=(0.0, 0.0), p_value=0.0)
    make_result(value=-0.2, confidence_interval=(-0.3, 0.1), compared_with="runs/deri", p_value=0.1)
    whole = {"num_positives": {}, "per_class": {}, "per_class_intervals": {}}
    make_result(metric="median_rank", value=17.5, confidence_interval=(12.0, 30.0), **whole)
    make_result(metric="cinc2021_score", value=-0.4, confidence_interval=None, **whole)


def test_lines_of_before_schema_3_say_that_their_intervals_were_stratified():
    content = json.loads(make_result().to_json())
    for name in (
        *(
            "compared_encoder",
            "interval_method",
            "num_classes",
            "num_task_classes",
            "prediction_interval",
            "run_values",
        ),
    ):
        del content[name]
    old = EvaluationResult.from_json(json.dumps({**content, "schema_version": 2}))
    assert old.interval_method.startswith("stratified bootstrap (schema 2)")
    assert old.schema_version == 2
    assert json.loads(old.to_json()) == {**content, "schema_version": 2}
