"""What `--accept` does to a scan: each repair is small, said, and never happens unasked."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnssl.planning.precision import PRECISION, check_precision, shifted
from nnssl.planning.reading import Affine
from nnssl.planning.refusal import Refused

Volume = npt.NDArray[np.float32]
Notes = tuple[str, ...]
_SHEAR = 1e-3  # as in planning/nifti.py: cosine between axes that rounding cannot explain


def filled(file: Path, voxels: Volume, accepted: Collection[str]) -> tuple[Volume, Notes]:
    """NaN and infinite voxels become the lowest finite value, if that is accepted; else the voxels as they are."""
    if "not_finite" not in accepted:
        return voxels, ()
    bad = ~np.isfinite(voxels)
    count = int(bad.sum())
    if not count or count == voxels.size:
        return voxels, ()
    return np.where(bad, voxels[~bad].min(), voxels), (f"{count} voxels that were no numbers became the lowest value",)


def told_apart(file: Path, numbers: npt.NDArray[Any], accepted: Collection[str]) -> tuple[npt.NDArray[Any], Notes]:
    """Numbers that float32 can tell apart: as they are, or from 0 up if that is accepted.

    Raises:
        Refused: float32 cannot hold them and nobody accepted that, or it does not help.
    """
    try:
        check_precision(file, numbers)
    except Refused:
        if PRECISION not in accepted:
            raise
        low = float(numbers.min())
        return shifted(file, numbers), (f"{low:.10g} was subtracted, as 32-bit numbers cannot tell its values apart",)
    return numbers, ()


def one_number(
    file: Path, data: npt.NDArray[Any], accepted: Collection[str], volume: int | None
) -> tuple[npt.NDArray[Any], Notes]:
    """(i, j, k) real numbers of what nibabel gives: colours, complex numbers, several volumes.

    Args:
        file: for messages.
        data: (i, j, k, ...) of any dtype.
        accepted: names of reasons.
        volume: which of several; None: the first, if that is accepted.

    Raises:
        Refused: with the reason that nobody accepted.
    """
    notes = []
    if data.dtype.names is not None:
        _need("colour", accepted, f"{file} has {len(data.dtype.names)} numbers per voxel; one is needed.")
        data = np.mean([data[name].astype(np.float32) for name in data.dtype.names], axis=0)
        notes.append("the mean over its colours was taken")
    if np.iscomplexobj(data):
        _need("complex_values", accepted, f"{file} is a complex image; one number per voxel is needed.")
        data = np.abs(data)
        notes.append("the magnitude of its complex numbers was taken")
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim > 3:
        count = int(np.prod(data.shape[3:]))
        if volume is None:
            _need("four_dimensional", accepted, f"{file} has {data.ndim} dimensions; a file must hold one 3D volume.")
            notes.append(f"the first of its {count} volumes was taken")
        if (volume or 0) >= count:
            raise Refused("missing_channel", f"{file} has {count} volumes; channel {volume} is not there.")
        data = data.reshape(*data.shape[:3], count, order="F")[..., volume or 0]
    elif volume:
        raise Refused("missing_channel", f"{file} has one volume; channel {volume} is not there.")
    return data, tuple(notes)


def right_angled(
    file: Path, voxels: Volume, to_world: Affine, accepted: Collection[str]
) -> tuple[Volume, Affine, Notes]:
    """A volume on axes at right angles: as it is, or resampled linearly if its axes are sheared and that is accepted.

    Args:
        file: for messages.
        voxels: (D, H, W).
        to_world: 4x4 from voxel index (d, h, w, 1) to mm.
        accepted: names of reasons.

    Raises:
        Refused: the axes are sheared and nobody accepted that.
    """
    axes = to_world[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    cosines = np.abs(axes.T @ axes / np.outer(lengths, lengths) - np.eye(3))
    if cosines.max() <= _SHEAR:
        return voxels, to_world, ()
    degrees = float(np.degrees(np.arcsin(min(1.0, float(cosines.max())))))
    _need("sheared", accepted, f"{file} has axes up to {degrees:.1f} degrees from a right angle (gantry tilt).")
    from scipy import ndimage

    # W and H, the axes within a slice, keep their direction; the stacking axis is set upright
    upright, triangle = np.linalg.qr(axes[:, ::-1])
    signs = np.sign(np.diag(triangle))
    turned, sides = (upright * signs)[:, ::-1], np.abs(np.diag(triangle))[::-1]
    ends = np.array([(0, side - 1) for side in voxels.shape], np.float64)
    corners = np.stack(np.meshgrid(*ends, indexing="ij"), -1).reshape(-1, 3)
    along = (corners @ axes.T) @ turned  # mm along the new axes, from the first voxel
    lower, upper = along.min(0), along.max(0)
    shape = tuple(int(count) for count in np.floor((upper - lower) / sides + 1e-6) + 1)
    new = np.eye(4)
    new[:3, :3] = turned * sides
    new[:3, 3] = to_world[:3, 3] + turned @ lower
    back = np.linalg.inv(to_world) @ new
    resampled = ndimage.affine_transform(
        voxels, back[:3, :3], back[:3, 3], output_shape=shape, order=1, cval=float(voxels.min())
    )
    return resampled, new, (f"resampled to right angles; its axes were {degrees:.1f} degrees away",)


def _need(reason: str, accepted: Collection[str], message: str) -> None:
    if reason not in accepted:
        raise Refused(reason, message)
