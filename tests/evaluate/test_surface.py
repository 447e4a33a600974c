"""Normalised surface distance by hand, against the sphere, and its rules for what is absent."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from nnssl.errors import DataError
from nnssl.evaluate.surface import surface_dice, surface_dice_per_class


def cube(shape: tuple[int, int, int], lower: tuple[int, int, int], side: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(start, start + side) for start in lower)] = True
    return mask


def test_a_moved_cube_by_hand() -> None:
    # moved by 3 mm along D; faces are 4 x 4 mm^2. The outer end is 3 mm away. Of a side's four columns of voxel faces
    # the outermost is 2.5 mm from the other cube's end, the next 1.5 mm: 3/4 lie within 2 mm
    here, there = cube((12, 8, 8), (2, 2, 2), 4), cube((12, 8, 8), (5, 2, 2), 4)
    found = surface_dice(here, there, spacing_mm=(1, 1, 1), tolerance_mm=2)
    near_ends = 16.0  # the end that lies inside the other cube is up to 2 mm from its sides
    assert found == pytest.approx((near_ends + 4 * 16 * 3 / 4) / 96)
    assert surface_dice(here, there, spacing_mm=(1, 1, 1), tolerance_mm=3) == 1
    assert surface_dice(here, here, spacing_mm=(1, 1, 1), tolerance_mm=0.01) == 1


def test_spacing_is_in_mm_and_weighs_areas() -> None:
    here, there = cube((12, 8, 8), (2, 2, 2), 4), cube((12, 8, 8), (3, 2, 2), 4)
    assert surface_dice(here, there, spacing_mm=(1, 1, 1)) == 1
    assert surface_dice(here, there, spacing_mm=(2, 1, 1)) == 1
    far = surface_dice(here, there, spacing_mm=(2.5, 0.5, 0.5))
    # moved by one voxel of 2.5 mm: of the ends, 2 x 2 mm^2, the outer one is 2.5 mm away, the inner one is near the
    # other's sides; of the sides, 10 x 2 mm^2, the outermost faces are 1.25 mm from the other's end
    end, side = 2 * 2.0, 10 * 2.0
    assert far == pytest.approx((end + 4 * side) / (2 * end + 4 * side))


def test_spheres_agree_with_geometry() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(80)] * 3, indexing="ij"), -1) - np.array([39.6, 40.1, 39.9])
    direction = np.array([0.6, 0.64, 0.48])
    for shift, expected in ((3, 2 / 3), (4, 1 / 2), (6, 1 / 3)):
        one = (grid**2).sum(-1) < 30**2
        other = ((grid - shift * direction) ** 2).sum(-1) < 30**2
        # surfaces of large spheres are |shift cos a| apart: within 2 mm on a share 2 / shift of the surface
        assert surface_dice(one, other, spacing_mm=(1, 1, 1)) == pytest.approx(expected, abs=0.07)


def test_what_is_absent_counts_as_with_dice() -> None:
    truth, prediction = np.zeros((2, 6, 6, 6), int)
    truth[1:4, 1:4, 1:4] = 1
    prediction[1:4, 1:4, 1:4] = 1
    prediction[5, 5, 5] = 2
    found = surface_dice_per_class(
        prediction, truth, {"a": [1], "b": [2], "c": [3], "both": [1, 2]}, spacing_mm=(1, 1, 1)
    )
    assert found["a"] == 1
    assert found["b"] == 0
    assert math.isnan(found["c"])
    assert 0.9 < found["both"] < 1


def test_organs_at_the_edge_have_a_surface_there() -> None:
    whole = np.ones((4, 4, 4), bool)
    assert surface_dice(whole, whole, spacing_mm=(1, 1, 1)) == 1


def test_maps_of_different_shapes_are_refused() -> None:
    with pytest.raises(DataError, match="one shape"):
        surface_dice_per_class(np.zeros((2, 2, 2), int), np.zeros((2, 2, 3), int), {"a": [1]}, spacing_mm=(1, 1, 1))
