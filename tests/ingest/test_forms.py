"""A header that says two things about how a scan lies is refused; what rounding makes of one thing is not."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from nnssl.planning.reading import read_channel
from nnssl.planning.refusal import Refused
from tests.ingest.scans import texture


def reason(outcome):
    assert len(outcome.records) == 1 and outcome.refused, outcome.records
    return outcome.refused[0].reason


def two_forms(path, qform, sform, qcode=1, scode=1):
    """A NIfTI file whose qform and sform are set each for itself, by (i, j, k) directions."""
    image = nibabel.Nifti1Image(texture(0).T, None)
    for affine, code, put in ((qform, qcode, image.set_qform), (sform, scode, image.set_sform)):
        whole = np.eye(4)
        whole[:3, :3] = np.asarray(affine) @ np.diag([1.0, 1.5, 2.5])
        put(whole, code)
    nibabel.save(image, path)


def turned(degrees):
    """Nodding by an angle."""
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    return np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])


MIRRORED = np.diag([-1.0, 1.0, 1.0])


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
@pytest.mark.parametrize("codes", [(1, 1), (1, 2), (1, 4), (2, 1)])
def test_a_mirror_between_two_valid_forms_is_a_conflict(source, dataset, run, name, codes):
    two_forms(source / name, np.eye(3), MIRRORED, *codes)
    assert reason(run()) == "orientation_conflict"
    record = run(accepted={"orientation_conflict"}).taken[0]
    assert record.channels[0]["orientation"][2] == "L" and not record.linked, "as nibabel reads it: by the sform"
    assert record.notes == ["qform and sform disagreed; nibabel's choice was taken"]


def test_axes_that_are_taken_for_others_are_a_conflict(source, run):
    two_forms(source / "a.nii.gz", np.eye(3), turned(90))
    assert reason(run()) == "orientation_conflict"


def test_the_plan_refuses_mirrored_forms_too(tmp_path):
    two_forms(tmp_path / "a.nii.gz", np.eye(3), MIRRORED)
    for reader in ("SimpleITKIO", "NibabelIO"):
        with pytest.raises(Refused, match=r"a\.nii\.gz .*one is mirrored against the other \(axis i"):
            read_channel(tmp_path / "a.nii.gz", reader)


@pytest.mark.parametrize("degrees, scode", [(0.05, 1), (0.05, 2), (0.0, 4)])
def test_rounding_is_no_conflict(source, run, degrees, scode):
    two_forms(source / "a.nii.gz", turned(1e-4), turned(degrees), 1, scode)
    assert run().taken[0].linked


@pytest.mark.parametrize("which", [0, 1])
def test_a_form_without_a_code_says_nothing(source, run, which):
    two_forms(source / "a.nii.gz", np.eye(3), MIRRORED, which, 1 - which)
    assert run().taken[0].linked
