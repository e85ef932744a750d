"""Augmentations that move, cut or hide stretches of time, alike in all leads unless they say otherwise."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from hf_ecgtext.data.augmentations.base import (
    Augmentation,
    check_range,
    place,
    sample_steps,
    take_samples,
    uniform,
)

SegmentCuts = Literal["random", "equal"]


class RandomResizedCrop(Augmentation):
    """Cut a stretch out of each record and stretch it linearly to the full length.

    Args:
        min_scale, max_scale (`float`): Length of the stretch as a share of the record's, uniform.
        probability (`float`): Of each record, to be changed.

    Source: scales as in MELP's augmentations.
    """

    def __init__(self, min_scale: float = 0.5, max_scale: float = 1.0, probability: float = 1.0):
        super().__init__(probability)
        self.max_scale = check_range("max_scale", max_scale, 0.0, 1.0)
        self.min_scale = check_range("min_scale", min_scale, 0.0, max_scale)

    def draw(self, ecg_values: Tensor, lead_mask: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """`scale` and `start`, each `(batch, 1)`; the start is a share of where the stretch may start."""
        shape = (len(ecg_values), 1)
        scale = uniform(shape, ecg_values, generator, self.min_scale, self.max_scale)
        return {"scale": scale, "start": uniform(shape, ecg_values, generator)}

    def transform(self, ecg_values: Tensor, lead_mask: Tensor, **draws: Tensor) -> Tensor:
        """See [`Augmentation`]."""
        last = ecg_values.shape[-1] - 1
        scale = draws["scale"]
        position = draws["start"] * (1 - scale) * last + sample_steps(ecg_values) * scale  # (batch, num_samples)
        left = position.floor().clamp(max=last)
        steps = left.long()
        before, after = take_samples(ecg_values, steps), take_samples(ecg_values, (steps + 1).clamp(max=last))
        return torch.lerp(before.float(), after.float(), (position - left)[:, None])


class RandomCrop(Augmentation):
    """Cut a stretch of fixed length out of each record; the result is shorter.

    Args:
        num_samples (`int`): Length of the stretch.
    """

    def __init__(self, num_samples: int):
        super().__init__()
        self.num_samples = int(check_range("num_samples", num_samples, 1))

    def draw(self, ecg_values: Tensor, lead_mask: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """`start` of shape `(batch, 1)`: a share of where the stretch may start."""
        if ecg_values.shape[-1] < self.num_samples:
            raise ValueError(f"A crop of {self.num_samples} samples does not fit into {ecg_values.shape[-1]}.")
        return {"start": uniform((len(ecg_values), 1), ecg_values, generator)}

    def transform(self, ecg_values: Tensor, lead_mask: Tensor, **draws: Tensor) -> Tensor:
        """See [`Augmentation`]."""
        start = place(draws["start"], ecg_values.shape[-1] - self.num_samples + 1)
        return take_samples(ecg_values, start + torch.arange(self.num_samples, device=ecg_values.device))


class TimeOut(Augmentation):
    """Set one stretch of each record to 0.

    Args:
        min_share, max_share (`float`): Length of the stretch as a share of the record's, uniform.
        probability (`float`): Of each record, to be changed.

    Source: shares as in MELP's augmentations.
    """

    def __init__(self, min_share: float = 0.0, max_share: float = 0.5, probability: float = 1.0):
        super().__init__(probability)
        self.max_share = check_range("max_share", max_share, 0.0, 1.0)
        self.min_share = check_range("min_share", min_share, 0.0, max_share)

    def draw(self, ecg_values: Tensor, lead_mask: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """`share` and `start`, each `(batch, 1)`; the start is a share of where the stretch may start."""
        shape = (len(ecg_values), 1)
        share = uniform(shape, ecg_values, generator, self.min_share, self.max_share)
        return {"share": share, "start": uniform(shape, ecg_values, generator)}

    def transform(self, ecg_values: Tensor, lead_mask: Tensor, **draws: Tensor) -> Tensor:
        """See [`Augmentation`]."""
        hidden = stretch(ecg_values, draws["share"], draws["start"])
        return ecg_values.masked_fill(hidden[:, None], 0)


class LeadTimeMask(Augmentation):
    """Set one stretch of every lead to 0, each lead's starting anywhere and going on at the record's beginning.

    Args:
        share (`float`): Length of the stretch as a share of the record's.
        probability (`float`): Of each record, to be changed.

    Source: 3KG (Gopal et al. 2021) as in fairseq-signals.
    """

    def __init__(self, share: float = 0.5, probability: float = 1.0):
        super().__init__(probability)
        self.share = check_range("share", share, 0.0, 1.0)

    def draw(self, ecg_values: Tensor, lead_mask: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """`start` of shape `(batch, num_leads, 1)`, a share of the record."""
        return {"start": uniform((*ecg_values.shape[:2], 1), ecg_values, generator)}

    def transform(self, ecg_values: Tensor, lead_mask: Tensor, **draws: Tensor) -> Tensor:
        """See [`Augmentation`]."""
        num_samples = ecg_values.shape[-1]
        steps, start = sample_steps(ecg_values), place(draws["start"], num_samples)
        end = start + round(self.share * num_samples)
        return ecg_values.masked_fill(((steps >= start) & (steps < end)) | (steps < end - num_samples), 0)


class SegmentPermutation(Augmentation):
    """Cut each record into segments and put them together in random order, the same in all leads.

    Args:
        max_segments (`int`): Each record has 1, 2, ... or this many segments, with equal probability.
        cuts (`"random"` or `"equal"`): Whether segments have random lengths (a length of 0 is possible, and rare) or
            equal ones.
        probability (`float`): Of each record, to be changed.

    Source: TS-TCC (Eldele et al. 2021), whose `max_seg` is one more than `max_segments`. Deviation: the released code
    fills all channels with the first one.
    """

    def __init__(self, max_segments: int = 7, cuts: SegmentCuts = "random", probability: float = 1.0):
        super().__init__(probability)
        self.max_segments = int(check_range("max_segments", max_segments, 1))
        if cuts not in get_args(SegmentCuts):
            raise ValueError(f"cuts must be one of {list(get_args(SegmentCuts))}, not '{cuts}'.")
        self.cuts = cuts

    def draw(self, ecg_values: Tensor, lead_mask: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """`count` `(batch, 1)`, `cuts` `(batch, max_segments - 1)` and `keys` `(batch, max_segments)` in [0, 1)."""
        batch = len(ecg_values)
        return {
            "count": uniform((batch, 1), ecg_values, generator),
            "cuts": uniform((batch, self.max_segments - 1), ecg_values, generator),
            "keys": uniform((batch, self.max_segments), ecg_values, generator),
        }

    def transform(self, ecg_values: Tensor, lead_mask: Tensor, **draws: Tensor) -> Tensor:
        """See [`Augmentation`]."""
        return take_samples(ecg_values, self._source_steps(ecg_values, draws))

    def _source_steps(self, ecg_values: Tensor, draws: dict[str, Tensor]) -> Tensor:
        batch, _, num_samples = ecg_values.shape
        count = 1 + place(draws["count"], self.max_segments)  # (batch, 1)
        cut = torch.arange(1, self.max_segments, device=ecg_values.device)
        inner = 1 + place(draws["cuts"], num_samples - 1) if self.cuts == "random" else cut * num_samples // count
        inner = torch.where(cut < count, inner, num_samples).sort(dim=-1).values  # unused segments are empty
        begins = torch.cat([inner.new_zeros(batch, 1), inner], dim=-1)
        lengths = torch.cat([inner, inner.new_full((batch, 1), num_samples)], dim=-1) - begins
        order = draws["keys"].argsort(dim=-1)
        begins, lengths = begins.gather(-1, order), lengths.gather(-1, order)
        new_ends = lengths.cumsum(dim=-1)
        steps = sample_steps(ecg_values).expand(batch, -1).contiguous()
        segment = torch.searchsorted(new_ends, steps, right=True)
        return steps + (begins - new_ends + lengths).gather(-1, segment)


def stretch(ecg_values: Tensor, share: Tensor, start: Tensor) -> Tensor:
    """Where a stretch of each record lies.

    Args:
        share (`torch.Tensor` of shape `(batch, 1)`): Its length, as a share of the record's, rounded to samples.
        start (`torch.Tensor` of shape `(batch, 1)`): In [0, 1): a share of where it may start.

    Returns:
        `torch.Tensor` of shape `(batch, num_samples)`: bool.
    """
    num_samples = ecg_values.shape[-1]
    length = (share * num_samples).round().long()
    first = place(start, num_samples - length + 1)
    steps = sample_steps(ecg_values)
    return (steps >= first) & (steps < first + length)


def split_halves(ecg_values: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the second half of each record: the two views of CLOCS and of CMSC.

    Args:
        ecg_values (`torch.Tensor` of shape `(..., num_samples)`): Signals; nothing is copied.

    Raises:
        ValueError: If the number of samples is odd.

    Source: Kiyasseh et al. 2021: two halves of 2,500 samples.
    """
    if ecg_values.shape[-1] % 2:
        raise ValueError(f"A record of {ecg_values.shape[-1]} samples has no two equal halves; crop it first.")
    first, second = ecg_values.chunk(2, dim=-1)
    return first, second
