"""English machine reports for PTB-XL: the GE Marquette 12SL statements of PTB-XL+, written out.

PTB-XL's own reports are about 71 % German. PTB-XL+ (Strodthoff et al. 2023, CC-BY-4.0) adds, for every record, the
statements of the 12SL programme as acronyms. Written out they read like MIMIC-IV-ECG's reports, which come from the
same family of machines: "Sinus rhythm. Left axis deviation. Abnormal ECG".
"""

from __future__ import annotations

import ast
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from hf_ecgtext.data.files.opening import open_tree
from hf_ecgtext.data.files.tree import FileTree, find_root
from hf_ecgtext.data.sources.tables import check_rows
from hf_ecgtext.errors import RecordError

STATEMENTS_FILE = "labels/12sl_statements.csv"
FULL_TEXT_FILES = ("labels/12slv23ToSNOMED.csv", "labels/mapping/12slv23ToSNOMED.csv")

_DOWNLOAD_AGAIN = "Download PTB-XL+ again from https://physionet.org/content/ptb-xl-plus/."
_BRACKETS = {"LPAREN", "RPAREN", "COMMA"}
"""Acronyms for punctuation; they occur in `statements` and are left out of `statements_cat`."""


def open_ptbxl_plus(ptbxl_plus: str | Path | FileTree) -> FileTree:
    """A copy of PTB-XL+ that holds the 12SL statements.

    Args:
        ptbxl_plus (`str`, `Path` or `FileTree`): Its root, or where it is.

    Raises:
        FileNotFoundError: If they are not there.
    """
    advice = (
        "The English 12SL reports come from PTB-XL+ (https://physionet.org/content/ptb-xl-plus/): download its labels/ "
        "folder and name the folder that holds it by ptbxl_plus=..., or choose report='original' for PTB-XL's own, "
        "mostly German, ones."
    )
    try:
        tree = ptbxl_plus if isinstance(ptbxl_plus, FileTree) else open_tree(ptbxl_plus)
        return find_root(tree, (STATEMENTS_FILE,))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error} {advice}") from error


def full_text_file(ptbxl_plus: FileTree) -> str:
    """The path of the table of acronyms and full texts, which PhysioNet's copy keeps in `labels/mapping`.

    Raises:
        FileNotFoundError: If it is not there.
    """
    for path in FULL_TEXT_FILES:
        if ptbxl_plus.exists(path):
            return path
    raise FileNotFoundError(
        f"None of {list(FULL_TEXT_FILES)} in {ptbxl_plus.location}: download it from "
        "https://physionet.org/content/ptb-xl-plus/."
    )


def read_full_texts(ptbxl_plus: str | Path | FileTree) -> dict[str, str]:
    """12SL acronym -> English text, such as `{"SRTH": "Sinus rhythm", ...}`, without the asterisks of alarms.

    Raises:
        FileNotFoundError: If the table is not there.
    """
    import pandas as pd

    tree = open_ptbxl_plus(ptbxl_plus)
    # The file starts with a byte order mark, and more than half of its rows are empty.
    content = tree.read(full_text_file(tree))
    check_rows(content, full_text_file(tree), _DOWNLOAD_AGAIN)
    table = pd.read_csv(io.BytesIO(content), encoding="utf-8-sig", usecols=["Acronym", "FullText"]).dropna()
    texts = {
        acronym: text.replace("*", "").strip() for acronym, text in zip(table.Acronym, table.FullText, strict=True)
    }
    # The statements say 2ST (822 times) where the table lists the same text under "2".
    if "2" in texts:
        texts.setdefault("2ST", texts["2"])
    return texts


def write_report(statements: Sequence[str], groups: Sequence[str], full_texts: Mapping[str, str], record: str) -> str:
    """One report from the acronyms of one record.

    Args:
        statements (`Sequence[str]`): All acronyms in order, brackets and commas included: `["NSR", "QRSV", "LPAREN",
            "RAVL", "RPAREN", "BORDE"]`.
        groups (`Sequence[str]`): The same without punctuation, grouped to sentences: `["NSR", "QRSV", "RAVL",
            "BORDE"]` or `["SRTH;OCC;PVC", "AB"]`.
        full_texts (`Mapping[str, str]`): From `read_full_texts`.
        record (`str`): Named in errors.

    Returns:
        `str`: Sentences joined by `". "`, each with a capital first letter, without a final stop.

    Raises:
        RecordError: If an acronym has no text (a report with a hole could say the opposite), or the two columns
            disagree.
    """
    opening = [position == 0 for group in groups for position in range(len(group.split(";")))]
    words = [acronym for group in groups for acronym in group.split(";")]
    if [acronym for acronym in statements if acronym not in _BRACKETS] != words:
        raise RecordError(record, "Its `statements` and `statements_cat` differ.", "Use the files of PTB-XL+ 1.0.1.")
    unknown = [acronym for acronym in statements if acronym not in full_texts]
    if unknown:
        raise RecordError(
            record,
            f"No text for the 12SL statements {unknown}.",
            "Use the files of PTB-XL+ 1.0.1, or report='original'.",
        )

    sentences: list[str] = []
    starts = iter(opening)
    in_brackets = False
    for acronym in statements:
        text = full_texts[acronym]
        starts_group = acronym not in _BRACKETS and next(starts)
        # "with occasional and consecutive | premature ventricular complexes" is split in the source: a group that
        # goes on in lower case belongs to the sentence before it.
        if not sentences or (starts_group and not in_brackets and text[0].isupper()):
            sentences.append(text[0].upper() + text[1:])
        else:
            glued = sentences[-1].endswith("(") or text[0] in ",)"
            sentences[-1] += text if glued else f" {text}"
        in_brackets = acronym == "LPAREN" or (in_brackets and acronym != "RPAREN")
    return ". ".join(sentences)


def read_12sl_reports(ptbxl_plus: str | Path | FileTree) -> dict[int, str]:
    """`ecg_id` -> English machine report of every record of PTB-XL.

    Raises:
        FileNotFoundError: If PTB-XL+'s labels are not there.
        RecordError: If a statement has no text.

    Source: PTB-XL+ 1.0.1, `labels/12sl_statements.csv` and `12slv23ToSNOMED.csv`.
    """
    import pandas as pd

    tree = open_ptbxl_plus(ptbxl_plus)
    full_texts = read_full_texts(tree)
    content = tree.read(STATEMENTS_FILE)
    check_rows(content, STATEMENTS_FILE, _DOWNLOAD_AGAIN)
    table = pd.read_csv(io.BytesIO(content), usecols=["ecg_id", "statements", "statements_cat"])
    # The 21,799 records have about 5,000 distinct reports; each is written once.
    reports: dict[tuple[str, str], str] = {}
    by_record: dict[int, str] = {}
    for ecg_id, statements, groups in zip(table.ecg_id, table.statements, table.statements_cat, strict=True):
        key = (statements, groups)
        if key not in reports:
            reports[key] = write_report(
                ast.literal_eval(statements), ast.literal_eval(groups), full_texts, f"PTB-XL {ecg_id}"
            )
        by_record[int(ecg_id)] = reports[key]
    return by_record
