"""Convolutional encoders that see visible cells only (SparK: Tian et al. 2023, section 3, arXiv:2301.03580)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnssl.blocks.losses import wide


def visible_at(visible: Tensor, shape: torch.Size) -> Tensor:
    """(N, 1, D, H, W) bool at the resolution `shape`; hidden blocks must cover whole cells of it."""
    return F.interpolate(visible.float(), size=tuple(shape), mode="nearest") > 0.5


def visible_instance_norm(x: Tensor, visible: Tensor, norm: nn.InstanceNorm3d) -> Tensor:
    """Instance norm with the statistics of visible cells alone; hidden cells become 0.

    Args:
        x: (N, C, D, H, W).
        visible: (N, 1, D, H, W) bool of the same resolution.
        norm: gives epsilon, gain and shift.
    """
    seen = wide(x)
    weight = visible.to(seen.dtype)
    count = weight.sum((2, 3, 4), keepdim=True).clamp(min=1)
    mean = (seen * weight).sum((2, 3, 4), keepdim=True) / count
    centred = (seen - mean) * weight
    variance = centred.square().sum((2, 3, 4), keepdim=True) / count
    out = centred * (variance + norm.eps).rsqrt()
    if norm.affine:
        out = out * norm.weight.view(1, -1, 1, 1, 1) + norm.bias.view(1, -1, 1, 1, 1) * weight
    return out.to(x.dtype)


@contextmanager
def visible_only(encoder: nn.Module, visible: Tensor) -> Iterator[None]:
    """Within it, `encoder` computes as a sparse network would: hidden cells are 0 behind every norm.

    Behind a norm come at most a non-linearity that keeps 0, sums of such maps, or the next convolution; so every
    convolution reads zeros where a sparse one would read nothing, and writes there nothing that is read.

    Args:
        encoder: an encoder whose every convolution is followed by an instance norm, as nnU-Net's.
        visible: (N, 1, D, H, W) bool at the resolution of the image; blocks cover whole cells of the deepest stage.
    """

    def masked(norm: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """The hook: what the norm would have said of visible cells alone."""
        if not isinstance(norm, nn.InstanceNorm3d):
            return output
        return visible_instance_norm(inputs[0], visible_at(visible, inputs[0].shape[2:]), norm)

    norms = [module for module in encoder.modules() if isinstance(module, nn.InstanceNorm3d)]
    hooks = [norm.register_forward_hook(masked) for norm in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
