"""From a feature map to one vector."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nnssl.blocks.losses import wide

Pooling = Literal["mean", "mean_std", "mean_max"]


def pool(feature_map: Tensor, kind: Pooling = "mean", *, valid: Tensor | None = None) -> Tensor:
    """One vector a map: (N, C, *spatial) to (N, C) or (N, 2C).

    Behind an instance norm the spatial mean of a channel is nearly the same for every input (only its skew survives
    the non-linearity), so `mean` alone carries little at the start; `mean_std` and `mean_max` add what does differ.

    Args:
        feature_map: after the non-linearity, never right after the norm, where the mean is a constant.
        kind: `mean` global average; `mean_std` and `mean_max` with the standard deviation or the maximum beside it.
        valid: (N, 1, *image) bool of the image the map was made of; a cell counts with its valid share. None: all.
    """
    flat = wide(feature_map).flatten(2)
    if valid is None:
        weight = flat.new_ones(len(flat), 1, flat.shape[-1])
    else:
        depth, height, width = feature_map.shape[2:]
        weight = F.adaptive_avg_pool3d(valid.to(flat.dtype), (depth, height, width)).flatten(2)
    share = weight / weight.sum(-1, keepdim=True).clamp(min=1e-6)
    mean = (flat * share).sum(-1)
    if kind == "mean":
        return mean
    if kind == "mean_max":
        hidden = torch.finfo(flat.dtype).min
        most = torch.where(weight > 0, flat, hidden).amax(-1)
        return torch.cat([mean, torch.where(most > hidden, most, 0.0)], dim=1)
    # the epsilon keeps the gradient of the root finite where a channel is constant
    deviation = (((flat - mean[..., None]).square() * share).sum(-1) + 1e-6).sqrt()
    return torch.cat([mean, deviation], dim=1)


def pooled_width(channels: int, kind: Pooling) -> int:
    """Length of `pool`'s vectors."""
    return channels if kind == "mean" else 2 * channels
