"""Folds and label subsets keep subjects apart and are nested."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nnssl.errors import DataError, UsageError
from nnssl.evaluate.subsets import ALL, Fold, nested, read_folds

CASES = [f"s{subject}_{scan}" for subject in range(6) for scan in "ab"]
SUBJECT_OF = {case: case[:2] for case in CASES}


def test_larger_subsets_hold_the_smaller_ones_and_whole_subjects() -> None:
    fold = Fold(train=tuple(CASES[:10]), test=tuple(CASES[10:]))
    drawn = nested(fold, SUBJECT_OF, ["1", "3", ALL], seed=(0, 0, 0))
    assert [len(cases) for cases in drawn.values()] == [2, 6, 10]
    assert set(drawn["1"]) < set(drawn["3"]) < set(drawn[ALL])


def test_numbers_of_labels_that_are_added_later_change_no_draw() -> None:
    fold = Fold(train=tuple(CASES), test=())
    whole = nested(fold, SUBJECT_OF, ["1", "2", "3", ALL], seed=(0, 0, 0))
    for labels in (["2"], ["3", "1"]):
        assert nested(fold, SUBJECT_OF, labels, seed=(0, 0, 0)) == {count: whole[count] for count in labels}


def test_draws_differ_and_repeat() -> None:
    fold = Fold(train=tuple(CASES), test=())
    draws = [tuple(nested(fold, SUBJECT_OF, ["2"], seed=(0, 0, draw))["2"]) for draw in range(6)]
    assert len(set(draws)) > 1
    assert draws[0] == tuple(nested(fold, SUBJECT_OF, ["2"], seed=(0, 0, 0))["2"])


def test_folds_of_our_own_keep_subjects_together(tmp_path: Path) -> None:
    folds = read_folds(tmp_path / "none.json", CASES, SUBJECT_OF)
    assert sorted(case for fold in folds for case in fold.test) == sorted(CASES)
    for fold in folds:
        assert not {SUBJECT_OF[case] for case in fold.train} & {SUBJECT_OF[case] for case in fold.test}


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (["s0_a"], ["s0_b"], "Subject s0 is both trained and tested on in fold 0"),
        (["s0_a"], ["s9_a"], "names s9_a"),
        (["s0_a"], [], "needs cases to train on and cases to test on"),
    ],
)
def test_a_split_that_cannot_be_used_is_refused(
    tmp_path: Path, train: list[str], test: list[str], message: str
) -> None:
    file = tmp_path / "splits_final.json"
    file.write_text(json.dumps([{"train": train, "val": test}]))
    with pytest.raises(DataError, match=message):
        read_folds(file, CASES, SUBJECT_OF)


def test_more_labels_than_subjects_are_refused() -> None:
    with pytest.raises(UsageError, match="the fold has 6"):
        nested(Fold(train=tuple(CASES), test=()), SUBJECT_OF, ["7"], seed=(0,))
