"""Overlap of views against counting voxels."""

from __future__ import annotations

import numpy as np
import pytest

from nnssl.views.affine import overlap, rotation, symmetry, view_to_case


def matrix(origin: tuple[float, ...], scale: float = 1.0, degrees: float = 0.0, rot90: int = 0) -> np.ndarray:
    return view_to_case(
        origin=np.array(origin, dtype=float), scale=np.full(3, scale), rotation_deg=np.array([degrees, 0, 0]),
        spacing_mm=np.ones(3), flip=(True, False, True), rot90=rot90, size=(10, 10, 10),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("first", "second", "share"),
    [
        (matrix((0, 0, 0)), matrix((0, 0, 0), rot90=1), 1.0),
        (matrix((0, 0, 0)), matrix((5, 0, 0)), 0.5),
        (matrix((0, 0, 0)), matrix((5, 5, 5)), 0.125),
        (matrix((0, 0, 0)), matrix((10, 0, 0)), 0.0),
        (matrix((0, 0, 0)), matrix((0, 0, 0), scale=2.0), 0.125),  # of the larger view
    ],
)
def test_overlap_of_upright_views_is_exact(first: np.ndarray, second: np.ndarray, share: float) -> None:
    assert overlap(first, second, (10, 10, 10)) == pytest.approx(share)
    assert overlap(second, first, (10, 10, 10)) == pytest.approx(share)


def test_overlap_of_a_square_turned_by_45_degrees() -> None:
    # Two unit squares, one turned by 45 degrees about the common centre, share 2 (sqrt 2 - 1) of their area.
    share = overlap(matrix((0, 0, 0)), matrix((0, 0, 0), degrees=45), (10, 10, 10))
    assert share == pytest.approx(2 * (np.sqrt(2) - 1), abs=0.05)


def test_rotation_turns_about_d_then_h_then_w() -> None:
    turned = rotation((90, 0, 0)) @ np.array([0, 1, 0])
    np.testing.assert_allclose(turned, [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(rotation((90, 90, 0)), rotation((0, 90, 0)) @ rotation((90, 0, 0)), atol=1e-12)


def test_symmetries_are_signed_permutations() -> None:
    for turns in range(4):
        both = symmetry((True, False, True), turns)
        np.testing.assert_array_equal(np.abs(both).sum(0), 1)
        np.testing.assert_array_equal(both @ both.T, np.eye(3))
