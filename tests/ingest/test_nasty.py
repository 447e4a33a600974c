"""Files that break readers: each is right, compared with another reader, or refused with the reason expected here."""

from __future__ import annotations

import gzip
import math
import zlib

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK

from nnssl.ingest.run import Request, ingest

pytestmark = pytest.mark.pipeline  # 5 seconds for the folder

EXPECTED = {
    "4d_functional_sclslope.nii": "four_dimensional",
    "big_endian_int16_sclslope.nii": "",
    "complex64.nii.gz": "complex_values",
    "dicom_series_small (17 files)": "ct_not_hu",
    "float_big_endian_with_nan.nii": "not_finite",
    "float_label_lobes.nii.gz": "label_map",
    "float_label_lobes_image.nii.gz": "",
    "freesurfer.mgz": "label_map",  # a segmentation
    "image.mha": "",
    "image.nrrd": "",
    "image_for_label_qform_only.nii": "duplicate",  # of the big-endian one, byte by byte
    "int4d_example4d.nii.gz": "four_dimensional",
    "label_qform_only_sform0.nii.gz": "label_map",
    "label_shape_mismatch_hippocampus_281.nii.gz": "near_empty",
    "minus_inf_values.nii.gz": "not_finite",
    "multi_label_torso_only.nii.gz": "label_map",
    "nifti2_4d.nii.gz": "four_dimensional",
    "no_qform_no_sform.nii.gz": "no_orientation",
    "one_slice_192x192x1.nii.gz": "single_slice",
    "orientation_AIL.nii.gz": "",
    "rgb24_ct_perfusion.nii.gz": "colour",
    "sheared_affine_ct_gantry_tilt.nii.gz": "sheared",
    "tiny_7x5x3.nii.gz": "",
}


@pytest.fixture(scope="module")
def ingested(tmp_path_factory, shared_data):
    """The whole folder, once."""
    nasty = shared_data / "nasty"
    folder = tmp_path_factory.mktemp("raw") / "Dataset745_Nasty"
    return nasty, folder, ingest(Request(sources=(nasty,), folder=folder, workers=2), lambda sentence: None)


def test_every_file_is_taken_or_refused_for_its_own_reason(ingested):
    _, _, outcome = ingested
    assert {record.source: record.reason for record in outcome.records} == EXPECTED


@pytest.mark.parametrize("name", [name for name, reason in EXPECTED.items() if not reason])
def test_what_is_taken_is_what_another_reader_reads(ingested, name):
    nasty, folder, outcome = ingested
    case = next(record.case for record in outcome.taken if record.source == name)
    ours = nibabel.load(folder / "imagesTr" / f"{case}_0000.nii.gz")
    if ".nii" in name:
        original = nibabel.load(nasty / name)
        voxels, affine = original.get_fdata(dtype=np.float32), original.affine
    else:
        image = SimpleITK.ReadImage(str(nasty / name))
        voxels = SimpleITK.GetArrayFromImage(image).T.astype(np.float32)
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
        affine[:3, 3] = image.GetOrigin()
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    np.testing.assert_allclose(ours.get_fdata(dtype=np.float32), voxels, rtol=1e-6)
    np.testing.assert_allclose(ours.affine, affine, atol=1e-3)


def test_what_can_be_accepted_is_taken_and_said(ingested, tmp_path):
    from nnssl.planning.reading import read_image
    from nnssl.planning.refusal import REASONS

    nasty, _, _ = ingested
    accepted = frozenset(name for name, reason in REASONS.items() if reason.accepted)
    folder = tmp_path / "Dataset746_All"
    outcome = ingest(Request(sources=(nasty,), folder=folder, accepted=accepted, workers=2), lambda sentence: None)
    assert [record.reason for record in outcome.refused] == ["single_slice"]
    for record in outcome.taken:
        read_image([folder / "imagesTr" / f"{record.case}_0000.nii.gz"], "SimpleITKIO")
        assert record.notes or record.accepted or not EXPECTED[record.source], record.source


@pytest.mark.parametrize("name", ["image.nrrd", "image.mha"])
def test_other_containers_hold_what_their_bytes_say(ingested, name):
    """Read here by hand: SimpleITK must not be the only witness of itself."""
    nasty, folder, outcome = ingested
    content = (nasty / name).read_bytes()
    if name.endswith(".nrrd"):
        head, data = content.split(b"\n\n", 1)
        fields = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
        sizes, packed = [int(side) for side in fields["sizes"].split()], fields["encoding"] in ("gzip", "gz")
        kind = {"short": "<i2", "unsigned char": "u1", "uchar": "u1", "float": "<f4", "uint8": "u1"}[fields["type"]]
        data = gzip.decompress(data) if packed else data
    else:
        head, data = content.split(b"ElementDataFile = LOCAL\n", 1)
        fields = dict(line.split(" = ", 1) for line in head.decode().splitlines())
        sizes, packed = [int(side) for side in fields["DimSize"].split()], fields.get("CompressedData") == "True"
        kind = {"MET_SHORT": "<i2", "MET_UCHAR": "u1", "MET_FLOAT": "<f4"}[fields["ElementType"]]
        data = zlib.decompress(data) if packed else data
    voxels = np.frombuffer(data, kind, math.prod(sizes)).reshape(sizes, order="F")
    case = next(record.case for record in outcome.taken if record.source == name)
    np.testing.assert_array_equal(nibabel.load(folder / "imagesTr" / f"{case}_0000.nii.gz").get_fdata(), voxels)


def test_the_series_is_what_pydicom_reads(shared_data, tmp_path):
    series = shared_data / "nasty" / "dicom_series_small"
    folder = tmp_path / "Dataset747_Series"
    request = Request(sources=(series,), folder=folder, accepted=frozenset({"ct_not_hu"}), workers=1)
    case = ingest(request, lambda sentence: None).taken[0].case
    ours = nibabel.load(folder / "imagesTr" / f"{case}_0000.nii.gz")
    slices = sorted(
        (pydicom.dcmread(file) for file in series.iterdir()), key=lambda each: float(each.ImagePositionPatient[2])
    )
    pixels = [each.pixel_array * float(each.RescaleSlope) + float(each.RescaleIntercept) for each in slices]
    np.testing.assert_allclose(ours.get_fdata().T, pixels)
    first, last = (np.array(each.ImagePositionPatient, float) for each in (slices[0], slices[-1]))
    np.testing.assert_allclose(ours.affine[:3, 3] * [-1, -1, 1], first, atol=1e-3)
    far = (ours.affine @ [0, 0, len(slices) - 1, 1])[:3] * [-1, -1, 1]
    np.testing.assert_allclose(far, last, atol=1e-2)
    np.testing.assert_allclose(ours.header.get_zooms()[:2], slices[0].PixelSpacing[::-1], rtol=1e-5)


def test_what_is_taken_goes_through_planning_and_preprocessing(ingested, preprocessed_cases):
    _, folder, outcome = ingested
    assert preprocessed_cases(folder) == sorted(record.case for record in outcome.taken)
