"""CG-DMER (Niu et al., ICASSP 2026): config, model, processor and recipes."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor

from hf_ecgtext.methods.cgdmer.configuration_cgdmer import CgdmerConfig
from hf_ecgtext.methods.cgdmer.modeling_cgdmer import CgdmerModel
from hf_ecgtext.methods.cgdmer.processing_cgdmer import CgdmerProcessor
from hf_ecgtext.processing import EcgFeatureExtractor

AutoConfig.register(CgdmerConfig.model_type, CgdmerConfig)
AutoModel.register(CgdmerConfig, CgdmerModel)
AutoFeatureExtractor.register(CgdmerConfig, EcgFeatureExtractor)
AutoProcessor.register(CgdmerConfig, CgdmerProcessor)

__all__ = ["CgdmerConfig", "CgdmerModel", "CgdmerProcessor"]
