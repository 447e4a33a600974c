"""Schedules against the numbers of the published runs."""

from __future__ import annotations

import pytest

from nnssl.engine.schedules import Extension, LearningRate, cosine, warmup_cosine


def test_learning_rate_of_desd() -> None:
    """0.3 * 192 / 256 after 10 epochs of warm-up from 0; peak at the last warm-up step and at the first after it."""
    steps, total = 651, 300 * 651
    rate = [
        warmup_cosine(step, total=total, peak=0.225, floor=0.048, warmup=10 * steps)
        for step in (0, 10 * steps - 1, 10 * steps, total - 1)
    ]
    assert rate == pytest.approx([0.0, 0.225, 0.225, 0.048], abs=1e-8)


def test_momentum_of_the_teacher() -> None:
    values = [cosine(step, total=1000, start=0.996, end=1.0) for step in (0, 250, 500, 750, 999)]
    assert values == pytest.approx([0.996, 0.99658579, 0.998, 0.99941421, 0.99999999], abs=1e-8)
    assert values[-1] < 1


def test_weight_decay_of_cads() -> None:
    assert [cosine(step, total=100, start=0.04, end=0.4) for step in (0, 50, 100)] == pytest.approx([0.04, 0.22, 0.4])


def test_warmup_longer_than_the_run_ends_at_the_peak() -> None:
    assert warmup_cosine(9, total=10, peak=1.0, warmup=50) == 1.0


def test_without_warmup_the_first_step_is_the_peak() -> None:
    assert warmup_cosine(0, total=10, peak=1.0) == 1.0
    assert warmup_cosine(0, total=10, peak=1.0, warmup=1) == 1.0


def test_extended_run_leaves_its_minimum_slowly_and_joins_the_longer_schedule() -> None:
    short = LearningRate(total=100, peak=1.0, floor=0.0, warmup=10)
    long = LearningRate(total=200, peak=1.0, floor=0.0, warmup=10)
    extended = LearningRate(total=200, peak=1.0, floor=0.0, warmup=10, extensions=(Extension(100, 100),))
    assert abs(extended(100) - short(99)) < 0.1 * long(100)  # no jump
    rises = [extended(step) for step in range(100, 110)]
    assert rises == sorted(rises)
    assert [extended(step) for step in range(109, 200)] == [long(step) for step in range(109, 200)]


def test_run_extended_twice_remembers_where_it_stood() -> None:
    once = LearningRate(total=200, peak=1.0, floor=0.0, warmup=10, extensions=(Extension(100, 100),))
    twice = LearningRate(
        total=300, peak=1.0, floor=0.0, warmup=10, extensions=(Extension(100, 100), Extension(105, 200))
    )
    assert twice(105) == pytest.approx(once(104), abs=0.1)
    assert once(104) < 0.5  # in the middle of the first bridge, so that the memory matters
