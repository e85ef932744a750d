"""`hf-ecgtext --print-completion SHELL`, by shtab."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

SHELLS = ("bash", "zsh", "tcsh")

_PATHS = {"model", "data", "data_dir", "source", "records", "reference"}  # text that may be the path of a file


class PrintCompletion(argparse.Action):
    """Print a script that completes commands, options and choices in a shell, and stop."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Print and exit."""
        import shtab

        for one in _parsers(parser):
            for action in one._actions:
                if action.choices is None and (action.type is not None or action.dest in _PATHS):
                    if action.type in (int, float):
                        continue
                    action.complete = shtab.FILE  # type: ignore[attr-defined]
        sys.stdout.write(shtab.complete(parser, shell=str(values)))
        parser.exit()


def _parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    found = [parser]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += action.choices.values()
    return found
