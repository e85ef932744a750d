"""Files that are there whole or not at all, and a stable hash of JSON values."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

READ_ONLY = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
"""Flags for `os.open`, which takes half the time of `open`; a named pipe without writer does not make us wait."""


def hash_of_json(value: Any) -> str:
    """The SHA-256 of JSON values, whatever the order of their keys, as 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A file beside the wanted one, which takes its place if everything goes well and vanishes otherwise.

    Args:
        path (`str` or `os.PathLike`): The wanted file; its folder is made if absent.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.unfinished")
    try:
        yield unfinished
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
