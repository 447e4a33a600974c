"""The same voxels in other data sets: said of every case as it is now, whichever data set was made first."""

from __future__ import annotations

import shutil

import pytest

from nnssl.ingest import elsewhere
from nnssl.ingest.run import Request, ingest
from tests.ingest.scans import texture, write_nifti


@pytest.fixture
def other(source, dataset):
    """Ingest the source into another data set; its folder."""
    folder = dataset.parent / "Dataset009_Other"

    def go():
        ingest(Request(sources=(source,), folder=folder, workers=1), lambda text: None)
        return folder

    return go


def said(outcome):
    return [record.suspicions.get("elsewhere", "") for record in outcome.taken]


def test_a_data_set_that_is_gone_is_not_named_any_more(source, run, other):
    write_nifti(source / "a.nii.gz", texture(0))
    folder = other()
    assert said(run()) == ["Dataset009_Other has the same voxels in a"]
    shutil.rmtree(folder)
    assert said(run()) == [""]


def test_the_older_data_set_tells_of_the_newer_one(source, run, other):
    write_nifti(source / "a.nii.gz", texture(0))
    assert said(run()) == [""]
    other()
    outcome = run()
    assert outcome.new == 0 and said(outcome) == ["Dataset009_Other has the same voxels in a"]


def test_with_hidden_names_cases_of_others_are_counted(source, dataset, run, other):
    write_nifti(source / "erika.nii.gz", texture(0))
    other()
    images = dataset.parent / "Dataset010_Hand" / "imagesTr"
    write_nifti(images / "erika_0000.nii.gz", texture(0))
    assert said(run(hide_names=True)) == ["Dataset009_Other has the same voxels in 1 of its cases"]
    shutil.rmtree(dataset.parent / "Dataset009_Other")
    write_nifti(images / "otto_0000.nii.gz", texture(0))
    assert said(run(hide_names=True)) == ["Dataset010_Hand has the same voxels in 2 of its cases"]
    assert said(run()) == ["Dataset010_Hand has the same voxels in erika_0000.nii.gz"]


def test_images_of_a_data_set_made_by_hand_are_read_once(source, dataset, run, monkeypatch):
    write_nifti(source / "a.nii.gz", texture(0))
    images = dataset.parent / "Dataset004_Hand" / "imagesTr"
    write_nifti(images / "x_0000.nii.gz", texture(0))
    write_nifti(images / "bad_0000.nii.gz", texture(1))
    (images / "bad_0000.nii.gz").write_bytes((images / "bad_0000.nii.gz").read_bytes()[:-100])
    read, original = [], elsewhere.read_nifti
    monkeypatch.setattr(elsewhere, "read_nifti", lambda file: (read.append(file.name), original(file))[1])
    for _ in range(3):
        assert said(run()) == ["Dataset004_Hand has the same voxels in x_0000.nii.gz"]
    assert read == ["bad_0000.nii.gz", "x_0000.nii.gz"]
    write_nifti(images / "x_0000.nii.gz", texture(7))
    assert said(run()) == [""] and read[2:] == ["x_0000.nii.gz"]
