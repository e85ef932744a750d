"""The additive angular margin loss: everybody's recordings in one direction, with room between people."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_LARGEST_COSINE = 1 - 1e-7  # the sine has no finite slope at 1


def arc_face(cosines: Tensor, labels: Tensor, scale: float, margin: float) -> Tensor:
    """Cross-entropy of picking the own class, after its angle is made larger by a margin; mean over the batch.

    The logit of the own class is `scale * cos(angle + margin)`. Where that angle would pass 180 degrees, beyond which
    the cosine rises again, it is `scale * (cos(angle) - margin * sin(margin))`, so that more similar is always better.

    Args:
        cosines (`torch.Tensor` of shape `(batch, num_classes)`): Between L2-normalised features and class directions.
        labels (`torch.Tensor` of shape `(batch,)`): Indices of the own classes.
        scale (`float`): Multiplies the cosines; positive.
        margin (`float`): Radians, from 0 to below pi.

    Returns:
        `torch.Tensor` of shape `()`: Loss in nats.

    Raises:
        ValueError: If scale or margin is out of range.

    Source: Deng et al. 2019, eq. 3; the continuation is that of the authors' code, and of fairseq-signals.
    """
    if scale <= 0 or not 0 <= margin < math.pi:
        raise ValueError(f"scale {scale} must be positive, and margin {margin} from 0 to below pi.")
    own = cosines.gather(1, labels.unsqueeze(1))
    bounded = own.clamp(-_LARGEST_COSINE, _LARGEST_COSINE)
    with_margin = bounded * math.cos(margin) - (1 - bounded.square()).sqrt() * math.sin(margin)
    passes_half_turn = own < math.cos(math.pi - margin)
    own_logits = torch.where(passes_half_turn, own - margin * math.sin(margin), with_margin)
    return F.cross_entropy(scale * cosines.scatter(1, labels.unsqueeze(1), own_logits), labels)
