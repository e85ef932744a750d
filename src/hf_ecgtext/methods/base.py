"""The contract that training, evaluation and pipelines rely on: two towers and one shared space."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, BertConfig, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hf_ecgtext.encoders.base import EcgConfig, EcgPreTrainedModel
from hf_ecgtext.encoders.resnet1d import ResNet1dConfig
from hf_ecgtext.encoders.text import TextPooling, TextTower
from hf_ecgtext.methods.outputs import EcgTextOutput


class EcgTextConfig(EcgConfig):
    """Settings that all cross-modal methods share. A subclass repeats a field to change its default.

    Args:
        ecg_config (`PreTrainedConfig` or `dict`): Config of the ECG encoder; MERL's ResNet18 by default.
        text_config (`PreTrainedConfig` or `dict`): Config of the text encoder; BERT-base by default.
        projection_dim (`int`): Width of the shared space.
        text_pooling (`"cls"`, `"mean"` or `"pooler"`): How the text encoder's tokens become one vector.
        freeze_text (`bool`): Freeze the whole text encoder.
        num_frozen_text_layers (`int`): With `freeze_text=False`, freeze the embeddings and this many layers.
        text_dropout (`bool`): Keep a frozen encoder's dropout active in training. It rules out the text cache.
    """

    sub_configs: ClassVar = {"ecg_config": AutoConfig, "text_config": AutoConfig}

    ecg_config: Any = None
    text_config: Any = None
    projection_dim: int = 256
    text_pooling: TextPooling = "pooler"
    freeze_text: bool = True
    num_frozen_text_layers: int = 0
    text_dropout: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Build the encoders' configs from dictionaries, or from the defaults."""
        self.ecg_config = _as_config(self.ecg_config, ResNet1dConfig)
        self.text_config = _as_config(self.text_config, BertConfig)
        super().__post_init__(**kwargs)

    def validate_freezing(self) -> None:
        """Called by `@strict`."""
        if self.freeze_text and self.num_frozen_text_layers:
            raise ValueError("freeze_text=True freezes every layer; set it to False to use num_frozen_text_layers.")
        if self.text_dropout and not self.freeze_text:
            raise ValueError("text_dropout is about a frozen text encoder; a trained one always uses its dropout.")


def _as_config(config: PreTrainedConfig | dict[str, Any] | None, default: type[PreTrainedConfig]) -> PreTrainedConfig:
    if config is None:
        return default()
    if isinstance(config, PreTrainedConfig):
        return config
    settings = dict(config)
    model_type = settings.pop("model_type", None)
    return default(**settings) if model_type is None else AutoConfig.for_model(model_type, **settings)


class EcgTextModel(EcgPreTrainedModel):
    """Base of the cross-modal methods.

    A method adds its heads and implements `embed_ecg`, `embed_text` and `forward`. Everything else in the library
    uses only what this class declares.
    """

    config: EcgTextConfig
    base_model_prefix = ""
    input_modalities = ("ecg", "text")

    def __init__(self, config: EcgTextConfig):
        super().__init__(config)
        # In this model's own type: a config that was loaded in half precision still says so.
        self.ecg_encoder = AutoModel.from_config(config.ecg_config, dtype=torch.get_default_dtype())
        self.supports_gradient_checkpointing = self.ecg_encoder.supports_gradient_checkpointing
        self.text_tower = TextTower(
            config.text_config,
            pooling=config.text_pooling,
            freeze=config.freeze_text,
            num_frozen_layers=config.num_frozen_text_layers,
            dropout=config.text_dropout,
        )

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in [`EcgPreTrainedModel`]; what the config freezes is frozen again, ready for further training."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if kwargs.get("output_loading_info") else loaded
        model.text_tower.freeze_parameters()
        return loaded

    @classmethod
    def from_text_model(cls, config: EcgTextConfig, text_model: PreTrainedModel) -> Self:
        """A new model around an already loaded text encoder, whose config replaces `config.text_config`."""
        config.text_config = text_model.config
        model = cls(config)
        model.text_tower.model.load_state_dict(text_model.state_dict())
        return model

    @abstractmethod
    def embed_ecg(self, encoder_output: BaseModelOutputWithPooling) -> Tensor:
        """Map the ECG encoder's output into the shared space: `(batch, projection_dim)`, not normalised."""

    @abstractmethod
    def embed_text(self, text_tower_embeds: Tensor) -> Tensor:
        """Map `(batch, text_hidden_size)` into the shared space: `(batch, projection_dim)`, not normalised."""

    @abstractmethod
    def forward(
        self,
        ecg_values: Tensor | None = None,
        lead_mask: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        text_tower_embeds: Tensor | None = None,
    ) -> EcgTextOutput:
        """Embed what is given; with both modalities, also compute the loss."""

    @property
    @abstractmethod
    def logit_scale(self) -> float | Tensor:
        """What multiplies the cosine similarity of an ECG and a text to give their logit."""

    @property
    def can_cache_text(self) -> bool:
        """Whether a report always yields the same `text_tower_embeds`: the tower is frozen and without dropout."""
        # Somebody may have thawed it, or put adapters into it (PEFT).
        is_trained = any(parameter.requires_grad for parameter in self.text_tower.parameters())
        return self.config.freeze_text and not self.config.text_dropout and not is_trained

    def get_ecg_features(self, ecg_values: Tensor, lead_mask: Tensor | None = None) -> Tensor:
        """Embed ECGs in the shared space.

        Args:
            ecg_values (`torch.Tensor` of shape `(batch, num_leads, num_samples)`): Scaled by the processor.
            lead_mask (`torch.Tensor` of shape `(batch, num_leads)`, *optional*): `False` where a lead is missing.

        Returns:
            `torch.Tensor` of shape `(batch, projection_dim)`: L2-normalised.
        """
        return F.normalize(self.embed_ecg(self.ecg_encoder(ecg_values, lead_mask=lead_mask)), dim=-1)

    def get_text_features(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        text_tower_embeds: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """Embed texts in the shared space.

        Args:
            input_ids, attention_mask (`torch.Tensor` of shape `(batch, num_tokens)`): From the processor.
            text_tower_embeds (`torch.Tensor` of shape `(batch, text_hidden_size)`, *optional*): The tower's pooled
                output, where it is already known.

        Returns:
            `torch.Tensor` of shape `(batch, projection_dim)`: L2-normalised.
        """
        if text_tower_embeds is None:
            if input_ids is None:
                raise ValueError("Give either input_ids or text_tower_embeds.")
            text_tower_embeds = self.text_tower(input_ids, attention_mask)
        return F.normalize(self.embed_text(text_tower_embeds), dim=-1)

    def get_probe_features(self, ecg_values: Tensor, lead_mask: Tensor | None = None) -> Tensor:
        """Features for linear probes: the ECG encoder's pooled output, `(batch, ecg_hidden_size)`, not normalised."""
        return self.ecg_encoder(ecg_values, lead_mask=lead_mask).pooler_output

    def get_input_embeddings(self) -> nn.Module:
        """The text encoder's token embeddings."""
        return self.text_tower.model.get_input_embeddings()
