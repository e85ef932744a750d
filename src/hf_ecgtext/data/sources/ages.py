"""What a header's age means where it is no age."""

from __future__ import annotations


def known_age(age: float | None) -> float | None:
    """The age in years, or `None` where the header says that nobody knows it: PhysioNet's copies of CPSC2018 have -1.

    Args:
        age (`float`, *optional*): As the header says.
    """
    return None if age is None or age < 0 else age
