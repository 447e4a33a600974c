"""Which blocks of a view are hidden."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nnssl.errors import PlanError
from nnssl.views.spec import BlockMask, Size


def block_grid(mask: BlockMask, size: Size) -> Size:
    """Blocks per axis of a view of `size` voxels.

    Raises:
        PlanError: the view is no multiple of the block.
    """
    if any(side % block for side, block in zip(size, mask.block, strict=True)):
        raise PlanError(
            f"A masked view must be a multiple of the block on each axis; found view {size} and block {mask.block}. "
            f"Change patch_size or the method's block."
        )
    return (size[0] // mask.block[0], size[1] // mask.block[1], size[2] // mask.block[2])


def draw_hidden(rng: np.random.Generator, mask: BlockMask, size: Size) -> npt.NDArray[np.int64]:
    """Raster indices of the hidden blocks, in a random order: exactly round(ratio * blocks) of them."""
    blocks = prod(block_grid(mask, size))
    ratio = rng.uniform(*mask.ratio)
    return rng.permutation(blocks)[: round(ratio * blocks)]


def render(hidden: Sequence[npt.NDArray[np.int64]], mask: BlockMask, size: Size, device: torch.device) -> Tensor:
    """(M, 1, D, H, W) bool, True in hidden blocks, for M views."""
    grid = block_grid(mask, size)
    flags = np.zeros((len(hidden), prod(grid)), dtype=np.bool_)
    for row, blocks in zip(flags, hidden, strict=True):
        row[blocks] = True
    coarse = torch.from_numpy(flags).to(device).reshape(-1, 1, grid[0], 1, grid[1], 1, grid[2], 1)
    full = coarse.expand(-1, 1, grid[0], mask.block[0], grid[1], mask.block[1], grid[2], mask.block[2])
    return full.reshape(-1, 1, *size)
