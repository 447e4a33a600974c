"""View coordinates: where every voxel of a view lies in the stored case. NumPy, float64, no randomness.

A *region* is the box of the case that a view shows before rotation: `origin` its low corner and `side` its length,
both in voxels measured from the outer corner of voxel 0, so voxel i spans [i, i + 1). A matrix works on voxel centres
at whole numbers, hence the halves below.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float64]

LATTICE = 16  # points per axis at which the overlap of rotated views is measured


def rotation(degrees: Sequence[float]) -> Matrix:
    """(3, 3) turning by `degrees` about the D, then the H, then the W axis, in mm coordinates (d, h, w)."""
    turned = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(np.asarray(degrees, dtype=np.float64))):
        first, second = [(1, 2), (0, 2), (0, 1)][axis]
        step = np.eye(3)
        step[first, first] = step[second, second] = np.cos(angle)
        step[first, second], step[second, first] = -np.sin(angle), np.sin(angle)
        turned = step @ turned
    return turned


def symmetry(flip: Sequence[bool], rot90: int) -> Matrix:
    """(3, 3) signed permutation P: view offsets from the centre to region offsets.

    The region is turned by `numpy.rot90(region, rot90, axes=(H, W))` and then mirrored along the flipped axes.
    """
    mirror = np.diag([-1.0 if flipped else 1.0 for flipped in flip])
    quarter = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    return np.linalg.matrix_power(quarter, rot90 % 4) @ mirror


def view_to_case(
    *,
    origin: Vector,
    scale: Vector,
    rotation_deg: Vector,
    spacing_mm: Vector,
    flip: Sequence[bool],
    rot90: int,
    size: Sequence[int],
) -> Matrix:
    """(4, 4) from view voxel index x to case voxel index y = c + S^-1 R S diag(scale) P (x - (size - 1) / 2).

    c is the region's centre and S the spacing, so turning happens in mm and an anisotropic grid is not sheared. Without
    scale and rotation every entry is a whole number or a half that cancels, and the view is an exact crop.
    """
    sides = np.asarray(size, dtype=np.float64)
    linear = np.diag(scale) @ symmetry(flip, rot90)
    if np.any(rotation_deg != 0):
        linear = np.diag(1 / spacing_mm) @ rotation(rotation_deg.tolist()) @ np.diag(spacing_mm) @ linear
    centre = origin + scale * sides / 2 - 0.5
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = centre - linear @ ((sides - 1) / 2)
    return matrix


def corners(size: Sequence[int]) -> Matrix:
    """(8, 4) homogeneous indices of the corner voxels of a view."""
    last = np.asarray(size, dtype=np.float64) - 1
    grid = np.stack(np.meshgrid(*[(0.0, end) for end in last], indexing="ij"), axis=-1).reshape(8, 3)
    return np.concatenate([grid, np.ones((8, 1))], axis=1)


def span(matrix: Matrix, size: Sequence[int]) -> tuple[Vector, Vector]:
    """Least and greatest case index that any voxel centre of the view reaches, per axis."""
    reached = (corners(size) @ matrix.T)[:, :3]
    return reached.min(axis=0), reached.max(axis=0)


def overlap(first: Matrix, second: Matrix, size: Sequence[int]) -> float:
    """Share of a view's volume, in [0, 1], that two views have in common; of the larger one if they differ.

    Exact for views that are not rotated; for rotated ones the mean over a lattice of points, to about 1 / LATTICE.
    """
    if is_axis_aligned(first) and is_axis_aligned(second):
        boxes = [span(matrix, size) for matrix in (first, second)]
        halves = [np.abs(matrix[:3, :3]).sum(axis=1) / 2 for matrix in (first, second)]
        low = np.maximum(boxes[0][0] - halves[0], boxes[1][0] - halves[1])
        high = np.minimum(boxes[0][1] + halves[0], boxes[1][1] + halves[1])
        volumes = [abs(float(np.linalg.det(matrix[:3, :3]))) * float(np.prod(size)) for matrix in (first, second)]
        return float(np.prod(np.clip(high - low, 0, None))) / max(volumes)
    return min(_seen(first, second, size), _seen(second, first, size))


def is_axis_aligned(matrix: Matrix) -> bool:
    """Whether every view axis runs along one case axis."""
    return bool((np.count_nonzero(matrix[:3, :3], axis=1) == 1).all())


def _seen(first: Matrix, second: Matrix, size: Sequence[int]) -> float:
    """Share of the first view's lattice points that lie inside the second view."""
    sides = np.asarray(size, dtype=np.float64)
    ticks = [(np.arange(LATTICE) + 0.5) / LATTICE * side - 0.5 for side in sides]
    points = np.stack(np.meshgrid(*ticks, indexing="ij"), axis=-1).reshape(-1, 3)
    there = np.linalg.solve(second, first) @ np.concatenate([points, np.ones((len(points), 1))], axis=1).T
    inside = (there[:3] >= -0.5) & (there[:3] <= sides[:, None] - 0.5)
    return float(inside.all(axis=0).mean())
