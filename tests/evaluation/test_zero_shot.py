"""Zero-shot as an evaluation of the frame: cached embeddings, prompt sets, members, validation scores."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from table_encoder import TableEncoder, normalised, table_data

from hf_ecgtext.data.opening import open_data
from hf_ecgtext.data.sources import synthetic
from hf_ecgtext.data.tasks import LabelTask
from hf_ecgtext.evaluation.context import EvaluatedTask, EvaluationContext
from hf_ecgtext.evaluation.downstream.zero_shot import evaluate
from hf_ecgtext.evaluation.encoders.feature_cache import FeatureCache
from hf_ecgtext.evaluation.encoders.frozen import EncoderRuns, ModelEncoder, random_runs
from hf_ecgtext.evaluation.prompts.sets import PromptError, build_prompts
from hf_ecgtext.evaluation.protocols import PUBLISHED, STRICT
from hf_ecgtext.evaluation.scores import TaskScores
from hf_ecgtext.methods import get_recipe

NAMES = {"SR": "sinus rhythm", "AFIB": "atrial fibrillation", "LVH": "left ventricular hypertrophy"}
TASK = LabelTask("mine", "labels", NAMES)
DIM = 6


def rows(split, number, labels=(("SR",), ("AFIB",), ("LVH", "SR"), ())):
    return [
        {
            "record_id": f"{split}{row:02d}",
            "patient_id": f"{split}{row // 2}",
            "labels": list(labels[row % len(labels)]),
        }
        for row in range(number)
    ]


def vector(text):
    return np.random.default_rng(list(text.encode())).standard_normal(DIM)


class Words(dict):
    """A vector for every text."""

    def __missing__(self, text):
        return vector(f"{self.get('seed', 0)} {text}")


def encoder(name="table", **words):
    return TableEncoder(Words(seed=f"{name} ecg"), Words(words, seed=f"{name} text"), name=name)


def context(tmp_path, prompt_sets=("plain",), **options):
    cache = FeatureCache(tmp_path / "features", show_progress=False)
    return EvaluationContext(cache=cache, protocol=STRICT, prompt_sets=prompt_sets, **options)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return synthetic.open_data(num_records=120, sampling_rate_hz=100.0, cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def model_encoder():
    return ModelEncoder(*get_recipe("merl", "debug").build(seed=0))


def embed_ecgs(model, processor, rows) -> np.ndarray:
    inputs = processor.feature_extractor(
        [item["ecg"] for item in rows.__getitems__(range(len(rows)))], return_tensors="pt"
    )
    with torch.no_grad():
        return model.get_ecg_features(inputs["ecg_values"], lead_mask=inputs["lead_mask"]).numpy()


def embed_classes(model, processor, prompts) -> np.ndarray:
    means = [
        model.get_text_features(**processor(text=texts, return_tensors="pt")).mean(0) for texts in prompts.values()
    ]
    return torch.nn.functional.normalize(torch.stack(means), dim=-1).numpy()


def test_a_score_is_the_cosine_that_the_model_itself_gives(data, model_encoder, tmp_path):
    task = EvaluatedTask(data, data.tasks[0])
    runs = EncoderRuns("debug", "trained", (model_encoder,), seed=7)
    sets = ("plain", "descriptions", "plain+template+descriptions")
    outcome = evaluate(runs, task, context(tmp_path, sets, contamination="none"))
    assert [scores.prompts for scores in outcome.scores] == list(sets)
    assert outcome.results == ()
    model, processor = model_encoder.model, model_encoder.processor
    for split, of_split in (("test", "scores"), ("validation", "validation_scores")):
        embeds = embed_ecgs(model, processor, data.split(split))
        ids = data.split(split).column("record_id")
        by_id = dict(zip(ids, embeds, strict=True))
        expected_rows = np.stack([by_id[record] for record in task.records(split).record_ids])
        for scores in outcome.scores:
            parts = [
                build_prompts(data.tasks[0].class_names, part, task="synthetic") for part in scores.prompts.split("+")
            ]
            prompts = {label: list({text: 0 for part in parts for text in part[label]}) for label in sorted(parts[0])}
            assert scores.details["num_prompts"] == sum(map(len, prompts.values()))
            with torch.no_grad():
                classes = embed_classes(model, processor, prompts)
            np.testing.assert_allclose(getattr(scores, of_split), [expected_rows @ classes.T], atol=2e-5)
    scores = outcome.scores[1]
    assert scores.class_names == tuple(sorted(data.tasks[0].class_names))
    assert (scores.checkpoint, scores.encoder, scores.seed) == ("debug", "trained", 7)
    assert (scores.score_kind, scores.protocol, scores.contamination) == ("similarity", "strict", "none")
    assert scores.settings == {}
    assert scores.details["prompts_source"] == "hf_ecgtext"


def test_random_members_are_runs_of_one_row(data, model_encoder, tmp_path):
    task = EvaluatedTask(data, data.tasks[0])
    both = random_runs(model_encoder, data, "debug", (0, 1))
    (pooled,) = evaluate(both, task, context(tmp_path)).scores
    assert pooled.scores.shape == (2, *task.records("test").targets.shape)
    assert (pooled.encoder, pooled.seed) == ("random", (0, 1))
    for place, member in enumerate(both.members):
        (alone,) = evaluate(EncoderRuns("debug", "random", (member,)), task, context(tmp_path)).scores
        np.testing.assert_array_equal(pooled.scores[place], alone.scores[0])
    assert not np.array_equal(pooled.scores[0], pooled.scores[1])


def test_the_cosine_of_known_vectors(tmp_path):
    ecgs = {"test00": [1.0, 0.0], "test01": [3.0, 4.0]}
    texts = {"sinus rhythm": [2.0, 0.0], "atrial fibrillation": [0.0, 1.0]}
    task = LabelTask("mine", "labels", {"SR": "sinus rhythm", "AFIB": "atrial fibrillation"})
    table = TableEncoder(ecgs, texts)
    opened = table_data(tasks=[task], test=rows("test", 2, (("SR",), ("AFIB",))))
    (scores,) = evaluate(EncoderRuns("x", "trained", (table,)), EvaluatedTask(opened, task), context(tmp_path)).scores
    assert scores.class_names == ("AFIB", "SR")
    np.testing.assert_allclose(scores.scores, [[[0.0, 1.0], [0.8, 0.6]]], atol=1e-6)


def test_a_class_embedding_is_the_normalised_mean_over_all_prompts_of_an_ensemble(tmp_path):
    path = tmp_path / "extra.json"
    path.write_text(json.dumps({label: [f"{name} one", f"{name} two"] for label, name in NAMES.items()}))
    table = encoder()
    opened = table_data(tasks=[TASK], test=rows("test", 8))
    outcome = evaluate(
        EncoderRuns("x", "trained", (table,)), EvaluatedTask(opened, TASK), context(tmp_path, (f"plain+{path}",))
    )
    (scores,) = outcome.scores
    assert scores.prompts == "plain+extra"
    assert scores.details["num_prompts"] == 9
    for column, label in enumerate(scores.class_names):
        texts = [NAMES[label], f"{NAMES[label]} one", f"{NAMES[label]} two"]
        mean = normalised(table.embed_texts(texts).mean(axis=0))
        expected = [float(normalised(table.ecgs[record]) @ mean) for record in scores.record_ids]
        np.testing.assert_allclose(scores.scores[0][:, column], expected, atol=1e-6)


def test_neither_the_order_of_records_nor_that_of_classes_changes_a_number(tmp_path):
    split = {name: rows(name, 12) for name in ("validation", "test")}
    turned = {name: list(reversed(records)) for name, records in split.items()}
    turned_task = LabelTask("mine", "labels", dict(reversed(NAMES.items())))
    runs = EncoderRuns("x", "trained", (encoder(),))
    sets = ("plain", "template")
    straight = evaluate(runs, EvaluatedTask(table_data(tasks=[TASK], **split), TASK), context(tmp_path / "a", sets))
    other = evaluate(
        runs, EvaluatedTask(table_data(tasks=[turned_task], **turned), turned_task), context(tmp_path / "b", sets)
    )
    for one, two in zip(straight.scores, other.scores, strict=True):
        assert (one.class_names, one.record_ids) == (two.class_names, two.record_ids)
        for name in ("scores", "targets", "validation_scores", "validation_targets"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


@pytest.mark.parametrize("validation", [None, [], rows("validation", 4, ((),))], ids=["none", "empty", "unlabelled"])
def test_without_labelled_validation_records_there_are_no_validation_scores_and_that_is_said(tmp_path, validation):
    splits = {} if validation is None else {"validation": validation}
    opened = table_data(tasks=[TASK], test=rows("test", 8), **splits)
    (scores,) = evaluate(
        EncoderRuns("x", "trained", (encoder(),)), EvaluatedTask(opened, TASK), context(tmp_path)
    ).scores
    assert scores.validation_scores is None
    assert scores.validation_targets is None
    assert scores.details["validation"] == "no record of a validation split with a label of mine"


def test_scores_survive_saving(tmp_path):
    opened = table_data(tasks=[TASK], test=rows("test", 8), validation=rows("validation", 4))
    runs = EncoderRuns("x", "random", (encoder("one"), encoder("two")), seed=(3, 4))
    (scores,) = evaluate(runs, EvaluatedTask(opened, TASK), context(tmp_path)).scores
    scores.save(tmp_path / "scores.npz")
    again = TaskScores.load(tmp_path / "scores.npz")
    assert (again.prompts, again.details, again.seed) == (scores.prompts, scores.details, (3, 4))
    np.testing.assert_array_equal(again.validation_scores, scores.validation_scores)


def test_both_protocols_ask_the_same_question(tmp_path):
    opened = table_data(tasks=[TASK], test=rows("test", 8))
    runs, task, strict = EncoderRuns("x", "trained", (encoder(),)), EvaluatedTask(opened, TASK), context(tmp_path)
    (one,) = evaluate(runs, task, strict).scores
    (two,) = evaluate(runs, task, replace(strict, protocol=PUBLISHED)).scores
    assert (one.protocol, two.protocol) == ("strict", "published")
    np.testing.assert_array_equal(one.scores, two.scores)


def test_an_encoder_without_text_is_refused_by_name(tmp_path):
    opened = table_data(tasks=[TASK], test=rows("test", 8))
    runs = EncoderRuns("intervals", "interval_features", (TableEncoder(Words(seed="x")),))
    with pytest.raises(TypeError, match=r"'intervals' \(interval_features\) has no text tower"):
        evaluate(runs, EvaluatedTask(opened, TASK), context(tmp_path))


def test_prompt_sets_that_cannot_be_told_apart_or_lack_the_task_are_refused(tmp_path):
    opened = table_data(tasks=[TASK], test=rows("test", 8))
    runs, task = EncoderRuns("x", "trained", (encoder(),)), EvaluatedTask(opened, TASK)
    with pytest.raises(PromptError, match="more than one set named plain"):
        evaluate(runs, task, context(tmp_path, ("plain", "plain")))
    with pytest.raises(PromptError, match="no task 'mine'"):
        evaluate(runs, task, context(tmp_path, ("plain", "descriptions")))


def test_a_prompt_with_a_nan_embedding_is_named(tmp_path):
    opened = table_data(tasks=[TASK], test=rows("test", 8))
    broken = encoder(**{"sinus rhythm": np.full(DIM, np.nan)})
    with pytest.raises(ValueError, match="embedding of the prompt 'sinus rhythm' is NaN"):
        evaluate(EncoderRuns("x", "trained", (broken,)), EvaluatedTask(opened, TASK), context(tmp_path))


def test_the_published_prompts_and_ours_answer_real_recordings_of_csn(real_data, model_encoder, tmp_path):
    opened = open_data("csn", real_data / "csn")
    published = real_data / "prompts" / "CKEPE_prompt.json"
    runs = EncoderRuns("debug", "trained", (model_encoder,))
    outcome = evaluate(
        runs, EvaluatedTask(opened, opened.tasks[0]), context(tmp_path, ("descriptions", str(published)))
    )
    ours, theirs = outcome.scores
    assert (ours.prompts, theirs.prompts) == ("descriptions", "CKEPE_prompt")
    assert ours.scores.shape == theirs.scores.shape == (1, len(ours.record_ids), 38)
    assert np.abs(ours.scores).max() <= 1 + 1e-5
    assert not np.array_equal(ours.scores, theirs.scores)
