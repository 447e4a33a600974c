"""Stacks of PNG slices: what lacks a slice, and what a table says that cannot be or is not there."""

from __future__ import annotations

import csv

import numpy as np
import SimpleITK

from nnssl.ingest.report import summary
from tests.ingest.scans import texture


def stack(folder, numbers, seed=0):
    folder.mkdir(parents=True)
    for number, plane in zip(numbers, texture(seed, (len(numbers), 12, 14)), strict=True):
        image = SimpleITK.GetImageFromArray(plane.astype(np.uint16))
        SimpleITK.WriteImage(image, str(folder / f"{number:03d}.png"))


def table(file, **spacings):
    with file.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["folder", "spacing_mm"])
        rows.writerows(spacings.items())


def test_the_runs_of_a_stack_that_lacks_a_slice_are_of_one_subject_and_it_is_told(source, run):
    stack(source / "a", [*range(1, 8), *range(9, 16)])
    table(source / "sp.csv", a="2 2 3")
    outcome = run()
    assert [(record.case, record.subject) for record in outcome.taken] == [("a_1-7", "a"), ("a_9-15", "a")]
    assert all("slices numbered 8 are not there" in record.suspicions["gap"] for record in outcome.taken)
    assert "gap (2)" in "\n".join(summary("Dataset745_Test", outcome))
    assert all("gap" in record.suspicions for record in run().taken)


def test_stacks_of_one_name_in_two_folders_are_of_two_subjects(source, run):
    stack(source / "x" / "a", range(8))
    stack(source / "y" / "a", range(8), seed=1)
    table(source / "sp.csv", a="2 2 3")
    assert [record.subject for record in run().taken] == ["x-a", "y-a"]


def test_a_table_that_gives_no_voxel_size_is_quoted_and_a_stack_that_is_not_there_is_told(source, run):
    for seed, name in enumerate("ab"):
        stack(source / name, range(8), seed)
    table(source / "sp.csv", a="2 2 3", b="2 0 3", gone="1 1 1")
    outcome = run()
    assert [record.case for record in outcome.taken] == ["a"]
    said = {record.source: (record.reason, record.sentence) for record in outcome.refused}
    assert said["gone"] == ("missing_file", "sp.csv names it, but no stack of PNG slices lies there")
    reason, sentence = said["b (000.png to 007.png)"]
    assert reason == "no_spacing" and "sp.csv gives '2 0 3' as its voxel size" in sentence
