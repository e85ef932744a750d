"""Batches that nothing can be learned from are refused before the training, or warned of loudly while it runs."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_ecgtext.cli import main
from hf_ecgtext.data.sources.synthetic import SYNTHETIC_FEATURES
from hf_ecgtext.data.store.schema import EcgDataset, record_to_row, rows_to_table
from hf_ecgtext.data.synthetic import SyntheticEcgGenerator
from hf_ecgtext.methods import get_recipe, method_names
from hf_ecgtext.training import EcgTextTrainer, EcgTextTrainingArguments
from hf_ecgtext.training.collator import EcgTextCollator
from hf_ecgtext.training.degenerate_batches import DegenerateBatchWatch, check_pairs, check_reports, is_guessing

METHODS = method_names()
CMELT_ALONE = {"config.ets_weight": 0.0, "config.text_pooling": "cls"}
"""MLM, MEM and ETM read each record alone."""


def dataset_of(count: int = 24, report=None, signal=None) -> EcgDataset:
    records = SyntheticEcgGenerator(seed=0, sampling_rate_hz=100.0).records(count)
    changed = [
        replace(
            record,
            report=record.report if report is None else report(number),
            signal=record.signal if signal is None else signal(record.signal),
        )
        for number, record in enumerate(records)
    ]
    return EcgDataset(Dataset(rows_to_table([record_to_row(record) for record in changed], SYNTHETIC_FEATURES)))


@pytest.fixture(scope="module")
def rows() -> EcgDataset:
    return dataset_of()


def trainer_of(folder, train, evaluated=None, method="etp", overrides=None, **settings) -> EcgTextTrainer:
    model, processor = get_recipe(method, "debug").override(overrides or {}).build(seed=0)
    options = {"per_device_train_batch_size": 8, "max_steps": 2, "logging_steps": 1, **settings}
    arguments = EcgTextTrainingArguments(str(folder), disable_tqdm=True, save_strategy="no", **options)
    return EcgTextTrainer(model, arguments, processor, train, evaluated)


# One pair per batch


@pytest.mark.parametrize("accumulation", [1, 16])
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_of_one_pair_is_refused_with_the_way_to_a_large_one(method, accumulation, rows, tmp_path):
    with pytest.raises(ValueError, match="per_device_train_batch_size=1 makes training batches of one pair") as error:
        trainer_of(
            tmp_path, rows, method=method, per_device_train_batch_size=1, gradient_accumulation_steps=accumulation
        )
    assert "gradient_accumulation_steps does not enlarge a contrastive batch" in str(error.value)
    assert "grad_cache_chunk_size computes a large batch in small chunks" in str(error.value)


def test_the_command_line_refuses_it_in_one_line(tmp_path, capsys):
    settings = ["training.per_device_train_batch_size=1", "training.gradient_accumulation_steps=32"]
    command = ["train", "--method", "merl", "--recipe", "debug", "--output-dir", str(tmp_path), "--set", *settings]
    assert main([*command, "--data-set", "num_records=20", "sampling_rate_hz=100"]) == 1
    ours = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hf-ecgtext train: ")]
    assert len(ours) == 1
    assert "one pair" in ours[0]


@pytest.mark.slow
def test_a_method_that_reads_each_record_alone_trains_on_one_per_batch(rows, tmp_path):
    trainer = trainer_of(
        tmp_path, rows, method="cmelt", overrides=CMELT_ALONE, per_device_train_batch_size=1, max_steps=2
    )
    trainer.train()
    assert all(entry["loss"] > 0 for entry in trainer.state.log_history if "loss" in entry)


@pytest.mark.parametrize("method", METHODS)
def test_the_contract_says_which_losses_compare_records(method, rows):
    """Where it does, what one record learns depends on another record of its batch; else it does not."""
    for overrides in ({}, CMELT_ALONE) if method == "cmelt" else ({},):
        model, processor = get_recipe(method, "debug").override(overrides).build(seed=0)
        batch = EcgTextCollator(processor)(rows.__getitems__(range(6)))
        kept = model.eval()(**batch, return_rows=True).rows
        learned = []
        for factor in (1.0, -1.5):
            leaves = {name: row.detach().clone() for name, row in kept.items()}
            for name, row in leaves.items():
                if kept[name].requires_grad:
                    row[3] *= factor
                    row.requires_grad_()
            model.loss_from_rows(leaves)[0].backward()
            learned.append({name: row.grad[0] for name, row in leaves.items() if row.grad is not None})
        same = [torch.allclose(value, learned[1][name], rtol=1e-4) for name, value in learned[0].items()]
        assert same
        assert model.contrasts_records is not all(same)


def test_two_processes_with_a_pair_each_have_something_to_compare(rows):
    model = SimpleNamespace(contrasts_records=True)
    for world_size in (1, 2):
        args = SimpleNamespace(world_size=world_size, dataloader_drop_last=True)
        if world_size == 2:
            check_pairs(model, args, rows, 1)
        else:
            with pytest.raises(ValueError, match="one pair"):
                check_pairs(model, args, rows, 1)


def test_an_evaluation_of_one_pair_per_batch_is_refused_before_the_training_and_when_asked_for(rows, tmp_path):
    problem = "per_device_eval_batch_size=1 makes validation batches of one pair"
    with pytest.raises(ValueError, match=problem):
        trainer_of(tmp_path, rows, {"first": rows}, per_device_eval_batch_size=1, eval_strategy="epoch")
    trainer = trainer_of(tmp_path, rows, rows, per_device_eval_batch_size=1)
    with pytest.raises(ValueError, match=problem):
        trainer.evaluate()
    assert trainer_of(tmp_path, rows, rows, per_device_eval_batch_size=2).evaluate()["eval_loss"] > 0


@pytest.mark.parametrize("streams", [True, False])
def test_a_last_batch_of_one_pair_is_refused_and_one_of_two_is_not(streams, rows, tmp_path):
    def cut(count):
        subset = EcgDataset(rows.dataset.select(range(count)))
        if streams:
            subset.block_sizes = [count]
        return subset

    keep = {"dataloader_drop_last": False, "max_steps": 3}
    with pytest.raises(ValueError, match=r"training split has 17 records, .* a last batch of one pair.*drop_last=True"):
        trainer_of(tmp_path, cut(17), **keep)
    trainer = trainer_of(tmp_path, cut(18), **keep)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 3
    assert min(losses) > 0
    with pytest.raises(ValueError, match=r"validation split has 9 records, .* last batch of one pair"):
        trainer.evaluate(cut(9))
    with pytest.raises(ValueError, match=r"validation split has 9 records, .* last batch of one pair"):
        trainer_of(tmp_path, cut(18), cut(9), eval_strategy="epoch", **keep)
    assert trainer_of(tmp_path, cut(17), max_steps=1), "incomplete batches are dropped by default"


def test_a_batch_that_shrinks_to_one_pair_is_refused(rows, tmp_path):
    trainer = trainer_of(tmp_path, rows)
    trainer._train_batch_size = 1  # what auto_find_batch_size comes to where memory is short
    with pytest.raises(ValueError, match="training batches of one pair"):
        trainer.get_train_dataloader()


# Equal reports


def test_a_training_set_with_one_report_is_refused_before_it_begins(tmp_path):
    trainer = trainer_of(tmp_path, dataset_of(report=lambda number: "Sinus rhythm. Normal ECG."))
    problem = r"All 24 training records have the same report after cleaning by 'none': 'Sinus rhythm\. Normal ECG\.'"
    with pytest.raises(ValueError, match=problem):
        trainer.train()
    assert trainer.state.global_step == 0


def test_reports_that_only_cleaning_makes_equal_are_the_same(tmp_path):
    spelled = ["sinus rhythm", "SINUS RHYTHM", "Sinus rhythm  "]
    rows = dataset_of(report=lambda number: spelled[number % 3])
    model, processor = get_recipe("etp", "debug").build(seed=0)
    check_reports(model, rows, processor)
    processor.report_cleaning = "12sl"
    with pytest.raises(ValueError, match="after cleaning by '12sl': 'sinus rhythm"):
        check_reports(model, rows, processor)


def test_two_reports_are_enough_and_losses_without_pairs_need_no_second(rows, tmp_path):
    model, processor = get_recipe("etp", "debug").build(seed=0)
    check_reports(model, dataset_of(report=lambda number: f"Sinus rhythm {number == 5}."), processor)
    equal = dataset_of(report=lambda number: "Sinus rhythm.")
    alone, _ = get_recipe("cmelt", "debug").override(CMELT_ALONE).build(seed=0)
    check_reports(alone, equal, processor)


class NotListed(torch.utils.data.Dataset):
    """A dataset that cannot say beforehand which reports it has."""

    def __init__(self, rows: EcgDataset):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        return self.rows[index]


class Stream(torch.utils.data.IterableDataset):
    """The same, in an order of its own and without a length."""

    def __init__(self, rows: EcgDataset):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows.__getitems__(range(len(self.rows))))


class SlowToList(EcgDataset):
    """As a download without reports in its tables, which would be read as a whole."""

    lists_reports = False

    def unique_reports(self):
        raise AssertionError("all records would be read")


@pytest.mark.parametrize("kind", [NotListed, Stream])
def test_equal_reports_that_nobody_listed_are_warned_of_once_while_training(kind, tmp_path, caplog):
    trainer = trainer_of(tmp_path, kind(dataset_of(report=lambda number: "Sinus rhythm.")), max_steps=14)
    trainer.train()
    assert caplog.text.count("All reports of the first 10 batches are equal") == 1
    assert "there is nothing to tell apart" in caplog.text


def test_a_download_is_not_read_as_a_whole_to_know_its_reports(rows, tmp_path, caplog):
    slow = SlowToList(dataset_of(report=lambda number: "Sinus rhythm.").dataset)
    trainer_of(tmp_path, slow, overrides={"config.freeze_text": False}, max_steps=3).train()
    assert "All reports of the first 3 batches are equal" in caplog.text, "a short training says so at its end"


def test_equal_signals_are_warned_of(tmp_path, caplog):
    flat = dataset_of(signal=np.zeros_like)
    trainer_of(tmp_path, flat, max_steps=3).train()
    assert "All ECGs of the first 3 batches are equal" in caplog.text


@pytest.mark.slow
def test_few_distinct_reports_are_warned_of_and_usual_duplicates_are_only_counted(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="hf_ecgtext")
    trainer_of(tmp_path, dataset_of(report=lambda number: f"Rhythm {number == 7}."), max_steps=12).train()
    (warning,) = [entry for entry in caplog.records if "so that most pairs" in entry.getMessage()]
    assert warning.levelno == logging.WARNING
    assert "the same report in 8" in warning.getMessage() or "the same report in 9" in warning.getMessage()

    caplog.clear()
    # A quarter of the records of PTB-XL have one of a few reports.
    trainer_of(tmp_path, dataset_of(report=lambda number: f"Rhythm {max(number - 8, 0)}."), max_steps=12).train()
    found = [entry for entry in caplog.records if entry.name.endswith("degenerate_batches")]
    assert [entry.levelno for entry in found] == [logging.INFO]
    share = float(found[0].getMessage().split(" in ")[1].split()[0])
    assert 3 < share < 20  # 9 * 8 of the 24 * 23 pairs: 13 %


def test_a_watched_batch_costs_no_look_at_its_values():
    watch = DegenerateBatchWatch(SimpleNamespace(contrasts_records=True))
    with torch.device("meta"):  # there are no values to look at
        for _ in range(12):
            watch.see({"ecg_values": torch.ones(4, 12, 1000), "report_ids": torch.arange(4)})
            watch.see({"ecg_values": torch.ones(4, 12, 1000), "input_ids": torch.ones(4, 9)})
    assert watch._seen == 10


def test_batches_without_what_is_watched_are_passed_over():
    watch = DegenerateBatchWatch(SimpleNamespace(contrasts_records=True))
    watch.see({"signal": torch.ones(4, 12, 1000)})
    watch.see({"ecg_values": torch.ones(1, 12, 1000), "report_ids": torch.arange(1)})  # of one of several processes
    watch.tell_of_batches(is_over=True)
    assert watch._seen == 0


@pytest.mark.slow
def test_neither_a_whole_training_nor_its_evaluation_is_warned_of(rows, tmp_path, caplog):
    for method in METHODS:
        trainer_of(tmp_path, rows, rows, method=method, max_steps=3, eval_strategy="steps", eval_steps=2).train()
    assert not [entry for entry in caplog.records if entry.name.endswith("degenerate_batches")]


# Losses that say so afterwards


@pytest.fixture
def watch() -> DegenerateBatchWatch:
    return DegenerateBatchWatch(SimpleNamespace(contrasts_records=True))


def test_a_loss_of_exactly_zero_is_warned_of_once_with_the_way_out(watch, caplog):
    for step in (10, 20, 30):
        watch.look_at({"cma": 0.0, "uma": 0.0}, 4, step)
    (message,) = caplog.messages
    assert message.startswith("The loss is exactly 0 since the last log (step 10)")
    assert "grad_cache_chunk_size" in message
    assert "gradient_accumulation_steps does not enlarge a contrastive batch" in message


@pytest.mark.parametrize("guess", [math.log(32), 2 * math.log(32), math.log(31)])
def test_a_term_that_stays_at_guessing_is_warned_of_once(guess, watch, caplog):
    watch.look_at({"cma": guess, "uma": 1.0}, 32, 10)
    assert not caplog.messages, "a loss may pass by"
    for step in (20, 30):
        watch.look_at({"cma": guess * (1 + 5e-5), "uma": 1.0}, 32, step)
    (message,) = caplog.messages
    assert message.startswith(f"The term 'cma' stands at {guess:.4f}"[:-2])
    assert "what guessing among 32 pairs gives" in message
    assert not is_guessing(guess * 1.01, 32)


def test_other_losses_are_not_warned_of(watch, caplog):
    for terms in ({"cma": 0.0, "uma": 0.3}, {}, {"cma": 3.4}, {"etm": math.log(2)}):
        for step in (10, 20, 30):
            watch.look_at(terms, 2, step)
    silent = DegenerateBatchWatch(SimpleNamespace(contrasts_records=False))
    silent.look_at({"mlm": 0.0}, 32, 10)
    assert not caplog.messages


@pytest.mark.slow
def test_a_model_that_has_collapsed_says_so_while_it_trains(rows, tmp_path, caplog):
    trainer = trainer_of(tmp_path, rows, max_steps=4, learning_rate=0.0)
    for head in (trainer.model.ecg_projection, trainer.model.text_projection):
        for name, parameter in head.named_parameters():
            torch.nn.init.constant_(parameter, float(name.endswith("bias")))  # one embedding for all
    trainer.train()
    (message,) = [text for text in caplog.messages if "guessing among 8 pairs" in text]
    assert "'contrastive'" in message


@pytest.mark.parametrize("method", METHODS)
def test_a_flat_record_in_a_batch_leaves_loss_and_gradients_finite(method, rows):
    model, processor = get_recipe(method, "debug").build(seed=0)
    records = [item["ecg"].to_record() for item in rows.__getitems__(range(5))]
    records[1] = replace(records[1], signal=np.zeros_like(records[1].signal))
    records[2] = replace(records[2], signal=np.full_like(records[2].signal, np.nan))
    records[2].signal[7, 3] = 0.2
    batch = EcgTextCollator(processor)([{"ecg": record} for record in records])
    loss = model.train()(**batch).loss
    loss.backward()
    assert loss.isfinite()
    assert all(value.grad.isfinite().all() for value in model.parameters() if value.grad is not None)
