"""Equal reports of several records: negatives of each other, as published, or recognised (`equal_reports`)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hf_ecgtext.methods import get_recipe, method_names
from hf_ecgtext.objectives import report_pairs, sigmoid_pair_loss
from hf_ecgtext.training import EcgTextTrainer, EcgTextTrainingArguments
from hf_ecgtext.training.collator import EcgTextCollator
from hf_ecgtext.training.negative_sampler import NegativeSampler

TERMS = {"cmelt": "ets", "cgdmer": "siglip"}


def build(method: str, choice: str = "positive"):
    return get_recipe(method, "debug").override({"config.equal_reports": choice}).build(seed=0)


def rows_of(*reports: str):
    """As many records, each with a report."""
    from hf_ecgtext.data.records import EcgRecord
    from hf_ecgtext.leads import STANDARD_LEADS

    draw = np.random.default_rng(0)
    return [
        {"ecg": EcgRecord(draw.normal(size=(12, 1000)).astype(np.float32), 100.0, STANDARD_LEADS, f"r{i}", report=text)}
        for i, text in enumerate(reports)
    ]


KEYS = torch.tensor([[7, 7], [7, 9], [2**62 + 1, 7], [2**62, 2**62]])
READS_ALIKE = torch.tensor(
    [
        [True, False, True, False],
        [True, False, True, False],  # its own report stands beside records 0 and 2, another one beside itself
        [False, False, False, False],
        [False, False, False, True],
    ]
)


def test_an_ecg_s_report_may_stand_beside_another_record():
    own = READS_ALIKE & torch.eye(4, dtype=torch.bool)
    pairs, ignored = report_pairs(KEYS, "positive")
    assert torch.equal(pairs, READS_ALIKE)
    assert ignored is None
    pairs, ignored = report_pairs(KEYS, "ignored")
    assert torch.equal(pairs, own)
    assert torch.equal(ignored, READS_ALIKE & ~own)
    pairs, ignored = report_pairs(KEYS, "negative")
    assert torch.equal(pairs, own)
    assert ignored is None


@pytest.mark.parametrize("reduction", ["mean_rows", "mean_pairs"])
def test_what_is_ignored_has_no_part_in_the_loss(reduction):
    logits = torch.tensor([[2.0, -1.0], [0.5, 3.0]], dtype=torch.float64, requires_grad=True)
    ignored = torch.tensor([[False, True], [False, False]])
    loss = sigmoid_pair_loss(logits, None, reduction, ignored)
    counted = [F.softplus(value) for value in (-logits[0, 0], logits[1, 0], -logits[1, 1])]
    torch.testing.assert_close(loss, sum(counted) / (2 if reduction == "mean_rows" else 3))
    loss.backward()
    assert logits.grad[0, 1] == 0
    assert (logits.grad != 0).sum() == 3


def test_the_collator_gives_keys_of_the_own_and_of_the_paired_report_after_cleaning():
    _, processor = get_recipe("cmelt", "debug").override({"text.report_cleaning": "12sl"}).build()
    rows = rows_of("Sinus rhythm", "sinus rhythm", "atrial fibrillation", "left axis deviation")
    own, paired = EcgTextCollator(processor, report_keys=True)(rows)["report_keys"].T
    assert torch.equal(own, paired)
    assert own.dtype == torch.int64
    assert own[0] == own[1]
    assert len(set(own.tolist())) == 3
    sampler = NegativeSampler(
        ["Sinus rhythm", "atrial fibrillation", "left axis deviation"], fraction=0.5, clean=str.lower
    )
    batch = EcgTextCollator(processor, negatives=sampler, report_keys=True)(rows)
    replaced = ~batch["is_aligned"]
    assert replaced.sum() >= 2
    assert torch.equal(batch["report_keys"][:, 0], own)
    assert torch.equal(batch["report_keys"][:, 0] != batch["report_keys"][:, 1], replaced)
    assert "report_keys" not in EcgTextCollator(processor)(rows)


@pytest.mark.parametrize("choice", ["positive", "ignored"])
@pytest.mark.parametrize("method", sorted(TERMS))
def test_the_pair_term_takes_equal_reports_as_it_is_told_to(method, choice):
    model, processor = build(method, choice)
    model.eval()  # no dropout
    records = rows_of("normal ecg", "old infarct", "normal ecg", "pacemaker")
    batch = EcgTextCollator(processor, report_keys=True)(records)
    with torch.no_grad():
        rows = model.training_rows(
            batch.pop("ecg_values"), batch.pop("lead_mask"), text_of(batch), report_keys=batch["report_keys"]
        )
        term = model.loss_terms(rows)[TERMS[method]]
        if method == "cmelt":
            logits = model.pair_logits(rows["ecg"], rows["text"])
        else:
            cosines = F.normalize(rows["ecg"], dim=-1) @ F.normalize(rows["text"], dim=-1).T
            logits = model.siglip_log_scale.exp() * cosines + model.siglip_bias
        others = {name: value for name, value in rows.items() if name != "report_keys"}
        published = model.loss_terms(others)[TERMS[method]]
    reduction = "mean_pairs" if method == "cmelt" else "mean_rows"
    is_pair, equal = torch.eye(4, dtype=torch.bool), torch.zeros(4, 4, dtype=torch.bool)
    equal[0, 2] = equal[2, 0] = True
    torch.testing.assert_close(published, sigmoid_pair_loss(logits, is_pair, reduction))
    expected = {
        "positive": sigmoid_pair_loss(logits, is_pair | equal, reduction),
        "ignored": sigmoid_pair_loss(logits, is_pair, reduction, equal),
    }[choice]
    torch.testing.assert_close(term, expected)
    assert term != published


def text_of(batch):
    from hf_ecgtext.methods.base import TextInputs

    return TextInputs(batch["input_ids"], batch["attention_mask"])


@pytest.mark.parametrize("method", sorted(TERMS))
def test_where_they_are_negatives_keys_are_refused_and_the_trainer_gives_none(method, synthetic_dataset, tmp_path):
    model, processor = build(method, "negative")
    assert not model.uses_report_keys
    batch = EcgTextCollator(processor, report_keys=True)(synthetic_dataset.__getitems__(range(4)))
    with pytest.raises(TypeError, match="takes no report_keys"):
        model(**batch)
    args = EcgTextTrainingArguments(str(tmp_path), per_device_train_batch_size=8, use_cpu=True)
    for choice, given in (("negative", False), ("positive", True), ("ignored", True)):
        model, processor = build(method, choice)
        trainer = EcgTextTrainer(model, args, processor, synthetic_dataset)
        assert trainer.data_collator.report_keys is given


def test_only_sigmoid_terms_use_keys():
    for method in method_names():
        model, _ = get_recipe(method, "debug").build()
        assert not model.uses_report_keys


@pytest.mark.parametrize("method", sorted(TERMS))
def test_training_with_recognised_reports_takes_a_step(method, synthetic_dataset, tmp_path):
    recipe = get_recipe(method, "debug").override({"config.equal_reports": "positive"})
    model, processor = recipe.build()
    settings = {**recipe.training, "max_steps": 2, "per_device_train_batch_size": 8, "disable_tqdm": True}
    args = EcgTextTrainingArguments(str(tmp_path), use_cpu=True, save_strategy="no", **settings)
    assert EcgTextTrainer(model, args, processor, synthetic_dataset).train().global_step == 2
