"""Random changes of ECGs for contrastive learning: batched, on the device, every record with draws of its own.

An augmentation is called with `(ecg_values, lead_mask, generator)` and returns `(ecg_values, lead_mask)`:

    augment = Compose(RandomResizedCrop(), BaselineWander(500.0, probability=0.5), RandomLeadMask())
    generator = torch.Generator(ecg_values.device).manual_seed(0)
    ecg_values, lead_mask = augment(ecg_values, lead_mask, generator)

Amplitudes are in the unit that the parameter `unit` names: `"input"`, the unit of the values (mV unless the processor
scaled them), or `"record_std"`, the standard deviation of each record. The library's choices are in
docs/data/augmentations.md.
"""

from hf_ecgtext.data.augmentations.amplitude import GaussianBlur, Jitter, RandomLeadMask, RandomScaling
from hf_ecgtext.data.augmentations.base import Augmentation, Compose, TwoViews
from hf_ecgtext.data.augmentations.noise import BaselineShift, BaselineWander, MuscleNoise, PowerlineNoise
from hf_ecgtext.data.augmentations.presets import astcl_noise, three_kg, tstcc_strong, tstcc_weak
from hf_ecgtext.data.augmentations.temporal import (
    LeadTimeMask,
    RandomCrop,
    RandomResizedCrop,
    SegmentPermutation,
    TimeOut,
    split_halves,
)
from hf_ecgtext.data.augmentations.vectorcardiogram import VectorcardiogramPerturbation

__all__ = [
    "Augmentation",
    "BaselineShift",
    "BaselineWander",
    "Compose",
    "GaussianBlur",
    "Jitter",
    "LeadTimeMask",
    "MuscleNoise",
    "PowerlineNoise",
    "RandomCrop",
    "RandomLeadMask",
    "RandomResizedCrop",
    "RandomScaling",
    "SegmentPermutation",
    "TimeOut",
    "TwoViews",
    "VectorcardiogramPerturbation",
    "astcl_noise",
    "split_halves",
    "three_kg",
    "tstcc_strong",
    "tstcc_weak",
]
