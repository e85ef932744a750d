"""Progress that tells a user something, and none where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers.utils import logging as transformers_logging


@contextmanager
def calm_output(*, makes_datasets: bool = True) -> Iterator[None]:
    """While a command runs, no bars of transformers about loading and writing weights, which take a moment.

    Bars of downloads and of data sets that are made stay, in a terminal; in a file, each would be a page of debris.

    Args:
        makes_datasets (`bool`): `False` for a command without them, which need not wait for that package.
    """
    of_transformers = transformers_logging.is_progress_bar_enabled()
    of_hub = not are_progress_bars_disabled()
    is_terminal = sys.stderr.isatty()
    transformers_logging.disable_progress_bar()  # which takes those of the Hub along
    if is_terminal and of_hub:
        enable_progress_bars()
    try:
        with _no_bars_of_datasets() if makes_datasets and not is_terminal else nullcontext():
            yield
    finally:
        if of_transformers:
            transformers_logging.enable_progress_bar()
        if of_hub:
            enable_progress_bars()
        else:
            disable_progress_bars()


@contextmanager
def _no_bars_of_datasets() -> Iterator[None]:
    import datasets

    were_shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if were_shown:
            datasets.enable_progress_bars()
