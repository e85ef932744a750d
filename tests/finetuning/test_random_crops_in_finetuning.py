"""`crop="random"` in fine-tuning: other parts of longer recordings in every epoch, and whole ones when it counts."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from datasets import Dataset
from finetuning_data import short_recipe, small_task

from hf_ecgtext.data.sources.cinc2021.segments import identification_data
from hf_ecgtext.data.sources.synthetic import SYNTHETIC_FEATURES
from hf_ecgtext.data.store.schema import EcgDataset, record_to_row, rows_to_table
from hf_ecgtext.data.synthetic import SyntheticEcgGenerator
from hf_ecgtext.data.tasks import EcgData
from hf_ecgtext.finetuning.finetune import finetune
from hf_ecgtext.finetuning.identification import CMELT, finetune_identification
from hf_ecgtext.finetuning.labelled_records import LabelCollator
from hf_ecgtext.methods import get_recipe
from hf_ecgtext.processing import EcgFeatureExtractor


def short_model():
    """A model that reads 4 s of 10 s."""
    settings = {"ecg.crop": "random", "ecg.duration_s": 4.0, "ecg.scaling": "none"}
    return get_recipe("merl", "debug").override(settings).build(seed=0)


def first_sample(window: np.ndarray, signal: np.ndarray) -> int:
    windows = np.lib.stride_tricks.sliding_window_view(signal, window.shape[-1])
    (start,) = np.flatnonzero((windows == window).all(axis=-1))
    return int(start)


@pytest.mark.slow
def test_a_classifier_reads_another_part_in_every_epoch_and_is_validated_on_all(
    synthetic_dataset, tmp_path, monkeypatch
):
    read, original = defaultdict(list), LabelCollator.__call__

    def collate(self, rows):
        batch = original(self, rows)
        for row, values in zip(rows, self.unpack(batch)["ecg_values"].numpy(), strict=True):
            read[row["ecg"].record_id].append(first_sample(values[0], row["ecg"].signal[0]))
        return batch

    monkeypatch.setattr(LabelCollator, "__call__", collate)
    scores = []
    for folder in ("first", "second"):
        outcome = finetune(
            *short_model(), small_task(synthetic_dataset), tmp_path / folder, recipe=short_recipe(3),
            show_progress=False, checkpoint="x",
        )  # fmt: skip
        scores.append(outcome.scores["parity"].scores)
    first, second = ([starts[:3] for starts in read.values()], [starts[3:] for starts in read.values()])
    assert first == second, "the seed decides"
    distinct = [len(set(starts)) for starts in first]
    assert np.mean(distinct) > 2.9
    every = {start for starts in first for start in starts}
    assert min(every) < 60
    assert max(every) > 540
    np.testing.assert_array_equal(scores[0], scores[1])


def test_a_network_that_tells_people_apart_does_too(tmp_path, monkeypatch):
    generator = SyntheticEcgGenerator(seed=9, sampling_rate_hz=500.0)
    rows = [record_to_row(generator.record(index)) for index in range(32)]
    everybody = EcgDataset(Dataset(rows_to_table(rows, SYNTHETIC_FEATURES)))
    data = identification_data(
        EcgData("synthetic", "1", train=everybody, validation=None, test=None),
        validation_fraction=0.4,
        unused_fraction=0.0,
    )
    drawn, original = [], EcgFeatureExtractor.__call__

    def prepare(self, ecg, *, positions=None, **options):
        if positions is not None:
            drawn.extend(zip((record.record_id for record in ecg), positions.tolist(), strict=True))
        return original(self, ecg, positions=positions, **options)

    monkeypatch.setattr(EcgFeatureExtractor, "__call__", prepare)
    recipe = CMELT.override(
        {
            "scale": 16.0,
            "margin": 0.2,
            "training.num_train_epochs": 2,
            "training.per_device_train_batch_size": 16,
            "training.disable_tqdm": True,
        }
    )
    finetune_identification(*short_model(), data, tmp_path, recipe=recipe, seed=1)
    num_segments = len(data.train)
    assert len(drawn) == 2 * num_segments, "in training only"
    first, second = dict(drawn[:num_segments]), dict(drawn[num_segments:])
    assert first.keys() == second.keys()
    assert all(first[name] != second[name] for name in first)
