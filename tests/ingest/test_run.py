"""A second run reads only what is new; a dry one writes nothing; nothing written names a patient."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest

from nnssl.cli.ingest import main
from nnssl.errors import DataError
from nnssl.ingest import take
from nnssl.ingest.ledger import open_ledger
from nnssl.ingest.run import check_sources
from nnssl.paths import VARIABLES
from tests.ingest.scans import NAME, NUMBER, interrupted, texture, write, write_nifti, write_series
from tests.tiny import make_raw_dataset

SECRETS = (b"mustermann", b"erika", NUMBER.lower().encode(), b"19641231", b"klinik", b"acc998877")


@pytest.fixture
def counted(forked, monkeypatch, tmp_path):
    """How many channels were read, by whatever process."""
    reads, read = tmp_path / "reads", take.read_part

    def counts(part, accepted):
        with reads.open("ab") as file:
            file.write(b".")
        return read(part, accepted)

    monkeypatch.setattr(take, "read_part", counts)
    return lambda: reads.stat().st_size


def test_a_second_run_reads_only_what_is_new(source, dataset, run, counted):
    for seed in range(3):
        write(source / f"a{seed}.nii.gz", texture(seed))
    write(source / "one.nii.gz", texture(5, (1, 12, 14)))
    assert len(run().taken) == 3 and counted() == 4
    before = {path.name: path.lstat().st_mtime_ns for path in (dataset / "imagesTr").iterdir()}
    again = run()
    assert (again.new, again.kept) == (0, 4) and counted() == 4 and len(again.refused) == 1
    write(source / "b.nii.gz", texture(7))
    write(source / "a0.nii.gz", texture(8))  # changed
    outcome = run()
    assert (outcome.new, outcome.kept) == (2, 3) and sorted(r.case for r in outcome.taken) == ["a0", "a1", "a2", "b"]
    after = {path.name: path.lstat().st_mtime_ns for path in (dataset / "imagesTr").iterdir()}
    assert after["a1_0000.nii.gz"] == before["a1_0000.nii.gz"]
    assert json.loads((dataset / "dataset.json").read_text())["numTraining"] == 4


def test_a_run_that_was_killed_is_continued_under_the_same_names(source, dataset, run):
    for seed in range(4):
        write(source / f"a{seed}.nii.gz", texture(seed))
    with interrupted(3):
        run()
    assert sorted(record.case for record in run().taken) == ["a0", "a1", "a2", "a3"]
    assert len(list((dataset / "imagesTr").iterdir())) == 4


def test_a_dry_run_writes_nothing_but_the_report_asked_for(source, dataset, run, tmp_path):
    write(source / "a.nii.gz", texture(0))
    outcome = run(dry_run=True)
    assert len(outcome.taken) == 1 and not dataset.exists() and outcome.report is None
    run(dry_run=True, report=tmp_path / "look")
    assert sorted(path.name for path in (tmp_path / "look").iterdir()) == ["report.html", "report.json"]
    assert not dataset.exists()


def test_a_dry_run_makes_no_workspace(source, tmp_path, monkeypatch):
    for variable in VARIABLES:
        monkeypatch.setenv(variable, "")
    write(source / "a.nii.gz", texture(0))
    command = [str(source), "-d", "745", "-n", "Test", "-np", "1", "--workspace", str(tmp_path / "work")]
    assert main([*command, "--dry_run"]) == 0
    assert not (tmp_path / "work").exists()
    assert main(command) == 0 and (tmp_path / "work" / "nnUNet_raw" / "Dataset745_Test").is_dir()


def test_files_that_fit_are_linked_and_others_written(source, dataset, run):
    fits = write_nifti(source / "fits.nii.gz", texture(0))
    write_nifti(source / "plain.nii", texture(1))
    write_nifti(source / "note.nii.gz", texture(2), descrip=b"Erika M., 12.3.64")
    run()
    images = dataset / "imagesTr"
    assert (images / "fits_0000.nii.gz").resolve() == fits
    assert not (images / "plain_0000.nii.gz").is_symlink() and not (images / "note_0000.nii.gz").is_symlink()


def test_copies_are_clean_and_the_same_every_time(source, dataset, run, tmp_path):
    affine = np.array([[-0.9, 0.1, 0.2, 5], [0.1, -1.4, 0.3, 7], [0.0, 0.2, 2.4, 9], [0, 0, 0, 1]])
    affine[:3, :3] = np.linalg.qr(affine[:3, :3])[0] * [1.0, 1.5, 2.5]
    path = write_nifti(source / "Erika.nii.gz", texture(0), affine, descrip=b"Erika", aux_file=b"Mustermann")
    run(copy=True)
    target = dataset / "imagesTr" / "Erika_0000.nii.gz"
    image = nibabel.load(target)
    assert not target.is_symlink()
    assert (
        bytes(image.header["descrip"].tobytes()).strip(b"\0") == b""
        and image.header["aux_file"].tobytes().strip(b"\0") == b""
    )
    np.testing.assert_allclose(image.affine, nibabel.load(path).affine, atol=1e-5)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), texture(0).T)
    first = target.read_bytes()
    assert first[3] & 8 == 0  # gzip holds no name of a file
    os.utime(path)
    run(copy=True)
    assert target.read_bytes() == first


def everything(folder: Path) -> bytes:
    """All that was written, names included; compressed files both ways."""
    parts = []
    for path in sorted(folder.rglob("*")):
        parts.append(os.fsencode(path.relative_to(folder)))
        if path.is_symlink():
            parts.append(os.fsencode(path.readlink()))
        elif path.is_file():
            content = path.read_bytes()
            parts += [content, gzip.decompress(content) if content[:2] == b"\x1f\x8b" else b""]
    return b"\n".join(parts).lower()


def test_nothing_written_names_a_patient(source, dataset, run, capsys):
    write_series(source / NAME.replace("^", "_") / NUMBER / "series", texture(0, ct=True))
    tilted = write_series(source / NUMBER / "tilted", texture(1, ct=True), tilt_mm=1.0)
    assert tilted.is_dir()
    outcome = run()
    assert len(outcome.taken) == 1 and len(outcome.refused) == 1
    written = everything(dataset)
    assert [secret for secret in SECRETS if secret in written] == []
    assert outcome.taken[0].subject == outcome.refused[0].subject  # one patient, one pseudonym
    assert outcome.taken[0].subject.startswith("P")


def test_names_of_folders_can_be_hidden(source, dataset, run):
    write(source / "Mustermann Erika" / "2019" / "erika.nii.gz", texture(0))
    write(source / "Mustermann Erika" / "2020" / "erika.nii.gz", texture(1))
    write_nifti(source / "Mustermann Erika" / "2021" / "erika4d.nii.gz", np.stack([texture(0), texture(1)]))
    outcome = run(hide_names=True)
    written = everything(dataset)
    assert b"mustermann" not in written and b"erika" not in written
    assert len({record.subject for record in outcome.taken}) == 1 and len({r.session for r in outcome.taken}) == 2


def test_the_same_voxels_are_taken_once_whatever_the_format(source, dataset, run):
    write(source / "a.nii.gz", texture(0))
    write(source / "b.mha", texture(0), (3.0, 1.0, 1.0))
    write(source / "c.nii.gz", texture(1))
    outcome = run()
    assert [(r.case, r.reason) for r in outcome.refused] == [("b", "duplicate")] and "of a (" in outcome.refused[
        0
    ].sentence
    write(source / "d.nrrd", texture(1))
    outcome = run()
    assert [r.case for r in outcome.refused] == ["b", "d"]
    assert not list((dataset / "imagesTr").glob("[bd]_*"))
    assert len(run(accepted={"duplicate"}).taken) == 4


def test_voxels_of_another_data_set_are_told(source, dataset, run):
    other = make_raw_dataset(dataset.parent, 4, 1, shape=(12, 12, 12))
    (source / "x.nii.gz").write_bytes((other / "imagesTr" / "case_00_0000.nii.gz").read_bytes())
    outcome = run()
    assert "Dataset004_Tiny has the same voxels in case_00_0000.nii.gz" in outcome.taken[0].suspicions["elsewhere"]


def test_a_data_set_made_by_hand_is_not_touched(source, dataset, run):
    folder = make_raw_dataset(dataset.parent, 745, 1, shape=(12, 12, 12))
    folder.rename(dataset)
    write(source / "a.nii.gz", texture(0))
    with pytest.raises(DataError, match="was not made by nnssl_ingest"):
        run()
    with pytest.raises(DataError, match="lie within each other"):
        check_sources([dataset / "imagesTr"], dataset)


def test_links_that_lead_in_circles_end(source, run):
    write(source / "a" / "scan.nii.gz", texture(0))
    (source / "a" / "up").symlink_to(source)
    assert len(run().taken) == 1


def test_outliers_and_odd_orientations_are_told_but_taken(source, run):
    for seed in range(9):
        write(source / f"s{seed}.nii.gz", texture(seed, (30, 31, 32)), (2.0, 1.5, 1.0))
    write(source / "far.nii.gz", texture(20, (30, 31, 32)), (9.0, 6.0, 6.0))
    write_nifti(source / "turned.nii.gz", texture(21, (30, 31, 32)), np.diag([1.0, 1.5, -2.0, 1.0]))
    outcome = run()
    odd = {record.case: set(record.suspicions) for record in outcome.taken if record.suspicions}
    assert odd == {"far": {"outlier", "thick_slices"}, "turned": {"orientation"}}


def test_planning_refuses_the_same_scans_and_keeps_what_was_accepted(source, dataset, run, tmp_path):
    from nnssl.planning.cases import read_raw_dataset
    from nnssl.planning.fingerprint import case_statistics
    from nnssl.planning.refusal import Refused
    from tests.tiny import workspace_folders

    blocks = np.zeros((20, 20, 20), np.uint8)
    blocks[5:15, 4:12, 3:18] = 1
    write_nifti(source / "blocks.nii.gz", blocks)
    run(accepted={"label_map"})
    case = read_raw_dataset(dataset.name, workspace_folders(tmp_path)).cases[0]
    assert case.accepted == {"label_map"}
    case_statistics(case, ("image",), "SimpleITKIO", 100)
    content = json.loads((dataset / "dataset.json").read_text())
    del content["nnssl_accepted"]
    (dataset / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(Refused, match="--accept label_map"):
        case_statistics(
            read_raw_dataset(dataset.name, workspace_folders(tmp_path)).cases[0], ("image",), "SimpleITKIO", 100
        )


def test_several_sources_go_into_one_data_set_and_what_they_share_counts_once(source, run):
    write(source / "a" / "x.nii.gz", texture(0))
    write(source / "b" / "x.nii.gz", texture(1))
    outcome = run(source / "a", source / "b", source / "b" / "x.nii.gz")
    assert sorted(record.case for record in outcome.taken) == ["x", "x-2"] and outcome.new == 2
    assert run(source / "a", source / "b").kept == 2


def test_two_runs_at_a_time_are_not_possible(source, dataset, run):
    write(source / "a.nii.gz", texture(0))
    with open_ledger(dataset), pytest.raises(DataError, match="Another nnssl_ingest is writing"):
        run()
    assert len(run().taken) == 1


def test_a_damaged_ledger_is_told_with_what_to_do(source, dataset, run):
    write(source / "a.nii.gz", texture(0))
    run()
    (dataset / "ingest" / "ledger.sqlite").write_bytes(b"no data base at all" * 100)
    with pytest.raises(DataError, match=r"ledger\.sqlite is damaged .* ingest anew"):
        run()


@pytest.mark.pipeline
def test_memory_does_not_grow_with_the_number_of_scans(source, run):
    """Of what Python holds: ten times the scans, measured in the second run, when caches are filled."""
    peaks = []
    for begin, end in ((0, 30), (30, 330)):
        for seed in range(begin, end):
            write(source / f"p{seed:03d}" / "t1.nii.gz", texture(seed, (4, 6, 5)))
        run()
        tracemalloc.start()
        assert run().kept == end
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 300 * 1000, peaks  # a record alone would be 3 kB
