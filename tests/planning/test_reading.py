"""Reading: nnU-Net's voxels for good files, one sentence with the name for bad ones."""

from __future__ import annotations

import gzip
import os

import nibabel
import numpy as np
import pytest
import SimpleITK

from nnssl.errors import DataError
from nnssl.planning.reading import read_image
from tests.tiny import write_image


@pytest.fixture
def volume():
    return np.random.default_rng(0).integers(-1000, 1000, (6, 7, 8)).astype(np.int16)


def nnunets(file, reader="SimpleITKIO"):
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

    return recursive_find_reader_writer_by_name(reader)().read_images([str(file)])


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_voxels_and_spacing_are_nnunets(tmp_path, volume, ending, dtype):
    file = tmp_path / f"case_0000{ending}"
    write_image(file, np.abs(volume).astype(dtype) % 200, (2.5, 1.25, 0.7))
    expected, properties = nnunets(file)
    image = read_image([file], "SimpleITKIO")
    np.testing.assert_array_equal(image.data, expected)
    assert image.spacing_mm == tuple(properties["spacing"])


@pytest.mark.parametrize("slope", [1.0, 0.5, 2.7])
def test_slope_and_intercept_are_applied(tmp_path, volume, slope):
    image = nibabel.Nifti1Image(volume.transpose(2, 1, 0), np.diag([-1.0, -1.0, 2.0, 1.0]))
    image.header.set_slope_inter(slope, -3.25)
    nibabel.save(image, tmp_path / "case_0000.nii.gz")
    expected, _ = nnunets(tmp_path / "case_0000.nii.gz")
    np.testing.assert_allclose(read_image([tmp_path / "case_0000.nii.gz"], "SimpleITKIO").data, expected, rtol=1e-6)


@pytest.mark.parametrize("reader", ["NibabelIO", "NibabelIOWithReorient", "SimpleITKIOWithReorient"])
def test_other_readers_of_nnunets_agree_about_the_world(tmp_path, reader):
    """A ramp of the x coordinate: however a reader orders the axes, `to_world` must lead to the voxel's value."""
    image = SimpleITK.Image(9, 8, 7, SimpleITK.sitkFloat32)
    image.SetSpacing((1.5, 2.0, 3.0))
    image.SetOrigin((-4.0, 5.0, 6.0))
    image.SetDirection((0, -1, 0, 0, 0, -1, 1, 0, 0))
    for x in range(9):
        for y in range(8):
            for z in range(7):
                image[x, y, z] = image.TransformIndexToPhysicalPoint((x, y, z))[0]
    file = tmp_path / "case_0000.nii.gz"
    SimpleITK.WriteImage(image, str(file))
    read = read_image([file], reader)
    np.testing.assert_allclose(read.data, nnunets(file, reader)[0])
    for index in [(0, 0, 0), (2, 3, 4), (6, 1, 5)]:
        world = read.to_world @ np.array([*index, 1.0])
        assert read.data[(0, *index)] == pytest.approx(world[0], abs=1e-4)


def test_a_file_of_two_gzip_members_is_read(tmp_path, volume):
    write_image(tmp_path / "case.nii", volume, (1.0, 1.0, 1.0))
    content = (tmp_path / "case.nii").read_bytes()
    (tmp_path / "case_0000.nii.gz").write_bytes(gzip.compress(content[:400]) + gzip.compress(content[400:]))
    np.testing.assert_array_equal(read_image([tmp_path / "case_0000.nii.gz"], "SimpleITKIO").data[0], volume)


@pytest.mark.parametrize("split", [0, 1, 2])
def test_gzip_member_may_end_where_a_read_does(tmp_path, volume, monkeypatch, split):
    plain = tmp_path / "case.nii"
    write_image(plain, volume, (1, 1, 1))
    content = plain.read_bytes()
    first = gzip.compress(content[:400])
    # the read ends with the first member, or 1 or 2 bytes into the second
    monkeypatch.setattr("nnssl.planning.nifti._BLOCK", len(first) + split)
    packed = tmp_path / "case_0000.nii.gz"
    packed.write_bytes(first + gzip.compress(content[400:]))
    np.testing.assert_array_equal(read_image([packed], "SimpleITKIO").data[0], volume)


def test_the_hash_is_of_the_content_not_of_its_compression(tmp_path, volume):
    write_image(tmp_path / "a.nii.gz", volume, (1.0, 1.0, 1.0))
    content = gzip.decompress((tmp_path / "a.nii.gz").read_bytes())
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(content, 1))
    write_image(tmp_path / "c.nii.gz", volume + 1, (1.0, 1.0, 1.0))
    a, b, c = (read_image([tmp_path / f"{name}.nii.gz"], "SimpleITKIO").source_hash for name in "abc")
    assert a == b != c


def refused(files, message):
    with pytest.raises(DataError, match=message) as caught:
        read_image(files, "NibabelIO" if files[0].suffix == ".nii" else "SimpleITKIO")
    assert files[-1].name in str(caught.value)


@pytest.mark.parametrize("keep", [0.5, 0.9, 0.999])
def test_truncated_gzip_is_noticed(tmp_path, volume, keep):
    file = tmp_path / "case_0000.nii.gz"
    write_image(file, volume, (1.0, 1.0, 1.0))
    os.truncate(file, int(file.stat().st_size * keep))
    refused([file], "truncated")


def test_a_flipped_byte_fails_the_checksum(tmp_path):
    file = tmp_path / "case_0000.nii.gz"
    content = bytearray(gzip.compress(b"x" * 10, 0))
    write_image(tmp_path / "case.nii", np.arange(1000, dtype=np.int16).reshape(10, 10, 10), (1.0, 1.0, 1.0))
    content = bytearray(gzip.compress((tmp_path / "case.nii").read_bytes(), 0))  # stored: only the checksum can tell
    content[1500] ^= 1
    file.write_bytes(content)
    refused([file], "damaged: its compressed data fail the check")


def test_an_uncompressed_file_cut_short_is_noticed(tmp_path, volume):
    file = tmp_path / "case_0000.nii"
    write_image(file, volume, (1.0, 1.0, 1.0))
    os.truncate(file, file.stat().st_size - 100)
    refused([file], r"truncated: its header needs 672 bytes of voxels, it has 572")


@pytest.mark.parametrize("content", [b"", b"hello", gzip.compress(b"hello", mtime=0), b"\x1f\x8b"])
def test_what_is_not_an_image_is_refused(tmp_path, content):
    (tmp_path / "case_0000.nii.gz").write_bytes(content)
    refused([tmp_path / "case_0000.nii.gz"], r"not a NIfTI file|damaged|truncated")


def test_other_formats_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "case_0000.nrrd").write_bytes(b"NRRD0004\ntype: what")
    refused([tmp_path / "case_0000.nrrd"], "SimpleITK cannot read")
    refused([tmp_path / "absent_0000.nrrd"], "is missing")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_counted(tmp_path, volume, bad):
    broken = volume.astype(np.float32)
    broken[1, 2, 3:5] = bad
    write_image(tmp_path / "case_0000.nii.gz", broken, (1.0, 1.0, 1.0))
    refused([tmp_path / "case_0000.nii.gz"], "2 voxels that are NaN or infinite")


def test_constant_images_are_refused(tmp_path):
    write_image(tmp_path / "case_0000.nii.gz", np.full((4, 5, 6), 7, np.int16), (1.0, 1.0, 1.0))
    refused([tmp_path / "case_0000.nii.gz"], "every voxel is 7")


def test_channels_of_different_size_or_place_are_refused(tmp_path, volume):
    files = [tmp_path / "case_0000.nii.gz", tmp_path / "case_0001.nii.gz"]
    write_image(files[0], volume, (1.0, 1.0, 1.0))
    write_image(files[1], volume[1:], (1.0, 1.0, 1.0))
    refused(files, "6x7x8 voxels .* 5x7x8")
    write_image(files[1], volume, (1.0, 1.0, 1.1))
    refused(files, "up to 0.70 mm away")
    write_image(files[1], volume, (1.0, 1.0, 1.00001))
    assert read_image(files, "SimpleITKIO").data.shape == (2, 6, 7, 8)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("4d_functional_sclslope.nii", "4 dimensions"),
        ("int4d_example4d.nii.gz", "4 dimensions"),
        ("nifti2_4d.nii.gz", "4 dimensions"),
        ("complex64.nii.gz", "complex"),
        ("rgb24_ct_perfusion.nii.gz", "RGB"),
        ("float_big_endian_with_nan.nii", "153 voxels that are NaN"),
        ("minus_inf_values.nii.gz", "633 voxels"),
        ("no_qform_no_sform.nii.gz", "how it lies in space"),
        ("one_slice_192x192x1.nii.gz", "single slice"),
        ("sheared_affine_ct_gantry_tilt.nii.gz", "sheared"),
    ],
)
def test_nasty_files_are_refused_in_words(shared_data, name, message):
    refused([shared_data / "nasty" / name], message)


@pytest.mark.parametrize(
    "name", ["orientation_AIL.nii.gz", "tiny_7x5x3.nii.gz", "float_label_lobes_image.nii.gz", "image.nrrd", "image.mha"]
)
def test_odd_but_good_files_are_read_as_nnunet_reads_them(shared_data, name):
    image = read_image([shared_data / "nasty" / name], "SimpleITKIO")
    expected, properties = nnunets(shared_data / "nasty" / name)
    np.testing.assert_array_equal(image.data, expected)
    assert image.spacing_mm == tuple(properties["spacing"])
