"""Which labelled cases a training gets: folds by subject, and within them nested subsets by subject."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnssl.errors import DataError, UsageError

FOLDS = 5
ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Cases to choose labels from, and cases of other subjects to test on."""

    train: tuple[str, ...]
    test: tuple[str, ...]


def read_folds(file: Path, cases: Sequence[str], subject_of: Mapping[str, str]) -> list[Fold]:
    """nnU-Net's `splits_final.json`; where there is none, five folds by subject.

    Raises:
        DataError: the file names cases that are not there, or a subject stands on both sides of a fold.
    """
    if file.is_file():
        folds = [Fold(train=tuple(fold["train"]), test=tuple(fold["val"])) for fold in json.loads(file.read_text())]
    else:
        subjects = _shuffled(sorted({subject_of[case] for case in cases}), seed=(0,))
        fold_of = {subject: index % FOLDS for index, subject in enumerate(subjects)}
        folds = [
            Fold(
                train=tuple(case for case in cases if fold_of[subject_of[case]] != index),
                test=tuple(case for case in cases if fold_of[subject_of[case]] == index),
            )
            for index in range(min(FOLDS, len(subjects)))
        ]
    for number, fold in enumerate(folds):
        absent = sorted({*fold.train, *fold.test} - set(cases))
        if absent:
            raise DataError(f"Fold {number} of {file} names {absent[0]}, which the data set does not have.")
        both = {subject_of[case] for case in fold.train} & {subject_of[case] for case in fold.test}
        if both:
            raise DataError(
                f"Subject {min(both)} is both trained and tested on in fold {number} of {file}. Put all scans of a "
                f"subject on one side."
            )
        if not fold.train or not fold.test:
            raise DataError(f"Fold {number} of {file} needs cases to train on and cases to test on.")
    return folds


def nested(
    fold: Fold, subject_of: Mapping[str, str], labels: Sequence[str], *, seed: Sequence[int]
) -> dict[str, list[str]]:
    """Training cases for each number of labelled subjects; a larger subset holds every smaller one.

    Args:
        fold: what may be drawn from.
        subject_of: case -> subject.
        labels: numbers of subjects as text, or "all".
        seed: of the draw, e.g. (seed, fold, replicate).

    Raises:
        UsageError: more subjects are asked for than there are.
    """
    subjects = _shuffled(sorted({subject_of[case] for case in fold.train}), seed=seed)
    drawn = {}
    for count in labels:
        wanted = len(subjects) if count == ALL else int(count)
        if not 1 <= wanted <= len(subjects):
            raise UsageError(f"--labels {count} needs that many training subjects; the fold has {len(subjects)}.")
        chosen = set(subjects[:wanted])
        drawn[count] = [case for case in fold.train if subject_of[case] in chosen]
    return drawn


def _shuffled(names: list[str], *, seed: Sequence[int]) -> list[str]:
    order = np.random.default_rng(list(seed)).permutation(len(names))
    return [names[index] for index in order]
