"""`--config file.yaml`: options of a command by their names, as words of a command line."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from hf_ecgtext_cli.hints import did_you_mean

NOTES = "versions"
"""An entry that every file may have and no command reads: what a recorded training was made with."""


class ConfigFileError(ValueError):
    """A `--config` file cannot be read, or says something that no option means."""


def read_config(file: Path) -> dict[str, Any]:
    """The entries of a YAML file, without its notes; aliases are refused, since a few lines of them can mean gigabytes.

    Numbers, `true`, `false` and `null` are those of YAML 1.2, so that `1e-4` is a number and `no` is the word.

    Raises:
        ConfigFileError: If the file cannot be read, or holds no mapping.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # PyYAML's are those of YAML 1.1

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                alias = self.peek_event()
                problem = f"'*{alias.anchor}' refers to another place: write the value out"
                raise yaml.MarkedYAMLError(None, None, problem, alias.start_mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            names = [name.value for name, _ in node.value]
            for place, (name, _) in enumerate(node.value):
                if name.value in names[:place]:  # of which PyYAML would take the last
                    raise yaml.MarkedYAMLError(None, None, f"'{name.value}' stands there twice", name.start_mark)
            return super().construct_mapping(node, deep)

    for tag, pattern, first in (
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
        ("float", r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ):
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), first)
    try:
        with file.open(encoding="utf-8") as opened:
            entries = yaml.load(opened, Loader)
    except OSError as error:
        raise ConfigFileError(f"--config {file} cannot be read: {error.strerror or error}.") from error
    except RecursionError as error:
        raise ConfigFileError(
            f"--config {file} is nested too deeply: options have values, lists or mappings."
        ) from error
    except (yaml.YAMLError, ValueError) as error:  # a ValueError: no text, or a number of thousands of digits
        raise ConfigFileError(f"--config {file} is no YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(entries, dict) or not all(isinstance(name, str) for name in entries):
        raise ConfigFileError(f"--config {file} must hold lines 'option: value', such as 'seed: 1'.")
    return {name: value for name, value in entries.items() if name != NOTES}


def config_words(file: Path, actions: list[argparse.Action], former: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """What a user would have typed in place of a file.

    Args:
        file (`Path`): Of [`read_config`].
        actions (`list[argparse.Action]`): What the command takes.
        former (`Mapping[str, str]`): What to write now, by the names that options had in earlier versions.

    Returns:
        Two lists of words: positional values, and options with their values.

    Raises:
        ConfigFileError: If the command has no such option, or it cannot have such a value.
    """
    known = {name.lstrip("-"): action for action in actions for name in action.option_strings if name.startswith("--")}
    known |= {action.dest: action for action in actions if not action.option_strings}
    for name in ("help", "config", "debug"):
        known.pop(name, None)
    positionals: list[str] = []
    options: list[str] = []
    for written, value in read_config(file).items():
        name = written if written in known else written.replace("_", "-")
        if name not in known:
            if f"--{name}" in former:
                raise ConfigFileError(f"--config {file}: '{written}' is {former[f'--{name}']} now.")
            hint = did_you_mean(name, known) or f"; There are: {', '.join(known)}."
            raise ConfigFileError(f"--config {file}: there is no option '{written}'{hint}")
        if value is None:
            continue
        action = known[name]
        if not action.option_strings:
            positionals += _values(file, name, action, value)
        elif action.nargs == 0:
            if not isinstance(value, bool):
                raise ConfigFileError(f"--config {file}: '{name}' must be true or false, not '{value}'.")
            opposite = f"--{name.removeprefix('no-')}" if name.startswith("no-") else f"--no-{name}"
            options.append(f"--{name}" if value else opposite)
        else:
            values = _values(file, name, action, value)
            # One value may begin with a hyphen if it is joined to its option.
            options += [f"--{name}={values[0]}"] if action.nargs is None else [f"--{name}", *values]
    return positionals, options


def _values(file: Path, name: str, action: argparse.Action, value: Any) -> list[str]:
    if isinstance(value, dict):  # --set and --data-set
        if action.metavar != "NAME=VALUE":
            raise ConfigFileError(f"--config {file}: '{name}' takes no names with values.")
        return [f"{setting}={json.dumps(entry)}" for setting, entry in value.items()]
    values = value if isinstance(value, list) else [value]
    if len(values) != 1 and action.nargs is None:
        raise ConfigFileError(f"--config {file}: '{name}' takes one value, not {len(values)}.")
    return [str(entry) for entry in values]
