"""Low-rank adapters (PEFT) in an ECG encoder: few weights to train, and none left over when they are merged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hf_ecgtext.finetuning.classifier import EcgForClassification

_HEAD = "classifier"


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Settings of the adapters.

    Args:
        rank (`int`): Of each adapter.
        alpha (`int`): Adapters are scaled by `alpha / rank`.
        dropout (`float`): Of an adapter's input.
        target_modules (`tuple[str, ...]`, *optional*): Names of modules, or their ends; [`adapted_modules`] by default.
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    target_modules: tuple[str, ...] | None = None


def adapted_modules(model: EcgForClassification) -> tuple[str, ...]:
    """The modules of the encoder that get adapters by default: all linear layers, or, without any, all convolutions.

    Convolutions in groups and reparametrised ones (C-MELT's positions), which peft cannot merge, are left out.

    Raises:
        ValueError: If the encoder has neither.
    """
    for kind in (nn.Linear, nn.Conv1d):
        names = [
            f"ecg_encoder.{name}"
            for name, module in model.ecg_encoder.named_modules()
            if isinstance(module, kind)
            and getattr(module, "groups", 1) == 1
            and not torch.nn.utils.parametrize.is_parametrized(module)
        ]
        if names:
            return tuple(names)
    raise ValueError(f"{type(model.ecg_encoder).__name__} has no linear layer or convolution to adapt.")


def add_adapters(model: EcgForClassification, settings: LoraSettings, seed: int = 0) -> Any:
    """The classifier with adapters, as a [`~peft.PeftModel`]. They and the head are trained; all else is frozen.

    BatchNorm keeps its statistics too: see [`EcgForClassification.train`].

    Args:
        model ([`EcgForClassification`]): It is changed in place.
        settings ([`LoraSettings`]): Settings.
        seed (`int`): Of the adapters' weights.

    Raises:
        ValueError: If no module has a name of `target_modules`.
    """
    from peft import LoraConfig, get_peft_model

    targets = settings.target_modules or adapted_modules(model)
    names = [name for name, _ in model.named_modules()]
    if missing := [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in names)]:
        raise ValueError(f"The classifier has no module {', '.join(missing)}; name its linear layers or convolutions.")
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(targets),
        modules_to_save=[_HEAD],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def merge_adapters(adapted: Any) -> EcgForClassification:
    """The classifier with the adapters added to its weights, to be saved and loaded as any other.

    What was frozen still is; it is not any more once saved and loaded.
    """
    merged: EcgForClassification = adapted.merge_and_unload()
    return merged
