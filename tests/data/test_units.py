from __future__ import annotations

import pytest

from hf_ecgtext.data.units import UNITS_PER_MILLIVOLT, canonical_unit, units_per_millivolt

SPELLINGS = {
    "mV": ("mV", "mv", " mV ", "Mv", "millivolt", "milliVolt", "MILLIVOLTS"),
    "uV": (
        "uV",
        "uv",
        "UV",
        "\N{MICRO SIGN}V",
        "\N{GREEK SMALL LETTER MU}V",
        "\N{MICRO SIGN}v",
        "microvolts",
        "microVolt",
    ),
    "nV": ("nV", "nv", "NV", "nanovolt", "nanovolts"),
    "V": ("V", "v", "volt", "Volts"),
}


@pytest.mark.parametrize(("unit", "spellings"), SPELLINGS.items())
def test_every_usual_spelling_of_a_unit_is_that_unit(unit: str, spellings: tuple[str, ...]) -> None:
    assert [canonical_unit(spelling) for spelling in spellings] == [unit] * len(spellings)
    assert {units_per_millivolt(spelling) for spelling in spellings} == {UNITS_PER_MILLIVOLT[unit]}


@pytest.mark.parametrize("spelling", ["", "mmHg", "NU", "%", "mV/s", "kV", "adu", "m V"])
def test_what_is_no_unit_of_voltage_is_refused_with_those_that_are(spelling: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be converted to mV \(known: mV, uV, nV, V\)"):
        canonical_unit(spelling)


def test_megavolts_are_no_guess_at_millivolts() -> None:
    with pytest.raises(ValueError, match="MV is megavolt in SI: write mV if that is meant"):
        canonical_unit("MV")
