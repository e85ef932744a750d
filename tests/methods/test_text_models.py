"""Any text model: an embedding does not depend on the batch, or the model is refused with the setting to use."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from text_models import REPORTS, VOCAB_SIZE, save_text_model, word_tokenizer
from transformers import AutoModel, AutoProcessor

from hf_ecgtext.encoders.text import load_text_model
from hf_ecgtext.errors import CheckpointError, RecordError
from hf_ecgtext.evaluation.encoders.frozen import ModelEncoder
from hf_ecgtext.methods import get_recipe
from hf_ecgtext.training import TextCache
from hf_ecgtext.training.negatives import embed_reports

PLAIN = {}
LEFT = {"padding_side": "left", "truncation_side": "left"}
BARE = {"pads": False, "begins": False, "ends": False}  # GPT-2's habits
SOUND = [
    ("bert", "cls", PLAIN),
    ("bert", "pooler", LEFT),
    ("roberta", "mean", LEFT),
    ("distilbert", "cls", LEFT),
    ("t5", "cls", {**LEFT, "begins": False}),
    ("xlnet", "mean", LEFT),
    ("causal bert", "last", LEFT),
    ("gpt2", "last", BARE),
    ("gpt2", "last", {**BARE, **LEFT}),
    ("gpt2", "mean", {**BARE, **LEFT}),
    ("llama", "last", {**BARE, **LEFT, "begins": True}),
    ("llama", "mean", {**LEFT, "ends": False}),
]


def build(folder: Path, family: str, pooling: str, method: str = "etp", **habits):
    source = save_text_model(folder, family, word_tokenizer(**habits))
    settings = {"text_model": source, "config.text_pooling": pooling, "config.freeze_text": True}
    model, processor = get_recipe(method, "debug").override(settings).build(seed=0)
    return model.eval(), processor


@pytest.fixture(params=SOUND, ids=lambda case: "-".join([case[0], case[1], *case[2]]).replace(" ", "_"))
def sound(request, tmp_path):
    family, pooling, habits = request.param
    return build(tmp_path / "text", family, pooling, **habits)


@torch.no_grad()
def test_a_text_alone_and_beside_longer_ones_has_the_same_embedding(sound, tmp_path):
    model, processor = sound
    together = model.get_text_features(**processor(text=REPORTS))
    alone = torch.cat([model.get_text_features(**processor(text=report)) for report in REPORTS])
    padded = model.get_text_features(**processor(text=REPORTS, padding="max_length"))
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(padded, alone, rtol=0, atol=1e-5)
    assert (torch.cdist(alone, alone) + torch.eye(len(REPORTS)) > 1e-3).all(), (
        "the reports must differ to show anything"
    )

    cache = TextCache.build(model, processor, REPORTS, batch_size=3, show_progress=False)
    rows = torch.tensor([cache.report_ids[report] for report in REPORTS])
    cached = model.get_text_features(**cache.lookup({"report_ids": rows}))
    torch.testing.assert_close(cached, alone, rtol=0, atol=1e-5)

    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    loaded, again = AutoModel.from_pretrained(tmp_path / "saved"), AutoProcessor.from_pretrained(tmp_path / "saved")
    assert (again.tokenizer.padding_side, again.tokenizer.truncation_side) == ("right", "right")
    torch.testing.assert_close(loaded.get_text_features(**again(text=REPORTS)), alone, rtol=0, atol=1e-5)

    prompts = ModelEncoder(loaded, again).embed_texts(REPORTS)
    np.testing.assert_allclose(prompts, alone.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "habits"), [("bert", LEFT), ("distilbert", LEFT), ("gpt2", {**BARE, **LEFT}), ("t5", LEFT)]
)
def test_reports_alone_and_together_are_as_similar_to_the_sampler_of_negatives(family, habits, tmp_path):
    source = save_text_model(tmp_path, family, word_tokenizer(**habits))
    together = embed_reports(REPORTS, source, show_progress=False)
    alone = np.concatenate([embed_reports([report], source, show_progress=False) for report in REPORTS])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["cmelt", "deri"])
def test_methods_that_read_every_token_train_on_a_causal_tower(method, tmp_path):
    """Of DERI and C-MELT; the step is the same whether the other reports of the batch are long or short."""
    settings = {"config.mlm_weight": 0.0} if method == "cmelt" else {}
    source = save_text_model(tmp_path, "gpt2", word_tokenizer(**BARE, **LEFT))
    recipe = get_recipe(method, "debug").override(
        {"text_model": source, "config.text_pooling": "last", "config.freeze_text": False, **settings}
    )
    model, processor = recipe.build(seed=0)
    model.eval()
    ecg = torch.randn(1, 12, processor.feature_extractor.num_samples, generator=torch.Generator().manual_seed(0))
    short, padded = processor(text=[REPORTS[0]]), processor(text=[REPORTS[0]], padding="max_length")
    losses = [model(ecg_values=ecg, **text).loss for text in (short, padded)]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-5)
    model.train()(ecg_values=torch.cat([ecg, 2 * ecg]), **processor(text=REPORTS[:2])).loss.backward()
    assert not [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]


@pytest.mark.parametrize(
    ("family", "pooling", "message"),
    [
        ("gpt2", "cls", r"text_pooling='cls'.*GPT2Model.*causal.*Set text_pooling='last' or 'mean'"),
        ("llama", "cls", r"text_pooling='cls'.*LlamaModel.*causal.*Set text_pooling='last' or 'mean'"),
        ("causal bert", "pooler", r"text_pooling='pooler'.*BertModel.*causal.*Set text_pooling='last' or 'mean'"),
        ("gpt2", "pooler", "GPT2Model has no pooler; use text_pooling=.*'last' where it is causal"),
        ("fnet", "mean", "FNetModel lets padding change .* Choose another text_model"),
        ("convbert", "cls", "ConvBertModel lets padding change .* Choose another text_model"),
        ("bart", "mean", "'bart' is an encoder with a decoder.*Set text_model"),
    ],
)
def test_an_encoder_that_would_mislead_is_refused_with_the_setting_to_use(family, pooling, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        build(tmp_path, family, pooling)


def test_a_causal_tower_is_refused_without_loading_any_weights_too(tmp_path):
    model, _ = build(tmp_path, "gpt2", "last", **BARE)
    config = copy.deepcopy(model.config)
    config.text_pooling = "cls"
    with pytest.raises(ValueError, match="is causal"):
        type(model)(config)


def test_a_saved_model_that_reads_the_first_token_of_a_causal_tower_is_refused(tmp_path):
    model, _ = build(tmp_path / "text", "gpt2", "last", **BARE)
    model.config.text_pooling = "cls"  # as an older version of this library would have saved it
    model.save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="is causal"):
        AutoModel.from_pretrained(tmp_path / "saved")


def test_a_tokenizer_with_more_tokens_than_the_encoder_is_refused(tmp_path):
    source = save_text_model(tmp_path, "bert", word_tokenizer(more_words=("pacemaker",)))
    message = rf"ids up to {VOCAB_SIZE}.*embeddings for 0 to {VOCAB_SIZE - 1} only.*resize_token_embeddings"
    with pytest.raises(CheckpointError, match=message):
        load_text_model(source, "mean")


def test_an_encoder_with_more_embeddings_than_tokens_is_taken(tmp_path):
    source = save_text_model(tmp_path, "t5", word_tokenizer())
    model, tokenizer = load_text_model(source, "mean")
    model.resize_token_embeddings(VOCAB_SIZE + 28)  # T5's has as many rows without a token
    model.save_pretrained(tmp_path / "wide")
    tokenizer.save_pretrained(tmp_path / "wide")
    assert len(load_text_model(str(tmp_path / "wide"), "mean")[0].get_input_embeddings().weight) == VOCAB_SIZE + 28


@pytest.mark.parametrize(("family", "limit"), [("bert", 40), ("gpt2", 40), ("llama", 40)])
def test_the_tokenizer_s_limit_counts_where_it_is_smaller(family, limit, tmp_path):
    assert build(tmp_path, family, "mean", **LEFT)[1].max_length == limit


@pytest.mark.parametrize(("family", "limit"), [("bert", 64), ("roberta", 62), ("gpt2", 48), ("llama", 64)])
def test_a_long_report_is_cut_to_the_positions_of_the_tower(family, limit, tmp_path):
    model, processor = build(tmp_path, family, "mean", **LEFT, model_max_length=10**30)
    assert processor.max_length == limit
    batch = processor(text=["sinus rhythm " * 100, "normal"])
    assert batch["input_ids"].shape == (2, limit)
    assert model.get_text_features(**batch).isfinite().all()
    source = str(tmp_path)
    assert np.isfinite(embed_reports(["sinus rhythm " * 100, "normal"], source, show_progress=False)).all()


def test_a_long_report_loses_its_end_and_not_its_beginning(tmp_path):
    _, processor = build(tmp_path, "bert", "mean", **LEFT, model_max_length=5)
    assert processor.decode(processor(text="sinus rhythm with atrial flutter")["input_ids"][0]) == (
        "<s> sinus rhythm with </s>"
    )


def test_a_text_of_which_no_token_remains_is_refused_by_record(tmp_path):
    _, processor = build(tmp_path, "gpt2", "last", **BARE)
    processor.empty_report = "keep"
    with pytest.raises(RecordError, match="Record 'r2': the text has no token"):
        processor(text=["normal", ""], record_ids=["r1", "r2"])
    with pytest.raises(RecordError, match="makes no token of this report"):
        embed_reports(["normal", ""], str(tmp_path), show_progress=False)


@pytest.mark.parametrize("family", ["gpt2", "llama", "xlnet"])
def test_freezing_some_layers_freezes_every_embedding_and_no_later_layer(family, tmp_path):
    source = save_text_model(tmp_path, family, word_tokenizer())
    settings = {"config.freeze_text": False, "config.num_frozen_text_layers": 1, "config.text_pooling": "mean"}
    model, _ = get_recipe("etp", "debug").override({"text_model": source, **settings}).build()
    text = model.text_tower.model
    embeddings = [module for module in text.modules() if isinstance(module, torch.nn.Embedding)]
    assert len(embeddings) == (2 if family == "gpt2" else 1)  # GPT-2 learns its positions
    assert not any(module.weight.requires_grad for module in embeddings)
    layers = {"gpt2": "h", "llama": "layers", "xlnet": "layer"}[family]
    first, last = getattr(text, layers)
    assert not any(parameter.requires_grad for parameter in first.parameters())
    assert all(parameter.requires_grad for parameter in last.parameters())


def test_a_tower_keeps_no_keys_and_values_to_go_on_generating_from(tmp_path):
    model, processor = build(tmp_path, "gpt2", "last", **BARE)
    assert model.text_tower.model.config.use_cache
    seen = []
    model.text_tower.model.register_forward_hook(lambda _, __, output: seen.append(output))
    model.get_text_features(**processor(text=REPORTS))
    assert seen[0].past_key_values is None
