"""The plausibility check of millivolts, against peaks of known size."""

import pytest

from hf_ecgtext.data.sources.peaks import peak_notes


@pytest.mark.parametrize(
    ("peaks_mv", "is_plausible"),
    [
        ([1.2, 1.5, 1.9], True),
        ([3.51], True),
        ([0.12, 0.351, 9.0], False),
        ([1500.0, 1900.0], False),
        ([0.0015], False),
    ],
)
def test_a_median_peak_outside_what_ecgs_have_is_a_warning_with_its_advice(peaks_mv, is_plausible):
    notes = peak_notes(peaks_mv, "Mend the unit.")
    assert notes[0].startswith("The median record's largest deflection is ")
    assert len(notes) == (1 if is_plausible else 2)
    assert is_plausible or (notes[1].startswith("WARNING") and notes[1].endswith("Mend the unit."))


def test_without_records_there_is_nothing_to_say():
    assert peak_notes([], "Mend the unit.") == []
