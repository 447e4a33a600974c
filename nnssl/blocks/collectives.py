"""Talking between ranks: sums, a gather that gradients pass, and batch norm over all ranks on any backend.

Without a process group everything is the identity, so a method never asks for ranks. torch's own `SyncBatchNorm`
refuses to run on the CPU; the one here is built from the gather and runs on gloo. Imports torch only.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def world_size() -> int:
    """Number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's rank; 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of `x` over all ranks, out of place and without gradient; `x` itself without a process group."""
    if world_size() == 1:
        return x
    total = x.detach().clone()
    dist.all_reduce(total)
    return total


class _Gather(torch.autograd.Function):
    """All ranks' tensors in rank order. Backward sums what every rank sends back to this rank's part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """(R*B, ...) of every rank's (B, ...) `x`, in rank order."""
        parts = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(parts, x)
        ctx.first, ctx.count = rank() * len(x), len(x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """(B, ...) the sum over ranks of their gradients of this rank's rows."""
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total.narrow(0, ctx.first, ctx.count)


def gather(x: Tensor) -> Tensor:
    """(R*B, ...) the tensors of all ranks in rank order, with gradient; `x` itself without a process group.

    Every rank must call it equally often and with the same shape. The gradient of a local tensor is the sum over ranks
    of what their losses say about it; with the mean over ranks that distributed training takes of parameter gradients,
    a loss that is a mean over gathered samples gets the gradient that one rank with the whole batch would give it.
    """
    if world_size() == 1:
        return x
    gathered: Tensor = _Gather.apply(x.contiguous())
    return gathered


class BatchNorm(nn.Module):
    """Batch normalisation over the samples of all ranks (Ioffe and Szegedy 2015), without running statistics.

    Statistics are computed in float32 (float64 for float64 input) from every rank's mean and sum of squares about it,
    combined as in Chan et al. 1979: summing raw squares would lose digits where the mean is large. It keeps no running
    averages, because heads are never used for inference and a dropped step must leave no trace; so it normalises with
    the batch in eval mode too.

    Attributes:
        weight: (C,) gain, or None.
        bias: (C,) shift, or None.
    """

    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, width: int, *, affine: bool = True, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width)) if affine else None
        self.bias = nn.Parameter(torch.zeros(width)) if affine else None

    def forward(self, x: Tensor, counted: Tensor | None = None) -> Tensor:
        """(N, C, ...) with mean 0 and variance 1 per channel over all samples and positions of all ranks.

        Args:
            x: as many samples on every rank.
            counted: (N,) bool; other samples are normalised too, but count for nothing. None: all count.
        """
        wide = x if x.dtype == torch.float64 else x.float()
        axes = [axis for axis in range(x.ndim) if axis != 1]
        mean, variance = batch_statistics(wide, axes) if counted is None else _counted_statistics(wide, axes, counted)
        shape = [1, -1] + [1] * (x.ndim - 2)
        out = (wide - mean.view(shape)) * (variance + self.eps).rsqrt().view(shape)
        if self.weight is not None and self.bias is not None:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(x.dtype)


def batch_statistics(x: Tensor, axes: list[int]) -> tuple[Tensor, Tensor]:
    """(C,) mean and biased variance over all ranks. Ranks hold equally many samples, so means may be averaged."""
    variance, mean = torch.var_mean(x, dim=axes, correction=0)
    if world_size() == 1:
        return mean, variance
    means, variances = gather(torch.stack((mean, variance))[None]).unbind(1)
    total = means.mean(0)
    return total, variances.mean(0) + (means - total).square().mean(0)


def _counted_statistics(x: Tensor, axes: list[int], counted: Tensor) -> tuple[Tensor, Tensor]:
    """The same over the counted samples, of which ranks may hold unequally many: their means get weights."""
    weight = counted.to(x.dtype).reshape(-1, *([1] * (x.ndim - 1)))
    positions = x[0, 0].numel()
    number = weight.sum() * positions
    mean = (x * weight).sum(axes, keepdim=True) / number.clamp(min=1)
    variance = ((x - mean).square() * weight).sum(axes) / number.clamp(min=1)
    mean = mean.flatten()
    if world_size() == 1:
        return mean, variance
    means, variances, numbers = gather(torch.stack((mean, variance, number.expand_as(mean)))[None]).unbind(1)
    share = numbers / numbers.sum(0).clamp(min=1)
    total = (means * share).sum(0)
    return total, ((variances + (means - total).square()) * share).sum(0)
