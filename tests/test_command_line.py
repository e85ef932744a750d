"""What `hf-ecgtext` answers without the library behind it: help, completion, misspelt names, `--config` files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_ecgtext.data.opening import data_names, source_names
from hf_ecgtext.evaluation.prompts.sets import list_prompt_sets
from hf_ecgtext.evaluation.protocols import protocol_names
from hf_ecgtext.finetuning.lead_subsets import LEAD_SUBSETS
from hf_ecgtext.finetuning.recipes import finetuning_recipe_names
from hf_ecgtext.harness.baselines import BASELINES
from hf_ecgtext.harness.plan import EVALUATIONS
from hf_ecgtext.methods import method_names, recipe_names
from hf_ecgtext.methods.conversion import LEAD_ORDERS
from hf_ecgtext_cli import names
from hf_ecgtext_cli.commands import COMMANDS
from hf_ecgtext_cli.config_file import ConfigFileError, read_config
from hf_ecgtext_cli.main import build_parser, main

ROOT = Path(__file__).resolve().parents[1]

# A process in which PyTorch, transformers and the library cannot be imported.
WITHOUT_LIBRARIES = """
import importlib.abc, runpy, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "datasets", "numpy", "pandas"} or name == "hf_ecgtext.data":
            raise AssertionError(f"{name} was imported")

sys.meta_path.insert(0, Blocker())
program, sys.argv = sys.argv[1], sys.argv[1:]
if program.endswith(".py"):
    runpy.run_path(program, run_name="__main__")
else:
    runpy.run_module(program, run_name="__main__", alter_sys=True)
"""


def run_without_libraries(*words: str) -> str:
    command = [sys.executable, "-c", WITHOUT_LIBRARIES, *words]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def parsed(*words: str):
    return build_parser().parse_args(words)


def refused(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(words)
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.slow
def test_the_help_of_every_command_needs_neither_pytorch_nor_transformers():
    printed = run_without_libraries("hf_ecgtext_cli", "--help")
    for command in COMMANDS:
        assert f"    {command} " in printed
        assert "--config" in run_without_libraries("hf_ecgtext_cli", command, "--help")


@pytest.mark.slow
def test_nor_do_the_version_and_the_help_of_the_scripts():
    assert run_without_libraries("hf_ecgtext_cli", "--version").startswith("hf-ecgtext ")
    assert "--recipe" in run_without_libraries("train.py", "--help")
    for script in sorted((ROOT / "dataset_scripts").glob("*.py")):
        assert "--output-dir" in run_without_libraries(str(script), "--help"), script.name


def test_the_names_that_are_read_off_the_folders_are_those_of_the_library():
    assert names.method_names() == method_names()
    for method in method_names():
        assert names.recipe_names(method) == recipe_names(method)
    assert names.source_names() == source_names()
    assert names.data_names() == data_names()
    assert names.prompt_set_names() == sorted(prompt_set.name for prompt_set in list_prompt_sets())


def test_the_names_that_are_repeated_are_those_of_the_library():
    assert tuple(EVALUATIONS) == names.EVALUATIONS
    assert BASELINES == names.BASELINES
    assert protocol_names() == names.PROTOCOLS
    assert finetuning_recipe_names() == names.FINETUNING_RECIPES
    assert sorted(LEAD_ORDERS) == sorted(names.LEAD_ORDERS)
    assert list(LEAD_SUBSETS) == list(names.LEADS)
    for number in (3, 2, 1):
        assert names.LEADS[number] == ", ".join(LEAD_SUBSETS[number])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "hf-ecgtext: there is no command 'trian'; did you mean 'train'? There are: prepare, train, "),
        (["--verson"], "hf-ecgtext: there is no option --verson; did you mean '--version'?"),
        (["train", "--ouput-dir", "x"], "there is no option --ouput-dir; did you mean '--output-dir'?"),
        (["train", "--method", "mrl"], "argument --method: there is no choice 'mrl'; did you mean 'merl'?"),
        (["finetune", "--leads", "5"], "argument --leads: there is no choice '5'. There are: 12, 6, 3, 2, 1."),
        # Required options that are missing do not hide what is misspelt.
        (["prepare", "ptb_xl", "--out", "x"], "hf-ecgtext prepare: --out is --output-dir now."),
        (["prepare", "ptb_xl", "--set", "a=1"], "hf-ecgtext prepare: --set is --data-set now."),
        (["evaluate", "--model", "x", "--out=x"], "hf-ecgtext evaluate: --out is --output-dir now."),
        (["report", "lines.jsonl", "--out", "x"], "hf-ecgtext report: --out is --output-dir now."),
        (["convert", "weights.pt"], "hf-ecgtext convert: the following arguments are required: --output-dir"),
    ],
)  # fmt: skip
def test_a_misspelt_or_former_name_is_answered_with_the_right_one(words, message, capsys):
    errors = refused(capsys, *words)
    assert errors.startswith("hf-ecgtext")
    assert message in errors
    assert errors.count("\n") == 2, "one line, and one that says where the help is"


def test_one_vocabulary_with_the_same_defaults_everywhere():
    needed = {
        "prepare": ["ptb_xl", "--source", "x", "--output-dir", "x"],
        "evaluate": ["--model", "x"],
        "finetune": ["--model", "x", "--output-dir", "x"],
        "identify": ["--model", "x"],
        "classify": ["record", "--model", "x", "--labels", "x"],
        "convert": ["x", "--output-dir", "x"],
        "report": ["x", "--output-dir", "x"],
    }
    options = {command: vars(parsed(command, *needed.get(command, []))) for command in COMMANDS}
    same = {"seed": 0, "random_encoders": 5, "prompts": ["plain"], "resamples": 1000, "resume": False,
            "allow_seen": False, "markdown": False, "data_set": [], "overrides": [], "config": None}  # fmt: skip
    for name, default in same.items():
        having = {command for command, found in options.items() if name in found}
        assert having, name
        assert [options[command][name] for command in having] == [default] * len(having), name
    assert {command for command, found in options.items() if "output_dir" in found} == set(COMMANDS) - {"classify"}
    assert {command for command, found in options.items() if "resume" in found} == {
        "train", "finetune", "identify", "compare",
    }  # fmt: skip


def test_settings_add_up_and_the_last_of_a_name_counts():
    words = ["--set", "training.max_steps=3", "config.temperature=0.1", "--set", "training.max_steps=4"]
    assert parsed("train", *words).overrides == [
        "training.max_steps=3",
        "config.temperature=0.1",
        "training.max_steps=4",
    ]


def test_the_flag_debug_may_stand_before_or_behind_the_command():
    assert parsed("--debug", "train").debug
    assert parsed("train", "--debug").debug
    assert not parsed("train").debug


def config(folder: Path, text: str) -> list[str]:
    (folder / "options.yaml").write_text(text, encoding="utf-8")
    return ["--config", str(folder / "options.yaml")]


def test_a_config_file_gives_options_by_their_names_and_the_command_line_wins(tmp_path):
    file = config(
        tmp_path,
        "method: etp\nrecipe: debug\nseed: 3\nzero-shot: false\nresume: true\nprompts: [plain, members]\n"
        "set:\n  training.learning_rate: 1e-4\n  training.eval_strategy: no\n  text_model: '100'\n"
        "data_set: [num_records=40]\nversions: {torch: '1'}\n",
    )
    found = parsed("train", *file)
    assert (found.method, found.recipe, found.seed, found.zero_shot, found.resume) == ("etp", "debug", 3, False, True)
    assert found.prompts == ["plain", "members"]
    assert found.overrides == ["training.learning_rate=0.0001", 'training.eval_strategy="no"', 'text_model="100"']
    assert found.data_set == ["num_records=40"]
    changed = parsed("train", "--seed", "4", "--no-resume", "--prompts", "etp", "--set", "a.b=1", *file)
    assert (changed.seed, changed.resume, changed.prompts) == (4, False, ["etp"])
    assert changed.overrides == [*found.overrides, "a.b=1"], "a setting replaces one of the same name, and no other"


def test_a_config_file_may_hold_what_a_command_needs(tmp_path):
    file = config(tmp_path, "records: [one, two]\nmodel: folder\nlabels:\n- sinus rhythm\n- -1\ntemplate: -{}\n")
    found = parsed("classify", *file)
    assert (found.records, found.model, found.labels, found.template) == (["one", "two"], "folder",
                                                                          ["sinus rhythm", "-1"], "-{}")  # fmt: skip
    for words in (["three", *file], [*file, "three"], ["--exclusive", "three", *file]):
        assert parsed("classify", *words).records == ["three"], "the command line wins"
    assert parsed("classify", *file, "--labels", "x", "--exclusive").records == ["one", "two"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sed: 1", "there is no option 'sed'; did you mean 'seed'?"),
        ("out: x", "'out' is --output-dir now."),
        ("seed: [1, 2]", "'seed' takes one value, not 2."),
        ("seed: one", "argument --seed: invalid int value: 'one'"),
        ("method: mrl", "did you mean 'merl'?"),
        ("resume: maybe", "'resume' must be true or false, not 'maybe'."),
        ("prompts: {a: 1}", "'prompts' takes no names with values."),
        ("- seed", "must hold lines 'option: value'"),
        ("seed: [", "is no YAML file"),
        ("config: other.yaml", "there is no option 'config'"),
        ("seed: " + "[" * 5000, "is nested too deeply"),
        ("- " * 5000, "is nested too deeply"),
        ("seed: " + "1" * 5000, "is no YAML file"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nlabels: [*b, *b]", "'*a' refers to another place: write the value out"),
        ("labels: &labels [*labels]", "'*labels' refers to another place"),
    ],
)
def test_a_wrong_config_file_is_explained(tmp_path, capsys, text, message):
    file = config(tmp_path, text)
    errors = refused(capsys, "train", *file)
    assert message in errors
    assert file[1] in errors


def test_a_missing_config_file_is_named(tmp_path, capsys):
    assert f"--config {tmp_path / 'no.yaml'} cannot be read: No such file" in refused(
        capsys, "train", "--config", str(tmp_path / "no.yaml")
    )


def test_numbers_and_words_of_a_config_file_are_those_of_yaml_1_2(tmp_path):
    file = tmp_path / "values.yaml"
    file.write_text("a: 1e-4\nb: 1e5\nc: .5\nd: -3\ne: no\nf: 010\ng: 2020-01-01\nh: true\ni: ~\nj: 1.0.3\nk: 5.\n")
    assert read_config(file) == {
        "a": 1e-4, "b": 1e5, "c": 0.5, "d": -3, "e": "no", "f": "010", "g": "2020-01-01", "h": True, "i": None,
        "j": "1.0.3", "k": 5.0,
    }  # fmt: skip
    file.write_text("seed: 1\nseed: 2\n")
    with pytest.raises(ConfigFileError, match="'seed' stands there twice"):
        read_config(file)


def test_bash_completes_commands_options_and_choices(tmp_path):
    script = tmp_path / "completion.bash"
    script.write_text(run_without_libraries("hf_ecgtext_cli", "--print-completion", "bash"))

    def completed(*words: str) -> list[str]:
        line = " ".join(f"'{word}'" for word in words)
        program = f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; $(complete -p hf-ecgtext | sed "
        program += "'s/.*-F \\([^ ]*\\).*/\\1/'); printf '%s\\n' \"${COMPREPLY[@]}\""
        finished = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
        return [word.strip() for word in finished.stdout.splitlines()]

    assert completed("hf-ecgtext", "tr") == ["train"]
    assert completed("hf-ecgtext", "train", "--outp") == ["--output-dir"]
    assert "merl" in completed("hf-ecgtext", "train", "--method", "")


def test_completion_is_there_for_every_shell():
    for shell in ("bash", "zsh", "tcsh"):
        assert "identify" in run_without_libraries("hf_ecgtext_cli", "--print-completion", shell)


@pytest.mark.slow
def test_the_module_hf_ecgtext_cli_is_still_the_command(tmp_path):
    environment = {**os.environ, "HOME": str(tmp_path)}
    finished = subprocess.run(
        [sys.executable, "-m", "hf_ecgtext.cli", "--help"], capture_output=True, text=True, env=environment, timeout=120
    )
    assert finished.returncode == 0
    assert "prepare" in finished.stdout


def test_a_fault_inside_a_library_is_no_message_for_users(monkeypatch, capsys):
    import numpy as np

    from hf_ecgtext.commands import convert, prepare

    def reduces_nothing(_):
        np.zeros(0).max()

    def solves_nothing(_):
        np.linalg.inv(np.zeros((2, 3)))

    for run in (reduces_nothing, solves_nothing):
        monkeypatch.setattr(prepare, "run", run)
        with pytest.raises(ValueError, match=r"zero-size|square"):
            main(["prepare", "csn", "--source", "a", "--output-dir", "b"])
        assert not capsys.readouterr().err
    # What this library or transformers refuse, and what the operating system does, is told in a line.
    assert main(["convert", "no/such/file", "--output-dir", "b"]) == 1
    assert "no/such/file" in capsys.readouterr().err
    monkeypatch.setattr(convert, "run", lambda _: open("no/such/folder/x").close())
    assert main(["convert", "x", "--output-dir", "b"]) == 1
    assert "No such file or directory: 'no/such/folder/x'" in capsys.readouterr().err
