"""English machine reports for PTB-XL: the GE Marquette 12SL statements of PTB-XL+, written out.

PTB-XL's own reports are about 71 % German. PTB-XL+ (Strodthoff et al. 2023, CC-BY-4.0) adds, for every record, the
statements of the 12SL programme as acronyms. Written out they read like MIMIC-IV-ECG's reports, which come from the
same family of machines: "Sinus rhythm. Left axis deviation. Abnormal ECG".
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path

from hf_ecgtext.errors import RecordError

STATEMENTS_FILE = "12sl_statements.csv"
FULL_TEXT_FILE = "12slv23ToSNOMED.csv"

_BRACKETS = {"LPAREN", "RPAREN", "COMMA"}
"""Acronyms for punctuation; they occur in `statements` and are left out of `statements_cat`."""


def labels_folder(ptbxl_plus_dir: str | Path) -> Path:
    """The folder of the 12SL statements inside a copy of PTB-XL+.

    Raises:
        FileNotFoundError: If it is not there.
    """
    folder = Path(ptbxl_plus_dir) / "labels"
    if not (folder / STATEMENTS_FILE).is_file():
        raise FileNotFoundError(
            f"No {folder / STATEMENTS_FILE}. The English 12SL reports come from PTB-XL+ "
            "(https://physionet.org/content/ptb-xl-plus/): download its labels/ folder and pass ptbxl_plus_dir, or "
            "choose report='original' for PTB-XL's own, mostly German, reports."
        )
    return folder


def full_text_file(ptbxl_plus_dir: str | Path) -> Path:
    """The table of acronyms and full texts, which PhysioNet's copy keeps in `labels/mapping`.

    Raises:
        FileNotFoundError: If it is not there.
    """
    folder = labels_folder(ptbxl_plus_dir)
    candidates = [folder / FULL_TEXT_FILE, folder / "mapping" / FULL_TEXT_FILE]
    for path in candidates:
        if path.is_file():
            return path
    raise FileNotFoundError(f"None of {[str(path) for path in candidates]}: download it from PTB-XL+.")


def read_full_texts(ptbxl_plus_dir: str | Path) -> dict[str, str]:
    """12SL acronym -> English text, such as `{"SRTH": "Sinus rhythm", ...}`, without the asterisks of alarms.

    Raises:
        FileNotFoundError: If the table is not there.
    """
    import pandas as pd

    # The file starts with a byte order mark, and more than half of its rows are empty.
    table = pd.read_csv(full_text_file(ptbxl_plus_dir), encoding="utf-8-sig", usecols=["Acronym", "FullText"]).dropna()
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


def read_12sl_reports(ptbxl_plus_dir: str | Path) -> dict[int, str]:
    """`ecg_id` -> English machine report of every record of PTB-XL.

    Raises:
        FileNotFoundError: If PTB-XL+'s labels are not there.
        RecordError: If a statement has no text.

    Source: PTB-XL+ 1.0.1, `labels/12sl_statements.csv` and `12slv23ToSNOMED.csv`.
    """
    import pandas as pd

    full_texts = read_full_texts(ptbxl_plus_dir)
    table = pd.read_csv(
        labels_folder(ptbxl_plus_dir) / STATEMENTS_FILE, usecols=["ecg_id", "statements", "statements_cat"]
    )
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
