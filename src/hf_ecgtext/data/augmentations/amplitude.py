"""Augmentations of the values themselves: jitter, scaling, blur, hidden leads."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_ecgtext.data.augmentations.base import (
    AmplitudeUnit,
    Augmentation,
    Ecg,
    amplitude_scale,
    check_range,
    check_unit,
    checked_mask,
    normal,
    place,
    uniform,
)

ScalingScope = Literal["lead", "sample"]


class Jitter(Augmentation):
    """Add white Gaussian noise to every sample.

    Args:
        std (`float`): Standard deviation of the noise.
        unit (`"record_std"` or `"input"`): Unit of `std`.
        probability (`float`): Of each record, to be changed.
    """

    def __init__(self, std: float = 0.05, unit: AmplitudeUnit = "record_std", probability: float = 1.0):
        super().__init__(probability)
        self.std = check_range("std", std, 0.0)
        self.unit = check_unit(unit)

    def draw(self, ecg_values: Tensor, lead_mask: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """`noise`, standard normal, of the shape of the signals."""
        return {"noise": normal(ecg_values.shape, ecg_values, generator)}

    def transform(self, ecg_values: Tensor, lead_mask: Tensor, **draws: Tensor) -> Tensor:
        """See [`Augmentation`]."""
        scale = self.std * amplitude_scale(ecg_values, lead_mask, self.unit)
        return torch.addcmul(ecg_values.float(), draws["noise"], scale)


class RandomScaling(Augmentation):
    """Multiply by normal random factors.

    Args:
        mean, std (`float`): Of the factors.
        per (`"lead"` or `"sample"`): One factor for each lead, or one for each moment, the same in all leads, as
            TS-TCC's released code has it.
        probability (`float`): Of each record, to be changed.
    """

    def __init__(self, mean: float = 1.0, std: float = 0.1, per: ScalingScope = "lead", probability: float = 1.0):
        super().__init__(probability)
        self.mean = mean
        self.std = check_range("std", std, 0.0)
        if per not in get_args(ScalingScope):
            raise ValueError(f"per must be one of {list(get_args(ScalingScope))}, not '{per}'.")
        self.per = per

    def draw(self, ecg_values: Tensor, lead_mask: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """`noise`, standard normal, of shape `(batch, num_leads, 1)` or `(batch, 1, num_samples)`."""
        batch, num_leads, num_samples = ecg_values.shape
        shape = (batch, num_leads, 1) if self.per == "lead" else (batch, 1, num_samples)
        return {"noise": normal(shape, ecg_values, generator)}

    def transform(self, ecg_values: Tensor, lead_mask: Tensor, **draws: Tensor) -> Tensor:
        """See [`Augmentation`]."""
        return ecg_values * (draws["noise"] * self.std + self.mean)


class GaussianBlur(Augmentation):
    """Smooth each record with a Gaussian kernel; ends are mirrored.

    Args:
        min_kernel, max_kernel (`int`): Odd lengths of the kernel in samples; each record draws one of the odd numbers
            in between. The standard deviation is `0.3 (k / 2 - 3 / 2) + 0.8` samples for a kernel of `k`, as image
            libraries choose it.
        probability (`float`): Of each record, to be changed.
    """

    def __init__(self, min_kernel: int = 3, max_kernel: int = 11, probability: float = 1.0):
        super().__init__(probability)
        if min_kernel % 2 == 0 or max_kernel % 2 == 0:
            raise ValueError(f"Kernels have odd lengths, not {min_kernel} to {max_kernel}.")
        self.max_reach = int(check_range("max_kernel", max_kernel, 3)) // 2
        self.min_reach = int(check_range("min_kernel", min_kernel, 3, max_kernel)) // 2

    def draw(self, ecg_values: Tensor, lead_mask: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """`kernel` of shape `(batch, 1)` in [0, 1): which length."""
        if ecg_values.shape[-1] <= self.max_reach:
            raise ValueError(f"{ecg_values.shape[-1]} samples are too few for a kernel of {2 * self.max_reach + 1}.")
        return {"kernel": uniform((len(ecg_values), 1), ecg_values, generator)}

    def transform(self, ecg_values: Tensor, lead_mask: Tensor, **draws: Tensor) -> Tensor:
        """See [`Augmentation`]."""
        reach = self.min_reach + place(draws["kernel"], self.max_reach - self.min_reach + 1)  # (batch, 1)
        offset = torch.arange(self.max_reach + 1, device=ecg_values.device)
        std = 0.3 * (reach - 1) + 0.8
        weights = torch.where(offset <= reach, torch.exp(-0.5 * (offset / std) ** 2), 0.0)  # (batch, max_reach + 1)
        weights = weights / (2 * weights.sum(dim=-1, keepdim=True) - weights[:, :1])
        weights = weights[:, None, :, None]
        padded = F.pad(ecg_values.float(), (self.max_reach, self.max_reach), mode="reflect")
        length = ecg_values.shape[-1]
        # A convolution has one kernel per channel, and groups of one channel are slow; a few shifted sums are not.
        blurred = padded.narrow(-1, self.max_reach, length) * weights[:, :, 0]
        for shift in range(1, self.max_reach + 1):
            for first in (self.max_reach - shift, self.max_reach + shift):
                blurred.addcmul_(padded.narrow(-1, first, length), weights[:, :, shift])
        return blurred


class RandomLeadMask(Augmentation):
    """Hide leads: they become 0, and absent in the mask that is returned. At least one lead stays.

    Args:
        lead_probability (`float`): Of each present lead, to be hidden. Where all would be, the one with the largest
            draw stays.
        probability (`float`): Of each record, to be changed.

    Source: random lead masking (Oh et al. 2022), probability 0.5.
    """

    def __init__(self, lead_probability: float = 0.5, probability: float = 1.0):
        super().__init__(probability)
        self.lead_probability = check_range("lead_probability", lead_probability, 0.0, 1.0)

    def draw(self, ecg_values: Tensor, lead_mask: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """`leads` of shape `(batch, num_leads)` and `chosen` of shape `(batch, 1)`, in [0, 1)."""
        leads = uniform(ecg_values.shape[:2], ecg_values, generator)
        return {"leads": leads, "chosen": uniform((len(ecg_values), 1), ecg_values, generator)}

    def transform(self, ecg_values: Tensor, lead_mask: Tensor, **draws: Tensor) -> Tensor:
        """See [`Augmentation`]."""
        return ecg_values.masked_fill(~self.kept_leads(lead_mask, **draws)[..., None], 0)

    def kept_leads(self, lead_mask: Tensor, leads: Tensor, chosen: Tensor) -> Tensor:
        """Which leads stay: `(batch, num_leads)`, a part of the mask."""
        among_present = torch.where(lead_mask, leads, -1.0)
        kept = among_present >= self.lead_probability
        kept = kept.scatter(1, among_present.argmax(dim=1, keepdim=True), True)
        return lead_mask & (kept | (chosen >= self.probability))

    def forward(
        self, ecg_values: Tensor, lead_mask: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Ecg:
        """See [`Augmentation`]; the mask that is returned is `False` for hidden leads too."""
        lead_mask = checked_mask(ecg_values, lead_mask)
        kept = self.kept_leads(lead_mask, **self.draw(ecg_values, lead_mask, generator))
        return ecg_values.masked_fill(~kept[..., None], 0), kept
