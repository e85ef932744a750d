"""Trains the debug MERL on a prepared folder, and notes which records each process saw in each step."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from hf_ecgtext.data.store.dataset import ParquetEcgDataset
from hf_ecgtext.methods import get_recipe
from hf_ecgtext.training import EcgTextTrainer, EcgTextTrainingArguments
from hf_ecgtext.training.checkpoints import last_complete_checkpoint
from hf_ecgtext.training.collator import EcgTextCollator


class NotingCollator(EcgTextCollator):
    """Adds the rows and the worker of a batch."""

    def __call__(self, rows):
        import torch

        worker = torch.utils.data.get_worker_info()
        noted = {"rows": [row["index"] for row in rows], "worker": None if worker is None else worker.id}
        return super().__call__(rows) | {"noted": noted}


class NotingTrainer(EcgTextTrainer):
    """Writes what each training step has seen."""

    def training_step(self, model, inputs, *args, **kwargs):
        noted = inputs.pop("noted")
        with (Path(self.args.output_dir) / f"seen-{self.args.process_index}.jsonl").open("a") as file:
            file.write(json.dumps({"step": self.state.global_step, "world_size": self.args.world_size, **noted}) + "\n")
        if self.slow:
            time.sleep(0.3)
        return super().training_step(model, inputs, *args, **kwargs)


def main(folder: str, output_dir: str, settings: str) -> None:
    """Train, from the last checkpoint where there is one."""
    given = json.loads(settings)
    slow = given.pop("slow", False)
    recipe = get_recipe("merl", "debug")
    model, processor = recipe.build(seed=0)
    args = EcgTextTrainingArguments(output_dir=output_dir, **{**recipe.training, "disable_tqdm": True, **given})
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    trainer = NotingTrainer(
        model=model,
        args=args,
        processor=processor,
        train_dataset=ParquetEcgDataset(folder, "train"),
        data_collator=NotingCollator(processor),
    )
    trainer.slow = slow
    (Path(output_dir) / f"pid-{args.process_index}").write_text(str(os.getpid()))
    checkpoint = last_complete_checkpoint(Path(output_dir))
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    trainer.save_model()


if __name__ == "__main__":
    main(*sys.argv[1:])
