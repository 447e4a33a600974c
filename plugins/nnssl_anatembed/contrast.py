"""InfoNCE of anatomical embeddings: hard and diverse negatives, of which no ignored cell can ever be one."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from nnssl.views.spec import Size


def chosen(allowed: Tensor, draw: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Up to `count` of the allowed entries at random, without replacement.

    Args:
        allowed: (..., N) bool.
        draw: (..., N) uniform in [0, 1); the highest are taken.
        count: at most.

    Returns:
        (..., min(count, N)) index, and bool, false in places left over.
    """
    best = torch.where(allowed, draw, -1.0).topk(min(count, draw.shape[-1]), dim=-1)
    return best.indices, best.values >= 0


def hard_and_diverse(rank: Tensor, draw: Tensor, *, hard: int, diverse: int) -> tuple[Tensor, Tensor]:
    """`diverse` of the `hard` highest entries of every row, at random; entries of -inf are never taken.

    The published code multiplies what is ignored by 0: where all others are negative it is then the hardest of all.

    Args:
        rank: (Q, P) similarities, -inf for what is no negative.
        draw: (Q, >= min(hard, P)) uniform in [0, 1).
        hard: how many are looked at.
        diverse: how many of those are taken.

    Returns:
        (Q, n) index, and bool, false in places left over.
    """
    top = rank.topk(min(hard, rank.shape[1]), dim=1)
    place, taken = chosen(top.values > -math.inf, draw[:, : top.values.shape[1]], diverse)
    return top.indices.gather(1, place), taken


def info_nce(positive: Tensor, negatives: Tensor, counted: Tensor, *, temperature: float) -> Tensor:
    """-log(e^(s+ / tau) / (e^(s+ / tau) + sum e^(s- / tau))) of every query (Yan et al. 2022, eq. 1).

    Args:
        positive: (Q,) s+.
        negatives: (Q, n) s-.
        counted: (Q, n) bool, the negatives there are.
        temperature: tau > 0.

    Returns:
        (Q,); 0 where a query has no negative.
    """
    others = torch.where(counted, negatives / temperature, -math.inf)
    logits = torch.cat((positive[:, None] / temperature, others), dim=1)
    return torch.logsumexp(logits, dim=1) - logits[:, 0]


def upsampled(coarse: Tensor, size: Size) -> Tensor:
    """Coarse cells between cells: (N, C, d, h, w) to (N, C, *size), trilinear, of length 1 again."""
    return F.normalize(F.interpolate(coarse, size=size, mode="trilinear", align_corners=False), dim=1)
