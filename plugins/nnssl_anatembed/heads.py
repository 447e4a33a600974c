"""The two embedding heads: a small feature pyramid over fine stages, and a coarse one that never feeds it."""

from __future__ import annotations

from collections.abc import Sequence
from math import log2

import torch.nn.functional as F
from torch import Tensor, nn

from nnssl.blocks.losses import wide
from nnssl.errors import PlanError
from nnssl.views.spec import Size

FINEST, COARSEST_FINE, COARSE = 2, 8, 16  # strides of the published heads


def choose_stages(strides: Sequence[Size]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Stages of the fine and of the coarse head, finest first, by cumulative stride and never by number.

    The coarse head takes the stage whose stride is closest to 16 and all that are deeper, the fine one the stages of
    stride 2 to 8 above it. The stride of a stage is its largest, that in plane.

    Raises:
        PlanError: no stage is left for the fine head.

    Example:
        >>> choose_stages([(1, 1, 1), (1, 2, 2), (2, 4, 4), (4, 8, 8), (8, 16, 16), (8, 32, 32)])
        ((1, 2, 3), (4, 5))
    """
    sides = [max(stride) for stride in strides]
    coarse = min(range(len(sides)), key=lambda stage: abs(log2(sides[stage] / COARSE)))
    fine = tuple(stage for stage in range(coarse) if FINEST <= sides[stage] <= COARSEST_FINE)
    if not fine:
        raise PlanError(
            f"AnatEmbed needs an encoder stage of stride {FINEST} to {COARSEST_FINE} and a deeper one; the plan's "
            f"stages have the strides {list(strides)}. Plan with a larger patch or a finer spacing, for more stages."
        )
    return fine, tuple(range(coarse, len(sides)))


class PyramidHead(nn.Module):
    """Lateral 1^3 convolutions, upsampled and added from the deepest on, a 3^3 convolution, unit length.

    Args:
        channels: of the stages' maps, finest first.
        width: of the embedding.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv3d(one, width, 1) for one in channels)
        self.smooth = nn.Conv3d(width, width, 3, padding=1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(N, width, d, h, w) float32 at the size of the finest map; cells of length 1 over channels."""
        total = self.laterals[-1](maps[-1])
        for lateral, one in zip(reversed(self.laterals[:-1]), reversed(maps[:-1]), strict=True):
            total = lateral(one) + F.interpolate(total, size=one.shape[2:], mode="nearest")
        return F.normalize(wide(self.smooth(total)), dim=1)
