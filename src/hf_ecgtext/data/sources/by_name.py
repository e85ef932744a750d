"""Sources by name: the modules of `data.sources` that define a `SOURCE`."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

from hf_ecgtext.data import sources
from hf_ecgtext.data.files.opening import open_tree
from hf_ecgtext.data.sources.base import EcgSource
from hf_ecgtext.data.sources.options import check_option_names, current_options


def source_names() -> list[str]:
    """The datasets whose original downloads can be read: the modules of `data.sources` that define `SOURCE`."""
    return modules_with("SOURCE")


def modules_with(attribute: str) -> list[str]:
    """Names of the modules of `data.sources` that define something."""
    names = [module.name for module in pkgutil.iter_modules(sources.__path__)]
    return sorted(name for name in names if hasattr(source_module(name), attribute))


def source_module(name: str) -> ModuleType:
    """A module of `data.sources`."""
    return importlib.import_module(f"{sources.__name__}.{name}")


def source_class(name: str) -> type[EcgSource]:
    """The class that reads the original download of a dataset.

    Raises:
        ValueError: If there is no such source.
    """
    if name not in source_names():
        raise ValueError(f"There is no source '{name}'. Known sources: {', '.join(source_names())}.")
    found: type[EcgSource] = source_module(name).SOURCE
    return found


def option_defaults(name: str) -> dict[str, Any]:
    """The options of a source, each with its default."""
    parameters = inspect.signature(source_class(name)).parameters.values()
    return {option.name: option.default for option in parameters if option.kind is option.KEYWORD_ONLY}


def open_source(name: str, location: str | Path, *, scratch: Path | None = None, **options: Any) -> EcgSource:
    """The original download of a dataset.

    Args:
        name (`str`): One of [`source_names`].
        location (`str` or `Path`): Folder, archive or address, as for [`~hf_ecgtext.data.files.opening.open_tree`].
        scratch (`Path`, *optional*): Folder for what must be copied or unpacked first.
        options: Of the source's class, also under names of earlier versions.

    Raises:
        ValueError: If there is no such source or option, or an option has an impossible value.
        FileNotFoundError: If nothing is there.
    """
    options = current_options(options)
    check_option_names(name, options, option_defaults(name))
    return source_class(name)(open_tree(location, scratch), **options)
