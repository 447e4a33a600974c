"""The centre of a teacher's logits (DINO, Caron et al. 2021, eq. 4), moved once per optimizer step."""

from __future__ import annotations

import torch
from torch import Tensor

from nnssl.blocks.deferred import Commit, Deferred


class Center(Deferred):
    """c <- m c + (1 - m) mean of the raw teacher logits over all ranks and micro-batches of a step.

    `forward` of a method reads `value` (step t uses the centre of step t-1) and calls `observe`. The reference
    implementations move it inside the loss: accumulation and evaluation then move it too, and a mean of rank means is
    wrong where ranks hold unequal batches.

    Attributes:
        value: (K,) the centre, zero at the start. It is in the state dict.
        momentum: m, in [0, 1).
    """

    value: Tensor
    pending_sum: Tensor
    pending_count: Tensor

    def __init__(self, prototypes: int, *, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(prototypes))
        # empty between steps, hence no part of a saved state
        self.register_buffer("pending_sum", torch.zeros(prototypes), persistent=False)
        self.register_buffer("pending_count", torch.zeros(()), persistent=False)

    @torch.no_grad()
    def observe(self, logits: Tensor, counted: Tensor | None = None) -> None:
        """Count raw teacher logits, before centring and temperature, towards the next commit.

        Args:
            logits: (N, K).
            counted: (N,) bool; the others are left out. None: all count.
        """
        seen = logits.to(self.pending_sum.dtype)
        if counted is None:
            self.pending_sum += seen.sum(0)
            self.pending_count += len(logits)
        else:
            self.pending_sum += torch.where(counted[:, None], seen, 0.0).sum(0)
            self.pending_count += counted.sum()

    def commit(self, commit: Commit) -> None:
        """Move the centre by what all ranks observed; forget it where the step was dropped."""
        total = commit.sum_over_ranks(self.pending_sum)
        count = commit.sum_over_ranks(self.pending_count)
        moved = self.momentum * self.value + (1.0 - self.momentum) * total / count.clamp(min=1)
        self.value.copy_(torch.where(commit.applied & (count > 0), moved, self.value))
        self.pending_sum.zero_()
        self.pending_count.zero_()
