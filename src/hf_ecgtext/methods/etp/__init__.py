"""ETP (Liu et al., ICASSP 2024): config, model, processor and recipes."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor

from hf_ecgtext.methods.etp.configuration_etp import EtpConfig
from hf_ecgtext.methods.etp.modeling_etp import EtpModel
from hf_ecgtext.methods.etp.processing_etp import EtpProcessor
from hf_ecgtext.processing import EcgFeatureExtractor

AutoConfig.register(EtpConfig.model_type, EtpConfig)
AutoModel.register(EtpConfig, EtpModel)
AutoFeatureExtractor.register(EtpConfig, EcgFeatureExtractor)
AutoProcessor.register(EtpConfig, EtpProcessor)

__all__ = ["EtpConfig", "EtpModel", "EtpProcessor"]
