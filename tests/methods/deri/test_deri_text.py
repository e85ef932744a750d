"""What the text-reading decoder reads, and what inference needs."""

from __future__ import annotations

import pytest
import torch
from deri_models import random_inputs, silence_dropout, tiny_deri
from torch.nn import functional as F

from hf_ecgtext.methods import get_recipe
from hf_ecgtext.training import TextCache
from hf_ecgtext.training.collator import EcgTextCollator


def padded(inputs, more: int, fill: float):
    """The same reports with `more` further positions that hold `fill`."""
    tokens = F.pad(inputs["text_tower_tokens"], (0, 0, 0, more), value=fill)
    mask = F.pad(inputs["attention_mask"], (0, more))
    return {**inputs, "text_tower_tokens": tokens, "attention_mask": mask}


def test_padding_changes_no_row_and_no_gradient():
    results = []
    for more, fill in ((0, 0.0), (7, 1e3)):
        model, inputs = tiny_deri().train(), padded(random_inputs(), more, fill)
        silence_dropout(model)
        tokens = inputs["text_tower_tokens"]
        tokens[~inputs["attention_mask"].bool()] = fill
        output = model(**inputs)
        output.loss.backward()
        results.append((output.loss, {name: p.grad for name, p in model.named_parameters() if p.requires_grad}))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-6)
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], gradient, rtol=1e-4, atol=1e-5)


def test_text_tokens_at_every_real_place_reach_the_loss():
    model = tiny_deri().double().eval()
    inputs = random_inputs(dtype=torch.float64)
    inputs["text_tower_tokens"].requires_grad_(True)
    model(**inputs).loss.backward()
    reached = inputs["text_tower_tokens"].grad.abs().sum(dim=-1) > 0
    assert torch.equal(reached, inputs["attention_mask"].bool())


@torch.no_grad()
def test_without_mask_padding_reports_are_read_at_full_length_whatever_their_batch():
    model = tiny_deri(mask_padding=False, max_text_tokens=24).eval()
    ids = torch.tensor([[2, 30, 31, 3], [2, 40, 3, 0]])
    inputs = {"ecg_values": random_inputs(2)["ecg_values"], "input_ids": ids, "attention_mask": (ids > 0).long()}
    longer = {**inputs, "input_ids": F.pad(ids, (0, 20)), "attention_mask": F.pad(inputs["attention_mask"], (0, 20))}
    seen = []
    model.text_to_ecg.embedding.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    torch.testing.assert_close(model(**inputs).loss, model(**longer).loss, rtol=1e-5, atol=1e-6)
    assert [tuple(tokens.shape) for tokens in seen] == [(2, 24, 32)] * 2
    masked = tiny_deri(max_text_tokens=24).eval()
    assert not torch.allclose(masked(**inputs).loss_terms["mixed"], model(**inputs).loss_terms["mixed"], atol=1e-4)


def test_without_mask_padding_a_cache_which_has_no_padding_is_refused():
    model = tiny_deri(mask_padding=False)
    assert not model.can_cache_text
    assert tiny_deri().can_cache_text
    with pytest.raises(ValueError, match="mask_padding=False reads the tower's output at all 128 positions"):
        model(**random_inputs())
    aligned = tiny_deri(mask_padding=False, mixed_weight=0.0, decode_ecg_weight=0.0, decode_text_weight=0.0)
    assert aligned.can_cache_text, "nothing reads padding there"


# What the decoder reads of a report (D13) and how reports are projected (D14)


@torch.no_grad()
def test_a_decoder_of_the_pooled_report_reads_its_alignment_embedding_as_one_token():
    model, inputs = tiny_deri(decoder_text_input="pooled").eval(), random_inputs()
    assert model.text_to_ecg.position_embedding.shape == (1, 3, 32), "one token between two separators"
    seen = []
    model.text_to_ecg.embedding.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    rows = model(**inputs, return_rows=True).rows
    assert torch.equal(seen[0], F.normalize(rows["text"], dim=-1).unsqueeze(1))
    other = {**inputs, "text_tower_tokens": -inputs["text_tower_tokens"]}
    assert torch.equal(model(**other).loss, model(**inputs).loss), "no token of the report matters"
    tokens = tiny_deri().eval()
    assert not torch.equal(tokens(**other).loss, tokens(**inputs).loss)


def test_what_no_decoder_reads_is_neither_asked_for_nor_cached(synthetic_dataset):
    aligned = {"mixed_weight": 0.0, "decode_ecg_weight": 0.0, "decode_text_weight": 0.0}
    reports = [item["ecg"].report for item in synthetic_dataset.__getitems__(range(6))]
    for settings, content in (({}, "tokens"), ({"decoder_text_input": "pooled"}, "pooled"), (aligned, "pooled")):
        model = tiny_deri(**settings).eval()
        processor = get_recipe("deri", "debug").build()[1]
        cache = TextCache.build(model, processor, reports, show_progress=False)
        assert model.text_cache_content == content
        assert (cache.tokens is not None) is (content == "tokens")
        inputs = random_inputs()
        del inputs["text_tower_tokens"], inputs["attention_mask"]
        if content == "pooled":
            assert torch.isfinite(model(**inputs).loss)
    # padding is then nobody's: not refused, and no hindrance to the cache
    pooled = tiny_deri(decoder_text_input="pooled", mask_padding=False, max_text_tokens=256)
    assert pooled.can_cache_text


@torch.no_grad()
def test_a_linear_projection_maps_reports_tokens_and_decoded_features_alike():
    model, inputs = tiny_deri(projection_type="linear").eval(), random_inputs()
    names = {name for name, _ in model.named_parameters() if name.startswith("text_projection")}
    assert names == {"text_projection.0.weight", "text_projection.0.bias"}
    first, second = inputs["text_tower_embeds"][:2]
    embed = model.embed_text
    torch.testing.assert_close(embed(first + second), embed(first) + embed(second) - embed(torch.zeros(64)))
    curved = tiny_deri().eval().embed_text
    assert not torch.allclose(
        curved(first + second), curved(first) + curved(second) - curved(torch.zeros(64)), atol=1e-3
    )


def test_impossible_reports_are_refused_with_the_fix():
    model, inputs = tiny_deri(max_text_tokens=8), random_inputs()
    with pytest.raises(ValueError, match=r"has 9 tokens and the decoder positions for 8.*text\.max_length"):
        model(**inputs)
    del inputs["text_tower_tokens"]
    with pytest.raises(ValueError, match="give text_tower_tokens beside text_tower_embeds"):
        tiny_deri()(**inputs)
    with pytest.raises(ValueError, match="set max_text_tokens=128"):
        tiny_deri(mask_padding=False, max_text_tokens=256)
    with pytest.raises(TypeError, match="takes no noise"):
        tiny_deri()(**random_inputs(), noise=None)


def test_cached_tokens_give_the_loss_and_the_gradients_of_the_live_tower(synthetic_dataset):
    model, processor = get_recipe("deri", "debug").override({"config.freeze_text": True}).build(seed=0)
    silence_dropout(model)
    items = synthetic_dataset.__getitems__(range(12))
    reports = [item["ecg"].report for item in items]
    cache = TextCache.build(model, processor, reports, batch_size=5, show_progress=False)
    live = EcgTextCollator(processor)(items)
    cached = cache.lookup(EcgTextCollator(processor, cache.report_ids, cache.token_spans)(items))
    assert "input_ids" not in cached
    assert cached["text_tower_tokens"].ndim == 3
    results = []
    for batch in (live, cached):
        model.train().zero_grad()
        output = model(**batch, rme_noise=torch.rand(12, 2, 21, generator=torch.Generator().manual_seed(0)))
        output.loss.backward()
        results.append((output.loss, {name: p.grad for name, p in model.named_parameters() if p.requires_grad}))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-6)
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], gradient, rtol=1e-3, atol=1e-4)


# Inference


@torch.no_grad()
def test_the_ecg_embedding_is_the_mixed_one_and_needs_no_text():
    model, inputs = tiny_deri().eval(), random_inputs()
    rows = model(**inputs, return_rows=True).rows
    assert torch.equal(rows["ecg"], rows["mixed_ecg"])
    features = model.get_ecg_features(inputs["ecg_values"])
    torch.testing.assert_close(features, F.normalize(rows["mixed_ecg"], dim=-1))
    other = {**inputs, "text_tower_tokens": -inputs["text_tower_tokens"]}
    assert torch.equal(model(**other).ecg_embeds, model(**inputs).ecg_embeds)
    text = model.get_text_features(text_tower_embeds=inputs["text_tower_embeds"])
    torch.testing.assert_close(text, F.normalize(model.text_projection(inputs["text_tower_embeds"]), dim=-1))


@torch.no_grad()
def test_the_aligned_embedding_is_the_mean_of_unit_tokens():
    model, inputs = tiny_deri(ecg_embedding="aligned").eval(), random_inputs()
    tokens = model.token_attention(model.ecg_tokens(model.ecg_encoder(inputs["ecg_values"])))
    expected = F.normalize(F.normalize(tokens, dim=-1).mean(dim=1), dim=-1)
    torch.testing.assert_close(model.get_ecg_features(inputs["ecg_values"]), expected)
    assert torch.equal(model(**inputs).ecg_embeds, model.get_ecg_features(inputs["ecg_values"]))


@torch.no_grad()
def test_tokens_that_are_not_normalised_at_inference_change_inference_and_not_the_loss():
    model, released, inputs = tiny_deri().eval(), tiny_deri(normalize_tokens_at_inference=False).eval(), random_inputs()
    assert torch.equal(model(**inputs).loss, released(**inputs).loss)
    ours, theirs = (m.get_ecg_features(inputs["ecg_values"]) for m in (model, released))
    assert not torch.allclose(ours, theirs, atol=1e-3)
    # `forward` gives in eval() what inference gives, in training what the loss uses.
    assert torch.equal(released(**inputs).ecg_embeds, theirs)
    silence_dropout(released)
    with torch.no_grad():
        training = released.train()(**inputs, return_rows=True).rows["ecg"]
        torch.testing.assert_close(released(**inputs).ecg_embeds, F.normalize(training, dim=-1))


@torch.no_grad()
def test_probes_read_what_the_config_names():
    ecg = random_inputs()["ecg_values"]
    mixed = tiny_deri().eval()
    torch.testing.assert_close(F.normalize(mixed.get_probe_features(ecg), dim=-1), mixed.get_ecg_features(ecg))
    pool = tiny_deri(probe_feature="backbone_pool").eval()
    assert torch.equal(pool.get_probe_features(ecg), pool.ecg_encoder(ecg).pooler_output)
    aligned = tiny_deri(probe_feature="aligned").eval()
    reference = tiny_deri(ecg_embedding="aligned").eval()
    torch.testing.assert_close(F.normalize(aligned.get_probe_features(ecg), dim=-1), reference.get_ecg_features(ecg))
