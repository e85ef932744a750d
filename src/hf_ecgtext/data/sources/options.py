"""Options of a source: those of earlier versions under their present names, and unknown ones answered with the list."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


def current_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options under their present names.

    Prepared folders and their fingerprints keep the spelling `only_present` of `missing`, and so do the revisions of
    result lines: the data is the same, whatever its options are called.

    Args:
        options (`Mapping[str, Any]`): As a user writes them, or as `prepared.json` records them.

    Raises:
        ValueError: If an option is given under both names, or `only_present` is neither true nor false.
    """
    renamed = dict(options)
    for old, new in (("only_present", "missing"), ("ptbxl_plus_dir", "ptbxl_plus")):
        if old not in renamed:
            continue
        if new in renamed:
            raise ValueError(f"'{old}' is an older name of '{new}'. Give one of them.")
        renamed[new] = renamed.pop(old)
        if old == "only_present":
            if not isinstance(renamed[new], bool):
                raise ValueError(f"only_present must be true or false, not {renamed[new]!r}; write missing=skip.")
            renamed[new] = "skip" if renamed[new] else "raise"
    return renamed


def skips_missing(missing: str) -> bool:
    """Whether records without files are left out.

    Args:
        missing (`str`): `"skip"`, or `"raise"` for a record without files to count as a fault.

    Raises:
        ValueError: If it is neither.
    """
    if missing not in ("raise", "skip"):
        raise ValueError(f"missing must be 'raise' or 'skip', not {missing!r}.")
    return missing == "skip"


def check_option_names(name: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse an option that there is not.

    Args:
        name (`str`): Of the data.
        given, known (`Iterable[str]`): Names of options.

    Raises:
        ValueError: If one is unknown; the message lists those that there are.
    """
    known = list(known)
    for option in given:
        if option not in known:
            close = difflib.get_close_matches(option, known, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            raise ValueError(f"{name} has no option '{option}'; it has: {', '.join(known) or 'none'}.{hint}")
