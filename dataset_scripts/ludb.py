"""Turn LUDB's original download into Parquet files with a dataset card, and optionally push them.

    python dataset_scripts/ludb.py --source ludb --output-dir ludb-prepared [--push-to-hub REPO]

This is `hf-ecgtext prepare ludb`, whose options it takes. Afterwards:
`load_dataset("ludb-prepared", split="...", streaming=True)`. `LudbBuilder` streams the download as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hf_ecgtext_cli.main import main as run_command

NAME = "ludb"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare the download; returns the exit code of `hf-ecgtext prepare`."""
    return run_command(["prepare", NAME, *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    sys.exit(main())
