"""Masking: exact counts, nothing moved to a wrong place, and randomness that can be told and repeated."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ecgtext.encoders.masking import (
    gather_tokens,
    is_hidden,
    kept_indices,
    mask_text,
    masking_noise,
    num_kept,
    scatter_tokens,
)

CPU = torch.device("cpu")
PAD, BEGIN, END, MASK, VOCAB = 0, 1, 2, 3, 50
FIRST_WORD = 4  # ids below are special


# How many


@pytest.mark.parametrize(
    ("num_items", "mask_ratio", "expected"),
    [(312, 0.75, 78), (100, 0.75, 25), (105, 0.1, 94), (10, 0.9, 1), (50, 0.75, 12), (20, 0.75, 5), (7, 0.0, 7)],
)
def test_the_number_of_kept_items_is_that_of_the_papers(num_items, mask_ratio, expected):
    assert num_kept(num_items, mask_ratio) == expected


@given(st.integers(1, 2000), st.integers(0, 99))
def test_the_number_of_kept_items_is_the_floor_of_the_exact_fraction(num_items, percent):
    assert num_kept(num_items, percent / 100) == num_items * (100 - percent) // 100


# Which


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 60), st.data())
def test_kept_indices_are_ascending_and_those_of_the_smallest_noise(batch, num_items, data):
    keep = data.draw(st.integers(0, num_items))
    noise = torch.rand(batch, num_items, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 1000))))
    indices = kept_indices(noise, keep)
    assert indices.shape == (batch, keep)
    for row, found in zip(noise.tolist(), indices.tolist(), strict=True):
        assert found == sorted(found)
        assert set(found) == set(sorted(range(num_items), key=lambda index, row=row: row[index])[:keep])


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 40), st.integers(0, 95))
def test_kept_and_hidden_make_the_whole(batch, num_items, percent):
    keep = num_kept(num_items, percent / 100)
    indices = kept_indices(torch.rand(batch, num_items), keep)
    hidden = is_hidden(indices, num_items)
    assert hidden.dtype == torch.bool
    assert hidden.sum(dim=1).tolist() == [num_items - keep] * batch
    for row, places in zip(hidden, indices, strict=True):
        assert not row[places].any()
        assert sorted(places.tolist() + row.nonzero().flatten().tolist()) == list(range(num_items))


def test_equal_noise_still_keeps_the_exact_number():
    indices = kept_indices(torch.zeros(3, 16), 4)
    assert all(len(set(row)) == 4 for row in indices.tolist())
    assert is_hidden(indices, 16).sum(dim=1).tolist() == [12, 12, 12]


def test_leads_are_masked_with_the_same_count_each():
    indices = kept_indices(torch.rand(4, 12, 100), num_kept(100, 0.75))
    assert indices.shape == (4, 12, 25)
    assert len({tuple(lead) for lead in indices.flatten(0, 1).tolist()}) == 4 * 12  # each with a choice of its own


def test_nothing_masked_keeps_everything_in_place():
    tokens = torch.randn(2, 7, 3)
    indices = kept_indices(torch.rand(2, 7), num_kept(7, 0.0))
    assert torch.equal(gather_tokens(tokens, indices), tokens)
    assert not is_hidden(indices, 7).any()


# There and back


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 30), st.integers(0, 95))
def test_scattered_tokens_come_back_to_their_places(batch, num_tokens, percent):
    tokens = torch.randn(batch, num_tokens, 5)
    mask_token = torch.full((1, 1, 5), 7.0)
    indices = kept_indices(torch.rand(batch, num_tokens), num_kept(num_tokens, percent / 100))
    visible = gather_tokens(tokens, indices)
    full = scatter_tokens(visible, indices, mask_token, num_tokens)
    hidden = is_hidden(indices, num_tokens).unsqueeze(-1)
    assert torch.equal(full, torch.where(hidden, mask_token, tokens))
    assert torch.equal(gather_tokens(full, indices), visible)


def test_gathered_tokens_are_the_ones_asked_for():
    tokens = torch.arange(2 * 4 * 2).view(2, 4, 2)
    gathered = gather_tokens(tokens, torch.tensor([[0, 3], [1, 2]]))
    assert gathered.tolist() == [[[0, 1], [6, 7]], [[10, 11], [12, 13]]]


def test_gradients_reach_visible_tokens_and_the_mask_token_by_how_often_each_is_used():
    tokens = torch.randn(2, 8, 3, dtype=torch.float64, requires_grad=True)
    mask_token = torch.randn(1, 1, 3, dtype=torch.float64, requires_grad=True)
    indices = kept_indices(torch.rand(2, 8), 2)

    def roundtrip(tokens, mask_token):
        return scatter_tokens(gather_tokens(tokens, indices), indices, mask_token, 8)

    assert torch.autograd.gradcheck(roundtrip, (tokens, mask_token))
    roundtrip(tokens, mask_token).sum().backward()
    assert torch.equal(mask_token.grad, torch.full_like(mask_token, 2.0 * 6))
    assert torch.equal(tokens.grad, (~is_hidden(indices, 8)).unsqueeze(-1).expand_as(tokens).double())


def test_a_half_precision_stream_stays_in_half_precision():
    visible = torch.randn(2, 3, 4, dtype=torch.bfloat16)
    full = scatter_tokens(visible, torch.tensor([[0, 1, 2], [1, 3, 4]]), torch.zeros(1, 1, 4), 5)
    assert full.dtype == torch.bfloat16


# Noise


def test_training_noise_differs_from_step_to_step_and_comes_back_with_the_seed():
    torch.manual_seed(3)
    first, second = (masking_noise((4, 100), CPU, training=True) for _ in range(2))
    torch.manual_seed(3)
    again = masking_noise((4, 100), CPU, training=True)
    assert torch.equal(first, again)
    assert not torch.equal(kept_indices(first, 25), kept_indices(second, 25))
    assert len({tuple(row) for row in kept_indices(first, 25).tolist()}) == 4  # records differ too
    assert first.min() >= 0
    assert first.max() < 1


def test_evaluation_noise_is_always_the_same_and_leaves_the_global_seed_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = masking_noise((4, 100), CPU, training=False)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(6)
    assert torch.equal(masking_noise((4, 100), CPU, training=False), first)


def test_every_place_is_hidden_equally_often():
    indices = kept_indices(torch.rand(4000, 20, generator=torch.Generator().manual_seed(0)), 5)
    visible = (~is_hidden(indices, 20)).float().mean(dim=0)
    deviation = math.sqrt(0.25 * 0.75 / 4000)
    assert (visible - 0.25).abs().max() < 5 * deviation


# Reports


def reports(lengths: list[int], num_tokens: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Reports of so many ordinary tokens between their begin and end, padded to the longest."""
    generator = torch.Generator().manual_seed(1)
    width = num_tokens or max(lengths) + 2
    input_ids = torch.full((len(lengths), width), PAD)
    attention_mask = torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        input_ids[row, 0], input_ids[row, length + 1] = BEGIN, END
        input_ids[row, 1 : length + 1] = torch.randint(FIRST_WORD, VOCAB, (length,), generator=generator)
        attention_mask[row, : length + 2] = 1
    return input_ids, attention_mask


def masked(input_ids, attention_mask, probability=0.15, noise=None, **options):
    noise = torch.rand(*input_ids.shape, 3) if noise is None else noise
    settings = {"mask_token_id": MASK, "special_token_ids": [PAD, BEGIN, END, MASK], "vocab_size": VOCAB, **options}
    return mask_text(input_ids, attention_mask, noise, probability=probability, **settings)


def chosen_places(result) -> list[list[int]]:
    rows = zip(result.positions.tolist(), result.labels.tolist(), strict=True)
    return [[place for place, label in zip(*row, strict=True) if label != -100] for row in rows]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=5),
    st.sampled_from([0.1, 0.15, 0.25, 0.5, 0.9, 1.0]),
    st.integers(0, 6),
)
def test_an_exact_share_of_ordinary_tokens_is_chosen_and_nothing_else_is_touched(lengths, probability, padding):
    input_ids, attention_mask = reports(lengths, max(lengths) + 2 + padding)
    result = masked(input_ids, attention_mask, probability, replacement=(1.0, 0.0))
    for row, (length, places) in enumerate(zip(lengths, chosen_places(result), strict=True)):
        assert len(places) == len(set(places)) == min(length, max(1, round(probability * length)))
        assert all(1 <= place <= length for place in places)  # neither begin, end nor padding
        expected = input_ids[row].clone()
        expected[places] = MASK
        assert torch.equal(result.input_ids[row], expected)
        labels = result.labels[row][result.labels[row] != -100]
        assert torch.equal(labels, input_ids[row][places])
    assert result.positions.shape == result.labels.shape
    assert result.positions.shape[1] == max(1, math.ceil(probability * input_ids.shape[1]))


@pytest.mark.parametrize("probability", [0.15, 0.25])
def test_the_number_of_chosen_tokens_is_right_at_every_length_up_to_512(probability):
    lengths = list(range(511))
    places = chosen_places(masked(*reports(lengths), probability))
    assert [len(row) for row in places] == [min(n, max(1, round(probability * n))) for n in lengths]


def test_a_report_without_ordinary_tokens_stays_as_it_is():
    input_ids, attention_mask = reports([0, 12])
    result = masked(input_ids, attention_mask)
    assert torch.equal(result.input_ids[0], input_ids[0])
    assert (result.labels[0] == -100).all()
    empty_ids, empty_mask = reports([0])
    empty = masked(empty_ids, empty_mask)
    assert torch.equal(empty.input_ids, empty_ids)
    assert (empty.labels == -100).all()


def test_the_only_word_of_a_report_is_chosen():
    input_ids, attention_mask = reports([1, 12])
    result = masked(input_ids, attention_mask, replacement=(1.0, 0.0))
    assert chosen_places(result)[0] == [1]
    assert result.input_ids[0, :3].tolist() == [BEGIN, MASK, END]
    assert result.labels[0].max() == input_ids[0, 1]


def test_special_tokens_inside_a_report_are_never_chosen():
    input_ids, attention_mask = reports([20])
    input_ids[0, 5:15] = END  # such as separators between sentences
    for seed in range(20):
        noise = torch.rand(1, 22, 3, generator=torch.Generator().manual_seed(seed))
        (places,) = chosen_places(masked(input_ids, attention_mask, 0.5, noise))
        assert len(places) == 5
        assert not set(places) & {0, *range(5, 15), 21}


def test_what_is_chosen_depends_on_the_noise_of_its_own_row_only():
    input_ids, attention_mask = reports([15, 20, 9])
    noise = torch.rand(3, 22, 3, generator=torch.Generator().manual_seed(0))
    other = noise.clone()
    other[1] = torch.rand(22, 3, generator=torch.Generator().manual_seed(1))
    first, second = masked(input_ids, attention_mask, 0.4, noise), masked(input_ids, attention_mask, 0.4, other)
    for name in ("input_ids", "labels"):
        one, two = getattr(first, name), getattr(second, name)
        assert torch.equal(one[[0, 2]], two[[0, 2]])
        assert not torch.equal(one[1], two[1])


def test_the_masks_come_back_with_the_seed_and_differ_from_step_to_step():
    input_ids, attention_mask = reports([30, 40])
    torch.manual_seed(0)
    first, second = masked(input_ids, attention_mask), masked(input_ids, attention_mask)
    torch.manual_seed(0)
    again = masked(input_ids, attention_mask)
    assert torch.equal(first.input_ids, again.input_ids)
    assert torch.equal(first.positions, again.positions)
    assert chosen_places(first) != chosen_places(second)


def test_tokens_are_replaced_in_the_proportions_of_bert():
    word = 10
    input_ids, attention_mask = reports([400] * 40)
    input_ids[:, 1:-1] = word
    noise = torch.rand(40, 402, 3, generator=torch.Generator().manual_seed(0))
    result = masked(input_ids, attention_mask, 0.25, noise)
    found = result.input_ids.gather(1, result.positions)[result.labels != -100]
    total = 40 * 100
    assert len(found) == total

    def within(count: int, share: float) -> bool:
        return abs(count - share * total) < 4 * math.sqrt(total * share * (1 - share))

    assert within(int((found == MASK).sum()), 0.8 + 0.1 / VOCAB)  # a random token may be the mask token by chance
    assert within(int((found == word).sum()), 0.1 + 0.1 / VOCAB)
    random_tokens = found[(found != MASK) & (found != word)]
    assert within(len(random_tokens), 0.1 * (VOCAB - 2) / VOCAB)
    assert random_tokens.min() >= 0
    assert random_tokens.max() < VOCAB
    assert len(random_tokens.unique()) > 0.9 * VOCAB


@pytest.mark.parametrize(
    ("replacement", "share_changed", "share_masked"), [((1.0, 0.0), 1, 1), ((0.0, 0.0), 0, 0), ((0.0, 1.0), 0.97, 0.03)]
)
def test_chosen_tokens_can_all_become_the_mask_token_or_stay_or_become_random(replacement, share_changed, share_masked):
    input_ids, attention_mask = reports([200] * 10)
    noise = torch.rand(10, 202, 3, generator=torch.Generator().manual_seed(0))
    result = masked(input_ids, attention_mask, 0.3, noise, replacement=replacement)
    found = result.input_ids.gather(1, result.positions)[result.labels != -100]
    labels = result.labels[result.labels != -100]
    assert len(labels) == 10 * 60  # predicted all the same, whatever stands there now
    assert float((found != labels).float().mean()) == pytest.approx(share_changed, abs=0.03)
    assert float((found == MASK).float().mean()) == pytest.approx(share_masked, abs=0.03)


def test_the_largest_noise_still_gives_a_token_of_the_vocabulary():
    input_ids, attention_mask = reports([8])
    for vocab_size in (50, 30522, 32128, 2**17, 250002):
        noise = torch.full((1, 10, 3), 1 - 2**-24)
        result = masked(input_ids, attention_mask, 1.0, noise, replacement=(0.0, 1.0), vocab_size=vocab_size)
        assert result.input_ids[0, 1:9].tolist() == [vocab_size - 1] * 8


def test_masking_keeps_the_integer_type_of_the_tokens():
    input_ids, attention_mask = reports([6, 9])
    result = masked(input_ids.int(), attention_mask.int())
    assert result.input_ids.dtype == result.labels.dtype == torch.int32
