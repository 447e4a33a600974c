"""A subject is a name within its collection; what a list says of a file is heard before what its folder says."""

from __future__ import annotations

import csv
import json

import pytest

from tests.ingest.scans import texture, write, write_nifti, write_series


def bids(tree, *suffixes, seed=0):
    (tree / "dataset_description.json").parent.mkdir(parents=True, exist_ok=True)
    (tree / "dataset_description.json").write_text("{}")
    for number, suffix in enumerate(suffixes):
        write_nifti(tree / "sub-01" / "anat" / f"sub-01_{suffix}.nii.gz", texture(seed + number))


def task(folder, seed):
    write_nifti(folder / "imagesTr" / "case_001_0000.nii.gz", texture(seed))
    content = {"channel_names": {"0": "T1"}, "labels": {"background": 0}, "numTraining": 1, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content))


def subjects(outcome):
    return sorted(record.subject for record in outcome.taken)


def table(dataset):
    with (dataset / "ingest" / "cases.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_same_name_in_two_trees_is_two_people(source, run):
    bids(source / "bidsA", "T1w")
    bids(source / "bidsB", "T1w", seed=1)
    task(source / "TaskA", 2)
    task(source / "TaskB", 3)
    for seed, project in enumerate("AB"):
        write_nifti(source / f"proj{project}" / "images" / "img0.nii.gz", texture(10 + seed))
    outcome = run()
    expected = ["TaskA-case-001", "TaskB-case-001", "bidsA-01", "bidsB-01", "projA-img0", "projB-img0"]
    assert subjects(outcome) == expected
    assert subjects(run()) == expected


def test_scans_of_two_people_are_no_channels_of_one_case(source, run):
    bids(source / "bidsA", "T1w")
    bids(source / "bidsB", "FLAIR", seed=1)
    outcome = run(channels=("T1w", "FLAIR"))
    assert not outcome.taken and [record.reason for record in outcome.refused] == ["missing_channel"] * 2


def test_the_same_name_in_two_sources_is_two_people_whose_files_are_told_apart(source, dataset, run):
    for seed, clinic in enumerate("AB"):
        write_nifti(source / f"clinic_{clinic}" / "patient 01" / "2020" / "t1w.nii.gz", texture(seed))
    outcome = run(source / "clinic_A", source / "clinic_B")
    assert subjects(outcome) == ["clinic-A-patient-01", "clinic-B-patient-01"]
    rows = table(dataset)
    assert len({row["source"] for row in rows}) == 1 and {row["origin"] for row in rows} == {"clinic_A", "clinic_B"}


def test_a_name_that_a_run_before_has_given_stays_with_its_owner(source, run):
    for seed, clinic in enumerate("AB"):
        write_nifti(source / f"clinic_{clinic}" / "patient 01" / "2020" / "t1w.nii.gz", texture(seed))
    assert subjects(run(source / "clinic_A")) == ["patient-01"]
    write_nifti(source / "clinic_A" / "patient 01" / "2021" / "t1w.nii.gz", texture(5))
    assert subjects(run(source / "clinic_A", source / "clinic_B")) == [
        "clinic-B-patient-01",
        "patient-01",
        "patient-01",
    ]


def test_the_same_name_in_two_sources_is_two_people_with_hidden_names_too(source, dataset, run):
    for seed, clinic in enumerate("AB"):
        write_nifti(source / f"clinic_{clinic}" / "patient 01" / "2020" / "t1w.nii.gz", texture(seed))
    outcome = run(source / "clinic_A", source / "clinic_B", hide_names=True)
    assert len({*subjects(outcome)}) == 2
    assert "clinic" not in (dataset / "ingest" / "cases.csv").read_text()


def test_a_number_in_dicom_is_one_person_in_all_sources_and_so_is_a_name_in_one_table(source, run):
    for seed, clinic in enumerate("ab"):
        write_series(source / clinic / "x", texture(seed, ct=True))
        write(source / f"{clinic}.nii.gz", texture(seed + 10, ct=True))
    assert len({*subjects(run(source / "a", source / "b"))}) == 1
    (source / "scans.csv").write_text("path,subject\na.nii.gz,anna\nb.nii.gz,anna\n")
    assert subjects(run(source / "scans.csv"))[-2:] == ["anna", "anna"]


@pytest.mark.parametrize("first", [0, 1])
def test_a_list_is_heard_before_the_folder(source, run, first):
    for number in range(4):
        write_nifti(source / "scans" / f"f{number}.nii.gz", texture(number))
    list_of_them = source / "scans.csv"
    rows = ["path,subject,session,split", "scans/f0.nii.gz,anna,s1,train", "scans/f1.nii.gz,anna,s2,test"]
    list_of_them.write_text("\n".join([*rows, "scans/f2.nii.gz,bob,s1,val"]))
    sources = [source / "scans", list_of_them]
    outcome = run(sources[first], sources[1 - first])
    assert subjects(outcome) == ["anna", "f3"]
    assert [record.reason for record in outcome.refused] == ["held_out"] * 2
    assert outcome.layouts == {"rows of a CSV": 3, "volumes in folders": 1}


def test_a_list_in_one_folder_is_heard_of_files_in_another(source, run):
    for number in range(3):
        write_nifti(source / "scans" / f"f{number}.nii.gz", texture(number))
    (source / "list").mkdir()
    entries = [{"image": str(source / "scans" / "f1.nii.gz")}]
    (source / "list" / "datalist.json").write_text(json.dumps({"testing": entries}))
    outcome = run()
    assert len(outcome.taken) == 2 and [record.reason for record in outcome.refused] == ["held_out"]


def test_a_channel_that_a_list_holds_out_takes_its_case_along(source, run):
    for case in ("a", "b"):
        for channel in range(2):
            write_nifti(source / "scans" / f"{case}_{channel:04d}.nii.gz", texture(channel + 2 * (case == "b")))
    (source / "scans.csv").write_text("path,split\nscans/a_0001.nii.gz,test\n")
    outcome = run(source / "scans", source / "scans.csv")
    assert [record.case for record in outcome.taken] == ["b"]
    assert [(record.source, record.reason) for record in outcome.refused] == [
        ("a_0000.nii.gz, a_0001.nii.gz", "held_out"),
        ("scans/a_0001.nii.gz", "held_out"),
    ]


def test_of_two_lists_the_one_that_holds_out_is_heard(source, run):
    write_nifti(source / "a.nii.gz", texture(0))
    write_nifti(source / "b.nii.gz", texture(1))
    (source / "1.csv").write_text("path,split\na.nii.gz,train\nb.nii.gz,train\n")
    (source / "2.csv").write_text("path,split\na.nii.gz,test\n")
    for lists in (("1.csv", "2.csv"), ("2.csv", "1.csv")):
        assert [record.case for record in run(*(source / name for name in lists)).taken] == ["b"]


def test_a_later_list_corrects_what_folders_said_and_a_later_word_lets_a_scan_in(source, run):
    for number in range(3):
        write_nifti(source / "scans" / f"f{number}.nii.gz", texture(number))
    assert len(run(source / "scans").taken) == 3
    rows = source / "scans.csv"
    rows.write_text("path,subject,split\nscans/f0.nii.gz,anna,train\nscans/f1.nii.gz,anna,test\n")
    assert subjects(run(source / "scans", rows)) == ["anna", "f2"]
    assert subjects(run(source / "scans")) == ["anna", "f2"]  # the folder alone lets nothing in
    rows.write_text("path,subject,split\nscans/f0.nii.gz,anna,train\nscans/f1.nii.gz,anna,train\n")
    assert subjects(run(rows)) == ["anna", "anna", "f2"]
