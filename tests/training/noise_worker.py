"""Trains every method's debug recipe in one of several processes, and notes what each step drew and read.

For each method: a whole run with a checkpoint in its middle, then a second trainer that goes on from that checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from datasets import disable_progress_bars

from hf_ecgtext.data.opening import open_data
from hf_ecgtext.methods import get_recipe, method_names
from hf_ecgtext.training import EcgTextTrainer, EcgTextTrainingArguments
from hf_ecgtext.training.collator import EcgTextCollator

STEPS, SAVED_STEP = 6, 4  # four steps are an epoch


class NotingCollator(EcgTextCollator):
    """Keeps the ids of the records of each batch."""

    def __call__(self, rows):
        return super().__call__(rows) | {"ids": [row["ecg"].record_id for row in rows]}


class NotingTrainer(EcgTextTrainer):
    """Notes the records of every step, and what dropout and masks hid."""

    def training_step(self, model, inputs, *args, **kwargs):
        step: dict[str, list[str]] = {"ids": inputs.pop("ids"), "noise": []}

        def note_dropped(module, inputs, output):
            if output.numel() >= 256:  # two draws of a handful of values may be equal by chance
                step["noise"].append(digest(output == 0))

        hooks = [
            module.register_forward_hook(note_dropped)
            for module in self.model.modules()
            if type(module) is torch.nn.Dropout and module.p > 0  # not drop-path, which hides few whole records
        ]
        original = type(self.model).draw_noise

        def noting(*arguments):
            drawn = original(self.model, *arguments)
            step["noise"] += [digest(value) for value in drawn.values()]
            return drawn

        self.model.draw_noise = noting
        try:
            return super().training_step(model, inputs, *args, **kwargs)
        finally:
            del self.model.draw_noise
            for hook in hooks:
                hook.remove()
            self.noted.append(step)


def digest(value: torch.Tensor) -> str:
    return hashlib.sha256(value.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:16]


def trainer_of(method: str, data, folder: Path) -> NotingTrainer:
    recipe = get_recipe(method, "debug")
    model, processor = recipe.build(seed=0)
    settings = {
        **recipe.training, "per_device_train_batch_size": 8, "max_steps": STEPS, "save_steps": SAVED_STEP,
        "save_strategy": "steps", "disable_tqdm": True, "logging_strategy": "no", "seed": 3,
    }  # fmt: skip
    args = EcgTextTrainingArguments(output_dir=str(folder), **settings)
    trainer = NotingTrainer(
        model=model,
        args=args,
        processor=processor,
        train_dataset=data.train,
        eval_dataset=data.validation,
        data_collator=NotingCollator(processor),
    )
    trainer.noted = []
    return trainer


def weights(trainer: NotingTrainer) -> str:
    state = trainer.model.state_dict()
    return digest(torch.cat([value.flatten().double() for value in state.values()]))


def main(output_dir: Path) -> None:
    dist.init_process_group("gloo")
    disable_progress_bars()
    data = open_data("synthetic", num_records=90, sampling_rate_hz=100.0)
    found = {"world_size": dist.get_world_size()}
    for method in method_names():
        whole = trainer_of(method, data, output_dir / method)
        whole.train()
        resumed = trainer_of(method, data, output_dir / method)
        resumed.train(resume_from_checkpoint=str(output_dir / method / f"checkpoint-{SAVED_STEP}"))
        found[method] = {
            "whole": whole.noted, "resumed": resumed.noted, "weights": [weights(whole), weights(resumed)],
        }  # fmt: skip
    (output_dir / f"rank-{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
