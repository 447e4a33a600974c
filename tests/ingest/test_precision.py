"""Numbers that 32-bit floats cannot tell apart are refused by that name, and what is rounded is told."""

from __future__ import annotations

import numpy as np
import pytest

from nnssl.errors import DataError
from nnssl.planning.precision import check_precision
from nnssl.planning.reading import read_image
from tests.ingest.scans import texture, write, write_nifti

FAR = [("a.nrrd", np.int64, 2**40), ("a.mha", np.uint32, 2**31), ("a.nrrd", np.float64, 2.0**50)]
FAR_NIFTI = [("a.nii.gz", np.int32, 2**30), ("a.nii.gz", np.float64, 1e12)]


@pytest.mark.parametrize(("name", "kind", "offset"), [*FAR, *FAR_NIFTI])
def test_values_far_from_zero_are_refused_by_their_own_name_and_moved_if_that_is_accepted(
    source, dataset, run, name, kind, offset
):
    voxels = (texture(0).astype(np.float64) + offset).astype(kind)
    (write_nifti if name.endswith(".gz") else write)(source / name, voxels)
    outcome = run()
    assert [record.reason for record in outcome.refused] == ["precision"]
    assert "Subtract the lowest value" in outcome.refused[0].sentence
    (record,) = run(accepted={"precision"}).taken
    found = read_image([dataset / "imagesTr" / f"{record.case}_0000.nii.gz"], "SimpleITKIO").data[0]
    np.testing.assert_array_equal(found, texture(0) - texture(0).min())
    assert "was subtracted" in record.notes[0]


def test_a_scale_that_moves_values_far_from_zero_is_seen_too(source, run):
    write_nifti(source / "a.nii.gz", texture(0), scl_slope=1.0, scl_inter=2.0**40)
    assert [record.reason for record in run().refused] == ["precision"]


def test_double_precision_that_is_rounded_is_told_and_whole_numbers_that_are_exact_are_not(source, run):
    write(source / "a.nrrd", texture(0) * np.float64(0.1) + 1)
    write(source / "b.nrrd", texture(1).astype(np.int32))
    a, b = run().taken
    assert "64-bit float" in a.notes[0] and not b.notes


@pytest.mark.parametrize(
    ("numbers", "fits"),
    [
        (np.array([0.0, 1e-3, 2e-3]), True),
        (np.array([0.0, 1e300]), True),  # infinite in float32: another reason
        (np.array([2**24, 2**24 + 4096]), True),
        (np.array([2**31, 2**31 + 4096], np.int64), False),
        (np.array([0, *([2**31 + 7, 2**31 + 900] * 400)], np.int64), False),  # one voxel does not make a range
        (np.array([0, *([7, 900] * 400), 2**40], np.int64), True),
        (np.array([2**40, 2**40], np.int64), True),  # constant: another reason
        (np.array([np.nan, 1e12, 1e12 + 1]), True),  # not finite: another reason
        (np.array([2.0**31, 2.0**31 + 256], np.float32), True),
    ],
)
def test_what_float32_tells_apart(tmp_path, numbers, fits):
    if fits:
        check_precision(tmp_path / "a", numbers)
    else:
        with pytest.raises(DataError, match="differences are lost"):
            check_precision(tmp_path / "a", numbers)


def test_large_values_of_32_bits_are_described(source, run):
    write_nifti(source / "a.nii.gz", texture(0).astype(np.float32) * 256 + np.float32(2.0**31))
    outcome = run()
    assert len(outcome.taken) == 1, outcome.refused[0].sentence
