"""Who skips ingest is guarded all the same: planning refuses what ingest refuses, and takes what is accepted."""

from __future__ import annotations

import gzip
import json
import struct

import numpy as np
import pytest

from nnssl.cli.plan_and_preprocess import main
from nnssl.data.index import read_index
from tests.ingest.scans import texture, write_nifti
from tests.tiny import workspace_folders

SHAPE = (24, 26, 28)


def _volume(seed):
    return texture(seed, SHAPE, ct=True)


def _spoilt(path, place, fresh):
    content = bytearray(path.read_bytes())
    content[place : place + len(fresh) if place >= 0 else len(content) + place + len(fresh)] = fresh
    path.write_bytes(bytes(content))


def _with_nan():
    broken = _volume(3).astype(np.float32)
    broken[1, 2, 3] = np.nan
    return broken


def _labels():
    blocks = np.zeros(SHAPE, np.int16)
    blocks[5:15, 4:12, 3:18] = 2
    return blocks


def _sheared():
    affine = np.diag([-1.0, -1.5, 2.5, 1.0])
    affine[0, 1] = 0.5
    return affine


def _two_places(path):
    write_nifti(path, _volume(9))
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<hh", content, 252, 2, 1)
    struct.pack_into("<f", content, 312 + 8, 3.5)
    path.write_bytes(gzip.compress(bytes(content)))


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A data set made by hand: two sound cases and one of each fault."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, "")
    folder = workspace_folders(tmp_path).raw / "Dataset745_Hand"
    images = folder / "imagesTr"
    images.mkdir(parents=True)
    for seed in (1, 2):
        write_nifti(images / f"sound{seed}_0000.nii.gz", _volume(seed))
    (images / "twin_0000.nii.gz").write_bytes((images / "sound1_0000.nii.gz").read_bytes())
    short = write_nifti(images / "short_0000.nii.gz", _volume(4))
    short.write_bytes(short.read_bytes()[:-500])
    checksum = write_nifti(images / "checksum_0000.nii.gz", _volume(5))
    _spoilt(checksum, -8, bytes([checksum.read_bytes()[-8] ^ 1]))
    write_nifti(images / "nan_0000.nii.gz", _with_nan())
    write_nifti(images / "labels_0000.nii.gz", _labels())
    write_nifti(images / "scaled_0000.nii.gz", texture(6, SHAPE))
    write_nifti(images / "constant_0000.nii.gz", np.full(SHAPE, 3, np.int16))
    write_nifti(images / "sheared_0000.nii.gz", _volume(7), _sheared())
    write_nifti(images / "lost_0000.nii.gz", _volume(8), lost=True)
    write_nifti(images / "series_0000.nii.gz", np.stack([_volume(10), _volume(11)]))
    _two_places(images / "two_0000.nii.gz")
    described = {"channel_names": {"0": "CT"}, "labels": {"background": 0}, "numTraining": 14, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(described))
    return tmp_path


@pytest.mark.pipeline
def test_a_data_set_made_by_hand_is_judged_as_ingest_judges(workspace, capsys):
    assert main(["--workspace", str(workspace), "-d", "745", "-np", "1"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    for words in (
        "refused as duplicate: its files hold the same as those of sound1",
        "short_0000.nii.gz is truncated",
        "checksum_0000.nii.gz",
        "nan_0000.nii.gz has 1 voxels that are NaN",
        "labels was refused as label_map",
        "scaled was refused as ct_not_hu",
        "constant_0000.nii.gz is constant",
        "sheared_0000.nii.gz has a sheared",
        "lost_0000.nii.gz does not say how it lies",
        "series_0000.nii.gz has 4 dimensions",
        "two_0000.nii.gz says two things about how it lies",
        "11 cases cannot be used",
    ):
        assert words in said, words
    folder = workspace / "nnUNet_preprocessed" / "Dataset745_Hand" / "nnsslPlans_3d_fullres"
    assert sorted(read_index(folder).entries) == ["sound1", "sound2"]
    accept = ("duplicate", "ct_not_hu", "label_map")
    assert (
        main(["--workspace", str(workspace), "-d", "745", "-np", "1", "--accept", *accept, "--skip_bad", "--clean"])
        == 0
    )
    assert sorted(read_index(folder).entries) == ["labels", "scaled", "sound1", "sound2", "twin"]
