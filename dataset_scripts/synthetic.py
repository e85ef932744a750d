"""Write synthetic ECGs with reports as a folder of Parquet files with a dataset card, and optionally push it.

    python dataset_scripts/synthetic.py --num-records 10000 --output synthetic-ecg [--push-to-hub USER/REPO]

Afterwards: `load_dataset("synthetic-ecg", split="train", streaming=True)`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from hf_ecgtext.data.prepare.card import dataset_card, push_folder_to_hub, write_parquet_folder
from hf_ecgtext.data.sources.synthetic import SyntheticBuilder

CARD = """
Synthetic 12-lead ECGs of {duration_s:g} s at {sampling_rate_hz:g} Hz with machine-style English reports, drawn by
`hf_ecgtext` from seed {seed}. No person's data is in it. It is meant for tests, demonstrations and speed
measurements; it says nothing about how a model does on real recordings. `labels` names the findings that were drawn.
No synthetic patient is in two splits.

## Access, licence, citation

Made anew by `python dataset_scripts/synthetic.py --num-records {num_records} --seed {seed} --sampling-rate-hz
{sampling_rate_hz:g} --duration-s {duration_s:g}`; Apache-2.0. Cite the `hf_ecgtext` library.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, write the folder, and push it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="folder to write; must not exist")
    parser.add_argument("--num-records", type=int, default=1000, help="of all splits together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sampling-rate-hz", type=float, default=500.0)
    parser.add_argument("--duration-s", type=float, default=10.0)
    parser.add_argument("--push-to-hub", metavar="REPO", help="also upload to this dataset repository")
    options = parser.parse_args(arguments)

    settings = {
        "num_records": options.num_records,
        "seed": options.seed,
        "sampling_rate_hz": options.sampling_rate_hz,
        "duration_s": options.duration_s,
    }
    splits = SyntheticBuilder(**settings).as_streaming_dataset()
    card = dataset_card("Synthetic ECGs with reports", "apache-2.0", splits, CARD.format(**settings))
    counts = write_parquet_folder(splits, options.output, card=card)
    print(f"Wrote {options.output}: {counts}")
    if options.push_to_hub:
        print(f"Pushed to {push_folder_to_hub(options.output, options.push_to_hub)}")


if __name__ == "__main__":
    main()
