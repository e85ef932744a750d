"""SNOMED CT codes of `Dx` comments, tidied."""

import pytest

from hf_ecgtext.data.sources.snomed import tidy_codes
from hf_ecgtext.data.wfdb.reading import interpret_comments


@pytest.mark.parametrize(
    "dx",
    [
        "164889003,59118001",
        "164889003;59118001",
        "164889003; 59118001;",
        "164889003 59118001",
        "164889003|59118001",
        "164889003.0,59118001.0",
        "1.64889003E8, 5.9118001e+07",
        "164889003.0;59118001;164889003",
    ],
)
def test_every_spelling_gives_the_same_codes(dx):
    codes, _, _ = interpret_comments([f"Dx: {dx}"])
    assert tidy_codes(codes) == ("164889003", "59118001")


@pytest.mark.parametrize("code", ["164889003.5", "1.5E0", "sinus", "1e99", "9" * 30, "-5", "1.6E-3", "0x10"])
def test_what_is_no_whole_number_stays_for_the_source_to_judge(code):
    assert tidy_codes([code]) == (code,)
