"""Units of voltage in every usual spelling: one table for headers, arrays and whatever else brings a unit along."""

from __future__ import annotations

from types import MappingProxyType

UNITS_PER_MILLIVOLT = MappingProxyType({"mV": 1.0, "uV": 1e3, "nV": 1e6, "V": 1e-3})
"""How many of each unit make a millivolt. The powers of ten are exact, and so are their inverses once rounded."""

# `str.casefold` makes the micro sign (U+00B5) a Greek mu (U+03BC), so that both are found under the latter.
_CASEFOLDED = {
    **{unit.casefold(): unit for unit in UNITS_PER_MILLIVOLT},
    "\N{GREEK SMALL LETTER MU}v": "uV",
    **{
        f"{prefix}volt{plural}": unit
        for prefix, unit in (("milli", "mV"), ("micro", "uV"), ("nano", "nV"), ("", "V"))
        for plural in ("", "s")
    },
}


def canonical_unit(spelling: str) -> str:
    """The key of `UNITS_PER_MILLIVOLT` that a spelling means.

    Capitals do not matter (`uv`, `UV`, `Millivolt`), and micro may be `u`, `\u00b5` (U+00B5) or `\u03bc` (U+03BC). The
    exception is `MV`: it is refused, since it means megavolt in SI and millivolt to careless writers, and a guess
    between them would be one in silence.

    Args:
        spelling (`str`): Such as `"mV"`, `"\u00b5V"` or `"microvolts"`.

    Raises:
        ValueError: If the spelling is unknown. The message goes on after what has the unit: "... is in 'mmHg', which
            ...".
    """
    folded = spelling.strip().casefold()
    if folded not in _CASEFOLDED or spelling.strip() == "MV":
        hint = "; MV is megavolt in SI: write mV if that is meant" if spelling.strip() == "MV" else ""
        raise ValueError(
            f"is in '{spelling}', which cannot be converted to mV (known: {', '.join(UNITS_PER_MILLIVOLT)}{hint})"
        )
    return _CASEFOLDED[folded]


def units_per_millivolt(spelling: str) -> float:
    """How many of a unit make a millivolt, whatever its spelling; see [`canonical_unit`].

    Raises:
        ValueError: If the spelling is unknown.
    """
    return UNITS_PER_MILLIVOLT[canonical_unit(spelling)]
