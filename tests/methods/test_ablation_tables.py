"""Every row of every ablation table of the methods' pages can be trained by the command that stands in it."""

from __future__ import annotations

import re
import shlex

import pytest
import torch
from ablation_tables import OPTION, Ablation, ablations, commands, runs, sections, tables
from transformers import (
    MODEL_MAPPING,
    AutoModel,
    BertConfig,
    DebertaConfig,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from hf_ecgtext.commands.options import parse_settings
from hf_ecgtext.encoders.text import tiny_bert_tokenizer
from hf_ecgtext.methods import get_recipe, method_names
from hf_ecgtext.training import EcgTextTrainingArguments
from hf_ecgtext.training.collator import EcgTextCollator
from hf_ecgtext.training.settings import check_training_settings, explain_settings
from hf_ecgtext_cli.main import build_parser

ABLATIONS = ablations()
# Rows of each table or figure of the papers; a method that is not here has none.
PUBLISHED = {
    "deri": {"Table 4": 5, "Table 5": 3, "Table 6": 5, "Table 7": 3},
    "cmelt": {"Table 6": 4, "Table 7": 4, "Table 8": 3},
    "cgdmer": {"Table 3": 5, "Figure 2": 5},
}


def test_every_published_table_is_there_with_all_its_rows():
    assert set(sections()) == set(method_names())
    for method, section in sections().items():
        rows = {table[0][0]: len(table) - 2 for table in tables(section)}
        assert rows.pop("variant (ours)") > 0
        assert rows == PUBLISHED.get(method, {})


def decimals(text: str) -> list[str]:
    return re.findall(r"\d+\.\d+", text)


@pytest.mark.parametrize("method", PUBLISHED)
def test_the_numbers_are_the_paper_s_row_by_row_or_column_by_column(method, papers):
    printed = " ".join(decimals((papers / f"{method}.md").read_text(encoding="utf-8")))
    for header, _, *rows in tables(sections()[method]):
        end = header.index(OPTION)
        if end == 1:
            continue  # no scores
        by_row = [decimals(" ".join(cells[1:end])) for cells in rows]
        by_column = [decimals(" ".join(cells[index] for cells in rows)) for index in range(1, end)]
        assert any(by_row)
        assert any(all(" ".join(line) in printed for line in lines) for lines in (by_row, by_column)), header[0]


@pytest.mark.parametrize("method", method_names())
def test_the_commands_above_the_tables_are_the_train_command_s(method):
    parser = build_parser()
    found = []
    for line in commands(sections()[method]):
        program, script, *words = shlex.split(line)
        assert (program, script) == ("python", "train.py")
        assert words[-2:] == ["--set", "..."], "the tables say what comes here"
        arguments = parser.parse_args(["train", *words[:-2]])
        found.append((arguments.method, arguments.recipe, arguments.data))
    assert found == [(method, "paper", "mimic_iv_ecg"), (method, "ptb_xl_100hz", "ptb_xl")]


def recipe_of(ablation: Ablation, name: str):
    """The recipe as `hf-ecgtext train` makes it of the command; the debug recipe takes the settings for the paper's."""
    settings = parse_settings(list(ablation.words["paper" if name == "debug" else name]))
    check_training_settings(settings)
    with explain_settings("--set", settings):
        return get_recipe(ablation.method, name).override(settings)


@pytest.mark.parametrize("ablation", ABLATIONS, ids=str)
def test_the_recipes_take_the_settings_and_change_by_them(ablation, tmp_path):
    for name, words in ablation.words.items():
        recipe, plain = recipe_of(ablation, name), get_recipe(ablation.method, name)
        before, after = ((one.config.to_dict(), one.text_model, dict(one.training)) for one in (plain, recipe))
        if not words:
            assert before == after
        elif name == "paper":
            assert before != after, "a row that changes nothing is no ablation"
        changed = {field: value for field, value in after[2].items() if before[2].get(field) != value}
        if changed:
            arguments = EcgTextTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **changed)
            assert all(getattr(arguments, field) == value for field, value in changed.items())


# Small text encoders by the architecture that a row names; one is as wide as MiniLM.
_BERT = {"vocab_size": len(tiny_bert_tokenizer()), "max_position_embeddings": 128, "num_hidden_layers": 4}
_NARROW = {**_BERT, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 32}
_RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}
_T5 = {"d_model": 64, "d_kv": 32, "num_heads": 2, "d_ff": 32, "num_layers": 4, "feed_forward_proj": "gated-gelu"}
TEXT_CONFIGS = {
    "bert": BertConfig(**_NARROW),
    "minilm": BertConfig(**_BERT, hidden_size=384, intermediate_size=32),
    "deberta": DebertaConfig(**_NARROW, **_RELATIVE, type_vocab_size=0),
    "t5": T5Config(vocab_size=32, **_T5),
}


@pytest.fixture(scope="module")
def text_models(tmp_path_factory) -> dict[str, str]:
    """Folders of those encoders with random weights, and their tokenizers."""
    vocabulary = [(token, 0.0) for token in ("<pad>", "</s>", "<unk>")]
    vocabulary += [("▁", -1.0), *((chr(code), -2.0) for code in range(ord("a"), ord("z") + 1))]
    pieces = T5TokenizerFast(vocab=vocabulary, extra_ids=2, model_max_length=128)
    assert len(pieces) == TEXT_CONFIGS["t5"].vocab_size
    folders = {}
    for kind, config in TEXT_CONFIGS.items():
        folders[kind] = str(tmp_path_factory.mktemp(kind))
        (T5EncoderModel(config) if kind == "t5" else AutoModel.from_config(config)).save_pretrained(folders[kind])
        (pieces if kind == "t5" else tiny_bert_tokenizer()).save_pretrained(folders[kind])
    return folders


def architecture(name: str) -> str:
    """What `text_model` is, of the names that recipes and tables have."""
    return next((kind for kind in ("t5", "deberta", "minilm") if kind in name.lower()), "bert")


def distinct(recipe: str) -> list[Ablation]:
    """Ablations whose models differ: what concerns the training alone gives the model of the row before."""
    found = {}
    for ablation in ABLATIONS:
        words = tuple(word for word in ablation.words[recipe] if not word.startswith("training."))
        found.setdefault((ablation.method, words), ablation)
    return list(found.values())


@pytest.mark.parametrize("ablation", distinct("ptb_xl_100hz"), ids=str)
def test_the_small_recipe_builds_each_of_them(ablation):
    recipe = recipe_of(ablation, "ptb_xl_100hz")
    config = recipe.config
    config.text_config = TEXT_CONFIGS[architecture(recipe.text_model)]
    config.ecg_config.num_samples = 1000  # 10 s at 100 Hz
    config.ecg_config.validate()
    with torch.device("meta"):  # shapes without weights
        model = MODEL_MAPPING[type(config)](config)
    assert any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("ablation", distinct("paper"), ids=str)
def test_a_step_gives_every_parameter_a_gradient_and_every_term_a_value(ablation, text_models, synthetic_dataset):
    """By the settings for the paper's recipe, on the debug model with a text encoder of the row's architecture."""
    text_model = text_models[architecture(recipe_of(ablation, "paper").text_model)]
    model, processor = recipe_of(ablation, "debug").override({"text_model": text_model}).build()
    batch = EcgTextCollator(processor)(synthetic_dataset.__getitems__(range(4)))
    if model.uses_negatives:
        batch["is_aligned"] = torch.tensor([True, False, True, True])
    output = model.train()(**batch)
    config = model.config.to_dict()
    on = {name.removesuffix("_weight") for name, value in config.items() if name.endswith("_weight") and value > 0}
    if not config.get("disentangle", True):
        on.remove("orthogonal")  # there is nothing to be orthogonal to
    assert on <= set(output.loss_terms)
    assert all(term.isfinite() for term in output.loss_terms.values())
    output.loss.backward()
    trained = {name: value.grad for name, value in model.named_parameters() if value.requires_grad}
    assert trained
    assert not [name for name, gradient in trained.items() if gradient is None]
    assert all(gradient.isfinite().all() for gradient in trained.values())
    assert output.ecg_embeds.shape == output.text_embeds.shape


def test_the_reader_of_the_tables_refuses_what_it_cannot_read():
    assert runs("`a=1 b=2`; `c=3`") == [("a=1", "b=2"), ("c=3",)]
    assert runs("none") == [()]
    assert runs('`\'config.ecg_config={"model_type": "ecg_vit1d"}\'`') == [
        ('config.ecg_config={"model_type": "ecg_vit1d"}',)
    ]
    with pytest.raises(AssertionError, match="what is not a code span"):
        runs("the same and `c=3`")
