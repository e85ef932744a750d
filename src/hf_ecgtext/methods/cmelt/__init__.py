"""C-MELT (arXiv 2410.02131; D-BETA): config, model, processor, recipes and a converter for the published weights."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor

from hf_ecgtext.methods.cmelt.configuration_cmelt import CmeltConfig
from hf_ecgtext.methods.cmelt.modeling_cmelt import CmeltModel
from hf_ecgtext.methods.cmelt.processing_cmelt import CmeltProcessor
from hf_ecgtext.processing import EcgFeatureExtractor

AutoConfig.register(CmeltConfig.model_type, CmeltConfig)
AutoModel.register(CmeltConfig, CmeltModel)
AutoFeatureExtractor.register(CmeltConfig, EcgFeatureExtractor)
AutoProcessor.register(CmeltConfig, CmeltProcessor)

__all__ = ["CmeltConfig", "CmeltModel", "CmeltProcessor"]
