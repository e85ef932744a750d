"""Atomic loss terms: pure functions without state, configuration or knowledge of processes."""

from hf_ecgtext.objectives.contrastive import info_nce, nt_xent, sigmoid_pair_loss, symmetric_info_nce

__all__ = ["info_nce", "nt_xent", "sigmoid_pair_loss", "symmetric_info_nce"]
