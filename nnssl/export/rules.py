"""How one tensor is made to fit another shape, and why the result is a fair start.

Each rule keeps the answer where the two networks can be asked the same question:

- *Kernels grow* by zeros around the centre (1x3x3 -> 3x3x3): the same output on every input, slice by slice.
- *Kernels shrink* by adding what is cut off to the nearest tap that stays (3x3x3 -> 1x3x3: the sum over the axis): the
  same output wherever the input does not change along that axis. Keeping only the centre would lose the share of the
  response that came from the neighbours, and with it the scale of the map.
- *Transposed convolutions*, whose kernel is the stride, are averaged or repeated: the same mean of the up-sampled map.
- *Input channels* are mixed so that the sum of the stem over its inputs stays: the same output where all target
  channels show what the source channels showed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nnssl.errors import UsageError


def refit_kernel(weight: Tensor, size: Sequence[int]) -> Tensor | None:
    """A convolution's (O, I, d, h, w) weight with kernel `size`; None where a side is even (no centre).

    Example:
        >>> refit_kernel(torch.ones(1, 1, 1, 3, 3), (3, 3, 3))[0, 0, :, 0, 0]
        tensor([0., 1., 0.])
        >>> refit_kernel(torch.ones(1, 1, 3, 3, 3), (1, 3, 3))[0, 0, :, 0, 0]
        tensor([3.])
    """
    if any(side % 2 == 0 for side in (*weight.shape[2:], *size)):
        return None
    made = weight
    for axis, wanted in enumerate(size, start=2):
        made = _refit_axis(made, axis, wanted)
    return made


def _refit_axis(weight: Tensor, axis: int, wanted: int) -> Tensor:
    excess = weight.shape[axis] - wanted
    if excess <= 0:
        shape = list(weight.shape)
        shape[axis] = wanted
        grown = weight.new_zeros(shape)
        grown.narrow(axis, -excess // 2, weight.shape[axis]).copy_(weight)
        return grown
    cut = excess // 2
    kept = weight.narrow(axis, cut, wanted).clone()
    kept.narrow(axis, 0, 1).add_(weight.narrow(axis, 0, cut).sum(axis, keepdim=True))
    kept.narrow(axis, wanted - 1, 1).add_(weight.narrow(axis, cut + wanted, cut).sum(axis, keepdim=True))
    return kept


def refit_upsampling(weight: Tensor, size: tuple[int, int, int]) -> Tensor:
    """A transposed convolution's (I, O, d, h, w) weight for the stride `size`: averaged or repeated per axis."""
    return F.adaptive_avg_pool3d(weight.double(), size).to(weight.dtype)


def channel_mixing(source: int, target: int, keep: Sequence[int] | None = None) -> Tensor:
    """(target, source) factors for the stem's input channels.

    Args:
        source: channels of the weights.
        target: channels of the data set.
        keep: for every target channel the source channel it takes; None: repeat (or add up, where there are fewer).

    Raises:
        UsageError: `keep` has another length, or names a channel that is not there.

    Example:
        >>> channel_mixing(1, 2).tolist()
        [[0.5], [0.5]]
        >>> channel_mixing(2, 1).tolist()
        [[1.0, 1.0]]
    """
    if keep is not None and (len(keep) != target or any(not 0 <= channel < source for channel in keep)):
        raise UsageError(
            f"--channels needs one of the weights' channels (0 to {source - 1}) for each of the data set's {target}, "
            f"not {' '.join(map(str, keep))}. Or use --channels repeat."
        )
    mixing = torch.zeros(target, source)
    if keep is None and target < source:
        for channel in range(source):
            mixing[channel % target, channel] = 1
        return mixing
    chosen = list(keep) if keep is not None else [channel % source for channel in range(target)]
    for channel, origin in enumerate(chosen):
        mixing[channel, origin] = 1 / chosen.count(origin)
    return mixing


def mix_channels(weight: Tensor, mixing: Tensor) -> Tensor:
    """A stem's (O, source, ...) weight for the target's channels, by (target, source) `mixing`."""
    return torch.einsum("oi...,ji->oj...", weight, mixing.to(weight))
