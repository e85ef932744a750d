"""What every config and model of this library shares: strict settings, strict loading, PyTorch's initialisation."""

from __future__ import annotations

import inspect
import os
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, cast, get_args

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import has_file

from hf_ecgtext.errors import CheckpointError

# What transformers writes into a config or passes to it beside fields and properties. The token ids come from the
# Trainer of versions before 5.2x, which copies them from the tokenizer.
_BOOKKEEPING = {
    "attn_implementation",
    "auto_map",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}


class EcgConfig(PreTrainedConfig):
    """A config that refuses settings it does not know, and values of another type than declared."""

    def __init_subclass__(cls, *args: Any, **kwargs: Any) -> None:
        """Turn the annotations from text, which `@strict` does not check, into types; an integer is a float, too."""
        cls.__annotations__ = {
            name: kind | int if kind is float or float in get_args(kind) else kind
            for name, kind in inspect.get_annotations(cls, eval_str=True).items()
        }
        super().__init_subclass__(*args, **kwargs)

    def __post_init__(self, **kwargs: Any) -> None:
        """Check the names of all settings, which transformers does not, then let it do its bookkeeping.

        Raises:
            ValueError: If a setting is not declared by this config.
        """
        known = {field.name for field in fields(type(self))} | _BOOKKEEPING
        unknown = sorted(
            name for name in kwargs if not (name in known or name.startswith("_") or hasattr(PreTrainedConfig, name))
        )
        if unknown:
            inherited = {field.name for field in fields(PreTrainedConfig)}
            own = sorted({field.name for field in fields(type(self))} - inherited)
            raise ValueError(
                f"{type(self).__name__} has no setting {', '.join(unknown)}. Its settings: {', '.join(own)}."
            )
        super().__post_init__(**kwargs)


class EcgPreTrainedModel(PreTrainedModel):
    """Base of every model here: loads completely or not at all, and starts from PyTorch's default initialisation.

    The published ECG models rely on PyTorch's default initialisation, not on the normal(0, 0.02) of transformers.
    """

    main_input_name = "ecg_values"
    input_modalities: ClassVar[tuple[str, ...]] = ("ecg",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.MultiheadAttention | nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm):
            super()._init_weights(module)
        elif hasattr(module, "reset_parameters"):
            # transformers guards torch.nn.init while this runs: tensors that came from a checkpoint stay as they are.
            cast(Any, module).reset_parameters()

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, allow_missing_weights: bool = False, **kwargs: Any
    ) -> Any:
        """Load a model whose checkpoint fits exactly, from safetensors.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): Folder or Hub repository.
            allow_missing_weights (`bool`, *optional*, defaults to `False`): Leave weights that the checkpoint lacks
                at their random initial values and ignore what it has too much.
            kwargs: As in [`~transformers.PreTrainedModel.from_pretrained`]; `use_safetensors` defaults to `True`, so
                that a pickle, which can run code, is never opened.

        Raises:
            CheckpointError: If weights are missing, left over, of another shape or damaged, or there are only pickled
                ones.
            OSError: If the folder or repository holds no model.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs.setdefault("use_safetensors", True)
        try:
            model, info = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
            )
        except SafetensorError as error:
            raise CheckpointError(
                f"The weights in '{pretrained_model_name_or_path}' are damaged ({error}). Save or download them again."
            ) from error
        except OSError as error:
            pickles = _pickled_weights(pretrained_model_name_or_path, kwargs)
            if not pickles:
                raise
            raise CheckpointError(
                f"'{pretrained_model_name_or_path}' holds its weights only as a pickle ({', '.join(pickles)}), which "
                "can run code and is not opened. Ask its author for model.safetensors."
            ) from error
        problems = [
            f"{title} {sorted(map(str, info[key]))[:5]}{' ...' if len(info[key]) > 5 else ''}"
            for key, title in (
                ("missing_keys", "missing:"),
                ("unexpected_keys", "left over:"),
                ("mismatched_keys", "of another shape:"),
            )
            if info[key]
        ]
        if problems and not allow_missing_weights:
            raise CheckpointError(
                f"The checkpoint '{pretrained_model_name_or_path}' does not fit {cls.__name__}: {'; '.join(problems)}. "
                "Load it with the class that saved it, or pass allow_missing_weights=True to accept random values."
            )
        return (model, info) if wants_info else model


def _pickled_weights(name_or_path: Any, options: dict[str, Any]) -> list[str]:
    """Names of the files in a folder or Hub repository that PyTorch would open as a pickle."""
    if not isinstance(name_or_path, str | os.PathLike):
        return []
    folder = Path(name_or_path)
    if folder.is_dir():
        return sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    where = {key: options[key] for key in ("revision", "token", "local_files_only", "cache_dir") if key in options}
    names = ("pytorch_model.bin", "pytorch_model.bin.index.json")  # what transformers would load from the Hub
    try:
        return [name for name in names if has_file(str(name_or_path), name, **where)]
    except (OSError, ValueError):  # no such repository: the caller's own error says so
        return []


class EcgEncoder(EcgPreTrainedModel):
    """An ECG encoder that is a model of its own.

    Subclasses return [`~transformers.modeling_outputs.BaseModelOutputWithPooling`] with `last_hidden_state` of shape
    `(batch, num_tokens, hidden_size)` and `pooler_output` of shape `(batch, hidden_size)`; their config has
    `num_leads`, `num_samples`, `hidden_size` and `num_tokens`.
    """

    base_model_prefix = "ecg_encoder"

    def get_ecg_features(self, ecg_values: Tensor, lead_mask: Tensor | None = None) -> Tensor:
        """L2-normalised pooled features.

        Args:
            ecg_values (`torch.Tensor` of shape `(batch, num_leads, num_samples)`): Scaled by the processor.
            lead_mask (`torch.Tensor` of shape `(batch, num_leads)`, *optional*): `False` where a lead is missing.

        Returns:
            `torch.Tensor` of shape `(batch, hidden_size)`, in float32 or wider.
        """
        return unit_length(self.get_probe_features(ecg_values, lead_mask))

    def get_probe_features(self, ecg_values: Tensor, lead_mask: Tensor | None = None) -> Tensor:
        """Features for linear probes: the pooled output, `(batch, hidden_size)`, not normalised."""
        return self(ecg_values, lead_mask=lead_mask).pooler_output


def unit_length(embeds: Tensor) -> Tensor:
    """L2-normalised rows, in float32 or wider whatever the model's type: in bfloat16 the cosines of labels tie.

    Args:
        embeds (`torch.Tensor` of shape `(batch, dim)`): Embeddings of any length.
    """
    return nn.functional.normalize(embeds.to(torch.promote_types(embeds.dtype, torch.float32)), dim=-1)


def mask_missing_leads(ecg_values: Tensor, lead_mask: Tensor | None) -> Tensor:
    """Zero the rows of missing leads, so that whatever stands there cannot reach the encoder.

    Args:
        ecg_values (`torch.Tensor` of shape `(batch, num_leads, num_samples)`): Scaled signal.
        lead_mask (`torch.Tensor` of shape `(batch, num_leads)`, *optional*): `False` where a lead is missing.
    """
    if lead_mask is None:
        return ecg_values
    return ecg_values.masked_fill(~lead_mask.bool().unsqueeze(-1), 0.0)


def check_ecg_shape(ecg_values: Tensor, num_leads: int, num_samples: int) -> None:
    """Raise a `ValueError` that explains itself unless the input is `(batch, num_leads, num_samples)`."""
    if ecg_values.ndim != 3 or ecg_values.shape[1:] != (num_leads, num_samples):
        raise ValueError(
            f"ecg_values has shape {tuple(ecg_values.shape)}; this model reads (batch, {num_leads}, {num_samples}). "
            "Let its processor prepare the signal: it resamples, orders the leads and crops or pads."
        )
