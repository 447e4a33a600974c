"""Numbers and sentences of a comparison, by hand and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nnssl.evaluate.compare.numbers import (
    better_control,
    difference,
    gap_closed,
    mean_curve,
    mean_ranks,
    over_subjects,
    reach,
    summary,
)
from nnssl.evaluate.statistics import bootstrap_interval, resampled_means, t_quantile, two_way_interval, widened


def test_one_run_has_the_interval_over_cases() -> None:
    values = np.random.default_rng(1).normal(0, 1, 30)
    assert two_way_interval(values[None]) == pytest.approx(bootstrap_interval(values), abs=0.06)


def test_runs_that_differ_widen_the_interval() -> None:
    rng = np.random.default_rng(2)
    same = np.tile(rng.normal(0, 1, 30), (5, 1))
    shifted = same + rng.normal(0, 2, (5, 1))
    narrow, wide = two_way_interval(same, resamples=1000), two_way_interval(shifted, resamples=1000)
    assert wide[1] - wide[0] > 1.5 * (narrow[1] - narrow[0])


def test_few_runs_and_few_cases_are_moved_apart_by_students_factor() -> None:
    table = np.array([[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]])
    of_three, of_two = (t_quantile(0.975, n - 1) / 1.959964 * math.sqrt(n / (n - 1)) for n in (3, 2))
    assert of_three == pytest.approx(2.69, abs=0.01)
    assert widened(table).mean(axis=1) == pytest.approx([1.5 - of_three, 1.5, 1.5 + of_three])
    assert widened(table).mean(axis=0) == pytest.approx([1.5 - of_two / 2, 1.5 + of_two / 2])
    assert widened(table[:1, :1]) == pytest.approx(table[:1, :1])


def test_moving_apart_keeps_the_mean_of_what_counts() -> None:
    table = np.array([[0.0, 1.0, np.nan, np.nan], [1.0, 3.0, np.nan, 0.0], [2.0, 4.0, np.nan, 9.0]])
    moved = widened(table)
    assert np.nanmean(moved) == pytest.approx(np.nanmean(table))
    assert (np.isnan(moved) == np.isnan(table)).all()
    assert np.isnan(two_way_interval(table * np.nan)).all()


@pytest.mark.parametrize(("runs", "cases"), [(3, 25), (8, 25), (1, 6), (8, 6)])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(runs: int, cases: int) -> None:
    rng = np.random.default_rng(runs)
    hits = 0
    for repeat in range(300):
        of_runs = rng.normal(0, 0.02 if runs > 1 else 0.0, (runs, 1))
        effects = 0.01 + of_runs + rng.normal(0, 0.03, (1, cases)) + rng.normal(0, 0.02, (runs, cases))
        low, high = two_way_interval(effects, seed=repeat, resamples=400)
        hits += low <= 0.01 <= high
    assert 0.92 < hits / 300 <= 1.0


def test_resampling_is_a_loop_over_rows_and_columns() -> None:
    table = np.random.default_rng(3).normal(0, 1, (1, 7))
    table[0, 2] = np.nan
    rng = np.random.default_rng(0)
    rng.multinomial(1, [1.0], 5)
    counts = rng.multinomial(7, np.full(7, 1 / 7), 5)
    drawn = [np.repeat(table[0], count) for count in counts]
    # one run and seven cases, six of which count: only the cases are moved apart
    factor = t_quantile(0.975, 6) / 1.959964 * math.sqrt(7 / 6)
    middle = np.nanmean(table)
    expected = [middle + factor * (np.nanmean(values) - middle) for values in drawn]
    assert resampled_means([table], resamples=5)[:, 0] == pytest.approx(expected)


def test_scans_of_a_subject_are_averaged_first() -> None:
    table = np.array([[0.2, 0.4, 0.9], [np.nan, 0.4, 0.7]])
    assert over_subjects(table, ["b", "b", "a"]).tolist() == [[0.9, pytest.approx(0.3)], [0.7, 0.4]]


def test_classes_that_count_nowhere_are_nothing() -> None:
    scores = np.full((2, 3, 2), np.nan)
    scores[:, :, 0] = 0.5
    found = summary(scores, ["a", "b", "c"], ["liver", "spleen"])
    assert found["mean"] == 0.5
    assert found["classes"]["liver"] == {"mean": 0.5, "low": 0.5, "high": 0.5}
    assert found["classes"]["spleen"] == {"mean": None, "low": None, "high": None}


def test_a_gain_is_claimed_only_where_draws_agree() -> None:
    scratch = np.full((4, 20), 0.5) + np.linspace(0, 0.01, 20)
    steady = difference(scratch, scratch + 0.05)
    torn = difference(scratch, scratch + np.array([[0.4], [-0.1], [-0.1], [0.0]]))
    assert steady["verdict"] == "gain"
    assert "over 20 subjects and 4 label draws: a gain" in steady["sentence"]
    assert torn["gain"] == pytest.approx(0.05)
    assert torn["verdict"] == "none"
    assert torn["p"] < 0.001  # the cases alone would have claimed it
    assert "no difference can be claimed" in torn["sentence"]


def test_what_one_draw_shows_is_said_to_be_about_one_draw() -> None:
    scratch = np.full((1, 20), 0.5) + np.linspace(0, 0.01, 20)
    words = "; all this is about one draw of labels and seed, and not about how much draws vary"
    for all_labels in (False, True):
        assert difference(scratch, scratch + 0.05, all_labels=all_labels)["sentence"].endswith(words)
    assert gap_closed(scratch, scratch + 0.1, scratch + 0.2)["sentence"].endswith(words)
    two = np.repeat(scratch, 2, axis=0)
    assert "one draw" not in difference(two, two + 0.05)["sentence"] + gap_closed(two, two + 0.1, two + 0.2)["sentence"]


def test_a_gain_pairs_each_draw_and_subject() -> None:
    """Scratch has no score where the class is nowhere; the pretrained arm's score of that draw has no partner."""
    scratch = np.full((2, 8), 0.5) + np.array([[0.0], [0.2]])
    pretrained = scratch + 0.1
    scratch[0, :4] = np.nan
    found = difference(scratch, pretrained)
    assert found["gain"] == pytest.approx(0.1)
    assert found["low"] == pytest.approx(0.1) == found["high"]


def test_the_least_gain_that_would_have_shown_comes_from_the_intervals_width() -> None:
    rng = np.random.default_rng(6)
    found = difference(np.zeros((4, 20)), rng.normal(0, 0.05, (4, 20)))
    assert found["verdict"] == "none"
    least = 100 * (1.959964 + 0.841621) * (found["high"] - found["low"]) / 2 / 1.959964
    assert f"would show one of {least:.1f} or more" in found["sentence"]


def test_not_worse_with_all_labels_needs_the_interval() -> None:
    scratch = np.full((2, 20), 0.8)
    assert difference(scratch, scratch - 0.002, all_labels=True)["not_worse"] is True
    assert difference(scratch, scratch - 0.02, all_labels=True)["not_worse"] is False
    assert difference(scratch[:, :5], scratch[:, :5], all_labels=True)["not_worse"] is False
    assert "not_worse" not in difference(scratch, scratch)
    uncertain = scratch + np.linspace(-0.1, 0.1, 20)  # no loss on the mean, but the interval allows one
    assert difference(scratch, uncertain, all_labels=True)["not_worse"] is False


def test_the_share_of_the_gap_that_is_closed() -> None:
    rng = np.random.default_rng(4)
    scratch = 0.5 + rng.normal(0, 0.02, (8, 30))
    found = gap_closed(scratch, scratch + 0.09 + rng.normal(0, 0.01, (8, 30)), np.full((8, 30), 0.8))
    assert found["share"] == pytest.approx(0.3, abs=0.02)
    assert 0.25 < found["low"] < found["share"] < found["high"] < 0.35
    assert "of the gap to all labels closed, 95 % interval" in found["sentence"]


def test_a_gap_that_cannot_be_claimed_has_no_share() -> None:
    rng = np.random.default_rng(5)
    scratch = 0.8 + rng.normal(0, 0.02, (3, 20))
    found = gap_closed(scratch, scratch + 0.1, 0.801 + rng.normal(0, 0.02, (3, 20)))
    assert found["share"] is None
    assert "no gap can be claimed" in found["sentence"]


def test_iterations_to_the_end_of_scratch() -> None:
    scratch = {(draw, 0): [(0, 0.0), (50, 0.4), (100, 0.6)] for draw in range(3)}
    pretrained = {
        (0, 0): [(0, 0.1), (50, 0.7), (100, 0.8)],
        (1, 0): [(0, 0.1), (50, 0.5), (100, 0.6)],
        (2, 0): [(0, 0.1), (50, 0.2), (100, 0.3)],
    }
    found = reach(scratch, pretrained)
    assert (found["reached"], found["runs"], found["median"], found["scratch"]) == (2, 3, 100.0, 100)
    assert "after 100 iterations (scratch itself first after 100 of its 100)" in found["sentence"]
    slow = reach(scratch, {key: [(0, 0.1), (100, 0.2)] for key in pretrained})
    assert slow["median"] is None
    assert slow["sentence"] == "reached scratch's final Dice in 0 of 3 runs"


def test_scratch_itself_reaches_its_end_before_its_end() -> None:
    """An arm that is scratch itself must not look faster than it."""
    noisy = {(draw, 0): [(0, 0.0), (50, 0.7), (75, 0.5), (100, 0.6)] for draw in range(3)}
    found = reach(noisy, noisy)
    assert found["median"] == found["scratch_median"] == 50.0
    assert found["scratch"] == 100


def test_curves_are_averaged_over_draws() -> None:
    curves = {(0, 0): [(0, 0.0), (5, 0.4)], (1, 0): [(0, 0.2), (5, math.nan)]}
    assert mean_curve(curves) == [[0, 0.1, 0.0, 0.2], [5, 0.4, 0.4, 0.4]]


def test_ranks_are_averaged_over_targets_and_shared_by_ties() -> None:
    found = mean_ranks([{"scratch": 0.2, "a": 0.5, "b": 0.5}, {"scratch": 0.9, "a": 0.5, "b": 0.4}])
    assert found == {"scratch": 2.0, "a": 1.75, "b": 2.25}


def test_pretraining_is_compared_with_the_better_schedule() -> None:
    assert better_control({"scratch": 0.7, "scratch_longer": 0.8, "a": 0.9}) == "scratch_longer"
    assert better_control({"scratch": 0.7, "a": 0.9}) == "scratch"
