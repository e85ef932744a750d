"""C-MELT's four terms against slow, independent derivations in double precision."""

from __future__ import annotations

import math

import pytest
import torch
from cmelt_examples import ALIGNED, build, make_batch

from hf_ecgtext.encoders.masking import kept_indices, mask_text


@pytest.fixture(scope="module")
def built():
    return build()


@pytest.fixture(scope="module")
def model(built):
    return built[0].double()


@pytest.fixture(scope="module")
def batch(built):
    batch = make_batch(built[1])
    return {**batch, "ecg_values": batch["ecg_values"].double(), "is_aligned": ALIGNED}


@pytest.fixture(scope="module")
def noise(model, batch):
    torch.manual_seed(3)
    drawn = model.train().draw_noise(4, batch["input_ids"].shape[1])
    model.eval()
    return drawn


@pytest.fixture(scope="module")
def rows(model, batch, noise):
    with torch.no_grad():
        return model(**batch, **noise, return_rows=True).rows


def random_rows(size: int = 5, width: int = 6) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "ecg": torch.randn(size, width).double(),
        "text": torch.randn(size, width).double(),
        "is_aligned": torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])[:size].double(),
        "mlm_sum": torch.tensor([3.0, 0.0, 5.0, 1.0, 2.0])[:size].double(),
        "mlm_count": torch.tensor([2.0, 0.0, 4.0, 1.0, 1.0])[:size].double(),
        "mem_error": torch.rand(size).double(),
        "mem_count": torch.ones(size).double(),
        "etm_logits": torch.randn(size, 2).double(),
    }


def test_rows_are_one_per_record(rows):
    names = {"ecg", "text", "is_aligned", "mlm_sum", "mlm_count", "mem_error", "mem_count", "etm_logits"}
    assert set(rows) == names
    assert {len(value) for value in rows.values()} == {4}
    assert torch.equal(rows["is_aligned"].bool(), ALIGNED)


def test_mlm_is_the_mean_over_all_masked_words_of_the_batch(model):
    assert model.loss_terms(random_rows())["mlm"].item() == pytest.approx(11 / 8)


def test_equation_1_divides_the_sum_over_masked_words_by_the_number_of_reports():
    model, _ = build(mlm_reduction="sum_tokens")
    assert model.loss_terms(random_rows())["mlm"].item() == pytest.approx(11 / 5)


def test_equation_3_asks_one_logit():
    model, _ = build(etm_head="scalar")
    rows = random_rows() | {"etm_logits": torch.tensor([[0.3], [-1.2], [2.0], [-0.4], [0.9]]).double()}
    expected = 0.0
    for logit, aligned in zip(rows["etm_logits"][:, 0].tolist(), rows["is_aligned"].tolist(), strict=True):
        yes = 1 / (1 + math.exp(-logit))
        expected -= math.log(yes if aligned else 1 - yes)
    assert model.loss_terms(rows)["etm"].item() == pytest.approx(expected / 5)
    assert model.etm_head.out_features == 1


def test_a_dense_head_scores_the_vocabulary_without_anything_before_it():
    model, _ = build(mlm_head="dense")
    tokens = torch.randn(2, 3, 32)
    weight, bias = model.mlm_head.vocabulary.weight, model.mlm_head.vocabulary.bias
    torch.testing.assert_close(model.mlm_head(tokens), tokens @ weight.T + bias)
    assert {name for name, _ in model.mlm_head.named_parameters()} == {"vocabulary.weight", "vocabulary.bias"}


def test_a_record_without_a_lead_is_not_in_the_mean_of_mem(model):
    rows = random_rows()
    rows["mem_count"][2], rows["mem_error"][2] = 0.0, 0.0
    assert model.loss_terms(rows)["mem"].item() == pytest.approx(sum(rows["mem_error"].tolist()) / 4)
    rows["mem_count"] = torch.zeros(5).double()
    assert model.loss_terms(rows)["mem"].item() == 0.0


def test_mem_is_the_mean_over_records_and_matching_that_over_reports(model):
    rows = random_rows()
    terms = model.loss_terms(rows)
    assert terms["mem"].item() == pytest.approx(sum(rows["mem_error"].tolist()) / 5)
    expected = 0.0
    for (no, yes), aligned in zip(rows["etm_logits"].tolist(), rows["is_aligned"].tolist(), strict=True):
        own = yes if aligned else no
        expected += math.log(math.exp(no) + math.exp(yes)) - own
    assert terms["etm"].item() == pytest.approx(expected / 5)


@pytest.mark.parametrize("settings", [{}, {"siglip_scale": 3.0, "siglip_bias": -1.5}, {"normalize_features": True}])
@pytest.mark.parametrize("reduction", ["mean_pairs", "mean_rows"])
def test_only_a_record_s_own_aligned_report_is_a_positive_pair(settings, reduction):
    model, _ = build(**settings, siglip_reduction=reduction)
    rows = random_rows()
    expected = 0.0
    for i in range(5):
        for j in range(5):
            ecg, text = rows["ecg"][i], rows["text"][j]
            if settings.get("normalize_features"):
                ecg, text = ecg / ecg.square().sum().sqrt(), text / text.square().sum().sqrt()
            logit = settings.get("siglip_scale", 1.0) * (ecg * text).sum().item() + settings.get("siglip_bias", 0.0)
            sign = 1 if i == j and rows["is_aligned"][i] == 1 else -1
            expected -= math.log(1 / (1 + math.exp(-sign * logit)))
    expected /= 25 if reduction == "mean_pairs" else 5
    assert model.loss_terms(rows)["ets"].item() == pytest.approx(expected)


def test_orthogonal_features_give_ln_two_per_pair(model):
    rows = random_rows(4, 8) | {"ecg": torch.eye(4, 8).double(), "text": torch.eye(4, 8).double().roll(4, dims=1)}
    assert model.loss_terms(rows)["ets"].item() == pytest.approx(math.log(2))


def test_the_words_that_were_masked_are_what_is_predicted(model, batch, noise, rows):
    """Logits of the whole report, by the same head; then a loop over the words that differ from what was asked."""
    config = model.config
    masked = mask_text(
        batch["input_ids"],
        batch["attention_mask"],
        noise["text_noise"],
        probability=0.25,
        mask_token_id=config.mask_token_id,
        special_token_ids=config.special_token_ids,
        vocab_size=config.text_config.vocab_size,
    )
    visible = kept_indices(noise["patch_noise"], 15)
    with torch.no_grad():
        tokens = model.text_tower(masked.input_ids, batch["attention_mask"]).last_hidden_state
        ecg = model.ecg_encoder(batch["ecg_values"], visible=visible).last_hidden_state
        logits = model.mlm_head(model.fuse(ecg, tokens, batch["attention_mask"])[0])
    for record in range(4):
        total = count = 0.0
        for place, label in zip(masked.positions[record].tolist(), masked.labels[record].tolist(), strict=True):
            if label != -100:
                assert label == batch["input_ids"][record, place]
                scores = logits[record, place]
                total += math.log(scores.exp().sum()) - scores[label].item()
                count += 1
        assert rows["mlm_sum"][record].item() == pytest.approx(total)
        assert rows["mlm_count"][record].item() == count


def test_the_vocabulary_is_scored_at_masked_places_only(model, batch, noise):
    seen = []
    hook = model.mlm_head.vocabulary.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    model(**batch, **noise)
    hook.remove()
    most = math.ceil(0.25 * batch["input_ids"].shape[1])
    assert seen == [(4, most, 32)]


def test_mem_compares_hidden_patches_with_each_lead_normalised_over_the_recording(built, batch, noise):
    """A head that predicts one constant makes the error a matter of the target alone."""
    model, _ = build()
    model.double()
    with torch.no_grad():
        model.mem_head.prediction.weight.zero_()
        model.mem_head.prediction.bias.fill_(0.3)
        rows = model(**batch, **noise, return_rows=True).rows
    order = noise["patch_noise"].argsort(dim=1)
    for record in range(4):
        hidden, total = order[record, 15:].tolist(), 0.0
        signal = batch["ecg_values"][record, :, : 62 * 16]
        for lead in signal:
            normalised = (lead - lead.mean()) / (lead.var(unbiased=True) + 1e-6).sqrt()
            for patch in hidden:
                total += (normalised[16 * patch : 16 * patch + 16] - 0.3).square().sum().item()
        assert rows["mem_error"][record].item() == pytest.approx(total / (len(hidden) * 12 * 16))


def constant_prediction(value: float = 0.3, **settings):
    """A C-MELT whose MEM head predicts one constant, so that the error is a matter of the target alone."""
    model, _ = build(**settings)
    model.double()
    with torch.no_grad():
        model.mem_head.prediction.weight.zero_()
        model.mem_head.prediction.bias.fill_(value)
    return model


def test_equation_2_sums_over_every_sample_of_the_raw_signal(batch, noise):
    model = constant_prediction(mem_reduction="sum_all", norm_pix_loss=False)
    with torch.no_grad():
        rows = model(**batch, **noise, return_rows=True).rows
        terms = model(**batch, **noise).loss_terms
    for record in range(4):
        total = sum((sample - 0.3) ** 2 for sample in batch["ecg_values"][record, :, : 62 * 16].flatten().tolist())
        assert rows["mem_error"][record].item() == pytest.approx(total)
    assert terms["mem"].item() == pytest.approx(rows["mem_error"].sum().item() / 4)


@pytest.mark.parametrize("masked_leads", ["exclude", "reconstruct_zeros"])
@pytest.mark.parametrize("reduction", ["mean_hidden", "sum_all"])
def test_missing_and_masked_leads_do_not_count_in_mem_unless_zeros_are_asked_for(batch, noise, masked_leads, reduction):
    """Record 0 lacks two leads, record 1 all; in training, random lead masking takes others of each."""
    model = constant_prediction(mem_masked_leads=masked_leads, mem_reduction=reduction).train()
    lead_mask = torch.ones(4, 12, dtype=torch.bool)
    lead_mask[0, [2, 7]] = False
    lead_mask[1] = False
    with torch.no_grad():
        output = model(**batch, **noise, lead_mask=lead_mask)
        rows = model(**batch, **noise, lead_mask=lead_mask, return_rows=True).rows
    there = lead_mask & (noise["lead_noise"] >= 0.5)
    assert there[[0, 2, 3]].any(dim=1).all()
    assert not there.all(dim=1).any()
    order = noise["patch_noise"].argsort(dim=1)
    means = []
    for record in range(4):
        errors = []
        for lead in range(12):
            if not there[record, lead] and masked_leads == "exclude":
                continue
            signal = batch["ecg_values"][record, lead, : 62 * 16] * there[record, lead]
            normalised = (signal - signal.mean()) / (signal.var(unbiased=True) + 1e-6).sqrt()
            for patch in order[record, 15:].tolist() if reduction == "mean_hidden" else range(62):
                errors += (normalised[16 * patch : 16 * patch + 16] - 0.3).square().tolist()
        expected = sum(errors) / (max(len(errors), 1) if reduction == "mean_hidden" else 1)
        assert rows["mem_error"][record].item() == pytest.approx(expected)
        means += [expected] if errors else []
    assert len(means) == (3 if masked_leads == "exclude" else 4)
    assert output.loss_terms["mem"].item() == pytest.approx(sum(means) / len(means))


def test_without_a_masked_lead_both_ways_give_the_same_loss_and_gradients_to_the_bit(batch, noise):
    found = []
    for masked_leads in ("exclude", "reconstruct_zeros"):
        model, _ = build(mem_masked_leads=masked_leads)  # in eval(), where no lead is masked at random
        inputs = {**batch, "ecg_values": batch["ecg_values"].float()}
        loss = model(**inputs, **noise, lead_mask=torch.ones(4, 12, dtype=torch.bool)).loss
        loss.backward()
        found.append([loss.detach(), *(value.grad for value in model.parameters() if value.grad is not None)])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_nobody_learns_to_predict_a_lead_that_is_not_there(batch, noise):
    model, _ = build()
    lead_mask = torch.ones(4, 12, dtype=torch.bool)
    lead_mask[:, 5] = False
    model(**{**batch, "ecg_values": batch["ecg_values"].float()}, **noise, lead_mask=lead_mask).loss.backward()
    by_lead = model.mem_head.prediction.weight.grad.view(12, 16, -1).abs().amax(dim=(1, 2))
    assert by_lead[5] == 0
    assert (by_lead[[0, 4, 6, 11]] > 0).all()


def test_mem_predicts_lead_by_lead(batch, noise):
    """Order of the 192 numbers of a patch: all samples of a lead, then the next lead."""
    model, _ = build(norm_pix_loss=False)
    target = model.mem_target(batch["ecg_values"], None)
    assert target.shape == (4, 62, 192)
    for lead, patch, sample in [(0, 0, 0), (5, 7, 3), (11, 61, 15)]:
        expected = batch["ecg_values"][:, lead, 16 * patch + sample]
        assert torch.equal(target[:, patch, 16 * lead + sample], expected)


def test_masked_and_missing_leads_are_zero_in_the_target(model, batch):
    lead_mask = torch.ones(4, 12, dtype=torch.bool)
    lead_mask[:, 2] = False
    target = model.mem_target(batch["ecg_values"], lead_mask).unflatten(-1, (12, 16))
    assert (target[:, :, 2] == 0).all()
    assert (target[:, :, 3] != 0).any()


def test_replaced_reports_can_be_left_out_of_mlm(batch, noise, rows):
    model, _ = build(mlm_on_negatives=False)
    with torch.no_grad():
        ours = model.double()(**batch, **noise, return_rows=True).rows
    assert ours["mlm_count"][1] == ours["mlm_sum"][1] == 0
    torch.testing.assert_close(ours["mlm_sum"][[0, 2, 3]], rows["mlm_sum"][[0, 2, 3]])
    assert rows["mlm_count"][1] > 0


def test_without_is_aligned_every_report_is_the_record_s_own(model, batch, noise):
    batch = {name: value for name, value in batch.items() if name != "is_aligned"}
    everywhere = torch.ones(4, dtype=torch.bool)
    with torch.no_grad():
        assert torch.equal(model(**batch, **noise).loss, model(**batch, **noise, is_aligned=everywhere).loss)


def test_a_replaced_report_changes_matching_and_pairs_but_neither_reconstruction(model, batch, noise):
    with torch.no_grad():
        some = model(**batch, **noise).loss_terms
        every = model(**{**batch, "is_aligned": torch.ones(4, dtype=torch.bool)}, **noise).loss_terms
    assert torch.equal(some["mlm"], every["mlm"])
    assert torch.equal(some["mem"], every["mem"])
    assert not torch.isclose(some["etm"], every["etm"])
    assert not torch.isclose(some["ets"], every["ets"])


def test_learned_scale_and_bias_start_as_siglip_s_and_get_gradients(batch, noise):
    model, _ = build(learnable_siglip=True, normalize_features=True)
    assert model.logit_scale.item() == pytest.approx(10.0)
    assert model.siglip_bias.item() == -10.0
    model(**{**batch, "ecg_values": batch["ecg_values"].float()}, **noise).loss.backward()
    assert model.log_siglip_scale.grad.abs() > 0
    assert model.siglip_bias.grad.abs() > 0
    chosen, _ = build(learnable_siglip=True, siglip_scale=5.0, siglip_bias=0.5)
    assert (chosen.logit_scale.item(), chosen.siglip_bias.item()) == (pytest.approx(5.0), 0.5)


def test_fusion_layers_of_a_pair_read_the_old_states_of_each_other(model):
    text, ecg = torch.randn(2, 5, 32).double(), torch.randn(2, 7, 32).double()
    fused_text, ecg_states = model.fusion(text, ecg, None)
    assert torch.equal(ecg_states[0], ecg)
    states = (text, ecg)
    for text_layer, ecg_layer in zip(model.fusion.text_layers, model.fusion.ecg_layers, strict=True):
        states = (text_layer(*states, None, None), ecg_layer(*states[::-1], None, None))
    torch.testing.assert_close(fused_text, states[0])
    torch.testing.assert_close(ecg_states[-1], states[1])


def test_padding_of_the_text_reaches_no_fused_token(model):
    text, ecg = torch.randn(2, 5, 32).double(), torch.randn(2, 7, 32).double()
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    before_text, before_ecg = model.fusion(text, ecg, mask)
    text[0, 3:] = 9.0
    after_text, after_ecg = model.fusion(text, ecg, mask)
    assert torch.equal(before_ecg[-1], after_ecg[-1])
    assert torch.equal(before_text[0, :3], after_text[0, :3])


def test_get_features_are_the_released_features_normalised(model, batch):
    raw = model.embed_ecg(model.ecg_encoder(batch["ecg_values"]))
    assert torch.equal(raw, model.get_probe_features(batch["ecg_values"]))
    torch.testing.assert_close(model.get_ecg_features(batch["ecg_values"]), raw / raw.norm(dim=-1, keepdim=True))
    assert (raw.norm(dim=-1) < 0.99).any() or (raw.norm(dim=-1) > 1.01).any()
