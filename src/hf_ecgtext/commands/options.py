"""Command-line options that several commands share."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from hf_ecgtext.data.opening import data_names


def add_data_options(parser: argparse.ArgumentParser, default: str | None = "synthetic") -> None:
    """`--data`, `--data-dir` and `--data-set`."""
    parser.add_argument(
        "--data",
        default=default,
        help=f"{', '.join(data_names())}; or a folder, address or repository of prepared data (default: %(default)s)",
    )
    parser.add_argument(
        "--data-dir",
        help="for data given by name: the original download (folder, archive or address), or prepared data",
    )
    parser.add_argument(
        "--data-set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="options of the data, such as num_records=4000 or sampling_rate_hz=100 report=12sl",
    )


def add_seen_option(parser: argparse.ArgumentParser) -> None:
    """`--allow-seen`."""
    parser.add_argument(
        "--allow-seen",
        action="store_true",
        help="evaluate even on records, or patients, that were trained on; the log and the result lines say so",
    )


def add_overrides_option(parser: argparse.ArgumentParser, description: str) -> None:
    """`--set`, whose pairs [`parse_settings`] reads."""
    parser.add_argument(
        "--set", dest="overrides", nargs="+", default=[], metavar="NAME=VALUE", help=f"change the recipe: {description}"
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


@contextmanager
def explain_settings(option: str, settings: Mapping[str, Any]) -> Iterator[None]:
    """Name the option where settings from the command line are unknown, of a wrong type or impossible.

    Args:
        option (`str`): Such as `"--set"`.
        settings (`Mapping[str, Any]`): What stood behind it, by name as [`parse_settings`] returns it.

    Raises:
        ValueError: In place of a `TypeError`, or of what a strict config raises, while there are settings to blame.
    """
    try:
        yield
    except (TypeError, StrictDataclassError) as error:
        if not settings:  # nobody set anything: a mistake of ours, which must keep its traceback
            raise
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown:
            written = [name for name in settings if name.split(".")[-1] == unknown[1]]
            raise ValueError(f"{option}: there is no setting '{(written or [unknown[1]])[0]}'.") from error
        given = " ".join(f"{name}={value}" for name, value in settings.items())
        # A strict config wraps the error of its own check, which says more.
        raise ValueError(f"{option} {given} cannot be used: {error.__cause__ or error}") from error
