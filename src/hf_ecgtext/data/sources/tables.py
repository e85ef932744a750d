"""Tables and file names of a download: found, read by column name, joined by id, and checked before they are used."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hf_ecgtext.data.files.tree import FileTree


def read_table_file(files: FileTree, name: str, homepage: str) -> bytes:
    """The content of a table of the download.

    Raises:
        FileNotFoundError: If it is not there; the message says where to get it.
    """
    try:
        return files.read(name)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"There is no '{name}' in {files.location}. Download it from {homepage} and name the folder that holds it."
        ) from error


def check_rows(content: bytes, location: str, advice: str) -> None:
    """Refuse a table with a row that is cut off: fewer or more values than columns, or an end inside a row.

    Readers fill up what is missing, so that a download that stopped early would only change the last record. A number
    that lost its last digits is one as well: a table that was cut ends without a line break.

    Args:
        content (`bytes`): Of a CSV file with a header.
        location (`str`): What messages call the table.
        advice (`str`): Where to get it.

    Raises:
        ValueError: If a row is cut off; the message names it.
    """
    rows = csv.reader(io.StringIO(content.decode("utf-8-sig", errors="replace"), newline=""), strict=True)
    number, width = 0, 0
    try:
        for number, row in enumerate(rows):
            width = width or len(row)
            if row and len(row) != width:
                raise ValueError(
                    f"{location} has {len(row)} values instead of {width} in row {number} (the header is not counted), "
                    f"which begins with '{row[0][:40]}': it is cut off or damaged. {advice}"
                )
    except csv.Error as error:
        raise ValueError(f"{location} is cut off or damaged behind row {number} ({error}). {advice}") from error
    if content and not content.endswith((b"\n", b"\r")):
        raise ValueError(
            f"{location} ends in its row {number} without a line break: it may be cut off there. {advice} If it is "
            "your own and whole, end it with a line break."
        )


def read_csv_columns(
    files: FileTree, name: str, column_types: Mapping[str, pa.DataType], homepage: str, version: str
) -> pa.Table:
    """Some columns of a table of the download; empty cells are null.

    Args:
        files (`FileTree`): The download.
        name (`str`): Path of the table.
        column_types (`Mapping[str, pa.DataType]`): What to read, and as what.
        homepage, version (`str`): Of the dataset, for messages.

    Raises:
        FileNotFoundError: If the table is not there.
        ValueError: If it lacks a column, or holds something else than these types.
    """
    import pyarrow.csv

    content = read_table_file(files, name, homepage)
    first_line = content[: content.find(b"\n") if b"\n" in content else len(content)]
    header = next(csv.reader(io.StringIO(first_line.decode("utf-8-sig", errors="replace"))), [])
    absent = [column for column in column_types if column not in header]
    if absent:
        raise ValueError(
            f"'{name}' in {files.location} lacks the columns {absent}; it has {header}. Download version {version} "
            f"from {homepage}."
        )
    if not content.endswith((b"\n", b"\r")):
        end = content.rstrip(b"\n\r").rpartition(b"\n")[2][:40].decode("utf-8", errors="replace")
        raise ValueError(
            f"'{name}' in {files.location} ends without a line break, in the row that begins with '{end}': it may be "
            f"cut off there. Download it again from {homepage}, version {version}. If it is your own and whole, end it "
            "with a line break."
        )
    try:
        return pyarrow.csv.read_csv(
            pa.BufferReader(content),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=column_types,
                include_columns=list(column_types),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        )
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"'{name}' in {files.location} cannot be read: {error}. Download it again from {homepage}, version "
            f"{version}."
        ) from error


def check_ids(ids: pa.ChunkedArray, column: str, table: str) -> None:
    """Refuse ids that are missing or stand in the table twice.

    Raises:
        ValueError: If there are any; the message names the first.
    """
    if ids.null_count:
        row = pc.index(pc.is_null(ids), True).as_py()
        raise ValueError(f"'{table}' has no {column} in row {row + 1} (the header is not counted). Download it again.")
    counts = pc.value_counts(ids)
    twice = counts.filter(pc.greater(pc.struct_field(counts, "counts"), 1)).field("values").to_pylist()
    if twice:
        raise ValueError(
            f"'{table}' names {len(twice):,} {column}s more than once, such as {', '.join(map(str, twice[:3]))}. "
            "Download it again, or remove the rows that should not be there."
        )


def check_paths(paths: pa.ChunkedArray, table: str) -> None:
    """Refuse a table with paths that leave the download's folder: no honest download has one.

    Raises:
        ValueError: If a path is missing, absolute, goes up, or holds a character that no download uses.
    """
    hostile = pc.match_substring_regex(paths, r"^/|(^|/)\.\.(/|$)|[\\:\x00]|^$")
    bad = paths.filter(pc.fill_null(hostile, True))
    if len(bad):
        raise ValueError(
            f"'{table}' names paths outside the download, such as '{bad[0].as_py()}'; nothing was read. Download the "
            "table again from its publisher."
        )


def rows_of(ids: pa.ChunkedArray, wanted: pa.ChunkedArray) -> NDArray[np.int64]:
    """The row of each wanted id among `ids` (of two equal ones the first), and -1 where there is none.

    Args:
        ids, wanted (`pa.ChunkedArray`): Integers without nulls.
    """
    keys, asked = ids.to_numpy(), wanted.to_numpy()
    if not len(keys):
        return np.full(len(asked), -1)
    order = np.argsort(keys, kind="stable")
    places = np.searchsorted(keys, asked, sorter=order)
    rows = order[np.minimum(places, len(keys) - 1)]
    return np.where(keys[rows] == asked, rows, -1)


def keep_present(table: pa.Table, files: FileTree, folder: str, signal_suffix: str, notes: list[str]) -> pa.Table:
    """The rows whose header and signal file are there; how many are not is added to `notes`.

    Args:
        table (`pa.Table`): An index with the column `path`.
        files (`FileTree`): The download; `folder`, below which all paths lie, is listed once.
        signal_suffix (`str`): Such as `".dat"`.
    """
    listed = files.list_files(folder)
    present = {path.removesuffix(".hea") for path in listed if path.endswith(".hea")}
    present &= {path.removesuffix(signal_suffix) for path in listed if path.endswith(signal_suffix)}
    paths = table.column("path").to_pylist()
    is_present = np.fromiter((path in present for path in paths), dtype=bool, count=len(paths))
    absent = len(paths) - int(is_present.sum())
    if absent:
        notes.append(
            f"{absent:,} of {len(paths):,} records have no files in '{folder}' here and are left out (missing=skip); "
            f"{len(paths) - absent:,} remain."
        )
    return table.filter(is_present)


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
