"""Training on recordings of 30 s with a model that reads 10 s; under `torchrun`, one process of `test_random_crops.py`.

The tests share its functions. Of every recording, lead I counts the samples and lead II tells the record.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from hf_ecgtext.data.records import StoredEcg
from hf_ecgtext.leads import STANDARD_LEADS
from hf_ecgtext.methods import get_recipe
from hf_ecgtext.training import EcgTextTrainer, EcgTextTrainingArguments

NUM_RECORDS = 24
CENTRE = 1000
"""First sample of the middle 10 s of 30 s at 100 Hz."""


class LongRecordings(Dataset):
    """30 s at 100 Hz; every fourth as float32, which cannot travel packed."""

    def __len__(self) -> int:
        return NUM_RECORDS

    def __getitem__(self, index: int) -> dict:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices) -> list[dict]:
        return [{"ecg": recording(index)} for index in indices]


class LongRecordingsInBlocks(LongRecordings):
    """The same, read block by block, as prepared and raw data are."""

    block_sizes = np.ones(NUM_RECORDS, dtype=np.int64)


def recording(index: int) -> StoredEcg:
    samples = np.random.default_rng(index).integers(-200, 200, (12, 3000)).astype(np.int16)
    samples[0] = np.arange(3000)
    samples[1] = index
    gain = np.ones(12)
    if index % 4 == 3:
        samples = samples.astype(np.float32)
    report = f"sinus rhythm, {index} beats per minute"
    return StoredEcg(samples, gain, np.zeros(12, np.int32), 100.0, STANDARD_LEADS, f"record {index}", report=report)


def trainer_of(folder: Path, overrides: dict | None = None, **settings) -> EcgTextTrainer:
    """ETP whose input is in mV, so that it says where a window begins."""
    recipe = get_recipe("etp", "debug").override(
        {
            "ecg.crop": "random",
            "ecg.scaling": "none",
            "ecg.check_limb_leads": "off",
            "ecg.check_amplitude": "off",
            **(overrides or {}),
        }
    )
    model, processor = recipe.build()
    options = {
        "per_device_train_batch_size": 8, "num_train_epochs": 3, "learning_rate": 1e-3, "disable_tqdm": True,
        "lr_scheduler_type": "constant", "save_strategy": "no", "use_cpu": True, **settings,
    }  # fmt: skip
    dataset = options.pop("dataset", LongRecordings)()
    arguments = EcgTextTrainingArguments(str(folder), **options)
    return EcgTextTrainer(model, arguments, processor, dataset, dataset)


class WindowsRead:
    """First samples of the windows that a model reads, step by step: `(record, first sample)` of each."""

    def __init__(self, model):
        self.training: list[list[tuple[int, int]]] = []
        self.evaluation: list[list[tuple[int, int]]] = []
        model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, model, args, inputs) -> None:
        values = inputs["ecg_values"]
        read = [(round(record), round(first)) for first, record in values[:, :2, 0].tolist()]
        (self.training if model.training else self.evaluation).append(read)


def main(folder: Path) -> None:
    trainer = trainer_of(folder, per_device_train_batch_size=4, eval_strategy="epoch")
    windows = WindowsRead(trainer.model)
    trainer.train()
    rank = trainer.args.process_index
    (folder / f"rank{rank}.json").write_text(json.dumps([windows.training, windows.evaluation]))


if __name__ == "__main__":
    assert os.environ["WORLD_SIZE"] == "2"
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
