"""Voxels of feature pyramids: which voxels two exact crops share, and the vector of a voxel over all maps.

Everything here is whole numbers: no interpolation, no coordinate is rounded. `blocks.sampling` has the trilinear
counterpart, for views that are not exact crops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SharedVoxels:
    """The same M voxels of a case in two views of it.

    Attributes:
        first, second: (B, M, 3) int64 voxel index in each view; equal to each other where `counted` is false.
        counted: (B, M) bool; false in the places left over where fewer than M voxels are shared.
    """

    first: Tensor
    second: Tensor
    counted: Tensor


def crop_starts(to_source: Tensor) -> Tensor:
    """(..., 3) int64 first voxel in the case of views that are exact crops, neither turned nor mirrored."""
    return to_source[..., :3, 3].round().long()


def body_voxels(lattice: Mapping[str, Tensor], start: Tensor, size: Sequence[int]) -> Tensor:
    """(D, H, W) bool: which voxels of a crop belong to the body, by the lattice point of the cell they lie in.

    Args:
        lattice: the `BodyMask` sidecar of the case: `mask`, `stride`; cell i holds voxels stride * i and following.
        start: (3,) int64 first voxel of the crop in the case.
        size: D H W of the crop.
    """
    mask = lattice["mask"]
    cells = []
    for axis, side in enumerate(size):
        voxel = start[axis] + torch.arange(side, device=mask.device)
        # a last cell that is cut off before its lattice point belongs to the one before
        cells.append(voxel.div(lattice["stride"][axis], rounding_mode="floor").clamp(0, mask.shape[axis] - 1))
    d, h, w = cells
    return mask.bool()[d[:, None, None], h[:, None], w]


def shared_voxels(starts: Tensor, usable: Tensor, score: Tensor, count: int) -> SharedVoxels:
    """Choose `count` voxels that two crops of one case share, without replacement; all of them where they are fewer.

    Args:
        starts: (B, 2, 3) int64 first voxel of both crops in the case.
        usable: (B, 2, D, H, W) bool, the voxels of both that may be chosen.
        score: (B, D * H * W) random numbers in [0, 1), one for each voxel of the first crop: the highest are chosen.
        count: M, at most.
    """
    size = usable.shape[2:]
    # starts come from matrices in float64, which Apple's MPS leaves on the CPU
    shift = (starts[:, 0] - starts[:, 1]).to(usable.device)
    inside, places = [], []
    for axis, side in enumerate(size):
        place = torch.arange(side, device=shift.device) + shift[:, axis, None]  # (B, side), index in the second crop
        inside.append((place >= 0) & (place < side))
        places.append(place.clamp(0, side - 1))
    both = inside[0][:, :, None, None] & inside[1][:, None, :, None] & inside[2][:, None, None, :]
    d, h, w = places
    sample = torch.arange(len(usable), device=shift.device)[:, None, None, None]
    both = both & usable[:, 0] & usable[:, 1][sample, d[:, :, None, None], h[:, None, :, None], w[:, None, None, :]]
    best = torch.where(both.flatten(1), score, -1.0).topk(min(count, score.shape[1]), dim=1)
    first = torch.stack(torch.unravel_index(best.indices, tuple(size)), dim=-1)
    counted = best.values >= 0
    second = torch.where(counted[..., None], first + shift[:, None], first)
    return SharedVoxels(first, second, counted)


def pyramid_vectors(maps: Sequence[Tensor], strides: Sequence[Sequence[int]], points: Tensor) -> Tensor:
    """(B, M, sum of C_k): the values of all maps' cells that hold a voxel, side by side; f(v) = concat_k F_k[v // s_k].

    Args:
        maps: (B, C_k, d_k, h_k, w_k) each.
        strides: cumulative stride D H W of each map: cell i of an axis holds voxels s * i to s * i + s - 1.
        points: (B, M, 3) int64 voxel indices of the image.
    """
    parts = []
    for feature_map, stride in zip(maps, strides, strict=True):
        cell = points.div(points.new_tensor(stride), rounding_mode="floor")
        _, height, width = feature_map.shape[2:]
        flat = (cell[..., 0] * height + cell[..., 1]) * width + cell[..., 2]
        channels = feature_map.shape[1]
        parts.append(feature_map.flatten(2).gather(2, flat[:, None].expand(-1, channels, -1)))
    return torch.cat(parts, dim=1).transpose(1, 2)
