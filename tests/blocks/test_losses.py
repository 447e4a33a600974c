"""Losses against naive double loops, known numbers and half precision."""

from __future__ import annotations

import math

import pytest
import torch

from nnssl.blocks.losses import (
    counted_mean_squared_error,
    entropy,
    pair_cross_entropy,
    student_log_probabilities,
    teacher_probabilities,
    view_pairs,
)
from nnssl.blocks.pooling import Pooling, pool, pooled_width


def naive_softmax(row: list[float], temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("student_views", [2, 5])
def test_pair_cross_entropy_equals_a_naive_double_loop(student_views: int) -> None:
    torch.manual_seed(0)
    teacher = torch.randn(2, 3, 7).double()
    student = torch.randn(student_views, 3, 7).double()
    center = torch.randn(7).double()
    total, terms = 0.0, 0
    for i in range(2):
        for j in range(student_views):
            if i == j:
                continue
            terms += 1
            for sample in range(3):
                p = naive_softmax((teacher[i, sample] - center).tolist(), 0.05)
                q = naive_softmax(student[j, sample].tolist(), 0.1)
                total += -sum(a * math.log(b) for a, b in zip(p, q, strict=True)) / 3
    pairs = view_pairs(2, student_views)
    assert len(pairs) == terms == 2 * (student_views - 1)
    loss = pair_cross_entropy(
        list(teacher_probabilities(teacher, center, temperature=0.05)),
        list(student_log_probabilities(student, temperature=0.1)),
        pairs,
    )
    assert loss.item() == pytest.approx(total / terms, rel=1e-12)


def test_two_views_are_paired_crosswise_and_never_with_themselves() -> None:
    assert view_pairs(2, 2) == [(0, 1), (1, 0)]
    assert view_pairs(2, 4) == [(0, 1), (0, 2), (0, 3), (1, 0), (1, 2), (1, 3)]


def test_targets_have_no_gradient_and_answers_have() -> None:
    logits = torch.randn(2, 5, requires_grad=True)
    assert not teacher_probabilities(logits, torch.zeros(5), temperature=0.04).requires_grad
    assert student_log_probabilities(logits, temperature=0.1).requires_grad


def test_equal_networks_give_the_entropy() -> None:
    logits = torch.randn(4, 11)
    p = teacher_probabilities(logits, torch.zeros(11), temperature=0.1)
    log_q = student_log_probabilities(logits, temperature=0.1)
    torch.testing.assert_close(pair_cross_entropy([p], [log_q], [(0, 0)]), entropy(p))
    torch.testing.assert_close(entropy(torch.full((2, 11), 1 / 11)), torch.tensor(math.log(11)))


def test_a_constant_added_to_all_logits_changes_no_target() -> None:
    logits = torch.randn(4, 11)
    a, b = (teacher_probabilities(logits + shift, torch.zeros(11), temperature=0.04) for shift in (0.0, 0.3))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_are_float32_in_half_precision(dtype: torch.dtype) -> None:
    logits = torch.randn(4, 11).to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        p = teacher_probabilities(logits, torch.zeros(11), temperature=0.04)
        log_q = student_log_probabilities(logits, temperature=0.1)
        assert pair_cross_entropy([p], [log_q], [(0, 0)]).dtype == torch.float32
        x = torch.randn(2, 1, 4, 4, 4).to(dtype)
        assert counted_mean_squared_error(x, x, torch.ones_like(x, dtype=torch.bool)).dtype == torch.float32
        assert pool(x, "mean_std").dtype == torch.float32


def test_counted_error_ignores_everything_else_nan_included() -> None:
    prediction = torch.zeros(2, 2, 2, 2, 2, requires_grad=True)
    target = torch.full((2, 2, 2, 2, 2), float("nan"))
    counted = torch.zeros(2, 1, 2, 2, 2, dtype=torch.bool)
    counted[0, :, 0] = True
    target[0, :, 0] = 3.0
    counted[1, :, 0, 0, 0] = True
    target[1, :, 0, 0, 0] = 1.0
    loss = counted_mean_squared_error(prediction, target, counted)
    assert loss.item() == pytest.approx((9.0 + 1.0) / 2)  # each sample weighs the same
    loss.backward()
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()
    assert not prediction.grad[0, :, 1].any()


def test_sample_without_counted_voxels_adds_zero() -> None:
    x = torch.ones(2, 1, 2, 2, 2)
    counted = torch.zeros(2, 1, 2, 2, 2, dtype=torch.bool)
    counted[0] = True
    assert counted_mean_squared_error(x, 0 * x, counted).item() == pytest.approx(0.5)


def test_pooling_widths_and_values() -> None:
    x = torch.tensor([[[[[1.0, 3.0]]], [[[2.0, 2.0]]]]])
    torch.testing.assert_close(pool(x, "mean"), torch.tensor([[2.0, 2.0]]))
    torch.testing.assert_close(pool(x, "mean_max"), torch.tensor([[2.0, 2.0, 3.0, 2.0]]))
    torch.testing.assert_close(pool(x, "mean_std"), torch.tensor([[2.0, 2.0, 1.0, 0.001]]), rtol=0, atol=1e-4)
    assert [pooled_width(2, kind) for kind in ("mean", "mean_max", "mean_std")] == [2, 4, 4]


def test_spread_of_a_constant_channel_has_a_finite_gradient() -> None:
    x = torch.ones(1, 1, 2, 2, 2, requires_grad=True)
    pool(x, "mean_std").sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["mean", "mean_std", "mean_max"])
def test_pooling_counts_valid_cells_alone(kind: Pooling) -> None:
    torch.manual_seed(0)
    feature_map = torch.randn(2, 3, 2, 4, 4)
    valid = torch.ones(2, 1, 4, 8, 8, dtype=torch.bool)
    torch.testing.assert_close(pool(feature_map, kind, valid=valid), pool(feature_map, kind))
    valid[:, :, :2] = False
    torch.testing.assert_close(pool(feature_map, kind, valid=valid), pool(feature_map[:, :, 1:], kind))
    assert pool(feature_map, kind, valid=torch.zeros_like(valid)).isfinite().all()
