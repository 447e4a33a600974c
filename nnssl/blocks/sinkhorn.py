"""Sinkhorn-Knopp targets (Caron et al. 2020, "SwAV", section 3.1; DINOv2, Oquab et al. 2023, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from nnssl.blocks.collectives import gather, sum_over_ranks
from nnssl.blocks.losses import wide


@torch.no_grad()
def sinkhorn(logits: Tensor, *, temperature: float, iterations: int = 3, counted: Tensor | None = None) -> Tensor:
    """Probabilities that use every prototype equally over the samples of all ranks; no gradient.

    Q = exp(t / tau_t); then alternately each prototype's row is divided by its sum and by K, each sample's column by
    its sum and by N; at the end times N, so that every sample sums to 1.

    With few samples most prototypes have nobody to belong to, and equal use is a falsehood: leave it to large batches.

    Args:
        logits: (n, K) raw teacher logits of this rank.
        temperature: tau_t > 0.
        iterations: published 3.
        counted: (n,) bool; other samples weigh nothing and get zeros. None: all count.

    Returns:
        (n, K).
    """
    scaled = wide(logits) / temperature
    weight = scaled.new_ones(len(scaled)) if counted is None else counted.to(scaled.dtype)
    # Equal on all ranks: the rows' sums would otherwise not be of one matrix.
    largest = gather(scaled.amax()[None]).amax()
    q = (scaled - largest).exp() * weight[:, None]
    tiny = torch.finfo(q.dtype).tiny
    samples = sum_over_ranks(weight.sum()).clamp(min=1)
    for _ in range(iterations):
        q = q / (sum_over_ranks(q.sum(0)).clamp(min=tiny) * q.shape[1])
        q = q / (q.sum(1, keepdim=True).clamp(min=tiny) * samples)
    return q * samples
