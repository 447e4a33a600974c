"""A CT is known by what says so of each scan, or by its values; a word for a whole folder lets no other scan in."""

from __future__ import annotations

import numpy as np
import pytest

from nnssl.errors import UsageError
from nnssl.ingest.cohort import family
from nnssl.ingest.describe import looks_like_ct
from nnssl.ingest.read import read_part
from nnssl.ingest.scan import Part
from tests.ingest.scans import texture, write

SHAPE = (24, 26, 28)
REPAIRS = {"four_dimensional", "complex_values", "colour", "not_finite", "no_orientation", "sheared"}


def mr(seed, low, high):
    """An MR whose noise or filter goes a little below 0."""
    rng = np.random.default_rng(seed)
    voxels = rng.gamma(2.0, high / 12, SHAPE).clip(0, high)
    voxels.flat[:5], voxels.flat[5] = low, high
    return voxels.astype(np.int16)


def phase(seed):
    return np.random.default_rng(seed).integers(-4096, 4095, SHAPE).astype(np.int16)


@pytest.mark.parametrize(
    "voxels", [mr(1, -610, 30393), mr(2, -30, 900), phase(3), texture(4, SHAPE)], ids=["far", "noisy", "phase", "plain"]
)
def test_what_does_not_look_like_a_ct_is_not_let_into_a_set_of_cts(source, run, voxels):
    write(source / "ct.nii.gz", texture(0, SHAPE, ct=True))
    write(source / "mr.nii.gz", voxels)
    outcome = run(channels=("CT",))
    assert [record.case for record in outcome.taken] == ["ct"]
    assert [record.reason for record in outcome.refused] == ["ct_not_hu"]
    low, high = (f"{float(each):.4g}" for each in (voxels.min(), voxels.max()))
    assert f"its values go from {low} to {high}" in outcome.refused[0].sentence
    accepted = run(channels=("CT",), accepted={"ct_not_hu"})
    assert [record.accepted for record in accepted.taken] == [[], ["ct_not_hu"]]
    assert len(run(channels=("CT",)).taken) == 2 and len(run().taken) == 2, "what was accepted stays"
    with pytest.raises(UsageError):
        run(channels=("MR",))


def test_a_list_that_says_so_of_a_scan_is_believed(source, run):
    write(source / "ct.nii.gz", texture(0, SHAPE, ct=True))
    write(source / "odd.nii.gz", mr(1, -610, 3000))
    (source / "list.csv").write_text("path,modality\nct.nii.gz,CT\nodd.nii.gz,CT\n")
    assert len(run(source / "list.csv", channels=("CT",)).taken) == 2


def test_cts_with_metal_or_padding_are_cts():
    ct = texture(0, SHAPE, ct=True)
    metal, padded = ct.astype(np.float32), ct.astype(np.float32)
    metal[4, 5, 6:9] = 30_000
    padded[:, :, :6] = -3024
    padded[:, :, 6] = np.linspace(-3024, -1000, SHAPE[0])[:, None]
    assert looks_like_ct(metal) and looks_like_ct(padded)


def test_real_cts_are_cts_and_real_mrs_are_not(shared_data):
    nasty, ct_only = shared_data / "nasty", ("sheared_affine_ct_gantry_tilt.nii.gz",)
    cts = [*sorted((shared_data / "OpenKBP_HN" / "imagesTr").glob("*.nii.gz"))[::4], nasty / ct_only[0]]
    cts.append(shared_data / "unlabelled" / "ct_chest_lidc0314.nii.gz")
    others = [
        shared_data / "unlabelled" / "mr_t1_head_datalad.nii.gz",
        *sorted((shared_data / "Task04_Hippocampus" / "imagesTr").glob("*.nii.gz")),
        *(nasty / name for name in ("image_for_label_qform_only.nii", "big_endian_int16_sclslope.nii", "image.mha")),
        *(nasty / name for name in ("4d_functional_sclslope.nii", "freesurfer.mgz", "orientation_AIL.nii.gz")),
    ]
    for files, is_ct in ((cts, True), (others, False)):
        assert len(files) > 5
        for file in files:
            assert looks_like_ct(read_part(Part(files=(file,)), REPAIRS).voxels) == is_ct, file.name


def test_a_real_series_is_a_ct_by_its_own_word(shared_data, run):
    outcome = run(shared_data / "nasty" / "dicom_series_small", accepted={"ct_not_hu"})
    assert [family(record) for record in outcome.taken] == ["ct"] and outcome.channels == {"0": "CT"}
