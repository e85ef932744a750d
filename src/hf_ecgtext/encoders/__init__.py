"""What turns a signal or a report into vectors."""

from hf_ecgtext.encoders.conv_transformer import ConvTransformerConfig, ConvTransformerModel
from hf_ecgtext.encoders.lead_time_transformer import LeadTimeTransformerConfig, LeadTimeTransformerModel
from hf_ecgtext.encoders.resnet1d import ResNet1dConfig, ResNet1dModel
from hf_ecgtext.encoders.text import TextTower, load_text_model
from hf_ecgtext.encoders.vit1d import Vit1dConfig, Vit1dModel

__all__ = [
    "ConvTransformerConfig",
    "ConvTransformerModel",
    "LeadTimeTransformerConfig",
    "LeadTimeTransformerModel",
    "ResNet1dConfig",
    "ResNet1dModel",
    "TextTower",
    "Vit1dConfig",
    "Vit1dModel",
    "load_text_model",
]
