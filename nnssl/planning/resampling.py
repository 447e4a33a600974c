"""nnU-Net's order-3 resampling as matrix products: the same numbers, about ten times faster.

Cubic-spline zoom is linear and separable: one (new, old) matrix per axis holds all of it, prefilter and edge rule
included. nnU-Net then clips to the input's range: over the whole volume, or slice by slice where it treats the axis of
largest spacing on its own (nearest neighbour there, because a spline through thick slices invents anatomy).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Volume = npt.NDArray[np.float32]
ANISOTROPY_THRESHOLD = 3.0  # nnU-Net's: above it, the axis of largest spacing is treated on its own
DEFAULT_FUNCTION = "resample_data_or_seg_to_shape"


def new_shape(shape: Sequence[int], spacing_mm: Sequence[float], target_mm: Sequence[float]) -> tuple[int, int, int]:
    """D H W after resampling from `spacing_mm` to `target_mm`: nnU-Net's rounding (half to even)."""
    d, h, w = (round(old / new * side) for old, new, side in zip(spacing_mm, target_mm, shape, strict=True))
    return d, h, w


def is_reproduced(function: str, options: Mapping[str, Any]) -> bool:
    """Whether `resample` gives what the plan's resampling function with these options would give."""
    known = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    return function == DEFAULT_FUNCTION and all(
        name in known and (name == "force_separate_z" or value == known[name]) for name, value in options.items()
    )


def separate_axis(spacing_mm: Sequence[float], target_mm: Sequence[float], force: bool | None = None) -> int | None:
    """The axis that nnU-Net resamples on its own by nearest neighbour; None: none.

    Args:
        spacing_mm: D H W before.
        target_mm: D H W after; looked at only where the spacing before is not anisotropic.
        force: the plan's `force_separate_z`.
    """
    if force is False:
        return None
    for candidate in (spacing_mm,) if force else (spacing_mm, target_mm):
        if force or max(candidate) / min(candidate) > ANISOTROPY_THRESHOLD:
            largest = [axis for axis in range(3) if candidate[axis] == max(candidate)]
            # two axes of equally large spacing: nnU-Net then resamples all three alike
            return largest[0] if len(largest) == 1 else None
    return None


def resample(data: Volume, shape: Sequence[int], separate: int | None) -> Volume:
    """(C, D, H, W) resampled to `shape`, equal to nnU-Net's order 3 within float32 rounding.

    Args:
        data: float32; not changed.
        shape: D H W of the result.
        separate: axis to resample by nearest neighbour, from `separate_axis`; None: splines along all axes.
    """
    shape = tuple(int(side) for side in shape)
    if data.shape[1:] == shape:
        return data
    result = np.empty((data.shape[0], *shape), np.float32)
    for channel, out in zip(data, result, strict=True):
        if separate is None:
            _splines(channel, shape, out)
            np.clip(out, channel.min(), channel.max(), out=out)
        else:
            _slice_by_slice(channel, separate, out)
    return result


@lru_cache(maxsize=64)
def spline_matrix(old: int, new: int) -> Volume:
    """(new, old) float32: cubic-spline zoom of `old` samples to `new`, edge samples repeated outside."""
    from scipy import ndimage

    zoomed = [
        ndimage.zoom(unit, new / old, order=3, mode="nearest", grid_mode=True) for unit in np.eye(old, dtype=np.float64)
    ]
    matrix = np.stack(zoomed, axis=1).astype(np.float32)
    matrix.flags.writeable = False  # shared by all who ask
    return matrix


def nearest_indices(old: int, new: int) -> npt.NDArray[np.int64]:
    """(new,) the old sample nearest to each new one; halves go up, as scipy's order 0 does."""
    # scale first, then shift: nnU-Net's order of operations, which decides where rounding meets a half
    centres = old / new * (np.arange(new) + 0.5) - 0.5
    indices: npt.NDArray[np.int64] = np.clip(np.floor(centres + 0.5).astype(np.int64), 0, old - 1)
    return indices


def _splines(volume: Volume, shape: Sequence[int], out: Volume) -> None:
    """Products along the three axes, the one that shrinks most first: least work for those that follow."""
    order = sorted(
        (axis for axis in range(3) if volume.shape[axis] != shape[axis]), key=lambda a: shape[a] / volume.shape[a]
    )
    current = volume
    for step, axis in enumerate(order):
        current = _along(current, axis, shape[axis], out if step == len(order) - 1 else None)


def _along(volume: Volume, axis: int, new: int, out: Volume | None) -> Volume:
    matrix = spline_matrix(volume.shape[axis], new)
    if axis == 2:
        return np.matmul(volume, matrix.T, out=out)
    if axis == 1:
        return np.matmul(matrix, volume, out=out)
    rest = volume.shape[1:]
    flat = None if out is None else out.reshape(new, -1)
    return np.matmul(matrix, volume.reshape(volume.shape[0], -1), out=flat).reshape(new, *rest)


def _slice_by_slice(volume: Volume, axis: int, out: Volume) -> None:
    slices = np.moveaxis(volume, axis, 0)
    results = np.moveaxis(out, axis, 0)
    rows, columns = results.shape[1:]
    made, made_from = None, -1
    for index, source in enumerate(nearest_indices(slices.shape[0], results.shape[0])):
        if source != made_from:  # a thick slice may serve several thin ones
            piece = np.ascontiguousarray(slices[source])
            made = piece
            if piece.shape[0] != rows:
                made = spline_matrix(piece.shape[0], rows) @ made
            if piece.shape[1] != columns:
                made = made @ spline_matrix(piece.shape[1], columns).T
            made = np.clip(made, piece.min(), piece.max())
            made_from = source
        results[index] = made
