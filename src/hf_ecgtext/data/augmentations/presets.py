"""The augmentations of published methods, with their published numbers."""

from __future__ import annotations

from collections.abc import Sequence

from hf_ecgtext.data.augmentations.amplitude import Jitter, RandomScaling
from hf_ecgtext.data.augmentations.base import Compose
from hf_ecgtext.data.augmentations.noise import BaselineWander, MuscleNoise, PowerlineNoise
from hf_ecgtext.data.augmentations.temporal import LeadTimeMask, SegmentPermutation
from hf_ecgtext.data.augmentations.vectorcardiogram import VectorcardiogramPerturbation
from hf_ecgtext.leads import STANDARD_LEADS


def tstcc_weak(mean: float = 2.0, std: float = 1.1) -> Compose:
    """TS-TCC's weak view: a random factor for each moment, the same in all leads.

    Source: Eldele et al. 2021, released code, settings of the HAR data.
    """
    return Compose(RandomScaling(mean, std, per="sample"))


def tstcc_strong(max_segments: int = 7, jitter_std: float = 0.8) -> Compose:
    """TS-TCC's strong view: segments in another order, and jitter in the unit of the input.

    Source: Eldele et al. 2021, released code, settings of the HAR data: `max_seg` 8, which means at most 7 segments.
    """
    return Compose(SegmentPermutation(max_segments), Jitter(jitter_std, unit="input"))


def three_kg(lead_names: Sequence[str] = STANDARD_LEADS) -> Compose:
    """3KG's view: the vectorcardiogram turned by up to 45 degrees and scaled by up to 1.5, half of each lead hidden.

    Source: Gopal et al. 2021; fairseq-signals.
    """
    return Compose(VectorcardiogramPerturbation(lead_names), LeadTimeMask())


def astcl_noise(sampling_rate_hz: float, probability: float = 0.5) -> Compose:
    """The three noises that ASTCL's abstract names, each added with some probability; the numbers are ours.

    Source: ASTCL (IEEE TNNLS 35(10), 2024), abstract. Deviation: noise is added and never removed; how to is not
    published.
    """
    return Compose(
        MuscleNoise(probability=probability),
        BaselineWander(sampling_rate_hz, probability=probability),
        PowerlineNoise(sampling_rate_hz, probability=probability),
    )
