"""Training the whole encoder on labels. Importing this package registers its model with the Auto classes."""

from hf_ecgtext.finetuning.classifier import EcgClassifierConfig, EcgForClassification

__all__ = ["EcgClassifierConfig", "EcgForClassification"]
