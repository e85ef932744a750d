"""Values of `--set` and `--data-set`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """`["a.b=1", "c=text"]` to `{"a.b": 1, "c": "text"}`; values are read as JSON where they are JSON.

    Raises:
        ValueError: If a pair has no `=`, or is nested too deeply.
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
        except RecursionError as error:
            raise ValueError(f"The value of '{name}' is nested too deeply.") from error
    return settings
