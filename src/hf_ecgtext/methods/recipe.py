"""A recipe: everything a training run needs to know beside its data."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from transformers import MODEL_MAPPING, PROCESSOR_MAPPING, PreTrainedConfig

from hf_ecgtext.encoders.text import load_text_model, text_max_length
from hf_ecgtext.methods.base import EcgTextConfig, EcgTextModel
from hf_ecgtext.processing import EcgFeatureExtractor, EcgTextProcessor
from hf_ecgtext.processing.processing_ecg_text import UNLIMITED_LENGTH

# Settings of the config that `build` fills in, and from what.
_DERIVED = {
    "config.text_config": "text_model",
    "config.ecg_config.num_leads": "ecg.lead_names",
    "config.ecg_config.num_samples": "ecg.duration_s and ecg.sampling_rate_hz",
}


@dataclass(frozen=True)
class Recipe:
    """Settings of a run, in the four groups that the library keeps apart.

    Args:
        config ([`EcgTextConfig`]): Architecture and objective. Its `text_config` and the input shape of its
            `ecg_config` are filled in from `text_model` and `ecg`.
        text_model (`str`): What [`~hf_ecgtext.encoders.text.load_text_model`] takes.
        ecg (`Mapping[str, Any]`): Settings of [`~hf_ecgtext.processing.EcgFeatureExtractor`].
        text (`Mapping[str, Any]`): Settings of [`~hf_ecgtext.processing.EcgTextProcessor`], such as `max_length`.
        training (`Mapping[str, Any]`): Fields of [`~hf_ecgtext.training.EcgTextTrainingArguments`].
        data (`Mapping[str, Mapping[str, Any]]`): Options by name of the data, where a recipe was made for some.
    """

    config: EcgTextConfig
    text_model: str
    ecg: Mapping[str, Any] = field(default_factory=dict)
    text: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def data_options(self, name: str) -> dict[str, Any]:
        """What the recipe asks of the data of this name."""
        return dict(self.data.get(name, {}))

    def override(self, settings: Mapping[str, Any]) -> Recipe:
        """A copy with some settings changed.

        Args:
            settings (`Mapping[str, Any]`): Dotted names, such as `{"config.temperature": 0.1,
                "config.ecg_config.depths": [1, 1, 1, 1], "ecg.sampling_rate_hz": 100, "text_model": "minilm"}`.

        Raises:
            ValueError: If a name begins with no group of a recipe, a config does not know it, or it would have no
                effect since it follows from other settings.
        """
        changed: dict[str, Any] = {}
        tree: dict[str, Any] | None = None  # of the config, which is made anew once all of its settings are changed
        for name, value in settings.items():
            group, _, rest = name.partition(".")
            if source := next((source for start, source in _DERIVED.items() if name.startswith(start)), None):
                raise ValueError(f"Cannot override '{name}': it follows from {source}; set that instead.")
            if group == "text_model" and not rest:
                changed["text_model"] = value
            elif group == "config" and rest:
                tree = self.config.to_dict() if tree is None else tree
                _set_nested(tree, rest, value, name)
            elif group in {"ecg", "text", "training"} and rest:
                changed[group] = {**changed.get(group, getattr(self, group)), rest: value}
            else:
                raise ValueError(
                    f"Cannot override '{name}': write text_model, or config., ecg., text. or training. and a setting."
                )
        if tree is not None:
            tree.pop("model_type", None)
            changed["config"] = type(self.config)(**tree)
        return replace(self, **changed)

    def settings(self) -> dict[str, Any]:
        """Every setting by the name that [`override`] knows it by, in the types of JSON, where they have one.

        [`override`] of the same recipe by them gives this one, whatever the recipe has become in a later version.
        """
        settings: dict[str, Any] = {"text_model": self.text_model}
        for name in _own_settings(self.config):
            if f"config.{name}" not in _DERIVED:
                value = getattr(self.config, name)
                if isinstance(value, PreTrainedConfig):
                    own = {inner: getattr(value, inner) for inner in _own_settings(value)}
                    value = {"model_type": value.model_type, **own}
                settings[f"config.{name}"] = value
        for group in ("ecg", "text", "training"):
            settings |= {f"{group}.{name}": value for name, value in getattr(self, group).items()}
        return settings

    def build(self, seed: int = 0) -> tuple[EcgTextModel, EcgTextProcessor]:
        """A new model, with the text encoder's weights loaded and all others random, and its processor.

        Args:
            seed (`int`): Of the random weights.
        """
        config = copy.deepcopy(self.config)
        feature_extractor = EcgFeatureExtractor(**self.ecg)
        config.ecg_config.num_leads = len(feature_extractor.lead_names)
        config.ecg_config.num_samples = feature_extractor.num_samples
        config.ecg_config.validate()
        text_model, tokenizer = load_text_model(self.text_model, config.text_pooling, seed=seed)
        config.adopt_tokenizer(tokenizer)
        text = dict(self.text)
        limit = min(text_max_length(text_model.config) or tokenizer.model_max_length, tokenizer.model_max_length)
        if limit < UNLIMITED_LENGTH:
            text["max_length"] = min(text.get("max_length") or limit, limit)
        processor_class = PROCESSOR_MAPPING[type(config)]
        processor = processor_class(feature_extractor=feature_extractor, tokenizer=tokenizer, **text)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = MODEL_MAPPING[type(config)].from_text_model(config, text_model)
        return model, processor


def _own_settings(config: PreTrainedConfig) -> list[str]:
    """The fields of a config that transformers does not keep books with."""
    inherited = {entry.name for entry in fields(PreTrainedConfig)}
    return [entry.name for entry in fields(config) if entry.name not in inherited]


def _set_nested(tree: dict[str, Any], path: str, value: Any, name: str) -> None:
    *parents, leaf = path.split(".")
    for parent in parents:
        if not isinstance(tree.get(parent), dict):
            raise ValueError(f"Cannot override '{name}': there is no '{parent}' in this config.")
        tree = tree[parent]
    tree[leaf] = value
