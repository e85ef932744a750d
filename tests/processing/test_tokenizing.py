"""Tokenizers of every habit pad and cut on the right, and stay the caller's."""

from __future__ import annotations

import pytest
from text_models import word_tokenizer

from hf_ecgtext.processing import EcgFeatureExtractor, EcgTextProcessor
from hf_ecgtext.processing.tokenizing import prepare_tokenizer, tokenize


def test_a_tokenizer_that_pads_and_cuts_on_the_right_is_used_as_it_is():
    tokenizer = word_tokenizer()
    assert prepare_tokenizer(tokenizer) is tokenizer
    assert EcgTextProcessor(EcgFeatureExtractor(), tokenizer).tokenizer is tokenizer


@pytest.mark.parametrize("habits", [{"padding_side": "left"}, {"truncation_side": "left"}, {"pads": False}])
def test_any_other_is_replaced_by_a_copy_and_stays_as_it_was(habits):
    tokenizer = word_tokenizer(**habits)
    before = (tokenizer.padding_side, tokenizer.truncation_side, tokenizer.pad_token)
    prepared = prepare_tokenizer(tokenizer)
    assert (prepared.padding_side, prepared.truncation_side) == ("right", "right")
    assert prepared.pad_token == ("</s>" if "pads" in habits else "<pad>")
    assert (tokenizer.padding_side, tokenizer.truncation_side, tokenizer.pad_token) == before
    assert prepared.get_vocab() == tokenizer.get_vocab(), "no token is added"
    tokens = tokenize(prepared, ["sinus rhythm with atrial flutter", "normal"], max_length=5)
    assert tokens["attention_mask"] == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert prepared.decode(tokens["input_ids"][0]) == "<s> sinus rhythm with </s>"


def test_the_end_of_text_in_a_text_is_read_though_it_pads_too():
    tokens = tokenize(prepare_tokenizer(word_tokenizer(pads=False)), ["normal", "normal sinus rhythm"], max_length=9)
    assert tokens["input_ids"][0][2] == tokens["input_ids"][0][3] == 2
    assert tokens["attention_mask"][0] == [1, 1, 1, 0, 0]


def test_a_tokenizer_with_nothing_to_pad_with_is_refused_with_the_fix():
    tokenizer = word_tokenizer(pads=False)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match=r"neither a padding token nor an end-of-text token.*set tokenizer\.pad_token"):
        EcgTextProcessor(EcgFeatureExtractor(), tokenizer)


def test_the_side_holds_even_if_somebody_turns_the_processor_s_tokenizer_round():
    processor = EcgTextProcessor(EcgFeatureExtractor(), word_tokenizer())
    processor.tokenizer.padding_side = "left"
    assert processor(text=["normal", "sinus rhythm"])["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
