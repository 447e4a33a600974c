"""Feature vectors at voxels: where a voxel of an image lies in the maps of a pyramid.

Convention: along an axis of stride s, cell k covers the voxels ks .. ks + s - 1, so its centre lies at voxel index
ks + (s - 1) / 2. A voxel x lies at cell coordinate (x + 1/2) / s - 1/2. Imports torch only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_map(feature_map: Tensor, points: Tensor, image_size: Sequence[int]) -> Tensor:
    """Trilinear values of one map at points of the image it was computed from; border cells are continued outwards.

    Args:
        feature_map: (C, d, h, w); its sides times its strides are the sides of the image.
        points: (P, 3) voxel indices D H W of the image, not necessarily whole.
        image_size: D H W of the image.

    Returns:
        (P, C).
    """
    size = torch.tensor(tuple(image_size), dtype=points.dtype, device=points.device)
    # grid_sample without align_corners puts -1 and 1 on the outer faces, which image and map share; it wants W H D
    grid = ((2 * points + 1) / size - 1).flip(-1).to(feature_map.dtype)
    values = F.grid_sample(feature_map[None], grid[None, :, None, None], padding_mode="border", align_corners=False)
    vectors: Tensor = values[0, :, :, 0, 0].T
    return vectors


def voxel_vectors(maps: Sequence[Tensor], points: Tensor, image_size: Sequence[int]) -> Tensor:
    """(P, sum of C_k): one vector a point, the L2-normalised values of every map side by side, each of equal weight.

    Args:
        maps: (C_k, d_k, h_k, w_k) each, of one image.
        points: (P, 3) voxel indices D H W of the image.
        image_size: D H W of the image.
    """
    parts = [F.normalize(sample_map(feature_map, points, image_size), dim=1) for feature_map in maps]
    return torch.cat(parts, dim=1) / float(len(parts) ** 0.5)


def transform_points(matrix: Tensor, points: Tensor) -> Tensor:
    """(..., P, 3) points through a (..., 4, 4) affine matrix, in the matrix's dtype."""
    moved: Tensor = points.to(matrix.dtype) @ matrix[..., :3, :3].transpose(-1, -2)
    return moved + matrix[..., None, :3, 3]
