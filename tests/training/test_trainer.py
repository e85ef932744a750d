"""What the trainer adds to that of transformers."""

from __future__ import annotations

import pytest
import torch

from hf_ecgtext.methods import get_recipe
from hf_ecgtext.training import EcgTextTrainer, EcgTextTrainingArguments


def trainer_of(dataset, folder, overrides=None, **settings) -> EcgTextTrainer:
    model, processor = get_recipe("merl", "debug").override(overrides or {}).build()
    options = {"per_device_train_batch_size": 8, "disable_tqdm": True, "save_strategy": "no", **settings}
    return EcgTextTrainer(
        model, EcgTextTrainingArguments(output_dir=str(folder), **options), processor, dataset, dataset
    )


def test_parameter_groups_have_their_own_learning_rates(synthetic_dataset, tmp_path):
    multipliers = {"text_tower": 0.1, "text_tower.model.embeddings": 0.01}
    trainer = trainer_of(synthetic_dataset, tmp_path, learning_rate=1e-2, learning_rate_multipliers=multipliers)
    rates = {
        parameter: group["lr"] for group in trainer.create_optimizer().param_groups for parameter in group["params"]
    }
    for name, parameter in trainer.model.named_parameters():
        expected = 1e-2
        if name.startswith("text_tower"):
            expected = 1e-4 if "embeddings" in name else 1e-3
        assert rates[parameter] == pytest.approx(expected), name
    assert len(rates) == len(list(trainer.model.parameters()))


def test_a_multiplier_that_matches_nothing_is_refused(synthetic_dataset, tmp_path):
    trainer = trainer_of(synthetic_dataset, tmp_path, learning_rate_multipliers={"txt": 0.1})
    with pytest.raises(ValueError, match=r"names no parameter: \['txt'\]"):
        trainer.create_optimizer()


def test_restarts_follow_the_released_schedule(synthetic_dataset, tmp_path):
    trainer = trainer_of(
        synthetic_dataset, tmp_path, max_steps=7, logging_steps=1, learning_rate=1e-3, lr_restart_steps=3
    )
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates == pytest.approx([1e-3, 0.75e-3, 0.25e-3] * 2 + [1e-3], rel=1e-6)


def test_frozen_parameters_do_not_move_and_trained_ones_do(synthetic_dataset, tmp_path):
    trainer = trainer_of(synthetic_dataset, tmp_path, {"config.freeze_text": True}, max_steps=3, learning_rate=1e-2)
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    for name, value in trainer.model.named_parameters():
        assert torch.equal(value, before[name]) is name.startswith("text_tower."), name


def test_the_evaluation_batch_is_the_training_batch(tmp_path):
    assert EcgTextTrainingArguments(str(tmp_path), per_device_train_batch_size=24).per_device_eval_batch_size == 24
    assert EcgTextTrainingArguments(str(tmp_path), per_device_eval_batch_size=3).per_device_eval_batch_size == 3


def test_precision_is_full_on_a_cpu_and_wrong_names_are_refused(tmp_path):
    if not torch.cuda.is_available():
        assert not EcgTextTrainingArguments(str(tmp_path)).bf16
    with pytest.raises(ValueError, match="precision"):
        EcgTextTrainingArguments(str(tmp_path), precision="half")
    with pytest.raises(ValueError, match="lr_restart_steps"):
        EcgTextTrainingArguments(str(tmp_path), lr_restart_steps=0)


def test_a_split_smaller_than_a_batch_is_explained(synthetic_dataset, tmp_path):
    with pytest.raises(ValueError, match="training split has 96 records, fewer than one batch of 128"):
        trainer_of(synthetic_dataset, tmp_path, per_device_train_batch_size=128)
    with pytest.raises(ValueError, match="validation split has 96 records, fewer than one batch of 97"):
        trainer_of(synthetic_dataset, tmp_path, per_device_eval_batch_size=97, eval_strategy="epoch")
    assert trainer_of(synthetic_dataset, tmp_path, per_device_eval_batch_size=97), "it is never evaluated"


@pytest.mark.slow
def test_gradient_accumulation_does_not_change_the_scale_of_the_loss(synthetic_dataset, tmp_path):
    losses = []
    for steps in (1, 3):
        trainer = trainer_of(
            synthetic_dataset, tmp_path, max_steps=1, logging_steps=1, learning_rate=0.0,
            gradient_accumulation_steps=steps,
        )  # fmt: skip
        trainer.train()
        entry = next(entry for entry in trainer.state.log_history if "loss" in entry)
        assert entry["loss"] == pytest.approx(entry["cma"] + entry["uma"], rel=1e-4)
        losses.append(entry["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=0.2)


def test_one_process_with_several_gpus_is_refused(synthetic_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(EcgTextTrainingArguments, "n_gpu", 2)
    with pytest.raises(ValueError, match=r"One process sees 2 GPUs.*`accelerate launch`"):
        trainer_of(synthetic_dataset, tmp_path)


def test_precision_gives_way_to_transformers_own_flags_and_refuses_contradictions(tmp_path, monkeypatch):
    for check in (
        "hf_ecgtext.training.arguments._gpu_has_bf16",
        "transformers.training_args.is_torch_bf16_gpu_available",
    ):
        monkeypatch.setattr(check, lambda: True)
    assert EcgTextTrainingArguments(str(tmp_path)).bf16
    half = EcgTextTrainingArguments(str(tmp_path), fp16=True)
    assert (half.fp16, half.bf16) == (True, False)
    assert not EcgTextTrainingArguments(str(tmp_path), use_cpu=True).bf16
    with pytest.raises(ValueError, match="bf16=True contradicts precision='fp32'"):
        EcgTextTrainingArguments(str(tmp_path), bf16=True, precision="fp32")


def test_several_validation_sets_are_evaluated_by_name_from_the_cache(synthetic_dataset, tmp_path):
    trainer = trainer_of(
        synthetic_dataset, tmp_path, {"config.freeze_text": True}, max_steps=1, eval_strategy="steps", eval_steps=1
    )
    both = {"first": synthetic_dataset, "second": synthetic_dataset}
    trainer = EcgTextTrainer(trainer.model, trainer.args, trainer.processing_class, synthetic_dataset, both)
    trainer.train()
    assert trainer.text_cache is not None
    logged = set().union(*trainer.state.log_history)
    assert {"eval_first_cma", "eval_second_cma"} <= logged


@pytest.mark.slow
def test_a_second_training_does_not_log_the_last_terms_of_the_first(synthetic_dataset, tmp_path):
    trainer = trainer_of(synthetic_dataset, tmp_path, max_steps=3, logging_steps=2)
    trainer.train()
    trainer._term_sums[True]["cma"] += 1e6  # of the step behind the last log
    trainer.train()
    assert max(entry["cma"] for entry in trainer.state.log_history if "cma" in entry) < 1e3


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks by that name
def test_adapters_in_a_frozen_text_tower_train_and_turn_the_cache_off(synthetic_dataset, tmp_path):
    peft = pytest.importorskip("peft")
    model, processor = get_recipe("merl", "debug").override({"config.freeze_text": True}).build()
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["query", "value"]))
    arguments = EcgTextTrainingArguments(
        str(tmp_path), per_device_train_batch_size=8, max_steps=2, learning_rate=1e-2, disable_tqdm=True,
        save_strategy="no",
    )  # fmt: skip
    trainer = EcgTextTrainer(adapted, arguments, processor, synthetic_dataset)
    trainer.train()
    assert trainer.text_cache is None
    moved = [bool(value.any()) for name, value in adapted.named_parameters() if "lora_B" in name]  # they start at zero
    assert moved
    assert all(moved)
