"""What `forward` computes of equal and unequal numbers of ECGs and texts, and how often it runs a tower for it."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils.hooks import RemovableHandle

from hf_ecgtext.methods import get_recipe, method_names
from hf_ecgtext.methods.base import EcgTextModel
from hf_ecgtext.training import EcgTextTrainer, EcgTextTrainingArguments
from hf_ecgtext.training.collator import EcgTextCollator


@pytest.fixture(params=method_names())
def built(request):
    return get_recipe(request.param, "debug").build(seed=0)


@pytest.fixture
def model(built) -> EcgTextModel:
    return built[0].eval()


@pytest.fixture
def batch(built, synthetic_dataset) -> dict[str, torch.Tensor]:
    return EcgTextCollator(built[1])(synthetic_dataset.__getitems__(range(6)))


def count_passes(model: EcgTextModel) -> tuple[Counter[str], list[RemovableHandle]]:
    """How often each tower runs from now on."""
    passes: Counter[str] = Counter()
    handles = [
        tower.register_forward_hook(lambda *_, name=name: passes.update([name]))
        for name, tower in (("ecg", model.ecg_encoder), ("text", model.text_tower))
    ]
    return passes, handles


@torch.no_grad()
def test_without_a_loss_equal_numbers_are_embedded_as_one_modality_alone_is(model, batch):
    output = model(**batch, return_loss=False)
    assert output.loss is None
    assert output.loss_terms is None
    ecg = model.get_ecg_features(batch["ecg_values"], batch["lead_mask"])
    text = model.get_text_features(batch["input_ids"], batch["attention_mask"])
    assert torch.equal(output.ecg_embeds, ecg)
    assert torch.equal(output.text_embeds, text)
    assert torch.equal(output.logits_per_ecg, model(**batch).logits_per_ecg)
    assert output.ecg_model_output.pooler_output.shape[0] == 6


@torch.no_grad()
def test_without_a_loss_the_pooled_output_of_the_text_tower_is_enough(model, batch):
    pooled = model.text_tower(batch["input_ids"], batch["attention_mask"]).pooler_output
    output = model(batch["ecg_values"], batch["lead_mask"], text_tower_embeds=pooled, return_loss=False)
    assert torch.equal(output.ecg_embeds, model.get_ecg_features(batch["ecg_values"], batch["lead_mask"]))
    assert torch.equal(output.text_embeds, model.get_text_features(text_tower_embeds=pooled))
    assert output.logits_per_ecg.shape == (6, 6)


@torch.no_grad()
@pytest.mark.parametrize("return_loss", [True, False])
def test_evaluation_runs_every_tower_once(model, batch, return_loss):
    passes, _ = count_passes(model)
    output = model(**batch, return_loss=return_loss)
    assert passes == {"ecg": 1, "text": 1}
    assert (output.loss is not None) is return_loss


@torch.no_grad()
def test_a_demanded_loss_is_the_usual_one_and_brings_the_embeddings_that_cost_nothing(model, batch):
    usual, demanded = model(**batch), model(**batch, return_loss=True)
    assert torch.equal(demanded.loss, usual.loss)
    assert demanded.loss_terms.keys() == usual.loss_terms.keys()
    for name in ("ecg_embeds", "text_embeds", "logits_per_ecg"):
        assert name in usual
        if model.masks_inputs:
            assert name not in demanded, f"{name} would be of masked input, or take another pass"
        else:
            assert torch.equal(demanded[name], usual[name])


def test_in_training_a_demanded_loss_comes_with_embeddings(model, batch):
    passes, _ = count_passes(model.train())
    outputs = []
    for options in ({}, {"return_loss": True}):
        torch.manual_seed(0)
        outputs.append(model(**batch, **options))
    assert passes == {"ecg": 2, "text": 2}
    for name in ("loss", "ecg_embeds", "text_embeds", "logits_per_ecg"):
        assert torch.equal(outputs[0][name], outputs[1][name])


def test_a_loss_of_unequal_numbers_is_refused(model, batch):
    fewer = {**batch, "ecg_values": batch["ecg_values"][:4], "lead_mask": batch["lead_mask"][:4]}
    ecg_only = {name: batch[name] for name in ("ecg_values", "lead_mask")}
    text_only = {name: batch[name] for name in ("input_ids", "attention_mask")}
    for demand in ({"return_loss": True}, {"return_rows": True}):
        for inputs, problem in (
            (fewer, "there are 6 reports and 4 ECGs"),
            (ecg_only, "there are 0 reports and 6 ECGs"),
            (text_only, "there are 6 reports and 0 ECGs"),
        ):
            with pytest.raises(ValueError, match=problem):
                model(**inputs, **demand)
    with torch.no_grad():
        assert model(**fewer).logits_per_ecg.shape == (4, 6), "without a demand they are compared"


def test_what_only_a_loss_needs_and_packed_integers_are_refused_by_name_where_there_is_none(model, batch):
    with pytest.raises(TypeError, match="takes no is_aligned where there is no loss"):
        model(**batch, is_aligned=torch.ones(6, dtype=torch.bool), return_loss=False)
    packed = {"ecg_adc": torch.zeros(6, 12, 1000, dtype=torch.int16), "ecg_gain": torch.ones(6, 12)}
    for options in ({}, {"return_loss": True}, {"return_loss": False}):
        text = {name: batch[name] for name in ("input_ids", "attention_mask")}
        with pytest.raises(TypeError, match="takes no ecg_adc, ecg_gain"):
            model(**packed, **text, **options)


def test_the_trainer_evaluates_with_one_pass_per_batch_and_tower(built, synthetic_dataset, tmp_path):
    model, processor = built
    arguments = EcgTextTrainingArguments(
        str(tmp_path), per_device_train_batch_size=8, text_cache=False, disable_tqdm=True, use_cpu=True
    )
    trainer = EcgTextTrainer(model, arguments, processor, eval_dataset=synthetic_dataset)
    passes, handles = count_passes(model)
    metrics = trainer.evaluate()
    assert passes == {"ecg": 12, "text": 12}, "96 records"
    for handle in handles:
        handle.remove()
    batches = list(trainer.get_eval_dataloader())
    with torch.no_grad():
        losses = [model(**trainer._prepare_inputs(batch)).loss for batch in batches]
    assert metrics["eval_loss"] == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)


def test_a_batch_that_says_itself_that_it_wants_a_loss_can_be_trained_on(built, synthetic_dataset, tmp_path):
    """As the collators of transformers' CLIP examples do."""
    model, processor = built
    collate = EcgTextCollator(processor)
    arguments = EcgTextTrainingArguments(
        str(tmp_path), per_device_train_batch_size=8, max_steps=1, text_cache=False, save_strategy="no",
        disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    trainer = EcgTextTrainer(
        model,
        arguments,
        processor,
        synthetic_dataset,
        data_collator=lambda rows: {**collate(rows), "return_loss": True},
    )
    assert trainer.can_return_loss, "transformers believes it only of a signature with return_loss=True"
    assert trainer.train().training_loss > 0
