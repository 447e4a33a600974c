"""Losses that compare every sample with every other: NT-Xent and VICReg, over all ranks, in bounded memory.

Both take as many rows on every rank, of which some may not count: a number that varies with the data would differ
between ranks, and finding it out would stall the device. All computation is in float32 at least.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from nnssl.blocks import collectives
from nnssl.blocks.losses import wide

Gather = Callable[[Tensor], Tensor]
NEVER = -1e30  # added to a logit: its exponential is exactly 0, and unlike with -inf no gradient can become nan


def nt_xent(
    first: Tensor,
    second: Tensor,
    counted: Tensor,
    *,
    temperature: float,
    rows: int = 1024,
    gather: Gather = collectives.gather,
) -> Tensor:
    """NT-Xent of paired unit vectors (Chen et al. 2020, eq. 1; vox2vec, Goncharov et al. 2023, eq. 1).

    l_i = -z_i.z'_i / tau + log(sum_{j != i} exp(z_i.z_j / tau) + sum_j exp(z_i.z'_j / tau)), l'_i with z and z'
    exchanged, L = mean_i (l_i + l'_i) / 2 over the counted rows of all ranks: 2N - 1 terms in every sum.

    The (N, 2N) similarities are made `rows` rows at a time and made again for the gradient: memory grows with
    rows x 2N, values and gradients are those of the whole matrix. A rank computes its own rows against all ranks'
    columns; the mean over ranks of what it returns is L, and so is that of the gradients.

    Args:
        first: (N, d) z, unit vectors.
        second: (N, d) z'.
        counted: (N,) bool; other rows are neither queries nor negatives.
        temperature: tau > 0.
        rows: similarities are made for so many rows at a time.
        gather: tensors of all ranks in rank order, with gradient.

    Returns:
        Scalar; 0 where nothing is counted.
    """
    z = (wide(first), wide(second))
    everyone = (gather(z[0]), gather(z[1]))
    taken = gather(counted.to(z[0].dtype))
    ranks = len(taken) // len(counted)
    offset = collectives.rank() * len(counted) if ranks > 1 else 0
    bias = (1.0 - taken) * NEVER
    total = z[0].new_zeros(())
    for own in range(2):
        for start in range(0, len(counted), rows):
            part = slice(start, start + rows)
            losses = checkpoint(
                _row_losses, z[own][part], z[1 - own][part], everyone[own], everyone[1 - own], bias, offset + start,
                temperature, use_reentrant=False,
            )  # fmt: skip
            total = total + torch.where(counted[part], losses, 0.0).sum()
    return ranks * total / (2 * taken.sum()).clamp(min=1)


def _row_losses(
    query: Tensor, positive: Tensor, own: Tensor, other: Tensor, bias: Tensor, first: int, temperature: float
) -> Tensor:
    """(n,) l_i of some rows.

    Args:
        query: (n, d) of one view; row 0 is row `first` of `own`.
        positive: (n, d) the same voxels in the other view.
        own, other: (N, d) all rows of the query's view and of the other one.
        bias: (N,) 0, or `NEVER` where a row is no negative.
        first: place of the queries among all rows.
        temperature: tau.
    """
    with torch.autocast(query.device.type, enabled=False):  # bfloat16 products would lose three digits of ten
        place = torch.arange(first, first + len(query), device=query.device)
        itself = place[:, None] == torch.arange(len(own), device=query.device)
        same = (query @ own.T / temperature + bias).masked_fill(itself, NEVER)
        across = query @ other.T / temperature + bias
        denominator = torch.logaddexp(same.logsumexp(1), across.logsumexp(1))
        return denominator - (query * positive).sum(1) / temperature


def vicreg(
    first: Tensor,
    second: Tensor,
    counted: Tensor,
    *,
    weights: tuple[float, float, float] = (25.0, 25.0, 1.0),
    gather: Gather = collectives.gather,
) -> dict[str, Tensor]:
    """VICReg of paired vectors (Bardes et al. 2022, eqs. 1 to 6), over the counted rows of all ranks.

    invariance = mean (z - z')^2; variance = mean over both views and all dimensions of max(0, 1 - sqrt(var + 1e-4));
    covariance = sum over both views of the squared off-diagonal covariances, over d.

    Args:
        first: (N, d) z, not normalised.
        second: (N, d) z'.
        counted: (N,) bool.
        weights: of invariance, variance, covariance.
        gather: tensors of all ranks in rank order, with gradient.

    Returns:
        {"total", "invariance", "variance", "covariance"}: scalars, the last three without their weights.
    """
    views = [gather(wide(view)) for view in (first, second)]
    taken = gather(counted.to(views[0].dtype))[:, None]
    number = taken.sum().clamp(min=2)
    with torch.autocast(first.device.type, enabled=False):
        invariance = ((views[0] - views[1]).square().mean(1, keepdim=True) * taken).sum() / number
        variance, covariance = torch.zeros_like(invariance), torch.zeros_like(invariance)
        for view in views:
            centred = (view - (view * taken).sum(0) / number) * taken
            products = centred.T @ centred / (number - 1)
            spread = products.diagonal()
            variance = variance + F.relu(1.0 - (spread + 1e-4).sqrt()).mean() / 2
            covariance = covariance + (products.square().sum() - spread.square().sum()) / len(spread)
    total = weights[0] * invariance + weights[1] * variance + weights[2] * covariance
    return {"total": total, "invariance": invariance, "variance": variance, "covariance": covariance}
