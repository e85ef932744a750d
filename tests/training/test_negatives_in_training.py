"""Negative reports from the training arguments to the loss."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hf_ecgtext.encoders.text import load_text_model
from hf_ecgtext.errors import RecordError
from hf_ecgtext.methods import get_recipe
from hf_ecgtext.methods.merl import MerlModel
from hf_ecgtext.training import EcgTextTrainer, EcgTextTrainingArguments
from hf_ecgtext.training.collator import EcgTextCollator
from hf_ecgtext.training.negatives import embed_reports


class MatchingMerl(MerlModel):
    """MERL with one more term, which asks of each record alone whether the report is its own."""

    uses_negatives = True

    def training_rows(self, ecg_values, lead_mask, text, *, is_aligned, **extra):
        return {**super().training_rows(ecg_values, lead_mask, text, **extra), "is_aligned": is_aligned}

    def loss_terms(self, rows):
        is_aligned = rows.pop("is_aligned").float()
        cosine = F.cosine_similarity(rows["ecg"], rows["text"])
        return {
            **super().loss_terms(rows),
            "matching": F.binary_cross_entropy_with_logits(10 * cosine, is_aligned),
            "aligned": is_aligned.mean(),
        }


class RecordingTrainer(EcgTextTrainer):
    """Keeps what each step is given."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen: list[dict[str, torch.Tensor]] = []

    def compute_loss(self, model, inputs, *args, **kwargs):
        names = ("ecg_values", "is_aligned", "input_ids", "report_ids")
        self.seen.append({name: inputs[name].clone() for name in names if name in inputs})
        return super().compute_loss(model, inputs, *args, **kwargs)


def trainer_of(dataset, folder, model_class=MatchingMerl, eval_dataset=None, overrides=None, **settings):
    model, processor = get_recipe("merl", "debug").override(overrides or {}).build()
    model.__class__ = model_class
    options = {
        "negative_sampling": "far",
        "negative_embedding_model": "tiny-bert",
        "num_negative_candidates": 5,
        "per_device_train_batch_size": 8,
        "max_steps": 3,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "disable_tqdm": True,
        "save_strategy": "no",
        "use_cpu": True,
        **settings,
    }
    arguments = EcgTextTrainingArguments(output_dir=str(folder), **options)
    return RecordingTrainer(model, arguments, processor, dataset, eval_dataset or dataset)


def subset(dataset, start: int, stop: int):
    return type(dataset)(dataset.dataset.select(range(start, stop)))


# From arguments to loss


@pytest.mark.parametrize("text_cache", [True, False])
@pytest.mark.parametrize("kind", ["far", "hard", "random"])
def test_negatives_reach_the_loss(kind, text_cache, synthetic_dataset, tmp_path):
    overrides = {"config.freeze_text": text_cache}
    trainer = trainer_of(synthetic_dataset, tmp_path, negative_sampling=kind, overrides=overrides)
    trainer.train()
    assert ("report_ids" in trainer.seen[0]) is text_cache
    logged = [entry for entry in trainer.state.log_history if "matching" in entry]
    assert [entry["aligned"] for entry in logged] == [0.5, 0.5, 0.5]


def test_a_training_leaves_the_collator_that_it_was_given_as_it_is(synthetic_dataset, tmp_path):
    model, processor = get_recipe("merl", "debug").override({"config.freeze_text": True}).build()
    model.__class__ = MatchingMerl
    given = EcgTextCollator(processor, pack=True)
    before = dict(vars(given))
    args = EcgTextTrainingArguments(
        str(tmp_path), negative_sampling="random", max_steps=1, per_device_train_batch_size=8, save_strategy="no"
    )
    trainer = EcgTextTrainer(model, args, processor, synthetic_dataset, synthetic_dataset, data_collator=given)
    trainer.train()
    assert vars(given) == before
    made = trainer.data_collator
    assert made.report_ids is trainer.text_cache.report_ids
    assert made.negatives is not None
    assert made.processor is processor
    assert made.pack


def test_embeddings_are_of_the_distinct_cleaned_training_reports(synthetic_dataset, tmp_path):
    train, validation = subset(synthetic_dataset, 0, 64), subset(synthetic_dataset, 64, 96)
    overrides = {"text.report_cleaning": "mimic"}
    trainer = trainer_of(train, tmp_path, eval_dataset=validation, overrides=overrides, max_steps=1)
    trainer.train()
    negatives = trainer.data_collator.negatives
    assert set(negatives.reports[: negatives.num_drawable]) <= set(train.unique_reports())
    assert set(validation.unique_reports()) - set(train.unique_reports()) <= set(negatives.reports)
    assert len(negatives.reports) > negatives.num_drawable

    unit = embed_reports([negatives.clean(report) for report in negatives.reports], "tiny-bert", show_progress=False)
    similarities = unit.astype(np.float64) @ unit[: negatives.num_drawable].T.astype(np.float64)
    similarities[np.arange(negatives.num_drawable), np.arange(negatives.num_drawable)] = np.inf
    farthest = np.sort(similarities, axis=1)[:, :5]
    taken = np.take_along_axis(similarities, negatives.candidates.astype(np.int64), axis=1)
    np.testing.assert_allclose(np.sort(taken, axis=1), farthest, atol=1e-6)


def test_reports_of_the_validation_data_never_enter_the_training(synthetic_dataset, tmp_path):
    train, validation = subset(synthetic_dataset, 0, 48), subset(synthetic_dataset, 48, 96)
    trainer = trainer_of(train, tmp_path, eval_dataset=validation, negative_sampling="random", negative_fraction=1.0)
    trainer.evaluate()
    known = set(train.unique_reports())
    for dataset in (train, validation):
        rows = dataset.__getitems__(range(48))
        drawn, is_aligned = trainer.data_collator.negatives.draw(
            [row["ecg"].report for row in rows], [row["ecg"].record_id for row in rows]
        )
        assert not is_aligned.any()
        assert set(drawn) <= known


@pytest.mark.slow
def test_the_settings_reach_the_sampler(synthetic_dataset, tmp_path):
    trainer = trainer_of(
        synthetic_dataset, tmp_path, negative_fraction=0.25, num_negative_candidates=3, seed=5, max_steps=1
    )
    trainer.train()
    negatives = trainer.data_collator.negatives
    assert (negatives.fraction, negatives.candidates.shape[1], negatives.seed) == (0.25, 3, 5)
    assert trainer.seen[0]["is_aligned"].sum() == 6
    trainer = trainer_of(synthetic_dataset, tmp_path, negative_sampling="random", data_seed=9, max_steps=1)
    trainer.train()
    assert trainer.data_collator.negatives.seed == 9


def test_without_negative_sampling_nothing_is_drawn(synthetic_dataset, tmp_path):
    trainer = trainer_of(synthetic_dataset, tmp_path, MerlModel, negative_sampling=None, max_steps=1)
    trainer.train()
    assert trainer.data_collator.negatives is None
    assert "is_aligned" not in trainer.seen[0]


def test_negatives_reach_the_loss_through_gradient_caching(synthetic_dataset, tmp_path):
    chunks = {"grad_cache_chunk_size": 4, "grad_cache_batch_norm_per_chunk": True}
    trainer = trainer_of(synthetic_dataset, tmp_path, negative_fraction=0.25, **chunks)
    trainer.train()
    assert [entry["aligned"] for entry in trainer.state.log_history if "aligned" in entry] == [0.75, 0.75, 0.75]


# The same draws again


def draws_by_signal(trainer) -> dict[bytes, tuple[list[bool], list[list[int]]]]:
    """What was drawn for each batch, by its signals."""
    return {
        step["ecg_values"].numpy().tobytes(): (step["is_aligned"].tolist(), step["input_ids"].tolist())
        for step in trainer.seen
    }


@pytest.mark.slow
def test_evaluation_has_the_same_negatives_every_time_and_before_the_training_too(synthetic_dataset, tmp_path):
    trainer = trainer_of(synthetic_dataset, tmp_path)
    trainer.evaluate()
    first = draws_by_signal(trainer)
    assert len(first) == 12
    assert all(sum(is_aligned) == 4 for is_aligned, _ in first.values())
    trainer.train()
    trainer.seen.clear()
    trainer.evaluate()
    assert draws_by_signal(trainer) == first


def test_the_next_epoch_has_other_negatives(synthetic_dataset, tmp_path):
    trainer = trainer_of(subset(synthetic_dataset, 0, 8), tmp_path, max_steps=2)  # one batch is an epoch
    trainer.train()
    first, second = (
        {
            signal.tobytes(): tokens.tolist()
            for signal, tokens in zip(step["ecg_values"].numpy(), step["input_ids"], strict=True)
        }
        for step in trainer.seen
    )
    assert first.keys() == second.keys()
    assert first != second


@pytest.mark.slow
def test_a_resumed_run_draws_what_the_uninterrupted_one_drew(synthetic_dataset, tmp_path):
    options = {"max_steps": 16, "save_strategy": "steps", "save_steps": 7}  # 12 steps are an epoch
    whole = trainer_of(synthetic_dataset, tmp_path, **options)
    whole.train()
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    resumed = trainer_of(synthetic_dataset, tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-7"))
    assert len(resumed.seen) == 9
    for theirs, ours in zip(whole.seen[7:], resumed.seen, strict=True):
        for name, value in theirs.items():
            assert torch.equal(ours[name], value), name


def test_loader_processes_draw_what_the_main_process_draws(synthetic_dataset, tmp_path):
    alone = trainer_of(synthetic_dataset, tmp_path, negative_sampling="random")
    alone.evaluate()
    helped = trainer_of(synthetic_dataset, tmp_path, negative_sampling="random", dataloader_num_workers=2)
    helped.evaluate()
    assert draws_by_signal(helped) == draws_by_signal(alone)


# Embeddings


def test_an_embedding_is_the_normalised_mean_over_real_tokens_whatever_the_batch():
    reports = ["sinus rhythm", "atrial fibrillation with rapid ventricular response", "normal ecg", "v" * 400]
    model, tokenizer = load_text_model("tiny-bert", "mean")
    expected = []
    for report in reports:
        tokens = tokenizer(report, truncation=True, max_length=128, return_tensors="pt")
        mean = model.eval()(**tokens).last_hidden_state[0].mean(dim=0)
        expected.append((mean / mean.norm()).detach().numpy())
    for batch_size in (1, 3, 64):
        found = embed_reports(reports, "tiny-bert", batch_size=batch_size, show_progress=False)
        np.testing.assert_allclose(found, np.stack(expected), atol=1e-6)


# Errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"negative_sampling": "nearest"}, "negative_sampling must be None, 'far', 'hard', 'random', not 'nearest'"),
        ({"negative_fraction": 0.0}, "negative_fraction must be above 0"),
        ({"negative_fraction": 1.01}, "negative_fraction must be above 0 and at most 1, not 1.01"),
        ({"num_negative_candidates": 0}, "num_negative_candidates must be positive, not 0"),
    ],
)
def test_impossible_arguments_are_refused(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        EcgTextTrainingArguments(str(tmp_path), **settings)


@pytest.mark.parametrize("action", ["train", "evaluate"])
def test_a_method_that_uses_no_negatives_refuses_them(action, synthetic_dataset, tmp_path):
    trainer = trainer_of(synthetic_dataset, tmp_path, MerlModel)
    with pytest.raises(ValueError, match="negative_sampling='far', but MerlModel does not use negatives"):
        getattr(trainer, action)()


def test_a_dataset_that_cannot_list_its_reports_is_refused(synthetic_dataset, tmp_path):
    rows = synthetic_dataset.__getitems__(range(16))  # a plain list
    for train, validation in ((rows, synthetic_dataset), (synthetic_dataset, rows)):
        with pytest.raises(ValueError, match=r"needs all reports beforehand, and list cannot list them"):
            trainer_of(train, tmp_path, eval_dataset=validation).train()


def test_a_collator_that_cannot_draw_is_refused(synthetic_dataset, tmp_path):
    trainer = trainer_of(synthetic_dataset, tmp_path)
    trainer.data_collator = EcgTextCollator(trainer.processing_class).__call__
    with pytest.raises(ValueError, match="is done by EcgTextCollator; method would ignore it"):
        trainer.train()


def test_an_embedding_model_that_cannot_be_loaded_is_named(synthetic_dataset, tmp_path):
    trainer = trainer_of(synthetic_dataset, tmp_path, negative_embedding_model=str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match=r"negative_embedding_model='.*nothing' cannot be loaded.*'minilm'"):
        trainer.train()


def test_faiss_is_asked_for_before_anything_is_embedded(synthetic_dataset, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr("hf_ecgtext.training.negatives.embed_reports", lambda *args: pytest.fail("embedded"))
    with pytest.raises(ImportError, match=r"pip install \"hf-ecgtext\[negatives\]\""):
        trainer_of(synthetic_dataset, tmp_path).train()


def test_a_report_that_is_empty_after_cleaning_is_shown(synthetic_dataset, tmp_path):
    class WithEmptyReport(type(synthetic_dataset)):
        def unique_reports(self):
            return [*super().unique_reports(), "*** ***"]

    trainer = trainer_of(
        WithEmptyReport(synthetic_dataset.dataset), tmp_path, overrides={"text.report_cleaning": "mimic"}
    )
    with pytest.raises(RecordError, match=r"Record '\*\*\* \*\*\*'.*empty after cleaning by 'mimic'"):
        trainer.train()


def test_evaluating_unknown_data_names_the_record(synthetic_dataset, tmp_path):
    trainer = trainer_of(subset(synthetic_dataset, 0, 48), tmp_path, negative_sampling="random", max_steps=1)
    trainer.train()
    stranger = synthetic_dataset.__getitems__(range(8))
    stranger[3] = {"ecg": replace(stranger[3]["ecg"], record_id="new", report="A report that nobody has seen")}
    with pytest.raises(RecordError, match=r"Record 'new': its report .* is not among those"):
        trainer.evaluate(stranger)
