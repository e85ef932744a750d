"""Fine-tuning from a model to scores: the best epoch, whole recordings, a ledger, and the same after a kill."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from finetuning_data import TASK, Rows, debug_model, short_recipe, small_data, small_task
from transformers import TrainerCallback, TrainerState

from hf_ecgtext.data.ledger import TrainingLedger
from hf_ecgtext.data.tasks import LabelTask
from hf_ecgtext.errors import ContaminationError
from hf_ecgtext.evaluation.context import EvaluatedTask
from hf_ecgtext.evaluation.scores import TaskScores
from hf_ecgtext.evaluation.statistics.cinc2021_score import cinc2021_score
from hf_ecgtext.evaluation.statistics.metrics import auroc, macro
from hf_ecgtext.finetuning import EcgForClassification
from hf_ecgtext.finetuning.cinc2021 import best_threshold, cinc2021_results, decide
from hf_ecgtext.finetuning.finetune import finetune
from hf_ecgtext.finetuning.labelled_records import LabelProblem, Preparation, SelectedRows
from hf_ecgtext.finetuning.prediction import predict_logits
from hf_ecgtext.finetuning.recipes import FinetuningRecipe, get_finetuning_recipe
from hf_ecgtext.finetuning.trainer import FinetuningTrainer, StopWithoutProgress


def run(task, folder, **options):
    model, processor = options.pop("built", None) or debug_model()
    options = {"recipe": short_recipe(), "show_progress": False, "checkpoint": "x", **options}
    return finetune(model, processor, task, folder, **options)


@pytest.fixture(scope="module")
def outcome(synthetic_dataset, tmp_path_factory):
    return run(small_task(synthetic_dataset), tmp_path_factory.mktemp("finetuned") / "out")


def test_the_saved_epoch_is_the_one_with_the_best_validation_score(outcome):
    scores = outcome.scores["parity"]
    per_epoch = json.loads((outcome.folder / "finetuning.json").read_text())["scores_per_epoch"]
    assert len(per_epoch) == scores.details["epochs"] == 3
    assert scores.details["best_epoch"] == int(np.argmax(per_epoch)) + 1
    value = float(macro(auroc(scores.validation_scores[0], scores.validation_targets)))
    assert value == pytest.approx(max(per_epoch))


def test_scores_are_the_logits_of_the_saved_model_on_the_test_records(outcome, synthetic_dataset):
    scores, task = outcome.scores["parity"], small_task(synthetic_dataset)
    assert scores.class_names == ("even", "third")
    assert scores.record_ids == task.records("test").record_ids
    np.testing.assert_array_equal(scores.targets, task.records("test").targets)
    assert scores.settings == {"leads": 12, "lora": False, "recipe": "short"}
    assert (scores.evaluation, scores.encoder, scores.contamination) == ("finetune", "trained", "none")
    model, extractor = EcgForClassification.from_pretrained(outcome.folder).eval(), outcome.preparation.extractor
    by_id = {row["ecg"].record_id: row["ecg"] for row in synthetic_dataset.__getitems__(range(72, 96))}
    with torch.no_grad():
        inputs = extractor([by_id[name] for name in scores.record_ids], return_tensors="pt")
        logits = model(**inputs).logits
    np.testing.assert_allclose(scores.scores[0], logits.numpy(), atol=1e-5)
    assert model.config.labels == scores.class_names


def test_training_changes_the_whole_encoder_and_not_the_model_it_started_from(outcome):
    model, _ = debug_model()
    before, after = model.ecg_encoder.state_dict(), outcome.model.ecg_encoder.state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_the_order_of_records_in_the_files_changes_no_number(outcome, synthetic_dataset, tmp_path):
    task = small_task(synthetic_dataset, order=lambda positions: positions[::-1])
    again = run(task, tmp_path / "out").scores["parity"]
    np.testing.assert_array_equal(again.scores, outcome.scores["parity"].scores)


def test_the_ledger_holds_the_checkpoints_records_and_the_fine_tunings(synthetic_dataset, tmp_path):
    model, processor = debug_model()
    model.save_pretrained(tmp_path / "base")
    other = Rows(synthetic_dataset, range(40))
    TrainingLedger.of_splits("pretraining", "7", {"train": other}).save(tmp_path / "base")
    loaded = type(model).from_pretrained(tmp_path / "base")
    done = run(small_task(synthetic_dataset), tmp_path / "out", built=(loaded, processor), recipe=short_recipe(1))
    assert [(entry.dataset, entry.split) for entry in done.ledger.entries] == [
        ("pretraining", "train"), ("small", "train"), ("small", "validation"),
    ]  # fmt: skip
    assert done.ledger.look_up("pretraining", other).trained.all()
    labelled = [position for position in range(48) if position % 2 == 0 or position % 3 == 0]
    assert done.ledger.look_up("small", Rows(synthetic_dataset, labelled)).trained.all()


def test_a_model_that_has_seen_test_records_is_refused_by_name(synthetic_dataset, tmp_path):
    model, processor = debug_model()
    model.save_pretrained(tmp_path / "base")
    seen = Rows(synthetic_dataset, [74])
    TrainingLedger.of_splits("small", "0", {"train": seen}).save(tmp_path / "base")
    built = type(model).from_pretrained(tmp_path / "base"), processor
    with pytest.raises(ContaminationError, match=f"small:{seen.column('record_id')[0]}"):
        run(small_task(synthetic_dataset), tmp_path / "a", built=built, recipe=short_recipe(1))
    done = run(small_task(synthetic_dataset), tmp_path / "b", built=built, recipe=short_recipe(1), allow_seen=True)
    assert "1 of 24 test records were seen in training" in done.scores["parity"].contamination


class KilledError(Exception):
    pass


class KillAfter(TrainerCallback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_save(self, args, state, control, **_):
        if round(state.epoch) == self.epoch:
            raise KilledError


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [1, 3])
def test_killed_and_resumed_equals_never_killed(outcome, synthetic_dataset, tmp_path, monkeypatch, epoch):
    task, build = small_task(synthetic_dataset), FinetuningTrainer.__init__

    def dying(self, *args, **kwargs):
        build(self, *args, **kwargs)
        self.add_callback(KillAfter(epoch))

    with monkeypatch.context() as patch:
        patch.setattr(FinetuningTrainer, "__init__", dying)
        with pytest.raises(KilledError):
            run(task, tmp_path / "out")
    resumed = run(task, tmp_path / "out", resume=True)
    assert resumed.scores["parity"].details == outcome.scores["parity"].details
    for name, tensor in outcome.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name
    np.testing.assert_array_equal(resumed.scores["parity"].scores, outcome.scores["parity"].scores)


def test_what_is_done_is_loaded_and_never_overwritten_or_taken_for_another(outcome, synthetic_dataset, monkeypatch):
    task = small_task(synthetic_dataset)
    with pytest.raises(FileExistsError, match="already holds a fine-tuning"):
        run(task, outcome.folder)
    with pytest.raises(ValueError, match=r"other settings: leads, processor"):
        run(task, outcome.folder, resume=True, leads=2)
    with pytest.raises(ValueError, match=r"other settings: .*seed"):
        run(task, outcome.folder, resume=True, seed=1)
    monkeypatch.setattr(FinetuningTrainer, "train", lambda *_, **__: pytest.fail("it trains again"))
    again = run(task, outcome.folder, resume=True)
    np.testing.assert_array_equal(again.scores["parity"].scores, outcome.scores["parity"].scores)


def test_training_stops_when_the_best_epoch_is_old_enough_also_after_a_resume():
    def exhausted(scores, patience=2):
        return StopWithoutProgress(patience).is_exhausted(
            TrainerState(log_history=[entry for value in scores for entry in ({"loss": 1.0}, {"eval_score": value})])
        )

    assert not exhausted([])
    assert not exhausted([0.5, 0.4])
    assert exhausted([0.5, 0.4, 0.5])
    assert not exhausted([0.5, 0.4, 0.6])
    assert exhausted([0.5, 0.4, 0.6, 0.6, 0.6])


def test_without_progress_no_further_epoch_is_trained(synthetic_dataset, tmp_path):
    done = run(small_task(synthetic_dataset), tmp_path / "out", recipe=short_recipe(9, patience=1, learning_rate=0.0))
    assert done.scores["parity"].details["epochs"] < 9


def test_long_recordings_are_scored_by_the_mean_over_their_windows(outcome, synthetic_dataset):
    ecg = synthetic_dataset[80]["ecg"].to_record()
    long = dataclasses.replace(ecg, signal=np.tile(ecg.signal, 3)[:, :2500])
    preparation = Preparation.of(outcome.preparation.extractor)
    windows = [dataclasses.replace(long, signal=long.signal[:, start : start + 1000]) for start in (0, 750, 1500)]

    def logits(*records):
        return predict_logits(outcome.model, preparation, [{"ecg": record} for record in records], batch_size=2)

    np.testing.assert_allclose(logits(ecg, long, ecg)[1], logits(*windows).mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(logits(ecg, long, ecg)[2], logits(ecg)[0], atol=1e-5)


def test_several_tasks_share_a_network_and_each_record_teaches_its_own(synthetic_dataset):
    even, third = (LabelTask(name, f"labels_{name}", {name: name, "other": "other"}) for name in ("even", "third"))
    data = small_data(synthetic_dataset, tasks=(even, third))
    for split in ("train", "validation", "test"):
        rows = data.split(split)
        own = rows.column
        rows.column = lambda name, own=own: (
            [[label for label in labels if label == name[7:]] for labels in own("labels")]
            if name.startswith("labels_")
            else own(name)
        )
    problem = LabelProblem((EvaluatedTask(data, even), EvaluatedTask(data, third)))
    assert problem.labels == ("even/even", "even/other", "third/other", "third/third")
    split = problem.split("train")
    records = dict(zip(data.train.column("record_id"), data.train.column("labels"), strict=True))
    assert list(split.record_ids) == sorted(name for name, labels in records.items() if labels)
    for row, name in enumerate(split.record_ids):
        is_even, is_third = ("even" in records[name]), ("third" in records[name])
        assert split.known[row].tolist() == [is_even, is_even, is_third, is_third]
        assert split.targets[row].tolist() == [is_even, 0, 0, is_third]
        assert split.rows[row]["ecg"].record_id == name
    with pytest.raises(ValueError, match="same data"):
        LabelProblem((EvaluatedTask(data, even), EvaluatedTask(small_data(synthetic_dataset), third)))


def test_selected_rows_keep_the_blocks_they_lie_in():
    class Blocks:
        block_sizes = (3, 2, 4)

        def __getitems__(self, indices):
            return [{"index": index} for index in indices]

    rows = SelectedRows.of(Blocks(), np.array([1, 2, 5, 8]))
    assert rows.block_sizes.tolist() == [2, 2]
    assert [row["index"] for row in rows.__getitems__(range(4))] == [1, 2, 5, 8]


def test_a_validation_split_that_cannot_choose_is_refused_before_training(synthetic_dataset, tmp_path):
    data = small_data(synthetic_dataset)
    same = dataclasses.replace(data, validation=Rows(synthetic_dataset, [54, 60], lambda _: ["even", "third"]))
    with pytest.raises(ValueError, match=r"No class of task 'parity' has both .* validation split of small"):
        run(EvaluatedTask(same, TASK), tmp_path / "out")


def test_recipes_are_named_by_what_was_changed_and_refuse_what_is_not_theirs():
    recipe = get_finetuning_recipe("cmelt_dx")
    published = {"num_train_epochs": 100, "per_device_train_batch_size": 256, "learning_rate": 5e-5}
    assert published.items() <= recipe.training.items()
    changed = recipe.override({"training.num_train_epochs": 2, "patience": 1})
    assert (changed.name, changed.patience) == ("cmelt_dx num_train_epochs=2 patience=1", 1)
    assert recipe.training["num_train_epochs"] == 100
    for setting in ("training.load_best_model_at_end", "learning_rate", "training."):
        with pytest.raises(ValueError, match="Cannot set"):
            recipe.override({setting: 1})
    with pytest.raises(ValueError, match="choose from default, cmelt_dx"):
        get_finetuning_recipe("cmelt")
    with pytest.raises(ValueError, match="patience"):
        FinetuningRecipe(name="x", patience=0)


def test_the_challenge_score_is_taken_at_the_best_validation_threshold_and_at_one_half():
    from hf_ecgtext.data.sources.cinc2021.classes import CINC2021_CLASSES

    names, rng = tuple(sorted(CINC2021_CLASSES)), np.random.default_rng(0)
    targets = (rng.random((60, 26)) < 0.1).astype(np.int8)
    logits = (3 * targets + rng.normal(size=targets.shape) - 3).astype(np.float32)
    threshold, value = best_threshold(logits, targets, names)
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    slow = {t: cinc2021_score(probabilities >= t, targets, names) for t in np.arange(1, 50) / 50}
    assert value == pytest.approx(max(slow.values()))
    assert slow[threshold] == pytest.approx(value)
    assert value > slow[0.5]
    scores = TaskScores(
        evaluation="finetune", task="cinc2021", protocol="strict", checkpoint="x", encoder="trained",
        class_names=names, record_ids=tuple(map(str, range(60))), targets=targets, patients=None, scores=logits[None],
        data={"name": "cinc2021", "revision": "1", "split": "test"}, validation_targets=targets,
        validation_scores=logits[None],
    )  # fmt: skip
    strict, published = cinc2021_results(scores, num_resamples=20)
    assert (strict.protocol, strict.value) == ("strict", pytest.approx(value))
    assert (published.protocol, published.value) == ("published", pytest.approx(slow[0.5]))
    assert strict.details["thresholds"] == [threshold]
    assert strict.confidence_interval[0] < strict.value < strict.confidence_interval[1]
    normal = np.zeros_like(targets)
    normal[:, names.index("NSR")] = 1
    with pytest.raises(ValueError, match="not all in sinus rhythm"):
        best_threshold(logits, normal, names)
    np.testing.assert_array_equal(decide(np.array([-0.1, 0.0, 0.1]), 0.5), [False, True, True])


def test_a_warm_up_as_long_as_the_fine_tuning_is_refused(synthetic_dataset, tmp_path):
    with pytest.raises(ValueError, match=r"warmup_steps=500 does not fit a run of \d+ steps"):
        run(small_task(synthetic_dataset), tmp_path / "out", recipe=short_recipe(1, warmup_steps=500))
