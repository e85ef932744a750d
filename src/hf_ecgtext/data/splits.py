"""Splits by a stable hash: the same key is in the same split on every machine, whatever else the data holds."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping


def split_of(key: str, fractions: Mapping[str, float], salt: str) -> str:
    """The split of a patient or record.

    The key's hash is a number from 0 to 1, and the splits follow one another on that line in the order of `fractions`.
    So records that are added later move no other record, and another fraction moves only those between the bounds:
    with `{"train": ..., "validation": ..., "test": ...}`, the test split stays as it is when validation grows.

    Args:
        key (`str`): What must stay together, such as a patient's id.
        fractions (`Mapping[str, float]`): Split to its share of the keys; the shares add up to 1.
        salt (`str`): Another salt gives another draw; different datasets use different ones.

    Raises:
        ValueError: If a share is negative, or they do not add up to 1.
    """
    if any(share < 0 for share in fractions.values()) or not math.isclose(sum(fractions.values()), 1.0):
        raise ValueError(f"The fractions of the splits must add up to 1 and not be negative: {dict(fractions)}.")
    digest = hashlib.blake2b(f"{salt}\0{key}".encode(), digest_size=8).digest()
    position = int.from_bytes(digest, "big") / 2**64
    splits = [split for split, share in fractions.items() if share > 0]
    bound = 0.0
    for split in splits[:-1]:
        bound += fractions[split]
        if position < bound:
            return split
    return splits[-1]
