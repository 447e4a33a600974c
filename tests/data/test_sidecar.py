"""Sidecars on the disk, and the body mask."""

from __future__ import annotations

import numpy as np
import pytest

from nnssl.data.sidecar import BodyMask, random_body_voxel, read_sidecar, sidecar_file, stored_version, write_sidecar
from nnssl.errors import DataError, PluginError
from nnssl.needs import RawCase, Sidecar
from nnssl.planning.bodymask import foreground, otsu_threshold
from tests.data.test_index import entry

LPS_FROM_DHW = np.array([[0, 0, 1.0, 0], [0, 1.0, 0, 0], [2.0, 0, 0, 0], [0, 0, 0, 1]])


def raw_case(image, modality=("ct",), to_world=LPS_FROM_DHW):
    image = image.astype(np.float32)
    return RawCase(
        case_id="a", modality=modality, image=image, to_world=to_world, original=image, original_to_world=to_world
    )


def chest():
    """A body of 40 HU in air, with a lung of -800 HU that the first and last slice cut."""
    _, h, w = np.meshgrid(np.arange(20), np.arange(60), np.arange(80), indexing="ij")
    image = np.full((1, 20, 60, 80), -1000.0)
    image[0][((h - 25) / 20.0) ** 2 + ((w - 40) / 30.0) ** 2 < 1] = 40
    image[0][((h - 25) / 8.0) ** 2 + ((w - 40) / 9.0) ** 2 < 1] = -800
    return image, ((h - 25) / 20.0) ** 2 + ((w - 40) / 30.0) ** 2 < 1


def lattice_of(arrays, volume):
    (d, h, w), (i, j, k) = arrays["first"], arrays["stride"]
    return volume[d::i, h::j, w::k]


def test_lungs_that_reach_the_first_slice_belong_to_the_body():
    image, body = chest()
    arrays = BodyMask.compute(raw_case(image))
    np.testing.assert_array_equal(arrays["mask"], lattice_of(arrays, body))
    assert arrays["stride"].tolist() == [2, 4, 4]


def test_the_vertical_axis_is_found_from_the_world():
    image, body = chest()
    swapped = image.transpose(0, 2, 1, 3)  # H D W: now axis 1 is vertical
    arrays = BodyMask.compute(raw_case(swapped, to_world=LPS_FROM_DHW[:, [1, 0, 2, 3]]))
    np.testing.assert_array_equal(arrays["mask"], lattice_of(arrays, body.transpose(1, 0, 2)))


def test_an_mr_body_is_what_is_bright():
    rng = np.random.default_rng(0)
    image, body = chest()
    image = np.where(body, 300, 10) + rng.normal(0, 3, image.shape)
    arrays = BodyMask.compute(raw_case(image, ("t1",)))
    np.testing.assert_array_equal(arrays["mask"], lattice_of(arrays, body))


def test_an_mr_crop_without_air_is_all_body():
    tissue = np.random.default_rng(0).choice([60.0, 110.0, 140.0], size=(1, 20, 24, 20)).astype(np.float32)
    assert BodyMask.compute(raw_case(tissue, ("t1",)))["mask"].all()


def test_otsu_separates_two_peaks_despite_a_bright_spot():
    values = np.concatenate([np.full(500, 10.0), np.full(490, 200.0), np.full(3, 1e6)]).astype(np.float32)
    assert 10 < otsu_threshold(values) < 200


def test_random_body_voxels_are_in_the_body_and_keyed():
    image, body = chest()
    arrays = BodyMask.compute(raw_case(image))
    drawn = [random_body_voxel(arrays, np.random.default_rng(seed)) for seed in range(200)]
    assert all(body[voxel] for voxel in drawn)
    assert len(set(drawn)) > 100
    assert drawn == [random_body_voxel(arrays, np.random.default_rng(seed)) for seed in range(200)]


def test_a_case_of_air_alone_is_all_body():
    arrays = BodyMask.compute(raw_case(np.full((1, 8, 9, 10), -1000.0)))
    assert arrays["mask"].all()


def test_ct_foreground_is_the_body_without_the_table():
    image, body = chest()
    image[0, :, 55:57] = 100
    image[0, 0] = image[0, -1] = np.where(body[0], 40, -1000)  # close the lung for filling
    np.testing.assert_array_equal(foreground(image.astype(np.float32), ("ct",)), body)


def test_what_is_written_is_read_without_pickle(tmp_path):
    arrays = {"mask": np.eye(3, dtype=bool), "first": np.arange(3)}
    write_sidecar(tmp_path / sidecar_file("a", BodyMask), BodyMask, arrays)
    read = read_sidecar(entry(tmp_path), BodyMask)
    assert sorted(read) == ["first", "mask"]
    np.testing.assert_array_equal(read["mask"], arrays["mask"])


def test_wrong_version_and_missing_sidecars_say_what_to_run(tmp_path):
    class Newer(Sidecar):
        name = "body"
        version = 99

    with pytest.raises(DataError, match="--for"):
        read_sidecar(entry(tmp_path), BodyMask)
    write_sidecar(tmp_path / "a.body.npz", BodyMask, {"mask": np.ones(2)})
    assert stored_version(tmp_path / "a.body.npz") == BodyMask.version
    with pytest.raises(DataError, match="version 2, needed is 99"):
        read_sidecar(entry(tmp_path), Newer)
    (tmp_path / "a.body.npz").write_bytes(b"PK")
    assert stored_version(tmp_path / "a.body.npz") is None


def test_objects_are_refused(tmp_path):
    with pytest.raises(PluginError, match="'names' is object"):
        write_sidecar(tmp_path / "a.body.npz", BodyMask, {"names": np.array(["x", None], dtype=object)})
