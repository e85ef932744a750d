"""`hf-ecgtext prepare | train | evaluate | finetune | identify | compare | classify | convert | report`."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hf_ecgtext_cli.commands import COMMANDS
from hf_ecgtext_cli.completion import SHELLS, PrintCompletion
from hf_ecgtext_cli.parsing import CommandParser

PROGRAM = "hf-ecgtext"

_WRITE_FOR_USERS = ("hf_ecgtext", "hf_ecgtext_cli", "transformers", "huggingface_hub", "datasets", "accelerate", "peft")
"""Packages whose `ValueError` is a message, of those that commands use."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; errors that a user can mend are printed without a traceback.

    Returns:
        `int`: Exit code: 0, 1 after an error, or what the command returns (`hf-ecgtext prepare --help`).
    """
    arguments = build_parser().parse_args(argv)
    return run_command(arguments)


def build_parser() -> CommandParser:
    """The parser of all commands, which needs neither PyTorch nor transformers."""
    parser = CommandParser(
        prog=PROGRAM,
        description="ECG-text representation learning.",
        epilog=f"`{PROGRAM} COMMAND --help` shows the options of a command. To complete them with the Tab key in "
        f'bash: eval "$({PROGRAM} --print-completion bash)".',
    )
    parser.add_argument("--version", action=_PrintVersion, nargs=0, help="print the version and stop")
    parser.add_argument(
        "--print-completion", choices=SHELLS, action=PrintCompletion, help="print a completion script and stop"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of every error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    for name, command in COMMANDS.items():
        own = commands.add_parser(name, help=command.summary, description=command.summary, former=command.former)
        command.add_options(own)
        own.add_argument(
            "--config", type=Path, metavar="FILE.yaml", help="options by their names; the command line wins over it"
        )
        # Without a default, which would undo a --debug in front of the command.
        own.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def run_command(arguments: argparse.Namespace) -> int:
    """Import the module of a command, and with it the library, and run it."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    for library in ("accelerate", "httpx"):  # which inform of every request, and of streams without a length
        logging.getLogger(library).setLevel(logging.WARNING)
    from hf_ecgtext.commands.quiet import calm_output
    from hf_ecgtext.errors import EcgTextError

    try:
        module = importlib.import_module(f"hf_ecgtext.commands.{arguments.command}")
        with calm_output(makes_datasets=COMMANDS[arguments.command].makes_datasets):
            code: int | None = module.run(arguments)
    except (EcgTextError, OSError, ValueError, ImportError) as error:  # ImportError names the extra to install
        if arguments.debug or not _says_what_to_do(error):
            raise
        print(f"{PROGRAM} {arguments.command}: {error}", file=sys.stderr)
        return 1
    return code or 0


def _says_what_to_do(error: Exception) -> bool:
    """Whether an error was written for users: not a `ValueError` from deep inside a library of arithmetic.

    Such a one would be a fault of ours in the guise of bad input; its traceback says where.
    """
    if not isinstance(error, ValueError) or isinstance(error, OSError):
        return True
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    module = "" if traceback is None else str(traceback.tb_frame.f_globals.get("__name__", ""))
    return module.partition(".")[0] in _WRITE_FOR_USERS


class _PrintVersion(argparse.Action):
    """As argparse's own, which would look the version up for every command."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(f"{PROGRAM} {version(PROGRAM)}")
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
