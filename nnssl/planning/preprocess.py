"""One case from its files to the plan's grid: transpose, crop, normalise, resample; nnU-Net's numbers.

The order is nnU-Net's (`DefaultPreprocessor.run_case`), and so are the normalisation classes. What is left out there
changes no voxel of the image: filling holes for the box, and making, resampling and storing an empty segmentation.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnssl.data.case import Constants
from nnssl.errors import DataError
from nnssl.planning.cropping import Box, crop, nonzero_box, nonzero_mask
from nnssl.planning.grid import CasePlan
from nnssl.planning.reading import Affine, Image
from nnssl.planning.resampling import is_reproduced, new_shape, resample, separate_axis

Volume = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class OnGrid:
    """One case on the plan's grid.

    Attributes:
        data: (C, D, H, W) float32, normalised.
        raw: the same before normalisation, where it was asked for.
        to_world: 4x4 from voxel index (d, h, w, 1) of `data` to mm in LPS.
        box: the nonzero box in the transposed source.
        constants: one per channel.
    """

    data: Volume
    raw: Volume | None
    to_world: Affine
    box: Box
    constants: tuple[Constants, ...]


def onto_grid(image: Image, plan: CasePlan, *, keep_raw: bool = False) -> OnGrid:
    """Bring one case onto the grid of `plan`. Without `keep_raw`, `image.data` may be overwritten.

    Args:
        image: as read.
        plan: what to do.
        keep_raw: also resample the values before normalisation.

    Raises:
        DataError: nothing with an extent would be left of it.
    """
    transposed = image.data.transpose(0, *(axis + 1 for axis in plan.transpose))
    spacing_mm = tuple(image.spacing_mm[axis] for axis in plan.transpose)
    box = nonzero_box(transposed)
    # One C-ordered array of our own: normalisation works in place, and the matrix products want rows
    cropped = np.ascontiguousarray(crop(transposed, box))
    shape = _checked(new_shape(cropped.shape[1:], spacing_mm, plan.spacing_mm), cropped.shape, spacing_mm, plan)
    raw = _resampled(cropped, shape, spacing_mm, plan) if keep_raw else None
    if keep_raw:
        cropped = cropped.copy()  # normalisation must not reach the raw values, nor the image they came from
    constants = _normalise(cropped, plan)
    data = _resampled(cropped, shape, spacing_mm, plan)
    to_source = _permutation(plan.transpose) @ _stored_to_cropped(cropped.shape[1:], data.shape[1:], box)
    to_world = image.to_world @ to_source
    return OnGrid(data=data, raw=raw, to_world=to_world, box=box, constants=constants)


def _checked(
    shape: tuple[int, int, int], old: Sequence[int], spacing_mm: Sequence[float], plan: CasePlan
) -> tuple[int, int, int]:
    """`shape` if it is a volume that an array can hold; spacings in headers are often wrong by powers of ten."""
    if min(shape) >= 2 and old[0] * math.prod(shape) * 4 < sys.maxsize:
        return shape
    raise DataError(
        f"What is not 0 in it, {_text(old[1:])} voxels of {_text(spacing_mm)} mm, would be {_text(shape)} voxels of "
        f"{_text(plan.spacing_mm)} mm; a volume is needed. Correct its voxel size or the plan's, or remove it."
    )


def _text(sides: Sequence[float]) -> str:
    return " x ".join(f"{side:g}" for side in sides)


def _resampled(data: Volume, shape: Sequence[int], spacing_mm: Sequence[float], plan: CasePlan) -> Volume:
    options = plan.resampling_options
    if is_reproduced(plan.resampling, options):
        return resample(data, shape, separate_axis(spacing_mm, plan.spacing_mm, options.get("force_separate_z", False)))
    from nnssl.nnunet import resampling_function

    function = resampling_function(plan.resampling, options)
    result: Volume = np.asarray(function(data, shape, spacing_mm, plan.spacing_mm), np.float32)
    return result


def _normalise(data: Volume, plan: CasePlan) -> tuple[Constants, ...]:
    """Normalise (C, D, H, W) in place and say how."""
    from nnssl.nnunet import normaliser

    mask = nonzero_mask(data) if any(plan.masked) else None
    found = []
    for channel, scheme, masked, properties in zip(data, plan.schemes, plan.masked, plan.intensities, strict=True):
        used = mask if masked else None
        found.append(_constants(channel, scheme, used, properties))
        # nnU-Net passes the region outside the mask as label -1
        outside = None if used is None else np.where(used, np.int8(0), np.int8(-1))
        channel[...] = normaliser(scheme)(masked, dict(properties)).run(channel, outside)
    return tuple(found)


def _constants(
    channel: Volume, scheme: str, mask: npt.NDArray[np.bool_] | None, properties: Mapping[str, float]
) -> Constants:
    if scheme == "CTNormalization":
        return Constants(
            scheme=scheme,
            offset=float(properties["mean"]),
            scale=max(float(properties["std"]), 1e-8),
            lower=float(properties["percentile_00_5"]),
            upper=float(properties["percentile_99_5"]),
        )
    if scheme == "ZScoreNormalization":
        values = channel if mask is None else channel[mask]
        return Constants(
            scheme=scheme,
            offset=float(values.mean()),
            scale=max(float(values.std()), 1e-8),
            masked=mask is not None,
        )
    if scheme == "RescaleTo01Normalization":
        low = float(channel.min())
        return Constants(scheme=scheme, offset=low, scale=max(float(channel.max()) - low, 1e-8))
    return Constants(scheme=scheme, offset=0.0, scale=255.0 if scheme == "RGBTo01Normalization" else 1.0)


def _permutation(transpose: Sequence[int]) -> Affine:
    """4x4 from transposed voxel index to the index of the image as read."""
    matrix = np.zeros((4, 4))
    for stored, original in enumerate(transpose):
        matrix[original, stored] = 1
    matrix[3, 3] = 1
    return matrix


def _stored_to_cropped(old: Sequence[int], new: Sequence[int], box: Box) -> Affine:
    """4x4 from stored voxel index to transposed source index: voxel edges of the box coincide, not centres."""
    matrix = np.eye(4)
    for axis in range(3):
        zoom = old[axis] / new[axis]
        matrix[axis, axis] = zoom
        matrix[axis, 3] = 0.5 * zoom - 0.5 + box[axis][0]
    return matrix
