"""ETP's variant: one label per record, the highest cosine wins."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from table_encoder import TableEncoder, table_data

from hf_ecgtext.data.tasks import LabelTask
from hf_ecgtext.evaluation.context import EvaluatedTask, EvaluationContext
from hf_ecgtext.evaluation.downstream.single_label import evaluate
from hf_ecgtext.evaluation.encoders.feature_cache import FeatureCache
from hf_ecgtext.evaluation.encoders.frozen import EncoderRuns
from hf_ecgtext.evaluation.protocols import STRICT, get_protocol

TASK = LabelTask("mine", "labels", {"C": "third", "A": "first", "D": "absent", "B": "second"})
PROTOCOL = get_protocol("strict", min_positives=[1, 12])
LABELS = [("A",), ("B",), ("A",), ("C",), ("A", "C"), ("B", "D"), ()]


def encoder(seed, ids):
    rng = np.random.default_rng(seed)
    axes = {name: np.eye(4)[place] for place, name in enumerate(("first", "second", "third", "absent"))}
    texts = axes | {f"this ECG indicates {name}": axis for name, axis in axes.items()}
    return TableEncoder({record: rng.standard_normal(4) for record in ids}, texts, name=f"seed {seed}")


@pytest.fixture
def setting(tmp_path):
    rows = [
        {"record_id": f"r{row:02d}", "patient_id": f"p{row // 2:02d}", "labels": list(LABELS[row % len(LABELS)])}
        for row in range(70)
    ]
    task = EvaluatedTask(table_data(tasks=[TASK], test=rows), TASK)
    cache = FeatureCache(tmp_path, show_progress=False)
    context = EvaluationContext(cache=cache, protocol=PROTOCOL, prompt_sets=(), num_resamples=200, contamination="none")
    kept = [row for row in rows if len(row["labels"]) == 1]
    return task, context, [row["record_id"] for row in rows], kept


def lines(outcome):
    return {(line.prompts, line.metric, line.min_positives): line for line in outcome.results}


def answers(table, kept):
    """Cosines with the axes A, B, C, D of the kept records, and their true columns."""
    vectors = np.stack([table.ecgs[row["record_id"]] for row in kept])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.array(
        ["ABCD".index(row["labels"][0]) for row in kept]
    )


def test_values_are_those_of_scikit_learn_on_the_single_label_records(setting):
    task, context, ids, kept = setting
    table = encoder(0, ids)
    found = lines(evaluate(EncoderRuns("x", "trained", (table,), seed=5), task, context))
    scores, truth = answers(table, kept)
    predicted = scores.argmax(axis=1)
    assert found["etp", "top1_accuracy", 1].value == pytest.approx(accuracy_score(truth, predicted))
    f1 = f1_score(truth, predicted, average=None, labels=range(3), zero_division=0)
    for column, label in enumerate("ABC"):
        acc = accuracy_score(truth == column, predicted == column)
        auc = roc_auc_score(truth == column, scores[:, column])
        assert found["etp", "auroc", 1].per_class[label] == pytest.approx(auc)
        assert found["etp", "top1_class_accuracy", 1].per_class[label] == pytest.approx(acc)
        assert found["etp", "top1_f1", 1].per_class[label] == pytest.approx(f1[column])
    assert found["etp", "top1_f1", 1].value == pytest.approx(f1.mean())
    assert found["etp", "top1_f1", 12].value == pytest.approx(f1[0])  # only A has so many records
    for line in found.values():
        assert line.num_records == len(kept) == 40
        assert (line.evaluation, line.protocol, line.seed) == ("single_label", PROTOCOL.name, 5)
        assert line.contamination == "none"
        assert line.spread is None
        low, high = line.confidence_interval
        assert low <= line.value <= high
        assert line.num_resamples == 200


def test_a_class_without_a_single_label_record_is_named_and_can_still_be_chosen(setting):
    task, context, ids, kept = setting
    table = encoder(1, ids)
    scores, _ = answers(table, kept)
    assert (scores.argmax(axis=1) == 3).any()
    for line in evaluate(EncoderRuns("x", "trained", (table,)), task, context).results:
        assert line.details["classes_without_single_label_record"] == ["D"]
        assert line.details["records_with_several_labels"] == 20
        if line.metric != "top1_accuracy" and line.min_positives == 1:
            assert line.per_class["D"] is None


def test_a_perfect_encoder_is_right_everywhere(setting):
    task, context, ids, kept = setting
    perfect = encoder(0, ids)
    for row in kept:
        perfect.ecgs[row["record_id"]] = np.eye(4)["ABCD".index(row["labels"][0])]
    for line in evaluate(EncoderRuns("x", "trained", (perfect,)), task, context).results:
        assert line.value == pytest.approx(1.0)
        if line.confidence_interval is not None:
            assert line.confidence_interval[1] == pytest.approx(1.0)
        if line.metric == "top1_accuracy":
            assert line.confidence_interval == pytest.approx((1.0, 1.0))


def test_runs_are_averaged_and_their_spread_is_given(setting):
    task, context, ids, _ = setting
    members = tuple(encoder(seed, ids) for seed in range(3))
    pooled = lines(evaluate(EncoderRuns("x", "random", members, seed=(0, 1, 2)), task, context))
    alone = [lines(evaluate(EncoderRuns("x", "random", (member,)), task, context)) for member in members]
    for key, line in pooled.items():
        values = [each[key].value for each in alone]
        assert line.value == pytest.approx(np.mean(values))
        assert line.spread == pytest.approx(np.std(values, ddof=1))
        assert line.num_resamples >= context.num_resamples


def test_the_sentence_of_etp_is_always_asked_and_other_sets_beside_it(setting):
    task, context, ids, _ = setting
    asked = EvaluationContext(cache=context.cache, protocol=STRICT, prompt_sets=("plain", "etp"), num_resamples=5)
    outcome = evaluate(EncoderRuns("x", "trained", (encoder(0, ids),)), task, asked)
    assert list(dict.fromkeys(line.prompts for line in outcome.results)) == ["etp", "plain"]


def test_a_task_without_single_label_records_is_refused(setting, tmp_path):
    _, context, _, _ = setting
    rows = [{"record_id": f"r{row}", "patient_id": "p", "labels": ["A", "B"]} for row in range(4)]
    task = EvaluatedTask(table_data(tasks=[TASK], test=rows), TASK)
    with pytest.raises(ValueError, match="No record of table's test split has exactly one label of task 'mine'"):
        evaluate(EncoderRuns("x", "trained", (encoder(0, ["r0"]),)), task, context)


def test_an_encoder_without_text_is_refused_by_name(setting):
    task, context, ids, _ = setting
    silent = TableEncoder(encoder(0, ids).ecgs)
    with pytest.raises(TypeError, match=r"'x' .* has no text tower"):
        evaluate(EncoderRuns("x", "supervised", (silent,)), task, context)
