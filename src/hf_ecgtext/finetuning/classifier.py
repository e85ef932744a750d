"""A multi-label classifier: an ECG encoder, dropout and a linear layer."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedConfig
from transformers.utils import ModelOutput

from hf_ecgtext.encoders import ResNet1dConfig
from hf_ecgtext.encoders.base import EcgConfig, EcgPreTrainedModel
from hf_ecgtext.hub import keep_training_data, kept_training_data
from hf_ecgtext.methods.base import EcgTextModel


@strict
class EcgClassifierConfig(EcgConfig):
    """Settings of [`EcgForClassification`]; the classes are in `id2label`.

    Args:
        ecg_config (`PreTrainedConfig` or `dict`): Config of the ECG encoder; MERL's ResNet18 by default.
        classifier_dropout (`float`): Of the pooled features, in training.
        leads (`list[str]`, *optional*): The leads that it was trained on, all others having been zero and masked;
            `None` for all that the processor names. To hide the others again, give them to
            [`~hf_ecgtext.finetuning.labelled_records.Preparation`].
    """

    model_type = "ecg_classifier"
    sub_configs: ClassVar = {"ecg_config": AutoConfig}
    pipeline_task: ClassVar[str | None] = None  # none knows its classes

    ecg_config: Any = None
    classifier_dropout: float = 0.0
    leads: list[str] | tuple[str, ...] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Build the encoder's config from a dictionary, or the default one."""
        if self.ecg_config is None:
            self.ecg_config = ResNet1dConfig()
        elif isinstance(self.ecg_config, dict):
            settings = dict(self.ecg_config)
            self.ecg_config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        super().__post_init__(**kwargs)

    def validate_dropout(self) -> None:
        """Called by `@strict`."""
        if not 0 <= self.classifier_dropout < 1:
            raise ValueError(f"classifier_dropout must be at least 0 and below 1, not {self.classifier_dropout}.")

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the classes, in the order of the logits."""
        return tuple(self.id2label[index] for index in range(self.num_labels))


@dataclass
class EcgClassifierOutput(ModelOutput):
    """What [`EcgForClassification`] returns.

    Args:
        loss (`torch.Tensor` of shape `()`, *optional*): Mean binary cross-entropy in nats, where labels were given.
        logits (`torch.Tensor` of shape `(batch, num_labels)`): Of the probability of each class.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None


class EcgForClassification(EcgPreTrainedModel):
    """An ECG encoder with a multi-label head on its pooled output.

    The pooled output is what all methods' encoders have, and what C-MELT fine-tunes. Heads of the pre-training are left
    behind, also where a method's linear probe reads one of them (DERI).
    """

    config_class = EcgClassifierConfig
    config: EcgClassifierConfig
    base_model_prefix = ""

    def __init__(self, config: EcgClassifierConfig):
        super().__init__(config)
        self.ecg_encoder = AutoModel.from_config(config.ecg_config, dtype=torch.get_default_dtype())
        self.supports_gradient_checkpointing = self.ecg_encoder.supports_gradient_checkpointing
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.ecg_config.hidden_size, config.num_labels)
        self.post_init()

    @classmethod
    def from_scratch(
        cls, ecg_config: PreTrainedConfig, labels: Sequence[str], seed: int, classifier_dropout: float = 0.0
    ) -> Self:
        """A classifier with random weights.

        Args:
            ecg_config (`PreTrainedConfig`): Config of the encoder; it is copied.
            labels (`Sequence[str]`): One per class.
            seed (`int`): Of the weights.
            classifier_dropout (`float`): See [`EcgClassifierConfig`].

        Raises:
            ValueError: If there is no label, or one occurs twice.
        """
        if not labels or len(set(labels)) != len(labels):
            raise ValueError(f"A classifier needs one or more labels, each once, not {list(labels)}.")
        config = EcgClassifierConfig(
            ecg_config=copy.deepcopy(ecg_config),
            classifier_dropout=classifier_dropout,
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config)

    @classmethod
    def from_ecg_text_model(
        cls, model: EcgTextModel, labels: Sequence[str], seed: int = 0, classifier_dropout: float = 0.0
    ) -> Self:
        """A classifier with a copy of the ECG encoder of a model, and a random head.

        Args:
            model ([`EcgTextModel`]): Of any method; it is left as it is.
            labels, classifier_dropout: As in `from_scratch`.
            seed (`int`): Of the head.
        """
        classifier = cls.from_scratch(model.config.ecg_config, labels, seed, classifier_dropout)
        classifier.ecg_encoder.load_state_dict(model.ecg_encoder.state_dict())
        classifier.name_or_path = model.name_or_path  # where the trainer looks for the ledger to go on with
        keep_training_data(classifier, kept_training_data(model))
        return classifier.to(model.device)

    def train(self, mode: bool = True) -> Self:
        """As usual, but a BatchNorm with frozen weights keeps its statistics too, as under LoRA."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and not any(
                parameter.requires_grad for parameter in module.parameters()
            ):
                module.eval()
        return self

    def forward(
        self,
        ecg_values: Tensor,
        lead_mask: Tensor | None = None,
        labels: Tensor | None = None,
        label_mask: Tensor | None = None,
        **_: Any,
    ) -> EcgClassifierOutput:
        """Classify a batch.

        Args:
            ecg_values (`torch.Tensor` of shape `(batch, num_leads, num_samples)`): Scaled by the processor.
            lead_mask (`torch.Tensor` of shape `(batch, num_leads)`, *optional*): `False` where a lead is missing.
            labels (`torch.Tensor` of shape `(batch, num_labels)`, *optional*): 1 where the record has the label.
            label_mask (`torch.Tensor` of shape `(batch, num_labels)`, *optional*): `False` where nobody knows, such as
                the classes of a task in which the record does not take part. The loss leaves these out.

        Returns:
            [`EcgClassifierOutput`]. The loss of a batch without any known label is 0.
        """
        pooled = self.ecg_encoder(ecg_values, lead_mask=lead_mask).pooler_output
        logits = self.classifier(self.dropout(pooled))
        loss = None
        if labels is not None:
            losses = F.binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="none")
            known = torch.ones_like(losses) if label_mask is None else label_mask.to(losses.dtype)
            loss = (losses * known).sum() / known.sum().clamp(min=1)
        return EcgClassifierOutput(loss=loss, logits=logits)


AutoConfig.register(EcgClassifierConfig.model_type, EcgClassifierConfig)
AutoModel.register(EcgClassifierConfig, EcgForClassification)
