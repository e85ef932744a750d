"""`hf_ecgtext.cli.main`: the commands, whose options stand in the package `hf_ecgtext_cli`."""

from __future__ import annotations

import sys

from hf_ecgtext_cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
