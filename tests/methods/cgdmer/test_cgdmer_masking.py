"""What CG-DMER hides, how much of it, and that it stays hidden."""

from __future__ import annotations

import pytest
import torch

from hf_ecgtext.methods import get_recipe
from hf_ecgtext.methods.base import TextInputs
from hf_ecgtext.methods.cgdmer import CgdmerConfig, CgdmerModel
from hf_ecgtext.training.collator import EcgTextCollator

LEADS, PATCHES, VISIBLE = 12, 20, 5  # of the debug recipe: 1000 samples in patches of 50, a quarter of them visible


@pytest.fixture
def built():
    return get_recipe("cgdmer", "debug").build(seed=0)


@pytest.fixture
def batch(built, synthetic_dataset):
    return EcgTextCollator(built[1])(synthetic_dataset.__getitems__(range(4)))


def rows_of(model: CgdmerModel, batch: dict[str, torch.Tensor], **noise: torch.Tensor) -> dict[str, torch.Tensor]:
    text = TextInputs(batch["input_ids"], batch["attention_mask"])
    with torch.no_grad():
        return model.training_rows(batch["ecg_values"], batch["lead_mask"], text, **noise)


def is_visible(model: CgdmerModel, patch_noise: torch.Tensor) -> torch.Tensor:
    """`(batch, LEADS, PATCHES)`."""
    visible = model.visible_patches(patch_noise)
    flags = torch.zeros(len(visible), LEADS * PATCHES, dtype=torch.bool).scatter(1, visible, True)
    return flags.view(-1, LEADS, PATCHES)


def test_the_paper_hides_75_of_the_100_patches_of_every_lead():
    config = CgdmerConfig()
    assert config.ecg_config.num_patches - config.num_visible_patches == 75
    assert config.num_visible_patches * config.ecg_config.num_leads == 300


def test_every_lead_of_every_sample_keeps_equally_many_patches(built):
    model = built[0].train()
    visible = is_visible(model, model.draw_noise(64, 10)["patch_noise"])
    assert torch.equal(visible.sum(dim=2), torch.full((64, LEADS), VISIBLE))
    places = model.visible_patches(model.draw_noise(64, 10)["patch_noise"])
    assert places.shape == (64, LEADS * VISIBLE)
    assert (places.diff(dim=1) > 0).all(), "ascending, so none twice"


def scoped(scope: str, **overrides) -> CgdmerModel:
    settings = {"config.ecg_mask_scope": scope, **{f"config.{name}": value for name, value in overrides.items()}}
    return get_recipe("cgdmer", "debug").override(settings).build(seed=0)[0]


def test_with_the_same_places_every_lead_keeps_the_same_patches_and_every_sample_others():
    model = scoped("same_places").train()
    visible = is_visible(model, model.draw_noise(16, 10)["patch_noise"])
    assert torch.equal(visible, visible[:, :1].expand(-1, LEADS, -1))
    assert torch.equal(visible.sum(dim=2), torch.full((16, LEADS), VISIBLE))
    assert len({tuple(row) for row in visible[:, 0].tolist()}) > 12


def test_of_all_tokens_a_quarter_stays_whatever_their_leads():
    model = scoped("all_tokens").train()
    torch.manual_seed(0)
    noise = model.draw_noise(2000, 1)["patch_noise"]
    places = model.visible_patches(noise)
    assert places.shape == (2000, model.config.num_visible_tokens) == (2000, LEADS * PATCHES // 4)
    assert (places.diff(dim=1) > 0).all(), "ascending, so none twice"
    visible = is_visible(model, noise)
    by_lead = visible.sum(dim=2)
    assert len(by_lead.unique()) > 5, "counts differ from lead to lead"
    share = visible.double().mean(dim=0)
    assert (share - 0.25).abs().max() < 5 * (0.25 * 0.75 / 2000) ** 0.5
    # The smallest noise stays, wherever it stands.
    expected = [
        sorted(sorted(range(LEADS * PATCHES), key=row.__getitem__)[:60]) for row in noise[:5].flatten(1).tolist()
    ]
    assert places[:5].tolist() == expected


@pytest.mark.parametrize("scope", ["per_lead", "same_places", "all_tokens"])
def test_shapes_do_not_depend_on_the_noise_and_training_reaches_everything(scope, batch):
    model = scoped(scope).train()
    assert {tuple(model.visible_patches(model.draw_noise(4, 9)["patch_noise"]).shape) for _ in range(5)} == {(4, 60)}
    model(**batch).loss.backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in model.parameters())


def test_a_record_whose_only_lead_is_wholly_hidden_or_wholly_visible_breaks_nothing(batch):
    """Possible where masks do not count by lead: nothing to read, or nothing to reconstruct."""
    model = scoped("all_tokens").train()
    batch["lead_mask"][1:3] = False
    batch["lead_mask"][1:3, 0] = True
    noise = model.draw_noise(4, batch["input_ids"].shape[1])
    noise["patch_noise"][1, 0], noise["patch_noise"][2, 0] = 0.99999, 0.0
    rows = model(**batch, **noise, return_rows=True).rows
    assert rows["ecg_count"].tolist() == [1.0, 1.0, 0.0, 1.0]
    assert rows["ecg_error"][2] == 0
    loss = model(**batch, **noise).loss
    loss.backward()
    assert loss.isfinite()
    assert all(value.grad.isfinite().all() for value in model.parameters())


def test_a_ratio_is_refused_where_it_leaves_nothing_of_what_the_scope_counts():
    with pytest.raises(ValueError, match="leaves 0 of the 20 patches of a lead"):
        scoped("same_places", ecg_mask_ratio=0.96)
    assert scoped("all_tokens", ecg_mask_ratio=0.96).config.num_visible_tokens == 9  # int(240 * 0.04)
    with pytest.raises(ValueError, match="leaves 0 of the 240 patches of all leads"):
        scoped("all_tokens", ecg_mask_ratio=0.999)


def test_masks_differ_between_samples_leads_and_steps_and_come_back_with_the_seed(built):
    model = built[0].train()
    torch.manual_seed(3)
    first, second = model.draw_noise(8, 10), model.draw_noise(8, 10)
    torch.manual_seed(3)
    again = model.draw_noise(8, 10)
    for name in ("patch_noise", "text_noise"):
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], second[name])
    masks = is_visible(model, first["patch_noise"])
    assert len({tuple(row) for row in masks.flatten(0, 1).tolist()}) > 80  # of 96 leads
    assert not torch.equal(masks, is_visible(model, second["patch_noise"]))


def test_every_patch_is_visible_a_quarter_of_the_time(built):
    model = built[0].train()
    torch.manual_seed(0)
    share = is_visible(model, model.draw_noise(4000, 1)["patch_noise"]).double().mean(dim=0)
    # Five standard deviations of a binomial share, for 240 patches.
    assert (share - 0.25).abs().max() < 5 * (0.25 * 0.75 / 4000) ** 0.5


def test_validation_always_hides_the_same(built, batch):
    model = built[0].eval()
    first, second = rows_of(model, batch), rows_of(model, batch)
    assert all(torch.equal(first[name], second[name]) for name in first)
    model.train()
    assert not torch.equal(rows_of(model, batch)["ecg_error"], rows_of(model, batch)["ecg_error"])


def test_hidden_patches_reach_the_target_and_nothing_else(built, batch):
    model = built[0].eval()
    noise = model.draw_noise(4, batch["input_ids"].shape[1])
    expected = rows_of(model, batch, **noise)
    hidden = ~is_visible(model, noise["patch_noise"])  # (batch, LEADS, PATCHES)
    changed = dict(batch)
    patches = batch["ecg_values"].view(4, LEADS, PATCHES, -1)
    changed["ecg_values"] = torch.where(hidden.unsqueeze(-1), torch.rand_like(patches), patches).flatten(2)
    rows = rows_of(model, changed, **noise)
    for name in set(rows) - {"ecg_error"}:
        assert torch.equal(rows[name], expected[name]), name
    assert (rows["ecg_error"] != expected["ecg_error"]).all()
    changed["ecg_values"] = torch.where(hidden.unsqueeze(-1), patches, torch.rand_like(patches)).flatten(2)
    assert not torch.allclose(rows_of(model, changed, **noise)["ecg"], expected["ecg"])


def test_masked_tokens_reach_the_target_and_nothing_else(built, batch):
    model = built[0].eval()
    noise = model.draw_noise(4, batch["input_ids"].shape[1])
    seen = []
    handle = model.text_tower.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    expected = rows_of(model, batch, **noise)
    masked = seen[0] != batch["input_ids"]
    assert (seen[0][masked] == model.config.mask_token_id).all()
    changed = dict(batch)
    other = batch["input_ids"].clamp_min(30) + 1  # ordinary tokens, never special ones
    changed["input_ids"] = torch.where(masked, other, batch["input_ids"])
    rows = rows_of(model, changed, **noise)
    handle.remove()
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(rows["text"], expected["text"])
    assert (rows["text_nll"] != expected["text_nll"]).all()


def test_15_percent_of_the_ordinary_tokens_are_masked_and_no_special_one(built, synthetic_dataset):
    model = built[0].eval()
    batch = EcgTextCollator(built[1])(synthetic_dataset.__getitems__(range(64)))
    special = torch.isin(batch["input_ids"], torch.tensor(model.config.special_token_ids))
    ordinary = (batch["attention_mask"].bool() & ~special).sum(dim=1)
    seen = []
    handle = model.text_tower.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    counts = rows_of(model, batch)["text_count"]
    handle.remove()
    assert torch.equal(counts, torch.round(0.15 * ordinary).clamp_min(1))
    masked = seen[0] != batch["input_ids"]
    assert torch.equal(masked.sum(dim=1), counts.long())
    assert (seen[0][masked] == model.config.mask_token_id).all()
    assert not (masked & special).any()


def test_inference_sees_everything_and_draws_nothing(built, batch):
    model = built[0].eval()
    features = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        features.append(model.get_ecg_features(batch["ecg_values"], batch["lead_mask"]))
    assert torch.equal(*features)
    for patch in range(PATCHES):
        changed = batch["ecg_values"].clone()
        changed[:, 3, patch * 50 : (patch + 1) * 50] += 1.0
        moved = model.get_ecg_features(changed, batch["lead_mask"]) - features[0]
        assert (moved.abs().amax(dim=1) > 0).all()


def test_missing_leads_are_neither_read_nor_reconstructed(built, batch):
    model = built[0].eval()
    batch["lead_mask"][:, 5] = False
    expected = rows_of(model, batch)
    batch["ecg_values"][:, 5] = float("nan")
    rows = rows_of(model, batch)
    assert all(torch.equal(rows[name], expected[name]) for name in rows)
    assert all(value.isfinite().all() for value in rows.values())


def test_the_decoder_tells_hidden_patches_apart_by_their_place_alone(built):
    decoder = built[0].eval().ecg_decoder
    tokens, visible = torch.randn(1, 3, 64), torch.tensor([[0, 50, 100]])
    with torch.no_grad():
        predicted = decoder(tokens, visible, None)[0, [7, 27, 207, 8]]  # the same time in three leads, and another time
        assert torch.cdist(predicted, predicted).fill_diagonal_(1.0).min() > 1e-4
        decoder.position_embedding.time.zero_()
        decoder.position_embedding.lead.zero_()
        predicted = decoder(tokens, visible, None)[0, [7, 27, 207, 8]]
    torch.testing.assert_close(predicted, predicted[:1].expand(4, -1))


def test_the_contrast_may_read_the_whole_input(synthetic_dataset):
    override = {"config.contrastive_on_full_input": True}
    model, processor = get_recipe("cgdmer", "debug").override(override).build(seed=0)
    masked_only, _ = get_recipe("cgdmer", "debug").build(seed=0)
    batch = EcgTextCollator(processor)(synthetic_dataset.__getitems__(range(4)))
    rows, expected = rows_of(model.eval(), batch), rows_of(masked_only.eval(), batch)
    for name in ("ecg_error", "text_nll", "text_count"):
        assert torch.equal(rows[name], expected[name])
    with torch.no_grad():
        output = model.ecg_encoder(batch["ecg_values"], batch["lead_mask"])
        pooled = model.text_tower(batch["input_ids"], batch["attention_mask"]).pooler_output
        assert torch.equal(rows["ecg"], model.embed_ecg(output))
        assert torch.equal(rows["text"], model.embed_text(pooled))
    assert not torch.allclose(rows["ecg"], expected["ecg"])
    assert not torch.allclose(rows["text"], expected["text"])


def test_noise_that_is_not_used_is_refused(built, batch):
    with pytest.raises(TypeError, match="takes no patch_nois"):
        built[0](**batch, patch_nois=torch.zeros(4, LEADS, PATCHES))
    model, _ = get_recipe("cgdmer", "debug").override({"config.reconstruct_ecg_weight": 0.0}).build()
    with pytest.raises(TypeError, match="takes no patch_noise"):
        model(**batch, patch_noise=torch.zeros(4, LEADS, PATCHES))
