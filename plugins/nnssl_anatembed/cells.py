"""Where the cells of a map lie in mm, and which cells of two views show the same place. Geometry only, analytic.

Positions come from the views' matrices (crop, zoom, rotation, mirroring) and the case's, never from resampled
coordinate images, and never in half precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nnssl.blocks.sampling import transform_points
from nnssl.views.spec import Size


@dataclass(frozen=True)
class Cells:
    """The cells of both views' maps, N = d * h * w of each, in raster order.

    Attributes:
        size: d h w of a map.
        stride: voxels D H W of a cell.
        voxels: (N, 3) float64 centres in voxels of a view; the same for all views.
        mm: (B, 2, N, 3) centres in mm from the centre of the sample's first view.
        usable: (B, 2, N) bool, cells all of whose voxels lie in the case.
    """

    size: Size
    stride: Size
    voxels: Tensor
    mm: Tensor
    usable: Tensor


def cells_of(valid: Tensor, to_world: Tensor, stride: Size, dtype: torch.dtype) -> Cells:
    """The cells of maps of a stride.

    Args:
        valid: (B, 2, 1, D, H, W) bool of the views.
        to_world: (B, 2, 4, 4) float64 from view voxel to mm.
        stride: of the maps.
        dtype: of `mm`.
    """
    inside = F.max_pool3d((~valid).flatten(0, 1).to(dtype), stride, stride=stride) == 0
    d, h, w = inside.shape[2:]
    axes = [
        to_world.new_tensor(range(side)) * step + (step - 1) / 2 for side, step in zip((d, h, w), stride, strict=True)
    ]
    voxels = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)
    middle = transform_points(to_world[:, 0], voxels.mean(0)[None])  # (B, 1, 3)
    mm = transform_points(to_world, voxels) - middle[:, None]
    return Cells((d, h, w), stride, voxels, mm.to(dtype), inside.reshape(*valid.shape[:2], -1))


@dataclass(frozen=True)
class Nearest:
    """For every cell of one view the nearest one of the other.

    Attributes:
        index: (B, N) int64, in raster order.
        apart_mm: (B, N, 3) from a cell to its nearest.
        inside: (B, N) bool; both cells are usable and the cell lies in the other view.
    """

    index: Tensor
    apart_mm: Tensor
    inside: Tensor


def nearest_cells(cells: Cells, to_world: Tensor, view: int) -> Nearest:
    """Eq. 1's nearest cell of the other view, for all cells of `view`.

    Rounding in the other map's own axes is exact: they stay at right angles in mm, whatever zoom and rotation are.

    Args:
        cells: of both views.
        to_world: (B, 2, 4, 4) float64 from view voxel to mm.
        view: 0 or 1.
    """
    other = 1 - view
    there = transform_points(torch.linalg.solve(to_world[:, other], to_world[:, view]), cells.voxels)
    stride = there.new_tensor(cells.stride)
    cell = ((there - (stride - 1) / 2) / stride).round()
    last = there.new_tensor(cells.size) - 1
    inside = ((cell >= 0) & (cell <= last)).all(-1)
    cell = torch.minimum(cell.clamp(min=0), last).long()
    index = (cell[..., 0] * cells.size[1] + cell[..., 1]) * cells.size[2] + cell[..., 2]
    found = cells.mm[:, other].gather(1, index[..., None].expand(-1, -1, 3))
    inside = inside & cells.usable[:, view] & cells.usable[:, other].gather(1, index)
    return Nearest(index, found - cells.mm[:, view], inside)


def in_body(lattices: Sequence[Mapping[str, Tensor]], to_source: Tensor, cells: Cells) -> Tensor:
    """(B, 2, N) bool: cells whose centre's nearest lattice point is body.

    Args:
        lattices: the `BodyMask` sidecars of the B cases.
        to_source: (B, 2, 4, 4) float64 from view voxel to voxel of the case.
        cells: of the views.
    """
    answers = []
    for lattice, matrix in zip(lattices, to_source, strict=True):
        mask, voxels = lattice["mask"].bool(), transform_points(matrix, cells.voxels)
        point = ((voxels - lattice["first"]) / lattice["stride"]).round().long()
        last = point.new_tensor(mask.shape) - 1
        d, h, w = torch.minimum(point.clamp(min=0), last).unbind(-1)
        answers.append(mask[d, h, w])
    return torch.stack(answers)
