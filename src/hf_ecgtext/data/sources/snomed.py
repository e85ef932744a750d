"""SNOMED CT codes as headers spell them: tidied, before anything asks what they mean."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal

_SEPARATORS = re.compile(r"[;|\s]+")
_NUMBER = re.compile(r"\d{1,18}(?:\.\d{0,18})?(?:[eE]\+?\d{1,2})?", re.ASCII)
_LONGEST = 18  # digits of a SNOMED CT identifier


def tidy_codes(codes: Iterable[str]) -> tuple[str, ...]:
    """The distinct codes of a header's `Dx`, each as SNOMED CT writes it.

    Commas separate them, but some copies have semicolons or blanks, and tables that went through a spreadsheet have
    `426177001.0` or `4.26177001E8`. What is no whole number stays as it is, for the source to judge.

    Args:
        codes (`Iterable[str]`): As [`~hf_ecgtext.data.wfdb.reading.interpret_comments`] gives them.
    """
    parts = (part for code in codes for part in _SEPARATORS.split(code) if part)
    return tuple(dict.fromkeys(_tidy(part) for part in parts))


def _tidy(code: str) -> str:
    if code.isdecimal() or _NUMBER.fullmatch(code) is None:
        return code
    number = Decimal(code)
    is_whole = number.adjusted() < _LONGEST and number == number.to_integral_value()
    return str(int(number)) if is_whole else code
