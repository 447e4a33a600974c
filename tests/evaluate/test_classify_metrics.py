"""AUC by hand, intervals over subjects, and folds that never split one."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from nnssl.evaluate.classify.frozen import choose, fit_predict
from nnssl.evaluate.classify.metrics import Predicted, auc, metrics, with_intervals
from nnssl.evaluate.classify.splits import inner_folds, subject_folds


def binary(scores: list[float]) -> np.ndarray:
    return np.array([[1 - score, score] for score in scores])


def test_the_auc_of_two_classes_is_the_share_of_pairs_in_order() -> None:
    found = metrics(binary([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
    assert found["auc"] == 0.75, "3 of 4 pairs; by hand"
    assert found["accuracy"] == 0.75
    assert found["balanced_accuracy"] == 0.75


def test_balanced_accuracy_is_the_mean_over_classes() -> None:
    found = metrics(binary([0.1, 0.1, 0.1, 0.1]), np.array([0, 0, 0, 1]))
    assert (found["accuracy"], found["balanced_accuracy"], found["auc"]) == (0.75, 0.5, 0.5)


def test_the_auc_of_three_classes_is_the_mean_of_one_against_the_rest() -> None:
    rng = np.random.default_rng(0)
    probabilities, labels = rng.dirichlet(np.ones(3), 30), rng.integers(0, 3, 30)
    expected = roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    assert metrics(probabilities, labels)["auc"] == pytest.approx(expected)


def test_the_auc_equals_scikit_learns_with_ties_too() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores, labels = rng.integers(0, 6, 25) / 6, rng.integers(0, 2, 25).astype(bool)
        assert auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def predicted(gap: float, *, seed: int, subjects: int = 40, images: int = 1) -> Predicted:
    rng = np.random.default_rng(seed)
    labels = np.arange(subjects) % 2
    scores = 1 / (1 + np.exp(-(gap * (2 * labels - 1) + rng.standard_normal(subjects))))
    return Predicted(
        probabilities=np.repeat(binary(list(scores)), images, axis=0),
        labels=np.repeat(labels, images),
        subjects=[f"s{index // images}" for index in range(subjects * images)],
    )


def test_a_gain_is_claimed_where_its_interval_says_so_and_nowhere_else() -> None:
    better = with_intervals({"pretrained": predicted(1, seed=0), "untrained": predicted(0, seed=1)}, resamples=200)
    assert better["difference"]["sentence"].endswith(": a gain")
    same = with_intervals({"pretrained": predicted(1, seed=0), "untrained": predicted(1, seed=1)}, resamples=200)
    assert same["difference"]["sentence"].endswith("no difference can be claimed")
    values = better["networks"]["pretrained"]["auc"]
    assert values["low"] < values["value"] < values["high"]
    few = {"pretrained": predicted(9, seed=0, subjects=4), "untrained": predicted(-9, seed=1, subjects=4)}
    assert "too few subjects for a claim" in with_intervals(few, resamples=50)["difference"]["sentence"]


def test_more_images_of_the_same_subjects_do_not_narrow_the_interval() -> None:
    one, five = (
        with_intervals({"a": predicted(0.5, seed=0, images=images)}, resamples=300)["networks"]["a"]["auc"]
        for images in (1, 5)
    )
    assert five["value"] == pytest.approx(one["value"])
    assert (five["low"], five["high"]) == pytest.approx((one["low"], one["high"]))


def test_the_same_predictions_differ_by_nothing() -> None:
    found = with_intervals({"a": predicted(1, seed=0), "b": predicted(1, seed=0)}, resamples=50)["difference"]
    assert (found["gain"], found["low"], found["high"]) == (0, 0, 0)


def test_folds_keep_subjects_together_and_hold_every_class() -> None:
    labels = np.array([0, 1] * 20)
    subjects = [f"s{index // 2}" for index in range(40)]
    folds = subject_folds(labels, subjects, 5, seed=0)
    left_out = np.concatenate([rows for _, rows in folds])
    assert sorted(left_out) == list(range(40))
    for train, rows in folds:
        assert not {subjects[row] for row in train} & {subjects[row] for row in rows}
        assert set(labels[rows]) == {0, 1}
    again = subject_folds(labels, subjects, 5, seed=0)
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(folds, again, strict=True))


def test_inner_folds_are_as_many_as_the_subjects_allow() -> None:
    labels = np.array([0, 0, 0, 1, 1])
    found = inner_folds(labels, list("abcde"), 5, seed=0)
    assert found is not None and len(found) == 2
    assert inner_folds(labels[2:4], list("cd"), 5, seed=0) is None


@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_frozen_classifiers_read_what_is_there_and_nothing_else(kind: str) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    vectors = rng.standard_normal((60, 20))
    vectors[:, :3] += 4 * np.eye(3)[labels]
    subjects = [f"s{index}" for index in range(60)]
    probabilities, _ = fit_predict(kind, vectors[:40], labels[:40], subjects[:40], vectors[40:], folds=3, seed=0)  # type: ignore[arg-type]
    assert probabilities.sum(axis=1) == pytest.approx(1)
    assert metrics(probabilities, labels[40:])["auc"] > 0.95
    noise = rng.standard_normal((60, 20))
    probabilities, _ = fit_predict(kind, noise[:40], labels[:40], subjects[:40], noise[40:], folds=3, seed=0)  # type: ignore[arg-type]
    assert metrics(probabilities, labels[40:])["auc"] < 0.75


def test_the_penalty_is_chosen_on_the_training_part_alone() -> None:
    """Pure noise with more features than images: the strongest penalty does as well as any, and is preferred."""
    rng = np.random.default_rng(1)
    labels, vectors = np.arange(20) % 2, rng.standard_normal((20, 5))
    vectors[:, 0] = labels  # perfectly separable: all penalties reach an AUC of 1
    vectors[:, 1:] = 0
    assert choose("linear", vectors, labels, [str(index) for index in range(20)], folds=4, seed=0) == 1e-4
    assert choose("knn", vectors[:2], labels[:2], ["a", "b"], folds=4, seed=0) == 3
