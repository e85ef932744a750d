"""Linear probes in the frame: draws, selection, columns, and what is reported."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hf_ecgtext.data.sources.merl_splits import read_split_list, read_train_order
from hf_ecgtext.data.subsets import published_subset
from hf_ecgtext.data.tasks import EcgData, LabelTask
from hf_ecgtext.evaluation.context import EvaluatedTask, EvaluationContext
from hf_ecgtext.evaluation.downstream.linear_probe import evaluate, training_draws, training_targets
from hf_ecgtext.evaluation.encoders.feature_cache import FeatureCache
from hf_ecgtext.evaluation.encoders.frozen import EncoderRuns, FrozenEncoder, ModelEncoder
from hf_ecgtext.evaluation.protocols import PUBLISHED, STRICT, get_protocol
from hf_ecgtext.evaluation.scores import TaskScores
from hf_ecgtext.evaluation.statistics.logistic_regression import L2_PENALTIES, fit_logistic_regressions
from hf_ecgtext.evaluation.statistics.metrics import auroc, macro

LABELS = ("CD", "HYP", "MI", "NORM", "RARE")


class Rows:
    """Records in memory; what an encoder gets as their ECG is the features."""

    def __init__(self, columns, features):
        self.columns, self.features = columns, features

    def __len__(self):
        return len(self.features)

    def __getitem__(self, index):
        return {"ecg": self.features[index], "index": index}

    def __getitems__(self, indices):
        return [self[index] for index in indices]

    def column(self, name):
        return self.columns[name]


class Prepared(FrozenEncoder):
    """Multiplies the features of the records by a random matrix."""

    def __init__(self, seed):
        self.seed = seed
        self.matrix = np.random.default_rng(seed).normal(size=(12, 12)).astype(np.float32)

    def identity(self):
        return {"seed": self.seed}

    def encode(self, ecgs):
        return {"probe": np.stack(ecgs) @ self.matrix}


def make_rows(split, size, seed, labels=LABELS, num_patients=None, name="R", order=None):
    rng = np.random.default_rng((seed, len(split)))
    features = rng.normal(size=(size, 12)).astype(np.float32)
    z = features[:, np.arange(len(labels)) % 12] + rng.normal(size=(size, len(labels)))
    positive = z > np.linspace(0.2, 1.5, len(labels))
    positive[~positive.any(axis=1), -2] = True
    listed = [[label for label, found in zip(labels, row, strict=True) if found] for row in positive]
    patients = [None] * size if num_patients is None else [f"{split}{number}" for number in np.arange(size) // 2]
    order = np.arange(size) if order is None else order
    columns = {
        "record_id": [f"{name}{split}{row:04d}" for row in order],
        "patient_id": [patients[row] for row in order],
        "labels": [listed[row] for row in order],
    }
    return Rows(columns, features[order])


def make_task(seed=0, labels=LABELS, task="toy", data="toy", patients=True, shuffled=False, sizes=(200, 100, 120)):
    rng = np.random.default_rng(99)
    splits = {
        split: make_rows(
            split,
            size,
            seed,
            labels,
            num_patients=True if patients else None,
            order=rng.permutation(size) if shuffled else None,
        )
        for split, size in zip(("train", "validation", "test"), sizes, strict=True)
    }
    names = {label: label.lower() for label in (labels[::-1] if shuffled else labels)}
    question = LabelTask(task, "labels", names)
    return EvaluatedTask(EcgData(name=data, revision="1", tasks=(question,), **splits), question)


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(tmp_path, show_progress=False)


def encoders(*seeds):
    return EncoderRuns("toy", "random", tuple(Prepared(seed) for seed in seeds), seed=seeds)


def test_a_strict_probe_has_runs_for_every_member_and_draw_and_says_what_came_up(cache):
    task = make_task()
    context = EvaluationContext(cache=cache, protocol=STRICT, fractions=(0.1, 1.0), contamination="none")
    few, whole = evaluate(encoders(1, 2), task, context).scores
    assert few.scores.shape == (10, 120, 5)
    assert few.validation_scores.shape == (10, 100, 5)
    assert whole.scores.shape == (2, 120, 5)
    assert few.scores.dtype == np.float32
    assert few.settings == {"fraction": 0.1, "solver": "logistic_regression"}
    assert whole.settings == {"fraction": 1.0, "solver": "logistic_regression"}
    assert few.details["draws"] == 5
    assert few.details["num_train"] == [20] * 5
    assert whole.details["num_train"] == [200]
    assert len(few.details["strengths"]) == 10
    assert set(few.details["strengths"]) <= set(L2_PENALTIES)
    assert few.details["label_budget"] == {"drawn": [20] * 5, "validation": 100, "total": [120] * 5}
    ends = few.details["at_grid_end"]
    assert ends["weakest"] == few.details["strengths"].count(min(L2_PENALTIES))
    assert ends["strongest"] == few.details["strengths"].count(max(L2_PENALTIES))
    assert "upper_bound" not in few.details
    assert (few.protocol, few.evaluation, few.score_kind) == ("strict", "linear_probe", "logit")
    assert (few.seed, few.encoder, few.contamination) == ((1, 2), "random", "none")
    np.testing.assert_array_equal(few.targets, task.records("test").targets)
    np.testing.assert_array_equal(few.validation_targets, task.records("validation").targets)


def test_answers_are_those_of_a_probe_fitted_by_hand(cache):
    task, member = make_task(), Prepared(3)
    context = EvaluationContext(cache=cache, protocol=STRICT, fractions=(0.1,))
    (found,) = evaluate(EncoderRuns("toy", "trained", (member,)), task, context).scores
    features = {split: np.stack(task.data.split(split).features) @ member.matrix for split in ("train", "test")}
    for run, rows in enumerate(training_draws(task, 0.1, STRICT, seed=0)):
        chosen = found.details["strengths"][run]
        fit = fit_logistic_regressions(features["train"][rows], task.records("train").targets[rows], [chosen])
        np.testing.assert_allclose(found.scores[run], fit.scores(features["test"])[0], rtol=1e-3, atol=1e-4)


def test_the_penalty_is_chosen_on_the_split_that_the_protocol_names(cache):
    task, runs = make_task(), encoders(1)
    on = {
        split: evaluate(
            runs,
            task,
            EvaluationContext(cache=cache, protocol=get_protocol("strict", probe_selection=split), fractions=(0.1,)),
        ).scores[0]
        for split in ("validation", "test")
    }
    train, test = (task.data.split(split).features @ runs.members[0].matrix for split in ("train", "test"))
    for run, rows in enumerate(training_draws(task, 0.1, STRICT, seed=0)):
        path = fit_logistic_regressions(train[rows], task.records("train").targets[rows])
        best = max(macro(auroc(scores, on["test"].targets)) for scores in path.scores(test))
        assert macro(auroc(on["test"].scores[run], on["test"].targets)) == pytest.approx(best, abs=1e-3)
        assert best >= macro(auroc(on["validation"].scores[run], on["test"].targets)) - 1e-3
    assert on["test"].details["strengths"] != on["validation"].details["strengths"]
    assert "test split" in on["test"].details["upper_bound"]


@pytest.mark.parametrize("protocol", [STRICT, PUBLISHED], ids=["strict", "published"])
def test_the_order_of_records_and_classes_in_the_files_changes_no_number(tmp_path, protocol):
    answers = [
        evaluate(
            encoders(1),
            make_task(shuffled=shuffled),
            EvaluationContext(
                cache=FeatureCache(tmp_path / str(shuffled), show_progress=False),
                protocol=protocol,
                fractions=(0.1, 1.0),
            ),
        ).scores
        for shuffled in (False, True)
    ]
    for plain, shuffled in zip(*answers, strict=True):
        assert plain.record_ids == shuffled.record_ids
        np.testing.assert_array_equal(plain.targets, shuffled.targets)
        np.testing.assert_array_equal(plain.scores, shuffled.scores)
        assert plain.details == shuffled.details


def test_the_seed_decides_the_draws_and_encoders_share_them(cache):
    task = make_task()
    draws = [training_draws(task, 0.1, STRICT, seed) for seed in (0, 0, 1)]
    assert all(np.array_equal(a, b) for a, b in zip(draws[0], draws[1], strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(draws[0], draws[2], strict=True))
    (again,) = (training_draws(make_task(), 0.1, STRICT, 0),)
    assert all(np.array_equal(a, b) for a, b in zip(draws[0], again, strict=True))

    context = EvaluationContext(cache=cache, protocol=STRICT, fractions=(0.1,))
    first, second = (evaluate(encoders(1), task, context).scores[0].scores for _ in range(2))
    np.testing.assert_array_equal(first, second)
    other = evaluate(encoders(1), task, replace(context, seed=1)).scores[0].scores
    assert not np.array_equal(first, other)


def test_draws_keep_patients_together_and_take_records_for_patients_where_there_are_none():
    task = make_task()
    patients = task.records("train").patients
    for rows in training_draws(task, 0.1, STRICT, 0):
        outside = np.setdiff1d(np.arange(200), rows)
        assert not set(patients[rows]) & set(patients[outside])
    single = make_task(patients=False)
    assert single.records("train").patients is None
    assert [len(rows) for rows in training_draws(single, 0.1, STRICT, 0)] == [20] * 5


def test_absent_labels_are_counted_by_draw_and_score_all_records_alike(cache):
    task = make_task(labels=(*LABELS[:4], "SELDOM"))
    column = task.labels.index("SELDOM")
    for labels in task.data.train.columns["labels"]:
        if "SELDOM" in labels:
            labels.remove("SELDOM")
            labels.append("NORM")
    context = EvaluationContext(cache=cache, protocol=STRICT, fractions=(0.1, 1.0))
    few, whole = evaluate(encoders(1), task, context).scores
    assert few.details["absent_labels"] == {"SELDOM": 5}
    assert whole.details["absent_labels"] == {"SELDOM": 1}
    assert np.ptp(whole.scores[:, :, column]) == 0
    assert auroc(whole.scores[0], whole.targets)[column] == 0.5


def test_a_label_that_every_drawn_record_has_is_named(cache):
    task = make_task(labels=("A", "B"))
    for labels in task.data.train.columns["labels"]:
        labels[:] = sorted({*labels, "A"})
    (found,) = evaluate(encoders(1), task, EvaluationContext(cache=cache, protocol=STRICT, fractions=(1.0,))).scores
    assert found.details["labels_without_negatives"] == {"A": 1}
    assert np.ptp(found.scores[:, :, 0]) == 0


def test_the_published_protocol_keeps_three_epochs_and_calls_the_best_test_epoch_an_upper_bound(cache):
    context = EvaluationContext(cache=cache, protocol=PUBLISHED, fractions=(0.1,))
    found = evaluate(encoders(1, 2), make_task(), context).scores
    assert [scores.settings for scores in found] == [
        {"fraction": 0.1, "solver": "merl", "selection": selection}
        for selection in ("best test epoch", "best validation epoch", "last epoch")
    ]
    best, honest, last = found
    assert best.scores.shape == (2, 120, 5)
    assert {scores.protocol for scores in found} == {"published"}
    assert "test split itself" in best.details["upper_bound"]
    assert "upper_bound" not in honest.details
    assert "upper_bound" not in last.details
    assert last.details["epochs"] == [100, 100]
    assert best.details["num_epochs"] == 100
    for run in range(2):
        values = [macro(auroc(scores.scores[run], scores.targets)) for scores in found]
        assert values[0] == max(values)
        chosen = [macro(auroc(scores.validation_scores[run], scores.validation_targets)) for scores in found]
        assert chosen[1] == max(chosen)


def test_a_published_recipe_with_an_honest_choice_gives_one_result(cache):
    protocol = get_protocol("strict", probe_solver="cmelt", num_draws=2)
    context = EvaluationContext(cache=cache, protocol=protocol, fractions=(0.1,))
    (found,) = evaluate(encoders(1), make_task(), context).scores
    assert found.settings == {"fraction": 0.1, "solver": "cmelt", "selection": "best validation epoch"}
    assert found.scores.shape[0] == found.details["draws"] == 2
    assert found.details["num_epochs"] == 200


BUDGET = get_protocol("strict", probe_selection="draw")


def test_a_budget_probe_sees_no_label_beyond_its_draw(cache):
    task = make_task()
    context = EvaluationContext(cache=cache, protocol=BUDGET, fractions=(0.1,))
    (found,) = evaluate(encoders(1, 2), task, context).scores
    assert found.details["label_budget"] == {"drawn": [20] * 5, "total": [20] * 5}
    assert found.validation_scores is found.validation_targets is None
    drawn = {row for rows in training_draws(task, 0.1, BUDGET, 0) for row in rows.tolist()}
    others = make_task()
    for name in ("train", "validation"):
        labels = others.data.split(name).columns["labels"]
        for row in range(len(labels)):
            if name == "validation" or row not in drawn:
                labels[row] = ["RARE"]
    # The draws are those of the true labels: what is asked is whether the fits read any other.
    truth = evaluate(encoders(1, 2), task, context).scores[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "hf_ecgtext.evaluation.downstream.linear_probe.training_draws",
            lambda *_: training_draws(task, 0.1, BUDGET, 0),
        )
        (blind,) = evaluate(encoders(1, 2), others, context).scores
    np.testing.assert_array_equal(blind.scores, truth.scores)


def test_a_budget_probe_needs_no_validation_split(cache):
    task = make_task()
    alone = EvaluatedTask(replace(task.data, validation=None), task.task)
    context = EvaluationContext(cache=cache, protocol=BUDGET, fractions=(0.1, 1.0))
    few, whole = evaluate(encoders(1), alone, context).scores
    np.testing.assert_array_equal(few.scores, evaluate(encoders(1), task, context).scores[0].scores)
    assert few.details["num_folds"] == [5] * 5
    assert whole.details["labels_that_guide_no_choice"] == {}


def test_a_class_with_one_positive_patient_guides_no_choice_and_is_named(cache):
    task = make_task(sizes=(60, 100, 120))
    labels = task.data.split("train").columns["labels"]
    for row, found in enumerate(labels):
        labels[row] = [label for label in found if label != "RARE"] or ["NORM"]
    labels[4] = [*labels[4], "RARE"]
    context = EvaluationContext(cache=cache, protocol=BUDGET, fractions=(1.0,))
    (found,) = evaluate(encoders(1), task, context).scores
    assert found.details["labels_that_guide_no_choice"] == {"RARE": 1}
    assert found.details["draws_without_choice"] == 0


def test_draws_too_small_to_choose_within_take_the_strongest_penalty_and_are_counted(cache):
    task = make_task(sizes=(200, 100, 120))
    context = EvaluationContext(cache=cache, protocol=BUDGET, fractions=(0.01, 0.1))
    tiny, few = evaluate(encoders(1), task, context).scores  # two records of one patient, and twenty
    assert tiny.details["num_train"] == [2] * 5
    assert tiny.details["draws_without_choice"] == 5
    assert tiny.details["num_folds"] == [1] * 5
    assert set(tiny.details["strengths"]) == {max(L2_PENALTIES)}
    assert few.details["draws_without_choice"] == 0


def test_raw_features_are_learnt_from_as_they_are(cache):
    """Features times 5 change a probe of raw features with a penalty, and one of standardised features not."""
    found = {}
    for factor in (1, 5):
        task = make_task()
        for split in ("train", "validation", "test"):
            rows = task.data.split(split)
            rows.features = rows.features * factor
            rows.columns["record_id"] = [f"{name}{factor}" for name in rows.columns["record_id"]]
        task = EvaluatedTask(replace(task.data, revision=str(factor)), task.task)
        for scaling in ("standardised", "raw"):
            for solver in ("logistic_regression", "cmelt"):
                protocol = get_protocol("strict", feature_scaling=scaling, probe_solver=solver)
                context = EvaluationContext(cache=cache, protocol=protocol, fractions=(1.0,))
                (scores,) = evaluate(encoders(1), task, context).scores
                found[scaling, solver, factor] = scores.scores
    for solver in ("logistic_regression", "cmelt"):
        np.testing.assert_allclose(
            found["standardised", solver, 1], found["standardised", solver, 5], rtol=1e-3, atol=1e-3
        )
        assert np.abs(found["raw", solver, 1] - found["raw", solver, 5]).max() > 0.01
        assert np.abs(found["raw", solver, 1] - found["standardised", solver, 1]).max() > 0.01


@pytest.mark.parametrize(
    ("selection", "budget"),
    [
        ("best test epoch", {"drawn": [20], "test": 120, "total": [140]}),
        ("best validation epoch", {"drawn": [20], "validation": 100, "total": [120]}),
        ("last epoch", {"drawn": [20], "total": [20]}),
    ],
)
def test_published_epochs_count_the_labels_they_were_chosen_by(selection, budget, published_scores):
    (scores,) = (scores for scores in published_scores if scores.settings["selection"] == selection)
    assert scores.details["label_budget"] == budget


@pytest.fixture(scope="module")
def published_scores(tmp_path_factory):
    cache = FeatureCache(tmp_path_factory.mktemp("features"), show_progress=False)
    context = EvaluationContext(cache=cache, protocol=PUBLISHED, fractions=(0.1,))
    return evaluate(encoders(1), make_task(), context).scores


def test_scores_survive_saving(cache, tmp_path):
    context = EvaluationContext(cache=cache, protocol=PUBLISHED, fractions=(0.1,))
    saved = evaluate(encoders(1), make_task(), context).scores[0]
    saved.save(tmp_path / "scores.npz")
    loaded = TaskScores.load(tmp_path / "scores.npz")
    assert (loaded.settings, loaded.details) == (saved.settings, saved.details)
    np.testing.assert_array_equal(loaded.scores, saved.scores)


def test_a_missing_validation_split_is_an_error_that_names_the_fix(cache):
    task = make_task()
    task = EvaluatedTask(replace(task.data, validation=None), task.task)
    with pytest.raises(ValueError, match=r"toy has no validation split here.*Open data that has one"):
        evaluate(encoders(1), task, EvaluationContext(cache=cache, protocol=STRICT))


@pytest.mark.parametrize("protocol", [STRICT, PUBLISHED], ids=["strict", "published"])
def test_impossible_fractions_are_errors(protocol):
    task = make_task()
    with pytest.raises(ValueError, match=r"0\.001 of the 200 training records of 'toy' is none.*at least 0\.005"):
        training_draws(task, 0.001, protocol, 0)
    for fraction in (0.0, -0.5, 1.01):
        with pytest.raises(ValueError, match="above 0 and at most 1"):
            training_draws(task, fraction, protocol, 0)


def test_by_position_three_subclasses_learn_one_anothers_targets():
    task = make_task(labels=("AVB", "ISC", "NORM", "RAO/RAE"), task="ptbxl_sub")
    plain = task.records("train").targets
    by_position = training_targets(task, PUBLISHED)
    # AVB, ISC, NORM, RAO/RAE learn RAO/RAE, AVB, NORM, ISC.
    np.testing.assert_array_equal(by_position, plain[:, [3, 0, 2, 1]])
    np.testing.assert_array_equal(training_targets(task, STRICT), plain)
    elsewhere = make_task(labels=("AVB", "ISC", "NORM", "RAO/RAE"), task="toy")
    np.testing.assert_array_equal(training_targets(elsewhere, PUBLISHED), elsewhere.records("train").targets)


def test_the_exchange_is_that_of_the_published_tables(real_data):
    import pandas as pd

    folder = real_data / "merl_splits" / "ptbxl" / "sub_class"
    train, val, test = (
        list(pd.read_csv(folder / f"ptbxl_sub_class_{split}.csv", nrows=1).columns[6:])
        for split in ("train", "val", "test")
    )
    assert val == test
    learnt = {mine: other for mine, other in zip(test, train, strict=True) if mine != other}
    assert learnt == {"ISC": "AVB", "AVB": "RAO/RAE", "RAO/RAE": "ISC"}
    task = make_task(labels=tuple(test), task="ptbxl_sub")
    table = pd.DataFrame(task.records("train").targets, columns=task.labels)
    by_position = pd.DataFrame(training_targets(task, PUBLISHED), columns=task.labels)
    np.testing.assert_array_equal(by_position[test], table[train])


def test_by_position_is_reported_and_changes_only_those_classes(cache):
    task = make_task(labels=("AVB", "ISC", "NORM", "RAO/RAE"), task="ptbxl_sub")
    switched = get_protocol("strict", class_columns="by_position")
    (found,), (plain,) = (
        evaluate(encoders(1), task, EvaluationContext(cache=cache, protocol=protocol, fractions=(1.0,))).scores
        for protocol in (switched, STRICT)
    )
    assert found.details["learnt_from_column_of"] == {"ISC": "AVB", "AVB": "RAO/RAE", "RAO/RAE": "ISC"}
    assert "learnt_from_column_of" not in plain.details
    worse = auroc(plain.scores[0], plain.targets) - auroc(found.scores[0], found.targets)
    assert (worse[[0, 1, 3]] > 0.1).all()
    assert abs(worse[2]) < 0.05


def test_published_draws_follow_record_ids_where_no_list_is_known():
    (rows,) = training_draws(make_task(shuffled=True), 0.1, PUBLISHED, seed=5)
    np.testing.assert_array_equal(rows, published_subset(200, 0.1))


def listed_task(data_name, task_name, record_ids):
    rows = make_rows("train", len(record_ids), 0)
    rows.columns["record_id"] = list(record_ids)
    question = LabelTask(task_name, "labels", {label: label for label in LABELS})
    data = EcgData(name=data_name, revision="1", train=rows, validation=None, test=None, tasks=(question,))
    return EvaluatedTask(data, question)


def drawn_ids(task, fraction):
    (rows,) = training_draws(task, fraction, PUBLISHED, seed=0)
    return [task.records("train").record_ids[row] for row in rows]


PUBLISHED_TABLES = {  # data and task -> published table, its column of names, and a record's name there
    ("ptb_xl", "ptbxl_super"): ("ptbxl/super_class/ptbxl_super_class", "filename_hr", r"/(\d{5})_hr"),
    ("ptb_xl", "ptbxl_sub"): ("ptbxl/sub_class/ptbxl_sub_class", "filename_hr", r"/(\d{5})_hr"),
    ("ptb_xl", "ptbxl_form"): ("ptbxl/form/ptbxl_form", "filename_hr", r"/(\d{5})_hr"),
    ("ptb_xl", "ptbxl_rhythm"): ("ptbxl/rhythm/ptbxl_rhythm", "filename_hr", r"/(\d{5})_hr"),
    ("cpsc2018", "cpsc2018"): ("icbeb/icbeb", "filename", r"(A\d{4})"),
    ("csn", "csn_merl"): ("chapman/chapman", "ecg_path", r"/(JS\d{5})\.mat$"),
}


@pytest.mark.parametrize("fraction", [0.01, 0.1])
@pytest.mark.parametrize("place", PUBLISHED_TABLES, ids="/".join)
def test_published_draws_are_those_of_the_published_tables_also_when_records_are_absent(real_data, place, fraction):
    import pandas as pd
    from sklearn.model_selection import train_test_split

    name, column, pattern = PUBLISHED_TABLES[place]
    table = pd.read_csv(real_data / "merl_splits" / f"{name}_train.csv", usecols=[column])
    names = table[column].str.extract(pattern)[0].tolist()
    # As MERL's loaders draw.
    expected, _ = train_test_split(table, train_size=fraction, random_state=42)
    expected = expected[column].str.extract(pattern)[0].tolist()
    assert drawn_ids(listed_task(*place, sorted(names)), fraction) == expected

    gone = {"JS01052"} if place[0] == "csn" else {names[0]}
    for absent in (gone, gone | set(expected[::7]), set(names[::2])):
        task = listed_task(*place, sorted(set(names) - absent))
        assert drawn_ids(task, fraction) == [record for record in expected if record not in absent]


def probed_on(name, records, cache):
    rows = make_rows("train", len(records), 0)
    rows.columns["record_id"] = records
    task = make_task(data=name, patients=False)
    task = EvaluatedTask(replace(task.data, train=rows), task.task)
    protocol = get_protocol("strict", subsets="published", num_draws=1)
    context = EvaluationContext(cache=cache, protocol=protocol, fractions=(0.01,))
    (found,) = evaluate(encoders(1), task, context).scores
    return found.details


@pytest.mark.parametrize("name", ["cpsc2018", "csn"])
def test_absent_records_of_a_draw_are_named_in_the_log_and_in_the_result(name, cache, caplog):
    order = read_train_order(name)
    drawn = [order[place] for place in published_subset(len(order), 0.01)]
    gone = drawn[3:15]
    details = probed_on(name, [record for record in order if record not in gone], cache)
    assert details["num_train"] == [len(drawn) - 12]
    assert details["absent_from_draw"] == {"records": 12, "first": gone[:10]}
    assert any(f"12 of the {len(drawn)} records of the published draw" in line for line in caplog.messages)


def test_a_complete_list_has_nothing_absent_to_report(cache):
    details = probed_on("cpsc2018", sorted(read_train_order("cpsc2018")), cache)
    assert details["num_train"] == [49]
    assert "absent_from_draw" not in details


def test_a_part_without_any_record_of_the_draw_is_refused():
    order = read_train_order("csn")
    drawn = {order[place] for place in published_subset(len(order), 0.01)}
    task = listed_task("csn", "csn_exact", [record for record in order if record not in drawn][:300])
    with pytest.raises(ValueError, match=r"None of the 165 records that 0.01 of the published training table"):
        training_draws(task, 0.01, PUBLISHED, 0)


def test_a_record_that_the_published_table_does_not_list_has_no_published_draw():
    names = [record for record, split in read_split_list("csn").items() if split == "train"][:50]
    task = listed_task("csn", "csn_exact", [*names, "JS99999"])
    with pytest.raises(ValueError, match=r"'JS99999' of csn is not in the published.*split_of_others='leave_out'"):
        training_draws(task, 0.1, PUBLISHED, 0)
    assert len(training_draws(task, 0.1, STRICT, 0)) == 5


def test_a_model_is_probed_from_recordings(tmp_path):
    from hf_ecgtext.data.sources.synthetic import open_data
    from hf_ecgtext.methods import get_recipe

    data = open_data(num_records=60, sampling_rate_hz=100.0, cache_dir=tmp_path / "data")
    model, processor = get_recipe("merl", "debug").build(seed=0)
    runs = EncoderRuns("merl", "trained", (ModelEncoder(model, processor),))
    cache = FeatureCache(tmp_path / "features", show_progress=False)
    task = EvaluatedTask(data, data.tasks[0])
    context = EvaluationContext(cache=cache, protocol=STRICT, fractions=(1.0,))
    (found,) = evaluate(runs, task, context).scores
    assert found.scores.shape == (1, len(task.records("test")), len(task.labels))
    assert np.isfinite(found.scores).all()
