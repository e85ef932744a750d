"""Sources and data by name: the modules of `data.sources` that define a `SOURCE`."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Any

from hf_ecgtext.data import sources
from hf_ecgtext.data.files import open_tree
from hf_ecgtext.data.sources.base import EcgSource


def source_names() -> list[str]:
    """The datasets whose original downloads can be read: the modules of `data.sources` that define `SOURCE`."""
    return sorted(
        module.name
        for module in pkgutil.iter_modules(sources.__path__)
        if hasattr(importlib.import_module(f"{sources.__name__}.{module.name}"), "SOURCE")
    )


def source_class(name: str) -> type[EcgSource]:
    """The class that reads the original download of a dataset.

    Raises:
        ValueError: If there is no such source.
    """
    if name not in source_names():
        raise ValueError(f"There is no source '{name}'. Known sources: {', '.join(source_names())}.")
    found: type[EcgSource] = importlib.import_module(f"{sources.__name__}.{name}").SOURCE
    return found


def open_source(name: str, location: str | Path, *, scratch: Path | None = None, **options: Any) -> EcgSource:
    """The original download of a dataset.

    Args:
        name (`str`): One of [`source_names`].
        location (`str` or `Path`): Folder, archive or address, as for [`~hf_ecgtext.data.files.open_tree`].
        scratch (`Path`, *optional*): Folder for what must be copied or unpacked first.
        options: Of the source's class.

    Raises:
        ValueError: If there is no such source, or an option has an impossible value.
        TypeError: If the source takes no such option.
        FileNotFoundError: If nothing is there.
    """
    return source_class(name)(open_tree(location, scratch), **options)
