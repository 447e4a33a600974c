"""nnU-Net's encoder and decoder as feature pyramids, under nnU-Net's own tensor names.

nnU-Net's modules are taken over and walked by us, so that every level can be had or left out. None is renamed, so
`encoder.*` and `decoder.*` of a state dict are names that a fresh nnU-Net network takes as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nnssl.errors import PlanError
from nnssl.views.spec import Size


def cumulative_strides(strides: Sequence[Any]) -> tuple[Size, ...]:
    """Cumulative stride of every stage, D H W, from a plan's stride per stage (an int or three of them).

    Raises:
        PlanError: a stride is not three-dimensional: the plan is 2D.
    """
    total: Size = (1, 1, 1)
    totals = []
    for stride in strides:
        d, h, w = _three(stride, strides)
        total = (total[0] * d, total[1] * h, total[2] * w)
        totals.append(total)
    return tuple(totals)


def _three(stride: Any, strides: Sequence[Any]) -> Size:
    row = [stride] * 3 if isinstance(stride, int) else [int(side) for side in stride]
    if len(row) != 3:
        raise PlanError(
            f"Pretraining needs a 3D plan; the strides {strides} are not three-dimensional. "
            "Use 3d_fullres or 3d_lowres."
        )
    return row[0], row[1], row[2]


class PlanEncoder(nn.Module):
    """The encoder of a plan: a `Pyramid` over its stages, finest first.

    Attributes:
        channels: channels of every stage.
        strides: cumulative stride of every stage, D H W.
        stem: nnU-Net's stem, where the architecture has one (residual encoders), else None.
        stages: nnU-Net's stages.
    """

    def __init__(self, encoder: nn.Module) -> None:
        """Take over the modules of nnU-Net's `encoder` (PlainConvEncoder or ResidualEncoder)."""
        super().__init__()
        parts: Any = encoder
        self.stem: nn.Module | None = getattr(parts, "stem", None)
        self.stages: nn.Sequential = parts.stages
        self.channels: tuple[int, ...] = tuple(parts.output_channels)
        self.strides = cumulative_strides(parts.strides)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Feature maps of (N, C, D, H, W), one a stage; every side must be a multiple of the total stride."""
        x = image if self.stem is None else self.stem(image)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class PlanDecoder(nn.Module):
    """The decoder of a plan without segmentation layers; coarsest stage first, as in nnU-Net."""

    def __init__(self, decoder: nn.Module) -> None:
        """Take over the modules of nnU-Net's `decoder` (UNetDecoder)."""
        super().__init__()
        parts: Any = decoder
        self.stages: nn.ModuleList = parts.stages
        self.transpconvs: nn.ModuleList = parts.transpconvs

    def forward(self, skips: Sequence[Tensor]) -> list[Tensor]:
        """Decoder maps, finest first, then the bottleneck as it came."""
        maps = [skips[-1]]
        for up, stage, skip in zip(self.transpconvs, self.stages, reversed(skips[:-1]), strict=True):
            maps.append(stage(torch.cat((up(maps[-1]), skip), dim=1)))
        return maps[::-1]


class PlanUNet(nn.Module):
    """The U-Net of a plan without segmentation layers: a `Pyramid` over decoder levels, then the bottleneck.

    Attributes:
        encoder: a `Pyramid` itself.
        decoder: nnU-Net's decoder stages.
        channels: channels of every level.
        strides: cumulative stride of every level, D H W.
    """

    def __init__(self, network: nn.Module) -> None:
        """Take over the modules of nnU-Net's whole `network`."""
        super().__init__()
        parts: Any = network
        self.encoder = PlanEncoder(parts.encoder)
        self.decoder = PlanDecoder(parts.decoder)
        self.channels = self.encoder.channels
        self.strides = self.encoder.strides

    def forward(self, image: Tensor) -> list[Tensor]:
        """Decoder maps of (N, C, D, H, W), finest first, the bottleneck last."""
        maps: list[Tensor] = self.decoder(self.encoder(image))
        return maps
