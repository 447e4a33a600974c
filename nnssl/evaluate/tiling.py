"""Sliding windows whose feature maps fit together: tiles start at whole cells of the deepest stage.

So every cell of every map belongs to one place of the image, and the maps of a whole image are put together from tile
cores without interpolation. Tiles overlap by a quarter; a core ends in the middle of the overlap, where the tile's own
border is far on either side.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnssl.engine.frozen import undisturbed

_STEP = 0.75  # of a tile, between two tiles' starts
_MIN_CELLS = 2  # an axis: instance norm needs more than one value


@dataclass(frozen=True)
class Axis:
    """One axis, in cells of the deepest stage.

    Attributes:
        size: of a tile.
        starts: first cell of every tile.
        cores: (first, end) of what counts of every tile; together they are the image.
    """

    size: int
    starts: tuple[int, ...]
    cores: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Piece:
    """One tile and its core, the part of it that counts.

    Attributes:
        maps: per level (C_k, d, h, w) of the core, on the device.
        starts: per level the first cell, D H W, in the map of the whole image.
        tile_maps: per level the same of the whole tile, for values between cells at the core's border.
        tile_lower: first voxel D H W of the tile.
        tile_size: voxels D H W of the tile, padding included.
        lower: first voxel D H W of the core.
        upper: one past the last voxel of the core that the image has.
    """

    maps: tuple[Tensor, ...]
    starts: tuple[tuple[int, ...], ...]
    tile_maps: tuple[Tensor, ...]
    tile_lower: tuple[int, ...]
    tile_size: tuple[int, ...]
    lower: tuple[int, ...]
    upper: tuple[int, ...]


def axis(side: int, stride: int, largest: int) -> Axis:
    """Tiles along one axis.

    Args:
        side: of the image, voxels.
        stride: of the deepest stage.
        largest: side of a tile, voxels.

    Example:
        >>> axis(100, 16, 64)
        Axis(size=4, starts=(0, 3), cores=((0, 3), (3, 7)))
    """
    cells = max(math.ceil(side / stride), _MIN_CELLS)
    size = min(cells, max(largest // stride, _MIN_CELLS))
    count = 1 if size == cells else math.ceil((cells - size) / max(1, int(_STEP * size))) + 1
    starts = [round(index * (cells - size) / max(1, count - 1)) for index in range(count)]
    borders = [0, *((left + size + right) // 2 for left, right in itertools.pairwise(starts)), math.ceil(side / stride)]
    return Axis(size, tuple(starts), tuple(itertools.pairwise(borders)))


def pieces(
    network: nn.Module, image: Tensor, *, largest: Sequence[int], device: torch.device | str = "cpu"
) -> Iterator[Piece]:
    """The maps of an image, tile by tile; voxels beyond the image repeat its border.

    Args:
        network: a module and a `Pyramid`; it is not changed.
        image: (C, D, H, W), any size.
        largest: D H W of a tile, voxels.
        device: where the network is.
    """
    pyramid: Any = network
    device = torch.device(device)
    stride = [max(level[a] for level in pyramid.strides) for a in range(3)]
    axes = [axis(*three) for three in zip(image.shape[1:], stride, largest, strict=True)]
    for chosen in itertools.product(*(range(len(one.starts)) for one in axes)):
        lower = [one.starts[i] for one, i in zip(axes, chosen, strict=True)]
        cores = [one.cores[i] for one, i in zip(axes, chosen, strict=True)]
        corner = tuple(a * s for a, s in zip(lower, stride, strict=True))
        tile = _cut(image, corner, axes, stride)
        with undisturbed(network, device):
            maps = pyramid(tile.to(device))
        inner, starts = [], []
        for level, step in zip(maps, pyramid.strides, strict=True):
            factor = [s // t for s, t in zip(stride, step, strict=True)]
            inside = [slice((a - o) * f, (b - o) * f) for (a, b), o, f in zip(cores, lower, factor, strict=True)]
            inner.append(level[0][:, *inside])
            starts.append(tuple(a * f for (a, _), f in zip(cores, factor, strict=True)))
        yield Piece(
            maps=tuple(inner),
            starts=tuple(starts),
            tile_maps=tuple(level[0] for level in maps),
            tile_lower=corner,
            tile_size=tuple(tile.shape[2:]),
            lower=tuple(first * s for (first, _), s in zip(cores, stride, strict=True)),
            upper=tuple(min(e * s, n) for (_, e), s, n in zip(cores, stride, image.shape[1:], strict=True)),
        )


def _cut(image: Tensor, lower: Sequence[int], axes: Sequence[Axis], stride: Sequence[int]) -> Tensor:
    """(1, C, d, h, w) float32 tile, padded where it leaves the image."""
    size = [one.size * step for one, step in zip(axes, stride, strict=True)]
    part = image[:, *(slice(a, a + n) for a, n in zip(lower, size, strict=True))]
    missing = [n - side for n, side in zip(size, part.shape[1:], strict=True)]
    padding = [amount for side in reversed(missing) for amount in (0, side)]
    return F.pad(part[None].float(), padding, mode="replicate")
