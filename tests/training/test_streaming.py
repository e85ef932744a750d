"""Training on blocks: every record once an epoch, whoever reads it, and where a killed run stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from prepared_folder import SIZES, write_prepared
from processes import REPOSITORY, environment, launch
from safetensors.torch import load_file

from hf_ecgtext.data.store.block_order import BlockOrder
from hf_ecgtext.data.store.dataset import ParquetEcgDataset
from hf_ecgtext.methods import get_recipe
from hf_ecgtext.training import EcgTextTrainer, EcgTextTrainingArguments
from hf_ecgtext.training.checkpoints import last_complete_checkpoint
from hf_ecgtext.training.collator import EcgTextCollator

WORKER = str(Path(__file__).with_name("streaming_worker.py"))
NUM_TRAIN = sum(SIZES["train"])
STEPS_PER_EPOCH = 8
SETTINGS = {
    "max_steps": 2 * STEPS_PER_EPOCH,
    "per_device_train_batch_size": 23,  # 368 records are 8 steps of 2 x 23
    "dataloader_num_workers": 2,
    "save_steps": 2,
    "save_strategy": "steps",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "tiny"
    write_prepared(folder)
    return folder


def seen_in(output_dir, world_size):
    """Rows by step, of all processes; a step that was done again counts once, as it was done last."""
    rows: dict[int, list[int]] = {}
    workers: dict[tuple[int, int], int] = {}
    for rank in range(world_size):
        last: dict[int, dict] = {}
        for line in (output_dir / f"seen-{rank}.jsonl").read_text().splitlines():
            noted = json.loads(line)
            assert noted["world_size"] == world_size
            last[noted["step"]] = noted
        for step, noted in last.items():
            rows.setdefault(step, []).extend(noted["rows"])
            workers[rank, step] = noted["worker"]
    return rows, workers


def rows_of_epoch(rows, epoch):
    return [row for step in range(epoch * STEPS_PER_EPOCH, (epoch + 1) * STEPS_PER_EPOCH) for row in rows[step]]


@pytest.mark.slow
def test_two_processes_with_two_workers_see_every_record_once_and_find_their_place_again_after_a_kill(folder, tmp_path):
    whole, interrupted = tmp_path / "whole", tmp_path / "interrupted"
    launch([WORKER, str(folder), str(whole), json.dumps(SETTINGS)], tmp_path, num_processes=2)
    rows, workers = seen_in(whole, 2)
    assert sorted(rows) == list(range(2 * STEPS_PER_EPOCH))
    epochs = [rows_of_epoch(rows, epoch) for epoch in range(2)]
    for seen in epochs:
        assert sorted(seen) == list(range(NUM_TRAIN))
    assert epochs[0] != epochs[1]
    assert {worker for (_, step), worker in workers.items()} == {0, 1}

    process = subprocess.Popen(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
            WORKER, str(folder), str(interrupted), json.dumps({**SETTINGS, "slow": True}),
        ],
        cwd=REPOSITORY, env=environment(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 200
        while last_complete_checkpoint(interrupted) is None:
            assert process.poll() is None, "the run ended before its first checkpoint"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        for file in interrupted.glob("pid-*"):  # torchrun gives each process a session of its own
            with suppress(ProcessLookupError):
                os.kill(int(file.read_text()), signal.SIGKILL)
        process.kill()
        process.wait()
    checkpoint = last_complete_checkpoint(interrupted)
    step = json.loads((checkpoint / "trainer_state.json").read_text())["global_step"]
    assert 0 < step < STEPS_PER_EPOCH, "it was killed in mid-epoch"
    time.sleep(0.5)  # whoever still lived would go on
    before, _ = seen_in(interrupted, 2)
    assert max(before) < STEPS_PER_EPOCH

    launch([WORKER, str(folder), str(interrupted), json.dumps(SETTINGS)], tmp_path, num_processes=2)
    resumed, _ = seen_in(interrupted, 2)
    assert resumed == rows, "every step has seen what it would have seen without the kill"
    weights, expected = load_file(interrupted / "model.safetensors"), load_file(whole / "model.safetensors")
    assert set(weights) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(weights[name], tensor), name


def trainer_of(folder, output_dir, dataset=None, **settings):
    recipe = get_recipe("merl", "debug")
    model, processor = recipe.build(seed=0)
    args = EcgTextTrainingArguments(
        output_dir=str(output_dir),
        **{**recipe.training, "report_to": "none", "disable_tqdm": True, "use_cpu": True, **settings},
    )
    dataset = ParquetEcgDataset(folder, "train") if dataset is None else dataset
    return EcgTextTrainer(model=model, args=args, processor=processor, train_dataset=dataset)


class Indexed:
    """Keeps the rows of a batch beside what the collator makes of them."""

    def __init__(self, processor):
        self.collator = EcgTextCollator(processor)

    def __call__(self, rows):
        return self.collator(rows) | {"rows": [row["index"] for row in rows]}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_trainer_follows_the_block_order_of_its_seed_through_the_epochs(num_workers, folder, tmp_path):
    trainer = trainer_of(
        folder, tmp_path, seed=4, dataloader_num_workers=num_workers, dataloader_persistent_workers=num_workers > 0
    )
    trainer.data_collator = Indexed(trainer.processing_class)
    loader = trainer.get_train_dataloader()
    order = BlockOrder(trainer.train_dataset.block_sizes, 16, seed=4, num_workers=num_workers)
    assert len(loader) == len(order) == NUM_TRAIN // 16
    for epoch in (0, 1, 5):
        loader.set_epoch(epoch)
        order.set_epoch(epoch)
        assert [batch["rows"] for batch in loader] == list(order)


def test_one_process_sees_the_same_records_in_an_epoch_as_two(folder, tmp_path):
    sizes = ParquetEcgDataset(folder, "train").block_sizes
    one = [row for batch in BlockOrder(sizes, 32, drop_last=False) for row in batch]
    two = [
        row
        for rank in range(2)
        for batch in BlockOrder(sizes, 16, rank=rank, world_size=2, drop_last=False)
        for row in batch
    ]
    assert sorted(one) == sorted(two) == list(range(NUM_TRAIN))


@pytest.mark.slow
def test_resuming_reads_nothing_of_what_was_done(folder, tmp_path, monkeypatch):
    settings = {"save_steps": 10, "save_strategy": "steps", "max_steps": 20}
    whole = trainer_of(folder, tmp_path / "run", **settings)
    whole.train()
    read = []
    original = ParquetEcgDataset.__getitems__
    monkeypatch.setattr(ParquetEcgDataset, "__getitems__", lambda self, rows: read.extend(rows) or original(self, rows))
    resumed = trainer_of(folder, tmp_path / "run", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-10"))
    order = BlockOrder(resumed.train_dataset.block_sizes, 16, seed=42)  # the default of transformers
    batches = list(order)
    assert read[: 10 * 16] == [row for batch in batches[10:20] for row in batch]
    assert not set(read) & {row for batch in batches[:10] for row in batch}
    for (name, ours), theirs in zip(resumed.model.named_parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.slow
def test_resuming_in_mid_epoch_in_another_order_is_refused(folder, tmp_path):
    settings = {"save_steps": 3, "save_strategy": "steps", "max_steps": 4}
    trainer_of(folder, tmp_path, **settings).train()
    checkpoint = str(tmp_path / "checkpoint-3")
    for change, told in (
        ({"per_device_train_batch_size": 8}, r"batch_size=8 \(was 16\)"),
        ({"dataloader_num_workers": 2}, r"num_workers=2 \(was 1\)"),
        ({"seed": 9}, r"seed=9 \(was 42\)"),
    ):
        with pytest.raises(ValueError, match=told):
            trainer_of(folder, tmp_path, **{**settings, **change}).train(resume_from_checkpoint=checkpoint)
    write_prepared(tmp_path / "other", {"train": (100, 100, 168)})
    with pytest.raises(ValueError, match="blocks="):
        trainer_of(tmp_path / "other", tmp_path, **settings).train(resume_from_checkpoint=checkpoint)
    again = trainer_of(folder, tmp_path, **settings, dataloader_num_workers=1)  # reads in the same order as none
    assert again.train(resume_from_checkpoint=checkpoint).global_step == 4


@pytest.mark.slow
def test_resuming_at_the_end_of_an_epoch_may_change_the_order(folder, tmp_path):
    settings = {"save_steps": 23, "save_strategy": "steps"}
    trainer_of(folder, tmp_path, max_steps=23, **settings).train()
    again = trainer_of(folder, tmp_path, max_steps=25, dataloader_num_workers=2, **settings)
    assert again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-23")).global_step == 25


def test_validation_reads_in_order_and_gives_the_loss_of_the_arrow_cache(folder, tmp_path):
    from datasets import load_dataset

    from hf_ecgtext.data.store.schema import EcgDataset

    cached = load_dataset(
        "parquet", data_files=str(folder / "data" / "validation-*"), split="train", cache_dir=str(tmp_path / "cache")
    )
    losses = [
        trainer_of(folder, tmp_path, per_device_eval_batch_size=16, dataloader_num_workers=workers).evaluate(dataset)
        for dataset, workers in (
            (EcgDataset(cached), 0),
            (ParquetEcgDataset(folder, "validation"), 0),
            (ParquetEcgDataset(folder, "validation"), 2),
        )
    ]
    assert losses[0]["eval_loss"] == losses[1]["eval_loss"] == losses[2]["eval_loss"]
