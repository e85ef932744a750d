"""Integers travel to the device and become float there: the training sees what it saw, at half the bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hf_ecgtext.data.records import EcgRecord
from hf_ecgtext.methods import get_recipe
from hf_ecgtext.training import EcgTextTrainer, EcgTextTrainingArguments
from hf_ecgtext.training.collator import EcgTextCollator


def num_bytes(batch) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in batch.values())


def trainer_of(dataset, folder, recipe="merl", pack=True, **settings) -> EcgTextTrainer:
    model, processor = get_recipe(recipe, "debug").build(seed=0)
    options = {"per_device_train_batch_size": 8, "disable_tqdm": True, "save_strategy": "no", "seed": 1, **settings}
    return EcgTextTrainer(
        model,
        EcgTextTrainingArguments(output_dir=str(folder), **options),
        processor,
        dataset,
        dataset,
        **({} if pack else {"data_collator": EcgTextCollator(processor)}),
    )


def trained_weights(trainer) -> dict[str, torch.Tensor]:
    trainer.train()
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


class Mixed(torch.utils.data.Dataset):
    """The records, every fourth as float32 millivolts."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        row = self.dataset[index]
        return row if index % 4 else {**row, "ecg": row["ecg"].to_record()}

    def unique_reports(self):
        return self.dataset.unique_reports()


def test_a_packed_batch_travels_at_half_the_bytes(synthetic_dataset):
    # Records whose leads need a second look travel as floats.
    _, processor = get_recipe("merl", "debug").override({"ecg.check_limb_leads": "off"}).build(seed=0)
    rows = synthetic_dataset.__getitems__(range(16))
    packed, plain = EcgTextCollator(processor, pack=True)(rows), EcgTextCollator(processor)(rows)
    assert "ecg_values" not in packed
    signal_bytes = {name: tensor.numel() * tensor.element_size() for name, tensor in packed.items() if "ecg" in name}
    assert sum(signal_bytes.values()) < 0.51 * plain["ecg_values"].numel() * 4
    saved = plain["ecg_values"].numel() * 2 - 16 * 12 * 4  # a gain per lead; all baselines are 0
    assert num_bytes(plain) - num_bytes(packed) == saved


@pytest.mark.parametrize("recipe", ["merl", "cmelt"])
def test_the_unpacked_batch_is_the_plain_one_with_tokens_and_all(recipe, synthetic_dataset):
    _, processor = get_recipe(recipe, "debug").build(seed=0)
    collator = EcgTextCollator(processor, pack=True)
    for rows in (synthetic_dataset.__getitems__(range(8)), [Mixed(synthetic_dataset)[index] for index in range(8)]):
        got, expected = collator.processor.feature_extractor.unpack(collator(rows)), EcgTextCollator(processor)(rows)
        assert got.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(got[name], tensor, rtol=1e-6, atol=2e-6)


def test_unpacking_leaves_a_plain_batch_alone(synthetic_dataset):
    _, processor = get_recipe("merl", "debug").build(seed=0)
    batch = EcgTextCollator(processor)(synthetic_dataset.__getitems__(range(3)))
    unpacked = processor.feature_extractor.unpack(batch)
    assert unpacked.keys() == batch.keys()
    assert all(unpacked[name] is tensor for name, tensor in batch.items())


def test_a_model_refuses_a_packed_batch(synthetic_dataset):
    model, processor = get_recipe("merl", "debug").build(seed=0)
    batch = EcgTextCollator(processor, pack=True)(synthetic_dataset.__getitems__(range(4)))
    with pytest.raises(TypeError, match="ecg_"):
        model(**batch)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"grad_cache_chunk_size": 4, "grad_cache_batch_norm_per_chunk": True}])
@pytest.mark.parametrize("mixed", [False, True])
def test_training_on_packed_batches_equals_training_on_plain_ones(synthetic_dataset, tmp_path, settings, mixed):
    dataset = Mixed(synthetic_dataset) if mixed else synthetic_dataset
    options = {"max_steps": 3, "learning_rate": 1e-3, **settings}
    packed = trained_weights(trainer_of(dataset, tmp_path, **options))
    plain = trained_weights(trainer_of(dataset, tmp_path, pack=False, **options))
    for name, value in plain.items():
        torch.testing.assert_close(packed[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_the_trainer_packs_and_the_model_gets_millivolts(synthetic_dataset, tmp_path):
    trainer = trainer_of(synthetic_dataset, tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["ecg_adc"].dtype == torch.int16
    inputs = trainer._prepare_inputs(batch)
    assert not [name for name in inputs if name in ("ecg_adc", "ecg_gain", "ecg_baseline")]
    assert inputs["ecg_values"].dtype == torch.float32
    assert trainer.evaluate()["eval_loss"] > 0


def test_workers_send_integers(synthetic_dataset, tmp_path):
    trainer = trainer_of(synthetic_dataset, tmp_path, dataloader_num_workers=1)
    own = trainer_of(synthetic_dataset, tmp_path, dataloader_num_workers=0)
    from_worker, here = (next(iter(each.get_eval_dataloader())) for each in (trainer, own))
    assert from_worker.keys() == here.keys()
    assert all(torch.equal(from_worker[name], here[name]) for name in here)


@pytest.mark.slow
def test_negatives_keep_their_records(synthetic_dataset, tmp_path):
    settings = {"negative_sampling": "random", "max_steps": 2, "learning_rate": 1e-3}
    packed = trained_weights(trainer_of(synthetic_dataset, tmp_path, "cmelt", **settings))
    plain = trained_weights(trainer_of(synthetic_dataset, tmp_path, "cmelt", pack=False, **settings))
    for name, value in plain.items():
        torch.testing.assert_close(packed[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_an_empty_report_is_refused_by_its_record_also_when_packed(synthetic_dataset):
    _, processor = get_recipe("merl", "debug").build(seed=0)
    rows = synthetic_dataset.__getitems__(range(3))
    rows[1] = {"ecg": replace(rows[1]["ecg"], report="  ", record_id="the second")}
    assert not isinstance(rows[1]["ecg"], EcgRecord)
    for pack in (True, False):
        with pytest.raises(ValueError, match=r"the second.*empty"):
            EcgTextCollator(processor, pack=pack)(rows)
