"""What self-distillation on views of several sizes shares (DINO, Caron et al. 2021). Imports torch only."""

from __future__ import annotations

from torch import Tensor


def flat_views(x: Tensor) -> Tensor:
    """(B, V, ...) as (V*B, ...): the first view of all samples, then the second. `chunk(V)` parts them again."""
    return x.transpose(0, 1).flatten(0, 1)


def warmed_up(epoch: int, ends: tuple[float, float], *, epochs: int) -> float:
    """A temperature that goes linearly from the first of `ends` in epoch 0 to the last in epoch `epochs` - 1 and stays.

    tau(e) = first + (last - first) e / (W - 1) for e < W = `epochs`, then last.
    """
    first, last = ends
    return last if epoch >= epochs - 1 else first + (last - first) * epoch / (epochs - 1)
