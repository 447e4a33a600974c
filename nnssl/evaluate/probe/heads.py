"""The two heads of a voxel probe, and their loss: vox2vec's protocol (Goncharov et al. 2023, arXiv:2307.14725).

Both heads read the vector of a voxel: the values of all levels' cells that hold the voxel, side by side. Neither looks
at a neighbour, so both commute with nearest upsampling, and are applied to the maps as they are. Imports torch only.

Classes are not exclusive: K sigmoids, no background channel, so that overlapping regions can be probed too.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Strides = Sequence[Sequence[int]]


class LinearHead(nn.Module):
    """One linear layer on the voxel vector: a 1^3 convolution a level, upsampled and summed; one bias.

    Example:
        >>> head = LinearHead((16, 32, 64, 128, 256, 512), [(2**level,) * 3 for level in range(6)], classes=13)
        >>> sum(weight.numel() for weight in head.parameters()) == 1008 * 13 + 13
        True
    """

    def __init__(self, channels: Sequence[int], strides: Strides, *, classes: int) -> None:
        """Take the pyramid's channels and cumulative strides, finest first."""
        super().__init__()
        self.strides = strides
        self.levels = nn.ModuleList(
            nn.Conv3d(width, classes, kernel_size=1, bias=level == 0) for level, width in enumerate(channels)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(N, K, D, H, W) logits of the voxels that the maps (N, C_k, d_k, h_k, w_k) cover."""
        total: Tensor = self.levels[-1](maps[-1])
        for level in range(len(maps) - 2, -1, -1):
            total = enlarged(total, self.strides[level + 1], self.strides[level]) + self.levels[level](maps[level])
        return enlarged(total, self.strides[0], (1, 1, 1))


class NonLinearHead(nn.Module):
    """The shape of a feature pyramid's decoder without a single neighbourhood: 1^3 convolutions and residual blocks.

    From the coarsest level on: a residual block; then to the next level's width, upsample, add the level's own map
    through a 1^3 convolution, residual block; at last a 1^3 convolution to the classes.

    Example:
        >>> head = NonLinearHead((16, 32, 64, 128, 256, 512), [(2**level,) * 3 for level in range(6)], classes=13)
        >>> sum(weight.numel() for weight in head.parameters())
        968029
    """

    def __init__(self, channels: Sequence[int], strides: Strides, *, classes: int) -> None:
        """Take the pyramid's channels and cumulative strides, finest first."""
        super().__init__()
        self.strides = strides
        self.narrow = nn.ModuleList(nn.Conv3d(below, own, 1) for own, below in itertools.pairwise(channels))
        self.skips = nn.ModuleList(nn.Conv3d(own, own, 1) for own in channels[:-1])
        self.blocks = nn.ModuleList(_Residual(own) for own in channels)
        self.classify = nn.Conv3d(channels[0], classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(N, K, D, H, W) logits of the voxels that the maps (N, C_k, d_k, h_k, w_k) cover."""
        total: Tensor = self.blocks[-1](maps[-1])
        for level in range(len(maps) - 2, -1, -1):
            narrowed = self.narrow[level](total)
            up = enlarged(narrowed, self.strides[level + 1], self.strides[level])
            total = self.blocks[level](up + self.skips[level](maps[level]))
        return enlarged(self.classify(total), self.strides[0], (1, 1, 1))


class _Residual(nn.Module):
    """x + conv(relu(bn(conv(relu(bn(x)))))) with 1^3 convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.BatchNorm3d(width), nn.BatchNorm3d(width)
        self.inner, self.outer = nn.Conv3d(width, width, 1), nn.Conv3d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, d, h, w) to the same shape."""
        inner = self.inner(F.relu(self.first(x)))
        changed: Tensor = self.outer(F.relu(self.second(inner)))
        return x + changed


def enlarged(values: Tensor, stride: Sequence[int], finer: Sequence[int]) -> Tensor:
    """Nearest upsampling of (N, C, d, h, w) from cells of `stride` voxels to cells of `finer` voxels, axis by axis.

    Cell i covers the cells i*f to i*f + f - 1, f = stride / finer: voxel v reads cell v // stride.
    """
    n, c, *sides = values.shape
    factors = [coarse // fine for coarse, fine in zip(stride, finer, strict=True)]
    if all(factor == 1 for factor in factors):
        return values
    (d, h, w), (x, y, z) = sides, factors
    spread = values[:, :, :, None, :, None, :, None].expand(n, c, d, x, h, y, w, z)
    return spread.reshape(n, c, d * x, h * y, w * z)


def probe_loss(logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """Binary cross-entropy and soft Dice over the known voxels; voxels outside count nowhere.

    mean of BCE over known voxels and classes, plus the mean over classes of 1 - 2 sum(p g) / (sum(p^2 + g^2) + 1), the
    sums over the known voxels of the whole batch.

    Args:
        logits: (N, K, D, H, W).
        targets: (N, K, D, H, W), 0 or 1.
        known: (N, 1, D, H, W), 0 or 1: body voxels whose label is known.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none") * known
    entropy = entropy.sum() / (known.sum() * logits.shape[1]).clamp(min=1)
    p, g = torch.sigmoid(logits) * known, targets * known
    over = (0, 2, 3, 4)
    dice = 1 - 2 * (p * g).sum(over) / ((p * p + g * g).sum(over) + 1)
    return entropy + dice.mean()
