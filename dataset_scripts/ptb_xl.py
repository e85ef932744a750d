"""Turn PTB-XL's original download into Parquet files with a dataset card, and optionally push them.

    python dataset_scripts/ptb_xl.py --source ptb-xl --output-dir prepared [--data-set sampling_rate_hz=100]

This is `hf-ecgtext prepare ptb_xl`, whose options it takes. Afterwards:
`load_dataset("prepared", split="...", streaming=True)`. `PtbXlBuilder` streams the download as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hf_ecgtext_cli.main import main as run_command

NAME = "ptb_xl"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare the download; returns the exit code of `hf-ecgtext prepare`."""
    return run_command(["prepare", NAME, *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    sys.exit(main())
