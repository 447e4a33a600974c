"""Folds of images by subject, with about the same share of every class in each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nnssl.errors import DataError

Indices = npt.NDArray[np.int64]


def subject_folds(labels: Indices, subjects: Sequence[str], folds: int, *, seed: int) -> list[tuple[Indices, Indices]]:
    """(rows to train on, rows left out) of every fold; a subject's images stay together.

    Args:
        labels: (n,) index of the class.
        subjects: (n,).
        folds: at most as many as every class has subjects.
        seed: of the order.

    Raises:
        DataError: a class would be absent on one side, because its subjects have few images or other classes, too.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    made = list(splitter.split(np.zeros(len(labels)), labels, np.array(subjects)))
    classes = set(labels.tolist())
    for number, (train, _) in enumerate(made):
        there = len(set(labels[train].tolist()))
        if there < len(classes):
            raise DataError(
                f"Fold {number} of {folds} would train on {there} of {len(classes)} classes. Use fewer folds, or add "
                f"subjects."
            )
    return [(np.asarray(train), np.asarray(left_out)) for train, left_out in made]


def inner_folds(
    labels: Indices, subjects: Sequence[str], folds: int, *, seed: int
) -> list[tuple[Indices, Indices]] | None:
    """The same within a training part, with as many folds as its classes allow; None where two are too many."""
    pairs = {(label, subject) for label, subject in zip(labels.tolist(), subjects, strict=True)}
    fewest = min(sum(label == one for label, _ in pairs) for one in set(labels.tolist()))
    possible = min(folds, fewest)
    if possible < 2:
        return None
    try:
        return subject_folds(labels, subjects, possible, seed=seed)
    except DataError:
        return None
