"""The contract that training, evaluation and pipelines rely on: two towers and one shared space."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hf_ecgtext.encoders.base import EcgConfig, EcgPreTrainedModel, unit_length
from hf_ecgtext.encoders.resnet1d import ResNet1dConfig
from hf_ecgtext.encoders.sizes import check_numbers
from hf_ecgtext.encoders.text import TextPooling, TextTower
from hf_ecgtext.encoders.text_checks import check_vocabulary
from hf_ecgtext.methods.distributed import gather_batch
from hf_ecgtext.methods.outputs import EcgTextOutput


class EcgTextConfig(EcgConfig):
    """Settings that all cross-modal methods share. A subclass repeats a field to change its default.

    Args:
        ecg_config (`PreTrainedConfig` or `dict`): Config of the ECG encoder; MERL's ResNet18 by default.
        text_config (`PreTrainedConfig` or `dict`): Config of the text encoder; BERT-base by default.
        projection_dim (`int`): Width of the shared space.
        text_pooling (`"cls"`, `"mean"`, `"pooler"` or `"last"`): How the text encoder's tokens become one vector.
        freeze_text (`bool`): Freeze the whole text encoder.
        num_frozen_text_layers (`int`): With `freeze_text=False`, freeze the embeddings and this many layers.
        text_dropout (`bool`): Keep a frozen encoder's dropout active in training. It rules out the text cache.
    """

    sub_configs: ClassVar = {"ecg_config": AutoConfig, "text_config": AutoConfig}
    pipeline_task: ClassVar[str | None] = "zero-shot-ecg-classification"

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

    def adopt_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Note what the method must know of the tokenizer, such as its mask token; called when a model is built."""

    def validate_freezing(self) -> None:
        """Called by `@strict`."""
        if self.freeze_text and self.num_frozen_text_layers:
            raise ValueError("freeze_text=True freezes every layer; set it to False to use num_frozen_text_layers.")
        if self.text_dropout and not self.freeze_text:
            raise ValueError("text_dropout is about a frozen text encoder; a trained one always uses its dropout.")
        if self.num_frozen_text_layers < 0:
            raise ValueError(f"num_frozen_text_layers must not be negative, but is {self.num_frozen_text_layers}.")

    def validate_shared_space(self) -> None:
        """Called by `@strict`."""
        if self.projection_dim < 1:
            raise ValueError(f"projection_dim must be positive, not {self.projection_dim}.")


def _as_config(config: PreTrainedConfig | dict[str, Any] | None, default: type[PreTrainedConfig]) -> PreTrainedConfig:
    if config is None:
        return default()
    if isinstance(config, PreTrainedConfig):
        return config
    if not isinstance(config, Mapping):
        raise ValueError(f"ecg_config and text_config must be mappings of settings, not {config!r}.")
    settings = dict(config)
    check_numbers("The encoder's config", settings)
    model_type = settings.pop("model_type", None)
    return default(**settings) if model_type is None else AutoConfig.for_model(model_type, **settings)


@dataclass(frozen=True)
class TextInputs:
    """A batch of reports: tokens, or what a text cache kept of them.

    Args:
        input_ids, attention_mask (`torch.Tensor` of shape `(batch, num_tokens)`, *optional*): From the processor.
        tower_embeds (`torch.Tensor` of shape `(batch, text_hidden_size)`, *optional*): The tower's pooled output.
        tower_tokens (`torch.Tensor` of shape `(batch, num_tokens, text_hidden_size)`, *optional*): The tower's last
            layer; padding as `attention_mask` says.
    """

    input_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    tower_embeds: Tensor | None = None
    tower_tokens: Tensor | None = None

    @property
    def num_texts(self) -> int:
        """Number of reports; 0 where there is no text."""
        given = self.input_ids if self.input_ids is not None else self.tower_embeds
        return 0 if given is None else given.shape[0]  # not `len`, which would fix it where a program is exported


class EcgTextModel(EcgPreTrainedModel):
    """Base of the cross-modal methods.

    A method adds its heads and implements four things: `embed_ecg` and `embed_text` map into the shared space,
    `training_rows` computes what the loss needs of each record, and `loss_terms` computes the named terms from the
    rows of the joined batch. The base makes `forward` of them. Since rows are all that the loss sees, they are what is
    gathered across processes, and what gradient caching cuts the graph at; so every method gets both for nothing.

    Attributes:
        text_cache_content (`"pooled"` or `"tokens"`): What `training_rows` needs of a frozen text tower.
        masks_inputs (`bool`): Whether `training_rows` hides parts of its input. Then embeddings that `forward` returns
            beside a loss in `eval()` come from a second pass over the whole input.
        uses_negatives (`bool`): Whether `training_rows` takes `is_aligned`, bool of shape `(batch,)`: `False` where the
            report is not the record's own. Only then may the trainer sample negatives.
        uses_report_keys (`bool`): Whether `training_rows` takes `report_keys`, int64 of shape `(batch, 2)`: of the
            record's own report and of the one beside it; equal numbers are equal reports. The trainer then gives them.
    """

    config: EcgTextConfig
    base_model_prefix = ""
    input_modalities = ("ecg", "text")
    text_cache_content: ClassVar[Literal["pooled", "tokens"]] = "pooled"
    masks_inputs: ClassVar[bool] = False
    uses_negatives: ClassVar[bool] = False

    @property
    def uses_report_keys(self) -> bool:
        """See the class."""
        return False

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
        model.text_tower.check_reading()
        return loaded

    @classmethod
    def from_text_model(cls, config: EcgTextConfig, text_model: PreTrainedModel) -> Self:
        """A new model around an already loaded text encoder, whose config replaces `config.text_config`."""
        config.text_config = text_model.config
        model = cls(config)
        model.text_tower.model.load_state_dict(text_model.state_dict())
        return model

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise a `CheckpointError` where the tokenizer gives tokens that the text tower has no embedding for."""
        check_vocabulary(self.name_or_path, self.text_tower.model, tokenizer)

    @abstractmethod
    def embed_ecg(self, encoder_output: BaseModelOutputWithPooling) -> Tensor:
        """Map the ECG encoder's output into the shared space: `(batch, projection_dim)`, not normalised."""

    @abstractmethod
    def embed_text(self, text_tower_embeds: Tensor) -> Tensor:
        """Map `(batch, text_hidden_size)` into the shared space: `(batch, projection_dim)`, not normalised."""

    @abstractmethod
    def training_rows(
        self, ecg_values: Tensor, lead_mask: Tensor | None, text: TextInputs, **extra: Any
    ) -> dict[str, Tensor]:
        """What the loss is computed from, one row per record.

        Row `i` depends on record `i` alone (BatchNorm aside). `"ecg"` and `"text"` hold the embeddings in the shared
        space, as `embed_ecg` and `embed_text` give them; a loss that is a mean over something inside the records, such
        as masked tokens, is given as its sum and its count per record. Integers and bool reach `loss_terms` exactly.

        Args:
            ecg_values (`torch.Tensor` of shape `(batch, num_leads, num_samples)`): Scaled signal.
            lead_mask (`torch.Tensor` of shape `(batch, num_leads)`, *optional*): `False` where a lead is missing.
            text ([`TextInputs`]): Reports.
            extra: What else the method's `forward` was given.

        Returns:
            `dict` of `torch.Tensor` of shape `(batch, ...)`.
        """

    def draw_noise(self, batch_size: int, num_text_tokens: int) -> dict[str, Tensor]:
        """The random choices of `training_rows`, such as which patches to hide, each of shape `(batch_size, ...)`.

        `training_rows` draws those that it is not given under their names. In `eval()` they are always the same, so
        that validation losses can be compared. Dropout is not among them: it is what `nn.Dropout` makes of it.
        """
        return {}

    @abstractmethod
    def loss_terms(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """The paper's terms by name, not weighted, from the rows of the joined batch of all processes.

        The config's field `<name>_weight` weights a term; without one, its weight is 1.
        """

    @property
    def contrasts_records(self) -> bool:
        """Whether the loss sets each record against the others of its batch, so that one alone teaches nothing."""
        return True

    @property
    @abstractmethod
    def logit_scale(self) -> float | Tensor:
        """What multiplies the similarity of an ECG and a text to give their logit."""

    def pair_logits(self, ecg_embeds: Tensor, text_embeds: Tensor) -> Tensor:
        """What the loss scores every combination of an ECG and a text by.

        `logits_per_ecg`, exclusive scores of the pipeline and the method's pair term are made of these.

        Args:
            ecg_embeds (`torch.Tensor` of shape `(num_ecgs, projection_dim)`): As [`embed_ecg`] gives them.
            text_embeds (`torch.Tensor` of shape `(num_texts, projection_dim)`): As [`embed_text`] gives them.

        Returns:
            `torch.Tensor` of shape `(num_ecgs, num_texts)`, in float32 or wider.
        """
        wide = torch.promote_types(torch.promote_types(ecg_embeds.dtype, text_embeds.dtype), torch.float32)
        with torch.autocast(self.device.type, enabled=False):
            return self.score_pairs(ecg_embeds.to(wide), text_embeds.to(wide))

    def score_pairs(self, ecg_embeds: Tensor, text_embeds: Tensor) -> Tensor:
        """[`pair_logits`] of wide enough embeddings: `logit_scale` times the cosine, unless a method says otherwise."""
        cosines = F.normalize(ecg_embeds, dim=-1) @ F.normalize(text_embeds, dim=-1).T
        return cosines / (1.0 / self.logit_scale)  # losses divide by a temperature

    def loss_from_rows(self, rows: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted loss of the joined batch, and its terms.

        Args:
            rows (`dict[str, torch.Tensor]`): This process's rows, as [`training_rows`] gives them.

        Returns:
            The loss of shape `()`, and the detached, unweighted terms.
        """
        with torch.autocast(self.device.type, enabled=False):  # similarities in bf16 would cost 2 % of the gradient
            local = [
                row.to(torch.promote_types(row.dtype, torch.float32)) if row.is_floating_point() else row
                for row in rows.values()
            ]
            joined = gather_batch(*local, with_grad=getattr(self.config, "gather_with_grad", True))
            terms = self.loss_terms(dict(zip(rows, joined, strict=True)))
            loss = torch.stack([getattr(self.config, f"{name}_weight", 1.0) * term for name, term in terms.items()])
        return loss.sum(), {name: term.detach() for name, term in terms.items()}

    def forward(
        self,
        ecg_values: Tensor | None = None,
        lead_mask: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        text_tower_embeds: Tensor | None = None,
        text_tower_tokens: Tensor | None = None,
        return_loss: bool | None = None,
        return_rows: bool = False,
        **extra: Any,
    ) -> EcgTextOutput:
        """Embed what is given; with as many reports as ECGs, also compute the loss.

        Args:
            ecg_values (`torch.Tensor` of shape `(batch, num_leads, num_samples)`, *optional*): Scaled signal.
            lead_mask (`torch.Tensor` of shape `(batch, num_leads)`, *optional*): `False` where a lead is missing.
            input_ids, attention_mask (`torch.Tensor` of shape `(batch, num_tokens)`, *optional*): Reports.
            text_tower_embeds (`torch.Tensor` of shape `(batch, text_hidden_size)`, *optional*): Instead of tokens.
            text_tower_tokens (`torch.Tensor` of shape `(batch, num_tokens, text_hidden_size)`, *optional*): Beside
                `text_tower_embeds`, for methods that read the tower's tokens.
            return_loss (`bool`, *optional*): `False` embeds only, in one pass per tower and without what training
                needs. `True` demands the loss, and leaves out the embeddings where they would take a second pass
                (`masks_inputs` in `eval()`). By default the loss comes where the numbers fit, and the embeddings too.
            return_rows (`bool`): Return only what the loss is computed from (gradient caching does).
            extra: What the method's `training_rows` takes beside.

        Raises:
            TypeError: If the method takes no such `extra`.
            ValueError: If the loss is demanded and there are not as many reports as ECGs.
        """
        text = TextInputs(input_ids, attention_mask, text_tower_embeds, text_tower_tokens)
        output = EcgTextOutput()
        ecg_embeds = text_embeds = None
        num_ecgs, num_texts = 0 if ecg_values is None else ecg_values.shape[0], text.num_texts
        if ecg_values is not None and (return_rows or return_loss is not False) and num_ecgs == num_texts:
            rows = self.training_rows(ecg_values, lead_mask, text, **extra)
            if return_rows:
                return EcgTextOutput(rows=rows)
            output.loss, output.loss_terms = self.loss_from_rows(rows)
            if self.training or not self.masks_inputs:
                ecg_embeds, text_embeds = rows["ecg"], rows["text"]
            elif return_loss:
                return output
        else:
            check_no_extra_inputs(extra, " where there is no loss")
            if return_loss or return_rows:
                raise ValueError(
                    f"The loss needs as many reports as ECGs, but there are {num_texts} reports and {num_ecgs} ECGs. "
                    "Give each ECG its report, or return_loss=False."
                )
        if ecg_values is not None and ecg_embeds is None:
            output.ecg_model_output = self.ecg_encoder(ecg_values, lead_mask=lead_mask)
            ecg_embeds = self.embed_ecg(output.ecg_model_output)
        if num_texts and text_embeds is None:
            text_embeds = self.embed_text(self.encode_text(text)[0])
        if ecg_embeds is not None:
            output.ecg_embeds = unit_length(ecg_embeds)
        if text_embeds is not None:
            output.text_embeds = unit_length(text_embeds)
        if ecg_embeds is not None and text_embeds is not None:
            output.logits_per_ecg = self.pair_logits(ecg_embeds, text_embeds)
        return output

    def encode_text(self, text: TextInputs) -> tuple[Tensor, Tensor | None]:
        """Run the text tower, unless what it gives is already known.

        Returns:
            Pooled output `(batch, text_hidden_size)` and last layer `(batch, num_tokens, text_hidden_size)`; of a batch
            from a cache of pooled outputs only the former.

        Raises:
            ValueError: If there is no text.
        """
        if text.tower_embeds is not None:
            return text.tower_embeds, text.tower_tokens
        if text.input_ids is None:
            raise ValueError("Give either input_ids or text_tower_embeds.")
        output = self.text_tower(text.input_ids, text.attention_mask)
        return output.pooler_output, output.last_hidden_state

    @property
    def can_cache_text(self) -> bool:
        """Whether a report always yields the same output of the text tower: it is frozen and without dropout."""
        # Somebody may have thawed it, or put adapters into it (PEFT).
        is_trained = any(parameter.requires_grad for parameter in self.text_tower.parameters())
        return self.config.freeze_text and not self.config.text_dropout and not is_trained

    def get_ecg_features(self, ecg_values: Tensor, lead_mask: Tensor | None = None) -> Tensor:
        """Embed ECGs in the shared space.

        Args:
            ecg_values (`torch.Tensor` of shape `(batch, num_leads, num_samples)`): Scaled by the processor.
            lead_mask (`torch.Tensor` of shape `(batch, num_leads)`, *optional*): `False` where a lead is missing.

        Returns:
            `torch.Tensor` of shape `(batch, projection_dim)`: L2-normalised, in float32 or wider.
        """
        return unit_length(self.embed_ecg(self.ecg_encoder(ecg_values, lead_mask=lead_mask)))

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
            `torch.Tensor` of shape `(batch, projection_dim)`: L2-normalised, in float32 or wider.
        """
        pooled, _tokens = self.encode_text(TextInputs(input_ids, attention_mask, text_tower_embeds))
        return unit_length(self.embed_text(pooled))

    def get_probe_features(self, ecg_values: Tensor, lead_mask: Tensor | None = None) -> Tensor:
        """Features for linear probes, `(batch, probe_dim)`, not normalised."""
        return self.probe_features(self.ecg_encoder(ecg_values, lead_mask=lead_mask))

    def probe_features(self, encoder_output: BaseModelOutputWithPooling) -> Tensor:
        """The part of the ECG encoder's output that probes read: its pooled output, unless a method says otherwise."""
        return encoder_output.pooler_output

    def get_input_embeddings(self) -> nn.Module:
        """The text encoder's token embeddings."""
        return self.text_tower.model.get_input_embeddings()


def check_no_extra_inputs(extra: dict[str, Any], where: str = "") -> None:
    """Raise a `TypeError` that names inputs which a method would ignore, and `where` they are not taken."""
    if extra:
        raise TypeError(f"This method's forward takes no {', '.join(sorted(extra))}{where}.")
