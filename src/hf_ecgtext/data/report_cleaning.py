"""Report cleaning: one pure function per source, chosen by the processor's `report_cleaning` setting.

Every cleaner returns `""` where nothing is left to read, and cleaning a clean report changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

# Ornaments that carts print around statements ("*** Bifascicular block ***", "=-=-="), never a single hyphen ("ST-T").
_ORNAMENT = re.compile(r"\*+|[=-]{2,}")
_REPEATED_FULL_STOP = re.compile(r"(?:\s*\.)+(?=\s|$)")
_EKG = re.compile(r"\bekg\b")
_PUNCTUATION = re.compile(r"[^\w\s]|_")

# Text after these marks is the data set's label editing, with SCP codes, not what a cardiologist wrote: 555 and 16 of
# PTB-XL 1.0.3's reports have it.
_PTBXL_LABEL_EDIT = re.compile(r"(?:\bedit:|consensus label derived from:).*", re.DOTALL)
# "4.46   unbestätigter bericht" (unconfirmed report, software version) ends 7,038 reports, cut short in some of them.
_PTBXL_UNCONFIRMED = re.compile(r"(?:\s*\b4\.46(?:\s+u\w*(?:\s\w+)?)?)+\s*$")


def _present_statements(report: str | Iterable[str | float | None]) -> list[str]:
    """The statements that hold text; `None` and NaN (an empty cell in pandas) are skipped."""
    statements = [report] if isinstance(report, str) else list(report)
    present = []
    for statement in statements:
        if statement is None or statement != statement:  # NaN is the one value that differs from itself
            continue
        if not isinstance(statement, str):
            raise TypeError(f"A report statement must be text, None or NaN, got {statement!r}.")
        present.append(statement)
    return present


def _clean_statement(statement: str) -> str:
    """Lower case without ornaments, line breaks or surplus spaces; "EKG" becomes "ecg"."""
    text = _ORNAMENT.sub(" ", statement.lower())
    text = " ".join(text.split()).strip(" -=")
    return _EKG.sub("ecg", text)


def clean_mimic_report(report: str | Iterable[str | float | None]) -> str:
    """Joins and normalises the machine statements of MIMIC-IV-ECG as MERL and DERI read them.

    Args:
        report (`str` or `Iterable[str | None]`): The columns `report_0` to `report_17`, where empty cells may be `None`
            or NaN, or the statements joined already.

    Returns:
        `str`: Lower-case statements joined by `". "` with a final full stop, or `""` for an empty report.

    Raises:
        TypeError: If a statement is neither text nor missing.

    Source: MERL's pre-processing notebook. Deviation: it strips the *characters* of `" ***"` and `"=-"`, so ornaments
    inside the text stay; here whole ornaments go, wherever they stand. It writes "empty" for an empty report.
    """
    statements = (_clean_statement(statement).strip(" .-=") for statement in _present_statements(report))
    text = ". ".join(statement for statement in statements if statement)
    return _REPEATED_FULL_STOP.sub(".", text + ".") if text else ""


def clean_dbeta_report(report: str | Iterable[str | float | None]) -> str:
    """Joins and normalises the machine statements of MIMIC-IV-ECG as C-MELT's release (D-BETA) reads them.

    As `clean_mimic_report`, but the statements are joined by a space and no full stop is added.
    """
    statements = (_clean_statement(statement) for statement in _present_statements(report))
    return " ".join(statement for statement in statements if statement)


def clean_cmelt_report(report: str | Iterable[str | float | None]) -> str:
    """Joins and normalises the machine statements of MIMIC-IV-ECG as C-MELT's paper says: without punctuation.

    As `clean_dbeta_report`; then a space stands for whatever is no letter, digit or space ("st-t" becomes "st t"). The
    paper does not say whether punctuation leaves a space; with one, "anterior/lateral" stays two words.

    Source: section 4.1.1 of arXiv 2410.02131 (lower case, strip, punctuation removal).
    """
    text = " ".join(_PUNCTUATION.sub(" ", clean_dbeta_report(report)).split())
    return _EKG.sub("ecg", text)  # it may have been part of "ekg_2"


def clean_12sl_report(report: str | Iterable[str | float | None]) -> str:
    """Joins and normalises full texts of GE 12SL statements, as in PTB-XL+.

    As `clean_mimic_report`; a statement that continues the one before it (", age undetermined") is joined by its comma.
    """
    return re.sub(r"(?:[\s.]*,)+", ",", clean_mimic_report(report)).lstrip(" ,.-=")


def clean_ptbxl_report(report: str) -> str:
    """Normalises a report of PTB-XL; what is removed was not written by a cardiologist.

    Lower case (most capitals in the file are damage: "unbestÄtigter"), single spaces, "ü" for the "#" in 125 damaged
    words ("f#r", "#bergang"), without the trailer "4.46 unbestätigter bericht" and without the label edits ("Edit: NORM
    100"), which would leak SCP codes into the text. The language stays as it is.

    Source: counted on `ptbxl_database.csv` of PTB-XL 1.0.3.
    """
    text = " ".join(report.lower().replace("#", "ü").split())
    text = _PTBXL_LABEL_EDIT.sub("", text)
    return _PTBXL_UNCONFIRMED.sub("", text).strip()


def keep_report(report: str) -> str:
    """Returns the report as it is."""
    return report


REPORT_CLEANERS: dict[str, Callable[[str], str]] = {
    "none": keep_report,
    "mimic": clean_mimic_report,
    "dbeta": clean_dbeta_report,
    "cmelt": clean_cmelt_report,
    "ptbxl": clean_ptbxl_report,
    "12sl": clean_12sl_report,
}
"""Name of the processor setting `report_cleaning` -> function."""
