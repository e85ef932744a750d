"""Atomic loss terms: pure functions without state, configuration or knowledge of processes."""

from hf_ecgtext.objectives.classification import matching_loss
from hf_ecgtext.objectives.contrastive import (
    info_nce,
    nt_xent,
    report_pairs,
    sigmoid_pair_loss,
    symmetric_cross_entropy,
    symmetric_info_nce,
)
from hf_ecgtext.objectives.disentanglement import orthogonality
from hf_ecgtext.objectives.learned_scale import bounded_scale
from hf_ecgtext.objectives.reconstruction import (
    masked_patch_error,
    mean_of_counted,
    normalise_patches,
    patch_error_sum,
    token_cross_entropy,
)

__all__ = [
    "bounded_scale",
    "info_nce",
    "masked_patch_error",
    "matching_loss",
    "mean_of_counted",
    "normalise_patches",
    "nt_xent",
    "orthogonality",
    "patch_error_sum",
    "report_pairs",
    "sigmoid_pair_loss",
    "symmetric_cross_entropy",
    "symmetric_info_nce",
    "token_cross_entropy",
]
