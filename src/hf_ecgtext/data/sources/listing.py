"""Finding files in a download whose folders are named differently from copy to copy."""

from __future__ import annotations

import re
from collections.abc import Iterable


def records_by_name(paths: Iterable[str], pattern: re.Pattern[str], location: str) -> dict[str, str]:
    """Record name -> path without extension, in the order of the names.

    Args:
        paths (`Iterable[str]`): Of all files of the download.
        pattern (`re.Pattern`): Matches the file names (without folder) of records; its first group is the record's
            name.
        location (`str`): What messages call the download.

    Raises:
        ValueError: If two folders hold a record of the same name.
    """
    found: dict[str, str] = {}
    for path in paths:
        match = pattern.fullmatch(path.rpartition("/")[2])
        if match is None:
            continue
        stem = path.rpartition(".")[0]
        other = found.setdefault(match[1], stem)
        if other != stem:
            raise ValueError(
                f"{location} holds the record '{match[1]}' twice, as '{other}' and '{stem}'. Name the folder of one "
                "copy of the dataset."
            )
    return dict(sorted(found.items()))


def files_named(paths: Iterable[str], name: str) -> list[str]:
    """Paths of all files of one name, whatever their folder; the system files of macOS archives are left out."""
    return [path for path in paths if path.rpartition("/")[2] == name and "__MACOSX" not in path.split("/")]


def only_file_named(paths: Iterable[str], name: str, location: str, advice: str) -> str:
    """The path of the one file of a name.

    Args:
        paths (`Iterable[str]`): Of all files of the download.
        name (`str`): File name without folder.
        location (`str`): What messages call the download.
        advice (`str`): Where to get the file.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If there are several.
    """
    found = files_named(paths, name)
    if not found:
        raise FileNotFoundError(f"There is no '{name}' in {location}. {advice}")
    if len(found) > 1:
        raise ValueError(f"{location} holds '{name}' {len(found)} times ({', '.join(found[:3])}). Name one copy.")
    return found[0]
