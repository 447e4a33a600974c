"""Dice, intervals and what may be claimed, against known numbers and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from nnssl.errors import DataError
from nnssl.evaluate.statistics import (
    Comparison,
    bootstrap_interval,
    compare,
    dice_per_class,
    mean_dice,
    smallest_gain,
    wilcoxon_p,
)


def test_dice_of_hand_counted_maps() -> None:
    truth = np.array([[0, 1, 1], [2, 2, 0]])
    prediction = np.array([[1, 1, 0], [2, 2, 2]])
    assert dice_per_class(prediction, truth, [1, 2]) == {1: 2 * 1 / 4, 2: 2 * 2 / 5}


def test_a_class_in_neither_map_does_not_count_and_in_one_map_is_zero() -> None:
    truth, prediction = np.array([0, 0, 1]), np.array([0, 2, 1])
    scores = dice_per_class(prediction, truth, [1, 2, 3])
    assert scores[1] == 1.0
    assert scores[2] == 0.0
    assert math.isnan(scores[3])
    assert mean_dice(scores) == 0.5
    assert math.isnan(mean_dice({3: math.nan}))


def test_unknown_voxels_are_left_out() -> None:
    assert dice_per_class(np.array([1, 1, 0]), np.array([1, -1, 0]), [1]) == {1: 1.0}


def test_maps_of_different_shapes_are_refused() -> None:
    with pytest.raises(DataError, match=r"found \(2,\) and \(3,\)"):
        dice_per_class(np.zeros(2, int), np.zeros(3, int), [1])


def test_the_bootstrap_interval_is_that_of_scipy_on_cases_moved_apart() -> None:
    differences = np.random.default_rng(1).normal(0.02, 0.05, 25)
    factor = scipy.stats.t.ppf(0.975, 24) / scipy.stats.norm.ppf(0.975) * math.sqrt(25 / 24)
    apart = differences.mean() + factor * (differences - differences.mean())
    expected = scipy.stats.bootstrap((apart,), np.mean, n_resamples=20_000, method="percentile", rng=2)
    found = bootstrap_interval(differences, resamples=20_000)
    assert found == pytest.approx(tuple(expected.confidence_interval), abs=0.001)
    assert found == bootstrap_interval(differences, resamples=20_000)
    assert found != bootstrap_interval(differences, resamples=20_000, seed=1)


@pytest.mark.parametrize("cases", [6, 20])
def test_the_bootstrap_interval_covers_the_truth_about_as_often_as_it_says(cases: int) -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for repeat in range(400):
        low, high = bootstrap_interval(rng.normal(0.01, 0.02, cases), seed=repeat, resamples=500)
        hits += low <= 0.01 <= high
    assert 0.92 < hits / 400 < 0.98


def test_wilcoxon_by_hand() -> None:
    # all five differences positive: 2 / 2^5
    assert wilcoxon_p(np.array([0.1, 0.2, 0.3, 0.4, 0.5])) == pytest.approx(0.0625)
    # ranks 1..5, the smallest negative: W = 1, P(W <= 1) = 2 / 32 a side
    assert wilcoxon_p(np.array([-0.1, 0.2, 0.3, 0.4, 0.5])) == pytest.approx(4 / 32)
    assert wilcoxon_p(np.zeros(8)) == 1.0
    # subjects without a difference are left out, as Wilcoxon did
    assert wilcoxon_p(np.array([0.0, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5])) == pytest.approx(0.0625)


def test_the_smallest_gain_is_2_8_standard_errors() -> None:
    differences = np.array([1.0, 2.0, 3.0, 4.0])
    expected = (1.959964 + 0.841621) * differences.std(ddof=1) / 2
    assert smallest_gain(differences) == pytest.approx(expected, rel=1e-5)


def test_the_smallest_gain_is_found_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    least = 2.8016 * 0.02 / math.sqrt(40)
    found = [scipy.stats.ttest_1samp(rng.normal(least, 0.02, 40), 0).pvalue < 0.05 for _ in range(500)]
    assert 0.72 < float(np.mean(found)) < 0.86


def test_a_clear_gain_and_its_mirror_image() -> None:
    a = np.random.default_rng(0).uniform(0.5, 0.7, 20)
    b = a + 0.03 + np.random.default_rng(1).normal(0, 0.01, 20)
    comparison = compare(list(a), list(b))
    assert comparison.verdict == "gain"
    assert comparison.p_value < 0.001
    assert comparison.gain == pytest.approx(float((b - a).mean()))
    assert compare(list(b), list(a)).verdict == "loss"
    assert compare(list(b), list(a)).sentence().endswith(": a loss")


def test_the_sentence_claims_no_more_than_the_interval() -> None:
    shown = Comparison(gain=0.012, low=-0.003, high=0.027, p_value=0.2, smallest_gain=0.021, cases=20)
    assert shown.sentence() == (
        "gain +1.2 Dice points, 95 % interval -0.3 to +2.7 over 20 cases: no difference can be claimed "
        "(this many cases would show one of 2.1 or more)"
    )
    few = Comparison(gain=0.05, low=0.04, high=0.06, p_value=0.06, smallest_gain=0.01, cases=5)
    assert few.verdict == "none"
    assert few.sentence().endswith("5 cases: too few cases for a claim (at least 6 are needed)")


def test_pairs_without_a_score_are_left_out_and_counted() -> None:
    comparison = compare([0.5, math.nan, 0.6, 0.7], [0.6, 0.5, 0.7, math.nan])
    assert (comparison.cases, comparison.left_out) == (2, 2)
    assert comparison.gain == pytest.approx(0.1)
    assert "over 2 cases (2 more without a score on one side): too few" in comparison.sentence()


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [([0.5], [0.5, 0.6], "found 1 and 2 scores"), ([0.5, math.nan], [0.5, 0.6], "at least 2 cases .* found 1")],
)
def test_what_cannot_be_compared_is_refused(a: list[float], b: list[float], words: str) -> None:
    with pytest.raises(DataError, match=words):
        compare(a, b)
