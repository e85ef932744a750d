"""Synthetic 12-lead ECGs with machine-style reports: data to train and test on without any download."""

from hf_ecgtext.data.synthetic.conditions import CONDITIONS, TERRITORIES, Condition
from hf_ecgtext.data.synthetic.generator import EcgParameters, SyntheticEcgGenerator
from hf_ecgtext.data.synthetic.patients import PREVALENCE

__all__ = ["CONDITIONS", "PREVALENCE", "TERRITORIES", "Condition", "EcgParameters", "SyntheticEcgGenerator"]
