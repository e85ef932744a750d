"""Distribution shift on tables of features: targets mapped by hand, one classifier on both sides, what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from table_encoder import TableEncoder, normalised, table_data

from hf_ecgtext.data.label_maps import has_label_map, label_map, task_labels
from hf_ecgtext.data.tasks import LabelTask
from hf_ecgtext.evaluation.context import EvaluatedTask, EvaluationContext
from hf_ecgtext.evaluation.downstream import zero_shot
from hf_ecgtext.evaluation.downstream.distribution_shift import evaluate, shift_targets, usable_classifiers
from hf_ecgtext.evaluation.encoders.feature_cache import FeatureCache
from hf_ecgtext.evaluation.encoders.frozen import EncoderRuns
from hf_ecgtext.evaluation.protocols import PUBLISHED, STRICT, get_protocol
from hf_ecgtext.evaluation.statistics.logistic_regression import L2_PENALTIES

DIM = 6
TASKS = {name: LabelTask(name, "labels", {label: f"{name} {label}" for label in task_labels(name)})
         for name in ("ptbxl_super", "cpsc2018", "csn_exact", "csn_merl")}  # fmt: skip
COMMON = {"ptbxl_super": ["NORM", "MI", "STTC", "CD", "HYP"], "cpsc2018": ["NORM", "AFIB", "1AVB", "PAC", "STD", "STE"],
          "csn_exact": ["SR", "LVH", "1AVB", "MI", "STDD", "STE", "WPW", "AF"]}  # fmt: skip
_OTHER_SIZES = {"train": 60, "validation": 40, "test": 50}


def made(name: str, seed: int, sizes=_OTHER_SIZES):
    """Records with one or two of the common labels, each of which moves the features its own way."""
    rng = np.random.default_rng(seed)
    directions = dict(zip(COMMON[name], rng.normal(size=(len(COMMON[name]), DIM)), strict=True))
    ecgs, splits = {}, {}
    for split, size in sizes.items():
        splits[split] = []
        for place in range(size):
            labels = list(rng.choice(COMMON[name], size=rng.integers(1, 3), replace=False))
            record = f"{name} {split} {place:02d}"
            ecgs[record] = sum(directions[label] for label in labels) + 0.7 * rng.normal(size=DIM)
            splits[split].append(
                {"record_id": record, "labels": labels, "patient_id": f"{name} {place // 2}", "report": None}
            )
    return table_data(name=f"data of {name}", tasks=(TASKS[name],), **splits), ecgs


@pytest.fixture(scope="module")
def world():
    """Three datasets and what an encoder and its text tower make of them."""
    data, ecgs = {}, {}
    for seed, name in enumerate(("ptbxl_super", "cpsc2018", "csn_exact")):
        data[name], features = made(name, seed)
        ecgs |= features
    rng = np.random.default_rng(9)
    texts = {text: rng.normal(size=DIM) for task in TASKS.values() for text in task.class_names.values()}
    tasks = {name: EvaluatedTask(data[name], TASKS[name]) for name in data}
    return tasks, ecgs, texts


def context(tmp_path, tasks, source, protocol=STRICT, **options):
    cache = FeatureCache(tmp_path / "features", show_progress=False)
    others = {name: task for name, task in tasks.items() if name != source}
    return EvaluationContext(cache=cache, protocol=protocol, other_tasks=others, **options)


def model(ecgs, texts, name="model", seeds=(0,)):
    members = tuple(
        TableEncoder({key: np.roll(value, seed) for key, value in ecgs.items()}, texts, name=f"{name} {seed}")
        for seed in seeds
    )
    return EncoderRuns(name, "trained", members, seed=seeds if len(seeds) > 1 else seeds[0])


def by_setting(outcome):
    return {
        (each.task.split("->")[1], each.settings["classifier"], each.settings["side"]): each for each in outcome.scores
    }


def labels_of(task, split):
    rows = {row["record_id"]: row["labels"] for row in task.data.split(split).rows}
    return {record: set(rows[record]) for record in task.records(split).record_ids}


# --- what is scored --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["ptbxl_super", "cpsc2018", "csn_exact"])
def test_both_sides_have_the_same_classes_and_targets_by_the_map(world, tmp_path, source):
    tasks, ecgs, texts = world
    found = by_setting(evaluate(model(ecgs, texts), tasks[source], context(tmp_path, tasks, source)))
    others = sorted(set(tasks) - {source})
    assert set(found) == {
        (t, c, s) for t in others for c in ("linear_probe", "zero_shot") for s in ("source", "target")
    }
    for (target, classifier, side), scores in found.items():
        mapping = {label: set(names) for label, names in label_map(source, target).items() if names}
        assert scores.class_names == tuple(sorted(mapping))
        assert scores.task == f"{source}->{target}"
        assert scores.evaluation == "distribution_shift"
        assert scores.data["name"] == f"data of {source if side == 'source' else target}"
        assert scores.settings == {
            "classifier": classifier, "target_task": target, "label_map": "reviewed", "side": side
        }  # fmt: skip
        asked = tasks[source if side == "source" else target]
        labels = labels_of(asked, "test")
        assert scores.record_ids == tuple(sorted(labels))
        for record, row in zip(scores.record_ids, scores.targets, strict=True):
            for label, value in zip(scores.class_names, row, strict=True):
                if side == "source":
                    expected = label in labels[record]
                elif label == "NORM" and target == "csn_exact":
                    expected = labels[record] == {"SR"}  # sinus rhythm counts as normal only alone
                else:
                    expected = bool(labels[record] & mapping[label])
                assert value == expected
        assert scores.details["unmapped"] == sorted(set(task_labels(source)) - set(mapping))
        empty = [label for label, column in zip(scores.class_names, scores.targets.T, strict=True) if not column.any()]
        assert scores.details["no_positives"] == empty
        assert scores.details["without_mapped_class"] == int((scores.targets.sum(axis=1) == 0).sum())
    assert any(scores.details["no_positives"] for scores in found.values()) or source == "ptbxl_super"
    assert any(scores.details["without_mapped_class"] for scores in found.values())


def test_the_probe_is_scikit_learns_on_both_sides(world, tmp_path):
    from sklearn.linear_model import LogisticRegression

    tasks, ecgs, texts = world
    source = tasks["ptbxl_super"]
    found = by_setting(evaluate(model(ecgs, texts), source, context(tmp_path, tasks, source.name)))
    train = np.stack([ecgs[record] for record in source.records("train").record_ids])
    mean, scale = train.mean(axis=0), train.std(axis=0)
    for side, asked in (("source", source), ("target", tasks["cpsc2018"])):
        scores = found["cpsc2018", "linear_probe", side]
        (l2_penalty,) = scores.details["strengths"]
        assert l2_penalty in L2_PENALTIES
        features = np.stack([ecgs[record] for record in asked.records("test").record_ids])
        for column, label in enumerate(scores.class_names):
            positive = source.records("train").targets[:, source.labels.index(label)]
            reference = LogisticRegression(C=1 / l2_penalty, tol=1e-10, max_iter=2000).fit(
                (train - mean) / scale, positive
            )
            expected = reference.decision_function((features - mean) / scale)
            np.testing.assert_allclose(scores.scores[0, :, column], expected, atol=1e-4)
        assert scores.score_kind == "logit"
        assert scores.prompts is None
        assert (scores.details["num_train"], scores.details["absent_labels"]) == (60, [])


def test_zero_shot_asks_with_the_prompts_of_the_source_on_both_sides(world, tmp_path):
    tasks, ecgs, texts = world
    source = tasks["cpsc2018"]
    found = by_setting(evaluate(model(ecgs, texts), source, context(tmp_path, tasks, source.name)))
    for side, asked in (("source", source), ("target", tasks["csn_exact"])):
        scores = found["csn_exact", "zero_shot", side]
        embeds = normalised(np.stack([ecgs[record] for record in asked.records("test").record_ids]))
        classes = normalised(np.stack([texts[f"cpsc2018 {label}"] for label in scores.class_names]))
        np.testing.assert_allclose(scores.scores[0], embeds @ classes.T, atol=1e-6)
        assert (scores.score_kind, scores.prompts) == ("similarity", "plain")


def test_the_validation_scores_are_those_of_the_source_on_both_sides(world, tmp_path):
    tasks, ecgs, texts = world
    source = tasks["ptbxl_super"]
    found = by_setting(evaluate(model(ecgs, texts), source, context(tmp_path, tasks, source.name)))
    columns = [source.labels.index(label) for label in found["cpsc2018", "zero_shot", "target"].class_names]
    for classifier in ("linear_probe", "zero_shot"):
        one, other = (found["cpsc2018", classifier, side] for side in ("source", "target"))
        np.testing.assert_array_equal(one.validation_scores, other.validation_scores)
        np.testing.assert_array_equal(one.validation_targets, source.records("validation").targets[:, columns])


def test_the_same_recording_has_the_same_scores_on_both_sides(world, tmp_path):
    tasks, ecgs, texts = world
    source = tasks["ptbxl_super"]
    twin = {row["record_id"].replace("ptbxl_super", "twin"): row for row in source.data.test.rows}
    rows = [{**row, "record_id": name, "labels": ["NORM"]} for name, row in twin.items()]
    target = EvaluatedTask(table_data(name="twins", tasks=(TASKS["cpsc2018"],), test=rows), TASKS["cpsc2018"])
    features = ecgs | {name: ecgs[row["record_id"]] for name, row in twin.items()}
    settings = replace(context(tmp_path, tasks, source.name), other_tasks={"cpsc2018": target})
    found = by_setting(evaluate(model(features, texts), source, settings))
    for classifier in ("linear_probe", "zero_shot"):
        one, other = (found["cpsc2018", classifier, side] for side in ("source", "target"))
        np.testing.assert_array_equal(one.scores, other.scores)


def test_the_order_of_records_and_classes_changes_no_score(world, tmp_path):
    tasks, ecgs, texts = world
    turned = {}
    for name, task in tasks.items():
        splits = {split: task.data.split(split).rows[::-1] for split in ("train", "validation", "test")}
        label_task = replace(task.task, class_names=dict(reversed(task.task.class_names.items())))
        turned[name] = EvaluatedTask(table_data(name=task.data.name, tasks=(label_task,), **splits), label_task)
    first = evaluate(model(ecgs, texts), tasks["csn_exact"], context(tmp_path / "a", tasks, "csn_exact"))
    second = evaluate(model(ecgs, texts), turned["csn_exact"], context(tmp_path / "b", turned, "csn_exact"))
    for one, other in zip(first.scores, second.scores, strict=True):
        assert (one.settings, one.class_names, one.record_ids) == (other.settings, other.class_names, other.record_ids)
        np.testing.assert_array_equal(one.targets, other.targets)
        np.testing.assert_array_equal(one.scores, other.scores)


def test_several_encoders_are_several_runs(world, tmp_path):
    tasks, ecgs, texts = world
    source = tasks["ptbxl_super"]
    together = evaluate(model(ecgs, texts, seeds=(0, 1, 2)), source, context(tmp_path, tasks, source.name)).scores
    alone = [
        evaluate(model(ecgs, texts, seeds=(seed,)), source, context(tmp_path, tasks, source.name)).scores
        for seed in (0, 1, 2)
    ]
    for place, scores in enumerate(together):
        np.testing.assert_array_equal(scores.scores, np.concatenate([runs[place].scores for runs in alone]))
        assert scores.seed == (0, 1, 2)
    assert len(together[0].details["strengths"]) == 3


# --- protocols -------------------------------------------------------------------------------------------------------


def test_the_published_protocol_is_zero_shot_with_the_published_map(world, tmp_path):
    tasks, ecgs, texts = world
    found = by_setting(
        evaluate(model(ecgs, texts), tasks["ptbxl_super"], context(tmp_path, tasks, "ptbxl_super", PUBLISHED))
    )
    assert {classifier for _, classifier, _ in found} == {"zero_shot"}
    scores = found["csn_exact", "zero_shot", "target"]
    assert scores.settings["label_map"] == "as_published"
    labels = labels_of(tasks["csn_exact"], "test")
    depressed = [row for row, record in enumerate(scores.record_ids) if labels[record] == {"STDD"}]
    column = scores.class_names.index("CD")
    assert depressed
    assert scores.targets[depressed, column].all()  # an ST depression, filed under conduction disturbance
    assert not by_setting(
        evaluate(model(ecgs, texts), tasks["ptbxl_super"], context(tmp_path, tasks, "ptbxl_super"))
    )["csn_exact", "zero_shot", "target"].targets[depressed, column].any()  # fmt: skip


def test_from_csn_the_published_value_is_the_plain_zero_shot_value_of_the_target(world, tmp_path):
    tasks, ecgs, texts = world
    settings = context(tmp_path, tasks, "csn_exact", PUBLISHED)
    outcome = evaluate(model(ecgs, texts), tasks["csn_exact"], settings)
    assert [(scores.task, scores.settings["side"]) for scores in outcome.scores] == [
        ("csn_exact->cpsc2018", "target"), ("csn_exact->ptbxl_super", "target")
    ]  # fmt: skip
    for scores, target in zip(outcome.scores, ("cpsc2018", "ptbxl_super"), strict=True):
        (plain,) = zero_shot.evaluate(model(ecgs, texts), tasks[target], settings).scores
        assert scores.settings["csn_as_source"] == "plain zero-shot of the target"
        assert scores.class_names == plain.class_names
        np.testing.assert_array_equal(scores.scores, plain.scores)
        np.testing.assert_array_equal(scores.targets, plain.targets)
        np.testing.assert_array_equal(scores.validation_scores, plain.validation_scores)


def test_a_probe_may_be_asked_with_the_published_map(world, tmp_path):
    tasks, ecgs, texts = world
    protocol = get_protocol("strict", label_map="as_published")
    found = by_setting(
        evaluate(model(ecgs, texts), tasks["csn_exact"], context(tmp_path, tasks, "csn_exact", protocol))
    )
    assert found["ptbxl_super", "linear_probe", "target"].details["matches"]["STDD"] == ["CD"]
    assert "csn_as_source" not in found["ptbxl_super", "linear_probe", "target"].settings
    assert ("ptbxl_super", "zero_shot", "source") not in found


# --- planning, and what is refused -----------------------------------------------------------------------------------


def test_maps_lead_between_the_three_tasks_only():
    names = ["ptbxl_sub", "csn_merl", "cpsc2018", "csn_exact", "cinc2021", "ptbxl_super"]
    assert shift_targets("ptbxl_super", names) == ("cpsc2018", "csn_exact", "csn_merl")
    assert shift_targets("csn_exact", names) == ("cpsc2018", "ptbxl_super")
    assert shift_targets("ptbxl_sub", names) == ()
    assert not has_label_map("csn_exact", "csn_merl")


def test_only_classifiers_that_make_sense_are_used():
    assert usable_classifiers(True, STRICT) == ("linear_probe", "zero_shot")
    assert usable_classifiers(False, STRICT) == ("linear_probe",)
    assert usable_classifiers(True, PUBLISHED) == ("zero_shot",)
    assert usable_classifiers(False, PUBLISHED) == ()


def test_an_encoder_without_text_has_probes_and_no_published_values(world, tmp_path):
    tasks, ecgs, _ = world
    runs = EncoderRuns("beats", "interval_features", (TableEncoder(ecgs, None),))
    outcome = evaluate(runs, tasks["cpsc2018"], context(tmp_path, tasks, "cpsc2018"))
    assert {scores.settings["classifier"] for scores in outcome.scores} == {"linear_probe"}
    with pytest.raises(ValueError, match="'beats' .* has no classifier under protocol 'published'"):  # noqa: RUF043
        evaluate(runs, tasks["cpsc2018"], context(tmp_path, tasks, "cpsc2018", PUBLISHED))
    with pytest.raises(ValueError, match="cannot be evaluated by zero_shot under protocol 'strict'"):
        evaluate(runs, tasks["cpsc2018"], context(tmp_path, tasks, "cpsc2018"), classifiers=("zero_shot",))


def test_a_source_without_any_map_is_refused(world, tmp_path):
    tasks, ecgs, texts = world
    only = {"ptbxl_super": tasks["ptbxl_super"]}
    with pytest.raises(ValueError, match="No map leads from 'ptbxl_super' to nothing"):
        evaluate(model(ecgs, texts), tasks["ptbxl_super"], context(tmp_path, only, "ptbxl_super"))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_probe_needs_labelled_training_and_validation_records(world, tmp_path, split):
    tasks, ecgs, texts = world
    source = tasks["cpsc2018"]
    lacking = EvaluatedTask(replace(source.data, **{split: None}), source.task)
    settings = context(tmp_path, tasks, "cpsc2018")
    with pytest.raises(ValueError, match=f"needs labelled records in the {split} split of data of cpsc2018"):
        evaluate(model(ecgs, texts), lacking, settings)
    outcome = evaluate(model(ecgs, texts), lacking, settings, classifiers=("zero_shot",))
    assert {scores.settings["classifier"] for scores in outcome.scores} == {"zero_shot"}
    assert (outcome.scores[0].validation_scores is None) == (split == "validation")


def test_a_target_without_test_records_is_refused(world, tmp_path):
    tasks, ecgs, texts = world
    lacking = EvaluatedTask(replace(tasks["cpsc2018"].data, test=None), tasks["cpsc2018"].task)
    settings = context(tmp_path, {**tasks, "cpsc2018": lacking}, "ptbxl_super")
    with pytest.raises(ValueError, match="data of cpsc2018 has no test split"):
        evaluate(model(ecgs, texts), tasks["ptbxl_super"], settings)


def test_a_task_without_a_class_of_the_map_is_refused(world, tmp_path):
    tasks, ecgs, texts = world
    source = tasks["ptbxl_super"]
    fewer = replace(source.task, class_names={"NORM": "ptbxl_super NORM", "MI": "ptbxl_super MI"})
    rows = {split: [row for row in source.data.split(split).rows if set(row["labels"]) <= {"NORM", "MI"}]
            for split in ("train", "validation", "test")}  # fmt: skip
    short = EvaluatedTask(table_data(name="short", tasks=(fewer,), **rows), fewer)
    with pytest.raises(ValueError, match="'ptbxl_super' of short has no class CD, STTC"):
        evaluate(model(ecgs, texts), short, context(tmp_path, tasks, "ptbxl_super"))
