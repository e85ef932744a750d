"""The matrix: every number is computed once, survives a kill, and depends on nothing but what it names."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest

from hf_ecgtext.data.ledger import TrainingLedger
from hf_ecgtext.data.sources.synthetic import open_data
from hf_ecgtext.data.tasks import LabelTask
from hf_ecgtext.errors import ContaminationError
from hf_ecgtext.evaluation.encoders.feature_cache import FeatureCache
from hf_ecgtext.evaluation.encoders.frozen import FrozenEncoder
from hf_ecgtext.evaluation.protocols import PUBLISHED, STRICT
from hf_ecgtext.evaluation.results import read_results
from hf_ecgtext.harness import matrix
from hf_ecgtext.harness.jobs import JobStore
from hf_ecgtext.harness.matrix import run_matrix
from hf_ecgtext.harness.models import FeatureBaseline, PooledModel, RandomModel, TrainedModel
from hf_ecgtext.harness.plan import MatrixPlan
from hf_ecgtext.methods import get_recipe

CLASSES = ("atrial_fibrillation", "sinus_bradycardia", "sinus_tachycardia", "left_bundle_branch_block")


class Rows:
    """Rows of a split in another order, with the leads of each recording in another order, on request."""

    def __init__(self, rows, order, leads=None):
        self.rows, self.order, self.leads = rows, list(order), leads

    def __len__(self):
        return len(self.order)

    def __getitem__(self, index):
        return self.__getitems__([index])[0]

    def __getitems__(self, indices):
        items = self.rows.__getitems__([self.order[index] for index in indices])
        if self.leads is None:
            return items
        return [{**item, "ecg": self._moved(item["ecg"])} for item in items]

    def _moved(self, ecg):
        return dataclasses.replace(
            ecg,
            samples=ecg.samples[self.leads],
            gain_per_mv=ecg.gain_per_mv[self.leads],
            baseline=ecg.baseline[self.leads],
            lead_names=tuple(ecg.lead_names[lead] for lead in self.leads),
        )

    def column(self, name):
        values = self.rows.column(name)
        return [values[index] for index in self.order]

    def unique_reports(self):
        return list(dict.fromkeys(self.column("report")))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    opened = open_data(num_records=400, sampling_rate_hz=100.0, cache_dir=tmp_path_factory.mktemp("cache"))
    (task,) = opened.tasks
    names = {label: task.class_names[label] for label in CLASSES}
    few = LabelTask("few", "few", names)
    for split in ("train", "validation", "test"):
        rows = getattr(opened, split)
        kept = [[label for label in labels if label in names] for labels in rows.column("labels")]
        rows = Rows(rows, range(len(rows)))
        rows.column = lambda name, rows=rows, kept=kept: kept if name == "few" else type(rows).column(rows, name)
        opened = dataclasses.replace(opened, **{split: rows})
    return dataclasses.replace(opened, tasks=(few,))


@pytest.fixture(scope="module")
def model():
    return get_recipe("merl", "debug").build(seed=0)


def models(model, name="model", ledger=None, random=True):
    trained = TrainedModel(name, *model, ledger)
    return [trained, RandomModel(trained, (0,))] if random else [trained]


def plan(opened, rows, **changes) -> MatrixPlan:
    settings = {
        "models": rows,
        "data": [opened],
        "evaluations": ("zero_shot", "linear_probe", "retrieval"),
        "protocols": [STRICT.with_switches({"num_draws": 2})],
        "fractions": (0.5, 1.0),
        "num_resamples": 20,
    }
    return MatrixPlan(**(settings | changes))


def run(folder: Path, asked: MatrixPlan, cache: Path | None = None):
    return run_matrix(
        asked, folder, FeatureCache(cache or folder / "features", show_progress=False), show_progress=False
    )


def values(results):
    """All numbers of result lines, without when they were made."""
    return [json.dumps({**json.loads(line.to_json()), "date": ""}, sort_keys=True) for line in results]


@pytest.fixture(scope="module")
def whole(data, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder, plan(data, models(model)))


def test_every_row_answers_every_question_with_intervals(whole):
    folder, outcome = whole
    assert not outcome.failed
    found = {(line.evaluation, line.encoder, line.settings.get("fraction")) for line in outcome.results}
    expected = {("zero_shot", None), ("linear_probe", 0.5), ("linear_probe", 1.0), ("retrieval", None)}
    assert found == {(name, kind, fraction) for name, fraction in expected for kind in ("trained", "random")}
    for line in outcome.results:
        # 40 records hold no 20 of a class, which the intervals of other metrics ask for.
        if line.value is not None and line.min_positives == 5 and line.metric in ("auroc", "f1"):
            assert line.confidence_interval is not None
        assert line.data["revision"]
        assert line.library_versions["torch"]
    assert values(read_results(folder / "results.jsonl")) == values(outcome.results)


def test_a_second_run_computes_nothing(whole, data, model, monkeypatch):
    folder, outcome = whole
    monkeypatch.setattr(FeatureCache, "features", None)
    monkeypatch.setattr(JobStore, "save", None)
    again = run(folder, plan(data, models(model)))
    assert [line.to_json() for line in again.results] == [line.to_json() for line in outcome.results]


@pytest.mark.parametrize("kept_cells", [0, 2, 5])
def test_a_killed_run_gives_the_same_results_file_as_one_that_was_not(
    whole, data, model, tmp_path, monkeypatch, kept_cells
):
    saved = []
    keep = JobStore.save

    def save(self, description, outcome):
        if len(saved) == kept_cells:
            raise KeyboardInterrupt
        saved.append(description)
        keep(self, description, outcome)

    with monkeypatch.context() as patch:
        patch.setattr(JobStore, "save", save)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, plan(data, models(model)))
    assert not (tmp_path / "results.jsonl").exists()
    run(tmp_path, plan(data, models(model)))
    assert values(read_results(tmp_path / "results.jsonl")) == values(whole[1].results)


def test_no_order_of_records_classes_or_leads_changes_a_number(whole, data, model, tmp_path):
    rng = np.random.default_rng(1)
    leads = [4, 0, 11, 1, 2, 3, 10, 9, 8, 7, 6, 5]
    (task,) = data.tasks
    moved = dataclasses.replace(task, class_names=dict(reversed(task.class_names.items())))
    changed = dataclasses.replace(
        data,
        tasks=(moved,),
        **{
            split: Rows(getattr(data, split), rng.permutation(len(getattr(data, split))), leads)
            for split in ("train", "validation", "test")
        },
    )
    outcome = run(tmp_path, plan(changed, models(model)))
    assert not outcome.failed
    assert values(outcome.results) == values(whole[1].results)


def test_more_questions_leave_the_answered_ones_alone(whole, data, model, tmp_path):
    folder, outcome = whole
    jobs = set((folder / "cells").iterdir())
    more = run(
        folder, plan(data, models(model), evaluations=("zero_shot", "linear_probe", "retrieval", "single_label"))
    )
    assert set(values(outcome.results)) < set(values(more.results))
    assert len(set((folder / "cells").iterdir()) - jobs) == 2
    run(folder, plan(data, models(model)))


def test_a_checkpoint_that_has_seen_a_test_record_is_refused_by_name(data, model, tmp_path, caplog):
    class Part:
        def __init__(self, rows, indices):
            self.rows, self.indices = rows, indices

        def __len__(self):
            return len(self.indices)

        def column(self, name):
            return [self.rows.column(name)[index] for index in self.indices]

    ledger = TrainingLedger.of_splits(data.name, data.revision, {"train": Part(data.test, [3])})
    name = data.test.column("record_id")[3]
    asked = plan(data, models(model, "leaky", ledger, random=False), evaluations=("zero_shot",))
    with pytest.raises(ContaminationError, match=f"'leaky' on synthetic: 1 of 40 test records .*synthetic:{name}"):
        run(tmp_path, asked)
    assert not (tmp_path / "cells").exists()
    with caplog.at_level(logging.WARNING):
        outcome = run(tmp_path, dataclasses.replace(asked, allow_seen=True))
    assert "1 of 40 test records were seen in training" in caplog.text
    (text,) = {line.contamination for line in outcome.results}
    assert text.startswith("1 of 40 test records were seen in training")


def test_a_question_that_cannot_be_asked_is_listed_and_the_others_are_answered(data, model, tmp_path):
    without = dataclasses.replace(data, validation=None)
    outcome = run(tmp_path, plan(without, models(model, random=False)))
    assert {line.evaluation for line in outcome.results} == {"zero_shot", "retrieval"}
    ((title, problem),) = outcome.failed.items()
    assert title == "linear_probe of model (trained) on few, strict num_draws=2"
    assert "validation" in problem
    mended = run(tmp_path, plan(data, models(model, random=False)))
    assert not mended.failed


class Broken(FrozenEncoder):
    """Gives NaN for one record."""

    def __init__(self, bad):
        self.bad = bad

    def identity(self):
        return {"broken": self.bad}

    def encode(self, ecgs):
        return {"probe": np.array([[np.nan if ecg.record_id == self.bad else 1.0] for ecg in ecgs], np.float32)}


def test_nan_features_are_listed_by_record(data, tmp_path):
    bad = data.train.column("record_id")[5]
    row = FeatureBaseline("broken", "interval_features", Broken(bad))
    outcome = run(tmp_path, plan(data, [row], evaluations=("linear_probe",)))
    assert outcome.results == []
    (problem,) = outcome.failed.values()
    assert f"Record '{bad}': has NaN or infinite features" in problem


def test_a_prompt_that_is_missing_is_listed_by_class(data, model, tmp_path):
    prompts = tmp_path / "mine.json"
    prompts.write_text(json.dumps(dict.fromkeys(CLASSES[1:], "text")))
    outcome = run(
        tmp_path, plan(data, models(model, random=False), evaluations=("zero_shot",), prompt_sets=(str(prompts),))
    )
    (problem,) = outcome.failed.values()
    assert "no prompt for these classes: ['atrial_fibrillation']" in problem


def test_a_changed_prompt_file_is_read_again(data, model, tmp_path):
    prompts = tmp_path / "mine.json"
    found = []
    for word in ("one", "other"):
        prompts.write_text(json.dumps({label: f"{word} {label}" for label in CLASSES}))
        asked = plan(data, models(model, random=False), evaluations=("zero_shot",), prompt_sets=(str(prompts),))
        found.append([line.value for line in run(tmp_path / "out", asked).results])
    assert found[0] != found[1]


def test_a_class_without_positives_has_no_value_and_is_counted(data, model, tmp_path):
    (task,) = data.tasks
    more = dataclasses.replace(task, class_names={**task.class_names, "never": "something never seen"})
    asked = plan(dataclasses.replace(data, tasks=(more,)), models(model, random=False), evaluations=("linear_probe",))
    outcome = run(tmp_path, asked)
    assert not outcome.failed
    for line in [line for line in outcome.results if line.min_positives == 1]:
        assert line.num_positives["never"] == 0
        if line.metric not in ("brier_score", "ece_equal_mass"):  # probability can be wasted on what never occurs
            assert line.per_class["never"] is None
    auroc = next(line for line in outcome.results if line.metric == "auroc" and line.min_positives == 1)
    assert auroc.value == pytest.approx(np.mean([line for line in auroc.per_class.values() if line is not None]))
    assert "never" in json.dumps(auroc.details["absent_labels"])


@pytest.mark.slow
def test_the_first_model_is_what_others_are_compared_with(data, model, tmp_path):
    rows = [*models(model, "first", random=False), *models(get_recipe("etp", "debug").build(seed=0), "second")]
    asked = plan(data, rows, evaluations=("zero_shot", "linear_probe"), protocols=[STRICT, PUBLISHED], fractions=(1.0,))
    outcome = run(tmp_path, asked)
    assert not outcome.failed
    differences = [line for line in outcome.results if line.compared_with is not None]
    assert {(line.checkpoint, line.compared_with, line.compared_encoder) for line in differences} == {
        ("second", "first", "trained"),
        ("second", "second", "random"),
    }
    # A zero-shot answer has nothing of the published protocol but its name; a best test epoch is not compared.
    assert {(line.evaluation, line.protocol) for line in differences} == {
        ("zero_shot", "strict"),
        ("linear_probe", "strict"),
    }
    for line in [line for line in differences if line.min_positives == 1]:
        own = {
            (other.checkpoint, other.encoder): other.value
            for other in outcome.results
            if other.compared_with is None
            and (other.evaluation, other.metric, other.min_positives, other.protocol)
            == (line.evaluation, line.metric, line.min_positives, line.protocol)
        }
        reference = own[line.compared_with, line.compared_encoder]
        assert line.value == pytest.approx(own["second", "trained"] - reference)


def test_a_model_is_compared_with_its_random_twin(whole):
    _, outcome = whole
    differences = [line for line in outcome.results if line.compared_with is not None]
    found = {(line.evaluation, line.compared_with, line.compared_encoder) for line in differences}
    assert found == {(name, "model", "random") for name in ("zero_shot", "linear_probe", "retrieval")}
    for line in differences:
        if line.confidence_interval is not None:
            low, high = line.confidence_interval
            assert (low <= 0 <= high) == (line.p_value >= 0.05)


@pytest.mark.slow
def test_trainings_of_one_model_are_pooled_into_rows_of_their_mean(data, tmp_path):
    recipe = get_recipe("merl", "debug")
    trainings = [TrainedModel(f"seed {seed}", *recipe.build(seed=seed), None, seed=seed) for seed in (0, 1)]
    pooled = PooledModel("merl", trainings)
    rows = [pooled, RandomModel(trainings[0], (0, 1), pooled.name), *trainings]
    outcome = run(tmp_path, plan(data, rows, fractions=(0.5,)))
    assert not outcome.failed
    cells = {}
    for line in outcome.results:
        if line.compared_with is None and line.encoder == "trained":
            key = (line.evaluation, line.metric, line.min_positives, json.dumps(line.settings))
            cells.setdefault(key, {})[line.checkpoint] = line
    assert {name for name, *_ in cells} == {"zero_shot", "linear_probe", "retrieval"}
    for (_, metric, *_), found in cells.items():
        together, alone = found["merl"], [found["seed 0"], found["seed 1"]]
        if metric in ("auroc", "average_precision", "recall_at_5") and alone[0].value is not None:
            values = [line.value for line in alone]
            assert together.value == pytest.approx(np.mean(values))
            assert together.run_values == pytest.approx(values)
        assert (together.seed, together.prediction_for) == ((0, 1), "training")
    twins = [line for line in outcome.results if line.compared_encoder == "random"]
    assert {line.checkpoint for line in twins} == {"merl"}
    with pytest.raises(ValueError, match="each with a seed of its own"):
        PooledModel("merl", [trainings[0], trainings[0]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluations": ("zeroshot",)}, "no evaluation zeroshot; choose among zero_shot"),
        ({"tasks": ("ptbxl_super",)}, "The data have no task ptbxl_super; they have: few"),
        ({"protocols": [STRICT, STRICT]}, "The protocol strict is given twice"),
        ({"reference": "nobody"}, "The reference 'nobody' is not among the models: model"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused(data, model, changes, message):
    with pytest.raises(ValueError, match=message):
        plan(data, models(model), **changes)


def test_data_may_be_given_once_only(data, model):
    with pytest.raises(ValueError, match="The data synthetic is given twice"):
        plan(data, models(model), data=[data, data])


def test_an_unexpected_error_is_not_hidden(data, model, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("our mistake")

    evaluation = dataclasses.replace(matrix.EVALUATIONS["zero_shot"], evaluate=broken)
    monkeypatch.setitem(matrix.EVALUATIONS, "zero_shot", evaluation)
    with pytest.raises(RuntimeError, match="our mistake"):
        run(tmp_path, plan(data, models(model), evaluations=("zero_shot",)))
