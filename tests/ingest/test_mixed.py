"""Scans of both kinds in one data set, where that is accepted: one way to normalise them, in all commands."""

from __future__ import annotations

import json

import pytest

from tests.ingest.scans import texture, write


@pytest.fixture
def mixed(source):
    """Three CTs of which nothing says so, two scans of which a list says that they are MRs."""
    lines = ["path,modality"]
    for seed in range(3):
        write(source / f"ct{seed}.nii.gz", texture(seed, (24, 26, 28), ct=True))
        lines.append(f"ct{seed}.nii.gz,")
    for seed in range(2):
        write(source / f"mr{seed}.nii.gz", texture(10 + seed, (24, 26, 28)))
        lines.append(f"mr{seed}.nii.gz,T1w")
    (source / "list.csv").write_text("\n".join(lines))
    return source / "list.csv"


def channels(dataset):
    return json.loads((dataset / "dataset.json").read_text())["channel_names"]


@pytest.mark.parametrize("asked", [("CT",), ("ct",)])
def test_accepted_scans_of_another_kind_are_normalised_image_by_image(mixed, dataset, run, asked):
    outcome = run(mixed, channels=asked, accepted={"other_modality"})
    assert len(outcome.taken) == 5 and channels(dataset) == {"0": "image"}
    again = run(mixed, channels=asked, accepted={"other_modality"})
    assert (again.new, len(again.taken)) == (0, 5) and channels(dataset) == {"0": "image"}
    assert len(run(mixed, channels=asked).taken) == 5 and channels(dataset) == {"0": "image"}


def test_a_set_of_cts_alone_stays_one(mixed, dataset, run):
    assert len(run(mixed, channels=("CT",)).taken) == 3 and channels(dataset) == {"0": "CT"}
    assert len(run(mixed, channels=("CT",), accepted={"other_modality"}).taken) == 5
    assert channels(dataset) == {"0": "image"}


def test_cts_among_scans_that_are_called_mr_are_normalised_image_by_image_by_that_name(mixed, dataset, run):
    for seed in range(2):
        write(mixed.parent / f"mr{seed + 2}.nii.gz", texture(20 + seed, (24, 26, 28)))
    mixed.write_text(mixed.read_text() + "\nmr2.nii.gz,T1w\nmr3.nii.gz,T1w")
    assert len(run(mixed, channels=("MR",), accepted={"other_modality"}).taken) == 7
    assert channels(dataset) == {"0": "MR"}


@pytest.mark.pipeline
def test_the_plan_takes_what_was_accepted(mixed, dataset, run, preprocessed_cases):
    run(mixed, channels=("CT",), accepted={"other_modality"})
    assert preprocessed_cases(dataset) == ["ct0", "ct1", "ct2", "mr0", "mr1"]


def test_cases_of_more_channels_than_the_others_are_told_what_to_do(source, run):
    for seed in range(3):
        write(source / "loose" / f"{seed}.nii.gz", texture(seed))
    for channel in range(2):
        write(source / "task" / "imagesTr" / f"two_000{channel}.nii.gz", texture(20 + channel))
    outcome = run()
    (refused,) = outcome.refused
    assert len(outcome.taken) == 3 and refused.reason == "channel_count"
    assert "it has 2 channels, the cases of this data set have 1 channel;" in refused.sentence
    assert "another data set takes it" in refused.sentence and "--exclude" in refused.sentence
    again = run()
    assert again.new == 0 and [record.reason for record in again.refused] == ["channel_count"], "judged without reading"
    assert [record.reason for record in run(excluded=("task",)).refused] == ["excluded"]
