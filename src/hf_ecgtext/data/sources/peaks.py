"""Whether the numbers of a source can be millivolts, judged by the largest deflection of the median record.

Files of integers say their unit in a header. Those of floating point numbers do not, and their descriptions have been
wrong by factors of ten and a thousand, which a processor that scales each recording hides from everyone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PLAUSIBLE_PEAK_MV = (0.8, 8.0)
"""The median over any larger set of 12-lead ECGs lies between: a factor of ten, in either direction, leaves it."""


def peak_notes(peaks_mv: Sequence[float], advice: str) -> list[str]:
    """The median peak as a note of a source's index, and a warning where no set of 12-lead ECGs has it.

    Args:
        peaks_mv (`Sequence[float]`): The largest absolute value of each record, in what is taken for mV.
        advice (`str`): What to do where the unit is wrong.

    Returns:
        `list[str]`: One note or two; none without a record.
    """
    if not peaks_mv:
        return []
    median_mv = float(np.median(peaks_mv))
    notes = [f"The median record's largest deflection is {median_mv:.3g} mV."]
    smallest_mv, largest_mv = PLAUSIBLE_PEAK_MV
    if not smallest_mv <= median_mv <= largest_mv:
        notes.append(
            f"WARNING: a median peak of {median_mv:.3g} mV is outside {smallest_mv:g} to {largest_mv:g} mV: the "
            f"numbers are probably in another unit than mV. {advice}"
        )
    return notes
