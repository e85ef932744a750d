"""`hf-ecgtext prepare`: an original download, from a folder, archive or address, to a folder that trains at once."""

from __future__ import annotations

import argparse
import sys

from hf_ecgtext.commands.options import parse_settings
from hf_ecgtext.data.prepare.card import push_folder_to_hub
from hf_ecgtext.data.prepare.prepare import check_output, prepare, scratch_folder
from hf_ecgtext.data.prepare.summary import summary_table
from hf_ecgtext.data.sources.by_name import open_source
from hf_ecgtext.data.store.manifest import is_prepared
from hf_ecgtext.training.settings import explain_settings

MANY_SKIPPED = 3
"""Exit code where the data is prepared, but more records than `--max-skipped` had faults."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def run(arguments: argparse.Namespace) -> int:
    """Prepare, print the summary, and upload if asked to; returns the exit code."""
    check_output(arguments.output_dir)  # before the source copies or unpacks anything into it
    was_prepared = is_prepared(arguments.output_dir)
    options = parse_settings(arguments.data_set)
    with explain_settings("--data-set", options):
        source = open_source(arguments.name, arguments.source, scratch=scratch_folder(arguments.output_dir), **options)
    try:
        manifest = prepare(
            source,
            arguments.output_dir,
            workers=arguments.workers,
            records_per_shard=arguments.records_per_shard,
            compression=arguments.compression,
            order=arguments.order,
        )
    except KeyboardInterrupt as error:
        print(f"hf-ecgtext prepare: {error or 'stopped.'}", file=sys.stderr)
        return INTERRUPTED
    if was_prepared:
        print(f"'{arguments.output_dir}' was prepared before, with the same settings: nothing to do.")
    else:
        print(f"{source.title} {source.version} in '{arguments.output_dir}':\n\n{summary_table(manifest.summary)}")
    if arguments.push_to_hub:
        print(f"Pushed to {push_folder_to_hub(arguments.output_dir, arguments.push_to_hub)}")
    prepared = sum(split["records"] for split in manifest.summary["splits"].values())
    skipped = manifest.summary["skipped"]
    if 100 * skipped > arguments.max_skipped * (prepared + skipped):
        print(
            f"hf-ecgtext prepare: {skipped:,} of {prepared + skipped:,} records were skipped, more than "
            f"{arguments.max_skipped:g} %; see '{arguments.output_dir / 'skipped.csv'}'.",
            file=sys.stderr,
        )
        return MANY_SKIPPED
    return 0
