"""ECG-text representation learning, native to the Hugging Face ecosystem.

Importing this package registers its models, processors and pipelines with transformers, and does nothing else.
"""

from importlib.metadata import version

from hf_ecgtext import encoders, finetuning, methods, pipelines
from hf_ecgtext.data.records import EcgRecord
from hf_ecgtext.errors import CheckpointError, EcgTextError, RecordError
from hf_ecgtext.processing import EcgFeatureExtractor, EcgTextProcessor

__version__ = version("hf-ecgtext")

__all__ = [
    "CheckpointError",
    "EcgFeatureExtractor",
    "EcgRecord",
    "EcgTextError",
    "EcgTextProcessor",
    "RecordError",
    "encoders",
    "finetuning",
    "methods",
    "pipelines",
]
