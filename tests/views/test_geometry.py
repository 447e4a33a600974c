"""Cutting a view by its matrix, against a naive float64 loop, and the coordinates that views report."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnssl.data.loader import make_batch
from nnssl.method import View
from nnssl.needs import Needs
from nnssl.views.affine import view_to_case
from nnssl.views.geometry import antialias_sigma, cut, read_bounds
from nnssl.views.spec import Geometry, IntegerCrop
from tests.volumes import collect, noise, one_group, ramp, write_case

ISOTROPIC, ANISOTROPIC = (1.0, 1.0, 1.0), (5.0, 0.8, 0.8)
EVERYTHING = Geometry(
    scale=(0.7, 1.4), rotation_deg=30, through_plane_rotation_deg=20, flip=(0.5, 0.5, 0.5), rot90=0.5, per_axis=True
)


def view_of(folder: Path, geometry: Geometry | IntegerCrop, spacing_mm: tuple[float, float, float], keys: int) -> View:
    case = write_case(folder, "ramp", ramp((30, 40, 44)), spacing_mm=spacing_mm)
    batch = make_batch(collect(case), one_group((8, 12, 12), geometry=geometry, count=2), Needs(), range(keys), seed=3)
    return batch.views["v"]


def naive(volume: np.ndarray, matrix: np.ndarray, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Trilinear samples (clamped to the volume) and validity, one voxel after the other, in float64."""
    image, valid = np.zeros((len(volume), *size)), np.zeros(size, dtype=bool)
    shape = np.array(volume.shape[1:])
    for voxel in np.ndindex(*size):
        point = (matrix @ np.array([*voxel, 1.0]))[:3]
        valid[voxel] = bool(((point >= -0.5 - 1e-4) & (point <= shape - 0.5 + 1e-4)).all())
        inside = np.clip(point, 0, shape - 1)
        low = np.minimum(np.floor(inside).astype(int), np.maximum(shape - 2, 0))
        for corner in product((0, 1), repeat=3):
            share = np.prod(np.where(np.array(corner) == 1, inside - low, 1 - (inside - low)))
            if share > 0:
                image[(slice(None), *voxel)] += share * volume[(slice(None), *(low + corner))]
    return image, valid


def off_the_edge(shape: tuple[int, ...], matrix: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Whether a voxel's place is no nearer to the volume's edge than rounding moves it: others may fall either way."""
    voxels = np.stack([*np.indices(size), np.ones(size)])
    points = np.tensordot(matrix, voxels, 1)[:3]
    ends = np.array(shape)[:, None, None, None] - 0.5
    return (np.minimum(np.abs(points + 0.5), np.abs(points - ends)) > 1e-3).all(0)


def cut_whole(volume: np.ndarray, matrix: np.ndarray, size: tuple[int, ...], dtype: torch.dtype = torch.float64):  # type: ignore[no-untyped-def]
    shape = volume.shape[1:]
    lower, upper = read_bounds(matrix, size, shape, (1, 1, 1))
    box = volume[(slice(None), *[slice(a, b) for a, b in zip(lower, upper, strict=True)])]
    return cut(torch.from_numpy(np.ascontiguousarray(box)), lower, matrix, size, shape, (1, 1, 1), dtype)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    size=st.tuples(*[st.integers(1, 5)] * 3),
    rotation=st.sampled_from([(0, 0, 0), (25, 0, 0), (0, 40, 0), (0, 0, -90), (10, 20, 30)]),
    scale=st.tuples(*[st.floats(0.5, 1.9)] * 3),
    origin=st.tuples(*[st.floats(-3, 7)] * 3),
    flip=st.tuples(*[st.booleans()] * 3),
    rot90=st.integers(0, 3),
    spacing=st.sampled_from([ISOTROPIC, ANISOTROPIC]),
)
def test_cut_equals_a_naive_trilinear_loop(shape, size, rotation, scale, origin, flip, rot90, spacing) -> None:  # type: ignore[no-untyped-def]
    volume = noise(shape, channels=2).astype(np.float64)
    matrix = view_to_case(
        origin=np.array(origin),
        scale=np.array(scale),
        rotation_deg=np.array(rotation, dtype=float),
        spacing_mm=np.array(spacing),
        flip=flip,
        rot90=rot90,
        size=size,
    )
    made = cut_whole(volume, matrix, size)
    image, valid = naive(volume, matrix, size)
    sure = off_the_edge(volume.shape[1:], matrix, size)
    assert np.array_equal(made.valid[0].numpy()[sure], valid[sure])
    both = valid & made.valid[0].numpy()
    np.testing.assert_allclose(made.image.numpy()[:, both], image[:, both], atol=1e-3)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(6, 12)] * 3),
    side=st.integers(2, 6),
    flip=st.tuples(*[st.booleans()] * 3),
    rot90=st.integers(0, 3),
    data=st.data(),
)
def test_integer_views_are_bit_equal_slices(shape, side, flip, rot90, data) -> None:  # type: ignore[no-untyped-def]
    size = (data.draw(st.integers(1, 6)), side, side)
    start = [data.draw(st.integers(0, whole - part)) for whole, part in zip(shape, size, strict=True)]
    volume = noise(shape).astype(np.float16)
    matrix = view_to_case(
        origin=np.array(start, dtype=float),
        scale=np.ones(3),
        rotation_deg=np.zeros(3),
        spacing_mm=np.array([2.0, 0.7, 0.7]),
        flip=flip,
        rot90=rot90,
        size=size,
    )
    made = cut_whole(volume, matrix, size, torch.float32)
    region = volume[(slice(None), *[slice(a, a + n) for a, n in zip(start, size, strict=True)])]
    turned = np.rot90(region, rot90, axes=(2, 3))
    mirrored = np.flip(turned, [axis + 1 for axis in range(3) if flip[axis]])
    assert np.array_equal(made.image.numpy(), mirrored.astype(np.float32))
    assert made.valid.all()


@pytest.mark.parametrize("spacing_mm", [ISOTROPIC, ANISOTROPIC])
@pytest.mark.parametrize(
    "geometry",
    [EVERYTHING, Geometry(rotation_deg=90), Geometry(scale=(1.5, 1.5)), IntegerCrop(flip=(0.5, 0.5, 0.5), rot90=1.0)],
)
def test_a_coordinate_ramp_comes_back_as_its_world_coordinates(
    tmp_path: Path, geometry: Geometry | IntegerCrop, spacing_mm: tuple[float, float, float]
) -> None:
    view = view_of(tmp_path, geometry, spacing_mm, keys=12)
    to_world = torch.diag(torch.tensor([*spacing_mm, 1.0], dtype=torch.float64))
    to_world[:3, 3] = torch.tensor([10.0, 20.0, 30.0])
    index = torch.from_numpy(ramp(view.image.shape[-3:])).double().flatten(1)
    index = torch.cat([index, torch.ones_like(index[:1])])
    claimed = (to_world @ view.to_source @ index)[:, :, :3]
    seen = view.image.double().flatten(3)
    actual = to_world[:3, :3] @ seen + to_world[:3, 3:]
    error_voxels = ((claimed - actual).abs() / torch.tensor(spacing_mm)[:, None]).amax(2)
    valid = view.valid.flatten(2)
    # Between the centre and the edge of an outermost voxel there is nothing to interpolate with; values are clamped.
    inside = ((seen > 0.01) & (seen < torch.tensor([28.99, 38.99, 42.99])[:, None])).all(2) & valid
    assert inside.float().mean() > 0.5
    assert float(error_voxels[inside].max()) < 1e-3
    assert float(error_voxels[valid].max()) < 0.51


def test_rotation_is_rigid_in_mm_on_anisotropic_voxels(tmp_path: Path) -> None:
    geometry = Geometry(rotation_deg=30, through_plane_rotation_deg=30)
    view = view_of(tmp_path, geometry, ANISOTROPIC, keys=4)
    mm = torch.diag(torch.tensor(ANISOTROPIC, dtype=torch.float64))
    turn = mm @ view.to_source[..., :3, :3] @ torch.linalg.inv(mm)
    identity = torch.eye(3, dtype=torch.float64).expand_as(turn)
    torch.testing.assert_close(turn @ turn.mT, identity)
    assert (torch.linalg.det(turn) > 0.999).all()


def test_rotation_30_means_degrees(tmp_path: Path) -> None:
    geometry = Geometry(rotation_deg=30, through_plane_rotation_deg=0)
    view = view_of(tmp_path, geometry, ISOTROPIC, keys=60)
    angle = torch.rad2deg(torch.atan2(view.to_source[..., 2, 1], view.to_source[..., 1, 1]))
    torch.testing.assert_close(angle, view.draws["rotation_deg"][..., 0])
    assert float(angle.abs().max()) <= 30 and float(angle.abs().max()) > 25
    assert abs(float(angle.mean())) < 5


def test_a_whole_number_of_degrees_about_one_axis_does_not_round_the_others(tmp_path: Path) -> None:
    geometry = Geometry(rotation_deg=0.9, through_plane_rotation_deg=0)
    drawn = view_of(tmp_path, geometry, ISOTROPIC, keys=5).draws["rotation_deg"]
    assert (drawn[..., 0] != 0).all() and (drawn[..., 1:] == 0).all()


def test_no_rotation_out_of_plane_where_spacing_differs_threefold(tmp_path: Path) -> None:
    turned = view_of(tmp_path, Geometry(rotation_deg=30), ANISOTROPIC, keys=5).draws["rotation_deg"]
    assert (turned[..., 1:] == 0).all() and (turned[..., 0] != 0).all()
    free = view_of(tmp_path, Geometry(rotation_deg=30), (2.0, 0.8, 0.8), keys=5).draws["rotation_deg"]
    assert (free != 0).all()


def test_flip_and_turn_rates_are_those_asked_for(tmp_path: Path) -> None:
    view = view_of(tmp_path, IntegerCrop(flip=(0.0, 0.3, 0.8), rot90=0.6), ISOTROPIC, keys=250)
    rates = view.draws["flip"].double().mean((0, 1))
    assert rates[0] == 0 and abs(rates[1] - 0.3) < 0.07 and abs(rates[2] - 0.8) < 0.07
    turns = view.draws["rot90"]
    assert abs(float((turns > 0).double().mean()) - 0.6) < 0.07
    assert set(turns.flatten().tolist()) == {0, 1, 2, 3}


def test_laterality_is_kept_with_flip_off(tmp_path: Path) -> None:
    view = view_of(tmp_path, Geometry(scale=(0.8, 1.2), rotation_deg=30), ISOTROPIC, keys=20)
    assert (torch.linalg.det(view.to_source[..., :3, :3]) > 0).all()


def test_quarter_turns_only_between_equal_axes(tmp_path: Path) -> None:
    case = write_case(tmp_path, "ramp", ramp((16, 20, 20)), spacing_mm=(1.0, 0.8, 1.0))
    batch = make_batch(collect(case), one_group((8, 8, 8), geometry=IntegerCrop(rot90=1.0)), Needs(), [0, 1], seed=0)
    assert (batch.views["v"].draws["rot90"] == 0).all()


def test_scales_are_in_range_per_axis_and_through_plane_on_its_own(tmp_path: Path) -> None:
    shared = view_of(tmp_path, Geometry(scale=(0.8, 1.25)), ISOTROPIC, keys=100).draws["scale"]
    assert torch.equal(shared[..., 0], shared[..., 2])
    assert float(shared.min()) < 0.83 and float(shared.max()) > 1.2
    assert float(shared.min()) >= 0.8 and float(shared.max()) <= 1.25
    own = view_of(tmp_path, Geometry(scale=(0.8, 1.25), through_plane_scale=(1, 1)), ANISOTROPIC, keys=5).draws["scale"]
    assert (own[..., 0] == 1).all() and torch.equal(own[..., 1], own[..., 2]) and (own[..., 1] != 1).all()
    loose = view_of(tmp_path, Geometry(scale=(0.8, 1.25), per_axis=True), ISOTROPIC, keys=5).draws["scale"]
    assert (loose[..., 1] != loose[..., 2]).all()


def test_what_lies_outside_the_case_is_invalid_and_filled_with_the_minimum(tmp_path: Path) -> None:
    case = write_case(tmp_path, "small", noise((6, 20, 20)) + 10)
    view = make_batch(collect(case), one_group((8, 8, 8), geometry=IntegerCrop()), Needs(), [0, 1, 2], seed=0).views[
        "v"
    ]
    assert view.valid.float().mean() == 6 / 8
    for image, valid in zip(view.image, view.valid, strict=True):
        outside = image[~valid.expand_as(image)]
        assert (outside == outside[0]).all() and 0 < float(outside[0]) <= float(image[valid].min())


def test_strong_shrinking_is_smoothed_and_mild_is_not() -> None:
    board = (np.indices((24, 24, 24)).sum(0) % 2).astype(np.float64)[None]
    matrix = view_to_case(
        origin=np.zeros(3), scale=np.full(3, 4.0), rotation_deg=np.zeros(3), spacing_mm=np.ones(3),
        flip=(False,) * 3, rot90=0, size=(6, 6, 6),
    )  # fmt: skip
    shrunk = cut(torch.from_numpy(board), np.zeros(3, int), matrix, (6,) * 3, (24,) * 3, (4, 4, 4), torch.float64)
    assert float((shrunk.image - 0.5).abs().max()) < 0.01
    assert antialias_sigma(2.0) == 0 and antialias_sigma(4.0) == 1.5
