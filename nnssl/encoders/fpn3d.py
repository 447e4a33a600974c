"""FPN3d: the feature pyramid network of vox2vec (Goncharov et al., MICCAI 2023), published as "FPN3d-16x6".

Pre-activation residual blocks, max pooling on the way down, nearest neighbours on the way up, skips that are added
and not concatenated, batch norm throughout. The maps are raw sums, without norm or activation behind the last block.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from nnssl.blocks.norms import RunningBatchNorm
from nnssl.encoders.other import OtherNetwork
from nnssl.errors import PluginError
from nnssl.views.spec import Size

BLOCKS = 2  # residual blocks a level


class ResidualBlock(nn.Module):
    """x + conv(relu(norm(conv(relu(norm(x)))))), both convolutions of 3 x 3 x 3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = RunningBatchNorm(width), nn.Conv3d(width, width, 3, padding=1)
        self.norm2, self.conv2 = RunningBatchNorm(width), nn.Conv3d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """A map of the same shape."""
        y = self.conv1(F.relu(self.norm1(x)))
        out: Tensor = x + self.conv2(F.relu(self.norm2(y)))
        return out


def _level(width: int) -> nn.Sequential:
    return nn.Sequential(*[ResidualBlock(width) for _ in range(BLOCKS)])


class FPN3d(OtherNetwork):
    """A pyramid of `levels` maps: the decoder's, finest first, then the bottom; strides 1, 2, 4, ... on every axis.

    Sides need not be multiples of a stride: pooling rounds up, and what was doubled is cut to the skip's size, so that
    cell i of level k always holds voxels 2^k i and following.

    Attributes:
        stem: 3 x 3 x 3 convolution to `width` channels.
        down_levels, downs: levels of the encoder above the bottom, and the widening behind each pooling.
        bottom: the deepest level.
        ups, skips, up_levels: narrowing, 1 x 1 x 1 convolution of the skip and level of the decoder, finest first.
    """

    name = "fpn3d"

    def __init__(self, channels: int, *, width: int = 16, levels: int = 6) -> None:
        """A network of random weights.

        Args:
            channels: of the image.
            width: of the finest level, doubled at each coarser one; published 16.
            levels: published 6.

        Raises:
            PluginError: fewer than two levels, or no width.
        """
        super().__init__()
        if levels < 2 or width < 1:
            raise PluginError(f"FPN3d needs at least 2 levels and a width of 1; found {levels} and {width}.")
        widths = [width * 2**level for level in range(levels)]
        self.options: Mapping[str, Any] = {"width": width, "levels": levels}
        self.channels: tuple[int, ...] = tuple(widths)
        self.strides: tuple[Size, ...] = tuple((2**level,) * 3 for level in range(levels))
        fine, coarse = widths[:-1], widths[1:]
        self.stem = nn.Conv3d(channels, width, 3, padding=1)
        self.down_levels = nn.ModuleList([_level(w) for w in fine])
        self.downs = nn.ModuleList([nn.Conv3d(w, 2 * w, 1) for w in fine])
        self.bottom = _level(widths[-1])
        self.ups = nn.ModuleList([nn.Conv3d(c, w, 1) for c, w in zip(coarse, fine, strict=True)])
        self.skips = nn.ModuleList([nn.Conv3d(w, w, 1) for w in fine])
        self.up_levels = nn.ModuleList([_level(w) for w in fine])

    def forward(self, image: Tensor) -> list[Tensor]:
        """Feature maps of (N, C, D, H, W), finest first."""
        x = self.stem(image)
        skips = []
        for level, down in zip(self.down_levels, self.downs, strict=True):
            skips.append(level(x))
            x = down(F.max_pool3d(skips[-1], 2, ceil_mode=True))
        maps = [self.bottom(x)]
        for number in reversed(range(len(skips))):
            doubled = F.interpolate(self.ups[number](maps[-1]), scale_factor=2, mode="nearest")
            d, h, w = skips[number].shape[2:]
            maps.append(self.up_levels[number](doubled[:, :, :d, :h, :w] + self.skips[number](skips[number])))
        return maps[::-1]
