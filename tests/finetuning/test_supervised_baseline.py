"""The supervised baseline: one network per dataset for all tasks, trained once and kept."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from finetuning_data import Rows, short_recipe

from hf_ecgtext.data.tasks import EcgData, LabelTask
from hf_ecgtext.evaluation.context import EvaluatedTask
from hf_ecgtext.finetuning.supervised import supervised_scores
from hf_ecgtext.finetuning.trainer import FinetuningTrainer
from hf_ecgtext.methods import get_recipe

AXIS = LabelTask("axis", "axis", {"left": "left", "right": "right"})
NUMBER = LabelTask("number", "number", {"third": "third", "even": "even"})


class TwoQuestions(Rows):
    """Every record has an axis; every second or third one a number."""

    def column(self, name):
        if name == "axis":
            return [["left" if position % 5 < 2 else "right"] for position in self.positions]
        if name == "number":
            names = (("even", 2), ("third", 3))
            return [[label for label, step in names if position % step == 0] for position in self.positions]
        return super().column(name)


@pytest.fixture(scope="module")
def data(synthetic_dataset):
    splits = {"train": range(48), "validation": range(48, 72), "test": range(72, 96)}
    rows = {name: TwoQuestions(synthetic_dataset, positions) for name, positions in splits.items()}
    return EcgData(name="small", revision="1", tasks=(AXIS, NUMBER), **rows)


@pytest.fixture(scope="module")
def answer(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("supervised")
    recipe = get_recipe("merl", "debug")
    model, processor = recipe.build(seed=0)

    def ask(tasks=(AXIS, NUMBER), of=data, **options):
        return supervised_scores(
            of, [EvaluatedTask(of, task) for task in tasks], processor.feature_extractor, model.config.ecg_config,
            folder, recipe=short_recipe(2), show_progress=False, **options,
        )  # fmt: skip

    ask.folder = folder
    return ask


def test_it_answers_every_task_on_the_records_that_take_part(data, answer):
    scores = answer()
    assert set(scores) == {"axis", "number"}
    for name, task in (("axis", AXIS), ("number", NUMBER)):
        records = EvaluatedTask(data, task).records("test")
        assert scores[name].record_ids == records.record_ids
        np.testing.assert_array_equal(scores[name].targets, records.targets)
        assert scores[name].scores.shape == (1, *records.targets.shape)
        assert scores[name].validation_scores.shape[1:] == scores[name].validation_targets.shape
        assert (scores[name].encoder, scores[name].evaluation) == ("supervised", "supervised")
        assert scores[name].settings == {"fraction": 1.0}
        assert scores[name].checkpoint == "supervised ecg_resnet1d"
    assert len(scores["axis"].record_ids) == 24
    assert len(scores["number"].record_ids) == 16


def test_a_second_call_loads_whatever_the_order_of_the_tasks(answer, monkeypatch):
    first = answer()
    networks = {path.name for path in answer.folder.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(FinetuningTrainer, "train", lambda *_, **__: pytest.fail("it trains again"))
        again = answer(tasks=(NUMBER, AXIS), protocol="published")
    for name, scores in first.items():
        np.testing.assert_array_equal(again[name].scores, scores.scores)
        assert (scores.protocol, again[name].protocol) == ("strict", "published")
    assert {path.name for path in answer.folder.iterdir()} == networks
    assert not list(answer.folder.rglob("checkpoint-*")), "weights are kept, states of the optimiser are not"


@pytest.mark.slow
def test_another_seed_set_of_tasks_or_revision_is_another_network(data, answer):
    def number_of_networks():
        return sum(path.is_dir() for path in answer.folder.iterdir())

    first, before = answer(), number_of_networks()
    other = answer(seed=1)
    assert not np.array_equal(other["axis"].scores, first["axis"].scores)
    answer(tasks=(AXIS,))
    answer(of=dataclasses.replace(data, revision="2"))
    assert number_of_networks() == before + 3
