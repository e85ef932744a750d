"""One trainer for every method."""

from hf_ecgtext.training.arguments import EcgTextTrainingArguments
from hf_ecgtext.training.text_cache import TextCache
from hf_ecgtext.training.trainer import EcgTextTrainer

__all__ = ["EcgTextTrainer", "EcgTextTrainingArguments", "TextCache"]
