"""DERI (Chen et al., IJCAI 2025): config, model, processor, recipes and a converter for the released layout."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor

from hf_ecgtext.methods.deri.configuration_deri import DeriConfig
from hf_ecgtext.methods.deri.modeling_deri import DeriModel
from hf_ecgtext.methods.deri.processing_deri import DeriProcessor
from hf_ecgtext.processing import EcgFeatureExtractor

AutoConfig.register(DeriConfig.model_type, DeriConfig)
AutoModel.register(DeriConfig, DeriModel)
AutoFeatureExtractor.register(DeriConfig, EcgFeatureExtractor)
AutoProcessor.register(DeriConfig, DeriProcessor)

__all__ = ["DeriConfig", "DeriModel", "DeriProcessor"]
