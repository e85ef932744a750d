"""One-dimensional ResNets for ECGs, in the form that MERL published and ETP, DERI and others share."""

from __future__ import annotations

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hf_ecgtext.encoders.base import EcgConfig, EcgEncoder, check_ecg_shape, mask_missing_leads

_DEPTHS: dict[int, tuple[Literal["basic", "bottleneck"], list[int]]] = {
    18: ("basic", [2, 2, 2, 2]),
    34: ("basic", [3, 4, 6, 3]),
    50: ("bottleneck", [3, 4, 6, 3]),
    101: ("bottleneck", [3, 4, 23, 3]),
}


@strict
class ResNet1dConfig(EcgConfig):
    """Settings of [`ResNet1dModel`]; the defaults are MERL's ResNet18.

    Args:
        num_leads (`int`): Input channels.
        num_samples (`int`): Input length; 5000 is 10 s at 500 Hz.
        block (`"basic"` or `"bottleneck"`): ResNet18/34 use basic blocks, 50/101 bottlenecks.
        depths (`list[int]`): Blocks per stage.
        widths (`list[int]`): Channels per stage; a bottleneck ends with four times as many.
        stem_pool (`bool`): Put torchvision's 3/2 max-pooling behind the first convolution. MERL has none.
    """

    model_type = "ecg_resnet1d"

    num_leads: int = 12
    num_samples: int = 5000
    block: Literal["basic", "bottleneck"] = "basic"
    depths: list[int] | tuple[int, ...] = (2, 2, 2, 2)
    widths: list[int] | tuple[int, ...] = (64, 128, 256, 512)
    stem_pool: bool = False

    @classmethod
    def from_depth(cls, depth: int, **kwargs: Any) -> ResNet1dConfig:
        """The standard network of 18, 34, 50 or 101 layers.

        Raises:
            ValueError: If there is no such standard depth.
        """
        if depth not in _DEPTHS:
            raise ValueError(f"There is no standard ResNet of depth {depth}; choose from {sorted(_DEPTHS)}.")
        block, depths = _DEPTHS[depth]
        return cls(block=block, depths=depths, **kwargs)

    def validate_architecture(self) -> None:
        """Called by `@strict`."""
        if self.num_leads < 1:
            raise ValueError(f"num_leads must be positive, not {self.num_leads}.")
        if len(self.depths) != len(self.widths) or min((*self.depths, *self.widths), default=0) < 1:
            raise ValueError(f"depths {self.depths} and widths {self.widths} must have one positive entry per stage.")
        if self.num_samples < 2 ** (len(self.depths) + self.stem_pool):
            raise ValueError(f"num_samples {self.num_samples} is too short for {len(self.depths)} stages.")

    @property
    def hidden_size(self) -> int:
        """Channels of the last stage."""
        return self.widths[-1] * (4 if self.block == "bottleneck" else 1)

    @property
    def num_tokens(self) -> int:
        """Length of the last stage; 313 for 5000 samples."""
        num_halvings = len(self.depths) + int(self.stem_pool)  # the stem, optional pooling, all stages but the first
        length = self.num_samples
        for _ in range(num_halvings):
            length = (length + 1) // 2
        return length


class BasicBlock1d(nn.Module):
    """Two convolutions of width 3 and a shortcut, which is a convolution only where the shape changes."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv1d(in_channels, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm1d(width)
        self.conv2 = nn.Conv1d(width, width, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm1d(width)
        self.shortcut = _shortcut(in_channels, width, stride)

    def forward(self, hidden: Tensor) -> Tensor:
        """`(batch, in_channels, length)` to `(batch, width, length / stride)`."""
        residual = self.shortcut(hidden)
        hidden = F.relu(self.bn1(self.conv1(hidden)), inplace=True)
        return F.relu(self.bn2(self.conv2(hidden)) + residual, inplace=True)


class Bottleneck1d(nn.Module):
    """Convolutions of width 1, 3 and 1 and a shortcut; ends with four times `width` channels."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int):
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = nn.Conv1d(in_channels, width, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm1d(width)
        self.conv2 = nn.Conv1d(width, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm1d(width)
        self.conv3 = nn.Conv1d(width, out_channels, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm1d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride)

    def forward(self, hidden: Tensor) -> Tensor:
        """`(batch, in_channels, length)` to `(batch, 4 * width, length / stride)`."""
        residual = self.shortcut(hidden)
        hidden = F.relu(self.bn1(self.conv1(hidden)), inplace=True)
        hidden = F.relu(self.bn2(self.conv2(hidden)), inplace=True)
        return F.relu(self.bn3(self.conv3(hidden)) + residual, inplace=True)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv1d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False), nn.BatchNorm1d(out_channels)
    )


class ResNet1dModel(EcgEncoder):
    """ResNet over time; all leads enter the first convolution together.

    Source: MERL's published architecture (docs/methods/merl.md); `tests/methods/merl` proves parity.
    """

    config_class = ResNet1dConfig
    supports_gradient_checkpointing = False  # computing a block twice would update its BatchNorm statistics twice

    def __init__(self, config: ResNet1dConfig):
        super().__init__(config)
        block = BasicBlock1d if config.block == "basic" else Bottleneck1d
        channels = config.widths[0]
        self.conv1 = nn.Conv1d(config.num_leads, channels, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm1d(channels)
        self.pool = nn.MaxPool1d(kernel_size=3, stride=2, padding=1) if config.stem_pool else nn.Identity()
        self.stages = nn.ModuleList()
        for index, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True)):
            blocks = []
            for position in range(depth):
                stride = 2 if index > 0 and position == 0 else 1
                blocks.append(block(channels, width, stride))
                channels = width * block.expansion
            self.stages.append(nn.Sequential(*blocks))
        self.post_init()

    def forward(self, ecg_values: Tensor, lead_mask: Tensor | None = None, **_: Any) -> BaseModelOutputWithPooling:
        """Encode a batch.

        Args:
            ecg_values (`torch.Tensor` of shape `(batch, num_leads, num_samples)`): Scaled by the processor.
            lead_mask (`torch.Tensor` of shape `(batch, num_leads)`, *optional*): `False` where a lead is missing.

        Returns:
            `last_hidden_state` `(batch, num_tokens, hidden_size)`; `pooler_output` is its mean over tokens.
        """
        check_ecg_shape(ecg_values, self.config.num_leads, self.config.num_samples)
        # The processor's float32 becomes the weights' type; under autocast the weights are float32 themselves.
        hidden = mask_missing_leads(ecg_values.to(self.conv1.weight.dtype), lead_mask)
        hidden = self.pool(F.relu(self.bn1(self.conv1(hidden)), inplace=True))
        for stage in self.stages:
            hidden = stage(hidden)
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden.transpose(1, 2),
            pooler_output=hidden.mean(dim=-1),  # (batch, channels, tokens)
        )


AutoConfig.register(ResNet1dConfig.model_type, ResNet1dConfig)
AutoModel.register(ResNet1dConfig, ResNet1dModel)
