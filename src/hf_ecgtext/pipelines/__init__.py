"""Pipelines, registered with transformers when this package is imported."""

from transformers import AutoModel
from transformers.pipelines import PIPELINE_REGISTRY

from hf_ecgtext.pipelines.ecg_feature_extraction import EcgFeatureExtractionPipeline
from hf_ecgtext.pipelines.zero_shot_ecg_classification import ZeroShotEcgClassificationPipeline

PIPELINE_REGISTRY.register_pipeline(
    "zero-shot-ecg-classification", pipeline_class=ZeroShotEcgClassificationPipeline, pt_model=AutoModel
)
PIPELINE_REGISTRY.register_pipeline(
    "ecg-feature-extraction", pipeline_class=EcgFeatureExtractionPipeline, pt_model=AutoModel
)

__all__ = ["EcgFeatureExtractionPipeline", "ZeroShotEcgClassificationPipeline"]
