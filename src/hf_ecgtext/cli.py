"""`hf-ecgtext prepare | train | evaluate | finetune | identify | compare | report | classify | convert`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from hf_ecgtext.commands import classify, compare, convert, evaluate, finetune, identify, prepare, report, train
from hf_ecgtext.errors import EcgTextError

_COMMANDS = {
    "prepare": prepare,
    "train": train,
    "evaluate": evaluate,
    "finetune": finetune,
    "identify": identify,
    "compare": compare,
    "classify": classify,
    "convert": convert,
    "report": report,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; errors that a user can mend are printed without a traceback.

    Returns:
        `int`: Exit code: 0, 1 after an error, or what the subcommand returns (`hf-ecgtext prepare --help`).
    """
    parser = argparse.ArgumentParser(prog="hf-ecgtext", description="ECG-text representation learning.")
    parser.add_argument("--debug", action="store_true", help="show the traceback of every error")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in _COMMANDS.items():
        summary = (module.__doc__ or "").partition(": ")[2].strip()
        module.add_arguments(commands.add_parser(name, help=summary, description=summary))
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        code: int | None = _COMMANDS[arguments.command].run(arguments)
    except (EcgTextError, OSError, ValueError, ImportError) as error:  # ImportError names the extra to install
        if arguments.debug:
            raise
        print(f"hf-ecgtext {arguments.command}: {error}", file=sys.stderr)
        return 1
    return code or 0


if __name__ == "__main__":
    sys.exit(main())
