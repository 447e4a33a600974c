"""The projection view: physics, anatomy instead of array axes, other modalities, and the picture beside the file."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from nnssl_cads.projection import Projection, projected, scaled, square, upright

from nnssl.data.sidecar import write_sidecar
from nnssl.needs import RawCase


def case(image: npt.NDArray[Any], to_world: npt.NDArray[Any], modality: tuple[str, ...] = ("ct",)) -> RawCase:
    image = image.astype(np.float32)
    return RawCase(case_id="a", modality=modality, image=image, to_world=to_world, original=image,
                   original_to_world=to_world)  # fmt: skip


def patient() -> npt.NDArray[np.float32]:
    """(S, P, L) voxels of air with a bone on the left, in front, near the head: no symmetry is left."""
    volume = np.full((12, 10, 14), -1024, dtype=np.float32)
    volume[2:10, 2:8, 3:11] = 40
    volume[8:10, 2:4, 9:11] = 900
    return volume


def seen_in(order: tuple[int, int, int], flips: tuple[int, ...], spacing: tuple[float, float, float]) -> RawCase:
    """The patient stored with other array axes, some reversed, with the affine that says so. S, P, L are axes 0 1 2."""
    world = {0: 2, 1: 1, 2: 0}  # S is the third world axis, P the second, L the first
    volume = patient().transpose(order)
    matrix = np.eye(4)
    matrix[:3, :3] = 0
    for axis, anatomical in enumerate(order):
        side = spacing[anatomical]
        sign = -1 if axis in flips else 1
        matrix[world[anatomical], axis] = sign * side
        if sign < 0:
            volume = np.flip(volume, axis)
            matrix[world[anatomical], 3] = side * (volume.shape[axis] - 1)
    return case(volume[None], matrix)


@pytest.mark.parametrize(
    ("name", "order", "flips"),
    [("LPS", (0, 1, 2), ()), ("RAS", (0, 1, 2), (1, 2)), ("row first", (1, 2, 0), (2,))],
)
def test_the_picture_is_frontal_and_upright_whatever_the_array_axes_are(
    name: str, order: tuple[int, int, int], flips: tuple[int, ...]
) -> None:
    image = Projection.compute(seen_in(order, flips, (1.0, 1.0, 1.0)))["image"][0]
    assert image.shape == (12, 14)
    row, column = np.unravel_index(image.argmax(), image.shape)
    # head up, so the bone near the head is in the upper half; the patient's left is on the right side of the picture
    assert row < 4
    assert column >= 9
    plain = (np.maximum(patient(), -1024) + 1024).sum(1)[::-1]
    np.testing.assert_allclose(image, scaled(plain), atol=1e-6)


def test_all_48_ways_to_store_a_patient_give_one_picture() -> None:
    wanted = Projection.compute(seen_in((0, 1, 2), (), (2.0, 1.0, 1.0)))["image"]
    for order in itertools.permutations(range(3)):
        for count in range(4):
            for flips in itertools.combinations(range(3), count):
                found = Projection.compute(seen_in(order, flips, (2.0, 1.0, 1.0)))  # type: ignore[arg-type]
                np.testing.assert_allclose(found["image"], wanted, atol=1e-6)
                assert float(found["pixel_mm"]) == 1.0


STORED = {
    "LPS": ((2, 1, 0), (False, False, False), ((-1, 0, 0), (0, -1, 0), (0, 0, 1))),
    "RAS": ((2, 1, 0), (True, True, False), ((1, 0, 0), (0, 1, 0), (0, 0, 1))),
    # as DeepLesion's scans: rows first, then columns, slices from head to feet
    "row_first": ((1, 2, 0), (False, False, True), ((0, -1, 0), (-1, 0, 0), (0, 0, -1))),
}
"""How a file holds the patient (S, P, L): its axes, which are reversed, and the affine to RAS, as columns in mm."""


def test_files_in_any_orientation_get_one_sidecar_from_preprocessing(tmp_path: Path) -> None:
    import json

    import nibabel

    from nnssl.planning.cases import read_raw_dataset
    from nnssl.planning.folder import preprocess_folder
    from nnssl.planning.grid import case_plan
    from nnssl.planning.requirements import of_trainers
    from tests.tiny import tiny_plans, workspace_folders

    where = workspace_folders(tmp_path)
    images = where.raw / "Dataset745_Tiny" / "imagesTr"
    images.mkdir(parents=True)
    for name, (order, reverse, columns) in STORED.items():
        voxels = patient().transpose(order)
        voxels = np.flip(voxels, [axis for axis in range(3) if reverse[axis]]).astype(np.int16)
        affine = np.eye(4)
        affine[:3, :3] = np.array(columns, dtype=float).T
        affine[:3, 3] = 7.0
        nibabel.save(nibabel.Nifti1Image(voxels, affine), images / f"{name}_0000.nii.gz")
    about = {"channel_names": {"0": "CT"}, "labels": {"background": 0}, "numTraining": 3, "file_ending": ".nii.gz"}
    (images.parent / "dataset.json").write_text(json.dumps(about))
    dataset = read_raw_dataset("Dataset745_Tiny", where)
    folder = tmp_path / "made"
    plan = case_plan(tiny_plans(dataset.name), "3d_fullres")
    made = preprocess_folder(dataset, plan, folder, of_trainers(["CADSTrainer"]), workers=1)
    assert set(made.made) == set(STORED)
    wanted = scaled((np.maximum(patient(), -1024) + 1024).sum(1)[::-1])
    for name in STORED:
        with np.load(folder / f"{name}.projection.npz") as arrays:
            np.testing.assert_allclose(arrays["image"][0], wanted, atol=1e-6)
        assert (folder / f"{name}.projection.png").is_file()


def test_it_is_made_of_the_whole_scan_and_not_of_what_was_cut_from_it() -> None:
    whole = seen_in((0, 1, 2), (), (1.0, 1.0, 1.0))
    cut = replace(whole, image=whole.original[:, 2:8, 2:6, 2:6] * 0.1, to_world=np.eye(4))
    before = Projection.compute(whole)["image"]
    np.testing.assert_array_equal(Projection.compute(cut)["image"], before)
    whole.original[0, 11, 0, 0] = 1500.0
    assert (Projection.compute(cut)["image"] != before).any()


def test_a_tilted_gantry_projects_along_the_nearest_axis() -> None:
    angle = np.deg2rad(15)
    tilt = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    matrix = np.eye(4)
    matrix[:3, :3] = tilt @ np.fliplr(np.eye(3))  # array axes S P L
    assert upright(matrix)[0] == (1, 0, 2)


def test_ct_is_the_line_integral_above_air() -> None:
    box = np.full((5, 3, 4), 476.0, dtype=np.float32)
    np.testing.assert_allclose(projected(box, "ct", 2.0), (476 + 1024) * 5 * 2.0)
    np.testing.assert_allclose(projected(np.full((5, 3, 4), -1024, np.float32), "ct", 2.0), 0)
    np.testing.assert_allclose(projected(np.full((5, 3, 4), -3000, np.float32), "ct", 2.0), 0)


def test_other_modalities_are_mean_and_maximum() -> None:
    volume = np.zeros((4, 2, 2), dtype=np.float32)
    volume[1:3, 0, 0] = 10.0
    volume[0, 1, 1] = 5.0
    np.testing.assert_allclose(projected(volume, "pet", 1.0), [[10, 0], [0, 5]])
    found = projected(volume, "t1", 1.0)
    assert found[0, 0] == pytest.approx(1.0)  # the air before and behind it weighs nothing
    assert found[0, 1] == 0
    assert not projected(np.full((4, 2, 2), 7.0, np.float32), "t1", 1.0).any()


def test_the_brightest_and_darkest_two_hundredth_of_mr_voxels_count_for_no_more() -> None:
    rng = np.random.default_rng(0)
    volume = rng.uniform(100, 200, (20, 10, 10)).astype(np.float32)
    volume[0, 0, :5] = 1e6  # 5 of 2000 voxels
    low, high = np.percentile(volume, (0.5, 99.5))
    density = np.clip((volume - low) / (high - low), 0, 1)
    body = density > 0.05
    found = projected(volume, "t1", 1.0)
    for row, column in itertools.product(range(10), range(10)):
        ray, inside = density[:, row, column], body[:, row, column]
        assert found[row, column] == pytest.approx(ray[inside].mean(), rel=1e-5)
    assert found[0, :5].max() < 0.7


def test_values_lie_between_minus_one_and_one_and_a_constant_case_gives_zeros() -> None:
    two = np.concatenate([patient()[None], np.full((1, 12, 10, 14), 3.0, np.float32)])
    to_world = np.eye(4)
    to_world[:3, :3] = np.fliplr(np.eye(3))
    found = Projection.compute(case(two, to_world, ("t1", "t2")))
    image = found["image"]
    assert image.shape[0] == 2
    assert (image[0].min(), image[0].max()) == (-1.0, 1.0)
    assert not image[1].any()
    assert image.dtype == np.float32


@pytest.mark.parametrize("modality", [("ct",), ("t1", "t2"), ("ct", "pet")])
def test_every_channel_is_projected_along_the_same_axis_by_its_own_rule(modality: tuple[str, ...]) -> None:
    one = seen_in((1, 2, 0), (2,), (2.0, 1.0, 1.5))
    volumes = [one.original[0] * (1 + channel) for channel in range(len(modality))]
    together = Projection.compute(case(np.stack(volumes), one.original_to_world, modality))["image"]
    assert np.isfinite(together).all()
    for channel, volume in enumerate(volumes):
        alone = Projection.compute(case(volume[None], one.original_to_world, modality[channel : channel + 1]))
        np.testing.assert_array_equal(together[channel], alone["image"][0])


def test_pixels_become_square_and_large_pictures_smaller() -> None:
    plane = np.tile(np.arange(8.0), (4, 1))[None]
    made, pixel_mm = square(plane, (2.0, 1.0))
    assert (made.shape, pixel_mm) == ((1, 8, 8), 1.0)
    np.testing.assert_allclose(made[0], np.tile(np.arange(8.0), (8, 1)))
    made, pixel_mm = square(np.ones((1, 1024, 300)), (0.5, 0.5))
    assert made.shape[1:] == (256, 75)
    assert pixel_mm == 2.0
    np.testing.assert_allclose(made, 1.0)


def test_a_picture_is_written_beside_the_arrays(tmp_path: Path) -> None:
    from matplotlib.image import imread

    arrays = Projection.compute(seen_in((0, 1, 2), (), (1.0, 1.0, 1.0)))
    write_sidecar(tmp_path / "a.projection.npz", Projection, arrays)
    picture = imread(tmp_path / "a.projection.png")
    assert picture.shape[:2] == (12, 14)
    np.testing.assert_allclose(picture[..., 0], (arrays["image"][0] + 1) / 2, atol=1 / 255)
    assert {path.name for path in tmp_path.iterdir()} == {"a.projection.npz", "a.projection.png"}
