"""Two ways to predict the masked tokens of a report."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModel, BertConfig

from hf_ecgtext.methods import get_recipe
from hf_ecgtext.methods.base import TextInputs
from hf_ecgtext.methods.cgdmer import CgdmerConfig
from hf_ecgtext.methods.cgdmer.decoders import CausalTextDecoder, MlmHead
from hf_ecgtext.training.collator import EcgTextCollator

VOCABULARY, WIDTH = 40, 16
ATTENTION = torch.tensor([[1] * 10, [1] * 8 + [0] * 2])
# Masked from left to right: 2, 4, 7 in the first report, 1 and 6 in the second, where place 0 is a filler.
POSITIONS = torch.tensor([[7, 2, 4], [6, 1, 0]])
LABELS = torch.tensor([[30, 31, 32], [33, 34, -100]])


@pytest.fixture
def parts():
    torch.manual_seed(0)
    config = CgdmerConfig(text_config=BertConfig(hidden_size=WIDTH), text_decoder_num_heads=2)
    embeddings, tokens = torch.randn(VOCABULARY, WIDTH), torch.randn(2, 10, WIDTH)
    return CausalTextDecoder(config, embeddings).eval(), tokens, embeddings


def test_the_causal_decoder_predicts_from_left_to_right(parts):
    decoder, tokens, embeddings = parts
    logits, labels = decoder(tokens, ATTENTION, POSITIONS, LABELS, embeddings)
    assert logits.shape == (2, 3, VOCABULARY)
    assert labels.tolist() == [[31, 32, 30], [34, 33, -100]]


def test_each_step_of_the_causal_decoder_sees_the_masked_tokens_before_it_and_not_its_own(parts):
    decoder, tokens, embeddings = parts
    before, _ = decoder(tokens, ATTENTION, POSITIONS, LABELS, embeddings)
    for column, first_changed in ((1, 1), (2, 2), (0, 3)):  # columns in the order of their places: 2, 4, 7
        labels = LABELS.clone()
        labels[0, column] = 5
        after, _ = decoder(tokens, ATTENTION, POSITIONS, labels, embeddings)
        changed = (after - before).abs().amax(dim=-1) > 1e-6
        assert changed[0].tolist() == [step >= first_changed for step in range(3)]
        assert not changed[1].any()


def test_the_causal_decoder_reads_the_report_but_not_its_padding(parts):
    decoder, tokens, embeddings = parts
    before, _ = decoder(tokens, ATTENTION, POSITIONS, LABELS, embeddings)
    for place, reads in ((3, True), (9, False)):  # of the second report, neither of them masked
        changed = tokens.clone()
        changed[1, place] += 1.0
        after, _ = decoder(changed, ATTENTION, POSITIONS, LABELS, embeddings)
        assert torch.equal(after[1], before[1]) is not reads
        assert torch.equal(after[0], before[0])


def test_steps_that_do_not_count_change_nothing(parts):
    decoder, tokens, embeddings = parts
    before, _ = decoder(tokens, ATTENTION, POSITIONS, LABELS, embeddings)
    positions = POSITIONS.clone()
    positions[1, 2] = 9
    after, _ = decoder(tokens, ATTENTION, positions, LABELS, embeddings)
    assert torch.equal(after[1, :2], before[1, :2])


def test_the_mlm_head_predicts_each_token_from_its_own_place_alone():
    torch.manual_seed(0)
    embeddings, tokens = torch.randn(VOCABULARY, WIDTH), torch.randn(2, 10, WIDTH)
    head = MlmHead(CgdmerConfig(text_config=BertConfig(hidden_size=WIDTH)), embeddings)
    before, labels = head(tokens, ATTENTION, POSITIONS, LABELS, embeddings)
    assert torch.equal(labels, LABELS)
    tokens[0, 4] += 1.0
    after, _ = head(tokens, ATTENTION, POSITIONS, LABELS, embeddings)
    assert ((after - before).abs().amax(dim=-1) > 0).tolist() == [[False, False, True], [False] * 3]


def test_heads_that_do_not_divide_the_width_are_refused():
    config = CgdmerConfig(text_config=BertConfig(hidden_size=WIDTH), text_decoder_num_heads=3)
    with pytest.raises(ValueError, match=r"text_decoder_num_heads 3 does not divide .* hidden_size 16"):
        CausalTextDecoder(config, torch.randn(VOCABULARY, WIDTH))


@pytest.mark.parametrize("text_decoder", ["mlm_head", "causal_decoder"])
def test_the_token_embeddings_are_saved_once_and_come_back(text_decoder, synthetic_dataset, tmp_path):
    model, processor = get_recipe("cgdmer", "debug").override({"config.text_decoder": text_decoder}).build()
    model.eval().save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as weights:
        shapes = {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    size = model.get_input_embeddings().weight.shape
    assert [name for name, shape in shapes.items() if shape == tuple(size)] == [
        "text_tower.model.embeddings.word_embeddings.weight"
    ]
    batch = EcgTextCollator(processor)(synthetic_dataset.__getitems__(range(3)))
    with torch.no_grad():
        assert torch.equal(AutoModel.from_pretrained(tmp_path)(**batch).loss, model(**batch).loss)


@pytest.mark.parametrize("text_decoder", ["mlm_head", "causal_decoder"])
def test_the_masked_tokens_of_one_batch_can_be_learned(text_decoder, synthetic_dataset):
    override = {"config.text_decoder": text_decoder, "config.reconstruct_ecg_weight": 0.0}
    model, processor = get_recipe("cgdmer", "debug").override(override).build()
    model.eval()  # the same masks in every step, and no dropout
    batch = EcgTextCollator(processor)(synthetic_dataset.__getitems__(range(4)))
    text = TextInputs(batch["input_ids"], batch["attention_mask"])
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(25):
        loss = model.loss_terms(model.training_rows(batch["ecg_values"], None, text))["reconstruct_text"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
