"""PTB-XL's two tables: read, checked, and turned into the columns of the stored form."""

from __future__ import annotations

import ast
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import List, Value

from hf_ecgtext.data.files.tree import FileTree, LocalTree
from hf_ecgtext.data.sources.ptb_xl.labels import PTB_XL_CLASSES, labels_of_codes
from hf_ecgtext.data.sources.tables import check_rows, read_table_file
from hf_ecgtext.data.store.schema import ecg_features

if TYPE_CHECKING:
    import pandas as pd

DATABASE_FILE = "ptbxl_database.csv"
STATEMENTS_FILE = "scp_statements.csv"
HOMEPAGE = "https://physionet.org/content/ptb-xl/"
CITATION = """@article{wagner2020ptbxl,
  author = {Wagner, Patrick and Strodthoff, Nils and Bousseljot, Ralf-Dieter and Kreiseler, Dieter and
            Lunze, Fatima I. and Samek, Wojciech and Schaeffter, Tobias},
  title = {{PTB-XL}, a large publicly available electrocardiography dataset},
  journal = {Scientific Data}, volume = {7}, pages = {154}, year = {2020}, doi = {10.1038/s41597-020-0495-6}
}"""

FILENAME_COLUMN = {100: "filename_lr", 500: "filename_hr"}
"""Column of the paths at each sampling rate in Hz."""

REPORTS = ("12sl", "original")

PTB_XL_FEATURES = ecg_features(
    {
        **{f"labels_{task}": List(Value("string")) for task in PTB_XL_CLASSES},
        "scp_likelihoods": List(Value("float64")),
        "strat_fold": Value("int32"),
        "age": Value("int32"),
        "is_over_89": Value("bool"),
        "sex": Value("string"),
    }
)
"""`labels` holds the SCP codes and `scp_likelihoods` their likelihoods in per cent, 0 meaning unknown."""

RECORDS_OF_VERSION = {"1.0.1": 21_837, "1.0.2": 21_801, "1.0.3": 21_799}
"""Rows of `ptbxl_database.csv`. Source: PhysioNet's pages of the three versions."""

_CENSORED_AGE = 300
"""PTB-XL writes 300 for everyone older than 89, to protect their privacy."""


def read_database(download: str | Path | FileTree) -> pd.DataFrame:
    """`ptbxl_database.csv`, indexed by `ecg_id`, with `scp_codes` as dicts of code -> likelihood in per cent.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is not PTB-XL's table, or names a record twice.
    """
    import pandas as pd

    table = pd.read_csv(io.BytesIO(_checked_table(download, DATABASE_FILE)))
    needed = ["ecg_id", "patient_id", "age", "sex", "report", "scp_codes", "strat_fold", *FILENAME_COLUMN.values()]
    if absent := [column for column in needed if column not in table.columns]:
        raise ValueError(f"{DATABASE_FILE} lacks the columns {absent}. Download PTB-XL 1.0.1 to 1.0.3 from {HOMEPAGE}.")
    twice = table["ecg_id"][table["ecg_id"].duplicated()].unique()
    if len(twice):
        raise ValueError(
            f"{DATABASE_FILE} names {len(twice):,} records more than once, such as {list(map(int, twice[:3]))}. "
            f"Download it again from {HOMEPAGE}."
        )
    table = table.set_index("ecg_id")
    codes = [_parse_codes(ecg_id, text) for ecg_id, text in table["scp_codes"].items()]
    return table.assign(scp_codes=pd.Series(codes, index=table.index, dtype=object))


def read_statements(download: str | Path | FileTree) -> pd.DataFrame:
    """`scp_statements.csv`, indexed by SCP code.

    Raises:
        FileNotFoundError: If it is not there.
    """
    import pandas as pd

    return pd.read_csv(io.BytesIO(_checked_table(download, STATEMENTS_FILE)), index_col=0)


def _parse_codes(ecg_id: Any, text: Any) -> dict[str, float]:
    try:
        codes = ast.literal_eval(text)
        return {str(code): float(likelihood) for code, likelihood in codes.items()}
    except (ValueError, SyntaxError, TypeError, AttributeError) as error:
        raise ValueError(
            f"Record {ecg_id} of {DATABASE_FILE} has the scp_codes {text!r} instead of a mapping such as "
            f"{{'NORM': 100.0}}. Download the table again from {HOMEPAGE}."
        ) from error


def _checked_table(download: str | Path | FileTree, name: str) -> bytes:
    content = _read(download, name)
    check_rows(content, name, f"Download it again from {HOMEPAGE}.")
    return content


def _read(download: str | Path | FileTree, name: str) -> bytes:
    files = download if isinstance(download, FileTree) else LocalTree(download)
    return read_table_file(files, name, HOMEPAGE)


def check_codes(database: pd.DataFrame, statements: pd.DataFrame) -> None:
    """Refuse SCP codes that the table of statements does not explain.

    Raises:
        ValueError: If there are any; the message names the first record and its codes.
    """
    known = set(statements.index)
    for ecg_id, codes in database["scp_codes"].items():
        unknown = [code for code in codes if code not in known]
        if unknown:
            raise ValueError(
                f"Record {ecg_id} of {DATABASE_FILE} has the SCP codes {unknown}, which {STATEMENTS_FILE} does not "
                "list. Take both tables from the same version of PTB-XL."
            )


def version_of(database: pd.DataFrame) -> str:
    """The version of PTB-XL, told by the number of its records.

    Raises:
        ValueError: If no known version has so many.
    """
    for version, count in RECORDS_OF_VERSION.items():
        if len(database) == count:
            return version
    known = ", ".join(f"{version} has {count:,}" for version, count in RECORDS_OF_VERSION.items())
    raise ValueError(
        f"{DATABASE_FILE} has {len(database):,} records, as no known version of PTB-XL: {known}. Download it again "
        f"from {HOMEPAGE}, or set check_version=false to use a table that you have cut."
    )


def columns_of_entry(
    entry: Mapping[str, Any], classes: Mapping[str, Mapping[str, str]]
) -> tuple[str, tuple[str, ...], dict[str, Any]]:
    """Patient, SCP codes and PTB-XL's own columns of one record.

    Args:
        entry (`Mapping[str, Any]`): The record's row of [`read_database`].
        classes (`Mapping[str, Mapping[str, str]]`): Task to SCP code to class, from `class_of_code`.
    """
    codes: dict[str, float] = entry["scp_codes"]
    age = None if math.isnan(entry["age"]) else int(entry["age"])
    own = {
        **{f"labels_{task}": list(labels_of_codes(codes, classes[task])) for task in PTB_XL_CLASSES},
        "scp_likelihoods": [float(likelihood) for likelihood in codes.values()],
        "strat_fold": int(entry["strat_fold"]),
        "age": None if age == _CENSORED_AGE else age,
        "is_over_89": age == _CENSORED_AGE,
        "sex": ("male", "female")[int(entry["sex"])],  # 0: male (52 % of records), 1: female
    }
    return str(int(entry["patient_id"])), tuple(codes), own
