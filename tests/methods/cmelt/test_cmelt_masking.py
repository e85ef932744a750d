"""What C-MELT hides of leads, patches and words, and that hidden things stay hidden."""

from __future__ import annotations

import pytest
import torch
from cmelt_examples import ALIGNED, build, make_batch, without_dropout

from hf_ecgtext.encoders import ConvTransformerConfig
from hf_ecgtext.encoders.masking import is_hidden, kept_indices


@pytest.fixture(scope="module")
def built():
    return build()


@pytest.fixture
def model(built):
    return built[0].eval()


@pytest.fixture
def batch(built):
    return {**make_batch(built[1]), "is_aligned": ALIGNED}


class Spy:
    """What a module was called with."""

    def __init__(self, module: torch.nn.Module):
        self.calls: list[tuple[tuple, dict]] = []
        self.hook = module.register_forward_pre_hook(
            lambda _, args, kwargs: self.calls.append((args, kwargs)), with_kwargs=True
        )


def visible_of(model, batch) -> torch.Tensor:
    spy = Spy(model.ecg_encoder)
    with torch.no_grad():
        model(**batch, return_rows=True)
    spy.hook.remove()
    return spy.calls[0][1]["visible"]


def test_a_quarter_of_the_patches_is_seen_other_ones_in_every_record_and_step(model, batch):
    model.train()
    torch.manual_seed(1)
    first, second = visible_of(model, batch), visible_of(model, batch)
    torch.manual_seed(1)
    again = visible_of(model, batch)
    assert first.shape == (4, 15)  # int(62 * 0.25)
    assert (first.diff(dim=1) > 0).all(), "ascending, hence distinct"
    assert not any(torch.equal(first[i], first[j]) for i in range(4) for j in range(i))
    assert not torch.equal(first, second)
    assert torch.equal(first, again), "the seed brings them back"


def test_exactly_78_of_312_patches_are_seen_at_full_length():
    ecg = {"num_samples": 5000, "conv_dim": 4, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ConvTransformerConfig(**ecg, intermediate_size=8, position_kernel_size=4, position_groups=4)
    model, processor = build({"ecg.sampling_rate_hz": 500}, ecg_config=config.to_dict())
    batch = {**make_batch(processor), "ecg_values": torch.randn(4, 12, 5000)}
    assert visible_of(model, batch).shape == (4, 78)
    assert model.mem_target(batch["ecg_values"], None).shape == (4, 312, 192), "4992 samples are reconstructed"


def test_in_evaluation_the_same_is_hidden_every_time(model, batch):
    assert torch.equal(visible_of(model, batch), visible_of(model, batch))
    with torch.no_grad():
        assert torch.equal(model(**batch).loss, model(**batch).loss)


def test_hidden_patches_reach_nothing_but_the_target(model, batch):
    noise = model.draw_noise(4, batch["input_ids"].shape[1])
    hidden = is_hidden(kept_indices(noise["patch_noise"], 15), 62)
    changed = batch["ecg_values"].clone()
    patches = changed[..., : 62 * 16].unflatten(-1, (62, 16))  # a view
    patches += hidden[:, None, :, None] * 7.0 * torch.randn_like(patches)
    with torch.no_grad():
        before = model(**batch, **noise, return_rows=True).rows
        after = model(**{**batch, "ecg_values": changed}, **noise, return_rows=True).rows
    for name in ("ecg", "text", "etm_logits", "mlm_sum"):
        assert torch.equal(before[name], after[name]), name
    assert not torch.allclose(before["mem_error"], after["mem_error"])


def test_masked_words_reach_nothing_but_the_labels():
    """With every chosen word replaced: by the mask token or a random one, never left as it is."""
    model, processor = build()
    batch = make_batch(processor)
    noise = model.draw_noise(4, batch["input_ids"].shape[1])
    noise["text_noise"][..., 1] *= 0.9  # the last tenth would keep its words
    spy = Spy(model.text_tower)
    with torch.no_grad():
        before = model(**batch, **noise, return_rows=True).rows
    (masked_ids, attention_mask), _ = spy.calls[0]
    changed = torch.where(masked_ids != batch["input_ids"], 40, batch["input_ids"])
    assert (changed != batch["input_ids"]).any()
    assert torch.equal(attention_mask, batch["attention_mask"])
    with torch.no_grad():
        after = model(**{**batch, "input_ids": changed}, **noise, return_rows=True).rows
    for name in ("ecg", "text", "etm_logits", "mem_error", "mlm_count"):
        assert torch.equal(before[name], after[name]), name
    assert not torch.allclose(before["mlm_sum"], after["mlm_sum"])


def test_a_quarter_of_the_words_is_masked_and_neither_padding_nor_special_tokens(model, batch):
    spy = Spy(model.text_tower)
    noise = model.draw_noise(4, batch["input_ids"].shape[1])
    noise["text_noise"][..., 1] = 0.0  # all by the mask token
    with torch.no_grad():
        rows = model(**batch, **noise, return_rows=True).rows
    spy.hook.remove()
    (masked_ids, _), _ = spy.calls[0]
    is_masked = masked_ids == model.config.mask_token_id
    special = torch.isin(batch["input_ids"], torch.tensor(model.config.special_token_ids))
    ordinary = batch["attention_mask"].bool() & ~special
    assert torch.equal(is_masked, masked_ids != batch["input_ids"])
    assert not (is_masked & ~ordinary).any()
    expected = [max(1, round(0.25 * count)) for count in ordinary.sum(dim=1).tolist()]
    assert is_masked.sum(dim=1).tolist() == expected == rows["mlm_count"].tolist()


def test_of_masked_words_eight_tenths_become_the_mask_token_and_one_tenth_another_word():
    model, processor = build()
    without_dropout(model).train()
    tokens = processor(text=["sinus rhythm with left axis deviation"] * 256, return_tensors="pt")
    batch = {"ecg_values": torch.randn(256, 12, 1000), **tokens}
    torch.manual_seed(0)
    spy = Spy(model.text_tower)
    noise = model.draw_noise(256, tokens["input_ids"].shape[1])
    with torch.no_grad():
        count = model(**batch, **noise, return_rows=True).rows["mlm_count"].sum().item()
    (masked_ids, _), _ = spy.calls[0]
    by_mask = (masked_ids == model.config.mask_token_id).sum().item()
    by_other = (masked_ids != tokens["input_ids"]).sum().item() - by_mask
    sigma = (count * 0.8 * 0.2) ** 0.5
    assert abs(by_mask - 0.8 * count) < 4 * sigma
    assert abs(by_other - 0.1 * count) < 4 * (count * 0.1 * 0.9) ** 0.5


def test_random_lead_masking_is_the_same_as_missing_leads(model, batch):
    noise = without_dropout(model).train().draw_noise(4, batch["input_ids"].shape[1])
    assert noise["lead_noise"].shape == (4, 12)
    stays = noise["lead_noise"] >= 0.5
    assert stays.any()
    assert not stays.all()
    lead_mask = torch.ones(4, 12, dtype=torch.bool)
    lead_mask[0] = False
    with torch.no_grad():
        ours = model(**batch, **noise, lead_mask=lead_mask, return_rows=True).rows
        model.eval()  # where no lead is masked at random
        expected = model(**batch, **noise, lead_mask=stays & lead_mask, return_rows=True).rows
        unmasked = model(**batch, **noise, lead_mask=lead_mask, return_rows=True).rows
    for name, value in expected.items():
        assert torch.equal(ours[name], value), name
    assert not torch.allclose(ours["ecg"], unmasked["ecg"])


def test_half_of_the_leads_are_masked_on_average(model):
    torch.manual_seed(0)
    noise = model.train().draw_noise(2000, 4)["lead_noise"]
    assert (noise < 0.5).float().mean().item() == pytest.approx(0.5, abs=4 * (0.25 / 24000) ** 0.5)


def test_evaluation_returns_embeddings_of_the_whole_input(model, batch):
    with torch.no_grad():
        output = model(**batch)
        assert torch.equal(output.ecg_embeds, model.get_ecg_features(batch["ecg_values"]))
        assert torch.equal(output.text_embeds, model.get_text_features(batch["input_ids"], batch["attention_mask"]))


def test_noise_that_nothing_uses_is_refused():
    model, processor = build(mlm_weight=0.0, lead_mask_probability=0.0)
    batch = make_batch(processor)
    assert set(model.draw_noise(4, 9)) == {"patch_noise"}
    for name in ("text_noise", "lead_noise", "negatives"):
        with pytest.raises(TypeError, match=f"takes no {name}"):
            model(**batch, **{name: torch.rand(4, 12)})


def test_a_masked_report_cannot_be_cached():
    frozen = {"freeze_text": True}
    assert not build(**frozen)[0].can_cache_text
    assert build(**frozen, mlm_weight=0.0)[0].can_cache_text
    assert not build(**frozen, mlm_weight=0.0, attend_padding=True)[0].can_cache_text


def test_a_cached_report_gives_the_loss_of_a_live_one():
    model, processor = build(freeze_text=True, mlm_weight=0.0)
    batch = make_batch(processor)
    with torch.no_grad():
        tower = model.text_tower(batch["input_ids"], batch["attention_mask"])
        live = model(**batch)
        cached = {"text_tower_embeds": tower.pooler_output, "text_tower_tokens": tower.last_hidden_state}
        mask = {"attention_mask": batch["attention_mask"]}
        assert torch.equal(model(ecg_values=batch["ecg_values"], **mask, **cached).loss, live.loss)
    with pytest.raises(ValueError, match="give text_tower_tokens"):
        model(ecg_values=batch["ecg_values"], text_tower_embeds=tower.pooler_output)


def test_masking_needs_tokens_and_a_mask_token(model, batch):
    embeds = torch.zeros(4, model.config.text_config.hidden_size)
    tokens = torch.zeros(4, 3, model.config.text_config.hidden_size)
    noise = {"text_noise": torch.rand(4, 3, 3)}
    with pytest.raises(ValueError, match="needs input_ids"):
        model(ecg_values=batch["ecg_values"], text_tower_embeds=embeds, text_tower_tokens=tokens, **noise)
    fresh, _ = build()
    fresh.config.mask_token_id = None
    with pytest.raises(ValueError, match=r"call config.adopt_tokenizer"):
        fresh(**batch)


def test_pairs_may_be_embedded_whole_while_the_other_terms_see_what_masking_left():
    model, processor = build(pairs_on_full_input=True)
    model = without_dropout(model).train()
    batch = make_batch(processor)
    torch.manual_seed(0)
    rows = model(**batch, is_aligned=ALIGNED, return_rows=True).rows
    whole = model(**batch, return_loss=False)
    for name, expected in (("ecg", whole.ecg_embeds), ("text", whole.text_embeds)):
        torch.testing.assert_close(torch.nn.functional.normalize(rows[name], dim=-1), expected)
    masked, _ = build()
    masked.load_state_dict(model.state_dict())
    torch.manual_seed(0)
    others = without_dropout(masked).train()(**batch, is_aligned=ALIGNED, return_rows=True).rows
    assert not torch.allclose(rows["ecg"], others["ecg"])
    assert not torch.allclose(rows["text"], others["text"])
    for name in set(rows) - {"ecg", "text"}:
        torch.testing.assert_close(rows[name], others[name])
