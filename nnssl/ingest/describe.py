"""What the report says of one scan: geometry, intensities, a histogram and a picture of its middle slices."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
import numpy.typing as npt

from nnssl.planning.orientation import codes, reoriented
from nnssl.planning.reading import Affine, Image

BINS = 32
_LATTICE_VOXELS = 200_000
_VIEW = "IPL"  # rows of coronal slices go to the feet, of axial ones to the back; columns to the left
_PICTURE = 72  # pixels of the longest side of a slice
# HU that counts as air or fat, how much of it a CT has, and what its bone or contrast reaches
_AIR_HU, _AIR_SHARE, _BONE_HU = -150.0, 0.005, 100.0
_HU_LIMITS = (-33_000.0, 70_000.0)  # 16 bits, and metal on extended scales
_MOST_HU = 5000.0  # of 99 in 100 voxels: bone and contrast end at about 3000, metal is rare
# emptier than air is only what scanners fill in outside their circle: one value, and few between it and air
_EMPTY_HU, _EMPTY_SHARE = -1200.0, 0.05


def describe(voxels: npt.NDArray[np.float32], to_world: Affine) -> dict[str, Any]:
    """Numbers of one channel, ready for JSON.

    Args:
        voxels: (D, H, W) finite.
        to_world: 4x4 from voxel index (d, h, w, 1) to mm in LPS.
    """
    spacing = np.linalg.norm(to_world[:3, :3], axis=0)
    sample = _sample(voxels).astype(np.float64)  # in float32 large values have no room for the edges of bins
    low, middle, high = (float(each) for each in np.percentile(sample, (1, 50, 99)))
    counts, _ = np.histogram(sample, BINS, (low, high)) if high > low else (np.zeros(BINS, int), None)
    return {
        "shape": [int(side) for side in voxels.shape],
        "spacing_mm": [round(float(side), 5) for side in spacing],
        "field_of_view_mm": [round(float(side * count), 2) for side, count in zip(spacing, voxels.shape, strict=True)],
        "orientation": codes(to_world),
        "min": float(voxels.min()),
        "max": float(voxels.max()),
        "mean": float(sample.mean(dtype=np.float64)),
        "std": float(sample.std(dtype=np.float64)),
        "percentile_01": low,
        "median": middle,
        "percentile_99": high,
        "histogram": [round(100 * int(count) / max(1, int(counts.max()))) for count in counts],
    }


def looks_like_ct(voxels: npt.NDArray[np.float32]) -> bool:
    """Whether values could be Hounsfield units.

    Air or fat well below 0 in more than a few voxels, something above 100, almost nothing above 5000, and below air
    nothing but one value for what was not scanned. MR, US and PET images hold no negative values but for rounding and
    noise; phase images reach as far below air as above.
    """
    sample = _sample(voxels)
    low, high = float(sample.min()), float(sample.max())
    if low <= _HU_LIMITS[0] or not _BONE_HU < high < _HU_LIMITS[1] or float(np.percentile(sample, 99)) > _MOST_HU:
        return False
    between = float(((sample < _EMPTY_HU) & (sample != low)).mean())
    return between < _EMPTY_SHARE and float((sample < _AIR_HU).mean()) > _AIR_SHARE


def content_hash(voxels: npt.NDArray[np.float32]) -> str:
    """The same for the same voxels, whatever the file, its format and its header."""
    digest = hashlib.sha256(repr(voxels.shape).encode())
    for plane in voxels:
        digest.update(np.ascontiguousarray(plane + np.float32(0)).tobytes())  # -0.0 becomes 0.0
    return digest.hexdigest()


def picture(voxels: npt.NDArray[np.float32], to_world: Affine) -> bytes:
    """A JPEG of the middle axial, coronal and sagittal slice, head and front up, each with square millimetres."""
    from PIL import Image as Picture

    low, high = (float(each) for each in np.percentile(_sample(voxels), (1, 99)))
    steps = [max(1, min(side // (2 * _PICTURE), side // 2)) for side in voxels.shape]
    coarse, to_world = voxels[tuple(slice(None, None, step) for step in steps)], to_world @ np.diag([*steps, 1.0])
    d, h, w = (float(side) for side in np.linalg.norm(to_world[:3, :3], axis=0))
    seen = Image(data=coarse[None], spacing_mm=(d, h, w), to_world=to_world, source_hash="")
    lying = reoriented(seen, _VIEW)
    voxels, spacing = lying.data[0], np.array(lying.spacing_mm)
    made = []
    for axis in range(3):
        plane = np.take(voxels, voxels.shape[axis] // 2, axis)
        down, across = (spacing[each] * voxels.shape[each] for each in range(3) if each != axis)
        scale = _PICTURE / max(down, across, 1e-6)
        size = (max(1, round(across * scale)), max(1, round(down * scale)))
        grey = np.clip((plane - low) / max(high - low, 1e-6), 0, 1) * 255
        made.append(Picture.fromarray(grey.astype(np.uint8)).resize(size, Picture.Resampling.BILINEAR))
    sheet = Picture.new("L", (3 * _PICTURE + 8, _PICTURE))
    for number, image in enumerate(made):
        place = (number * (_PICTURE + 4) + (_PICTURE - image.width) // 2, (_PICTURE - image.height) // 2)
        sheet.paste(image, place)
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=70)
    return buffer.getvalue()


def _sample(voxels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    step = max(1, round((voxels.size / _LATTICE_VOXELS) ** (1 / 3)))
    return voxels[tuple(slice(None, None, min(step, max(1, side // 2))) for side in voxels.shape)].ravel()
