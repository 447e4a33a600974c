"""Scans in separate files become channels of one case when the user says so, and else cases of their own."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nnssl.planning.reading import read_image
from tests.ingest.scans import texture, write, write_series

NAMES = ("T1w", "T2w", "FLAIR")


def bids(source, subject, session, *suffixes, shape=(10, 12, 14), seed=0):
    folder = source / f"sub-{subject}" / f"ses-{session}" / "anat"
    for number, suffix in enumerate(suffixes):
        write(folder / f"sub-{subject}_ses-{session}_{suffix}.nii.gz", texture(seed + number, shape))


def channel(dataset, case, number):
    return read_image([dataset / "imagesTr" / f"{case}_{number:04d}.nii.gz"], "SimpleITKIO").data[0]


def test_without_the_switch_every_file_is_a_case(source, run):
    bids(source, "01", "1", *NAMES)
    assert sorted(record.case for record in run().taken) == [f"sub-01_ses-1_{name}" for name in sorted(NAMES)]


def test_bids_suffixes_become_channels_in_the_order_that_was_asked_for(source, dataset, run):
    (source / "dataset_description.json").write_text("{}")
    bids(source, "01", "1", *NAMES)
    bids(source, "01", "2", *NAMES, seed=10)
    bids(source, "02", "1", "T1w", "FLAIR", "dwi", seed=20)
    outcome = run(channels=("FLAIR", "T1w", "T2w"))
    assert [(record.case, record.subject, record.session) for record in outcome.taken] == [
        ("sub-01_ses-1", "01", "1"),
        ("sub-01_ses-2", "01", "2"),
    ]
    for number, seed in enumerate((12, 10, 11)):
        np.testing.assert_array_equal(channel(dataset, "sub-01_ses-2", number), texture(seed))
    assert [(r.reason, r.sentence) for r in outcome.refused] == [
        ("missing_channel", "T2w is not there; found FLAIR, T1w")
    ]
    assert outcome.ignored["scans that are none of FLAIR, T1w, T2w"] == 1
    content = json.loads((dataset / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "FLAIR", "1": "T1w", "2": "T2w"}
    again = run(channels=("FLAIR", "T1w", "T2w"))
    assert len(again.taken) == 2 and again.kept == 3  # what lacks a channel is known, too
    bids(source, "02", "1", "T1w", "FLAIR", "T2w", seed=20)
    assert len(run(channels=("FLAIR", "T1w", "T2w")).taken) == 3


@pytest.mark.parametrize(
    "files",
    [
        ("anna/t1.nii.gz", "anna/flair.nii.gz", "bert/t1.nii.gz", "bert/flair.nii.gz"),
        ("anna/anna_T1.nii.gz", "anna/anna_FLAIR.nrrd", "bert/bert_T1.nii.gz", "bert/bert_FLAIR.mha"),
        ("anna_t1.nii.gz", "anna_flair.nii.gz", "bert-t1.nii.gz", "bert-flair.nii.gz"),
    ],
)
def test_words_of_names_say_which_channel_a_file_is(source, run, files):
    for seed, name in enumerate(files):
        write(source / name, texture(seed))
    outcome = run(channels=("t1", "flair"))
    assert not outcome.refused
    assert [(len(record.channels), record.subject) for record in outcome.taken] == [(2, "anna"), (2, "bert")]
    assert [record.modality for record in outcome.taken] == [["t1", "flair"]] * 2


def test_channels_of_other_geometry_are_refused(source, run):
    bids(source, "01", "1", "T1w")
    bids(source, "01", "1", "T2w", shape=(10, 12, 16), seed=1)
    outcome = run(channels=("T1w", "T2w"))
    assert [record.reason for record in outcome.refused] == ["channels_differ"]


def test_two_scans_for_one_channel_are_refused_or_the_first_is_taken(source, dataset, run):
    bids(source, "01", "1", "run-1_T1w", "run-2_T1w", "T2w")
    outcome = run(channels=("T1w", "T2w"))
    assert [record.reason for record in outcome.refused] == ["ambiguous_channel"]
    assert "run-2_T1w" in outcome.refused[0].sentence
    outcome = run(channels=("T1w", "T2w"), accepted={"ambiguous_channel"})
    assert "not T1w" in outcome.taken[0].notes[0]
    np.testing.assert_array_equal(channel(dataset, outcome.taken[0].case, 0), texture(0))


def test_a_table_and_dicom_name_channels_too(source, run):
    for seed, name in enumerate("abcd"):
        write(source / f"{name}.nii.gz", texture(seed))
    rows = ("a.nii.gz,anna,1,T1", "b.nii.gz,anna,1,T2", "c.nii.gz,anna,2,T1", "d.nii.gz,anna,2,T2")
    (source / "list.csv").write_text("path,subject,session,modality\n" + "\n".join(rows) + "\n")
    outcome = run(source / "list.csv", channels=("T1", "T2"))
    assert [record.session for record in outcome.taken] == ["1", "2"]


def test_ct_and_pet_of_one_study_are_channels(source, run):
    write_series(source / "ct", texture(0, ct=True), StudyInstanceUID="1.2.3")
    write_series(source / "pt", texture(1), modality="PT", intercept=0.0, StudyInstanceUID="1.2.3")
    outcome = run(channels=("CT", "PT"))
    assert [record.modality for record in outcome.taken] == [["CT", "PT"]], [r.sentence for r in outcome.refused]


def test_files_with_channel_numbers_stay_together(source, run):
    for number in (0, 1):
        write(source / f"p_{number:04d}.nii.gz", texture(number))
    outcome = run(channels=("T1", "T2"))
    assert outcome.channels == {"0": "T1", "1": "T2"} and len(outcome.taken) == 1


def test_spare_scans_of_a_session_that_lacks_a_channel_are_named(source, run):
    for seed, name in enumerate(("carl/T1.nii.gz", "carl/T1_old.nii.gz", "dora/T1.nii.gz", "dora/FLAIR.nii.gz")):
        write(source / name, texture(seed))
    (refused,) = run(channels=("T1", "FLAIR")).refused
    assert refused.source == "carl/T1.nii.gz" and refused.reason == "missing_channel"
    assert refused.sentence == "FLAIR is not there; found T1, and more than one scan fits T1 (carl/T1_old.nii.gz)"


def test_spare_scans_are_not_named_where_names_are_hidden(source, run):
    for seed, name in enumerate(("carl/T1.nii.gz", "carl/T1_old.nii.gz", "dora/T1.nii.gz", "dora/T1_old.nii.gz")):
        write(source / name, texture(seed))
    write(source / "dora" / "FLAIR.nii.gz", texture(9))
    refused = run(channels=("T1", "FLAIR"), hide_names=True).refused
    assert {record.reason: record.sentence for record in refused} == {
        "missing_channel": "FLAIR is not there; found T1, and more than one scan fits T1 (one more)",
        "ambiguous_channel": "more than one scan fits T1 (one more)",
    }


@pytest.mark.parametrize(("one", "other"), [("train", "training"), ("train", ""), ("", "imagesTr")])
def test_two_words_for_training_do_not_tear_a_session_apart(source, run, one, other):
    for seed, name in enumerate("ab"):
        write(source / f"{name}.nii.gz", texture(seed))
    rows = f"path,subject,session,modality,split\na.nii.gz,c,1,T1w,{one}\nb.nii.gz,c,1,FLAIR,{other}\n"
    (source / "list.csv").write_text(rows)
    outcome = run(source / "list.csv", channels=("T1w", "FLAIR"))
    assert [(len(record.channels), record.subject) for record in outcome.taken] == [(2, "c")] and not outcome.refused


@pytest.mark.parametrize("before", [False, True])
def test_a_session_of_which_a_channel_is_held_out_says_so(source, run, before):
    for seed, name in enumerate("abcd"):
        write(source / f"{name}.nii.gz", texture(seed))
    rows = "path,subject,session,modality,split\n{}b.nii.gz,a,1,FLAIR,{}\n{}"
    a, others = "a.nii.gz,a,1,T1w,train\n", "c.nii.gz,b,1,T1w,\nd.nii.gz,b,1,FLAIR,\n"
    table = source / "list.csv"
    if before:
        table.write_text(rows.format(a, "train", others))
        assert len(run(table, channels=("T1w", "FLAIR")).taken) == 2
    table.write_text(rows.format(a, "test", others))
    outcome = run(table, channels=("T1w", "FLAIR"))
    assert [record.subject for record in outcome.taken] == ["b"]
    assert {
        ("b.nii.gz", "held_out", "the list has it for test"),
        ("a.nii.gz", "missing_channel", "FLAIR is held_out (the list has it for test); found T1w"),
    } <= {(record.source, record.reason, record.sentence) for record in outcome.refused}
    assert len(outcome.refused) == 2 + before  # with the case of both that an earlier run had taken
    accepted = run(table, channels=("T1w", "FLAIR"), accepted={"held_out"}).taken
    assert [(record.subject, record.accepted) for record in accepted] == [("a", ["held_out"]), ("b", [])]
