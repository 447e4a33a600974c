"""Links in sources, and files that are found twice: each file is taken once and named, and no link leads upwards."""

from __future__ import annotations

import json

import pytest

from nnssl.ingest.report import summary
from tests.ingest.scans import texture, write, write_nifti

ABOVE = "links to folders above them, which are not followed"
SAME = "links to folders of the same source, which are looked at there"


def names(outcome):
    return sorted(record.source for record in outcome.records)


@pytest.mark.parametrize("link", ["a_link.nii.gz", "z_link.nii.gz"])
def test_a_file_is_named_and_its_link_is_told(source, dataset, run, link):
    write_nifti(source / "loose" / "orig.nii.gz", texture(0))
    (source / "loose" / link).symlink_to("orig.nii.gz")
    outcome = run()
    assert names(outcome) == ["loose/orig.nii.gz"] and outcome.layouts.total() == outcome.new == 1
    assert (outcome.twice, outcome.named_twice) == (1, [f"loose/{link} is loose/orig.nii.gz"])
    told = f"Found twice, counted once: 1 (loose/{link} is loose/orig.nii.gz)."
    assert told in summary("x", outcome) and told in (dataset / "ingest" / "report.html").read_text()
    assert json.loads((dataset / "ingest" / "report.json").read_text())["found_twice"]["count"] == 1


def test_names_of_links_are_hidden_with_the_others(source, dataset, run):
    write_nifti(source / "orig.nii.gz", texture(0))
    (source / "erika.nii.gz").symlink_to("orig.nii.gz")
    outcome = run(hide_names=True)
    assert "Found twice, counted once: 1." in summary("x", outcome)
    assert "erika" not in (dataset / "ingest" / "report.json").read_text()


def test_a_row_that_repeats_is_told(source, run):
    write(source / "a.nii.gz", texture(0))
    write(source / "b.nii.gz", texture(1))
    (source / "list.csv").write_text("path,subject\na.nii.gz,s1\nb.nii.gz,s2\na.nii.gz,s1\n")
    outcome = run(source / "list.csv")
    assert (len(outcome.taken), outcome.twice, outcome.named_twice) == (2, 1, ["a.nii.gz again"])


def test_sources_that_overlap_are_told(source, run):
    write(source / "x" / "a.nii.gz", texture(0))
    outcome = run(source, source / "x")
    assert len(outcome.records) == 1 and outcome.twice == 1


@pytest.mark.parametrize("way", ["..", ".", "../..", "absolute"])
def test_no_link_leads_above_itself(source, run, way):
    write(source / "inner" / "a.nii.gz", texture(0))
    write(source / "neighbour.nii.gz", texture(1))
    (source / "inner" / "cycle").symlink_to(source.parent if way == "absolute" else way)
    outcome = run(source / "inner")
    assert names(outcome) == ["a.nii.gz"] and outcome.ignored[ABOVE] == 1
    assert ABOVE in "\n".join(summary("x", outcome))


def test_a_link_elsewhere_is_followed_and_those_in_it_that_lead_up_are_not(source, run, tmp_path):
    write(tmp_path / "archive" / "p1" / "a.nii.gz", texture(0))
    write(tmp_path / "archive" / "p2" / "b.nii.gz", texture(1))
    (tmp_path / "archive" / "p1" / "all").symlink_to(tmp_path / "archive")
    (source / "chosen").symlink_to(tmp_path / "archive" / "p1")
    outcome = run()
    assert names(outcome) == ["chosen/a.nii.gz"] and outcome.ignored[ABOVE] == 1


def test_a_link_to_a_folder_of_the_source_gives_its_scans_no_other_name(source, run):
    write(source / "z_real" / "a.nii.gz", texture(0))
    (source / "a_alias").symlink_to("z_real")
    outcome = run()
    assert names(outcome) == ["z_real/a.nii.gz"] and outcome.ignored[SAME] == 1


def test_a_link_into_a_hidden_folder_is_followed(source, run):
    write(source / ".store" / "a.nii.gz", texture(0))
    (source / "patient").symlink_to(".store")
    assert names(run()) == ["patient/a.nii.gz"]


def test_links_to_folders_in_bids_subjects_are_told(source, run, tmp_path):
    write(tmp_path / "far" / "sub-01_T1w.nii.gz", texture(0))
    write(source / "sub-01" / "anat" / "sub-01_T2w.nii.gz", texture(1))
    (source / "dataset_description.json").write_text("{}")
    (source / "sub-01" / "more").symlink_to(tmp_path / "far")
    outcome = run()
    assert len(outcome.taken) == 1 and outcome.ignored["links to folders in BIDS subjects"] == 1
