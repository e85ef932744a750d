"""Which records a task asks about, and what keeps an encoder's answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hf_ecgtext.data.tasks import EcgData, LabelTask
from hf_ecgtext.evaluation.context import EvaluatedTask
from hf_ecgtext.evaluation.scores import TaskScores


class Rows:
    """A split without signals."""

    def __init__(self, ids, labels, patients):
        self.columns = {"record_id": list(ids), "labels": list(labels), "patient_id": list(patients)}

    def __len__(self):
        return len(self.columns["record_id"])

    def column(self, name):
        return self.columns[name]


TASK = LabelTask("rhythm", "labels", {"SR": "sinus rhythm", "AFIB": "atrial fibrillation", "PACE": "paced rhythm"})


def data(ids=("b", "c", "a"), labels=(["SR"], [], ["AFIB", "SR"]), patients=("p", "q", "p"), task=TASK) -> EcgData:
    return EcgData("toy", "1", None, None, Rows(ids, labels, patients), (task,))


def test_records_with_a_label_take_part_in_the_order_of_their_ids():
    task = EvaluatedTask(data(), TASK)
    records = task.records("test")
    assert task.labels == ("AFIB", "PACE", "SR")
    assert records.record_ids == ("a", "b")
    assert records.rows.tolist() == [0, 1]  # of the sorted ids a, b, c
    assert records.targets.tolist() == [[1, 0, 1], [0, 0, 1]]
    assert records.patients.tolist() == ["p", "p"]
    assert task.description("test") == {"name": "toy", "revision": "1", "split": "test"}


def test_records_without_a_label_are_negatives_where_the_data_says_so():
    records = EvaluatedTask(replace(data(), unlabelled_take_part=True), TASK).records("test")
    assert records.record_ids == ("a", "b", "c")
    assert records.targets.tolist() == [[1, 0, 1], [0, 0, 1], [0, 0, 0]]
    with pytest.raises(ValueError, match="No record of toy's test split has a label"):
        EvaluatedTask(replace(data(labels=([], [], [])), unlabelled_take_part=True), TASK).records("test")


def test_no_order_in_the_files_changes_anything():
    names = dict(reversed(TASK.class_names.items()))
    other = replace(TASK, class_names=names)
    first = EvaluatedTask(data(), TASK).records("test")
    moved = data(("c", "a", "b"), ([], ["SR", "AFIB"], ["SR"]), ("q", "p", "p"), other)
    second = EvaluatedTask(moved, other).records("test")
    assert second.record_ids == first.record_ids
    np.testing.assert_array_equal(second.targets, first.targets)
    np.testing.assert_array_equal(second.patients, first.patients)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (data(labels=([], [], [])), "No record of toy's test split has a label of task 'rhythm'"),
        (data(labels=(["SR"], ["VT"], ["SR"])), "Task 'rhythm' has no class 'VT'"),
        (data(patients=("p", None, None)), "Record 'a' of toy's test split has no patient id, but others have"),
        (data(ids=(), labels=(), patients=()), "The test split of toy is empty"),
    ],
)
def test_records_that_cannot_be_evaluated_are_refused_by_name(changed, message):
    with pytest.raises(ValueError, match=message):
        EvaluatedTask(changed, TASK).records("test")


def test_a_split_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="toy has no validation split here; it has: test"):
        EvaluatedTask(data(), TASK).records("validation")


def test_data_without_patients_says_so():
    assert EvaluatedTask(data(patients=(None, None, None)), TASK).records("test").patients is None


def scores(**changes) -> TaskScores:
    fields = {
        "evaluation": "linear_probe",
        "task": "rhythm",
        "protocol": "strict",
        "checkpoint": "läuft",
        "encoder": "random",
        "class_names": ("AFIB", "SR"),
        "record_ids": ("a", "b", "c"),
        "targets": np.array([[1, 0], [0, 1], [1, 1]], dtype=np.int8),
        "patients": np.array(["p", 7, "q"], dtype=object),
        "scores": np.arange(12, dtype=np.float32).reshape(2, 3, 2),
        "data": {"name": "toy", "revision": "1", "split": "test"},
        "validation_targets": np.array([[1, 0]], dtype=np.int8),
        "validation_scores": np.ones((2, 1, 2), dtype=np.float32),
        "settings": {"fraction": 0.1},
        "details": {"absent_labels": [["SR"], []]},
        "seed": (0, 1),
        "contamination": "none",
    }
    return TaskScores(**(fields | changes))


@pytest.mark.parametrize("changes", [{}, {"patients": None, "validation_targets": None, "validation_scores": None}])
def test_scores_are_read_back_as_they_were_saved(tmp_path, changes):
    saved = scores(**changes)
    saved.save(tmp_path / "deep" / "scores.npz")
    loaded = TaskScores.load(tmp_path / "deep" / "scores.npz")
    for name, value in vars(saved).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(loaded, name), value)
            assert getattr(loaded, name).dtype == value.dtype
        else:
            assert getattr(loaded, name) == value


@pytest.mark.parametrize("name", ["targets", "scores"])
def test_scores_of_another_shape_than_their_records_are_refused(name):
    with pytest.raises(ValueError, match="Scores of 'rhythm': 3 records and 2 classes"):
        scores(**{name: getattr(scores(), name)[:1, :1]})
