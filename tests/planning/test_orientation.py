"""Scans are turned by whole axes, and every voxel keeps its place in the world."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from nnssl.errors import DataError
from nnssl.planning.orientation import codes, most_common, reoriented
from nnssl.planning.reading import Image

ALL = ["".join(ends) for order in itertools.permutations(("RL", "AP", "IS")) for ends in itertools.product(*order)]


def scan() -> Image:
    """Oblique, anisotropic."""
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(np.eye(3)[::-1] + 0.2 * rng.normal(size=(3, 3)))
    to_world = np.eye(4)
    to_world[:3, :3] = turn * [3.0, 2.0, 1.0]
    to_world[:3, 3] = (5.0, -7.0, 11.0)
    data = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    return Image(data=data, spacing_mm=(3.0, 2.0, 1.0), to_world=to_world, source_hash="")


@pytest.mark.parametrize("wanted", ALL)
def test_every_voxel_keeps_its_value_and_its_place(wanted: str) -> None:
    before = scan()
    after = reoriented(before, wanted)
    assert codes(after.to_world) == wanted
    np.testing.assert_allclose(np.linalg.norm(after.to_world[:3, :3], axis=0), after.spacing_mm)
    for index in np.ndindex(after.data.shape[1:]):
        place = after.to_world @ [*index, 1.0]
        voxel = np.rint(np.linalg.solve(before.to_world, place))[:3].astype(int)
        np.testing.assert_array_equal(after.data[(slice(None), *index)], before.data[(slice(None), *voxel)])


def test_codes_name_where_an_index_grows_to() -> None:
    assert codes(np.eye(4)[[2, 1, 0, 3]]) == "SPL"
    assert codes(np.diag([1.0, -1.0, 1.0, 1.0])) == "LAS"
    assert most_common([np.eye(4), np.diag([-1.0, 1, 1, 1]), np.eye(4)]) == "LPS"


def test_an_oblique_scan_names_every_axis_once() -> None:
    turn = np.array([[0.7, 0.6, 0.3], [0.6, 0.5, -0.6], [0.3, -0.6, 0.7]])
    to_world = np.eye(4)
    to_world[:3, :3] = turn
    assert sorted("RL".find(c) >= 0 for c in codes(to_world)) == [False, False, True]


def test_what_is_no_orientation_is_refused() -> None:
    with pytest.raises(DataError, match="such as SPL"):
        reoriented(scan(), "SSL")
