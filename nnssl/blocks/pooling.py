"""From a feature map to one vector."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nnssl.blocks.losses import wide

Pooling = Literal["mean", "mean_std", "mean_max"]


def pool(feature_map: Tensor, kind: Pooling = "mean") -> Tensor:
    """One vector a map: (N, C, *spatial) to (N, C) or (N, 2C).

    Behind an instance norm the spatial mean of a channel is nearly the same for every input (only its skew survives
    the non-linearity), so `mean` alone carries little at the start; `mean_std` and `mean_max` add what does differ.

    Args:
        feature_map: after the non-linearity, never right after the norm, where the mean is a constant.
        kind: `mean` global average; `mean_std` and `mean_max` with the standard deviation or the maximum beside it.
    """
    flat = wide(feature_map).flatten(2)
    mean = flat.mean(-1)
    if kind == "mean":
        return mean
    if kind == "mean_max":
        return torch.cat([mean, flat.amax(-1)], dim=1)
    # the epsilon keeps the gradient of the root finite where a channel is constant
    deviation = ((flat - mean[..., None]).square().mean(-1) + 1e-6).sqrt()
    return torch.cat([mean, deviation], dim=1)


def pooled_width(channels: int, kind: Pooling) -> int:
    """Length of `pool`'s vectors."""
    return channels if kind == "mean" else 2 * channels
