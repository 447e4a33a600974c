"""With `--copy` nothing of a data set is a link, whatever earlier runs made it of."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from nnssl.errors import DataError
from nnssl.ingest import unlink
from nnssl.ingest.report import summary
from tests.ingest.scans import texture, write_nifti


def links(dataset):
    return sorted(path.name for path in (dataset / "imagesTr").iterdir() if path.is_symlink())


@pytest.mark.parametrize("options", [{"copy": True}, {"hide_names": True}])
def test_links_become_files(source, dataset, run, options):
    for seed in range(3):
        write_nifti(source / f"{seed}.nii.gz", texture(seed))
    run()
    assert len(links(dataset)) == 3
    outcome = run(**options)
    assert links(dataset) == [] and (outcome.new, outcome.kept, len(outcome.taken)) == (0, 3, 3)
    assert not any(record.linked for record in outcome.taken) and "(0 as links)" in summary("x", outcome)[0]
    there, meant = (nibabel.load(folder) for folder in (dataset / "imagesTr" / "1_0000.nii.gz", source / "1.nii.gz"))
    assert np.array_equal(there.get_fdata(), meant.get_fdata()) and np.allclose(there.affine, meant.affine)
    assert (source / "1.nii.gz").is_file()
    assert run().new == 0 and links(dataset) == [], "and stay files"


def test_links_of_other_sources_become_files_too(source, dataset, run, tmp_path):
    for name in ("a", "b"):
        write_nifti(source / name / "scan.nii.gz", texture(len(name) + ord(name)))
    run(source / "a")
    run(source / "b", copy=True)
    assert links(dataset) == [] and len(list((dataset / "imagesTr").iterdir())) == 2


def test_every_channel_becomes_a_file(source, dataset, run):
    for channel in range(2):
        write_nifti(source / "imagesTr" / f"c_000{channel}.nii.gz", texture(channel))
    write_nifti(source / "imagesTr" / "d_0000.nii.gz", texture(5))
    write_nifti(source / "imagesTr" / "d_0001.nii.gz", texture(6), descrip=b"Erika")  # which is never a link
    run()
    assert links(dataset) == ["c_0000.nii.gz", "c_0001.nii.gz", "d_0000.nii.gz"]
    run(copy=True)
    assert links(dataset) == [] and len(list((dataset / "imagesTr").iterdir())) == 4


def test_a_run_that_is_stopped_while_it_copies_leaves_every_case(source, dataset, run, monkeypatch):
    for seed in range(3):
        write_nifti(source / f"{seed}.nii.gz", texture(seed))
    run()
    original, calls = unlink.write_nifti, []

    def stops(target, volume):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        original(target, volume)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(unlink, "write_nifti", stops)
        run(copy=True)
    assert len(links(dataset)) == 2 and all(path.is_file() for path in (dataset / "imagesTr").iterdir())
    run(copy=True)
    assert links(dataset) == []


def test_a_link_to_a_file_that_broke_meanwhile_is_told(source, dataset, run):
    for name in ("a", "b"):
        write_nifti(source / name / "scan.nii.gz", texture(ord(name)))
    run()
    (source / "a" / "scan.nii.gz").write_bytes(b"none")
    with pytest.raises(DataError, match="a_scan is a link and cannot be made a file"):
        run(source / "b", copy=True)
