"""Uniform patch sampling of CADS: of every 2 x 2 patches in plane one is kept, and the kept ones are packed."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import Literal

import torch
from torch import Tensor

from nnssl.views.spec import Size

Repack = Literal["block", "raster"]
PATCH: Size = (4, 8, 8)  # published


def patch_of(packed: Size) -> Size:
    """The published patch, or what of it divides a packed view of `packed` voxels."""
    return gcd(PATCH[0], packed[0]), gcd(PATCH[1], packed[1]), gcd(PATCH[2], packed[2])


def blocks_of(size: Sequence[int], patch: Size) -> Size:
    """Blocks of 1 x 2 x 2 patches D H W in a view of `size` voxels."""
    return size[0] // patch[0], size[1] // (2 * patch[1]), size[2] // (2 * patch[2])


def balanced(order: Tensor) -> Tensor:
    """(N, n) which of its four patches each block keeps: each place equally often (to one), in a random order.

    Args:
        order: (N, n) permutations of 0..n-1.
    """
    return order % 4


def kept_patches(choice: Tensor, blocks: Size, repack: Repack) -> Tensor:
    """(N, n) raster index, in the grid of all patches, of the patch at each place of the packed view.

    Args:
        choice: (N, n) 0..3: upper left, upper right, lower left, lower right, for blocks in raster order.
        blocks: their number D H W.
        repack: `block` puts the choice of block (d, r, c) at (d, r, c); `raster` all kept patches in raster order, as
            published: columns of upper patches then come before those of lower ones.
    """
    d, r, c = torch.meshgrid(*[torch.arange(count, device=choice.device) for count in blocks], indexing="ij")
    d, r, c = d.flatten(), r.flatten(), c.flatten()
    index = (d * 2 * blocks[1] + 2 * r + choice // 2) * 2 * blocks[2] + 2 * c + choice % 2
    return index.sort(dim=1).values if repack == "raster" else index


def pack(x: Tensor, kept: Tensor, patch: Size) -> Tensor:
    """(N, C, D, H / 2, W / 2) of (N, C, D, H, W): the kept patches side by side, bit for bit.

    Args:
        x: sides multiples of 1, 2 and 2 patches.
        kept: of `kept_patches`.
        patch: D H W voxels.
    """
    n, channels, *size = x.shape
    grid = [side // step for side, step in zip(size, patch, strict=True)]
    parts = x.reshape(n, channels, grid[0], patch[0], grid[1], patch[1], grid[2], patch[2])
    parts = parts.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(1, 3)
    rows = torch.arange(n, device=x.device)[:, None]
    chosen = parts[rows, kept].reshape(n, grid[0], grid[1] // 2, grid[2] // 2, channels, *patch)
    return chosen.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(n, channels, size[0], size[1] // 2, size[2] // 2)
