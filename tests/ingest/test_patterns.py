"""Single scans are left out, or accepted, by patterns of their paths below the source."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nnssl.errors import UsageError
from nnssl.ingest.patterns import checked_accept
from tests.ingest.scans import NUMBER, texture, write, write_nifti, write_series


def names(outcome):
    return sorted(record.case for record in outcome.taken)


def three(source):
    write(source / "a" / "x.nii.gz", texture(0))
    write(source / "a" / "y.nii.gz", texture(1))
    write(source / "b" / "x.nii.gz", texture(2))


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("a", ["b_x"]),
        ("a/", ["b_x"]),
        ("*x.nii.gz", ["a_y"]),
        ("./a/y*", ["a_x", "b_x"]),
        ("?/x.nii.gz", ["a_y"]),
        ("A/*", ["a_x", "a_y", "b_x"]),
    ],
)
def test_scans_whose_path_fits_are_left_out_by_name(source, run, pattern, left):
    three(source)
    outcome = run(excluded=[pattern])
    assert names(outcome) == left
    assert {(r.reason, r.sentence) for r in outcome.refused} <= {
        ("excluded", f"the command says so: --exclude {pattern}")
    }


def test_what_was_taken_leaves_and_comes_back_with_the_command(source, dataset, run):
    three(source)
    run()
    outcome = run(excluded=["a"])
    assert names(outcome) == ["b_x"] and outcome.lost == 2
    assert [path.name for path in (dataset / "imagesTr").iterdir()] == ["b_x_0000.nii.gz"]
    assert json.loads((dataset / "dataset.json").read_text())["numTraining"] == 1
    again = run(excluded=["a"])
    assert (again.new, names(again)) == (0, ["b_x"]) and len(again.refused) == 2
    assert names(run()) == ["a_x", "a_y", "b_x"]


def test_a_reason_is_accepted_of_the_scans_whose_path_fits(source, run):
    for seed, name in enumerate(("a", "b")):
        write_nifti(source / name / "s.nii.gz", np.stack([texture(seed), texture(seed + 5)]))
    write(source / "c.nii.gz", texture(9))
    outcome = run(accepted={"four_dimensional=a/*"})
    assert names(outcome) == ["a_s", "c"] and [record.source for record in outcome.refused] == ["b/s.nii.gz"]
    assert names(run()) == ["a_s", "c"], "what was accepted once stays"
    for kind in ("four_dimensional", "four_dimensional=b"):
        assert names(run(accepted={kind})) == ["a_s", "b_s", "c"]


def test_judgements_beside_others_are_accepted_by_path_too(source, run):
    for name in ("a", "b", "c"):
        write(source / f"{name}.nii.gz", texture(0))
    assert names(run(accepted={"duplicate=c*"})) == ["a", "c"]
    assert names(run(accepted={"duplicate=b.nii.gz"})) == ["a", "b", "c"]


def test_series_of_dicom_go_by_their_folder_and_patterns_betray_nobody(source, dataset, run):
    write_series(source / NUMBER / "s1", texture(0, ct=True))
    write_series(source / NUMBER / "s2", texture(1, ct=True))
    outcome = run(excluded=[f"{NUMBER}/s1"])
    assert len(outcome.taken) == 1 and [record.reason for record in outcome.refused] == ["excluded"]
    for path in (dataset / "ingest").iterdir():
        assert path.is_dir() or NUMBER.encode() not in path.read_bytes()


def test_a_pattern_is_not_written_where_names_are_hidden(source, dataset, run):
    three(source)
    assert len(run(excluded=["b"], hide_names=True).taken) == 2
    assert [record.sentence for record in run(excluded=["b"], hide_names=True).refused] == [
        "the command says so: --exclude"
    ]


def test_patterns_that_are_none_are_told(source, dataset):
    from nnssl.ingest.run import Request, ingest

    three(source)
    said = []
    ingest(Request(sources=(source,), folder=dataset, excluded=("nobody",), workers=1), said.append)
    assert "The pattern nobody fits no scan that was found." in said
    with pytest.raises(UsageError, match="needs a pattern"):
        checked_accept(["duplicate="])
    with pytest.raises(UsageError, match="not 'typo'"):
        checked_accept(["typo=a"])
    with pytest.raises(UsageError, match="is not possible"):
        checked_accept(["excluded"])
