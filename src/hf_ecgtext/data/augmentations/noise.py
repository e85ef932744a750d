"""The noises of an ECG recording: baseline shift and wander, mains hum, muscles.

Every lead has an amplitude of its own, so that noisy limb leads no longer obey Einthoven's and Goldberger's identities.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from hf_ecgtext.data.augmentations.base import (
    AmplitudeUnit,
    Augmentation,
    amplitude_scale,
    check_range,
    check_unit,
    normal,
    place,
    sample_steps,
    uniform,
)
from hf_ecgtext.data.augmentations.temporal import stretch


class AddedNoise(Augmentation):
    """Noise that is added to the signal.

    Args:
        max_amplitude (`float`): Largest amplitude.
        unit (`"input"` or `"record_std"`): Unit of `max_amplitude`.
        probability (`float`): Of each record, to be changed.
    """

    def __init__(self, max_amplitude: float, unit: AmplitudeUnit, probability: float):
        super().__init__(probability)
        self.max_amplitude = check_range("max_amplitude", max_amplitude, 0.0)
        self.unit = check_unit(unit)

    @abstractmethod
    def noise(self, ecg_values: Tensor, **draws: Tensor) -> tuple[Tensor, Tensor]:
        """The noise as a gain `(batch, num_leads, 1)` of at most 1, and a wave that broadcasts to the signals."""

    def transform(self, ecg_values: Tensor, lead_mask: Tensor, **draws: Tensor) -> Tensor:
        """See [`Augmentation`]."""
        scale = self.max_amplitude * amplitude_scale(ecg_values, lead_mask, self.unit)
        gain, wave = self.noise(ecg_values, **draws)
        return torch.addcmul(ecg_values.float(), scale * gain, wave)


class BaselineShift(AddedNoise):
    """Lift or lower one stretch of each record, every lead by a level of its own.

    Args:
        max_amplitude (`float`): The levels are uniform in `[-max_amplitude, max_amplitude)`.
        unit (`"input"` or `"record_std"`): Unit of `max_amplitude`.
        share (`float`): Length of the stretch as a share of the record's.
        probability (`float`): Of each record, to be changed.

    Source: amplitude and share as in fairseq-signals.
    """

    def __init__(
        self, max_amplitude: float = 0.25, unit: AmplitudeUnit = "input", share: float = 0.2, probability: float = 1.0
    ):
        super().__init__(max_amplitude, unit, probability)
        self.share = check_range("share", share, 0.0, 1.0)

    def draw(self, ecg_values: Tensor, lead_mask: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """`level` in [-1, 1) of shape `(batch, num_leads, 1)` and `start` in [0, 1) of shape `(batch, 1)`."""
        level = uniform((*ecg_values.shape[:2], 1), ecg_values, generator, -1.0, 1.0)
        return {"level": level, "start": uniform((len(ecg_values), 1), ecg_values, generator)}

    def noise(self, ecg_values: Tensor, **draws: Tensor) -> tuple[Tensor, Tensor]:
        """See [`AddedNoise`]."""
        share = torch.full_like(draws["start"], self.share)
        return draws["level"], stretch(ecg_values, share, draws["start"])[:, None].float()


class BaselineWander(AddedNoise):
    """Add slow waves, as breathing and moving electrodes do: a sum of sines, larger or smaller in each lead.

    Args:
        sampling_rate_hz (`float`): Of the signals.
        max_amplitude (`float`): Bound of the sum.
        unit (`"input"` or `"record_std"`): Unit of `max_amplitude`.
        min_hz, max_hz (`float`): Frequencies of the sines, uniform.
        num_sines (`int`): How many.
        probability (`float`): Of each record, to be changed.

    Source: number of sines and amplitude as in fairseq-signals, which draws 0.01 to 0.2 Hz.
    """

    def __init__(
        self,
        sampling_rate_hz: float,
        max_amplitude: float = 0.5,
        unit: AmplitudeUnit = "input",
        min_hz: float = 0.05,
        max_hz: float = 0.5,
        num_sines: int = 3,
        probability: float = 1.0,
    ):
        super().__init__(max_amplitude, unit, probability)
        self.sampling_rate_hz = sampling_rate_hz
        self.max_hz = check_range("max_hz", max_hz, 0.0, sampling_rate_hz / 2)
        self.min_hz = check_range("min_hz", min_hz, 0.0, max_hz)
        self.num_sines = int(check_range("num_sines", num_sines, 1))

    def draw(self, ecg_values: Tensor, lead_mask: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """`hz`, `phase` (cycles) and `weight` `(batch, num_sines, 1)`, `gain` in [-1, 1) `(batch, num_leads, 1)`."""
        shape = (len(ecg_values), self.num_sines, 1)
        return {
            "hz": uniform(shape, ecg_values, generator, self.min_hz, self.max_hz),
            "phase": uniform(shape, ecg_values, generator),
            "weight": uniform(shape, ecg_values, generator),
            "gain": uniform((*ecg_values.shape[:2], 1), ecg_values, generator, -1.0, 1.0),
        }

    def noise(self, ecg_values: Tensor, **draws: Tensor) -> tuple[Tensor, Tensor]:
        """See [`AddedNoise`]."""
        weight = draws["weight"] / draws["weight"].sum(dim=1, keepdim=True).clamp(min=1e-6)
        waves = weight * sine(ecg_values, draws["hz"], draws["phase"], self.sampling_rate_hz)
        return draws["gain"], waves.sum(dim=1, keepdim=True)


class PowerlineNoise(AddedNoise):
    """Add mains hum: a sine of 50 or 60 Hz, stronger or weaker in each lead.

    Args:
        sampling_rate_hz (`float`): Of the signals.
        max_amplitude (`float`): The amplitudes are uniform in `[0, max_amplitude)`.
        unit (`"input"` or `"record_std"`): Unit of `max_amplitude`.
        mains_hz (`Sequence[float]`): Each record draws one of these frequencies.
        probability (`float`): Of each record, to be changed.

    Raises:
        ValueError: If the sampling rate cannot hold a frequency.

    Source: frequencies and amplitude as in fairseq-signals.
    """

    def __init__(
        self,
        sampling_rate_hz: float,
        max_amplitude: float = 0.5,
        unit: AmplitudeUnit = "input",
        mains_hz: Sequence[float] = (50.0, 60.0),
        probability: float = 1.0,
    ):
        super().__init__(max_amplitude, unit, probability)
        if not mains_hz or max(mains_hz) >= sampling_rate_hz / 2:
            raise ValueError(
                f"Signals of {sampling_rate_hz:g} Hz hold frequencies below {sampling_rate_hz / 2:g} Hz only; mains_hz "
                f"is {list(mains_hz)}. Leave the augmentation out, or name lower frequencies."
            )
        self.sampling_rate_hz = sampling_rate_hz
        self.mains_hz = tuple(mains_hz)

    def draw(self, ecg_values: Tensor, lead_mask: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """`mains` and `phase` (cycles) `(batch, 1, 1)`, `gain` `(batch, num_leads, 1)`, all in [0, 1)."""
        shape = (len(ecg_values), 1, 1)
        return {
            "mains": uniform(shape, ecg_values, generator),
            "phase": uniform(shape, ecg_values, generator),
            "gain": uniform((*ecg_values.shape[:2], 1), ecg_values, generator),
        }

    def noise(self, ecg_values: Tensor, **draws: Tensor) -> tuple[Tensor, Tensor]:
        """See [`AddedNoise`]."""
        chosen = place(draws["mains"], len(self.mains_hz))
        hz = torch.zeros_like(draws["mains"])
        for number, frequency in enumerate(self.mains_hz):  # a table on the device would be a copy from the host
            hz = torch.where(chosen == number, frequency, hz)
        return draws["gain"], sine(ecg_values, hz, draws["phase"], self.sampling_rate_hz)


class MuscleNoise(AddedNoise):
    """Add white Gaussian noise, as tense muscles do (EMG), stronger or weaker in each lead.

    Args:
        max_amplitude (`float`): The standard deviations are uniform in `[0, max_amplitude)`.
        unit (`"input"` or `"record_std"`): Unit of `max_amplitude`.
        probability (`float`): Of each record, to be changed.

    Source: fairseq-signals, amplitude included.
    """

    def __init__(self, max_amplitude: float = 0.5, unit: AmplitudeUnit = "input", probability: float = 1.0):
        super().__init__(max_amplitude, unit, probability)

    def draw(self, ecg_values: Tensor, lead_mask: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """`white`, standard normal, of the shape of the signals, and `gain` `(batch, num_leads, 1)` in [0, 1)."""
        return {
            "white": normal(ecg_values.shape, ecg_values, generator),
            "gain": uniform((*ecg_values.shape[:2], 1), ecg_values, generator),
        }

    def noise(self, ecg_values: Tensor, **draws: Tensor) -> tuple[Tensor, Tensor]:
        """See [`AddedNoise`]."""
        return draws["gain"], draws["white"]


def sine(ecg_values: Tensor, hz: Tensor, phase: Tensor, sampling_rate_hz: float) -> Tensor:
    """`sin(2 pi (hz t + phase))` at the moments of the signals' samples.

    Args:
        hz, phase (`torch.Tensor` of shape `(..., 1)`): Frequency, and phase in cycles.
    """
    cycles = hz * (sample_steps(ecg_values) / sampling_rate_hz) + phase
    return torch.sin(cycles.frac() * (2 * math.pi))  # fractions first: float32 holds few digits of a large angle
