"""Which maps become tokens, and how many: stages by stride and never by number; cells are merged where too many."""

from __future__ import annotations

from collections.abc import Sequence
from math import log2, prod

from torch import Tensor

from nnssl.errors import PlanError
from nnssl.views.spec import Size

QUERY_STRIDE = 16.0  # of the published deepest stage
LEAST_QUERIES = 64  # its 4 x 4 x 4 cells


def query_stage(strides: Sequence[Size], size: Size) -> int:
    """The stage whose cells ask: of stride closest to 16 among those with at least 64 cells in a view; never the first.

    The stride of a stage is the geometric mean of its sides; the stage above it, one finer, gives keys and values.

    Args:
        strides: cumulative stride of every stage, D H W.
        size: of a view in voxels, a multiple of the deepest stride.

    Raises:
        PlanError: the encoder has one stage only.

    Example:
        >>> query_stage([(1, 1, 1), (2, 2, 2), (4, 4, 4), (8, 8, 8), (16, 16, 16), (32, 32, 32)], (64, 64, 64))
        4
    """
    stages = range(1, len(strides))
    if not stages:
        raise PlanError(
            "Alice needs an encoder of at least two stages, one for queries and a finer one for keys and values; the "
            "plan has one. Plan with a larger patch or a finer spacing."
        )
    many = [stage for stage in stages if cells(size, strides[stage]) >= LEAST_QUERIES] or [1]
    return min(many, key=lambda stage: abs(log2(prod(strides[stage])) / 3 - log2(QUERY_STRIDE)))


def cells(size: Sequence[int], stride: Sequence[int]) -> int:
    """Cells of a map of `stride` in a view of `size` voxels."""
    return prod(side // step for side, step in zip(size, stride, strict=True))


def merged(shape: Sequence[int], most: int) -> Size:
    """How many cells an axis are merged into one, so that at most `most` are left: always a divisor of the side.

    The longest axis is divided by its smallest divisor again and again.

    Args:
        shape: d h w of a map.
        most: at least 1.
    """
    sides, factor = list(shape), [1, 1, 1]
    while prod(sides) > most:
        axis = max(range(3), key=lambda a: sides[a])
        divisor = next(d for d in range(2, sides[axis] + 1) if sides[axis] % d == 0)
        sides[axis] //= divisor
        factor[axis] *= divisor
    return factor[0], factor[1], factor[2]


def tokens(feature_map: Tensor, factor: Size) -> Tensor:
    """(N, n, C) means over blocks of `factor` cells of (N, C, d, h, w), in raster order.

    Reshaped and averaged: torch's pooling has no reproducible gradient on GPUs.
    """
    rows, channels = feature_map.shape[:2]
    split: list[int] = []
    for side, step in zip(feature_map.shape[2:], factor, strict=True):
        split += [side // step, step]
    return feature_map.reshape(rows, channels, *split).mean((3, 5, 7)).flatten(2).transpose(1, 2)
