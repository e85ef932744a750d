"""Training arguments beyond those of transformers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

from hf_ecgtext.training.launch import check_launch
from hf_ecgtext.training.negative_sampler import NEGATIVE_KINDS, NegativeKind
from hf_ecgtext.training.schedule_checks import check_run_length, check_schedule_settings
from hf_ecgtext.training.schedules import ScheduleArguments

_STEPS_IN_BACKWARD = ("lomo", "layerwise")  # in the names of transformers' optimisers


@dataclass
class EcgTextTrainingArguments(ScheduleArguments):
    """Arguments of [`EcgTextTrainer`].

    They are those of [`~transformers.TrainingArguments`], of [`~hf_ecgtext.training.schedules.ScheduleArguments`], and:

    Args:
        text_cache (`bool`): Encode each distinct report once where the text tower is frozen and without dropout.
        text_cache_batch_size (`int`): Reports per forward pass while the cache is filled.
        text_cache_dtype (`"float32"`, `"bfloat16"`, `"float16"` or `"auto"`): How the cache keeps the tower's outputs.
            Half precision takes half the memory, which matters to methods that read every token (DERI), and rounds each
            value by up to 0.4 % (bfloat16) or 0.05 % (float16). `"auto"`: float32, or bfloat16 if only that fits.
        text_cache_location (`"auto"`, `"device"` or `"host"`): Where the cache is kept. `"auto"`: on the device if the
            cache takes at most half of the memory that is free there, else in host memory by the same rule, from where
            every batch is copied (same numbers, more traffic); the log says which. A place that is named may be filled.
        sync_batch_norm (`bool`): Compute BatchNorm statistics over the joined batch of all processes, so that N
            processes train exactly as one with the joined batch.
        learning_rate_multipliers (`dict[str, float]`): Learning rate, relative to `learning_rate`, of parameters whose
            name begins with the key; the longest matching key counts. `{"text_tower": 0.1}` slows a trained tower.
        grad_cache_chunk_size (`int`, *optional*): Compute each batch in chunks of so many records, with the gradients
            of the whole batch ([`~hf_ecgtext.training.gradient_cache`]); memory follows the chunk, and the forward
            pass runs twice. All of `per_device_train_batch_size` remain negatives of each other.
        grad_cache_batch_norm_per_chunk (`bool`): Accept that BatchNorm then normalises every chunk by its own
            statistics, so that gradients are not those of the whole batch; refused otherwise.
        precision (`"auto"`, `"fp32"`, `"bf16"` or `"fp16"`): `"auto"` is bf16 on a GPU that supports it, else fp32,
            unless transformers' own `bf16` or `fp16` is set.
        negative_sampling (`"far"`, `"hard"` or `"random"`, *optional*): Give some records the report of another one:
            one of the most dissimilar (C-MELT's N3S), one of the most similar that do not read alike, or any. Only for
            methods that learn to notice (`uses_negatives`).
        negative_fraction (`float`): Share of each batch that gets another report.
        num_negative_candidates (`int`): How many most dissimilar or similar reports to choose among.
        negative_embedding_model (`str`): Text encoder that decides which reports are similar: what
            [`~hf_ecgtext.encoders.text.load_text_model`] takes.
    """

    text_cache: bool = True
    text_cache_batch_size: int = 64
    text_cache_dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    text_cache_location: Literal["auto", "device", "host"] = "auto"
    sync_batch_norm: bool = True
    learning_rate_multipliers: dict[str, float] | str | None = field(default=None)
    grad_cache_chunk_size: int | None = None
    grad_cache_batch_norm_per_chunk: bool = False
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    negative_sampling: NegativeKind | None = None
    # These three: C-MELT's released code.
    negative_fraction: float = 0.5
    num_negative_candidates: int = 64
    negative_embedding_model: str = "google/flan-t5-small"

    # Rows are records, not tensors: the collator needs all columns.
    remove_unused_columns: bool = False
    # A smaller last batch would have easier negatives.
    dataloader_drop_last: bool = True
    # A contrastive loss depends on the batch size: evaluate with the one that is trained with, unless told otherwise.
    per_device_eval_batch_size: int | None = None
    # Every parameter that trains takes part in every step.
    ddp_find_unused_parameters: bool | None = False
    report_to: Any = "none"
    # It would ask the device in every step whether the loss is finite, and log something else where it is not.
    logging_nan_inf_filter: bool = False

    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "learning_rate_multipliers"]  # noqa: RUF012

    def __post_init__(self) -> None:
        """Choose the precision, then check as transformers does; a NaN passes every comparison, so it comes first."""
        for setting in fields(self):
            value = getattr(self, setting.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{setting.name} must be a finite number, not {value}.")
        if self.precision not in {"auto", "fp32", "bf16", "fp16"}:
            raise ValueError(f"precision must be 'auto', 'fp32', 'bf16' or 'fp16', not '{self.precision}'.")
        if self.text_cache_dtype not in {"float32", "bfloat16", "float16", "auto"}:
            raise ValueError(
                f"text_cache_dtype must be 'float32', 'bfloat16', 'float16' or 'auto', not '{self.text_cache_dtype}'."
            )
        if self.text_cache_location not in {"auto", "device", "host"}:
            raise ValueError(
                f"text_cache_location must be 'auto', 'device' or 'host', not '{self.text_cache_location}'."
            )
        if self.negative_sampling is not None and self.negative_sampling not in NEGATIVE_KINDS:
            choices = ", ".join(f"'{kind}'" for kind in NEGATIVE_KINDS)
            raise ValueError(f"negative_sampling must be None, {choices}, not '{self.negative_sampling}'.")
        if not 0 < self.negative_fraction <= 1:
            raise ValueError(f"negative_fraction must be above 0 and at most 1, not {self.negative_fraction}.")
        if self.num_negative_candidates < 1:
            raise ValueError(f"num_negative_candidates must be positive, not {self.num_negative_candidates}.")
        asked_for = [flag for flag in ("bf16", "fp16") if getattr(self, flag)]  # transformers' own flags
        for flag in asked_for:
            if self.precision not in {"auto", flag}:
                raise ValueError(f"{flag}=True contradicts precision='{self.precision}'; leave one of them out.")
        chooses_bf16 = self.precision == "auto" and not asked_for and not self.use_cpu and _gpu_has_bf16()
        if self.precision == "bf16" or chooses_bf16:
            self.bf16 = True
        elif self.precision == "fp16":
            self.fp16 = True
        if self.per_device_eval_batch_size is None:
            self.per_device_eval_batch_size = self.per_device_train_batch_size
        if not torch.cuda.is_available():
            self.dataloader_pin_memory = False  # only warns there
        super().__post_init__()
        check_launch(self.world_size)
        check_schedule_settings(self)
        if self.max_steps > 0:  # else the trainer knows the length, and checks it
            check_run_length(self, self.max_steps)
        if self.grad_cache_chunk_size is not None:
            self._check_gradient_cache(self.grad_cache_chunk_size)

    def _check_gradient_cache(self, chunk_size: int) -> None:
        if not 1 <= chunk_size < self.per_device_train_batch_size:
            raise ValueError(
                f"grad_cache_chunk_size must be positive and smaller than per_device_train_batch_size "
                f"({self.per_device_train_batch_size}), not {chunk_size}."
            )
        optimizer = OptimizerNames(self.optim).value
        if any(part in optimizer for part in _STEPS_IN_BACKWARD):
            raise ValueError(
                f"optim='{optimizer}' updates weights during the backward pass; grad_cache_chunk_size has several per "
                "step. Choose another optimiser, such as optim='adamw_torch', or unset grad_cache_chunk_size."
            )


def _gpu_has_bf16() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
