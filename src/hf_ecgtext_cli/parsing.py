"""An argument parser that answers a misspelt or former name with the right one, and reads `--config` files."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hf_ecgtext_cli.config_file import ConfigFileError, config_words
from hf_ecgtext_cli.hints import did_you_mean

_OPTION = re.compile(r"--?[A-Za-z]\S*")


class CommandParser(argparse.ArgumentParser):
    """An argument parser without abbreviations, whose errors are one line each.

    Args:
        former (`Mapping[str, str]`): What to write now, by the names that options had in earlier versions.
        kwargs: As in `argparse.ArgumentParser`.
    """

    def __init__(self, *, former: Mapping[str, str] | None = None, **kwargs: Any):
        super().__init__(allow_abbrev=False, **kwargs)
        self.former = former or {}
        self._config: Path | None = None

    # argparse calls this for the parser of a command, too.
    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As usual, after a look at all options: one that is missing must not hide one that is misspelt."""
        words = list(sys.argv[1:] if args is None else args)
        self._refuse_unknown(words)
        return super().parse_known_args(self._with_config(words), namespace)

    def error(self, message: str) -> NoReturn:
        """One line and where to find the help, in place of the usage of all options; exit code 2."""
        source = f" ({self._config} was read, too.)" if self._config is not None else ""
        self.exit(2, f"{self.prog}: {message}{source}\nSee `{self.prog} --help`.\n")

    def _refuse_unknown(self, words: list[str]) -> None:
        known = self._option_string_actions
        for word in words:
            if word == "--" or (self._subparsers is not None and not word.startswith("-")):
                return  # what follows is the command's
            name = word.partition("=")[0]
            if _OPTION.fullmatch(name) and name not in known:
                if name in self.former:
                    self.error(f"{name} is {self.former[name]} now.")
                self.error(f"there is no option {name}{did_you_mean(name, known)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        known = [str(choice) for choice in action.choices]
        what = "command" if isinstance(action, argparse._SubParsersAction) else "choice"
        name = "" if what == "command" else f"argument {'/'.join(action.option_strings) or action.dest}: "
        hint = did_you_mean(str(value), known)
        self.error(f"{name}there is no {what} '{value}'{hint or '.'} There are: {', '.join(known)}.")

    def _with_config(self, words: list[str]) -> list[str]:
        """The words of the `--config` file before those of the command line, which therefore win."""
        if "--config" not in self._option_string_actions:
            return words
        finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        finder.add_argument("--config", nargs="?", type=Path)
        self._config = finder.parse_known_args(words)[0].config
        if self._config is None:
            return words
        try:
            positionals, options = config_words(self._config, self._actions, self.former)
        except ConfigFileError as error:
            self._config = None  # the message names it
            self.error(str(error))
        if self._has_positionals(words):
            positionals = []
        # The second --config ends a list of values, so that it does not take the first word for its own.
        return [*positionals, *options, "--config", str(self._config), *words]

    def _has_positionals(self, words: list[str]) -> bool:
        room: float = 0  # for values of the last option
        for word in words:
            action = self._option_string_actions.get(word.partition("=")[0])
            if action is not None:
                room = 0 if "=" in word else {None: 1.0, "?": 1.0, 0: 0.0}.get(action.nargs, math.inf)
            elif room > 0:
                room -= 1
            else:
                return True
        return False
