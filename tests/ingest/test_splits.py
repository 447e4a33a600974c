"""Only what a list has for training, in a word that is known, is trained on."""

from __future__ import annotations

import json

import pytest

from nnssl.ingest.splits import TESTING, TRAINING, split_finding
from tests.ingest.scans import texture, write


@pytest.mark.parametrize(
    "word", ["", " ", *TRAINING, "TRAIN", " train ", "Training set", "train_1", "imagestr", "trainset"]
)
def test_words_for_training_let_a_scan_in(word):
    assert split_finding(word) is None


@pytest.mark.parametrize(
    "word",
    [*TESTING, "held_out", "held-out", "hold-out", "test_set", "test set", "internal_test", "TestSet", "imagests",
     "Val2", "ood_test", "TEST", "train_val", "validationSet"],
)  # fmt: skip
def test_words_for_testing_hold_it_out(word):
    finding = split_finding(word)
    assert finding is not None and finding.reason == "held_out"


@pytest.mark.parametrize("word", ["fold0", "0", "a", "trainval", "supervised", "?"])
def test_other_words_are_refused_with_those_that_are_known(word):
    finding = split_finding(word)
    assert finding is not None and finding.reason == "unknown_split"
    assert word in finding.sentence and "unlabeled" in finding.sentence and "validation" in finding.sentence


def test_an_unknown_word_of_a_table_or_a_list_is_refused_and_can_be_accepted(source, run):
    for number in range(4):
        write(source / f"{number}.nii.gz", texture(number))
    (source / "scans.csv").write_text("path,split\n0.nii.gz,train\n1.nii.gz,fold0\n2.nii.gz,internal_test\n")
    outcome = run(source / "scans.csv")
    assert [record.reason for record in outcome.refused] == ["unknown_split", "held_out"] and len(outcome.taken) == 1
    assert len(run(source / "scans.csv", accepted={"unknown_split"}).taken) == 2
    entries = {"training": [{"image": "0.nii.gz"}], "extra": [{"image": "3.nii.gz"}]}
    (source / "list.json").write_text(json.dumps(entries))
    assert [record.reason for record in run(source / "list.json").refused].count("unknown_split") == 1


def test_a_case_that_its_list_now_has_for_testing_leaves_the_data_set(source, run):
    for number in range(2):
        write(source / f"{number}.nii.gz", texture(number))
    table = source / "scans.csv"
    table.write_text("path,split\n0.nii.gz,train\n1.nii.gz,train\n")
    assert len(run(table).taken) == 2
    table.write_text("path,split\n0.nii.gz,train\n1.nii.gz,test\n")
    outcome = run(table)
    assert [record.reason for record in outcome.refused] == ["held_out"] and outcome.lost == 1
