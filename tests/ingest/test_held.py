"""What a list has for testing leaves the data set, in whatever form it is found, and so do its copies."""

from __future__ import annotations

import pytest

from tests.ingest.scans import texture, write, write_nifti, write_series


def refused(outcome):
    return sorted((record.source, record.reason) for record in outcome.refused)


@pytest.mark.parametrize("split", ["test", "fold0"])
def test_a_row_that_cannot_be_used_takes_its_scan_out_of_a_data_set_that_has_it(source, dataset, run, split):
    for number in range(3):
        write_nifti(source / "d" / f"f{number}.nii.gz", texture(number))
    assert len(run(source / "d").taken) == 3
    (source / "lists").mkdir()
    table = source / "lists" / "t.csv"
    table.write_text(f"path,subject,split\n../d/f0.nii.gz,a,{split}\n")
    outcome = run(source / "d", table)
    reason = "held_out" if split == "test" else "unknown_split"
    assert refused(outcome) == [("../d/f0.nii.gz", "outside_source"), ("f0.nii.gz", reason)]
    assert [record.case for record in outcome.taken] == ["f1", "f2"] and outcome.lost == 1
    assert not (dataset / "imagesTr" / "f0_0000.nii.gz").exists()
    assert not any("vanished" in record.suspicions for record in outcome.taken)
    assert [record.case for record in run(source / "d").taken] == ["f1", "f2"]  # the folder alone lets nothing in


@pytest.mark.parametrize("before", [False, True])
def test_a_row_for_one_slice_holds_its_whole_series_out(source, run, before):
    for seed in range(2):
        write_series(source / f"S{seed}", texture(seed, ct=True))
    if before:
        assert len(run().taken) == 2
    table = source.parent / "scans.csv"
    table.write_text(f"path,subject,split\n{source / 'S0' / 'IM0003'},s6,test\n")
    outcome = run(source, table)
    assert refused(outcome) == [
        ("S0 (10 files)", "held_out"),
        ("source/S0/IM0003", "unknown_format"),
    ]
    sentences = {record.reason: record.sentence for record in outcome.refused}
    assert "name the folder of the series" in sentences["unknown_format"]
    assert "a list has it, or a file of it, for testing" in sentences["held_out"]
    assert len(outcome.taken) == 1 and not outcome.taken[0].suspicions.get("vanished")
    assert outcome.layouts["DICOM series"] == 2
    assert len(run(source, table, accepted={"held_out"}).taken) == 2


def test_an_entry_of_several_files_holds_them_all_out_where_one_is_missing(source, run):
    for number in range(2):
        write_nifti(source / "scans" / f"{number}.nii.gz", texture(number))
    (source / "list.json").write_text('{"test": [{"image": ["scans/gone.nii.gz", "scans/0.nii.gz"]}]}')
    outcome = run(source / "scans", source / "list.json")
    assert [record.source for record in outcome.taken] == ["1.nii.gz"]


@pytest.mark.parametrize("before", [False, True])
def test_copies_of_what_a_list_holds_out_are_refused_and_named(source, run, before):
    folder = source / "dup"
    write_nifti(folder / "a.nii.gz", texture(0))
    write_nifti(folder / "b.nii.gz", texture(1))
    write(folder / "a_again.nrrd", texture(0))
    write(folder / "another.mha", texture(0))
    if before:
        assert len(run(folder).taken) == 2
    table = source / "dup.csv"
    table.write_text("path,split\ndup/a.nii.gz,test\n")
    outcome = run(folder, table)
    assert [record.source for record in outcome.taken] == ["b.nii.gz"]
    copies = [record for record in outcome.refused if record.reason == "duplicate"]
    assert sorted(record.source for record in copies) == ["a_again.nrrd", "another.mha"]
    assert "dup/a.nii.gz, which a list has for testing" in copies[0].sentence
    assert [record.source for record in run(folder).taken] == ["b.nii.gz"]  # what is known stays known
    assert len(run(folder, accepted={"duplicate"}).taken) == 3


def test_a_case_that_has_a_channel_which_is_held_out_elsewhere_is_refused(source, run):
    for channel in range(2):
        write_nifti(source / "scans" / f"a_{channel:04d}.nii.gz", texture(channel))
        write_nifti(source / "scans" / f"b_{channel:04d}.nii.gz", texture(channel + 2))
    write(source / "other" / "x.nrrd", texture(1))
    (source / "scans.csv").write_text("path,split\nother/x.nrrd,test\n")
    outcome = run(source / "scans", source / "scans.csv")
    assert [record.case for record in outcome.taken] == ["b"]
    assert [record.reason for record in outcome.refused] == ["duplicate", "held_out"]


def test_what_is_held_out_and_cannot_be_read_is_held_out_all_the_same(source, run):
    write_nifti(source / "a.nii.gz", texture(0))
    (source / "b.nii.gz").write_bytes((source / "a.nii.gz").read_bytes()[:200])
    (source / "scans.csv").write_text("path,split\na.nii.gz,\nb.nii.gz,test\n")
    for _ in range(2):
        outcome = run(source / "scans.csv")
        assert [record.reason for record in outcome.refused] == ["held_out"] and len(outcome.taken) == 1
