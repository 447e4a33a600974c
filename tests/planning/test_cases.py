"""Listing a raw data set: what is missing is said in one sentence."""

from __future__ import annotations

import json

import pytest

from nnssl.errors import DataError
from nnssl.planning.cases import read_raw_dataset
from tests.tiny import make_raw_dataset
from tests.tiny import workspace_folders as folders_of


@pytest.fixture
def where(tmp_path):
    where = folders_of(tmp_path)
    make_raw_dataset(where.raw, 745, 3, kind="two")
    return where


def folder_of(where):
    return where.raw / "Dataset745_Tiny"


def describe(where, **changes):
    file = folder_of(where) / "dataset.json"
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_cases_subjects_and_modality_are_found(where):
    describe(where, subjects={"case_00": "anna", "case_01": "anna"}, labels=None, numTraining=None)
    dataset = read_raw_dataset("Dataset745_Tiny", where)
    assert [case.case_id for case in dataset.cases] == ["case_00", "case_01", "case_02"]
    assert [case.subject for case in dataset.cases] == ["anna", "anna", "case_02"]
    assert dataset.modality == ("t1", "t2")
    assert dataset.description["labels"] == {"background": 0} and dataset.description["numTraining"] == 3


def test_test_images_are_used_too(where):
    (folder_of(where) / "imagesTs").mkdir()
    for channel in ("0000", "0001"):
        source = folder_of(where) / "imagesTr" / f"case_02_{channel}.nii.gz"
        source.rename(folder_of(where) / "imagesTs" / source.name)
    assert len(read_raw_dataset("Dataset745_Tiny", where).cases) == 3
    (folder_of(where) / "imagesTs" / "case_00_0000.nii.gz").touch()
    with pytest.raises(DataError, match="imagesTr and in imagesTs"):
        read_raw_dataset("Dataset745_Tiny", where)


def test_wrong_channels_are_set_aside_with_the_reason(where):
    images = folder_of(where) / "imagesTr"
    (images / "case_00_0001.nii.gz").unlink()
    (images / "case_01_0002.nii.gz").touch()
    (images / "scan.nii.gz").touch()
    dataset = read_raw_dataset("Dataset745_Tiny", where)
    assert [case.case_id for case in dataset.cases] == ["case_02"]
    assert "needs 2 channels (0000, 0001, channel_names of dataset.json), found 0000." in dataset.malformed["case_00"]
    assert "found 0000, 0001, 0002" in dataset.malformed["case_01"]
    assert "Rename it to CASE_0000.nii.gz" in dataset.malformed["scan.nii.gz"]


def test_an_explicit_list_is_followed(where):
    listed = {"one": {"images": ["imagesTr/case_02_0000.nii.gz", "imagesTr/case_02_0001.nii.gz"], "label": ""}}
    describe(where, dataset=listed)
    (case,) = read_raw_dataset("Dataset745_Tiny", where).cases
    assert case.case_id == "one" and case.files[1].name == "case_02_0001.nii.gz" and case.files[1].is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel_names": None}, "channel_names"),
        ({"channel_names": {"1": "CT"}}, 'count from "0"'),
        ({"file_ending": None}, "file_ending"),
        ({"file_ending": ".mha"}, "no images called CASE_0000.mha"),
        ({"subjects": ["a"]}, "subjects"),
        ({"dataset": {"one": {}}}, "images"),
    ],
)
def test_a_wrong_dataset_json_is_explained(where, changes, message):
    describe(where, **changes)
    with pytest.raises(DataError, match=message):
        read_raw_dataset("Dataset745_Tiny", where)


def test_missing_parts_are_named(where):
    (folder_of(where) / "dataset.json").write_text("{")
    with pytest.raises(DataError, match="not readable JSON"):
        read_raw_dataset("Dataset745_Tiny", where)
    (folder_of(where) / "dataset.json").unlink()
    with pytest.raises(DataError, match=r"dataset\.json is missing"):
        read_raw_dataset("Dataset745_Tiny", where)
    with pytest.raises(DataError, match="does not exist"):
        read_raw_dataset("Dataset999_Absent", where)
