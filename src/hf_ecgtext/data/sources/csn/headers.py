"""Headers of CSN 1.0.0 that lost the break between their first two lines, put right.

Two records of PhysioNet's files (`MERGED_IN_1_0_0`) have their record line and the line of lead I in one, with a part
of both gone: `JS01052 12 500 500000/mV 16 0 15 31255 0 I`. What is gone is the same in all 45,152 headers, so that
nothing is guessed; and the initial value and checksum of lead I, which are left, must fit the samples as in every
record.

Source: ECGBench (github.com/vlbthambawita/ECGBench) and others who list the two; the copies of PhysioNet/CinC 2021 are
intact.
"""

from __future__ import annotations

import re

MERGED_IN_1_0_0 = ("JS01052", "JS23074")

_MERGED = re.compile(r"(?P<name>JS\d{5}) 12 500 (?P<rest>.*?) ?16 0 (?P<numbers>-?\d+ -?\d+ 0 I)", re.ASCII)


def mend_merged_header(content: bytes, record: str) -> bytes | None:
    """The header with its first two lines apart, or `None` where they are not merged in exactly this way.

    Args:
        content (`bytes`): Of a `.hea` file.
        record (`str`): Its name.
    """
    first, line_break, others = content.partition(b"\n")
    merged = _MERGED.fullmatch(first.decode("latin-1").strip())
    if merged is None or merged["name"] != record:
        return None
    whole = f"5000\n{record}.mat 16+24 1000/mV"
    rest = merged["rest"]
    # What is left must be a beginning and an end of the two lines, with the break between them gone.
    if not any(rest[:cut] == whole[:cut] and whole.endswith(rest[cut:]) for cut in range(len("5000") + 1)):
        return None
    return f"{record} 12 500 {whole} 16 0 {merged['numbers']}".encode() + line_break + others
