"""Numbers of a report that speak of the same things add up, and say of what they are."""

from __future__ import annotations

import json

from nnssl.ingest.report import summary
from tests.ingest.scans import texture, write


def test_subjects_add_up_when_copies_stay_of_scans_that_are_gone(source, dataset, run):
    for seed, name in enumerate(("p1/a", "p2/a", "p3/a")):
        write(source / f"{name}.nrrd", texture(seed))
    run()
    (source / "p2" / "a.nrrd").unlink()
    outcome = run()
    assert outcome.subjects == [("names of folders in source", 2), ("earlier runs", 1)]
    said = summary("x", outcome)
    assert "3 cases of 3 subjects" in said[0]
    assert "Subjects: 2 by names of folders in source, 1 by earlier runs." in said
    assert sum(json.loads((dataset / "ingest" / "report.json").read_text())["subjects_by"].values()) == 3


def test_subjects_add_up_when_two_ways_lead_to_one(source, run):
    write(source / "p1" / "a.nrrd", texture(0))
    write(source / "p1" / "b.nrrd", texture(1))
    write(source / "c.nrrd", texture(2))
    (source / "list.csv").write_text("path,subject\np1/b.nrrd,p1\nc.nrrd,carl\n")
    outcome = run(source, source / "list.csv")
    counts = summary("x", outcome)[0]
    assert f"of {sum(count for _, count in outcome.subjects)} subjects" in counts


def test_suspicions_and_the_cases_they_are_about_are_told_apart(source, dataset, run):
    for seed in range(2):
        write(source / f"{seed}.nii.gz", texture(seed, (6, 12, 14)), (9.0, 1.0, 1.0))
    write(source / "good.nii.gz", texture(3, (20, 22, 24)), (2.0, 2.0, 2.0))
    outcome = run()
    assert [len(record.suspicions) for record in outcome.taken] == [2, 2, 0]
    assert "Suspicious, but taken: 2 cases, for 4 reasons in all." in summary("x", outcome)
    text = (dataset / "ingest" / "report.html").read_text()
    assert "<b>2</b><span>suspicious cases</span>" in text
    assert "Suspicious, but taken (4 suspicions about 2 cases)" in text
