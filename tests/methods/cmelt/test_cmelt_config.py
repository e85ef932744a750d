"""C-MELT's settings: what they refuse, what they take from a tokenizer, and what the recipes say."""

from __future__ import annotations

from operator import attrgetter

import pytest
import torch
from cmelt_examples import make_batch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from hf_ecgtext.encoders import ConvTransformerConfig, Vit1dConfig
from hf_ecgtext.encoders.text import tiny_bert_tokenizer
from hf_ecgtext.methods import get_recipe
from hf_ecgtext.methods.cmelt import CmeltConfig, CmeltModel
from hf_ecgtext.training import EcgTextTrainingArguments


def word_tokenizer(*extra: str, **special: str) -> PreTrainedTokenizerFast:
    """Words of one sentence, and such special tokens as T5 has."""
    words = ["<pad>", "</s>", "<unk>", "sinus", "rhythm", "normal", "ecg"]
    model = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    model.pre_tokenizer = Whitespace()
    tokens = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", **special}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, **tokens)
    if extra:
        tokenizer.add_special_tokens({"additional_special_tokens": list(extra)})
    return tokenizer


def test_the_defaults_are_the_published_architecture():
    config = CmeltConfig()
    assert isinstance(config.ecg_config, ConvTransformerConfig)
    assert config.ecg_config.num_tokens == 312
    text = config.text_config
    assert (text.model_type, text.num_layers, text.d_model, text.d_ff, text.vocab_size) == ("t5", 12, 768, 2048, 32128)
    assert (config.num_fusion_layers, config.mem_layer, config.text_mask_ratio, config.ecg_mask_ratio) == (
        6,
        3,
        0.25,
        0.75,
    )
    assert (config.initial_siglip_scale, config.initial_siglip_bias) == (1.0, 0.0)


def test_a_mask_token_is_adopted_and_special_tokens_are_spared():
    config = CmeltConfig()
    tokenizer = tiny_bert_tokenizer()
    config.adopt_tokenizer(tokenizer)
    assert config.mask_token_id == tokenizer.mask_token_id
    assert {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id} <= set(config.special_token_ids)


def test_t5_s_first_sentinel_serves_as_its_mask_token():
    config = CmeltConfig()
    config.adopt_tokenizer(word_tokenizer("<extra_id_0>", "<extra_id_1>"))
    assert config.mask_token_id == 7
    assert config.special_token_ids == [0, 1, 2, 7, 8]


def test_a_tokenizer_without_either_is_refused_unless_nothing_is_masked():
    with pytest.raises(ValueError, match=r"neither a mask token nor <extra_id_0>.*mlm_weight=0"):
        CmeltConfig().adopt_tokenizer(word_tokenizer())
    config = CmeltConfig(mlm_weight=0.0)
    config.adopt_tokenizer(word_tokenizer())
    assert config.mask_token_id is None


def test_a_t5_encoder_trains():
    recipe = get_recipe("cmelt", "debug")
    tokenizer = word_tokenizer("<extra_id_0>")
    t5 = T5Config(vocab_size=16, d_model=24, d_kv=4, d_ff=8, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu")
    config = recipe.config
    config.ecg_config.num_samples = 1000
    config.adopt_tokenizer(tokenizer)
    text_model = T5EncoderModel(t5)
    model = CmeltModel.from_text_model(config, text_model).train()
    assert torch.equal(model.text_tower.model.shared.weight, text_model.shared.weight)
    assert model.mlm_head.vocabulary.out_features == 16
    tokens = tokenizer(["sinus rhythm normal ecg", "normal ecg"], padding=True, return_tensors="pt")
    tokens.pop("token_type_ids", None)
    model(ecg_values=torch.randn(2, 12, 1000), **tokens).loss.backward()
    assert not [name for name, value in model.named_parameters() if value.grad is None]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"projection_dim": 512}, "projection_dim 512 must equal ecg_config.hidden_size 768"),
        ({"ecg_config": Vit1dConfig()}, "ecg_config must be a ConvTransformerConfig"),
        ({"num_fusion_layers": 0}, "num_fusion_layers must be positive"),
        ({"num_fusion_layers": 2}, r"mem_layer must lie in \[0, 2\], not 3"),
        ({"fusion_num_attention_heads": 7}, "projection_dim 768 is not a multiple of fusion_num_attention_heads 7"),
        ({"mem_decoder_num_attention_heads": 5}, "mem_decoder_hidden_size 384 is not a multiple of"),
        ({"ecg_mask_ratio": 1.0}, r"ecg_mask_ratio must lie in \[0, 1\)"),
        ({"ecg_mask_ratio": 0.999}, "ecg_mask_ratio 0.999 hides all 312 patches"),
        ({"ecg_mask_ratio": 0.0}, "ecg_mask_ratio 0.0 hides no patch.*mem_weight=0"),
        ({"text_mask_ratio": 0.0}, "text_mask_ratio=0 leaves nothing to predict"),
        ({"text_mask_ratio": -0.1}, r"text_mask_ratio must lie in \[0, 1\)"),
        ({"lead_mask_probability": 1.0}, r"lead_mask_probability must lie in \[0, 1\)"),
        ({"mlm_weight": -1.0}, "mlm_weight must not be negative"),
        (dict.fromkeys(("mlm_weight", "mem_weight", "etm_weight", "ets_weight"), 0.0), "are all 0; set at least one"),
        (
            {"mlm_weight": 0.0, "etm_weight": 0.0, "ets_weight": 0.0, "mem_layer": 0},
            "never reads the report; raise mem_layer",
        ),
        ({"siglip_scale": 0.0}, "siglip_scale must be positive"),
        (
            {"text_config": BertConfig(), "text_pooling": "pooler", "ets_weight": 0.0},
            "Nothing trains the text encoder's pooler",
        ),
        ({"siglip_reduction": "sum"}, "siglip_reduction"),
        ({"mlm_reduction": "sum"}, "mlm_reduction"),
        ({"mem_reduction": "sum"}, "mem_reduction"),
        ({"mem_masked_leads": "drop"}, "mem_masked_leads"),
        ({"etm_head": "binary"}, "etm_head"),
        ({"mlm_head": "linear"}, "mlm_head"),
        (
            {"ecg_config": ConvTransformerConfig(conv_norm="each"), "ecg_mask_ratio": 0.995},
            "leaves one patch, which conv_norm='each' makes 0",
        ),
        ({"mask_ratio": 0.5}, "has no setting mask_ratio"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(Exception, match=message):
        CmeltConfig(**settings)


def test_the_caller_s_encoder_config_stays_as_it_is():
    ecg_config = ConvTransformerConfig()
    config = CmeltConfig(ecg_config=ecg_config, ets_weight=0.0)
    assert not config.ecg_config.add_pooler
    assert ecg_config.add_pooler
    assert CmeltConfig(ecg_config=config.ecg_config).ecg_config.add_pooler, "and it comes back with the term"


@pytest.mark.parametrize("name", ["debug", "quickstart", "ptb_xl_100hz", "paper", "released"])
def test_recipes_give_valid_training_arguments(name, tmp_path):
    recipe = get_recipe("cmelt", name)
    arguments = EcgTextTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **recipe.training)
    assert arguments.negative_sampling == ("random" if name in {"debug", "quickstart"} else "far")
    if name in {"paper", "released"}:
        assert (arguments.lr_stage_fractions, arguments.max_steps) == ([0.1, 0.4, 0.5], 300_000)


# What the paper prints, what the release computes, and the config's defaults (docs/methods/cmelt.md, "Readings").
FORMS = {
    "mlm_reduction": ("sum_tokens", "mean_tokens", "mean_tokens"),  # eq. 1
    "mem_reduction": ("sum_all", "mean_hidden", "mean_hidden"),  # eq. 2
    "norm_pix_loss": (False, True, True),  # eq. 2
    "etm_head": ("scalar", "two_way", "two_way"),  # eq. 3
    "siglip_reduction": ("mean_rows", "mean_pairs", "mean_pairs"),  # eq. 4
    "initial_siglip_scale": (1.0, 1.0, 1.0),  # eq. 4
    "initial_siglip_bias": (0.0, 0.0, 0.0),  # eq. 4
    "normalize_features": (False, False, False),  # eq. 4
    "learnable_siglip": (False, False, False),  # eq. 4
    "mlm_head": ("dense", "transform", "transform"),  # section 3.1
    "ecg_config.conv_norm": ("each", "first", "first"),  # section 3.1
    "ecg_config.pooler_order": ("tanh_dense", "dense_tanh", "dense_tanh"),  # section 3.2
    "attend_padding": (False, True, False),
    "ecg_config.leak_free_masking": (True, False, True),
    "mem_masked_leads": ("exclude", "reconstruct_zeros", "exclude"),
}


@pytest.mark.parametrize("name", FORMS)
def test_each_recipe_has_its_own_form_and_the_defaults_are_the_readings(name):
    configs = get_recipe("cmelt", "paper").config, get_recipe("cmelt", "released").config, CmeltConfig()
    assert tuple(attrgetter(name)(config) for config in configs) == FORMS[name]


def test_only_the_paper_removes_punctuation():
    assert get_recipe("cmelt", "paper").text["report_cleaning"] == "cmelt"
    assert get_recipe("cmelt", "released").text["report_cleaning"] == "dbeta"


@pytest.mark.parametrize("name", ["paper", "released"])
def test_a_small_model_in_the_form_of_the_recipe_trains_completely(name):
    """Every setting of the recipe but for sizes, on the debug recipe's sizes."""
    sizes = get_recipe("cmelt", "debug").config.to_dict()
    config = get_recipe("cmelt", name).config
    forms = {field: getattr(config, field) for field in FORMS if "." not in field and not field.startswith("initial")}
    ecg = {**sizes["ecg_config"], "conv_norm": config.ecg_config.conv_norm, "num_samples": 1000}
    ecg |= {field: getattr(config.ecg_config, field) for field in ("pooler_order", "leak_free_masking")}
    recipe = get_recipe("cmelt", "debug").override(
        {"config.ecg_config": ecg, **{f"config.{field}": value for field, value in forms.items()}}
    )
    model, processor = recipe.build(seed=0)
    output = model.train()(**make_batch(processor), is_aligned=torch.tensor([True, False, True, True]))
    output.loss.backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in model.parameters())
    assert output.loss.isfinite()


def test_an_input_length_that_the_mask_ratio_cannot_have_is_refused_when_the_model_is_built():
    recipe = get_recipe("cmelt", "debug").override({"ecg.duration_s": 0.5})
    with pytest.raises(ValueError, match=r"ecg_mask_ratio 0.75 hides all 3 patches"):
        recipe.build()


def test_attending_to_padding_reaches_the_text_encoder():
    model, processor = get_recipe("cmelt", "debug").override({"config.attend_padding": True}).build()
    batch = make_batch(processor)
    seen = []
    model.text_tower.model.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True
    )
    model.get_text_features(batch["input_ids"], batch["attention_mask"])
    assert (batch["attention_mask"] == 0).any()
    assert (seen[0] == 1).all()
