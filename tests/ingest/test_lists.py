"""Rows of lists are told apart by as much of their paths as that takes, and by where they stand."""

from __future__ import annotations

import json

from tests.ingest.scans import texture, write_nifti, write_series


def said(outcome):
    return sorted((record.source, record.reason, record.sentence) for record in outcome.refused)


def test_every_missing_file_is_told_with_its_folder_and_row(source, run):
    write_nifti(source / "img" / "y.nii.gz", texture(0))
    (source / "lists").mkdir()
    paths = [source / folder / name for folder, name in (("A", "x.nii.gz"), ("B", "x.nii.gz"), ("C", "y.nii.gz"))]
    rows = ["path,subject", *(f"{path},a" for path in paths), ",b", f"{source / 'img' / 'y.nii.gz'},c"]
    (source / "lists" / "scans.csv").write_text("\n".join(rows))
    outcome = run(source / "lists" / "scans.csv")
    assert said(outcome) == [
        ("A/x.nii.gz", "missing_file", "row 2 names it, but it is not there"),
        ("B/x.nii.gz", "missing_file", "row 3 names it, but it is not there"),
        ("C/y.nii.gz", "missing_file", "row 4 names it, but it is not there"),
        ("row 5", "bad_list", "a path is needed, it has no path"),
    ]
    assert [record.source for record in outcome.taken] == ["img/y.nii.gz"]


def test_names_that_tell_paths_apart_are_shown_alone(source, run):
    for number in range(2):
        write_nifti(source / "scans" / f"{number}.nii.gz", texture(number))
    (source / "lists").mkdir()
    entries = [{"image": str(source / "scans" / f"{number}.nii.gz")} for number in range(3)]
    (source / "lists" / "list.json").write_text(json.dumps({"training": entries}))
    outcome = run(source / "lists" / "list.json")
    assert [record.source for record in outcome.taken] == ["0.nii.gz", "1.nii.gz"]
    assert said(outcome) == [("2.nii.gz", "missing_file", "entry 3 of 'training' names it, but it is not there")]


def test_patterns_fit_the_path_that_a_list_gives_and_the_folders_above(source, run):
    for number in range(1, 4):
        write_nifti(source / "ward" / f"patient 0{number}" / "ct.nii.gz", texture(number))
    (source / "lists").mkdir()
    rows = ["path", *(str(source / "ward" / f"patient 0{number}" / "ct.nii.gz") for number in range(1, 4))]
    table = source / "lists" / "scans.csv"
    table.write_text("\n".join(rows))
    for pattern in ("*patient 02*", "patient 02", f"{source}/ward/patient 02"):
        assert [record.reason for record in run(table, excluded=[pattern]).refused] == ["excluded"], pattern
    assert len(run(table).taken) == 3


def test_a_series_of_a_row_is_shown_below_folders_that_tell_it_apart_without_its_patient(source, run):
    for seed, folder in enumerate(("Mustermann_Erika/S1", "Other/S1")):
        write_series(source / "pacs" / folder, texture(seed, ct=True))
    (source / "lists").mkdir()
    table = source / "lists" / "scans.csv"
    table.write_text("path\n" + "\n".join(str(source / "pacs" / name / "S1") for name in ("Mustermann_Erika", "Other")))
    outcome = run(table)
    assert sorted(record.source for record in outcome.taken) == [
        "Other/S1 (10 files)",
        "[hidden]_[hidden]/S1 (10 files)",
    ]


def test_a_file_that_a_list_holds_out_is_not_taken_from_its_folder_whatever_is_wrong_with_the_row(source, run):
    for number in range(2):
        write_nifti(source / "scans" / f"{number}.nii.gz", texture(number))
    (source / "lists").mkdir()
    table = source / "lists" / "scans.csv"
    table.write_text("path,split\n../scans/0.nii.gz,test\n")
    outcome = run(source / "scans", table)
    assert [record.source for record in outcome.taken] == ["1.nii.gz"]
    assert said(outcome) == [
        ("../scans/0.nii.gz", "outside_source", "row 2 names it, which leads out of the list's folder"),
        ("0.nii.gz", "held_out", "a list has it, or a file of it, for testing or validation"),
    ]
