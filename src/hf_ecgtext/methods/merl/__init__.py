"""MERL (Liu et al., ICML 2024): config, model, processor, recipes and a converter for the published weights."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor

from hf_ecgtext.methods.merl.configuration_merl import MerlConfig
from hf_ecgtext.methods.merl.modeling_merl import MerlModel
from hf_ecgtext.methods.merl.processing_merl import MerlProcessor
from hf_ecgtext.processing import EcgFeatureExtractor

AutoConfig.register(MerlConfig.model_type, MerlConfig)
AutoModel.register(MerlConfig, MerlModel)
AutoFeatureExtractor.register(MerlConfig, EcgFeatureExtractor)
AutoProcessor.register(MerlConfig, MerlProcessor)

__all__ = ["MerlConfig", "MerlModel", "MerlProcessor"]
