"""Batch norm for networks that are used after training: statistics of all ranks, running averages moved once a step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnssl.blocks.collectives import batch_statistics, world_size
from nnssl.blocks.deferred import Commit, Deferred


class RunningStatistics(Deferred):
    """Running mean and variance per channel: s <- (1 - momentum) s + momentum * mean over the step's forward passes.

    torch's own batch norm moves them in `forward`: once more for every micro-batch, and for a dropped step too.

    Attributes:
        mean: (C,), 0 at the start.
        variance: (C,), unbiased as torch's, 1 at the start.
    """

    mean: Tensor
    variance: Tensor
    pending: Tensor
    pending_count: Tensor

    def __init__(self, width: int, *, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))
        # empty between steps, hence no part of a saved state
        self.register_buffer("pending", torch.zeros(2, width), persistent=False)
        self.register_buffer("pending_count", torch.zeros(()), persistent=False)

    @torch.no_grad()
    def observe(self, mean: Tensor, variance: Tensor) -> None:
        """Count one pass, whose statistics are equal on all ranks, towards the next commit."""
        self.pending += torch.stack((mean, variance)).to(self.pending.dtype)
        self.pending_count += 1

    def commit(self, commit: Commit) -> None:
        """Move by what was observed; forget it where the step was dropped."""
        seen = self.pending / self.pending_count.clamp(min=1)
        moves = commit.applied & (self.pending_count > 0)
        for ours, found in zip((self.mean, self.variance), seen, strict=True):
            ours.copy_(torch.where(moves, torch.lerp(ours, found, self.momentum), ours))
        self.pending.zero_()
        self.pending_count.zero_()


class RunningBatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy 2015): batch statistics of all ranks in training, running ones in eval.

    Attributes:
        weight: (C,) gain.
        bias: (C,) shift.
        running: what is used in eval mode, without talking to other ranks.
    """

    def __init__(self, width: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.running = RunningStatistics(width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...), normalised per channel."""
        running, weight, bias = self.running, self.weight, self.bias
        if not self.training:
            return F.batch_norm(x, running.mean, running.variance, weight, bias, False, 0.0, self.eps)
        if world_size() == 1:  # the fused kernel keeps a third of the memory; momentum 1 hands out its statistics
            mean, variance = torch.zeros_like(running.mean), torch.ones_like(running.variance)
            out = F.batch_norm(x, mean, variance, weight, bias, True, 1.0, self.eps)
            running.observe(mean, variance)
            return out
        wide = x if x.dtype == torch.float64 else x.float()
        axes = [axis for axis in range(x.ndim) if axis != 1]
        mean, variance = batch_statistics(wide, axes)
        number = world_size() * x.numel() / x.shape[1]
        running.observe(mean.detach(), variance.detach() * number / max(number - 1, 1))
        shape = [1, -1] + [1] * (x.ndim - 2)
        gain = weight * (variance + self.eps).rsqrt()
        return ((wide - mean.view(shape)) * gain.view(shape) + bias.view(shape)).to(x.dtype)
