"""Losses as pure functions. All of them compute in float32 at least, also inside autocast."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """`x` in float32, or as it is where it is wider; bfloat16 keeps three digits, too few for a log-sum-exp."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def teacher_probabilities(logits: Tensor, center: Tensor, *, temperature: float) -> Tensor:
    """p = softmax((t - c) / tau_t), without gradient (Caron et al. 2021, section 3).

    Args:
        logits: (..., K) raw teacher logits t.
        center: (K,) c.
        temperature: tau_t > 0.
    """
    return torch.softmax((wide(logits.detach()) - center) / temperature, dim=-1)


def student_log_probabilities(logits: Tensor, *, temperature: float) -> Tensor:
    """log q = log_softmax(s / tau_s) of (..., K) logits."""
    return torch.log_softmax(wide(logits) / temperature, dim=-1)


def entropy(probabilities: Tensor) -> Tensor:
    """H(p) = -sum p log p of (..., K), averaged to a scalar; between 0 and ln K."""
    each: Tensor = torch.special.entr(wide(probabilities)).sum(-1)
    return each.mean()


def view_pairs(teacher_views: int, student_views: int) -> list[tuple[int, int]]:
    """P = {(i, j): i < teacher_views, j < student_views, j != i}; the teacher's views come first in the student's."""
    return [(i, j) for i in range(teacher_views) for j in range(student_views) if i != j]


def pair_cross_entropy(
    teacher: Sequence[Tensor], student_log: Sequence[Tensor], pairs: Sequence[tuple[int, int]]
) -> Tensor:
    """1/|P| sum_{(i,j) in P} mean_B[-sum_K p(x_i) log q(x_j)] (Caron et al. 2021, eq. 3).

    Args:
        teacher: p of every teacher view, (B, K) each.
        student_log: log q of every student view, (B, K) each.
        pairs: P, as of `view_pairs`.
    """
    # each sample is contracted over K on its own: one dot product over B and K loses 2e-3 in float32
    terms = [-(teacher[i] * student_log[j]).sum(-1).mean() for i, j in pairs]
    return torch.stack(terms).mean()


def counted_mean_squared_error(prediction: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """Mean squared error over the counted voxels of each sample, then the mean over samples.

    Per sample first, so that every sample weighs the same and two ranks equal one whatever the counts are. A sample
    without counted voxels adds zero.

    Args:
        prediction: (N, C, D, H, W).
        target: (N, C, D, H, W).
        counted: (N, 1, D, H, W) bool.
    """
    # `where` and not a product: what is not counted may be anything, nan too
    squared = torch.where(counted, wide(prediction) - wide(target), 0.0).square().flatten(1).sum(1)
    voxels = counted.flatten(1).sum(1) * prediction.shape[1]
    return (squared / voxels.clamp(min=1)).mean()
