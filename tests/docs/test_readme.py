"""The README's promises that a machine can check."""

from __future__ import annotations

import re

from code_blocks import ROOT

from hf_ecgtext.methods import method_names

README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands(name: str) -> str:
    match = re.search(rf"<!-- command: {name} -->\s*```bash\n(.*?)```", README, flags=re.DOTALL)
    assert match, f"the README has no command marked '{name}'"
    return match[1].strip()


def test_two_commands_do_all_the_set_up():
    for name in ("quickstart", "test"):
        command = commands(name)
        assert "\n" not in command
        assert command.startswith("pip install -c constraints.txt -e ")


def test_the_python_example_runs(merl_folder, real_data):
    example = re.search(r"<!-- example: zero-shot -->\s*```python\n(.*?)```", README, flags=re.DOTALL)[1]
    record = str(real_data / "ptb-xl" / "records500" / "00000" / "00001_hr")
    example = example.replace("outputs/merl-quickstart-synthetic", str(merl_folder)).replace("path/to/record", record)
    scope: dict = {}
    exec(compile(example, "README.md", "exec"), scope)
    assert {answer["label"] for answer in scope["answers"]} == {"atrial fibrillation", "sinus rhythm"}


def test_every_method_stands_in_the_table():
    for method in method_names():
        assert f"[`{method}`](docs/methods/{method}.md)" in README


def test_it_is_one_page():
    assert len(README.encode()) <= 12_000
