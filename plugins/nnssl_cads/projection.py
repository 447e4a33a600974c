"""The projection view of CADS: a frontal radiograph of the whole case, summed along the patient's A-P axis."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from nnssl.needs import RawCase, Sidecar

AIR_HU = -1024.0  # where attenuation counts from, as published
LONGEST_SIDE = 256  # pixels stored; the method resizes to its view, at most 128 or so a side
PERCENTILES = (0.5, 99.5)  # of values without a unit: what is 0 and what is 1
FOREGROUND = 0.05  # of that range: what lies below is taken for air

Volume = npt.NDArray[np.float32]
Picture = npt.NDArray[np.float64]


class Projection(Sidecar):
    """One projection a channel, from the original voxels of the whole case, before any cropping or normalisation.

    CT: the line integral of max(HU, -1024) + 1024, a radiograph without the exponential. PET: the maximum. Everything
    else has no attenuation: the mean, along the ray, of what is not air, of values between two percentiles.

    Arrays: `image` (C, h, w) float32 in [-1, 1] per channel, 0 where it would be constant; head up, the patient's right
    on the left side of the picture; `pixel_mm` scalar, side of its square pixels.
    """

    name = "projection"

    @classmethod
    def compute(cls, case: RawCase) -> Mapping[str, npt.NDArray[np.generic]]:
        """Project, turn upright, make the pixels square, scale."""
        axes, mirrored, spacing_mm = upright(case.original_to_world)
        planes = []
        for channel, modality in zip(case.original, case.modality, strict=True):
            depth, *plane = (spacing_mm[axis] for axis in axes)
            flat = projected(channel.transpose(axes), modality, depth)
            flat = flat[:: -1 if mirrored[0] else 1, :: -1 if mirrored[1] else 1]
            planes.append(flat)
        image, pixel_mm = square(np.stack(planes), (plane[0], plane[1]))
        return {"image": np.stack([scaled(one) for one in image]).astype(np.float32), "pixel_mm": np.asarray(pixel_mm)}

    @classmethod
    def picture(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> npt.NDArray[np.uint8]:
        """(h, C * w): the channels side by side."""
        image = np.concatenate(list(np.asarray(arrays["image"], np.float64)), axis=1)
        return np.rint((image + 1) * 127.5).astype(np.uint8)


def upright(to_world: npt.NDArray[np.float64]) -> tuple[tuple[int, int, int], tuple[bool, bool], tuple[float, ...]]:
    """Which array axes run front to back, down and across, which of the last two to mirror, and the spacing.

    World is LPS: the second coordinate runs to the back, the third to the head, the first to the patient's left. Array
    axes are given to the anatomical ones so that together they are as parallel as they can be.

    Returns:
        (A-P, vertical, lateral) array axes; whether rows and columns must be mirrored; voxel sides in mm by array axis.
    """
    columns = np.asarray(to_world, np.float64)[:3, :3]
    spacing_mm = np.linalg.norm(columns, axis=0)
    along = columns / spacing_mm
    orders = [(a, v, 3 - a - v) for a in range(3) for v in range(3) if a != v]
    axes = max(orders, key=lambda axes: abs(along[1, axes[0]]) + abs(along[2, axes[1]]) + abs(along[0, axes[2]]))
    mirrored = (bool(along[2, axes[1]] > 0), bool(along[0, axes[2]] < 0))
    return axes, mirrored, tuple(float(side) for side in spacing_mm)


def projected(volume: Volume, modality: str, step_mm: float) -> Picture:
    """(h, w) projection of (depth, h, w) along its first axis."""
    if modality == "ct":
        attenuation: Picture = (np.maximum(volume, AIR_HU) - AIR_HU).sum(axis=0, dtype=np.float64)
        return attenuation * step_mm
    if modality == "pet":
        brightest: Picture = volume.max(axis=0).astype(np.float64)
        return brightest
    low, high = np.percentile(volume, PERCENTILES)
    if high <= low:
        return np.zeros(volume.shape[1:])
    density = np.clip((volume.astype(np.float64) - low) / (high - low), 0, 1)
    body = density > FOREGROUND
    mean: Picture = (density * body).sum(axis=0) / np.maximum(body.sum(axis=0), 1)
    return mean


def square(planes: Picture, sides_mm: tuple[float, float]) -> tuple[Picture, float]:
    """(C, h, w) with square pixels of the finer side, or so coarse that no side has over `LONGEST_SIDE`; and the side.

    Smoothed where pixels are made larger.
    """
    extent = [count * side for count, side in zip(planes.shape[1:], sides_mm, strict=True)]
    pixel_mm = max(min(sides_mm), max(extent) / LONGEST_SIDE)
    rows, columns = (
        _triangles(count, max(1, round(count * side / pixel_mm)))
        for count, side in zip(planes.shape[1:], sides_mm, strict=True)
    )
    resized: Picture = rows @ planes @ columns.T
    return resized, float(pixel_mm)


def _triangles(count: int, size: int) -> Picture:
    """(size, count) linear interpolation of `count` samples at `size` places; a wider kernel where these are fewer."""
    ratio = count / size
    centre = (np.arange(size) + 0.5) * ratio - 0.5
    weight: Picture = np.maximum(1 - np.abs(centre[:, None] - np.arange(count)) / max(ratio, 1.0), 0)
    shares: Picture = weight / weight.sum(axis=1, keepdims=True)
    return shares


def scaled(plane: Picture) -> Picture:
    """Least to -1 and greatest to 1; zeros where all are equal."""
    low, high = plane.min(), plane.max()
    return 2 * (plane - low) / (high - low) - 1 if high > low else np.zeros_like(plane)
