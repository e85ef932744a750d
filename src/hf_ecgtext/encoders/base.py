"""What every config and model of this library shares: strict settings, strict loading, PyTorch's initialisation."""

from __future__ import annotations

import inspect
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, cast, get_args

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_ecgtext.encoders.sizes import check_numbers, check_total_size, loading_from
from hf_ecgtext.encoders.weight_checks import check_finite, misfits, unreadable_weights, without_load_report
from hf_ecgtext.errors import CheckpointError
from hf_ecgtext.hub import (
    PIPELINES,
    Shareable,
    is_own,
    keep_training_data,
    kept_training_data,
    loader_entry,
    training_data_of,
    upload,
    write_loader,
)
from hf_ecgtext.io import written_whole
from hf_ecgtext.model_card import write_card

logger = logging.getLogger(__name__)

# What transformers writes into a config or passes to it beside fields and properties. The token ids come from the
# Trainer of versions before 5.2x, which copies them from the tokenizer.
_BOOKKEEPING = {
    "attn_implementation",
    "auto_map",
    "bos_token_id",
    "custom_pipelines",
    "eos_token_id",
    "pad_token_id",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}
_UPLOAD_OPTIONS = ("commit_message", "commit_description", "private", "token", "revision", "create_pr", "tags")


class OwnPipelines(dict[str, dict[str, Any]]):
    """`custom_pipelines` of a config in memory: `pipeline(model=...)` finds the task in it, and no code to run.

    transformers demands `trust_remote_code` for a task that is *in* this mapping; those of this library are registered
    when it is imported, which has happened where this class exists.
    """

    def __contains__(self, task: object) -> bool:
        return False


class EcgConfig(Shareable, PreTrainedConfig):
    """A config that refuses settings it does not know, values of another type than declared, and absurd numbers.

    Attributes:
        pipeline_task (`str`, *optional*): The pipeline that `pipeline(model=...)` chooses; `None` if none can serve.
    """

    pipeline_task: ClassVar[str | None] = "ecg-feature-extraction"

    def __init_subclass__(cls, *args: Any, **kwargs: Any) -> None:
        """Turn the annotations from text, which `@strict` does not check, into types; an integer is a float, too."""
        cls.__annotations__ = {
            name: kind | int if kind is float or float in get_args(kind) else kind
            for name, kind in inspect.get_annotations(cls, eval_str=True).items()
        }
        super().__init_subclass__(*args, **kwargs)

    def __post_init__(self, **kwargs: Any) -> None:
        """Check the names of all settings, which transformers does not, and their numbers; then let it go on.

        Raises:
            ValueError: If a setting is not declared by this config, or a number is not finite or absurd.
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
        check_numbers(type(self).__name__, {**vars(self), **kwargs})
        saved = kwargs.pop("custom_pipelines", None)
        if not isinstance(saved, Mapping | None):
            raise ValueError(f"{type(self).__name__}: custom_pipelines must map tasks to entries, but is {saved!r}.")
        if is_own(type(self)):  # both tell of the folder, and are written anew into every other
            kwargs.pop("auto_map", None)
            tasks = list(saved) if saved else filter(None, [self.pipeline_task])
            self.custom_pipelines = OwnPipelines({task: _pipeline_entry(task) for task in tasks})
        elif saved is not None:
            kwargs["custom_pipelines"] = saved
        super().__post_init__(**kwargs)

    def validate_signs(self) -> None:
        """Called by `@strict`: no setting is a negative number but a bias."""
        inherited = {field.name for field in fields(PreTrainedConfig)}
        for name in (field.name for field in fields(type(self)) if field.name not in inherited):
            value = getattr(self, name)
            if isinstance(value, int | float) and value < 0 and not name.endswith("bias"):
                raise ValueError(f"{name} must not be negative, but is {value}.")

    def to_dict(self) -> dict[str, Any]:
        """The settings; what is written beside them for loading is none."""
        settings: dict[str, Any] = super().to_dict()
        if is_own(type(self)):
            settings.pop("custom_pipelines", None)
        return settings

    def to_json_file(self, json_file_path: str | os.PathLike[str], use_diff: bool = True) -> None:
        """Write the settings, and what transformers needs to find the classes and the pipeline."""
        settings = json.loads(self.to_json_string(use_diff=use_diff))
        if is_own(type(self)):
            settings["auto_map"] = {"AutoConfig": loader_entry(type(self).__name__)}
            for name in self.architectures or []:
                settings["auto_map"]["AutoModel"] = loader_entry(name)
            if self.custom_pipelines:
                settings["custom_pipelines"] = {task: _pipeline_entry(task) for task in self.custom_pipelines}
        text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
        Path(json_file_path).write_text(text, encoding="utf-8")

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As usual, with the module that `auto_map` names."""
        os.makedirs(save_directory, exist_ok=True)
        if is_own(type(self)):
            write_loader(save_directory)
        super().save_pretrained(save_directory, *args, **kwargs)


def _pipeline_entry(task: str) -> dict[str, Any]:
    return {"impl": loader_entry(PIPELINES.get(task, task)), "pt": ["AutoModel"]}


class EcgPreTrainedModel(Shareable, PreTrainedModel):
    """Base of every model here: loads completely or not at all, and starts from PyTorch's default initialisation.

    What is saved carries a model card, a module for loading by `trust_remote_code`, and the training ledger of the
    folder that the model came from or that its trainer noted.

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
            CheckpointError: If weights are missing, left over, of another shape, damaged, NaN or infinite, or there are
                only pickled ones, or the config asks for an absurdly large model.
            OSError: If the folder or repository holds no model.
        """
        name = pretrained_model_name_or_path
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs.setdefault("use_safetensors", True)
        where = dict(kwargs)
        accepted = allow_missing_weights or kwargs.get("ignore_mismatched_sizes", False)
        kwargs["ignore_mismatched_sizes"] = True  # they are listed, for the message below
        try:
            with without_load_report(), loading_from(name):
                model, info = super().from_pretrained(name, *args, output_loading_info=True, **kwargs)
        except (OSError, SafetensorError) as error:
            if (problem := unreadable_weights(name, error, where)) is None:
                raise
            raise CheckpointError(problem) from error
        problems = "; ".join(f"{kind}: {names}" for kind, names in misfits(info).items())
        if problems and not accepted:
            raise CheckpointError(
                f"The checkpoint '{name}' does not fit {cls.__name__}: {problems}. Load it with the class and the "
                "config.json that saved it, or pass allow_missing_weights=True to accept random values."
            )
        if problems:
            logger.warning("%s from '%s' has random values, or leaves values behind: %s.", cls.__name__, name, problems)
        check_finite(model, name)
        keep_training_data(model, training_data_of(name, where) if name is not None else {})
        return (model, info) if wants_info else model

    def post_init(self) -> None:
        """As usual, unless the model, which has no values yet where it is being loaded, is absurdly large."""
        check_total_size(self)
        super().post_init()

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        *args: Any,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        """As usual, with ledger, card and the module that `auto_map` names.

        Args:
            save_directory (`str` or `os.PathLike`): Folder, which is made if absent.
            is_main_process (`bool`): Of several, the one that writes.
            push_to_hub (`bool`): Upload the folder afterwards, with the options of [`~hf_ecgtext.hub.upload`].
            repo_id (`str`, *optional*): Where to; the folder's name by default.
            args, kwargs: As in [`~transformers.PreTrainedModel.save_pretrained`].
        """
        options = {key: kwargs.pop(key) for key in _UPLOAD_OPTIONS if push_to_hub and key in kwargs}
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
        if not is_main_process:
            return
        for name, content in kept_training_data(self).items():
            with written_whole(Path(save_directory) / name) as unfinished:
                unfinished.write_bytes(content)
        name = repo_id or Path(save_directory).resolve().name
        self.write_card(save_directory, name)
        if push_to_hub:
            upload(save_directory, name, **options)

    def write_card(self, folder: str | os.PathLike[str], name: str) -> None:
        """Write `README.md`, unless there is one that somebody else wrote."""
        task = getattr(self.config, "pipeline_task", None)
        write_card(folder, type(self).__name__, task, kept_training_data(self), name)


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
