"""Turn MIMIC-IV-ECG's original download into Parquet files with a dataset card, and optionally push them.

    python dataset_scripts/mimic_iv_ecg.py --source mimic-iv-ecg --output-dir prepared [--data-set min_words=4]

This is `hf-ecgtext prepare mimic_iv_ecg`, whose options it takes. Afterwards:
`load_dataset("prepared", split="...", streaming=True)`. `MimicIvEcgBuilder` streams the download as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hf_ecgtext_cli.main import main as run_command

NAME = "mimic_iv_ecg"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare the download; returns the exit code of `hf-ecgtext prepare`."""
    return run_command(["prepare", NAME, *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    sys.exit(main())
