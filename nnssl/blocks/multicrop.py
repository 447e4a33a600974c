"""What self-distillation on views of several sizes shares (DINO, Caron et al. 2021). Imports torch only."""

from __future__ import annotations

from torch import Tensor


def flat_views(x: Tensor) -> Tensor:
    """(B, V, ...) as (V*B, ...): the first view of all samples, then the second. `chunk(V)` parts them again."""
    return x.transpose(0, 1).flatten(0, 1)


def warmed_up(epoch: int, *, first: float, last: float, epochs: int) -> float:
    """A temperature that goes linearly from `first` in epoch 0 to `last` in epoch `epochs` - 1 and stays there."""
    return last if epoch >= epochs - 1 else first + (last - first) * epoch / (epochs - 1)
