"""How an array lies in the patient, and turning scans so that they lie alike, by whole axes only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from nnssl.errors import DataError
from nnssl.planning.reading import Image

Affine = npt.NDArray[np.float64]
_TOWARDS = ("RL", "AP", "IS")  # what the negative and the positive direction of the LPS axes x y z point to


def codes(to_world: npt.ArrayLike) -> str:
    """Where index D, H and W grow to: "SPL" is feet to head, front to back, right to left.

    Args:
        to_world: (4, 4) from voxel index (d, h, w, 1) to mm in LPS.

    Example:
        >>> codes([[0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
        'SPL'
    """
    columns = np.asarray(to_world, np.float64)[:3, :3]
    columns = columns / np.linalg.norm(columns, axis=0)
    letters, left = ["", "", ""], [0, 1, 2]
    # the surest axis first, so that an oblique scan never names one world axis twice
    for axis in np.argsort(-np.abs(columns).max(axis=0), kind="stable"):
        world = max(left, key=lambda row: abs(columns[row, axis]))
        left.remove(world)
        letters[axis] = _TOWARDS[world][int(columns[world, axis] > 0)]
    return "".join(letters)


def reoriented(image: Image, wanted: str) -> Image:
    """The same scan with its axes exchanged and mirrored; every voxel keeps its value and its place in the world.

    Args:
        image: as read.
        wanted: as `codes` gives it.

    Raises:
        DataError: `wanted` names no three axes.
    """
    if sorted(_world_axis(letter) for letter in wanted) != [0, 1, 2]:
        raise DataError(f"An orientation is three of RL, AP and IS, one of each, such as SPL; found {wanted!r}.")
    found = codes(image.to_world)
    order = [next(axis for axis in range(3) if _world_axis(found[axis]) == _world_axis(letter)) for letter in wanted]
    mirrored = [found[source] != letter for source, letter in zip(order, wanted, strict=True)]
    moved, data = np.zeros((4, 4)), image.data.transpose(0, *(axis + 1 for axis in order))
    moved[3, 3] = 1
    for axis, (source, mirror) in enumerate(zip(order, mirrored, strict=True)):
        moved[source, axis] = -1 if mirror else 1
        moved[source, 3] = data.shape[axis + 1] - 1 if mirror else 0
    flips = tuple(axis + 1 for axis, mirror in enumerate(mirrored) if mirror)
    s0, s1, s2 = (image.spacing_mm[axis] for axis in order)
    return replace(
        image,
        data=np.ascontiguousarray(np.flip(data, flips)),
        spacing_mm=(s0, s1, s2),
        to_world=image.to_world @ moved,
    )


def most_common(affines: Sequence[npt.ArrayLike]) -> str:
    """The orientation that most of the scans have; the first by name among equals."""
    found = [codes(affine) for affine in affines]
    return max(sorted(set(found)), key=found.count)


def _world_axis(letter: str) -> int:
    return next((axis for axis, ends in enumerate(_TOWARDS) if letter in ends), -1)
