"""What every augmentation shares: random numbers drawn first, then a transformation that is a function of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

AmplitudeUnit = Literal["input", "record_std"]
Ecg = tuple[Tensor, Tensor]
"""`ecg_values` of shape `(batch, num_leads, num_samples)` and `lead_mask` of shape `(batch, num_leads)`."""


class Augmentation(nn.Module):
    """A random change of a batch of ECGs.

    `draw` draws what is random, one set per record; `transform` is a deterministic function of it with shapes that
    depend on no value, so that nothing waits for the device and `torch.compile` sees one graph. Draws and phases are
    float32 whatever the type of the signal; the result has the type of the signal.

    Args:
        probability (`float`): Of each record, to be changed at all.
    """

    def __init__(self, probability: float = 1.0):
        super().__init__()
        self.probability = check_range("probability", probability, 0.0, 1.0)

    @abstractmethod
    def draw(self, ecg_values: Tensor, lead_mask: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Random numbers for `transform`, each of shape `(batch, ...)`."""

    @abstractmethod
    def transform(self, ecg_values: Tensor, lead_mask: Tensor, **draws: Tensor) -> Tensor:
        """The changed signals in a tensor of their own, with whatever in the places of absent leads."""

    def forward(
        self, ecg_values: Tensor, lead_mask: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Ecg:
        """Change a batch.

        Args:
            ecg_values (`torch.Tensor` of shape `(batch, num_leads, num_samples)`): Signals; float32 or bfloat16.
            lead_mask (`torch.Tensor` of shape `(batch, num_leads)`, *optional*): bool, `False` where a lead is absent.
            generator (`torch.Generator`, *optional*): Of the signals' device; torch's global one by default.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: Changed signals, absent leads 0, and which leads are present.

        Raises:
            ValueError: If the shapes do not fit.
        """
        lead_mask = checked_mask(ecg_values, lead_mask)
        changed = self.transform(ecg_values, lead_mask, **self.draw(ecg_values, lead_mask, generator))
        if self.probability < 1.0:
            chosen = uniform((len(ecg_values), 1, 1), ecg_values, generator) < self.probability
            changed = torch.where(chosen, changed, ecg_values)
        return changed.masked_fill_(~lead_mask[..., None], 0).to(ecg_values.dtype), lead_mask


class Compose(nn.Module):
    """Several augmentations, one after the other.

    Args:
        augmentations (`nn.Module`): Called like [`Augmentation`], in order.
    """

    def __init__(self, *augmentations: nn.Module):
        super().__init__()
        self.augmentations = nn.ModuleList(augmentations)

    def forward(
        self, ecg_values: Tensor, lead_mask: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Ecg:
        """See [`Augmentation`]."""
        lead_mask = checked_mask(ecg_values, lead_mask)
        for augmentation in self.augmentations:
            ecg_values, lead_mask = augmentation(ecg_values, lead_mask, generator)
        return ecg_values, lead_mask


class TwoViews(nn.Module):
    """Two independently augmented views of every record.

    Args:
        first (`nn.Module`): Makes the first view.
        second (`nn.Module`, *optional*): Makes the second; `first` by default, with new draws.
    """

    def __init__(self, first: nn.Module, second: nn.Module | None = None):
        super().__init__()
        self.first = first
        self.second = first if second is None else second

    def forward(
        self, ecg_values: Tensor, lead_mask: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Ecg, Ecg]:
        """Both views; arguments as in [`Augmentation`]."""
        return self.first(ecg_values, lead_mask, generator), self.second(ecg_values, lead_mask, generator)


def checked_mask(ecg_values: Tensor, lead_mask: Tensor | None) -> Tensor:
    """The mask of present leads, all of them by default.

    Raises:
        ValueError: If the shapes do not fit.
    """
    if ecg_values.ndim != 3 or not ecg_values.is_floating_point():
        raise ValueError(
            f"ecg_values has shape {tuple(ecg_values.shape)} and type {ecg_values.dtype}; expected floating-point "
            "numbers of shape (batch, num_leads, num_samples)."
        )
    if lead_mask is None:
        return torch.ones(ecg_values.shape[:2], dtype=torch.bool, device=ecg_values.device)
    if lead_mask.shape != ecg_values.shape[:2]:
        raise ValueError(
            f"lead_mask has shape {tuple(lead_mask.shape)}; expected {tuple(ecg_values.shape[:2])}, one per lead."
        )
    return lead_mask.bool()


def check_range(name: str, value: float, low: float, high: float = float("inf")) -> float:
    """The value, if it lies in `[low, high]`.

    Raises:
        ValueError: Otherwise.
    """
    if not low <= value <= high:
        raise ValueError(f"{name} must lie between {low:g} and {high:g}, not be {value}.")
    return value


def check_unit(unit: AmplitudeUnit) -> AmplitudeUnit:
    """The unit, if there is such a one.

    Raises:
        ValueError: Otherwise.
    """
    if unit not in get_args(AmplitudeUnit):
        raise ValueError(f"There is no unit '{unit}'; choose one of {list(get_args(AmplitudeUnit))}.")
    return unit


def uniform(
    shape: Sequence[int], like: Tensor, generator: torch.Generator | None, low: float = 0.0, high: float = 1.0
) -> Tensor:
    """float32 uniform in `[low, high)` on the device of `like`."""
    return torch.rand(*shape, device=like.device, generator=generator).mul_(high - low).add_(low)


def normal(shape: Sequence[int], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """float32 standard normal on the device of `like`."""
    return torch.randn(*shape, device=like.device, generator=generator)


def place(fraction: Tensor, num_places: Tensor | int) -> Tensor:
    """An integer in `[0, num_places)` from a fraction in `[0, 1)`, int64."""
    index = (fraction * num_places).floor().long()
    # Rounding to float32 can lift the product to num_places itself.
    if isinstance(num_places, int):
        return index.clamp(max=num_places - 1)
    return torch.minimum(index, num_places - 1)


def sample_steps(ecg_values: Tensor) -> Tensor:
    """0, 1, ..., num_samples - 1 on the device of the signals, int64."""
    return torch.arange(ecg_values.shape[-1], device=ecg_values.device)


def take_samples(ecg_values: Tensor, steps: Tensor) -> Tensor:
    """The samples at `steps` `(batch, n)`, the same in all leads: `(batch, num_leads, n)`."""
    return ecg_values.gather(-1, steps[:, None].expand(-1, ecg_values.shape[1], -1))


def amplitude_scale(ecg_values: Tensor, lead_mask: Tensor, unit: AmplitudeUnit) -> Tensor:
    """What one unit of amplitude is: 1, or the standard deviation of each record over its present leads.

    Returns:
        `torch.Tensor` of shape `(batch, 1, 1)`: float32.
    """
    if unit == "input":
        return torch.ones(len(ecg_values), 1, 1, device=ecg_values.device)
    # Lead by lead first: one pass over the samples, and nothing is lost to large offsets.
    variances, means = torch.var_mean(ecg_values.float(), dim=-1, correction=0)  # (batch, num_leads)
    share = lead_mask / lead_mask.sum(dim=1, keepdim=True).clamp(min=1)
    mean = (share * means).sum(dim=1, keepdim=True)
    variance = (share * (variances + (means - mean).square())).sum(dim=1, keepdim=True)
    return variance.sqrt()[..., None]
