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


def entries(source, content, name="list.json"):
    for number in range(6):
        write(source / f"{number}.nii.gz", texture(number))
    (source / name).write_text(json.dumps(content))
    return source / name


def test_what_an_entry_says_of_its_own_use_counts_and_the_stricter_of_both_is_heard(source, run):
    own = [{"image": "0.nii.gz", "split": "test"}, {"image": "1.nii.gz", "fold": 0}, {"image": "2.nii.gz"}]
    outcome = run(entries(source, own))
    assert [(record.source, record.reason) for record in outcome.refused] == [("0.nii.gz", "held_out")]
    own = {
        "training": [{"image": "2.nii.gz", "Partition": "val"}, {"image": "3.nii.gz", "subset": "train"}],
        "test": [{"image": "4.nii.gz", "split": "train"}],
        "fold0": [{"image": "5.nii.gz", "split": "test"}],
    }
    outcome = run(entries(source, own))
    assert {"2.nii.gz", "4.nii.gz", "5.nii.gz"} <= {
        each.source for each in outcome.refused if each.reason == "held_out"
    }
    assert "3.nii.gz" in {record.source for record in outcome.taken}


def test_parts_of_a_list_that_are_objects_are_read_and_what_is_not_understood_is_told(source, run):
    content = {
        "name": "x", "labels": {"0": "background"}, "numTraining": 1, "test": [],
        "training": [{"image": "0.nii.gz"}, {"img": "1.nii.gz"}],
        "testing": {"a": {"image": "2.nii.gz"}},
        "validation": {"b": "3.nii.gz"},
        "eval": {"b": "of the institute"},
        "more": {"deep": [{"image": "4.nii.gz"}]},
        "val": "val.json",
    }  # fmt: skip
    outcome = run(entries(source, content), source)
    assert [record.source for record in outcome.taken if record.split] == ["0.nii.gz"]
    assert {(record.source, record.reason) for record in outcome.refused} == {
        ("2.nii.gz", "held_out"),
        ("entry 2 of 'training'", "bad_list"),
        ("3.nii.gz", "held_out"),
        ("part 'eval'", "bad_list"),
        ("part 'more'", "bad_list"),
        ("part 'val'", "bad_list"),
    }


@pytest.mark.parametrize("name", ["Split ", "partition", "subset", "SET", "data split", "fold"])
def test_other_names_of_the_column_are_known(source, run, name):
    for number in range(2):
        write(source / f"{number}.nii.gz", texture(number))
    (source / "scans.csv").write_text(f"path,{name}\n0.nii.gz,train\n1.nii.gz,test\n")
    assert [record.reason for record in run(source / "scans.csv").refused] == ["held_out"]


def test_folds_of_a_cross_validation_are_trained_on_and_of_two_columns_the_stricter_is_heard(source, run):
    for number in range(2):
        write(source / f"{number}.nii.gz", texture(number))
    (source / "scans.csv").write_text("path,fold,split,partition\n0.nii.gz,1,train,\n1.nii.gz,fold0,train,test\n")
    assert [record.source for record in run(source / "scans.csv").refused] == ["1.nii.gz"]


def test_columns_that_are_not_understood_are_told_once(source, run):
    for number in range(2):
        write(source / f"{number}.nii.gz", texture(number))
    (source / "scans.csv").write_text("path;age;Patient;purpose;;fold\n0.nii.gz;3;a;test;;1\n1.nii.gz;4;b;train;;2\n")
    assert run(source / "scans.csv").ignored == {"columns 'age' of CSV lists": 1, "columns 'purpose' of CSV lists": 1}
