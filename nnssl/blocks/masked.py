"""A dense term for convolutional encoders: what the teacher sees in a cell, told by a student who must not look there.

As iBOT (Zhou et al. 2022, eq. 1) has it for tokens. Imports torch only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def cells_of(voxels: Tensor, stride: Sequence[int]) -> Tensor:
    """Share of True voxels in each cell: (N, 1, D, H, W) bool to (N, d * h * w) in [0, 1], raster order.

    Args:
        voxels: every side a multiple of the stride.
        stride: D H W voxels of a cell.
    """
    pooled: Tensor = F.avg_pool3d(voxels.float(), tuple(stride), stride=tuple(stride))
    return pooled.flatten(1)


def counted_cross_entropy(probabilities: Tensor, log_probabilities: Tensor, counted: Tensor) -> Tensor:
    """1/N sum_n 1/|M_n| sum_{i in M_n} -p_i log q_i: the mean over the counted cells of each view, then over all views.

    A view without counted cells adds zero, as in DINOv2: with half of the views masked, the value is about half of a
    masked view's. Views weigh the same whatever they hide, so that ranks and micro-batches change nothing.

    Args:
        probabilities: p, (N, n, K).
        log_probabilities: log q, (N, n, K).
        counted: M, (N, n) bool.
    """
    each = torch.where(counted, -(probabilities * log_probabilities).sum(-1), 0.0)
    return (each.sum(1) / counted.sum(1).clamp(min=1)).mean()
