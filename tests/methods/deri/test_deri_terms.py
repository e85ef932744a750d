"""The five terms against a slow float64 re-derivation from the paper's equations, and in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from deri_models import random_inputs, silence_dropout, tiny_deri
from torch.nn import functional as F

from hf_ecgtext.methods.deri import DeriConfig
from hf_ecgtext.methods.deri.decoder import DropPath

TERMS = ("align", "mixed", "decode_ecg", "decode_text", "rme")


class PaperDeri:
    """DERI behind the ECG encoder and the text encoder, one record and one token at a time."""

    def __init__(self, model):
        self.weights = {name: value.detach().numpy() for name, value in model.state_dict().items()}
        self.config = model.config

    def linear(self, name, x):
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def norm(self, name, x):
        centred = x - x.mean()
        scaled = centred / math.sqrt((centred**2).mean() + 1e-5)
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def text_projection(self, x):
        hidden = self.linear("text_projection.0", x)
        if self.config.projection_type == "linear":
            return hidden
        gelu = np.array([0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in hidden])
        return self.linear("text_projection.2", gelu)

    def gated(self, name, x):
        gate = self.linear(f"{name}.fc1", x)
        return self.linear(f"{name}.fc2", gate / (1 + np.exp(-gate)) * self.linear(f"{name}.fc3", x))

    @staticmethod
    def attend(queries, keys, values, num_heads):
        width = queries.shape[1] // num_heads
        out = np.zeros_like(queries)
        for head in range(num_heads):
            part = slice(head * width, (head + 1) * width)
            for place in range(len(queries)):
                scores = np.exp(keys[:, part] @ queries[place, part] / math.sqrt(width))
                out[place, part] = scores @ values[:, part] / scores.sum()
        return out

    def separated(self, name, tokens, num_heads):
        separator, positions = self.weights[f"{name}.separator"], self.weights[f"{name}.position_embedding"][0]
        x = np.stack([separator, *tokens, separator]) + positions
        projected = x @ self.weights[f"{name}.attention.in_proj_weight"].T
        queries, keys, values = np.split(projected + self.weights[f"{name}.attention.in_proj_bias"], 3, axis=1)
        return self.linear(f"{name}.attention.out_proj", self.attend(queries, keys, values, num_heads))[1:-1]

    def decode(self, name, tokens):
        separator, positions = self.weights[f"{name}.separator"], self.weights[f"{name}.position_embedding"][0]
        x = [separator + positions[0]]
        x += [self.gated(f"{name}.embedding", token) + positions[1 + place] for place, token in enumerate(tokens)]
        x = np.stack([*x, separator + positions[-1]])
        for index in range(self.config.num_decoder_layers):
            block = f"{name}.blocks.{index}"
            normed = np.stack([self.norm(f"{block}.attention.norm", token) for token in x])
            queries, keys, values = np.split(self.linear(f"{block}.attention.to_qkv", normed), 3, axis=1)
            context = self.attend(queries, keys, values, self.config.num_decoder_heads)
            x = x + self.linear(f"{block}.attention.to_out", context)
            x = x + np.stack([self.gated(f"{block}.mlp", self.norm(f"{block}.norm", token)) for token in x])
        return np.mean([self.gated(f"{name}.head", self.norm(f"{name}.norm", token)) for token in x[1:-1]], axis=0)

    def record(self, encoder_tokens, pooled_text, text_tokens, noise):
        """Both sides of every term for one record."""
        config = self.config
        weight, bias = self.weights["down_projection.weight"][:, :, 0], self.weights["down_projection.bias"]
        z = encoder_tokens[:: config.token_stride] @ weight.T + bias
        attended = self.separated("token_attention", z, config.num_attention_heads)
        a_tokens = attended / np.linalg.norm(attended, axis=1, keepdims=True)
        a_text = self.text_projection(pooled_text)
        a_text = a_text / np.linalg.norm(a_text)
        shared = self.weights["text_to_ecg.separator"]
        d_text = self.decode("ecg_to_text", [*a_tokens, shared])
        pooled = config.decoder_text_input == "pooled"
        d_ecg = self.decode(
            "text_to_ecg", [a_text] if pooled else [self.text_projection(token) for token in text_tokens]
        )
        views = [self.view(index, z, None if noise is None else noise[index]) for index in range(2)]
        a_ecg = a_tokens.mean(axis=0)
        return {
            "align": (a_ecg, a_text),
            "mixed": (a_ecg + self.text_projection(d_text), a_text + d_ecg),
            "decode_ecg": (z.mean(axis=0), d_ecg),
            "decode_text": (pooled_text, d_text),
            "rme": tuple(views),
        }

    def view(self, index, z, noise):
        """In evaluation, where dropout is off."""
        config, name = self.config, f"rme_heads.{index}"
        if config.rme_views == "masked" and config.mask_mode == "bernoulli_zero":
            z = np.stack([token * (chance >= config.rme_mask_ratio) for token, chance in zip(z, noise, strict=True)])
        elif config.rme_views == "masked":
            order = np.argsort(noise)
            kept = order[: config.num_view_tokens] if index == 0 else order[len(z) - config.num_view_tokens :]
            z = z[np.sort(kept)]
        if config.rme_head == "linear":
            return self.weights[f"{name}.weight"] @ z.mean(axis=0)
        return self.separated(name, z, config.num_rme_heads).mean(axis=0)


def mean_of_both_directions(pairs, temperature):
    """-1/2B of the log-probability of the partner, summed over queries of both sides."""
    first, second = ([x / np.linalg.norm(x) for x in side] for side in zip(*pairs, strict=True))
    total = 0.0
    for queries, keys in ((first, second), (second, first)):
        for i, query in enumerate(queries):
            scores = [math.exp(query @ key / temperature) for key in keys]
            total -= math.log(scores[i] / sum(scores))
    return total / (2 * len(pairs))


@pytest.fixture(scope="module")
def model():
    return tiny_deri().double().eval()


SETTINGS = {
    "default": {},
    "masks of zeros": {"mask_mode": "bernoulli_zero", "rme_mask_ratio": 0.3},
    "RME-Linear": {"rme_head": "linear"},
    "RME-Linear, masks of zeros": {"rme_head": "linear", "mask_mode": "bernoulli_zero", "rme_mask_ratio": 0.3},
    "latent dropout": {"rme_views": "latent_dropout", "rme_head": "linear"},
    "latent dropout behind attention": {"rme_views": "latent_dropout"},
    "linear projection": {"projection_type": "linear"},
    "pooled report for the decoder": {"decoder_text_input": "pooled"},
}


@torch.no_grad()
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_terms_equal_the_paper_s_equations(settings):
    model = tiny_deri(**settings).double().eval()
    inputs = random_inputs(batch=4, dtype=torch.float64)
    noise = inputs["rme_noise"]
    if settings.get("rme_views") == "latent_dropout":
        noise = [None] * 4
        del inputs["rme_noise"]
    paper = PaperDeri(model)
    encoded = model.ecg_encoder(inputs["ecg_values"]).last_hidden_state.numpy()
    records = [
        paper.record(
            encoded[i],
            inputs["text_tower_embeds"][i].numpy(),
            inputs["text_tower_tokens"][i, inputs["attention_mask"][i].bool()].numpy(),
            None if noise[i] is None else noise[i].numpy(),
        )
        for i in range(4)
    ]
    rows = model(**inputs, return_rows=True).rows
    terms = model.loss_terms(rows)  # in float64; forward itself may not go below float32 but does not leave float64
    assert tuple(terms) == TERMS
    for name in TERMS:
        expected = mean_of_both_directions([record[name] for record in records], model.config.temperature)
        assert float(terms[name]) == pytest.approx(expected, rel=1e-9), name


@pytest.mark.parametrize("name", TERMS)
def test_orthonormal_pairs_and_equal_rows_give_the_closed_form(model, name):
    pairs = {
        "align": ("aligned_ecg", "text"),
        "mixed": ("mixed_ecg", "mixed_text"),
        "decode_ecg": ("pooled_ecg", "decoded_ecg"),
        "decode_text": ("pooled_text", "decoded_text"),
        "rme": ("first_view", "second_view"),
    }
    eye = torch.eye(6, dtype=torch.float64)
    rows = {row: eye * 3.0 for pair in pairs.values() for row in pair}
    expected = math.log1p(5 * math.exp(-1 / model.config.temperature))
    assert float(model.loss_terms(rows)[name]) == pytest.approx(expected)
    rows[pairs[name][0]] = torch.ones(6, 6, dtype=torch.float64)
    terms = model.loss_terms(rows)
    assert float(terms[name]) == pytest.approx(math.log(6)), "a query equal for all keys, and keys alike for a query"
    for other in set(TERMS) - {name}:
        assert float(terms[other]) == pytest.approx(expected), "a row belongs to one term"


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_row_depends_on_its_own_record_alone(settings):
    model = tiny_deri(**settings).double().eval()
    inputs = random_inputs(batch=6, dtype=torch.float64)
    if settings.get("rme_views") == "latent_dropout":
        del inputs["rme_noise"]
    with torch.no_grad():
        whole = model(**inputs, return_rows=True).rows
        parts = [
            model(**{name: value[part] for name, value in inputs.items()}, return_rows=True).rows
            for part in (slice(0, 2), slice(2, 6))
        ]
    for name, row in whole.items():
        torch.testing.assert_close(torch.cat([part[name] for part in parts]), row)


def test_the_mean_over_tokens_may_be_taken_before_the_last_linear_map():
    model = tiny_deri()
    decoder = model.ecg_to_text.double().eval()
    tokens = torch.randn(3, 22, 32, dtype=torch.float64)
    seen = []
    decoder.norm.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        torch.testing.assert_close(decoder(tokens), decoder.head(seen[0]).mean(dim=1))


def test_a_record_loses_a_whole_branch_or_keeps_it_scaled_up():
    torch.manual_seed(0)
    branch = torch.ones(4000, 3, 2)
    dropped = DropPath(0.25)(branch)
    values = dropped.flatten(1)
    assert (values == values[:, :1]).all()
    assert values.unique().tolist() == [0.0, pytest.approx(1 / 0.75)]
    assert float((values[:, 0] == 0).double().mean()) == pytest.approx(0.25, abs=0.03)
    assert torch.equal(DropPath(0.25).eval()(branch), branch)


def test_drop_path_rises_from_zero_to_its_rate_and_dropout_sits_at_both_ends():
    model = tiny_deri(num_decoder_layers=3, decoder_drop_path=0.2, decoder_dropout=0.3)
    for decoder in (model.ecg_to_text, model.text_to_ecg):
        assert [block.drop_path.p for block in decoder.blocks] == [0.0, pytest.approx(0.1), 0.2]
        assert [decoder.embedding.dropout.p, decoder.head.dropout.p] == [0.3, 0.3]
        assert all(block.mlp.dropout.p == 0 for block in decoder.blocks)
    assert [block.drop_path.p for block in tiny_deri(num_decoder_layers=1).ecg_to_text.blocks] == [0.0]


def test_dropout_acts_in_training_and_can_be_silenced():
    model, inputs = tiny_deri().train(), random_inputs()
    assert not torch.equal(model(**inputs).loss, model(**inputs).loss)
    silence_dropout(model)
    assert torch.equal(model(**inputs).loss, model(**inputs).loss)


def test_both_decoders_and_the_pooler_share_one_text_projection():
    model, inputs = tiny_deri(), random_inputs()
    calls = []
    model.text_projection.register_forward_hook(lambda module, args, output: calls.append(tuple(args[0].shape)))
    model(**inputs)
    assert sorted(calls) == [(5, 9, 64), (5, 64), (5, 64)]


def test_the_shared_embedding_is_the_separator_of_the_decoder_that_reads_text():
    model, inputs = tiny_deri().eval(), random_inputs()
    before = model.get_ecg_features(inputs["ecg_values"])
    seen = []
    model.ecg_to_text.embedding.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    with torch.no_grad():
        model.text_to_ecg.separator += 1.0
        after = model.get_ecg_features(inputs["ecg_values"])
    assert not torch.allclose(before, after)
    assert torch.equal(seen[0][:, -1], model.text_to_ecg.separator.expand(5, -1))
    alone = tiny_deri(use_shared_embedding=False).eval()
    with torch.no_grad():
        before = alone.get_ecg_features(inputs["ecg_values"])
        alone.text_to_ecg.separator += 1.0
        assert torch.equal(before, alone.get_ecg_features(inputs["ecg_values"]))


def test_token_counts_follow_the_encoder():
    assert DeriConfig().num_ecg_tokens == 105
    assert DeriConfig().num_view_tokens == 94
    for samples, expected in ((1000, 21), (500, 11), (4096, 86)):
        config = DeriConfig(ecg_config={"num_samples": samples})
        strided = F.conv1d(torch.zeros(1, 1, config.ecg_config.num_tokens), torch.zeros(1, 1, 1), stride=3)
        assert config.num_ecg_tokens == strided.shape[-1] == expected
