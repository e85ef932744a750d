"""Write synthetic ECGs with reports as a folder of Parquet files with a dataset card, and optionally push it.

    python dataset_scripts/synthetic.py --output-dir synthetic-ecg [--data-set num_records=10000]

Afterwards: `load_dataset("synthetic-ecg", split="train", streaming=True)`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from hf_ecgtext_cli.commands import add_data_set
from hf_ecgtext_cli.parsing import CommandParser

DEFAULTS: dict[str, Any] = {"num_records": 1000, "seed": 0, "sampling_rate_hz": 500.0, "duration_s": 10.0}

FORMER = {
    "--output": "--output-dir",
    **{f"--{name.replace('_', '-')}": f"--data-set {name}=..." for name in DEFAULTS},
}

CARD = """
Synthetic 12-lead ECGs of {duration_s:g} s at {sampling_rate_hz:g} Hz with machine-style English reports, drawn by
`hf_ecgtext` from seed {seed}. No person's data is in it. It is meant for tests, demonstrations and speed
measurements; it says nothing about how a model does on real recordings. `labels` names the findings that were drawn.
No synthetic patient is in two splits.

## Access, licence, citation

Made anew by `python dataset_scripts/synthetic.py --data-set num_records={num_records} seed={seed}
sampling_rate_hz={sampling_rate_hz:g} duration_s={duration_s:g}`; Apache-2.0. Cite the `hf_ecgtext` library.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, write the folder, and push it if asked to."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, former=FORMER)
    parser.add_argument("--output-dir", required=True, help="folder to write; must not exist")
    defaults = " ".join(f"{name}={value:g}" for name, value in DEFAULTS.items())
    add_data_set(parser, examples=f" (default: {defaults})")
    parser.add_argument("--push-to-hub", metavar="REPO", help="also upload to this dataset repository")
    options = parser.parse_args(arguments)

    from hf_ecgtext.commands.options import parse_settings
    from hf_ecgtext.data.prepare.card import dataset_card, push_folder_to_hub, write_parquet_folder
    from hf_ecgtext.data.sources.synthetic import SyntheticBuilder

    settings = {**DEFAULTS, **parse_settings(options.data_set)}
    if unknown := sorted(set(settings) - set(DEFAULTS)):
        parser.error(f"--data-set: there is no setting '{unknown[0]}'; there are {', '.join(DEFAULTS)}.")
    try:
        splits = SyntheticBuilder(**settings).as_streaming_dataset()
        text = CARD.format(**settings)
    except (TypeError, ValueError) as error:
        parser.error(f"--data-set cannot be used: {error}")
    card = dataset_card("Synthetic ECGs with reports", "apache-2.0", splits, text)
    counts = write_parquet_folder(splits, options.output_dir, card=card)
    print(f"Wrote {options.output_dir}: {counts}")
    if options.push_to_hub:
        print(f"Pushed to {push_folder_to_hub(options.output_dir, options.push_to_hub)}")


if __name__ == "__main__":
    main()
