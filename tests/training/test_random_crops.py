"""`ecg.crop=random` in a real training: another part of a recording in every epoch, and the centre in evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from processes import launch
from random_crops_worker import CENTRE, NUM_RECORDS, LongRecordingsInBlocks, WindowsRead, trainer_of

from hf_ecgtext.data.random_crops import RandomCrops
from hf_ecgtext.training.collator import EcgTextCollator

WORKER = str(Path(__file__).with_name("random_crops_worker.py"))
EPOCH = NUM_RECORDS // 8  # steps


def train(folder, resume=False, overrides=None, **settings) -> WindowsRead:
    trainer = trainer_of(folder, overrides, **settings)
    windows = WindowsRead(trainer.model)
    trainer.train(resume_from_checkpoint=resume or None)
    windows.model = trainer.model
    return windows


def by_epoch(steps) -> list[dict[int, int]]:
    """Of each epoch, the first sample of every record's window."""
    flat = [window for step in steps for window in step]
    return [dict(flat[start : start + NUM_RECORDS]) for start in range(0, len(flat), NUM_RECORDS)]


@pytest.fixture(scope="module")
def windows(tmp_path_factory) -> WindowsRead:
    return train(tmp_path_factory.mktemp("crops"), eval_strategy="steps", eval_steps=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> WindowsRead:
    """Without evaluation, which draws random numbers too."""
    return train(tmp_path_factory.mktemp("whole"))


def test_every_record_is_read_from_another_place_in_every_epoch(windows):
    epochs = by_epoch(windows.training)
    assert len(epochs) == 3
    assert all(epoch.keys() == set(range(NUM_RECORDS)) for epoch in epochs)
    for record in range(NUM_RECORDS):
        assert len({epoch[record] for epoch in epochs}) == 3, record
    starts = [start for epoch in epochs for start in epoch.values()]
    assert min(starts) >= 0
    assert max(starts) <= 2000, "30 s have 20 s of possible starts"
    assert min(starts) < 300
    assert max(starts) > 1700
    assert len(set(starts)) > 60


def test_evaluation_in_the_middle_of_training_and_behind_it_reads_the_centre(windows):
    assert len(windows.evaluation) == 5 * EPOCH, "behind steps 2, 4, 6, 8 and the last"
    assert {start for batch in windows.evaluation for _, start in batch} == {CENTRE}


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"dataset": LongRecordingsInBlocks},
        {"dataset": LongRecordingsInBlocks, "dataloader_num_workers": 1, "dataloader_persistent_workers": True},
        {"dataloader_num_workers": 2},
        {"dataloader_num_workers": 1, "dataloader_persistent_workers": True},
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
        {"grad_cache_chunk_size": 3, "grad_cache_batch_norm_per_chunk": True},
    ],
    ids=str,
)
def test_the_crops_come_back_with_the_seed_however_batches_are_made(settings, windows, tmp_path):
    again = train(tmp_path, num_train_epochs=2, **settings)
    steps = again.training
    if "grad_cache_chunk_size" in settings:  # every chunk is computed twice: without a gradient, then with it
        steps = [chunk for first in range(0, len(steps), 6) for chunk in steps[first : first + 3]]
    assert by_epoch(steps) == by_epoch(windows.training)[:2]


@pytest.mark.parametrize("settings", [{"seed": 1}, {"data_seed": 7}])
def test_another_seed_crops_elsewhere(settings, windows, tmp_path):
    other = by_epoch(train(tmp_path, num_train_epochs=1, **settings).training)[0]
    assert sum(other[record] == start for record, start in by_epoch(windows.training)[0].items()) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("stop", [2, 3, 5], ids=["in the first epoch", "at its end", "in the second epoch"])
def test_a_resumed_training_reads_and_becomes_what_one_that_never_stopped_does(stop, whole, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": stop}
    train(tmp_path, max_steps=stop, **saving)
    resumed = train(tmp_path, resume=True, **saving)
    assert resumed.training == whole.training[stop:]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


@pytest.mark.slow
def test_two_processes_read_together_what_one_reads(windows, tmp_path):
    launch([WORKER, str(tmp_path)], tmp_path, num_processes=2)
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    together: list[dict[int, int]] = [{}, {}, {}]
    for training, evaluation in ranks:
        assert len(training) == 3 * EPOCH
        for step, read in enumerate(training):
            together[step // EPOCH].update(map(tuple, read))
        assert {start for batch in evaluation for _, start in batch} == {CENTRE}
    assert together == by_epoch(windows.training)
    first, second = (training for training, _ in ranks)
    for step in range(3 * EPOCH):
        starts = [{start for _, start in training[step]} for training in (first, second)]
        assert not starts[0] & starts[1], "no crop of one rank is that of another"


def test_a_recording_that_is_not_longer_is_read_as_it_is(tmp_path):
    windows = train(tmp_path, overrides={"ecg.duration_s": 30.0}, num_train_epochs=1)
    assert {start for step in windows.training for _, start in step} == {0}


@pytest.mark.parametrize("crop", ["start", "center"])
def test_without_the_setting_training_reads_one_place(crop, tmp_path):
    windows = train(tmp_path, overrides={"ecg.crop": crop}, num_train_epochs=2)
    assert {start for step in windows.training for _, start in step} == {0 if crop == "start" else CENTRE}


def test_a_collator_that_no_trainer_told_of_an_epoch_draws_nothing(tmp_path):
    trainer = trainer_of(tmp_path)
    rows = trainer.train_dataset.__getitems__(range(6))
    for pack in (True, False):
        collator = EcgTextCollator(trainer.processing_class, pack=pack)
        assert set(collator.processor.feature_extractor.unpack(collator(rows))["ecg_values"][:, 0, 0].tolist()) == {
            float(CENTRE)
        }
        collator.crops.begin_epoch(seed=0, epoch=0)
        drawn = collator.processor.feature_extractor.unpack(collator(rows))["ecg_values"][:, 0, 0]
        assert len(set(drawn.tolist())) == 6
        assert torch.equal(
            collator.processor.feature_extractor.unpack(collator(rows[::-1]))["ecg_values"][:, 0, 0], drawn.flip(0)
        )


def test_draws_are_uniform_and_depend_on_seed_epoch_and_record_alone():
    crops = RandomCrops()
    names = [f"record {number}" for number in range(4000)]
    assert crops.draw("random", names) is None
    draws = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (10, 1), (1, 1)):
        crops.begin_epoch(seed, epoch)
        assert crops.draw("center", names) is None
        draws.append(crops.draw("random", names))
        assert draws[-1].min() >= 0
        assert draws[-1].max() < 1
        assert abs(draws[-1].mean() - 0.5) < 0.03
        assert abs(draws[-1].std() - 12**-0.5) < 0.01
        assert crops.draw("random", names[7:8])[0] == draws[-1][7]
    for number, first in enumerate(draws):
        for second in draws[number + 1 :]:
            assert abs(((first - 0.5) * (second - 0.5)).mean()) < 0.01
