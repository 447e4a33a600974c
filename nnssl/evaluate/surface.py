"""Normalised surface distance: the share of two organs' surfaces that lie within a tolerance of each other.

Nikolov et al. 2018 (arXiv:1809.04430), eq. 4 to 6, also called surface Dice: |S_P near S_T| + |S_T near S_P| over
|S_P| + |S_T|, by area. Surfaces here are the faces between voxels inside and outside (area in mm^2, place at the face's
centre), so that anisotropic voxels count as large as they are; the paper's are cut by marching cubes, and its distances
go to the corners of voxels, which finds surfaces nearer than they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from nnssl.errors import DataError

TOLERANCE_MM = 2.0
_ROUNDING = 1e-6  # of the tolerance: faces exactly one tolerance apart are within it

Mask = npt.NDArray[np.bool_]
Spacing = tuple[float, float, float]


def surface_dice_per_class(
    prediction: npt.NDArray[np.integer],
    truth: npt.NDArray[np.integer],
    classes: Mapping[str, Sequence[int]],
    *,
    spacing_mm: Spacing,
    tolerance_mm: float = TOLERANCE_MM,
) -> dict[str, float]:
    """Normalised surface distance of every class, 0 to 1.

    As with Dice, a class that neither map has is NaN and counts nowhere; one that only one of them has is 0.

    Args:
        prediction: label map (D, H, W).
        truth: label map of the same shape.
        classes: name -> values that belong to it.
        spacing_mm: voxel size D H W.
        tolerance_mm: how far apart surfaces may lie to agree.

    Raises:
        DataError: the shapes differ.
    """
    if prediction.shape != truth.shape:
        raise DataError(f"Label maps must have one shape to be compared; found {prediction.shape} and {truth.shape}.")
    return {
        name: surface_dice(
            np.isin(prediction, values), np.isin(truth, values), spacing_mm=spacing_mm, tolerance_mm=tolerance_mm
        )
        for name, values in classes.items()
    }


def surface_dice(prediction: Mask, truth: Mask, *, spacing_mm: Spacing, tolerance_mm: float = TOLERANCE_MM) -> float:
    """Normalised surface distance of two masks (D, H, W); NaN where both are empty, 0 where one is."""
    from scipy.spatial import cKDTree

    box = _box(prediction | truth)
    if box is None:
        return math.nan
    (ours, our_area), (theirs, their_area) = (_faces(mask[box], spacing_mm) for mask in (prediction, truth))
    if not len(ours) or not len(theirs):
        return 0.0
    reach = tolerance_mm * (1 + _ROUNDING)
    near = 0.0
    for points, areas, others in ((ours, our_area, theirs), (theirs, their_area, ours)):
        distance, _ = cKDTree(others).query(points, distance_upper_bound=reach)
        near += float(areas[np.isfinite(distance)].sum())
    return near / float(our_area.sum() + their_area.sum())


def _box(mask: Mask) -> tuple[slice, ...] | None:
    """The smallest box around a mask; None where it is empty."""
    slices = []
    for axis in range(mask.ndim):
        there = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        if not len(there):
            return None
        slices.append(slice(int(there[0]), int(there[-1]) + 1))
    return tuple(slices)


def _faces(mask: Mask, spacing_mm: Spacing) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(n, 3) centres in mm and (n,) areas in mm^2 of the faces between inside and outside; all beyond is outside."""
    centres, areas = [], []
    for axis in range(3):
        padded = np.pad(mask, [(1, 1) if other == axis else (0, 0) for other in range(3)])
        found = np.argwhere(np.diff(padded, axis=axis)).astype(np.float64)
        found[:, axis] -= 0.5  # between voxel i - 1 and i of the unpadded mask
        centres.append(found * spacing_mm)
        areas.append(np.full(len(found), math.prod(spacing_mm) / spacing_mm[axis]))
    return np.concatenate(centres), np.concatenate(areas)
