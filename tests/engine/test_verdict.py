"""The traffic light: what is told, how loudly, and what is left alone."""

from __future__ import annotations

import pytest

from nnssl.engine.verdict import findings

FINE = {"feature_std": 0.3, "rankme": 20.0, "dense_mm": 4.0, "teacher_entropy": 0.7, "teacher_kl_share": 0.1}
START = {"feature_std": 0.08, "rankme": 5.0, "dense_mm": 9.0}


@pytest.mark.parametrize(
    ("changed", "light", "words"),
    [
        ({"teacher_entropy": 0.993, "teacher_kl_share": 0.001, "teacher_kl": 0.01}, "red", "uniform collapse"),
        ({"teacher_entropy": 0.993, "teacher_kl_share": 0.1}, "yellow", "close to uniform"),
        ({"teacher_entropy": 0.01, "prototypes_used": 1.1}, "red", "point collapse"),
        ({"teacher_entropy": 0.01, "prototypes_used": 30.0}, "yellow", "nearly all on one prototype a sample"),
        ({"feature_std": 1e-4}, "red", "constant collapse"),
        ({"rankme": 1.1}, "red", "dimensional collapse"),
        ({"rankme": 2.0}, "yellow", "dimensional collapse"),
        ({"dense_mm": 12.0}, "yellow", "dense features decay"),
    ],
)
def test_each_fault_is_named(changed: dict[str, float], light: str, words: str) -> None:
    (finding,) = findings({**FINE, **changed}, baseline=START, previous={})
    assert finding.light == light
    assert words in finding.sentence


def test_a_healthy_network_is_left_alone() -> None:
    assert findings(FINE, baseline=START, previous=START) == []


def test_what_was_not_measured_is_not_judged() -> None:
    assert findings({}, baseline={}, previous={}) == []
    assert findings({"feature_std": float("nan"), "dense_mm": float("nan")}, baseline=START, previous={}) == []


def test_a_low_rank_that_rises_again_is_not_told() -> None:
    assert findings({**FINE, "rankme": 2.0}, baseline=START, previous={"rankme": 1.5}) == []


def test_features_as_equal_as_at_the_start_are_only_yellow() -> None:
    (finding,) = findings({**FINE, "feature_std": 0.009}, baseline={"feature_std": 0.01}, previous={})
    assert finding.light == "yellow"


def test_the_worst_comes_first() -> None:
    found = findings({**FINE, "dense_mm": 12.0, "feature_std": 1e-5}, baseline=START, previous={})
    assert [finding.light for finding in found] == ["red", "yellow"]
