"""Turn PTB-XL's original download into a folder of Parquet files with a dataset card, and optionally push it.

    python dataset_scripts/ptb_xl.py --data-dir ptb-xl --output ptb-xl-parquet [--push-to-hub USER/REPO]

Afterwards: `load_dataset("ptb-xl-parquet", split="train", streaming=True)`.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from hf_ecgtext.data.sources.export import dataset_card, push_folder_to_hub, write_parquet_folder
from hf_ecgtext.data.sources.ptb_xl import CITATION, PtbXlBuilder

CARD = """
PTB-XL 1.0.3: clinical 12-lead ECGs of 10 s, at {sampling_rate_hz} Hz here, stored as the integers of the original
files. {report} `labels` are SCP codes, `scp_likelihoods` their likelihoods in per cent (0: unknown); `labels_super`,
`labels_sub`, `labels_form` and `labels_rhythm` are the classes of the four usual tasks. Train, validation and test
are folds 1-8, 9 and 10; no patient is in two of them. `age` is empty for people older than 89 (`is_over_89`).

## Access, licence, citation

The original is open access at https://physionet.org/content/ptb-xl/ (CC-BY-4.0).

```bibtex
{citation}
```
"""

REPORTS = {
    "12sl": (
        "`report` is the English statement list of the GE Marquette 12SL programme, written out from PTB-XL+ "
        "(https://physionet.org/content/ptb-xl-plus/, CC-BY-4.0)."
    ),
    "original": "`report` is the original one, mostly German.",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, write the folder, and push it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="folder with ptbxl_database.csv")
    parser.add_argument("--output", required=True, help="folder to write; must not exist")
    parser.add_argument("--sampling-rate-hz", type=int, choices=[100, 500], default=500)
    parser.add_argument("--report", choices=sorted(REPORTS), default="12sl")
    parser.add_argument("--ptbxl-plus-dir", help="folder of PTB-XL+; default: ptb-xl-plus beside --data-dir")
    parser.add_argument("--missing", choices=["raise", "skip"], default="raise", help="records without signal files")
    parser.add_argument("--push-to-hub", metavar="REPO", help="also upload to this dataset repository")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO)

    builder = PtbXlBuilder(
        data_dir=options.data_dir,
        sampling_rate_hz=options.sampling_rate_hz,
        report=options.report,
        missing=options.missing,
        ptbxl_plus_dir=options.ptbxl_plus_dir,
    )
    splits = builder.as_streaming_dataset()
    body = CARD.format(sampling_rate_hz=options.sampling_rate_hz, report=REPORTS[options.report], citation=CITATION)
    counts = write_parquet_folder(splits, options.output, card=dataset_card("PTB-XL", "cc-by-4.0", splits, body))
    print(f"Wrote {options.output}: {counts}")
    if options.push_to_hub:
        print(f"Pushed to {push_folder_to_hub(options.output, options.push_to_hub)}")


if __name__ == "__main__":
    main()
