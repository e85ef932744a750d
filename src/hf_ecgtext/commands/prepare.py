"""`hf-ecgtext prepare`: an original download, from a folder, archive or address, to a folder that trains at once."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hf_ecgtext.commands.options import explain_settings, parse_settings
from hf_ecgtext.data.prepare.card import push_folder_to_hub
from hf_ecgtext.data.prepare.prepare import check_output, prepare, scratch_folder
from hf_ecgtext.data.prepare.summary import summary_table
from hf_ecgtext.data.sources.by_name import open_source, source_names
from hf_ecgtext.data.store.manifest import is_prepared

MANY_SKIPPED = 3
"""Exit code where the data is prepared, but more records than `--max-skipped` had faults."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("name", choices=source_names(), help="which dataset")
    parser.add_argument("--source", required=True, help="its original download: a folder, .zip, .tar or address")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder to write; with the same options again, an unfinished one goes on",
    )
    parser.add_argument(
        "--workers", type=int, help="processes (default: one for every 20,000 records, and at most one per core)"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        dest="settings",
        help="options of the dataset, such as sampling_rate_hz=100",
    )
    parser.add_argument(
        "--compression",
        default="none",
        choices=["none", "lz4", "zstd"],
        help="of the samples: none is fastest to train from, zstd is half the size, for the Hub (default: %(default)s)",
    )
    parser.add_argument("--records-per-shard", type=int, default=2048, help="records of a file (default: %(default)s)")
    parser.add_argument(
        "--order",
        default="mixed",
        choices=["mixed", "source"],
        help="of the train records: mixed by a hash of their ids, or as in the tables (default: %(default)s)",
    )
    parser.add_argument(
        "--max-skipped",
        type=float,
        default=5.0,
        metavar="PERCENT",
        help=f"exit with code {MANY_SKIPPED} if more records than this had faults (default: %(default)s)",
    )
    parser.add_argument("--push-to-hub", metavar="REPO", help="also upload the folder to this dataset repository")
    parser.epilog = (
        f"Exit codes: 0 prepared; 1 error, or stopped half-way: the same command continues; 2 wrong options; "
        f"{MANY_SKIPPED} prepared, but with more skipped records than --max-skipped; {INTERRUPTED} stopped by Ctrl-C."
    )


def run(arguments: argparse.Namespace) -> int:
    """Prepare, print the summary, and upload if asked to; returns the exit code."""
    check_output(arguments.out)  # before the source copies or unpacks anything into it
    was_prepared = is_prepared(arguments.out)
    options = parse_settings(arguments.settings)
    with explain_settings("--set", options):
        source = open_source(arguments.name, arguments.source, scratch=scratch_folder(arguments.out), **options)
    try:
        manifest = prepare(
            source,
            arguments.out,
            workers=arguments.workers,
            records_per_shard=arguments.records_per_shard,
            compression=arguments.compression,
            order=arguments.order,
        )
    except KeyboardInterrupt as error:
        print(f"hf-ecgtext prepare: {error or 'stopped.'}", file=sys.stderr)
        return INTERRUPTED
    if was_prepared:
        print(f"'{arguments.out}' was prepared before, with the same settings: nothing to do.")
    else:
        print(f"{source.title} {source.version} in '{arguments.out}':\n\n{summary_table(manifest.summary)}")
    if arguments.push_to_hub:
        print(f"Pushed to {push_folder_to_hub(arguments.out, arguments.push_to_hub)}")
    prepared = sum(split["records"] for split in manifest.summary["splits"].values())
    skipped = manifest.summary["skipped"]
    if 100 * skipped > arguments.max_skipped * (prepared + skipped):
        print(
            f"hf-ecgtext prepare: {skipped:,} of {prepared + skipped:,} records were skipped, more than "
            f"{arguments.max_skipped:g} %; see '{arguments.out / 'skipped.csv'}'.",
            file=sys.stderr,
        )
        return MANY_SKIPPED
    return 0
