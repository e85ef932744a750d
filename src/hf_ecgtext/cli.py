"""`hf-ecgtext train | evaluate | compare | classify | convert`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from hf_ecgtext.commands import classify, compare, convert, evaluate, train
from hf_ecgtext.errors import EcgTextError

_COMMANDS = {"train": train, "evaluate": evaluate, "compare": compare, "classify": classify, "convert": convert}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; errors that a user can mend are printed without a traceback."""
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
        _COMMANDS[arguments.command].run(arguments)
    except (EcgTextError, OSError, ValueError) as error:
        if arguments.debug:
            raise
        print(f"hf-ecgtext {arguments.command}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
