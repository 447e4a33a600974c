"""Cropping to the nonzero box, as nnU-Net does it, without filling holes first: a hole never moves the box."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


def nonzero_box(data: npt.NDArray[np.float32]) -> Box:
    """((first, last + 1), ...) per axis of the voxels where any channel of `data` (C, D, H, W) is not 0.

    Every channel set has such a voxel: constant images were refused when reading.
    """
    box: list[tuple[int, int]] = []
    for axis in range(3):
        planes = np.moveaxis(data, axis + 1, 0)
        # from both ends inwards: most scans have something in their outermost planes, so this looks at few voxels
        first = next(index for index in range(len(planes)) if planes[index].any())
        last = next(index for index in range(len(planes) - 1, -1, -1) if planes[index].any())
        box.append((first, last + 1))
    return box[0], box[1], box[2]


def crop(data: npt.NDArray[np.float32], box: Box) -> npt.NDArray[np.float32]:
    """The view of `data` (C, D, H, W) inside `box`."""
    (d0, d1), (h0, h1), (w0, w1) = box
    return data[:, d0:d1, h0:h1, w0:w1]


def nonzero_mask(data: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """(D, H, W) where any channel is not 0, holes filled: the voxels that masked normalisation looks at."""
    from scipy import ndimage

    mask: npt.NDArray[np.bool_] = ndimage.binary_fill_holes((data != 0).any(0))
    return mask
