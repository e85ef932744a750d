"""Command-line options that several commands share."""

from __future__ import annotations

import argparse
import json
from typing import Any

from hf_ecgtext.data.tasks import data_names


def add_data_options(parser: argparse.ArgumentParser, default: str | None = "synthetic") -> None:
    """`--data`, `--data-dir` and `--data-set`."""
    parser.add_argument("--data", default=default, choices=data_names(), help="which data (default: %(default)s)")
    parser.add_argument("--data-dir", help="folder of the original download, for data that is not synthetic")
    parser.add_argument(
        "--data-set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="options of the data, such as num_records=4000 or sampling_rate_hz=100 report=12sl",
    )


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """`["a.b=1", "c=text"]` to `{"a.b": 1, "c": "text"}`; values are read as JSON where they are JSON.

    Raises:
        ValueError: If a pair has no `=`.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise ValueError(f"'{pair}' is not NAME=VALUE.")
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError:
            settings[name] = value
    return settings
